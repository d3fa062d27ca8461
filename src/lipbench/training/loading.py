"""A model from its checkpoint: the file knows its class and arguments, and may name none that is not at hand."""

import importlib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, TypeVar

from lipbench import discovery
from lipbench.files import sha256
from lipbench.training import checkpoints
from lipbench.training.base import BenchModule
from lipbench.training.generative import GenerativeModel

_ENTRY_POINTS: Final = "lipbench.models"

Model = TypeVar("Model", bound=BenchModule)


def may_be_imported(class_path: str) -> bool:
    """Whether a file may name this class: a model of lipbench, or one that an installed package registers.

    Args:
        class_path: Such as "lipbench.models.paralip.ParaLip".
    """
    parts = class_path.split(".")
    if len(parts) > 3 and parts[:2] == ["lipbench", "models"]:
        return parts[2] in discovery.files("model")
    installed = {entry.value.replace(":", ".") for entry in entry_points(group=_ENTRY_POINTS)}
    return class_path in installed


def load(path: Path, kind: type[Model]) -> Model:
    """The model that a checkpoint holds, on the CPU, in eval mode.

    Args:
        path: A .ckpt file written by `lipbench fit`. Only tensors and plain values are read from it.
        kind: What the model must be, such as `GenerativeModel`; its class must be built in or installed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a checkpoint of lipbench, damaged, or of a model of another kind.
    """
    content = checkpoints.read(path)
    held = content["lipbench"]["class"]
    if not may_be_imported(held):
        raise ValueError(f"{path} holds {held}, which is no model of lipbench ({', '.join(discovery.files('model'))})")
    module, _, name = held.rpartition(".")
    own = getattr(importlib.import_module(module), name, None)
    if not isinstance(own, type) or not issubclass(own, kind) or own.__module__ != module:
        wanted = "which generates nothing" if kind is GenerativeModel else f"which is no {kind.__name__}"
        raise ValueError(f"{path} holds {name}, {wanted}")
    arguments = checkpoints.arguments(content, path)
    checkpoints.check_fits(path, content, own, arguments)
    try:
        model = own(**arguments)
        model.on_load_checkpoint(content)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error
    model.load_state_dict(content["state_dict"])
    return model.eval()


def load_frozen(path: str | Path, kind: type[Model], what: str) -> tuple[Model, str]:
    """A model of an earlier stage that another one learns from or builds on, without gradients, and its hash.

    Example, in the `setup` of a model: `self.keep_frozen("generator", *load_frozen(self.generator, ParaLip, "..."))`.

    Args:
        path: Its checkpoint; may begin with "~".
        kind: See `load`.
        what: What is looked for, for the message where it is not there: "generator at {path}; give ...".

    Raises:
        FileNotFoundError: No such file; the message is `what` with the path in it.
        ValueError: See `load`.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no {what.format(path=path)}")
    return load(path, kind).requires_grad_(False), sha256(path)
