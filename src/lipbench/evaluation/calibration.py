"""Rows that check the metrics: videos whose scores are known beforehand, made from the reference itself.

They are made in the model's view and size and go the model's way through pasting, so that a model is compared with what
it could have returned.
"""

from collections.abc import Iterator
from typing import Final

from torch import Tensor

from lipbench.metrics._bank import Scene, Take

ROWS: Final[dict[str, str]] = {
    "ground-truth": "the reference itself: every score must be perfect",
    "resized-truth": "the reference at the model's size, pasted back: the ceiling, and the noise of the landmarks",
    "frozen-frame": "the first frame throughout: what standing still scores",
    "mean-mouth": "the mean picture of the training split throughout",
}
"""Name of a row -> what it is."""


def takes(scene: Scene, mean: Tensor) -> Iterator[tuple[str, Take]]:
    """The calibration rows for one batch, one after the other so that only one is held in memory.

    Args:
        scene: The batch.
        mean: (3, h, w) mean picture of the training split in the scene's view, float in [0, 1].

    Yields:
        Name and video, in the order of `ROWS`.
    """
    truth = scene.reference.native  # (B, T, 3, h, w)
    yield "ground-truth", scene.reference
    yield "resized-truth", scene.take(truth, recurs=True)
    yield "frozen-frame", scene.take(truth[:, :1].expand_as(truth), recurs=True)
    yield "mean-mouth", scene.take(mean.to(truth).expand_as(truth), recurs=True)
