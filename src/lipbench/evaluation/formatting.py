"""How scores look in a terminal."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from lipbench.errors import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from lipbench.evaluation.record import Score

EMPTY: Final = "–"


def console() -> "Console":
    """As wide as the terminal or COLUMNS says; 120 in files and pipes, where rich would cut tables at 80.

    What is printed may come from anybody's files: no emoji codes are replaced. Text of that kind is printed with
    `markup=False`, or as `rich.text.Text`.
    """
    from rich.console import Console

    found = Console(emoji=False)
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=120, emoji=False)


def header(name: str, score: "Score") -> "Text":
    """Column head in up to four lines: way, metric, variant, direction and unit."""
    from rich.text import Text

    way, slash, metric = name.rpartition("/")
    metric, bracket, variant = metric.partition("[")
    short = {"opening_corr": ["open.", "corr."], "opening_ratio": ["open.", "ratio"]}.get(metric, [metric.upper()])
    arrow = {True: "↑", False: "↓", None: f"→{score.perfect:g}" if score.perfect is not None else ""}[
        score.higher_is_better
    ]
    lines = [way if slash else "", *short, variant.rstrip("]") if bracket else "", f"{arrow} {score.unit}"]
    return Text("\n".join(visible(line.strip()) for line in lines if line.strip()))


def cell(score: "Score | None") -> str:
    """Value with as many digits as it deserves: two for dB, three otherwise, six in all for very large ones."""
    if score is None or score.value is None:
        return EMPTY
    return _short(score.value, score.unit)


def margin(score: "Score | None") -> str:
    """Half the width of the 95 % interval, such as "±.12": short, since tables are wide."""
    if score is None or score.ci95 is None:
        return ""
    return "±" + _short((score.ci95[1] - score.ci95[0]) / 2, score.unit).removeprefix("0")


def _short(value: float, unit: str) -> str:
    if abs(value) >= 1e5:
        return f"{value:.5e}"
    return f"{value:.2f}" if unit == "dB" else f"{value:.3f}"


def print_split(console: "Console", columns: Sequence[str], table: Callable[[Sequence[str], bool], "Table"]) -> None:
    """Print a table; columns that do not fit beside each other go into further tables below it.

    Args:
        console: Where to.
        columns: Names of the columns that may go below.
        table: Makes the table of some of them; also told whether it is the first one.
    """
    unbound = console.options.update(max_width=10_000)  # else no table measures wider than the console

    def width(those: Sequence[str], first: bool) -> int:
        return console.measure(table(those, first), options=unbound).maximum

    left, first = list(columns), True
    while left or first:
        bare = width([], first)
        total, fitting = bare, 0
        for name in left:  # a column takes the same room in every table
            total += width([name], first) - bare
            if total > console.width:
                break
            fitting += 1
        fitting = max(fitting, 1)
        console.print(table(left[:fitting], first))
        left, first = left[fitting:], False
