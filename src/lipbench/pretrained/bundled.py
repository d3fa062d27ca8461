"""Observers that come with lipbench: small ones, so that readings and synchrony have a judge without any download.

Each judges the protocols of its corpus and no others: a reader of rendered faces, or of one GRID speaker, knows nothing
of other faces. What they are and what they reach stands in `weights/README.md` beside the files.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / "weights"
"""Where the files lie."""

OBSERVER: Final = {
    **dict.fromkeys(("avhubert", "conformer", "lipnet", "lipresnet", "mvm"), "transcript"),
    "syncnet": "syncnet",
}
"""File of `lipbench.nets`, and model, whose weights make an observation -> that observation."""
_NAMES: Final = {"transcript": "lipresnet-small", "second_transcript": "lipnet-small", "syncnet": "syncnet-small"}
_PROTOCOLS: Final = {  # corpus in the files' names -> what its judges judge
    "rendered": ("rendered/seen", "rendered/unseen", "rendered/judges"),
    "grid-s1": ("grid/s1",),
}
_KNOWS: Final = {"rendered": "rendered faces", "grid-s1": "GRID's speaker s1"}  # the same corpora


def judges(protocol: str) -> dict[str, str]:
    """Observation -> weights file, for the observations of a protocol that have a judge; empty for other protocols.

    Args:
        protocol: Such as "grid/s1".
    """
    corpus = next((corpus for corpus, protocols in _PROTOCOLS.items() if protocol in protocols), None)
    return {key: str(FOLDER / f"{name}[{corpus}].safetensors") for key, name in _NAMES.items()} if corpus else {}


def names(observation: str) -> list[str]:
    """Names of the observers that come with lipbench and make an observation, such as "syncnet-small[grid-s1]"."""
    return [f"{_NAMES[observation]}[{corpus}]" for corpus in _PROTOCOLS] if observation in _NAMES else []


def knows(name: str) -> str:
    """Whom an observer that comes with lipbench knows: "knows rendered faces only"."""
    return f"knows {_KNOWS[name.partition('[')[2].rstrip(']')]} only"


def resolved(files: Mapping[str, str], home: Path) -> dict[str, str]:
    """Weights files that the user names, by path or by name.

    A name is one that `lipbench weights` lists: of an observer that comes with lipbench, of a file in the folder
    `weights` of lipbench's home, or of published weights that lie where they are looked for. Brackets, which shells may
    take for patterns, can be any other sign: syncnet-small-grid-s1.

    Args:
        files: Metric or observer -> path or name.
        home: lipbench's home.

    Returns:
        The same with paths. A path that leads nowhere stays as it is: what reads it says what it needs.

    Raises:
        FileNotFoundError: It is neither a file nor a known name; the message lists names, and the nearest.
    """
    return {key: _resolved(key, text, home) for key, text in files.items()}


def _resolved(key: str, text: str, home: Path) -> str:
    from lipbench.pretrained.published import KNOWN  # it imports PyTorch, which names do without

    if Path(text).expanduser().is_file() or "/" in text or "\\" in text:
        return text
    own = {path.stem: path for folder in (home / "weights", FOLDER) for path in sorted(folder.glob("*.safetensors"))}
    for name, path in own.items():
        if _plain(name) == _plain(text):
            return str(path)
    if text in KNOWN:
        found = KNOWN[text].find(home)
        if found is None:
            raise FileNotFoundError(f"the weights {text} are not there. Type: lipbench weights fetch {text}")
        return str(found)
    if Path(text).suffix and "[" not in text:  # meant as a path
        return text
    known = {_plain(name): name for name in (*own, *KNOWN)}
    begun = [name for name in known if name.startswith(_plain(text))]  # before names that are merely as short
    near = begun or difflib.get_close_matches(_plain(text), known, 1, 0.5)
    hint = f"Did you mean {known[near[0]]!r}? " if near else ""
    raise FileNotFoundError(
        f"{key}: {text!r} is neither a file nor the name of weights. {hint}Names: {', '.join(known.values())}"
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
