"""Where a checkpoint comes from: which model it holds, and what that was trained on."""

from pathlib import Path
from typing import NamedTuple

from lipbench import discovery, tracking


class Origin(NamedTuple):
    """What a checkpoint says about itself."""

    model: str
    """Short name."""
    data: str
    """Short name of the corpus; empty where it is unknown, as in checkpoints older than this entry."""
    protocol: str
    """Such as "grid/s1"; empty likewise."""
    words: frozenset[str]
    """All words of the training clips; empty where they are unknown or too many to be listed."""


def read(path: Path) -> Origin:
    """Read it. Only tensors and plain values are taken from the file, and nothing that it names is imported.

    Args:
        path: A .ckpt file written by `lipbench fit`.

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
    module = meta["class"].rpartition(".")[0].split(".")
    short = module[2] if module[:2] == ["lipbench", "models"] and len(module) > 2 else ""
    if short not in discovery.files("model"):
        raise ValueError(
            f"{path} holds {meta['class']}, no model of lipbench ({', '.join(discovery.files('model'))}), and nothing "
            "is imported because a file names it; if you trust it, give --model and --data"
        )
    data = content.get(tracking.ENTRY)
    data = data if isinstance(data, dict) else {}
    words = data.get("words")
    return Origin(
        short,
        str(data["name"]) if data.get("name") in discovery.files("data") else "",
        str(data.get("protocol") or ""),
        frozenset(map(str, words)) if isinstance(words, list) else frozenset(),
    )
