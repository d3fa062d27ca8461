"""Media files opened, their streams chosen, and their frames decoded as they are shown.

Only this file, `audio` and `video` use PyAV. Errors are `ValueError` or `FileNotFoundError` with one line that a person
understands; PyAV's own exceptions do not leave it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lipbench.media.images import LARGEST, Frame, over_background

if TYPE_CHECKING:
    import av
    import av.container
    from av.video.reformatter import VideoReformatter

_PQ: Final = 16  # FFmpeg's AVCOL_TRC_SMPTE2084
_UNTAGGED: Final = 2  # AVCOL_SPC_UNSPECIFIED
_SQUARE: Final = 0.01  # pixels whose sides differ by less count as square: some encoders round


@dataclass(frozen=True)
class Shown:
    """A decoded frame.

    Args:
        time: Seconds on the file's clock at which it is shown; None where none is stored.
        seconds: For how long, as the file says; 0 where it does not.
        frame: (h, w, 3) uint8 RGB, upright, of square pixels.
    """

    time: float | None
    seconds: float
    frame: Frame


@contextmanager
def opened(path: Path) -> "Iterator[av.container.InputContainer]":
    """Open a media file for reading, with plain errors for files that are none.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is empty, a folder or a pipe, or no media file; or decoding fails inside the `with` block.
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
        raise ValueError(f"{path.name} is no video or sound file, or its head is damaged ({reason(error)})") from error
    with container:
        try:
            yield container
        except av.error.FFmpegError as error:
            raise ValueError(f"{path.name} is damaged: decoding broke off ({reason(error)})") from error


def picture_stream(container: "av.container.InputContainer") -> "av.VideoStream | None":
    """The video stream of an open file that FFmpeg takes for the best; cover images of sound files are none."""
    from av.stream import Disposition

    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    return next((s for s in moving if s is best), moving[0] if moving else None)


def frame_stream(path: Path, container: "av.container.InputContainer") -> "av.VideoStream":
    """The video stream of an open file, to be decoded on one thread.

    Raises:
        ValueError: There is none, or FFmpeg does not know its format.
    """
    stream = picture_stream(container)
    if stream is None:
        raise ValueError(f"{path.name} has no picture stream{' (sound only)' if container.streams.audio else ''}")
    if stream.codec_context is None:
        raise ValueError(f"{path.name} has a picture stream in a format that FFmpeg cannot decode")
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def audio_stream(path: Path, container: "av.container.InputContainer") -> "av.AudioStream":
    """The audio stream that FFmpeg takes for the best, to be decoded on one thread.

    One that is marked as the default comes first, then one with a higher bit rate, then the earlier one
    (`av_find_best_stream`).

    Raises:
        ValueError: There is none, or FFmpeg does not know its format.
    """
    if not container.streams.audio:
        raise ValueError(f"{path.name} has no sound")
    best = container.streams.best("audio", related=picture_stream(container))
    stream = next((s for s in container.streams.audio if s is best), None)
    if stream is None or stream.codec_context is None:
        raise ValueError(f"{path.name} has a sound stream in a format that FFmpeg cannot decode")
    stream.codec_context.thread_count = 1
    return stream


def shown_width(stream: "av.VideoStream", width: int) -> int:
    """Width at which frames are shown: the height stays, the width is scaled by the pixel aspect ratio."""
    ratio = float(stream.sample_aspect_ratio or 1)
    return width if abs(ratio - 1) < _SQUARE else max(1, round(width * ratio))


def frames(path: Path, container: "av.container.InputContainer", stream: "av.VideoStream") -> Iterator[Shown]:
    """Decode all frames of a stream as they are shown: rotated and mirrored as the file says, of square pixels.

    Raises:
        ValueError: Frames are too large, or HDR (PQ), for which there is no conversion here.
    """
    from av.video.reformatter import VideoReformatter

    converter = VideoReformatter()  # one for all frames: a new one for each costs as much as decoding
    for picture in _progressive(container.decode(stream)):
        if picture.width * picture.height > LARGEST:
            raise ValueError(
                f"{path.name} has frames of {picture.width}x{picture.height}, too large; make them smaller"
            )
        if picture.color_trc == _PQ:
            raise ValueError(f"{path.name} is HDR (SMPTE ST 2084), whose levels mean other light; convert it to SDR")
        frame = rgb(converter, picture, shown_width(stream, picture.width))
        timed = picture.pts is not None and picture.time_base is not None
        seconds = float((picture.duration or 0) * (picture.time_base or 0))
        yield Shown(picture.time if timed else None, seconds, _upright(picture, frame))


def rgb(converter: "VideoReformatter", picture: "av.VideoFrame", width: int) -> Frame:
    """A decoded frame as RGB of some width, chroma interpolated bilinearly, rounded to the nearest level.

    FFmpeg's default repeats chroma and truncates: 1.1 levels too dark in the mean. These flags together are within
    0.02 levels of the exact conversion; ACCURATE_RND without FULL_CHR_H_INT is worse than the default.

    Matrix and range are those of the frame's tags. Without a tag the matrix is BT.709 for HD (see `is_hd`), else
    BT.601, as players assume. Transparent pixels are mixed with `images.BACKGROUND`.
    """
    from av.video.reformatter import Colorspace, Interpolation

    exact = Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
    exact |= Interpolation.BILINEAR if width == picture.width else Interpolation.BICUBIC
    guessed = picture.colorspace == _UNTAGGED and is_hd(picture.height, picture.width)
    alpha = picture.format.has_palette or any(part.is_alpha for part in picture.format.components)
    converted = converter.reformat(
        picture,
        width=width,
        format="rgba" if alpha else "rgb24",
        src_colorspace=Colorspace.ITU709 if guessed and not picture.format.is_rgb else None,
        interpolation=exact,
        threads=1,
    )
    pixels = np.asarray(converted.to_ndarray(), np.uint8)
    return over_background(pixels) if alpha else pixels


def is_hd(height: int, width: int) -> bool:
    """Whether untagged frames of this size are taken to be in BT.709 rather than BT.601."""
    return height >= 720 or width >= 1280


def _progressive(pictures: "Iterable[av.VideoFrame]") -> "Iterator[av.VideoFrame]":
    """Frames, those that are marked as interlaced with their two fields made one (FFmpeg's bwdif)."""
    import av

    graph: av.filter.Graph | None = None
    for picture in pictures:
        if graph is None and picture.interlaced_frame:
            graph = av.filter.Graph()
            source = graph.add_buffer(
                width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base
            )
            graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
            graph.configure()
        if graph is None:
            yield picture
            continue
        graph.push(picture)
        yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def _pulled(graph: "av.filter.Graph") -> "Iterator[av.VideoFrame]":
    import av

    while True:
        try:
            picture = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):  # it wants the next frame; there is none left
            return
        assert isinstance(picture, av.VideoFrame)
        yield picture


def _upright(picture: "av.VideoFrame", frame: Frame) -> Frame:
    """Turn and mirror a frame by the display matrix of its file, to the nearest quarter turn."""
    matrix: Any = picture.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()  # x, y -> a x + c y, b x + d y
        if abs(b) + abs(c) > abs(a) + abs(d):
            frame, a, d = frame.swapaxes(0, 1), c, b
        frame = frame[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    # contiguous: the decoder pads its rows, and dlib silently misreads frames with padded rows
    return np.ascontiguousarray(frame)


def reason(error: Exception) -> str:
    """FFmpeg's words without error number and path."""
    text = getattr(error, "strerror", None) or str(error)
    return f"{text[:1].lower()}{text[1:]}"
