"""FlowNetS taught by a classical estimator: the optical flow that the correlation GAN starts from. A stage.

Sources: Chen et al., "Lip Movements Generation at a Glance", ECCV 2018, and its published code (lelechen63/3d_gan
`flownet/ft_grid_flow.py`, `dataset.py`, `train.py`; `facts/systems.md` 4.2).

The paper takes FlowNet and trains it along with the GAN. From the code, which fine-tunes published weights on GRID: the
network (`lipbench.nets.flownet`), Farneback's flow of the gray frames as the target, end-point errors at five
resolutions, frames in [-1, 1], weight decay 4e-4, and Adam 1e-4 as it has for FlowNet in the GAN's trainers. Own
choices: the network starts from random weights, so that nothing is downloaded; with them go the unit of the flow,
pixels of the frames (published are pixels divided by 20), and the weights of the resolutions (`scale_weights`). Targets
are computed in the training step. All pairs of a window make one step, where the code takes a step for each place in
the window.

The code's "EPE" of a test is the mean absolute difference of x and y; here end-point errors are lengths of vectors.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from lipbench import losses
from lipbench.media.optical_flow import farneback
from lipbench.nets.flownet import SCALES, FlowNetS, adjacent_pairs
from lipbench.pretrained import weights
from lipbench.training.base import BenchModule
from lipbench.types import ClipBatch, ClipSpec, View

_PAIRS_AT_ONCE: Final = 128  # estimated together in scoring, to bound the memory of long clips


class FlowNet(BenchModule):
    """Optical flow of adjacent frames, learned from Farneback's.

    Args:
        size: Pixels a side of the frames; 64 as published.
        width: See `lipbench.nets.flownet.FlowNetS`.
        window: Frames in a row drawn from each clip in training, 2 or more; 16 as published.
        scale_weights: Of the mean end-point error at each resolution, finest first. These are FlowNet's (.005, .01,
            .02, .08, .32) for sums over the pixels of 64x64 frames, as FlowNetPytorch takes today. The correlation
            GAN's code has them for means, so that the finest resolution, the only one used later, counts 1 %.
        weight_decay: Of Adam.
        lr: Peak learning rate (Adam).
        options: Those of `BenchModule`.
    """

    paper: ClassVar[str] = "Chen et al., Lip Movements Generation at a Glance, ECCV 2018"
    monitor: ClassVar[tuple[str, Literal["min", "max"]]] = ("val/epe", "min")

    def __init__(
        self,
        size: int = 64,
        width: int = 64,
        window: int = 16,
        scale_weights: tuple[float, ...] = (1.28, 0.64, 0.32, 0.32, 0.32),
        weight_decay: float = 4e-4,
        lr: float = 1e-4,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(**options)
        if window < 2:
            raise ValueError(f"window is {window}; expected 2 or more frames, between which there is motion")
        if len(scale_weights) != len(SCALES):
            raise ValueError(f"scale_weights has {len(scale_weights)} numbers; expected one for each of {len(SCALES)}")
        self.window, self.scale_weights, self.weight_decay, self.lr = window, scale_weights, weight_decay, lr
        self.view = View("mouth_square", size, size)
        self.net = FlowNetS(width)

    @property
    def clip_spec(self) -> ClipSpec:
        """Frames in a row of the square around the mouth."""
        return ClipSpec(frames={"video": self.view}, window=self.window)

    def build_optimizers(self) -> dict[str, Optimizer]:
        """Adam over everything."""
        return {"flow": Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)}

    def compute_step(self, batch: ClipBatch) -> None:
        """Learn the classical estimator's flow of all pairs drawn."""
        pairs = valid_pairs(batch)
        target = farneback(pairs[:, :3], pairs[:, 3:])  # (N, 2, size, size)
        loss = losses.flow_pyramid(self.net.pyramid(2 * pairs - 1), target, self.scale_weights)
        self.step_optimizer("flow", {"flow": loss})

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Log `val/epe`, and `val/epe_zero`, which predicting no motion would have.

        End-point errors in pixels of the frames against the classical estimator, at a quarter of the resolution: means
        over all pairs of whole clips.
        """
        self._score("val", batch)

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Log the same as `test/...`."""
        self._score("test", batch)

    def _score(self, part: str, batch: ClipBatch) -> None:
        found = [torch.stack(errors) for errors in self._errors(valid_pairs(batch))]
        for name, values in zip(("epe", "epe_zero"), torch.cat(found, 1), strict=True):
            self.log(f"{part}/{name}", values.mean(), batch_size=len(values), prog_bar=True, sync_dist=True)

    def _errors(self, pairs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """End-point errors of the network and of no motion, piece by piece."""
        for piece in torch.split(pairs, _PAIRS_AT_ONCE):
            target = farneback(piece[:, :3], piece[:, 3:])  # (n, 2, size, size)
            flow = self.net.pyramid(2 * piece - 1)[0]  # (n, 2, size / 4, size / 4)
            yield end_point_error(flow, target), end_point_error(torch.zeros_like(flow), target)

    def save_observer(self, path: str | Path, trained_on: str) -> weights.Card:
        """Write the network to the weights file that `--model.flow` of the correlation GAN takes.

        Args:
            path: Ends in ".safetensors".
            trained_on: In words: corpus, protocol, how long, which seed.
        """
        return weights.save(path, self.net, arguments=self.net.arguments, view=self.view, trained_on=trained_on)


def valid_pairs(batch: ClipBatch) -> Tensor:
    """The pairs of adjacent frames of a batch, without those that reach into the padding.

    Args:
        batch: `video` (frames in a row), `video_len`.

    Returns:
        (N, 6, H, W) in [0, 1]: the RGB channels of a frame, then those of the next.

    Raises:
        ValueError: No clip has two frames.
    """
    video, last = batch["video"], batch["video_len"][:, None] - 1
    valid = torch.arange(video.shape[1] - 1, device=video.device) < last  # (B, T - 1)
    if not bool(valid.any()):
        raise ValueError("a flow network takes clips of 2 frames or more, and no clip of this batch has them")
    return adjacent_pairs(video)[valid.flatten()]


def end_point_error(flow: Tensor, target: Tensor) -> Tensor:
    """Mean distance of flow vectors, in the unit of both.

    Args:
        flow: (N, 2, h, w).
        target: (N, 2, H, W), averaged over the pixels that one of `flow` covers.

    Returns:
        (N,) of each pair.
    """
    pooled = F.adaptive_avg_pool2d(target, (flow.shape[-2], flow.shape[-1]))  # (N, 2, h, w)
    distance: Tensor = torch.linalg.vector_norm(flow - pooled, dim=1)  # (N, h, w)
    return distance.mean((1, 2))
