"""Shards of a prepared store: Arrow IPC files, one record batch a clip, so that a clip is one zero-copy read."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lipbench.errors import visible
from lipbench.files import replace

if TYPE_CHECKING:
    import pyarrow as pa

SUMMARY: Final = ("hash", "n_frames", "fps", "sample_rate", "speaker", "text", "source_sha256")
"""Columns that the line of a clip in manifest and shard repeats."""

REMEDY: Final = "`lipbench prepare --verify` makes damaged shards anew"


class DamagedStore(ValueError):
    """A file of a store is not as it was written; the message names it and says what to type.

    Args:
        text: The sentence. Loader processes hand errors over as printed tracebacks: of these only the last line, which
            is the sentence, is kept.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text.rpartition(f"{type(self).__name__}: ")[2].strip())


def schema(metadata: dict[str, Any]) -> "pa.Schema":
    """Columns of a shard. Pictures are JPEG; points and transforms are flat, in the order of their documented shapes.

    Args:
        metadata: Kept as JSON under the key "lipbench": settings, a summary of each clip, rejected clips with reasons.
    """
    import pyarrow as pa

    word = pa.struct([("start", pa.float64()), ("end", pa.float64()), ("word", pa.string())])
    columns = {
        "clip_id": pa.string(),
        "speaker": pa.string(),
        "text": pa.string(),
        "words": pa.list_(word),  # seconds
        "symbols": pa.list_(pa.string()),
        "durations": pa.list_(pa.int64()),  # frames a symbol
        "speech": pa.list_(pa.int64()),  # first frame of speech, frame after its last
        "fps": pa.float64(),
        "n_frames": pa.int64(),
        "frame_size": pa.list_(pa.int64()),  # height, width of the source frames
        "sample_rate": pa.int64(),
        "sound": pa.list_(pa.int16()),
        "transforms": pa.list_(pa.float64()),  # (T, 2, 3): source frame -> canonical picture
        "landmarks": pa.list_(pa.float32()),  # (T, 68, 2): x, y in canonical pixels
        "pictures": pa.list_(pa.binary()),  # T of JPEG; in packed stores also plain pixels, (3, height, width) each
        "source_sha256": pa.string(),
        "hash": pa.string(),  # of all the columns above
    }
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
    return pa.schema(list(columns.items()), metadata={"lipbench": text})


def row_hash(row: dict[str, Any]) -> str:
    """SHA-256 of a clip's columns except `hash`, the same on every machine that made the same bytes."""
    digest = hashlib.sha256()
    for name in sorted(row):
        if name == "hash":
            continue
        value = row[name]
        digest.update(f"\0{name}\0".encode())
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        elif name == "pictures":
            for picture in value:
                digest.update(len(picture).to_bytes(8, "big") + picture)
        else:
            digest.update(json.dumps(value).encode())
    return digest.hexdigest()


def write_shard(path: Path, rows: Sequence[dict[str, Any]], metadata: dict[str, Any]) -> None:
    """Write a shard aside, bring it to the disk, then rename it: it is there whole or not at all."""
    import pyarrow as pa

    columns = schema(metadata)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, columns) as writer:
        for row in rows:
            arrays = [
                pa.array([value.ravel() if isinstance(value, np.ndarray) else value], type=field.type)
                for field, value in ((field, row[field.name]) for field in columns)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=columns))
    replace(aside, path)


def open_shard(path: Path) -> "pa.RecordBatchFileReader":
    """Map a shard into memory.

    Raises:
        DamagedStore: The file is no shard, or its head or end is damaged.
    """
    import pyarrow as pa

    # One thread: readers are forked into workers, where a thread pool made before would hang.
    options = pa.ipc.IpcReadOptions(use_threads=False)
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)), options=options)
        if not reader.schema.equals(schema({})):
            raise ValueError("other columns than a shard has")
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DamagedStore(f"{path} is damaged, or no shard of a lipbench store ({short(error)}); {REMEDY}") from error
    return reader


def shard_metadata(path: Path) -> dict[str, Any]:
    """Settings, summaries and rejected clips of a shard, without reading its clips.

    Raises:
        DamagedStore: The file is no shard of a store, or damaged.
    """
    metadata = open_shard(path).schema.metadata
    try:
        content = json.loads((metadata or {})[b"lipbench"])
        known = {key: content[key] for key in ("settings", "made_with", "clips", "rejected", "sources")}
        lines = [*known["clips"].values(), *known["rejected"].values()]
        whole = all(isinstance(value, dict) for value in (*known.values(), *lines))
        whole = whole and all(
            isinstance(line["row"], int) and set(SUMMARY) < set(line) for line in known["clips"].values()
        )
        if not (whole and all(isinstance(line["reason"], str) for line in known["rejected"].values())):
            raise TypeError("not the contents of a shard")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedStore(f"{path} is damaged: its summary cannot be read ({short(error)}); {REMEDY}") from error
    return dict(content)


def summary(row: dict[str, Any], place: int) -> dict[str, Any]:
    """The line of a clip in its shard, and, with the shard's name, in the manifest.

    Args:
        row: All columns.
        place: Its row in the shard.
    """
    return {"row": place, "samples": len(row["sound"]), **{name: row[name] for name in SUMMARY}}


def short(error: BaseException) -> str:
    """First line of a message, without the advice that an inner error may carry already."""
    text = str(error).partition("\n")[0].removesuffix(f"; {REMEDY}")
    return visible(text) or type(error).__name__
