"""Ranks models among the rows that may be compared, and says beside which rows they stand."""

import csv
import dataclasses
import difflib
import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from lipbench.errors import on_one_line
from lipbench.evaluation import record, schema, statistics, writing
from lipbench.evaluation.record import Record
from lipbench.leaderboard import lines as board_lines
from lipbench.leaderboard.lines import Line, gain

PRIMARY: Final = ("mouth/psnr", "mouth/ssim", "lmd", "opening_corr[speech]")
"""Columns that rank (own choice): picture, structure, shape of the mouth, movement in speech. Native pixels do not,
since models of different sizes solve different tasks there; LPIPS does not, since most machines lack its weights."""
READING: Final = ("text/wer", "text/cer")
"""Columns that rank readers: both, since on short sentences one wrong word hides how many letters are wrong."""
_NATIVE: Final = ("native/psnr", "native/ssim")
"""Columns that, beside the primary ones, a model must score better in than a frozen frame of its own view."""
_FROZEN: Final = "frozen-frame"
_Key = tuple[str, str, str | None]
_SIGNIFICANT: Final = 0.05
_MISSING: Final = 0.05  # share of the clips without a score up to which a row is ranked, beside the fullest row


@dataclass(frozen=True)
class Board:
    """Rows that may be compared: one protocol and version, the same scored clips, the same preparation.

    Args:
        name: Stem of its CSV file.
        kind: "video" compares what was generated, "text" what readers read.
        lines: Models by timing and rank, then controls, then calibrations.
        ranked_by: The primary columns that at least one model has.
        notes: What a reader must know.
    """

    name: str
    kind: board_lines.Kind
    lines: list[Line]
    ranked_by: list[str]
    notes: list[str]


def boards(results: str | Path, protocol: str | None = None) -> tuple[list[Board], list[str]]:
    """Read all records below a folder and sort them into boards.

    Args:
        results: Folder with `<protocol>/<model>/<run>.json`.
        protocol: Only this one, such as "grid/s1".

    Returns:
        The boards, and a message for each file that could not be read: records, and scores of single clips.

    Raises:
        ValueError: There are records, but none of that protocol.
    """
    results = Path(results)
    groups: dict[tuple[str, board_lines.Kind], dict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
    there: dict[str, set[_Key]] = defaultdict(set)
    unread: list[str] = []
    for path in sorted(results.rglob("*.json")):
        try:
            entry = record.read(path)
        except ValueError as error:
            unread.append(str(error))
            continue
        for kind, line in board_lines.by_kind(Line(entry, path.relative_to(results))).items():
            groups[entry.protocol["name"], kind][entry.comparable].append(line)
        there[entry.comparable].add(_key(entry, entry.control))
    names = sorted({name for name, _ in groups})
    if protocol is not None and names and protocol not in names:
        near = difflib.get_close_matches(protocol, names, 1, 0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no results of protocol {protocol!r}{hint} There are results of {', '.join(names)}")
    stems: set[str] = set()
    found = []
    for name, kind in sorted(groups, key=lambda key: (key[0], key[1] == "text")):
        stem = name.replace("/", "_") + ("-reading" if kind == "text" else "")
        if stem.lower() in stems:  # a/b and a_b, or names that differ in case only: a file each
            stem += f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        stems.add(stem.lower())
        if protocol in (None, name):
            found += _boards(results, stem, kind, groups[name, kind], there, unread)
    return found, unread


def _key(entry: Record, row: str | None) -> _Key:
    """What tells a calibration or control row of a test from others."""
    if row is None or row in record.CALIBRATIONS:
        return row or entry.name, entry.view, None
    return entry.name, entry.run, row


def _boards(
    results: Path,
    stem: str,
    kind: board_lines.Kind,
    groups: dict[str, list[Line]],
    there: Mapping[str, set[_Key]],
    unread: list[str],
) -> list[Board]:
    """The boards of one protocol: the newest version with the most clips takes the protocol's own name."""

    def order(key: str) -> tuple[int, int, int, str]:
        entry = groups[key][0].record
        models = sum(line.record.kind == "model" for line in groups[key])
        return -int(entry.protocol["version"]), -entry.clips["n"], -models, key

    keys = sorted(groups, key=order)
    found = []
    for k, key in enumerate(keys):
        entry = groups[key][0].record
        notes = []
        if len(keys) > 1:
            differ = _differences([groups[other][0].record for other in keys])
            notes.append(
                f"{len(keys)} tables of {entry.protocol['name']}, which must not be mixed: they differ in {differ}."
            )
        own = f"{stem}-v{entry.protocol['version']}-{entry.clips['n']}clips-{key}" if k else stem
        found.append(_board(results, own, kind, groups[key], there[key], notes, unread))
    return found


def _differences(records: Sequence[Record]) -> str:
    """What keeps records apart, in words."""
    aspects = {
        "protocol version or split": [r.protocol for r in records],
        "scored clips": [r.clips["sha256"] for r in records],
        "preparation of the corpus": [r.preparation for r in records],
    }
    return " and ".join(name for name, values in aspects.items() if any(v != values[0] for v in values))


def _covers(line: Line, name: str, models: Sequence[Line]) -> bool:
    """Whether a score covers nearly as many clips as any model's in that column: hard clips left out flatter."""
    most = max((m.record.scores[name].coverage for m in models if m.value(name) is not None), default=0.0)
    return line.value(name) is not None and line.record.scores[name].coverage >= (1 - _MISSING) * most


def _board(
    results: Path,
    stem: str,
    kind: board_lines.Kind,
    lines: list[Line],
    there: set[_Key],
    notes: list[str],
    unread: list[str],
) -> Board:
    """Rank the models of one board, timing by timing."""
    usual = board_lines.measures(lines)
    lines, apart = board_lines.apart(board_lines.merged(lines, usual), usual)
    calibrations = [line for line in lines if line.record.kind == "calibration"]
    models = [_beside_frozen(line, calibrations) for line in lines if line.record.kind == "model"]
    primary = PRIMARY if kind == "video" else READING
    by = [name for name in primary if any(line.value(name) is not None for line in models)]
    ranked: list[Line] = []
    rest: list[Line] = []
    for timing in schema.TIMINGS if kind == "video" else (None,):
        task = [line for line in models if timing is None or line.record.timing == timing]
        complete = [line for line in task if by and all(_covers(line, name, models) for name in by)]
        rest += [line for line in task if line not in complete]
        if not complete:
            continue
        ranks = np.array([_ranks(complete, name) for name in by])  # (columns, rows)
        means = ranks.mean(axis=0)
        tied = _ties(results, complete, unread)
        placed = [
            dataclasses.replace(line, rank=1 + int((means < means[k]).sum()), mean_rank=float(means[k]), tied=tied[k])
            for k, line in enumerate(complete)
        ]
        ranked += sorted(placed, key=lambda line: (line.rank, line.path))
    if models:
        of = "rows of the same timing (given: by true durations or sound)" if kind == "video" else "readers"
        notes.append(
            f"Ranked by the mean rank in {', '.join(by)}, among {of} that have all of them, on nearly all clips."
            if by
            else f"Not ranked: no row has any of {', '.join(primary)}."
        )
    notes += [*apart, *_still_notes(ranked + rest, calibrations), *_elsewhere(ranked + rest), *_lost(lines, there)]
    others = [line for line in lines if line.record.kind != "model"]
    names = record.CALIBRATIONS
    others.sort(
        key=lambda line: (
            schema.KINDS.index(line.record.kind),
            line.record.view if line.record.kind == "calibration" else "",
            names.index(line.record.name) if line.record.name in names else len(names),
            line.path,
        )
    )
    return Board(stem, kind, ranked + rest + others, by, notes)


def _ranks(lines: Sequence[Line], name: str) -> statistics.Values:
    """Rank of every line in a column that all have, 1 is best; equals share the mean of their places."""
    gains = gain(np.array([line.value(name) for line in lines], np.float64), lines[0].record.scores[name])
    better = (gains[None] > gains[:, None]).sum(axis=1)  # (L,)
    equal = (gains[None] == gains[:, None]).sum(axis=1)
    ranks: statistics.Values = better + (equal + 1) / 2
    return ranks


def _frozen(line: Line, calibrations: Sequence[Line]) -> Line | None:
    """The frozen first frame of a model's view, else of another: the primary columns look at the same mouth in all."""
    those = [other for other in calibrations if other.record.name == _FROZEN]
    return next((other for other in those if other.record.view == line.record.view), those[0] if those else None)


def _beside_frozen(line: Line, calibrations: Sequence[Line]) -> Line:
    """A model's line that knows in which columns it is no better than standing still."""
    frozen = _frozen(line, calibrations)
    if frozen is None:
        return line
    own_view = frozen.record.view == line.record.view
    still = set()
    for name in (*PRIMARY, *(_NATIVE if own_view else ())):
        made, stood = line.value(name), frozen.value(name)
        if made is not None and stood is not None:
            ahead = gain(np.array([made, stood]), line.record.scores[name])
            if ahead[0] <= ahead[1]:
                still.add(name)
    return dataclasses.replace(line, still=frozenset(still))


def _still_notes(models: Sequence[Line], calibrations: Sequence[Line]) -> list[str]:
    """A note for each frozen row that some models do not beat."""
    below: dict[str, list[str]] = defaultdict(list)
    for line in models:
        frozen = _frozen(line, calibrations)
        if line.still and frozen is not None:
            columns = [name for name in (*PRIMARY, *_NATIVE) if name in line.still]
            below[frozen.record.view].append(f"{line.label} ({', '.join(columns)})")
    return [
        f"{board_lines.STILL} No better than a first frame that stands still (frozen-frame, {view}): {'; '.join(rows)}."
        for view, rows in below.items()
    ]


def _elsewhere(models: Sequence[Line]) -> list[str]:
    """A note for the models that were trained on other protocols."""
    rows = [f"{line.label} ({line.record.trained_elsewhere})" for line in models if line.record.trained_elsewhere]
    return [f"{board_lines.ELSEWHERE} Trained on another protocol than this one: {'; '.join(rows)}."] if rows else []


def _lost(lines: Sequence[Line], there: set[_Key]) -> list[str]:
    """A note for the calibration and control rows that were scored beside a model and are not there.

    Args:
        lines: Of a table.
        there: The rows of all records that may be compared with its own, whatever kind of table they stand in.
    """
    lacking: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        entry = line.record
        if entry.kind != "model":
            continue
        rows = entry.beside or [pair.against for pair in entry.paired]  # older records name those they were paired with
        lost = [row for row in dict.fromkeys(rows) if _key(entry, row) not in there]
        if lost:
            lacking[line.label] += lost
    return [
        f"Not there: {', '.join(rows)}, scored in the same test as {label}. Restore these records, or test again."
        for label, rows in lacking.items()
    ]


def _ties(results: Path, lines: Sequence[Line], unread: list[str]) -> list[frozenset[str]]:
    """For each line the columns in which it cannot be told from the best line."""
    tied: list[set[str]] = [set() for _ in lines]
    clips = []
    for line in lines:
        try:
            clips.append(_per_clip(results / line.path.with_suffix(".csv"), line.record.scores))
        except ValueError as error:
            unread.append(on_one_line(f"{error}; its row is not tested for ties"))
            clips.append({})
    pairs: list[tuple[int, str]] = []
    differences: list[statistics.Values] = []
    for name in board_lines.columns([line.record for line in lines]):
        values = np.array([line.value(name) for line in lines], np.float64)  # None becomes NaN
        if np.isnan(values).all():
            continue
        score = next(line.record.scores[name] for line in lines if line.value(name) is not None)
        best = int(np.nanargmax(gain(values, score)))
        for k, own in enumerate(clips):
            if k != best and name in own and name in clips[best] and not np.isnan(values[k]):
                shared = [clip for clip in own[name] if clip in clips[best][name]]
                pairs.append((k, name))
                differences.append(np.array([own[name][clip] - clips[best][name][clip] for clip in shared]))
    for (k, name), p in zip(pairs, statistics.p_values(differences), strict=True):
        if p is not None and p >= _SIGNIFICANT:
            tied[k].add(name)
    return [frozenset(names) for names in tied]


def _per_clip(path: Path, names: Collection[str]) -> dict[str, dict[str, float]]:
    """Column -> clip -> score, NaN where there is none; empty if the file is not there.

    Args:
        path: A file of `record.write`.
        names: The columns that are wanted, where the file has them.

    Raises:
        ValueError: It is another kind of file, or a cell is no finite number.
    """
    if not path.exists():
        return {}
    try:
        if not path.is_file():
            raise ValueError("it is no regular file")
        header, *rows = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
        header = [writing.plain(name) for name in header]
        where = header.index("clip_id")
        found: dict[str, dict[str, float]] = {name: {} for name in header if name in names}
        for number, row in enumerate(rows, 2):
            if len(row) != len(header):
                raise ValueError(f"line {number} has {len(row)} cells under {len(header)} columns")
            for name, cell in zip(header, row, strict=True):
                if name in found:
                    value = float(cell) if cell else np.nan
                    if np.isinf(value):
                        raise ValueError(f"{name} in line {number} is {cell}; expected a finite number")
                    found[name][row[where]] = value
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is no table of scores by clip_id: {error}") from error
    return found
