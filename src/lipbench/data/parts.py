"""Semi-supervised training: which clips are paired, and which supply text or lips alone."""

import hashlib
from collections.abc import Sequence


def divide(
    clip_ids: Sequence[str], paired: float, seed: int, *, disjoint: bool, unpaired: float | None = None
) -> dict[str, tuple[str, ...]]:
    """Divide the training clips.

    Clips are ranked by a hash of seed and id, so a smaller share is part of a larger one, on every machine.

    Args:
        clip_ids: All training clips of the split, whether they are in the store or not.
        paired: Share of them, above 0, up to 1; at least one clip.
        seed: Of the ranking.
        disjoint: Whether the unpaired clips are divided into halves for text and for lips, or supply both.
        unpaired: Share of all training clips that is used without pairs; None is all that is not paired.

    Raises:
        ValueError: Both shares together are more than all.

    Returns:
        "paired", "text" and "lips" -> clip ids, sorted.
    """

    def rank(clip_id: str) -> str:
        return hashlib.sha256(f"{seed}/{clip_id}".encode()).hexdigest()

    ranked = sorted(clip_ids, key=rank) if paired < 1 else list(clip_ids)
    count = max(1, round(paired * len(ranked)))
    rest = ranked[count:]
    if unpaired is not None:
        wanted = round(unpaired * len(ranked))
        if unpaired < 0 or paired + unpaired > 1 + 1e-9:
            raise ValueError(f"unpaired is {unpaired}; expected 0 to {1 - paired:g}, with paired {paired:g}")
        rest = rest[:wanted]
    text, lips = (rest[::2], rest[1::2]) if disjoint else (rest, rest)
    return {"paired": tuple(sorted(ranked[:count])), "text": tuple(sorted(text)), "lips": tuple(sorted(lips))}
