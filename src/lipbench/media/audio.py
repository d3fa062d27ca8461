"""Sound files to mono samples, resampling, and the arithmetic between frames and samples."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lipbench.media.video import opened, picture_stream

Samples = npt.NDArray[np.float32]
"""(S,) mono in [-1, 1]."""


def read_audio(path: str | Path, rate: int | None = None, *, start: float | None = None) -> tuple[Samples, int]:
    """Decode the sound of a file to mono, sample 0 at the time of the first picture.

    Channels are averaged. Where the sound stream starts later than the pictures, silence is put before it; where it
    starts earlier, its beginning is cut; so frame k of the same file lies at `frame_to_sample(k, ...)`.

    Args:
        path: A sound file, or a video with sound; any container that FFmpeg reads.
        rate: Samples a second wanted; None keeps those of the file.
        start: `Video.start` of the same file if it was read already; otherwise its first picture is decoded here.

    Returns:
        (S,) float32 in [-1, 1], and samples a second.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, cannot be decoded, or has no sound.
    """
    import av

    path = Path(path)
    blocks: list[Samples] = []
    have, lead = 0, 0.0
    with opened(path) as container:
        if not container.streams.audio:
            raise ValueError(f"{path.name} has no sound")
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1
        to_planes = None
        for frame in container.decode(stream):
            if to_planes is None:
                have = frame.sample_rate
                to_planes = av.AudioResampler(format="fltp")  # sample type only; mixing and rate are done here
                if picture_stream(container) is not None and frame.time is not None:
                    lead = frame.time - (_first_picture(path) if start is None else start)
            planes = [part.to_ndarray() for part in to_planes.resample(frame)]  # (channels, s) each
            blocks += [part[0] if len(part) == 1 else part.mean(0) for part in planes]
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if len(samples) == 0:
        raise ValueError(f"{path.name} has a sound stream but no samples in it")
    shift = round(lead * have)
    samples = np.pad(samples, (shift, 0)) if shift > 0 else samples[-shift:]
    if rate is not None:
        samples, have = resample(samples, have, rate), rate
    return np.clip(samples, -1, 1, dtype=np.float32), have


def _first_picture(path: Path) -> float:
    """Seconds at which the first picture of a file is shown; some MPEG files do not say it in their header."""
    with opened(path) as container:
        for picture in container.decode(container.streams.video[0]):
            return picture.time or 0.0
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

    Loudness of the pre-emphasised sound in windows of 25 ms every 10 ms; a window speaks if it lies above 40 % of the
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
    emphasised = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    energy = np.concatenate([[0.0], np.cumsum(emphasised**2)])
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
