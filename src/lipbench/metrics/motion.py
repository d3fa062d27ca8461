"""Motion that should not be there: in silence, outside the lips, on one side of the mouth.

A course report that trains and examines LipGAN (Kumar, Murphy and Vazirabad, CS766, 2021) lists three faults that its
authors saw and that picture, landmark and synchrony scores do not show: lips go on moving in pauses of the sound;
chin and cheeks move by themselves; one side of the mouth moves more than is natural, above all in profile. The faults
are the report's; how they are measured here is our own choice. Each is measured on both videos, because real lips
breathe, chins follow the lips and few mouths are symmetric: a score says how far the generated video goes beyond the
reference.
"""

from functools import cache
from typing import Final

import torch
from torch import Tensor

from lipbench.media import geometry
from lipbench.metrics.lmd import MOUTH
from lipbench.scoring import checks
from lipbench.scoring.base import Column, ObservationMetric, Spans
from lipbench.scoring.observers import LOWER_FACE

_LEFT: Final = (48, 49, 50, 58, 59, 60, 61, 67)
"""Lip points on the left of the picture (iBUG order)."""
_RIGHT: Final = (54, 53, 52, 56, 55, 64, 63, 65)
"""Their mirror images."""
_STILL: Final = 1e-6  # px: below it nothing moves


def lip_speed(points: Tensor) -> Tensor:
    """Speed of the lips within the face: mean over points of |x[t + 1] - x[t]|, each frame's mean point taken off.

    Args:
        points: (..., T, P, 2) points, pixels.

    Returns:
        (..., T - 1) pixels / frame, NaN where one of the two frames has a NaN.

    Raises:
        ValueError: They are no points of frames.
    """
    checks.tensor("points", points, ("...", "T", *checks.POINTS[1:]))
    within = points - points.mean(-2, keepdim=True)  # (..., T, P, 2)
    distance: Tensor = torch.linalg.vector_norm(within[..., 1:, :, :] - within[..., :-1, :, :], dim=-1)
    return distance.mean(-1)


def one_sidedness(points: Tensor) -> Tensor:
    """How much more the lips move on the left of the picture than on the right.

    The motion of a side is the standard deviation over time of its 8 lip points, about each point's own mean. Nothing
    is taken off a frame, since the mean of all lip points would carry half of one side's motion to the other; the
    canonical picture follows the eyes and the nose already.

    Args:
        points: (T, 68, 2) landmarks (iBUG order), pixels.

    Returns:
        Scalar in [-1, 1]: (left - right) / (left + right); NaN for fewer than 2 frames or lips that do not move.

    Raises:
        ValueError: They are no landmarks.
    """
    checks.tensor("points", points, ("T", *checks.LANDMARKS[1:]))
    if len(points) < 2:
        return points.new_tensor(torch.nan)
    about = points - points.mean(0)  # (T, 68, 2)
    left, right = (about[:, list(side)].square().sum(-1).mean().sqrt() for side in (_LEFT, _RIGHT))
    return torch.where(left + right > _STILL, (left - right) / (left + right), torch.nan)


@cache
def outside_lips() -> Tensor:
    """Pixels of `LOWER_FACE` that no pixel of the view `mouth_square` has a share in: cheeks, chin and what is beside.

    Returns:
        (16, 32) bool.
    """
    free = torch.ones(1, geometry.HEIGHT, geometry.WIDTH)
    top, left, bottom, right = geometry.box("mouth_square")
    free[:, top:bottom, left:right] = 0
    return geometry.crop(free, LOWER_FACE)[0] > 1 - 1e-6


class MotionInSilence(ObservationMetric):
    """Speed of the lips outside speech less the reference's there, mean over all such steps; 0 for a copy.

    Above 0 the lips go on moving when nothing is said, below 0 they rest more than real ones do: a frozen frame has
    minus the reference's own motion, in which the landmarks' noise stands too. A ratio over lips that hardly move would
    be unstable, hence the difference. Outside speech means before the first or after the last word; pauses between
    words are too short to rest in. The lips open ahead of the first sound and close after the last one: both videos
    should.
    """

    name = "motion_silence"
    unit = "px/frame"
    higher_is_better = None
    perfect = 0.0
    undefined = "no two frames in a row lie outside speech and have landmarks in both videos"
    observes = "landmarks"
    columns = (Column("motion_silence", "motion", 10, default=False),)

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, 68, 2) landmarks."""
        own, true = (lip_speed(points[..., MOUTH, :].double()) for points in (pred, target))  # (B, T - 1)
        frame = torch.arange(target.shape[1], device=own.device)
        first, last = spans.speech.to(own.device).unbind(1)
        silent = (frame < first[:, None]) | (frame >= last[:, None])  # (B, T)
        silent &= frame < spans.length.to(own.device)[:, None]
        step = silent[:, 1:] & silent[:, :-1] & own.isfinite() & true.isfinite()  # (B, T - 1)
        count = step.sum(1)
        return (own - true).masked_fill(~step, 0).sum(1) / count, count  # 0 / 0 is NaN


class MotionOutsideLips(ObservationMetric):
    """How much more the lower face moves outside the lips than the reference's does, grey levels of 255 a frame.

    On small grey pictures of the lower face, a pixel's motion is its mean absolute change from frame to frame. What it
    exceeds the reference's by is averaged over the pixels that lie outside the lips; where it is less, 0 is taken, so
    that a cheek which trembles is not made up for by a chin that stands still. A copy has 0, and so has a frozen
    frame. What a model does not draw is the reference's, so that models of small views have less to lose.
    """

    name = "motion_outside"
    unit = "levels/frame"
    higher_is_better = False
    perfect = 0.0
    undefined = "no two frames in a row are whole"
    observes = "lower_face"
    columns = (Column("motion_outside", "motion", 20, default=False),)

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, 16, 32) grey pictures in [0, 1], NaN in broken frames; every clip counts the same."""
        mask = outside_lips().to(pred.device)
        own, true = (pictures[..., mask].double().diff(dim=1).abs() for pictures in (pred, target))  # (B, T - 1, N)
        inside = torch.arange(1, own.shape[1] + 1, device=own.device) < spans.length.to(own.device)[:, None]
        step = inside & own.isfinite().all(-1) & true.isfinite().all(-1)  # (B, T - 1)
        more = (own - true).masked_fill(~step[..., None], 0).sum(1) / step.sum(1)[:, None]  # (B, N)
        value = 255 * more.clamp(min=0).mean(1)
        return value, torch.ones_like(value)


class OneSidedMotion(ObservationMetric):
    """Distance of the lips' one-sidedness from the reference's, 0 to 2; 0 for a copy.

    0.1 is a left side that moves by 22 % more than the right one where the reference's sides move alike. Free of how
    far the mouth opens in all. Lips that hardly move show the landmarks' noise instead, which is about as strong on
    both sides.
    """

    name = "motion_one_sided"
    unit = ""
    higher_is_better = False
    perfect = 0.0
    undefined = "the lips do not move, or fewer than 2 frames have landmarks in both videos"
    observes = "landmarks"
    columns = (Column("motion_one_sided", "motion", 30, default=False),)

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, 68, 2) landmarks; every clip counts the same."""
        values = []
        for own, true, frames in zip(pred.double(), target.double(), spans.length.tolist(), strict=True):
            both = (own.isfinite() & true.isfinite()).flatten(1).all(1)  # (T,)
            both[frames:] = False
            values.append((one_sidedness(own[both]) - one_sidedness(true[both])).abs())
        value = torch.stack(values)
        return value, torch.ones_like(value)
