"""A model from its checkpoint: the file knows its class and arguments."""

import importlib
from pathlib import Path

from lipbench import discovery
from lipbench.training import checkpoints
from lipbench.training.base import BenchModule
from lipbench.training.generative import GenerativeModel


def generative(path: Path, model: str | None = None) -> GenerativeModel:
    """The model that a checkpoint holds, on the CPU, ready to generate; see `loaded`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As `loaded`, or the model generates nothing.
    """
    made = loaded(path, model)
    if not isinstance(made, GenerativeModel):
        raise ValueError(f"{path} holds {type(made).__name__}, which generates nothing")
    return made


def loaded(path: Path, model: str | None = None) -> BenchModule:
    """The model that a checkpoint holds, with its averaged weights if it has such, on the CPU, for use.

    Args:
        path: A .ckpt file written by `lipbench fit`. Only tensors and plain values are read from it.
        model: Short name or class path of the model. A file may name a model that is built in or installed as an entry
            point; any other is imported only because it is asked for here.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a checkpoint of lipbench, damaged, or not of the model that was asked for.
    """
    content = checkpoints.read(path)
    held = content["lipbench"]["class"]
    if model is not None:
        own: object = discovery.load("model", model)
    elif discovery.known("model", held):
        own = getattr(importlib.import_module(held.rpartition(".")[0]), held.rpartition(".")[2], None)
    else:
        raise ValueError(
            f"{path} holds {held}, which is no model of lipbench or of an installed package "
            f"({', '.join(discovery.files('model'))}), and nothing is imported because a file names it; if you trust "
            f"it, give --model {held}"
        )
    if not isinstance(own, type) or not issubclass(own, BenchModule):
        raise ValueError(f"{path} holds {held}, which is no model")
    if f"{own.__module__}.{own.__qualname__}" != held:
        raise ValueError(f"{path} holds {held}, not {own.__module__}.{own.__qualname__}")
    arguments = checkpoints.arguments(content, path)
    checkpoints.check_fits(path, content, own, arguments)
    try:
        made = own(**arguments)
        made.on_load_checkpoint(content)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error
    made.load_state_dict(content["state_dict"])
    return made.eval()
