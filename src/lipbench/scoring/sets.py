"""The fourth kind of metric: one number for a whole set of videos."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lipbench.scoring import checks
from lipbench.scoring.base import Column


class SetMetric(Metric, ABC):
    """One number for a whole set of videos: no scores of single clips, and so no interval.

    `update` takes what an observer made of both videos. Every clip counts once however often samplers repeat it, and a
    clip with a frame that has no features is left out on both sides; `coverage` tells how many are in.

    Args:
        dim: Features a frame, D.
    """

    full_state_update = False
    name: ClassVar[str]
    unit: ClassVar[str] = ""
    higher_is_better = False
    perfect: ClassVar[float] = 0.0
    columns: ClassVar[tuple[Column, ...]] = ()
    """The columns of tables that it fills."""
    observes: ClassVar[str]
    """Observation that `update` takes of both videos."""
    file: ClassVar[str | None] = None
    """None: its observer has the weights."""
    aligned: ClassVar[bool] = False
    across_speakers: ClassVar[bool] = False
    undefined: ClassVar[str]
    """When there is no number, in words."""

    clips: list[Tensor]
    left_out: list[Tensor]

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        for state in ("clips", "left_out"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        # One dtype: the placeholder that torchmetrics gathers from a rank without clips has the metric's dtype, and
        # one dimension, so that list states are flat.
        self.set_dtype(torch.float64)

    def update(
        self, pred: Tensor, target: Tensor, index: Tensor, length: Tensor, pred_len: Tensor | None = None
    ) -> None:
        """Take in a batch of B clips.

        Args:
            pred: (B, T, D) features of the generated frames.
            target: (B, T, D) features of the true ones.
            index: (B,) position of each clip in its split.
            length: (B,) valid frames.
            pred_len: (B,) valid frames of `pred`; default: `length`.

        Raises:
            ValueError: A frame has another number of features than D.
        """
        for what, features in (("pred", pred), ("target", target)):
            checks.tensor(what, features, ("B", "T", "D"))
            if features.shape[-1] != self.dim:
                raise ValueError(f"{self.name} was made for {self.dim} features a frame, got {features.shape[-1]}")
        lengths = zip((length if pred_len is None else pred_len).tolist(), length.tolist(), strict=True)
        known = set(whole_state(self.clips).tolist()) | set(whole_state(self.left_out).tolist())
        for p, t, clip, (made, true) in zip(pred, target, index.tolist(), lengths, strict=True):
            if clip in known:
                continue
            known.add(clip)
            p, t = (x[:frames].detach().to(self.device, torch.float64) for x, frames in ((p, made), (t, true)))
            place = torch.tensor([clip], dtype=torch.float64, device=self.device)
            if not len(p) or not len(t) or not bool(p.isfinite().all() & t.isfinite().all()):
                self.left_out.append(place)
                continue
            self.clips.append(place)
            self.add(p, t, clip)

    @abstractmethod
    def add(self, pred: Tensor, target: Tensor, clip: int) -> None:
        """Take in one clip: features (N, D) and (T, D) float64."""

    def compute_set(self) -> tuple[float, int]:
        """The distance over all processes, NaN if undefined, and how many clips it is over (a collective call)."""
        with self.sync_context(should_sync=not self._is_synced):
            return float(type(self).compute(self)), len(np.unique(whole_state(self.clips)))

    @property
    def coverage(self) -> float:
        """Share of the clips seen by this process that count; NaN before the first."""
        inside, outside = len(whole_state(self.clips)), len(whole_state(self.left_out))
        return inside / (inside + outside) if inside + outside else float("nan")


def whole_state(state: list[Tensor] | Tensor) -> npt.NDArray[np.float64]:
    """A list state, gathered or not, as one array."""
    return np.asarray(dim_zero_cat(state).cpu().numpy()) if len(state) else np.zeros(0)
