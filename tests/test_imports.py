"""What may be imported where: the standard library, declared packages, and heavy ones only inside functions."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import lipbench

PACKAGE = Path(lipbench.__file__).parent
REPOSITORY = PACKAGE.parents[1]
FILES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]

AT_THE_TOP = {"torch", "numpy", "pandas"}  # in any layer
AT_THE_TOP_OF_SOME = {
    "pytorch_lightning": {"training", "data", "evaluation", "tracking", "console"},
    "lightning_fabric": {"console", "training"},  # its exception for wrong settings; its way to write checkpoints
    "torchmetrics": {"scoring", "metrics"},
    "jsonargparse": {"console"},
    "yaml": {"commands", "console"},
    "rich": {"commands", "leaderboard"},
}
NOT_IMPORTED_BY_NAME = {
    "face-recognition-models": "its predictor file is found and read; importing it would need setuptools",
    "tensorboard": "imported by Lightning's logger",
}
COME_WITH = {"lightning_fabric": "pytorch-lightning", "dlib": "dlib-bin"}  # names that their metadata do not tell


def plain(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


EXTRAS = ("dashboard",)  # what users may install beside the dependencies


def declared(*extras: str) -> set[str]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {plain(re.match(r"[\w.-]+", line)[0]) for line in lines}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """First names of all packages that a file imports (type checking blocks left out)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found - sys.stdlib_module_names - {"lipbench"}


def test_what_is_imported_is_declared():
    owners = packages_distributions()
    for path in FILES:
        for name in imports(path):
            own = {COME_WITH[name]} if name in COME_WITH else {plain(owner) for owner in owners.get(name, [name])}
            assert own & declared(*EXTRAS), f"{path} imports {name} (of {own}), which pyproject.toml does not declare"


def test_what_is_declared_is_imported():
    owners = packages_distributions()
    used = {plain(owner) for path in FILES for name in imports(path) for owner in owners.get(name, [name])}
    used |= {COME_WITH[name] for path in FILES for name in imports(path) if name in COME_WITH}
    idle = declared(*EXTRAS) - used - set(NOT_IMPORTED_BY_NAME)
    assert not idle, f"declared but never imported: {sorted(idle)}"
    assert set(NOT_IMPORTED_BY_NAME) <= declared()


def test_every_bound_has_its_reason():
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    block = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    lines = [line for line in block.splitlines() if re.match(r'\s+"', line)]
    assert len(lines) > 25
    for line in lines:
        assert re.search(r'",\s+# \S+', line), f"no reason beside {line.strip()}"


def test_constraints_are_exact_and_name_no_place():
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {plain(line.partition("==")[0]) for line in lines if not line.startswith("#")}
    assert all(re.fullmatch(r"[\w.-]+==[\w.!+]+", line) for line in lines if not line.startswith("#"))
    assert not [line for line in lines if "://" in line or "@" in line or line.startswith("-")]
    assert declared() <= pins
    assert {plain(re.match(r"[\w.-]+", line)[0]) for line in PROJECT["optional-dependencies"]["dev"]} <= pins


def test_one_version():
    assert PROJECT["version"] == lipbench.__version__
    assert f"\nversion: {lipbench.__version__}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_where_they_are_used(path):
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(path, top_level_only=True) - AT_THE_TOP:
        assert layer in AT_THE_TOP_OF_SOME.get(name, set()), f"{path.name} imports {name} at its top"


OPTIONAL = [
    "av",
    "dlib",
    "cv2",
    "wandb",
    "wandb_workspaces",
    "lpips",
    "face_alignment",
    "pyarrow",
    "simplejpeg",
    "espeakng_loader",
    "scipy",
    "sklearn",
]


def test_every_file_imports_without_the_optional_packages_and_the_network():
    """A missing optional package must not break a command that does not use it, and nothing asks the network."""
    names = [".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)) for path in FILES]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    script = f"""
import importlib, socket, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
def closed(*args, **kwargs):
    raise OSError("the network was asked at import")
import torchmetrics, pytorch_lightning, pandas  # these look for packages of their own
socket.socket.connect = socket.create_connection = socket.getaddrinfo = closed
before = set(sys.modules)
sys.meta_path.insert(0, Blocked())
for name in {names!r}:
    importlib.import_module(name)
late = {{name.partition(".")[0] for name in set(sys.modules) - before}}
assert not late & {{*{OPTIONAL!r}, "librosa"}}, late
print("imported", len({names!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"imported {len(names)}" in done.stdout


def test_names_are_files():
    from lipbench import discovery

    for kind in ("model", "data", "command"):
        for name in discovery.built_in(kind):
            module = importlib.import_module(f"lipbench.{discovery.FOLDERS[kind]}.{name}")
            assert discovery.summary(Path(str(module.__file__))) == (module.__doc__ or "").partition("\n")[0]
