"""Records: paths that do not leak, hashes, what may be compared."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lipbench.evaluation import record, scoreboard
from lipbench.evaluation.bank import METRICS
from lipbench.evaluation.record import Record, Score
from lipbench.scoring.base import PerClip


def make(**changes):
    plain = Record(
        kind="model", name="paralip", run="a", control=None,
        protocol={"name": "grid/s1", "version": 1, "split_sha256": "00"},
        clips={"n": 2, "speakers": 1, "sha256": "11"},
        view="mouth 40x80", timing="given", model={}, training={},
        data={"settings": {"landmarks": "dlib", "limit": None}, "counts": {"clips": 9}, "packed": None},
        scores={"lmd": Score(1.0, (0.9, 1.1), 2, 1.0, "px", False, 0.0, judge="dlib 20")},
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def test_round_trip(tmp_path):
    entry = make()
    path = record.write([(entry, pd.DataFrame({"clip_id": ["x"], "lmd": [1.23456789]}))], tmp_path)[0]
    assert path == tmp_path / "grid/s1/paralip/a.json"
    assert record.read(path) == entry
    assert path.with_suffix(".csv").read_text() == "clip_id,lmd\nx,1.23457\n"
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.csv", "a.json"]
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 9'))
    with pytest.raises(ValueError, match="schema 9"):
        record.read(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="not a results record"):
        record.read(path)


def test_comparable():
    entry = make()
    assert entry.comparable == make(name="duallip", run="b", view="face 96x96", timing="free").comparable
    more = {**entry.data, "counts": {"clips": 10}, "settings": {"landmarks": "dlib", "limit": 10}}
    assert entry.comparable == make(data=more).comparable
    for change in (
        {"protocol": {**entry.protocol, "split_sha256": "22"}},
        {"protocol": {**entry.protocol, "version": 2}},
        {"clips": {**entry.clips, "sha256": "33"}},
        {"data": {**entry.data, "packed": "mouth 40x80"}},
        {"data": {**entry.data, "settings": {"landmarks": "exact"}}},
    ):
        assert entry.comparable != make(**change).comparable


def test_observers_do_not_part_rows_but_name_calibration_files():
    """Who judged is compared column by column; a calibration row of another observer or column replaces no other."""
    entry = make()
    other = make(scores={"lmd": dataclasses.replace(entry.scores["lmd"], judge="dlib 21")})
    more = make(scores={**entry.scores, "wer": dataclasses.replace(entry.scores["lmd"], judge=None)})
    assert {entry.comparable} == {other.comparable, more.comparable}
    assert len({entry.calibration_run, other.calibration_run, more.calibration_run}) == 3
    assert entry.calibration_run == make(name="b", run="c", created="later").calibration_run


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--root=../shared/grid", "--root=grid"),
        ("/opt/data/run.ckpt", "run.ckpt"),
        ("{here}/runs/a.ckpt", "runs/a.ckpt"),
        ("grid/s1", "grid/s1"),
        ("--x={'a': '/opt/y/z.pt', 'b': 1}", "--x={'a': 'z.pt', 'b': 1}"),
        ("https://host/a/b", "https://host/a/b"),
        ("experiments/paralip_grid.yaml", "experiments/paralip_grid.yaml"),
        ("~/.cache/torch", "~/.cache/torch"),
        ("75/76", "75/76"),
    ],
)
def test_paths_outside_are_reduced(word, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert record.portable(word.replace("{here}", str(tmp_path))) == expected


def test_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/opt/venv/bin/lipbench", "test", "--ckpt_path", "/opt/my run.ckpt"])
    assert record.command() == "lipbench test --ckpt_path 'my run.ckpt'"
    monkeypatch.setattr(sys, "argv", ["/opt/src/lipbench/__main__.py", "compare"])
    assert record.command() == "python -m lipbench compare"


def test_portable_makes_plain_values():
    assert record.portable({"a": (1, 2.5), "b": frozenset({"y", "x"}), "c": None, 3: True}) == {
        "a": [1, 2.5], "b": ["x", "y"], "c": None, "3": True
    }  # fmt: skip


def test_score_counts_what_is_undefined():
    clips = PerClip(np.arange(4), np.array([1.0, np.nan, 3.0, 2.0]), np.array([1.0, 1, 1, 2]))
    score = scoreboard.score(METRICS["lmd"], clips, dict.fromkeys(range(4), "s1"), "dlib", None)
    assert score.value == pytest.approx((1 + 3 + 4) / 4)
    assert (score.n, score.coverage) == (3, 0.75)
    assert score.reason == "1 of 4 clips have no score: fewer than 95 % of its frames have landmarks"
    empty = scoreboard.score(METRICS["lmd"], None, {0: "s1"}, None, "n/a: because")
    assert (empty.value, empty.ci95, empty.n, empty.reason) == (None, None, 0, "n/a: because")


def test_pair_uses_clips_that_both_have():
    own = PerClip(np.array([0, 1, 2]), np.array([1.0, 2.0, np.nan]), np.ones(3))
    other = PerClip(np.array([1, 2, 3]), np.array([3.0, 1.0, 1.0]), np.ones(3))
    found = scoreboard.pair(METRICS["lmd"], own, other, "frozen-frame", dict.fromkeys(range(4), "s1"))
    assert (found.difference, found.better, found.n) == (-1.0, 1.0, 1)
    assert scoreboard.pair(METRICS["lmd"], own, PerClip(np.array([9]), np.ones(1), np.ones(1)), "x", {9: "s"}) is None


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../../../x", "/x", "a/b", "a\\b", "a\nb", "a\x1bb", "a\0b", ".hidden", "x" * 101, "é" * 60),
        *("nul", "CON", "com1.txt", "LPT9", "end.", "a:b", "a*b", "~", "a b", "\ud800", "[bold]", "=cmd()", "@x"),
    ],
)
def test_names_that_cannot_name_a_file(name, tmp_path):
    table = pd.DataFrame({"clip_id": ["x"]})
    for change in ({"run": name}, {"name": name}, {"protocol": {**make().protocol, "name": f"grid/{name}"}}):
        if name == "a/b" and "protocol" in change:
            continue
        with pytest.raises(ValueError, match="cannot name a file"):
            record.write([(make(), table), (make(**change), table)], tmp_path / "results")
    assert list(tmp_path.iterdir()) == []  # not even the good record of the same test


def test_a_killed_test_never_leaves_a_model_without_its_calibration_rows(tmp_path, monkeypatch):
    """All files are on the disk before the first gets its name, and the model's record is the last to get it."""
    table = pd.DataFrame({"clip_id": ["x"], "lmd": [1.0]})
    rows = [
        (make(beside=["wrong-text", "frozen-frame"]), table),
        (make(kind="control", control="wrong-text"), table),
        (make(kind="calibration", name="frozen-frame", run="view"), table),
    ]
    named, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: named.append(target.name) or replace(self, target))
    paths = record.write(rows, tmp_path)
    assert named == ["view.csv", "view.json", "a.wrong-text.csv", "a.wrong-text.json", "a.csv", "a.json"]
    assert [path.name for path in paths] == ["a.json", "a.wrong-text.json", "view.json"]
    for at in range(len(named)):
        out = tmp_path / str(at)

        def killed(self, target, at=at, seen=[]):  # noqa: B006 - one list a function
            seen.append(target)
            if len(seen) > at:
                raise KeyboardInterrupt
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            record.write(rows, out)
        left = {path.name for path in out.rglob("*") if path.is_file()}
        assert left == set(named[:at])


def test_what_json_does_not_know_is_written_as_text(tmp_path):
    entry = make(model={"clip_norm": float("inf")})
    path = record.write([(entry, pd.DataFrame({"clip_id": ["x"]}))], tmp_path)[0]
    assert record.read(path).model == {"clip_norm": "inf"}


def test_scores_of_single_clips_hold_no_formulas(tmp_path):
    """Clips are called by the names of files, which may be anybody's."""
    table = pd.DataFrame({"clip_id": ["=cmd()", "+1", "s1/a"], "lmd": [-1.5, np.nan, 2.0], "frames": [1, None, 3]})
    path = record.write([(make(), table.astype({"frames": "Int64"}))], tmp_path)[0]
    assert path.with_suffix(".csv").read_text() == "clip_id,lmd,frames\n'=cmd(),-1.5,1\n'+1,,\ns1/a,2,3\n"
