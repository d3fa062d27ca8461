"""Video files to RGB frames and back, with PyAV.

Only this file and `audio` open media files. Errors are `ValueError` or `FileNotFoundError` with one line that a person
understands; PyAV's own exceptions do not leave it.
"""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import av
    import av.container
    from av.video.reformatter import VideoReformatter

Frame = npt.NDArray[np.uint8]
"""(h, w, 3) RGB."""

_MPEG1_QUANTISER: Final = 3
# MPEG-1 knows these rates only (ISO 11172-2, table of picture_rate).
_MPEG1_RATES: Final = (
    Fraction(24000, 1001),
    *map(Fraction, (24, 25)),
    Fraction(30000, 1001),
    *map(Fraction, (30, 50, 60)),
)


@dataclass(frozen=True)
class Video:
    """Decoded frames.

    Args:
        frames: T frames (h, w, 3) uint8 RGB, all of one size, upright.
        fps: Frames a second of `frames`.
        source_fps: Frames a second of the file, measured from its timestamps.
        start: Seconds at which the first frame is shown, on the file's clock, which its sound shares.
    """

    frames: list[Frame]
    fps: float
    source_fps: float
    start: float


@dataclass(frozen=True)
class _Codecs:
    container: str
    video: str
    pixels: str
    audio: str
    muxer: dict[str, str]


# .mpg is what GRID distributes: its files have 0.8 Mbit/s of picture; quantiser 3 gives about as much on rendered
# faces. .avi is lossless (FFV1 and PCM), for intermediate files that are judged later. Own choices.
_BY_SUFFIX: Final = {
    ".mp4": _Codecs("mp4", "libx264", "yuv420p", "aac", {"movflags": "+faststart"}),
    ".mpg": _Codecs("mpeg", "mpeg1video", "yuv420p", "mp2", {}),
    ".avi": _Codecs("avi", "ffv1", "bgr0", "pcm_s16le", {}),
}


@contextmanager
def opened(path: Path) -> "Iterator[av.container.InputContainer]":
    """Open a media file for reading, with plain errors for files that are none.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is empty, a folder, or no media file; or decoding fails inside the `with` block.
    """
    import av

    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name} is empty (0 bytes)")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise ValueError(f"{path.name} is no video or sound file, or its head is damaged ({_reason(error)})") from error
    with container:
        try:
            yield container
        except av.error.FFmpegError as error:
            raise ValueError(f"{path.name} is damaged: decoding broke off ({_reason(error)})") from error


def picture_stream(container: "av.container.InputContainer") -> "av.VideoStream | None":
    """The moving pictures of an open file; cover pictures of sound files are none."""
    from av.stream import Disposition

    return next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)


def read_video(path: str | Path, fps: float | None = None) -> Video:
    """Decode all frames of a file.

    Decoding runs on one thread, so that a pool of workers does not oversubscribe the machine. Rotation stored in the
    file is applied; grey, palette and transparent pictures become RGB. With `fps`, frame k of the result is the source
    frame whose timestamp is nearest to k / fps, so variable and mislabelled rates come out right.

    A file that ends early without a decoding error (a cut-off MPEG stream looks just like a shorter clip) gives the
    frames before the end; a decoding error anywhere is a `ValueError`. Pictures that are broken but decode cleanly are
    returned.

    Args:
        path: Any file that FFmpeg reads.
        fps: Frames a second wanted; None keeps the source's frames as they are.

    Returns:
        The frames with their rate.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, is no video, has no picture stream or no frames, or decoding fails; one line.
    """
    if fps is not None and not 0 < fps < 1000:
        raise ValueError(f"fps is {fps}; expected frames a second, such as 25")
    path = Path(path)
    frames: list[Frame] = []
    times: list[float | None] = []
    with opened(path) as container:
        stream = _pictures(path, container)
        for time, frame in _decoded(container, stream):
            frames.append(frame)
            times.append(time)
        labelled = float(stream.average_rate or stream.guessed_rate or 0)
    if not frames:
        raise ValueError(f"{path.name} has a picture stream but no frames in it")
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"{path.name} changes its picture size on the way: {sorted({f.shape[:2] for f in frames})}")
    clock, source_fps = _clock(times, labelled)
    if fps is None:
        return Video(frames, source_fps, source_fps, times[0] or 0.0)
    chosen = [frames[k] for k in _nearest(clock, source_fps, fps)]
    return Video(chosen, float(fps), source_fps, times[0] or 0.0)


def head(path: Path) -> tuple[float, float | None]:
    """Frames a second of a video and its seconds as its head says them; None if it says no length.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no video.
    """
    with opened(path) as container:
        stream = _pictures(path, container)
        return _labelled_rate(stream), container.duration / 1e6 if container.duration else None


def stream_video(path: Path, fps: float) -> Iterator[Frame]:
    """The frames that `read_video(path, fps)` gives, one at a time: memory does not grow with the file.

    That one knows all timestamps before it chooses; here a missing or backward one is set one frame after the last.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has no frames, they change their size, or decoding fails.
    """
    with opened(path) as container:
        stream = _pictures(path, container)
        step = 1 / _labelled_rate(stream)
        last: tuple[float, Frame] | None = None
        start, made = 0.0, 0
        for shown, frame in _decoded(container, stream):
            if last is None:
                start = shown or 0.0
                last = 0.0, frame
                continue
            if frame.shape != last[1].shape:
                raise ValueError(
                    f"{path.name} changes its picture size on the way: {last[1].shape[:2]}, {frame.shape[:2]}"
                )
            time = math.inf if shown is None else shown - start
            time = time if last[0] < time < math.inf else last[0] + step
            while made / fps <= (last[0] + time) / 2 + 1e-6:  # the earlier one of two equally near
                yield last[1]
                made += 1
            last = time, frame
        if last is None:
            raise ValueError(f"{path.name} has a picture stream but no frames in it")
        for _ in range(max(1, round((last[0] + step) * fps)) - made):
            yield last[1]


def _pictures(path: Path, container: "av.container.InputContainer") -> "av.VideoStream":
    """The moving pictures of an open file, to be decoded on one thread; an error if there are none."""
    stream = picture_stream(container)
    if stream is None:
        raise ValueError(f"{path.name} has no picture stream{' (sound only)' if container.streams.audio else ''}")
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def _labelled_rate(stream: "av.VideoStream") -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)  # 25 is FFmpeg's own assumption for raw streams


def _decoded(
    container: "av.container.InputContainer", stream: "av.VideoStream"
) -> Iterator[tuple[float | None, Frame]]:
    """Seconds on the file's clock, None where no time is stored, and upright pictures, one after another."""
    from av.video.reformatter import VideoReformatter

    converter = VideoReformatter()  # one for all frames: a new one for each costs as much as decoding
    for picture in container.decode(stream):
        rgb = np.asarray(_rgb(converter, picture).to_ndarray(), np.uint8)
        turns = round(picture.rotation / 90) % 4  # counter-clockwise
        # contiguous: the decoder pads its rows, and dlib silently misreads pictures with padded rows
        frame = np.ascontiguousarray(np.rot90(rgb, turns))
        yield None if picture.pts is None or picture.time_base is None else picture.time, frame


def _rgb(converter: "VideoReformatter", picture: "av.VideoFrame") -> "av.VideoFrame":
    """The frame as RGB, chroma interpolated bilinearly, rounded to the nearest level.

    FFmpeg's default repeats chroma and truncates: 1.1 levels too dark in the mean. These flags together are within
    0.02 levels of the exact conversion; ACCURATE_RND without FULL_CHR_H_INT is worse than the default.
    """
    from av.video.reformatter import Interpolation

    exact = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
    return converter.reformat(picture, format="rgb24", interpolation=exact, threads=1)


def _clock(times: list[float | None], labelled: float) -> tuple[npt.NDArray[np.float64], float]:
    """Seconds of every frame from the first one on, and the rate they show.

    The labelled rate stands where the mean or the median step between timestamps agrees with it within 2 % (timestamps
    may be rounded to milliseconds, and frames may be lost); otherwise it is the mean.
    """
    known = [t for t in times if t is not None]
    if len(known) < len(times) or any(b <= a for a, b in pairwise(known)):
        rate = labelled or 25.0  # raw streams carry no timestamps; 25 is FFmpeg's own assumption for them
        return np.arange(len(times)) / rate, rate
    clock = np.array(known) - known[0]
    if len(clock) == 1:
        return clock, labelled or 25.0
    mean, median = (len(clock) - 1) / float(clock[-1]), 1 / float(np.median(np.diff(clock)))
    return clock, labelled if min(abs(labelled / mean - 1), abs(labelled / median - 1)) < 0.02 else mean


def _nearest(clock: npt.NDArray[np.float64], source_fps: float, fps: float) -> npt.NDArray[np.int64]:
    """Index of the source frame nearest in time to each target frame; the earlier one of two equally near."""
    count = max(1, round((float(clock[-1]) + 1 / source_fps) * fps))
    wanted = np.arange(count) / fps
    between = (clock[1:] + clock[:-1]) / 2
    return np.searchsorted(between + 1e-6, wanted).astype(np.int64)


def write_video(
    path: str | Path,
    frames: Iterable[Frame],
    fps: float,
    audio: npt.NDArray[np.floating] | None = None,
    sample_rate: int | None = None,
    *,
    codec: str | None = None,
    crf: int = 18,
) -> None:
    """Encode frames, with sound if given; the file appears complete or not at all.

    The container follows the suffix: .mp4 (H.264 + AAC), .mpg (MPEG-1 + MP2, as GRID is distributed), .avi (lossless
    FFV1 + PCM). H.264 and MPEG-1 need even sizes: an odd last row or column is repeated. Sound is cut or filled with
    silence to the length of the picture. The same input gives the same bytes, in every process and at every call.

    Args:
        path: File to write; it is replaced if present.
        frames: (h, w, 3) uint8 RGB each, all of one size; an array (T, h, w, 3) or any iterable.
        fps: Frames a second.
        audio: (S,) float mono in [-1, 1].
        sample_rate: Samples a second of `audio`.
        codec: Another FFmpeg picture encoder in the same container, such as "mpeg4".
        crf: Constant rate factor of H.264, 0 (lossless) to 51.

    Raises:
        ValueError: Unknown suffix or codec, no frames, wrong shape or type, a rate that the container cannot hold.
    """
    path = Path(path)
    if not 0 < fps < 1000:
        raise ValueError(f"fps is {fps}; expected frames a second, such as 25")
    codecs = _BY_SUFFIX.get(path.suffix.lower())
    if codecs is None:
        raise ValueError(f"cannot write {path.name}: the suffix must be one of {', '.join(_BY_SUFFIX)}")
    if (audio is None) != (sample_rate is None):
        raise ValueError("give audio and sample_rate together, or neither")
    rate = Fraction(fps).limit_denominator(1001)
    if codecs.container == "mpeg" and codec in (None, "mpeg1video"):
        rate = min(_MPEG1_RATES, key=lambda r: abs(r - rate))
        if abs(float(rate) - fps) > 0.01:
            allowed = ", ".join(f"{float(r):g}" for r in _MPEG1_RATES)
            raise ValueError(f"MPEG-1 has no {fps:g} frames a second; it has {allowed}")
    stream_of_frames = iter(frames)
    first = next(stream_of_frames, None)
    if first is None:
        raise ValueError(f"no frames to write to {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _encode(aside, codecs, codec, rate, crf, first, stream_of_frames, audio, sample_rate)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _encode(
    path: Path,
    codecs: _Codecs,
    codec: str | None,
    rate: Fraction,
    crf: int,
    first: Frame,
    rest: Iterator[Frame],
    audio: npt.NDArray[np.floating] | None,
    sample_rate: int | None,
) -> None:
    import av

    shape = _checked(first, first.shape).shape
    encoder, pixels = codecs.video, codecs.pixels
    try:
        if codec is not None:
            encoder, pixels = codec, (av.codec.Codec(codec, "w").video_formats or [])[0].name
    except (av.codec.codec.UnknownCodecError, IndexError):
        raise ValueError(f"FFmpeg has no picture encoder {codec!r}; H.264 is 'libx264', MPEG-4 'mpeg4'") from None
    height, width = (side + side % 2 if "420" in pixels else side for side in shape[:2])
    options = {"threads": "1"}
    if encoder == "libx264":
        options |= _x264(crf)
    elif encoder == "mpeg1video":
        options |= {"flags": "+qscale", "global_quality": str(_MPEG1_QUANTISER * 118)}  # 118 is FFmpeg's FF_QP2LAMBDA
    try:
        muxer = {**codecs.muxer, "fflags": "+bitexact"}  # no dates or versions in the file
        with av.open(str(path), "w", format=codecs.container, options=muxer) as container:
            stream: Any = container.add_stream(encoder, rate=rate, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, pixels
            sound = None
            if audio is not None and sample_rate is not None:
                sound = _Sound(container, codecs.audio, audio, sample_rate)
            for k, frame in enumerate(chain([first], rest)):
                even = np.pad(_checked(frame, shape), ((0, height - shape[0]), (0, width - shape[1]), (0, 0)), "edge")
                picture = av.VideoFrame.from_ndarray(even, format="rgb24")
                picture.pts, picture.time_base = k, 1 / rate
                container.mux(stream.encode(picture))
                if sound is not None:
                    sound.write_until((k + 1) / rate)  # alternating, as MPEG program streams require
            container.mux(stream.encode(None))
            if sound is not None:
                sound.close()
    except av.error.FFmpegError as error:
        raise ValueError(f"cannot encode with {encoder} into {codecs.container}: {_reason(error)}") from error


def _x264(crf: int) -> dict[str, str]:
    """Options with which libx264 gives the same bytes for the same frames, whatever the memory and the machine.

    Its AVX2 and AVX-512 code gives other bytes where a buffer lies at another address (measured: the same frames encoded
    six times in one process gave six files). Up to SSE2 it is stable, and equal to its plain C code, at the same speed.
    """
    return {"crf": str(crf), "x264-params": "asm=SSE2"}


def reencode(frames: npt.NDArray[np.uint8], fps: float, crf: int = 23) -> npt.NDArray[np.uint8]:
    """What H.264 leaves of frames: the pixels of `write_video` to .mp4 and `read_video`, without a file.

    The same frames give the same pixels, in every process and at every call.

    Args:
        frames: (T, h, w, 3) RGB, of even height and width.
        fps: Frames a second.
        crf: Constant rate factor, 0 (lossless) to 51; FFmpeg's default is 23.

    Returns:
        (T, h, w, 3) RGB.

    Raises:
        ValueError: Wrong shape or type, or the encoder refuses.
    """
    import av
    from av.video.reformatter import VideoReformatter

    rate = Fraction(fps).limit_denominator(1001)
    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = frames.shape[1:3]
    encoder.pix_fmt, encoder.framerate, encoder.time_base = "yuv420p", rate, 1 / rate
    encoder.options = {"threads": "1"} | _x264(crf)
    decoder: Any = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    converter = VideoReformatter()
    found: list[Frame] = []
    try:
        for k in range(len(frames) + 1):
            picture = None  # the end: what the encoder holds back comes out
            if k < len(frames):
                picture = av.VideoFrame.from_ndarray(_checked(frames[k], frames.shape[1:]), format="rgb24")
                picture.pts, picture.time_base = k, 1 / rate
            packets = encoder.encode(picture)
            shown = [decoded for packet in packets for decoded in decoder.decode(packet)]
            shown += decoder.decode(None) if picture is None else []
            for decoded in shown:
                found.append(np.asarray(_rgb(converter, decoded).to_ndarray(), np.uint8))
    except av.error.FFmpegError as error:
        raise ValueError(f"cannot encode with libx264: {_reason(error)}") from error
    return np.stack(found) if found else frames.copy()


class _Sound:
    """The sound stream of a file being written: mono samples, silence after their end."""

    def __init__(
        self,
        container: "av.container.OutputContainer",
        codec: str,
        samples: npt.NDArray[np.floating],
        sample_rate: int,
    ) -> None:
        import av

        self.samples = np.asarray(samples, np.float32)
        if self.samples.ndim != 1:
            raise ValueError(f"audio has shape {self.samples.shape}; expected (samples,), mono")
        supported = av.codec.Codec(codec, "w").audio_rates  # None for PCM, which takes any
        # AAC and MP2 end on whole blocks of about 1100 samples: at 32 kHz or more that is less than a frame of picture
        kept = sample_rate if not supported or (sample_rate in supported and sample_rate >= 32000) else 48000
        self.container, self.sample_rate, self.done = container, sample_rate, 0
        self.stream: Any = container.add_stream(codec, rate=kept, layout="mono")  # resamples what it is given

    def write_until(self, seconds: Fraction) -> None:
        import av

        end = round(seconds * self.sample_rate)
        block = np.zeros((1, end - self.done), np.float32)
        piece = self.samples[self.done : end]
        block[0, : len(piece)] = np.clip(piece, -1, 1)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = self.sample_rate, self.done, Fraction(1, self.sample_rate)
        self.container.mux(self.stream.encode(frame))
        self.done = end

    def close(self) -> None:
        self.container.mux(self.stream.encode(None))


def _checked(frame: Frame, shape: tuple[int, ...]) -> Frame:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"a frame is {frame.shape} {frame.dtype}; expected (height, width, 3) uint8 RGB")
    if frame.shape != shape:
        raise ValueError(f"frames differ in size: {frame.shape[:2]} after {shape[:2]}")
    return frame


def _reason(error: Exception) -> str:
    """FFmpeg's words without error number and path."""
    text = getattr(error, "strerror", None) or str(error)
    return f"{text[:1].lower()}{text[1:]}"
