"""A face and a sentence or a sound in, a talking video out."""

import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from untrained import checkpoint

from lipbench import cli
from lipbench.media import audio, geometry, landmarks, video
from lipbench.models.atvgnet import ATVGnet
from lipbench.models.lipgan import LipGAN

SENTENCE = "bin blue at f two now"


@pytest.fixture(scope="module")
def face(world, tmp_path_factory):
    """First frame of a rendered clip, as a PNG file."""
    clip = min((world.home / "corpora" / "rendered" / "video").rglob("*.mpg"))
    path = tmp_path_factory.mktemp("face") / "me.png"
    Image.fromarray(video.read_video(clip).frames[0]).save(path)
    return path


@pytest.fixture
def patient(world, tmp_path):
    """The checkpoint with a duration predictor that gives every token about three frames, as a trained one would."""
    stored = torch.load(world.checkpoint, weights_only=True)
    last = [key for key in stored["state_dict"] if key.startswith("duration_predictor.") and key.endswith(".bias")][-1]
    stored["state_dict"][last].fill_(np.log(4.0))
    stored["state_dict"][last.replace("bias", "weight")].zero_()
    torch.save(stored, tmp_path / "patient.ckpt")
    return tmp_path / "patient.ckpt"


def test_the_mouth_speaks_and_the_rest_stays(here, patient, face, tmp_path, capsys):
    out = tmp_path / "talk.mp4"
    words = ["--ckpt_path", str(patient), "--text", SENTENCE, "--image", str(face), "--out", str(out)]
    assert cli.main(["generate", *words]) == 0
    picture = np.asarray(Image.open(face)).astype(int)
    made = video.read_video(out)
    tokens = len(SENTENCE.replace(" ", "")) + len(SENTENCE.split()) + 1
    assert len(made.frames) == 3 * tokens
    assert made.fps == 25
    assert made.frames[0].shape == picture.shape
    changed = np.abs(np.stack(made.frames).astype(int) - picture).max(axis=(0, 3))  # (h, w)
    transform = geometry.similarity(landmarks.track([picture.astype(np.uint8)], landmarks.load("dlib")).points)[0]
    rows, columns = np.mgrid[: changed.shape[0], : changed.shape[1]]
    x, y = np.einsum("ij,jhw->ihw", transform, np.stack([columns, rows, np.ones_like(rows)]))
    top, left, bottom, right = geometry.box("mouth")
    inside = (x > left + 32) & (x < right - 32) & (y > top + 28) & (y < bottom - 28)
    outside = (x < left - 3) | (x > right + 3) | (y < top - 3) | (y > bottom + 3)
    assert changed[inside].mean() > 20  # an untrained mouth is another color
    assert changed[outside].mean() < 6  # H.264's own error
    assert f"{3 * tokens} frames, {3 * tokens / 25:.2f} s" in capsys.readouterr().out


@pytest.fixture(scope="module")
def hearing(tmp_path_factory):
    """Checkpoint of an untrained LipGAN: its faces are grey."""
    torch.manual_seed(0)
    model = LipGAN(24, "mel", (4, 4, 4, 8), (1, 1, 0), (4, 4, 4, 8), (1, 1, 1, 1), 1, 8, adversarial_weight=0)
    return checkpoint(model, tmp_path_factory.mktemp("hearing") / "hearing.ckpt")


@pytest.fixture(scope="module")
def film(world, tmp_path_factory):
    """A second of a rendered clip with its sound, lossless."""
    return cut(world, tmp_path_factory.mktemp("film") / "in.avi", 25)


def cut(world, path, count, change=lambda frames: frames):
    clip = min((world.home / "corpora" / "rendered" / "video").rglob("*.mpg"))
    samples, rate = audio.read_audio(clip)
    frames = change(np.stack(video.read_video(clip).frames[:count]))
    video.write_video(path, frames, 25, samples, rate)
    return path


def tone(path, seconds):
    """A sound file without pictures."""
    import wave

    samples = (3000 * np.sin(np.arange(round(seconds * 22050)) / 10)).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(22050)
        file.writeframes(samples.tobytes())
    return path


def float_wav(path, samples):
    """A sound file of 32-bit floats at 16 kHz."""
    content = samples.astype("<f4").tobytes()
    head = b"fmt " + struct.pack("<IHHIIHH", 16, 3, 1, 16000, 64000, 4, 32)
    body = b"WAVE" + head + b"data" + struct.pack("<I", len(content)) + content
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def typed(**options):
    return cli.main(["generate", *(str(word) for key, value in options.items() for word in (f"--{key}", value))])


def below_the_eyes(frames):
    """(T,) first row of each frame's lower half of the face, less a pixel."""
    points = landmarks.track(list(frames), landmarks.load("dlib")).points
    back = geometry.invert(geometry.similarity(points))
    top, left, _, right = geometry.box("lower_face")
    corners = np.repeat([[(left, top), (right, top)]], len(back), 0).astype(float)
    return np.floor(geometry.transform_points(corners, back)[..., 1].min(1)).astype(int) - 1


@pytest.mark.parametrize("seconds", [0.61, 1.0, 1.04, 1.5])
def test_a_video_is_dubbed(here, hearing, film, tmp_path, capsys, seconds):
    out = tmp_path / "out.avi"  # lossless
    assert typed(ckpt_path=hearing, video=film, audio=tone(tmp_path / "tone.wav", seconds), out=out) == 0
    before, after = np.stack(video.read_video(film).frames), np.stack(video.read_video(out).frames)
    assert abs(len(after) / 25 - seconds) <= 0.04
    samples, rate = audio.read_audio(out)
    assert abs(len(samples) / rate - len(after) / 25) <= 0.04
    assert np.abs(samples).max() == pytest.approx(3000 / 32768, rel=0.1)
    places = np.arange(len(after))
    places = places % 25 if seconds == 1.5 else places.clip(max=24)  # it starts again; its last frame stays
    shown, rows = before[places], below_the_eyes(before)[places]
    for k, row in enumerate(rows):
        assert (after[k, :row] == shown[k, :row]).all()
    assert (after != shown).any(axis=(1, 2, 3)).all()
    told = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert f"out.avi: {len(after)} frames, {len(after) / 25:.2f} s, {after.shape[2]}x{after.shape[1]}" in told
    assert ("it starts again" in told) == (seconds == 1.5)
    assert ("in.avi lasts 1.00 s, less than 1.04 s: its last frame stays" in told) == (seconds == 1.04)
    assert "without the face" not in told


def test_the_sound_of_the_video_is_the_default(here, hearing, film, tmp_path):
    assert typed(ckpt_path=hearing, video=film, out=tmp_path / "out.avi") == 0
    assert len(video.read_video(tmp_path / "out.avi").frames) == 25
    had, rate = audio.read_audio(film)
    got, _ = audio.read_audio(tmp_path / "out.avi", rate)
    assert np.abs(had[: len(got)] - got[: len(had)]).max() < 1e-3


def test_a_picture_speaks_to_a_sound(here, hearing, face, tmp_path):
    assert typed(ckpt_path=hearing, image=face, audio=tone(tmp_path / "tone.wav", 1.3), out=tmp_path / "out.mp4") == 0
    frames = video.read_video(tmp_path / "out.mp4").frames
    samples, rate = audio.read_audio(tmp_path / "out.mp4")
    assert abs(len(frames) - 1.3 * 25) <= 1
    assert abs(len(samples) / rate - len(frames) / 25) <= 0.04


def test_a_picture_speaks_by_its_landmarks(here, face, tmp_path, monkeypatch):
    """Those of the face that is found in it, in pixels of the canonical picture."""
    sizes = {"size": 32, "width": 2, "blocks": 1, "audio_width": 2, "audio_hidden": 4, "audio_layers": 1}
    path = checkpoint(ATVGnet(**sizes, adversarial_weight=0), tmp_path / "moving.ckpt")
    given, generate = [], ATVGnet.generate
    monkeypatch.setattr(ATVGnet, "generate", lambda *given_: given.append(given_[1]) or generate(*given_))
    out = tmp_path / "out.avi"
    assert typed(ckpt_path=path, image=face, audio=tone(tmp_path / "tone.wav", 0.6), out=out) == 0
    assert len(video.read_video(out).frames) == 15
    (batch,) = given
    assert batch["identity"].shape == (1, 1, 3, 32, 32)
    top, left, _, _ = geometry.box("face")
    distance = batch["identity_landmarks"][0, 0] - torch.from_numpy(geometry.TEMPLATE) - torch.tensor([left, top])
    assert batch["identity_landmarks"].shape == (1, 1, 68, 2)
    assert distance[27:48].abs().mean() < 6  # px, of eyes and nose, which the picture is aligned by
    assert distance.abs().mean() < 15


def test_heat_maps_come_along(here, hearing, patient, face, tmp_path, capsys):
    drivers = {hearing: {"audio": tone(tmp_path / "tone.wav", 0.6)}, patient: {"text": "bin"}}
    for k, (path, driver) in enumerate(drivers.items()):
        heat = tmp_path / f"heat{k}.png"
        assert typed(ckpt_path=path, image=face, out=tmp_path / "out.mp4", heatmap=heat, **driver) == 0
        assert f"{heat}: frames 2, 4, 6, 8, 10, 12" in capsys.readouterr().out
        height, width = np.asarray(Image.open(heat)).shape[:2]
        assert width > 3 * 160  # what was made, and stages
        assert height > 6 * 80


def test_frames_without_a_face_pass_and_are_counted(here, world, hearing, tmp_path, capsys):
    def blank(frames):
        frames[30:42] = np.random.default_rng(0).integers(0, 255, frames[0].shape, np.uint8) // 8 + 90
        return frames

    film = cut(world, tmp_path / "in.avi", 60, blank)
    assert typed(ckpt_path=hearing, video=film, out=tmp_path / "out.avi") == 0
    before, after = np.stack(video.read_video(film).frames), np.stack(video.read_video(tmp_path / "out.avi").frames)
    same = (before == after).all(axis=(1, 2, 3))
    assert same[30:42].all()
    assert same.sum() <= 14
    assert f", {same.sum()} frames without the face left as they were" in capsys.readouterr().out


def test_of_several_faces_one_is_dubbed(here, world, hearing, tmp_path, capsys):
    film = cut(world, tmp_path / "two.avi", 12, lambda frames: np.concatenate([frames, frames[::-1]], axis=2))
    before = np.stack(video.read_video(film).frames)
    middle = before.shape[2] // 2
    for chosen in (0, 1):
        capsys.readouterr()
        assert typed(ckpt_path=hearing, video=film, out=tmp_path / "out.avi", face=chosen) == 0
        assert "shows face" not in capsys.readouterr().out
        changed = (np.stack(video.read_video(tmp_path / "out.avi").frames) != before).any(axis=3)  # (T, h, w)
        halves = changed[:, :, :middle], changed[:, :, middle:]
        assert halves[chosen].any(axis=(1, 2)).all()
        assert not halves[1 - chosen].any()
    assert typed(ckpt_path=hearing, video=film, out=tmp_path / "out.avi", face=2) == 2
    told = capsys.readouterr().err
    assert re.search(r"--face 2: \S+two.avi shows face 0 at x \d+ y \d+, \d+ px wide, face 1 at x \d+ y", told)


def test_a_text_driven_model_dubs_a_video(here, patient, film, tmp_path):
    assert typed(ckpt_path=patient, video=film, text="bin", out=tmp_path / "out.avi") == 0
    before, after = video.read_video(film).frames, video.read_video(tmp_path / "out.avi").frames
    assert len(after) == 3 * 5  # three letters and silence around them, of three frames each
    assert all((a != b).any() for a, b in zip(after, before, strict=False))
    with pytest.raises(ValueError, match="no sound"):
        audio.read_audio(tmp_path / "out.avi")


def test_several_faces_are_said(here, patient, face, tmp_path, capsys):
    picture = np.asarray(Image.open(face))
    Image.fromarray(np.concatenate([picture, picture], axis=1)).save(tmp_path / "two.png")
    assert typed(ckpt_path=patient, text="bin", image=tmp_path / "two.png") == 0
    told = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert re.search(
        r"two.png shows face 0 at x \d+ y \d+, \d+ px wide, face 1 at .* The largest is used, --face", told
    )


def test_punctuation_is_left_out_and_unknown_words_are_named(here, patient, face, tmp_path, capsys):
    said = {"ckpt_path": patient, "image": face, "out": tmp_path / "out.avi"}
    assert typed(**said, text="Bin, blue; don't -- say HELLO!") == 0
    told = capsys.readouterr().err
    assert "left out of the text: , ; ' - !; spoken is 'bin blue dont say hello'" in told
    assert "trained on rendered/seen, whose" in told
    assert "do not include 'dont', 'say', 'hello'; expect nonsense" in told
    assert typed(**said, text="bin") == 0
    assert capsys.readouterr().err == ""
    stored = torch.load(patient, weights_only=True)
    del stored["lipbench_data"]  # as older checkpoints are: nothing is known of its words
    torch.save(stored, patient)
    assert typed(**said, text="hello") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"text": "bin blue 4 now!"}, "holds '4'; expected letters and spaces only; write numbers as words"),
        ({"text": "?!..."}, "is empty; expected at least one word"),
        ({"text": "bin & blue"}, "holds '&'"),
        ({"text": "hæ"}, "holds 'æ'"),
        ({"text": "  "}, "is empty; expected at least one word"),
        ({"image": "nobody.png"}, "no image at nobody.png"),
        ({"image": "grey.png"}, "no face found in grey.png"),
        ({"image": "text.png"}, "is no picture"),
        ({"ckpt_path": "none.ckpt", "image": "grey.png"}, "no checkpoint at none.ckpt"),
        ({"ckpt_path": "last"}, "expected the file of a checkpoint, found 'last'"),
        ({"ckpt_path": "text.png"}, "is no file of PyTorch"),
        ({"ckpt_path": "foreign.ckpt"}, "was not written by lipbench"),
        ({"ckpt_path": "elsewhere.ckpt"}, "is no model of lipbench"),
        ({"ckpt_path": "part.ckpt"}, "is not whole as `lipbench fit` writes it: it has no entry"),
        ({"image": "pipe.png"}, "is not a file"),
        ({"image": "cut.png"}, "cannot be read"),
        ({"image": None, "video": "pipe.png"}, "is not a file"),
        ({"out": "talk.gif"}, "--out talk.gif: expected a name that ends in .mp4, .mpg, .avi"),
        ({"out": "grey.png/talk.mp4"}, "grey.png: it is a file; name another folder"),
        ({"out": "pipe.png/below/talk.mp4", "ckpt_path": "foreign.ckpt"}, "cannot write into"),  # before all work
        ({"heatmap": "grey.png/heat.png"}, "grey.png: it is a file; name another folder"),
        ({"out": "folder.mp4"}, "folder.mp4 is a folder; expected the name of a file"),
        ({"heatmap": "heat.jpg"}, "expected a name that ends in .png"),
        ({"text": None}, 'which is driven by text: give --text "bin blue at f two now"'),
        ({"audio": "tone.wav"}, "hears nothing: leave --audio out"),
        ({"image": None}, "Give --image PICTURE or --video FILE; found neither"),
        ({"video": "tone.wav"}, "found both"),
        ({"image": None, "video": "tone.wav"}, "has no picture stream (sound only)"),
        ({"image": None, "video": "nothing.mp4"}, "no such file: nothing.mp4"),
        ({"out": "grey.png", "image": "grey.png"}, "would overwrite what it is made from"),
        ({"ckpt_path": "hearing.ckpt"}, "driven by sound and reads nothing: leave --text out, give --audio FILE"),
        ({"ckpt_path": "hearing.ckpt", "text": None}, "a picture has none: give --audio FILE"),
        ({"ckpt_path": "hearing.ckpt", "text": None, "audio": "none.wav"}, "no such file: none.wav"),
        ({"ckpt_path": "hearing.ckpt", "text": None, "audio": "pipe.png"}, "is not a file"),
        ({"ckpt_path": "hearing.ckpt", "text": None, "audio": "nan.wav"}, "holds values that are not finite"),
        ({"ckpt_path": "hearing.ckpt", "text": None, "audio": "short.wav"}, "less than one frame of picture"),
        ({"ckpt_path": "hearing.ckpt", "text": None, "image": None, "video": "mute.avi"}, "mute.avi has no sound"),
        (
            {"ckpt_path": "hearing.ckpt", "text": None, "image": None, "video": "no_face.avi"},
            "no face found in no_face",
        ),
    ],
)
def test_wrong_input(here, patient, hearing, face, capsys, change, expected):
    grey = np.full((200, 200, 3), 128, np.uint8)
    Image.fromarray(grey).save("grey.png")
    Path("text.png").write_text("no picture")
    torch.save({"state_dict": {}}, "foreign.ckpt")
    other = torch.load(hearing, weights_only=True)
    other["lipbench"]["class"] = other["hyper_parameters"]["_class_path"] = "os.path.join"
    torch.save(other, "elsewhere.ckpt")
    part = {"lipbench": {"class": "lipbench.models.paralip.ParaLip"}, "state_dict": {}, "hyper_parameters": {}}
    torch.save(part, "part.ckpt")
    Path("hearing.ckpt").symlink_to(hearing)
    tone(Path("tone.wav"), 0.3)
    tone(Path("short.wav"), 0.01)
    float_wav(Path("nan.wav"), np.full(8000, np.nan))
    os.mkfifo("pipe.png")  # nobody writes into it: whoever reads it waits for ever
    Path("folder.mp4").mkdir()
    Path("cut.png").write_bytes(face.read_bytes()[:4000])
    video.write_video("mute.avi", [grey] * 6, 25)
    video.write_video("no_face.avi", [grey] * 6, 25, np.zeros(8000), 16000)
    given = {"ckpt_path": patient, "text": "bin", "image": face, "out": "talk.mp4"} | change
    code = typed(**{key: value for key, value in given.items() if value is not None})
    told = capsys.readouterr().err
    assert code in (1, 2)
    assert expected in told
    assert "Traceback" not in told
    assert not Path("talk.mp4").exists()
