"""list: what there is: models, corpora, metrics, experiment files."""

import argparse

from lipbench.commands import _names

GROUP = "Start here"


def arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run() -> None:
    """Print the short names with the first line of each file's docstring; nothing is imported."""
    metrics = "Metrics (their columns and groups: docs/metrics.md)"
    for title, kind in (("Models (--model)", "model"), ("Corpora (--data)", "data"), (metrics, "metric")):
        print(f"{title}:")
        for name, path in _names.files(kind).items():
            print(f"  {name:12} {_names.summary(path)}")
            protocols = _names.constant(path, "protocols") if kind == "data" else None
            if isinstance(protocols, tuple):
                print(f"  {'':12} protocols: {', '.join(protocols)}")
        print()
    print("Experiments (--config):")
    for path in _names.recipes():
        print(f"  {path}")
