"""From the timestamps of a file to frames at a constant rate: repair, measure, choose the nearest."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, pairwise
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

Item = TypeVar("Item")
Clock = npt.NDArray[np.float64]
"""(T,) seconds of every frame from the first one on, increasing."""

RESTART: Final = 0.5
"""Seconds: a step back by more is a clock that starts again, as in files put one behind the other; by less, timestamps
that overlap or are out of order. Own choice."""
LONGEST_HOLE: Final = 600.0
"""Seconds between two neighbors beyond which timestamps are taken for damaged. Own choice."""

# What cameras, televisions and corpora have; a measured rate within 3 % of one of them is that one.
_USUAL: Final = (
    *map(float, (5, 10, 12, 12.5, 15, 20)),
    *(float(Fraction(rate * 1000, 1001)) for rate in (24, 30, 48, 60)),
    *map(float, (24, 25, 30, 48, 50, 60)),
)
_HIGHEST: Final = 60.0


def repaired(items: Iterable[tuple[float | None, Item]], step: float, name: str) -> Iterator[tuple[float, Item]]:
    """Put items on a clock that starts at 0 and only goes forward, one at a time, looking one ahead.

    A time that is missing, or that alone is out of order, is set one step after the last item, at most half way to the
    next. After a step back by more than `RESTART` seconds the clock goes on from where it was.

    Args:
        items: Seconds, None where none is stored, and what is shown then; in the order in which they are shown.
        step: Usual seconds between two items.
        name: Of the file, for errors.

    Raises:
        ValueError: A step of more than `LONGEST_HOLE` seconds.
    """
    origin: float | None = None
    last = -step
    for (time, item), (after, _) in pairwise(chain(items, [(None, None)])):
        if origin is None and time is not None:
            origin = time - (last + step)
        now = None if time is None or origin is None else time - origin
        then = None if after is None or origin is None else after - origin
        alone = then is not None and then > last and now is not None and not last < now < then
        if now is not None and now <= last - RESTART and not alone:
            assert origin is not None
            origin -= last + step - now
            now = last + step
        elif now is None or now <= last or (alone and now - last > RESTART):
            now = last + step if then is None or then <= last else min(last + step, (last + then) / 2)
        if now - last > LONGEST_HOLE:
            raise ValueError(f"{name} has timestamps that jump by {now - last:.0f} seconds: they are damaged")
        last = now
        assert item is not None
        yield now, item


def rate_of(clock: Clock, labeled: float) -> float:
    """Frames a second that timestamps show.

    The labeled rate stands where the mean or the median step between timestamps agrees with it within 2 % (timestamps
    may be rounded to milliseconds, and frames may be lost), else the mean, as long as every frame lies within half a
    frame of its place in a constant row. Otherwise, and where the steps are multiples of a clearly shorter one, the
    rate is variable: that of the shorter steps (their lower quartile and what is within a fifth of it), so that few
    frames are left out; at most 60 a second, and the nearest usual rate within 3 %. Own choice.

    Args:
        clock: Seconds of the frames.
        labeled: Frames a second as the file's head says, 0 if it does not.
    """
    if len(clock) == 1:
        return labeled or 25.0  # FFmpeg's own assumption
    steps = np.diff(clock)
    mean, median = (len(clock) - 1) / float(clock[-1]), 1 / float(np.median(steps))
    rate = labeled if min(abs(labeled / mean - 1), abs(labeled / median - 1)) < 0.02 else mean
    quartile = float(np.quantile(steps, 0.25, method="lower"))
    fine = 1 / float(steps[np.abs(steps / quartile - 1) < 0.2].mean())
    multiples = np.abs(steps * fine - np.rint(steps * fine)) < 0.15
    if is_constant(clock, rate) and (fine < 1.3 * rate or multiples.mean() < 0.9):
        return rate
    fine = min(fine, _HIGHEST)
    known = min((labeled, *_USUAL), key=lambda usual: abs(usual - fine))
    return known if abs(known / fine - 1) < 0.03 else fine


def is_constant(clock: Clock, rate: float) -> bool:
    """Whether frame k is the nearest one to k / rate, for every frame."""
    return bool(np.abs(clock * rate - np.arange(len(clock))).max() < 0.5)


def nearest(clock: Clock, tail: float, fps: float, times: Clock | None = None) -> npt.NDArray[np.int64]:
    """Index of the frame nearest in time to each k / fps; the earlier one of two equally near.

    Args:
        clock: Seconds of the frames.
        tail: Seconds for which the last one is shown.
        fps: Frames a second wanted.
        times: Seconds that stand for the first k / fps.
    """
    count = max(1, round((float(clock[-1]) + tail) * fps))
    wanted = np.arange(count) / fps
    if times is not None:
        wanted[: len(times)] = times[:count]
    between = (clock[1:] + clock[:-1]) / 2
    return np.searchsorted(between + 1e-6, wanted).astype(np.int64)
