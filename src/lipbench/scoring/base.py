"""The contract of a metric: what it takes, what it keeps, what it says of itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lipbench.scoring import checks

_TOGETHER: Final = 1 << 19  # numbers of a video: four maps of as many stay in a processor's cache
_TAKES: Final[dict[str | None, checks.Shape]] = {
    None: ("B", "T", *checks.PICTURES[1:]),
    "landmarks": ("B", "T", *checks.LANDMARKS[1:]),
    "syncnet": ("B", "N", 2, "E"),
    "identity": ("B", "T", "E"),
    "lower_face": ("B", "T", 16, 32),
}  # observation -> what `score` takes of either video; texts have no shape


@dataclass(frozen=True)
class PerClip:
    """Scores of N clips, each clip once, sorted by `index`."""

    index: npt.NDArray[np.int64]  # (N,) position of the clip in the split
    value: npt.NDArray[np.float64]  # (N,) NaN = undefined
    weight: npt.NDArray[np.float64]  # (N,) what the clip counts in the mean over clips


class ClipMetric(Metric, ABC):
    """A number for every clip, and their weighted mean.

    A subclass sets the class attributes and writes `score`. The states are three lists (index, value, weight), gathered
    by concatenation: a clip that a distributed sampler repeats falls out by its index, means over unequal clips are
    exact through the weights, and the scores of single clips come free. An undefined score is NaN: it takes no part in
    the mean and is counted in the coverage, and never a silent 0 or 100.
    """

    full_state_update = False
    name: ClassVar[str]
    """Name without the way of looking: "psnr"."""
    unit: ClassVar[str]
    """"dB", "px", or "" for a number without unit."""
    perfect: ClassVar[float | None]
    """Score of a copy of the reference; where `higher_is_better` is None, the nearer to it the better."""
    observes: ClassVar[str | None] = None
    """Observation that `score` takes of both videos, such as "landmarks"; None takes their pictures."""
    against: ClassVar[str | None] = None
    """Batch key that is the target, such as "text"; None compares with the reference video."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Batch keys that `score` takes as keywords beside pred, target and length."""
    aligned: ClassVar[bool] = True
    """Frame k is compared with frame k: undefined where the two lengths differ."""
    least: ClassVar[int] = 1
    """Height and width that pictures need, in pixels: smaller views leave the column empty."""
    undefined: ClassVar[str]
    """When a clip has no score, in words."""

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

    @abstractmethod
    def score(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - pictures, points or texts
        """Score a batch: `score(pred, target, length, **needs)` gives value (B,), NaN = undefined, and weight (B,)."""

    def update(self, pred: Any, target: Any, index: Tensor, length: Tensor, **known: Any) -> None:  # noqa: ANN401
        """Score a batch of B clips.

        Args:
            pred: What was made, in the form that `score` takes.
            target: The reference in the same form.
            index: (B,) position of each clip in its split.
            length: (B,) valid frames; 0 makes the clip undefined.
            **known: The batch keys in `needs`.

        Raises:
            ValueError: Shape or dtype are not what the metric takes.
        """
        self._refuse(pred, target, index, length)
        value, weight = self.score(pred, target, length, **known)
        self.index.append(index.detach().to(self.device, torch.float64))
        self.value.append(value.detach().to(self.device, torch.float64))
        self.weight.append(weight.detach().to(self.device, torch.float64))

    def _refuse(self, pred: Any, target: Any, index: Tensor, length: Tensor) -> None:  # noqa: ANN401
        """Refuse what would be scored wrongly or end in an error that names neither."""
        if self.observes in _TAKES:
            checks.tensor("pred", pred, _TAKES[self.observes])
            checks.tensor("target", target, _TAKES[self.observes])
            if self.aligned:
                checks.same(pred, target)
        counts = {"pred": len(pred), "target": len(target), "index": index.numel(), "length": length.numel()}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{what} {count}" for what, count in counts.items())
            raise ValueError(f"clips differ in number: {found}")

    def compute(self) -> Tensor:
        """Weighted mean over clips, () float64; NaN if no clip is defined."""
        clips = self.local()
        return torch.tensor(mean(clips.value, clips.weight), dtype=torch.float64)

    def per_clip(self) -> PerClip:
        """Scores of single clips over all processes (a collective call: every process must make it)."""
        with self.sync_context(should_sync=not self._is_synced):
            return self.local()

    def local(self) -> PerClip:
        """Scores of the clips that this process holds."""
        states = (self.index, self.value, self.weight)
        index, value, weight = (dim_zero_cat(s).cpu().numpy() if len(s) else np.zeros(0) for s in states)
        return merge([PerClip(index.astype(np.int64), value, weight)])


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
