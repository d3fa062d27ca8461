"""Published weights files in lipbench's own format: safetensors with a card that says where they come from."""

from pathlib import Path
from typing import Final

from lipbench import discovery
from lipbench.errors import UsageError
from lipbench.files import sha256
from lipbench.media import text
from lipbench.nets import lipnet, syncnet
from lipbench.pretrained import weights
from lipbench.pretrained.networks import load_syncnet
from lipbench.pretrained.published import KNOWN
from lipbench.types import View

CONVERTED: Final = ("lipnet", "syncnet")
"""Published files that have such a form; all others are used as they are."""


def convert(name: str, source: Path, out: Path) -> weights.Card:
    """Read a published file, and write it in half precision with a card. Nothing in the file is executed.

    Args:
        name: One of `CONVERTED`.
        source: The published file.
        out: The file to write, ends in ".safetensors".

    Raises:
        UsageError: The name is not one of those that are converted, or `out` has another suffix or is there already.
        FileNotFoundError: There is no such file.
        ValueError: The file holds something else.
    """
    if name in KNOWN and name not in CONVERTED:
        raise UsageError(f"{name} is used as it is published; converted are {' and '.join(CONVERTED)}")
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
    known = KNOWN[name]
    net: lipnet.LipNet | syncnet.SyncNet
    if name == "lipnet":
        net = lipnet.from_published(weights.read_published(source))
        view, vocabulary = View("mouth", 64, 128), text.SYMBOLS
    else:
        net, _ = load_syncnet(source)
        view, vocabulary = net.view, ()
    return weights.save(
        out,
        net,
        arguments=net.arguments,
        view=view,
        trained_on=(
            f"published by {known.origin}; data: {known.data}. License of its code: {known.code}, of its weights: "
            f"{known.weights}. Converted from {source.name}, sha256 {sha256(source)}"
        ),
        vocabulary=vocabulary,
    )
