import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from lipbench.media import video


def steps(count: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Frames that tell their number: grey level 10 + 4 k, with a red corner at the top left."""
    frames = np.empty((count, *size, 3), np.uint8)
    frames[:] = (10 + 4 * np.arange(count))[:, None, None, None]
    frames[:, : size[0] // 2, : size[1] // 2] = (220, 20, 20)
    return frames


def numbers(frames: list[np.ndarray]) -> list[int]:
    return [round((float(f[-12:, -12:].mean()) - 10) / 4) for f in frames]


@pytest.mark.parametrize("suffix", [".mp4", ".mpg", ".avi"])
def test_what_is_written_is_read_back(tmp_path, suffix):
    path = tmp_path / "new" / f"clip{suffix}"
    written = steps(30)
    video.write_video(path, written, 25)
    read = video.read_video(path)
    assert (len(read.frames), read.fps, read.source_fps) == (30, 25.0, 25.0)
    assert numbers(read.frames) == list(range(30))
    error = np.abs(np.stack(read.frames).astype(int) - written)
    assert error.max() == 0 if suffix == ".avi" else error.mean() < 3
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing left beside it


def grainy(count: int, size: tuple[int, int]) -> np.ndarray:
    """Frames with texture that moves, on which an encoder has much to decide."""
    draw = np.random.default_rng(0)
    coarse = np.kron(draw.integers(40, 200, (size[0] // 8 + 2, size[1] // 8 + 2, 3)), np.ones((8, 8, 1)))
    frames = np.stack([coarse[k // 2 :, k:][: size[0], : size[1]] for k in range(count)])
    return (frames + draw.normal(0, 8, frames.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".mp4", ".mpg", ".avi"])
def test_same_input_same_bytes(tmp_path, suffix):
    sound = np.sin(np.arange(44100) / 20).astype(np.float32)
    frames, held, seen = grainy(8, (288, 352)), [], set()
    for k in range(6):
        video.write_video(tmp_path / f"a{suffix}", frames, 25, sound, 44100)
        seen.add((tmp_path / f"a{suffix}").read_bytes())
        held.append(np.ones(37 * 10 ** (k % 5), np.uint8))  # buffers come to lie elsewhere
    assert len(seen) == 1


def test_reencoding_is_the_same_at_every_call():
    frames, held, seen = grainy(8, (288, 352)), [], set()
    for k in range(6):
        seen.add(video.reencode(frames, 25).tobytes())
        held.append(np.ones(37 * 10 ** (k % 5), np.uint8))
    assert len(seen) == 1


def test_odd_sizes_are_filled_at_the_edge(tmp_path):
    frames = steps(3, (47, 63))
    video.write_video(tmp_path / "odd.mp4", iter(frames), 25)
    read = video.read_video(tmp_path / "odd.mp4").frames[0]
    assert read.shape == (48, 64, 3)
    assert abs(int(read[-1, -1, 0]) - 10) < 4  # a repeated row and column, not black


def test_other_codec_in_the_same_container(tmp_path):
    video.write_video(tmp_path / "clip.avi", steps(5), 25, codec="mpeg4")
    with av.open(str(tmp_path / "clip.avi")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    with pytest.raises(ValueError, match="no picture encoder 'nonsense'"):
        video.write_video(tmp_path / "x.mp4", steps(5), 25, codec="nonsense")


def test_rate_29_97_survives(tmp_path):
    for suffix in (".mp4", ".mpg"):
        video.write_video(tmp_path / f"ntsc{suffix}", steps(30), 29.97)
        assert video.read_video(tmp_path / f"ntsc{suffix}").fps == pytest.approx(30000 / 1001, abs=1e-3)


def test_resampling_takes_the_nearest_frame(tmp_path):
    path = tmp_path / "clip.avi"
    video.write_video(path, steps(50), 50)
    assert numbers(video.read_video(path, 25).frames) == list(range(0, 50, 2))
    half = video.read_video(path, 100)
    assert (half.fps, half.source_fps) == (100.0, 50.0)
    assert numbers(half.frames)[:6] == [0, 0, 1, 1, 2, 2]
    video.write_video(path, steps(60), 30)
    thirty = video.read_video(path, 25).frames
    assert numbers(thirty) == [round(k * 30 / 25 - 1e-6) for k in range(50)]


def timed(path, milliseconds: list[int]) -> None:
    """A file with variable frame rate: frame k is shown at its own time."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame, time in zip(steps(len(milliseconds)), milliseconds, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def test_timestamps_decide_not_the_label(tmp_path):
    timed(tmp_path / "gap.mkv", [0, 40, 80, 240, 280, 320, 360, 400])  # frames for 120, 160 and 200 ms are missing
    read = video.read_video(tmp_path / "gap.mkv", 25)
    assert numbers(read.frames) == [0, 1, 2, 2, 2, 3, 3, 4, 5, 6, 7]
    timed(tmp_path / "third.mkv", [0, 33, 67, 100, 133, 167, 200, 233, 267, 300])  # 30 a second in whole milliseconds
    read = video.read_video(tmp_path / "third.mkv")
    assert len(read.frames) == 10
    assert read.source_fps == pytest.approx(30, rel=0.01)
    timed(tmp_path / "slow.mkv", [100, 300, 500])
    assert video.read_video(tmp_path / "slow.mkv").source_fps == pytest.approx(5)


def test_a_variable_rate_is_put_on_a_constant_time_line(tmp_path):
    shown = [*range(0, 400, 40), *range(400, 800, 80)]
    timed(tmp_path / "half.mkv", shown)
    read = video.read_video(tmp_path / "half.mkv")
    assert (read.fps, read.source_fps) == (25, 25)
    assert numbers(read.frames) == [*range(10), 10, 10, 11, 11, 12, 12, 13, 13, 14]
    assert [frame[-1, -1, 0] for frame in video.stream_video(tmp_path / "half.mkv", 25)] == [
        frame[-1, -1, 0] for frame in video.read_video(tmp_path / "half.mkv", 25).frames
    ]


@pytest.mark.parametrize(
    ("matrix", "change"),
    [  # a, b, c, d of the track header
        ((0, 1, -1, 0), lambda frame: np.rot90(frame, 3)),
        ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
        ((0, -1, 1, 0), lambda frame: np.rot90(frame, 1)),
        ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),  # mirrored, as some front cameras store it
        ((1, 0, 0, -1), lambda frame: frame[::-1]),
        ((0, 1, 1, 0), lambda frame: frame.swapaxes(0, 1)),
    ],
)
def test_stored_rotation_is_applied(tmp_path, matrix, change):
    path = tmp_path / "phone.mp4"
    video.write_video(path, steps(3), 25)
    upright = video.read_video(path).frames[0]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags, times and ids, reserved, layer … volume
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    assert np.array_equal(video.read_video(path).frames[0], change(upright))


@pytest.mark.parametrize(
    ("pixels", "codec"), [("gray", "ffv1"), ("bgra", "ffv1"), ("yuvj420p", "mjpeg"), ("pal8", "png")]
)
def test_other_pixels_become_rgb(tmp_path, pixels, codec):
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        source = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 130, np.uint8), format="rgb24")
        if pixels == "pal8":
            palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, 1)
            palette[:, 0] = 255  # opaque
            source = av.VideoFrame.from_ndarray((np.full((48, 64), 130, np.uint8), palette), format="pal8")
        source.pts, source.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(source))
        container.mux(stream.encode(None))
    frame = video.read_video(path).frames[0]
    assert (frame.shape, frame.dtype) == ((48, 64, 3), np.uint8)
    assert np.abs(frame.astype(int) - 130).max() <= 3


def test_files_that_are_no_video(tmp_path):
    empty, text, folder, sound = (tmp_path / n for n in ("empty.mpg", "text.mpg", "folder.mp4", "sound.mp4"))
    empty.write_bytes(b"")
    text.write_text("bin blue at f two now\n" * 100)
    folder.mkdir()
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for path, message in [
        (empty, r"^empty\.mpg is empty \(0 bytes\)$"),
        (text, r"^text\.mpg is no video or sound file, or its head is damaged \(invalid data .*\)$"),
        (folder, r"is not a file$"),
        (sound, r"^sound\.mp4 has no picture stream \(sound only\)$"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            video.read_video(path)
        assert type(caught.value) is ValueError  # not PyAV's own, which does not survive a process pool
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"no such file: .*absent"):
        video.read_video(tmp_path / "absent.mp4")


def test_cut_off_and_damaged_files(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (50, 96, 128, 3)).astype(np.uint8)
    path = tmp_path / "whole.mpg"
    video.write_video(path, noise, 25)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert 20 <= len(video.read_video(path).frames) <= 30  # the frames before the break
    path = tmp_path / "whole.mp4"
    video.write_video(path, noise, 25)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(ValueError, match=r"whole\.mp4 is damaged: decoding broke off"):
        video.read_video(path)


@pytest.mark.parametrize(
    ("name", "frames", "fps", "message"),
    [
        ("a.mp4", [], 25, "no frames"),
        ("a.webm", steps(2), 25, r"must be one of \.mp4, \.mpg, \.avi"),
        ("a.mpg", steps(2), 15, "MPEG-1 has no 15 frames a second"),
        ("a.mp4", steps(2), 0, "fps is 0"),
        ("a.mp4", steps(2)[..., 0], 25, r"expected \(height, width, 3\) uint8"),
        ("a.mp4", steps(2) / 255, 25, r"float64; expected \(height, width, 3\) uint8"),
        ("a.mp4", [steps(1)[0], steps(1, (32, 32))[0]], 25, r"frames differ in size: \(32, 32\) after \(48, 64\)"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, name, frames, fps, message):
    with pytest.raises(ValueError, match=message):
        video.write_video(tmp_path / name, frames, fps)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_text("old")

    def broken():
        yield from steps(3)
        raise RuntimeError("model stopped")

    with pytest.raises(RuntimeError, match="model stopped"):
        video.write_video(path, broken(), 25)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_real_clips(grid_root):
    for name, count in [("s2/pwij3p.mpg", 75), ("s1/lrae3s.mp4", 74)]:
        read = video.read_video(grid_root / "video" / name, 25)
        assert (len(read.frames), read.source_fps) == (count, 25.0)
        assert read.frames[0].shape == (288, 360, 3)
        assert 40 < np.mean(read.frames[10]) < 200


def test_decoding_keeps_the_mean_level(tmp_path):
    ramp = np.broadcast_to(np.linspace(20, 235, 64).astype(np.uint8)[None, :, None], (48, 64, 3))
    frames = np.stack([ramp] * 5)
    for _ in range(3):  # today's default conversion darkened by 1.1 levels a round
        video.write_video(tmp_path / "clip.mp4", frames, 25, crf=0)
        frames = np.stack(video.read_video(tmp_path / "clip.mp4").frames)
    assert abs(float(frames.mean()) - float(ramp.mean())) < 0.3
