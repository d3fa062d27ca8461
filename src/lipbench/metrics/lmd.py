"""LMD: landmark distance of the mouth, in pixels of the 256 face or in distances between the eyes."""

from typing import Final, Literal

import torch
from torch import Tensor

from lipbench.media import geometry
from lipbench.scoring import checks
from lipbench.scoring.base import Column, ObservationMetric, Spans

MOUTH: Final = slice(48, 68)
"""The 20 lip points of the 68 (iBUG order)."""
EYES: Final = (36, 45)
"""The outer corners of the eyes (iBUG order)."""
_CROP: Final = 64  # px of the correlation GAN's mouths
LEAST: Final = 0.95
"""Share of a clip's frames that must have points: below it the clip is undefined (own choice)."""


def lmd(pred: Tensor, target: Tensor, aligned: bool = True) -> Tensor:
    """Mean distance between the lip points of two faces.

    Chen et al. 2018 (ECCV) align the centers of the 20 lip points of both frames and take the mean over points of the
    Euclidean distance. Their later script (ATVGnet) takes the sum over the points instead, which is 20 times as much.

    Args:
        pred: (..., P, 2) points, pixels.
        target: Same shape, or one that broadcasts.
        aligned: Subtract each frame's mean point first.

    Returns:
        (...) pixels, NaN where a point is NaN.

    Raises:
        ValueError: They are no points, or differ in number.
    """
    for what, given in (("pred", pred), ("target", target)):
        checks.tensor(what, given, checks.POINTS)
    if pred.shape[-2] != target.shape[-2]:
        raise ValueError(f"pred has {pred.shape[-2]} points a frame and target {target.shape[-2]}; expected as many")
    if aligned:
        pred = pred - pred.mean(-2, keepdim=True)
        target = target - target.mean(-2, keepdim=True)
    distance: Tensor = torch.linalg.vector_norm(pred - target, dim=-1)  # (..., P)
    return distance.mean(-1)


def interocular(points: Tensor) -> Tensor:
    """Distance between the outer corners of the eyes, by which the 300-W challenge normalizes (Sagonas et al. 2013).

    Args:
        points: (..., 68, 2) landmarks (iBUG order), pixels.

    Returns:
        (...) pixels.

    Raises:
        ValueError: They are no landmarks.
    """
    checks.tensor("points", points, checks.LANDMARKS)
    left, right = EYES
    distance: Tensor = torch.linalg.vector_norm(points[..., left, :] - points[..., right, :], dim=-1)
    return distance


def _inside(frames: Tensor, length: Tensor) -> Tensor:
    """(B, T) which frames are valid."""
    return torch.arange(frames.shape[1], device=frames.device) < length.to(frames.device)[:, None]


def _over_found(distance: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of (B, T) over the frames with points, NaN for clips with too few; and the number of those frames."""
    found = _inside(distance, length) & distance.isfinite()  # (B, T)
    count = found.sum(1)
    value = distance.masked_fill(~found, 0).sum(1) / count
    return value.masked_fill(count < LEAST * length.to(count.device), torch.nan), count


class LMD(ObservationMetric):
    """Mean landmark distance over frames, in px of the 256 face; 0 for a copy.

    Both videos are looked at in the reference's box, so that the detector adds no jitter. What remains is the
    predictor's own noise: near 0.46 px for the reference itself at half resolution with dlib, so differences under
    about 0.1 px mean nothing. Frames without points are left out; a clip with points on fewer than 95 % of its frames
    is undefined.

    Args:
        variant: "mean" over 20 points aligned by their mean (the default), the same without alignment ("raw"), the sum
            over the aligned points ("sum", as the scripts of ATVGnet and of the correlation GAN), or the mean in px of
            a mouth of 64x64 px ("crop64"), in which the correlation GAN's paper counts: its square of the mouth, the
            view mouth_square, is 84 canonical px wide, so that it is 64/84 of the default.
    """

    name = "lmd"
    unit = "px"
    higher_is_better = False
    perfect = 0.0
    undefined = "fewer than 95 % of its frames have landmarks"
    observes = "landmarks"
    columns = (
        Column("lmd", "landmarks", 10),
        Column("lmd[raw]", "legacy", 90, default=False, options={"variant": "raw"}),
        Column("lmd[sum]", "legacy", 100, default=False, options={"variant": "sum"}),
        Column("lmd[crop64]", "legacy", 110, default=False, options={"variant": "crop64"}),
    )

    def __init__(self, variant: Literal["mean", "raw", "sum", "crop64"] = "mean") -> None:
        super().__init__()
        self.variant = variant

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, 68, 2) landmarks in canonical pixels."""
        distance = lmd(pred[..., MOUTH, :], target[..., MOUTH, :], aligned=self.variant != "raw")  # (B, T)
        if self.variant == "sum":
            distance = distance * (MOUTH.stop - MOUTH.start)
        if self.variant == "crop64":
            _, left, _, right = geometry.box("mouth_square")
            distance = distance * (_CROP / (right - left))
        return _over_found(distance, spans.length)


class GuideLMD(ObservationMetric):
    """LMD of lips on a guide face, in px of the 256 face: how DualLip (section 4.2) measures its lip generation model.

    What was made is pasted into the reference's first frame, the guide of inference (section 4.3.2), for all frames
    (section 3.4.1, before the masked ground-truth face is added); the points found there are compared with those of the
    real video. `LMD` pastes into the reference's own frames instead.

    A predictor fits the lips together with the face around them, so that a head that turns or a jaw that opens in the
    real video alone adds a distance: the true lips on the guide face have no 0, but a floor, which stands in the row
    `ground-truth` (about 0.5 px on GRID, near the noise of dlib). Whether centers are aligned, and whether more points
    than those of the lips count, the paper leaves open: as in `LMD` (own choice), with the same box for the predictor.
    """

    name = "lmd"
    unit = "px"
    higher_is_better = False
    perfect = None
    undefined = LMD.undefined
    observes = "guide_landmarks"
    observes_target = "landmarks"
    partial_view = True
    columns = (Column("lmd[guide]", "legacy", 115, default=False),)

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, 68, 2) landmarks in canonical pixels."""
        return _over_found(lmd(pred[..., MOUTH, :], target[..., MOUTH, :]), spans.length)


class NormalizedLMD(ObservationMetric):
    """LMD over the distance between the eyes of the reference's frame: free of the picture's size; 0 for a copy.

    On the canonical picture the eyes are always about as far apart, so that it ranks as LMD does; it is there for
    numbers that were taken on faces of another size.
    """

    name = "lmd_iod"
    unit = ""
    higher_is_better = False
    perfect = 0.0
    undefined = LMD.undefined
    observes = "landmarks"
    columns = (Column("lmd_iod", "landmarks", 60, default=False),)

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, 68, 2) landmarks in pixels of any size."""
        return _over_found(lmd(pred[..., MOUTH, :], target[..., MOUTH, :]) / interocular(target), spans.length)


class LandmarkCoverage(ObservationMetric):
    """Share of all frames whose lips have landmarks in both videos; 1 for a copy of a face that is always found.

    Published scripts drop the other frames without a word. Below 0.95 a clip has no LMD.
    """

    name = "lmd_coverage"
    unit = ""
    higher_is_better = True
    perfect = 1.0
    undefined = "it has no frames"
    observes = "landmarks"
    columns = (Column("lmd_coverage", "landmarks", 70, default=False),)

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, 68, 2) landmarks, NaN on frames without."""
        found = lmd(pred[..., MOUTH, :], target[..., MOUTH, :]).isfinite()  # (B, T)
        inside = _inside(found, spans.length)
        return (found & inside).sum(1) / inside.sum(1), inside.sum(1)
