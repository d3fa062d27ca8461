"""The correlation GAN's autoencoder: learns to reconstruct clips, for the perceptual loss of that GAN. A stage.

Sources: Chen et al., "Lip Movements Generation at a Glance", ECCV 2018, and its published code (lelechen63/3d_gan
`trainer_embeddings.py`, `train.py`; `facts/systems.md` 4.4).

From the paper: an autoencoder of clips whose encoder is frozen in the GAN's training. From the code: the network
(`lipbench.nets.clip_autoencoder`), mean squared error of pixels in [-1, 1], windows of 16 frames of 64x64 pixels, Adam
2e-4 with betas (.5, .999), 24 windows a batch. Own choices: a clip of less than 16 frames is a window whose last frame
is repeated, as in the GAN's training; whole clips are scored in windows of 16 frames that follow each other, and
repeated frames do not count.
"""

from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from lipbench.nets.clip_autoencoder import ClipAutoencoder
from lipbench.nets.corrgan import FRAMES
from lipbench.pretrained import weights
from lipbench.training.base import BenchModule
from lipbench.types import ClipBatch, ClipSpec, View

_WINDOWS_AT_ONCE: Final = 8  # reconstructed together in scoring, to bound the memory of long clips


class ClipAutoencoding(BenchModule):
    """An autoencoder of 16 frames in a row.

    Args:
        size: Pixels a side of the frames, a multiple of 4; 64 as published.
        width: See `lipbench.nets.clip_autoencoder.ClipAutoencoder`; so are the next two.
        blocks: See there.
        per_frame: See there; the published script that trains the autoencoder takes the 3-d one.
        lr: Peak learning rate (Adam).
        betas: Of Adam.
        options: Those of `BenchModule`.
    """

    paper: ClassVar[str] = "Chen et al., Lip Movements Generation at a Glance, ECCV 2018"
    monitor: ClassVar[tuple[str, Literal["min", "max"]]] = ("val/mse", "min")

    def __init__(
        self,
        size: int = 64,
        width: int = 64,
        blocks: int = 6,
        per_frame: bool = False,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(**options)
        if size < 4 or size % 4:
            raise ValueError(f"size is {size}; expected a multiple of 4 pixels, which the network halves twice")
        self.lr, self.betas = lr, betas
        self.view = View("mouth_square", size, size)
        self.net = ClipAutoencoder(width, blocks, per_frame)

    @property
    def clip_spec(self) -> ClipSpec:
        """16 frames in a row of the square around the mouth."""
        return ClipSpec(frames={"video": self.view}, window=FRAMES)

    def build_optimizers(self) -> dict[str, Optimizer]:
        """Adam over everything."""
        return {"autoencoder": Adam(self.parameters(), lr=self.lr, betas=self.betas, fused=True)}

    def compute_step(self, batch: ClipBatch) -> None:
        """Reconstruct the windows drawn."""
        windows, _ = cut_windows(batch["video"], batch["video_len"])
        target = 2 * windows - 1  # (B, 16, 3, size, size)
        self.step_optimizer("autoencoder", {"mse": F.mse_loss(self.net(target), target)})

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Log `val/mse`, of pixels in [-1, 1], and `val/psnr` in dB: means over the frames of whole clips."""
        self._score("val", batch)

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Log the same as `test/...`."""
        self._score("test", batch)

    def _score(self, part: str, batch: ClipBatch) -> None:
        windows, valid = cut_windows(batch["video"], batch["video_len"])
        pieces = torch.split(2 * windows - 1, _WINDOWS_AT_ONCE)
        errors = torch.cat([(self.net(piece) - piece).square().mean((2, 3, 4)) for piece in pieces])[valid]  # (frames,)
        psnr = -10 * torch.log10((errors / 4).clamp(min=1e-10))  # of pixels in [0, 1]
        for name, values in (("mse", errors), ("psnr", psnr)):
            self.log(f"{part}/{name}", values.mean(), batch_size=len(values), prog_bar=True, sync_dist=True)

    def save_observer(self, path: str | Path, trained_on: str) -> weights.Card:
        """Write the network to the weights file that `--model.autoencoder` of the correlation GAN takes.

        Args:
            path: Ends in ".safetensors".
            trained_on: In words: corpus, protocol, how long, which seed.
        """
        return weights.save(path, self.net, arguments=self.net.arguments, view=self.view, trained_on=trained_on)


def cut_windows(video: Tensor, video_len: Tensor) -> tuple[Tensor, Tensor]:
    """Cut clips into windows of 16 frames that follow each other; the last frame of a clip fills its last window.

    Args:
        video: (B, T, 3, H, W).
        video_len: (B,) frames of each clip, 1 or more.

    Returns:
        (M, 16, 3, H, W) the windows of the first clip, then those of the next; (M, 16) bool, false where a frame is
        repeated.
    """
    starts = torch.arange(0, video.shape[1], FRAMES, device=video.device)
    clip, which = (starts < video_len[:, None]).nonzero(as_tuple=True)  # (M,) each
    place = starts[which][:, None] + torch.arange(FRAMES, device=video.device)  # (M, 16)
    last = video_len[clip][:, None] - 1
    return video[clip[:, None], torch.minimum(place, last)], place <= last
