"""lipbench: a benchmark suite for systems that make a mouth or a face speak.

The Python door, see docs/python.md: `lipbench.evaluate`, `lipbench.evaluate_reader`, `lipbench.load`,
`lipbench.compare`, the metrics' classes in `lipbench.metrics` and their functions in `lipbench.functional`. Each is
imported when it is asked for, so that `import lipbench` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from lipbench import functional as functional
    from lipbench import metrics as metrics
    from lipbench.evaluation.external import evaluate as evaluate
    from lipbench.evaluation.reader_files import evaluate_reader as evaluate_reader
    from lipbench.generation.arrays import load as load
    from lipbench.leaderboard.table import frames as compare

__version__ = "0.1.0"
__all__ = ["__version__", "compare", "evaluate", "evaluate_reader", "functional", "load", "metrics"]

_WHERE: Final = {
    "compare": ("leaderboard.table", "frames"),
    "evaluate": ("evaluation.external", "evaluate"),
    "evaluate_reader": ("evaluation.reader_files", "evaluate_reader"),
    "functional": ("functional", None),
    "load": ("generation.arrays", "load"),
    "metrics": ("metrics", None),
}
"""Public name -> its file below `lipbench`, and what it is called there; None for the file itself."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - functions and modules
    """What is found when it is asked for: most of it imports torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'lipbench' has no attribute {name!r}; it has {', '.join(__all__)}")
    file, inside = _WHERE[name]
    module = importlib.import_module(f"lipbench.{file}")
    return module if inside is None else getattr(module, inside)


def __dir__() -> list[str]:
    """Public names."""
    return __all__
