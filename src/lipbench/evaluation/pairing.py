"""Which files belong to one clip: generated video, reference, sound and text, by their names."""

import codecs
import csv
import dataclasses
import io
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from lipbench.data import protocol as protocols
from lipbench.data.store import Store

VIDEOS: Final = (".mp4", ".avi", ".mpg", ".mpeg", ".mov", ".mkv", ".webm", ".m4v")
PICTURES: Final = (".png", ".jpg", ".jpeg")
SOUNDS: Final = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus")
_TEXTS: Final = (".txt", ".align")

Key = tuple[str, str]
"""Speaker's folder ("" without one) and name, in composed Unicode (NFC): macOS writes "ü" as two characters, most other
systems as one, and both are one name."""


def named(key: Key) -> str:
    """Such as "s1/bbaf2n", or "bbaf2n" without a speaker's folder."""
    return "/".join(part for part in key if part)


# ---------------------------------------------------------------------------------------------------- what there is


def find(root: Path) -> dict[Key, Path]:
    """Videos in a folder and in one level of speaker folders below it: files, and folders of numbered pictures.

    Args:
        root: Holds `x.mp4`, `x/0001.png` and so on, or `s1/x.mp4`, `s1/x/0001.png`.

    Returns:
        Name -> file, or folder of pictures; sorted.

    Raises:
        FileNotFoundError: There is no such folder, or no video in it.
        ValueError: Two videos have one name.
    """
    found = _listed(root, _is_video, "videos")
    if not found:
        seen = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
        shown = ", ".join(seen[:6]) + (", ..." if len(seen) > 6 else "") if seen else "nothing"
        raise FileNotFoundError(
            f"no videos in {root}: looked for {', '.join(VIDEOS)} files and folders of PNG or JPEG frames, there and "
            f"in one level of speaker folders; found {shown}"
        )
    return found


def find_sounds(root: Path) -> dict[Key, Path]:
    """Sound files, or videos for their sound, in a folder; see `find` for the layout and the errors."""
    found = _listed(root, lambda path: path.is_file() and path.suffix.lower() in (*SOUNDS, *VIDEOS), "sound files")
    if not found:
        raise FileNotFoundError(f"no sound files in {root}: looked for {', '.join((*SOUNDS, *VIDEOS))}")
    return found


def find_texts(source: str | Path | Mapping[str, str]) -> dict[Key, str | Path]:
    """What is said in each clip.

    Args:
        source: A CSV file with the columns `clip` (or `clip_id`) and `text`; a folder of .txt or GRID's .align files,
            laid out as in `find`, of which .align has word times too and comes first; or name -> text.

    Returns:
        Name -> text, or the file that holds it.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: The CSV file lacks a column, or a clip is in it twice.
    """
    if isinstance(source, Mapping):
        given = {_key(name): said for name, said in source.items()}
        if len(given) < len(source):
            raise ValueError(f"{len(source)} texts are given for {len(given)} names: one name is there twice")
        return dict(given)
    source = Path(source).expanduser()
    if source.is_dir():
        plain = _listed(source, lambda path: path.is_file() and path.suffix.lower() == ".txt", "texts")
        timed = _listed(source, lambda path: path.is_file() and path.suffix.lower() == ".align", "texts")
        if not plain and not timed:
            raise FileNotFoundError(f"no texts in {source}: looked for {', '.join(_TEXTS)} files")
        return {**plain, **timed}
    if not source.is_file():
        raise FileNotFoundError(f"no texts at {source}: expected a CSV file, or a folder of .txt or .align files")
    try:
        header, *rows = csv.reader(io.StringIO(read_words(source), newline=""))
    except (ValueError, csv.Error) as error:  # ValueError: empty, or no text
        raise ValueError(f"{source.name} is no CSV file in UTF-8 with a header: {error}") from error
    columns = [name.strip() for name in header]
    clip = next((name for name in ("clip", "clip_id") if name in columns), None)
    if clip is None or "text" not in columns:
        raise ValueError(f"{source.name} has the columns {', '.join(columns)}; expected clip and text")
    found: dict[Key, str | Path] = {}
    for row in rows:
        line = dict(zip(columns, row, strict=False))  # a short line has no text
        key = _key(line.get(clip, ""))
        if key in found:
            raise ValueError(f"{source.name} has the clip {named(key)} twice")
        found[key] = line.get("text", "")
    return found


def read_words(path: Path) -> str:
    """Text of a file in UTF-8, with or without a byte order mark, or in UTF-16 with one, as Windows writes it.

    Raises:
        ValueError: It is in another encoding.
    """
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name} is no text in UTF-8 ({error.reason} at byte {error.start}); save it so"
        ) from None


def match(have: Collection[Key], wanted: Iterable[Key], what: str) -> dict[Key, Key]:
    """Which of the names that are there belongs to each that is wanted.

    Args:
        have: What is there.
        wanted: Names of the references.
        what: What is matched, for errors, such as "generated video".

    Returns:
        Wanted -> there, where there is one.

    Raises:
        ValueError: Names without a speaker's folder leave a choice.
    """
    by_name: dict[str, list[Key]] = defaultdict(list)
    for key in have:
        by_name[key[1]].append(key)
    chosen: dict[Key, Key] = {}
    taken: dict[Key, Key] = {}
    for key in wanted:
        fits = [k for k in by_name.get(key[1], []) if k[0] == key[0] or not k[0] or not key[0]]
        fits = [key] if key in fits else fits
        if len(fits) > 1:
            raise ValueError(f"{what}s {' and '.join(map(named, fits))} could both belong to {named(key)}")
        if not fits:
            continue
        if fits[0] in taken:
            raise ValueError(
                f"{what} {named(fits[0])} could belong to {named(taken[fits[0]])} and to {named(key)}: put it into its "
                "speaker's folder"
            )
        chosen[key] = fits[0]
        taken[fits[0]] = key
    return chosen


def _listed(root: Path, accept: Callable[[Path], bool], what: str) -> dict[Key, Path]:
    root = root.expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}" if not root.exists() else f"{root} is no folder of {what}")
    found: dict[Key, Path] = {}

    def entries(folder: Path) -> Iterator[Path]:
        return (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))

    def add(speaker: str, path: Path) -> None:
        key = _composed(speaker, path.name if path.is_dir() else path.stem)
        if key in found:
            raise ValueError(f"{found[key].name} and {path.name} in {path.parent} have one name; keep one of them")
        found[key] = path

    for path in entries(root):
        if accept(path):
            add("", path)
        elif path.is_dir():
            for inner in entries(path):
                if accept(inner):
                    add(path.name, inner)
    return found


def _is_video(path: Path) -> bool:
    """A video file, or a folder that holds pictures and neither videos nor folders."""
    if path.is_file():
        return path.suffix.lower() in VIDEOS
    pictures = False
    for inner in path.iterdir() if path.is_dir() else ():
        if inner.suffix.lower() in VIDEOS or (inner.is_dir() and not inner.name.startswith(".")):
            return False
        pictures |= inner.suffix.lower() in PICTURES
    return pictures


def _key(name: str) -> Key:
    """Key of a name as people write it: "grid/s1/bbaf2n", "s1/bbaf2n.mp4", "bbaf2n"."""
    path = Path(name.strip())
    known = (*VIDEOS, *SOUNDS, *_TEXTS)
    return _composed(path.parent.name, path.stem if path.suffix.lower() in known else path.name)


def _composed(speaker: str, name: str) -> Key:
    return unicodedata.normalize("NFC", speaker), unicodedata.normalize("NFC", name)


# ------------------------------------------------------------------------------------------- what belongs together


@dataclass(frozen=True)
class Job:
    """A clip to be read, and all that belongs to it."""

    clip_id: str
    speaker: str
    generated: Path | None
    reference: Path | str  # a video, or the id of a stored clip
    sound: Path | None = None
    said: str | Path | None = None


def match_store(store: Store, protocol: str | None, made: Mapping[Key, Path]) -> tuple[list[Job], dict[str, Any]]:
    """Clips of a store, or the test clips of a protocol in it; and what the record says of them.

    Raises:
        ValueError: The store has no test clip of the protocol.
    """
    clip_ids, about = store.clip_ids, None
    if protocol is not None:
        chosen = protocols.load(protocol)
        split = chosen.split(store.clip_ids)
        clip_ids = [clip_id for clip_id in split.test if clip_id in store]
        if not clip_ids:
            raise ValueError(f"none of the {len(split.test):,} test clips of {protocol} is in the store {store.path}")
        about = {"name": chosen.name, "version": chosen.version, "split_sha256": split.sha256}
    keys: dict[Key, str] = {_composed(*clip_id.split("/")[-2:]): clip_id for clip_id in clip_ids}
    found = match(made, keys, "generated video")
    jobs = [Job(clip_id, key[0], made.get(found.get(key, ("", ""))), clip_id) for key, clip_id in keys.items()]
    data = {"settings": dict(store.manifest["settings"]), "counts": store.manifest["counts"], "packed": None}
    return jobs, {"protocol": about, "data": data}


def match_videos(reference: Path, made: Mapping[Key, Path]) -> tuple[list[Job], dict[str, Any]]:
    """Clips of a folder of videos; and what the record says of them."""
    true = find(reference)
    found = match(made, true, "generated video")
    jobs = [
        Job(named(key), key[0] or "unknown", made.get(found.get(key, ("", ""))), path) for key, path in true.items()
    ]
    return jobs, {"protocol": None, "data": {"settings": {}, "packed": None}}


def expected(jobs: list[Job], made: Mapping[Key, Path], protocol: str | None, partial: bool) -> list[Job]:
    """The clips that are expected.

    Raises:
        ValueError: No name is in both folders, or a protocol's clip has no video.
    """
    there = [job for job in jobs if job.generated is not None]
    if not there:
        raise ValueError(
            f"no generated video has the name of a reference: {_few([named(key) for key in made])} beside "
            f"{_few([job.clip_id for job in jobs])}"
        )
    if protocol is not None and len(there) < len(jobs) and not partial:
        absent = [job.clip_id for job in jobs if job.generated is None]
        raise ValueError(
            f"{len(absent)} of the {len(jobs)} test clips of {protocol} have no generated video: {_few(absent)}. "
            "--partial scores the others, in a table of their own"
        )
    return there if partial else jobs


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def with_audio(jobs: Sequence[Job], what: Literal["sound", "said"], have: Mapping[Key, str | Path]) -> list[Job]:
    """Give every clip its sound or text.

    Raises:
        ValueError: None has one.
    """
    keys = {job: _key(job.clip_id) for job in jobs}
    name = {"sound": "sound", "said": "text"}[what]
    found = match(have, keys.values(), name)
    if not found:
        raise ValueError(
            f"no {name} has the name of a clip: {_few([named(key) for key in have])} beside "
            f"{_few([job.clip_id for job in jobs])}"
        )
    return [
        dataclasses.replace(job, **{what: have[found[keys[job]]]}) if keys[job] in found else job  # type: ignore[arg-type]
        for job in jobs
    ]


def unmatched(made: Mapping[Key, Path], jobs: Sequence[Job]) -> list[Key]:
    """Generated videos that belong to no clip."""
    used = {job.generated for job in jobs}
    return [key for key, path in made.items() if path not in used]
