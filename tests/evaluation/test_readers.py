"""Readers are scored: their own columns, controls and calibration rows, a table of their own; also beside video."""

import fake_run
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lipbench.evaluation import bank as banks
from lipbench.evaluation import readings, record
from lipbench.leaderboard import table
from lipbench.training.base import BenchModule
from lipbench.types import ClipSpec

SAID = ["bin blue at f", "set red in g", "lay green by h", "bin white with j", "place blue at k"]


class Words(Dataset):
    """The clips of `fake_run` with what is said in them."""

    def __init__(self):
        self.clips = fake_run.Clips()

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, k):
        clip = self.clips[k]
        clip["text"], clip["mismatched"]["text"] = SAID[k], SAID[(k + 1) % len(SAID)]
        return clip


class Data(fake_run.Data):
    """Clips with words."""

    def test_dataloader(self):
        return DataLoader(Words(), batch_size=2)


def seen(batch):
    """What is said in each clip, with one wrong word in the first; nothing where the frames stand still."""
    moved = batch["video"].std(1).amax((1, 2, 3)) > 1e-4
    said = [SAID[k].replace("f", "s") for k in batch["index"].tolist()]
    return [text if moves else "" for text, moves in zip(said, moved.tolist(), strict=True)]


class Peeker(BenchModule):
    """A lip reader that knows the sentences by heart and needs a moving mouth."""

    capabilities = frozenset({"text"})
    paper = "Nobody, Nothing, nowhere"

    def __init__(self):
        super().__init__()
        self.part = torch.nn.Linear(2, 2)

    @property
    def clip_spec(self):
        return ClipSpec({"video": fake_run.VIEW})

    def build_optimizers(self):
        raise AssertionError("not trained here")

    compute_step = build_optimizers

    def read(self, batch):
        return seen(batch)

    def test_step(self, batch, batch_idx):
        return {"text": self.read(batch)}


class Both(fake_run.Blinker):
    """Makes videos and reads."""

    capabilities = frozenset({"video", "text"})

    def read(self, batch):
        return seen(batch)


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    return fake_run.run(out, out, model=Peeker(), data=Data(), metrics=["text/wer", "text/cer"]), out


def test_a_reader_has_rows_of_its_own(tested):
    evaluator, out = tested
    rows = {r.control or r.name: r for r in evaluator.records}
    assert list(rows) == ["peeker", "wrong-video", "still-video", "ground-truth", "shuffled-text"]
    wer = {name: entry.scores["text/wer"].value for name, entry in rows.items()}
    assert wer["peeker"] == pytest.approx(1 / 20)
    assert rows["peeker"].scores["text/cer"].value == pytest.approx(1 / sum(map(len, SAID)))
    assert wer["ground-truth"] == 0
    assert wer["still-video"] == 1
    assert 0.5 < wer["wrong-video"] <= 1
    assert 0.5 < wer["shuffled-text"] <= 1
    model = rows["peeker"]
    assert (model.kind, model.timing, model.scores["text/wer"].judge) == ("model", None, None)
    assert model.scores["text/wer"].n == 5
    pairs = {(pair.metric, pair.against): pair for pair in model.paired}
    assert set(pairs) == {(name, row) for name in ("text/wer", "text/cer") for row in readings.CONTROLS}
    assert pairs["text/wer", "still-video"].better == 1
    again = record.read(out / f"{model.stem}.json")
    assert again.scores == {name: again.scores[name] for name in ("text/wer", "text/cer")}
    assert again.paired[0].n == 5


def test_the_default_columns_of_a_reader(tmp_path):
    evaluator = fake_run.run(tmp_path, tmp_path, model=Peeker(), data=Data(), controls=False, calibration=False)
    assert list(evaluator.records[0].scores) == ["text/wer", "text/cer", "text/per"]
    assert len(evaluator.records) == 1


def test_readers_stand_in_a_table_of_their_own(tested, tmp_path, capsys):
    _, out = tested
    (board,), unread = table.boards(out)
    assert unread == []
    assert (board.name, board.kind, board.ranked_by) == ("fake_seen-reading", "text", ["text/wer", "text/cer"])
    assert [(line.record.name, line.record.control, line.rank) for line in board.lines] == [
        ("peeker", None, 1),
        ("peeker", "still-video", None),
        ("peeker", "wrong-video", None),
        ("ground-truth", None, None),
        ("shuffled-text", None, None),
    ]
    assert not [note for note in board.notes if "Not there" in note]
    table.compare(out, tmp_path)
    shown = capsys.readouterr().out
    assert "fake/seen v1, 5 clips of 2 speakers: readers" in shown
    assert (tmp_path / "fake_seen-reading.csv").is_file()


def test_a_model_that_generates_and_reads_stands_in_both_tables(tmp_path):
    names = ["native/psnr", "text/wer"]
    evaluator = fake_run.run(tmp_path, tmp_path, model=Both(), data=Data(), metrics=names)
    rows = {r.control or r.name: set(r.scores) for r in evaluator.records}
    both = {"native/psnr", "text/wer"}
    assert rows["both"] == rows["ground-truth"] == both
    assert rows["wrong-text"] == rows["frozen-frame"] == {"native/psnr"}
    assert rows["still-video"] == rows["shuffled-text"] == {"text/wer"}
    assert evaluator.records[0].timing == "given"
    videos, texts = table.boards(tmp_path)[0]
    assert (videos.name, texts.name) == ("fake_seen", "fake_seen-reading")
    assert {name for line in videos.lines for name in line.record.scores} == {"native/psnr"}
    assert {name for line in texts.lines for name in line.record.scores} == {"text/wer"}
    for board in (videos, texts):
        assert not [note for note in board.notes if "Not there" in note]


class Deaf:
    """An observer that reads the same in every video."""

    judge = "deaf"
    needs = frozenset({"face"})

    def observe(self, clip):
        return "bin blue"


def test_own_readings_of_real_clips_stand_apart_from_an_observers_of_generated_ones(tmp_path, monkeypatch):
    monkeypatch.setitem(banks.MAKE, "transcript", lambda files, cache: Deaf())
    own, others = ["text/wer", "text/cer", "text/per"], ["wer", "cer", "per"]
    evaluator = fake_run.run(tmp_path, tmp_path, model=Both(), data=Data(), metrics=[*own, *others])
    scores = evaluator.records[0].scores
    assert scores["text/wer"].value == pytest.approx(1 / 20)
    assert scores["wer"].value == pytest.approx(16 / 20)  # four words of the five sentences are right
    assert 0 < scores["text/per"].value < scores["per"].value
    assert [scores[name].judge for name in ("text/wer", "wer")] == [None, "deaf"]
    assert scores["per"].judge == f"deaf + {scores['text/per'].judge}"
    truth = next(entry.scores for entry in evaluator.records if entry.name == "ground-truth")
    assert (truth["text/per"].value, truth["per"].value) == (0, scores["per"].value)
    videos, texts = table.boards(tmp_path)[0]
    assert (list(videos.lines[0].record.scores), list(texts.lines[0].record.scores)) == (others, own)


def test_columns_of_what_a_model_does_not_return_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"lmd scores generated video, which Peeker does not return. It has text/wer"):
        fake_run.run(tmp_path, tmp_path, model=Peeker(), data=Data(), metrics=["lmd"])
    with pytest.raises(ValueError, match=r"text/wer scores what a model reads itself, which Blinker does not return"):
        fake_run.run(tmp_path, tmp_path, data=Data(), metrics=["text/wer"])
    with pytest.raises(ValueError, match="nothing that was asked for can be computed"):
        fake_run.run(tmp_path, tmp_path, model=Peeker(), data=Data(), metrics=["quality"])


def test_words_that_are_not_there(tmp_path):
    """A corpus without words leaves the columns empty; without other clips' words the controls cannot be scored."""
    with pytest.raises(ValueError, match=r"every column that was asked for is empty.*the batch has no text"):
        fake_run.run(tmp_path, tmp_path, model=Peeker(), metrics=["text/wer"])

    class Alone(Data):
        def test_dataloader(self):
            clips = [dict(Words()[k], mismatched={}) for k in range(2)]
            return DataLoader(clips, batch_size=2)

    with pytest.raises(ValueError, match=r"no other clip's words; add --evaluator.controls false"):
        fake_run.run(tmp_path, tmp_path, model=Peeker(), data=Alone(), metrics=["text/wer"])


def test_capabilities_of_our_own_models():
    from lipbench.models.lipnet import LipNet

    assert LipNet(size=(16, 24), widths=(4, 4, 4), hidden=4).capabilities == {"text"}
    assert fake_run.Blinker().capabilities == {"video"}
