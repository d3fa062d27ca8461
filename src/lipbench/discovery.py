"""Short names: a model, a corpus, a metric or a command is called like its file. Reading them imports none of them."""

import ast
import difflib
import importlib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path

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


def load(kind: str, name: str) -> type:
    """Import the file of a short name and return the one Lightning class that it defines.

    Args:
        kind: "model", "data" or "metric".
        name: Short name; of a metric its class path, such as "my_package.my_module.MyMetric".

    Raises:
        UsageError: There is no such file or class; the message names the nearest.
        TypeError: The file does not define exactly one class of its kind.
    """
    if kind == "metric":
        return _metric(name)
    from pytorch_lightning import LightningDataModule, LightningModule

    if name not in files(kind):
        raise unknown(f"--{kind}", name, files(kind))
    base = {"model": LightningModule, "data": LightningDataModule}[kind]
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


def _metric(path: str) -> type:
    """The metric of a class path.

    Raises:
        UsageError: It cannot be imported, or is no metric.
    """
    from torchmetrics import Metric

    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise UsageError(f"the metric {path} cannot be imported: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Metric)):
        raise UsageError(f"{path} is no metric: expected a subclass of a kind in lipbench.scoring.base")
    return found


def recipes() -> list[Path]:
    """All experiment files, of the installed package or of the checkout; relative paths where those are shorter."""
    folders = [folder for folder in (PACKAGE / "experiments", PACKAGE.parents[1] / "experiments") if folder.is_dir()]
    here = Path.cwd()
    found = sorted(folders[0].rglob("*.yaml")) if folders else []
    return [path.relative_to(here) if path.is_relative_to(here) else path for path in found]


def model_of(recipe: Path) -> str:
    """Short name of the model that a recipe's file name begins with; names may hold underscores. Empty if none."""
    return max((name for name in files("model") if f"{recipe.stem}_".startswith(f"{name}_")), key=len, default="")
