"""SSIM: structural similarity of frames (Wang et al. 2004), by scikit-image's Gaussian convention or its default."""

from functools import cache
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from lipbench.metrics.psnr import grey_levels
from lipbench.scoring import checks
from lipbench.scoring.base import Column, FramesMetric, Spans, by_frames, over_frames

_RADIUS: Final = 5
_SIGMA: Final = 1.5
_SIDE: Final = 2 * _RADIUS + 1
_UNIFORM: Final = 7
"""Side of the uniform window that scikit-image takes unless told otherwise."""
_C1, _C2 = 0.01**2, 0.03**2


@cache
def _kernel() -> npt.NDArray[np.float64]:
    """(11,) weights of the Gaussian window along a dimension; they sum to 1."""
    kernel = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    return np.asarray(kernel / kernel.sum(), np.float64)


def _banded(size: int, like: Tensor) -> Tensor:
    """Matrix (size, size - 10) whose product is a valid convolution with the Gaussian window."""
    out = size - 2 * _RADIUS
    matrix = like.new_zeros(size, out)
    columns = torch.arange(out, device=like.device)
    for k, weight in enumerate(_kernel().tolist()):
        matrix[columns + k, columns] = weight
    return matrix


def _blur(planes: Tensor) -> Tensor:
    """Mean of planes under the Gaussian window wherever it lies inside.

    OpenCV's separable filter takes a fifth of the time of anything that PyTorch has for it on a processor, and differs
    from it by rounding (1e-7). Elsewhere, two products with banded matrices are a valid convolution too.

    Args:
        planes: (..., h, w) floating point.

    Returns:
        (..., h - 10, w - 10).
    """
    height, width = planes.shape[-2:]
    double_or_single = planes.dtype in (torch.float32, torch.float64)
    if planes.device.type != "cpu" or planes.requires_grad or not double_or_single or not planes.numel():
        product: Tensor = _banded(height, planes).T @ (planes @ _banded(width, planes))
        return product
    import cv2

    # All planes one below the other: what the window mixes of two neighbors lies in the rows that are left out.
    tall = planes.reshape(-1, width).numpy()
    mixed = cv2.sepFilter2D(tall, -1, _kernel(), _kernel(), borderType=cv2.BORDER_CONSTANT)
    return torch.from_numpy(mixed).view(planes.shape)[..., _RADIUS:-_RADIUS, _RADIUS:-_RADIUS]


def ssim(pred: Tensor, target: Tensor) -> Tensor:
    """SSIM of single frames: Gaussian window of 11x11 px and sigma 1.5, population covariance, every color alone.

    Equal to `skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=1, channel_axis=...)`, which leaves out a border of 5 px; torchmetrics pads instead and differs by 0.003
    to 0.008. C1 = 0.01**2, C2 = 0.03**2.

    Args:
        pred: (..., 3, h, w) float in [0, 1], at least 11 px high and wide; computed in its precision.
        target: Same shape.

    Returns:
        (...) in [-1, 1], NaN where a pixel is NaN.

    Raises:
        ValueError: They are no pictures of one shape in [0, 1], or smaller than the window.
    """
    checks.pictures(pred, target, _SIDE)
    # Variances do not change with a shift: centerd pixels lose fewer digits in E[x^2] - E[x]^2.
    x, y = pred - 0.5, target - 0.5
    # Only the sum of the two variances is needed: four maps, each (..., 3, h - 10, w - 10).
    mx, my, squares, product = (_blur(m) for m in (x, y, x * x + y * y, x * y))
    variances = squares - mx * mx - my * my
    covariance = product - mx * my
    mx, my = mx + 0.5, my + 0.5
    value = (2 * mx * my + _C1) * (2 * covariance + _C2) / ((mx * mx + my * my + _C1) * (variances + _C2))
    return value.mean((-3, -2, -1))


def ssim_grey(pred: Tensor, target: Tensor) -> Tensor:
    """SSIM of grey 8-bit frames by scikit-image's defaults: uniform window of 7x7 px, sample covariance, range 255.

    So the script released with the correlation GAN has it (Chen et al. 2018, ECCV; `test.py` of 3d_gan, commit
    09ce42e), on pictures of 64x64 px. Equal to `skimage.metrics.structural_similarity` of two 8-bit pictures that
    OpenCV turned to grey.

    Args:
        pred: (..., 3, h, w) float in [0, 1], at least 7 px high and wide; rounded to 8 bits first.
        target: Same shape.

    Returns:
        (...) float64 in [-1, 1], NaN where a pixel is not finite.

    Raises:
        ValueError: They are no pictures of one shape in [0, 1], or smaller than the window.
    """
    checks.pictures(pred, target, _UNIFORM)
    height, width = pred.shape[-2:]
    x, y = (grey_levels(side).reshape(-1, 1, height, width).float() for side in (pred, target))  # (M, 1, h, w)
    count = _UNIFORM**2
    # Sums over a window are whole numbers below 2**24: exact in single precision.
    sx, sy, sxx, syy, sxy = (
        avg_pool2d(m, _UNIFORM, 1, divisor_override=1).double() for m in (x, y, x * x, y * y, x * y)
    )
    mx, my = sx / count, sy / count
    vx, vy, vxy = (
        (total - a * b / count) / (count - 1) for total, a, b in ((sxx, sx, sx), (syy, sy, sy), (sxy, sx, sy))
    )
    c1, c2 = _C1 * 255**2, _C2 * 255**2
    value = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    broken = ~(pred + target).flatten(-3).sum(-1).isfinite()
    return value.mean((1, 2, 3)).view(pred.shape[:-3]).masked_fill(broken, torch.nan)


class SSIM(FramesMetric):
    """Mean SSIM over frames; 1 for a copy."""

    name = "ssim"
    unit = ""
    higher_is_better = True
    perfect = 1.0
    undefined = "a frame holds NaN"
    least = _SIDE
    columns: ClassVar[tuple[Column, ...]] = (
        Column("mouth/ssim", "quality", 20, region="mouth"),
        Column("native/ssim", "quality", 50, region="native"),
    )

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, 3, h, w) float pictures in [0, 1]."""
        return over_frames(by_frames(ssim, pred, target), spans.length)


class GreySSIM(SSIM):
    """Mean `ssim_grey` over frames; 1 for a copy."""

    least = _UNIFORM
    columns = (Column("native/ssim[grey]", "legacy", 80, default=False, region="native"),)

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, 3, h, w) float pictures in [0, 1]."""
        return over_frames(by_frames(ssim_grey, pred, target), spans.length)
