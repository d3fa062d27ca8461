"""The words after fit, validate, test and predict: checked and put in order before anything heavy is imported."""

import inspect
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Final, get_args, get_origin

import yaml

from lipbench import discovery
from lipbench.console import corpus_option, recipe_files
from lipbench.errors import UsageError

_KINDS: Final = ("model", "data")
_CONFIG: Final = ("-c", "--config")
_NONE: Final = "none"
"""As a value of --config: the constructors' defaults."""
_EXAMPLES: Final = {"--trainer": ".max_steps 1000", "--evaluator": ".metrics psnr", "--tracking": ".wandb offline"}
_HELP: Final = ("--help", *(f"--{kind}.help" for kind in _KINDS))


def prepared(command: str, words: list[str]) -> list[str]:
    """Words that LightningCLI understands: complete, in an order it takes, short names as class paths.

    Args:
        command: "fit", "validate", "test" or "predict".
        words: What follows it.

    Raises:
        UsageError: A name is unknown or missing.
        FileNotFoundError: The checkpoint is not there.
        ValueError: The checkpoint that should say what is missing cannot be read.
    """
    words = corpus_option.typed(["--help" if word == "--help-all" else word for word in words])
    for flag, value, _ in options(words):  # all names before anything is imported for the first
        kind = flag.removeprefix("--").removesuffix(".help")
        if flag.startswith("--") and kind in _KINDS:
            if value is None:
                raise UsageError(f"{flag} needs a name: {', '.join(discovery.files(kind))}")
            if "." not in value and value not in discovery.files(kind):
                raise discovery.unknown(f"--{kind}", value, discovery.files(kind))
        elif flag.startswith("--") and kind.partition(".")[0].removesuffix("+") not in (*recipe_files.OPTIONS, "help"):
            raise discovery.unknown("option", flag, (f"--{option}" for option in recipe_files.OPTIONS))
        elif flag in ("--trainer", "--evaluator", "--tracking") and not Path(value or "").is_file():
            raise UsageError(f"{flag} takes its options one by one, such as {flag}{_EXAMPLES[flag]}")
    words = _found(words)
    if not set(_HELP) & {word.partition("=")[0] for word in words}:
        words = _complete(command, words)
    return _ordered(words)


def options(words: list[str]) -> Iterator[tuple[str, str | None, list[str]]]:
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


def _found(words: list[str]) -> list[str]:
    """Names of recipes become files."""
    found: list[str] = []
    for flag, value, own in options(words):
        if flag in _CONFIG:
            if not value:
                raise UsageError(f"{flag} needs a file or the name of a recipe (`lipbench list` shows them)")
            own = ["--config", value if value == _NONE else str(recipe_files.find(value))]
        found += own
    return found


def _ordered(words: list[str]) -> list[str]:
    """Recipes first, then model and corpus, then everything else; short names become class paths.

    To jsonargparse the order matters: a recipe after a flag undoes it, an argument before its model is an error.
    """
    recipes: list[str] = []
    names: list[str] = []
    rest: list[str] = []
    classes: dict[str, str] = {}
    for flag, value, own in options(words):
        kind = flag.removeprefix("--").removesuffix(".help").removesuffix(".class_path")
        if flag in _CONFIG:
            recipes += own
        elif flag.startswith("--") and kind in _KINDS and value is not None:
            if kind == "data" and not flag.endswith(".help"):
                classes[kind] = value
                names.append(f"--data.corpus={_short(kind, value)}")
                continue
            value = classes[kind] = _path(kind, value)
            (rest if flag.endswith(".help") else names).append(f"{flag}={value}")
        else:
            rest += own
    if recipes:  # they may use bare class names, which jsonargparse knows of imported classes only
        for name in discovery.built_in("model"):
            discovery.load("model", name)
        stated = [recipe_files.read(Path(file)) for file in recipes[1::2] if Path(file).is_file()]
        classes = {kind: _class(recipe, kind) for recipe in stated for kind in _KINDS if _class(recipe, kind)} | classes
    return recipes + names + (_with_lists(rest, classes) if any(map(_listable, options(rest))) else rest)


def _complete(command: str, words: list[str]) -> list[str]:
    """Say which recipe or configuration holds where none is named, and check that model and corpus are known.

    Raises:
        UsageError: No model or corpus is named, or a recipe's would be swapped for another.
        FileNotFoundError: The checkpoint is not there.
        ValueError: It cannot be read.
    """
    found: dict[str, list[str]] = {}
    for flag, value, _ in options(words):
        found.setdefault(flag, []).append(value or "")
    named = {kind: found[f"--{kind}"][-1] for kind in _KINDS if f"--{kind}" in found}
    recipes = found.get("--config", [])
    checkpoint = found.get("--ckpt_path", [""])[-1]
    if _NONE in recipes:
        if set(recipes) != {_NONE}:
            raise UsageError("--config none means the constructors' defaults: leave out the other --config")
        words = [word for flag, _, own in options(words) if flag != "--config" for word in own]
    elif recipes:
        stated = set(named)
        for file in recipes:
            recipe = recipe_files.read(Path(file))
            _check_swap(file, recipe, named)
            stated |= {kind for kind in _KINDS if _class(recipe, kind)}
        named = dict.fromkeys(stated, "")
    elif checkpoint:
        words, named = _of_checkpoint(words, checkpoint, named, found.get("--trainer.default_root_dir", ["runs"])[-1])
    elif command == "fit" and len(named) == len(_KINDS):
        own = recipe_files.default(named["model"], named["data"])
        if own is not None:
            _say(f"recipe: experiments/{recipe_files.name(own)}.yaml; flags win over it, --config none leaves it out")
            words = ["--config", str(own), *words]
        else:
            called = "_".join(_short(kind, named[kind]) for kind in _KINDS)
            _say(f"recipe: none is called {called}, so the constructors' defaults")
    for kind in _KINDS:
        if kind not in named:
            newest = f"; --ckpt_path {checkpoint} is that of the newest run of a model and a corpus"
            raise UsageError(
                f"{command} needs --{kind} NAME ({', '.join(discovery.files(kind))}), or a recipe: --config NAME "
                f"(`lipbench list` shows them){newest if checkpoint in ('last', 'best') else ''}"
            )
    return words


def _check_swap(file: str, recipe: Mapping[str, object], named: Mapping[str, str]) -> None:
    """A model or corpus that is named must be the recipe's own."""
    for kind, name in named.items():
        stated = _class(recipe, kind)
        if stated and not _same(kind, name, stated):
            raise UsageError(
                f"{file} is for {stated}, not for --{kind} {name}: shared arguments would silently carry over. "
                f"Leave out --{kind} {name}, or the file"
            )


def _of_checkpoint(
    words: list[str], checkpoint: str, named: dict[str, str], root: str
) -> tuple[list[str], dict[str, str]]:
    """Arguments of the run that a checkpoint comes from: its config.yaml, or at least the names in the checkpoint.

    Args:
        words: What was typed.
        checkpoint: Value of --ckpt_path.
        named: Model and corpus, where they were typed.
        root: Folder of all runs.

    Returns:
        The words, and all names that are known.

    Raises:
        FileNotFoundError: The checkpoint is not there.
        ValueError: It cannot be read.
    """
    if checkpoint in ("last", "best"):
        if len(named) < len(_KINDS):
            return words, named
        runs = Path(root) / "_".join(_short(kind, named[kind]) for kind in _KINDS)
        files = sorted(runs.glob(f"version_*/checkpoints/{checkpoint}.ckpt"), key=lambda path: path.stat().st_mtime)
        if not files:
            return words, named
        checkpoint = str(files[-1])
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {path}{', which is a folder' if path.is_dir() else ''}; --ckpt_path last takes that of "
            "the newest run"
        )
    saved = path.parent.parent / "config.yaml"
    if saved.is_file():
        config = recipe_files.read(saved)
        stated = {kind: _class(config, kind) for kind in _KINDS}
        _check_own(saved, config, {_path(kind, name) for kind, name in named.items() if "." in name})
        if all(_same(kind, name, stated[kind]) for kind, name in named.items()):
            _say(f"arguments: {saved}, those of the checkpoint's run; flags win over them")
            return ["--config", str(saved), *words], stated
    elif len(named) < len(_KINDS):
        from lipbench.console import config_origin

        origin = config_origin.read(path, named.get("model"))
        stated = {"model": origin.model, "data": origin.data}
        if origin.protocol and origin.data not in ("", *named.values()):
            words = ["--data.protocol", origin.protocol, *words]
    else:
        return words, named
    lacking = {kind: name for kind, name in stated.items() if name and kind not in named}
    added = [word for kind, name in lacking.items() for word in (f"--{kind}", name)]
    if added:
        _say(f"from the checkpoint: {' '.join(added)}")
    return [*added, *words], named | lacking


def _check_own(saved: Path, config: Mapping[str, object], typed: set[str]) -> None:
    """What lies beside a checkpoint may name classes of lipbench and of Lightning: whatever is named is imported.

    A model or a corpus may also be an installed entry point, or one of the class paths that were typed.

    Raises:
        UsageError: It names another one.
    """

    def texts(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            for key, member in value.items():
                if key != "default_root_dir":
                    yield from texts(member)
        elif isinstance(value, list):
            for member in value:
                yield from texts(member)

    named = {kind: _class(config, kind) for kind in _KINDS}
    classes = [name for kind, name in named.items() if "." not in name or not discovery.known(kind, name)]
    for name in (*classes, *(text for text in texts(config.get("trainer")) if {".", "/"} & set(text))):
        if {".", "/"} & set(name) and not name.startswith(("lipbench.", "pytorch_lightning.")) and name not in typed:
            raise UsageError(
                f"{saved}, beside the checkpoint, names {name!r}, which belongs neither to lipbench nor to "
                f"Lightning nor to an installed package of models, and would be imported. If you trust it, ask for "
                f"it: --config {saved}"
            )


def _class(recipe: Mapping[str, object], kind: str) -> str:
    """Class of the model, or name of the corpus, that a recipe states; empty if it states none."""
    if kind == "data":
        return corpus_option.stated_in(recipe)
    stated = recipe.get(kind)
    return str((stated.get("class_path") if isinstance(stated, dict) else stated) or "")


def _same(kind: str, name: str, stated: str) -> bool:
    """Whether a name that was typed, short or a class path, means the class or corpus that a recipe states."""
    if kind == "data":
        return _short(kind, corpus_option.name(name)) == stated
    package, _, own = _path(kind, name).partition(".")
    return stated.rpartition(".")[2] == own.rpartition(".")[2] and stated.partition(".")[0] in (package, stated)


def _path(kind: str, name: str) -> str:
    """Class path of what a name, short or a class path, means; it is imported."""
    loaded = discovery.load(kind, name)
    return f"{loaded.__module__}.{loaded.__qualname__}"


def _short(kind: str, name: str) -> str:
    """A name, short or a class path, as run folders are called after it."""
    return discovery.short_name(kind, _path(kind, name)) if "." in name else name


def _say(line: str) -> None:
    """One line for the user; further processes of the same run say nothing."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=sys.stderr)


def _listable(option: tuple[str, str | None, list[str]]) -> bool:
    """Whether a value might be a list that is written without brackets."""
    flag, value, _ = option
    value = value or "[]"
    bare = not value.startswith("{") and (not value.startswith("[") or _broken(value))
    return bare and bool(re.match(r"--(model|data|evaluator|tracking)\.\w+$", flag))


def _broken(value: str) -> bool:
    """Whether a list is none to YAML: that of names with brackets, such as [lmd,psnr[uint8-wrap]]."""
    try:
        yaml.safe_load(value)
    except yaml.YAMLError:
        return True
    return False


def _flow(members: Iterable[str]) -> str:
    """A list as YAML writes it, with quotes around names that have brackets."""
    return f"[{','.join(json.dumps(member) if set(member) & set('[]{}:#&*!|>%@') else member for member in members)}]"


def _with_lists(words: list[str], classes: Mapping[str, str]) -> list[str]:
    """Lists as YAML writes them: `--model.size 40,80` and `--model.size 40 80` become `--model.size=[40,80]`.

    Args:
        words: Options, without model and corpus themselves.
        classes: Those of the model and the corpus.
    """
    from lipbench import tracking
    from lipbench.evaluation import evaluator

    owners = {"evaluator": _takes_lists(evaluator.Evaluator), "tracking": _takes_lists(tracking.Tracking)}
    owners["data"] = set()
    wanted = classes.get("model", "")
    if "." in wanted:
        owners["model"] = _takes_lists(discovery.load("model", wanted))
    else:  # a bare name, in a recipe
        known = (discovery.load("model", name) for name in discovery.built_in("model"))
        owners["model"] = {argument for own in known if own.__name__ == wanted for argument in _takes_lists(own)}
    found: list[str] = []
    open_list: list[str] | None = None
    for option in options(words):
        flag, value, own = option
        if open_list is not None and not flag.startswith("-"):
            open_list += discovery.listed(flag)
            found[-1] = f"{found[-1].partition('=')[0]}={_flow(open_list)}"
            continue
        open_list = None
        group, _, argument = flag.removeprefix("--").partition(".")
        if _listable(option) and argument in owners[group] and value not in ("null", "None"):
            open_list = discovery.listed(str(value))
            own = [f"{flag}={_flow(open_list)}"]
        found += own
    return found


def _takes_lists(owner: type) -> set[str]:
    """Arguments of a class and of those it is based on that are lists or tuples, and cannot be a plain text instead."""
    annotations: dict[str, object] = {}
    for base in reversed(owner.__mro__):
        parameters = inspect.signature(base.__init__).parameters if "__init__" in vars(base) else {}  # type: ignore[misc]  # of classes that may differ from their base's
        annotations |= {name: parameter.annotation for name, parameter in parameters.items()}
    found = set()
    for name, annotation in annotations.items():
        kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
        if str not in kinds and any(get_origin(kind) in (list, tuple) for kind in kinds):
            found.add(name)
    return found


def check_finite(given: Iterable[tuple[str, object]]) -> None:
    """Refuse numbers that are infinite or none at all, wherever they come from.

    Args:
        given: Options and their values, such as ("model.init_args.lr", 0.001).

    Raises:
        UsageError: One is not finite; the message names the option.
    """
    for option, value in given:
        values = value if isinstance(value, list | tuple) else [value]
        wrong = [number for number in values if isinstance(number, float) and not math.isfinite(number)]
        if wrong:
            raise UsageError(f"{recipe_files.option(option.split('.'))} is {wrong[0]}; expected a finite number")
