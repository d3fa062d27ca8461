"""The evaluator on a small model, through a real Trainer: rows, records, controls, packed stores, two processes."""

import json
import os
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import fake_run
import numpy as np
import pandas as pd
import pytest
import torch

from lipbench.evaluation import calibration, record
from lipbench.metrics import _bank, _observers
from lipbench.metrics.fid import FID
from lipbench.metrics.psnr import psnr


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """One test run with everything on, and its folder."""
    out = tmp_path_factory.mktemp("results")
    return fake_run.run(out, out / "cache"), out


def test_rows_and_files(tested):
    evaluator, out = tested
    assert [r.control or r.name for r in evaluator.records] == [
        "blinker", "wrong-text", "ground-truth", "resized-truth", "frozen-frame", "mean-mouth"
    ]  # fmt: skip
    files = {path.relative_to(out).as_posix() for path in out.rglob("*.json")}
    key = evaluator.records[2].comparable
    assert files == {
        "fake/seen/blinker/one.json",
        "fake/seen/blinker/one.wrong-text.json",
        *(f"fake/seen/{name}/mouth-20x40-{key}.json" for name in calibration.ROWS),
    }
    assert {r.comparable for r in evaluator.records} == {key}
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
    for better, worse in (("blinker", "wrong-text"), ("blinker", "frozen-frame"), ("resized-truth", "mean-mouth")):
        assert rows[better]["mouth/psnr"].value > rows[worse]["mouth/psnr"].value
        assert rows[better]["lmd"].value < rows[worse]["lmd"].value
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
    assert content["model"]["arguments"] == {"scale": 1.0, "weights": None}
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


def test_packed_store(tmp_path):
    evaluator = fake_run.run(tmp_path, tmp_path / "cache", data=fake_run.Data(packed=True))
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
    assert found.model["checkpoint_sha256"] == record.file_sha256(tmp_path / "model.ckpt")
    assert found.training["batches"] == 7
    assert found.model["arguments"]["weights"] == "expert.pt"


def test_a_column_with_one_number_for_all_clips(tmp_path, monkeypatch):
    class Mean(torch.nn.Module):
        judge = "mean colours"

        def __init__(self, path):
            super().__init__()

        def forward(self, pictures):
            return pictures.mean((2, 3))

    monkeypatch.setattr(_observers, "Inception", Mean)
    monkeypatch.setattr(_bank, "FID", lambda: FID(3))
    evaluator = fake_run.run(tmp_path, tmp_path, metrics=["fid", "native/psnr"], controls=False)
    scores = {r.name: r.scores["fid"] for r in evaluator.records}
    assert scores["ground-truth"].value == pytest.approx(0, abs=1e-6)
    assert scores["blinker"].value < scores["mean-mouth"].value
    assert (scores["blinker"].n, scores["blinker"].coverage, scores["blinker"].ci95) == (5, 1, None)
    assert scores["blinker"].judge == "mean colours"
