"""Experiments of several stages: which there are, in which order, and what each takes from which earlier one.

    prepare: {data: rendered, speakers: 16, clips: 60}
    stages:
      expert:
        config: wav2lip_expert_rendered_small
      wav2lip:
        config: wav2lip_rendered_small
        take:
          model.expert: expert

A stage is an ordinary configuration: recipes by name or path (`config`), and keys of a recipe (`model`, `data`,
`trainer`, `evaluator`, `tracking`, `seed_everything`) that win over them. `take` names options whose values are files
of earlier stages: `STAGE` is its weights file (observer.safetensors), for `init_from` its last checkpoint; `STAGE/PATH`
is any file in its run folder, such as expert/checkpoints/best.ckpt. A stage is tested if no later one takes from it, or
as its `test: true|false` says. `prepare` has the options of `lipbench prepare`.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from lipbench import discovery
from lipbench.console import corpus_option, recipe_files
from lipbench.errors import UsageError

_FILE: Final = "stages.yaml"  # of an experiment that is a folder
_TOP: Final = ("prepare", "stages")
_OWN: Final = ("model", "data", "trainer", "evaluator", "tracking", "seed_everything")
_STAGE: Final = ("config", "take", "test", *_OWN)
OBSERVER: Final = "observer.safetensors"
_CHECKPOINT: Final = "checkpoints/last.ckpt"


@dataclass(frozen=True)
class Stage:
    """One training of an experiment.

    Args:
        name: Its key in the experiment.
        configs: Recipes that are stacked.
        own: What the experiment itself states, over the recipes.
        take: Option without dashes -> (earlier stage, path in its run folder).
        test: Whether it is scored; None: if no later stage takes from it.
    """

    name: str
    configs: tuple[Path, ...] = ()
    own: dict[str, Any] = field(default_factory=dict)
    take: dict[str, tuple[str, str]] = field(default_factory=dict)
    test: bool | None = None

    def stated(self) -> dict[str, Any]:
        """All that the recipes and the experiment state, merged."""
        merged: dict[str, Any] = {}
        for config in (*map(recipe_files.read, self.configs), self.own):
            data = corpus_option.current(config)  # older spellings
            merged = _merged(merged, config if data is None else {**config, "data": data})
        return merged

    @property
    def told(self) -> tuple[str, str]:
        """For which device its training is, and how long it takes there, as the recipes say."""
        for path in reversed(self.configs):
            device, time, _ = recipe_files.told(path)
            return device, time
        return "device not stated", "time not measured"


@dataclass(frozen=True)
class Experiment:
    """Stages in their order.

    Args:
        name: Of its run folder.
        stages: In order; each takes from earlier ones only.
        prepare: Options of `lipbench prepare`; empty if the store is there already.
    """

    name: str
    stages: tuple[Stage, ...]
    prepare: dict[str, Any] = field(default_factory=dict)

    def tested(self, stage: Stage) -> bool:
        """Whether a stage is scored."""
        taken = {source for later in self.stages for source, _ in later.take.values()}
        return stage.name not in taken if stage.test is None else stage.test


def find(asked: str) -> Experiment:
    """The experiment that `lipbench run` means; an ordinary recipe is one of a single stage.

    Args:
        asked: File, folder with a stages.yaml, or the name of an experiment or of a recipe.

    Raises:
        UsageError: There is none, or it is not well-formed.
    """
    path = Path(asked)
    if path.is_dir():
        if not (path / _FILE).is_file():
            raise UsageError(f"{path} is a folder without {_FILE}; expected an experiment: that file, or a YAML file")
        return read(path / _FILE)
    known = {own.stem: own for own in discovery.experiments()}
    name = asked.removeprefix("experiments/").removeprefix("stages/").removesuffix(".yaml")
    if not path.is_file():
        if name not in known and "/" not in name:
            recipes = {recipe_files.name(own).removeprefix("papers/") for own in discovery.recipes()}
            if name not in recipes:
                raise discovery.unknown("experiment or recipe", asked, {*known, *recipes})
        path = known[name] if name in known else recipe_files.find(asked)
    content = recipe_files.parsed(path)[1]
    if isinstance(content, dict) and "stages" in content:
        return read(path)
    recipe_files.read(path)
    return Experiment(path.stem, (Stage(path.stem, (path,)),))


def read(path: Path) -> Experiment:
    """An experiment from its file.

    Args:
        path: YAML; recipes that it names by a path may lie beside it.

    Raises:
        UsageError: It is not well-formed, or names a recipe that is not there; the message says in which line.
    """
    root, content = recipe_files.parsed(path)
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path} is no experiment; expected a mapping with stages:")
    lines = {keys: key for keys, key, _ in recipe_files.walk(root, path)}

    def fault(keys: tuple[str, ...], what: str) -> UsageError:
        return recipe_files.fault(path, lines[keys], what)

    for key in content:
        if key not in _TOP:
            raise fault((key,), str(discovery.unknown("key", str(key), _TOP)))
    stages = content["stages"]
    if not isinstance(stages, dict) or not stages:
        raise fault(("stages",), "stages must be a mapping of names to configurations")
    found: list[Stage] = []
    for name, given in stages.items():
        here = ("stages", str(name))
        if not isinstance(given, dict):
            raise fault(here, f"the stage {name} must be a mapping with config:, found {given!r}")
        if not str(name).replace("_", "").replace("-", "").isalnum():
            raise fault(here, f"the stage {name!r} names a folder; expected letters, digits, - and _")
        for key in given:
            if key not in _STAGE:
                raise fault((*here, str(key)), str(discovery.unknown("key of a stage", str(key), _STAGE)))
        configs = given.get("config", [])
        try:
            files = tuple(_file(str(own), path.parent) for own in (configs if isinstance(configs, list) else [configs]))
            take = _take(given.get("take", {}), [stage.name for stage in found])
        except ValueError as error:
            at = "take" if "take" in given and "config" not in str(error) else "config"
            raise fault((*here, at), str(error)) from None
        own = {key: given[key] for key in _OWN if key in given}
        found.append(Stage(str(name), files, own, take, given.get("test")))
        if not {"model", "data"} <= found[-1].stated().keys():
            raise fault(here, f"the stage {name} states no model and data; name a recipe: config: NAME")
    prepare = content.get("prepare", {})
    if not isinstance(prepare, dict) or (prepare and "data" not in prepare):
        raise fault(("prepare",), "prepare must be a mapping with data:, and the options of `lipbench prepare`")
    for key in prepare:
        if key not in _prepare_options():
            raise fault(
                ("prepare", str(key)), str(discovery.unknown("option of prepare", str(key), _prepare_options()))
            )
    return Experiment(path.parent.name if path.name == _FILE else path.stem, tuple(found), prepare)


def _file(config: str, folder: Path) -> Path:
    """A recipe by its path from the experiment's folder, or by its name."""
    beside = folder / config
    return beside if beside.is_file() else recipe_files.find(config)


def _take(given: object, earlier: list[str]) -> dict[str, tuple[str, str]]:
    """What a stage takes: option -> (stage, path in its run folder).

    Raises:
        ValueError: It is no mapping of options to earlier stages.
    """
    if not isinstance(given, dict):
        raise ValueError(f"take must be a mapping such as {{model.expert: STAGE}}, found {given!r}")
    found = {}
    for option, source in given.items():
        stage, _, file = str(source).partition("/")
        if "." not in str(option):
            raise ValueError(f"take: {option!r} is no option; expected one such as model.expert")
        if stage not in earlier:
            raise discovery.unknown("earlier stage", stage, earlier)
        found[str(option)] = stage, file or (_CHECKPOINT if str(option).endswith(".init_from") else OBSERVER)
    return found


def _prepare_options() -> list[str]:
    """The options of `lipbench prepare`."""
    from lipbench.commands import prepare

    return list(inspect.signature(prepare.run).parameters)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two configurations, of which the second wins where both state something."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
