"""LMD: landmark distance of the mouth, in pixels of the 256 face."""

from typing import Final, Literal

import torch
from torch import Tensor

from lipbench.metrics._base import ClipMetric

MOUTH: Final = slice(48, 68)
"""The 20 lip points of the 68 (iBUG order)."""
_LEAST = 0.95  # share of a clip's frames that must have points: below it the clip is undefined (own choice)


def lmd(pred: Tensor, target: Tensor, aligned: bool = True) -> Tensor:
    """Mean distance between the lip points of two faces.

    Chen et al. 2018 (ECCV) align the centres of the 20 lip points of both frames and take the mean over points of the
    Euclidean distance. Their later script (ATVGnet) takes the sum over the points instead, which is 20 times as much.

    Args:
        pred: (..., P, 2) points, pixels.
        target: Same shape.
        aligned: Subtract each frame's mean point first.

    Returns:
        (...) pixels, NaN where a point is NaN.
    """
    if aligned:
        pred = pred - pred.mean(-2, keepdim=True)
        target = target - target.mean(-2, keepdim=True)
    distance: Tensor = torch.linalg.vector_norm(pred - target, dim=-1)  # (..., P)
    return distance.mean(-1)


class LMD(ClipMetric):
    """Mean landmark distance over frames, in px of the 256 face; 0 for a copy.

    Both videos are looked at in the reference's box, so that the detector adds no jitter. What remains is the
    predictor's own noise: near 0.46 px for the reference itself at half resolution with dlib, so differences under
    about 0.1 px mean nothing. Frames without points are left out; a clip with points on fewer than 95 % of its frames
    is undefined.

    Args:
        variant: "mean" over 20 points aligned by their mean (the default), the same without alignment ("raw"), or the
            sum over the aligned points ("sum", as ATVGnet's script).
    """

    name = "lmd"
    unit = "px"
    higher_is_better = False
    perfect = 0.0
    undefined = "fewer than 95 % of its frames have landmarks"
    observes = "landmarks"

    def __init__(self, variant: Literal["mean", "raw", "sum"] = "mean") -> None:
        super().__init__()
        self.variant = variant

    def score(self, pred: Tensor, target: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Score (B, T, 68, 2) landmarks in canonical pixels."""
        distance = lmd(pred[..., MOUTH, :], target[..., MOUTH, :], aligned=self.variant != "raw")  # (B, T)
        if self.variant == "sum":
            distance = distance * (MOUTH.stop - MOUTH.start)
        inside = torch.arange(distance.shape[1], device=distance.device) < length.to(distance.device)[:, None]
        found = inside & distance.isfinite()  # (B, T)
        count = found.sum(1)
        value = distance.masked_fill(~found, 0).sum(1) / count
        return value.masked_fill(count < _LEAST * length.to(count.device), torch.nan), count
