"""Tables from records: ranks, refusal to mix, stable files, what the terminal shows."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lipbench.evaluation import record
from lipbench.evaluation.record import Record, Score
from lipbench.leaderboard import _reported, table

#          unit, higher is better, perfect, best value, step that makes it worse
COLUMNS = {
    "mouth/psnr": ("dB", True, 100.0, 32.0, -1.0),
    "mouth/ssim": ("", True, 1.0, 0.95, -0.02),
    "mouth/lpips": ("", False, 0.0, None, None),
    "lmd": ("px", False, 0.0, 0.9, 0.2),
    "opening_corr[speech]": ("", True, 1.0, 0.85, -0.1),
    "opening_ratio": ("", None, 1.0, 1.1, 0.2),
}


def put(
    folder, name, run, worse=0.0, *, timing="given", kind="model", control=None, clips=30, empty=(), seed=0, **changes
):
    """Write a record whose scores are `worse` steps below the best."""
    ids = [f"grid/s1/{k:03d}" for k in range(clips)]
    per_clip = pd.DataFrame({"clip_id": ids, "speaker": "s1"})
    scores = {}
    for column, (unit, higher, perfect, best, step) in COLUMNS.items():
        if best is None or column in empty:
            reason = "no weights here" if best is None else "no face in a packed store"
            scores[column] = Score(None, None, 0, 0.0, unit, higher, perfect, reason=reason)
            continue
        noise = np.random.default_rng(seed).normal(0, abs(step) / 10, clips)
        per_clip[column] = best + worse * step + noise - noise.mean()
        value = best + worse * step
        scores[column] = Score(value, (value - 0.1, value + 0.1), clips, 1.0, unit, higher, perfect)
    plain = {
        "protocol": {"name": "grid/s1", "version": 1, "split_sha256": "00"},
        "clips": {"n": clips, "speakers": 1, "sha256": record.clips_sha256(ids)},
        "view": "mouth 40x80",
        "data": {"settings": {"landmarks": "dlib"}, "packed": None},
    }
    about = {"model": {}, "training": {}, "scores": scores, "created": f"{seed}"}
    entry = Record(kind=kind, name=name, run=run, control=control, timing=timing, **about, **{**plain, **changes})
    return record.write([(entry, per_clip)], folder / "results")[0]


def compare(folder, **options):
    return table.compare(folder / "results", folder, **options)


@pytest.fixture
def full(tmp_path):
    """Three models, a control, two calibrations."""
    put(tmp_path, "paralip", "good")
    put(tmp_path, "paralip", "poor", 1.0, view="mouth 80x160")
    put(tmp_path, "duallip", "middle", 0.5)
    put(tmp_path, "paralip", "long", 2.0, timing="length")
    put(tmp_path, "paralip", "good", 1.5, kind="control", control="wrong-text")
    put(tmp_path, "ground-truth", "mouth-40x80", -5.0, kind="calibration", timing=None)
    put(tmp_path, "frozen-frame", "mouth-40x80", 3.0, kind="calibration", timing=None)
    return tmp_path


def test_ranks_and_order(full):
    (board,), unread = table.boards(full / "results")
    assert unread == []
    assert board.name == "grid_s1"
    assert [(line.record.name, line.record.run, line.rank) for line in board.lines] == [
        ("paralip", "good", 1),
        ("duallip", "middle", 2),
        ("paralip", "poor", 3),
        ("paralip", "long", 1),  # another task: only the length was given
        ("paralip", "good", None),
        ("ground-truth", "mouth-40x80", None),
        ("frozen-frame", "mouth-40x80", None),
    ]
    assert board.ranked_by == ["mouth/psnr", "mouth/ssim", "lmd", "opening_corr[speech]"]


def test_mean_rank_over_columns_that_disagree(tmp_path):
    put(tmp_path, "paralip", "a")
    put(tmp_path, "paralip", "b", 1.0)
    path = put(tmp_path, "paralip", "c", 2.0)
    content = json.loads(path.read_text())
    content["scores"]["lmd"]["value"] = 0.1  # best in one column, last in three
    path.write_text(json.dumps(content))
    (board,), _ = table.boards(tmp_path / "results")
    assert [(line.record.run, line.mean_rank) for line in board.lines] == [("a", 1.25), ("b", 2.25), ("c", 2.5)]


def test_incomplete_rows_are_shown_but_not_ranked(full, capsys):
    put(full, "talklip", "packed", 0.1, empty=["lmd"])
    compare(full)
    (board,), _ = table.boards(full / "results")
    line = next(line for line in board.lines if line.record.name == "talklip")
    assert line.rank is None
    shown = capsys.readouterr().out
    assert "unranked" in shown
    assert "– lmd of talklip: no face in a packed store" in shown
    assert "– mouth/lpips: no weights here" in shown


@pytest.mark.parametrize(("missing", "rank"), [(1, 1), (3, None)])
def test_a_row_without_the_hard_clips_is_not_ranked(full, missing, rank):
    """Of 30 clips one may lack a score: two would be 7 %."""
    path = put(full, "talklip", "easy", -1.0)
    content = json.loads(path.read_text())
    content["scores"]["lmd"] |= {"n": 30 - missing, "coverage": 1 - missing / 30, "reason": "its video was cut short"}
    path.write_text(json.dumps(content))
    (board,), _ = table.boards(full / "results")
    assert next(line.rank for line in board.lines if line.record.name == "talklip") == rank
    assert next(line.rank for line in board.lines if line.record.run == "middle") == (3 if rank else 2)


def test_file_is_stable_and_says_what_the_records_say(full, capsys):
    assert compare(full) is True
    path = full / "grid_s1.csv"
    first = path.read_bytes()
    assert compare(full) is False
    assert compare(full, check=True) is False
    assert path.read_bytes() == first
    read = pd.read_csv(path)
    assert read["rank"].dropna().tolist() == [1, 2, 3, 1]
    assert read.kind.tolist() == ["model"] * 4 + ["control"] + ["calibration"] * 2
    assert read["mouth/psnr"].tolist()[:3] == [32, 31.5, 31]
    assert read["mouth/psnr:low"].tolist()[0] == 31.9
    assert read["record"].tolist()[0] == "grid/s1/paralip/good.json"
    assert "mouth/lpips" not in read
    assert b"\r" not in first
    put(full, "lipgan", "new", 0.2)
    capsys.readouterr()
    assert compare(full, check=True) is True
    assert "differs from the records" in capsys.readouterr().out
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clips": 20}, "scored clips"),
        ({"protocol": {"name": "grid/s1", "version": 1, "split_sha256": "99"}}, "protocol version or split"),
        ({"data": {"settings": {"landmarks": "exact"}, "packed": None}}, "preparation of the corpus"),
    ],
)
def test_refuses_to_mix(full, change, words, capsys):
    put(full, "talklip", "other", -1.0, **change)
    compare(full)
    boards, _ = table.boards(full / "results")
    assert len(boards) == 2
    assert [line.record.name for line in boards[1].lines] == ["talklip"]
    assert boards[0].name == "grid_s1"
    assert boards[1].name.startswith("grid_s1-v1-")
    assert words in boards[0].notes[0]
    assert "must not be mixed" in " ".join(capsys.readouterr().out.split())
    assert len(list(full.glob("grid_s1*.csv"))) == 2


def test_a_newer_version_takes_the_name(full):
    put(full, "talklip", "new", protocol={"name": "grid/s1", "version": 2, "split_sha256": "77"}, clips=3)
    boards, _ = table.boards(full / "results")
    assert [line.record.name for line in boards[0].lines] == ["talklip"]


def test_ties_come_from_the_same_clips(tmp_path):
    put(tmp_path, "paralip", "a", seed=1)
    put(tmp_path, "duallip", "b", 0.001, seed=2)
    put(tmp_path, "lipgan", "c", 1.0, seed=3)
    (board,), _ = table.boards(tmp_path / "results")
    tied = {line.record.run: line.tied for line in board.lines}
    assert tied["a"] == frozenset()
    assert {"mouth/psnr", "lmd"} <= tied["b"]
    assert tied["c"] == frozenset()


def test_terminal_fits_and_marks(full, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    compare(full)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    for text in (
        "timing given",
        "length given",
        "controls",
        "calibration",
        "↑ dB",
        "↓ px",
        "→1",
        "±.10",
    ):
        assert text in shown, text
    assert shown.index("timing given") < shown.index("controls") < shown.index("ground-truth")


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_narrow_terminal_gets_more_tables_not_shorter_numbers(full, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    compare(full)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    (board,), _ = table.boards(full / "results")
    for name in ("mouth/psnr", "mouth/ssim", "lmd", "opening_corr[speech]", "opening_ratio"):
        for line in board.lines:
            score = line.record.scores[name]
            assert f"{score.value:.{2 if score.unit == 'dB' else 3}f}" in shown


def test_reported_numbers_stand_below_for_the_models_and_corpus_at_hand(full, capsys):
    (full / "reported").mkdir()
    rows = [
        ("paralip", "paralip-aaai22", "1", "grid", "predicted durations", "ParaLip", "psnr", 28.74),
        ("paralip", "paralip-aaai22", "1", "grid", "predicted durations", "ParaLip", "lmd", 1.675),
        ("paralip", "paralip-aaai22", "2", "tcd-timit", "predicted durations", "ParaLip [x]", "psnr", 27.64),
        ("corrgan", "glance-eccv18", "2", "grid", "ablation", "ours", "psnr", 29.98),
    ]
    columns = ["model", "paper", "table", "dataset", "setting", "method", "metric", "value"]
    pd.DataFrame(rows, columns=columns).to_csv(full / "reported" / "x.csv", index=False)
    compare(full)
    below = capsys.readouterr().out.partition("Reported elsewhere")[2]
    assert "paralip-aaai22, table 1: predicted durations" in below
    assert "28.74" in below
    assert "27.64" not in below
    assert "29.98" not in below
    assert "28.74" not in (full / "grid_s1.csv").read_text()


def test_messages(full, tmp_path_factory, capsys):
    (full / "results/grid/s1/broken.json").write_text("{")
    compare(full)
    assert "broken.json is not a results record" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ValueError, match="did you mean 'grid/s1'"):
        compare(full, protocol="grid/s2")
    assert compare(tmp_path_factory.mktemp("empty")) is False
    assert "lipbench test" in capsys.readouterr().out


def test_the_committed_reported_numbers_can_be_read():
    reported, broken = _reported.read(Path(__file__).parents[2] / "leaderboards" / "reported")
    assert broken == []
    assert len(reported) == 335
    rows = [r for r in reported if (r["paper"], r["table"], r["method"]) == ("paralip-aaai22", "4", "ParaLip +SSIM")]
    assert {row["metric"]: row["value"] for row in rows}["psnr"] == "30.51"
    assert {row["model"] for row in reported} == {"duallip", "paralip", "talklip", "corrgan"}
