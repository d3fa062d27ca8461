"""Fixtures of the data tests."""

from pathlib import Path

import pytest
from made_up_store import GRID_IDS, make_store


@pytest.fixture(scope="session")
def rendered_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 rendered clips of 3 speakers, 20 to 27 frames."""
    ids = [f"rendered/s{s}/clip{k}" for s in (1, 2, 3) for k in range(8)]
    return make_store(tmp_path_factory.mktemp("store") / "rendered", ids, [20 + k % 8 for k in range(24)], "rendered")


@pytest.fixture(scope="session")
def grid_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips with ids of the published GRID split."""
    return make_store(tmp_path_factory.mktemp("store") / "grid", GRID_IDS, [75, 74, 75, 75, 75, 74], "grid")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty LIPBENCH_HOME."""
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
