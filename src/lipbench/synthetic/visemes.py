"""From timed phones to the movement of a mouth: viseme targets, coarticulation, real closures.

Every phone has a target for each of seven mouth parameters and pulls on the mouth while it lasts and, falling off
exponentially, before and after (dominance functions after Cohen and Massaro, "Modeling coarticulation in
synthetic visual speech", 1993; the numbers are our own choice). Bilabials then close the lips whatever the neighbors
ask for.
"""

import unicodedata
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt


class Phone(NamedTuple):
    """A phone of the clip: seconds from its start, and eSpeak NG's IPA label without stress marks ("" is silence)."""

    start: float
    end: float
    label: str


class Shape(NamedTuple):
    """Target of a mouth. Lengths are pixels of the 256 face (eyes 78 px apart); the rest runs from 0 to 1."""

    opening: float  # gap between the inner lips, at the middle of the mouth
    spread: float  # outward movement of each corner; negative when rounded
    jaw: float  # drop of the chin
    protrusion: float  # pouting: thicker lips
    press: float  # lips rolled in
    tuck: float  # lower lip under the upper teeth
    tongue: float  # tip raised to the teeth


_REST: Final = Shape(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

_SHAPES: Final[dict[str, Shape]] = {
    "": _REST,
    # lips
    "p": Shape(0.0, 0.0, 2.5, 0.1, 1.0, 0.0, 0.2),
    "f": Shape(2.0, 1.5, 3.0, 0.0, 0.2, 1.0, 0.1),
    "w": Shape(3.0, -11.0, 3.5, 1.0, 0.0, 0.0, 0.1),
    # tongue
    "t": Shape(5.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.8),
    "s": Shape(4.5, 3.0, 1.5, 0.0, 0.0, 0.0, 0.4),
    "θ": Shape(6.0, 1.0, 4.5, 0.0, 0.0, 0.0, 1.0),
    "l": Shape(8.0, 1.0, 6.0, 0.0, 0.0, 0.0, 1.0),
    "ɹ": Shape(6.0, -6.0, 4.5, 0.6, 0.0, 0.0, 0.3),
    "ʃ": Shape(7.0, -7.0, 3.0, 0.8, 0.0, 0.0, 0.3),
    "j": Shape(6.0, 3.5, 3.5, 0.0, 0.0, 0.0, 0.3),
    "k": Shape(8.0, 0.5, 6.0, 0.0, 0.0, 0.0, 0.1),
    "h": Shape(9.0, 0.0, 7.0, 0.0, 0.0, 0.0, 0.1),
    # vowels
    "i": Shape(7.0, 6.0, 3.5, 0.0, 0.0, 0.0, 0.4),
    "ɪ": Shape(9.0, 3.5, 5.5, 0.0, 0.0, 0.0, 0.3),
    "ɛ": Shape(14.0, 3.5, 9.5, 0.0, 0.0, 0.0, 0.2),
    "a": Shape(21.0, 2.5, 15.0, 0.0, 0.0, 0.0, 0.1),
    "ɑ": Shape(22.0, -1.5, 16.5, 0.1, 0.0, 0.0, 0.0),
    "ɒ": Shape(16.0, -6.0, 12.0, 0.4, 0.0, 0.0, 0.0),
    "ɔ": Shape(13.0, -8.0, 10.0, 0.6, 0.0, 0.0, 0.0),
    "ʌ": Shape(16.0, 0.0, 12.0, 0.0, 0.0, 0.0, 0.1),
    "ə": Shape(9.5, 0.0, 6.5, 0.0, 0.0, 0.0, 0.2),
    "ɜ": Shape(11.0, -3.0, 7.5, 0.3, 0.0, 0.0, 0.2),
    "ʊ": Shape(8.0, -8.0, 5.0, 0.7, 0.0, 0.0, 0.1),
    "u": Shape(6.0, -11.0, 4.0, 1.0, 0.0, 0.0, 0.1),
}

_LIKE: Final[dict[str, str]] = {
    **dict.fromkeys(("b", "m"), "p"),
    **dict.fromkeys(("v",), "f"),
    **dict.fromkeys(("ʍ",), "w"),
    **dict.fromkeys(("d", "n", "ɾ", "ʔ"), "t"),
    **dict.fromkeys(("z",), "s"),
    **dict.fromkeys(("ð",), "θ"),
    **dict.fromkeys(("ɫ",), "l"),
    **dict.fromkeys(("r", "ɻ", "ɚ"), "ɹ"),
    **dict.fromkeys(("ʒ",), "ʃ"),
    **dict.fromkeys(("ɡ", "g", "ŋ", "x"), "k"),
    **dict.fromkeys(("y",), "i"),
    **dict.fromkeys(("ᵻ", "ɨ"), "ɪ"),
    **dict.fromkeys(("e",), "ɛ"),
    **dict.fromkeys(("æ",), "a"),
    **dict.fromkeys(("o",), "ɔ"),
    **dict.fromkeys(("ɐ",), "ə"),
    **dict.fromkeys(("ɝ",), "ɜ"),
    **dict.fromkeys(("ʉ",), "u"),
}
_VOWELS: Final = frozenset("iyɪᵻɨɛeaæɑɒɔoʌəɐɜɝɚʊuʉ")
_CLOSED: Final = frozenset("pbm")

# How strongly a phone insists on (opening, spread, jaw, protrusion, press, tuck, tongue); phones not named insist by 1.
_STRENGTH: Final[dict[str, Shape]] = {
    "": Shape(1.2, 1.0, 1.2, 1.2, 1.0, 1.0, 1.0),
    "p": Shape(1.5, 0.3, 0.5, 0.3, 4.0, 1.0, 0.3),
    "f": Shape(2.0, 0.5, 0.8, 0.5, 1.0, 4.0, 0.3),
    "w": Shape(2.0, 3.0, 1.0, 3.0, 1.0, 1.0, 0.3),
    "t": Shape(0.7, 0.3, 0.8, 0.4, 0.5, 0.5, 2.0),
    "s": Shape(1.0, 0.6, 1.4, 0.6, 1.0, 0.5, 1.5),
    "θ": Shape(0.9, 0.5, 0.8, 0.5, 1.0, 0.5, 3.0),
    "l": Shape(0.7, 0.3, 0.6, 0.4, 1.0, 0.5, 3.0),
    "k": Shape(0.5, 0.2, 0.5, 0.3, 1.0, 0.5, 0.5),
    "h": Shape(0.2, 0.1, 0.2, 0.1, 0.5, 0.2, 0.2),
    "ʃ": Shape(1.2, 2.0, 1.2, 2.5, 1.0, 0.5, 1.0),
}
_ONE: Final = Shape(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
_STEP: Final = 0.005  # seconds of the inner time grid
_BEFORE, _AFTER = 0.055, 0.045  # seconds in which a phone's pull falls to 1/e: lips move ahead of the sound
_CLOSURE: Final = 0.07  # seconds a closure lasts at least, so that a camera at 25 fps sees it
_RAMP: Final = 0.045  # seconds of closing and of opening around it


def plain(label: str) -> str:
    """A label of eSpeak NG without stress, length and other marks.

    >>> plain("ˈuː")
    'u'
    """
    return "".join(c for c in label if unicodedata.category(c) in ("Ll", "Lo"))


def parts(label: str) -> tuple[str, ...]:
    """The keys of the viseme table that a phone passes through: two or more for diphthongs and affricates.

    Raises:
        ValueError: A symbol that the table does not know.
    """
    symbols = plain(label)
    keys = tuple(_LIKE.get(c, c) for c in symbols) or ("",)
    unknown = [c for c, key in zip(symbols, keys, strict=False) if key not in _SHAPES]
    if unknown:
        raise ValueError(f"no viseme for {unknown} in the phone {label!r}; the table has {sorted(_SHAPES | _LIKE)}")
    return keys


def is_vowel(label: str) -> bool:
    """Whether a phone is a vowel or a diphthong."""
    return bool(label) and plain(label)[:1] in _VOWELS


def is_closed(label: str) -> bool:
    """Whether the lips touch in a phone: p, b, m."""
    return plain(label) in _CLOSED


def _segments(phones: Sequence[Phone]) -> list[tuple[float, float, str]]:
    """Phones with diphthongs and affricates cut into their parts: (start, end, key of the table)."""
    out = []
    for phone in phones:
        keys = parts(phone.label)
        edges = np.linspace(phone.start, phone.end, len(keys) + 1)
        out += [(float(a), float(b), key) for a, b, key in zip(edges[:-1], edges[1:], keys, strict=True)]
    return out


def _closures(phones: Sequence[Phone], times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N,) 1 while lips must touch, falling to 0 within the ramp."""
    gate = np.zeros_like(times)
    for phone in phones:
        if is_closed(phone.label):
            pad = max(0.005, 0.5 * (_CLOSURE - (phone.end - phone.start)))
            away = np.maximum(np.maximum(phone.start - pad - times, times - phone.end - pad), 0.0) / _RAMP
            gate = np.maximum(gate, 0.5 + 0.5 * np.cos(np.pi * np.minimum(away, 1.0)))
    return gate


def track(phones: Sequence[Phone], times: npt.NDArray[np.float64], *, energy: float = 1.0) -> npt.NDArray[np.float64]:
    """Mouth parameters at given times.

    Args:
        phones: Phones that cover the clip, silences included.
        times: (T,) seconds.
        energy: How widely this speaker articulates; scales opening, spread and jaw.

    Returns:
        (T, 7) the fields of `Shape`.
    """
    fine = np.arange(0.0, phones[-1].end + _STEP, _STEP)  # (N,)
    total = np.full((7, len(fine)), 1e-6)
    pull = total * np.array(_REST)[:, None]
    for start, end, key in _segments(phones):
        inner = 0.25 * (end - start)  # the pull is full in the middle half of the phone
        early, late = np.maximum(start + inner - fine, 0.0), np.maximum(fine - (end - inner), 0.0)
        shape = np.exp(-early / _BEFORE - late / _AFTER)  # (N,)
        weight = np.array(_STRENGTH.get(key, _ONE))[:, None] * shape
        total += weight
        pull += weight * np.array(_SHAPES[key])[:, None]
    value = pull / total  # (7, N)

    radius = 6
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / 2.5) ** 2)
    padded = np.pad(value, ((0, 0), (radius, radius)), mode="edge")
    value = np.stack([np.convolve(row, kernel / kernel.sum(), "valid") for row in padded])
    value[:3] *= energy

    at = np.stack([np.interp(times, fine, row) for row in value], -1)  # (T, 7)
    shut = _closures(phones, times)
    at[:, 0] *= 1.0 - shut
    at[:, 4] = np.maximum(at[:, 4], shut)
    at[:, 5] *= 1.0 - shut
    return at
