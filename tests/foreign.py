"""A made-up package of other people, installed as pip would leave it: files, and metadata with entry points."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: Mapping[str, str],
    entry_points: Mapping[str, Mapping[str, str]] | None = None,
    name: str = "made_up",
) -> None:
    """Write a package and make it importable until the end of the test.

    Args:
        folder: Where it lies; on `sys.path` and in PYTHONPATH.
        monkeypatch: Of the test.
        files: Path below `folder` -> content.
        entry_points: Group -> name -> value.
        name: Of the distribution.
    """
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, points in (entry_points or {}).items():
        lines += [f"[{group}]", *(f"{point} = {value}" for point, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{':'.join(path for path in sys.path if path.endswith('src'))}")
    tops = {Path(path).parts[0].removesuffix(".py") for path in files}
    for module in [module for module in sys.modules if module.partition(".")[0] in tops]:
        monkeypatch.delitem(sys.modules, module)  # that of another test
