"""Line, bar and scatter charts as images: curves over frames, counts, and points in a plane."""

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
_TOP: Final = 44  # px above the axes
_AROUND: Final = (_TOP, 16, 38, 48)  # px above, right of, below and left of them
_MARGIN: Final = 10  # px beside and below the frame of a scatter chart
_DOT: Final = 4.5  # px: radius of a point
_TICKS: Final = 6  # at most, for each axis
_LINE: Final = 16  # px: height of a line of the legend
_BETWEEN: Final = 16  # px between two labels of the legend


@dataclass(frozen=True)
class Series:
    """A curve of a line chart, or the points of one color in a scatter chart.

    Args:
        label: What it shows, for the legend.
        x: Places.
        y: Values, as many.
        color: Of the line or the points, and of the label.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: Color = BLUE


def line_chart(
    curves: Sequence[Series], title: str, x_label: str, y_label: str, size: tuple[int, int], *, log: bool = False
) -> npt.NDArray[np.uint8]:
    """Draw curves over one pair of axes.

    Args:
        curves: One or more; several have a legend.
        title: Above the axes.
        x_label: Below them, with the unit.
        y_label: Above the vertical axis, with the unit.
        size: (height, width) px.
        log: Whether the vertical axis is logarithmic; all values are then above 0.

    Returns:
        (height, width, 3) RGB.
    """
    x = np.concatenate([np.asarray(curve.x, np.float64) for curve in curves])
    y = np.concatenate([np.asarray(curve.y, np.float64) for curve in curves])
    y = np.log10(y) if log else y
    margin = 0.08 * float(np.ptp(y)) or 1.0
    ranges = (float(x.min()), float(x.max())), (float(y.min()) - margin, float(y.max()) + margin)
    more = len(_legend_lines(curves, size[1])) - 1 if len(curves) > 1 else 0
    chart = _Chart(size, *ranges, (_TOP + more * _LINE, *_AROUND[1:]), log=log)
    chart.axes()
    chart.label(title, x_label, y_label)
    for place in _steps(*chart.x_range):
        chart.x_tick(place, f"{place:g}")
    for curve in curves:
        chart.draw.line([chart.at(*point) for point in zip(curve.x, curve.y, strict=True)], curve.color, 2 * _FINE)
    if len(curves) > 1:
        chart.legend(curves)
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
    chart.axes()
    chart.label(title, x_label, y_label)
    for place, (count, label) in enumerate(zip(counts, labels, strict=True)):
        chart.x_tick(place, label)
        (left, upper), (right, lower) = chart.at(place - 0.4, count), chart.at(place + 0.4, 0)
        if count:
            chart.draw.rectangle((left, upper, right, lower), BLUE)
        chart.text((left + right) / 2 / _FINE, upper / _FINE - 8, str(count), "mm")
    return chart.pixels()


def scatter_chart(groups: Sequence[Series], title: str, note: str, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Draw points of a plane whose axes mean nothing but distance, such as that of t-SNE: both have the same scale.

    Args:
        groups: One or more, all in the legend. None covers another: points are drawn in an order that mixes them.
        title: Above the frame.
        note: Below the title, left of the legend.
        size: (height, width) px.

    Returns:
        (height, width, 3) RGB.
    """
    x = np.concatenate([np.asarray(group.x, np.float64) for group in groups])
    y = np.concatenate([np.asarray(group.y, np.float64) for group in groups])
    height, width = size[0] - _TOP - _MARGIN, size[1] - 2 * _MARGIN  # px of the frame
    unit = 1.1 * max(float(np.ptp(x)) / width, float(np.ptp(y)) / height) or 1.0  # of the plane, for a px
    ranges = [
        (float(axis.min() + axis.max() - unit * room) / 2, float(axis.min() + axis.max() + unit * room) / 2)
        for axis, room in ((x, width), (y, height))
    ]
    chart = _Chart(size, ranges[0], ranges[1], (_TOP, _MARGIN, _MARGIN, _MARGIN))
    chart.frame()
    chart.label(title, "", note)
    chart.legend(groups)
    points = [(*chart.at(*place), group.color) for group in groups for place in zip(group.x, group.y, strict=True)]
    for k in np.random.default_rng(0).permutation(len(points)):
        px, py, color = points[k]
        around = (px - _DOT * _FINE, py - _DOT * _FINE, px + _DOT * _FINE, py + _DOT * _FINE)
        chart.draw.ellipse(around, color, (255, 255, 255), 1)
    return chart.pixels()


def _legend_lines(series: Sequence[Series], width: int) -> list[list[Series]]:
    """The legend's labels line by line, each as full as a chart of so many px allows."""
    from PIL import ImageFont

    font = ImageFont.load_default(_FONT)
    lines: list[list[Series]] = [[]]
    left = room = 0.85 * width  # the name of the vertical axis is beside the last line
    for own in series:
        needed = font.getlength(own.label) + _BETWEEN
        if needed > left and lines[-1]:
            lines.append([])
            left = room
        lines[-1].append(own)
        left -= needed
    return lines


def _powers(low: float, high: float) -> list[float]:
    """Logarithms of round numbers between two logarithms: 1, 2 and 5 times powers of ten, or these powers alone."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [power + math.log10(factor) for power in powers for factor in ((1, 2, 5) if high - low < 3 else (1,))]
    return [value for value in found if low <= value <= high]


def _steps(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, evenly spaced."""
    rough = (high - low) / _TICKS
    if rough <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


class _Chart:
    """White canvas on which values have places.

    Args:
        size: (height, width) px.
        x_range: Values at the left and the right end of the axes.
        y_range: Values at their lower and upper end.
        around: px above, right of, below and left of the axes.
        log: Whether `y_range` holds logarithms to base 10 of values, all of which are given as they are.
    """

    def __init__(
        self,
        size: tuple[int, int],
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        around: tuple[int, int, int, int] = _AROUND,
        *,
        log: bool = False,
    ) -> None:
        from PIL import Image, ImageDraw, ImageFont

        self.x_range, self._y_range, self._log = x_range, y_range, log
        self._height, self._width = size
        self._top, self._right, self._bottom, self._left = around
        self._image = Image.new("RGB", (self._width * _FINE, self._height * _FINE), (255, 255, 255))
        self._font = ImageFont.load_default(_FONT * _FINE)
        self.draw = ImageDraw.Draw(self._image)

    def axes(self) -> None:
        """Draw both axes, and a line across with its value at each of the vertical one's steps."""
        (left, right), (low, high) = self.x_range, self._y_range
        steps = [10**power for power in _powers(low, high)] if self._log else _steps(low, high)
        for value in steps:
            self.draw.line([self.at(left, value), self.at(right, value)], _GRAY, _FINE)
            self.text(self._left - 6, self.at(left, value)[1] / _FINE, f"{value:.6g}", "rm")
        low, high = (10**low, 10**high) if self._log else (low, high)
        self.draw.line([self.at(left, high), self.at(left, low), self.at(right, low)], _BLACK, _FINE)

    def frame(self) -> None:
        """Draw a line around the place of the axes, in their stead."""
        (left, right), (low, high) = self.x_range, self._y_range
        self.draw.rectangle([*self.at(left, high), *self.at(right, low)], None, _GRAY, _FINE)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Place of a pair of values on the enlarged canvas."""
        (left, right), (low, high) = self.x_range, self._y_range
        across = (x - left) / ((right - left) or 1.0)
        up = ((math.log10(y) if self._log else y) - low) / (high - low)
        px = self._left + across * (self._width - self._left - self._right)
        py = self._height - self._bottom - up * (self._height - self._top - self._bottom)
        return px * _FINE, py * _FINE

    def text(self, x: float, y: float, words: str, anchor: str, color: Color = _BLACK) -> int:
        """Write at a place of the final image; returns the width in px."""
        self.draw.text((x * _FINE, y * _FINE), words, color, self._font, anchor=anchor)
        return math.ceil(self.draw.textlength(words, self._font) / _FINE)

    def label(self, title: str, x_label: str, y_label: str) -> None:
        """Write what the chart and its axes show."""
        self.text(self._left, 14, title, "lm")
        self.text(self._width / 2, self._height - 10, x_label, "mm")
        self.text(self._left, self._top - 10, y_label, "lm")

    def legend(self, series: Sequence[Series]) -> None:
        """Write the labels in their colors above the axes, on the right."""
        for line, labels in enumerate(reversed(_legend_lines(series, self._width))):
            right = self._width - self._right
            for own in reversed(labels):
                right -= self.text(right, self._top - 10 - line * _LINE, own.label, "rm", own.color) + _BETWEEN

    def x_tick(self, x: float, words: str) -> None:
        """Mark a place on the horizontal axis."""
        low = self._y_range[0]
        px, py = self.at(x, 10**low if self._log else low)
        self.draw.line([(px, py), (px, py + 4 * _FINE)], _BLACK, _FINE)
        self.text(px / _FINE, py / _FINE + 12, words, "mm")

    def pixels(self) -> npt.NDArray[np.uint8]:
        """(height, width, 3) RGB."""
        return np.asarray(self._image.reduce(_FINE))
