"""Recipes: YAML files with everything that a run needs, found by name or by path; errors in them are told by line."""

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from lipbench import discovery
from lipbench.errors import UsageError

OPTIONS: Final = (
    *("config", "model", "data", "trainer", "evaluator", "tracking"),
    *("ckpt_path", "weights_only", "verbose", "return_predictions", "seed_everything", "print_config"),
)
"""What an option of fit, validate, test and predict, or a key at the top of a recipe, begins with."""
_GROUPS: Final = ("trainer", "evaluator", "tracking")
_CLASS: Final = ("class_path", "init_args", "dict_kwargs")
_DEEPEST: Final = 50
_LARGEST: Final = 10_000
_DEEP: Final = "it is nested too deeply"
Keys = tuple[str, ...]


def name(path: Path) -> str:
    """What a recipe is called: its place below `experiments`, without the suffix, such as "demo/paralip"."""
    parts = path.with_suffix("").parts
    return "/".join(parts[len(parts) - parts[::-1].index("experiments") :])


def default(model: str, data: str) -> Path | None:
    """The recipe that a model and a corpus have without being asked for, `experiments/<model>_<data>.yaml`.

    Args:
        model: Short name.
        data: Short name.
    """
    return next((path for path in discovery.recipes() if name(path) == f"{model}_{data}"), None)


def find(asked: str) -> Path:
    """The file that `--config` means.

    Args:
        asked: A path, or the name of a recipe; `papers/` may be left out, the suffix too.

    Raises:
        UsageError: There is neither such a file nor such a recipe; the message lists recipes, the nearest first.
    """
    path = Path(asked)
    try:
        if path.is_file():
            return path
        if path.is_dir():
            raise UsageError(f"--config {asked} is a folder; expected a YAML file or the name of a recipe")
    except OSError:  # such as a name that is too long for a file
        pass
    known = {name(recipe): recipe for recipe in discovery.recipes()}
    wanted = asked.removeprefix("experiments/").removesuffix(".yaml").removesuffix(".yml")
    for candidate in (wanted, f"papers/{wanted}"):
        if candidate in known:
            return known[candidate]

    def likeness(recipe: str) -> float:
        own = (recipe, recipe.removeprefix("papers/"), recipe.rpartition("/")[2])
        return max(difflib.SequenceMatcher(None, wanted.lower(), part).ratio() for part in own)

    nearest = sorted(known, key=likeness, reverse=True)
    hint = f" Did you mean {nearest[0]!r}?" if nearest and likeness(nearest[0]) >= 0.6 else ""
    listed = "".join(f"\n  {recipe}" for recipe in nearest)
    raise UsageError(
        f"unknown --config {asked[:200]!r}: no such file, and no recipe of that name.{hint} Recipes, the nearest first:"
        f"{listed}"
    )


def read(path: Path) -> dict[str, Any]:
    """A recipe as it stands in the file.

    Args:
        path: YAML in UTF-8, with or without a byte order mark.

    Raises:
        UsageError: It is no such text, no mapping, has a key twice or one that nothing knows, or a number that is not
            finite. The message names the file, the line and what is wrong.
    """
    root, content = parsed(path)
    if not isinstance(root, yaml.MappingNode):
        kind = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a text"}[type(root)] if root is not None else "nothing"
        raise UsageError(f"{path} is no recipe: it holds {kind}; expected a mapping with model: and data:")
    for count, (keys, key, node) in enumerate(walk(root, path)):
        if count > _LARGEST:  # a few lines of aliases can stand for millions
            raise UsageError(f"{path} states more than {_LARGEST} things; that is no recipe")
        _check(path, keys, key, node)
    return dict(content)


def line(path: Path, keys: Sequence[str]) -> int | None:
    """The line, from 1, at which a recipe states something; None if it does not.

    Args:
        path: A recipe that `read` takes.
        keys: The way to it; "init_args" may be left out.
    """
    root, _ = parsed(path)
    if not isinstance(root, yaml.MappingNode):
        return None
    found = (int(key.start_mark.line) + 1 for own, key, _ in walk(root, path) if option(own) == option(keys))
    return next(found, None)


def option(keys: Sequence[str]) -> str:
    """How the command line spells a key of a recipe: ("model", "init_args", "lr") is "model.lr"."""
    return ".".join(key for key in keys if key != "init_args")


def told(path: Path) -> tuple[str, str, str]:
    """What a recipe says: device, time of the training, and the first sentence of its comments.

    Args:
        path: Of the recipe. Comments name the time as "24 minutes on one core" or "38 minutes of one core".
    """
    lines = path.read_text("utf-8").splitlines()
    found = [line.partition("#")[2] for line in lines if "#" in line]
    heading = [line[1:] for line in lines if line.startswith("#") and not line.startswith("#   ")] or found[:1]
    comments, about = (" ".join(" ".join(parts).split()) for parts in (found, heading))
    time = re.search(r"(?:about )?[\d.,]+ (?:minutes|hours?|days)(?: (?:of|on) (?:one|two|2) cores?)?", comments)
    device = "CPU" if any(line.strip() == "accelerator: cpu" for line in lines) else "GPU"
    return device, time[0] if time else "time not measured", re.split(r"(?<=\.) ", about)[0]


def parsed(path: Path) -> tuple[yaml.Node | None, Any]:
    """The nodes of a YAML file, which know their lines, and its content.

    Raises:
        UsageError: It is no YAML in UTF-8; the message names the line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is no text in UTF-8 (byte {error.start} is {error.object[error.start]:#04x}); expected YAML"
        ) from error
    try:
        return yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        tab = " (YAML indents with spaces, not with tabs)" if "\\t" in what else ""
        if mark is None:
            raise UsageError(f"{path} is not valid YAML: {what}") from error
        lines = text.splitlines() or [""]
        shown = lines[min(mark.line, len(lines) - 1)].strip()[:100]
        raise UsageError(f"{path}, line {mark.line + 1} is not valid YAML: {what}{tab}\n  {shown}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date such as 2026-99-99
        what = _DEEP if isinstance(error, RecursionError) else str(error).partition("\n")[0]
        raise UsageError(f"{path} is not valid YAML: {what}") from error


def walk(
    root: yaml.Node, path: Path, keys: Keys = (), above: tuple[int, ...] = ()
) -> Iterator[tuple[Keys, yaml.Node, yaml.Node]]:
    """Everything that a file states: the way to it, the node of its key, which knows the line, and that of its value.

    Members of lists have the way and the key of their list.

    Raises:
        UsageError: Something is stated twice, or the file contains itself or is nested too deeply.
    """
    if id(root) in above or len(above) > _DEEPEST:
        raise UsageError(f"{path} is not valid YAML: {'it contains itself' if id(root) in above else _DEEP}")
    above = (*above, id(root))
    lines: dict[str, int] = {}
    for key, value in root.value:
        if key.tag == "tag:yaml.org,2002:merge":  # <<: *others
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from walk(merged, path, keys, above)
            continue
        own = (*keys, str(key.value))
        if own[-1] in lines:
            raise fault(path, key, f"{option(own)} is given twice, first in line {lines[own[-1]]}")
        lines[own[-1]] = key.start_mark.line + 1
        yield own, key, value
        if isinstance(value, yaml.MappingNode):
            yield from walk(value, path, own, above)
        elif isinstance(value, yaml.SequenceNode):
            yield from ((own, key, member) for member in value.value if isinstance(member, yaml.ScalarNode))


def _check(path: Path, keys: Keys, key: yaml.Node, node: yaml.Node) -> None:
    """One key against what a recipe may hold, as far as it is known without importing anything."""
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:float":
        value = yaml.SafeLoader("").construct_yaml_float(node)
        if not math.isfinite(value):
            raise fault(path, key, f"{option(keys)} is {node.value}; expected a finite number")
    top, depth = keys[0], len(keys)
    mapping = isinstance(node, yaml.MappingNode)
    if depth == 1 and top in ("stages", "prepare"):
        raise fault(path, key, f"an experiment of several stages is no recipe. Type: lipbench run {path}")
    if depth == 1 and top not in OPTIONS:
        raise fault(path, key, str(discovery.unknown("key", top, OPTIONS)))
    if depth == 1 and top in _GROUPS and not mapping:
        raise fault(path, key, f"{top} must be a mapping, such as {{max_steps: 1000}}, found {_shown(node)}")
    if top == "data":
        _check_data(path, keys, key, node)
    if top != "model":
        return
    if (depth == 1 and not mapping) or keys[1:] == ("class_path",):
        _check_class(path, top, key, node)
    elif depth == 1 and "class_path" not in {part.value for part, _ in node.value}:
        raise fault(path, key, f"{top} has no class_path; expected the class, such as class_path: ParaLip")
    elif depth == 2 and keys[1] not in _CLASS:
        raise fault(path, key, f"{discovery.unknown(f'key of {top}', keys[1], _CLASS)} Arguments go below init_args.")
    elif depth == 2 and not mapping:
        raise fault(path, key, f"{top}.{keys[1]} must be a mapping, such as {{lr: 0.001}}, found {_shown(node)}")


def _check_data(path: Path, keys: Keys, key: yaml.Node, node: yaml.Node) -> None:
    """A corpus is named by its short name or class path, as `corpus`; in files of older versions as `class_path`."""
    depth, mapping = len(keys), isinstance(node, yaml.MappingNode)
    text = isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str"
    if (depth == 1 and not (mapping or text)) or (keys[1:] in (("corpus",), ("class_path",)) and not text):
        raise fault(
            path, key, f"{option(keys)} must name a corpus, such as data: {{corpus: grid}}, found {_shown(node)}"
        )
    if depth == 1 and mapping:
        names = [str(part.value) for part, _ in node.value]
        if "class_path" in names:
            odd = next((part for part, _ in node.value if str(part.value) not in _CLASS), None)
            if odd is not None:
                raise fault(
                    path,
                    odd,
                    f"{discovery.unknown('key of data', str(odd.value), _CLASS)} Arguments go below init_args.",
                )
        elif "init_args" in names:
            raise fault(
                path, key, "data has init_args but no class_path; now it is data: {corpus: grid, batch_size: 8}"
            )


def _check_class(path: Path, kind: str, key: yaml.Node, node: yaml.Node) -> None:
    """A model is named by its class."""
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
        raise fault(path, key, f"{kind} must be a class, such as {kind}: ParaLip, found {_shown(node)}")
    if str(node.value) in discovery.files(kind):
        raise fault(
            path,
            key,
            f"{node.value} is the short name, for the command line; a file names the class, such as {kind}: "
            f"ParaLip (`lipbench fit --{kind} {node.value} --print_config` shows it)",
        )


def _shown(node: yaml.Node) -> str:
    """A value as a message shows it."""
    if isinstance(node, yaml.ScalarNode):
        return repr(str(node.value)) if node.value else "nothing"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def fault(path: Path, node: yaml.Node, what: str) -> UsageError:
    """The error for what a file states at a node."""
    return UsageError(f"{path}, line {node.start_mark.line + 1}: {what}")
