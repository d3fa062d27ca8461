"""`lipbench strip`: a row a checkpoint, files a clip, and what is typed wrong."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from untrained import checkpoint

from lipbench import cli
from lipbench.console import systems
from lipbench.data import protocol
from lipbench.data.store import Store
from lipbench.models.lipgan import LipGAN
from lipbench.models.lipnet import LipNet


@pytest.fixture(scope="module")
def lipgan(tmp_path_factory):
    """Checkpoint of an untrained LipGAN, which does not say what it was trained on."""
    torch.manual_seed(0)
    model = LipGAN(24, "mel", (4, 4, 4, 8), (1, 1, 0), (4, 4, 4, 8), (1, 1, 1, 1), 1, 8, adversarial_weight=0)
    return checkpoint(model, tmp_path_factory.mktemp("lipgan") / "hearing.ckpt")


@pytest.fixture
def parts(here):
    """The split of the store by the default protocol."""
    return protocol.load("rendered/seen").split(Store(here.home / "stores" / "rendered").clip_ids)


def test_the_first_test_clip_by_default(here, parts, capsys):
    best = here.checkpoint.with_name("best.ckpt")
    assert cli.main(["strip", str(here.checkpoint), str(best), "--frozen-frame"]) == 0
    shown = np.asarray(Image.open("strip.png"))
    side = shown.shape[1] - 8 * 162 + 2
    assert 92 <= side < 120
    assert shown.shape[0] == 24 + 4 * 82 - 2 + 24
    store = Store(here.home / "stores" / "rendered")
    clip = store[parts.test[0]]
    first, last = clip.speech
    told = re.search(r"strip\.png: (\S+), mouth, 8 frames from (\d+) to (\d+)", capsys.readouterr().out)
    assert told.groups() == (clip.clip_id, str(first), str(last - 1))
    frame = clip.pictures([first])[0][16 + 139 : 16 + 219, 32 + 48 : 32 + 208]  # the mouth's box
    assert np.array_equal(shown[24:104, side : side + 160], frame)
    start = clip.pictures([0])[0][16 + 139 : 16 + 219, 32 + 48 : 32 + 208]
    assert np.array_equal(shown[106:186, side : side + 160], start)
    assert np.array_equal(shown[106:186, -160:], start)
    assert np.abs(shown[188:268, side : side + 160].astype(int) - frame).mean() > 3  # an untrained mouth


def test_several_clips_a_span_and_labels(here, parts, lipgan, capsys):
    words = ["strip", str(here.checkpoint), str(lipgan), "--clip", parts.test[0], parts.train[0], "--view", "face"]
    words += ["--frames", "3", "--start", "1", "--stop", "2", "--labels", "ours", "LipGAN", "--out", "pictures/a.png"]
    assert cli.main(words) == 0
    files = [f"a_{clip_id.replace('/', '_')}.png" for clip_id in (parts.test[0], parts.train[0])]
    assert sorted(path.name for path in Path("pictures").iterdir()) == sorted(files)
    letters = 256 / 160
    for file in files:
        with Image.open(Path("pictures") / file) as shown:
            assert shown.height == 2 * round(24 * letters) + 3 * 258 - 2
            assert shown.width == round(92 * letters) + 3 * 258 - 2
    told = capsys.readouterr().out
    assert told.count("face, 3 frames from 25 to 49") == 2
    assert told.count("is a training clip of") == 1
    assert f"{parts.train[0]} is a training clip of ours (rendered/seen)" in told


def test_labels_say_what_tells_checkpoints_apart(here, lipgan, tmp_path):
    last, best = here.checkpoint, here.checkpoint.with_name("best.ckpt")
    other = tmp_path / "runs" / "stage-1" / "version_0" / "checkpoints" / "last.ckpt"
    other.parent.mkdir(parents=True)
    shutil.copy(last, other)

    def labels(*paths):
        return [system.label for system in systems.load(paths, None, None)]

    assert labels(last, lipgan) == ["paralip\nversion_0/last", f"lipgan\n{lipgan.parent.name}/hearing"]
    assert labels(last, best, lipgan)[:2] == ["paralip\nlast", "paralip\nbest"]
    both = labels(last, other)
    assert both[0] != both[1]
    assert both[1].endswith("/stage-1")
    assert not any("version_0" in label for label in both)


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["nothing.ckpt"], "no checkpoint at nothing.ckpt; `lipbench fit` writes them below runs/", 1),
        (["last"], "expected the file of a checkpoint, found 'last'", 2),
        (["READER"], "holds LipNet, which generates no video; expected the checkpoint of a model that does: ", 1),
        (["LAST", "--clip", "rendered/s1/none"], "--clip rendered/s1/none: it is not in the store", 2),
        (["LAST", "LAST"], "last.ckpt is named twice", 2),
        (["LAST", "--labels", "a", "b"], "--labels names 2 systems, and there are 1 checkpoints", 2),
        (["LAST", "--out", "strip.jpg"], "--out strip.jpg: expected the name of a file that ends in .png", 2),
        (["LAST", "--frames", "0"], "--frames 0: expected 1 or more", 2),
        (["LAST", "--start", "2", "--stop", "1"], "--start and --stop ask for 2.00 to 1.00 s", 2),
        (["LAST", "--stop", "3.5"], "lasts 3.00 s, with speech from", 2),
        (["LAST", "--view", "nose"], "unknown view 'nose'; known views are", 1),
        (["LAST", "--data", "rendred"], "Did you mean 'rendered'?", 2),
        (["LAST", "--data", "grid", "--store", "no"], "lipbench prepare --data grid --root DIR --store no\n", 1),
        (["LIPGAN"], "the checkpoints do not say what they were trained on; name the corpus: --data grid", 2),
        (["LAST", "GRID"], "were trained on grid and rendered; name the corpus: --data grid", 2),
        (["LAST", "UNSEEN"], "trained on rendered/seen and rendered/unseen; name one: --protocol rendered/seen", 2),
    ],
)
def test_wrong_words_say_what_to_type(here, lipgan, tmp_path, capsys, monkeypatch, words, message, code):
    monkeypatch.delenv("LIPBENCH_GRID", raising=False)
    stored = torch.load(lipgan, weights_only=True)
    for name, data in (("grid", "grid/seen"), ("unseen", "rendered/unseen")):
        torch.save(stored | {"lipbench_data": {"name": data.split("/")[0], "protocol": data}}, f"{name}.ckpt")
    checkpoint(LipNet((16, 32), (4, 4, 4), 4), Path("reader.ckpt"))
    files = {"LAST": here.checkpoint, "LIPGAN": lipgan, "READER": "reader.ckpt", "GRID": "grid.ckpt"}
    files["UNSEEN"] = "unseen.ckpt"
    assert cli.main(["strip", *(str(files.get(word, word)) for word in words)]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


def test_a_clip_of_another_speaker_is_found_by_its_name(here, parts, capsys):
    name = parts.train[0].rpartition("/")[2]
    assert cli.main(["strip", str(here.checkpoint), "--clip", f"rendered/s9/{name}"]) == 2
    assert f"in it are {parts.train[0]}, ..." in capsys.readouterr().err


def test_a_model_that_is_not_installed_is_named(here, capsys):
    Path("strip_of_another.py").write_text("from lipbench.models.paralip import ParaLip\nclass Mine(ParaLip): ...\n")
    stored = torch.load(here.checkpoint, weights_only=True)
    stored["lipbench"] |= {"class": "strip_of_another.Mine"}
    torch.save(stored, "mine.ckpt")
    words = ["strip", "mine.ckpt", str(here.checkpoint)]
    assert cli.main(words) == 1
    assert "if you trust it, give --model strip_of_another.Mine" in capsys.readouterr().err
    assert cli.main([*words, "--model", "strip_of_another.Mine"]) == 0
    shown = np.asarray(Image.open("strip.png"))
    assert np.array_equal(shown[106:186, -160:], shown[188:268, -160:])  # the same weights
