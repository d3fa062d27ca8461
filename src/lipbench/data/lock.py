"""One writer at a time in a folder that others read."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


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
