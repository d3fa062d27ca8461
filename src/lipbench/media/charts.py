"""Line charts and bar charts as images: curves over frames, and counts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Color = tuple[int, int, int]
"""RGB levels, 0 to 255."""
BLUE: Final[Color] = (32, 96, 192)
ORANGE: Final[Color] = (224, 112, 16)
_BLACK: Final[Color] = (32, 32, 32)
_GRAY: Final[Color] = (216, 216, 216)
_FINE: Final = 2  # drawn larger by this factor and then reduced, so that lines are smooth
_FONT: Final = 12  # px
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 16, 44, 38  # px around the axes
_TICKS: Final = 6  # at most, for each axis


@dataclass(frozen=True)
class Line:
    """A curve of a line chart.

    Args:
        label: What it shows, for the legend.
        x: Places.
        y: Values, as many.
        color: Of the line and its label.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: Color = BLUE


def line_chart(
    curves: Sequence[Line], title: str, x_label: str, y_label: str, size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """Draw curves over one pair of axes.

    Args:
        curves: One or more; several have a legend.
        title: Above the axes.
        x_label: Below them, with the unit.
        y_label: Above the vertical axis, with the unit.
        size: (height, width) px.

    Returns:
        (height, width, 3) RGB.
    """
    x = np.concatenate([np.asarray(curve.x, np.float64) for curve in curves])
    y = np.concatenate([np.asarray(curve.y, np.float64) for curve in curves])
    margin = 0.08 * float(np.ptp(y)) or 1.0
    chart = _Chart(size, (float(x.min()), float(x.max())), (float(y.min()) - margin, float(y.max()) + margin))
    chart.label(title, x_label, y_label)
    for place in _steps(*chart.x_range):
        chart.x_tick(place, f"{place:g}")
    right = size[1] - _RIGHT
    for curve in curves:
        chart.draw.line([chart.at(*point) for point in zip(curve.x, curve.y, strict=True)], curve.color, 2 * _FINE)
    for curve in reversed(curves[: len(curves) * (len(curves) > 1)]):
        right -= chart.text(right, _TOP - 10, curve.label, "rm", curve.color) + 16
    return chart.pixels()


def bar_chart(
    counts: Sequence[int], labels: Sequence[str], title: str, x_label: str, y_label: str, size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """Draw counts as bars, each with its number above it.

    Args:
        counts: Of each bar, 0 or more.
        labels: Of each bar.
        title: Above the axes.
        x_label: Below them, with the unit.
        y_label: Above the vertical axis, with the unit.
        size: (height, width) px.

    Returns:
        (height, width, 3) RGB.
    """
    chart = _Chart(size, (-0.6, len(counts) - 0.4), (0.0, 1.1 * max(*counts, 1)))
    chart.label(title, x_label, y_label)
    for place, (count, label) in enumerate(zip(counts, labels, strict=True)):
        chart.x_tick(place, label)
        (left, upper), (right, lower) = chart.at(place - 0.4, count), chart.at(place + 0.4, 0)
        if count:
            chart.draw.rectangle((left, upper, right, lower), BLUE)
        chart.text((left + right) / 2 / _FINE, upper / _FINE - 8, str(count), "mm")
    return chart.pixels()


def _steps(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, evenly spaced."""
    rough = (high - low) / _TICKS
    if rough <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


class _Chart:
    """White canvas with axes.

    Args:
        size: (height, width) px.
        x_range: Values at the left and the right end of the axes.
        y_range: Values at their lower and upper end.
    """

    def __init__(self, size: tuple[int, int], x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        from PIL import Image, ImageDraw, ImageFont

        self.x_range, self._y_range = x_range, y_range
        self._height, self._width = size
        self._image = Image.new("RGB", (self._width * _FINE, self._height * _FINE), (255, 255, 255))
        self._font = ImageFont.load_default(_FONT * _FINE)
        self.draw = ImageDraw.Draw(self._image)
        for value in _steps(*y_range):
            self.draw.line([self.at(x_range[0], value), self.at(x_range[1], value)], _GRAY, _FINE)
            self.text(_LEFT - 6, self.at(x_range[0], value)[1] / _FINE, f"{value:g}", "rm")
        corners = [self.at(x_range[0], y_range[1]), self.at(x_range[0], y_range[0]), self.at(x_range[1], y_range[0])]
        self.draw.line(corners, _BLACK, _FINE)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Place of a pair of values on the enlarged canvas."""
        (left, right), (low, high) = self.x_range, self._y_range
        across = (x - left) / ((right - left) or 1.0)
        up = (y - low) / (high - low)
        px = _LEFT + across * (self._width - _LEFT - _RIGHT)
        py = self._height - _BOTTOM - up * (self._height - _TOP - _BOTTOM)
        return px * _FINE, py * _FINE

    def text(self, x: float, y: float, words: str, anchor: str, color: Color = _BLACK) -> int:
        """Write at a place of the final image; returns the width in px."""
        self.draw.text((x * _FINE, y * _FINE), words, color, self._font, anchor=anchor)
        return math.ceil(self.draw.textlength(words, self._font) / _FINE)

    def label(self, title: str, x_label: str, y_label: str) -> None:
        """Write what the chart and its axes show."""
        self.text(_LEFT, 14, title, "lm")
        self.text(self._width / 2, self._height - 10, x_label, "mm")
        self.text(_LEFT, _TOP - 10, y_label, "lm")

    def x_tick(self, x: float, words: str) -> None:
        """Mark a place on the horizontal axis."""
        px, py = self.at(x, self._y_range[0])
        self.draw.line([(px, py), (px, py + 4 * _FINE)], _BLACK, _FINE)
        self.text(px / _FINE, py / _FINE + 12, words, "mm")

    def pixels(self) -> npt.NDArray[np.uint8]:
        """(height, width, 3) RGB."""
        return np.asarray(self._image.reduce(_FINE))
