"""Files that are whole or absent under their name, and their hashes."""

import contextlib
import errno
import glob
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from lipbench.errors import visible

_STALE: Final = 600.0  # seconds after which an unfinished file beside the target is that of a killed process


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file that is whole or absent under its name, whatever happens; the previous one stays until then.

    The block writes to the name that it is given, in the same folder, so on the same file system. After it the content
    is flushed to the disk and renamed. Unfinished files that a killed process left beside the target are removed.

    Args:
        path: The target; its folder is made.

    Raises:
        RuntimeError: It cannot be written, for example because the disk is full.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # with the permissions of any new file, unlike tempfile's
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            if time.time() - left.stat().st_mtime > _STALE:
                left.unlink(missing_ok=True)
        yield aside
        replace(aside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, is on the disk
        finally:
            os.close(folder)
    except OSError as error:
        kept = "; the previous one is still there" if path.is_file() else ""
        raise RuntimeError(f"{path} cannot be written ({error.strerror or error}){kept}") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def replace(aside: Path, path: Path) -> None:
    """Rename a finished file into its place after its content has reached the disk."""
    with aside.open("rb+") as file:
        os.fsync(file.fileno())
    aside.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file that is whole or absent, see `written_whole`."""
    with written_whole(path) as aside:
        aside.write_text(text, "utf-8")


def write_together(files: Mapping[Path, str]) -> None:
    """Write files whole or not at all: all of them aside and onto the disk, then renamed in their order.

    If anything fails before the first rename (a full disk, a folder that cannot be written), what was there before is
    there still. A process that is killed between two renames leaves the later ones as they were.

    Args:
        files: Path -> content, in the order in which they shall appear.

    Raises:
        OSError: A file cannot be written; the message names it.
    """
    aside: dict[Path, Path] = {}
    path = Path()
    try:
        for k, (path, content) in enumerate(files.items()):
            path.parent.mkdir(parents=True, exist_ok=True)
            aside[path] = path.with_name(f".{os.getpid()}-{k}.part")  # short: beside a long name a longer one fails
            with aside[path].open("w", encoding="utf-8", newline="\n") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        for path, part in aside.items():
            part.replace(path)
    except OSError as error:
        why = "no space left on the device" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise OSError(f"cannot write {visible(str(path))}: {why}") from error
    finally:
        for part in aside.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
