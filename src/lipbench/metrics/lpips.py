"""LPIPS: learned perceptual distance of frames (Zhang et al. 2018), AlexNet, version 0.1."""

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor, nn

from lipbench.errors import Unavailable
from lipbench.pretrained.weights import digest, read_published
from lipbench.scoring import checks
from lipbench.scoring.base import Column, FramesMetric, Spans, over_frames

BACKBONE: Final = "alexnet-owt-7be5be79.pth"
"""torchvision's AlexNet; the eight digits begin its SHA-256 (torch hub's convention for file names)."""
_CHUNK = 32  # frames a pass
_LEAST: Final = 32  # px: below it the network has nothing left to compare


def backbone_path(path: str | None = None) -> Path:
    """Where the AlexNet weights lie: the path given, else torch hub's folder of checkpoints.

    Raises:
        Unavailable: No such file; the message names file and folder.
    """
    found = Path(path).expanduser() if path else Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE
    if not found.is_file():
        folder = found.parent
        shown = f"~/{folder.relative_to(Path.home())}" if folder.is_relative_to(Path.home()) else str(folder)
        raise Unavailable(f"LPIPS needs {found.name} in {shown}; type: lipbench weights fetch alexnet")
    return found


@lru_cache(maxsize=2)
def load(path: Path) -> tuple[nn.Module, str]:
    """Build the `lpips` package's network on AlexNet weights from a file; nothing is downloaded.

    Args:
        path: State dict of torchvision's AlexNet. If its name ends in eight hexadecimal digits, its SHA-256 must begin
            with them.

    Returns:
        The network in eval mode, without gradients, and the SHA-256 of the file.

    Raises:
        Unavailable: The `lpips` package is missing, the file is another one, or its tensors do not fit.
    """
    try:
        import lpips
    except ImportError as error:
        raise Unavailable(f"LPIPS needs the lpips package: pip install lpips ({error})") from error
    sha256 = digest(path)
    try:
        weights = read_published(path)
    except ValueError as error:
        raise Unavailable(str(error)) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package uses arguments that torchvision has renamed
        # pnet_rand builds the backbone without fetching weights; the linear layers come with the package.
        network = cast(nn.Module, lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False))
    own = {k: v for k, v in network.state_dict().items() if k.startswith("net.slice")}
    # The package files layer "features.3" of torchvision under "net.slice2.3".
    published = {k: f"features.{k.split('.', 2)[2]}" for k in own}
    given = {k: weights[name] for k, name in published.items() if name in weights}
    wrong = [k for k, v in own.items() if k not in given or given[k].shape != v.shape]
    if wrong:
        raise Unavailable(
            f"{path.name} is not torchvision's AlexNet: nothing in it fits {', '.join(sorted(wrong)[:3])}"
        )
    network.load_state_dict(given, strict=False)
    return network.eval().requires_grad_(False), sha256


def lpips(pred: Tensor, target: Tensor, network: nn.Module) -> Tensor:
    """LPIPS of single frames.

    Args:
        pred: (..., 3, h, w) float in [0, 1], at least 32 px high and wide; the network was tuned on 64-px patches.
        target: Same shape.
        network: From `load`.

    Returns:
        (...) at least 0.

    Raises:
        ValueError: They are no pictures of one shape in [0, 1], or too small.
    """
    checks.pictures(pred, target, _LEAST)
    a, b = (2 * x.reshape(-1, *x.shape[-3:]) - 1 for x in (pred, target))  # the network takes [-1, 1]
    parts = [network(a[k : k + _CHUNK], b[k : k + _CHUNK]).flatten() for k in range(0, len(a), _CHUNK)]
    return (torch.cat(parts) if parts else a.new_zeros(0)).reshape(pred.shape[:-3])


class LPIPS(FramesMetric):
    """Mean LPIPS over frames; 0 for a copy.

    Args:
        weights: File with torchvision's AlexNet; default: `BACKBONE` in torch hub's folder of checkpoints.
    """

    name = "lpips"
    unit = ""
    higher_is_better = False
    perfect = 0.0
    undefined = "a frame holds NaN"
    least = _LEAST
    file = "lpips"
    columns = (Column("mouth/lpips", "quality", 30, region="mouth"),)

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.network, self._sha256 = load(backbone_path(weights))

    @property
    def judge(self) -> str:
        """The backbone and its hash."""
        return f"AlexNet sha256 {self._sha256[:16]}"

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, 3, h, w) float pictures in [0, 1]."""
        return over_frames(lpips(pred, target, self.network), spans.length)
