"""The contract of a metric: its kind, what it takes, what it keeps, and the columns that it declares."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lipbench.scoring import checks

_TOGETHER: Final = 1 << 19  # numbers of a video: four maps of as many stay in a processor's cache
_SHAPES: Final[dict[str, checks.Shape]] = {
    "landmarks": ("B", "T", *checks.LANDMARKS[1:]),
    "guide_landmarks": ("B", "T", *checks.LANDMARKS[1:]),
    "syncnet": ("B", "N", 2, "E"),
    "identity": ("B", "T", "E"),
    "lower_face": ("B", "T", 16, 32),
}  # observation -> what `score` takes of either video

Region = Literal["mouth", "native"]
"""Frames that are compared: the mouth of the canonical picture, or what the model made at its own size."""
Output = Literal["video", "text"]
"""What a model returned that a column scores."""


@dataclass(frozen=True)
class Column:
    """A column of tables that a metric fills; a metric's class lists its own in `columns`.

    Args:
        name: Such as "mouth/psnr" or "opening_corr[speech]": region, metric, variant.
        group: Selected together with its group's name.
        place: Position among the columns of its group; columns without one come last, by name.
        default: Computed unless columns are named.
        region: Frames that a `FramesMetric` is given.
        scores: "video": what was generated; "text": what a model that reads wrote itself.
        options: Arguments with which the column makes its metric.
    """

    name: str
    group: str
    place: float = float("inf")
    default: bool = True
    region: Region | None = None
    scores: Output = "video"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PerClip:
    """Scores of N clips, each clip once, sorted by `index`."""

    index: npt.NDArray[np.int64]  # (N,) position of the clip in the split
    value: npt.NDArray[np.float64]  # (N,) NaN = undefined
    weight: npt.NDArray[np.float64]  # (N,) what the clip counts in the mean over clips


class Spans(NamedTuple):
    """Which frames of B clips count."""

    length: Tensor
    """(B,) valid frames of the reference; 0 leaves a clip undefined."""
    pred_length: Tensor
    """(B,) valid frames of the generated video; equal to `length` wherever an aligned metric has a score."""
    speech: Tensor
    """(B, 2) first frame of speech and the one after its last; (0, length) where unknown."""


class ClipMetric(Metric, ABC):
    """A number for every clip, and their weighted mean: what three of the four kinds of metrics share.

    A metric inherits `FramesMetric` (frames of both videos), `ObservationMetric` (landmarks or embeddings of both) or
    `TranscriptMetric` (texts against texts), sets the class attributes and writes `score`; the fourth kind, one number
    for a whole set of videos, is `lipbench.scoring.sets.SetMetric`.

    The states are three lists (index, value, weight), gathered by concatenation: a clip that a distributed sampler
    repeats falls out by its index, means over unequal clips are exact through the weights, and the scores of single
    clips come free. An undefined score is NaN: it takes no part in the mean and is counted in the coverage, and never a
    silent 0 or 100.
    """

    full_state_update = False
    name: ClassVar[str]
    """Name without region and variant: "psnr"."""
    unit: ClassVar[str]
    """"dB", "px", or "" for a number without unit."""
    perfect: ClassVar[float | None]
    """Score of a copy of the reference; where `higher_is_better` is None, the nearer to it the better."""
    undefined: ClassVar[str]
    """When a clip has no score, in words."""
    columns: ClassVar[tuple[Column, ...]] = ()
    """The columns of tables that it fills."""
    observes: ClassVar[str | None] = None
    """Observation that `score` takes of the videos, such as "landmarks"; None takes their frames."""
    aligned: ClassVar[bool] = True
    """Frame k is compared with frame k: undefined where the two lengths differ."""
    across_speakers: ClassVar[bool] = False
    """Means something where the reference shows another speaker, who says the same: when it opens the mouth, not how it
    looks."""
    file: ClassVar[str | None] = None
    """Name under which users give its weights file, which becomes the constructor's argument `weights`."""

    index: list[Tensor]
    value: list[Tensor]
    weight: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for state in ("index", "value", "weight"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        # One dtype for all three states: the placeholder that torchmetrics gathers from a rank without clips has the
        # metric's dtype. float64 holds every index exactly.
        self.set_dtype(torch.float64)

    @property
    def judge(self) -> str | None:
        """Version or weights of whatever judges beyond the formula; scores by different judges are not compared."""
        return None

    def _numbered(self, count: int, index: Tensor | None) -> Tensor:
        """(B,) positions of clips: those given, else the numbers after those of the clips held."""
        held = sum(len(part) for part in self.index)
        return torch.arange(held, held + count) if index is None else index

    def _keep(self, index: Tensor, scored: tuple[Tensor, Tensor]) -> None:
        """Append what `score` returns of a batch: values (B,) and weights (B,).

        Raises:
            ValueError: It is something else, which would give scores to the wrong clips.
        """
        parts: Any = scored  # another package's metric may return anything
        parts = parts if isinstance(parts, tuple) else ()
        found = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
        if found != [(index.numel(),)] * 2:
            shown = f"a tuple of {found}" if parts else f"a {type(scored).__name__}"
            raise ValueError(
                f"{type(self).__name__}.score returned {shown} for {index.numel()} clips; expected two tensors, the "
                f"value ({index.numel()},) and the weight ({index.numel()},) of each clip, such as over_frames returns"
            )
        value, weight = scored
        self.index.append(index.detach().to(self.device, torch.float64))
        self.value.append(value.detach().to(self.device, torch.float64))
        self.weight.append(weight.detach().to(self.device, torch.float64))

    def compute(self) -> Tensor:
        """Weighted mean over clips, () float64; NaN if no clip is defined."""
        clips = self.local_scores()
        return torch.tensor(mean(clips.value, clips.weight), dtype=torch.float64)

    def per_clip(self) -> PerClip:
        """Scores of single clips over all processes (a collective call: every process must make it)."""
        with self.sync_context(should_sync=not self._is_synced):
            return self.local_scores()

    def local_scores(self) -> PerClip:
        """Scores of the clips that this process holds."""
        states = (self.index, self.value, self.weight)
        index, value, weight = (dim_zero_cat(s).cpu().numpy() if len(s) else np.zeros(0) for s in states)
        return merge([PerClip(index.astype(np.int64), value, weight)])


class _VideoMetric(ClipMetric):
    """What metrics of both videos share, whether they look at frames or at observations."""

    @abstractmethod
    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score a batch of B clips.

        Args:
            pred: Of the generated videos, (B, T, ...).
            target: The same of the references.
            spans: Which frames count.

        Returns:
            Value (B,), NaN = undefined, and weight (B,) in the mean over clips.
        """

    def update(
        self,
        pred: Tensor,
        target: Tensor,
        index: Tensor | None = None,
        length: Tensor | None = None,
        pred_len: Tensor | None = None,
        speech: Tensor | None = None,
    ) -> None:
        """Score a batch of B clips.

        Args:
            pred: Of the generated videos, in the form that `score` takes.
            target: The same of the references.
            index: (B,) position of each clip in its split, by which repeated clips count once; default: clips are
                numbered as they come. Give it where several processes share the clips.
            length: (B,) valid frames of the references; default: all. 0 leaves a clip undefined.
            pred_len: (B,) valid frames of the generated videos; default: `length`.
            speech: (B, 2) first frame of speech and the one after its last; default: the whole clip.

        Raises:
            ValueError: Shape or dtype are not what the metric takes.
        """
        shape = self._shape()
        if shape is not None:
            checks.tensor("pred", pred, shape)
            checks.tensor("target", target, shape)
            if self.aligned:
                checks.same(pred, target)
        index = self._numbered(len(pred), index)
        length = torch.full((len(target),), target.shape[1]) if length is None else length
        _refuse_counts(pred=len(pred), target=len(target), index=index.numel(), length=length.numel())
        speech = torch.stack([torch.zeros_like(length), length], 1) if speech is None else speech
        self._keep(index, self.score(pred, target, Spans(length, length if pred_len is None else pred_len, speech)))

    @abstractmethod
    def _shape(self) -> checks.Shape | None:
        """What `pred` and `target` must be; None takes anything with a row a clip."""


class FramesMetric(_VideoMetric):
    """Compares the frames of both videos in a region: `score` takes (B, T, 3, h, w) float in [0, 1]."""

    least: ClassVar[int] = 1
    """Height and width that frames need, in pixels: smaller views leave the column empty."""

    def _shape(self) -> checks.Shape:
        return "B", "T", *checks.PICTURES[1:]


class ObservationMetric(_VideoMetric):
    """Compares what an observer made of both videos, such as landmarks (B, T, 68, 2), NaN where nothing was found."""

    observes: ClassVar[str]
    observes_target: ClassVar[str | None] = None
    """Observation of the reference, of the same shape, where it is another one; it is shared with other metrics."""
    partial_view: ClassVar[bool] = False
    """Only for views that leave part of the face to what they are pasted into; empty where the view is all of it."""

    def _shape(self) -> checks.Shape | None:
        return _SHAPES.get(self.observes)


class TranscriptMetric(ClipMetric):
    """Compares texts with what was said: what a reader reads in generated videos, or what a tested reader writes."""

    observes: ClassVar[str] = "transcript"
    aligned: ClassVar[bool] = False

    @abstractmethod
    def score(self, pred: Sequence[str | None], target: Sequence[str], length: Tensor) -> tuple[Tensor, Tensor]:
        """Score a batch of B clips.

        Args:
            pred: B transcripts; None where nothing could be read.
            target: What was said.
            length: (B,) valid frames; 0 leaves a clip undefined.

        Returns:
            Value (B,), NaN = undefined, and weight (B,) in the mean over clips.
        """

    def update(
        self,
        pred: Sequence[str | None],
        target: Sequence[str],
        index: Tensor | None = None,
        length: Tensor | None = None,
    ) -> None:
        """Score a batch of B clips.

        Args:
            pred: B transcripts; None where nothing could be read.
            target: What was said.
            index: (B,) position of each clip in its split; see `FramesMetric.update`.
            length: (B,) valid frames; 0 leaves a clip undefined. Default: every clip has some.

        Raises:
            ValueError: The numbers of texts differ, or one is a single text.
        """
        index = self._numbered(len(pred), index)
        length = torch.ones(len(target), dtype=torch.int64) if length is None else length
        _refuse_counts(pred=len(pred), target=len(target), index=index.numel(), length=length.numel())
        self._keep(index, self.score(pred, target, length))


def _refuse_counts(**counts: int) -> None:
    """Refuse clips that differ in number."""
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{what} {count}" for what, count in counts.items())
        raise ValueError(f"clips differ in number: {found}")


def merge(parts: Sequence[PerClip]) -> PerClip:
    """Scores of several processes as one; a clip that is in several counts once."""
    index, value, weight = (np.concatenate([getattr(p, name) for p in parts]) for name in ("index", "value", "weight"))
    unique, first = np.unique(index, return_index=True)
    return PerClip(unique, value[first], weight[first])


def mean(value: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]) -> float:
    """Weighted mean of the defined values (N,); NaN if none is defined or all weights are 0."""
    defined = np.isfinite(value) & (weight > 0)
    return float(np.average(value[defined], weights=weight[defined])) if defined.any() else float("nan")


def over_frames(values: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over each clip's valid frames.

    Args:
        values: (B, T) a number for every frame.
        length: (B,) valid frames.

    Returns:
        Mean (B,), NaN where no frame is valid or a valid frame is NaN; and the weight (B,), the number of frames, so
        that the mean over clips is the mean over all frames, as published code pools.
    """
    valid = torch.arange(values.shape[1], device=values.device) < length.to(values.device)[:, None]  # (B, T)
    total = values.masked_fill(~valid, 0).sum(1)
    return total / valid.sum(1), valid.sum(1)  # 0 / 0 is NaN


def finite(frames: Tensor) -> Tensor:
    """Which frames hold finite values only.

    A sum is finite if all its terms are, for anything like pixels, and takes a fraction of the time of looking at each.

    Args:
        frames: (B, T, ...) float, far from the largest numbers there are.

    Returns:
        (B, T) bool.
    """
    return frames.flatten(2).sum(2).isfinite()


def by_frames(compare: Callable[[Tensor, Tensor], Tensor], pred: Tensor, target: Tensor) -> Tensor:
    """Apply a function of pictures to clips, a few frames at a time, so that its planes stay in a processor's cache.

    Args:
        compare: Scores (N,) of pictures (N, 3, h, w).
        pred: (B, T, 3, h, w).
        target: Same shape.

    Returns:
        (B, T).
    """
    checks.same(pred, target)
    checks.tensor("pred", pred, ("B", "T", *checks.PICTURES[1:]))
    frames = max(1, _TOGETHER // pred.shape[2:].numel())
    pieces = zip(*(torch.split(side.flatten(0, 1), frames) for side in (pred, target)), strict=True)
    values = [compare(p, t) for p, t in pieces]
    return (torch.cat(values) if values else pred.new_zeros(0)).view(pred.shape[:2])
