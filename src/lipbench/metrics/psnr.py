"""PSNR: peak signal-to-noise ratio of frames, in dB."""

from typing import ClassVar, Final

import torch
from torch import Tensor

from lipbench.scoring import checks
from lipbench.scoring.base import Column, FramesMetric, Spans, by_frames, over_frames

CAP: Final = 100.0
"""Score of identical frames in dB, and the most that any frame gets; published scripts give them 100 too."""


def psnr(pred: Tensor, target: Tensor) -> Tensor:
    """PSNR of single frames over all pixels and colors: 10 log10(1 / mean squared error), at most `CAP`.

    Average it over frames, as all published code does; PSNR of the error pooled over frames is another number (in the
    test case of five frames 22.5 dB where the mean is 28.8).

    Args:
        pred: (..., 3, h, w) float in [0, 1].
        target: Same shape.

    Returns:
        (...) dB, NaN where a pixel is NaN.

    Raises:
        ValueError: They are no pictures of one shape in [0, 1].
    """
    checks.pictures(pred, target)
    error = (pred - target).square().mean((-3, -2, -1))
    return (-10 * error.log10()).clamp(max=CAP)


def grey_levels(pictures: Tensor) -> Tensor:
    """Luma of pictures by ITU-R 601, rounded as OpenCV's `COLOR_RGB2GRAY` rounds 8-bit pixels.

    Args:
        pictures: (..., 3, h, w) float in [0, 1]; rounded to 8 bits first.

    Returns:
        (..., h, w) int32 in 0..255; values that are not finite become some level.

    Raises:
        ValueError: They are no such pictures.
    """
    checks.pictures_in_range("pictures", pictures)
    red, green, blue = _levels(pictures).unbind(-3)
    return (9798 * red + 19235 * green + 3735 * blue + 16384) >> 15


def _levels(pictures: Tensor) -> Tensor:
    """Pixels as int32 in 0..255."""
    return (pictures * 255).round().clamp(0, 255).to(torch.int32)


def psnr_uint8_wrap(pred: Tensor, target: Tensor, grey: bool = False) -> Tensor:
    """PSNR as released evaluation scripts of ATVGnet and TalkLip compute it: wrong, and kept only to read old tables.

    They subtract and square 8-bit integers, which wrap around at 256: the score has a floor near 27.9 dB however bad a
    frame is, and a constant difference of 16 levels scores 100 dB.

    Args:
        pred: (..., 3, h, w) float in [0, 1]; rounded to 8 bits first.
        target: Same shape.
        grey: Of grey pictures (`grey_levels`), as the script released with the correlation GAN (Chen et al. 2018, ECCV)
            has it. All colors together are TalkLip's way.

    Returns:
        (...) dB; NaN where a pixel is not finite.

    Raises:
        ValueError: They are no pictures of one shape in [0, 1].
    """
    checks.pictures(pred, target)
    broken = ~(pred + target).flatten(-3).sum(-1).isfinite()
    a, b = (grey_levels(x) if grey else _levels(x).flatten(-3, -2) for x in (pred, target))  # (..., rows, w)
    error = ((a - b).square() % 256).to(torch.float64).mean((-2, -1)) / 255**2
    return (-10 * error.log10()).clamp(max=CAP).masked_fill(broken, torch.nan)


class PSNR(FramesMetric):
    """Mean PSNR over frames, in dB; 100 for a copy.

    A frame that equals the reference exactly counts as 100 dB, as in published scripts. The frozen first frame copies
    one frame, so that over 75 frames its mean is about 1 dB higher than on the frames that it has to guess.

    Args:
        wrap: Compute `psnr_uint8_wrap` instead.
    """

    name = "psnr"
    unit = "dB"
    higher_is_better = True
    perfect = CAP
    undefined = "a frame holds NaN"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("mouth/psnr", "quality", 10, region="mouth"),
        Column("native/psnr", "quality", 40, region="native"),
        Column("mouth/psnr[uint8-wrap]", "legacy", 50, default=False, region="mouth", options={"wrap": True}),
        Column("native/psnr[uint8-wrap]", "legacy", 60, default=False, region="native", options={"wrap": True}),
    )

    def __init__(self, wrap: bool = False) -> None:
        super().__init__()
        self.wrap = wrap

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, 3, h, w) float pictures in [0, 1]."""
        return over_frames(by_frames(self._compare, pred, target), spans.length)

    def _compare(self, pred: Tensor, target: Tensor) -> Tensor:
        return psnr_uint8_wrap(pred, target) if self.wrap else psnr(pred, target)


class GreyWrapPSNR(PSNR):
    """PSNR by the script released with the correlation GAN: `psnr_uint8_wrap` of grey pictures, 64x64 px there."""

    columns = (Column("native/psnr[grey-wrap]", "legacy", 70, default=False, region="native"),)

    def _compare(self, pred: Tensor, target: Tensor) -> Tensor:
        return psnr_uint8_wrap(pred, target, grey=True)
