"""The whole metrics bank on clips of a prepared store: seconds of every metric and of every observation.

The generated video is the truth, one frame late and blurred a little. The bank's own code runs, with timers around the
observers' `observe` and the metrics' `update`; an observation counts for both videos and is not kept on disk, and is
made once for all metrics that share it. Metrics whose weights are not here stand below with their reason. The first
clip warms up and does not count. Times are processor time, so that other work on the machine does not count.

    python benchmarks/bank.py [--data grid] [--clips 100] [--files syncnet=FILE transcript=FILE ...]
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lipbench.data._loader import ClipDataset, collate, to_float
from lipbench.data._store import Store, default_path
from lipbench.metrics._bank import CATALOGUE, Bank, Row
from lipbench.types import ClipSpec, View

VIEWS = {"mouth": View("mouth", 80, 160), "face": View("face", 256, 256)}


class Clock:
    """Processor time by name, one number a clip."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._inner = 0.0  # of what was measured inside what is being measured

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measure a block, without what is measured inside it under another name."""
        outer, self._inner = self._inner, 0.0
        started = time.process_time()
        try:
            yield
        finally:
            taken = time.process_time() - started
            self.seconds[name].append(taken - self._inner)
            self._inner = outer + taken

    def around(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, measured."""

        def measured(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever it takes and gives
            with self.measure(name):
                return work(*arguments, **named)

        return measured


def generated(video: Tensor) -> Tensor:
    """(B, T, 3, h, w) float: one frame late, and every pixel the mean of 3x3."""
    late = torch.cat([video[:, :1], video[:, :-1]], 1)
    return F.avg_pool2d(late.flatten(0, 1), 3, 1, 1, count_include_pad=False).reshape(video.shape)


def timed_row(bank: Bank, clock: Clock) -> Row:
    """Empty accumulators whose metrics are measured."""
    row = bank.row()
    for name, metric in (*row.metrics.items(), *row.sets.items()):
        metric.update = clock.around(name, metric.update)
    return row


def score(bank: Bank, row: Row, clock: Clock, dataset: ClipDataset, k: int, view: View) -> None:
    """Score one clip."""
    with clock.measure("reading the store"):
        given = to_float(collate([dataset[k]]))
    with clock.measure("pictures and everything else"):
        scene = bank.scene(given, view)
        row.update(scene.take(generated(given["video"])), scene)


def main() -> None:
    """Score the clips one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="grid", help="corpus, whose prepared store is taken (default: %(default)s)")
    parser.add_argument("--store", type=Path, help="another prepared store")
    parser.add_argument("--clips", type=int, default=100, help="clips, evenly spaced (default: %(default)s)")
    parser.add_argument("--view", choices=VIEWS, default="face", help="what the generated video shows (%(default)s)")
    parser.add_argument("--metrics", nargs="+", help="names or groups (default: all there are)")
    parser.add_argument("--files", nargs="+", default=[], metavar="NAME=FILE", help="weights, as for lipbench evaluate")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)

    try:
        store = Store(arguments.store or default_path(arguments.data))
    except FileNotFoundError as error:
        raise SystemExit(f"{error}; make it with: lipbench prepare --data {arguments.data}") from error
    count = min(arguments.clips, len(store))
    ids = [store.clip_ids[k] for k in np.linspace(0, len(store) - 1, count).astype(int)]
    view = VIEWS[arguments.view]
    dataset = ClipDataset(
        store,
        ids,
        ClipSpec(frames={"video": view}),
        frozenset({"face", "landmarks", "sound"}),
        seed=0,
        training=False,
        speakers={},
    )
    groups = sorted({entry.group for entry in CATALOGUE.values()})
    bank = Bank(arguments.metrics or groups, dict(pair.split("=", 1) for pair in arguments.files))

    clock = Clock()
    for name, observer in bank.observers.items():
        observer.observe = clock.around(f"observation: {name}", observer.observe)
    with torch.inference_mode():
        score(bank, timed_row(bank, clock), clock, dataset, 0, view)
        clock.seconds.clear()
        row = timed_row(bank, clock)
        for k in range(count):
            score(bank, row, clock, dataset, k, view)
        with clock.measure("means and distances of sets"):
            row.whole()
            for metric in row.metrics.values():
                metric.compute()

    total = sum(map(sum, clock.seconds.values()))
    frames = sum(store[clip_id].n_frames for clip_id in ids)
    print(f"{count} clips, {frames} frames, generated {view}, {arguments.threads} thread(s) of torch")
    print(f"{'':32}{'s':>10}{'share':>8}{'ms a clip, median':>20}")
    for name, seconds in sorted(clock.seconds.items(), key=lambda line: -sum(line[1])):
        each = 1000 * float(np.median(seconds)) * len(seconds) / count
        print(f"{name:32}{sum(seconds):10.2f}{sum(seconds) / total:8.1%}{each:20.2f}")
    print(f"{'total':32}{total:10.2f}{count / total:8.2f} clips a second")
    for why in dict.fromkeys(row.reasons.values()):
        print(f"not computed: {', '.join(name for name, said in row.reasons.items() if said == why)}: {why}")


if __name__ == "__main__":
    main()
