"""Video files to RGB frames and back, with PyAV.

Errors are `ValueError` or `FileNotFoundError` with one line that a person understands; PyAV's own exceptions do not
leave it.
"""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from lipbench.media import decoding, timeline
from lipbench.media.decoding import Shown, opened, reason
from lipbench.media.images import Frame as Frame

if TYPE_CHECKING:
    import av
    import av.container
    from av.video.reformatter import VideoReformatter

_MPEG1_QUANTIZER: Final = 3
_BT709, _BT601, _LIMITED = 1, 6, 1  # FFmpeg's AVCOL_SPC_BT709, AVCOL_SPC_SMPTE170M, AVCOL_RANGE_MPEG
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
        times: (T,) seconds from the first frame at which the file shows `frames`, where they do not lie at a constant
            rate: repeated frames have one time. None where frame k simply is the file's k-th.
    """

    frames: list[Frame]
    fps: float
    source_fps: float
    start: float
    times: timeline.Clock | None = None


@dataclass(frozen=True)
class _Codecs:
    container: str
    video: str
    pixels: str
    audio: str
    muxer: dict[str, str]


# .mpg is what GRID distributes: its files have 0.8 Mbit/s of picture; quantizer 3 gives about as much on rendered
# faces. .avi is lossless (FFV1 and PCM), for intermediate files that are judged later. Own choices.
_BY_SUFFIX: Final = {
    ".mp4": _Codecs("mp4", "libx264", "yuv420p", "aac", {"movflags": "+faststart"}),
    ".mpg": _Codecs("mpeg", "mpeg1video", "yuv420p", "mp2", {}),
    ".avi": _Codecs("avi", "ffv1", "bgr0", "pcm_s16le", {}),
}
SUFFIXES: Final = tuple(_BY_SUFFIX)
"""Ends of the names that `write_video` can write."""


def read_video(path: str | Path, fps: float | None = None, times: timeline.Clock | None = None) -> Video:
    """Decode all frames of a file onto a constant time line.

    Frame k of the result is the source frame whose timestamp is nearest to k / fps, so variable and mislabeled rates
    come out right. Without `fps` the rate is the one that the timestamps show (`timeline.rate_of`): where it is
    constant, these are the source's own frames, each once; where it is variable, or frames are lost, some are repeated.

    Frames are as shown: rotation and mirroring stored in the file are applied, non-square pixels are made square by
    scaling the width, interlaced fields are joined, gray, palette and deep ones become 8-bit RGB, transparent ones
    are mixed with white. Decoding runs on one thread, so that a pool of workers does not oversubscribe the machine.

    A file that ends early without a decoding error (a cut-off MPEG stream looks just like a shorter clip) gives the
    frames before the end; a decoding error anywhere is a `ValueError`. Pictures that are broken but decode cleanly are
    returned.

    Args:
        path: Any file that FFmpeg reads.
        fps: Frames a second wanted; None takes the source's.
        times: With `fps`: `Video.times` of another file. Frame k then is the one nearest to its time k, so that two
            files show the same instants where one of them lacks frames.

    Returns:
        The frames with their rate.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, is no video, has no picture stream or no frames, or decoding fails; one line.
    """
    if fps is not None and not 0 < fps < 1000:
        raise ValueError(f"fps is {fps}; expected frames a second, such as 25")
    path = Path(path)
    with opened(path) as container:
        stream = decoding.frame_stream(path, container)
        labeled = _labeled_rate(stream)
        timed = list(_timed(path, decoding.frames(path, container, stream), 1 / labeled))
    clock, frames = np.array([time for time, _ in timed]), [shown.frame for _, shown in timed]
    source_fps = timeline.rate_of(clock, labeled)
    start = timed[0][1].time or 0.0
    if fps is None and timeline.is_constant(clock, source_fps):
        return Video(frames, source_fps, source_fps, start)
    shortest = float(np.diff(clock).min()) if len(clock) > 1 else 1 / labeled
    tail = max(timed[-1][1].seconds, shortest)
    chosen = timeline.nearest(clock, tail, fps or source_fps, times)
    return Video([frames[k] for k in chosen], float(fps or source_fps), source_fps, start, clock[chosen])


def head(path: Path) -> tuple[float, float | None]:
    """Frames a second of a video and its seconds as its head says them; None if it says no length.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no video.
    """
    with opened(path) as container:
        stream = decoding.frame_stream(path, container)
        return _labeled_rate(stream), container.duration / 1e6 if container.duration else None


def stream_video(path: Path, fps: float) -> Iterator[Frame]:
    """The frames that `read_video(path, fps)` gives, one at a time: memory does not grow with the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has no frames, they change their size, or decoding fails.
    """
    with opened(path) as container:
        stream = decoding.frame_stream(path, container)
        step = 1 / _labeled_rate(stream)
        timed = _timed(path, decoding.frames(path, container, stream), step)
        (time, shown), made, shortest = next(timed), 0, math.inf
        for later, following in timed:
            while made / fps <= (time + later) / 2 + 1e-6:  # the earlier one of two equally near
                yield shown.frame
                made += 1
            shortest, time, shown = min(shortest, later - time), later, following
        tail = max(shown.seconds, shortest if shortest < math.inf else step)
        for _ in range(max(1, round((time + tail) * fps)) - made):
            yield shown.frame


def _timed(path: Path, frames: Iterable[Shown], step: float) -> Iterator[tuple[float, Shown]]:
    """Seconds of every frame from the first one on, and the frame.

    Raises:
        ValueError: There are no frames, they change their size, or their timestamps are damaged.
    """
    first: Frame | None = None
    for time, shown in timeline.repaired(((shown.time, shown) for shown in frames), step, path.name):
        if first is None:
            first = shown.frame
        elif shown.frame.shape != first.shape:
            raise ValueError(
                f"{path.name} changes its picture size on the way: {[first.shape[:2], shown.frame.shape[:2]]}"
            )
        yield time, shown
    if first is None:
        raise ValueError(f"{path.name} has a picture stream but no frames in it")


def _labeled_rate(stream: "av.VideoStream") -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)  # 25 is FFmpeg's own assumption for raw streams


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
    FFV1 + PCM). H.264 and MPEG-1 need even sizes: an odd last row or column is repeated. HD (720 rows or 1280 columns,
    or more) is written in BT.709, smaller frames in BT.601, both tagged where the format has tags. Audio is cut or
    filled with silence to the length of the frames. The same input gives the same bytes, in every process and at every
    call.

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
        raise ValueError(f"cannot write {path.name}: the suffix must be one of {', '.join(SUFFIXES)}")
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
    from av.video.reformatter import VideoReformatter

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
        options |= {"flags": "+qscale", "global_quality": str(_MPEG1_QUANTIZER * 118)}  # 118 is FFmpeg's FF_QP2LAMBDA
    try:
        muxer = {**codecs.muxer, "fflags": "+bitexact"}  # no dates or versions in the file
        converter = VideoReformatter()
        with av.open(str(path), "w", format=codecs.container, options=muxer) as container:
            stream: Any = container.add_stream(encoder, rate=rate, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, pixels
            _tag(stream.codec_context)
            sound = None
            if audio is not None and sample_rate is not None:
                sound = _Sound(container, codecs.audio, audio, sample_rate)
            for k, frame in enumerate(chain([first], rest)):
                even = np.pad(_checked(frame, shape), ((0, height - shape[0]), (0, width - shape[1]), (0, 0)), "edge")
                picture = _converted(converter, even, stream.codec_context)
                picture.pts, picture.time_base = k, 1 / rate
                container.mux(stream.encode(picture))
                if sound is not None:
                    sound.write_until((k + 1) / rate)  # alternating, as MPEG program streams require
            container.mux(stream.encode(None))
            if sound is not None:
                sound.close()
    except av.error.FFmpegError as error:
        raise ValueError(f"cannot encode with {encoder} into {codecs.container}: {reason(error)}") from error


def _x264(crf: int) -> dict[str, str]:
    """Options with which libx264 gives the same bytes for the same frames, whatever the memory and the machine.

    Its AVX2 and AVX-512 code gives other bytes where a buffer lies at another address (measured: the same frames
    encoded six times in one process gave six files). Up to SSE2 it is stable, and equal to its plain C code, at the
    same speed.
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
    _tag(encoder)
    decoder: Any = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    converter, back = VideoReformatter(), VideoReformatter()
    found: list[Frame] = []
    try:
        for k in range(len(frames) + 1):
            picture = None  # the end: what the encoder holds back comes out
            if k < len(frames):
                picture = _converted(converter, _checked(frames[k], frames.shape[1:]), encoder)
                picture.pts, picture.time_base = k, 1 / rate
            packets = encoder.encode(picture)
            shown = [decoded for packet in packets for decoded in decoder.decode(packet)]
            shown += decoder.decode(None) if picture is None else []
            for decoded in shown:
                found.append(decoding.rgb(back, decoded, decoded.width))
    except av.error.FFmpegError as error:
        raise ValueError(f"cannot encode with libx264: {reason(error)}") from error
    return np.stack(found) if found else frames.copy()


def _tag(encoder: Any) -> None:  # noqa: ANN401 - a codec context of PyAV, or what stands for it
    """Let an encoder of YUV frames say its matrix and range: those that `_converted` uses."""
    if encoder.pix_fmt.startswith("yuv4"):  # yuvj is JPEG's, which is always BT.601 in full range
        hd = decoding.is_hd(encoder.height, encoder.width)
        encoder.colorspace, encoder.color_range = _BT709 if hd else _BT601, _LIMITED
        if hd:  # QuickTime wants all three; the primaries of BT.709 are those of sRGB
            encoder.color_primaries = encoder.color_trc = _BT709


def _converted(converter: "VideoReformatter", frame: Frame, encoder: Any) -> "av.VideoFrame":  # noqa: ANN401 - as above
    """An RGB frame in an encoder's pixel format, in BT.709 if it is HD, else in BT.601."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
    if not encoder.pix_fmt.startswith("yuv4"):
        return converter.reformat(picture, format=encoder.pix_fmt, threads=1)
    hd = decoding.is_hd(encoder.height, encoder.width)
    matrix = Colorspace.ITU709 if hd else Colorspace.ITU601
    return converter.reformat(
        picture, format=encoder.pix_fmt, dst_colorspace=matrix, dst_color_range=ColorRange.MPEG, threads=1
    )


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
        if not np.isfinite(self.samples).all():
            raise ValueError("audio holds values that are not finite (NaN or infinity)")
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
