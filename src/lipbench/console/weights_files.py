"""Weights files of this machine: which are there, which a name means, and whether each is what it should be."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lipbench import discovery, paths
from lipbench.errors import UsageError
from lipbench.files import sha256
from lipbench.pretrained import bundled

if TYPE_CHECKING:
    from lipbench.pretrained.published import Known

Chosen = tuple[str, Path | None, "Known | None"]
"""Name, file (None: it is absent), and what is known of it (None: a file in lipbench's format)."""

SHIPPED: Final = bundled.FOLDER
"""Folder of the files that come with lipbench."""
SUMS: Final = "SHA256SUMS"
"""Known hashes of the files of a folder, as `sha256sum` writes and checks them."""


def columns(observer: str) -> str:
    """Metric columns that use an observation, without their variants in brackets."""
    from lipbench.evaluation.bank import METRICS, observed

    names = [
        name.partition("[")[0] for name, entry in METRICS.items() if observer in (*observed(entry), entry.metric.name)
    ]
    return ", ".join(dict.fromkeys(names))


def own() -> list[Path]:
    """Files in lipbench's format: those that come with it, and those in the user's folder."""
    return [path for folder in (SHIPPED, paths.home() / "weights") for path in sorted(folder.glob("*.safetensors"))]


def short(path: Path) -> str:
    """A path as one would type it."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def present() -> list[Chosen]:
    """Every file that is there."""
    from lipbench.pretrained.published import KNOWN

    found: list[Chosen] = []
    for known in KNOWN.values():
        try:
            path = known.find(paths.home())
        except ModuleNotFoundError:  # a package that is not installed has no file
            continue
        found += [(known.name, path, known)] if path else []
    return found + [(path.stem, path, None) for path in own()]


def named(words: list[str]) -> list[Chosen]:
    """The files that names and paths mean.

    Raises:
        UsageError: A word is neither a known name nor a file.
    """
    from lipbench.pretrained.published import KNOWN

    installed = {path.stem: path for path in reversed(own())}  # what comes with lipbench wins
    found: list[Chosen] = []
    for word in words:
        path = Path(word).expanduser()
        if word in KNOWN:
            found.append((word, KNOWN[word].find(paths.home()), KNOWN[word]))
        elif word in installed:
            found.append((word, installed[word], None))
        elif path.is_file():
            known = next((known for known in KNOWN.values() if known.matches(path.name)), None)
            if known is None and path.suffix != ".safetensors":
                files = ", ".join(known.file for known in KNOWN.values())
                raise UsageError(f"{word} has the name of no published weights file that lipbench knows: {files}")
            found.append((word, path, known))
        else:
            raise discovery.unknown("name or file", word, [*KNOWN, *installed])
    return found


def checked(name: str, path: Path | None, known: "Known | None") -> str:
    """Check one file; what was found, in words.

    Raises:
        FileNotFoundError: It is absent.
        ValueError: Its hash is another one, or its content does not fit.
        RuntimeError: A package that reads it is missing, or its content does not fit.
    """
    from lipbench.pretrained import weights
    from lipbench.pretrained.published import KNOWN

    if path is None:
        place = KNOWN[name].place(paths.home())
        raise FileNotFoundError(f"absent, looked for at {short(place)}. Type: lipbench weights fetch {name}")
    digest = sha256(path)
    folder = path.parent if known is None else paths.home() / "weights"
    noted = recorded(folder).get(path.name, "")
    compared = []
    if known is not None and known.sha256:
        compare_hash(short(path), digest, known.sha256, f"known from {known.sha256_source}")
        compared.append(f"begins as {known.sha256_source} says")
    if noted:
        compare_hash(short(path), digest, noted, f"recorded in {short(folder / SUMS)}")
        compared.append(f"as recorded in {short(folder / SUMS)}")
    if known is None:
        import torch

        card = weights.load(path, torch.nn.Module)[1]
        structure = f"loads as {card.architecture}"
    else:
        structure = STRUCTURE[known.name](path)
    return f"sha256 {digest} ({', '.join(compared) or 'nothing to compare it with'}); {structure}; {short(path)}"


def compare_hash(what: str, digest: str, expected: str, source: str) -> None:
    """Compare a hash with the leading digits of another.

    Raises:
        ValueError: They differ.
    """
    if not digest.startswith(expected):
        raise ValueError(f"{what} has sha256 {digest}, {source} is {expected}: damaged, or another file")


def recorded(folder: Path) -> dict[str, str]:
    """File name -> hash, from a folder's SHA256SUMS; empty if there is none."""
    file = folder / SUMS
    if not file.is_file():
        return {}
    lines = (line.split(maxsplit=1) for line in file.read_text("utf-8").splitlines() if line.strip())
    return {name.removeprefix("*"): digest for digest, name in lines}


def _alexnet(path: Path) -> str:
    from lipbench.metrics import lpips
    from lipbench.pretrained import weights

    weights.read_published(path)
    lpips.load(path)
    return "LPIPS loads it"


def _inception(path: Path) -> str:
    from lipbench.pretrained.inception import Inception

    Inception(str(path))
    return "FID loads it"


def _loads(function: str, *arguments: str) -> Callable[[Path], str]:
    """Reads a file by a function of `lipbench.pretrained`, which gives the network, or the network and a hash."""
    module, _, name = f"lipbench.pretrained.{function}".rpartition(".")

    def read(path: Path) -> str:
        found = getattr(importlib.import_module(module), name)(path, *arguments)
        network = found[0] if isinstance(found, tuple) else found
        return f"loads as {type(network).__name__}"

    return read


def _lipnet(path: Path) -> str:
    from lipbench.nets import lipnet
    from lipbench.pretrained import weights

    lipnet.from_published(weights.read_published(path))
    return "loads as LipNet"


def _only_tensors(path: Path) -> str:
    from lipbench.pretrained import weights

    return f"{len(weights.read_published(path))} tensors and nothing else"


def _dlib(path: Path) -> str:
    import dlib

    dlib.shape_predictor(str(path))
    return "dlib loads it"


STRUCTURE: Final[dict[str, Callable[[Path], str]]] = {
    "alexnet": _alexnet,
    "inception": _inception,
    "syncnet": _loads("networks.load_syncnet"),
    "lipnet": _lipnet,
    "avhubert": _loads("networks.load_avhubert"),
    "conformer": _loads("conformer.load_conformer", "auto_avsr"),
    "conformer-talklip": _loads("conformer.load_conformer", "talklip"),
    "mvm": _loads("networks.load_mvm"),
    "arcface": _loads("networks.load_arcface"),
    "i3d": _loads("networks.load_i3d"),
    "wav2vec2": _loads("networks.load_wav2vec2"),
    "hifigan": _loads("hifigan.load_hifigan"),
    "fan": _only_tensors,  # the package face-alignment builds the network
    "s3fd": _only_tensors,
    "dlib": _dlib,
}
"""Name of a published file -> what reads it; says so, or raises."""
