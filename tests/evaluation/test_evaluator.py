"""The evaluator on a small model, through a real Trainer: rows, records, controls, packed stores, two processes."""

import json
import os
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import fake_run
import numpy as np
import pandas as pd
import pytest
import torch

from lipbench.evaluation import bank, calibration, record
from lipbench.files import sha256
from lipbench.metrics.psnr import psnr
from lipbench.scoring import observers
from lipbench.types import ClipSpec


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """One test run with everything on, and its folder."""
    out = tmp_path_factory.mktemp("results")
    return fake_run.run(out, tmp_path_factory.mktemp("cache")), out


def test_rows_and_files(tested):
    evaluator, out = tested
    assert [r.control or r.name for r in evaluator.records] == [
        "blinker", "wrong-text", "ground-truth", "reencoded-truth", "resized-truth", "frozen-frame", "mean-mouth"
    ]  # fmt: skip
    assert evaluator.left_out == {  # no SyncNet and no reader
        "shuffled-audio": "no column that looks at the sound can be computed here",
        "shuffled-text": "no column that looks at the text can be computed here",
    }
    files = {path.relative_to(out).as_posix() for path in out.rglob("*.json")}
    key = evaluator.records[2].calibration_run
    assert files == {
        "fake/seen/blinker/one.json",
        "fake/seen/blinker/one.wrong-text.json",
        *(f"fake/seen/{name}/{key}.json" for name in calibration.ROWS if name not in evaluator.left_out),
    }
    assert key.startswith("mouth-20x40-")
    assert len({r.comparable for r in evaluator.records}) == 1
    assert evaluator.records[0].beside == [r.control or r.name for r in evaluator.records[1:]]
    for entry in evaluator.records:
        assert record.read(out / f"{entry.stem}.json").scores.keys() == entry.scores.keys()
        assert (out / f"{entry.stem}.csv").is_file()


def test_scores_are_those_of_the_frames(tested):
    evaluator, _ = tested
    clips = [fake_run.Clips()[k] for k in range(5)]
    values = []
    for clip in clips:
        batch = {key: value[None] for key, value in clip.items() if isinstance(value, torch.Tensor)}
        made = fake_run.Blinker().generate({**batch, "n_frames": torch.tensor([5])}, "given")["video"][0]
        values.append(psnr(made, clip["video"]).numpy())
    expected = np.concatenate(values).mean()
    score = evaluator.records[0].scores["native/psnr"]
    assert score.value == pytest.approx(expected, abs=1e-3)
    assert score.n == 5
    assert score.coverage == 1
    assert score.ci95[0] < score.value < score.ci95[1]
    assert (score.unit, score.higher_is_better) == ("dB", True)


def test_calibration_and_controls_are_ordered_as_they_must_be(tested):
    rows = {r.control or r.name: r.scores for r in tested[0].records}
    assert rows["ground-truth"]["native/psnr"].value == 100
    assert rows["ground-truth"]["lmd"].value == 0
    assert rows["ground-truth"]["opening_corr"].value == pytest.approx(1)
    assert 25 < rows["reencoded-truth"]["mouth/psnr"].value < 60
    assert 0 < rows["reencoded-truth"]["lmd"].value < rows["mean-mouth"]["lmd"].value
    for better, worse in (("blinker", "wrong-text"), ("blinker", "frozen-frame"), ("resized-truth", "mean-mouth")):
        assert rows[better]["mouth/psnr"].value > rows[worse]["mouth/psnr"].value
        assert rows[better]["lmd"].value < rows[worse]["lmd"].value
    during_speech, throughout = (rows["resized-truth"][f"opening_corr{end}"].value for end in ("[speech]", ""))
    assert during_speech != throughout  # speech begins in the second of five frames
    still = rows["frozen-frame"]["opening_corr"]
    assert still.value is None
    assert still.coverage == 0
    assert "does not move" in still.reason


def test_paired_comparisons(tested):
    paired = {(p.metric, p.against): p for p in tested[0].records[0].paired}
    against = paired["native/psnr", "frozen-frame"]
    rows = {r.control or r.name: r.scores["native/psnr"].value for r in tested[0].records}
    assert against.difference == pytest.approx(rows["blinker"] - rows["frozen-frame"], abs=1e-4)
    assert (against.better, against.n) == (1, 5)
    assert paired["lmd", "wrong-text"].difference < 0
    assert paired["lmd", "wrong-text"].better == 1
    assert ("opening_corr", "frozen-frame") not in paired


def test_the_record_tells_where_it_comes_from(tested):
    _, out = tested
    content = json.loads((out / "fake/seen/blinker/one.json").read_text())
    assert content["schema"] == record.SCHEMA
    assert content["protocol"] == {"name": "fake/seen", "version": 1, "split_sha256": "ab" * 32}
    assert content["clips"]["n"] == 5
    assert content["clips"]["speakers"] == 2
    assert content["clips"]["sha256"] == record.clips_sha256([f"fake/s{k % 2}/{k}" for k in range(5)])
    assert content["view"] == "mouth 20x40"
    assert content["timing"] == "given"
    assert content["model"]["class_path"] == "fake_run.Blinker"
    arguments = content["model"]["arguments"]
    assert (arguments["scale"], arguments["weights"]) == (1.0, None)
    assert arguments["schedule"] == "constant"  # those of the bases, too
    assert content["model"]["parameters"] == {"total": 8, "part": 8}
    assert content["scores"]["lmd"]["judge"].startswith("dlib ")
    assert content["environment"]["versions"]["torch"] == metadata.version("torch")
    assert str(Path.home()) not in json.dumps(content)
    table = pd.read_csv(out / "fake/seen/blinker/one.csv")
    assert table.clip_id.tolist() == [f"fake/s{k % 2}/{k}" for k in (0, 2, 4, 1, 3)]
    assert table["native/psnr"].mean() == pytest.approx(content["scores"]["native/psnr"]["value"], abs=1e-3)


def test_two_processes_give_the_scores_of_one(tested, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "NODE_RANK": "0",
        "COLUMNS": "120",
    }
    command = [sys.executable, fake_run.__file__, str(tmp_path)]
    started = [
        subprocess.Popen(command, env={**os.environ, **shared, "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]
    for entry in tested[0].records:
        other = record.read(tmp_path / f"{entry.stem}.json")
        assert other.clips == entry.clips
        assert other.environment["processes"] == 2
        for name, score in entry.scores.items():
            again = other.scores[name].value
            assert again == (None if score.value is None else pytest.approx(score.value, rel=1e-6, abs=1e-6)), name
            assert other.scores[name].n == score.n
            assert other.scores[name].ci95 == (score.ci95 and pytest.approx(score.ci95, rel=1e-5, abs=1e-5))
    assert len(other.paired) == len(tested[0].records[-1].paired)


class Talker(fake_run.Blinker):
    """The lower half is as bright as the sound is loud."""

    needs = frozenset({"identity", "audio", "n_frames"})
    calls: ClassVar[list[torch.Tensor]] = []

    @property
    def clip_spec(self):
        return ClipSpec({"video": fake_run.VIEW}, audio_rate=16000, keys=frozenset({"identity", "audio"}))

    def generate(self, batch, timing):
        assert batch.keys() == self.needs
        self.calls.append(batch["audio"])
        loud = batch["audio"].reshape(len(batch["audio"]), fake_run.FRAMES, 640).mean(2)  # (B, T)
        video = batch["identity"][:, :1].repeat(1, fake_run.FRAMES, 1, 1, 1)
        video[..., 10:, :] = (video[..., 10:, :] + loud[..., None, None, None]).clamp(0, 1)
        return {"video": video, "video_len": batch["n_frames"]}


class Sounds(torch.utils.data.Dataset):
    """The same clips, loud where they are bright; all say the same, and others something else."""

    def __init__(self, packed=False):
        self.clips = fake_run.Clips(packed)

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, k):
        clip = self.clips[k]
        if not self.clips.packed:
            keys = ("clip_id", "index", "video", "video_len", "fps", "speech", "face", "landmarks", "tokens")
            other = self.clips[k - 1 if k % 2 else min(k + 1, 3)]
            clip["other_speaker"] = {key: other[key] for key in keys} | {"index": k}
        for part in (clip, clip["mismatched"], *([clip["other_speaker"]] if "other_speaker" in clip else [])):
            part["tokens"][0] = 0  # the ear measures brightness from the first frame on
            sound = part["tokens"].repeat_interleave(640) / 100
            part |= {"audio": sound, "sound": sound, "sound_len": len(sound)}
        clip["text"], clip["mismatched"]["text"] = "bin blue", "set red now"
        return clip


class Heard(fake_run.Data):
    """Clips with sound."""

    def test_dataloader(self):
        return torch.utils.data.DataLoader(Sounds(self.packed), batch_size=2)


class Ear:
    """A SyncNet that compares the brightness of the mouth with the loudness."""

    judge = "ear"
    needs = frozenset({"face", "sound", "sound_len", "fps"})

    def observe(self, clip):
        bright = clip.pictures(fake_run.VIEW)[:, :, 11:].mean((1, 2, 3))
        loud = clip.sound.reshape(fake_run.FRAMES, 640).mean(1)
        level = torch.stack([bright - bright[0], loud], 1)  # (T, 2)
        return torch.stack([level, torch.ones_like(level)], 2)  # the ones keep away from the zeros of padding


class Reader:
    """A lip reader that always reads the same."""

    judge = "reader"
    needs = frozenset({"face"})

    def observe(self, clip):
        return "bin blue"


@pytest.fixture
def judges(monkeypatch):
    monkeypatch.setitem(bank.MAKE, "syncnet", lambda files, cache: Ear())
    monkeypatch.setitem(bank.MAKE, "transcript", lambda files, cache: Reader())


def test_a_model_driven_by_sound(tmp_path, judges):
    Talker.calls.clear()
    names = ["native/psnr", "lse_d", "av_offset", "wer"]
    evaluator = fake_run.run(tmp_path, tmp_path, model=Talker(), data=Heard(), metrics=names)
    assert [r.control or r.name for r in evaluator.records] == [
        "talker", "wrong-audio", "cross-audio", "silent-audio", "other-speaker", *calibration.ROWS
    ]  # fmt: skip
    assert len(Talker.calls) == 3 * 4  # batches by what drives: the video of wrong-audio serves cross-audio too
    assert [not sound.any() for sound in Talker.calls] == [False, False, True, False] * 3
    rows = {r.control or r.name: r.scores for r in evaluator.records}

    def column(name):
        return {row: scores[name].value for row, scores in rows.items() if scores[name].value is not None}

    psnr_of, lse_d, errors = column("native/psnr"), column("lse_d"), column("wer")
    assert psnr_of["talker"] > psnr_of["wrong-audio"] + 10
    assert psnr_of["talker"] > psnr_of["silent-audio"] + 10
    for in_sync in ("talker", "ground-truth", "cross-audio", "other-speaker"):
        for other in ("wrong-audio", "silent-audio", "shuffled-audio"):
            assert lse_d[in_sync] < lse_d[other] / 2
    assert (errors["ground-truth"], errors["shuffled-text"]) == (0, 1)
    filled = {row: {name for name, s in rows[row].items() if s.value is not None} for row in rows}
    assert filled["cross-audio"] == filled["shuffled-audio"] == {"lse_d", "av_offset"}
    assert filled["shuffled-text"] == {"wer"}
    assert filled["other-speaker"] == {"lse_d", "av_offset"}
    assert rows["other-speaker"]["native/psnr"].reason == "another speaker's face is another picture"
    assert rows["shuffled-audio"]["native/psnr"].reason == "as in ground-truth: only the sound is another clip's"
    assert rows["shuffled-text"]["lse_d"].reason == "as in ground-truth: only the text is another clip's"
    assert rows["cross-audio"]["wer"].reason == "as in wrong-audio: only the sound beside the video differs"
    assert all(rows[row][name].n == 5 for row in rows for name in filled[row])
    against = {(pair.metric, pair.against) for pair in evaluator.records[0].paired}
    assert {row for _, row in against} == {"frozen-frame", "wrong-audio"}


def test_calibration_rows_do_not_depend_on_the_model(tmp_path, judges):
    names = ["native/psnr", "sync", "wer"]
    first, second = (
        fake_run.run(tmp_path / str(k), tmp_path / f"cache{k}", model=model, data=Heard(), metrics=names)
        for k, model in enumerate((Talker(), fake_run.Blinker()))
    )
    own, other = ({r.stem: r.scores for r in e.records if r.kind == "calibration"} for e in (first, second))
    assert len(own) == len(calibration.ROWS)
    assert own == other


def test_without_pyav_the_other_rows_are_scored(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)  # importing it raises
    evaluator = fake_run.run(tmp_path, tmp_path, metrics=["native/psnr"], controls=False)
    assert "reencoded-truth" not in {r.name for r in evaluator.records}
    assert "ground-truth" in {r.name for r in evaluator.records}
    assert "reencoded-truth: left out, H.264 needs PyAV" in capsys.readouterr().out


def test_rows_that_need_another_clip_say_if_the_batch_has_none(tmp_path, judges):
    with pytest.raises(ValueError, match=r"no other clip's sound; add --evaluator\.calibration false"):
        fake_run.run(tmp_path, tmp_path, metrics=["sync"], controls=False)


def test_packed_store(tmp_path, judges):
    evaluator = fake_run.run(tmp_path, tmp_path / "cache", data=Heard(packed=True), model=Talker())
    assert evaluator.left_out["reencoded-truth"] == "a packed store holds no whole pictures"
    assert not {"shuffled-audio", "shuffled-text"} & {r.name for r in evaluator.records}
    assert {r.control for r in evaluator.records} == {None, "wrong-audio", "silent-audio"}
    assert evaluator.left_out["other-speaker"] == "a packed store holds no whole pictures"
    scores = evaluator.records[0].scores
    assert scores["native/psnr"].n == 5
    assert scores["mouth/psnr"].value is None
    assert "no face" in scores["mouth/psnr"].reason
    assert evaluator.records[0].data["packed"]


def test_switches(tmp_path):
    evaluator = fake_run.run(
        tmp_path, tmp_path, controls=False, calibration=False, metrics=["native/psnr"], timing="length", name=None
    )
    assert [r.name for r in evaluator.records] == ["blinker"]
    assert list(evaluator.records[0].scores) == ["native/psnr"]
    assert evaluator.records[0].timing == "length"
    assert evaluator.path.name.startswith("20")  # date and time
    with pytest.raises(ValueError, match="no timing 'free'; it has given, length"):
        fake_run.run(tmp_path, tmp_path, timing="free")
    with pytest.raises(ValueError, match="did you mean 'lmd'"):
        fake_run.run(tmp_path, tmp_path, metrics=["lmdd"])


class Never(fake_run.Blinker):
    """Must not be asked to generate."""

    def generate(self, batch, timing):
        raise AssertionError("generated")


def test_no_column_at_all_is_an_error_before_the_work(tmp_path):
    with pytest.raises(ValueError, match="nothing that was asked for can be computed") as caught:
        fake_run.run(tmp_path / "out", tmp_path, model=Never(), metrics=["sync"])
    assert "--evaluator.files.syncnet 'syncnet-small[rendered]'  (knows rendered faces only)" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_table_of_empty_columns_is_no_success(tmp_path):
    """Written all the same: the corpus has no sound, which nobody could know before."""
    asked = {"metrics": ["lse_d"], "files": {"syncnet": "syncnet-small[rendered]"}}
    with pytest.raises(ValueError, match=r"every column that was asked for is empty\. lse_d: the batch has no sound"):
        fake_run.run(tmp_path, tmp_path, calibration=False, controls=False, **asked)
    assert (tmp_path / "fake" / "seen" / "blinker" / "one.json").is_file()


def test_results_that_cannot_be_written_are_known_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write into .*file: it is a file; name another folder"):
        fake_run.run(tmp_path / "file", tmp_path, model=Never(), metrics=["native/psnr"])
    assert (tmp_path / "file").read_bytes() == b""


def test_scores_do_not_depend_on_the_batch(tmp_path, tested):
    class One(fake_run.Data):
        def test_dataloader(self):
            return torch.utils.data.DataLoader(fake_run.Clips(), batch_size=5)

    one = fake_run.run(tmp_path, tmp_path / "cache", data=One())
    assert [entry.scores for entry in one.records] == [entry.scores for entry in tested[0].records]


def test_weights_and_workers_are_checked(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'syncnet-small\["):
        fake_run.run(tmp_path, tmp_path, model=Never(), files={"syncnet": "syncnet-small"})
    with pytest.raises(ValueError, match=r"evaluator\.workers is -1; expected 0 or more"):
        fake_run.run(tmp_path, tmp_path, workers=-1)


@pytest.mark.parametrize("name", ["../../../x", "/x", "", "a\nb", "x" * 300, "nul"])
def test_names_are_checked_before_anything_is_generated(tmp_path, name):
    with pytest.raises(ValueError, match=r"evaluator\.name .* cannot name a file: .*expected 1 to 100 letters, digits"):
        fake_run.run(tmp_path / "out", tmp_path, name=name, model=Never())
    data = fake_run.Data()
    data.protocol = SimpleNamespace(name=f"fake/{name}", version=1)
    with pytest.raises(ValueError, match=r"the protocol name .* cannot name a file"):
        fake_run.run(tmp_path / "out", tmp_path, data=data, model=Never())
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("width", [40, 70])
def test_a_narrow_terminal_gets_more_tables_and_whole_names(tested, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    tested[0]._print()
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    for entry in tested[0].records:
        assert (f"{entry.name} {entry.control}" if entry.control else entry.name) in shown
    for score in tested[0].records[0].scores.values():
        assert score.value is None or f"{score.value:.{2 if score.unit == 'dB' else 3}f}" in shown


def test_a_model_driven_by_nothing_but_a_picture_has_no_control(tmp_path):
    class Deaf(fake_run.Blinker):
        needs = frozenset({"identity", "n_frames"})

        def generate(self, batch, timing):
            return super().generate({**batch, "tokens": torch.zeros(len(batch["identity"]), 5)}, timing)

    evaluator = fake_run.run(tmp_path, tmp_path, model=Deaf(), metrics=["native/psnr"], calibration=False)
    assert len(evaluator.records) == 1


def test_checkpoint_is_hashed(tmp_path):
    import pytorch_lightning as pl

    model = fake_run.Blinker(weights=str(tmp_path / "expert.pt"))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    trainer.strategy.connect(model)
    model.trainer = trainer
    model.batches = 7
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    evaluator = fake_run.run(
        tmp_path,
        tmp_path,
        model=model,
        ckpt_path=str(tmp_path / "model.ckpt"),
        metrics=["native/psnr"],
        calibration=False,
    )
    found = evaluator.records[0]
    assert found.model["checkpoint_sha256"] == sha256(tmp_path / "model.ckpt")
    assert found.training["batches"] == 7
    assert found.model["arguments"]["weights"] == "expert.pt"


def test_a_column_with_one_number_for_all_clips(tmp_path, monkeypatch):
    class Mean(torch.nn.Module):
        judge = "mean colors"

        def __init__(self, path):
            super().__init__()

        def forward(self, pictures):
            return pictures.mean((2, 3))

    monkeypatch.setattr(observers, "Inception", Mean)
    monkeypatch.setitem(bank.METRICS, "fid", fake_run.with_dim("fid", 3))
    evaluator = fake_run.run(tmp_path, tmp_path, metrics=["fid", "native/psnr"], controls=False)
    scores = {r.name: r.scores["fid"] for r in evaluator.records}
    assert scores["ground-truth"].value == pytest.approx(0, abs=1e-6)
    assert scores["blinker"].value < scores["mean-mouth"].value
    assert (scores["blinker"].n, scores["blinker"].coverage, scores["blinker"].ci95) == (5, 1, None)
    assert scores["blinker"].judge == "mean colors"


class Lips:
    """A landmarker that finds the mouth as far open as it is bright."""

    judge = "lips"
    needs = frozenset({"face"})

    def observe(self, clip):
        points = torch.zeros(fake_run.FRAMES, 68, 2)
        points[:, 65:68, 1] = clip.pictures(fake_run.VIEW)[:, :, 11:].mean((1, 2, 3))[:, None]
        return points


def test_the_mouth_of_another_speaker_is_followed(tmp_path, judges, monkeypatch):
    """The row is compared with the openings of the speaker who is heard; the clip's own are others."""
    monkeypatch.setitem(bank.MAKE, "landmarks", lambda files, cache: Lips())
    names = ["native/psnr", "opening_corr", "lmd"]
    evaluator = fake_run.run(tmp_path, tmp_path, model=Talker(), data=Heard(), metrics=names)
    rows = {r.control or r.name: r.scores for r in evaluator.records}
    assert rows["other-speaker"]["opening_corr"].value == pytest.approx(1, abs=1e-3)
    assert rows["wrong-audio"]["opening_corr"].value < 0.9
    assert rows["other-speaker"]["lmd"].value is None


def test_without_other_speakers_there_is_no_such_row(tmp_path, judges):
    evaluator = fake_run.run(tmp_path, tmp_path, model=Talker(), data=Heard(clips=1), metrics=["native/psnr", "lse_d"])
    assert evaluator.left_out["other-speaker"] == "not every test clip has one of another speaker"
    assert "other-speaker" not in {r.control for r in evaluator.records}
