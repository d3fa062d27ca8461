"""Scores videos that were made elsewhere: a row a clip, and a record that stands beside those of trained models."""

import dataclasses
import hashlib
import multiprocessing
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lipbench.data import _protocol, _store
from lipbench.data._store import Store
from lipbench.evaluation import _writing, pairing, record, videos
from lipbench.evaluation.calibration import ROWS
from lipbench.evaluation.pairing import Job, Key, named
from lipbench.evaluation.record import Record
from lipbench.evaluation.videos import Truth
from lipbench.media import geometry
from lipbench.metrics import _shipped
from lipbench.metrics._bank import Bank, Entry, Scene, Take, wants
from lipbench.types import ClipBatch, Timing, View

_MODEL: Final = "model"
_CHECKS: Final = ("ground-truth", "frozen-frame")
"""Calibration rows that need nothing but the reference."""
_GIVES: Final = {"sound": "--audio DIR gives it", "text": "--text, a CSV file or a folder, gives it"}
_COLUMNS: Final = (
    "clip_id",
    "speaker",
    "reason",
    "sound",
    "sound_seconds",
    "compared_frames",
    *(f"{side}_{what}" for side in ("generated", "reference") for what in ("frames", "fps", "size")),
)
"""Of the table, before the metrics."""
CORPUS_INSTEAD: Final = "corpus instead of its own"
"""Whose sound a video is judged beside, where it brought one that a prepared corpus' comes before."""


@dataclass
class _Item:
    """A clip that was read."""

    facts: dict[str, Any]
    truth: Truth | None = None
    made: Tensor | None = None  # (N, 3, h, w) uint8
    compared: int = 0  # frames
    sound: Tensor | None = None  # (S,)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Given:
    """What the user chose that reading depends on.

    Args:
        store: Of the references; None if they are videos.
        view: What generated frames show; None for whole frames.
        fps: Frames a second of pictures.
        landmarks: Who finds the 68 points.
        audio: Sounds lie in a folder of their own.
        text: Texts were given.
        own_sound: The sound of the generated video comes before that of the reference; never beside a store, where
            all rows of a table hear the corpus'.
    """

    store: Store | None
    view: View | None
    fps: float | None
    landmarks: str
    audio: bool
    text: bool
    own_sound: bool


class _Jobs(Dataset[_Item]):
    """Reads clips, in worker processes or not; whatever is wrong with one becomes its reason."""

    def __init__(self, jobs: Sequence[Job], given: _Given) -> None:
        self.jobs = list(jobs)
        self.given = given

    def __len__(self) -> int:
        """Clips."""
        return len(self.jobs)

    def __getitem__(self, index: int) -> _Item:
        """Read both videos of a clip."""
        job = self.jobs[index]
        item = _Item({"clip_id": job.clip_id, "speaker": job.speaker})
        try:
            item.truth = self._truth(job)
        except Exception as error:  # whatever a broken file sets off is its own affair; it must not stop the others
            item.notes.append(f"reference: {_why(error)}")
            return item
        item.facts |= {
            "reference_frames": len(item.truth),
            "reference_fps": round(item.truth.fps, 4),
            "reference_size": "x".join(map(str, item.truth.size[::-1])),
        }
        if job.generated is None:
            item.notes.append("no generated video of this name")
            return item
        try:
            self._look(job.generated, item, item.truth)
        except Exception as error:  # as above
            item.notes.append(_why(error))
        return item

    def _truth(self, job: Job) -> Truth:
        given = self.given
        if given.store is None:
            own = job.sound if given.audio else Path(job.reference)
            return videos.from_video(Path(job.reference), given.fps, own, job.said, given.landmarks)
        truth = videos.from_store(given.store[str(job.reference)])
        if given.audio:
            truth = _changed(truth, "sound", lambda: videos.read_sound(job.sound))
        if given.text:
            truth = _changed(truth, "text", lambda: videos.read_text(job.said)[0])
        return truth

    def _look(self, path: Path, item: _Item, truth: Truth) -> None:
        """Read a generated video."""
        given = self.given
        clip = videos.read(path, truth.fps, given.fps, truth.times)
        item.facts |= {
            "generated_frames": clip.source_frames,
            "generated_fps": round(clip.source_fps or truth.fps, 4),
            "generated_size": "x".join(map(str, clip.size[::-1])),
        }
        item.made, item.compared = videos.view_of(clip, truth, given.view, given.landmarks)
        item.facts["compared_frames"] = item.compared
        if not item.compared:
            item.notes.append(
                f"{len(clip.frames)} frames at {truth.fps:g} a second beside {len(truth)} of the reference, more than "
                f"{videos.SLACK} apart: not compared frame by frame"
            )
        origin = "audio" if given.audio else "reference" if given.own_sound else "corpus"
        item.sound = truth.sound
        if not given.audio:
            try:
                own = videos.read_sound(path, clip.start)
                item.sound, origin = (own, "generated") if given.own_sound else (truth.sound, CORPUS_INSTEAD)
            except (ValueError, OSError) as error:  # many systems write only pictures, or a silent track
                item.notes += [str(error)] if given.own_sound and truth.sound is None else []
        if item.sound is None:
            item.notes.append(f"{'reference: ' if given.own_sound else ''}{truth.missing['sound']}")
        else:
            item.facts |= {"sound": origin, "sound_seconds": round(len(item.sound) / videos.RATE, 4)}
        if given.text and truth.text is None:
            item.notes.append(truth.missing["text"])


def _changed(truth: Truth, key: Literal["sound", "text"], read: Callable[[], Tensor | str]) -> Truth:
    """A reference with another sound or text, or with the reason why there is none."""
    try:
        return dataclasses.replace(truth, **{key: read()})  # type: ignore[arg-type]
    except (ValueError, OSError) as error:
        return dataclasses.replace(truth, **{key: None}, missing={**truth.missing, key: str(error)})  # type: ignore[arg-type]


def _why(error: Exception) -> str:
    """An error as a reason on one line."""
    text = str(error) if isinstance(error, ValueError | OSError) else f"unexpected {type(error).__name__}: {error}"
    return " ".join(text.split())


def falls_short(clip: Mapping[str, Any] | pd.DataFrame) -> Any:  # noqa: ANN401 - a bool, or one a row
    """Whether a sound ends long before the generated pictures that are judged beside it; of a clip, or of a table."""
    return clip["sound_seconds"] + videos.SOUND_SLACK < clip["generated_frames"] / clip["generated_fps"]


def evaluate(
    generated: str | Path,
    reference: str | Path | None = None,
    *,
    name: str | None = None,
    out: str | Path | None = None,
    protocol: str | None = None,
    partial: bool = False,
    view: str | None = None,
    timing: Timing = "free",
    audio: str | Path | None = None,
    text: str | Path | Mapping[str, str] | None = None,
    fps: float | None = None,
    landmarks: str = "dlib",
    metrics: Sequence[str] | None = None,
    files: Mapping[str, str] | None = None,
    calibration: bool = True,
    workers: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Score videos that any system made against their references.

    Memory holds one clip at a time, and those that workers read ahead. What happens to videos of another frame rate,
    size or length is said in `lipbench.evaluation.videos`; the table shows it clip by clip.

    Args:
        generated: Folder of videos, or of folders of pictures, with or without speaker folders (`pairing.find`).
        reference: The same, or a prepared store; default: that of the protocol's corpus.
        name: Of the row; default: the folder's.
        out: Results folder, for records that `compare` ranks; None writes nothing.
        protocol: Score the test clips of a protocol against its prepared store, beside trained models.
        partial: Score those references only that have a generated video.
        view: What generated frames show, a named box of the canonical picture such as "mouth"; None for whole frames.
        timing: Who decided how long each sound lasts: "given" (the truth), "length" (the truth's length) or "free".
        audio: Folder of sounds; default: the generated video's own, else the reference's. Beside a prepared store: the
            corpus', as for trained models. Beside videos, each video's pictures are judged beside its own sound.
        text: What is said: see `pairing.find_texts`; default: what the store says, else nothing.
        fps: Frames a second of folders of pictures; generated ones have their reference's by default.
        landmarks: "dlib" or "face-alignment", to find faces.
        metrics: Names or groups; default: see `lipbench.metrics._bank.select`.
        files: Weights: metric or observer -> path. What comes with lipbench judges its own protocols unless others
            are named here.
        calibration: Score the ground truth and a frozen first frame beside the videos.
        workers: Processes that read; scripts then need `if __name__ == "__main__":`.
        progress: Show a bar.

    Returns:
        A row a clip: clip_id, speaker, `reason` for what is missing, `sound` (whose the generated pictures are judged
        beside), what was found of both videos, and a column a metric, NaN = undefined. `attrs` hold "scores" (column ->
        mean over clips), "reasons" (why a column is empty or not complete) and "records" (paths, the videos' own
        first).

    Raises:
        FileNotFoundError: A folder is not there, or holds no videos.
        ValueError: Options do not fit together, names do not match, or no clip could be scored.
        Unavailable: A metric asked for by its own name cannot be computed here.
    """
    generated = Path(generated).expanduser()
    name = name or _plain(generated)
    _check(name, fps, timing)
    reference, store = _reference(reference, protocol)
    made = pairing.find(generated)
    jobs, about = pairing.stored(store, protocol, made) if store else pairing.filmed(reference, made)
    jobs = pairing.expected(jobs, made, protocol, partial)
    if audio is not None:
        jobs = pairing.attached(jobs, "sound", pairing.find_sounds(Path(audio)))
    if text is not None:
        jobs = pairing.attached(jobs, "said", pairing.find_texts(text))
    if store is None and fps is None and any(Path(job.reference).is_dir() for job in jobs):
        raise ValueError("references that are folders of pictures have no frame rate; add it, such as --fps 25")
    crop = None if view is None else _crop(view, jobs, fps)
    judges = _shipped.judges(protocol) if protocol else {}
    bank = Bank(metrics, {**judges, **(files or {})}, _store.home() / "cache" / "observations")
    run = _Run(bank, crop or videos.FACE, calibration)
    own_sound = store is None and audio is None
    given = _Given(store, crop, fps, landmarks, audio is not None, text is not None, own_sound)
    for index, item in enumerate(_read(_Jobs(jobs, given), workers, progress)):
        run.add(index, item)
    table = run.table(pairing.orphans(made, jobs) if protocol is None else [])
    if not run.scored:
        first = run.facts[0]
        raise ValueError(f"none of the {len(run.facts)} clips could be scored; {first['clip_id']}: {first['reason']}")
    about["protocol"] = about["protocol"] or {
        "name": f"evaluate/{_plain(reference)}",
        "version": 1,
        "split_sha256": run.sha256,
    }
    about["data"]["settings"] |= {"landmarks": landmarks, "detect_every": videos.EVERY} if store is None else {}
    about["data"]["settings"] |= {k: "given" for k, v in (("sound", audio), ("text", text)) if v is not None}
    records = run.records(name, timing, about)
    tables = [table, *(run.per_clip(row) for row in run.rows if row != _MODEL)]
    paths = record.write(list(zip(records, tables, strict=True)), Path(out)) if out is not None else []
    scores = records[0].scores
    table.attrs = {
        "scores": {column: found.value for column, found in scores.items()},
        "reasons": {column: found.reason for column, found in scores.items() if found.reason},
        "records": [str(path) for path in paths],
    }
    return table


# ------------------------------------------------------------------------------------------- what belongs together


def _plain(folder: Path) -> str:
    """A folder's name as part of a record's path."""
    return re.sub(r"[^\w.+-]+", "-", folder.resolve().name)[:80].strip("-.") or "videos"


def _check(name: str, fps: float | None, timing: str) -> None:
    _writing.check_name("the name", name)
    if name in ROWS:
        raise ValueError(f"{name!r} cannot be the name of a row: it is that of a calibration row")
    if fps is not None and not 0 < fps < 1000:
        raise ValueError(f"fps is {fps:g}; expected frames a second, such as 25")
    if timing not in get_args(Timing):
        raise ValueError(f"unknown timing {timing!r}; expected {', '.join(get_args(Timing))}")


def _reference(reference: str | Path | None, protocol: str | None) -> tuple[Path, Store | None]:
    """The folder of references, and the store if it is one.

    Raises:
        FileNotFoundError: The protocol needs a prepared store, and there is none.
        ValueError: Neither a reference nor a protocol, or the store is packed or of another corpus.
    """
    data = None if protocol is None else _protocol.load(protocol).data
    if reference is None:
        if data is None:
            raise ValueError("where are the references? Give --reference DIR, or --protocol NAME of a prepared corpus")
        reference = _store.default_path(data)
    folder = Path(reference).expanduser()
    if not (folder / _store.MANIFEST).is_file():
        if data is None:
            return folder, None
        raise FileNotFoundError(
            f"{protocol} is scored against the prepared corpus, and {folder} is no prepared store. Make it with: "
            f"lipbench prepare --data {data}{'' if data == 'rendered' else ' --root DIR'}"
        )
    store = Store(folder)
    if store.packed is not None:
        raise ValueError(f"the store {folder} is packed: it holds the view {store.packed} only, not whole faces")
    if data is not None and store.manifest["settings"]["data"] != data:
        raise ValueError(f"the store {folder} holds {store.manifest['settings']['data']!r}; {protocol} needs {data!r}")
    return folder, store


def _crop(view: str, jobs: Sequence[Job], fps: float | None) -> View:
    """The view at the size of the first video that can be read.

    Raises:
        ValueError: There is no such view, or it has another shape.
    """
    reason = ""
    for job in jobs:
        if job.generated is None:
            continue
        try:
            size = videos.read(job.generated, pictures_fps=fps or 25).size
        except (ValueError, OSError) as error:
            reason = reason or f"{job.clip_id}: {error}"
            continue
        return videos.crop_view(view, size)
    raise ValueError(f"no generated video can be read; {reason}")


# ---------------------------------------------------------------------------------------------------------- scoring


def _one_thread(worker: int) -> None:
    """Processes are the parallelism: OpenCV would start threads for every processor in each."""
    import cv2

    cv2.setNumThreads(1)


def _read(jobs: _Jobs, workers: int, progress: bool) -> Iterator[_Item]:
    """Clips in order, read by other processes if there are any."""
    context = None
    if workers > 0:  # forking a process that has used OpenCV before may hang in its threads
        context = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    loader: DataLoader[_Item] = DataLoader(
        jobs,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        multiprocessing_context=context,
        worker_init_fn=_one_thread if workers else None,
    )
    if not progress:
        yield from loader
        return
    from rich import progress as bars

    columns = (bars.TextColumn("scoring"), bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeRemainingColumn())
    with bars.Progress(*columns, refresh_per_second=2) as bar:
        task = bar.add_task("", total=len(jobs))
        for item in loader:
            yield item
            bar.advance(task)


class _Run:
    """Scores of the videos and of the calibration rows, clip by clip.

    Args:
        bank: The metrics.
        view: What is judged natively.
        calibrate: Score the calibration rows.
    """

    def __init__(self, bank: Bank, view: View, calibrate: bool) -> None:
        self.bank = bank
        self.view = view
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.rows = {name: bank.row(self.device) for name in (_MODEL, *(_CHECKS if calibrate else ()))}
        self.scored = 0
        self.facts: dict[int, dict[str, Any]] = {}
        self.speakers: dict[int, str] = {}  # of the clips whose reference is of use
        self._digests: dict[int, str] = {}
        self._lacking: dict[str, Counter[str]] = {name: Counter() for name in self.rows}
        self._hears = any("sound" in wants(e, bank.observers) for e in bank.entries if e.name not in bank.reasons)

    def add(self, index: int, item: _Item) -> None:
        """Score a clip."""
        truth = item.truth
        if truth is not None:
            self.speakers[index] = item.facts["speaker"]
            self._digests[index] = truth.sha256
            self._score(index, item, truth)
        self.facts[index] = item.facts | {"reason": record.portable("; ".join(item.notes))}

    @torch.inference_mode()
    def _score(self, index: int, item: _Item, truth: Truth) -> None:
        whole = self.bank.scene(self._batch(index, item, truth, len(truth), truth.sound), self.view)
        if len(self.rows) > 1:
            real = whole.reference.native
            for name in _CHECKS:
                still = name == "frozen-frame"
                take = whole.take(real[:, :1].expand_as(real), recurs=True) if still else whole.reference
                self._update(name, item, take, whole)
        lacking = self._lacking[_MODEL]
        if item.made is None:
            lacking["video"] += 1
            return
        frames = item.compared or len(truth)
        scene = heard = whole
        if frames != len(truth):
            scene = heard = self.bank.scene(self._batch(index, item, truth, frames, truth.sound), self.view)
        if self._hears and item.sound is not None:
            # Each video beside its own sound: beside one sound for both, a late one would be late for the reference
            # too, and cancel in what compares the two.
            if item.sound is not truth.sound:
                heard = self.bank.scene(self._batch(index, item, truth, frames, item.sound), self.view)
            if truth.sound is None:
                scene = heard
                item.notes.append(
                    f"reference: {truth.missing['sound']}; its pictures are judged beside the generated video's, so "
                    "that a shift of that sound does not show in av_offset"
                )
            if falls_short(item.facts):
                seconds = item.facts["generated_frames"] / item.facts["generated_fps"]
                item.notes.append(
                    f"the sound ({item.facts['sound']}) lasts {item.facts['sound_seconds']:.2f} s beside {seconds:.2f} "
                    "s of pictures: synchrony is judged only so far"
                )
        lacking["length"] += not item.compared
        made = item.made[None].to(self.device).float() / 255  # (1, N, 3, h, w)
        self._update(_MODEL, item, heard.take(made, torch.tensor([made.shape[1]])), scene)
        self.scored += 1

    def _update(self, row: str, item: _Item, take: Take, scene: Scene) -> None:
        """Score a video, beside its own scene's sound, against a scene's reference, beside that scene's."""
        batch = take.scene.batch
        for key in _GIVES:
            self._lacking[row][key] += key not in batch
        try:
            self.rows[row].update(take, scene)
        except (ValueError, RuntimeError) as error:  # a clip that no metric foresaw must not end the others' scoring
            item.notes.append(f"{'' if row == _MODEL else f'{row}: '}not scored: {_why(error)}")

    def _batch(self, index: int, item: _Item, truth: Truth, frames: int, sound: Tensor | None) -> ClipBatch:
        """A reference's first frames as a batch of one clip."""
        face = truth.face[None, :frames].to(self.device)  # (1, T, 3, 352, 320)
        first, last = (min(k, frames) for k in truth.speech)
        batch: dict[str, Any] = {
            "index": torch.tensor([index]),
            "clip_id": [item.facts["clip_id"]],
            "speaker": [item.facts["speaker"]],
            "video": geometry.crop(face, self.view).float() / 255,  # (1, T, 3, h, w)
            "video_len": torch.tensor([frames]),
            "n_frames": torch.tensor([frames]),
            "fps": torch.tensor([truth.fps], dtype=torch.float32),
            "speech": torch.tensor([[first, last] if first < last else [0, frames]]),
            "face": face,
            "landmarks": truth.landmarks[None, :frames],
        }
        if sound is not None:
            batch |= {"sound": sound[None], "sound_len": torch.tensor([len(sound)])}
        if truth.text is not None:
            batch["text"] = [truth.text]
        moved = {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in batch.items()}
        return moved  # type: ignore[return-value]  # a TypedDict put together key by key

    @property
    def sha256(self) -> str:
        """Of the references, by name and content."""
        lines = sorted(f"{self.facts[k]['clip_id']} {digest}" for k, digest in self._digests.items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def per_clip(self, row: str) -> pd.DataFrame:
        """clip_id, speaker and a column a metric, for all clips that were read; sorted."""
        frame = pd.DataFrame(
            {key: {k: self.facts[k][key] for k in self.speakers} for key in ("clip_id", "speaker")},
            index=list(self.speakers),
        )
        return self._scores(frame, row).sort_values("clip_id")

    def table(self, orphans: Sequence[Key]) -> pd.DataFrame:
        """Everything known of every clip, sorted; orphans are generated videos without a reference."""
        lines = list(self.facts.values())
        lines += [
            {"clip_id": named(key), "speaker": key[0] or "unknown", "reason": "no reference of this name"}
            for key in orphans
        ]
        frame = pd.DataFrame(lines, index=[*self.facts, *range(-len(orphans), 0)], columns=list(_COLUMNS))
        frame = frame.astype({name: "Int64" for name in _COLUMNS if name.endswith("_frames")})
        frame = frame.astype({"sound_seconds": "float64", "generated_fps": "float64"})
        return self._scores(frame, _MODEL).sort_values("clip_id", ignore_index=True)

    def _scores(self, frame: pd.DataFrame, row: str) -> pd.DataFrame:
        columns = self.rows[row].local()
        for name, clips in columns.items():
            frame[name] = pd.Series(clips.value, index=clips.index, dtype="float64")
        return frame

    def records(self, name: str, timing: Timing, about: Mapping[str, Any]) -> list[Record]:
        """One record a row; that of the videos first."""
        created = record.now()
        clip_ids = [self.facts[k]["clip_id"] for k in self.speakers]
        shared: dict[str, Any] = {
            "control": None,
            "protocol": about["protocol"],
            "clips": {
                "n": len(self.speakers),
                "speakers": len(set(self.speakers.values())),
                "sha256": record.clips_sha256(clip_ids),
            },
            "view": str(self.view),
            "training": {},
            "data": record.portable(about["data"]),
            "environment": record.environment(),
            "command": record.command(),
            "created": created,
        }
        columns = {row: self.rows[row].local() for row in self.rows}
        found = []
        for row, scores in columns.items():
            summary = {}
            sets = self.rows[row].whole()
            for entry in self.bank.entries:
                column, judge = entry.name, self.bank.judges.get(entry.name)
                if column in sets:
                    reason = self._reason(entry, row, sets[column][1])
                    summary[column] = record.set_score(column, *sets[column], len(self.speakers), judge, reason)
                else:
                    known = scores[column] if column in scores and len(scores[column].index) else None
                    defined = 0 if known is None else int(np.isfinite(known.value).sum())
                    reason = self._reason(entry, row, defined)
                    summary[column] = record.score(column, known, self.speakers, judge, reason)
            if row == _MODEL:
                model = {"about": "videos made elsewhere", "policy": videos.POLICY}
                run = created.replace(":", "").removesuffix("Z")
                found.append(
                    Record(kind="model", name=name, run=run, timing=timing, model=model, scores=summary, **shared)
                )
            else:
                model = {"about": ROWS[row]}
                draft = Record(kind="calibration", name=row, run="", timing=None, model=model, scores=summary, **shared)
                found.append(dataclasses.replace(draft, run=draft.calibration_run))
        if len(columns) > 1:
            pairs = [
                record.pair(name, own, columns["frozen-frame"][name], "frozen-frame", self.speakers)
                for name, own in columns[_MODEL].items()
            ]
            found[0] = dataclasses.replace(found[0], paired=[pair for pair in pairs if pair is not None])
            found[0].beside.extend(row for row in columns if row != _MODEL)
        return found

    def _reason(self, entry: Entry, row: str, defined: int) -> str | None:
        """Why a column is empty or not complete.

        Args:
            entry: The column.
            row: Of the table.
            defined: Clips with a score.
        """
        if entry.name in self.bank.reasons:
            return str(record.portable(self.bank.reasons[entry.name]))
        lacking, total = self._lacking[row], len(self.speakers)
        needed = wants(entry, self.bank.observers)
        parts = {f"{lacking['video']} of {total} videos are not there or cannot be used": lacking["video"]}
        parts |= {
            f"{lacking[key]} of {total} clips have no {key} ({how})": lacking[key]
            for key, how in _GIVES.items()
            if key in needed
        }
        if entry.metric.aligned:
            parts[f"{lacking['length']} of {total} clips are more than {videos.SLACK} frames longer or shorter"] = (
                lacking["length"]
            )
        rest = total - defined - sum(parts.values())
        parts[f"{rest} of {total} clips have no score: {entry.metric.undefined}"] = max(rest, 0)
        return "; ".join(part for part, count in parts.items() if count) or None
