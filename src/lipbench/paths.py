"""Default places: the home folder of stores, corpora, weights and caches."""

import os
from pathlib import Path


def home() -> Path:
    """Folder of stores and corpora: `LIPBENCH_HOME`, by default the user's cache folder."""
    if chosen := os.environ.get("LIPBENCH_HOME"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "lipbench"


def default_store(data: str) -> Path:
    """Where the store of a corpus lies unless another place is named."""
    return home() / "stores" / data
