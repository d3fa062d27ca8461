"""Broken sound and broken word times, found by comparing the two.

All thresholds are own choices. The values beside them are the extremes over 963 GRID clips of 13 speakers that count as
whole; those of word times alone are the extremes over all 34,000 alignment files of GRID.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from lipbench.data.frame_checks import longest
from lipbench.media import alignment

_SHORTEST: Final = 0.02  # s of a word; from 0.04 on
_FASTEST: Final = 0.06  # s of a word in the mean over a clip; from 0.10 on
_LONGEST: Final = 3.0  # s of a word; up to 1.84
_GAP: Final = 0.1  # s between the ends of picture and sound; up to 0.035
_SILENT: Final = 1e-3  # peak of the sound without its mean, full scale 1; from 0.87 on
_OFFSET: Final = 0.5  # mean of the sound in units of its standard deviation; up to 0.06
_CREST: Final = 2.2  # peak of the sound in units of its root mean square; from 3.5 on
_RANGE: Final = 10.0  # dB between quiet (5th percentile) and loud (95th) windows; from 29 on
_HEARD: Final = 0.85  # share of the words in which something is loud; 1
_BREAK: Final = 0.5  # s without any sound between first and last word; 0
_INSIDE: Final = 0.35  # share of the loud windows that lie between first and last word; from 0.61 on


def words_problem(words: Sequence[alignment.Word]) -> str | None:
    """What is wrong with word times that read well: nobody speaks so fast or so slowly.

    Args:
        words: From `alignment.read_align`, silences included.

    Returns:
        A phrase for a person; None if nothing is wrong.
    """
    said = alignment.spoken(words)
    lengths = [word.end - word.start for word in said]
    for word, length in zip(said, lengths, strict=True):
        if not _SHORTEST <= length <= _LONGEST:
            return f"the alignment gives {word.word!r} {length:.3f} s"
    if sum(lengths) < _FASTEST * len(said):
        return f"the alignment puts {len(said)} words into {sum(lengths):.2f} s"
    return None


def problem(
    samples: npt.NDArray[np.floating], rate: int, words: Sequence[alignment.Word], seconds: float
) -> str | None:
    """What is wrong with the sound of a clip, by itself and beside its words.

    Args:
        samples: (S,) mono in [-1, 1].
        rate: Samples a second.
        words: Word times, silences included; empty where they are unknown, and then only the sound is looked at.
        seconds: Length of the picture.

    Returns:
        A phrase for a person; None if nothing is wrong.
    """
    length = len(samples) / rate
    if not np.isfinite(samples).all():
        return "the sound holds numbers that are none (NaN or infinite)"
    if abs(length - seconds) > _GAP:
        return f"picture and sound differ in length: {seconds:.2f} s of picture, {length:.2f} s of sound"
    values: npt.NDArray[np.float64] = np.asarray(samples, np.float64)
    mean, spread = float(values.mean()), float(values.std())
    if np.abs(values - mean).max() < _SILENT:
        return "the sound is silent throughout" if abs(mean) < _SILENT else "the sound is one constant value"
    if abs(mean) > _OFFSET * spread:
        return f"the sound lies off its zero line (mean {mean:.2f}, standard deviation {spread:.2f})"
    loud, times = _loudness(values, rate)
    quiet, most = np.percentile(loud, [5, 95])
    if most - quiet < _RANGE:
        return f"nobody speaks: the sound is equally loud throughout (within {most - quiet:.0f} dB)"
    if (peak := np.abs(values).max()) < _CREST * spread:
        return f"the sound is clipped throughout (its peak is {peak / spread:.1f} times its root mean square)"
    said = alignment.spoken(words)
    if not said:
        return None
    speaks = loud > quiet + 0.4 * (most - quiet)  # as `audio.speech_span` says
    heard = [bool(speaks[(times > word.start - 0.02) & (times < word.end + 0.02)].any()) for word in said]
    if np.mean(heard) < _HEARD:
        return f"the sound is quiet in {len(said) - sum(heard)} of {len(said)} words of the alignment"
    nothing = np.abs(values[round(said[0].start * rate) : round(said[-1].end * rate)]) < _SILENT / 10
    first, last = longest(nothing)
    if last - first > _BREAK * rate:
        return f"the sound breaks off for {(last - first) / rate:.2f} s between first and last word"
    inside = (times > said[0].start) & (times < said[-1].end)
    share = (speaks & inside).sum() / max(speaks.sum(), 1)
    if share < _INSIDE:
        return f"only {share:.0%} of what is loud lies between first and last word of the alignment"
    return None


def _loudness(samples: npt.NDArray[np.float64], rate: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(W,) dB of the pre-emphasized sound in windows of 25 ms every 10 ms, and (W,) s of their centers."""
    window, hop = round(0.025 * rate), round(0.01 * rate)
    emphasized = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    energy = np.concatenate([[0.0], np.cumsum(emphasized**2)])
    starts = np.arange(0, max(len(samples) - window, 0) + 1, hop)
    ends = np.minimum(starts + window, len(samples))
    return 10 * np.log10((energy[ends] - energy[starts]).clip(0) / window + 1e-10), (starts + window / 2) / rate
