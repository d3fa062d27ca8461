"""What papers report of the models and the corpus of a table: shown below it, never ranked."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lipbench.errors import visible
from lipbench.leaderboard.boards import Board

_COLUMNS: Final = ("model", "paper", "table", "dataset", "setting", "method", "metric", "value")
_METRICS: Final = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "lmd": "LMD",
    "cpbd": "CPBD",
    "fid": "FID",
    "lse_c": "LSE-C",
    "lse_d": "LSE-D",
    "wer": "WER %",
    "wer1": "WER1 %",
    "wer2": "WER2 %",
    "cer": "CER %",
    "per": "PER %",
    "word_acc": "ACC %",
    "latency_s": "s/video",
    "latency_s_per_frame": "s/frame",
}
"""Metric of the files -> its heading. Errors and accuracies are percentages there, latencies seconds."""
_NO_CORPUS: Final = "-"
"""Dataset of numbers that papers give without one, such as the time that a frame takes."""


def read(folder: Path) -> tuple[list[dict[str, str]], list[str]]:
    """All rows of the CSV files of a folder, and a message for each file that is not of that kind."""
    rows, broken = [], []
    for path in sorted(folder.glob("*.csv")):
        try:
            if not path.is_file():
                raise ValueError("it is no regular file")
            found = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), restkey="more"))
            for number, row in enumerate(found, 2):
                if "more" in row or any(row.get(name) is None for name in _COLUMNS):
                    raise ValueError(f"line {number} has not just the columns {', '.join(_COLUMNS)}")
                if not math.isfinite(float(row["value"])):
                    raise ValueError(f"value in line {number} is {row['value']}; expected a finite number")
        except (OSError, ValueError, csv.Error) as error:
            broken.append(visible(f"{path} holds no reported numbers: {error}"))
            continue
        rows += found
    return rows, broken


def show(board: Board, reported: Sequence[dict[str, str]], console: Console) -> None:
    """Print what papers report of the models and the corpus of a board, with each table's setting."""
    models = {line.record.name for line in board.lines if line.record.kind == "model"}
    corpus = board.lines[0].record.protocol["name"].split("/")[0]
    rows = [row for row in reported if row["model"] in models and row["metric"] in _METRICS]
    rows = [row for row in rows if row["dataset"] in (corpus, _NO_CORPUS)]
    if all(row["dataset"] == _NO_CORPUS for row in rows):
        return
    console.print(
        "\nReported elsewhere: other splits, crops, observers and programs, so not ranked, and numbers may not be "
        "comparable (leaderboards/reported/README.md)",
        style="italic",
        highlight=False,
    )
    metrics = [name for name in _METRICS if any(row["metric"] == name for row in rows)]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("method", overflow="fold")
    for name in metrics:
        table.add_column(_METRICS[name], justify="right", overflow="fold")
    for paper, number, setting in dict.fromkeys((row["paper"], row["table"], row["setting"]) for row in rows):
        where = f"table {number}" if number.isdigit() else number
        table.add_row(Text(visible(f"{paper}, {where}: {setting}"), style="dim"))
        methods: dict[str, dict[str, str]] = {}
        for row in rows:
            if (row["paper"], row["table"], row["setting"]) == (paper, number, setting):
                methods.setdefault(row["method"], {})[row["metric"]] = f"{float(row['value']):g}"
        for method, values in methods.items():
            table.add_row(Text(visible(f"  {method}")), *(values.get(name, "") for name in metrics))
    console.print(table)
