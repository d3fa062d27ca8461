"""Errors that end a command with a sentence instead of a traceback, and text from elsewhere as it stands in one."""


class UsageError(ValueError):
    """What was typed cannot work; the message says what to type instead."""


class Unavailable(RuntimeError):
    """A metric cannot be computed on this machine; the message says what is missing and where it belongs."""


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
