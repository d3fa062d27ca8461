"""download: fetch a corpus that may be fetched; an interrupted download goes on where it stopped."""

import argparse
from pathlib import Path

from lipbench import discovery

GROUP = "Corpora"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench download`."""
    parser.add_argument("--data", required=True, metavar="NAME", help="corpus: grid (33 speakers, about 0.5 GB each)")
    parser.add_argument("--root", type=Path, help="where to (default: $LIPBENCH_HOME/corpora/<data>, found by prepare)")
    parser.add_argument("--speakers", nargs="+", metavar="S", help="only these, e.g. --speakers s1 s2")
    parser.add_argument("--url", help="another place that has the same files")


def run(data: str, root: Path | None = None, speakers: list[str] | None = None, url: str | None = None) -> None:
    """Fetch and unpack a corpus; see `lipbench.data.download.download`.

    Args:
        data: Short name of the corpus.
        root: Where to.
        speakers: Only these.
        url: Another place that has the same files.

    Raises:
        UsageError: The corpus is unknown.
    """
    if data not in discovery.files("data"):
        raise discovery.unknown("--data", data, discovery.files("data"))

    from lipbench.data import download

    only = None if speakers is None else discovery.listed(" ".join(speakers))
    folder = download.download(data, root, only, url)
    print(f"{folder}: next, lipbench prepare --data {data}" + (f" --root {folder}" if root else ""))
