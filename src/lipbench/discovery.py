"""Short names: a model, a corpus, a metric or a command is called like its file. Reading them imports none of them."""

import ast
import difflib
import importlib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lipbench.errors import UsageError

PACKAGE = Path(__file__).resolve().parent
FOLDERS = {"model": "models", "data": "corpora", "metric": "metrics", "command": "commands"}


def files(kind: str) -> dict[str, Path]:
    """Short name -> source file of every model, corpus, metric or command, sorted by name.

    A folder counts as one entry (its `__init__.py`). Names that start with an underscore are shared code.
    """
    folder = PACKAGE / FOLDERS[kind]
    found = {path.stem: path for path in folder.glob("[!_]*.py")}
    found |= {path.parent.name: path for path in folder.glob("[!_]*/__init__.py")}
    return dict(sorted(found.items()))


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
    """Import the class of a model or a corpus.

    Args:
        kind: "model" or "data".
        name: Short name, or a class path such as "my_package.my_module.MyModel".

    Raises:
        UsageError: There is no such name or class; the message names the nearest.
        TypeError: The file does not define exactly one class of its kind, or the class is of another kind.
    """
    if kind == "model":
        base = importlib.import_module("pytorch_lightning").LightningModule
    else:
        base = importlib.import_module("lipbench.data.corpus").Corpus
    if "." in name:
        return _of_path(kind, name, base)
    if name not in files(kind):
        raise unknown(f"--{kind}", name, files(kind))
    module = importlib.import_module(f"lipbench.{FOLDERS[kind]}.{name}")
    own = [
        member
        for member in vars(module).values()
        if inspect.isclass(member)
        and issubclass(member, base)
        and not member.__name__.startswith("_")
        and (member.__module__ + ".").startswith(module.__name__ + ".")
    ]
    if len(own) != 1:
        raise TypeError(f"{module.__name__} must define exactly one {base.__name__}, found {[c.__name__ for c in own]}")
    return own[0]


def _of_path(kind: str, path: str, base: type) -> type:
    """The class of a class path."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks something itself
        raise UsageError(f"--{kind} {path}: there is no module {error.name!r}; is its package installed?") from None
    if not (inspect.isclass(found) and issubclass(found, base)):
        what = f"{name} in {module} is no {base.__name__}" if found is not None else f"{module} has no class {name!r}"
        raise UsageError(f"--{kind} {path}: {what}")
    return found


def short_name(kind: str, cls: type) -> str:
    """Short name of a class, or its class path where it has none."""
    parts = cls.__module__.split(".")
    if parts[:2] == ["lipbench", FOLDERS[kind]] and len(parts) > 2 and parts[2] in files(kind):
        return parts[2]
    return f"{cls.__module__}.{cls.__qualname__}"


def recipes() -> list[Path]:
    """All experiment files, of the installed package or of the checkout; relative paths where those are shorter."""
    folders = [folder for folder in (PACKAGE / "experiments", PACKAGE.parents[1] / "experiments") if folder.is_dir()]
    here = Path.cwd()
    found = sorted(folders[0].rglob("*.yaml")) if folders else []
    return [path.relative_to(here) if path.is_relative_to(here) else path for path in found]


def model_of(recipe: Path) -> str:
    """Short name of the model that a recipe's file name begins with; names may hold underscores. Empty if none."""
    return max((name for name in files("model") if f"{recipe.stem}_".startswith(f"{name}_")), key=len, default="")
