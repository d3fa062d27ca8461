"""Text: normal form, the 30 character tokens, and the way from a sentence to ids and back.

The token set has the size of ParaLip's on GRID (30): padding, end, unknown, silence and 26 letters. Silence and word
boundary are one symbol, `|`, so that a pause, however short, always has a token that its frames can belong to.
"""

import string
from collections.abc import Iterable, Sequence
from typing import Final

SILENCE: Final = "|"
SYMBOLS: Final[tuple[str, ...]] = ("<pad>", "<eos>", "<unk>", SILENCE, *string.ascii_lowercase)
"""The position is the id; padding is 0."""

_IDS: Final = {symbol: k for k, symbol in enumerate(SYMBOLS)}
_LETTERS: Final = frozenset(string.ascii_lowercase)


def normalise(text: str) -> str:
    """Bring text to lower-case letters and single spaces.

    Raises:
        ValueError: Other characters are in it (the message names them), or no letter is.
    """
    plain = " ".join(text.lower().split())
    strange = sorted(set(plain) - _LETTERS - {" "})
    if strange:
        hint = "; write numbers as words" if any(c.isdigit() for c in strange) else ""
        raise ValueError(f"{text!r} holds {', '.join(map(repr, strange))}; expected letters and spaces only{hint}")
    if not plain:
        raise ValueError("the text is empty; expected at least one word")
    return plain


def symbols(words: Sequence[str]) -> list[str]:
    """Spell words with silence before, between and after: `| b i n | b l u e |`.

    Args:
        words: Spoken words, in any case; silences (`sil`, `sp`) taken out before by `lipbench.media.alignment.spoken`.

    Returns:
        Members of `SYMBOLS`.

    Raises:
        ValueError: No words, or a word that is not made of letters.
    """
    out = [SILENCE]
    for word in normalise(" ".join(words)).split():
        out += [*word, SILENCE]
    return out


def encode(symbols: Iterable[str]) -> list[int]:
    """Ids of symbols.

    Raises:
        ValueError: A symbol is not in `SYMBOLS`.
    """
    listed = list(symbols)
    strange = sorted({s for s in listed if s not in _IDS})
    if strange:
        raise ValueError(f"no id for {', '.join(map(repr, strange))}; symbols are {' '.join(SYMBOLS)}")
    return [_IDS[s] for s in listed]


def decode(ids: Iterable[int]) -> str:
    """Words that ids spell: padding is left out, reading stops at the end symbol, silences become single spaces.

    Raises:
        ValueError: An id is outside 0..29.
    """
    letters: list[str] = []
    for k in map(int, ids):
        if not 0 <= k < len(SYMBOLS):
            raise ValueError(f"{k} is no id; ids go from 0 to {len(SYMBOLS) - 1}")
        if SYMBOLS[k] == "<eos>":
            break
        if SYMBOLS[k] != "<pad>":
            letters.append(" " if SYMBOLS[k] == SILENCE else SYMBOLS[k])
    return " ".join("".join(letters).split())
