"""Where a checkpoint comes from: which model it holds, and what that was trained on."""

from pathlib import Path
from typing import NamedTuple

from lipbench import discovery
from lipbench.training import checkpoints


class Origin(NamedTuple):
    """What a checkpoint says about itself."""

    model: str
    """Short name, or what was asked for."""
    data: str
    """Short name of the corpus; empty where it is unknown, as in checkpoints older than this entry."""
    protocol: str
    """Such as "grid/s1"; empty likewise."""
    words: frozenset[str]
    """All words of the training clips; empty where they are unknown or too many to be listed."""


def read(path: Path, model: str | None = None) -> Origin:
    """Read it. Only tensors and plain values are taken from the file, and no package that it names is imported.

    Args:
        path: A .ckpt file written by `lipbench fit`.
        model: What was asked for, as a short name or a class path; None if the file is to tell.

    Raises:
        ValueError: It is no such file; the message says what is wrong with it.
    """
    import torch

    wrong = f"{path} is no checkpoint that can be read"
    if path.stat().st_size == 0:
        raise ValueError(f"{wrong}: it is empty (0 bytes)")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a file that is no checkpoint
        raise ValueError(
            f"{wrong} ({type(error).__name__}); expected a .ckpt file that `lipbench fit` wrote"
        ) from error
    meta = content.get("lipbench") if isinstance(content, dict) else None
    if not isinstance(meta, dict) or not isinstance(meta.get("class"), str):
        raise ValueError(f"{path} was not written by lipbench: it has no entry 'lipbench' that names its model")
    if model is None and not discovery.known("model", meta["class"]):
        raise ValueError(
            f"{path} holds {meta['class']}, no model of lipbench or of an installed package "
            f"({', '.join(discovery.files('model'))}), and nothing is imported because a file names it; if you trust "
            f"it, give --model {meta['class']}"
        )
    short = model or discovery.short_name("model", meta["class"])
    data = content.get(checkpoints.DATA)
    data = data if isinstance(data, dict) else {}
    words = data.get("words")
    return Origin(
        short,
        str(data["name"]) if data.get("name") in discovery.files("data") else "",
        str(data.get("protocol") or ""),
        frozenset(map(str, words)) if isinstance(words, list) else frozenset(),
    )
