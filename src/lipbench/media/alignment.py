"""When things are said: word times from corpus files, and frames a token."""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from lipbench.media import text

SILENCES: Final = frozenset({"sil", "sp"})
"""Entries of GRID's alignment files that are no words: long and short silence."""

GRID_UNITS: Final = 25_000
"""GRID's time units a second: 1000 units are one frame at 25 frames a second."""


# Longest first: that of UTF-32 begins like that of UTF-16. A file without a mark is UTF-8.
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Word(NamedTuple):
    """A word or a silence with its time in seconds from the start of the clip."""

    start: float
    end: float
    word: str


def read_align(path: str | Path) -> list[Word]:
    """Read a GRID `.align` file: a line `start end word` each, in units of 1/25000 s.

    Any line ends; UTF-8, or UTF-16 and UTF-32 with a byte order mark.

    Args:
        path: The file.

    Returns:
        Every line in order, silences (`sil`, `sp`) included; words in lower case.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a folder, a pipe or a device; a line has another form, times run backwards, a word takes no
            time, or there is no spoken word; the message names the line.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no alignment file: {path}")
    if not path.is_file():  # opening a pipe would wait for a writer
        raise ValueError(f"{path} is not a file")
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    words: list[Word] = []
    for number, line in enumerate(content.decode(encoding, errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        fields = line.split()
        try:
            begin, stop, word = fields
            start, end = float(begin) / GRID_UNITS, float(stop) / GRID_UNITS
        except ValueError:
            raise ValueError(f"{path.name}, line {number}: found {line.strip()!r}; expected start, end, word") from None
        if not 0 <= start <= end < np.inf or (words and start < words[-1].end):
            raise ValueError(f"{path.name}, line {number}: the times of {line.strip()!r} run backwards")
        if start == end and word.lower() not in SILENCES:
            raise ValueError(f"{path.name}, line {number}: the word of {line.strip()!r} takes no time")
        words.append(Word(start, end, word.lower()))
    if not spoken(words):
        raise ValueError(f"{path.name} holds no spoken word")
    return words


def spoken(words: Sequence[Word]) -> list[Word]:
    """The entries that are words, without the silences."""
    return [w for w in words if w.word not in SILENCES]


def durations(
    words: Sequence[Word],
    symbols: Sequence[str],
    n_frames: int,
    fps: float,
    tokenizer: text.Tokenizer = text.CHARACTERS,
) -> npt.NDArray[np.int64]:
    """Frames that each token lasts.

    A word's time is spread evenly over its tokens (own choice; GRID has no letter times). A frame belongs to the
    token in whose time its center falls; so a letter of a short word may get 0 frames, and the sum is `n_frames` for
    any number of frames. Whatever lies between two words (`sp`, or a gap) belongs to the `|` between them, what lies
    before the first and after the last word to the outer two.

    Args:
        words: Word times from the start of the clip; silences may be among them.
        symbols: `tokenizer.symbols` of the spoken words, L tokens.
        n_frames: Frames of the clip.
        fps: Frames a second.
        tokenizer: That of the corpus.

    Returns:
        (L,) frames >= 0, summing to `n_frames`.

    Raises:
        ValueError: `symbols` does not spell `words`.
    """
    said = spoken(words)
    if list(symbols) != tokenizer.symbols([w.word for w in said]):
        raise ValueError(
            f"{' '.join(symbols)!r} does not spell {' '.join(w.word for w in said)!r} with | before, between and after"
        )
    ends: list[float] = []  # of every token but the last, seconds
    for word in said:
        ends.append(word.start)  # of the silence before the word
        ends += np.linspace(word.start, word.end, len(tokenizer.spell(word.word)) + 1)[1:].tolist()
    edges = np.searchsorted(_centers(n_frames, fps), np.array(ends) - _EPSILON)
    return np.diff(edges, prepend=0, append=n_frames).astype(np.int64)


class Span(NamedTuple):
    """A word among the symbols of a clip."""

    first_symbol: int
    last_symbol: int
    """The one after its last."""
    first_frame: int
    last_frame: int
    """The one after its last."""


def spans(silent: Sequence[bool], durations: Sequence[int] | npt.NDArray[np.int64]) -> list[Span]:
    """The words among symbols: what stands between silences.

    Args:
        silent: Whether each symbol is silence.
        durations: Frames of each.

    Raises:
        ValueError: There are not as many durations as symbols.
    """
    found: list[Span] = []
    frame, inside = 0, False
    for k, (quiet, frames) in enumerate(zip(silent, durations, strict=True)):
        end = frame + int(frames)
        if inside and not quiet:
            found[-1] = found[-1]._replace(last_symbol=k + 1, last_frame=end)
        elif not quiet:
            found.append(Span(k, k + 1, frame, end))
        frame, inside = end, not quiet
    return found


def timed(said: Sequence[str], symbols: Sequence[str], frames: npt.NDArray[np.int64], fps: float) -> list[Word]:
    """Words with times, from the frames of their symbols.

    Args:
        said: W words.
        symbols: `Tokenizer.symbols` of them, L.
        frames: (L,) frames of each.
        fps: Frames a second.

    Returns:
        The words with the silence before and after; silences between words that last no frame are left out.
    """
    found, begin, spoken_words = list[Word](), 0, iter(said)
    ends = np.cumsum(frames).tolist()
    for k, symbol in enumerate(symbols):
        if symbol != text.SILENCE:
            continue
        first = ends[k] - int(frames[k])
        if k:
            found.append(Word(begin / fps, first / fps, next(spoken_words)))
        if ends[k] > first:
            found.append(Word(first / fps, ends[k] / fps, "sil" if k in (0, len(symbols) - 1) else "sp"))
        begin = ends[k]
    return found


def speech_frames(words: Sequence[Word], n_frames: int, fps: float) -> tuple[int, int]:
    """First frame of speech and the frame after its last, by frame centers, as in `durations`.

    Returns:
        Two numbers in 0..n_frames; (0, n_frames) if no frame of the clip lies in a word.
    """
    said = spoken(words)
    if not said:
        return 0, n_frames
    span = np.array([said[0].start, said[-1].end])
    first, last = np.searchsorted(_centers(n_frames, fps), span - _EPSILON).tolist()
    return (first, last) if first < last else (0, n_frames)


def word_frames(words: Sequence[Word], n_frames: int, fps: float) -> list[tuple[str, int, int]]:
    """Frames of each spoken word, by frame centers, as in `durations`.

    Returns:
        The word, its first frame and the frame after its last, equal where no frame's center lies in the word.
    """
    said = spoken(words)
    edges = np.array([(word.start, word.end) for word in said]).reshape(-1, 2)
    frames = np.searchsorted(_centers(n_frames, fps), edges - _EPSILON)  # (W, 2)
    return [(word.word, first, last) for word, (first, last) in zip(said, frames.tolist(), strict=True)]


_EPSILON: Final = 1e-6  # seconds: a frame center on a word's edge belongs to what follows, whatever the rounding


def _centers(n_frames: int, fps: float) -> npt.NDArray[np.float64]:
    return np.asarray((np.arange(n_frames) + 0.5) / fps, np.float64)
