"""Frames as they are shown: matrix, range, pixel shape, fields, transparency, streams."""

from fractions import Fraction

import av
import numpy as np
import pytest

from lipbench.media import decoding, video

WEIGHTS = {"BT.601": (0.299, 0.114), "BT.709": (0.2126, 0.0722), "BT.2020": (0.2627, 0.0593)}
TAGS = {None: 2, "BT.601": 6, "BT.709": 1, "BT.2020": 9}


def patches(size, patch=16):
    """Squares of random colors: (h, w, 3)."""
    rows, columns = -(-size[0] // patch), -(-size[1] // patch)
    colors = np.random.default_rng(0).integers(30, 226, (rows, columns, 3), np.uint8)
    return np.kron(colors, np.ones((patch, patch, 1), np.uint8))[: size[0], : size[1]]


def yuv(frame, matrix, full):
    """(3, h, w) uint8 by the definition of the matrix and the range."""
    red, blue = WEIGHTS[matrix]
    r, g, b = np.moveaxis(frame / 255, -1, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / 2 / (1 - blue), (r - y) / 2 / (1 - red)
    planes = [255 * y, 255 * u + 128, 255 * v + 128] if full else [219 * y + 16, 224 * u + 128, 224 * v + 128]
    return np.rint(np.clip(planes, 0, 255)).astype(np.uint8)


def stored(path, frames, change=lambda stream: None, codec="ffv1", each=lambda frame: None):
    """Frames of PyAV as a lossless Matroska file at 25 a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        change(stream.codec_context)
        for k, frame in enumerate(frames):
            frame.pts, frame.time_base = k, Fraction(1, 25)
            each(frame)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("size", "matrix", "tag"),
    [
        ((96, 128), "BT.601", None),
        ((720, 32), "BT.709", None),
        ((32, 1280), "BT.709", None),
        ((96, 128), "BT.709", "BT.709"),
        ((720, 32), "BT.601", "BT.601"),
        ((96, 128), "BT.2020", "BT.2020"),
    ],
)
def test_matrix_and_range_are_those_of_the_tags_or_of_the_size(tmp_path, size, matrix, tag, full):
    frame = patches(size)
    coded = av.VideoFrame.from_ndarray(yuv(frame, matrix, full), format="yuv444p")

    def tagged(thing):
        thing.colorspace, thing.color_range = TAGS[tag], 2 if full else 1

    read = video.read_video(stored(tmp_path / "a.mkv", [coded], tagged, each=tagged)).frames[0]
    assert np.abs(read.astype(int) - frame).max() <= 2  # two roundings
    assert abs((read.astype(float) - frame).mean()) < 0.2


@pytest.mark.parametrize(("size", "tag"), [((96, 128), 6), ((736, 64), 1)])
def test_what_is_written_carries_its_matrix_and_range(tmp_path, size, tag):
    frame = patches(size, 32)
    video.write_video(tmp_path / "a.mp4", [frame] * 3, 25, crf=1)
    with av.open(str(tmp_path / "a.mp4")) as container:
        coder = container.streams.video[0].codec_context
        assert (coder.colorspace, coder.color_range) == (tag, 1)
        luma = next(container.decode(video=0)).to_ndarray()[: size[0]]
    expected = yuv(frame, {6: "BT.601", 1: "BT.709"}[tag], False)[0]
    assert np.abs(luma.astype(int) - expected).mean() < 1
    frames = [frame] * 3
    for _ in range(3):  # again and again: nothing drifts
        video.write_video(tmp_path / "a.mp4", frames, 25, crf=1)
        frames = video.read_video(tmp_path / "a.mp4").frames
    drift = (frames[0].astype(float) - frame).reshape(-1, 32, size[1] // 32, 32, 3)[:, 8:24, :, 8:24]
    assert np.abs(drift.mean((1, 3))).max() <= 3
    assert np.abs(drift.mean((0, 1, 2, 3))).max() < 0.5


@pytest.mark.parametrize(("ratio", "width"), [((4, 3), 88), ((8, 9), 59), ((201, 200), 66), ((1, 1), 66)])
def test_pixels_become_square(tmp_path, ratio, width):
    frame = np.repeat(np.linspace(0, 255, 66).astype(np.uint8)[None, :, None], 48, 0).repeat(3, 2)
    coded = [av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p") for _ in range(3)]
    path = stored(
        tmp_path / "a.mp4", coded, lambda coder: setattr(coder, "sample_aspect_ratio", Fraction(*ratio)), "libx264"
    )
    read = video.read_video(path).frames
    assert [one.shape for one in read] == [(48, width, 3)] * 3
    expected = np.interp((np.arange(width) + 0.5) * 66 / width - 0.5, np.arange(66), frame[0, :, 0])
    assert np.abs(read[0][20, 3:-3, 0] - expected[3:-3]).mean() < 2
    assert all((a == b).all() for a, b in zip(video.stream_video(path, 25), read, strict=True))


def test_fields_become_frames(tmp_path):
    """A bar moves 8 pixels a frame; the fields of a frame are taken one after the other, and show it in two places."""
    frames = []
    for k in range(8):
        frame = np.full((96, 128, 3), 40, np.uint8)
        for field in range(2):
            place = 16 + 8 * k + 4 * field
            frame[field::2, place : place + 16] = 200
        frames.append(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p"))
    options = {"x264-params": "tff=1:bitdepth=8", "crf": "1"}
    path = stored(tmp_path / "a.mkv", frames, lambda coder: setattr(coder, "options", options), "libx264")
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    read = video.read_video(path)
    assert (len(read.frames), read.fps) == (8, 25)
    comb = [np.abs(np.diff(frame[8:-8, :, 0].astype(int), axis=0)).mean() for frame in read.frames]
    assert max(comb[1:-1]) < 1  # rows agree with their neighbors; the two fields as they are give 10


@pytest.mark.parametrize("pixels", ["bgra", "yuva420p"])
def test_transparent_video_shows_white(tmp_path, pixels):
    frame = np.dstack([patches((64, 96)), np.zeros((64, 96), np.uint8)])
    frame[:, 48:, 3] = 255
    coded = av.VideoFrame.from_ndarray(frame, format="rgba").reformat(format=pixels)
    read = video.read_video(stored(tmp_path / "a.mkv", [coded])).frames[0].astype(int)
    assert (read[:, :44] == 255).all()
    assert np.abs(read[:, 52:] - frame[:, 52:, :3]).mean() < (1 if pixels == "bgra" else 8)


def test_ten_bits_and_hdr(tmp_path):
    frame = patches((96, 128))
    deep = av.VideoFrame.from_ndarray(yuv(frame, "BT.601", False), format="yuv444p").reformat(format="yuv444p10le")
    read = video.read_video(stored(tmp_path / "a.mkv", [deep])).frames[0].astype(int)
    assert np.abs(read - frame).max() <= 1
    assert abs((read - frame).mean()) < 0.2

    def pq(thing):
        thing.color_trc = 16

    with pytest.raises(ValueError, match=r"b\.mkv is HDR .*convert it to SDR"):
        video.read_video(stored(tmp_path / "b.mkv", [deep], pq, each=pq))


def test_frames_that_are_too_large(tmp_path, monkeypatch):
    video.write_video(tmp_path / "a.mp4", [patches((96, 128))] * 2, 25)
    monkeypatch.setattr(decoding, "LARGEST", 96 * 127)
    with pytest.raises(ValueError, match="frames of 128x96, too large"):
        video.read_video(tmp_path / "a.mp4")


@pytest.mark.parametrize("default", [0, 1])
def test_the_default_video_stream_is_read_and_covers_are_not(tmp_path, default):
    from av.stream import Disposition

    kinds = [Disposition.attached_pic, Disposition(0), Disposition(0)]
    kinds[1 + default] = Disposition.default
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("mjpeg" if k == 0 else "ffv1", rate=25) for k in range(3)]
        for stream, kind, pixels in zip(streams, kinds, ("yuvj420p", "bgr0", "bgr0"), strict=True):
            stream.width, stream.height, stream.pix_fmt, stream.disposition = 64, 48, pixels, kind
        for k, stream in enumerate(streams):
            for time in range(1 if k == 0 else 5):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 50 * k, np.uint8), format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    read = video.read_video(tmp_path / "a.mkv").frames
    assert [frame.max() for frame in read] == [50 * (1 + default)] * 5


def test_gif_and_webm(tmp_path):
    from PIL import Image

    frames = [Image.new("RGB", (64, 48), (40 * k, 40 * k, 40 * k)) for k in range(5)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[40, 40, 80, 80, 40])
    read = video.read_video(tmp_path / "a.gif", 25)
    assert [round(frame.mean() / 40) for frame in read.frames] == [0, 1, 2, 2, 3, 3, 4]
    coded = [av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24") for frame in frames]
    coded = [frame.reformat(format="yuv420p") for frame in coded]
    path = stored(tmp_path / "a.webm", coded, codec="libvpx-vp9")
    assert [round(frame.mean() / 40) for frame in video.read_video(path).frames] == [0, 1, 2, 3, 4]
