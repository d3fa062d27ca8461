"""Published weights files in lipbench's own format: safetensors with a card that says where they come from."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lipbench import discovery
from lipbench.errors import UsageError
from lipbench.files import sha256
from lipbench.media import text
from lipbench.nets import avhubert, conformer, lipnet, mvm, syncnet, vocoder
from lipbench.pretrained import weights
from lipbench.pretrained.conformer import TALKLIP_SYMBOLS, VIEWS, load_conformer
from lipbench.pretrained.hifigan import load_hifigan
from lipbench.pretrained.networks import load_avhubert, load_mvm, load_syncnet
from lipbench.pretrained.published import KNOWN
from lipbench.types import View

CONVERTED: Final = ("avhubert", "conformer", "conformer-talklip", "hifigan", "lipnet", "mvm", "syncnet")
"""Published files that have such a form; all others are used as they are."""
_VOCABULARIES: Final = {
    "avhubert": "dict.wrd.txt",
    "conformer": "unigram5000_units.txt",
    "mvm": "500WordsSortedList.txt",  # of mpc001/Lipreading_using_Temporal_Convolutional_Networks: LRW's folders
}
"""Files that do not say which units of text they write -> what the list of units is called where it is published."""
_FAIRSEQ: Final = ("<s>", "<pad>", "</s>", "<unk>")  # the first symbols of every dictionary


def convert(name: str, source: Path, out: Path, vocabulary: Path | None = None) -> weights.Card:
    """Read a published file, and write it in half precision with a card. Nothing in the file is executed.

    Args:
        name: One of `CONVERTED`.
        source: The published file; of hifigan, with its config.json in the same folder.
        out: The file to write, ends in ".safetensors".
        vocabulary: Of avhubert, conformer and mvm, and of no other: the list of their units of text, such as
            dict.wrd.txt, or of LRW's words.

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
    units = _units(name, vocabulary)
    known = KNOWN[name]
    net: avhubert.AVHubert | conformer.Conformer | lipnet.LipNet | mvm.MVM | syncnet.SyncNet | vocoder.HifiGAN
    symbols: tuple[str, ...] = ()
    view: View | None
    if name == "avhubert":
        net, symbols = load_avhubert(source), (*_FAIRSEQ, *units)
        view = net.view
        _check_symbols(source, vocabulary, symbols, f"{len(_FAIRSEQ)} that fairseq adds", net.arguments["vocabulary"])
    elif name == "conformer":
        net, symbols, view = load_conformer(source, "auto_avsr"), ("<blank>", *units, "<eos>"), VIEWS["auto_avsr"]
        _check_symbols(source, vocabulary, symbols, "2 that Auto-AVSR adds", net.arguments["outputs"])
    elif name == "conformer-talklip":
        net, symbols, view = load_conformer(source, "talklip"), TALKLIP_SYMBOLS, VIEWS["talklip"]
        if net.arguments["outputs"] != len(symbols):
            raise ValueError(
                f"{source.name} has {net.arguments['outputs']} outputs; TalkLip's reader writes {len(symbols)} symbols"
            )
    elif name == "hifigan":
        net, view = load_hifigan(source), None
    elif name == "lipnet":
        net = lipnet.from_published(weights.read_published(source))
        view, symbols = View("mouth", 64, 128), text.SYMBOLS
    elif name == "mvm":
        net, symbols = load_mvm(source)[0], units
        view, outputs = net.view, net.arguments["outputs"]
        if len(symbols) != outputs:
            raise ValueError(f"{vocabulary} holds {len(symbols)} words, and {source.name} has {outputs} outputs")
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


def _units(name: str, vocabulary: Path | None) -> tuple[str, ...]:
    """Units of text of a published file that needs a list of them; none for others.

    Raises:
        UsageError: The list is missing or given in vain.
        FileNotFoundError: There is no such list.
        ValueError: It is something else.
    """
    wanted = _VOCABULARIES.get(name)
    if wanted is None and vocabulary is not None:
        *first, last = _VOCABULARIES
        raise UsageError(f"--vocabulary belongs to {', '.join(first)} and {last}, not to {name}")
    read, line = (read_words, "a word") if name == "mvm" else (read_units, "a unit and a number")
    if wanted is not None and vocabulary is None:
        raise UsageError(
            f"{name} needs --vocabulary {wanted}: its weights do not say which units of text they write. Give the list "
            f"that was used in its training, {line} a line"
        )
    return () if vocabulary is None else read(vocabulary)


def _check_symbols(source: Path, vocabulary: Path | None, symbols: Sequence[str], added: str, outputs: int) -> None:
    """Refuse a list of units that is not that of a network.

    Raises:
        ValueError: The numbers differ, or a symbol stands twice.
    """
    twice = sorted(symbol for symbol, count in Counter(symbols).items() if count > 1)
    if twice:
        raise ValueError(f"{vocabulary} is no list of units: {twice[0]!r} stands twice, with the {added}")
    if len(symbols) != outputs:
        raise ValueError(
            f"{vocabulary} does not belong to {source.name}: it has {len(symbols)} symbols with the {added}, and the "
            f"network writes {outputs}"
        )


def read_units(path: Path) -> tuple[str, ...]:
    """Units of text in their order, as fairseq and ESPnet list them: a unit, a space and a number a line.

    Args:
        path: A text file; the numbers do not count.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file.
    """
    lines = _text(path, "units").removesuffix("\n").split("\n")  # a unit may hold other line separators
    units = []
    for number, line in enumerate(lines, 1):
        unit, _, count = line.rstrip().rpartition(" ")
        if not unit or not count.isdecimal():
            raise ValueError(f"{path}, line {number}: found {line[:40]!r}, expected a unit, a space and a number")
        units.append(unit)
    return tuple(units)


def read_words(path: Path) -> tuple[str, ...]:
    """Words in lower case and in alphabetical order, in which MVM takes the names of LRW's folders.

    Args:
        path: A text file with a word a line.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file.
    """
    lines = [line.strip().lower() for line in _text(path, "words").splitlines() if line.strip()]
    odd = next((line for line in lines if len(line.split()) > 1 or lines.count(line) > 1), None)
    if odd is not None:
        raise ValueError(f"{path} is no list of words: the line {odd[:40]!r} stands twice, or holds a space")
    return tuple(sorted(lines))


def _text(path: Path, what: str) -> str:
    """A list of units or words as it stands in its file."""
    if not path.is_file():
        raise FileNotFoundError(f"no list of {what} at {path}")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no list of {what}: it is no text in UTF-8") from None
