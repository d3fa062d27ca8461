"""Test clips for the scripts of this folder that look at a trained model."""

from pathlib import Path

import numpy as np

from lipbench import discovery
from lipbench.data import protocol
from lipbench.data.store import Store
from lipbench.paths import default_store


def held_out_clips(
    data: str, count: int, name: str | None = None, store: Path | None = None
) -> tuple[Store, list[str]]:
    """A prepared store and some test clips of a protocol in it, evenly spaced over the sorted list.

    Args:
        data: Corpus.
        count: Clips, at most.
        name: Of the protocol; None is the corpus's own.
        store: Folder; None is the corpus's own.
    """
    found = Store(store or default_store(data))
    chosen = protocol.load(name or discovery.load("data", data).default_protocol)
    held = set(found.clip_ids)
    test = [clip for clip in chosen.split(found.clip_ids).test if clip in held]
    if not test:
        raise SystemExit(f"{found.path} holds no test clip of {chosen.name}")
    return found, [test[k] for k in np.linspace(0, len(test) - 1, min(count, len(test))).astype(int)]
