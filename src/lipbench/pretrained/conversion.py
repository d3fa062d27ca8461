"""Published weights files in lipbench's own format: safetensors with a card that says where they come from."""

from pathlib import Path
from typing import Final

from lipbench import discovery
from lipbench.errors import UsageError
from lipbench.files import sha256
from lipbench.media import text
from lipbench.nets import avhubert, lipnet, syncnet
from lipbench.pretrained import weights
from lipbench.pretrained.networks import load_avhubert, load_syncnet
from lipbench.pretrained.published import KNOWN
from lipbench.types import View

CONVERTED: Final = ("avhubert", "lipnet", "syncnet")
"""Published files that have such a form; all others are used as they are."""
_FAIRSEQ: Final = ("<s>", "<pad>", "</s>", "<unk>")  # the first symbols of every dictionary


def convert(name: str, source: Path, out: Path, vocabulary: Path | None = None) -> weights.Card:
    """Read a published file, and write it in half precision with a card. Nothing in the file is executed.

    Args:
        name: One of `CONVERTED`.
        source: The published file.
        out: The file to write, ends in ".safetensors".
        vocabulary: Of avhubert, and of no other: the dictionary of its fine-tuning, such as dict.wrd.txt.

    Raises:
        UsageError: The name is not one of those that are converted, `out` has another suffix or is there already, or a
            vocabulary is missing or given in vain.
        FileNotFoundError: There is no such file.
        ValueError: The file holds something else.
    """
    if name in KNOWN and name not in CONVERTED:
        listed = f"{', '.join(CONVERTED[:-1])} and {CONVERTED[-1]}"
        raise UsageError(f"{name} is used as it is published; converted are {listed}")
    if name not in CONVERTED:
        raise discovery.unknown("network", name, CONVERTED)
    if out.suffix != ".safetensors":
        raise UsageError(f"{out} must end in .safetensors")
    if out.exists():
        raise UsageError(f"{out} is there already; delete it, or choose another name")
    if not source.is_file():
        raise FileNotFoundError(f"no file at {source}")
    if source.suffix == ".safetensors":
        raise UsageError(f"{source} is no published file of {name}: those are read by torch")
    if name != "avhubert" and vocabulary is not None:
        raise UsageError(f"--vocabulary belongs to avhubert, not to {name}")
    known = KNOWN[name]
    net: avhubert.AVHubert | lipnet.LipNet | syncnet.SyncNet
    symbols: tuple[str, ...] = ()
    if name == "avhubert":
        if vocabulary is None:
            raise UsageError(
                "avhubert needs --vocabulary dict.wrd.txt: its weights do not say which units of text they write. Give "
                "the dictionary of its fine-tuning, a unit and a number a line, as lies beside its labels"
            )
        symbols = fairseq_dictionary(vocabulary)
        net = load_avhubert(source)
        view = net.view
        if len(symbols) != net.arguments["vocabulary"]:
            raise ValueError(
                f"{vocabulary} does not belong to {source.name}: it has {len(symbols)} symbols with the "
                f"{len(_FAIRSEQ)} that fairseq adds, and the network writes {net.arguments['vocabulary']}"
            )
    elif name == "lipnet":
        net = lipnet.from_published(weights.read_published(source))
        view, symbols = View("mouth", 64, 128), text.SYMBOLS
    else:
        net, _ = load_syncnet(source)
        view = net.view
    return weights.save(
        out,
        net,
        arguments=net.arguments,
        view=view,
        trained_on=(
            f"published by {known.origin}; data: {known.data}. License of its code: {known.code}, of its weights: "
            f"{known.weights}. Converted from {source.name}, sha256 {sha256(source)}"
        ),
        vocabulary=symbols,
    )


def fairseq_dictionary(path: Path) -> tuple[str, ...]:
    """Symbols of a dictionary of fairseq in the order of its ids, with the four that every dictionary begins with.

    Args:
        path: A text file of a symbol, a space and a number a line.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, or names a symbol twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no dictionary at {path}")
    try:
        lines = path.read_text("utf-8").removesuffix("\n").split("\n")  # a symbol may hold other line separators
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no dictionary of fairseq: it is no text in UTF-8") from None
    symbols = list(_FAIRSEQ)
    for number, line in enumerate(lines, 1):
        symbol, _, count = line.rstrip().rpartition(" ")
        if not symbol or not count.isdecimal():
            raise ValueError(f"{path}, line {number}: found {line[:40]!r}, expected a symbol, a space and a number")
        symbols.append(symbol)
    twice = sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})
    if twice:
        raise ValueError(f"{path} is no dictionary of fairseq: {twice[0]!r} stands twice")
    return tuple(symbols)
