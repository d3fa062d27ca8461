"""The words that `lipbench generate` shall speak: what is left out of a text, and what its models never met."""

import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lipbench import discovery
from lipbench.console import config_origin
from lipbench.media import text as tokens

_SHOWN: Final = 60  # words of a vocabulary


def words(text: str, checkpoints: Sequence[tuple[Path, str | None]]) -> list[str]:
    """The words to be spoken; says what was left out, and what is unlike all that the models were trained on.

    Args:
        text: As typed.
        checkpoints: Of the models that shall speak it, each with what was asked for as its model (`--model`).

    Raises:
        ValueError: No word is in the text, or a character that is neither letter nor punctuation.
    """
    plain, left_out = _without_punctuation(text)
    found = tokens.normalize(plain).split()
    if left_out:
        print(f"left out of the text: {' '.join(left_out)}; spoken is {' '.join(found)!r}", file=sys.stderr)
    origins = [config_origin.read(path, model) for path, model in checkpoints]
    for warning in dict.fromkeys(warning for origin in origins for warning in _warnings(found, origin)):
        print(f"warning: {warning}", file=sys.stderr)
    return found


def _warnings(found: Sequence[str], origin: config_origin.Origin) -> list[str]:
    """What of a text no clip had that a model was trained on, as far as its checkpoint says it."""
    told = []
    strange = [word for word in dict.fromkeys(found) if origin.words and word not in origin.words]
    if strange:
        known = sorted(origin.words)
        shown = ", ".join(known) if len(known) <= _SHOWN else f"{', '.join(known[:_SHOWN])}, ..."
        told.append(
            f"the model was trained on {origin.protocol}, whose {len(known)} words do not include "
            f"{', '.join(map(repr, strange))}; expect nonsense there. It knows: {shown}"
        )
    longest = _longest_sentence(origin.data) if origin.data else None
    if longest is not None and len(found) > longest:
        told.append(
            f"the text has {len(found)} words; no sentence of {origin.data}, which the model was trained on, has more "
            f"than {longest}. Expect less there, or generate it sentence by sentence"
        )
    return told


def _longest_sentence(corpus: str) -> int | None:
    """Words of the longest sentence of a corpus's grammar; None if it has none."""
    try:
        return max(len(sentence.split()) for sentence in discovery.load("data", corpus).sentences())
    except ValueError:
        return None


def _without_punctuation(text: str) -> tuple[str, list[str]]:
    """A text without punctuation, and the characters that were left out.

    Apostrophes join what they stand in ("don't" is "dont"), everything else parts words. Signs that are spoken stay, to
    be refused with digits: somebody must write them as words.
    """
    left_out = {c: None for c in text if (unicodedata.category(c)[0] == "P" and c not in "&%@#") or c in "`´"}
    joined = "".join("" if c in "'’‘`´" else " " if c in left_out else c for c in text)
    return joined, list(left_out)
