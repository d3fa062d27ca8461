"""The prepared store: every clip ready for training, in memory-mapped Arrow files.

A store is a folder:

    manifest.json          what is in it: settings, counts, a line a clip with hashes, rejected clips with reasons
    shards/<name>.arrow    Arrow IPC files, one record batch a clip (so a clip is one zero-copy read), about 30 clips
    each seen.jsonl             sizes and times of the source files, for a quick second run; holds no results

Reading needs pyarrow and a JPEG decoder, nothing that opens media files.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipbench.data import jpeg
from lipbench.errors import visible
from lipbench.media import geometry
from lipbench.media.audio import resample
from lipbench.types import View

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT: Final = "lipbench-store/1"
SUMMARY: Final = ("hash", "n_frames", "fps", "sample_rate", "speaker", "text", "source_sha256")
"""Columns that the line of a clip in manifest and shard repeats."""

MANIFEST: Final = "manifest.json"
_REMEDY: Final = "`lipbench prepare --verify` makes damaged shards anew"
_OPEN_SHARDS: Final = 64  # memory maps held open a process: GRID has about 1,000, a process may often hold 1,024


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


def replace(aside: Path, path: Path) -> None:
    """Rename a finished file into its place after its content has reached the disk."""
    with aside.open("rb+") as file:
        os.fsync(file.fileno())
    aside.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a small file aside, then rename it."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    aside.write_text(text, "utf-8")
    replace(aside, path)


@contextmanager
def alone(folder: Path, command: str) -> Iterator[None]:
    """Hold the lock of a folder that a command writes; the system releases it when the process ends in whatever way.

    Args:
        folder: It is there.
        command: Such as "prepare".

    Raises:
        RuntimeError: Another process holds it.
    """
    import fcntl

    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another `lipbench {command}` is writing {folder}; wait for it to end") from None
        yield


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
        raise DamagedStore(
            f"{path} is damaged, or no shard of a lipbench store ({_short(error)}); {_REMEDY}"
        ) from error
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
        raise DamagedStore(f"{path} is damaged: its summary cannot be read ({_short(error)}); {_REMEDY}") from error
    return dict(content)


def read_clip(
    path: Path, reader: "pa.RecordBatchFileReader", row: int, clip_id: str, packed: View | None
) -> "StoredClip":
    """A clip of an opened shard, its structure checked: damaged offsets would make Arrow read outside the file.

    Args:
        path: The shard.
        reader: The same, opened.
        row: Place of the clip in it.
        clip_id: Which clip it is.
        packed: The view that its pictures show; None where they are canonical pictures.

    Raises:
        DamagedStore: It is another clip, or damaged.
    """
    import pyarrow as pa

    try:
        if not 0 <= row < reader.num_record_batches:
            raise ValueError(f"it has no row {row}")
        batch = reader.get_batch(row)
        batch.validate(full=True)
        if batch.num_rows != 1 or any(column.null_count for column in batch.columns):
            raise ValueError("its row is not whole")
        clip = StoredClip(batch, packed, path)
        if clip.clip_id != clip_id:
            raise ValueError(f"its row {row} is the clip {visible(clip.clip_id)!r}")
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DamagedStore(f"{path} is damaged at the clip {clip_id} ({_short(error)}); {_REMEDY}") from error
    return clip


def damaged(path: Path, packed: View | None, advance: Callable[[int], None] = lambda steps: None) -> dict[str, str]:
    """Compare every row of a shard with its hash.

    Args:
        path: The shard.
        packed: The view that its pictures show; None where they are canonical pictures.
        advance: Called with 1 after each clip.

    Returns:
        Clip id -> what is wrong with it; empty if the shard is as it was written.

    Raises:
        DamagedStore: The shard cannot be opened at all.
    """
    lines, reader = shard_metadata(path)["clips"], open_shard(path)
    found: dict[str, str] = {}
    for clip_id, line in lines.items():
        try:
            row = read_clip(path, reader, line["row"], clip_id, packed).row()
            if row_hash(row) != row["hash"]:
                found[clip_id] = "its content has another hash than when it was written"
            elif line != summary(row, line["row"]):
                found[clip_id] = "the summary in its shard does not belong to it"
        except ValueError as error:  # UnicodeDecodeError is one
            found[clip_id] = _short(error)
        advance(1)
    return found


def summary(row: dict[str, Any], place: int) -> dict[str, Any]:
    """The line of a clip in its shard, and, with the shard's name, in the manifest.

    Args:
        row: All columns.
        place: Its row in the shard.
    """
    return {"row": place, "samples": len(row["sound"]), **{name: row[name] for name in SUMMARY}}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished store.

    Raises:
        FileNotFoundError: There is no finished store.
        ValueError: The store has another format.
        DamagedStore: The manifest is not what `lipbench prepare` wrote.
    """
    file = folder / MANIFEST
    if not file.is_file():
        unfinished = (folder / "shards").is_dir()
        raise FileNotFoundError(f"{'an unfinished store' if unfinished else 'no prepared store'} in {folder}")
    advice = "run `lipbench prepare` again, which writes it anew from the shards and loses nothing"
    try:
        content = json.loads(file.read_bytes())
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}, not an object")
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedStore(f"{file} is damaged ({_short(error)}); {advice}") from error
    if content.get("format") != FORMAT:
        raise ValueError(
            f"the store in {folder} has format {content.get('format')!r}; this version reads {FORMAT!r}. "
            "Prepare it again with --store in another folder, or delete it first"
        )
    if wrong := _odd_entry(content):
        raise DamagedStore(f"{file} is damaged ({wrong}); {advice}")
    return content


def _odd_entry(manifest: dict[str, Any]) -> str | None:
    """What in a manifest is not of the kind that it must be; None if nothing is."""
    for name in ("settings", "counts", "clips", "rejected"):
        if not isinstance(manifest.get(name), dict):
            return f"its entry {name!r} is no object"
    if not isinstance(manifest["settings"].get("data"), str):
        return "its settings do not name the corpus"
    packed = manifest.get("packed")
    kinds: dict[str, type | tuple[type, ...]] = {"name": str, "height": int, "width": int}
    if packed is not None and not (isinstance(packed, dict) and _is_of(packed, kinds) and len(packed) == len(kinds)):
        return "its entry 'packed' is no view"
    numbers: dict[str, type | tuple[type, ...]] = {"row": int, "samples": int, "n_frames": int, "sample_rate": int}
    texts: dict[str, type | tuple[type, ...]] = dict.fromkeys(("shard", "hash", "speaker", "text"), str)
    for clip_id, line in manifest["clips"].items():
        if not (isinstance(line, dict) and _is_of(line, {**numbers, **texts, "fps": (int, float)})):
            return f"the line of {clip_id} is not whole"
    for clip_id, line in manifest["rejected"].items():
        if not (isinstance(line, dict) and isinstance(line.get("reason"), str)):
            return f"{clip_id} is rejected without a reason"
    return None


def _is_of(values: dict[str, Any], kinds: Mapping[str, type | tuple[type, ...]]) -> bool:
    return all(isinstance(values.get(name), kind) and values[name] is not True for name, kind in kinds.items())


def _short(error: BaseException) -> str:
    """First line of a message, without the advice that an inner error may carry already."""
    text = str(error).partition("\n")[0].removesuffix(f"; {_REMEDY}")
    return visible(text) or type(error).__name__


class StoredClip:
    """One clip of a store; columns are read when asked for.

    Args:
        batch: The record batch of the clip.
        packed: The view that its pictures show, in a packed store; None where they are canonical pictures.
        shard: The file that it lies in, for messages.
    """

    def __init__(self, batch: "pa.RecordBatch", packed: View | None, shard: Path) -> None:
        self._batch = batch
        self.packed = packed
        self.shard = shard

    def _value(self, name: str) -> Any:  # noqa: ANN401 - whatever type the column has
        return self._batch.column(name)[0].as_py()

    def _array(self, name: str) -> npt.NDArray[Any]:
        return np.asarray(self._batch.column(name).values.to_numpy(zero_copy_only=True))

    def columns(self) -> dict[str, Any]:
        """Everything but the pictures, in the form that `write_shard` takes."""
        arrays = ("durations", "sound", "transforms", "landmarks")
        names = [name for name in self._batch.schema.names if name != "pictures"]
        return {name: self._array(name) if name in arrays else self._value(name) for name in names}

    def row(self) -> dict[str, Any]:
        """Everything, as it was hashed: in a packed store the arrays are flat."""
        shaped = {} if self.packed else {"transforms": self.transforms, "landmarks": self.landmarks}
        return {**self.columns(), **shaped, "pictures": self._value("pictures")}

    @cached_property
    def clip_id(self) -> str:
        """Such as "grid/s1/bbaf2n"."""
        return str(self._value("clip_id"))

    @cached_property
    def speaker(self) -> str:
        """Such as "s1"."""
        return str(self._value("speaker"))

    @cached_property
    def text(self) -> str:
        """The spoken words, lower case."""
        return str(self._value("text"))

    @cached_property
    def words(self) -> list[tuple[float, float, str]]:
        """Start and end in seconds and the word, silences included; empty where word times are unknown."""
        return [(w["start"], w["end"], w["word"]) for w in self._value("words")]

    @cached_property
    def symbols(self) -> list[str]:
        """L members of `lipbench.media.text.SYMBOLS`."""
        return list(self._value("symbols"))

    @property
    def durations(self) -> npt.NDArray[np.int64]:
        """(L,) frames a symbol, summing to `n_frames`."""
        return self._array("durations")

    @cached_property
    def speech(self) -> tuple[int, int]:
        """First frame of speech and the frame after its last."""
        first, last = self._array("speech").tolist()
        return first, last

    @cached_property
    def fps(self) -> float:
        """Frames a second."""
        return float(self._value("fps"))

    @cached_property
    def n_frames(self) -> int:
        """T."""
        return int(self._value("n_frames"))

    @cached_property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the source frames in pixels."""
        height, width = self._array("frame_size").tolist()
        return height, width

    @cached_property
    def sample_rate(self) -> int:
        """Samples a second of the stored sound."""
        return int(self._value("sample_rate"))

    @property
    def transforms(self) -> npt.NDArray[np.float64]:
        """(T, 2, 3): canonical (x, y) = A @ (x, y, 1) of the source frame."""
        return self._array("transforms").reshape(-1, 2, 3)

    @property
    def landmarks(self) -> npt.NDArray[np.float32]:
        """(T, 68, 2) x, y in pixels of the canonical picture."""
        return self._array("landmarks").reshape(-1, 68, 2)

    @cached_property
    def source_sha256(self) -> str:
        """Of the source video file."""
        return str(self._value("source_sha256"))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything stored about the clip."""
        return str(self._value("hash"))

    def audio(self, rate: int) -> npt.NDArray[np.float32]:
        """(S,) mono in [-1, 1] at `rate` samples a second, the whole clip."""
        samples = self._array("sound").astype(np.float32) / 32768
        return resample(samples, self.sample_rate, rate)

    def pictures(self, frames: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """(n, 352, 320, 3) RGB canonical pictures of the frames asked for; only these are decoded.

        Raises:
            ValueError: The store is packed and holds no canonical pictures.
        """
        if self.packed is not None:
            raise ValueError(
                f"a packed store holds only the view {self.packed}; canonical pictures need the whole store"
            )
        return self._decode(frames, (geometry.HEIGHT, geometry.WIDTH), 0, geometry.HEIGHT)

    def views(self, frames: Sequence[int] | npt.NDArray[np.integer], wanted: Mapping[str, View]) -> dict[str, Tensor]:
        """Views of the frames asked for; only the rows that they need are decoded, once for all of them.

        Args:
            frames: n positions in the clip.
            wanted: Name -> view.

        Returns:
            Name -> (n, 3, view.height, view.width) uint8.

        Raises:
            ValueError: The store is packed and a view lies outside what it holds.
        """
        if self.packed is not None and self._pixels is not None:
            pixels = torch.from_numpy(self._pixels[np.asarray(frames, np.int64)])  # (n, 3, h, w), a copy
            return {name: geometry.change_view(pixels, self.packed, view) for name, view in wanted.items()}
        if self.packed is not None:
            pixels = torch.from_numpy(self._decode(frames, self.packed.size, 0, self.packed.height)).permute(0, 3, 1, 2)
            return {name: geometry.change_view(pixels, self.packed, view) for name, view in wanted.items()}
        boxes = [geometry.box(view.name) for view in wanted.values()]
        top, bottom = min(box[0] for box in boxes), max(box[2] for box in boxes)
        pictures = self._decode(frames, (geometry.HEIGHT, geometry.WIDTH), top, bottom)
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)  # (n, 3, 352, 320)
        return {name: geometry.crop(pixels, view) for name, view in wanted.items()}  # (n, 3, h, w)

    def view(self, frames: Sequence[int] | npt.NDArray[np.integer], view: View) -> Tensor:
        """One view of the frames asked for, (n, 3, view.height, view.width) uint8; see `views`."""
        return self.views(frames, {view.name: view})[view.name]

    @cached_property
    def _pixels(self) -> npt.NDArray[np.uint8] | None:
        """(T, 3, h, w) of a store packed as pixels, straight out of the file; None where pictures are JPEG.

        The two are told apart by length: no JPEG is as long as its pixels, let alone all of a clip.
        """
        if self.packed is None:
            return None
        column = self._batch.column("pictures").values
        offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
        size = 3 * self.packed.height * self.packed.width
        if len(column) == 0 or (np.diff(offsets) != size).any():
            return None
        content = np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
        return content.reshape(-1, 3, *self.packed.size)

    def _decode(
        self, frames: Sequence[int] | npt.NDArray[np.integer], size: tuple[int, int], top: int, bottom: int
    ) -> npt.NDArray[np.uint8]:
        """(n, *size, 3) RGB, of which the rows top..bottom are filled in."""
        column = self._batch.column("pictures").values
        out = np.empty((len(frames), *size, 3), np.uint8)
        for k, frame in enumerate(frames):
            data = memoryview(column[int(frame)].as_buffer()).cast("B")  # Arrow hands out signed bytes
            try:
                jpeg.decode(data, out[k], top, bottom)
            except (ValueError, IndexError) as error:
                raise DamagedStore(
                    f"{self.shard} is damaged at frame {frame} of {self.clip_id} ({_short(error)}); {_REMEDY}"
                ) from error
        return out


class Store:
    """A prepared store, opened for reading; cheap to copy to worker processes.

    Args:
        path: Its folder.

    Raises:
        FileNotFoundError: There is no finished store.
        ValueError: It was written in another format, or its manifest is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest: dict[str, Any] = read_manifest(self.path)
        packed = self.manifest["packed"]
        self.packed = View(**packed) if packed else None
        self.clip_ids: list[str] = sorted(self.manifest["clips"])
        # Shards that are open, with the clips that were read from them: opening and checking a clip costs as much as
        # decoding a small picture, and training comes back to every clip in every epoch.
        self._shards: OrderedDict[str, tuple[pa.RecordBatchFileReader, dict[str, StoredClip]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files: each process opens its own."""
        return {**self.__dict__, "_shards": OrderedDict()}

    def __len__(self) -> int:
        """Clips in the store."""
        return len(self.clip_ids)

    def __contains__(self, clip_id: object) -> bool:
        """Whether the clip is in the store."""
        return clip_id in self.manifest["clips"]

    def __getitem__(self, clip_id: str) -> StoredClip:
        """The clip of that id.

        Raises:
            KeyError: It is not in the store; the message gives the reason if it was rejected.
            DamagedStore: Its shard is damaged; the message names it.
        """
        line = self.manifest["clips"].get(clip_id)
        if line is None:
            reason = self.manifest["rejected"].get(clip_id, {}).get("reason")
            raise KeyError(f"{clip_id} is not in the store {self.path}" + (f": rejected, {reason}" if reason else ""))
        reader, clips = self._open(line["shard"])
        if clip_id not in clips:
            clips[clip_id] = read_clip(self._shard(line["shard"]), reader, line["row"], clip_id, self.packed)
        return clips[clip_id]

    def damaged(self, name: str) -> dict[str, str]:
        """Compare the rows of a shard with their hashes and with the manifest.

        Args:
            name: The shard.

        Returns:
            Clip id -> what is wrong with it; empty if the shard is as it was written.
        """
        mine = {clip_id: line for clip_id, line in self.manifest["clips"].items() if line["shard"] == name}
        path = self._shard(name)
        if not path.is_file():
            return dict.fromkeys(mine, f"{path.name} is lost")
        try:
            found = damaged(path, self.packed)
            lines = shard_metadata(path)["clips"]
        except DamagedStore as error:
            return dict.fromkeys(mine, _short(error))
        for clip_id, line in mine.items():
            if {"shard": name, **lines.get(clip_id, {})} != line:
                found.setdefault(clip_id, "the manifest says something else of it than its shard")
        return found

    def _shard(self, name: str) -> Path:
        return self.path / "shards" / f"{name}.arrow"

    def _open(self, name: str) -> "tuple[pa.RecordBatchFileReader, dict[str, StoredClip]]":
        if name in self._shards:
            self._shards.move_to_end(name)
            return self._shards[name]
        path = self._shard(name)
        if not path.is_file():
            raise FileNotFoundError(
                f"the store {self.path} has lost its file shards/{path.name}; run `lipbench prepare` again"
            )
        opened = self._shards[name] = open_shard(path), {}
        if len(self._shards) > _OPEN_SHARDS:
            self._shards.popitem(last=False)
        return opened
