"""From records to tables: a CSV file a protocol, and the same in the terminal beside what papers report."""

import difflib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lipbench.evaluation import _present, calibration, record, statistics
from lipbench.evaluation.record import Record, Score

PRIMARY: Final = ("mouth/psnr", "mouth/ssim", "lmd", "opening_corr[speech]")
"""Columns that rank (own choice): picture, structure, shape of the mouth, movement in speech. Native pixels do not,
since models of different sizes solve different tasks there; LPIPS does not, since most machines lack its weights."""
_TIMINGS: Final = ("given", "length", "free")
_TASKS: Final = {
    "given": "timing given",  # by true durations, or by the sound that drives
    "length": "length given",
    "free": "durations free",
}
_KINDS: Final = ("model", "control", "calibration")
_PICTURE: Final = ("psnr", "ssim", "lpips", "lmd", "cpbd", "fid")
_SIGNIFICANT: Final = 0.05
_MISSING: Final = 0.05  # share of the clips without a score up to which a row is ranked, beside the fullest row


@dataclass(frozen=True)
class Line:
    """One row of a board.

    Args:
        record: Its record.
        path: Where the record lies, relative to the results folder.
        rank: 1 is best, among the rows of the same timing; None if not ranked.
        mean_rank: Mean of its ranks in the primary columns.
        tied: Columns in which it cannot be told from the best row of its timing (paired permutation test, p >= 0.05).
    """

    record: Record
    path: Path
    rank: int | None = None
    mean_rank: float | None = None
    tied: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Board:
    """Rows that may be compared: one protocol and version, the same scored clips, the same preparation and judges.

    Args:
        name: Stem of its CSV file.
        lines: Models by timing and rank, then controls, then calibrations.
        ranked_by: The primary columns that at least one model has.
        notes: What a reader must know.
    """

    name: str
    lines: list[Line]
    ranked_by: list[str]
    notes: list[str]


def boards(results: str | Path, protocol: str | None = None) -> tuple[list[Board], list[str]]:
    """Read all records below a folder and sort them into boards.

    Args:
        results: Folder with `<protocol>/<model>/<run>.json`.
        protocol: Only this one, such as "grid/s1".

    Returns:
        The boards, and a message for each file that could not be read.

    Raises:
        ValueError: There are records, but none of that protocol.
    """
    results = Path(results)
    groups: dict[str, dict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
    unread = []
    for path in sorted(results.rglob("*.json")):
        try:
            entry = record.read(path)
        except ValueError as error:
            unread.append(str(error))
            continue
        groups[entry.protocol["name"]][entry.comparable].append(Line(entry, path.relative_to(results)))
    if protocol is not None and groups and protocol not in groups:
        near = difflib.get_close_matches(protocol, groups, 1, 0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no results of protocol {protocol!r}{hint} There are results of {', '.join(sorted(groups))}")
    found = []
    for name in sorted(groups) if protocol is None else [protocol] if groups else []:
        found += _boards(results, name, groups[name])
    return found, unread


def _boards(results: Path, protocol: str, groups: dict[str, list[Line]]) -> list[Board]:
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
            notes.append(f"{len(keys)} tables of {protocol}, which must not be mixed: they differ in {differ}.")
        stem = protocol.replace("/", "_")
        if k:
            stem += f"-v{entry.protocol['version']}-{entry.clips['n']}clips-{key}"
        found.append(_board(results, stem, groups[key], notes))
    return found


def _differences(records: Sequence[Record]) -> str:
    """What keeps records apart, in words."""
    aspects = {
        "protocol version or split": [r.protocol for r in records],
        "scored clips": [r.clips["sha256"] for r in records],
        "preparation of the corpus": [r.preparation for r in records],
    }
    return " and ".join(name for name, values in aspects.items() if any(v != values[0] for v in values)) or "judges"


def _value(entry: Record, name: str) -> float | None:
    score = entry.scores.get(name)
    return None if score is None else score.value


def _covers(entry: Record, name: str, models: Sequence[Line]) -> bool:
    """Whether a score covers nearly as many clips as any model's in that column: hard clips left out flatter."""
    score = entry.scores.get(name)
    most = max((line.record.scores[name].coverage for line in models if name in line.record.scores), default=0.0)
    return score is not None and score.value is not None and score.coverage >= (1 - _MISSING) * most


def _board(results: Path, stem: str, lines: list[Line], notes: list[str]) -> Board:
    """Rank the models of one board, timing by timing."""
    models = [line for line in lines if line.record.kind == "model"]
    by = [name for name in PRIMARY if any(_value(line.record, name) is not None for line in models)]
    ranked: list[Line] = []
    rest: list[Line] = []
    for timing in _TIMINGS:
        task = [line for line in models if line.record.timing == timing]
        complete = [line for line in task if by and all(_covers(line.record, name, models) for name in by)]
        rest += [line for line in task if line not in complete]
        if not complete:
            continue
        table = pd.DataFrame(
            {
                name: _gain(
                    np.array([_value(line.record, name) for line in complete], np.float64),
                    complete[0].record.scores[name],
                )
                for name in by
            }
        )
        means = table.rank(ascending=False).mean(axis=1)
        ranks = means.rank(method="min").astype(int)
        tied = _ties(results, complete)
        placed = [
            Line(line.record, line.path, int(ranks[k]), float(means[k]), tied[k]) for k, line in enumerate(complete)
        ]
        ranked += sorted(placed, key=lambda line: (line.rank, line.path))
    if models:
        notes.append(
            f"Ranked by the mean rank in {', '.join(by)}, among rows of the same timing (given: by true durations or "
            "sound) that have all of them, on nearly all clips."
            if by
            else f"Not ranked: no row has any of {', '.join(PRIMARY)}."
        )
    others = [line for line in lines if line.record.kind != "model"]
    names = list(calibration.ROWS)
    others.sort(
        key=lambda line: (
            _KINDS.index(line.record.kind),
            line.record.view if line.record.kind == "calibration" else "",
            names.index(line.record.name) if line.record.name in names else 0,
            line.path,
        )
    )
    return Board(stem, ranked + rest + others, by, notes)


def _ties(results: Path, lines: Sequence[Line]) -> list[frozenset[str]]:
    """For each line the columns in which it cannot be told from the best line."""
    tied: list[set[str]] = [set() for _ in lines]
    clips = [_per_clip(results / line.path.with_suffix(".csv")) for line in lines]
    for name in _columns([line.record for line in lines]):
        values = np.array([_value(line.record, name) for line in lines], np.float64)  # None becomes NaN
        score = next(line.record.scores[name] for line in lines if name in line.record.scores)
        best = int(np.nanargmax(_gain(values, score)))
        for k, own in enumerate(clips):
            if k != best and name in own and name in clips[best]:
                p = statistics.p_value((own[name] - clips[best][name]).to_numpy(np.float64))
                if p is not None and p >= _SIGNIFICANT:
                    tied[k].add(name)
    return [frozenset(names) for names in tied]


def _per_clip(path: Path) -> pd.DataFrame:
    """Scores of single clips by clip; empty if the file is not there."""
    return pd.read_csv(path, index_col="clip_id") if path.is_file() else pd.DataFrame()


def _gain(values: statistics.Values, score: Score) -> statistics.Values:
    """Scores turned so that more is better, in the direction that a record states."""
    return statistics.gain(values, score.higher_is_better, score.perfect)


def _columns(records: Sequence[Record]) -> list[str]:
    """Columns that at least one record fills, in the bank's order, which records keep."""
    longest_first = sorted(records, key=lambda entry: -len(entry.scores))
    names = dict.fromkeys(name for entry in longest_first for name in entry.scores)
    return [name for name in names if any(_value(entry, name) is not None for entry in records)]


def frame(board: Board) -> pd.DataFrame:
    """A board as it is written to its CSV file: every metric, the ends of its 95 % interval, the clips that have it."""
    columns = _columns([line.record for line in board.lines])
    rows = []
    for line in board.lines:
        entry = line.record
        row: dict[str, object] = {
            "rank": line.rank,
            "kind": entry.kind,
            "model": entry.name,
            "control": entry.control,
            "run": entry.run,
            "timing": entry.timing,
            "view": entry.view,
            "clips": entry.clips["n"],
        }
        for name in columns:
            score = entry.scores.get(name)
            low, high = score.ci95 if score is not None and score.ci95 else (None, None)
            row |= {name: _value(entry, name), f"{name}:low": low, f"{name}:high": high}
            row |= {f"{name}:clips": None if score is None else score.n}
        row["mean_rank"] = line.mean_rank
        row["record"] = line.path.as_posix()
        rows.append(row)
    return pd.DataFrame(rows).astype({"rank": "Int64"} | {f"{name}:clips": "Int64" for name in columns})


def compare(
    results: str | Path = "leaderboards/results",
    out: str | Path = "leaderboards",
    protocol: str | None = None,
    *,
    check: bool = False,
) -> bool:
    """Write `<out>/<protocol>.csv` for every board and show the boards in the terminal.

    Args:
        results: Folder of the records.
        out: Where the CSV files go, and where `reported/` lies.
        protocol: Only this one; default: all.
        check: Write nothing.

    Returns:
        Whether any CSV file was absent or differed from what the records say.

    Raises:
        ValueError: No results of that protocol.
    """
    results, out = Path(results), Path(out)
    console = _present.console()
    found, unread = boards(results, protocol)
    for message in unread:
        console.print(f"left out: {message}", style="red", markup=False)
    if not found:
        console.print(
            f"No results in {results} yet. Score a model: lipbench test --model paralip --data grid --ckpt_path last",
            markup=False,
        )
    reported = _reported(out / "reported")
    changed = False
    for board in found:
        path = out / f"{board.name}.csv"
        text = frame(board).to_csv(index=False, float_format="%.6g", lineterminator="\n")
        differs = not path.is_file() or path.read_text(encoding="utf-8") != text
        changed |= differs
        if differs and not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        show(board, console)
        _show_reported(board, reported, console)
        state = "differs from the records" if check and differs else "written" if differs else "up to date"
        console.print(f"{path}: {state}", markup=False)
    return changed


def show(board: Board, console: Console) -> None:
    """Print a board: models by rank, then controls and calibrations apart, then what a reader must know.

    Columns that do not fit beside each other go into further tables below.
    """
    columns = _columns([line.record for line in board.lines])
    first = board.lines[0].record
    speakers = first.clips["speakers"]
    title = f"{first.protocol['name']} v{first.protocol['version']}, {first.clips['n']} clips of {speakers} speaker"
    title += "s" if speakers > 1 else ""
    unbound = console.options.update(max_width=10_000)  # else no table measures wider than the console
    while columns:
        fitting = next(
            (
                count
                for count in range(len(columns), 1, -1)
                if console.measure(_table(board, columns[:count], title), options=unbound).maximum <= console.width
            ),
            1,
        )
        console.print(_table(board, columns[:fitting], title))
        columns, title = columns[fitting:], ""
    for note in board.notes:
        console.print(note, markup=False, highlight=False)
    if any(line.rank for line in board.lines):
        console.print(
            "Bold: best; ≈: cannot be told from the best on these clips (p ≥ 0.05); ±: half the 95 % interval.",
            style="dim",
            highlight=False,
        )
    for reason, where in _reasons(board).items():
        console.print(f"{_present.EMPTY} {where}: {reason}", style="dim", markup=False, highlight=False)


def _table(board: Board, columns: Sequence[str], title: str) -> Table:
    """Some columns of a board; without a title, the continuation of a table, which does not repeat the views."""
    records = [line.record for line in board.lines]
    table = Table(title=title or None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("", min_width=19, max_width=28)
    if title:
        table.add_column("view")
    for name in columns:
        any_score = next(entry.scores[name] for entry in records if name in entry.scores)
        table.add_column(_present.header(name, any_score), justify="right", no_wrap=True)
    section = ""
    for line in board.lines:
        entry = line.record
        here = _section(line)
        if here != section:
            if section:
                table.add_section()
            table.add_row("", f"[italic]{here}[/italic]")
            section = here
        label, detail = escape(entry.control or entry.name), escape(entry.run)
        if entry.kind == "control":
            label = f"{entry.name}, {label}"
        view = [entry.view.replace(" ", "\n") if entry.kind == "model" else ""] if title else []
        table.add_row(
            str(line.rank or ""),
            label if entry.kind == "calibration" else f"{label}\n[dim]{detail}[/dim]",
            *view,
            *(_cell(board, line, name) for name in columns),
            style="" if entry.kind == "model" else "dim",
        )
    return table


def _section(line: Line) -> str:
    """Heading under which a line stands."""
    if line.record.kind != "model":
        return "controls" if line.record.kind == "control" else f"calibration, {line.record.view}"
    task = _TASKS.get(str(line.record.timing), str(line.record.timing))
    return task if line.rank else f"{task}, unranked"


def _cell(board: Board, line: Line, name: str) -> str:
    """Value over margin; the best of a task is bold."""
    score = line.record.scores.get(name)
    text = _present.cell(score)
    if line.record.kind != "model" or score is None or score.value is None:
        return text
    task = [other for other in board.lines if other.rank and other.record.timing == line.record.timing]
    values = np.array([_value(other.record, name) for other in task], np.float64)
    if line.rank and _gain(np.array([score.value]), score)[0] >= np.nanmax(_gain(values, score)):
        text = f"[bold]{text}[/bold]"
    tie = "≈" if name in line.tied else ""
    return f"{text}\n[dim]{tie}{_present.margin(score)}[/dim]"


def _reasons(board: Board) -> dict[str, str]:
    """Reason -> the columns and rows that it leaves empty or incomplete."""
    where: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for line in board.lines:
        for name, score in line.record.scores.items():
            if score.reason:
                columns, rows = where[score.reason]
                columns.add(name)
                rows.add(line.record.control or line.record.name)
    everything = {line.record.control or line.record.name for line in board.lines}
    return {
        reason: ", ".join(sorted(columns)) + ("" if rows == everything else f" of {', '.join(sorted(rows))}")
        for reason, (columns, rows) in where.items()
    }


def _reported(folder: Path) -> pd.DataFrame:
    """All rows of `reported/*.csv`; empty if there are none."""
    files = sorted(folder.glob("*.csv"))
    columns = ["model", "paper", "table", "dataset", "setting", "method", "metric", "value"]
    if not files:
        return pd.DataFrame(columns=columns)
    return pd.concat([pd.read_csv(file, dtype=dict.fromkeys(columns[:-1], str)) for file in files], ignore_index=True)


def _show_reported(board: Board, reported: pd.DataFrame, console: Console) -> None:
    """Print what papers report of the models and the corpus of a board, with each table's setting."""
    first = board.lines[0].record
    models = {line.record.name for line in board.lines if line.record.kind == "model"}
    corpus = first.protocol["name"].split("/")[0]
    rows = reported[reported.model.isin(models) & (reported.dataset == corpus) & reported.metric.isin(_PICTURE)]
    if rows.empty:
        return
    console.print(
        "\nReported elsewhere: other splits, crops and programs, so not ranked, and PSNR or LMD may not be comparable "
        "(leaderboards/reported/README.md)",
        style="italic",
        highlight=False,
    )
    metrics = [name for name in _PICTURE if (rows.metric == name).any()]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("method", overflow="fold")
    for name in metrics:
        table.add_column(name.upper(), justify="right")
    for (paper, number, setting), group in rows.groupby(["paper", "table", "setting"], sort=False):
        table.add_row(f"[dim]{escape(f'{paper}, table {number}: {setting}')}[/dim]")
        wide = group.pivot_table(index="method", columns="metric", values="value", sort=False)
        for method, values in wide.iterrows():
            shown = [f"{values[name]:g}" if name in values and np.isfinite(values[name]) else "" for name in metrics]
            table.add_row(f"  {escape(str(method))}", *shown)
    console.print(table)
