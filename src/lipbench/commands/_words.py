"""The words after fit, validate, test and predict: checked and put in order before anything heavy is imported."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from lipbench.commands import _names, _runs
from lipbench.commands._names import UsageError

_KINDS: Final = ("model", "data")
_CONFIG: Final = ("-c", "--config")


def prepared(command: str, words: list[str]) -> list[str]:
    """Words that LightningCLI understands: complete, in an order it takes, short names as class paths.

    Args:
        command: "fit", "validate", "test" or "predict".
        words: What follows it.

    Raises:
        UsageError: A name is unknown or missing.
    """
    words = ["--help" if word == "--help-all" else word for word in words]
    for flag, value, _ in _options(words):  # all names before anything is imported for the first
        kind = flag.removeprefix("--").removesuffix(".help")
        if flag.startswith("--") and kind in _KINDS:
            if value is None:
                raise UsageError(f"{flag} needs a name: {', '.join(_names.files(kind))}")
            if "." not in value and value not in _names.files(kind):
                raise _names.unknown(f"--{kind}", value, _names.files(kind))
    if not {"--help", *(f"--{kind}.help" for kind in _KINDS)} & {word.partition("=")[0] for word in words}:
        words = _complete(command, words)
    return _ordered(words)


def _options(words: list[str]) -> Iterator[tuple[str, str | None, list[str]]]:
    """Split words into options: (flag, value or None, the words themselves). Words without a flag come alone."""
    k = 0
    while k < len(words):
        flag, equals, value = words[k].partition("=")
        if equals:
            yield flag, value, words[k : k + 1]
        elif flag.startswith("-") and k + 1 < len(words) and not words[k + 1].startswith("--"):
            yield flag, words[k + 1], words[k : k + 2]
            k += 1
        else:
            yield flag, None, words[k : k + 1]
        k += 1


def _ordered(words: list[str]) -> list[str]:
    """Recipes first, then model and corpus, then everything else; short names become class paths.

    To jsonargparse the order matters: a recipe after a flag undoes it, an argument before its model is an error.
    """
    recipes: list[str] = []
    names: list[str] = []
    rest: list[str] = []
    for flag, value, own in _options(words):
        kind = flag.removeprefix("--").removesuffix(".help").removesuffix(".class_path")
        if flag in _CONFIG:
            recipes += own
        elif flag.startswith("--") and kind in _KINDS and value is not None:
            if "." not in value:  # a short name; otherwise a class path
                loaded = _names.load(kind, value)
                value = f"{loaded.__module__}.{loaded.__qualname__}"
            (rest if flag.endswith(".help") else names).append(f"{flag}={value}")
        else:
            rest += own
    if recipes:  # they may use bare class names, which jsonargparse knows of imported classes only
        for kind in _KINDS:
            for name in _names.files(kind):
                _names.load(kind, name)
    return recipes + names + rest


def _complete(command: str, words: list[str]) -> list[str]:
    """Check that model and corpus are named once; a checkpoint alone brings its run's config.yaml.

    Raises:
        UsageError: None is named, or a recipe's model or corpus would be swapped for another.
    """
    found: dict[str, list[str]] = {}
    for flag, value, _ in _options(words):
        found.setdefault("--config" if flag == "-c" else flag, []).append(value or "")
    named = {kind: found[f"--{kind}"][-1] for kind in _KINDS if f"--{kind}" in found}
    for file in found.get("--config", []):
        recipe = _read(Path(file))
        for kind, name in named.items():
            stated = recipe.get(kind)
            stated = stated.get("class_path") if isinstance(stated, dict) else stated
            if stated and "." not in name and name in _names.files(kind):
                own = _names.load(kind, name)
                if str(stated).rpartition(".")[2] != own.__name__:
                    raise UsageError(
                        f"{file} is for {stated}, not for --{kind} {name}: shared arguments would silently carry over. "
                        f"Leave out --{kind} {name}, or the file"
                    )
    if "--config" in found or len(named) == len(_KINDS):
        return words
    checkpoint = found.get("--ckpt_path", [""])[-1]
    saved = Path(checkpoint).parent.parent / "config.yaml"
    if checkpoint not in ("", "last", "best") and not named and saved.is_file():
        _runs.check_brought(saved)
        return ["--config", str(saved), *words]
    lacking = next(kind for kind in _KINDS if kind not in named)
    raise UsageError(
        f"{command} needs --{lacking} NAME ({', '.join(_names.files(lacking))}), or a recipe: --config FILE.yaml "
        f"(`lipbench list` shows them)"
    )


def _read(path: Path) -> dict[str, Any]:
    """A recipe as it stands in the file."""
    if not path.is_file():
        raise _names.unknown("--config", str(path), map(str, _names.recipes()))
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise UsageError(f"{path} is no recipe: expected a mapping with model: and data:")
    return content


def readable(message: str) -> str:
    """An error of jsonargparse without the machinery around it, and with the nearest name for a wrong one."""
    owner = re.search(r"class_path '(lipbench\.[\w.]+)'", message)
    wrong = re.search(r"Option '(\w+)' is not accepted", message)
    if owner and wrong:
        module, _, name = owner[1].rpartition(".")
        kind = next(kind for kind in _KINDS if module.startswith(f"lipbench.{_names.FOLDERS[kind]}."))
        known = list(inspect.signature(_names.load(kind, module.split(".")[2])).parameters)
        return str(_names.unknown(f"argument of {name}", wrong[1], known))
    value = re.search(r'key "(\w+)":\s+Expected an? <class \'(\w+)\'>\. Got value: (.*)', message)
    if owner and value:
        return f"{owner[1].rpartition('.')[2]}: {value[1]} must be of type {value[2]}, found {value[3]!r}"
    stray = re.search(r"[Uu]nrecognized arguments: (.*)", message)
    if stray:
        return f"unknown option {stray[1]!r}. `lipbench fit --help` shows the common ones, --help-all every one"
    noise = ("Does not validate", "Subtypes:", "Errors:", "Given value", "- Expected a <class 'NoneType'>")
    lines = [line for line in message.splitlines() if not line.strip().startswith(noise)]
    return "\n".join(lines)
