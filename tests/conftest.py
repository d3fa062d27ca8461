"""Fixtures that every test shares."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def grid_root() -> Path:
    """Folder of the real GRID clips; skips where there are none."""
    root = Path(os.environ.get("LIPBENCH_GRID", REPOSITORY.parent / "shared" / "grid"))
    if not (root / "video").is_dir():
        pytest.skip("no GRID clips: set LIPBENCH_GRID to the corpus folder")
    return root
