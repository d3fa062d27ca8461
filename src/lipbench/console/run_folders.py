"""Run folders: a new one for each run, the same one for a run that is resumed, and never two runs in one."""

import fcntl
from pathlib import Path
from typing import IO

import yaml

from lipbench.errors import UsageError

_held: list[IO[str]] = []  # locks, open while a run writes


def new(folder: Path, stage: str) -> Path:
    """A new run folder below `folder`.

    Args:
        folder: Where the runs of one model and corpus lie.
        stage: "fit", "validate", "test" or "predict".
    """
    from lipbench import tracking

    made = folder / tracking.claim(folder, stage)
    if stage == "fit":
        _lock(made)
    return made


def going_on(checkpoint: Path, folder: Path) -> tuple[Path | None, str]:
    """The run folder that a resumed run goes on in, which is then locked.

    Args:
        checkpoint: From which it is resumed.
        folder: Where the runs of this model and corpus lie.

    Returns:
        The folder and "", or None and why there is none.
    """
    run = checkpoint.resolve().parent.parent
    last = checkpoint.with_name("last.ckpt")
    if checkpoint.resolve().parent.name != "checkpoints" or run.parent != folder.resolve():
        return None, f"{checkpoint} lies in no run folder of {folder}"
    if checkpoint.name != last.name and last.is_file():
        return None, f"{run.name} has come further than {checkpoint.name}, and stays as it is"
    if not _lock(run):
        return None, f"another run is writing into {run.name}"
    return folder / run.name, ""


def _lock(run: Path) -> bool:
    """Mark a run folder as in use until `release` or the end of the process, however it ends."""
    stream = run.with_name(f".{run.name}.lock").open("a")  # beside it: Lightning wants a new folder empty
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        return False
    _held.append(stream)
    return True


def release() -> None:
    """Nobody writes into the run folders of this process any more."""
    while _held:
        _held.pop().close()


def refuse_alias(checkpoint: Path) -> None:
    """Refuse "last" and "best", which stand for a file only where a model and a corpus are named too, as for `test`.

    Raises:
        UsageError: It is one of them; the message names the newest such file below runs/.
    """
    if str(checkpoint) in ("last", "best"):
        found = Path("runs").glob(f"*/version_*/checkpoints/{checkpoint}.ckpt")
        newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
        told = f"; the newest here is {newest}" if newest else ""
        raise UsageError(f"expected the file of a checkpoint, found {str(checkpoint)!r}{told}")


def root_of(checkpoint: Path) -> str | None:
    """The `default_root_dir` that the configuration beside a checkpoint names; None if there is none."""
    file = checkpoint.parent.parent / "config.yaml"
    try:
        found = yaml.safe_load(file.read_text("utf-8"))["trainer"]["default_root_dir"]
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return None
    return str(found)
