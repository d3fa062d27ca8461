"""compare: results records -> leaderboards/<protocol>.csv and tables in the terminal."""

import argparse
from pathlib import Path

from lipbench.errors import UsageError

GROUP = "Train and score"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench compare`."""
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("leaderboards/results"),
        help="folder of the records (default: leaderboards/results)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("leaderboards"), help="where the CSV files go (default: leaderboards)"
    )
    parser.add_argument("--protocol", help="only this one, e.g. grid/s1")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a CSV file is not up to date")


def run(
    results: Path = Path("leaderboards/results"),
    out: Path = Path("leaderboards"),
    protocol: str | None = None,
    check: bool = False,
) -> None:
    """Rank what was scored; see `lipbench.leaderboard.table.compare`.

    Args:
        results: Folder of the records.
        out: Where the CSV files go.
        protocol: Only this one.
        check: Write nothing.

    Raises:
        UsageError: The folder of records is not there, or with `check`, a CSV file is not what the records say.
    """
    from lipbench.leaderboard import table

    if results != Path("leaderboards/results") and not results.is_dir():  # the usual one appears with the first record
        raise UsageError(f"no folder {results}; expected records as `lipbench test` and `evaluate` write them")
    changed = table.compare(results, out, protocol, check=check)
    if check and changed:
        raise UsageError(f"the tables in {out} are not up to date. Type: lipbench compare, and commit what it writes")
