"""Speech to clips: what the correlation GAN and its baselines have in common, which make 16 frames at once."""

from abc import abstractmethod
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from lipbench.media import features
from lipbench.nets.corrgan import FRAMES
from lipbench.training.adversarial import AdversarialModel
from lipbench.training.generative import frames_heard
from lipbench.types import ClipBatch, ClipSpec, Generated, Timing, View

BANDS_PER_PIXEL: Final = 2
"""Mel bands for each pixel of the frames' height: 128 for 64."""
_LOUD: Final = 50.0  # decibels that the networks see as 1
_STRIDE: Final = FRAMES // 2  # frames between two windows of a long clip, as the paper cuts its training clips
_WINDOWS_AT_ONCE: Final = 8  # made together outside of training, to bound the memory of long clips


class SpeechToClip(AdversarialModel):
    """Makes 16 frames at once from identity images and a log-mel spectrogram with 4 columns a frame.

    Training takes 16 frames in a row from anywhere in a clip. Longer clips are generated in windows that begin every 8
    frames; the last one ends with the clip. Where windows overlap, their frames are averaged with weights that fall
    linearly from a window's middle to its ends. A clip of less than 16 frames is one window whose last frame is
    repeated. The papers generate 16 frames only; both rules are own choices.

    The identity images are drawn from the whole clip in training; scoring has the first frame.

    Subclasses set what follows and make the frames of a window.

    Attributes:
        size: Pixels a side of the frames; there are twice as many mel bands (`FRAMES` are 16, 64 pixels published).
        references: Identity images for each clip.
    """

    timings = frozenset({"given", "free"})
    context = None  # windows are counted from the beginning of the clip
    size: int
    references: int = 1

    @abstractmethod
    def make(self, identity: Tensor, audio: Tensor) -> Tensor:
        """Make the frames of windows, outside of training.

        Args:
            identity: (M, references, 3, size, size) in [0, 1].
            audio: (M, 64, 2 size) log-mel spectrogram as `spectrogram` gives it.

        Returns:
            (M, 16, 3, size, size) float32 in [0, 1].
        """

    @property
    def view(self) -> View:
        """The square around the mouth, as the paper cuts it."""
        return View("mouth_square", self.size, self.size)

    @property
    def clip_spec(self) -> ClipSpec:
        """16 frames in a row, identity images from the whole clip, the audio."""
        return ClipSpec(
            frames={"video": self.view},
            window=FRAMES,
            references=self.references,
            audio_rate=features.CLIP_RATE,
            keys=frozenset({"identity", "audio"}),
        )

    @property
    def needs(self) -> frozenset[str]:
        """Audio and identity images."""
        return frozenset({"audio", "audio_len", "fps", "identity", "n_frames"})

    def training_windows(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """The windows of a training batch; where a clip is shorter, its last frame is repeated.

        Args:
            batch: `video`, `video_len`, `frame`, `audio`, `audio_len`, `fps`.

        Returns:
            Video (B, 16, 3, size, size) in [0, 1] and log-mel spectrograms (B, 64, 2 size).

        Raises:
            ValueError: The batch holds a single clip: BatchNorm of vectors has no variance, and the discriminators'
                mismatched pairs are made of the clips of a batch.
        """
        if len(batch["video_len"]) < 2:
            raise ValueError(
                f"{type(self).__name__} trains on batches of 2 clips or more, and this batch holds one; expected "
                "--data.batch_size 2 or more, and as many training clips for each process"
            )
        steps = torch.arange(FRAMES, device=batch["video"].device)
        place = torch.minimum(steps, batch["video_len"][:, None] - 1)  # (B, 16)
        rows = torch.arange(len(place), device=place.device)[:, None]
        return batch["video"][rows, place], self.spectrogram(batch, rows.expand_as(place), batch["frame"][rows, place])

    def spectrogram(self, batch: ClipBatch, clip: Tensor, frame: Tensor) -> Tensor:
        """Log-mel spectrograms of frames in a row.

        Args:
            batch: `audio`, `audio_len`, `fps`.
            clip: (M, T) rows of the batch.
            frame: (M, T) frames of these clips.

        Returns:
            (M, 4 T, 2 size) decibels / 50. Published are decibels: BatchNorm after the first convolution makes that the
            same, once its statistics are those of speech.
        """
        mels = features.frame_mels(batch["audio"], batch["audio_len"], clip.flatten(), frame.flatten(), batch["fps"])
        mels = mels.reshape(len(clip), -1, features.CLIP_MELS) / _LOUD  # (M, 4 T, 128)
        bands = BANDS_PER_PIXEL * self.size
        # Small models hear means of adjacent bands.
        return mels if bands == features.CLIP_MELS else F.adaptive_avg_pool1d(mels, bands)

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Make the frames of the clip, or with timing "free" those of the audio."""
        frames = frames_heard(batch, timing, features.CLIP_RATE)
        windows = [(row, start) for row, total in enumerate(frames.tolist()) for start in starts(total)]
        device, longest = batch["audio"].device, max(int(frames.max()), FRAMES)
        video = torch.zeros(len(frames), longest, 3, self.size, self.size, device=device)
        weight = torch.zeros(len(frames), longest, device=device)
        steps = torch.arange(FRAMES, device=device)
        fade = (torch.minimum(steps, FRAMES - 1 - steps) + 0.5) / _STRIDE  # (16,)
        for several in torch.split(torch.tensor(windows, device=device).reshape(-1, 2), _WINDOWS_AT_ONCE):
            clip, place = several[:, :1].expand(-1, FRAMES), several[:, 1:] + steps  # (m, 16) each
            heard = torch.minimum(place, frames[clip] - 1)  # short clips: the last frame again
            made = self.make(batch["identity"][several[:, 0]], self.spectrogram(batch, clip, heard))
            video.index_put_((clip, place), made * fade[:, None, None, None], accumulate=True)
            weight.index_put_((clip, place), fade.expand_as(place), accumulate=True)
        there = torch.arange(longest, device=device) < frames[:, None]  # (B, longest)
        video = video / weight.clamp(min=fade[0].item())[..., None, None, None] * there[..., None, None, None]
        return {"video": video[:, : int(frames.max())].clamp(0, 1), "video_len": frames}


def starts(frames: int) -> list[int]:
    """First frames of the windows of a clip: every 8, and one that ends with it.

    Example: 30 frames have windows from 0, 8 and 14.
    """
    last = max(frames - FRAMES, 0)
    return [*range(0, last, _STRIDE), last] if frames else []
