"""Observers that come with lipbench: small ones, so that readings and synchrony have a judge without any download.

Each judges the protocols of its corpus and no others: a reader of rendered faces, or of one GRID speaker, knows nothing
of other faces. What they are and what they reach stands in `weights/README.md` beside the files.
"""

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / "weights"
"""Where the files lie."""

_NAMES: Final = {"transcript": "lipresnet-small", "second_transcript": "lipnet-small", "syncnet": "syncnet-small"}
_PROTOCOLS: Final = {  # corpus in the files' names -> what its judges judge
    "rendered": ("rendered/seen", "rendered/unseen", "rendered/judges"),
    "grid-s1": ("grid/s1",),
}


def judges(protocol: str) -> dict[str, str]:
    """Observation -> weights file, for the observations of a protocol that have a judge; empty for other protocols.

    Args:
        protocol: Such as "grid/s1".
    """
    corpus = next((corpus for corpus, protocols in _PROTOCOLS.items() if protocol in protocols), None)
    return {key: str(FOLDER / f"{name}[{corpus}].safetensors") for key, name in _NAMES.items()} if corpus else {}
