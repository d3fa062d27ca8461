"""SyncNet: judges whether lips and sound agree; trained here so that LSE has a judge without any download.

Two networks (`lipbench.nets.syncnet`): the published one (Chung and Zisserman, ACCV workshops 2016; 13.6 million
parameters) and a small one of lipbench's own. The published training code and data were never released, so the loss is
lipbench's choice: every window of the batch's pictures must find its own sound among all the sound windows of the
batch, and the other way round, by distance (the multi-way matching of Chung, Chung and Kang, "Perfect Match", ICASSP
2019, in place of 2016's loss over single pairs). Sound of the same clip less than `near` frames away is no candidate.
"""

from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from lipbench.media import features
from lipbench.nets.syncnet import FPS, FRAMES, HOP, STEPS, SmallSyncNet, SyncNetV2
from lipbench.pretrained import weights
from lipbench.training.base import BenchModule
from lipbench.types import ClipBatch, ClipSpec

_FARTHEST: Final = 15  # frames: the largest shift that LSE looks at, and so validation


class SyncNet(BenchModule):
    """Two towers, trained so that the distance of their embeddings tells whether they belong together.

    The loss is a softmax over negative distances, without a temperature: a difference of 1 between two distances means
    that the judge holds one e times as likely as the other.

    Args:
        network: "v2", the published one at 224x224, or "small", to which the sizes below belong.
        view: Name of the view that the small network sees.
        size: Its (height, width).
        video_widths: See `SmallSyncNet`.
        audio_widths: See `SmallSyncNet`.
        hidden: See `SmallSyncNet`.
        width: See `SmallSyncNet`.
        window: Frames in a row drawn from each clip in training: window - 4 windows, each other's shifted negatives.
        near: Sound of the same clip counts as shifted from so many frames on; below, it is no candidate.
        lr: Peak learning rate (AdamW).
        weight_decay: Of AdamW.
        clip_norm: Largest norm of the gradient; 0 does not clip.
        options: Those of `BenchModule`.
    """

    paper: ClassVar[str] = "Chung and Zisserman, Out of Time: Automated Lip Sync in the Wild, ACCV workshops 2016"
    monitor: ClassVar[tuple[str, Literal["min", "max"]]] = ("val/sync_accuracy", "max")

    def __init__(
        self,
        network: Literal["v2", "small"] = "v2",
        view: str = "mouth",
        size: tuple[int, int] = (40, 80),
        video_widths: tuple[int, ...] = (32, 64, 96, 128),
        audio_widths: tuple[int, ...] = (64, 128, 128, 192, 256),
        hidden: int = 256,
        width: int = 128,
        window: int = 25,
        near: int = 3,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        clip_norm: float = 5.0,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(clip_norm=clip_norm, **options)
        if not 1 <= near <= window - FRAMES:
            raise ValueError(
                f"near is {near} and window {window}: expected 1 <= near <= window - {FRAMES}, so that a window has "
                "shifted sound to be told from"
            )
        self.window, self.near, self.lr, self.weight_decay = window, near, lr, weight_decay
        self.net: SyncNetV2 | SmallSyncNet = (
            SyncNetV2()
            if network == "v2"
            else SmallSyncNet(view, (size[0], size[1]), video_widths, audio_widths, hidden, width)
        )

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
        """AdamW over everything."""
        return {"syncnet": AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)}

    def compute_step(self, batch: ClipBatch) -> None:
        """Match pictures and sound of the windows drawn."""
        video, audio, valid = self.embed(batch)
        self.step_optimizer("syncnet", {"matching": matching_loss(video, audio, valid, self.near)})

    def embed(self, batch: ClipBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of the windows that start at a batch's frames.

        Args:
            batch: `video` (frames in a row), `video_len`, `frame`, `audio`, `audio_len`, `fps`, `speech`.

        Returns:
            Pictures (B, N, E) and sound (B, N, E); valid (B, N): windows whose pictures and sound are whole and that
            touch speech. Silence looks and sounds the same at any shift, so it teaches nothing.

        Raises:
            ValueError: A clip is not at 25 frames a second, or none has a window.
        """
        rates = batch["fps"]
        if not bool((rates == FPS).all()):
            raise ValueError(
                f"SyncNet takes clips at {FPS:g} frames a second (4 steps of MFCC a picture), found {rates.tolist()}"
            )
        pictures, frames = batch["video"], batch["frame"]
        count = pictures.shape[1] - FRAMES + 1
        if count < 1:
            raise ValueError(f"SyncNet needs clips of at least {FRAMES} frames, found {pictures.shape[1]}")
        video = self.net.embed_video(pictures)  # (B, N, E)
        mfcc = features.mfcc(batch["audio"], batch["audio_len"])  # (B, F, 13)
        first = frames[:, :1] * HOP  # (B, 1)
        wanted = first + torch.arange(count * HOP + STEPS - HOP, device=frames.device)  # (B, steps of the windows)
        there = wanted.clamp(max=mfcc.shape[1] - 1)[..., None].expand(-1, -1, features.CEPSTRA)
        audio = self.net.embed_audio(mfcc.gather(1, there))  # (B, N, E)
        starts = frames[:, :1] + torch.arange(count, device=frames.device)  # (B, N)
        steps = torch.tensor([features.mfcc_steps(k) for k in batch["audio_len"].tolist()], device=frames.device)
        whole = torch.arange(count, device=frames.device) + FRAMES <= batch["video_len"][:, None]
        heard = starts * HOP + STEPS <= steps[:, None]
        begin, end = batch["speech"].unbind(1)
        speaks = (starts + FRAMES > begin[:, None]) & (starts < end[:, None])
        return video, audio, whole & heard & speaks

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Log `val/matching`, and over windows of whole clips the share of shifts told from being in sync.

        `val/sync_accuracy` is the share of all pairs of a window with a shift of `near` to 15 frames in which the
        window's own sound is nearer than the shifted one; chance is 0.5. `val/offset_right` is the share of clips whose
        mean distance is smallest within a frame of no shift.
        """
        self._score("val", batch)

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Log the same as `test/...`."""
        self._score("test", batch)

    def _score(self, part: str, batch: ClipBatch) -> None:
        video, audio, valid = self.embed(batch)
        log_sync_accuracy(self, part, video, audio, valid, self.near)
        loss = matching_loss(video, audio, valid, self.near)
        self.log(f"{part}/matching", loss, batch_size=len(video), sync_dist=True)

    def save_observer(self, path: str | Path, trained_on: str) -> weights.Card:
        """Write the network to a weights file that metrics read (`lipbench.pretrained.weights`).

        Args:
            path: Ends in ".safetensors".
            trained_on: In words: corpus, protocol, how long, which seed.
        """
        return weights.save(path, self.net, arguments=self.net.arguments, view=self.net.view, trained_on=trained_on)


def matching_loss(video: Tensor, audio: Tensor, valid: Tensor, near: int) -> Tensor:
    """Cross-entropy of finding the own sound among all sound windows, and the own pictures among all pictures.

    Args:
        video: (B, N, E) embeddings; windows of a row are a frame apart.
        audio: (B, N, E).
        valid: (B, N) windows that take part.
        near: Windows of the same clip less than so many frames apart are no candidates for each other.

    Returns:
        Scalar, mean over windows and both directions; 0 if no window is valid. Chance is the log of the candidates.
    """
    clip, place = valid.nonzero(as_tuple=True)  # (M,) each
    if len(clip) == 0:
        return (video.sum() + audio.sum()) * 0
    apart = (place[:, None] - place).abs()  # (M, M)
    excluded = (clip[:, None] == clip) & (apart > 0) & (apart < near)
    logits = -torch.cdist(video[valid].float(), audio[valid].float())  # (M, M)
    logits = logits.masked_fill(excluded, -torch.inf)
    own = torch.arange(len(clip), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def sync_accuracy(video: Tensor, audio: Tensor, valid: Tensor, near: int) -> tuple[Tensor, Tensor]:
    """How well distances tell sound in sync from shifted sound.

    Args:
        video: (B, N, E) embeddings; windows of a row are a frame apart.
        audio: (B, N, E).
        valid: (B, N) picture windows that take part; shifted sound is taken from all valid windows.
        near: Smallest shift in frames; the largest is 15.

    Returns:
        (B,) share of (window, shift) pairs in which the own sound is nearer; (B,) whether the mean distance over pairs
        is smallest at a shift of at most one frame. NaN for clips without a pair.
    """
    distance = torch.cdist(video.float(), audio.float())  # (B, N, N)
    own = distance.diagonal(dim1=1, dim2=2)[..., None]  # (B, N, 1)
    places = torch.arange(video.shape[1], device=video.device)
    shift = places - places[:, None]  # (N, N): sound minus pictures
    both = valid[:, :, None] & valid[:, None]
    pairs = both & (shift.abs() >= near) & (shift.abs() <= _FARTHEST)
    told = ((own < distance) & pairs).sum((1, 2)) / pairs.sum((1, 2))  # 0 / 0 is NaN
    means = []
    for frames in range(-_FARTHEST, _FARTHEST + 1):
        chosen = both & (shift == frames)
        means.append(distance.masked_fill(~chosen, 0).sum((1, 2)) / chosen.sum((1, 2)))
    mean = torch.stack(means, 1).nan_to_num(torch.inf)  # (B, 31)
    right = ((mean.argmin(1) - _FARTHEST).abs() <= 1).float()
    return told, right.masked_fill(told.isnan(), torch.nan)


def log_sync_accuracy(module: BenchModule, part: str, video: Tensor, audio: Tensor, valid: Tensor, near: int) -> None:
    """Log means over the clips that have a pair: `<part>/sync_accuracy` and `<part>/offset_right`.

    Args:
        module: Which logs.
        part: "val" or "test".
        video: See `sync_accuracy`; so are the others.
        audio: See there.
        valid: See there.
        near: See there.
    """
    told, right = sync_accuracy(video, audio, valid, near)
    for name, values in (("sync_accuracy", told), ("offset_right", right)):
        known = values[values.isfinite()]
        if len(known):
            module.log(f"{part}/{name}", known.mean(), batch_size=len(known), prog_bar=True, sync_dist=True)
