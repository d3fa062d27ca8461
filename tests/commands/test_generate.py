"""One face image and a sentence in, a talking video out."""

import numpy as np
import pytest
import torch
from PIL import Image

from lipbench import cli
from lipbench.commands import generate
from lipbench.media import geometry, video

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
    points = generate._points(np.asarray(Image.open(face)), "dlib", face)
    transform = geometry.similarity(points[None])[0]
    rows, columns = np.mgrid[: changed.shape[0], : changed.shape[1]]
    x, y = np.einsum("ij,jhw->ihw", transform, np.stack([columns, rows, np.ones_like(rows)]))
    top, left, bottom, right = geometry.box("mouth")
    inside = (x > left + 12) & (x < right - 12) & (y > top + 12) & (y < bottom - 12)
    outside = (x < left - 3) | (x > right + 3) | (y < top - 3) | (y > bottom + 3)
    assert changed[inside].mean() > 20  # an untrained mouth is another colour
    assert changed[outside].mean() < 6  # H.264's own error
    assert f"{3 * tokens} frames, {3 * tokens / 25:.2f} s" in capsys.readouterr().out


def test_several_faces_are_said(here, patient, face, tmp_path, capsys):
    picture = np.asarray(Image.open(face))
    Image.fromarray(np.concatenate([picture, picture], axis=1)).save(tmp_path / "two.png")
    words = ["--ckpt_path", str(patient), "--text", "bin", "--image", str(tmp_path / "two.png")]
    assert cli.main(["generate", *words]) == 0
    assert "several faces; the largest is used" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"text": "bin blue 4 now!"}, "holds '!', '4'"),
        ({"text": "  "}, "the text is empty"),
        ({"image": "nobody.png"}, "no picture at nobody.png"),
        ({"image": "grey.png"}, "no face found in grey.png"),
        ({"image": "text.png"}, "is no picture"),
        ({"ckpt_path": "none.ckpt"}, "no checkpoint at none.ckpt"),
        ({"ckpt_path": "text.png"}, "is no checkpoint that can be read"),
        ({"ckpt_path": "foreign.ckpt"}, "was not written by lipbench"),
        ({"ckpt_path": "elsewhere.ckpt"}, "is no model of lipbench"),
        ({"out": "talk.gif"}, "gif"),
    ],
)
def test_wrong_input(here, patient, face, capsys, change, expected):
    from pathlib import Path

    Image.fromarray(np.full((200, 200, 3), 128, np.uint8)).save("grey.png")
    Path("text.png").write_text("no picture")
    torch.save({"state_dict": {}}, "foreign.ckpt")
    torch.save({"lipbench": {"class": "os.path.join"}}, "elsewhere.ckpt")
    given = {"ckpt_path": str(patient), "text": "bin", "image": str(face), "out": "talk.mp4"} | change
    code = cli.main(["generate", *(word for key, value in given.items() for word in (f"--{key}", value))])
    told = capsys.readouterr().err
    assert code == 1
    assert expected in told
    assert "Traceback" not in told
    assert not Path("talk.mp4").exists()
