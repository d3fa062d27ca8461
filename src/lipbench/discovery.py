"""Short names of models, corpora, metrics and commands: of the files here, and of what other packages install.

A built-in one is called like its file. Another package's is called like its entry point, in the group of its kind:

    [project.entry-points."lipbench.models"]
    blinker = "my_package.my_module:Blinker"

Everything else has its class path, `my_package.my_module.Blinker`. Listing names imports nothing; `load` imports what
it is asked for. A file (a checkpoint, a record, a configuration beside a checkpoint) may name what is built in or
installed as an entry point (`known`), and nothing else.
"""

import ast
import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from lipbench.errors import UsageError

PACKAGE = Path(__file__).resolve().parent
FOLDERS = {"model": "models", "data": "corpora", "metric": "metrics", "command": "commands"}
GROUPS: Final = {"model": "lipbench.models", "data": "lipbench.corpora", "metric": "lipbench.metrics"}
"""Kind -> group of the entry points by which other packages add to it; commands cannot be added."""
_STAGES: Final = "stages"  # folder below `experiments`
_WORKSPACE: Final = "wandb.yaml"  # no recipe
_BASES: Final = {
    "model": ("lipbench.training.base:BenchModule",),
    "data": ("lipbench.data.corpus:Corpus",),
    "metric": ("lipbench.scoring.base:ClipMetric", "lipbench.scoring.sets:SetMetric"),
}
"""Kind -> what a class of it is a subclass of; strings, because this file is imported by all of these."""


def files(kind: str) -> dict[str, Path]:
    """Short name -> source file of every model, corpus, metric or command, sorted by name.

    Args:
        kind: "model", "data", "metric" or "command".
    """
    added = {name: source for name, (_, source) in _added(kind)[0].items()}
    return dict(sorted((added | built_in(kind)).items()))


def built_in(kind: str) -> dict[str, Path]:
    """Those of `files` that belong to lipbench itself.

    A folder counts as one entry (its `__init__.py`). Names that start with an underscore are shared code.
    """
    folder = PACKAGE / FOLDERS[kind]
    found = {path.stem: path for path in folder.glob("[!_]*.py")}
    found |= {path.parent.name: path for path in folder.glob("[!_]*/__init__.py")}
    return dict(sorted(found.items()))


def package_of(kind: str, name: str) -> str:
    """Name and version of the installed package that a short name comes from, such as "blinker 1.0"; empty if ours."""
    added = _added(kind)[0]
    if name not in added or name in built_in(kind):
        return ""
    package = added[name][0].dist
    return f"{package.name} {package.version}" if package is not None else ""


def conflicts(kind: str) -> list[str]:
    """Sentences about installed entry points that have no short name: it is taken, or their module is not there."""
    return list(_added(kind)[1])


def _added(kind: str) -> tuple[dict[str, tuple[EntryPoint, Path]], tuple[str, ...]]:
    """Entry points of a kind with their source files, and sentences about those that are left out."""
    return _installed(kind, tuple(sys.path), PACKAGE) if kind in GROUPS else ({}, ())


@lru_cache
def _installed(
    kind: str, search_path: tuple[str, ...], package: Path
) -> tuple[dict[str, tuple[EntryPoint, Path]], tuple[str, ...]]:
    """See `_added`. The folders in which Python looks are the key: every look reads the metadata of all packages."""
    own = built_in(kind)
    found: dict[str, tuple[EntryPoint, Path]] = {}
    left_out: list[str] = []
    for point in sorted(entry_points(group=GROUPS[kind]), key=lambda point: (point.name, point.value)):
        source = _source(point.module)
        what = f"{point.value} of the package {point.dist.name if point.dist is not None else '?'}"
        if point.name in own:
            left_out.append(f"{what} is called {point.name!r} like one of lipbench: use --{kind} {_dotted(point)}")
        elif point.name in found and found[point.name][0].value != point.value:
            left_out.append(f"{what} is called {point.name!r} like another one: use --{kind} {_dotted(point)}")
        elif source is None:
            left_out.append(f"{what}, called {point.name!r}, has no module {point.module}: install the package anew")
        else:
            found[point.name] = (point, source)
    return found, tuple(left_out)


def _dotted(point: EntryPoint) -> str:
    """Value of an entry point as a class path."""
    return point.value.replace(":", ".")


def _source(module: str) -> Path | None:
    """Source file of a module, found without importing it or the packages that it lies in; None if there is none."""
    places: list[str] | None = None
    parts = module.split(".")
    origin = None
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        specs = (finder.find_spec(name, places) for finder in sys.meta_path)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None:
            return None
        origin, places = spec.origin, list(spec.submodule_search_locations or ())
    return Path(origin) if origin and Path(origin).is_file() else None


def summary(path: Path) -> str:
    """First line of a file's docstring, read without importing it."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def constant(path: Path, name: str) -> object:
    """Literal that a file assigns to `name`, at its top or in a class, read without importing it; None if none."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign):
            targets: list[ast.expr] = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        if any(isinstance(target, ast.Name) and target.id == name for target in targets) and node.value is not None:
            try:
                return ast.literal_eval(node.value)
            except ValueError:  # computed, not written down: only importing the file would tell
                return None
    return None


def protocols(path: Path) -> list[str]:
    """Names of the protocols that the file of a corpus defines, read without importing it."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    names = [call.args[0] for call in calls if getattr(call.func, "id", "") == "Protocol" and call.args]
    return [str(name.value) for name in names if isinstance(name, ast.Constant)]


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = f" Known: {', '.join(known)}." if known else ""
    return UsageError(f"unknown {what} {name!r}.{hint}{listed}")


def listed(text: str) -> list[str]:
    """Members of a list as people type it: with commas, spaces or both, with or without brackets around it.

    Brackets inside stay: "[lmd, psnr[uint8-wrap]]" has the members lmd and psnr[uint8-wrap].
    """
    text = text.strip()
    for opening, closing in ("[]", "()"):  # one end alone where the shell has parted the list
        text = text.removeprefix(opening)
        text = text.removesuffix(closing) if text.count(closing) > text.count(opening) else text
    return [part.strip("\"'") for part in re.split(r"[,\s]+", text) if part.strip("\"'")]


def load(kind: str, name: str) -> Any:  # noqa: ANN401 - a class whose base only the kind tells
    """Import the class that a name means.

    Args:
        kind: "model", "data" or "metric".
        name: Short name of a file or of an entry point, or a class path such as "my_package.my_module.MyModel". The
            module of a class path may lie in the current folder, too.

    Raises:
        UsageError: Nothing is called so, or what is called so is of another kind; the message names the nearest.
        TypeError: A built-in file, or the module of an entry point, does not define exactly one class of its kind.
    """
    added = _added(kind)[0]
    if name in built_in(kind):
        return _only(kind, importlib.import_module(f"lipbench.{FOLDERS[kind]}.{name}"), name)
    if name in added:
        point = added[name][0]
        found = point.load()
        return _only(kind, found, name) if inspect.ismodule(found) else _checked(kind, found, _dotted(point))
    if "." not in name:
        raise unknown(f"--{kind}", name, files(kind))
    module, _, attribute = name.rpartition(".")
    imported = _imported(kind, module, name)
    found = getattr(imported, attribute, None)
    if found is None:
        raise unknown(f"--{kind}", name, (f"{module}.{own.__name__}" for own in _classes(kind, imported)))
    return _checked(kind, found, name)


def short_name(kind: str, cls: type | str) -> str:
    """The name by which an option takes a class; its class path where it has no shorter one.

    Args:
        kind: "model", "data" or "metric".
        cls: The class, or its class path. Of a path nothing is imported but an installed entry point of that package.
    """
    path = cls if isinstance(cls, str) else f"{cls.__module__}.{cls.__qualname__}"
    parts = path.split(".")
    if parts[:2] == ["lipbench", FOLDERS[kind]] and len(parts) > 3 and parts[2] in built_in(kind):
        return parts[2]
    for name, (point, _) in _added(kind)[0].items():
        if _dotted(point) == path:
            return name
        if point.module.partition(".")[0] == parts[0]:  # it may name the class where it is imported, not defined
            own = load(kind, name)
            if f"{own.__module__}.{own.__qualname__}" == path:
                return name
    return path


def known(kind: str, class_path: str) -> bool:
    """Whether a file may name this class and have it imported: it is built in, or an installed entry point."""
    return short_name(kind, class_path) != class_path


def _imported(kind: str, module: str, asked: str) -> ModuleType:
    """A module that somebody has asked for; looked for in the current folder, too, after everything installed.

    Raises:
        UsageError: There is none.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # stays: what the module imports later, and the processes of a loader, need it as well
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):  # one that the module itself imports
            raise
        raise UsageError(
            f"--{kind} {asked}: no module {error.name!r} is installed or lies in {here}. Expected "
            f"{', '.join(files(kind))}, or the path of a class such as package.module.Class"
        ) from None


def _classes(kind: str, module: ModuleType) -> list[type]:
    """Public classes of a kind that a module, or a package with its modules, defines."""
    bases = tuple(_base(path) for path in _BASES[kind])
    return [
        member
        for member in vars(module).values()
        if inspect.isclass(member)
        and issubclass(member, bases)
        and not member.__name__.startswith("_")
        and (member.__module__ + ".").startswith(module.__name__ + ".")
    ]


def _only(kind: str, module: ModuleType, name: str) -> type:
    """The class that a module stands for: its only one, or that of several which is called like the module."""
    own = _classes(kind, module)
    if kind == "metric" and len(own) > 1:  # a file may define a family, such as wer.WER and wer.CER
        own = [member for member in own if member.__name__.lower() == name.replace("_", "")] or own
    if len(own) != 1:
        bases = " or ".join(path.partition(":")[2] for path in _BASES[kind])
        raise TypeError(f"{module.__name__} must define exactly one {bases}, found {[c.__name__ for c in own]}")
    return own[0]


def _checked(kind: str, found: object, path: str) -> type:
    """What a path leads to, if it is a class of its kind.

    Raises:
        UsageError: It is something else, or lacks methods that its bases demand.
    """
    bases = tuple(_base(own) for own in _BASES[kind])
    if not inspect.isclass(found) or not issubclass(found, bases):
        wanted = " or ".join(own.replace(":", ".") for own in _BASES[kind])
        based = f"a class based on {', '.join(c.__name__ for c in found.__bases__)}" if inspect.isclass(found) else ""
        raise UsageError(
            f"--{kind} {path} is {based or f'a {type(found).__name__}'}; expected a class based on {wanted}"
        )
    if inspect.isabstract(found):
        lacking = sorted(getattr(found, "__abstractmethods__", ()))
        raise UsageError(
            f"--{kind} {path} defines no {' and no '.join(lacking)}; expected a class that defines every abstract "
            f"method and property of its bases: add {'them' if len(lacking) > 1 else 'it'} to {found.__name__}"
        )
    return found


def _base(path: str) -> type:
    module, _, name = path.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


def recipes() -> list[Path]:
    """All recipes, of the installed package or of the checkout; relative paths where those are shorter."""
    return [path for path in _experiment_files() if path.parent.name != _STAGES and path.name != _WORKSPACE]


def experiments() -> list[Path]:
    """All experiments of several stages, which `lipbench run` takes by name; paths as from `recipes`."""
    return [path for path in _experiment_files() if path.parent.name == _STAGES]


def workspace() -> Path | None:
    """The definition of W&B's workspace beside the recipes, for `lipbench dashboard`; path as from `recipes`."""
    return next((path for path in _experiment_files() if path.name == _WORKSPACE), None)


def _experiment_files() -> list[Path]:
    folders = [folder for folder in (PACKAGE / "experiments", PACKAGE.parents[1] / "experiments") if folder.is_dir()]
    here = Path.cwd()
    found = sorted(folders[0].rglob("*.yaml")) if folders else []
    return [path.relative_to(here) if path.is_relative_to(here) else path for path in found]


def model_of(recipe: Path) -> str:
    """Short name of the model that a recipe's file name begins with; names may hold underscores. Empty if none."""
    return max((name for name in files("model") if f"{recipe.stem}_".startswith(f"{name}_")), key=len, default="")
