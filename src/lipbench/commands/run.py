"""run: an experiment of one or several stages: prepare, fit, test, compare, whatever is not done yet."""

import argparse
from pathlib import Path

GROUP = "Train and score"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench run`."""
    parser.add_argument(
        "experiment",
        metavar="EXPERIMENT",
        help="name of an experiment or a recipe (`lipbench list`), a YAML file, or a folder with stages.yaml",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done and how long it takes; do nothing"
    )
    parser.add_argument(
        "--from", dest="start", metavar="STAGE", help="do this stage and all later ones anew; earlier runs are kept"
    )
    parser.add_argument("--folder", type=Path, help="where the runs go (default: runs/EXPERIMENT)")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("leaderboards/results"),
        help="where records go (default: leaderboards/results); tables go into the folder above",
    )


def run(
    experiment: str,
    dry_run: bool = False,
    start: str | None = None,
    folder: Path | None = None,
    results: Path = Path("leaderboards/results"),
) -> None:
    """Run what is not finished; killed and started again, it goes on where it was.

    A stage that states no `trainer.devices` runs on one device.

    Args:
        experiment: Name, file or folder.
        dry_run: Only say what would be done.
        start: Stage from which on everything is done anew.
        folder: Where the runs go.
        results: Where records go.

    Raises:
        UsageError: The experiment is not well-formed, or there is no such stage.
    """
    from lipbench.console import stage_runs, stages

    found = stages.find(experiment)
    folder = folder or Path("runs") / found.name
    runner = stage_runs.Runner(found, folder, results, results.parent)
    runner.check()
    print(f"{found.name}, in {folder}")
    for line in runner.plan():
        print(f"  {line}")
    if not dry_run:
        print("Stopped or killed, the same command goes on from the last checkpoint.\n", flush=True)
        runner.run(start)
