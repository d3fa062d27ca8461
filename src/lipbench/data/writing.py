"""Writing into a folder that others read: whole files or none, and one writer at a time."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


def replace(aside: Path, path: Path) -> None:
    """Rename a finished file into its place after its content has reached the disk."""
    with aside.open("rb+") as file:
        os.fsync(file.fileno())
    aside.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a small file aside, then rename it."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    aside.write_text(text, "utf-8")
    replace(aside, path)


@contextmanager
def alone(folder: Path, command: str, part: str | None = None) -> Iterator[None]:
    """Hold the lock of a folder that a command writes; the system releases it when the process ends in whatever way.

    Args:
        folder: It is there.
        command: Such as "prepare".
        part: Several processes may write different parts of the folder at the same time; the name of this one's.

    Raises:
        RuntimeError: Another process holds it.
    """
    import fcntl

    with ExitStack() as stack:
        for name, mode in ((".lock", fcntl.LOCK_SH if part else fcntl.LOCK_EX), (part, fcntl.LOCK_EX)):
            if name is None:
                continue
            file = stack.enter_context((folder / name).open("a+"))  # shared file systems want both rights
            try:
                fcntl.flock(file, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(f"another `lipbench {command}` is writing {folder}; wait for it to end") from None
        yield
