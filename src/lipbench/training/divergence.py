"""When training has diverged: the means of its losses are followed, and it stops while a good checkpoint is left.

The bounds are own choices, since publications name no numbers (TalkLip's README warns that the discriminator's losses
sometimes diverge towards 100; one should stop and go on from a good checkpoint then).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from lipbench.training.optimization import TrainingFailed

_SPAN: Final = 100  # batches that a mean looks back; none is judged before it has seen so many
_RISE: Final = 3.0  # times the lowest mean of the supervised losses
_BOUND: Final = 10.0  # of a discriminator's loss: one that is always undecided has 0.5 to 1.4
GENERATOR: Final = "generator"
"""Whose losses may not rise; those of all others may not be high."""


@dataclass
class DivergenceMonitor:
    """Which way a loss goes: its exponential mean, and how low that has been.

    Attributes:
        weights: Of the losses, with which the values were summed.
        batches: Values seen.
        mean: Plain mean of the first values, exponential over about 100 batches after them.
        lowest: Of the means over 100 batches and more; infinite before.
    """

    weights: dict[str, float] = field(default_factory=dict)
    batches: int = 0
    mean: float = 0.0
    lowest: float = math.inf

    def add(self, value: float) -> None:
        """Take the value of the next batch in."""
        self.batches += 1
        self.mean += (value - self.mean) / min(self.batches, _SPAN)
        if self.batches >= _SPAN:
            self.lowest = min(self.lowest, self.mean)


class DivergenceMonitors:
    """The losses of a generator and of each of its discriminators, by name."""

    def __init__(self) -> None:
        self._monitors: dict[str, DivergenceMonitor] = {}

    def follow(self, name: str, value: float, terms: Iterable[str], weights: Mapping[str, float]) -> str | None:
        """Take the next value in; it is the same on all processes, so all of them come to the same end.

        Args:
            name: `GENERATOR`, or that of a discriminator.
            value: Weighted sum of its losses.
            terms: Their names.
            weights: Of all losses; where they change, as when one is switched on, the mean starts anew.

        Returns:
            What has run off, in words; None while all is well. A batch counts as twice the bound at most: a spike that
            passes, as at the beginning, is no divergence.
        """
        monitor = self._monitors.setdefault(name, DivergenceMonitor())
        if monitor.weights != weights:
            monitor = self._monitors[name] = DivergenceMonitor(dict(weights))
        bound = _RISE * monitor.lowest if name == GENERATOR else _BOUND
        monitor.add(min(value, 2 * bound))
        if monitor.batches < _SPAN or monitor.mean <= bound:
            return None
        return (
            f"the mean of {' + '.join(terms)} over {_SPAN} batches rose from {monitor.lowest:.4g} to "
            f"{monitor.mean:.4g}, and more than {bound:.4g} is no noise"
        )

    def state(self) -> dict[str, dict[str, Any]]:
        """Plain values, for checkpoints."""
        return {name: asdict(monitor) for name, monitor in self._monitors.items()}

    def restore(self, stored: object, names: Iterable[str]) -> None:
        """Go on from what `state` gave.

        Args:
            stored: What a file holds.
            names: Of monitors that are wanted; others are left out.

        Raises:
            ValueError: It is of another kind.
        """
        own = {key: type(value) for key, value in asdict(DivergenceMonitor()).items()}
        for name, monitor in stored.items() if isinstance(stored, dict) else [("", stored)]:
            if not isinstance(monitor, dict) or {key: type(value) for key, value in monitor.items()} != own:
                raise ValueError(f"this checkpoint is damaged: its entry 'courses' holds {name!r}: {monitor!r:.60}")
        assert isinstance(stored, dict)
        self._monitors = {name: DivergenceMonitor(**monitor) for name, monitor in stored.items() if name in set(names)}


def failed(batches: int, what: str, way_back: str) -> TrainingFailed:
    """The error that ends a training which has diverged.

    Args:
        batches: Done.
        what: From `DivergenceMonitors.follow`.
        way_back: What to go on from, and how.
    """
    return TrainingFailed(f"training has diverged at batch {batches}: {what}. {way_back}", spoiled=True)
