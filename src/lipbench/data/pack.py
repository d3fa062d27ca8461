"""Copies of a prepared store that hold one view only: small ones for transport, quick ones for training."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lipbench.data import jpeg, manifest, shards, sources
from lipbench.data import store as stores
from lipbench.data.lock import alone
from lipbench.data.progress import bar
from lipbench.media import geometry
from lipbench.types import View


def pack(
    store: str | Path,
    view: View,
    out: str | Path | None = None,
    *,
    pixels: bool = False,
    verify: bool = False,
    progress: bool = True,
) -> Path:
    """Write a copy of a store with one view only; scores from it are those of that view alone.

    As JPEG it is small, for transport. As pixels it is for training: 3 bytes a pixel, about six times as much, read
    without decoding, and exactly what the whole store gives.

    Args:
        store: A whole store.
        view: What to keep, at which size.
        out: Folder to write; by default beside the store, such as `grid-mouth-80x160` (`-pixels`).
        pixels: Plain pixels instead of JPEG.
        verify: Compare every row that is there with its hash first, and make damaged shards anew.
        progress: Show a bar.

    Returns:
        The folder of the packed store.

    Raises:
        FileNotFoundError: No store there.
        ValueError: Unknown view, the store is itself packed, or the folder holds something else.
    """
    source = stores.Store(store)
    if source.packed is not None:
        raise ValueError(f"{source.path} is a packed store already ({source.packed}); pack from the whole one")
    geometry.box(view.name)
    name = f"{source.path.name}-{view.name}-{view.height}x{view.width}{'-pixels' if pixels else ''}"
    folder = Path(out) if out else source.path.with_name(name)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    settings = {**source.manifest["settings"], "packed": asdict(view)} | ({"coding": "pixels"} if pixels else {})
    clips: dict[str, list[str]] = {}
    for clip_id, line in source.manifest["clips"].items():
        clips.setdefault(line["shard"], []).append(clip_id)
    with alone(folder, "prepare"), bar(progress, len(source), 0) as advance:
        sources.check_settings(folder, settings)
        damaged = (
            sources.damaged_shards(folder, settings, view, False)
            if verify
            else sources.unreadable_shards(folder, settings)
        )
        for path in (folder / "shards").glob("*.arrow"):
            if not (source.path / "shards" / path.name).is_file():
                path.unlink()
        for original in sorted((source.path / "shards").glob("*.arrow")):
            metadata = shards.shard_metadata(original)
            path = folder / "shards" / original.name
            hashes = {clip_id: line["hash"] for clip_id, line in metadata["clips"].items()}
            whole = path.is_file() and original.stem not in damaged
            if not (whole and shards.shard_metadata(path)["sources"] == hashes):
                rows = [packed_row(source[clip_id], view, pixels) for clip_id in clips.get(original.stem, [])]
                for row in rows:
                    metadata["clips"][row["clip_id"]]["hash"] = row["hash"]
                shards.write_shard(path, rows, {**metadata, "settings": settings, "sources": hashes})
            advance(len(hashes))
        manifest.write(folder, settings, view)
    return folder


def packed_row(clip: stores.StoredClip, view: View, pixels: bool) -> dict[str, Any]:
    """Columns of a clip in a packed store, with their hash."""
    frames = clip.view(range(clip.n_frames), view)  # (T, 3, h, w)
    if pixels:
        pictures = [frame.numpy().tobytes() for frame in frames.contiguous()]
    else:
        pictures = [jpeg.encode(np.ascontiguousarray(frame)) for frame in frames.permute(0, 2, 3, 1).numpy()]
    row = {**clip.columns(), "pictures": pictures}
    return {**row, "hash": shards.row_hash(row)}
