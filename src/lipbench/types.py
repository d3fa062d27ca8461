"""The contracts between the layers: what a batch holds, what a model asks for and what it returns.

Imports torch and typing only, so that every layer can import it.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, TypedDict

from torch import Tensor

Timing = Literal["given", "speech", "length", "free"]
"""Who decides when things are said: the truth (durations, or sound); the truth when speech begins and ends and how long
the clip is, the model what lies in between; the truth's total length only; or the model."""


Part = Literal["paired", "text", "lips", "grammar"]
PARTS: Final[tuple[Part, ...]] = ("paired", "text", "lips", "grammar")
"""Shares of a training split, see `ClipSpec.part`."""


@dataclass(frozen=True)
class View:
    """A named box of the canonical picture at a stated pixel size.

    Args:
        name: A key of `lipbench.media.geometry.BOXES`, such as "mouth" or "face".
        height: Pixels.
        width: Pixels.
    """

    name: str
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    def __str__(self) -> str:
        """Short form used in records and tables, such as "mouth 40x80"."""
        return f"{self.name} {self.height}x{self.width}"


@dataclass(frozen=True)
class ClipSpec:
    """What a model wants in its batches, or in one stream of them; the datamodule supplies exactly that.

    Args:
        frames: Batch key -> view. The key "video" is the main view, also used for `identity`. Empty for a stream
            without video, and for a model of audio without video: no picture is decoded. With audio, the batch then
            still holds `n_frames`, `fps` and `speech`, and no other key about frames.
        window: Training frames a clip; None gives the whole clip. Validation, test and predict always give whole clips.
        sampling: Whether the `window` training frames are "consecutive" or drawn at "random" over the clip (sorted).
        references: Identity frames R a clip.
        identity_views: Batch key -> view, for models that see the identity frames in further views, too.
        identity: Which these are in training: "random" frames of the clip, a "run" of frames in a row that starts
            elsewhere in it than those drawn, or its "first"; in scoring always the first.
        audio_rate: Samples a second of `audio`; None if the model takes no audio.
        keys: Further batch keys, out of `KEYS`.
        part: Share of the training split that training clips come from (`--data.paired` divides it): "paired" clips
            with all they have, clips of which only the "text" or only the "lips" are used, or sentences of the corpus's
            "grammar" that no test clip says. Batches of "lips" hold no text, those of "text" nothing but tokens and
            durations, those of "grammar" nothing but tokens.
        batch_share: Clips of this stream in a batch, as a multiple of the datamodule's `batch_size`.
    """

    frames: dict[str, View]
    window: int | None = None
    sampling: Literal["consecutive", "random"] = "consecutive"
    references: int = 1
    identity: Literal["random", "run", "first"] = "random"
    audio_rate: int | None = None
    keys: frozenset[str] = field(default_factory=frozenset)
    part: Part = "paired"
    identity_views: dict[str, View] = field(default_factory=dict)
    batch_share: float = 1.0

    KEYS = frozenset(
        {
            *{"identity", "identity_landmarks", "audio", "tokens", "durations", "face", "landmarks", "mismatched"},
            "other_speaker",
        }
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be supplied early, where the model is defined."""
        unknown = self.keys - self.KEYS
        if unknown:
            raise ValueError(f"ClipSpec.keys has {sorted(unknown)}; known keys are {sorted(self.KEYS)}")
        if self.sampling == "random" and self.window is None:
            raise ValueError("ClipSpec.sampling 'random' needs a window: how many frames are drawn from each clip")
        if self.part not in PARTS:
            raise ValueError(f"ClipSpec.part is {self.part!r}; expected one of {', '.join(PARTS)}")
        if self.batch_share <= 0:
            raise ValueError(f"ClipSpec.batch_share is {self.batch_share}; expected a number above 0")
        if self.identity_views and "identity" not in self.keys:
            raise ValueError("ClipSpec.identity_views needs 'identity' among the keys")
        seen = self.keys & {"identity", "identity_landmarks", "face", "landmarks", "mismatched", "other_speaker"}
        withheld = {
            "paired": frozenset[str](),
            "lips": self.keys & {"tokens", "durations", "mismatched", "other_speaker"},
            "text": (self.keys - {"tokens", "durations"}) | self.frames.keys(),
            "grammar": (self.keys - {"tokens"}) | self.frames.keys(),
        }[self.part] | (seen if not self.frames else frozenset())
        if withheld or (self.part in ("text", "grammar") and self.audio_rate is not None):
            raise ValueError(
                f"a stream of {self.part!r} {'with' if self.frames else 'without'} frames cannot hold "
                f"{', '.join(sorted(withheld)) or 'audio'}"
            )


class ClipBatch(TypedDict, total=False):
    """One batch; a plain dict, so that collating, pinning and moving to a device need no code of ours.

    Shapes: B clips, T frames (zero-padded), L tokens (0 = padding), S samples, R references, H and W pixels.
    Pictures are RGB.
    """

    index: Tensor  # (B,) int64, position in the split: the key that removes DDP duplicates
    clip_id: list[str]  # "grid/s1/bbaf2n", stable across machines
    speaker: list[str]
    speaker_id: Tensor  # (B,) int64, position among the sorted speakers of the training split, -1 if not in it
    video: Tensor  # (B, T, 3, H, W) float32 in [0, 1], the main view; further views under their own names
    video_len: Tensor  # (B,) int64, valid frames of the window
    frame: Tensor  # (B, T) int64, position in the clip of every frame of `video`; padded with 0
    n_frames: Tensor  # (B,) int64, frames of the whole clip
    fps: Tensor  # (B,) float32
    identity: Tensor  # (B, R, 3, H, W) float32 in [0, 1]; further views of it under the names of `identity_views`
    identity_landmarks: Tensor  # (B, R, 68, 2) float32 pixels of the canonical picture, of the same frames
    pose: Tensor  # (B, P, 3, H, W) float32 in [0, 1]: frames with their lower half 0, for models that need them
    pose_len: Tensor  # (B,) int64
    audio: Tensor  # (B, S) float32 mono in [-1, 1], always the whole clip
    audio_len: Tensor  # (B,) int64
    audio_embeddings: (
        Tensor  # (B, T, C) one a frame, of models that encode the whole audio first, see `GenerativeModel`
    )
    tokens: Tensor  # (B, L) int64, 0 = padding
    token_len: Tensor  # (B,) int64
    durations: Tensor  # (B, L) int64 frames, summing to n_frames
    text: list[str]  # absent where the corpus has no text
    speech: Tensor  # (B, 2) int64, first frame of speech and the frame after its last; (0, n_frames) where unknown
    face: Tensor  # (B, T, 3, 352, 320) uint8 canonical picture, in scoring only
    whole: Tensor  # (B, T, 3, 224, 224) uint8 whole frames squeezed to a square, where videos are scored that show them
    sound: Tensor  # (B, S) float32 mono in [-1, 1] at 16,000 samples a second, the whole clip; in scoring only
    sound_len: Tensor  # (B,) int64
    landmarks: Tensor  # (B, T, 68, 2) float32 pixels of the canonical picture
    mismatched: "ClipBatch"  # the words and sound of ANOTHER clip of the same speaker, fitted to n_frames: control rows
    other_speaker: "ClipBatch"  # a clip of ANOTHER speaker, cut to n_frames; its sound is fitted to it: a control row


class Generated(TypedDict, total=False):
    """What a model made."""

    video: Tensor  # (B, N, 3, h, w) float in [0, 1], in the model's main view
    video_len: Tensor  # (B,) int64
    durations: Tensor  # (B, L) int64 frames the model gave to each token
    attention: Tensor
    text: list[str]
    audio: Tensor  # (B, S) float32 mono in [-1, 1], zero after `audio_len`
    audio_len: Tensor  # (B,) int64 samples
    sample_rate: int
