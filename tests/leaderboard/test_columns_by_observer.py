"""Who scored a column: rows keep their table when a run is scored again, and unlike scores are never compared."""

import json

import pandas as pd
import pytest
from made_up_records import COLUMNS, compare, put

from lipbench.leaderboard import table

OLD, NEW = {"lmd": "dlib 20"}, {"lmd": "dlib 21"}


def changed(path, **columns):
    """Rewrite scores of a record."""
    content = json.loads(path.read_text())
    for name, score in columns.items():
        content["scores"][name.replace("_", "/", 1)] |= score
    path.write_text(json.dumps(content))


def lines(folder):
    (board,), unread = table.boards(folder / "results")
    assert unread == []
    return board, {line.record.run: line for line in board.lines if line.record.kind == "model"}


@pytest.fixture
def three(tmp_path):
    """Three models and a frozen frame, LPIPS empty in all."""
    for worse, run in enumerate(("a", "b", "c")):
        put(tmp_path, "paralip", run, float(worse), judges=OLD)
    put(tmp_path, "frozen-frame", "mouth-40x80-old", 3.0, kind="calibration", timing=None, judges=OLD)
    return tmp_path


def test_a_run_scored_again_with_one_more_file_stays_in_its_table(three, capsys):
    lpips = {"value": 0.1, "ci95": [0.09, 0.11], "n": 30, "coverage": 1.0, "judge": "AlexNet 1", "reason": None}
    changed(put(three, "paralip", "b", 1.0, judges=OLD), mouth_lpips=lpips)
    path = put(three, "frozen-frame", "mouth-40x80-more", 3.0, kind="calibration", timing=None, judges=OLD, seed=1)
    changed(path, mouth_lpips=lpips | {"value": 0.3})
    compare(three)
    board, models = lines(three)
    assert [(run, line.rank) for run, line in models.items()] == [("a", 1), ("b", 2), ("c", 3)]
    assert all(line.apart == frozenset() for line in board.lines)
    frozen = [line for line in board.lines if line.record.kind == "calibration"]
    assert len(frozen) == 1
    assert (frozen[0].value("mouth/lpips"), frozen[0].value("mouth/psnr")) == (0.3, 29)
    assert "‡" not in capsys.readouterr().out


def test_another_observer_stands_apart_and_is_not_ranked(three, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    put(three, "paralip", "new", -1.0, judges=NEW, seed=5)  # would be first
    compare(three)
    _, models = lines(three)
    assert {run: line.rank for run, line in models.items()} == {"a": 1, "b": 2, "c": 3, "new": None}
    assert models["new"].apart == {"lmd"}
    assert models["new"].value("lmd") is None
    shown = capsys.readouterr().out
    assert "0.700‡" in shown
    assert "‡ lmd of paralip new: by dlib 21, in the table's other rows by dlib 20" in shown
    read = pd.read_csv(three / "grid_s1.csv").set_index("run")
    assert pd.isna(read.lmd["new"])
    assert read.other_observer["new"] == "lmd 0.7 by dlib 21"
    assert read["mouth/psnr"]["new"] == 33  # nobody scored that column again


def test_a_column_that_does_not_rank_may_stand_apart_in_a_ranked_row(tmp_path):
    for worse, run in enumerate("abc"):
        put(tmp_path, "paralip", run, float(worse), judges={"opening_ratio": "new" if run == "b" else "old"})
    _, models = lines(tmp_path)
    assert {run: line.rank for run, line in models.items()} == {"a": 1, "b": 2, "c": 3}
    assert models["b"].apart == {"opening_ratio"}
    assert all("opening_ratio" not in line.tied for line in models.values() if line is models["b"])


def test_most_models_say_who_observes_then_most_rows_then_the_newest(tmp_path):
    put(tmp_path, "paralip", "a", 0.0, judges=OLD)
    put(tmp_path, "paralip", "b", 1.0, judges=NEW, seed=3)
    assert {run: line.rank for run, line in lines(tmp_path)[1].items()} == {"a": None, "b": 1}
    put(tmp_path, "ground-truth", "x", -5.0, kind="calibration", timing=None, judges=OLD)
    assert {run: line.rank for run, line in lines(tmp_path)[1].items()} == {"a": 1, "b": None}
    put(tmp_path, "paralip", "c", 1.0, judges=NEW)
    assert {run: line.rank for run, line in lines(tmp_path)[1].items()} == {"a": None, "b": 1, "c": 1}


def test_of_a_calibration_row_the_newest_score_of_the_tables_observer_counts(three):
    for seed, judges, worse in ((7, NEW, 5.0), (6, OLD, 4.0)):
        name = f"mouth-40x80-{seed}"
        put(three, "frozen-frame", name, worse, kind="calibration", timing=None, judges=judges, seed=seed)
    board, _ = lines(three)
    (frozen,) = (line for line in board.lines if line.record.kind == "calibration")
    step = COLUMNS["lmd"][-1]
    assert frozen.value("lmd") == pytest.approx(0.9 + 4 * step)  # newest of dlib 20
    assert frozen.value("mouth/psnr") == 27  # newest of all
    assert frozen.apart == frozenset()
    assert [path.name for path in (frozen.path, *frozen.others)] == ["mouth-40x80-7.json", "mouth-40x80-6.json"]


def test_a_record_that_turns_a_direction_round_is_not_ranked(three):
    """A column's direction comes from the records: one that contradicts the others must not turn the table."""
    changed(put(three, "paralip", "odd", 9.0, judges=OLD), lmd={"higher_is_better": True})
    board, models = lines(three)
    assert {run: line.rank for run, line in models.items()} == {"a": 1, "b": 2, "c": 3, "odd": None}
    assert any("higher is better" in note and "lower is better" in note for note in board.notes)
