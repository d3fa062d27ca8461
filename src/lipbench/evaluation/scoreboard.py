"""From the scores of single clips to records: the one builder behind `test` and `evaluate`.

What was scored arrives as a `ScoredRow` a row of the table. The builder sums up every column, compares the model's row
with those that it must beat, and writes down what the rows share.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd

from lipbench.evaluation import record, statistics
from lipbench.evaluation.bank import MetricSpec
from lipbench.evaluation.record import Paired, Record, Score
from lipbench.scoring.base import PerClip, mean

MODEL: Final = "model"
"""Name of the model's own row."""


@dataclass(frozen=True)
class ScoredRow:
    """What was found in one row of a table.

    Args:
        entries: Its columns, in order.
        clips: Column -> scores of single clips.
        sets: Column -> one number for all clips, and how many clips it is over.
        reasons: Column -> why it is empty or not complete.
        judges: Column -> version or weights of whoever judges beyond a formula.
    """

    entries: Sequence[MetricSpec]
    clips: Mapping[str, PerClip]
    sets: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    judges: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """Who was tested, as records name it; fields as in `Record`."""

    name: str
    run: str
    timing: str | None
    model: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scoreboard:
    """The rows of one test.

    Args:
        clips: Position in the split -> (clip_id, speaker), of every clip that was tested.
        rows: Name -> what was found: `MODEL` first, then controls and calibration rows.
        calibrations: Name of a calibration row -> what it is; other rows are controls.
    """

    clips: Mapping[int, tuple[str, str]]
    rows: Mapping[str, ScoredRow]
    calibrations: Mapping[str, str]

    def records(
        self,
        subject: Subject,
        *,
        protocol: Mapping[str, Any],
        view: str,
        data: Mapping[str, Any],
        created: str,
        against: Sequence[str],
        environment: Mapping[str, Any] | None = None,
    ) -> list[Record]:
        """One record a row; the model's first.

        Args:
            subject: Who was tested.
            protocol: name, version and split_sha256.
            view: Of the model.
            data: What the store says of itself.
            created: From `record.now`.
            against: Rows that a working model must beat clip by clip; those that were not scored are passed over.
            environment: What is to be added to `record.environment`.
        """
        speakers = self._speakers()
        shared: dict[str, Any] = {
            "protocol": dict(protocol),
            "clips": {
                "n": len(self.clips),
                "speakers": len(set(speakers.values())),
                "sha256": record.clips_sha256([clip_id for clip_id, _ in self.clips.values()]),
            },
            "view": view,
            "data": record.portable(data),
            "environment": record.environment() | dict(environment or {}),
            "command": record.command(),
            "created": created,
        }
        about = {name: getattr(subject, name) for name in ("name", "timing", "model", "training")}
        found = []
        for name, row in self.rows.items():
            scores = summary(row, speakers)
            if name == MODEL:
                beside = [other for other in self.rows if other != MODEL]
                paired = self._paired(against, speakers)
                kind: dict[str, Any] = {"kind": "model", "control": None, "paired": paired, "beside": beside}
                found.append(Record(run=subject.run, scores=scores, **kind, **about, **shared))
            elif name in self.calibrations:
                # A row is the same whichever model was tested beside it: its file is named by what it depends on.
                kind = {"kind": "calibration", "name": name, "control": None, "timing": None}
                model = {"about": self.calibrations[name]}
                draft = Record(run="", model=model, training={}, scores=scores, **kind, **shared)
                found.append(dataclasses.replace(draft, run=draft.calibration_run))
            else:
                kind = {"kind": "control", "control": name}
                found.append(Record(run=subject.run, scores=scores, **kind, **about, **shared))
        return found

    def table(self, row: str) -> pd.DataFrame:
        """A row a clip, sorted: clip_id, speaker and one column a metric, NaN where there is no score."""
        found = pd.DataFrame.from_dict(dict(self.clips), orient="index", columns=["clip_id", "speaker"])
        for name, scores in self.rows[row].clips.items():
            found[name] = pd.Series(scores.value, index=scores.index, dtype="float64")
        return found.sort_values("clip_id")

    def tables(self) -> list[pd.DataFrame]:
        """`table` of every row, in order."""
        return [self.table(row) for row in self.rows]

    def _speakers(self) -> dict[int, str]:
        return {index: speaker for index, (_, speaker) in self.clips.items()}

    def _paired(self, against: Sequence[str], speakers: Mapping[int, str]) -> list[Paired]:
        """The model against every row of the same test that a working model must beat."""
        own = self.rows[MODEL]
        entries = {entry.name: entry for entry in own.entries}
        found = [
            pair(entries[name], clips, self.rows[other].clips[name], other, speakers)
            for other in against
            if other in self.rows
            for name, clips in own.clips.items()
            if name in self.rows[other].clips
        ]
        return [one for one in found if one is not None]


def summary(row: ScoredRow, speakers: Mapping[int, str]) -> dict[str, Score]:
    """Column -> score over all clips.

    Args:
        row: What was found.
        speakers: Position in the split -> speaker, of every clip that was tested.
    """
    found = {}
    for entry in row.entries:
        judge, reason = row.judges.get(entry.name), record.portable(row.reasons.get(entry.name))
        if entry.name in row.sets:
            found[entry.name] = set_score(entry, *row.sets[entry.name], len(speakers), judge, reason)
        else:
            clips = row.clips.get(entry.name)
            found[entry.name] = score(entry, clips if clips and len(clips.index) else None, speakers, judge, reason)
    return found


def score(
    entry: MetricSpec, clips: PerClip | None, speakers: Mapping[int, str], judge: str | None, reason: str | None
) -> Score:
    """Summarize a column.

    Args:
        entry: The column.
        clips: Scores of single clips; None if the column could not be computed.
        speakers: Position in the split -> speaker, of every clip that was tested.
        judge: See `Score`.
        reason: Why values are missing, where it is known.
    """
    value, defined, ci95 = float("nan"), 0, None
    if clips is not None:
        value, defined = mean(clips.value, clips.weight), int(np.isfinite(clips.value).sum())
        ci95 = statistics.interval(clips.value, clips.weight, [speakers[int(k)] for k in clips.index])
        if defined < len(speakers) and reason is None:
            reason = f"{len(speakers) - defined} of {len(speakers)} clips have no score: {entry.metric.undefined}"
    return _score(entry, value, ci95, defined, len(speakers), judge, reason)


def set_score(entry: MetricSpec, value: float, n: int, clips: int, judge: str | None, reason: str | None) -> Score:
    """Summarize a column with one number for all clips; it has no interval.

    Args:
        entry: The column.
        value: The number; NaN if undefined.
        n: Clips that it is over.
        clips: Clips that were tested.
        judge: See `Score`.
        reason: Why clips are missing, where it is known.
    """
    if n < clips and reason is None:
        reason = f"{clips - n} of {clips} clips are left out: {entry.metric.undefined}"
    return _score(entry, value, None, n, clips, judge, reason)


def _score(
    entry: MetricSpec,
    value: float,
    ci95: tuple[float, float] | None,
    n: int,
    clips: int,
    judge: str | None,
    reason: str | None,
) -> Score:
    return Score(
        value=value if np.isfinite(value) else None,
        ci95=ci95,
        n=n,
        coverage=n / clips if clips else 0.0,
        unit=entry.metric.unit,
        higher_is_better=entry.metric.higher_is_better,
        perfect=entry.metric.perfect,
        judge=judge,
        reason=reason if n < clips else None,
    )


def pair(entry: MetricSpec, own: PerClip, other: PerClip, against: str, speakers: Mapping[int, str]) -> Paired | None:
    """Compare two rows on the clips that both have; None if there is none."""
    better, perfect = entry.metric.higher_is_better, entry.metric.perfect
    shared, i, j = np.intersect1d(own.index, other.index, return_indices=True)
    a, b = own.value[i], other.value[j]
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return None
    a, b = a[both], b[both]
    ahead = statistics.gain(a, better, perfect) > statistics.gain(b, better, perfect)
    return Paired(
        metric=entry.name,
        against=against,
        difference=float((a - b).mean()),
        ci95=statistics.interval(a - b, None, [speakers[int(k)] for k in shared[both]]),
        better=float(ahead.mean()),
        p=statistics.p_value(a - b),
        n=int(both.sum()),
    )
