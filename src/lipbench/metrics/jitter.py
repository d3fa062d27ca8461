"""Landmark jitter: do the lips tremble more than the reference's?"""

import torch
from torch import Tensor

from lipbench.metrics.lmd import MOUTH
from lipbench.scoring import checks
from lipbench.scoring.base import Column, ObservationMetric, Spans

_STILL = 1e-6  # px / frame^2: below it nothing moves


def jitter(points: Tensor) -> Tensor:
    """Acceleration of the lips within the face: mean over points of |x[t + 1] - 2 x[t] + x[t - 1]|.

    Each frame's mean point is taken off first, as LMD does, so that the motion of the head and of the detector's box
    does not count. The second difference passes smooth speech and shows frames that do not fit their neighbors, like
    the acceleration error of human motion (Kanazawa et al. 2019, Kocabas et al. 2020); what it is taken of is our own
    choice.

    Args:
        points: (..., T, P, 2) points, pixels.

    Returns:
        (..., T - 2) pixels / frame^2 of every inner frame, NaN where one of its three frames has a NaN; (..., 0) for
        fewer than three frames.

    Raises:
        ValueError: They are no points of frames.
    """
    checks.tensor("points", points, ("...", "T", *checks.POINTS[1:]))
    if points.shape[-3] < 3:
        return points.new_zeros(*points.shape[:-3], 0)
    within = points - points.mean(-2, keepdim=True)  # (..., T, P, 2)
    before, here, after = within[..., :-2, :, :], within[..., 1:-1, :, :], within[..., 2:, :, :]
    acceleration: Tensor = torch.linalg.vector_norm(after - 2 * here + before, dim=-1)  # (..., T - 2, P)
    return acceleration.mean(-1)


class Jitter(ObservationMetric):
    """Mean jitter of the 20 lip points over that of the reference, mean over clips; 1 for a copy.

    Above 1 the mouth trembles, below 1 it is smoother than speech is. The predictor's own noise stands in both terms,
    so that the true ratio lies further from 1: rounding a smooth mouth to whole pixels, as dlib does, alone makes near
    0.8 px / frame^2 where the mouth itself has 0.06, and two real GRID clips show 0.6 at the video's own size. A
    ratio of two videos of one frame rate does not depend on that rate.
    """

    name = "jitter"
    unit = ""
    higher_is_better = None
    perfect = 1.0
    undefined = "the reference's lips do not move, or no three frames in a row have landmarks in both videos"
    observes = "landmarks"
    columns = (Column("jitter", "landmarks", 50, default=False),)

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, 68, 2) landmarks in canonical pixels; every clip counts the same."""
        own, true = (jitter(points[..., MOUTH, :].double()) for points in (pred, target))  # (B, T - 2)
        inside = torch.arange(2, own.shape[1] + 2, device=own.device) < spans.length.to(own.device)[:, None]
        both = inside & own.isfinite() & true.isfinite()
        own, true = (values.masked_fill(~both, 0).sum(1) / both.sum(1) for values in (own, true))
        value = torch.where(true > _STILL, own / true, torch.nan)  # NaN where no frame is left
        return value, torch.ones_like(value)
