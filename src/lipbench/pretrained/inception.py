"""InceptionV3 as FID was defined with."""

from pathlib import Path
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from lipbench.errors import Unavailable
from lipbench.pretrained.weights import digest, read_published

_CHUNK: Final = 32  # frames a pass

WEIGHTS: Final = "weights-inception-2015-12-05-6726825d.pth"
"""torch-fidelity's copy of the TensorFlow network that FID was defined with."""


def weights_path(path: str | None = None) -> Path:
    """Where the Inception weights lie: the path given, else torch hub's folder of checkpoints.

    Raises:
        Unavailable: No such file; the message names it and the command that brings it.
    """
    found = Path(path).expanduser() if path else Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    if not found.is_file():
        home = Path.home()
        shown = f"~/{found.relative_to(home)}" if found.is_relative_to(home) else str(found)
        raise Unavailable(f"FID and KID need the Inception weights at {shown}; type: lipbench weights fetch inception")
    return found


class Inception(nn.Module):
    """InceptionV3 as FID was defined with: torch-fidelity's network, with the resize of TensorFlow 1.

    Other implementations resize differently and give other numbers.

    Args:
        weights: File with torch-fidelity's weights; default: `WEIGHTS` in torch hub's folder of checkpoints. If its
            name ends in eight hexadecimal digits, its SHA-256 must begin with them. Nothing is downloaded.

    Raises:
        Unavailable: The file or the package torch-fidelity is missing, or the file is another one.
    """

    dim: ClassVar[int] = 2048

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        path = weights_path(weights)
        try:
            import torchmetrics.image.fid as published
        except ImportError as error:
            raise Unavailable(f"FID and KID need torchmetrics with pictures: {error}") from error
        sha256 = digest(path)
        try:
            # torch-fidelity unpickles the file without limits: only what holds nothing but tensors may come that far.
            read_published(path)
            self.network = published.NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path), antialias=False)
        except ModuleNotFoundError as error:
            raise Unavailable("FID and KID need torch-fidelity: pip install torch-fidelity") from error
        except (ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
            raise Unavailable(f"{path.name} is not torch-fidelity's Inception: {error}") from error
        self.requires_grad_(False)
        self.judge: str = f"Inception sha256 {sha256[:16]}"

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """Features of single frames.

        Args:
            pictures: (..., 3, h, w) float in [0, 1]; rounded to 8 bits.

        Returns:
            (..., 2048) float32, NaN where a pixel is NaN.
        """
        flat = pictures.reshape(-1, *pictures.shape[-3:])
        pixels = (flat.nan_to_num(0) * 255).round().clamp(0, 255).to(torch.uint8)
        parts = (
            [self.network(part) for part in torch.split(pixels, _CHUNK)] if len(flat) else [flat.new_zeros(0, self.dim)]
        )
        broken = ~flat.isfinite().flatten(1).all(1)
        return torch.cat(parts).masked_fill(broken[:, None], torch.nan).reshape(*pictures.shape[:-3], self.dim)
