"""What a results record must hold, field by field: types, ranges, finite numbers, and fields that belong together."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from lipbench.errors import visible
from lipbench.evaluation.writing import check_protocol

KINDS: Final = ("model", "control", "calibration")
TIMINGS: Final = ("given", "speech", "length", "free")
TEXT: Final = "text/"
"""Beginning of the columns that score what a model reads itself."""
LARGEST: Final = 1e9
"""Of any score: a larger one is a mistake, and no table has room for it."""
_DEEPEST: Final = 32  # levels of lists and mappings; a record has four
_Check = Callable[[str, Any], None]
"""Takes a field's name and its value; raises ValueError with both and what was expected."""


def check(content: object) -> None:
    """Check a parsed JSON file.

    Args:
        content: Of the file, of any type.

    Raises:
        ValueError: It is no record; the message names the first field that is wrong, and what was expected.
    """
    level = [content]
    for _ in range(_DEEPEST):
        held = [
            value.values() if isinstance(value, dict) else value for value in level if isinstance(value, dict | list)
        ]
        level = [item for values in held for item in values]
    if any(isinstance(value, dict | list) for value in level):
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
    _fields(_RECORD, optional={"beside"})("the file", content)
    assert isinstance(content, dict)
    kind, clips = content["kind"], content["clips"]["n"]
    reader = bool(content["scores"]) and all(name.startswith(TEXT) for name in content["scores"])
    if kind != "calibration" and content["timing"] is None and not reader:
        raise _wrong("timing", None, f"{' or '.join(TIMINGS)} for a {kind}")
    if (content["control"] is not None) != (kind == "control"):
        raise _wrong("control", content["control"], f"{'a name' if kind == 'control' else 'null'} for a {kind}")
    for name, score in content["scores"].items():
        where = f"scores.{visible(name)}"
        if score["n"] > clips:
            raise _wrong(f"{where}.n", score["n"], f"up to {clips}, the clips that were scored")
        if score["value"] is not None and not score["n"]:
            raise _wrong(f"{where}.value", score["value"], "null where no clip has a score")


def _wrong(where: str, value: object, expected: str) -> ValueError:
    """The error for a field, its value cut to what fits a line."""
    if isinstance(value, dict | list):
        shown = f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    elif value is None or isinstance(value, bool):
        shown = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, int):  # Python refuses to print those of more than 4300 digits
        shown = str(value) if abs(value) < 1e20 else "an integer of more than 20 digits"
    else:
        shown = repr(value)
    return ValueError(f"{where} is {visible(shown[:60])}{'...' if len(shown) > 60 else ''}; expected {expected}")


def _text(longest: int, least: int = 0, none: bool = False) -> _Check:
    """A string of up to `longest` characters."""

    def check(where: str, value: Any) -> None:  # noqa: ANN401 - any JSON value
        if not (value is None and none) and not (isinstance(value, str) and least <= len(value) <= longest):
            raise _wrong(where, value, f"a text of {least} to {longest} characters{' or null' if none else ''}")

    return check


def _number(low: float, high: float, none: bool = False, whole: bool = False) -> _Check:
    """A finite number of a range."""

    def check(where: str, value: Any) -> None:  # noqa: ANN401 - any JSON value
        fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not (value is None and none) and not (fits and low <= value <= high):  # NaN compares false
            kind = "an integer" if whole else "a number"
            raise _wrong(where, value, f"{kind} from {low:g} to {high:g}{' or null' if none else ''}")

    return check


def _choice(*choices: object) -> _Check:
    """One of a few values, of their own type."""

    def check(where: str, value: Any) -> None:  # noqa: ANN401 - any JSON value
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            names = {None: "null", True: "true", False: "false"}
            told = [names[c] if c is None or isinstance(c, bool) else str(c) for c in choices]
            raise _wrong(where, value, " or ".join(told))

    return check


def _interval(where: str, value: object) -> None:
    """None, or two finite numbers in order."""
    if value is None:
        return
    if not isinstance(value, list) or len(value) != 2:
        raise _wrong(where, value, "a list of two numbers or null")
    for k, end in enumerate(value):
        _SCORED(f"{where}.{k}", end)
    if value[0] > value[1]:
        raise _wrong(where, value[0], f"up to its upper end, {value[1]}")


def _protocol(where: str, value: object) -> None:
    """A name whose parts may name folders and files: tables are called by it."""
    _text(100, 1)(where, value)
    assert isinstance(value, str)
    try:
        check_protocol(value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _fields(rules: Mapping[str, _Check], optional: set[str] | None = None, others: bool = False) -> _Check:
    """A mapping of these fields, and of others if they do not matter."""

    def check(where: str, value: Any) -> None:  # noqa: ANN401 - any JSON value
        if not isinstance(value, dict):
            raise _wrong(where, value, f"a mapping of {', '.join(rules) or 'names to values'}")
        inside = "" if where == "the file" else f"{where}."
        for name in rules:
            if name in value:
                rules[name](f"{inside}{name}", value[name])
            elif name not in (optional or ()):
                raise ValueError(f"{inside}{name} is missing")
        for name in value:
            if name not in rules and not others:
                raise ValueError(f"{inside}{visible(name[:60])} is not known; expected {', '.join(rules)}")

    return check


def _each(item: _Check, type_: type[dict[str, Any]] | type[list[Any]], what: str) -> _Check:
    """A mapping or a list whose values are all of one kind."""

    def check(where: str, value: Any) -> None:  # noqa: ANN401 - any JSON value
        if not isinstance(value, type_):
            raise _wrong(where, value, what)
        for key, held in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str) and not 0 < len(key) <= 100:
                raise ValueError(f"{where} has a name of {len(key)} characters; expected 1 to 100")
            item(f"{where}.{visible(str(key))}", held)

    return check


_SCORED: Final = _number(-LARGEST, LARGEST)
_COUNT: Final = _number(0, 1e9, whole=True)
_ANY: Final = _fields({}, others=True)
_HASH: Final = _text(64)
_SCORE: Final[dict[str, _Check]] = {
    "value": _number(-LARGEST, LARGEST, none=True),
    "ci95": _interval,
    "n": _COUNT,
    "coverage": _number(0, 1),
    "unit": _text(20),
    "higher_is_better": _choice(True, False, None),
    "perfect": _number(-LARGEST, LARGEST, none=True),
    "judge": _text(300, none=True),
    "reason": _text(10_000, none=True),
}
_PAIRED: Final[dict[str, _Check]] = {
    "metric": _text(100, 1),
    "against": _text(100, 1),
    "difference": _SCORED,
    "ci95": _interval,
    "better": _number(0, 1),
    "p": _number(0, 1, none=True),
    "n": _COUNT,
}
_RECORD: Final[dict[str, _Check]] = {
    "kind": _choice(*KINDS),
    "name": _text(100, 1),
    "run": _text(200, 1),
    "control": _text(100, 1, none=True),
    "protocol": _fields({"name": _protocol, "version": _number(0, 1e6, whole=True), "split_sha256": _HASH}),
    "clips": _fields({"n": _COUNT, "speakers": _COUNT, "sha256": _HASH}),
    "view": _text(100),
    "timing": _choice(*TIMINGS, None),
    "model": _ANY,
    "training": _ANY,
    "data": _fields({"settings": _ANY, "packed": _text(100, none=True)}, optional={"packed", "settings"}, others=True),
    "scores": _each(_fields(_SCORE), dict, "a mapping of columns to scores"),
    "paired": _each(_fields(_PAIRED), list, "a list of comparisons"),
    "environment": _ANY,
    "command": _text(100_000),
    "created": _text(100),
    "beside": _each(_text(100, 1), list, "a list of names"),
    "schema": _choice(1),
}
