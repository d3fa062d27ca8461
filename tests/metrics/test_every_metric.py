"""Every metric of clips against the tester; kinds, columns, and metrics that other packages bring."""

import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from metric_cases import CASES
from tester import check, check_two_processes

from lipbench.errors import UsageError
from lipbench.evaluation import bank as banks
from lipbench.metrics.lpips import LPIPS
from lipbench.scoring.base import (
    ClipMetric,
    Column,
    FramesMetric,
    ObservationMetric,
    TranscriptMetric,
    over_frames,
)
from lipbench.scoring.sets import SetMetric
from lipbench.types import View


@pytest.mark.parametrize("name", CASES)
def test_scores_are_the_same_however_clips_come(name):
    check(CASES[name])


def test_two_processes_give_the_scores_of_one(tmp_path):
    check_two_processes("metric_cases", tmp_path)


def test_every_metric_of_clips_has_a_case():
    tested = {type(case.make()) for case in CASES.values()}
    there = {entry.metric for entry in banks.METRICS.values() if issubclass(entry.metric, ClipMetric)}
    assert there - tested == {LPIPS}  # it needs weights: tests/metrics/test_lpips.py


def test_every_metric_is_of_one_of_four_kinds():
    kinds = (FramesMetric, ObservationMetric, TranscriptMetric, SetMetric)
    for entry in banks.METRICS.values():
        assert sum(issubclass(entry.metric, kind) for kind in kinds) == 1, entry.name
        assert (entry.column.region is not None) == issubclass(entry.metric, FramesMetric)


def test_clips_without_an_index_are_numbered_as_they_come():
    metric = CASES["psnr"].make()
    video = torch.rand(3, 2, 3, 8, 8)
    metric.update(video, video)
    metric.update(video[:1] * 0.5, video[:1])
    found = metric.per_clip()
    assert found.index.tolist() == [0, 1, 2, 3]
    assert (found.value[:3] == 100).all()
    assert found.value[3] < 100


class Brightness(FramesMetric):
    """Mean difference in brightness: what another package may bring."""

    name = "brightness"
    unit = ""
    higher_is_better = False
    perfect = 0.0
    undefined = "a frame holds NaN"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("mouth/brightness", "light", region="mouth"),
        Column("native/brightness", "light", default=False, region="native"),
    )

    def score(self, pred, target, spans):
        return over_frames((pred - target).mean((2, 3, 4)).abs(), spans.length)


class Other(Brightness):
    """Declares a column that is there already."""

    columns = (Column("native/psnr", "light", region="native"),)


class Nowhere(Brightness):
    """Declares no column."""


class NoRegion(Brightness):
    """Does not say which frames it looks at."""

    columns = (Column("brightness", "light"),)


class WrongRegion(Brightness):
    """Names frames that there are not."""

    columns = (Column("moth/brightness", "light", region="moth"),)  # type: ignore[arg-type]


HERE = f"{__name__}."


def test_a_metric_of_another_package_is_a_column_by_its_class_path():
    path = HERE + "Brightness"
    chosen = banks.select(["native/psnr", path])
    assert [entry.name for entry in chosen] == ["native/psnr", "mouth/brightness", "native/brightness"]
    assert [entry.name for entry in banks.select(["default", path])][-1] == "native/brightness"
    assert len(banks.select(["default", path])) == len(banks.select(None)) + 2
    bank = banks.Bank([path])
    given = {
        "index": torch.arange(2),
        "video": torch.rand(2, 3, 3, 40, 80),
        "video_len": torch.tensor([3, 2]),
    }
    row = bank.row()
    scene = bank.scene(given, View("mouth", 40, 80))
    row.update(scene.take(given["video"] * 0.5), scene)
    found = row.local_scores()["native/brightness"].value
    assert found[0] == pytest.approx(given["video"][0].mean().item() / 2, abs=1e-5)
    assert "mouth/brightness" in row.reasons  # no whole faces in this batch


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Other", "both declare the column 'native/psnr'; rename one"),
        ("Nowhere", "declares no column; expected"),
        ("NoRegion", "it needs region='mouth' or 'native'"),
        ("WrongRegion", "has region moth; it needs region='mouth' or 'native'"),
        ("CASES", r"CASES is a dict; expected a class based on lipbench\.scoring\.base\.ClipMetric"),
        ("Absent", "Did you mean"),
    ],
)
def test_what_is_wrong_with_a_metric_of_another_package_is_said(name, told):
    with pytest.raises(UsageError, match=told):
        banks.select([HERE + name])
    with pytest.raises(UsageError, match=r"no_such_package\.Metric: no module 'no_such_package'"):
        banks.select(["no_such_package.Metric"])


def test_an_installed_package_adds_its_columns(monkeypatch):
    """As entry points do; its file lies outside of lipbench."""
    files = banks.discovery.files("metric") | {"brightness": Path(__file__)}
    monkeypatch.setattr(banks.discovery, "files", lambda kind: files)
    monkeypatch.setattr(banks.discovery, "load", lambda kind, name: {"brightness": Brightness}[name])
    found = banks._ordered([entry for metric in banks._classes() for entry in banks.entries(metric)])
    assert list(found)[-2:] == ["mouth/brightness", "native/brightness"]
    assert list(found)[:-2] == list(banks.METRICS)
    assert Brightness.__module__ in sys.modules
