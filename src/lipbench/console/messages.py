"""Errors of jsonargparse as a person should read them: a sentence with the nearest name and the line."""

import difflib
import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from lipbench import discovery
from lipbench.console import argv, recipe_files

_NOISE: Final = ("Does not validate", "Subtypes:", "Errors:", "Given value", "- Expected a <class 'NoneType'>")
_CLASSES: Final = ("model",)


def readable(message: str, words: Sequence[str]) -> str:
    """An error of jsonargparse without the machinery around it.

    Args:
        message: Its text.
        words: What was parsed: options, and recipes as `--config FILE`.
    """
    typed = list(argv.options(list(words)))
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    owner = re.search(r"class_path '([\w.]+)'", message)
    if stray := re.search(r"[Uu]nrecognized arguments: (.*)", message):
        return _unknown_option(stray[1])
    if "expected one argument" in message:
        empty = [flag for flag, value, _ in typed if value is None]
        return f"{empty[-1]} needs a value" if empty else message
    if wrong := re.search(r"does not accept option '([\w.]+)'", message):
        place = wrong[1].split(".")
        return _at(typed, place) + _unknown(f"key of {place[0]}", place[-1], _arguments(place[0]))
    if owner and (wrong := re.search(r"Option '([\w.]+)' is not accepted", message)):
        kind, own = keys[0], owner[1].rpartition(".")[2]
        known = _parameters(discovery.load(kind, owner[1])) if kind in _CLASSES else []
        return _at(typed, [kind, wrong[1]]) + _unknown(f"argument of {own}", wrong[1], known)
    if keys and keys[0] in _CLASSES and not owner:
        return _wrong_class(keys[0], message, typed)
    expected = _expected(message)
    if keys and expected:
        own = f"{owner[1].rpartition('.')[2]}: {keys[-1]}" if owner else keys[-1]
        found = _value(message)
        near = difflib.get_close_matches(found, re.findall(r"[\w-]+", expected), n=1, cutoff=0.6)
        hint = f". Did you mean {near[0]!r}?" if near and "one of" in expected else ""
        return f"{_at(typed, [*keys])}{own} must be {expected}, found {found!r}{hint}"
    return "\n".join(line for line in message.splitlines() if not line.strip().startswith(_NOISE))


def _at(typed: Iterable[tuple[str, str | None, list[str]]], place: Sequence[str]) -> str:
    """File and line of the recipe that states something, as the beginning of a sentence; empty if it was typed."""
    wanted = recipe_files.option(".".join(place).split("."))
    typed = list(typed)
    if any(flag.removeprefix("--") == wanted for flag, _, _ in typed):
        return ""
    for file in reversed([value for flag, value, _ in typed if flag == "--config" and value]):
        line = recipe_files.line(Path(file), wanted.split("."))
        if line is not None:
            return f"{file}, line {line}: "
    return ""


def _unknown_option(stray: str) -> str:
    """The sentence for words that nothing takes: an option with a wrong name, or a word that belongs to none."""
    flag = re.split(r"[\s=]", stray, maxsplit=1)[0]
    if not flag.startswith("-"):
        return f"{flag!r} belongs to no option"
    group, _, argument = flag.removeprefix("--").partition(".")
    near = difflib.get_close_matches(argument.partition(".")[0], _arguments(group), n=1, cutoff=0.5)
    hint = f" Did you mean '--{group}.{near[0]}'?" if near else ""
    return f"unknown option {flag!r}.{hint} `lipbench fit --help` shows the common ones, --help-all every one"


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    """The sentence for a wrong name, without the list where that would be long."""
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    if len(known) > 30 and near:
        return f"unknown {what} {name!r}. Did you mean {near[0]!r}?"
    return str(discovery.unknown(what, name, known))


def _arguments(group: str) -> list[str]:
    """Arguments of the trainer, the corpus, the evaluator or the tracking; none of anything else."""
    from pytorch_lightning import Trainer

    from lipbench import tracking
    from lipbench.data.datamodule import ClipDataModule
    from lipbench.evaluation.evaluator import Evaluator

    owners: dict[str, type] = {"trainer": Trainer, "evaluator": Evaluator, "tracking": tracking.Tracking}
    owners["data"] = ClipDataModule
    return _parameters(owners[group]) if group in owners else []


def _parameters(owner: type) -> list[str]:
    """Names of the arguments of a class and, where it hands on others, of those it is based on."""
    found: dict[str, None] = {}
    for base in owner.__mro__:
        own = inspect.signature(base.__init__).parameters.values() if "__init__" in vars(base) else ()  # type: ignore[misc]  # of classes that may differ from their base's
        named = [p.name for p in own if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "self"]
        found |= dict.fromkeys(named)
        if own and not any(p.kind == p.VAR_KEYWORD for p in own):
            break
    return list(found)


def _wrong_class(kind: str, message: str, typed: Iterable[tuple[str, str | None, list[str]]]) -> str:
    """The sentence for a model whose class is none."""
    named = re.search(r"Expected a dot import path string: (.*)", message)
    given = named[1] if named else _value(message)
    known = [discovery.load(kind, short).__name__ for short in discovery.built_in(kind)]
    at = _at(typed, [kind, "class_path"]) or _at(typed, [kind])
    return at + str(discovery.unknown(f"class of --{kind}", given, known))


def _expected(message: str) -> str:
    """What would have been right, in words; empty if the message does not say."""
    kinds: list[str] = []
    for text in re.findall(r"Expected an? (.*?)(?:\. Got value: .*)?$", message, re.MULTILINE):
        if literal := re.match(r"typing\.Literal\[(.*)\]", text):
            kinds.append(f"one of {literal[1]}".replace("'", ""))
        elif plain := re.match(r"<class '(?:\w+\.)*(\w+)'>", text):
            kinds.append("" if plain[1] == "NoneType" else f"of type {plain[1]}")
        elif text.startswith("dot import path string"):
            kinds.append("the path of a class, such as package.module.Class")
        elif count := re.match(r"tuple with (\d+) elements", text):
            kinds.append(f"a list of {count[1]}")
        elif not text.startswith(("path but", "instantiatable")):
            kinds.append(f"a {text}")
    if any(kind in ("of type list", "of type tuple") for kind in kinds):
        kinds = ["a list, such as [a, b]"]
    return " or ".join(dict.fromkeys(kind for kind in kinds if kind))


def _value(message: str) -> str:
    """The value that was found."""
    inner = re.search(r"Got value: (.*)", message)
    if inner:
        return inner[1]
    nested = re.search(r"Given value: NestedArg\(key='.*?', val=(.*)\)", message)
    outer = nested or re.search(r"Given value: (.*)", message)
    return outer[1].strip("'") if outer else ""
