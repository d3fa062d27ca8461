"""Files that hold a trained observer: half-precision weights, and a card that says what they are.

The format is safetensors, which holds tensors and text and can run nothing. The card lies in its header, so that
reading it does not read the weights. A network is named by its class in `lipbench.nets`; nothing else can be named.
"""

import hashlib
import importlib
import json
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn

from lipbench import __version__
from lipbench.types import View

FORMAT: Final = 1
_KEY: Final = "lipbench"  # under which the card lies in the header

# What torch's reader raises for files that are torn, of another kind, or hold more than tensors.
_UNREADABLE: Final = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError),
    *(TypeError, AssertionError),
)

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Card:
    """What a weights file says of itself.

    Args:
        architecture: File and class below `lipbench.nets`, such as "lipnet.LipNet".
        arguments: Of the class, plain values.
        view: What the network looks at.
        trained_on: In words: corpus, protocol, how long, which seed.
        vocabulary: Symbol of every output; empty if it does not read.
        version: Of lipbench, which wrote it.
        sha256: Of the file.
    """

    architecture: str
    arguments: dict[str, Any]
    view: View
    trained_on: str
    vocabulary: tuple[str, ...]
    version: str
    sha256: str


def save(
    path: str | Path,
    net: nn.Module,
    *,
    arguments: Mapping[str, Any],
    view: View,
    trained_on: str,
    vocabulary: Sequence[str] = (),
) -> Card:
    """Write a network to a file: parameters in half precision, buffers (BatchNorm statistics) as they are.

    The file is written aside and renamed, so that it is whole or absent.

    Args:
        path: Ends in ".safetensors".
        net: Of a class in `lipbench.nets`.
        arguments: With which the class made it.
        view: See `Card`; so are the others.
        trained_on: See `Card`.
        vocabulary: See `Card`.

    Returns:
        The card, with the file's hash.

    Raises:
        ValueError: The class is not in `lipbench.nets`, the arguments are not plain values, or a weight is not finite
            in half precision.
    """
    from safetensors.torch import save_file

    path = Path(path)
    module, name = type(net).__module__, type(net).__qualname__
    if module.rpartition(".")[0] != "lipbench.nets":
        raise ValueError(f"{module}.{name} cannot be loaded again: only networks of lipbench.nets have weights files")
    card = {
        "format": FORMAT,
        "architecture": f"{module.rpartition('.')[2]}.{name}",
        "arguments": dict(arguments),
        "view": asdict(view),
        "trained_on": trained_on,
        "vocabulary": list(vocabulary),
        "version": __version__,
    }
    try:
        text = json.dumps(card, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the arguments of {name} must be numbers, texts and lists: {error}") from None
    learned = {key for key, _ in net.named_parameters()}
    tensors = {}
    for key, value in net.state_dict().items():
        stored = value.detach().cpu().to(torch.float16 if key in learned else value.dtype).contiguous()
        if not bool(stored.isfinite().all()):
            raise ValueError(f"{key} of {name} is not finite in half precision; such weights are not worth keeping")
        tensors[key] = stored
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # with the permissions of any new file, unlike tempfile's
    try:
        save_file(tensors, aside, {_KEY: text})
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return read_card(path)


def located(path: str | Path, what: str) -> tuple[Path, str]:
    """A file that the user named, and its SHA-256.

    Args:
        path: May begin with "~".
        what: What is looked for, for the message: "SyncNet weights at {path}; give ...".

    Raises:
        FileNotFoundError: No such file; the message is `what` with the path in it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no {what.format(path=path)}")
    with path.open("rb") as stream:
        return path, hashlib.file_digest(stream, "sha256").hexdigest()


def read_published(path: Path) -> dict[str, Tensor]:
    """A state dict that somebody else's code wrote. Only tensors and plain containers are read, nothing is executed.

    Raises:
        ValueError: It is torn, of another kind, or holds more than tensors.
    """
    try:
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ValueError(
            # Not torch's own words, which advise to read the file with its code run.
            f"{path} is no plain dictionary of tensors, and nothing in it was run ({type(error).__name__})"
        ) from error
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise ValueError(f"{path} holds {type(stored).__name__}; expected a plain dictionary of tensors")
    return stored


def fill_published(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into a network of exactly their names and shapes; BatchNorm's counters may be there or not.

    Args:
        network: Of this project, in which they belong.
        tensors: From `read_published`, under the network's own names.
        path: Where they were read, for the message.

    Raises:
        ValueError: Names or shapes differ; the message says which.
    """
    own = {key: value for key, value in network.state_dict().items() if value.is_floating_point()}
    given = {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
    absent, odd = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    other = [key for key in own if key in given and given[key].shape != own[key].shape]
    if absent or odd or other:
        said = [f"{len(absent)} tensors are missing, such as {absent[0]}"] if absent else []
        said += [f"{len(odd)} belong to no layer, such as {odd[0]}"] if odd else []
        said += [f"{k} has shape {tuple(given[k].shape)}, expected {tuple(own[k].shape)}" for k in other[:2]]
        raise ValueError(f"{path.name} does not fit {type(network).__name__}: {'; '.join(said)}")
    network.load_state_dict({key: value.float() for key, value in given.items()}, strict=False)


def read_card(path: str | Path) -> Card:
    """Read what a weights file says of itself.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no safetensors file, not one of lipbench, a newer one, or its card is torn.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or it is torn ({error})") from None
    if _KEY not in header:
        raise ValueError(
            f"{path} was not written by lipbench: its header has no entry {_KEY!r} that says which network it holds"
        )
    try:
        card = json.loads(header[_KEY])
        if card["format"] > FORMAT:
            raise ValueError(
                f"{path} was written by lipbench {card['version']} (format {card['format']}); this is {__version__} "
                f"(format {FORMAT}): upgrade lipbench"
            )
        return Card(
            architecture=str(card["architecture"]),
            arguments=dict(card["arguments"]),
            view=View(**card["view"]),
            trained_on=str(card["trained_on"]),
            vocabulary=tuple(map(str, card["vocabulary"])),
            version=str(card["version"]),
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"the card of {path} is not in lipbench's form ({type(error).__name__}: {error})") from None


def load(path: str | Path, kind: type[Net]) -> tuple[Net, Card]:
    """Build the network of a weights file, in float32 on the CPU, in eval mode, without gradients.

    Args:
        path: The file.
        kind: The class that it must hold; `torch.nn.Module` takes any.

    Raises:
        FileNotFoundError: No such file.
        ValueError: As `read_card`; or it holds another kind of network, or its tensors do not fit the network that the
            card describes.
    """
    from safetensors.torch import load_file

    path = Path(path)
    card = read_card(path)
    own = _class_of(card.architecture, path)
    if not issubclass(own, kind):
        raise ValueError(f"{path} holds a {card.architecture}, where a {kind.__name__} is wanted")
    try:
        net = own(**card.arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {card.architecture} cannot be made with {card.arguments} ({error})") from None
    _fill(net, load_file(path), path)
    return net.requires_grad_(False).eval(), card


def _class_of(architecture: str, path: Path) -> type[nn.Module]:
    """The class that a card names: one that a file of `lipbench.nets` defines, never one that it imports."""
    file, _, name = architecture.partition(".")
    known = file.isidentifier() and (Path(__file__).parent / f"{file}.py").is_file()
    module = importlib.import_module(f"lipbench.nets.{file}") if known else None
    found = getattr(module, name, None) if name.isidentifier() else None
    if module is None or not isinstance(found, type) or found.__module__ != module.__name__:
        raise ValueError(f"{path} holds a network {architecture!r}, which this version of lipbench does not have")
    if not issubclass(found, nn.Module):
        raise ValueError(f"{path} names {architecture!r}, which is no network")
    return found


def _fill(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put tensors into a network; every name, shape and value must be right."""
    own = net.state_dict()
    lacking, strange = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if lacking or strange:
        raise ValueError(
            f"{path} does not fit its own card: {len(lacking)} tensors are absent, such as {lacking[:3]}, and "
            f"{len(strange)} are unknown, such as {strange[:3]}"
        )
    for key, value in tensors.items():
        if value.shape != own[key].shape:
            found, wanted = tuple(value.shape), tuple(own[key].shape)
            raise ValueError(f"{path} does not fit its own card: {key} has shape {found}, expected {wanted}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"{path} is damaged: {key} holds values that are not finite")
    net.load_state_dict(tensors)
