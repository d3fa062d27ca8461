"""Wav2Lip's expert: learns which sound belongs to five mouths in a row, to teach Wav2Lip. A stage, not a judge.

Sources: Prajwal K R et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation in the Wild", ACM MM 2020,
and its published code (Rudrabha/Wav2Lip `color_syncnet_train.py`, `models/syncnet.py`); facts of users' trainings
(`facts/systems.md` 7.5): the loss stays at 0.69 for a long time before it falls, and should reach about 0.25.

From the code: the network, binary cross-entropy of the cosine, mouths and sound of one start against sound of another
start of the same clip, Adam 1e-4, 64 windows a batch. Own choices: sound is cut centerd on the window's middle frame;
several windows in a row are drawn from a clip, so that every other one's sound serves as negative. The published coin
decides for each window whether it is shown its own or other sound; here it is shown all, each kind with half of the
weight: the same loss in the mean, with less chance in it. Windows that do not touch speech teach nothing and are left
out.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from lipbench.media import features, geometry
from lipbench.models.syncnet import log_sync_accuracy
from lipbench.nets.wav2lip import COLUMNS, FRAMES, Expert
from lipbench.pretrained import weights
from lipbench.training.base import BenchModule
from lipbench.types import ClipBatch, ClipSpec

_FPS = 25.0  # at which five frames are the 16 columns of a window


class Wav2LipExpert(BenchModule):
    """Two towers whose cosine is the probability that mouths and sound belong together.

    Args:
        size: See `lipbench.nets.wav2lip.Expert`; so are the next five.
        widths: See there.
        residuals: See there.
        audio_widths: See there.
        audio_residuals: See there.
        hidden: See there.
        window: Frames in a row drawn from each clip in training; 5 is one window of the expert, as published.
        near: Sound of another start counts as wrong from so many frames on; 1 as published.
        lr: Peak learning rate (Adam).
        options: Those of `BenchModule`.
    """

    paper: ClassVar[str] = (
        "Prajwal K R et al., A Lip Sync Expert Is All You Need for Speech to Lip Generation in the Wild, ACM MM 2020"
    )
    monitor: ClassVar[tuple[str, Literal["min", "max"]]] = ("val/bce", "min")

    def __init__(
        self,
        size: int = 96,
        widths: tuple[int, ...] = (32, 64, 128, 256, 512, 512),
        residuals: tuple[int, ...] = (2, 3, 2, 2, 0),
        audio_widths: tuple[int, ...] = (32, 64, 128, 256),
        audio_residuals: tuple[int, ...] = (2, 2, 2, 2),
        hidden: int = 512,
        window: int = 25,
        near: int = 1,
        lr: float = 1e-4,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(**options)
        if not 1 <= near <= window - FRAMES:
            raise ValueError(
                f"near is {near} and window {window}: expected 1 <= near <= window - {FRAMES}, so that a window has "
                "other sound to be told from"
            )
        self.window, self.near, self.lr = window, near, lr
        self.net = Expert(size, widths, residuals, audio_widths, audio_residuals, hidden)

    @property
    def clip_spec(self) -> ClipSpec:
        """Frames in a row, and the sound."""
        return ClipSpec(
            frames={"video": self.net.view},
            window=self.window,
            audio_rate=features.RATE,
            keys=frozenset({"audio"}),
        )

    def build_optimizers(self) -> dict[str, Optimizer]:
        """Adam over everything."""
        return {"expert": Adam(self.parameters(), lr=self.lr, fused=True)}

    def compute_step(self, batch: ClipBatch) -> None:
        """Tell the own sound of the windows drawn from that of the others."""
        self.step_optimizer("expert", {"bce": in_sync_loss(*self.embed(batch), self.near)})

    def embed(self, batch: ClipBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of the windows that start at a batch's frames.

        Args:
            batch: `video` (frames in a row), `video_len`, `frame`, `audio`, `audio_len`, `fps`, `speech`.

        Returns:
            Faces (B, N, E) and sound (B, N, E); valid (B, N): windows that are whole and touch speech.

        Raises:
            ValueError: A clip is not at 25 frames a second, or none has a window.
        """
        rates, frames = batch["fps"], batch["frame"]
        count = frames.shape[1] - FRAMES + 1
        if not bool((rates == _FPS).all()) or count < 1:
            raise ValueError(
                f"Wav2Lip's expert takes clips of {FRAMES} frames or more at {_FPS:g} frames a second, found "
                f"{frames.shape[1]} frames at {rates.tolist()}"
            )
        lower = geometry.lower_half(batch["video"])  # (B, T, 3, h / 2, w)
        rows = lower.unfold(1, FRAMES, 1).permute(0, 1, 5, 2, 3, 4).flatten(0, 1)  # (B N, 5, 3, h / 2, w)
        faces = self.net.embed_faces(rows).view(len(frames), count, -1)  # (B, N, E)
        starts = frames[:, :1] + torch.arange(count, device=frames.device)  # (B, N)
        clip = torch.arange(len(frames), device=frames.device)[:, None].expand_as(starts)
        middle = (starts + FRAMES // 2).flatten()
        windows = features.mel_windows(
            batch["audio"], batch["audio_len"], clip.flatten(), middle, batch["fps"], COLUMNS
        )  # (B N, 80, 16)
        sound = self.net.embed_sound(windows).view(len(frames), count, -1)  # (B, N, E)
        whole = torch.arange(count, device=frames.device) + FRAMES <= batch["video_len"][:, None]
        begin, end = batch["speech"].unbind(1)
        speaks = (starts + FRAMES > begin[:, None]) & (starts < end[:, None])
        return faces, sound, whole & speaks

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Log `val/bce`, and as for SyncNet `val/sync_accuracy` and `val/offset_right` (`lipbench.models.syncnet`)."""
        self._score("val", batch)

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Log the same as `test/...`."""
        self._score("test", batch)

    def _score(self, part: str, batch: ClipBatch) -> None:
        faces, sound, valid = self.embed(batch)
        log_sync_accuracy(self, part, faces, sound, valid, self.near)  # distances of unit vectors order as cosines do
        loss = in_sync_loss(faces, sound, valid, self.near)
        self.log(f"{part}/bce", loss, batch_size=len(faces), prog_bar=True, sync_dist=True)

    def save_observer(self, path: str | Path, trained_on: str) -> weights.Card:
        """Write the network to the weights file that `--model.expert` of Wav2Lip takes.

        Args:
            path: Ends in ".safetensors".
            trained_on: In words: corpus, protocol, how long, which seed.
        """
        return weights.save(path, self.net, arguments=self.net.arguments, view=self.net.view, trained_on=trained_on)


def in_sync_loss(faces: Tensor, sound: Tensor, valid: Tensor, near: int) -> Tensor:
    """Binary cross-entropy of cosines: windows with their own sound against windows with other sound of their clip.

    Args:
        faces: (B, N, E) of length 1, no entry below 0; windows of a row are a frame apart.
        sound: (B, N, E), the same.
        valid: (B, N) windows that take part.
        near: Smallest distance in frames of other sound.

    Returns:
        Scalar: half of the mean over own pairs and half of that over other pairs; 0 if there are none. A judge that
        always says 0.5 has 0.693.
    """
    with torch.autocast(faces.device.type, enabled=False):  # in half precision cosines are too coarse
        cosine = faces @ sound.transpose(1, 2)  # (B, N, N)
    places = torch.arange(faces.shape[1], device=faces.device)
    both = valid[:, :, None] & valid[:, None]
    apart = (places - places[:, None]).abs()  # (N, N)
    own, other = cosine[both & (apart == 0)], cosine[both & (apart >= near)]
    if len(own) == 0 or len(other) == 0:
        return cosine.sum() * 0
    return (sync_bce(own, together=True) + sync_bce(other, together=False)) / 2


def sync_bce(cosine: Tensor, together: bool) -> Tensor:
    """Binary cross-entropy of cosines that count as probabilities.

    Args:
        cosine: (M,) float32 in [0, 1], up to rounding.
        together: Whether the pairs belong together.

    Returns:
        Scalar: mean, 0 or more; each logarithm is at least -100.
    """
    cosine = cosine.clamp(0, 1)
    with torch.autocast(cosine.device.type, enabled=False):  # on CUDA, this loss refuses to run under autocast
        return F.binary_cross_entropy(cosine, torch.full_like(cosine, float(together)))
