"""After a training of a network that others use: its weights file, and the option that takes it."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from lipbench import discovery
from lipbench.console import corpus_option
from lipbench.pretrained import bundled
from lipbench.training import checkpoints, loading
from lipbench.training.base import BenchModule


def trained_on(protocol: str, batches: int, batch_size: int, seed: int | None) -> str:
    """What a weights file says of its training."""
    return f"{protocol}, {batches} batches of {batch_size} clips, seed {seed}"


def takers(model: str) -> list[tuple[str, str]]:
    """Models that learn from the weights file of another one, each with the argument that takes the file.

    Args:
        model: Short name of the other one, which a model names in its class attribute `takes`.
    """
    found = []
    for name, path in discovery.files("model").items():
        takes = discovery.constant(path, "takes")
        if isinstance(takes, dict):
            found += [(name, argument) for argument, taken in takes.items() if taken == model]
    return found


def advice(model: str, data: str, path: Path) -> str:
    """The sentence about a weights file that was written.

    Args:
        model: Short name, or class path, of the model whose training wrote it.
        data: That of the corpus.
        path: The file.
    """
    file = shlex.quote(str(path))
    if observer := bundled.OBSERVER.get(model):
        return f"judge with it: --evaluator.files.{observer} {file}"
    lines = [f"lipbench fit --model {name} --data {data} --model.{argument} {file}" for name, argument in takers(model)]
    return f"let a model learn from it: {'; or '.join(lines)}" if lines else f"its weights: {file}"


def write_observer(checkpoint: Path, model: str, path: Path) -> None:
    """Write the weights file of a finished training whose process was killed before it did, if its model has one.

    Args:
        checkpoint: The last one, in its run folder.
        model: Class path.
        path: The file to write.
    """
    made = loading.load(checkpoint, BenchModule, model)  # type: ignore[type-abstract]
    save: Callable[[Path, str], object] | None = getattr(made, "save_observer", None)
    if save is None:
        return
    content = checkpoints.read(checkpoint)
    config: dict[str, Any] = yaml.safe_load((checkpoint.parents[1] / "config.yaml").read_text("utf-8"))
    data = corpus_option.current(config) or config["data"]  # an older spelling, or the present one
    meta, protocol = content["lipbench"], content[checkpoints.DATA]["protocol"]
    save(path, trained_on(protocol, meta["batches"], data["batch_size"], meta["seed"]))
