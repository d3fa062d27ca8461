"""How sure a mean over clips is, and whether two rows scored on the same clips differ."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
DRAWS: Final = 2000
_SIGNS: Final = 10_000


def interval(
    value: Values, weight: Values | None = None, speaker: Sequence[str] | None = None, seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of a weighted mean by the percentile bootstrap over clips, or over speakers if there are several.

    Clips of one speaker are alike: drawing clips one by one would make the interval too narrow, so whole speakers are
    drawn. With two or three speakers it is rough all the same.

    Args:
        value: (N,) scores of clips, NaN = undefined.
        weight: (N,) what each clip counts; None counts them the same.
        speaker: N names; None for one speaker.
        seed: Of the draws: the same clips always give the same interval.

    Returns:
        (low, high), or None for fewer than two clips.
    """
    weight = np.ones(len(value)) if weight is None else weight
    keep = np.isfinite(value) & (weight > 0)
    if keep.sum() < 2:
        return None
    value, weight = value[keep], weight[keep]
    group = np.arange(len(value))
    if speaker is not None:
        names, own = np.unique(np.asarray(speaker)[keep], return_inverse=True)
        group = own if len(names) > 1 else group
    total = np.bincount(group, value * weight)  # (G,) sums of each group
    mass = np.bincount(group, weight)
    drawn = np.random.default_rng(seed).multinomial(len(mass), np.full(len(mass), 1 / len(mass)), size=DRAWS)  # (D, G)
    low, high = np.percentile((drawn @ total) / (drawn @ mass), (2.5, 97.5))
    return float(low), float(high)


def gain(value: Values, higher_is_better: bool | None, perfect: float | None) -> Values:
    """Scores turned so that more is better: negated, or minus the distance to the perfect score."""
    if higher_is_better is None:
        return -np.abs(value - (1.0 if perfect is None else perfect))
    return value if higher_is_better else -value


def p_value(difference: Values, seed: int = 0) -> float | None:
    """Two-sided permutation test that paired differences (N,) have mean 0: signs of clips are flipped at random.

    Returns:
        p, at least 1 / 10,001; None for fewer than two clips. It speaks of these speakers' clips, not of other
        speakers.
    """
    return p_values([difference], seed)[0]


def p_values(differences: Sequence[Values], seed: int = 0) -> list[float | None]:
    """`p_value` of many differences (N,): those of as many clips share the draws, which cost most.

    Returns:
        As many p as differences.
    """
    found: list[float | None] = [None] * len(differences)
    finite = [difference[np.isfinite(difference)] for difference in differences]
    for clips in {len(difference) for difference in finite if len(difference) > 1}:
        those = [k for k, difference in enumerate(finite) if len(difference) == clips]
        values = np.stack([finite[k] for k in those], axis=1)  # (N, C)
        seen = np.abs([finite[k].mean() for k in those]) - 1e-12  # (C,)
        extreme = np.zeros(len(those), np.int64)
        rng = np.random.default_rng(seed)
        for _ in range(10):  # in parts, to bound the memory
            signs = rng.integers(0, 2, (_SIGNS // 10, clips), dtype=np.int8) * 2.0 - 1.0  # (D, N)
            extreme += (np.abs(signs @ values) / clips >= seen).sum(axis=0)
        for k, count in zip(those, extreme, strict=True):
            found[k] = (int(count) + 1) / (_SIGNS + 1)
    return found
