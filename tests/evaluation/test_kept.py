"""Scores of calibration rows that stay on disk: the same as computed ones, and never out of date."""

import json
from pathlib import Path

import fake_run
import pytest
import torch

from lipbench.evaluation import bank, calibration, kept
from lipbench.evaluation.bank import Bank
from lipbench.evaluation.kept import KeptScores
from lipbench.scoring import observers
from lipbench.types import View

METRICS = ["native/psnr", "mouth/ssim", "mouth/cpbd"]


def calibrations(evaluator):
    return {r.stem: (r.scores, r.clips) for r in evaluator.records if r.kind == "calibration"}


def files(folder):
    return sorted((folder / "calibration").rglob("*.json"))


def test_a_second_test_does_not_make_the_rows_again(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = fake_run.run(tmp_path / "a", cache, metrics=METRICS, workers=0)
    assert len(files(cache)) == 5
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "iter_calibration_rows", lambda *args: pytest.fail("made again"))
        second = fake_run.run(tmp_path / "b", cache, model=fake_run.Blinker(scale=0.5), metrics=METRICS, workers=0)
    assert len(calibrations(first)) == 5
    assert calibrations(second) == calibrations(first)
    for stem in calibrations(first):
        assert (tmp_path / "b" / f"{stem}.csv").read_text() == (tmp_path / "a" / f"{stem}.csv").read_text()
    assert second.records[0].scores != first.records[0].scores  # the model's own row is another


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"ground-truth": 3}', "null", "1e999", '{"ground-truth": [{}, 0]}'])
def test_a_damaged_file_is_made_again(tmp_path, damage):
    cache = tmp_path / "cache"
    first = fake_run.run(tmp_path / "a", cache, metrics=METRICS, workers=0)
    whole = [path.read_text() for path in files(cache)]
    files(cache)[0].write_text(damage)
    second = fake_run.run(tmp_path / "b", cache, metrics=METRICS, workers=0)
    assert calibrations(second) == calibrations(first)
    assert [path.read_text() for path in files(cache)] == whole


def test_numbers_that_json_does_not_mean_are_refused(tmp_path):
    scores = KeptScores(tmp_path, Bank(METRICS), View("mouth", 20, 40), ["ground-truth"], torch.zeros(3), "cpu")
    path = tmp_path / "x.json"
    scores.write(path, {"ground-truth": ({"native/psnr": (float("nan"), 1.0)}, {"fid": "no weights"})})
    (value, weight), reasons = scores.read(path)["ground-truth"][0]["native/psnr"], scores.read(path)["ground-truth"][1]
    assert (value != value, weight, reasons) == (True, 1, {"fid": "no weights"})
    for bad in ("Infinity", "true", '"1"', "null"):
        path.write_text(json.dumps({"ground-truth": [{"native/psnr": ["?", 1.0]}, {}]}).replace('"?"', bad))
        assert scores.read(path) is None


def test_the_file_depends_on_all_that_scores_depend_on(monkeypatch):
    batch = {
        "video": torch.zeros(1, 2, 3, 4, 4),
        "text": ["bin"],
        "mismatched": {"text": ["lay"]},
        "index": torch.zeros(1),
    }
    view, mean = View("mouth", 20, 40), torch.zeros(3, 20, 40)

    def path(names=METRICS, view=view, rows=("ground-truth",), mean=mean, device="cpu", **changed):
        return KeptScores(Path(), Bank(names), view, rows, mean, device).path({**batch, **changed})

    found = [
        path(),
        path(names=METRICS[:1]),
        path(view=View("mouth", 40, 80)),
        path(rows=("frozen-frame",)),
        path(mean=mean + 1),
        path(device="cuda:0"),
        path(video=batch["video"] + 1e-6),
        path(video=torch.zeros(1, 1, 3, 8, 4)),
        path(text=["set"]),
        path(mismatched={"text": ["set"]}),
        path(sound=torch.zeros(1, 5)),
    ]
    assert path(index=torch.ones(1), clip_id=["b"]) == found[0]
    assert path(device="cuda:0") == path(device="cuda:1")
    monkeypatch.setattr(kept, "_code", lambda: "other")
    found.append(path())
    monkeypatch.setattr(kept, "_version", lambda name: "other")
    found.append(path())
    assert len(set(found)) == len(found)


def test_columns_over_sets_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(observers, "Inception", fake_run.Mean)
    for name, entry in fake_run.SETS.items():
        monkeypatch.setitem(bank.METRICS, name, entry)
    first, second = (
        fake_run.run(tmp_path / str(k), tmp_path / "cache", metrics=["native/psnr", "fid"], workers=0) for k in range(2)
    )
    assert not files(tmp_path / "cache")
    assert calibrations(second) == calibrations(first)
    assert first.records[-1].scores["fid"].value is not None


def test_a_changed_metric_of_another_package_is_scored_anew(tmp_path, monkeypatch):
    source = """from lipbench.metrics.psnr import PSNR
from lipbench.scoring.base import Column


class Mine(PSNR):
    columns = (Column("native/mine", "mine", region="native"),)
"""
    (tmp_path / "their_metric.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)

    def path():
        bank = Bank(["their_metric.Mine"])
        return KeptScores(Path(), bank, View("mouth", 20, 40), ["ground-truth"], torch.zeros(3), "cpu").path({})

    first = path()
    assert path() == first
    (tmp_path / "their_metric.py").write_text(source + "# another formula\n")
    assert path() != first
