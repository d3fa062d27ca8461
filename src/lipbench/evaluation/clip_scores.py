"""Scores the clips of a test in all its rows: the model's, those of its controls, and the calibration rows.

Each clip is scored by itself, so that its scores do not depend on the batch it came in, nor on the process that scores
it. What a process finds of a clip travels as `Scores` to the rows of the main process, which add it up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipbench.evaluation import calibration
from lipbench.evaluation.bank import Bank, ScoreRow, required_keys
from lipbench.evaluation.calibration import Control
from lipbench.evaluation.kept import KeptScores, RowScores
from lipbench.evaluation.record import Record
from lipbench.evaluation.scoreboard import MODEL
from lipbench.pretrained import bundled
from lipbench.scoring.base import PerClip
from lipbench.scoring.sets import SetMetric
from lipbench.scoring.views import ReferenceBatch
from lipbench.types import ClipBatch, View

Videos = dict[str, tuple[Tensor, Tensor | None]]
"""Row -> what was made for it, (B, N, 3, h, w) float in [0, 1], and (B,) valid frames; None means the reference's."""
Arrays = tuple[npt.NDArray[np.generic], ...]

_READ: Final = frozenset(
    {"index", "video", "video_len", "fps", "face", "landmarks", "mismatched", "other_speaker", "speech"}
)
"""Batch keys that scoring reads whatever the columns are."""


@dataclass(frozen=True)
class Scores:
    """What was found of some clips.

    Args:
        clips: Row -> column -> scores.
        sets: Row -> column with one number for all clips -> what its metric is given, once a clip.
        reasons: Row -> column -> why it is empty or not complete.
    """

    clips: dict[str, dict[str, PerClip]]
    sets: dict[str, dict[str, list[Arrays]]]
    reasons: dict[str, dict[str, str]]


class _Kept:
    """Stands for a metric of sets where clips are scored: it keeps what it is given.

    Sums of several processes would depend on the order of their terms, and each would take the memory of all.

    Args:
        observes: As the metric's.
    """

    def __init__(self, observes: str) -> None:
        self.observes = observes
        self.given: list[Arrays] = []

    def update(self, pred: Tensor, target: Tensor, index: Tensor, length: Tensor, pred_len: Tensor) -> None:
        """Keep the features and lengths of one update."""
        self.given.append(tuple(value.detach().cpu().numpy() for value in (pred, target, index, length, pred_len)))


def keeping(rows: Mapping[str, ScoreRow]) -> None:
    """Make rows keep what metrics of sets are given, for `taken`."""
    for row in rows.values():
        kept = {name: _Kept(metric.observes) for name, metric in row.sets.items()}
        row.sets = cast("dict[str, SetMetric]", kept)  # until `taken`, only `update` is called


def _kept(row: ScoreRow) -> dict[str, _Kept]:
    return cast(dict[str, _Kept], row.sets)


def taken(rows: Mapping[str, ScoreRow]) -> Scores:
    """What rows made by `keeping` found since the last call; they are empty afterwards."""
    scores = Scores(
        {name: row.local_scores() for name, row in rows.items()},
        {name: {column: kept.given for column, kept in _kept(row).items()} for name, row in rows.items()},
        {name: dict(row.reasons) for name, row in rows.items()},
    )
    for row in rows.values():
        for metric in row.metrics.values():
            metric.reset()
        for kept in _kept(row).values():
            kept.given = []
    return scores


def given(rows: Mapping[str, ScoreRow], scores: Scores) -> None:
    """Add what was found of some clips to rows."""
    for name, row in rows.items():
        for column, clips in scores.clips[name].items():
            metric = row.metrics[column]
            for state, values in (
                (metric.index, clips.index),
                (metric.value, clips.value),
                (metric.weight, clips.weight),
            ):
                state.append(torch.from_numpy(values).to(metric.device, torch.float64))
        for column, calls in scores.sets[name].items():
            for call in calls:
                row.sets[column].update(*map(torch.from_numpy, call))
        row.reasons.update(scores.reasons[name])


@dataclass(frozen=True)
class Plan:
    """What a test scores; pickles without tensors.

    Args:
        metrics: Names or groups.
        files: Weights: metric or observer -> path.
        cache: Folder of observations that are kept.
        device: On which clips are scored.
        view: Of the model.
        packed: The store holds the model's view only.
        driven: The model's controls.
        checks: Calibration rows.
        mean: (3, h, w) mean picture of the training split in the view; None if no calibration row is scored.
    """

    metrics: list[str] | None
    files: dict[str, str]
    cache: Path | None
    device: str
    view: View
    packed: bool
    driven: tuple[Control, ...]
    checks: tuple[str, ...]
    mean: npt.NDArray[np.float32] | None

    def rows(self, bank: Bank) -> dict[str, ScoreRow]:
        """Empty accumulators, the model's first; the same in every process."""
        others = calibration.rows(bank, self.device, self.packed, self.driven, self.checks)
        return {MODEL: bank.row(self.device), **others}


class Scorer:
    """Scores single clips.

    Args:
        plan: What for.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._bank = Bank(plan.metrics, plan.files, plan.cache)
        self._rows = plan.rows(self._bank)
        self._reasons = {name: dict(row.reasons) for name, row in self._rows.items()}
        sets = any(row.sets for row in self._rows.values())
        keeping(self._rows)
        self._mean = torch.empty(0) if plan.mean is None else torch.from_numpy(plan.mean)
        self._kept = None
        if plan.checks and plan.cache and not sets:
            folder = plan.cache / "calibration"
            self._kept = KeptScores(folder, self._bank, plan.view, plan.checks, self._mean, plan.device)

    @torch.inference_mode()
    def __call__(self, clip: tuple[ClipBatch, Videos]) -> Scores:
        """Score a batch of one clip, and what was made for it: a video for the model's row and for each control's."""
        for name, row in self._rows.items():
            row.reasons = dict(self._reasons[name])  # not those of the clip before
        batch, made = _moved(clip, self._plan.device)
        scene = self._bank.scene(batch, self._plan.view)
        self._rows[MODEL].update(scene.take(*made[MODEL]), scene)
        for control in self._plan.driven:
            if control.compared:
                if control.name in self._rows:
                    self._compare(control.name, scene, batch[control.compared], made[control.name][0])
                continue
            self._rows[control.name].update(scene.take(*made[control.name]), scene)
            if control.beside in self._rows:
                other = calibration.with_swapped(self._bank, scene, "sound")
                self._rows[control.beside].update(other.take(*made[control.name]), scene)
        path = self._kept.path(clip[0]) if self._kept else None
        kept = self._kept.read(path) if self._kept and path else None
        if kept is None and self._plan.checks:
            for name, take, target in calibration.iter_calibration_rows(
                self._bank, scene, self._mean, self._plan.checks
            ):
                self._rows[name].update(take, target)
        scores = taken(self._rows)
        if kept is not None:
            index = batch["index"].cpu().numpy()
            for name, (values, reasons) in kept.items():
                scores.clips[name].update({k: PerClip(index, *map(np.atleast_1d, v)) for k, v in values.items()})
                scores.reasons[name].update(reasons)
        elif self._kept and path:
            self._kept.write(path, {name: _single(scores, name) for name in self._plan.checks})
        return scores

    def _compare(self, row: str, scene: ReferenceBatch, other: ClipBatch, made: Tensor) -> None:
        """Score a video that shows the face of a scene and says what other clips say against those."""
        sound = {key: other[key] for key in ("sound", "sound_len") if key in other}
        shown = self._bank.scene(cast(ClipBatch, {**scene.batch, **sound}), self._plan.view)
        target = self._bank.scene(other, self._plan.view)
        self._rows[row].update(shown.take(made, other["video_len"]), target)


def _single(scores: Scores, row: str) -> RowScores:
    """The scores of the only clip."""
    values = {k: (float(c.value[0]), float(c.weight[0])) for k, c in scores.clips[row].items() if len(c.index)}
    return values, scores.reasons[row]


def read(bank: Bank) -> frozenset[str]:
    """Batch keys that scoring looks at; what is left out need not travel to another process."""
    return _READ.union(
        *(required_keys(entry, bank.observers) for entry in bank.entries if entry.name not in bank.reasons)
    )


def clip(batch: Any, place: int, keys: frozenset[str]) -> Any:  # noqa: ANN401 - a batch, and the batches in it
    """A batch of one clip out of a larger one, with some of its keys."""
    found = {}
    for key, value in batch.items():
        if key in keys:
            found[key] = clip(value, place, keys) if isinstance(value, dict) else value[place : place + 1]
    return found


def _moved(value: Any, device: str) -> Any:  # noqa: ANN401 - a tree of anything
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    return tuple(_moved(item, device) for item in value) if isinstance(value, tuple) else value


def refuse_empty(banks: Sequence[Bank], option: str) -> None:
    """Refuse to score where no column that was asked for can be computed.

    Args:
        banks: The metrics.
        option: How the user names weights: "--files".

    Raises:
        ValueError: It is so; the message says why, and what to type.
    """
    if any(entry.name not in bank.reasons for bank in banks for entry in bank.entries):
        return
    reasons = {name: why for bank in banks for name, why in bank.reasons.items()}
    advice = ""
    for observation in dict.fromkeys(str(entry.metric.observes) for bank in banks for entry in bank.entries):
        for name in bundled.names(observation):
            advice += f"\n  {option}.{observation} '{name}'  ({bundled.knows(name)})"
    come = f"\nObservers that come with lipbench, for those whom they know:{advice}" if advice else ""
    raise ValueError(f"nothing that was asked for can be computed. {_grouped(reasons)}{come}")


def refuse_all_empty(record: Record) -> None:
    """Refuse to call it a success where every column of a record is empty.

    Raises:
        ValueError: It is so; the message says why.
    """
    if all(score.value is None for score in record.scores.values()):
        reasons = {name: score.reason or "no reason is known" for name, score in record.scores.items()}
        raise ValueError(f"every column that was asked for is empty. {_grouped(reasons)}")


def _grouped(reasons: Mapping[str, str]) -> str:
    columns: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        columns.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in columns.items())
