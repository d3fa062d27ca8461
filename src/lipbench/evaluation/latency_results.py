"""Tables and the chart of a latency study: a row a measurement, and a line over the lengths for each system."""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from lipbench.evaluation.latency import Cost, Latency, Variant
from lipbench.evaluation.writing import csv_text
from lipbench.media import charts

PUBLISHED: Final = {
    "corrgan": "15 ms a frame on a GTX 1080 Ti (Chen et al. 2018, section 5.1)",
    "duallip": "299 ms a clip of GRID, 650 ms of TCD-TIMIT, 13.09 and 19.12 times ParaLip; 41.483 million parameters "
    "(Liu et al. 2022, Tables 3 and 5)",
    "paralip": "22 ms a clip of GRID, 34 ms of TCD-TIMIT; 35.224 million parameters (Liu et al. 2022, Tables 3 and 5)",
    "transformert2l": "689 ms a clip of GRID, 1,278 ms of TCD-TIMIT; 37.780 million parameters "
    "(Liu et al. 2022, Tables 3 and 5)",
}
"""Model -> what papers report, by protocols of their own."""
_ROWS: Final = (
    *("name", "model", "source", "timing", "frames", "precision", "compiled", "device", "machine", "threads", "torch"),
    *("clips", "warmup", "median_ms", "p95_ms", "ms_per_frame", "frames_per_second", "real_time_factor"),
    *("first_frame_ms", "first_frame", "peak_memory_mb", "parameters", "gmacs", "ratio", "reason"),
)
_LINES: Final = (
    *("name", "model", "source", "timing", "precision", "compiled", "device", "machine", "threads", "torch", "lengths"),
    *("slope_ms_per_frame", "intercept_ms", "reference", "ratio", "slope_ratio", "published"),
)
_SIZE: Final = (560, 900)  # px


class Setup(NamedTuple):
    """What all rows of a study share."""

    device: str
    """"cpu" or "cuda"."""
    machine: str
    """See `lipbench.evaluation.latency.machine`."""
    threads: int
    """Of PyTorch on the CPU."""


@dataclass(frozen=True)
class Row:
    """One system at one length, run in one way.

    Args:
        name: Of the system in the study.
        model: Short name of its model.
        source: Where it comes from: "published size", a recipe or a checkpoint.
        timing: In which it was run.
        frames: Asked for.
        variant: How it was run.
        latency: None if it could not be measured.
        cost: The same.
        reason: Why not.
    """

    name: str
    model: str
    source: str
    timing: str
    frames: int
    variant: Variant
    latency: Latency | None = None
    cost: Cost | None = None
    reason: str = ""

    @property
    def ms(self) -> float:
        """Median latency; NaN if it could not be measured."""
        return math.nan if self.latency is None else self.latency.median_ms

    @property
    def published(self) -> str:
        """What a paper reports of this model; empty if nothing, or if it has other sizes.

        That of DualLip is of the one without durations.
        """
        if not self.source.startswith(("published", "papers/")) or (self.model, self.timing) == ("duallip", "given"):
            return ""
        return PUBLISHED.get(self.model, "")

    @property
    def key(self) -> tuple[str, str, Variant]:
        """What rows of one line have in common."""
        return self.name, self.timing, self.variant


@dataclass(frozen=True)
class Line:
    """A system's latency over length.

    Args:
        rows: Those that were measured, one or more.
        slope: Milliseconds a frame, by least squares of the medians; None with fewer than two lengths.
        intercept: Milliseconds.
        ratio: Sum of its medians over that of the reference, at the lengths that both have; None without such.
        slope_ratio: Its slope over the reference's.
    """

    rows: Sequence[Row]
    slope: float | None
    intercept: float | None
    ratio: float | None
    slope_ratio: float | None


def fit(frames: Sequence[float], milliseconds: Sequence[float]) -> tuple[float | None, float | None]:
    """Slope and intercept of a least-squares line; None for both with fewer than two different lengths."""
    if len(set(frames)) < 2:
        return None, None
    slope, intercept = np.polyfit(frames, milliseconds, 1)
    return float(slope), float(intercept)


def lines(rows: Sequence[Row], against: str) -> list[Line]:
    """A line for each system, timing and variant.

    Args:
        rows: Of a study.
        against: Name of the reference system. Its first timing counts, in the same variant.
    """
    measured: dict[tuple[str, str, Variant], dict[int, Row]] = {}
    for row in rows:
        if row.latency is not None:
            measured.setdefault(row.key, {})[row.frames] = row
    found = []
    for (_, _, variant), own in measured.items():
        other = next((by for (name, _, way), by in measured.items() if (name, way) == (against, variant)), {})
        slope, intercept = fit(*_points(list(own.values())))
        other_slope, _ = fit(*_points(list(other.values())))
        common = own.keys() & other.keys()
        base = sum(other[frames].ms for frames in common)
        ratio = sum(own[frames].ms for frames in common) / base if base else None
        slope_ratio = slope / other_slope if slope is not None and other_slope else None
        found.append(Line(list(own.values()), slope, intercept, ratio, slope_ratio))
    return found


def _points(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Frames made, and milliseconds."""
    return [float(row.latency.frames) for row in rows if row.latency is not None], [row.ms for row in rows]


def rows_csv(rows: Sequence[Row], against: str, setup: Setup) -> str:
    """The rows as CSV; those that could not be measured have a reason in place of numbers."""
    measured = [row for row in rows if row.name == against and row.latency is not None]
    reference = {(row.frames, row.variant): row.ms for row in reversed(measured)}  # its first timing counts
    table = []
    for row in rows:
        base = reference.get((row.frames, row.variant))
        about = [row.name, row.model, row.source, row.timing]
        way = [row.variant.precision, row.variant.compiled, *setup, torch.__version__]
        numbers: list[object] = [None] * 14
        frames = row.frames
        if row.latency is not None and row.cost is not None:
            own, frames = row.latency, row.latency.frames
            numbers = [
                *(len(own.times), own.warmup, own.median_ms, own.p95_ms, own.ms_per_frame, 1e3 / own.ms_per_frame),
                *(own.real_time_factor, own.first_frame_ms, own.first_by),
                None if own.peak_bytes is None else own.peak_bytes / 1e6,
                *(row.cost.parameters, row.cost.macs / 1e9, own.median_ms / base if base else None),
                "" if frames == row.frames else f"{row.frames} frames were asked for",
            ]
        else:
            numbers[-1] = row.reason
        table.append([*about, frames, *way, *numbers])
    return csv_text(_ROWS, table)


def lines_csv(found: Sequence[Line], against: str, setup: Setup) -> str:
    """The lines as CSV."""
    table = []
    for line in found:
        first = line.rows[0]
        about = [first.name, first.model, first.source, first.timing, first.variant.precision, first.variant.compiled]
        numbers = [len(line.rows), line.slope, line.intercept, against, line.ratio, line.slope_ratio]
        table.append([*about, *setup, torch.__version__, *numbers, first.published])
    return csv_text(_LINES, table)


def chart(found: Sequence[Line], setup: Setup) -> npt.NDArray[np.uint8]:
    """Medians over length, a curve a line, in colors of equal steps of hue, on a logarithmic axis.

    (height, width, 3) RGB.
    """
    curves = []
    for k, line in enumerate(found):
        red, green, blue = colorsys.hsv_to_rgb(k / len(found), 0.9, 0.75 - 0.25 * (k % 2))
        color = round(255 * red), round(255 * green), round(255 * blue)
        curves.append(charts.Series(label(line.rows[0], found), *_points(line.rows), color))
    title = f"latency of a clip, batch 1, {setup.machine}"
    return charts.line_chart(curves, title, "frames, 25 a second", "ms", _SIZE, log=True)


def label(row: Row, found: Sequence[Line]) -> str:
    """Name of a row's line, with its timing and variant where these differ among the lines."""
    timings = {line.rows[0].timing for line in found if line.rows[0].name == row.name}
    variants = {line.rows[0].variant for line in found}
    parts = [row.name, *([row.timing] if len(timings) > 1 else []), *([str(row.variant)] if len(variants) > 1 else [])]
    return ", ".join(parts)
