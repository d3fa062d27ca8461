"""Places that will be written to, tried before the work that fills them."""

import contextlib
import os
from pathlib import Path


def probe(folder: Path) -> None:
    """Write a file into a folder and delete it again; folders that are not there are made for it, and deleted too.

    Args:
        folder: Where something will be written.

    Raises:
        OSError: That is not possible; the message names the folder and says why.
    """
    folder = folder.expanduser().absolute()
    made: list[Path] = []
    try:
        for path in (*reversed(folder.parents), folder):
            if not path.exists():
                path.mkdir(exist_ok=True)
                made.append(path)
        file = folder / f".{os.getpid()}.probe"
        try:
            file.write_bytes(b"0" * 4096)  # so that a full disk shows
        finally:
            file.unlink(missing_ok=True)
    except OSError as error:
        why = "it is a file" if folder.is_file() else error.strerror or str(error)
        raise OSError(f"cannot write into {folder}: {why}; name another folder") from error
    finally:
        for path in reversed(made):
            with contextlib.suppress(OSError):  # something else has come into it
                path.rmdir()
