"""Run folders: a new one for each run, the same one for a run that is resumed, and never two runs in one."""

import fcntl
import re
from pathlib import Path
from typing import IO, Any, Final

import yaml

from lipbench.commands._names import UsageError

_KNOWN: Final = ("lipbench.", "pytorch_lightning.", "lightning.", "torch.")
_CLASSES: Final = (
    "callbacks",
    "logger",
    "plugins",
    "profiler",
    "strategy",
    "accelerator",
)  # of the Trainer's arguments

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


def root_of(checkpoint: Path) -> str | None:
    """The `default_root_dir` that the configuration beside a checkpoint names; None if there is none."""
    file = checkpoint.parent.parent / "config.yaml"
    try:
        found = yaml.safe_load(file.read_text("utf-8"))["trainer"]["default_root_dir"]
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return None
    return str(found)


def check_brought(file: Path) -> None:
    """Refuse a configuration that nobody typed, and that would import what a stranger has named.

    Args:
        file: The config.yaml beside a checkpoint.

    Raises:
        UsageError: It names a class outside lipbench, Lightning and PyTorch, or is no configuration.
    """
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(
            f"{file} cannot be read ({type(error).__name__}); name model and corpus, or --config"
        ) from None
    for name in _named(content):
        if not name.startswith(_KNOWN) and "." in name:
            raise UsageError(
                f"{file}, which lies beside the checkpoint, names {name!r}. It is not imported. If you trust the file, "
                f"say so: --config {file}"
            )


def _named(value: Any, key: str = "") -> list[str]:  # noqa: ANN401 - what a file holds
    """Everything in a configuration that is, or could be taken for, a class path."""
    if isinstance(value, dict):
        return [name for k, item in value.items() for name in _named(item, str(k))]
    if isinstance(value, list):
        return [name for item in value for name in _named(item, key)]
    if isinstance(value, str) and (key == "class_path" or key in ("model", "data", *_CLASSES)):
        return [value] if re.fullmatch(r"[\w.]+", value) else []
    return []
