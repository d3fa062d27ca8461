"""Broken sound and word times that read well but cannot be."""

import re

import numpy as np
import pytest

from lipbench.data.speech_checks import problem, words_problem
from lipbench.media.alignment import Word

RATE = 16_000
WORDS = [
    Word(0.0, 0.5, "sil"),
    *(Word(0.5 + 0.3 * k, 0.8 + 0.3 * k, w) for k, w in enumerate(["bin", "blue", "at", "f", "two", "now"])),
    Word(2.3, 3.0, "sil"),
]


def voice() -> np.ndarray:
    """Six syllables, and a room that is not quite silent."""
    seconds = np.arange(3 * RATE) / RATE
    says = (seconds > 0.5) & (seconds < 2.3)
    loud = np.where(says, np.sin((seconds - 0.5) * np.pi / 0.3) ** 2, 0)
    return 0.4 * np.sin(seconds * 1500) * loud + np.random.default_rng(0).normal(0, 1e-3, len(seconds))


def test_whole_sound_is_not_suspected() -> None:
    assert problem(voice(), RATE, WORDS, 3.0) is None
    assert problem(0.01 * voice(), RATE, WORDS, 3.05) is None
    assert words_problem(WORDS) is None


def test_digital_silence_around_the_words_is_whole() -> None:
    sound = voice()
    sound[: RATE // 2] = sound[round(2.3 * RATE) :] = 0
    assert problem(sound, RATE, WORDS, 3.0) is None


def hole(sound: np.ndarray) -> np.ndarray:
    sound[round(1.2 * RATE) : round(1.9 * RATE)] = 0
    return sound


def half_silent(sound: np.ndarray) -> np.ndarray:
    sound[len(sound) // 2 :] = 0
    return sound


BROKEN = {
    "0.06 s": (lambda s: s[:960], "3.00 s of picture, 0.06 s of sound"),
    "half as long": (lambda s: s[: len(s) // 2], "3.00 s of picture, 1.50 s of sound"),
    "twice as long": (lambda s: np.tile(s, 2), "3.00 s of picture, 6.00 s of sound"),
    "0.2 s short": (lambda s: s[:-3200], "2.80 s of sound"),
    "NaN": (lambda s: np.where(np.arange(len(s)) == 99, np.nan, s), "numbers that are none"),
    "infinite": (lambda s: np.where(np.arange(len(s)) == 99, np.inf, s), "numbers that are none"),
    "silent": (lambda s: 0 * s, "silent throughout"),
    "constant": (lambda s: 0 * s + 0.5, "one constant value"),
    "off zero": (lambda s: s + 0.4, "off its zero line"),
    "clipped": (lambda s: np.clip(2000 * s, -1, 1), "clipped throughout|equally loud"),
    "clipped, then made quieter": (lambda s: np.clip(20 * s, -0.3, 0.3), "clipped throughout"),
    "noise": (lambda s: np.random.default_rng(1).normal(0, 0.2, len(s)), "nobody speaks"),
    "a tone": (lambda s: 0.3 * np.sin(np.arange(len(s)) / 9), "nobody speaks"),
    "a hole": (hole, "quiet in|breaks off for"),
    "silent from the middle on": (half_silent, "quiet in|breaks off for"),
    "a second late": (lambda s: np.roll(s, RATE), "quiet in . of 6 words"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_broken_sound_is_named(damage: str) -> None:
    change, told = BROKEN[damage]
    with np.errstate(invalid="ignore"):
        found = problem(change(voice()), RATE, WORDS, 3.0)
    assert found is not None
    assert re.search(told, found), found


def test_words_where_nobody_speaks() -> None:
    """All words in the first syllable: they are loud, but so is much more."""
    squeezed = [Word(0.55 + 0.04 * k, 0.59 + 0.04 * k, w.word) for k, w in enumerate(WORDS[1:-1])]
    assert "lies between first and last word" in str(problem(voice(), RATE, squeezed, 3.0))


@pytest.mark.parametrize(
    ("length", "told"),
    [(0.01, "gives 'bin' 0.010 s"), (0.05, "puts 6 words into 0.30 s"), (4.0, "gives 'bin' 4.000 s")],
)
def test_nobody_speaks_so_fast_or_slowly(length: float, told: str) -> None:
    words = [Word(length * k, length * (k + 1), w.word) for k, w in enumerate(WORDS[1:-1])]
    assert told in str(words_problem(words))
