"""A reader's weights file is scored over a protocol: the record, and what is refused."""

import sys
from pathlib import Path

import pytest
import torch

from lipbench.errors import Unavailable, UsageError
from lipbench.evaluation import record
from lipbench.evaluation.reader_files import evaluate_reader
from lipbench.media import text
from lipbench.nets import syncnet
from lipbench.nets.lipnet import LipNet
from lipbench.nets.mvm import MVM
from lipbench.pretrained import weights
from lipbench.types import View

sys.path.append(str(Path(__file__).parents[1] / "data"))
from made_up_store import GRID_IDS, SENTENCES, make_store


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a store of GRID ids, and a small random reader."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "stores").mkdir()
    make_store(folder / "stores" / "grid", GRID_IDS, [12] * 6, "grid")
    torch.manual_seed(0)
    net = LipNet((16, 32), (4, 4, 4), 4)
    about = {"view": View("mouth", 16, 32), "vocabulary": text.SYMBOLS, "trained_on": "nothing"}
    weights.save(folder / "tiny[x].safetensors", net, arguments=net.arguments, **about)
    judge = syncnet.SmallSyncNet(size=(16, 32), video_widths=(4, 4), audio_widths=(4, 4, 4, 4, 4), hidden=8, width=8)
    weights.save(folder / "sync.safetensors", judge, arguments=judge.arguments, view=judge.view, trained_on="nothing")
    return folder


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    monkeypatch.setenv("LIPBENCH_HOME", str(home))


def test_the_record_says_which_weights_and_stands_beside_trained_readers(home, tmp_path):
    path = home / "tiny[x].safetensors"
    found = evaluate_reader(path, "grid/s1", out=tmp_path, metrics=["text/wer", "text/cer"])
    assert found.clip_id.tolist() == ["grid/s1/bbaf2n", "grid/s1/bbaf3s"]
    assert found.text.tolist() == [SENTENCES[4 % 3], SENTENCES[5 % 3]]
    entry = record.read(Path(found.attrs["records"][0]))
    assert (entry.name, entry.run, entry.kind, entry.timing) == ("lipnet", "tiny-x", "model", None)
    assert entry.model["weights_sha256"] == weights.read_card(path).sha256
    assert entry.model["class_path"] == "lipbench.nets.lipnet.LipNet"
    assert entry.clips["n"] == 2
    assert entry.scores["text/wer"].value == found.attrs["scores"]["text/wer"]
    rows = [record.read(Path(path)) for path in found.attrs["records"]]
    assert [r.control or r.name for r in rows] == [
        "lipnet",
        "wrong-video",
        "still-video",
        "ground-truth",
        "shuffled-text",
    ]
    assert rows[3].scores["text/wer"].value == 0
    assert rows[4].scores["text/wer"].value == 1
    assert len({r.comparable for r in rows}) == 1


def test_a_classifier_of_words_is_not_scored_on_sentences(home):
    sizes = {"size": 32, "front": 2, "widths": (2, 2, 2, 2), "embedding": 4, "audio_widths": (2, 2), "channels": 3}
    net = MVM(**sizes, layers=2, slots=2, heads=2, outputs=2)
    about = {"view": net.view, "vocabulary": ("bin", "now"), "trained_on": "nothing"}
    weights.save(home / "words.safetensors", net, arguments=net.arguments, **about)
    found = evaluate_reader(home / "words.safetensors", "grid/s1", metrics=["text/wer", "text/word_accuracy"])
    assert set(found["read"]) <= {"bin", "now"}
    told = "the reader classifies clips of one word, and clips here say several"
    for column in ("text/wer", "text/word_accuracy"):
        assert found[column].isna().all()
        assert (found.attrs["scores"][column], found.attrs["reasons"][column]) == (None, told)


def test_the_command(home, tmp_path, monkeypatch, capsys):
    from lipbench.commands import evaluate

    monkeypatch.chdir(tmp_path)
    evaluate.run(reader=str(home / "tiny[x].safetensors"), protocol="grid/s1", metrics=["text/wer"])
    shown = capsys.readouterr().out
    assert "text/wer" in shown
    assert "leaderboards/results/grid/s1/lipnet/tiny-x.json" in shown.replace("\n", "")
    for options, told in (
        ({}, "what is scored"),
        ({"reader": "x", "generated": tmp_path}, "what is scored"),
        ({"reader": "x"}, "add --protocol NAME"),
        ({"reader": "x", "protocol": "grid/s1", "fps": 25.0}, "leave out --fps"),
    ):
        with pytest.raises(UsageError, match=told):
            evaluate.run(**options)


def test_what_cannot_be_scored_is_refused_before_the_work(home, tmp_path):
    with pytest.raises(Unavailable, match=r"syncnet\.SmallSyncNet, which does not read"):
        evaluate_reader(home / "sync.safetensors", "grid/s1")
    with pytest.raises(FileNotFoundError, match="neither a file nor the name of weights"):
        evaluate_reader("lipnet-large", "grid/s1")
    with pytest.raises(ValueError, match="nothing that was asked for can be computed"):
        evaluate_reader(home / "tiny[x].safetensors", "grid/s1", metrics=["quality"])
    with pytest.raises(ValueError, match="no protocol 'grid/s9'"):
        evaluate_reader(home / "tiny[x].safetensors", "grid/s9")
