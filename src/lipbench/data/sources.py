"""What a store holds already, and whether it was made from these very files: a second run does only the rest."""

import hashlib
import json
import math
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from lipbench.data import shards as shard_files
from lipbench.data import store as stores
from lipbench.data.corpus import RawClip
from lipbench.data.progress import bar
from lipbench.files import sha256, write_text
from lipbench.types import View

_CLIPS_A_SHARD: Final = 24


def assign(clips: Iterable[RawClip]) -> dict[str, list[RawClip]]:
    """Shard name -> clips, by a hash of the clip's id; the number of shards of a speaker is a power of two."""
    speakers: dict[str, list[RawClip]] = {}
    for clip in clips:
        speakers.setdefault(clip.speaker, []).append(clip)
    shards: dict[str, list[RawClip]] = {}
    for speaker, members in speakers.items():
        bits = max(0, round(math.log2(len(members) / _CLIPS_A_SHARD)))
        for clip in sorted(members, key=lambda c: c.clip_id):
            bucket = int(hashlib.sha256(clip.clip_id.encode("utf-8", "surrogateescape")).hexdigest()[:8], 16) % 2**bits
            shards.setdefault(f"{speaker}-{bucket:03d}of{2**bits:03d}", []).append(clip)
    return dict(sorted(shards.items()))


def limited(clips: Iterable[RawClip], limit: int) -> list[RawClip]:
    """At most so many clips of each speaker, the first ones."""
    kept: dict[str, list[RawClip]] = {}
    for clip in clips:
        kept.setdefault(clip.speaker, []).append(clip)
    return [clip for members in kept.values() for clip in members[:limit]]


def _files(clip: RawClip) -> list[Path]:
    return [path for path in (clip.video, clip.align, clip.exact, clip.text) if path is not None]


def identity(clip: RawClip) -> dict[str, Any]:
    """What the result of a clip depends on: the content of its files, its sentence, and what the scan found."""
    hashes = [sha256(path) if path.is_file() else None for path in _files(clip)]
    return {"files": hashes, "sentence": clip.sentence, "problem": clip.problem}


def stamps(clips: Iterable[RawClip]) -> dict[str, list[Any]]:
    """Sizes and times of the files of a shard, and what the scan found."""
    stamps: dict[str, list[Any]] = {}
    for clip in clips:
        stats = [path.stat() for path in _files(clip) if path.exists()]
        stamps[clip.clip_id] = [clip.problem, *([stat.st_size, stat.st_mtime_ns] for stat in stats)]
    return stamps


def up_to_date(
    path: Path, clips: list[RawClip], stamps: dict[str, list[Any]], seen: dict[str, list[Any]] | None
) -> bool:
    """Whether a shard was made from these very files: by size and time, and where these are unknown, by content."""
    if not path.is_file():
        return False
    metadata = shard_files.shard_metadata(path)
    if any(line.get("again") for line in metadata["rejected"].values()):
        return False
    if seen == stamps:
        return True
    return bool(metadata["sources"] == {clip.clip_id: identity(clip) for clip in clips})


def _paths(folder: Path, names: Collection[str] | None) -> list[Path]:
    """Files of shards, of all or of those that are named."""
    return [path for path in sorted((folder / "shards").glob("*.arrow")) if names is None or path.stem in names]


def unreadable_shards(
    folder: Path, settings: dict[str, Any], names: Collection[str] | None = None
) -> dict[str, dict[str, str]]:
    """Shards whose head or end is damaged: name -> {its name -> reason}, since the clips in it are not known.

    Args:
        folder: The store.
        settings: The store's.
        names: Look at these only.
    """
    found: dict[str, dict[str, str]] = {}
    for path in _paths(folder, names):
        try:
            if shard_files.shard_metadata(path)["settings"] != settings:  # one shard alone: see `check_settings`
                found[path.stem] = {path.stem: "its settings are not those of the store"}
        except shard_files.DamagedStore as error:
            found[path.stem] = {path.stem: str(error)}
    return found


def damaged_shards(
    folder: Path,
    settings: dict[str, Any],
    packed: View | None,
    progress: bool,
    names: Collection[str] | None = None,
) -> dict[str, dict[str, str]]:
    """Shards with rows that are not as they were written: name -> clip id -> what is wrong.

    Args:
        folder: The store.
        settings: The store's.
        packed: The view of a packed store.
        progress: Show a bar.
        names: Look at these only.
    """
    found = unreadable_shards(folder, settings, names)
    whole = [path for path in _paths(folder, names) if path.stem not in found]
    total = sum(len(shard_files.shard_metadata(path)["clips"]) for path in whole)
    with bar(progress, total, 0, "comparing with hashes") as advance:
        for path in whole:
            if lines := stores.damaged(path, packed, advance):
                found[path.stem] = lines
    return found


def keep_what_cannot_be_made(damaged: dict[str, dict[str, str]], shards: dict[str, list[RawClip]]) -> None:
    """Stop before anything is written if a damaged shard has no source: its whole clips would be lost.

    Raises:
        ValueError: The message names the shard.
    """
    speakers = {clip.speaker for members in shards.values() for clip in members}
    for name, lines in damaged.items():
        if name.rsplit("-", 1)[0] not in speakers:
            clip, how = next(iter(lines.items()))
            raise ValueError(
                f"the shard {name} is damaged ({clip}: {how}), and its speaker is not in the corpus folder: give a "
                "folder that holds it with --root, or delete the shard"
            )


class Seen:
    """Sizes and times of the source files at the last look, so that a second run need not hash them; holds no results.

    Each part notes what it has seen in a file of its own; `write` puts them together.

    Args:
        folder: The store.
        part: That this run makes; None makes all.

    Attributes:
        known: Shard name -> stamps of its clips. Lines that are none, such as the last of a run that was killed, are
            passed over, which costs nothing but hashing.
    """

    def __init__(self, folder: Path, part: tuple[int, int] | None) -> None:
        self._folder = folder
        self._file = folder / (f"seen-{part[0]}of{part[1]}.jsonl" if part else "seen.jsonl")
        self.known: dict[str, dict[str, list[Any]]] = {}
        for file in [folder / "seen.jsonl", *sorted(folder.glob("seen-*.jsonl"))]:
            for line in file.read_bytes().splitlines() if file.is_file() else []:
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if not isinstance(entry, dict):
                    continue
                name, stamps = entry.get("shard"), entry.get("stamps")
                if isinstance(name, str) and isinstance(stamps, dict):
                    self.known[name] = stamps

    def append(self, name: str, stamps: dict[str, list[Any]]) -> None:
        """Note what a shard was made from."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"shard": name, "stamps": stamps}) + "\n")

    def write(self, now: dict[str, dict[str, list[Any]]]) -> None:
        """One file in place of those of all parts, whose locks go too.

        Args:
            now: Stamps of every shard of this corpus folder.
        """
        there = {path.stem for path in (self._folder / "shards").glob("*.arrow")}
        lines = {name: stamps for name, stamps in self.known.items() if name in there} | now
        text = "".join(json.dumps({"shard": name, "stamps": own}) + "\n" for name, own in sorted(lines.items()))
        file = self._folder / "seen.jsonl"
        if not file.is_file() or file.read_bytes() != text.encode():
            write_text(file, text)
        for path in [*self._folder.glob("seen-*.jsonl"), *self._folder.glob(".part-*.lock")]:
            path.unlink()


def missing(folder: Path, shards: list[str], lacking: list[str]) -> str:
    """What to type where shards are missing that the end of `prepare` in parts needs.

    Args:
        folder: The store.
        shards: All of the corpus, in order.
        lacking: Those that are not there, or not made from the files as they are now.
    """
    parts = {int(path.stem.partition("of")[2]) for path in folder.glob(".part-*of*.lock")}
    which = ""
    if len(parts) == 1:
        count = parts.pop()
        numbers = sorted({shards.index(name) % count + 1 for name in lacking})
        which = f", of the parts {', '.join(f'{number}/{count}' for number in numbers)}"
    return (
        f"{len(lacking)} of {len(shards)} shards of {folder} are missing{which}: run these parts again, then --finish; "
        "without --part and --finish this machine makes the rest"
    )


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Stop if the store was made otherwise, by what most of its shards say: one shard alone may be damaged.

    Raises:
        ValueError: The message says which settings differ.
    """
    found: list[dict[str, Any]] = []
    for path in sorted((folder / "shards").glob("*.arrow")):
        with suppress(shard_files.DamagedStore):
            found.append(shard_files.shard_metadata(path)["settings"])
    if not found:
        return
    have = max(found, key=found.count)
    differing = [
        f"{k} {have.get(k)!r}, now {settings.get(k)!r}"
        for k in sorted({*have, *settings})
        if have.get(k) != settings.get(k)
    ]
    if differing:
        raise ValueError(
            f"the store {folder} was made with other settings ({'; '.join(differing)}). "
            "Name another folder with --store, or delete that one"
        )
