"""A model from its checkpoint: the file knows its class and arguments, and may name none that is not at hand."""

import importlib
from pathlib import Path
from typing import TypeVar

from lipbench import discovery
from lipbench.files import sha256
from lipbench.training import checkpoints
from lipbench.training.base import BenchModule
from lipbench.training.generative import GenerativeModel

Model = TypeVar("Model", bound=BenchModule)


def load(path: Path, kind: type[Model], model: str | None = None) -> Model:
    """The model that a checkpoint holds, with its averaged weights if it has such, on the CPU, in eval mode.

    Args:
        path: A .ckpt file written by `lipbench fit`. Only tensors and plain values are read from it.
        kind: What the model must be, such as `GenerativeModel`.
        model: Short name or class path of the model. A file may name a model that is built in or installed as an entry
            point; any other is imported only because it is asked for here.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a checkpoint of lipbench, damaged, of a model of another kind, or not of the model that was
            asked for.
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
    if not issubclass(own, kind):
        wanted = "which generates nothing" if kind is GenerativeModel else f"which is no {kind.__name__}"
        raise ValueError(f"{path} holds {own.__name__}, {wanted}")
    arguments = checkpoints.arguments(content, path)
    checkpoints.check_fits(path, content, own, arguments)
    try:
        made = own(**arguments)
        made.on_load_checkpoint(content)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error
    made.load_state_dict(content["state_dict"])
    return made.eval()


def load_frozen(path: str | Path, kind: type[Model], what: str) -> tuple[Model, str]:
    """A model of an earlier stage that another one learns from or builds on, without gradients, and its hash.

    Example, in the `setup` of a model:
    `self.register_frozen("generator", *load_frozen(self.generator, ParaLip, "..."))`.

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
