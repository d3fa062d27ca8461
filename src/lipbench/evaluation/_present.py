"""How scores look in a terminal."""

import os
from typing import TYPE_CHECKING, Final

from lipbench.evaluation.record import Score

if TYPE_CHECKING:
    from rich.console import Console

EMPTY: Final = "–"


def console() -> "Console":
    """As wide as the terminal or COLUMNS says; 120 in files and pipes, where rich would cut tables at 80."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=120)


def header(name: str, score: Score) -> str:
    """Column head in up to three lines: way, metric, direction and unit."""
    way, slash, metric = name.rpartition("/")
    metric, bracket, variant = metric.partition("[")
    short = {"opening_corr": "open.\ncorr.", "opening_ratio": "open.\nratio"}.get(metric, metric.upper())
    arrow = {True: "↑", False: "↓", None: f"→{score.perfect:g}" if score.perfect is not None else ""}[
        score.higher_is_better
    ]
    lines = [
        way if slash else "",
        f"{short}{'' if not bracket else chr(10) + variant.rstrip(']')}",
        f"{arrow} {score.unit}",
    ]
    return "\n".join(line.strip() for line in lines if line.strip())


def cell(score: Score | None) -> str:
    """Value with as many digits as it deserves: two for dB, three otherwise."""
    if score is None or score.value is None:
        return EMPTY
    return f"{score.value:.2f}" if score.unit == "dB" else f"{score.value:.3f}"


def margin(score: Score | None) -> str:
    """Half the width of the 95 % interval, such as "±.12": short, since tables are wide."""
    if score is None or score.ci95 is None:
        return ""
    half = (score.ci95[1] - score.ci95[0]) / 2
    text = f"{half:.2f}" if score.unit == "dB" else f"{half:.3f}"
    return "±" + text.removeprefix("0")
