"""lipbench: a benchmark suite for systems that make a mouth or a face speak."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lipbench.evaluation.external import evaluate as evaluate

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401 - `lipbench.evaluate` is found when it is asked for: it imports torch
    if name == "evaluate":
        from lipbench.evaluation.external import evaluate

        return evaluate
    raise AttributeError(f"module 'lipbench' has no attribute {name!r}")
