"""Text: normal form, tokens, and the way from a sentence to ids and back.

A corpus brings its tokenizer (`lipbench.data.corpus.Corpus.tokenizer`); phones or subwords are further subclasses of
`Tokenizer`. Here is the one of characters, whose set has the size of ParaLip's on GRID (30): padding, end, unknown,
silence and 26 letters. Silence and word boundary are one symbol, `|`, so that a pause, however short, always has a
token that its frames can belong to.
"""

import string
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final

SILENCE: Final = "|"
SYMBOLS: Final[tuple[str, ...]] = ("<pad>", "<eos>", "<unk>", SILENCE, *string.ascii_lowercase)
"""Tokens of characters. The position is the id; padding is 0."""

_LETTERS: Final = frozenset(string.ascii_lowercase)
_DROPPED: Final = frozenset("'\u2018\u2019\u02bc`\u00b4")  # apostrophes
_SPACES: Final = frozenset('-\u2010\u2011\u2012\u2013\u2014/.,;:!?"\u201c\u201d\u00ab\u00bb()[]\u2026\u00a1\u00bf')


def normalize(text: str) -> str:
    """Bring text to lower-case letters a to z and single spaces.

    The rule: lower case; accents are taken off (`é` becomes `e`); apostrophes are left out (`don't` becomes `dont`);
    hyphens and punctuation part words (`well-known` becomes `well known`). Everything else is refused: digits, since
    how they are spoken is not known, letters of other alphabets, other signs.

    Raises:
        ValueError: Other characters are in it (the message names them), or no letter is.
    """
    parts = unicodedata.normalize("NFKD", text.lower())
    plain = "".join(" " if c in _SPACES else c for c in parts if c not in _DROPPED and unicodedata.category(c) != "Mn")
    plain = " ".join(plain.split())
    strange = sorted(set(plain) - _LETTERS - {" "})
    if strange:
        hint = "; write numbers as words" if any(c.isdigit() for c in strange) else ""
        raise ValueError(f"{text!r} holds {', '.join(map(repr, strange))}; expected letters and spaces only{hint}")
    if not plain:
        raise ValueError(f"the text {text!r} is empty; expected at least one word" if text else _EMPTY)
    return plain


_EMPTY: Final = "the text is empty; expected at least one word"


class Tokenizer(ABC):
    """From words to tokens, to ids, and back.

    Attributes:
        name: As the settings of a store name it.
        vocabulary: All tokens; the position is the id. The first is padding; `SILENCE` is among them.
    """

    name: ClassVar[str]
    vocabulary: ClassVar[tuple[str, ...]]

    @abstractmethod
    def normalize(self, text: str) -> str:
        """The form in which text is stored and compared: words with single spaces between them.

        Raises:
            ValueError: A character that no rule covers is in it (the message names it), or no word is.
        """

    @abstractmethod
    def spell(self, word: str) -> list[str]:
        """Tokens of one word as it stands in the corpus; of several, with `SILENCE` between, if the word holds several.

        Raises:
            ValueError: The word cannot be spelled.
        """

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Words that ids stand for.

        Raises:
            ValueError: An id is not in the vocabulary.
        """

    def symbols(self, words: Sequence[str]) -> list[str]:
        """Spell words with silence before, between and after: `| b i n | b l u e |`.

        Args:
            words: Spoken words, in any case; silences (`sil`, `sp`) taken out before by
                `lipbench.media.alignment.spoken`.

        Returns:
            Members of `vocabulary`.

        Raises:
            ValueError: No words, or a word that cannot be spelled.
        """
        if not words:
            raise ValueError(_EMPTY)
        out = [SILENCE]
        for word in words:
            out += [*self.spell(word), SILENCE]
        return out

    def encode(self, symbols: Iterable[str]) -> list[int]:
        """Ids of symbols.

        Raises:
            ValueError: A symbol is not in `vocabulary`.
        """
        ids = {symbol: k for k, symbol in enumerate(self.vocabulary)}
        listed = list(symbols)
        strange = sorted({s for s in listed if s not in ids})
        if strange:
            raise ValueError(f"no id for {', '.join(map(repr, strange))}; symbols are {' '.join(self.vocabulary)}")
        return [ids[s] for s in listed]


class Characters(Tokenizer):
    """A token a letter."""

    name: ClassVar[str] = "characters"
    vocabulary: ClassVar[tuple[str, ...]] = SYMBOLS

    def normalize(self, text: str) -> str:
        """See `lipbench.media.text.normalize`."""
        return normalize(text)

    def spell(self, word: str) -> list[str]:
        """Letters; those of `well-known` have a `|` between them."""
        return [SILENCE if c == " " else c for c in normalize(word)]

    def decode(self, ids: Iterable[int]) -> str:
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


CHARACTERS: Final = Characters()
symbols, encode, decode = CHARACTERS.symbols, CHARACTERS.encode, CHARACTERS.decode
"""Those of characters, which readers and captions use."""
