"""list: what there is, by the names that options take: models, corpora, metrics, observers, recipes."""

import argparse

from lipbench import discovery

GROUP = "Start here"


def arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run() -> None:
    """Print the short names, each with what it is; no model, corpus or metric is imported."""
    metrics = "Metrics (their columns and groups: docs/metrics.md)"
    for title, kind in (("Models (--model)", "model"), ("Corpora (--data)", "data"), (metrics, "metric")):
        print(f"{title}:")
        files = discovery.files(kind)
        width = max(12, *map(len, files))
        for name, path in files.items():
            package = discovery.package_of(kind, name)
            print(f"  {name:{width}} {discovery.summary(path)}{f' ({package})' if package else ''}")
            if kind == "data" and (protocols := discovery.protocols(path)):
                print(f"  {'':{width}} protocols: {', '.join(protocols)}")
        for sentence in discovery.conflicts(kind):
            print(f"  ! {sentence}")
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
        device, time, about = recipes.told(path)
        print(f"  {recipes.name(path):36} {device}, {time}\n      {about}")
    print("\nExperiments of several stages (lipbench run NAME):")
    for path in discovery.experiments():
        print(f"  {recipes.name(path)}\n      {recipes.told(path)[2]}")
