"""SSIM: structural similarity of frames (Wang et al. 2004), by scikit-image's Gaussian convention."""

import torch
from torch import Tensor

from lipbench.metrics._base import ClipMetric, over_frames, same_shape

_RADIUS = 5
_SIGMA = 1.5
_TOGETHER = 1 << 19  # numbers of a video: four maps of as many stay in a processor's cache, which halves the time


def _blur(size: int, like: Tensor) -> Tensor:
    """Matrix (size, size - 10) whose product is a valid convolution with the Gaussian window.

    Two small matrix products are several times faster on a CPU than a convolution with one channel.
    """
    steps = torch.arange(-_RADIUS, _RADIUS + 1, dtype=like.dtype, device=like.device)
    kernel = torch.exp(-0.5 * (steps / _SIGMA) ** 2)
    kernel /= kernel.sum()
    out = size - 2 * _RADIUS
    matrix = like.new_zeros(size, out)
    columns = torch.arange(out, device=like.device)
    for k in range(2 * _RADIUS + 1):
        matrix[columns + k, columns] = kernel[k]
    return matrix


def ssim(pred: Tensor, target: Tensor) -> Tensor:
    """SSIM of single frames: Gaussian window of 11x11 px and sigma 1.5, population covariance, every colour alone.

    Equal to `skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=1, channel_axis=...)`, which leaves out a border of 5 px; torchmetrics pads instead and differs by 0.003
    to 0.008. C1 = 0.01**2, C2 = 0.03**2.

    Args:
        pred: (..., 3, h, w) float in [0, 1], at least 11 px high and wide; computed in its precision.
        target: Same shape.

    Returns:
        (...) in [-1, 1], NaN where a pixel is NaN.

    Raises:
        ValueError: The shapes differ or the pictures are smaller than the window.
    """
    same_shape(pred, target)
    height, width = pred.shape[-2:]
    if min(height, width) < 2 * _RADIUS + 1:
        raise ValueError(f"SSIM needs pictures of at least 11x11 px, got {height}x{width}")
    rows, columns = _blur(height, pred).T, _blur(width, pred)
    # Variances do not change with a shift: centred pixels lose fewer digits in E[x^2] - E[x]^2.
    x, y = pred - 0.5, target - 0.5
    # Only the sum of the two variances is needed: four maps, each (..., 3, h - 10, w - 10).
    mx, my, squares, product = (rows @ (m @ columns) for m in (x, y, x * x + y * y, x * y))
    variances = squares - mx * mx - my * my
    covariance = product - mx * my
    mx, my = mx + 0.5, my + 0.5
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx * mx + my * my + c1) * (variances + c2))
    return value.mean((-3, -2, -1))


class SSIM(ClipMetric):
    """Mean SSIM over frames; 1 for a copy."""

    name = "ssim"
    unit = ""
    higher_is_better = True
    perfect = 1.0
    undefined = "a frame holds NaN"

    def score(self, pred: Tensor, target: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Score (B, T, 3, h, w) float pictures in [0, 1]."""
        same_shape(pred, target)
        frames = max(1, _TOGETHER // pred[0, 0].numel())
        pieces = zip(*(torch.split(side.flatten(0, 1), frames) for side in (pred, target)), strict=True)
        values = torch.cat([ssim(p, t) for p, t in pieces]).view(pred.shape[:2])  # (B, T)
        return over_frames(values, length)
