"""Tables from records: ranks, refusal to mix, stable files, what the terminal shows."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_up_records import compare, put

from lipbench.evaluation import record
from lipbench.leaderboard import reported as reported_scores
from lipbench.leaderboard import table


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
    reported, broken = reported_scores.read(Path(__file__).parents[2] / "leaderboards" / "reported")
    assert broken == []
    assert len(reported) == 335
    rows = [r for r in reported if (r["paper"], r["table"], r["method"]) == ("paralip-aaai22", "4", "ParaLip +SSIM")]
    assert {row["metric"]: row["value"] for row in rows}["psnr"] == "30.51"
    assert {row["model"] for row in reported} == {"duallip", "paralip", "talklip", "corrgan"}


@pytest.mark.parametrize("words", [["compare", "--help"], ["compare", "--results", "results", "--out", "."]])
def test_tables_come_without_pytorch(full, words):
    """Importing it takes longer than everything else that the command does."""
    heavy = ("torch", "pytorch_lightning", "lightning_fabric", "pandas", "lipbench.evaluation.bank")
    code = (
        f"import sys; from lipbench import cli; assert cli.main({words!r}) == 0; print({{*{heavy}}} & {{*sys.modules}})"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=full, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "set()"


def test_rows_of_calibrations_have_the_order_and_names_of_the_evaluator():
    from typing import get_args

    from lipbench.evaluation import calibration, schema
    from lipbench.types import Timing

    assert tuple(calibration.ROWS) == record.CALIBRATIONS
    assert get_args(Timing) == schema.TIMINGS
    assert get_args(record.Kind) == schema.KINDS


def test_a_row_below_the_frozen_frame_is_marked(full, capsys, monkeypatch):
    """Rank 1 of those that are there may be worse than standing still."""
    monkeypatch.setenv("COLUMNS", "200")
    put(full, "duallip", "still", 4.0, timing="free")  # the frozen frame is 3 steps below the best
    put(full, "lipgan", "face", 3.0, timing="free", view="face 96x96")  # no frozen row of its own view: the mouth's
    compare(full)
    shown = capsys.readouterr().out
    (board,), _ = table.boards(full / "results")
    still = {line.record.run: line.still for line in board.lines}
    assert still["still"] == {"mouth/psnr", "mouth/ssim", "lmd", "opening_corr[speech]"}
    assert still["face"] == still["still"]  # as good is not better
    assert still["good"] == frozenset()
    assert "28.00*" in shown
    assert "1*" in shown
    note = " ".join(shown.partition("* No better than")[2].split())
    assert "duallip still (mouth/psnr, mouth/ssim, lmd, opening_corr[speech])" in note
    read = pd.read_csv(full / "grid_s1.csv").set_index("run")
    assert read.not_above_frozen["still"] == "lmd mouth/psnr mouth/ssim opening_corr[speech]"
    assert read.not_above_frozen[["good", "long"]].isna().all()


def test_a_model_trained_on_another_protocol_is_marked(full, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    put(full, "talklip", "cross", 1.0, training={"batches": 5, "protocol": "rendered/unseen"})
    put(full, "talklip", "own", 1.5, training={"batches": 5, "protocol": "grid/s1"})
    compare(full)
    shown = capsys.readouterr().out
    assert shown.count("talklip†") == 1
    assert "† Trained on another protocol than this one: talklip cross (rendered/unseen)." in " ".join(shown.split())
    read = pd.read_csv(full / "grid_s1.csv").set_index("run")
    assert read.trained_on["cross"] == "rendered/unseen"
    assert read.trained_on[["own", "good"]].isna().all()


def test_names_are_never_cut(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    long = "a-name-of-a-run-that-is-longer-than-its-column-"
    for end in ("one", "two"):
        put(tmp_path, "paralip", long + end)
    compare(tmp_path)
    shown = capsys.readouterr().out
    assert "…" not in shown
    folded = "".join(line[4:33].strip() for line in shown.splitlines())
    assert long + "one" in folded
    assert long + "two" in folded


def test_missing_calibration_rows_are_named(full, capsys):
    """A test that was killed, or a deleted file: the model's record says what was scored beside it."""
    path = put(full, "paralip", "killed", 0.3, beside=["ground-truth", "mean-mouth", "wrong-text"])
    compare(full)
    shown = " ".join(capsys.readouterr().out.split())
    assert "Not there: mean-mouth, wrong-text, scored in the same test as paralip killed." in shown
    put(full, "mean-mouth", "mouth-40x80", 5.0, kind="calibration", timing=None)
    put(full, "paralip", "killed", 1.5, kind="control", control="wrong-text")
    compare(full)
    assert "Not there" not in capsys.readouterr().out
    content = json.loads(path.read_text())
    del content["beside"]  # as older records are: they name those that they are paired with
    pair = {"metric": "lmd", "difference": 0.1, "ci95": None, "better": 0.5, "p": 0.5, "n": 30}
    content["paired"] = [{**pair, "against": "shuffled-audio"}]
    path.write_text(json.dumps(content))
    compare(full)
    assert "Not there: shuffled-audio, scored in the same test as paralip killed." in " ".join(
        capsys.readouterr().out.split()
    )


def test_all_that_papers_report_stands_below(full, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    metrics = {"psnr": 28.5, "wer": 24.8, "cer": 10.9, "per": 46.2, "lse_c": 6.88, "lse_d": 7.01, "word_acc": 88.51}
    metrics |= {"wer1": 23.82, "wer2": 40.9, "latency_s": 0.022}
    lines = [f"paralip,p,1,grid,some setting,M,{name},{value}" for name, value in metrics.items()]
    lines += ["paralip,p,section 5,-,no corpus,M,latency_s_per_frame,0.015", "paralip,p,1,-,size,M,params_m,35.2"]
    (full / "reported").mkdir()
    (full / "reported" / "x.csv").write_text(
        "model,paper,table,dataset,setting,method,metric,value\n" + "\n".join(lines)
    )
    (full / "reported" / "broken.csv").write_text("model,paper\n1,2\n")
    compare(full)
    shown = capsys.readouterr().out
    above, _, below = shown.partition("Reported elsewhere")
    assert all(f"{value:g}" in below for value in (*metrics.values(), 0.015))
    assert "35.2" not in below
    assert "broken.csv holds no reported numbers: line 2" in above
    for heading in ("WER %", "CER %", "PER %", "LSE-C", "LSE-D", "ACC %", "s/video", "s/frame"):
        assert heading in below


def test_two_protocols_never_share_a_file(full):
    for k, name in enumerate(("grid_s1", "GRID/s1")):
        put(full, "paralip", "a", protocol={"name": name, "version": 1, "split_sha256": str(k)})
    compare(full)
    names = [path.name for path in full.glob("*.csv")]
    assert len({name.lower() for name in names}) == len(names) == 3
