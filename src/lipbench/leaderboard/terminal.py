"""A table in the terminal: as many columns beside each other as fit, then what a reader must know."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lipbench.errors import on_one_line, visible
from lipbench.evaluation import formatting
from lipbench.leaderboard import lines
from lipbench.leaderboard.boards import Board
from lipbench.leaderboard.lines import Line, gain

_TASKS: Final = {
    "given": "timing given",  # by true durations, or by the sound that drives
    "speech": "span of speech given",
    "length": "length given",
    "free": "durations free",
}


def show(board: Board, console: Console) -> None:
    """Print a board: models by rank, then controls and calibrations apart, then what a reader must know."""
    columns = lines.columns([line.record for line in board.lines])
    first = board.lines[0].record
    speakers = first.clips["speakers"]
    title = f"{first.protocol['name']} v{first.protocol['version']}, {first.clips['n']} clips of {speakers} speaker"
    title += "s" if speakers > 1 else ""
    title += ": readers" if board.kind == "text" else ""
    best = _best(board, columns)
    formatting.print_split(console, columns, lambda those, head: _table(board, those, best, title if head else ""))
    for note in board.notes:
        console.print(on_one_line(note), markup=False, highlight=False)
    if any(line.rank for line in board.lines):
        console.print(
            "Bold: best; ≈: cannot be told from the best on these clips (p ≥ 0.05); ±: half the 95 % interval.",
            style="dim",
            highlight=False,
        )
    for reason, where in _reasons(board).items():
        console.print(on_one_line(f"{formatting.EMPTY} {where}: {reason}"), style="dim", markup=False, highlight=False)


def _best(board: Board, columns: Sequence[str]) -> dict[tuple[str, str], float]:
    """Task and column -> the gain of the best ranked row."""
    found: dict[tuple[str, str], float] = {}
    for line in board.lines:
        for name in columns:
            value = line.value(name)
            if line.rank and value is not None:
                key = _task(board, line), name
                own = float(gain(np.array([value]), line.record.scores[name])[0])
                found[key] = max(own, found.get(key, own))
    return found


def _table(board: Board, columns: Sequence[str], best: dict[tuple[str, str], float], title: str) -> Table:
    """Some columns of a board; without a title, the continuation of a table, which does not repeat the views."""
    records = [line.record for line in board.lines]
    heading = Text(visible(title), style="table.title") if title else None
    table = Table(title=heading, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("", min_width=19, max_width=28, overflow="fold")
    if title:
        table.add_column("view")
    for name in columns:
        any_score = next(entry.scores[name] for entry in records if name in entry.scores)
        table.add_column(formatting.header(name, any_score), justify="right", no_wrap=True)
    section = ""
    for line in board.lines:
        entry = line.record
        here = _section(board, line)
        if here != section:
            if section:
                table.add_section()
            table.add_row("", Text(here, style="italic"))
            section = here
        label = f"{entry.name}, {entry.control}" if entry.kind == "control" else entry.name
        told = Text(f"{visible(label)}{lines.ELSEWHERE if entry.trained_elsewhere else ''}")
        if entry.kind != "calibration":
            told.append(f"\n{visible(entry.run)}", style="dim")
        view = [Text(visible(entry.view).replace(" ", "\n") if entry.kind == "model" else "")] if title else []
        table.add_row(
            f"{line.rank or ''}{lines.STILL if line.rank and line.still else ''}",
            told,
            *view,
            *(_cell(board, line, name, best) for name in columns),
            style="" if entry.kind == "model" else "dim",
        )
    return table


def _task(board: Board, line: Line) -> str:
    """What a row is ranked in."""
    return "reading" if board.kind == "text" else _TASKS[str(line.record.timing)]


def _section(board: Board, line: Line) -> str:
    """Heading under which a line stands."""
    if line.record.kind != "model":
        return "controls" if line.record.kind == "control" else f"calibration, {visible(line.record.view)}"
    task = _task(board, line)
    return task if line.rank else f"{task}, unranked"


def _cell(board: Board, line: Line, name: str, best: dict[tuple[str, str], float]) -> Text:
    """Value over margin; the best of a task is bold."""
    score = line.record.scores.get(name)
    text = Text(formatting.cell(score))
    if name in line.apart:
        text.append(lines.OTHER)
    if line.record.kind != "model" or score is None or score.value is None:
        return text
    value = line.value(name)
    if line.rank and value is not None and gain(np.array([value]), score)[0] >= best[_task(board, line), name]:
        text.stylize("bold")
    if name in line.still:
        text.append(lines.STILL)
    return text.append(f"\n{'≈' if name in line.tied else ''}{formatting.margin(score)}", style="dim")


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
