"""Names that can be files of the results, and CSV that holds no formulas."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from lipbench.errors import visible

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


def file_name(name: str, otherwise: str) -> str:
    """A name as part of a record's path: "a b[c]" becomes "a-b-c".

    Args:
        name: Any text.
        otherwise: What is taken where nothing is left of it.
    """
    return re.sub(r"[^\w.+-]+", "-", name)[:80].strip("-.") or otherwise


def check_protocol(name: str) -> None:
    """Check a protocol's name, whose parts between slashes become folders; see `check_name`."""
    for part in name.split("/"):
        check_name("the protocol name", part)
    if len(name.encode()) > _LONGEST:
        raise ValueError(f"the protocol name {name[:60]!r}... is too long: expected up to {_LONGEST} letters")


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
