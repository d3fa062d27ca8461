"""The command `lipbench`: finds the command's file, runs it, and prints errors as sentences.

Everything heavy is imported by the command that needs it, so that `--version`, `--help` and `list` answer at once and a
missing optional package stops only the command that uses it.
"""

import argparse
import importlib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from lipbench import __version__, discovery
from lipbench.errors import UsageError

TRAINER = {
    "fit": "train a model on a prepared corpus",
    "validate": "losses of a checkpoint on the validation clips",
    "test": "score a checkpoint on the test clips: writes a results record",
    "predict": "generate the clips of a split without scoring them",
}
"""Commands that are methods of Lightning's Trainer."""

_EXAMPLES = """\
Examples:
  lipbench demo                                        no data needed: render, train, score, rank
  lipbench prepare --data grid --root DIR              raw corpus -> prepared store
  lipbench fit --model paralip --data grid             train, by experiments/paralip_grid.yaml (wants a GPU)
  lipbench fit --config paralip_grid_s1_small          the same on one speaker, for a CPU
  lipbench test --model paralip --data grid --ckpt_path last
  lipbench evaluate --generated DIR --reference DIR    score videos that any other system made
  lipbench compare                                     records -> tables

`lipbench COMMAND --help` tells more. LIPBENCH_HOME is where stores and weights lie (default: the user's cache folder);
--traceback, or LIPBENCH_TRACEBACK=1, shows where an error came from. Two runs beside each other on one machine are
fastest with OMP_NUM_THREADS=1 before each."""


class _Parser(argparse.ArgumentParser):
    """Argparse for one command: no abbreviations, errors as `UsageError` with the nearest option."""

    def __init__(self, prog: str, docstring: str) -> None:
        about = docstring.partition(": ")[2]
        super().__init__(
            prog, description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UsageError(f"{message}. `{self.prog} --help` lists the options.")

    def read(self, words: list[str]) -> dict[str, Any]:
        """Option name -> value.

        Raises:
            UsageError: An option is unknown, missing or has a value that does not fit.
        """
        options, extra = self.parse_known_args(words)
        if extra:
            if extra[0].startswith("--"):
                raise discovery.unknown(
                    "option", extra[0].partition("=")[0], set(re.findall(r"--\w+", self.format_help()))
                )
            self.error(f"{extra[0]!r} belongs to no option")
        return vars(options)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script.

    Args:
        argv: Words after `lipbench`; None takes them from the process.

    Returns:
        0, or 2 for a command that cannot be understood, 1 for one that failed.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    show = "--traceback" in words or os.environ.get("LIPBENCH_TRACEBACK", "0") not in ("", "0")
    words = [word for word in words if word != "--traceback"]
    # Read when PyTorch is loaded. Threads that spin while they wait make a training step on a busy machine several
    # times slower; that they sleep costs less on an idle one.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        _run(words)
    except SystemExit as left:  # how argparse ends after printing a help or a configuration
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except KeyboardInterrupt:
        print("lipbench: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `lipbench list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (UsageError, argparse.ArgumentError) as error:
        if show:
            traceback.print_exc()
        _tell(str(error))
        return 2
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if show:
            traceback.print_exc()
        _tell(_sentence(error))
        return 1
    return 0


def _tell(text: str) -> None:
    """Print an error, which may quote names of files: the terminal acts on nothing in it but line breaks."""
    from lipbench.errors import visible

    print("lipbench: " + "\n".join(map(visible, text.splitlines())), file=sys.stderr)


def _sentence(error: Exception) -> str:
    """An error as the user should read it; errors raised outside lipbench's own code say how to see more."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("lipbench"):
        return f"this command needs the package {error.name!r}, which is not installed. Type: pip install lipbench"
    cause: BaseException | None = error
    while cause is not None:  # an error of ours may be buried in others: jsonargparse wraps those of constructors
        if _origin(cause).startswith(str(discovery.PACKAGE)):
            return str(cause) or type(cause).__name__
        cause = cause.__cause__
    origin = _origin(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = str(error) or type(error).__name__
    return f"{type(error).__name__}: {text}\n(raised in {origin}; --traceback shows the way there)"


def _origin(error: BaseException) -> str:
    """The file in which an error was raised; empty if it never was."""
    way = traceback.extract_tb(error.__traceback__)
    return way[-1].filename if way else ""


def _run(words: list[str]) -> None:
    """Find and run one command."""
    if not words or words[0] in ("--help", "-h", "help"):
        print(_help())
        return
    name, rest = words[0], words[1:]
    if name == "--version":
        print(f"lipbench {__version__}")
        return
    commands = discovery.files("command")
    if name in TRAINER:
        if "--help" in rest or "-h" in rest:
            from lipbench.console import trainer_help as short

            print(short.trainer(name))
            return
        from lipbench.console import argv as typed

        rest = typed.prepared(name, rest)  # before Lightning is imported: that takes seconds, a wrong name should not

        from lipbench.console import trainer

        trainer.run(name, rest)
    elif name in commands:
        command = importlib.import_module(f"lipbench.commands.{name}")
        parser = _Parser(f"lipbench {name}", str(command.__doc__))
        command.arguments(parser)
        command.run(**parser.read(rest))
    elif name.startswith("-"):
        raise UsageError(f"the command comes first: lipbench COMMAND {' '.join(words)}")
    else:
        raise discovery.unknown("command", name, [*TRAINER, *commands])


def _help() -> str:
    """What `lipbench --help` prints: commands in groups, one line each."""
    groups: dict[str, dict[str, str]] = {"Start here": {}, "Corpora": {}, "Train and score": dict(TRAINER)}
    for name, path in discovery.files("command").items():
        line = discovery.summary(path).partition(": ")[2].rstrip(".")
        groups.setdefault(str(discovery.constant(path, "GROUP")), {})[name] = line
    lines = ["usage: lipbench COMMAND [options]", "", "Benchmark for systems that make a mouth or a face speak.", ""]
    for group, commands in groups.items():
        lines += [f"{group}:", *(f"  {name:10} {line}" for name, line in commands.items()), ""]
    return "\n".join(lines) + _EXAMPLES
