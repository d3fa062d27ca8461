"""Text that is safe to show, CSV that holds no formulas, and files that are written whole or not at all."""

import contextlib
import csv
import errno
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

_FORMULA: Final = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""What makes a spreadsheet take a cell for a formula; full-width forms count the same in some of them."""
_NAME: Final = re.compile(r"[\w+-][\w.+-]*")
_LONGEST: Final = 100
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


def check_name(what: str, name: str) -> None:
    """Check a name that becomes a file or a folder of the results: every system must be able to hold it.

    Args:
        what: Whose name, for the error: "evaluator.name".
        name: One part of a path.

    Raises:
        ValueError: It is empty, too long, leads to another folder, or is one that Windows keeps for devices.
    """
    rule = f"expected 1 to {_LONGEST} letters, digits and -_.+, not beginning or ending with a dot"
    if not _NAME.fullmatch(name) or name.endswith(".") or len(name.encode()) > _LONGEST:
        raise ValueError(f"{what} {name[:60]!r}{'...' if len(name) > 60 else ''} cannot name a file: {rule}")
    if _RESERVED.fullmatch(name):
        raise ValueError(f"{what} {name!r} cannot name a file: Windows keeps this name for a device; {rule}")


def check_protocol(name: str) -> None:
    """Check a protocol's name, whose parts between slashes become folders; see `check_name`."""
    for part in name.split("/"):
        check_name("the protocol name", part)
    if len(name.encode()) > _LONGEST:
        raise ValueError(f"the protocol name {name[:60]!r}... is too long: expected up to {_LONGEST} letters")


def visible(text: str) -> str:
    r"""Text in which whatever would move the cursor, color or reverse what is shown, or not encode, is spelled out.

    An escape becomes `\x1b`, a line break `\n`, half of a surrogate pair `\udc80`.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def on_one_line(text: str) -> str:
    """A sentence from elsewhere: runs of white space become one space, the rest as `visible` shows it."""
    return visible(" ".join(text.split()))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV file: numbers to six digits, None and NaN empty, and no text that a spreadsheet would calculate.

    Text that begins like a formula gets an apostrophe in front, which spreadsheets take for "this is text"; control
    characters are spelled out. `plain` takes the apostrophe off.

    Args:
        header: Names of the columns.
        rows: Values of every row, as long as the header.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | int | np.integer):
        return str(value)
    if isinstance(value, float | np.floating):
        return f"{value:.6g}" if np.isfinite(value) else ""
    text = visible(str(value))
    return f"'{text}" if text.lstrip(" '").startswith(_FORMULA) else text


def plain(cell: str) -> str:
    """A text cell of `csv_text` without the apostrophe that keeps it from being a formula."""
    return cell[1:] if cell.startswith("'") and cell.lstrip(" '").startswith(_FORMULA) else cell


def write_whole(files: Mapping[Path, str]) -> None:
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
