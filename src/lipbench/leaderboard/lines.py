"""Rows of a table, and whose scores may be compared: one observer a column, calibration rows merged."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from lipbench.evaluation import statistics
from lipbench.evaluation.record import Record, Score
from lipbench.evaluation.schema import TEXT

OTHER: Final = "‡"
"""Marks a score that another observer gave than those of the table's other rows."""
STILL: Final = "*"
"""Marks a model's score that is no better than a frozen first frame's."""
ELSEWHERE: Final = "†"
"""Marks a model that was trained on another protocol than the table's."""
Kind = Literal["video", "text"]
"""What the rows of a table are compared in: what was generated, or what readers read."""
_Measure = tuple[str | None, str, bool | None, float | None]
"""What two scores of a column must share to be compared: observer, unit, direction, perfect score."""


@dataclass(frozen=True)
class Line:
    """One row of a board.

    Args:
        record: Its record; of a calibration row that several tests scored, what they say together.
        path: Where the record lies, relative to the results folder.
        others: Further records of the same calibration row, from which some columns come.
        rank: 1 is best, among the rows of the same timing; None if not ranked.
        mean_rank: Mean of its ranks in the primary columns.
        tied: Columns in which it cannot be told from the best row of its timing (paired permutation test, p >= 0.05).
        apart: Columns that another observer scored than those of the table's other rows: shown, never compared.
        still: Columns in which a model is no better than the frozen first frame.
    """

    record: Record
    path: Path
    others: tuple[Path, ...] = ()
    rank: int | None = None
    mean_rank: float | None = None
    tied: frozenset[str] = frozenset()
    apart: frozenset[str] = frozenset()
    still: frozenset[str] = frozenset()

    def value(self, name: str) -> float | None:
        """Score of a column that may be compared with other rows."""
        score = self.record.scores.get(name)
        return None if score is None or name in self.apart else score.value

    @property
    def label(self) -> str:
        """How notes call the row."""
        run = "" if self.record.kind == "calibration" else f" {self.record.run}"
        return f"{self.record.name}{run}{f' {self.record.control}' if self.record.control else ''}"


def by_kind(line: Line) -> dict[Kind, Line]:
    """A line for every kind of table that its record has columns of.

    A calibration row of readers is the same whatever they look at: all views are one there.
    """
    entry = line.record
    text = {name: score for name, score in entry.scores.items() if name.startswith(TEXT)}
    video = {name: score for name, score in entry.scores.items() if name not in text}
    found: dict[Kind, Line] = {}
    if video or not text:
        found["video"] = dataclasses.replace(line, record=dataclasses.replace(entry, scores=video))
    if text:
        view = "text" if entry.kind == "calibration" else entry.view
        found["text"] = dataclasses.replace(line, record=dataclasses.replace(entry, scores=text, view=view))
    return found


def gain(values: statistics.Values, score: Score) -> statistics.Values:
    """Scores turned so that more is better, in the direction that a record states."""
    return statistics.gain(values, score.higher_is_better, score.perfect)


def columns(records: Sequence[Record]) -> list[str]:
    """Columns that at least one record fills, in the bank's order, which records keep."""
    longest_first = sorted(records, key=lambda entry: -len(entry.scores))
    names = dict.fromkeys(name for entry in longest_first for name in entry.scores)
    return [name for name in names if any(r.scores[name].value is not None for r in records if name in r.scores)]


def _measure(score: Score) -> _Measure:
    return score.judge, score.unit, score.higher_is_better, score.perfect


def measures(lines: Sequence[Line]) -> dict[str, _Measure]:
    """Column -> how most models' scores were made; between equals that of more rows, then that of the newest row."""
    votes: dict[str, dict[_Measure, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        for name, score in line.record.scores.items():
            if score.value is not None:
                votes[name][_measure(score)].append(line)

    def weight(voters: list[Line]) -> tuple[int, int, str, str]:
        models = sum(line.record.kind == "model" for line in voters)
        newest = max(voters, key=lambda line: (line.record.created, line.path.as_posix()))
        return models, len(voters), newest.record.created, newest.path.as_posix()

    return {name: max(of, key=lambda key: weight(of[key])) for name, of in votes.items()}


def merged(lines: Sequence[Line], usual: dict[str, _Measure]) -> list[Line]:
    """Lines in which the records of one calibration row and view are one.

    A calibration row is the same whichever model was tested beside it, but tests may score other columns, or by other
    observers. Of each column the newest score counts that can be compared with the table's, else the newest.
    """
    found: list[Line] = []
    same: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in lines:
        if line.record.kind == "calibration":
            same[line.record.name, line.record.view].append(line)
        else:
            found.append(line)
    for rows in same.values():
        rows.sort(key=lambda line: (line.record.created, line.path.as_posix()), reverse=True)
        scores: dict[str, Score] = {}
        used: dict[Path, None] = {}
        names = dict.fromkeys(name for line in sorted(rows, key=_fullness) for name in line.record.scores)
        for name in names:
            having = [line for line in rows if name in line.record.scores]
            best = min(having, key=lambda line: _preference(line.record.scores[name], usual.get(name)))
            scores[name] = best.record.scores[name]
            if scores[name].value is not None:
                used[best.path] = None
        first = next((line for line in rows if line.path in used), rows[0])
        others = tuple(path for path in used if path != first.path)
        found.append(Line(dataclasses.replace(first.record, scores=scores), first.path, others))
    return found


def _fullness(line: Line) -> int:
    return -len(line.record.scores)


def _preference(score: Score, measure: _Measure | None) -> int:
    """0 for a score that can be compared, 1 for another observer's, 2 for none; equals stay in their order."""
    return 2 if score.value is None else int(_measure(score) != measure)


def apart(lines: Sequence[Line], usual: dict[str, _Measure]) -> tuple[list[Line], list[str]]:
    """Lines that know which of their columns stand apart from `measures`, and a note for each pair of observers."""
    found = []
    notes: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for line in lines:
        others = {
            name: score
            for name, score in line.record.scores.items()
            if score.value is not None and _measure(score) != usual[name]
        }
        found.append(dataclasses.replace(line, apart=frozenset(others)))
        for name, score in others.items():
            columns, rows = notes.setdefault(_told(usual[name], _measure(score)), ({}, {}))
            columns[name] = rows[line.label] = None
    said = [
        f"{OTHER} {', '.join(columns)} of {', '.join(rows)}: by {other}, in the table's other rows by {most}: not "
        "compared, and a row is not ranked without its primary columns."
        for (most, other), (columns, rows) in notes.items()
    ]
    return found, said


def _told(usual: _Measure, other: _Measure) -> tuple[str, str]:
    """Two ways to score a column as a reader can tell them apart: by observer, else by everything."""
    if usual[0] != other[0]:
        return usual[0] or "no observer", other[0] or "no observer"

    def whole(measure: _Measure) -> str:
        judge, unit, higher, perfect = measure
        better = {True: "higher is better", False: "lower is better", None: f"best near {perfect}"}[higher]
        return f"{judge or 'a formula'} (unit {unit or '1'}, {better}, perfect {perfect})"

    return whole(usual), whole(other)
