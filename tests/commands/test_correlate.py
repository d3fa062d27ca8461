"""`lipbench correlate`: its files, what it prints, and what is typed wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lipbench import cli
from lipbench.data import pack
from lipbench.data.store import Store
from lipbench.evaluation import audio_motion
from lipbench.types import View

CORRELATE = ["correlate", "--data", "rendered", "--workers", "0"]


@pytest.fixture(scope="module")
def correlated(world, tmp_path_factory):
    """Folder of a run with the default shifts, and its table."""
    folder = tmp_path_factory.mktemp("correlated")
    assert cli.main([*CORRELATE, "--out", str(folder)]) == 0
    return folder, pd.read_csv(folder / "correlation.csv")


def without_r(monkeypatch, lacking, **changes):
    """Let some clips have no r."""
    whole = audio_motion.correlate

    def correlate(clip, shifts, *, signed):
        found = whole(clip, shifts, signed=signed)
        return replace(found, **changes) if lacking(clip.clip_id) else found

    monkeypatch.setattr(audio_motion, "correlate", correlate)


def test_three_files(correlated):
    folder, table = correlated
    assert sorted(path.name for path in folder.iterdir()) == ["correlation.csv", "curves.png", "offsets.png"]
    assert len(table) == table["clip_id"].nunique() == 7
    r = table[[f"r[{shift}]" for shift in range(8)]]
    assert (r.abs() <= 1).all(axis=None)
    assert [line[best] for line, best in zip(r.to_numpy(), table["best_shift"], strict=True)] == r.max(axis=1).tolist()
    assert table["reason"].isna().all()
    with Image.open(folder / "curves.png") as curves, Image.open(folder / "offsets.png") as offsets:
        assert curves.height == 4 * 220
        assert (np.asarray(offsets)[..., 2] > np.asarray(offsets)[..., 0] + 80).any()  # bars


def test_a_sample_is_the_same_in_every_run_and_shifts_are_independent(correlated, here, capsys):
    tables = []
    for clips in ("3", "4"):
        assert cli.main([*CORRELATE, "--clips", clips, "--shifts", "-1", "1"]) == 0
        tables.append(pd.read_csv("correlation/rendered/correlation.csv"))
    small, large = tables
    assert [len(table) for table in tables] == [3, 4]
    assert set(small["clip_id"]) < set(large["clip_id"])
    joined = large.merge(correlated[1], on="clip_id")
    assert joined["r[1]_x"].tolist() == joined["r[1]_y"].tolist()
    shown = capsys.readouterr().out
    assert f"{large['r[-1]'].mean():.3f}" in shown
    assert "shift above 0: the lips move after the sound" in shown


def test_signed_change_in_another_process(correlated, here, capsys):
    words = ["correlate", "--data", "rendered", "--protocol", "rendered/seen", "--signed", "--workers", "1"]
    assert cli.main(words) == 0
    table = pd.read_csv("correlation/rendered/correlation.csv")
    joined = table.merge(correlated[1], on="clip_id")
    assert 0 < len(table) < 7
    assert len(joined) == len(table)
    assert (joined["r[0]_x"] != joined["r[0]_y"]).all()
    assert "signed change" in capsys.readouterr().out


def test_a_clip_without_an_r_has_a_reason_and_no_numbers(here, capsys, monkeypatch):
    ids = Store(here.home / "stores" / "rendered").clip_ids
    without_r(monkeypatch, lambda clip_id: clip_id == ids[2], reason="its lips are still", sample_rate=16_000)
    assert cli.main(CORRELATE) == 0
    shown = capsys.readouterr().out
    assert f"no r for {ids[2]}: its lips are still" in shown
    assert "6 clips" in shown
    assert "nan" not in shown
    assert shown.count("resampled") == 1
    assert (
        "clips resampled to 44,100 samples a second: 1; in those of the lowest rate nothing is above 8,000 Hz" in shown
    )
    lines = Path("correlation/rendered/correlation.csv").read_text().splitlines()
    assert lines[3] == f"{ids[2]},{',' * 8},its lips are still"


def test_no_clip_with_an_r_writes_nothing(here, capsys, monkeypatch, tmp_path):
    without_r(monkeypatch, lambda clip_id: True, reason="its lips are still")
    assert cli.main(CORRELATE) == 1
    assert "none of 7 clips has an r" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--data", "rendred"], "Did you mean 'rendered'?", 2),
        (["--data", "rendered", "--shifts", "3", "-3"], "expected the smaller number first", 2),
        (["--data", "rendered", "--clips", "0"], "--clips 0: expected 1 or more", 2),
        (["--data", "rendered", "--workers", "-1"], "--workers -1: expected 0 or more", 2),
        (["--data", "rendered", "--protocol", "grid/s1"], "belongs to the corpus 'grid', not to 'rendered'", 2),
        (["--data", "rendered", "--shifts", "0", "70"], "the largest shift leaves", 1),
        (["--data", "grid"], "Make it with: lipbench prepare --data grid --root DIR\n", 1),
        (
            ["--data", "grid", "--store", "here"],
            "Make it with: lipbench prepare --data grid --root DIR --store here",
            1,
        ),
    ],
)
def test_wrong_words_say_what_to_type(here, capsys, tmp_path, words, message, code):
    assert cli.main(["correlate", "--workers", "0", *words]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.*"))


def test_stores_that_cannot_serve(here, capsys, tmp_path):
    store = here.home / "stores" / "rendered"
    assert cli.main(["correlate", "--data", "grid", "--store", str(store)]) == 1
    assert "holds 'rendered', not 'grid'" in capsys.readouterr().err
    for view, code in ((View("face", 96, 96), 1), (audio_motion.VIEW, 0)):
        packed = pack.pack(store, view, tmp_path / view.name)
        assert cli.main([*CORRELATE, "--store", str(packed), "--clips", "1"]) == code
    assert "is packed: it holds the view face 96x96 only" in capsys.readouterr().err
