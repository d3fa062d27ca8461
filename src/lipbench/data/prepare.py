"""From raw corpus files to the prepared store: parallel, resumable, every clip judged.

A shard holds the clips of one speaker whose ids hash alike, about 30; which clip lies where depends on names only. A
shard is written in one piece together with the reasons of its rejected clips, so a kill at any instant leaves whole
shards or none, and the manifest, which is put together from the shards, comes out the same whatever was interrupted.
"""

import hashlib
import json
import math
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from lipbench.data import frame_checks, jpeg, process_pool, speech_checks
from lipbench.data import store as stores
from lipbench.errors import visible
from lipbench.files import sha256
from lipbench.media import alignment, audio, geometry, text, video
from lipbench.media import landmarks as backends
from lipbench.paths import default_store
from lipbench.types import View

if TYPE_CHECKING:
    from lipbench.data.datamodule import ClipDataModule

_RULES: Final = 3  # raised when the same files would give other rows or other reasons
_CLIPS_A_SHARD: Final = 24
_HIGHEST_RATE: Final = 48_000
_EVERY: Final = 15  # frames between two looks of the face detector
_FEWEST_FRAMES: Final = 25
_LONGEST_GAP: Final = 0.1  # s between the ends of alignment and picture; up to 0.02 s on whole GRID clips
_LEAST_COVERAGE: Final = 0.9  # share of frames with a face


@dataclass(frozen=True)
class RawClip:
    """A clip of a raw corpus, as found on the disk; nothing of it has been opened.

    Args:
        clip_id: Such as "grid/s1/bbaf2n", stable across machines. speaker: Such as "s1". video: File with picture and
        sound. align: File with word times. sentence: What is said, if the corpus says it apart from the alignment
        (GRID's file names): the two are compared. exact: File with exact landmarks (rendered corpus). problem: Why
        the clip cannot be used, if that is known already.
    """

    clip_id: str
    speaker: str
    video: Path
    align: Path | None = None
    sentence: str | None = None
    exact: Path | None = None
    problem: str | None = None


@dataclass
class Summary:
    """What a run of `prepare` left behind.

    Args:
        store: Folder.
        kept: Clips in the store.
        rejected: Clip id -> reason.
        done: Clips that this run looked at; 0 if everything was there already.
        added: Those of them that are in the store now.
        repaired: Clip id -> how its row was damaged; these were read anew (only with `verify`).
        seconds: Time this run took.
    """

    store: Path
    kept: int
    rejected: dict[str, str] = field(default_factory=dict)
    done: int = 0
    added: int = 0
    repaired: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def prepare(
    data: type["ClipDataModule"],
    root: str | Path | None = None,
    store: str | Path | None = None,
    *,
    landmarks: str = "dlib",
    workers: int | None = None,
    limit: int | None = None,
    verify: bool = False,
    progress: bool = True,
) -> Summary:
    """Read a corpus into a store, or bring a store up to date with its corpus.

    A shard that cannot be opened is made anew. Damage inside a shard shows only when every row is compared with its
    hash, which reads the whole store (`verify`).

    Clips that are broken are left out, each with a reason, and never stop the run. A clip is rejected if its files do
    not open, its alignment does not say what its name says or gives impossible times, its picture or face is broken
    (`_quality`), it has fewer than 25 frames, its words end more than 0.1 s from the end of the picture, its sound is
    broken, of another length, or not where the words are (`_speech`), or it has no face in more than a tenth of its
    frames.

    Args:
        data: The corpus.
        root: Its folder; by default from the environment (`LIPBENCH_GRID` and so on).
        store: Folder to write; by default `$LIPBENCH_HOME/stores/<data>`.
        landmarks: "dlib", "face-alignment", or "exact" (rendered corpus only).
        workers: Processes; by default one a processor.
        limit: At most this many clips a speaker, the first by name.
        verify: Compare every row that is there with its hash first, and make damaged shards anew.
        progress: Show a bar and a table.

    Returns:
        What is in the store now.

    Raises:
        FileNotFoundError: No corpus there.
        ValueError: Unknown landmarks, or the store was made with other settings, or a damaged shard holds a speaker
            that the corpus folder does not hold.
        RuntimeError: Another run is writing the same store, or a worker failed for a reason that lies in no clip.
    """
    started = time.monotonic()
    clips = data.scan(data.corpus(root))
    if limit is not None:
        clips = _limited(clips, limit)
    folder = Path(store) if store is not None else default_store(data.data)
    if landmarks == "exact" and not any(clip.exact for clip in clips):
        raise ValueError("landmarks 'exact' need a corpus that knows them (--data rendered); use 'dlib'")
    settings = {
        "data": data.data,
        "rules": _RULES,
        "landmarks": landmarks,
        "detect_every": _EVERY,
        "jpeg_quality": jpeg.QUALITY,
        "picture": [geometry.HEIGHT, geometry.WIDTH],
        "template": hashlib.sha256(geometry.TEMPLATE.tobytes()).hexdigest()[:16],
        "highest_sample_rate": _HIGHEST_RATE,
        "limit": limit,
    }
    shards_folder = folder / "shards"
    shards_folder.mkdir(parents=True, exist_ok=True)
    with stores.alone(folder, "prepare"):
        for part in [*folder.glob("*.part"), *shards_folder.glob("*.part")]:
            part.unlink()
        check_settings(folder, settings)
        shards = _assign(clips)
        damaged = damaged_shards(folder, settings, None, progress) if verify else unreadable_shards(folder, settings)
        _keep_what_cannot_be_made(damaged, shards)
        seen = _read_seen(folder)
        pending: dict[str, list[RawClip]] = {}
        for name, members in shards.items():
            stamps = _stamps(members)
            if name in damaged or not _up_to_date(shards_folder / f"{name}.arrow", members, stamps, seen.get(name)):
                pending[name] = members
            elif seen.get(name) != stamps:
                _append_seen(folder, name, stamps)
        done = sum(len(members) for members in pending.values())
        if pending:
            if landmarks != "exact":
                backends.load(landmarks)  # what it needs and lacks is said here, once, not with every clip
            with bar(progress, done, len(clips) - done) as advance:
                process_pool.run(
                    pending,
                    partial(_make_shard, folder, settings),
                    workers or process_pool.processors(),
                    finished=lambda name: _append_seen(folder, name, _stamps(pending[name])),
                    advance=advance,
                )
        speakers = {clip.speaker for clip in clips}
        for path in sorted(shards_folder.glob("*.arrow")):
            if path.stem not in shards and path.stem.rsplit("-", 1)[0] in speakers:
                path.unlink()  # clips that were there before and are gone, or a speaker with more clips than before
        manifest = write_manifest(folder, settings, None)
        _write_seen(folder, {name: _stamps(members) for name, members in shards.items()}, seen)
    summary = Summary(
        store=folder,
        kept=len(manifest["clips"]),
        rejected={clip_id: line["reason"] for clip_id, line in manifest["rejected"].items()},
        done=done,
        added=sum(clip.clip_id in manifest["clips"] for members in pending.values() for clip in members),
        repaired={clip_id: how for lines in damaged.values() for clip_id, how in lines.items()},
        seconds=time.monotonic() - started,
    )
    if progress:
        _print_table(manifest, summary)
    return summary


# ---------------------------------------------------------------------------------------------------- one clip


def _row(clip: RawClip, settings: dict[str, Any]) -> dict[str, Any]:
    """All columns of a clip.

    Raises:
        ValueError, OSError: The clip cannot be used; the message is the reason.
    """
    if clip.problem:
        raise ValueError(clip.problem)
    words = _words(clip)
    pictures = video.read_video(clip.video)
    frames, fps = pictures.frames, pictures.fps
    seconds = len(frames) / fps
    if len(frames) < _FEWEST_FRAMES:
        raise ValueError(f"too short: {len(frames)} frames ({seconds:.2f} s); a clip needs at least {_FEWEST_FRAMES}")
    if abs(words[-1].end - seconds) > _LONGEST_GAP:
        raise ValueError(
            f"picture and alignment differ in length: {len(frames)} frames are {seconds:.2f} s, "
            f"the alignment ends at {words[-1].end:.2f} s"
        )
    if broken := frame_checks.problem(frames):
        raise ValueError(broken)
    samples, rate = audio.read_audio(clip.video, start=pictures.start)
    if rate > _HIGHEST_RATE:
        samples, rate = audio.resample(samples, rate, _HIGHEST_RATE), _HIGHEST_RATE
    if broken := speech_checks.problem(samples, rate, words, seconds):
        raise ValueError(broken)
    points = _points(clip, frames, settings)
    if broken := frame_checks.face_problem(frames, points, alignment.speech_frames(words, len(frames), fps), fps):
        raise ValueError(broken)
    transforms = geometry.similarity(points)
    said = [w.word for w in alignment.spoken(words)]
    symbols = text.symbols(said)
    row: dict[str, Any] = {
        "clip_id": clip.clip_id,
        "speaker": clip.speaker,
        "text": " ".join(said),
        "words": [w._asdict() for w in words],
        "symbols": symbols,
        "durations": alignment.durations(words, symbols, len(frames), fps),
        "speech": list(alignment.speech_frames(words, len(frames), fps)),
        "fps": fps,
        "n_frames": len(frames),
        "frame_size": list(frames[0].shape[:2]),
        "sample_rate": rate,
        "sound": np.rint(samples * 32767).astype(np.int16),
        "transforms": transforms,
        "landmarks": geometry.transform_points(points, transforms).astype(np.float32),
        "pictures": [jpeg.encode(picture) for picture in geometry.warp(frames, transforms)],
        "source_sha256": sha256(clip.video),
    }
    return {**row, "hash": stores.row_hash(row)}


def _words(clip: RawClip) -> list[alignment.Word]:
    if clip.align is None:
        raise ValueError("no alignment file")
    words = alignment.read_align(clip.align)
    said = " ".join(w.word for w in alignment.spoken(words))
    if clip.sentence is not None and said != clip.sentence:
        raise ValueError(f"the alignment says {said!r}, the file name {clip.sentence!r}")
    if broken := speech_checks.words_problem(words):
        raise ValueError(broken)
    return words


def _points(clip: RawClip, frames: Sequence[video.Frame], settings: dict[str, Any]) -> npt.NDArray[np.float32]:
    if settings["landmarks"] == "exact":
        if clip.exact is None:
            raise ValueError("no file with exact landmarks")
        if not clip.exact.is_file():  # opening a pipe would wait for a writer
            raise ValueError(f"{clip.exact.name} is not a file")
        try:
            with np.load(clip.exact) as file:
                points = np.asarray(file["landmarks"], np.float32)
        except (ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{clip.exact.name} holds no exact landmarks ({error})") from error
        if points.shape != (len(frames), 68, 2):
            raise ValueError(f"exact landmarks of shape {points.shape} for {len(frames)} frames")
        return points
    track = backends.track(frames, backends.load(settings["landmarks"]), settings["detect_every"])
    if track.coverage < _LEAST_COVERAGE:
        raise ValueError(f"no face in {1 - track.coverage:.0%} of the frames")
    return track.points


# --------------------------------------------------------------------------------------------------- one shard


def _make_shard(
    folder: Path, settings: dict[str, Any], name: str, clips: list[RawClip], fatal: dict[str, str]
) -> Iterator[str]:
    """Read the clips of a shard and write it; yields each clip's id before it is begun.

    Args:
        folder: The store.
        settings: The store's.
        name: The shard.
        clips: Its clips.
        fatal: Clips that ended a worker process before, with the reason: they are not opened again.
    """
    rows: list[dict[str, Any]] = []
    lines: dict[str, dict[str, Any]] = {}
    rejected: dict[str, dict[str, Any]] = {}
    sources = {clip.clip_id: _identity(clip) for clip in clips}
    for clip in clips:
        yield clip.clip_id
        try:
            if clip.clip_id in fatal:
                raise ValueError(fatal[clip.clip_id])
            row = _row(clip, settings)
        except Exception as error:  # whatever a broken file sets off becomes its reason; it must not stop the others
            known = isinstance(error, ValueError | OSError)
            reason = visible(str(error) if known else f"unexpected {type(error).__name__}: {error}")
            rejected[clip.clip_id] = {"reason": reason, "again": clip.clip_id in fatal or not known}
        else:
            lines[clip.clip_id] = stores.summary(row, len(rows))
            rows.append(row)
    made_with = {package: version(package) for package in ("lipbench", "av", "opencv-python", "numpy")}
    metadata = {"settings": settings, "made_with": made_with, "clips": lines, "rejected": rejected, "sources": sources}
    stores.write_shard(folder / "shards" / f"{name}.arrow", rows, metadata)


def _assign(clips: Iterable[RawClip]) -> dict[str, list[RawClip]]:
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


def _limited(clips: Iterable[RawClip], limit: int) -> list[RawClip]:
    kept: dict[str, list[RawClip]] = {}
    for clip in clips:
        kept.setdefault(clip.speaker, []).append(clip)
    return [clip for members in kept.values() for clip in members[:limit]]


# --------------------------------------------------------------------------------------- what is there already


def _files(clip: RawClip) -> list[Path]:
    return [path for path in (clip.video, clip.align, clip.exact) if path is not None]


def _identity(clip: RawClip) -> dict[str, Any]:
    """What the result of a clip depends on: the content of its files, its sentence, and what the scan found."""
    hashes = [sha256(path) if path.is_file() else None for path in _files(clip)]
    return {"files": hashes, "sentence": clip.sentence, "problem": clip.problem}


def _stamps(clips: Iterable[RawClip]) -> dict[str, list[Any]]:
    """Sizes and times of the files of a shard, and what the scan found."""
    stamps: dict[str, list[Any]] = {}
    for clip in clips:
        stats = [path.stat() for path in _files(clip) if path.exists()]
        stamps[clip.clip_id] = [clip.problem, *([stat.st_size, stat.st_mtime_ns] for stat in stats)]
    return stamps


def _up_to_date(
    path: Path, clips: list[RawClip], stamps: dict[str, list[Any]], seen: dict[str, list[Any]] | None
) -> bool:
    """Whether a shard was made from these very files: by size and time, and where these are unknown, by content."""
    if not path.is_file():
        return False
    metadata = stores.shard_metadata(path)
    if any(line.get("again") for line in metadata["rejected"].values()):
        return False
    if seen == stamps:
        return True
    return bool(metadata["sources"] == {clip.clip_id: _identity(clip) for clip in clips})


def unreadable_shards(folder: Path, settings: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Shards whose head or end is damaged: name -> {its name -> reason}, since the clips in it are not known."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted((folder / "shards").glob("*.arrow")):
        try:
            if stores.shard_metadata(path)["settings"] != settings:  # one shard alone: see `check_settings`
                found[path.stem] = {path.stem: "its settings are not those of the store"}
        except stores.DamagedStore as error:
            found[path.stem] = {path.stem: str(error)}
    return found


def damaged_shards(
    folder: Path, settings: dict[str, Any], packed: View | None, progress: bool
) -> dict[str, dict[str, str]]:
    """Shards with rows that are not as they were written: name -> clip id -> what is wrong."""
    found = unreadable_shards(folder, settings)
    whole = [path for path in sorted((folder / "shards").glob("*.arrow")) if path.stem not in found]
    total = sum(len(stores.shard_metadata(path)["clips"]) for path in whole)
    with bar(progress, total, 0, "comparing with hashes") as advance:
        for path in whole:
            if lines := stores.damaged(path, packed, advance):
                found[path.stem] = lines
    return found


def _keep_what_cannot_be_made(damaged: dict[str, dict[str, str]], shards: dict[str, list[RawClip]]) -> None:
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


def _read_seen(folder: Path) -> dict[str, dict[str, list[Any]]]:
    """Notes of earlier runs; lines that are none are passed over, which costs nothing but hashing."""
    seen = {}
    file = folder / "seen.jsonl"
    for line in file.read_bytes().splitlines() if file.is_file() else []:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the last line of a run that was killed, or damage
        if isinstance(entry, dict) and isinstance(entry.get("shard"), str) and isinstance(entry.get("stamps"), dict):
            seen[entry["shard"]] = entry["stamps"]
    return seen


def _append_seen(folder: Path, name: str, stamps: dict[str, list[Any]]) -> None:
    with (folder / "seen.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"shard": name, "stamps": stamps}) + "\n")


def _write_seen(folder: Path, now: dict[str, dict[str, list[Any]]], before: dict[str, dict[str, list[Any]]]) -> None:
    lines = {name: stamps for name, stamps in before.items() if (folder / "shards" / f"{name}.arrow").is_file()} | now
    text = "".join(json.dumps({"shard": name, "stamps": stamps}) + "\n" for name, stamps in sorted(lines.items()))
    file = folder / "seen.jsonl"
    if not file.is_file() or file.read_bytes() != text.encode():
        stores.write_text(file, text)


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Stop if the store was made otherwise, by what most of its shards say: one shard alone may be damaged.

    Raises:
        ValueError: The message says which settings differ.
    """
    found: list[dict[str, Any]] = []
    for path in sorted((folder / "shards").glob("*.arrow")):
        with suppress(stores.DamagedStore):
            found.append(stores.shard_metadata(path)["settings"])
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


def write_manifest(folder: Path, settings: dict[str, Any], packed: View | None) -> dict[str, Any]:
    """Put the manifest together from the shards; sorted, with nothing in it that depends on order or time."""
    clips: dict[str, Any] = {}
    rejected: dict[str, Any] = {}
    made_with: dict[str, set[str]] = {}
    for path in sorted((folder / "shards").glob("*.arrow")):
        metadata = stores.shard_metadata(path)
        clips |= {clip_id: {"shard": path.stem, **line} for clip_id, line in metadata["clips"].items()}
        rejected |= {clip_id: {"reason": line["reason"]} for clip_id, line in metadata["rejected"].items()}
        for package, number in metadata["made_with"].items():
            made_with.setdefault(package, set()).add(number)
    manifest = {
        "format": stores.FORMAT,
        "settings": settings,
        "made_with": {package: sorted(numbers) for package, numbers in made_with.items()},
        "packed": asdict(packed) if packed else None,
        "counts": {
            "clips": len(clips),
            "rejected": len(rejected),
            "speakers": len({line["speaker"] for line in clips.values()}),
            "frames": sum(line["n_frames"] for line in clips.values()),
            "seconds": round(sum(line["n_frames"] / line["fps"] for line in clips.values()), 3),
        },
        "clips": clips,
        "rejected": rejected,
    }
    text = json.dumps(manifest, sort_keys=True, indent=1) + "\n"
    file = folder / stores.MANIFEST
    if not file.is_file() or file.read_bytes() != text.encode():
        stores.write_text(file, text)
    return manifest


# ----------------------------------------------------------------------------------------------- what one sees


@contextmanager
def bar(show: bool, total: int, before: int, what: str = "preparing") -> Iterator[Any]:
    """A progress bar; yields a function that moves it on."""
    if not show:
        yield lambda steps: None
        return
    from rich import progress as bars

    columns = [
        bars.TextColumn(what),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("clips, {task.fields[rate]}"),
        bars.TimeRemainingColumn(),
    ]
    with bars.Progress(*columns, refresh_per_second=2) as bar:  # drawing costs time that the workers need
        if before:
            bar.console.print(f"{before} clips are in the store already")
        task = bar.add_task("", total=total, rate="")
        started = time.monotonic()

        def advance(steps: int) -> None:
            bar.advance(task, steps)
            rate = bar.tasks[0].completed / max(time.monotonic() - started, 1e-6)
            bar.update(task, rate=f"{rate:.1f} a second")

        yield advance


def _print_table(manifest: dict[str, Any], summary: Summary) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    def shown(text: object) -> str:  # names and reasons come from files: brackets in them are no markup
        return escape(visible(str(text)))

    console = Console()
    counts = manifest["counts"]
    table = Table(title=shown(f"store {summary.store}"), title_justify="left")
    for heading in ("speaker", "clips", "minutes", "rejected"):
        table.add_column(heading, justify="left" if heading == "speaker" else "right")
    speakers: dict[str, list[float]] = {}
    for line in manifest["clips"].values():
        entry = speakers.setdefault(line["speaker"], [0, 0, 0])
        entry[0] += 1
        entry[1] += line["n_frames"] / line["fps"] / 60
    for clip_id in manifest["rejected"]:
        speakers.setdefault(clip_id.split("/")[1], [0, 0, 0])[2] += 1
    for name, (clips, minutes, bad) in sorted(speakers.items(), key=lambda item: (len(item[0]), item[0])):
        table.add_row(shown(name), f"{clips:.0f}", f"{minutes:.1f}", f"{bad:.0f}" if bad else "")
    table.add_section()
    table.add_row("all", str(counts["clips"]), f"{counts['seconds'] / 60:.1f}", str(counts["rejected"] or ""))
    console.print(table)
    if summary.rejected:
        reasons = Table(title="rejected", title_justify="left")
        reasons.add_column("clip", no_wrap=True)
        reasons.add_column("reason")
        for clip_id, reason in list(summary.rejected.items())[:20]:
            reasons.add_row(shown(clip_id), shown(reason))
        console.print(reasons)
        if len(summary.rejected) > 20:
            console.print(f"... and {len(summary.rejected) - 20} more in {shown(summary.store / stores.MANIFEST)}")
    for clip_id, how in summary.repaired.items():
        console.print(f"made anew: {shown(clip_id)} ({shown(how)})")
    looked = f"{summary.done} clips read, {summary.added} of them kept" if summary.done else "nothing to do"
    console.print(f"{looked}, {summary.seconds:.0f} s")
