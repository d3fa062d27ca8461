"""Files that hold a trained observer: half-precision weights, and a card that says what they are.

The format is safetensors, which holds tensors and text and can run nothing. The card lies in its header, so that
reading it does not read the weights. A network is named by its class in `lipbench.nets`; nothing else can be named.
"""

import importlib
import json
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import torch
from torch import Tensor, nn

from lipbench import __version__
from lipbench.errors import Unavailable
from lipbench.files import sha256, written_whole
from lipbench.media import geometry
from lipbench.types import View

FORMAT: Final = 1
_KEY: Final = "lipbench"  # under which the card lies in the header
_MOST: Final = 8 << 30  # bytes of tensors in a published file; the largest that is known, AV-HuBERT, has 2 GB

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Card:
    """What a weights file says of itself.

    Args:
        architecture: File and class below `lipbench.nets`, such as "lipnet.LipNet".
        arguments: Of the class, plain values.
        view: What the network looks at; None if it sees nothing, as a vocoder.
        trained_on: In words: corpus, protocol, how long, which seed.
        vocabulary: Symbol of every output; empty if it does not read.
        version: Of lipbench, which wrote it.
        sha256: Of the file.
    """

    architecture: str
    arguments: dict[str, Any]
    view: View | None
    trained_on: str
    vocabulary: tuple[str, ...]
    version: str
    sha256: str


def save(
    path: str | Path,
    net: nn.Module,
    *,
    arguments: Mapping[str, Any],
    view: View | None,
    trained_on: str,
    vocabulary: Sequence[str] = (),
) -> Card:
    """Write a network to a file: parameters in half precision, buffers (BatchNorm statistics) as they are.

    The file is whole or absent (`written_whole`).

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
        RuntimeError: The file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    module, name = type(net).__module__, type(net).__qualname__
    if module.rpartition(".")[0] != "lipbench.nets":
        raise ValueError(f"{module}.{name} cannot be loaded again: only networks of lipbench.nets have weights files")
    card = {
        "format": FORMAT,
        "architecture": f"{module.rpartition('.')[2]}.{name}",
        "arguments": dict(arguments),
        "view": None if view is None else asdict(view),
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
    with written_whole(path) as aside:
        try:
            save_file(tensors, aside, {_KEY: text})
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from error
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
    return path, sha256(path)


class _LeftOut:
    """Stands for an object of any class in somebody else's file: it keeps nothing and does nothing."""

    def __new__(cls, *args: object, **options: object) -> "_LeftOut":
        """Whatever the object would have been made of."""
        return super().__new__(cls)

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Whatever it would have held."""


def read_published(path: Path, entry: str | None = None) -> dict[str, Tensor]:
    """A state dict that somebody else's code wrote, with PyTorch or as safetensors. Nothing in it is executed.

    Only tensors and plain containers are read.

    Args:
        path: The file.
        entry: Under which the state dict lies in a training checkpoint, such as fairseq's "model". What else such a
            file holds is left out, objects of any class included, of which none is made. None expects the state dict
            alone.

    Raises:
        ValueError: It is empty, torn, of another kind, holds more than tensors, or values that are not finite.
    """
    from safetensors.torch import load_file

    if kind_of(path) == "zip":  # older files are plain pickles
        check_archive(path)
    what = "a plain dictionary of tensors" if entry is None else f"a checkpoint with tensors in its entry {entry!r}"
    try:
        if path.suffix == ".safetensors":
            stored: Any = load_file(path)
        else:
            classes = [] if entry is None else torch.serialization.get_unsafe_globals_in_checkpoint(path)
            with torch.serialization.safe_globals([(_LeftOut, name) for name in classes]):
                stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises a dozen kinds for files that are torn or of another kind
        raise ValueError(
            # Not torch's own words, which advise to read the file with its code run.
            f"{path} is no {what.removeprefix('a ')}, and nothing in it was run ({type(error).__name__})"
        ) from error
    if entry is not None:
        if not isinstance(stored, dict) or not isinstance(stored.get(entry), dict):
            found = ", ".join(map(str, list(stored)[:6])) if isinstance(stored, dict) else type(stored).__name__
            raise ValueError(f"{path} holds {found}; expected {what}")
        stored = dict(stored[entry])
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise ValueError(f"{path} holds {type(stored).__name__}; expected {what}")
    if not stored or not all(isinstance(key, str) for key in stored):
        raise ValueError(f"{path} holds a dictionary of {len(stored)} entries; expected tensors by their names")
    # A tensor of a few bytes may claim any shape: it is a view.
    if sum(value.numel() * value.element_size() for value in stored.values()) > _MOST:
        raise ValueError(f"{path} claims tensors of more than {_MOST >> 30} GB; no published file has so many")
    check_finite(stored, path)
    return stored


def kind_of(path: Path) -> Literal["zip", "other"]:
    """Whether a file is an archive, as torch writes it; by its first bytes.

    Raises:
        ValueError: It is empty or a web page.
    """
    with path.open("rb") as stream:
        head = stream.read(64)
    if not head:
        raise ValueError(f"{path} is empty (0 bytes): a download or a copy that broke off")
    if head.lstrip().startswith(b"<"):
        raise ValueError(f"{path} is a web page: a server sent it in place of the file. Download the file again")
    return "zip" if head.startswith(b"PK") else "other"


def check_archive(path: Path) -> None:
    """Refuse a zip archive that is no whole one of torch's; torch itself reads damaged bytes without a word.

    Raises:
        ValueError: It is cut, a byte of it has changed, or it holds something else. Compressed parts, which torch never
            writes, can be a thousand times as large as the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if not any(part.filename.endswith("/data.pkl") for part in parts):
                raise ValueError(
                    f"{path} is a zip archive of other things, such as {parts[0].filename!r}"
                    if parts
                    else f"{path} is an empty zip archive"
                )
            packed = any(part.compress_type != zipfile.ZIP_STORED or part.flag_bits & 1 for part in parts)
            if packed or sum(part.file_size for part in parts) > path.stat().st_size:
                raise ValueError(f"{path} holds compressed parts, which no file of PyTorch has")
            bad = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OverflowError, struct.error, OSError) as error:
        raise ValueError(f"{path} is cut short or damaged ({error})") from None
    if bad is not None:
        raise ValueError(f"{path} is damaged: the checksum of its part {bad!r} is wrong")


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are spoiled: a network makes nothing of them, or NaN.

    Args:
        tensors: By name; integers are always fine.
        path: Where they were read, for the message.

    Raises:
        ValueError: A tensor is no plain one, or holds a value that is not finite.
    """
    for key, value in tensors.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise ValueError(f"{path}: {key} is no plain tensor ({value.layout}, {value.device.type}, {value.dtype})")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            bad = int((~value.isfinite()).sum())
            raise ValueError(f"{path} is spoiled: {bad} of {value.numel()} values of {key} are not finite")


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
        newer = card["format"] > FORMAT
        read = Card(
            architecture=str(card["architecture"]),
            arguments=dict(card["arguments"]),
            view=_view(card["view"]),
            trained_on=str(card["trained_on"]),
            vocabulary=tuple(map(str, card["vocabulary"])),
            version=str(card["version"]),
            sha256=sha256(path),
        )
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"the card of {path} is not in lipbench's form ({type(error).__name__}: {error})") from None
    if newer:
        raise ValueError(
            f"{path} was written by lipbench {read.version} (format {card['format']}); this is {__version__} "
            f"(format {FORMAT}): upgrade lipbench"
        )
    if read.view is not None and (read.view.name not in geometry.BOXES or min(read.view.size) < 1):
        raise ValueError(f"the card of {path} is not in lipbench's form: it looks at {read.view}, which is no view")
    return read


def _view(stated: Any) -> View | None:  # noqa: ANN401 - whatever the card holds
    """The view of a card; what it lacks raises as any other entry of a card."""
    return None if stated is None else View(str(stated["name"]), int(stated["height"]), int(stated["width"]))


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
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    card = read_card(path)
    own = _class_of(card.architecture, path)
    if not issubclass(own, kind):
        raise ValueError(f"{path} holds a {card.architecture}, where a {kind.__name__} is wanted")
    try:
        with torch.device("meta"):  # shapes without memory: the card may ask for any size
            outline = own(**card.arguments)
    except Exception as error:  # the arguments are anything
        raise ValueError(
            f"{path}: {card.architecture} cannot be made with {card.arguments} ({type(error).__name__}: {error})"
        ) from None
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or it is torn ({error})") from None
    _check(outline, tensors, path)
    net = own(**card.arguments)
    net.load_state_dict(tensors)
    return net.requires_grad_(False).eval(), card


def _class_of(architecture: str, path: Path) -> type[nn.Module]:
    """The class that a card names: one that a file of `lipbench.nets` defines, never one that it imports."""
    file, _, name = architecture.partition(".")
    known = file.isidentifier() and (Path(__file__).parents[1] / "nets" / f"{file}.py").is_file()
    module = importlib.import_module(f"lipbench.nets.{file}") if known else None
    found = getattr(module, name, None) if name.isidentifier() else None
    if module is None or not isinstance(found, type) or found.__module__ != module.__name__:
        raise ValueError(f"{path} holds a network {architecture!r}, which this version of lipbench does not have")
    if not issubclass(found, nn.Module):
        raise ValueError(f"{path} names {architecture!r}, which is no network")
    return found


def _check(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Every name, shape and value must be right."""
    own = net.state_dict()
    lacking, strange = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if lacking or strange:
        raise ValueError(
            f"{path} does not fit its own card: {len(lacking)} tensors are absent, such as {lacking[:3]}, and "
            f"{len(strange)} are unknown, such as {strange[:3]}"
        )
    for key, value in tensors.items():
        if value.shape != own[key].shape or value.is_floating_point() != own[key].is_floating_point():
            found, wanted = tuple(value.shape), tuple(own[key].shape)
            raise ValueError(
                f"{path} does not fit its own card: {key} has shape {found} ({value.dtype}), expected {wanted} "
                f"({own[key].dtype})"
            )
    check_finite(tensors, path)


def digest(path: Path) -> str:
    """SHA-256 of a weights file.

    Raises:
        Unavailable: Its name ends in eight hexadecimal digits (torch hub's convention) and the hash begins otherwise.
    """
    found = sha256(path)
    named = re.search(r"-([0-9a-f]{8})$", path.stem)
    if named and not found.startswith(named[1]):
        raise Unavailable(
            f"{path.name} has SHA-256 {found[:8]}…, its name says {named[1]}…: it is damaged or another file"
        )
    return found
