"""Scores videos that were made elsewhere: a row a clip, and a record that stands beside those of trained models."""

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import pandas as pd
import torch

from lipbench.data import protocol as protocols
from lipbench.data.manifest import MANIFEST
from lipbench.data.store import Store
from lipbench.evaluation import clip_scores, external_videos, output_folder, pairing, record, writing
from lipbench.evaluation.bank import Bank, MetricSpec, required_keys, unsuited_view
from lipbench.evaluation.calibration import AGAINST, ROWS
from lipbench.evaluation.external_clips import GIVES, Given, Outcome, Plan, Scorer
from lipbench.evaluation.pairing import Job, Key, named
from lipbench.evaluation.scoreboard import MODEL, Scoreboard, ScoredRow, Subject
from lipbench.evaluation.workers import Pool
from lipbench.paths import default_store, home
from lipbench.pretrained import bundled
from lipbench.types import Timing, View

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

    Every process holds one clip at a time. What happens to videos of another frame rate,
    size or length is said in `lipbench.evaluation.external_videos`; the table shows it clip by clip.

    Args:
        generated: Folder of videos, or of folders of pictures, with or without speaker folders (`pairing.find`).
        reference: The same, or a prepared store; default: that of the protocol's corpus.
        name: Of the row; default: the folder's. Of both, whatever cannot stand in the name of a file becomes "-".
        out: Results folder, for records that `compare` ranks; None writes nothing.
        protocol: Score the test clips of a protocol against its prepared store, beside trained models.
        partial: Score those references only that have a generated video.
        view: What generated frames show, a named box of the canonical picture such as "mouth"; None for whole frames.
        timing: Who decided how long each sound lasts: "given" (the truth), "speech" (the truth's length and when
                speech begins and ends), "length" (the truth's length) or "free".
        audio: Folder of sounds; default: the generated video's own, else the reference's. Beside a prepared store: the
            corpus', as for trained models. Beside videos, each video's pictures are judged beside its own sound.
        text: What is said: see `pairing.find_texts`; default: what the store says, else nothing.
        fps: Frames a second of folders of pictures; generated ones have their reference's by default.
        landmarks: "dlib" or "face-alignment", to find faces.
        metrics: Columns, groups, or metrics of other packages; default: see `lipbench.evaluation.bank.select`.
        files: Weights: metric or observer -> path, or name as `lipbench weights` lists it. What comes with lipbench
            judges its own protocols unless others are named here.
        calibration: Score the ground truth and a frozen first frame beside the videos.
        workers: Processes that read and score, with a thread each; scripts then need `if __name__ == "__main__":`. 0:
            this process does.
        progress: Show a bar.

    Returns:
        A row a clip: clip_id, speaker, `reason` for what is missing, `sound` (whose the generated pictures are judged
        beside), what was found of both videos, and a column a metric, NaN = undefined. `attrs` hold "scores" (column ->
        mean over clips), "reasons" (why a column is empty or not complete) and "records" (paths, the videos' own
        first).

    Raises:
        FileNotFoundError: A folder is not there, or holds no videos.
        ValueError: Options do not fit together, names do not match, no column can be computed, or no clip could be
            scored.
        OSError: The results folder cannot be written; known before the work.
        Unavailable: A metric asked for by its own name cannot be computed here.
    """
    generated = Path(generated).expanduser()
    # As folders are named after; a path stays what it is, and is refused.
    name = (
        writing.file_name(generated.resolve().name, "videos")
        if name is None
        else re.sub(r"[^\w.+/\\-]+", "-", name).strip("-")
    )
    _check(name, fps, timing)
    reference, store = _reference(reference, protocol)
    made = pairing.find(generated)
    jobs, about = pairing.match_store(store, protocol, made) if store else pairing.match_videos(reference, made)
    jobs = pairing.expected(jobs, made, protocol, partial)
    if audio is not None:
        jobs = pairing.with_audio(jobs, "sound", pairing.find_sounds(Path(audio)))
    if text is not None:
        jobs = pairing.with_audio(jobs, "said", pairing.find_texts(text))
    if store is None and fps is None and any(Path(job.reference).is_dir() for job in jobs):
        raise ValueError("references that are folders of pictures have no frame rate; add it, such as --fps 25")
    crop = None if view is None else _crop(view, jobs, fps)
    judges = bundled.judges(protocol) if protocol else {}
    weights = {**judges, **bundled.resolved(files or {}, home())}
    cache = home() / "cache" / "observations"
    chosen = None if metrics is None else list(metrics)
    bank = Bank(chosen, weights, cache)
    clip_scores.refuse_empty([bank], "--files")
    if out is not None:
        output_folder.probe(Path(out))
    own_sound = store is None and audio is None
    given = Given(store, crop, fps, landmarks, audio is not None, text is not None, own_sound)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plan = Plan(given, chosen, weights, cache, device, crop or external_videos.FACE, calibration)
    run = _Run(bank, plan)
    with _bar(len(jobs), progress) as advance:

        def done(outcome: Outcome) -> None:
            run.add(outcome)
            advance()

        with Pool(functools.partial(Scorer, plan), min(workers, len(jobs)), done, "--workers") as pool:
            for task in enumerate(jobs):
                pool.submit(task[1].clip_id, task)
            pool.finish()
    table = run.table(pairing.unmatched(made, jobs) if protocol is None else [])
    if not run.scored:
        first = run.facts[0]
        raise ValueError(f"none of the {len(run.facts)} clips could be scored; {first['clip_id']}: {first['reason']}")
    about["protocol"] = about["protocol"] or {
        "name": f"evaluate/{writing.file_name(reference.resolve().name, 'videos')}",
        "version": 1,
        "split_sha256": run.sha256,
    }
    about["data"]["settings"] |= (
        {"landmarks": landmarks, "detect_every": external_videos.EVERY} if store is None else {}
    )
    about["data"]["settings"] |= {k: "given" for k, v in (("sound", audio), ("text", text)) if v is not None}
    board = run.scoreboard()
    created = record.now()
    made_elsewhere = {"about": "videos made elsewhere", "policy": external_videos.POLICY}
    subject = Subject(name, created.replace(":", "").removesuffix("Z"), timing, made_elsewhere)
    records = board.records(
        subject,
        protocol=about["protocol"],
        view=str(plan.view),
        data=about["data"],
        created=created,
        against=AGAINST,
    )
    tables = [table, *board.tables()[1:]]
    paths = record.write(list(zip(records, tables, strict=True)), Path(out)) if out is not None else []
    scores = records[0].scores
    table.attrs = {
        "scores": {column: found.value for column, found in scores.items()},
        "reasons": {column: found.reason for column, found in scores.items() if found.reason},
        "records": [str(path) for path in paths],
    }
    return table


# ------------------------------------------------------------------------------------------- what belongs together


def _check(name: str, fps: float | None, timing: str) -> None:
    writing.check_name("the name", name)
    if name in ROWS:
        raise ValueError(f"{name!r} cannot be the name of a row: it is that of a calibration row. Add --name NAME")
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
    data = None if protocol is None else protocols.load(protocol).data
    if reference is None:
        if data is None:
            raise ValueError("where are the references? Give --reference DIR, or --protocol NAME of a prepared corpus")
        reference = default_store(data)
    folder = Path(reference).expanduser()
    if not (folder / MANIFEST).is_file():
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
            size = external_videos.read(job.generated, pictures_fps=fps or 25).size
        except (ValueError, OSError) as error:
            reason = reason or f"{job.clip_id}: {error}"
            continue
        return external_videos.crop_view(view, size)
    raise ValueError(f"no generated video can be read; {reason}")


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[], None]]:
    """A bar of progress; gives what advances it by a clip."""
    if not shown:
        yield lambda: None
        return
    from rich import progress as bars

    columns = (bars.TextColumn("scoring"), bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeRemainingColumn())
    with bars.Progress(*columns, refresh_per_second=2) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


class _Run:
    """Scores of the videos and of the calibration rows, over all clips.

    Args:
        bank: The metrics.
        plan: What is scored.
    """

    def __init__(self, bank: Bank, plan: Plan) -> None:
        self.bank = bank
        self._view = plan.view
        self.rows = plan.rows(bank)
        self.scored = 0
        self.facts: dict[int, dict[str, Any]] = {}
        self.speakers: dict[int, str] = {}  # of the clips whose reference is of use
        self._digests: dict[int, str] = {}
        self._lacking: dict[str, Counter[str]] = {name: Counter() for name in self.rows}

    def add(self, outcome: Outcome) -> None:
        """Take what became of a clip."""
        if outcome.sha256 is not None:
            self.speakers[outcome.index] = outcome.facts["speaker"]
            self._digests[outcome.index] = outcome.sha256
        self.scored += outcome.scored
        self.facts[outcome.index] = outcome.facts
        for row, lacking in outcome.lacking.items():
            self._lacking[row].update(lacking)
        clip_scores.given(self.rows, outcome.scores)

    @property
    def sha256(self) -> str:
        """Of the references, by name and content."""
        lines = sorted(f"{self.facts[k]['clip_id']} {digest}" for k, digest in self._digests.items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

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
        for name, clips in self.rows[MODEL].local_scores().items():
            frame[name] = pd.Series(clips.value, index=clips.index, dtype="float64")
        return frame.sort_values("clip_id", ignore_index=True)

    def scoreboard(self) -> Scoreboard:
        """The rows, that of the videos first."""
        clips = {k: (self.facts[k]["clip_id"], speaker) for k, speaker in self.speakers.items()}
        rows = {}
        for name, row in self.rows.items():
            columns, sets = row.local_scores(), row.compute_set()
            defined = {column: int(np.isfinite(found.value).sum()) for column, found in columns.items()}
            defined |= {column: count for column, (_, count) in sets.items()}
            entries = self.bank.entries
            found = {entry.name: self._reason(entry, name, defined.get(entry.name, 0)) for entry in entries}
            reasons = {column: reason for column, reason in found.items() if reason is not None}
            rows[name] = ScoredRow(entries, columns, sets, reasons, self.bank.judges)
        return Scoreboard(clips, rows, ROWS)

    def _reason(self, entry: MetricSpec, row: str, defined: int) -> str | None:
        """Why a column is empty or not complete.

        Args:
            entry: The column.
            row: Of the table.
            defined: Clips with a score.
        """
        if entry.name in self.bank.reasons:
            return str(record.portable(self.bank.reasons[entry.name]))
        unsuited = unsuited_view(entry, self._view)
        if unsuited is not None:
            return unsuited
        lacking, total = self._lacking[row], len(self.speakers)
        needed = required_keys(entry, self.bank.observers)
        parts = {f"{lacking['video']} of {total} videos are not there or cannot be used": lacking["video"]}
        parts |= {
            f"{lacking[key]} of {total} clips have no {key} ({how})": lacking[key]
            for key, how in GIVES.items()
            if key in needed
        }
        if entry.metric.aligned:
            parts[
                f"{lacking['length']} of {total} clips are more than {external_videos.SLACK} frames longer or shorter"
            ] = lacking["length"]
        rest = total - defined - sum(parts.values())
        parts[f"{rest} of {total} clips have no score: {entry.metric.undefined}"] = max(rest, 0)
        return "; ".join(part for part, count in parts.items() if count) or None
