"""What `lipbench latency` times: models by name at the sizes of their papers, recipes, and checkpoints."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lipbench import discovery
from lipbench.console import recipe_files, run_folders
from lipbench.errors import UsageError

if TYPE_CHECKING:
    from lipbench.training.generative import GenerativeModel

_TABLES = "papers"  # folder of recipes: the rows of the papers' tables
_SMALL = "_small"  # end of the name of a folder, or recipe, of small models
_LIPS = "duallip"  # whose lips are put into faces where no other lip generator is named
_PUBLISHED = "published size"


class TimedSystem(NamedTuple):
    """A model to be timed."""

    name: str
    """In tables, unique among the systems."""
    model: str
    """Short name, or class path, of its model."""
    source: str
    """"published size", the name of a recipe or the path of a checkpoint."""
    build: "Callable[[], GenerativeModel]"
    """Makes it, on the CPU and in eval mode."""


def chosen(asked: Sequence[str], models: Sequence[str] | None = None) -> list[TimedSystem]:
    """The systems that were asked for, in their order.

    Args:
        asked: Checkpoints, recipes (by path or name) and models (by short name or class path).
        models: Class paths of models of checkpoints that are neither built in nor installed.

    Raises:
        UsageError: One is none of these, or named twice; the message names the nearest.
        FileNotFoundError: A path leads nowhere.
        ValueError: A checkpoint or recipe is damaged, or a model generates no video.
    """
    found: list[TimedSystem] = []
    for what in asked:
        system = _system(what, models)
        if any(system.source == other.source and system.model == other.model for other in found):
            raise UsageError(f"{what} is named twice")
        found.append(system)
    counts = [system.name for system in found]
    return [s._replace(name=f"{s.name} ({s.source})") if counts.count(s.name) > 1 else s for s in found]


def published() -> list[TimedSystem]:
    """Every model that generates video at the size of its paper, and every other generator that papers' recipes hold.

    Two recipes of the same model whose networks for generation have the same sizes count as one. The networks are
    compared on PyTorch's meta device, which holds no numbers.
    """
    found: list[TimedSystem] = []
    seen: set[tuple[str, frozenset[tuple[str, tuple[int, ...]]]]] = set()
    names = [_of_name(name) for name in discovery.files("model") if _generates(discovery.load("model", name))]
    tables = [path for path in discovery.recipes() if recipe_files.name(path).startswith(f"{_TABLES}/")]
    large = [path for path in tables if _SMALL not in recipe_files.name(path)]
    recipes = [_of_recipe(path) for path in large if _generates(_stated(path)[0])]
    for system in [*names, *recipes]:
        sizes = _sizes(system.build)
        if sizes is not None and (system.model, sizes) not in seen:
            seen.add((system.model, sizes))
            found.append(system)
    return sorted(found, key=lambda system: system.model)


def _system(what: str, models: Sequence[str] | None) -> TimedSystem:
    path, names = Path(what), discovery.files("model")
    run_folders.refuse_alias(path)
    recipes = {recipe_files.name(recipe): recipe for recipe in discovery.recipes()}
    named = next((recipes[own] for own in (what, f"{_TABLES}/{what}") if own in recipes), None)
    if what in names:
        system = _of_name(what)
    elif named is not None or path.suffix in (".yaml", ".yml"):
        system = _of_recipe(named or recipe_files.find(what))
    elif path.is_file():
        system = _of_checkpoint(path, models)
    elif path.suffix == ".ckpt" or path.is_dir():
        raise FileNotFoundError(f"no checkpoint at {what}; expected a .ckpt file that `lipbench fit` wrote")
    elif "." in what and "/" not in what:
        system = _of_name(what)
    else:
        near = difflib.get_close_matches(what, [*names, *recipes], n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise UsageError(
            f"unknown system {what[:200]!r}: expected a model, a recipe or the file of a checkpoint; `lipbench list` "
            f"names models and recipes.{hint}"
        )
    model = system.build()
    if not _generates(type(model)) or "video" not in model.capabilities:
        raise ValueError(
            f"{what} is {type(model).__name__}, which generates no video; expected a model such as paralip or wav2lip"
        )
    return system._replace(build=lambda: model)


def _of_checkpoint(path: Path, models: Sequence[str] | None) -> TimedSystem:
    from lipbench.training import checkpoints, loading
    from lipbench.training.base import BenchModule

    held = checkpoints.read(path)["lipbench"]["class"] if models else ""
    model: Any = loading.load(path, BenchModule, held if held in (models or ()) else None)  # type: ignore[type-abstract]
    name = discovery.short_name("model", type(model))
    return TimedSystem(name.rpartition(".")[2], name, str(path), lambda: model)


def _of_name(name: str) -> TimedSystem:
    return TimedSystem(name.rpartition(".")[2], name, _PUBLISHED, lambda: _made(discovery.load("model", name), {}))


def _of_recipe(path: Path) -> TimedSystem:
    kind, arguments = _stated(path)
    known = path in discovery.recipes()
    source = recipe_files.name(path) if known else str(path)
    name = source.removeprefix(f"{_TABLES}/") if known else path.stem
    return TimedSystem(name, discovery.short_name("model", kind), source, lambda: _made(kind, arguments))


def _stated(path: Path) -> tuple[Any, dict[str, Any]]:
    """Class of a recipe's model, and its arguments.

    Raises:
        UsageError: It is no recipe, or names no model.
    """
    stated = recipe_files.read(path).get("model")
    if not stated:
        raise UsageError(f"{path} names no model; expected model: {{class_path: ...}}")
    if isinstance(stated, str):
        stated = {"class_path": stated}
    name, parts = str(stated["class_path"]), [stated.get(key) or {} for key in ("init_args", "dict_kwargs")]
    if "." not in name:  # the class alone, of a built-in model
        short = {own.replace("_", ""): own for own in discovery.built_in("model")}
        name = short.get(name.lower(), name)
    return discovery.load("model", name), {key: _plain(value) for part in parts for key, value in part.items()}


def _plain(value: object) -> object:
    """Lists of a YAML file as tuples, which constructors take."""
    if isinstance(value, list):
        return tuple(map(_plain, value))
    return {key: _plain(own) for key, own in value.items()} if isinstance(value, Mapping) else value


def _made(kind: Any, arguments: Mapping[str, Any]) -> "GenerativeModel":  # noqa: ANN401 - a class
    """An untrained model; one that puts lips into faces gets an untrained lip generator where it names none.

    Raises:
        ValueError: The arguments do not fit.
    """
    import torch

    from lipbench.console.talking_models import FaceOfLips

    torch.manual_seed(0)
    try:
        model: GenerativeModel = kind(**arguments)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error
    if isinstance(model, FaceOfLips) and getattr(model, "lips", None) is None:
        model.use_lips(_made(discovery.load("model", _LIPS), {}), "untrained")
    return model.eval()


def _generates(kind: type) -> bool:
    from lipbench.training.generative import GenerativeModel

    return issubclass(kind, GenerativeModel)


def _sizes(build: "Callable[[], GenerativeModel]") -> frozenset[tuple[str, tuple[int, ...]]] | None:
    """Names and shapes of the weights that are not of the training alone; None if the model generates no video."""
    import torch

    with torch.device("meta"):
        model = build()
    if "video" not in model.capabilities:
        return None
    beside = model.optional_init_prefixes or ("\0",)
    return frozenset((key, tuple(own.shape)) for key, own in model.state_dict().items() if not key.startswith(beside))
