"""The contract of a metric: what it takes, what it keeps, what it says of itself."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Unavailable(RuntimeError):
    """A metric cannot be computed on this machine; the message says what is missing and where it belongs."""


def digest(path: Path) -> str:
    """SHA-256 of a weights file.

    Raises:
        Unavailable: Its name ends in eight hexadecimal digits (torch hub's convention) and the hash begins otherwise.
    """
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    named = re.search(r"-([0-9a-f]{8})$", path.stem)
    if named and not sha256.startswith(named[1]):
        raise Unavailable(
            f"{path.name} has SHA-256 {sha256[:8]}…, its name says {named[1]}…: it is damaged or another file"
        )
    return sha256


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
        """
        value, weight = self.score(pred, target, length, **known)
        self.index.append(index.detach().to(self.device, torch.float64))
        self.value.append(value.detach().to(self.device, torch.float64))
        self.weight.append(weight.detach().to(self.device, torch.float64))

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


def same_shape(pred: Tensor, target: Tensor) -> None:
    """Refuse pictures of different shapes, which broadcasting would compare without a word.

    Raises:
        ValueError: The shapes differ.
    """
    if pred.shape != target.shape:
        raise ValueError(f"pred has shape {tuple(pred.shape)} and target {tuple(target.shape)}; they must be equal")
