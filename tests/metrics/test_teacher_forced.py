"""The column wer[teacher-forced]: what a reader's decoder writes when it is shown the truth so far."""

import numpy as np
import pytest
import test_observers
import torch

from lipbench.errors import Unavailable
from lipbench.evaluation import bank as banks
from lipbench.evaluation import calibration
from lipbench.media import geometry, text
from lipbench.nets.conformer import Conformer
from lipbench.nets.lipnet import LipNet
from lipbench.pretrained import weights
from lipbench.scoring.readers import LipReader
from lipbench.types import View

COLUMN = "wer[teacher-forced]"
UPPER = ("<blank>", " ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "<eos>")  # as TalkLip's: a space, capitals, the end last
SIZES = {"front": 4, "widths": (4, 4, 4, 4), "width": 8, "layers": 1, "heads": 2, "ffn": 8, "decoder_layers": 1}


def save(path, net, vocabulary=text.SYMBOLS, view=None):
    view = view or View("mouth", 16, 32)
    weights.save(path, net, arguments=net.arguments, view=view, trained_on="nothing", vocabulary=vocabulary)
    return str(path)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A decoder whose symbols depend on the one before."""
    torch.manual_seed(0)
    net = Conformer(**SIZES, margin=0, outputs=len(UPPER), end=len(UPPER) - 1)
    with torch.no_grad():
        net.decoder.embedding.weight.mul_(4)
        net.decoder.output.weight.mul_(4)
    return save(tmp_path_factory.mktemp("reader") / "reader.safetensors", net, UPPER)


def scored(bank, given, video):
    row, scene = bank.row(), bank.scene(given, test_observers.VIEW)
    row.update(scene.take(video), scene)
    return row.local_scores()[COLUMN].value


def test_errors_of_what_the_decoder_writes_after_the_true_text(reader):
    given = test_observers.batch()
    bank = banks.Bank([COLUMN], {"teacher_forced": reader})
    assert bank.judges[COLUMN].startswith("conformer.Conformer sha256 ")
    scene = bank.scene(given, test_observers.VIEW)
    take = scene.take(given["video"])
    found = take.observe("teacher_forced")
    net = LipReader.load(reader).net
    for k, (said, frames) in enumerate(zip(given["text"], (10, 9), strict=True)):
        pictures = geometry.crop(take.canonical(k)[:frames], View("mouth", 16, 32)).float()[None] / 255
        scores = net.force(pictures, torch.tensor([frames]), [[UPPER.index(c) for c in said.upper()]])[0]
        written = [UPPER[i].lower() if i else "" for i in scores.argmax(1)[: len(said)].tolist()]
        assert found[k] == "".join("" if c == "<eos>" else c for c in written)
    assert found[0] != found[1]
    wrong = [set(a.split()) - set(b.split()) for a, b in zip(given["text"], found, strict=True)]
    assert scored(bank, given, given["video"]) == pytest.approx(
        [len(w) / len(said.split()) for w, said in zip(wrong, given["text"], strict=True)]
    )


def test_it_is_the_mean_over_clips(monkeypatch):
    class Writes:
        judge, needs = "somebody", frozenset({"face", "text"})

        def observe(self, clip):
            return clip.text.replace("set", "sat")

    monkeypatch.setitem(banks.MAKE, "teacher_forced", lambda files, cache: Writes())
    bank = banks.Bank([COLUMN])
    row, given = bank.row(), test_observers.batch()
    scene = bank.scene(given, test_observers.VIEW)
    row.update(scene.reference, scene)
    assert row.local_scores()[COLUMN].value.tolist() == [0, 0.5]
    assert float(row.metrics[COLUMN].compute()) == 0.25  # over all words it is 1 / 5
    scene.batch["mismatched"] = {"text": ["set white", "bin"]}
    swapped = calibration.with_swapped(bank, scene, "text")  # of the row shuffled-text
    assert swapped.reference.observe("teacher_forced") == ["sat white", "bin"]


def test_broken_frames_and_texts_that_it_cannot_write_leave_a_clip_undefined(reader):
    given = test_observers.batch()
    bank = banks.Bank([COLUMN], {"teacher_forced": reader})
    broken = given["video"].clone()
    broken[0, 3] = torch.nan
    assert np.isnan(scored(bank, given, broken)).tolist() == [True, False]
    given["text"] = ["bin blue at 2", "set red"]
    assert np.isnan(scored(bank, given, given["video"])).tolist() == [True, False]
    assert "cannot write" in banks.METRICS[COLUMN].metric.undefined


def test_without_a_text_the_cell_is_empty_with_a_reason(reader):
    given = test_observers.batch()
    del given["text"]
    bank = banks.Bank([COLUMN], {"teacher_forced": reader})
    row, scene = bank.row(), bank.scene(given, test_observers.VIEW)
    row.update(scene.take(given["video"]), scene)
    assert not len(row.local_scores()[COLUMN].value)
    assert "no text" in row.reasons[COLUMN]


def test_readers_that_cannot_be_shown_a_text_leave_the_cell_empty_with_a_reason(tmp_path, reader):
    ctc = save(tmp_path / "ctc.safetensors", LipNet((16, 32), (4, 4, 4), 4))
    bank = banks.Bank(["reading"], {"transcript": ctc})
    assert "a lipnet.LipNet has no decoder that can be shown the true text" in bank.reasons[COLUMN]
    assert "wer" not in bank.reasons
    with pytest.raises(Unavailable, match="no decoder"):
        banks.Bank([COLUMN], {"transcript": ctc})
    with pytest.raises(ValueError, match="no decoder"):  # named for nothing else
        banks.Bank(["reading"], {"transcript": ctc, "teacher_forced": ctc})
    subwords = Conformer(**SIZES, margin=0, outputs=4, end=3)
    pieces = save(tmp_path / "subwords.safetensors", subwords, ("<blank>", "▁bin", "▁a", "<eos>"))
    with pytest.raises(Unavailable, match="writes '▁bin' as one symbol"):
        banks.Bank([COLUMN], {"transcript": pieces})
    assert "--evaluator.files.teacher_forced" in banks.Bank(["reading"]).reasons[COLUMN]


def test_the_reader_of_transcripts_serves_unless_another_is_named(tmp_path, reader):
    own = banks.Bank([COLUMN], {"transcript": reader}).judges[COLUMN]
    other = save(tmp_path / "other.safetensors", Conformer(**SIZES, margin=0))
    both = banks.Bank(["wer", COLUMN], {"transcript": other, "teacher_forced": reader})
    assert both.judges[COLUMN] == own
    assert both.judges["wer"] != own


def test_it_is_not_shown_unless_asked_for():
    assert not banks.METRICS[COLUMN].column.default
    assert banks.METRICS[COLUMN].make({}).pooling == "utterance"
