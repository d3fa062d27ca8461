"""Reading whatever a system wrote: rates, sizes, lengths, kinds of pictures, sounds and texts."""

import codecs
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from lipbench.evaluation import external_videos, pairing
from lipbench.media import geometry, video
from lipbench.types import View


def scene(count, size=(72, 90), seed=0):
    """Smooth colored frames; each has its number as its brightness at the top left."""
    rng = np.random.default_rng(seed)
    low = torch.from_numpy(rng.random((1, 3, 9, 11))).float()
    frame = geometry.resize(low, size)[0].permute(1, 2, 0).numpy() * 200
    frames = [np.clip(frame, 0, 255).astype(np.uint8) for _ in range(count)]
    for k, one in enumerate(frames):
        one[:16, :16] = 10 * k
    return frames


def numbers(frames):
    return [round(float(frame[4:12, 4:12].mean()) / 10) for frame in frames]


def pictures(folder, frames, suffix=".png"):
    folder.mkdir(parents=True)
    for k, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame{k}{suffix}")
    return folder


def truth(frames, fps=25.0, stored=False):
    """A reference whose canonical picture is its frame enlarged."""
    height, width = frames[0].shape[:2]
    transforms = np.tile([[[320 / width, 0, 0], [0, 352 / height, 0]]], (len(frames), 1, 1)).astype(float)
    face = torch.from_numpy(geometry.warp(frames, transforms)).permute(0, 3, 1, 2)
    points = torch.zeros(len(frames), 68, 2)
    whole = (0, len(frames))
    return external_videos.Truth(face, points, transforms, (height, width), fps, whole, None, None, "ab", stored, {})


def test_another_rate_is_resampled_by_nearest_time(tmp_path):
    video.write_video(tmp_path / "fast.avi", scene(20), 50)
    fast = external_videos.read(tmp_path / "fast.avi", 25)
    assert numbers(fast.frames) == list(range(0, 20, 2))
    assert (fast.fps, fast.source_fps, fast.source_frames) == (25, 50, 20)
    slow = external_videos.read(tmp_path / "fast.avi", 100)
    assert len(slow.frames) == 40
    assert numbers(slow.frames)[::2] == list(range(20))
    same = external_videos.read(tmp_path / "fast.avi", 50.001)  # an encoder's rounding is no other rate
    assert numbers(same.frames) == list(range(20))
    kept = external_videos.read(tmp_path / "fast.avi")
    assert (kept.fps, len(kept.frames)) == (50, 20)


def test_folders_of_pictures_are_in_the_order_of_their_numbers_and_resampled_alike(tmp_path):
    folder = pictures(tmp_path / "x", scene(12))
    assert numbers(external_videos.read(folder, 25).frames) == list(range(12))
    halved = external_videos.read(folder, 25, 50)
    video.write_video(tmp_path / "x.avi", scene(12), 50)
    assert numbers(halved.frames) == numbers(external_videos.read(tmp_path / "x.avi", 25).frames) == [0, 2, 4, 6, 8, 10]
    assert (halved.source_frames, halved.source_fps) == (12, 50)
    with pytest.raises(ValueError, match="has no frame rate; --fps gives it"):
        external_videos.read(folder)


def test_pictures_that_cannot_be_used(tmp_path):
    frame = scene(1)[0]
    whole = pictures(tmp_path / "whole", [frame])
    damaged = tmp_path / "damaged" / "frame0.png"
    damaged.parent.mkdir()
    damaged.write_bytes((whole / "frame0.png").read_bytes()[:400])
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "frame0.png").write_text("no picture")
    (tmp_path / "none").mkdir()
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "frame0.png")
    for folder, expected in (
        (tmp_path / "pipe", "is not a file"),  # and not waited for
        (pictures(tmp_path / "sizes", [frame, frame[:40]]), r"frame1.png is 90x40, the first picture 90x72"),
        (damaged.parent, "cannot be read"),
        (tmp_path / "words", "is no picture"),
        (tmp_path / "none", "has no pictures"),
    ):
        with pytest.raises(ValueError, match=expected):
            external_videos.read(folder, 25)


def test_what_would_not_fit_into_memory_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    video.write_video(tmp_path / "a.mp4", scene(12), 25)
    monkeypatch.setattr(external_videos, "_LARGEST", 11 * 72 * 90 * 3)
    monkeypatch.setattr(video, "read_video", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match=r"12 frames of 90x72 take .* cut it into shorter clips"):
        external_videos.read(tmp_path / "a.mp4")
    monkeypatch.undo()
    monkeypatch.setattr(external_videos, "_LONGEST", 11)
    with pytest.raises(ValueError, match="12 frames are too long"):
        external_videos.read(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("made", "compared", "frames"),
    [
        (20, 20, 20),
        (17, 17, 17),
        (22, 20, 20),
        (20 - external_videos.SLACK, 15, 15),
        (20 + external_videos.SLACK, 20, 20),
    ],
)
def test_a_few_frames_more_or_less_are_cut_off(made, compared, frames):
    reference = truth(scene(20))
    pixels, common = external_videos.view_of(external_videos.Clip(scene(made), 25, 25, made), reference, None, "dlib")
    assert (common, len(pixels)) == (compared, frames)
    true = geometry.crop(reference.face, external_videos.FACE)
    assert (pixels == true[:compared]).all()  # the same frames through the same transforms


def test_other_lengths_are_not_compared(monkeypatch):
    asked = []

    def followed(frames, backend):
        asked.append(len(frames))
        return np.tile(geometry.TEMPLATE, (len(frames), 1, 1)).astype(np.float32)

    monkeypatch.setattr(external_videos, "_followed", followed)
    for made in (14, 26, 1):
        pixels, common = external_videos.view_of(
            external_videos.Clip(scene(made), 25, 25, made), truth(scene(20)), None, "dlib"
        )
        assert (common, len(pixels)) == (0, made)
    assert asked == [14, 26, 1]  # by its own landmarks: its frame k is not the reference's


def test_other_sizes_land_on_the_same_pixels():
    frames = scene(2, (72, 90))
    large = [np.asarray(Image.fromarray(frame).resize((360, 288), Image.Resampling.BICUBIC)) for frame in frames]
    reference = truth(frames)
    same, _ = external_videos.view_of(external_videos.Clip(frames, 25, 25, 2), reference, None, "dlib")
    other, _ = external_videos.view_of(external_videos.Clip(large, 25, 25, 2), reference, None, "dlib")
    inner = (..., slice(60, -8), slice(60, -8))  # away from the hard edges of the number
    error = (same.float() - other.float())[inner].abs()
    assert error.mean() < 1
    shifted = (same.float()[..., 60:-8, 58:-10] - other.float()[inner]).abs()
    assert shifted.mean() > 1.5 * error.mean()  # two pixels aside are seen


def test_frames_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="frames of 90x90 cannot show what the reference's 90x72 show"):
        external_videos.view_of(external_videos.Clip(scene(3, (90, 90)), 25, 25, 3), truth(scene(3)), None, "dlib")
    even = external_videos.Clip(scene(3, (72, 91)), 25, 25, 3)  # one column more, as an encoder may add
    assert external_videos.view_of(even, truth(scene(3)), None, "dlib")[1] == 3


def test_beside_a_store_both_went_through_its_coder():
    frames = scene(2)
    plain, _ = external_videos.view_of(external_videos.Clip(frames, 25, 25, 2), truth(frames), None, "dlib")
    coded, _ = external_videos.view_of(
        external_videos.Clip(frames, 25, 25, 2), truth(frames, stored=True), None, "dlib"
    )
    error = (plain.float() - coded.float()).abs()
    assert 0 < error.mean() < 2


def test_crops_are_views_by_name():
    view = external_videos.crop_view("mouth", (40, 80))
    assert view == View("mouth", 40, 80)
    clip = external_videos.Clip(scene(20, (40, 80)), 25, 25, 20)
    pixels, common = external_videos.view_of(clip, truth(scene(18)), view, "dlib")
    assert (common, tuple(pixels.shape)) == (18, (18, 3, 40, 80))
    assert (pixels[3].permute(1, 2, 0).numpy() == clip.frames[3]).all()
    with pytest.raises(ValueError, match="frames of 44x40; the first video of this view has 80x40"):
        external_videos.view_of(external_videos.Clip(scene(20, (40, 44)), 25, 25, 20), truth(scene(18)), view, "dlib")
    with pytest.raises(ValueError, match="96x96 cannot show the view 'mouth', whose box is 160x80"):
        external_videos.crop_view("mouth", (96, 96))
    with pytest.raises(ValueError, match="unknown view 'moth'"):
        external_videos.crop_view("moth", (40, 80))


def test_sounds(tmp_path):
    tone = (0.3 * np.sin(np.arange(44100) / 9)).astype(np.float32)
    video.write_video(tmp_path / "tone.mp4", scene(25), 25, tone, 44100)
    video.write_video(tmp_path / "mute.mp4", scene(25), 25)
    video.write_video(tmp_path / "still.mp4", scene(25), 25, 0 * tone, 44100)
    sound = external_videos.read_sound(tmp_path / "tone.mp4")
    assert abs(len(sound) - 16000) < 1200
    assert 0.15 < sound.square().mean().sqrt() < 0.25
    for name, expected in (("mute", "has no sound"), ("still", "is silent throughout")):
        with pytest.raises(ValueError, match=expected):
            external_videos.read_sound(tmp_path / f"{name}.mp4")
    folder = pictures(tmp_path / "frames", scene(3))
    with pytest.raises(ValueError, match="frames has no sound"):
        external_videos.read_sound(folder)
    (tmp_path / "tone.mp4").rename(folder / "tone.m4a")
    assert len(external_videos.read_sound(folder)) == len(sound)
    with pytest.raises(ValueError, match="no sound of this name"):
        external_videos.read_sound(None)


def test_a_variable_rate_is_compared_by_time(tmp_path):
    """The same content at variable and at constant rate gives the same frames, whichever is the reference."""
    constant = scene(20)
    video.write_video(tmp_path / "constant.avi", constant, 25)
    variable = tmp_path / "variable.mkv"
    with av.open(str(variable), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 90, 72, "bgr0"
        for k in [*range(10), *range(10, 20, 2)]:  # 25 frames a second, then 12.5
            frame = av.VideoFrame.from_ndarray(constant[k], format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    kept = [*range(10), 10, 10, 12, 12, 14, 14, 16, 16, 18]
    made = external_videos.read(variable, 25)
    assert numbers(made.frames)[: len(kept)] == kept
    reference = external_videos.read(variable)
    assert (reference.fps, reference.source_fps) == (25, 25)
    assert numbers(reference.frames) == numbers(made.frames)
    beside = external_videos.read(tmp_path / "constant.avi", reference.fps, times=reference.times)
    assert numbers(beside.frames)[: len(kept)] == kept  # where the reference lacks a frame, none is asked for
    assert numbers(beside.frames)[len(kept) :] == [19][: 20 - len(kept)]
    folder = external_videos.read(pictures(tmp_path / "folder", constant), reference.fps, times=reference.times)
    assert numbers(folder.frames) == numbers(beside.frames)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_byte_order_marks(tmp_path, encoding):
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    (tmp_path / "a.txt").write_bytes(mark + "Set white.\r\n".encode(encoding))
    (tmp_path / "said.csv").write_bytes(mark + "clip,text\r\nm\u00fc,Bin blue\r\n".encode(encoding))
    assert external_videos.read_text(tmp_path / "a.txt")[0] == "set white"
    assert pairing.find_texts(tmp_path / "said.csv") == {("", "m\u00fc"): "Bin blue"}


def test_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a\.txt is no text in UTF-8 .* at byte 3"):
        external_videos.read_text(tmp_path / "a.txt")


def test_texts(tmp_path):
    assert external_videos.read_text("Bin  blue, at F two now!") == ("bin blue at f two now", [])
    (tmp_path / "a.txt").write_text("\ufeffSet white.\n", encoding="utf-8")
    assert external_videos.read_text(tmp_path / "a.txt")[0] == "set white"
    (tmp_path / "a.align").write_text("0 1000 sil\n1000 5000 bin\n5000 9000 blue\n")
    said, words = external_videos.read_text(tmp_path / "a.align")
    assert said == "bin blue"
    assert [word.word for word in words] == ["sil", "bin", "blue"]
    for source, expected in (
        ("  ", "is empty; expected at least one word"),
        ("bin 4", "write numbers as words"),
        (None, "no text of"),
    ):
        with pytest.raises(ValueError, match=expected):
            external_videos.read_text(source)


def test_files_that_are_no_videos(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "words.mp4").write_text("no video")
    for name, expected in (("empty", "is empty"), ("words", "is no video")):
        with pytest.raises(ValueError, match=expected):
            external_videos.read(Path(tmp_path, f"{name}.mp4"), 25)
