"""The arrows of the layout: a file imports its own layer and the layers before it, nothing else."""

import ast
from pathlib import Path

import pytest

import lipbench

PACKAGE = Path(lipbench.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ALLOWED = {
    "types": set(),
    "media": {"types"},
    "nets": {"types", "media"},
    "losses": {"types", "media"},
    "data": {"types", "media"},
    "models": {"types", "media", "nets", "losses"},
    "metrics": {"types", "media", "nets"},
    "evaluation": {"types", "media", "data", "metrics", "models._base"},
    "leaderboard": {"types", "media", "evaluation"},
    "tracking": {"types", "media", "nets", "evaluation", "models._base"},
}
TOP = {"cli", "commands", "__main__", "__init__"}  # may see all


def imported(path: Path, package: Path = PACKAGE) -> set[str]:
    """Dotted names below the package that a file imports, relative imports included."""
    here = [package.name, *path.relative_to(package).with_suffix("").parts]
    full: list[list[str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            stem = here[: len(here) - node.level] if node.level else []
            full += [stem + (node.module.split(".") if node.module else []) + [alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            full += [alias.name.split(".") for alias in node.names]
    return {".".join(name[1:]) for name in full if name[0] == package.name and len(name) > 1}


def forbidden(path: Path, package: Path = PACKAGE) -> set[str]:
    """Imports of a file that go against the arrows."""
    layer = path.relative_to(package).parts[0].removesuffix(".py")
    if layer in TOP:
        return set()
    allowed = {*ALLOWED[layer], layer, "__version__"}
    return {name for name in imported(path, package) if not any(f"{name}.".startswith(f"{ok}.") for ok in allowed)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows(path):
    assert not forbidden(path)


def test_the_check_sees_every_spelling(tmp_path):
    package = tmp_path / "lipbench"
    (package / "models").mkdir(parents=True)
    bad = package / "models" / "x.py"
    for line in (
        "from lipbench.data import grid",
        "from lipbench import metrics",
        "import lipbench.data.grid",
        "from ..metrics import psnr",
        "from .. import data",
        "def f():\n    from lipbench.evaluation import record",
    ):
        bad.write_text(line)
        assert forbidden(bad, package), line
    bad.write_text("from lipbench.media import geometry\nfrom lipbench import losses, __version__\nfrom . import _base")
    assert not forbidden(bad, package)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_init_files_only_say_what_the_folder_is(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)
    if path.parent != PACKAGE:
        assert len(body) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_tells_two_stories(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 650
