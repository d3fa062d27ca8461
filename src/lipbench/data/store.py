"""The prepared store: every clip ready for training, in memory-mapped Arrow files.

A store is a folder:

    manifest.json          what is in it: settings, counts, rejected clips with reasons
    clips-<hash>.arrow     a line a clip: shard, hashes, frames, text (`lipbench.data.manifest`)
    shards/<name>.arrow    the clips, about 30 in each (`lipbench.data.shards`)
    seen.jsonl             sizes and times of the source files, for a quick second run; holds no results

Reading needs pyarrow and a JPEG decoder, nothing that opens media files.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipbench.data import jpeg, manifest
from lipbench.data.shards import REMEDY, DamagedStore, open_shard, row_hash, shard_metadata, short, summary
from lipbench.errors import visible
from lipbench.media import geometry
from lipbench.media.alignment import Word
from lipbench.media.audio import resample
from lipbench.types import View

if TYPE_CHECKING:
    import pyarrow as pa

_OPEN_SHARDS: Final = 64  # memory maps held open a process: GRID has about 1,000, a process may often hold 1,024


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
        raise DamagedStore(f"{path} is damaged at the clip {clip_id} ({short(error)}); {REMEDY}") from error
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
            found[clip_id] = short(error)
        advance(1)
    return found


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
        """The spoken words, lower case; empty where the corpus has no text."""
        return str(self._value("text"))

    @cached_property
    def words(self) -> list[Word]:
        """Start and end in seconds and the word, silences included; empty where word times are unknown."""
        return [Word(w["start"], w["end"], w["word"]) for w in self._value("words")]

    @cached_property
    def symbols(self) -> list[str]:
        """L members of the vocabulary of the corpus's tokenizer; empty where the corpus has no text."""
        return list(self._value("symbols"))

    @property
    def durations(self) -> npt.NDArray[np.int64]:
        """(L,) frames a symbol, summing to `n_frames`; empty where the corpus has no text."""
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
                    f"{self.shard} is damaged at frame {frame} of {self.clip_id} ({short(error)}); {REMEDY}"
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
        self.manifest: dict[str, Any] = manifest.read(self.path)
        packed = self.manifest["packed"]
        self.packed = View(**packed) if packed else None
        self.has_text = self.manifest["settings"].get("durations") != "none"
        """Whether its clips have text, tokens and durations."""
        # Shards that are open, with the clips that were read from them: opening and checking a clip costs as much as
        # decoding a small picture, and training comes back to every clip in every epoch.
        self._shards: OrderedDict[str, tuple[pa.RecordBatchFileReader, dict[str, StoredClip]]] = OrderedDict()

    @cached_property
    def clip_ids(self) -> list[str]:
        """All clips, sorted."""
        return sorted(self.manifest["clips"])

    def column(self, name: str) -> list[Any]:
        """One column of the manifest, such as "text" or "speaker", in the order of `clip_ids`."""
        lines = self.manifest["clips"]
        if isinstance(lines, manifest.ClipLines):
            return lines.column(name)
        return [lines[clip_id][name] for clip_id in self.clip_ids]

    @property
    def info(self) -> dict[str, Any]:
        """What a record says about the store: settings, counts, and the packed view if it is a packed one."""
        return {
            "settings": self.manifest["settings"],
            "counts": self.manifest["counts"],
            "packed": str(self.packed) if self.packed else None,
        }

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files: each process opens its own."""
        return {**self.__dict__, "_shards": OrderedDict()}

    def __len__(self) -> int:
        """Clips in the store."""
        return len(self.manifest["clips"])

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
        lines = self.manifest["clips"]
        own = lines.of_shard(name) if isinstance(lines, manifest.ClipLines) else lines
        mine = {clip_id: lines[clip_id] for clip_id in own if lines[clip_id]["shard"] == name}
        path = self._shard(name)
        if not path.is_file():
            return dict.fromkeys(mine, f"{path.name} is lost")
        try:
            found = damaged(path, self.packed)
            stored = shard_metadata(path)["clips"]
        except DamagedStore as error:
            return dict.fromkeys(mine, short(error))
        for clip_id, line in mine.items():
            if {"shard": name, **stored.get(clip_id, {})} != line:
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
