"""How a corpus is named: `--data grid`, `data: {corpus: grid}`, and the spellings of older versions.

Until corpora had one datamodule in common, each was a datamodule of its own: files of recipes and of runs say
`data: {class_path: lipbench.corpora.grid.Grid, init_args: {...}}`, or `data: Grid`. These are still understood.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from lipbench import discovery
from lipbench.console import recipe_files

_FOLDERS: Final = ("data", "corpora")  # in which the classes of corpora have lain


def name(stated: str) -> str:
    """The name under which a corpus is found: a short name stays, and so does a class path of another package.

    Args:
        stated: Short name, class path, or a class name alone, such as "Grid".
    """
    parts = stated.split(".")
    if len(parts) == 4 and parts[0] == "lipbench" and parts[1] in _FOLDERS and parts[2] in discovery.files("data"):
        return parts[2]
    if len(parts) == 1 and stated.lower() in discovery.files("data"):
        return stated.lower()
    return stated


def stated_in(recipe: Mapping[str, object]) -> str:
    """Name of the corpus that a recipe states, in whatever spelling; empty if it states none."""
    stated = recipe.get("data")
    if isinstance(stated, dict):
        stated = stated.get("corpus") or stated.get("class_path")
    return name(str(stated)) if stated else ""


def typed(words: list[str]) -> list[str]:
    """Words of the command line in which older spellings are replaced, with a hint for each.

    `--data.corpus grid` becomes `--data grid`, the one spelling that the rest of the console knows.
    """
    found = []
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == "--data.class_path":
            hint("--data.class_path is --data now")
            flag = "--data"
        elif flag.startswith("--data.init_args."):
            hint(f"{flag} is --data.{flag.removeprefix('--data.init_args.')} now")
            flag = f"--data.{flag.removeprefix('--data.init_args.')}"
        elif flag == "--data.corpus":
            flag = "--data"
        found.append(f"{flag}{equals}{value}")
    for k, word in enumerate(found):
        flag, equals, value = word.partition("=")
        if flag == "--data" and (equals or k + 1 < len(found)):
            given = value if equals else found[k + 1]
            if name(given) != given:
                hint(f"--data {given} is --data {name(given)} now")
                found[k if equals else k + 1] = f"--data={name(given)}" if equals else name(given)
    return found


def with_current_recipes(words: list[str]) -> list[str]:
    """Words in which recipes of the older spelling are replaced by what they say in the present one.

    Args:
        words: Options; recipes as `--config FILE`.
    """
    found = list(words)
    for k, word in enumerate(words):
        if word == "--config" and k + 1 < len(words) and Path(words[k + 1]).is_file():
            recipe = recipe_files.read(Path(words[k + 1]))
            if (data := current(recipe)) is not None:
                hint(f"{words[k + 1]} names its corpus in the older form; now it is data: {{corpus: {data['corpus']}}}")
                found[k + 1] = yaml.safe_dump({**recipe, "data": data})
    return found


def current(recipe: Mapping[str, object]) -> dict[str, Any] | None:
    """The `data` of a recipe in the present form; None if it has that form already, or is absent."""
    stated = recipe.get("data")
    if isinstance(stated, str):
        return {"corpus": name(stated)}
    if not isinstance(stated, dict) or "class_path" not in stated:
        return None
    arguments = {**(stated.get("init_args") or {}), **(stated.get("dict_kwargs") or {})}
    return {"corpus": name(str(stated["class_path"])), **arguments}


def hint(line: str) -> None:
    """One line on the error stream, once a run: further processes of it say nothing."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"hint: {line}", file=sys.stderr)
