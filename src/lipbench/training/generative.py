"""Models that generate video, audio or both: the contract that the evaluator and `lipbench generate` rely on."""

from abc import abstractmethod
from typing import Any, ClassVar, Final, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from lipbench import losses
from lipbench.media import geometry
from lipbench.training.base import BenchModule
from lipbench.types import ClipBatch, Generated, Timing

_TIMINGS: Final[tuple[Timing, ...]] = ("given", "speech", "length", "free")
_UNKNOWN: Final[dict[Timing, frozenset[str]]] = {
    "given": frozenset({"speech"}),  # durations say it
    "speech": frozenset({"durations"}),
    "length": frozenset({"durations", "speech"}),
    "free": frozenset({"durations", "speech", "n_frames"}),
}


class GenerativeModel(BenchModule):
    """A model that generates; it may be a `ReadingModel` besides: `class M(GenerativeModel, ReadingModel)`.

    One that generates audio overrides `capabilities`: with "audio" beside or in place of "video".
    """

    timings: frozenset[str]
    """Which of "given", "speech", "length" and "free" it supports: of the class, or a property of the instance."""
    paper: ClassVar[str]
    """Authors, title, venue and year."""
    context: int | None = None
    """Frames of audio, and of pose, on each side that a generated frame depends on.

    None is the whole clip: for recurrence, attention over time, normalization over the clip, and frames that are made
    in blocks counted from its beginning. Whoever generates a long clip in pieces (`lipbench.generation.dubbing`) adds
    so many frames on both sides of a piece, or with None makes the clip as a whole.
    """

    encodes_audio: bool = False
    """Whether the audio of the whole clip is encoded first, by `audio_embeddings`, and a frame depends on its own
    embedding alone. A long clip can then be made in pieces of the embeddings, which `generate` takes where the batch
    holds them."""

    frame_by_frame: bool = False
    """Whether no frame depends on how many follow it: with `n_frames` 1 and the rest of the batch unchanged, `generate`
    gives the clip's first frame, timing "length" or "given". `lipbench latency` times the first frame so."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - BenchModule's arguments
        super().__init__(**options)
        self._timing: Timing | None = None

    @property
    def timing(self) -> Timing:
        """How the next test or predict times its clips: as the evaluator sets it, else the closest to the truth."""
        if self._timing is not None:
            return self._timing
        return self._closest_timing()

    @timing.setter
    def timing(self, timing: Timing) -> None:
        self._timing = timing

    @property
    def capabilities(self) -> frozenset[str]:
        """Video, and what other bases bring."""
        return super().capabilities | {"video"}

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """The batch keys that `generate` is handed, and no others. Never "video"."""

    @abstractmethod
    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Make whole clips.

        Args:
            batch: Only `needs`, less "durations" unless timing is "given", less "speech" unless it is "speech", less
                "n_frames" too if it is "free".
            timing: Who decides how long each token lasts: the truth ("given": its durations, or the sound that drives),
                the truth's span of speech and total length ("speech"), its total length ("length"), or the model
                ("free"; if it is driven by sound, that is as long as the video).

        Returns:
            With the capability "video", `video` (B, N, 3, h, w) in [0, 1] in the main view, zero after `video_len`
            (B,). With "audio", `audio` (B, S) in [-1, 1], zero after `audio_len` (B,), and `sample_rate`.
        """

    def audio_embeddings(self, batch: ClipBatch) -> Tensor:
        """What the model makes of the audio before it generates, a vector a frame; for models that have such a vector.

        `lipbench embed` shows how well these vectors tell words apart. A model that offers them overrides this method.

        Args:
            batch: `audio`, `audio_len`, `fps` and `n_frames` of whole clips, and nothing else.

        Returns:
            (B, T, C) float32, T the longest clip's `n_frames`; row t of a clip belongs to its frame t, and rows after
            its last frame are 0.

        Raises:
            NotImplementedError: The model offers none.
        """
        raise NotImplementedError(f"{type(self).__name__} offers no audio embeddings")

    def _closest_timing(self) -> Timing:
        """The first of `_TIMINGS` that the model supports. A `StopIteration` would end Lightning's loop in silence."""
        timings: frozenset[str] = getattr(self, "timings", frozenset())
        closest = next((timing for timing in _TIMINGS if timing in timings), None)
        if closest is None:
            raise ValueError(f"{type(self).__name__}.timings is {sorted(timings)}; expected some of {list(_TIMINGS)}")
        return closest

    def run_generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Call `generate` with exactly the keys that the timing allows.

        A model that needs `pose` gets the batch's frames with their lower half blanked, unless the batch holds poses.

        Raises:
            ValueError: The model does not support this timing, needs "video", or returns no video of its main view; or
                the batch lacks a key.
        """
        if "video" in self.needs:
            raise ValueError(
                f"{type(self).__name__}.needs has 'video', the reference that is to be generated; expected other keys: "
                "'identity' for one frame of the speaker, 'pose' for frames without their lower half"
            )
        if timing not in self.timings:
            raise ValueError(f"{type(self).__name__} has no timing {timing!r}; it has {sorted(self.timings)}")
        if "pose" in self.needs and "pose" not in batch and "video" in batch:
            blanked = geometry.without_lower_half(batch["video"])
            batch = {**batch, "pose": blanked, "pose_len": batch["video_len"]}
        keys = self.needs - _UNKNOWN[timing] | ({"audio_embeddings"} & batch.keys() if self.encodes_audio else set())
        lacking = keys - batch.keys()
        if lacking:
            raise ValueError(
                f"{type(self).__name__} needs {sorted(lacking)} for timing {timing!r}; the batch lacks them and has "
                f"{sorted(batch)}: add them to `clip_spec`, or take them out of `needs`"
            )
        allowed = cast("ClipBatch", {key: batch[key] for key in keys})  # type: ignore[literal-required]
        generated = self.generate(allowed, timing)
        if "video" in self.capabilities:
            self._check_video(generated)
        return generated

    def _check_video(self, generated: Any) -> None:  # noqa: ANN401 - another package's model may return anything
        name = f"{type(self).__name__}.generate"
        if not isinstance(generated, dict) or not {"video", "video_len"} <= generated.keys():
            found = sorted(generated) if isinstance(generated, dict) else type(generated).__name__
            raise ValueError(f"{name} returned {found}; expected a dict with 'video' and 'video_len'")
        view, shape = self.clip_spec.frames.get("video"), tuple(generated["video"].shape)
        if view is not None and (len(shape) != 5 or shape[2:] != (3, *view.size)):
            height, width = view.size
            raise ValueError(
                f"{name} returned a video of shape {shape}; expected (B, N, 3, {height}, {width}), as the view "
                "'video' of `clip_spec` says"
            )

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """Generate with the timing closest to the truth; of video, log `val/l1` and `val/psnr` on common frames."""
        generated = self.run_generate(batch, self._closest_timing())
        if "video" in generated and "video" in batch:
            self._compare(generated, batch)
        return _joined(generated, super().validation_step(batch, batch_idx))

    def _compare(self, generated: Generated, batch: ClipBatch) -> None:
        truth = batch["video"]
        frames = min(generated["video"].shape[1], truth.shape[1])
        lengths = torch.minimum(generated["video_len"], batch["video_len"])  # (B,)
        prediction, target = generated["video"][:, :frames].float(), truth[:, :frames]
        valid = torch.arange(frames, device=truth.device) < lengths[:, None]  # (B, frames)
        error = F.mse_loss(prediction, target, reduction="none").flatten(2).mean(dim=2)  # (B, frames)
        psnr = -10 * torch.log10(error.clamp(min=1e-10))
        size = len(truth)
        self.log("val/l1", losses.l1(prediction, target, lengths), prog_bar=True, batch_size=size, sync_dist=True)
        self.log("val/psnr", psnr[valid].mean(), prog_bar=True, batch_size=size, sync_dist=True)

    def test_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """Generate as `timing` says; the evaluator scores what is returned."""
        return _joined(self.run_generate(batch, self.timing), super().test_step(batch, batch_idx))

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """Generate as `timing` says."""
        return _joined(self.run_generate(batch, self.timing), super().predict_step(batch, batch_idx))


def frames_heard(batch: ClipBatch, timing: Timing, rate: int) -> Tensor:
    """How many frames a model makes that is driven by audio: those of the clip, or with timing "free" of the audio.

    Args:
        batch: `n_frames`, or with timing "free" `audio_len` and `fps`.
        timing: See `GenerativeModel.generate`.
        rate: Samples a second of the batch's audio.

    Returns:
        (B,) int64.
    """
    if timing == "free":
        return (batch["audio_len"] * batch["fps"].double() / rate).round().long()
    return batch["n_frames"]


def _joined(generated: Generated, other: object) -> Generated:
    """What a model generates, and what it reads if it does that, too."""
    return cast("Generated", {**cast("dict[str, Any]", other), **generated}) if isinstance(other, dict) else generated
