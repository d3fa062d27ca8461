"""Sound files to mono samples, resampling, and the arithmetic between frames and samples."""

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from lipbench.media.decoding import audio_stream, frame_stream, opened, picture_stream
from lipbench.media.timeline import LONGEST_HOLE, RESTART

if TYPE_CHECKING:
    import av
    import av.container

Samples = npt.NDArray[np.float32]
"""(S,) mono in [-1, 1]."""

_APART: Final = 0.01  # seconds: less is the rounding of timestamps, a lost packet of any codec is more. Own choice
_LOUDEST: Final = 100.0  # full scale is 1; 16-bit values stored as floats reach 32768. Own choice


@dataclass
class _Block:
    """What a decoded audio frame holds: `samples` at `rate`, at `time` seconds on the file's clock if it says one."""

    time: float | None
    rate: int
    samples: Samples


@dataclass
class _Part:
    """Samples of one rate in a row, from `start` seconds after the first sample of the file on."""

    start: float
    rate: int
    blocks: list[Samples] = field(default_factory=list)
    count: int = 0

    @property
    def end(self) -> float:
        return self.start + self.count / self.rate

    def add(self, samples: Samples) -> None:
        self.blocks.append(samples)
        self.count += len(samples)


def read_audio(path: str | Path, rate: int | None = None, *, start: float | None = None) -> tuple[Samples, int]:
    """Decode the audio of a file to mono, sample 0 at the time of the first frame.

    Channels are averaged. Of several streams it is the one marked as the default, else the one that FFmpeg takes for
    the best. Samples lie where their timestamps say, to 10 ms: a hole becomes silence, of what overlaps the earlier
    samples stay, a clock that starts again goes on. Where the audio starts later than the frames, silence is put before
    it; where it starts earlier, its beginning is cut; so frame k of the same file lies at `frame_to_sample(k, ...)`.

    Args:
        path: A sound file, or a video with sound; any container that FFmpeg reads.
        rate: Samples a second wanted; None keeps those of the file, the highest one if it changes on the way.
        start: `Video.start` of the same file if it was read already; otherwise its first frame is decoded here.

    Returns:
        (S,) float32 in [-1, 1], and samples a second.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, cannot be decoded, has no sound, or samples that are not finite or far beyond
            full scale.
    """
    path = Path(path)
    lead = 0.0
    with opened(path) as container:
        blocks = _decoded(container, audio_stream(path, container))
        if blocks and blocks[0].time is not None and picture_stream(container) is not None:
            lead = blocks[0].time - (_first_frame(path) if start is None else start)
    if sum(len(block.samples) for block in blocks) == 0:
        raise ValueError(f"{path.name} has a sound stream but no samples in it")
    samples, have = _joined(_placed(blocks, path.name), rate)
    bad = np.flatnonzero(~np.isfinite(samples))
    if len(bad):
        raise ValueError(
            f"the sound of {path.name} holds values that are not finite (NaN or infinity): {len(bad)} of "
            f"{len(samples)}, the first at {bad[0] / have:.3f} s; mend it or write it anew"
        )
    if (peak := float(np.abs(samples).max())) > _LOUDEST:
        raise ValueError(
            f"the sound of {path.name} has a peak of {peak:.5g}, full scale being 1: are these integers stored as "
            "floats? Divide them by 32768"
        )
    shift = round(lead * have)
    samples = np.pad(samples, (shift, 0)) if shift > 0 else samples[-shift:]
    if rate is not None:
        samples, have = resample(samples, have, rate), rate
    return np.clip(samples, -1, 1, dtype=np.float32), have


def _decoded(container: "av.container.InputContainer", stream: "av.AudioStream") -> list[_Block]:
    """All blocks of a stream, their channels averaged.

    Where the rate changes, FFmpeg's MP3 decoder labels a block with the rate of the one before (measured): there a
    block has the rate by which it lasts until the next.
    """
    import av

    blocks: list[_Block] = []
    to_planes, layout = None, None
    for frame in container.decode(stream):
        if to_planes is None or layout != (frame.layout.name, frame.format.name, frame.sample_rate):
            layout = frame.layout.name, frame.format.name, frame.sample_rate
            to_planes = av.AudioResampler(format="fltp")  # sample type only; mixing and rate are done here
        planes = [part.to_ndarray() for part in to_planes.resample(frame)]  # (channels, s) each
        mono = [part[0] if len(part) == 1 else part.mean(0) for part in planes]
        if mono:
            samples = mono[0] if len(mono) == 1 else np.concatenate(mono)
            blocks.append(_Block(frame.time, frame.sample_rate, samples))
    for block, following in pairwise(blocks):
        if block.rate != following.rate and block.time is not None and following.time is not None:
            lasts, count = following.time - block.time, len(block.samples)
            block.rate = min(block.rate, following.rate, key=lambda rate: abs(count / rate - lasts))
    return blocks


def _placed(blocks: list[_Block], name: str) -> list[_Part]:
    """Blocks at the times that they say, in parts of one rate each.

    Raises:
        ValueError: A hole of more than `LONGEST_HOLE` seconds.
    """
    parts = [_Part(0.0, blocks[0].rate)]
    origin: float | None = None  # where the file's clock is at the first sample
    for block, following in pairwise([*blocks, None]):
        assert block is not None
        end = parts[-1].end
        samples = block.samples
        if origin is None and block.time is not None:
            origin = block.time - end
        late = 0.0 if origin is None or block.time is None else block.time - origin - end
        if abs(late) > _APART and following is not None and following.time is not None and origin is not None:
            then = following.time - origin - end - len(samples) / block.rate
            late = 0.0 if abs(then) <= _APART else late  # only this one's time is wrong
        if late > LONGEST_HOLE:
            raise ValueError(f"{name} has a sound whose timestamps jump by {late:.0f} seconds: they are damaged")
        if late < -RESTART:
            assert origin is not None
            origin += late
        elif late < -_APART:
            samples = samples[round(-late * block.rate) :]
        if block.rate != parts[-1].rate:
            parts.append(_Part(end + max(late, 0.0), block.rate))
        elif late > _APART:
            parts[-1].add(np.zeros(round(late * block.rate), np.float32))
        parts[-1].add(samples)
    return parts


def _joined(parts: list[_Part], rate: int | None) -> tuple[Samples, int]:
    """One row of samples, at the rate of all parts; where they differ, at `rate` or the highest of theirs."""
    rows = [np.concatenate(part.blocks) if part.blocks else np.zeros(0, np.float32) for part in parts]
    if len(parts) == 1:
        return rows[0], parts[0].rate
    common = rate or max(part.rate for part in parts)
    out = np.zeros(max(round(part.end * common) for part in parts), np.float32)
    for part, row in zip(parts, rows, strict=True):
        first = round(part.start * common)
        piece = resample(row, part.rate, common)[: len(out) - first]
        out[first : first + len(piece)] = piece
    return out, common


def _first_frame(path: Path) -> float:
    """Seconds at which the first frame of a file is shown; some MPEG files do not say it in their head."""
    with opened(path) as container:
        for frame in container.decode(frame_stream(path, container)):
            return frame.time or 0.0
    return 0.0


def resample(samples: npt.NDArray[np.floating], have: int, want: int) -> Samples:
    """Change the sampling rate with a band-limited filter (soxr, high quality, linear phase).

    Args:
        samples: (S,) mono.
        have: Samples a second of `samples`.
        want: Samples a second wanted.

    Returns:
        (round(S * want / have),) float32.

    Raises:
        ValueError: A rate is not positive, or `samples` is not mono.
    """
    if have <= 0 or want <= 0:
        raise ValueError(f"cannot resample from {have} to {want} samples a second; both must be positive")
    samples = np.asarray(samples, np.float32)
    if samples.ndim != 1:
        raise ValueError(f"samples have shape {samples.shape}; expected (samples,), mono")
    if have == want or len(samples) == 0:
        return samples
    import soxr

    count = round(len(samples) * Fraction(want, have))
    out: Samples = np.asarray(soxr.resample(samples, have, want), np.float32)
    return np.pad(out[:count], (0, max(0, count - len(out))))


def frame_to_sample(frame: int, rate: int, fps: float) -> int:
    """First sample of a frame: frame k covers samples round(k * rate / fps) up to round((k + 1) * rate / fps).

    No whole number of samples a frame is assumed (29.97 frames a second has none).
    """
    return round(frame * rate / fps)


def speech_span(samples: npt.NDArray[np.floating], rate: int) -> tuple[float, float] | None:
    """Where somebody speaks, from loudness, for clips without word times.

    Loudness of the pre-emphasized sound in windows of 25 ms every 10 ms; a window speaks if it lies above 40 % of the
    way, in dB, from the quiet (5th percentile) to the loud (95th) windows. Stretches less than 0.15 s apart are one;
    stretches with less than a fifth of the strongest one's sound are clicks and breaths, left out at both ends. On 62
    GRID clips of 13 speakers the two ends lie 0.07 s (mean) from those of the alignment files; librosa's `trim` is off
    by half a second there (clicks, hum). Own choice.

    Args:
        samples: (S,) mono in [-1, 1].
        rate: Samples a second.

    Returns:
        Start and end in seconds; None if loud and quiet windows differ by less than 10 dB: silence, or even noise.
    """
    window, hop = round(0.025 * rate), round(0.01 * rate)
    samples = np.asarray(samples, np.float64)
    if len(samples) <= window:
        return None
    emphasized = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    energy = np.concatenate([[0.0], np.cumsum(emphasized**2)])
    starts = np.arange(0, len(samples) - window + 1, hop)
    loudness = 10 * np.log10((energy[starts + window] - energy[starts]).clip(0) / window + 1e-10)  # (W,) dB
    quiet, loud = np.percentile(loudness, [5, 95])
    if loud - quiet < 10:
        return None
    speaks = loudness > quiet + 0.4 * (loud - quiet)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], speaks, [False]]).astype(int))).reshape(-1, 2)
    stretches: list[tuple[int, int]] = []
    for first, last in edges.tolist():
        if stretches and (first - stretches[-1][1]) * hop < 0.15 * rate:
            stretches[-1] = (stretches[-1][0], last)
        else:
            stretches.append((first, last))
    strength = [float((loudness[a:b] - quiet).clip(0).sum()) for a, b in stretches]
    kept = [stretch for stretch, s in zip(stretches, strength, strict=True) if s >= max(strength) / 5]
    return kept[0][0] * hop / rate, ((kept[-1][1] - 1) * hop + window) / rate
