"""The manifest of a store: a small JSON file, and an Arrow file with a line a clip that is mapped into memory.

A million clips take no time to open and no memory of their own: lines are read when they are asked for, and processes
share the file. The JSON file names the Arrow file, whose name is a hash of its lines, so the two always fit together,
and a run that is killed between writing them leaves the former pair. Stores of format 1 keep the lines in the JSON.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from lipbench.data import shards
from lipbench.data.shards import DamagedStore, short
from lipbench.files import replace, write_text
from lipbench.types import View

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST: Final = "manifest.json"
FORMAT: Final = "lipbench-store/2"
_FORMATS: Final = ("lipbench-store/1", FORMAT)
_HEX: Final = ("hash", "source_sha256")  # kept as 32 bytes
_ADVICE: Final = "run `lipbench prepare` again, which writes it anew from the shards and loses nothing"


def _schema() -> "pa.Schema":
    import pyarrow as pa

    name = pa.dictionary(pa.int32(), pa.string())
    columns = {
        "clip_id": pa.string(),  # sorted
        "shard": name,
        "row": pa.int64(),
        "samples": pa.int64(),
        "n_frames": pa.int64(),
        "fps": pa.float64(),
        "sample_rate": pa.int64(),
        "speaker": name,
        "text": pa.string(),
        **{column: pa.binary(32) for column in _HEX},
    }
    return pa.schema([pa.field(column, kind, nullable=False) for column, kind in columns.items()])


class ClipLines(Mapping[str, dict[str, Any]]):
    """Clip id -> its line: shard, row and the columns `lipbench.data.shards.SUMMARY`; in the order of the ids.

    Args:
        path: The Arrow file.

    Raises:
        DamagedStore: It is not what `lipbench prepare` wrote.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._path = path
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)), options=pa.ipc.IpcReadOptions(use_threads=False))
            if not reader.schema.equals(_schema()) or reader.num_record_batches != 1:
                raise ValueError("other columns than a manifest has")
            self._batch = reader.get_batch(0)
            self._check()
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise DamagedStore(f"{path} is damaged ({short(error)}); {_ADVICE}") from error

    def _check(self) -> None:
        """Damaged offsets would make Arrow read outside the file, and ids out of order would not be found."""
        import pyarrow.compute as pc

        self._batch.validate()
        if any(column.null_count for column in self._batch.columns):
            raise ValueError("its lines are not whole")
        ids = self._batch.column("clip_id")
        for name in ("clip_id", "shard", "speaker"):
            self._batch.column(name).validate(full=True)
        edges, data = _string_buffers(self._batch.column("text"))
        if (np.diff(edges) < 0).any() or edges[0] < 0 or edges[-1] > len(data):
            raise ValueError("its texts are not whole")
        if len(ids) > 1 and not pc.all(pc.less(ids[:-1], ids[1:])).as_py():
            raise ValueError("its clips are not in order")

    def __reduce__(self) -> tuple[type["ClipLines"], tuple[Path]]:
        """Processes exchange the path."""
        return ClipLines, (self._path,)

    def __len__(self) -> int:
        """Clips."""
        return int(self._batch.num_rows)

    def __iter__(self) -> Iterator[str]:
        """Clip ids, sorted."""
        return iter(self.column("clip_id"))

    def __contains__(self, clip_id: object) -> bool:
        """Whether there is such a clip."""
        return isinstance(clip_id, str) and self._place(clip_id) is not None

    def __getitem__(self, clip_id: str) -> dict[str, Any]:
        """The line of a clip."""
        place = self._place(clip_id)
        if place is None:
            raise KeyError(clip_id)
        names = [name for name in self._batch.schema.names if name != "clip_id"]
        line = {name: self._batch.column(name)[place].as_py() for name in names}
        return line | {name: line[name].hex() for name in _HEX}

    def column(self, name: str) -> list[Any]:
        """One column of all lines, in the order of the ids."""
        values: list[Any] = self._batch.column(name).to_pylist()
        return [value.hex() for value in values] if name in _HEX else values

    def of_shard(self, name: str) -> list[str]:
        """Ids of the clips in a shard."""
        shard = self._batch.column("shard")
        known = shard.dictionary.to_pylist()
        places = np.flatnonzero(np.asarray(shard.indices) == (known.index(name) if name in known else -1))
        return [self._batch.column("clip_id")[int(place)].as_py() for place in places]

    @cached_property
    def _ids(self) -> tuple[npt.NDArray[np.int32], memoryview]:
        return _string_buffers(self._batch.column("clip_id"))

    def _place(self, clip_id: str) -> int | None:
        """Row of a clip, by bisection: bytes of UTF-8 sort like the characters."""
        wanted = clip_id.encode("utf-8", "surrogatepass")
        edges, data = self._ids
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if bytes(data[edges[middle] : edges[middle + 1]]) < wanted:
                low = middle + 1
            else:
                high = middle
        found = low < len(self) and bytes(data[edges[low] : edges[low + 1]]) == wanted
        return low if found else None


def _string_buffers(column: "pa.StringArray") -> tuple[npt.NDArray[np.int32], memoryview]:
    """Where each string begins, with the end of the last, and the bytes of all of them."""
    _, edges, data = column.buffers()
    if len(column) == 0:
        return np.zeros(1, np.int32), memoryview(b"")
    return np.frombuffer(edges, np.int32)[column.offset :][: len(column) + 1], memoryview(data or b"").cast("B")


def write(folder: Path, settings: dict[str, Any], packed: View | None) -> dict[str, Any]:
    """Put the manifest together from the shards; sorted, with nothing in it that depends on order or time.

    Args:
        folder: The store.
        settings: What it was made with.
        packed: The view of a packed store.

    Returns:
        The manifest, as `read` gives it.
    """
    lines: list[tuple[str, str, dict[str, Any]]] = []
    rejected: dict[str, Any] = {}
    made_with: dict[str, set[str]] = {}
    for path in sorted((folder / "shards").glob("*.arrow")):
        metadata = shards.shard_metadata(path)
        lines += [(clip_id, path.stem, line) for clip_id, line in metadata["clips"].items()]
        rejected |= {clip_id: {"reason": line["reason"]} for clip_id, line in metadata["rejected"].items()}
        for package, number in metadata["made_with"].items():
            made_with.setdefault(package, set()).add(number)
    lines.sort(key=lambda line: line[0])
    file = _write_lines(folder, lines)
    manifest = {
        "format": FORMAT,
        "settings": settings,
        "made_with": {package: sorted(numbers) for package, numbers in made_with.items()},
        "packed": asdict(packed) if packed else None,
        "counts": {
            "clips": len(lines),
            "rejected": len(rejected),
            "speakers": len({line["speaker"] for *_, line in lines}),
            "frames": sum(line["n_frames"] for *_, line in lines),
            "seconds": round(sum(line["n_frames"] / line["fps"] for *_, line in lines), 3),
        },
        "clips": file.name,
        "rejected": rejected,
    }
    text = json.dumps(manifest, sort_keys=True, indent=1) + "\n"
    target = folder / MANIFEST
    if not target.is_file() or target.read_bytes() != text.encode():
        write_text(target, text)
    for old in folder.glob("clips-*.arrow"):
        if old.name != file.name:
            old.unlink()
    return read(folder)


def _write_lines(folder: Path, lines: list[tuple[str, str, dict[str, Any]]]) -> Path:
    """Write the Arrow file, unless it is there, under a name that its content decides."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {"clip_id": [clip_id for clip_id, *_ in lines]}
    columns["shard"] = [shard for _, shard, _ in lines]
    for name in _schema().names[2:]:
        values = [line[name] for *_, line in lines]
        columns[name] = [bytes.fromhex(value) for value in values] if name in _HEX else values
    arrays = []
    for field in _schema():
        values = columns[field.name]
        if pa.types.is_dictionary(field.type):
            known = sorted(set(values))
            places = {value: k for k, value in enumerate(known)}
            indices = pa.array([places[value] for value in values], pa.int32())
            arrays.append(pa.DictionaryArray.from_arrays(indices, pa.array(known, pa.string())))
        else:
            arrays.append(pa.array(values, field.type))
    digest = hashlib.sha256()
    for name, values in columns.items():
        digest.update(f"\0{name}\0".encode())
        for value in values:
            digest.update(value if isinstance(value, bytes) else f"{value}\n".encode())
    path = folder / f"clips-{digest.hexdigest()[:16]}.arrow"
    if path.is_file():
        try:
            ClipLines(path)
        except DamagedStore:
            path.unlink()
        else:
            return path
    aside = path.with_name(f"{path.name}.part")
    with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, _schema()) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=_schema()))
    replace(aside, path)
    return path


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a finished store.

    Returns:
        Its entries; "clips" is a mapping from clip id to line.

    Raises:
        FileNotFoundError: There is no finished store.
        ValueError: The store has another format.
        DamagedStore: The manifest is not what `lipbench prepare` wrote.
    """
    file = folder / MANIFEST
    if not file.is_file():
        unfinished = (folder / "shards").is_dir()
        raise FileNotFoundError(f"{'an unfinished store' if unfinished else 'no prepared store'} in {folder}")
    try:
        content = json.loads(file.read_bytes())
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}, not an object")
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedStore(f"{file} is damaged ({short(error)}); {_ADVICE}") from error
    if content.get("format") not in _FORMATS:
        raise ValueError(
            f"the store in {folder} has format {content.get('format')!r}; this version reads {' and '.join(_FORMATS)}. "
            "Prepare it again with --store in another folder, or delete it first"
        )
    if content["format"] == FORMAT:
        name = content.get("clips")
        if not (isinstance(name, str) and Path(name).name == name and name.endswith(".arrow")):
            raise DamagedStore(f"{file} is damaged (its entry 'clips' names no file); {_ADVICE}")
        if not (folder / name).is_file():
            raise DamagedStore(f"the store {folder} has lost its file {name}; {_ADVICE}")
        content["clips"] = ClipLines(folder / name)
    if wrong := _odd_entry(content):
        raise DamagedStore(f"{file} is damaged ({wrong}); {_ADVICE}")
    return content


def _odd_entry(manifest: dict[str, Any]) -> str | None:
    """What in a manifest is not of the kind that it must be; None if nothing is."""
    for name in ("settings", "counts", "clips", "rejected"):
        if not isinstance(manifest.get(name), dict | ClipLines):
            return f"its entry {name!r} is no object"
    if not isinstance(manifest["settings"].get("data"), str):
        return "its settings do not name the corpus"
    packed = manifest.get("packed")
    kinds: dict[str, type | tuple[type, ...]] = {"name": str, "height": int, "width": int}
    if packed is not None and not (isinstance(packed, dict) and _is_of(packed, kinds) and len(packed) == len(kinds)):
        return "its entry 'packed' is no view"
    numbers: dict[str, type | tuple[type, ...]] = {"row": int, "samples": int, "n_frames": int, "sample_rate": int}
    texts: dict[str, type | tuple[type, ...]] = dict.fromkeys(("shard", "hash", "speaker", "text"), str)
    if isinstance(manifest["clips"], ClipLines) and manifest["counts"].get("clips") != len(manifest["clips"]):
        return "it counts other clips than there are lines"
    for clip_id, line in manifest["clips"].items() if isinstance(manifest["clips"], dict) else ():
        if not (isinstance(line, dict) and _is_of(line, {**numbers, **texts, "fps": (int, float)})):
            return f"the line of {clip_id} is not whole"
    for clip_id, line in manifest["rejected"].items():
        if not (isinstance(line, dict) and isinstance(line.get("reason"), str)):
            return f"{clip_id} is rejected without a reason"
    return None


def _is_of(values: dict[str, Any], kinds: Mapping[str, type | tuple[type, ...]]) -> bool:
    return all(isinstance(values.get(name), kind) and values[name] is not True for name, kind in kinds.items())
