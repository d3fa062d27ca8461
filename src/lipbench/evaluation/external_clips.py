"""One clip made elsewhere: both videos are read and scored, in the main process or in a worker."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
import torch
from torch import Tensor

from lipbench.data.store import Store
from lipbench.evaluation import clip_scores, external_videos, record
from lipbench.evaluation.bank import Bank, ScoreRow, required_keys
from lipbench.evaluation.clip_scores import Scores
from lipbench.evaluation.external_videos import Truth
from lipbench.evaluation.pairing import Job
from lipbench.evaluation.scoreboard import MODEL
from lipbench.media import geometry
from lipbench.scoring.views import ReferenceBatch, VideoViews
from lipbench.types import ClipBatch, View

CHECKS: Final = ("ground-truth", "frozen-frame")
"""Calibration rows that need nothing but the reference."""
GIVES: Final = {"sound": "--audio DIR gives it", "text": "--text, a CSV file or a folder, gives it"}
"""Batch key that may be absent -> what to type."""
CORPUS_INSTEAD: Final = "corpus instead of its own"
"""Whose sound a video is judged beside, where it brought one that a prepared corpus' comes before."""


@dataclass(frozen=True)
class Given:
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


@dataclass(frozen=True)
class Plan:
    """What is scored; pickles without tensors.

    Args:
        given: What reading depends on.
        metrics: Names or groups.
        files: Weights: metric or observer -> path.
        cache: Folder of observations that are kept.
        device: On which clips are scored.
        view: What is judged natively.
        calibrate: Score the calibration rows.
    """

    given: Given
    metrics: list[str] | None
    files: dict[str, str]
    cache: Path
    device: str
    view: View
    calibrate: bool

    def rows(self, bank: Bank) -> dict[str, ScoreRow]:
        """Empty accumulators, that of the videos first; the same in every process."""
        return {name: bank.row(self.device) for name in (MODEL, *(CHECKS if self.calibrate else ()))}


@dataclass(frozen=True)
class Outcome:
    """What became of a clip.

    Args:
        index: Its position.
        facts: What is known of it: columns of the table -> values.
        sha256: Of its reference; None if that is of no use.
        scored: The generated video was compared.
        lacking: Row -> what was missing -> 0 or 1.
        scores: What was found.
    """

    index: int
    facts: dict[str, Any]
    sha256: str | None
    scored: bool
    lacking: dict[str, Counter[str]]
    scores: Scores


@dataclass
class _Item:
    """A clip that was read."""

    facts: dict[str, Any]
    truth: Truth | None = None
    made: Tensor | None = None  # (N, 3, h, w) uint8
    whole: Tensor | None = None  # (N, 3, 224, 224) uint8
    compared: int = 0  # frames
    sound: Tensor | None = None  # (S,)
    notes: list[str] = field(default_factory=list)


class Reader:
    """Reads clips; whatever is wrong with one becomes its reason.

    Args:
        given: What the user chose.
        whole: Keep whole frames, where both videos show them.
    """

    def __init__(self, given: Given, whole: bool = False) -> None:
        self.given = given
        self.whole = whole and given.store is None and given.view is None

    def read(self, job: Job) -> _Item:
        """Read both videos of a clip."""
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
            path = Path(job.reference)
            return external_videos.from_video(path, given.fps, own, job.said, given.landmarks, self.whole)
        truth = external_videos.from_store(given.store[str(job.reference)])
        if given.audio:
            truth = _changed(truth, "sound", lambda: external_videos.read_sound(job.sound))
        if given.text:
            truth = _changed(truth, "text", lambda: external_videos.read_text(job.said)[0])
        return truth

    def _look(self, path: Path, item: _Item, truth: Truth) -> None:
        """Read a generated video."""
        given = self.given
        clip = external_videos.read(path, truth.fps, given.fps, truth.times)
        item.facts |= {
            "generated_frames": clip.source_frames,
            "generated_fps": round(clip.source_fps or truth.fps, 4),
            "generated_size": "x".join(map(str, clip.size[::-1])),
        }
        item.made, item.compared = external_videos.view_of(clip, truth, given.view, given.landmarks)
        item.facts["compared_frames"] = item.compared
        if self.whole:
            item.whole = external_videos.squeezed(clip.frames[: len(item.made)])
        if not item.compared:
            item.notes.append(
                f"{len(clip.frames)} frames at {truth.fps:g} a second beside {len(truth)} of the reference, more than "
                f"{external_videos.SLACK} apart: not compared frame by frame"
            )
        origin = "audio" if given.audio else "reference" if given.own_sound else "corpus"
        item.sound = truth.sound
        if not given.audio:
            try:
                own = external_videos.read_sound(path, clip.start)
                item.sound, origin = (own, "generated") if given.own_sound else (truth.sound, CORPUS_INSTEAD)
            except (ValueError, OSError) as error:  # many systems write only pictures, or a silent track
                item.notes += [str(error)] if given.own_sound and truth.sound is None else []
        if item.sound is None:
            item.notes.append(f"{'reference: ' if given.own_sound else ''}{truth.missing['sound']}")
        else:
            item.facts |= {"sound": origin, "sound_seconds": round(len(item.sound) / external_videos.RATE, 4)}
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
    return clip["sound_seconds"] + external_videos.SOUND_SLACK < clip["generated_frames"] / clip["generated_fps"]


class Scorer:
    """Reads and scores clips, one by one.

    Args:
        plan: What for.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.bank = Bank(plan.metrics, plan.files, plan.cache)
        self.rows = plan.rows(self.bank)
        clip_scores.keeping(self.rows)
        self._scored = False
        self._lacking: dict[str, Counter[str]] = {}
        needed = set[str]().union(
            *(required_keys(e, self.bank.observers) for e in self.bank.entries if e.name not in self.bank.reasons)
        )
        self._hears = "sound" in needed
        self._reader = Reader(plan.given, "whole" in needed)

    def __call__(self, task: tuple[int, Job]) -> Outcome:
        """Read and score a clip, given with its position."""
        index, job = task
        item = self._reader.read(job)
        self._scored, self._lacking = False, {name: Counter() for name in self.rows}
        if item.truth is not None:
            self._score(index, item, item.truth)
        facts = item.facts | {"reason": record.portable("; ".join(item.notes))}
        sha256 = None if item.truth is None else item.truth.sha256
        return Outcome(index, facts, sha256, self._scored, self._lacking, clip_scores.taken(self.rows))

    @torch.inference_mode()
    def _score(self, index: int, item: _Item, truth: Truth) -> None:
        whole = self.bank.scene(self._batch(index, item, truth, len(truth), truth.sound), self.plan.view)
        if self.plan.calibrate:
            real, shown = whole.reference.native, whole.reference.whole
            frozen = None if shown is None else shown[:, :1].expand_as(shown)
            for name in CHECKS:
                take = whole.reference
                if name == "frozen-frame":
                    take = whole.take(real[:, :1].expand_as(real), cacheable=True, whole=frozen)
                self._update(name, item, take, whole)
        lacking = self._lacking[MODEL]
        if item.made is None:
            lacking["video"] += 1
            return
        frames = item.compared or len(truth)
        scene = heard = whole
        if frames != len(truth):
            scene = heard = self.bank.scene(self._batch(index, item, truth, frames, truth.sound), self.plan.view)
        if self._hears and item.sound is not None:
            # Each video beside its own sound: beside one sound for both, a late one would be late for the reference
            # too, and cancel in what compares the two.
            if item.sound is not truth.sound:
                heard = self.bank.scene(self._batch(index, item, truth, frames, item.sound), self.plan.view)
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
        made = item.made[None].to(self.plan.device).float() / 255  # (1, N, 3, h, w)
        shown = None if item.whole is None else item.whole[None].to(self.plan.device)  # (1, N, 3, 224, 224)
        self._update(MODEL, item, heard.take(made, torch.tensor([made.shape[1]]), whole=shown), scene)
        self._scored = True

    def _update(self, row: str, item: _Item, take: VideoViews, scene: ReferenceBatch) -> None:
        """Score a video, beside its own scene's sound, against a scene's reference, beside that scene's."""
        batch = take.scene.batch
        for key in GIVES:
            self._lacking[row][key] += key not in batch
        try:
            self.rows[row].update(take, scene)
            if row == MODEL and "landmarks" in self.bank.observers:
                lost = take.observe("landmarks")[0, : int(take.length[0])].isnan().flatten(1).any(1)  # (N,)
                if lost.any():
                    item.notes.append(f"no face in {int(lost.sum())} of {len(lost)} generated frames")
        except (ValueError, RuntimeError) as error:  # a clip that no metric foresaw must not end the others' scoring
            item.notes.append(f"{'' if row == MODEL else f'{row}: '}not scored: {_why(error)}")

    def _batch(self, index: int, item: _Item, truth: Truth, frames: int, sound: Tensor | None) -> ClipBatch:
        """A reference's first frames as a batch of one clip."""
        face = truth.face[None, :frames].to(self.plan.device)  # (1, T, 3, 352, 320)
        first, last = (min(k, frames) for k in truth.speech)
        batch: dict[str, Any] = {
            "index": torch.tensor([index]),
            "clip_id": [item.facts["clip_id"]],
            "speaker": [item.facts["speaker"]],
            "video": geometry.crop(face, self.plan.view).float() / 255,  # (1, T, 3, h, w)
            "video_len": torch.tensor([frames]),
            "n_frames": torch.tensor([frames]),
            "fps": torch.tensor([truth.fps], dtype=torch.float32),
            "speech": torch.tensor([[first, last] if first < last else [0, frames]]),
            "face": face,
            "landmarks": truth.landmarks[None, :frames],
        }
        if truth.whole is not None:
            batch["whole"] = truth.whole[None, :frames]
        if sound is not None:
            batch |= {"sound": sound[None], "sound_len": torch.tensor([len(sound)])}
        if truth.text is not None:
            batch["text"] = [truth.text]
        moved = {
            key: value.to(self.plan.device) if isinstance(value, Tensor) else value for key, value in batch.items()
        }
        return moved  # type: ignore[return-value]  # a TypedDict put together key by key
