"""A model from its checkpoint: the file knows its class and arguments."""

import importlib
from pathlib import Path

from lipbench import discovery
from lipbench.training import checkpoints
from lipbench.training.generative import GenerativeModel


def may_be_imported(class_path: str) -> bool:
    """Whether a file may name this class: a model of lipbench. Plug-ins that are installed belong here, too."""
    parts = class_path.split(".")
    return len(parts) > 3 and parts[:2] == ["lipbench", "models"] and parts[2] in discovery.files("model")


def generative(path: Path) -> GenerativeModel:
    """The model that a checkpoint holds, on the CPU, ready to generate.

    Args:
        path: A .ckpt file written by `lipbench fit`. Only tensors and plain values are read from it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a checkpoint of lipbench, damaged, or not of a model that generates.
    """
    content = checkpoints.read(path)
    held = content["lipbench"]["class"]
    if not may_be_imported(held):
        raise ValueError(f"{path} holds {held}, which is no model of lipbench ({', '.join(discovery.files('model'))})")
    module, _, name = held.rpartition(".")
    own = getattr(importlib.import_module(module), name, None)
    if not isinstance(own, type) or not issubclass(own, GenerativeModel) or own.__module__ != module:
        raise ValueError(f"{path} holds {name}, which generates nothing")
    arguments = checkpoints.arguments(content, path)
    checkpoints.check_fits(path, content, own, arguments)
    try:
        model = own(**arguments)
        model.on_load_checkpoint(content)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error
    model.load_state_dict(content["state_dict"])
    return model.eval()
