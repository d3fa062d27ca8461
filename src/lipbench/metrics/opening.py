"""Mouth opening: does the mouth open when, and as far as, the reference's does?"""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from lipbench.scoring import checks
from lipbench.scoring.base import Column, ObservationMetric, Spans


def opening(points: Tensor) -> Tensor:
    """Opening of the inner lips: mean distance of the three pairs of points on its upper and lower edge.

    Args:
        points: (..., 68, 2) landmarks (iBUG order), pixels.

    Returns:
        (...) pixels.

    Raises:
        ValueError: They are no landmarks.
    """
    checks.tensor("points", points, checks.LANDMARKS)
    gaps = points[..., [61, 62, 63], :] - points[..., [67, 66, 65], :]  # (..., 3, 2)
    distance: Tensor = torch.linalg.vector_norm(gaps, dim=-1)
    return distance.mean(-1)


def correlation(pred: Tensor, target: Tensor) -> Tensor:
    """Pearson correlation of two tracks (T,); NaN for fewer than 3 frames or a track that does not move.

    Raises:
        ValueError: They are no tracks of one length.
    """
    _tracks(pred, target)
    if len(pred) < 3:
        return pred.new_tensor(torch.nan)
    x, y = pred.double() - pred.double().mean(), target.double() - target.double().mean()
    scale = x.norm() * y.norm()
    still = (x.abs().max() < 1e-6) | (y.abs().max() < 1e-6)
    return torch.where(still, torch.nan, (x @ y) / scale)


def amplitude_ratio(pred: Tensor, target: Tensor) -> Tensor:
    """Standard deviation of a track (T,) over that of its reference; NaN if the reference does not move.

    Raises:
        ValueError: They are no tracks of one length.
    """
    _tracks(pred, target)
    if len(pred) < 3:
        return pred.new_tensor(torch.nan)
    x, y = pred.double().std(), target.double().std()
    return torch.where(y < 1e-6, torch.nan, x / y)


def _tracks(pred: Tensor, target: Tensor) -> None:
    checks.same(pred, target)
    checks.tensor("pred", pred, ("T",))
    checks.tensor("target", target, ("T",))


class _Opening(ObservationMetric):
    """Compares the opening tracks of a clip; every clip counts the same.

    Args:
        span: "clip" takes all frames, "speech" those between the first and the last word. The whole clip flatters: the
            mouth rests before and after speech whatever was said.
    """

    unit = ""
    perfect = 1.0
    undefined = "the mouth does not move, or fewer than 3 frames have landmarks"
    observes = "landmarks"
    across_speakers = True

    def __init__(self, span: Literal["clip", "speech"] = "clip") -> None:
        super().__init__()
        self.span = span

    @abstractmethod
    def compare(self, pred: Tensor, target: Tensor) -> Tensor:
        """Compare two tracks (T,)."""

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, 68, 2) landmarks."""
        values = []
        lengths, speech = spans.length.tolist(), spans.speech.tolist()
        for p, t, frames, span in zip(opening(pred), opening(target), lengths, speech, strict=True):
            first, last = (0, frames) if self.span == "clip" else (span[0], min(span[1], frames))
            p, t = p[first:last], t[first:last]
            both = p.isfinite() & t.isfinite()  # frames without points are left out
            values.append(self.compare(p[both], t[both]))
        value = torch.stack(values)
        return value, torch.ones_like(value)


class OpeningCorrelation(_Opening):
    """Correlation of the inner-lip opening with the reference's, mean over clips; 1 for a copy."""

    name = "opening_corr"
    higher_is_better = True
    columns = (
        Column("opening_corr", "landmarks", 20),
        Column("opening_corr[speech]", "landmarks", 30, options={"span": "speech"}),
    )

    def compare(self, pred: Tensor, target: Tensor) -> Tensor:
        """Correlation of two tracks (T,)."""
        return correlation(pred, target)


class OpeningRatio(_Opening):
    """Amplitude of the inner-lip opening over the reference's, mean over clips; 1 for a copy, below 1 mumbles."""

    name = "opening_ratio"
    higher_is_better = None
    columns = (Column("opening_ratio", "landmarks", 40),)

    def compare(self, pred: Tensor, target: Tensor) -> Tensor:
        """Ratio of the standard deviations of two tracks (T,)."""
        return amplitude_ratio(pred, target)
