"""A model from its checkpoint: the file knows its class and arguments."""

import importlib
from pathlib import Path

import torch

from lipbench.commands import _names
from lipbench.models._base import GenerativeModel


def generative(path: Path) -> GenerativeModel:
    """The model that a checkpoint holds, on the CPU, ready to generate.

    Args:
        path: A .ckpt file written by `lipbench fit`. Only tensors and plain values are read from it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a checkpoint of lipbench, or not of a model that generates.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; `lipbench fit` writes them below runs/")
    if path.suffix == ".safetensors":
        raise ValueError(f"{path} holds weights of one network, such as a judge; expected a .ckpt file that generates")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a file that is no checkpoint
        raise ValueError(
            f"{path} is no checkpoint that can be read ({type(error).__name__}); expected a .ckpt file that `lipbench "
            "fit` wrote"
        ) from error
    meta = content.get("lipbench") if isinstance(content, dict) else None
    if meta is None:
        raise ValueError(f"{path} was not written by lipbench: it has no entry 'lipbench'")
    module, _, name = str(meta["class"]).rpartition(".")
    if not module.startswith("lipbench.models."):
        raise ValueError(
            f"{path} holds {meta['class']}, which is no model of lipbench ({', '.join(_names.files('model'))})"
        )
    lacking = {"state_dict", "hyper_parameters", "pytorch-lightning_version"} - set(content)
    if lacking:
        raise ValueError(f"{path} is not whole as `lipbench fit` writes it: it has no entry {sorted(lacking)[0]!r}")
    own = getattr(importlib.import_module(module), name)
    if not issubclass(own, GenerativeModel):
        raise ValueError(f"{path} holds {name}, which generates nothing")
    model: GenerativeModel = own.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    return model.eval()
