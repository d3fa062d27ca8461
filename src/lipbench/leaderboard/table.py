"""From records to tables: a CSV file a protocol, and the same in the terminal beside what papers report."""

from pathlib import Path
from typing import TYPE_CHECKING

from lipbench.errors import visible
from lipbench.evaluation import formatting, writing
from lipbench.files import write_together
from lipbench.leaderboard import lines, terminal
from lipbench.leaderboard import reported as reported_scores
from lipbench.leaderboard.boards import Board, boards

if TYPE_CHECKING:
    import pandas as pd


def rows(board: Board) -> tuple[list[str], list[list[object]]]:
    """A board as names of columns and rows: every metric, the ends of its 95 % interval, the clips that have it.

    Scores that must not be compared with their column's others stand in the column `other_observer` instead;
    `trained_on` names another protocol that a model was trained on.
    """
    names = lines.columns([line.record for line in board.lines])
    header = ["rank", "kind", "model", "control", "run", "timing", "view", "clips"]
    header += [f"{name}{what}" for name in names for what in ("", ":low", ":high", ":clips")]
    header += ["mean_rank", "not_above_frozen", "other_observer", "trained_on", "record"]
    found = []
    for line in board.lines:
        entry = line.record
        row: list[object] = [line.rank, entry.kind, entry.name, entry.control, entry.run, entry.timing, entry.view]
        row.append(entry.clips["n"])
        apart = []
        for name in names:
            score = entry.scores.get(name)
            if score is not None and name in line.apart:
                apart.append(f"{name} {score.value:.6g} by {score.judge or 'no observer'}")
            if score is None or name in line.apart:
                row += [None] * 4
            else:
                row += [score.value, *(score.ci95 or (None, None)), score.n]
        paths = " ".join(path.as_posix() for path in (line.path, *line.others))
        row += [line.mean_rank, " ".join(sorted(line.still)), "; ".join(apart), entry.trained_elsewhere, paths]
        found.append(row)
    return header, found


def text(board: Board) -> str:
    """A board's CSV file, see `rows`."""
    return writing.csv_text(*rows(board))


def frames(results: str | Path = "leaderboards/results", protocol: str | None = None) -> "dict[str, pd.DataFrame]":
    """Rank what was scored, as `lipbench compare` does, and give the tables; nothing is written or printed.

    Args:
        results: Folder of the records, as `test` and `evaluate` write them.
        protocol: Only this one, such as "grid/s1"; default: all.

    Returns:
        Name of a table (such as "grid_s1", and "grid_s1-reading" for readers) -> its rows: models by rank, then
        controls, then calibration rows; columns as in the CSV files. `attrs` hold "ranked_by", "notes", and "left_out"
        (messages about files that could not be read).

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are records, but none of that protocol.
    """
    import pandas as pd

    if not Path(results).is_dir():
        raise FileNotFoundError(f"no folder {results}; expected records as `lipbench test` and `evaluate` write them")
    found, unread = boards(results, protocol)
    tables = {}
    for board in found:
        header, lines = rows(board)
        tables[board.name] = pd.DataFrame(lines, columns=header)
        tables[board.name].attrs = {"ranked_by": board.ranked_by, "notes": board.notes, "left_out": unread}
    return tables


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
        OSError: A table cannot be written; what was there before is there still.
    """
    results, out = Path(results), Path(out)
    console = formatting.console()
    found, unread = boards(results, protocol)
    reported, broken = reported_scores.read(out / "reported")
    for message in (*unread, *broken):
        console.print(f"left out: {message}", style="red", markup=False, highlight=False)
    if not found:
        console.print(
            f"No results in {visible(str(results))} yet. Score a model: lipbench test --model paralip --data "
            "grid --ckpt_path last",
            markup=False,
        )
    changed = False
    for board in found:
        path = out / f"{board.name}.csv"
        content = text(board)
        differs = not path.is_file() or path.read_bytes() != content.encode()
        changed |= differs
        terminal.show(board, console)
        reported_scores.show(board, reported, console)
        if differs and not check:
            write_together({path: content})
        state = "differs from the records" if check and differs else "written" if differs else "up to date"
        console.print(f"{visible(str(path))}: {state}", markup=False)
    return changed
