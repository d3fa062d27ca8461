"""list: what there is, by the names that options take: models, corpora, metrics, observers, recipes."""

import argparse
import re
from pathlib import Path

from lipbench import discovery

GROUP = "Start here"


def arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run() -> None:
    """Print the short names, each with what it is; no model, corpus or metric is imported."""
    metrics = "Metrics (their columns and groups: docs/metrics.md)"
    for title, kind in (("Models (--model)", "model"), ("Corpora (--data)", "data"), (metrics, "metric")):
        print(f"{title}:")
        for name, path in discovery.files(kind).items():
            print(f"  {name:12} {discovery.summary(path)}")
            if kind == "data" and (protocols := discovery.protocols(path)):
                print(f"  {'':12} protocols: {', '.join(protocols)}")
        print()
    _observers()
    _recipes()


def _observers() -> None:
    """The observers that come with lipbench."""
    from lipbench.pretrained import bundled

    print("Observers that come with lipbench (evaluate: --files.OBSERVER NAME; test: --evaluator.files.OBSERVER NAME):")
    for observation in ("transcript", "second_transcript", "syncnet"):
        for name in bundled.names(observation):
            print(f"  {name:25} {observation}: {bundled.knows(name)}")
    print("  others: `lipbench weights`\n")


def _recipes() -> None:
    """The recipes: for which device, how long on it, and what they say of themselves."""
    from lipbench.console import recipe_files as recipes

    print("Recipes (--config NAME), with the device they are for and the time their training takes:")
    for path in discovery.recipes():
        device, time, about = told(path)
        print(f"  {recipes.name(path):36} {device}, {time}\n      {about}")


def told(path: Path) -> tuple[str, str, str]:
    """What a recipe says: device, time of the training, and the first sentence of its comments.

    Args:
        path: Of the recipe. Comments name the time as "24 minutes on one core" or "38 minutes of one core".
    """
    lines = path.read_text("utf-8").splitlines()
    found = [line.partition("#")[2] for line in lines if "#" in line]
    heading = [line[1:] for line in lines if line.startswith("#") and not line.startswith("#   ")] or found[:1]
    comments, about = (" ".join(" ".join(parts).split()) for parts in (found, heading))
    time = re.search(r"(?:about )?[\d.,]+ (?:minutes|hours?|days)(?: (?:of|on) (?:one|two|2) cores?)?", comments)
    device = "CPU" if any(line.strip() == "accelerator: cpu" for line in lines) else "GPU"
    return device, time[0] if time else "time not measured", re.split(r"(?<=\.) ", about)[0]
