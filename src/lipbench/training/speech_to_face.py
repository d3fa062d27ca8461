"""Speech to face, frame by frame: what LipGAN, Wav2Lip and TalkLip have in common."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn

from lipbench.media import features
from lipbench.nets.fastspeech import length_mask
from lipbench.training.adversarial import AdversarialModel
from lipbench.training.generative import frames_heard
from lipbench.types import ClipBatch, Generated, Timing, View

_FRAMES_AT_ONCE: Final = 128


class SpeechToFace(AdversarialModel):
    """Makes every face by itself from the sound around it, its upper half (the pose) and an identity frame.

    With timing "given" the sound says when things are said, as true durations do for models that are driven by text.

    Subclasses set what follows and say what is heard for a face. One whose generator takes something else overrides
    `make`, and `needs` if it sees no pose.

    Attributes:
        size: Pixels a side of the face view.
        generator: Identity (M, 3, size, size) in [0, 1], pose (M, 3, size, size) with lower half 0, and what
            `audio_windows` gives for these frames -> faces (M, 3, size, size) float32 in [0, 1].
    """

    timings = frozenset({"given", "free"})
    context: int | None = 10  # 0.4 s at 25 frames a second: the published windows reach 0.2 s to each side
    size: int
    generator: nn.Module

    @abstractmethod
    def audio_windows(self, batch: ClipBatch, clip: Tensor, frame: Tensor) -> Tensor:
        """(M,) rows of the batch and (M,) frames -> (M, ...) what the generator hears at them."""

    @property
    def view(self) -> View:
        """The whole 256 face: its lower half holds nose tip, mouth and chin."""
        return View("face", self.size, self.size)

    @property
    def needs(self) -> frozenset[str]:
        """The sound, the identity frame, and the pose frames that `drive` makes."""
        return frozenset({"audio", "audio_len", "fps", "identity", "pose", "pose_len", "n_frames"})

    def follows_schedule(self, name: str) -> bool:
        """All do: the published rates are constant, and the small recipes' cosine was run for both sides."""
        return True

    def make(self, batch: ClipBatch, clip: Tensor, frame: Tensor) -> Tensor:
        """Make faces outside training.

        Args:
            batch: What `needs` names.
            clip: (M,) rows of the batch.
            frame: (M,) frames of these clips; poses that run out start again.

        Returns:
            (M, 3, size, size) float32 in [0, 1].
        """
        pose = batch["pose"][clip, frame % batch["pose_len"][clip]]  # (M, 3, size, size)
        made: Tensor = self.generator(batch["identity"][clip, 0], pose, self.audio_windows(batch, clip, frame))
        return made

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Make the frames of the clip, or with timing "free" those of the sound."""
        frames = frames_heard(batch, timing, self.clip_spec.audio_rate or features.RATE)
        video = batch["audio"].new_zeros(
            len(frames), int(frames.max()), 3, self.size, self.size, dtype=torch.float32
        )  # (B, N, 3, size, size)
        for clip, place in frames_in_pieces(frames):
            video[clip, place] = self.make(batch, clip, place)
        return {"video": video, "video_len": frames}


def frames_in_pieces(frames: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The frames of clips in groups of at most 128, to bound the memory of what is made of each.

    Args:
        frames: (B,) how many each clip has.

    Yields:
        (M,) rows of the batch, and (M,) frames of these clips.
    """
    clip, place = length_mask(frames, int(frames.max())).nonzero(as_tuple=True)
    yield from zip(torch.split(clip, _FRAMES_AT_ONCE), torch.split(place, _FRAMES_AT_ONCE), strict=True)
