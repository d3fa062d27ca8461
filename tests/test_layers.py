"""The arrows of the layout: a file imports its own layer and the layers before it, nothing else."""

import ast
from pathlib import Path

import pytest

import lipbench

PACKAGE = Path(lipbench.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
GROUND = {"types", "errors", "paths", "files", "discovery"}
ALLOWED = {
    "types": set(),
    "errors": set(),
    "paths": set(),
    "files": {"errors"},
    "discovery": {"errors"},
    "media": GROUND,
    "nets": GROUND | {"media"},
    "losses": GROUND | {"media"},
    "synthetic": GROUND | {"media"},
    "pretrained": GROUND | {"media", "nets"},
    "training": GROUND | {"media", "nets", "losses", "pretrained"},
    "models": GROUND | {"media", "nets", "losses", "pretrained", "training"},
    "data": GROUND | {"media"},
    "corpora": GROUND | {"media", "data", "synthetic"},
    "scoring": GROUND | {"media", "nets", "pretrained"},
    "metrics": GROUND | {"media", "nets", "pretrained", "scoring"},
    "functional": GROUND | {"metrics"},
    "evaluation": GROUND | {"media", "nets", "pretrained", "training", "data", "synthetic", "scoring", "metrics"},
    "generation": GROUND | {"media", "nets", "pretrained", "training", "data", "synthetic"},
    "leaderboard": GROUND | {"evaluation"},
    "tracking": GROUND | {"media", "training", "evaluation"},
}
TOP = {"cli", "console", "commands", "__main__", "__init__"}  # may see all


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_modules_stay_in_their_folder(path):
    here = path.relative_to(PACKAGE).parts[0]
    foreign = [name.split(".") for name in imported(path) if not name.startswith(f"{here}.")]
    assert not [name for name in foreign if any(part.startswith("_") and part != "__version__" for part in name)]


def test_folders_that_people_type_hold_names_only():
    for folder in ("models", "corpora", "metrics", "commands"):
        assert not [path.name for path in (PACKAGE / folder).glob("_*.py") if path.name != "__init__.py"]


def test_no_circle():
    order = [name for name in ALLOWED if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()]
    assert order == list(ALLOWED)
    for place, name in enumerate(order):
        assert ALLOWED[name] <= set(order[:place]), f"{name} imports what comes after it"


def test_the_check_sees_every_spelling(tmp_path):
    package = tmp_path / "lipbench"
    (package / "models").mkdir(parents=True)
    bad = package / "models" / "x.py"
    for line in (
        "from lipbench.corpora import grid",
        "from lipbench import metrics",
        "import lipbench.corpora.grid",
        "from ..metrics import psnr",
        "from .. import data",
        "def f():\n    from lipbench.evaluation import record",
    ):
        bad.write_text(line)
        assert forbidden(bad, package), line
    bad.write_text(
        "from lipbench.media import geometry\nfrom lipbench import losses, __version__\nfrom . import lipgan"
    )
    assert not forbidden(bad, package)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_init_files_only_say_what_the_folder_is(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)
    if path.parent not in (PACKAGE, PACKAGE / "metrics"):  # these two are what scripts import
        assert len(body) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_tells_two_stories(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 520
