"""The metrics bank on clips of a prepared store: time of every metric and observation beside the straightforward way.

The generated video is the truth, one frame late and blurred a little. The bank's own code runs, with timers around the
observers' `observe` and the metrics' `update`; an observation counts for both videos and is not kept on disk, and is
made once for all metrics that share it. Metrics whose weights are not here stand below with their reason. The first
clip warms up and does not count. Times are processor time, so that other work on the machine does not count.

"Straightforward" runs the same bank, with these parts as they are written without thought of time: every observer
pastes the video into the reference's pictures and looks for broken frames by itself, SSIM blurs by products with whole
banded matrices, PSNR goes through a video at once, and CPBD's grey is taken in whole numbers. Both ways score every
clip, in turn, and all scores must agree to 1e-6.

    python benchmarks/bank.py [--data grid] [--clips 100] [--files syncnet=FILE transcript=FILE ...]
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lipbench.data.loader import ClipDataset, collate, to_float
from lipbench.data.store import Store
from lipbench.evaluation.bank import Bank, ScoreRow
from lipbench.media import geometry
from lipbench.metrics import cpbd, psnr, ssim
from lipbench.paths import default_store
from lipbench.scoring.base import over_frames
from lipbench.scoring.views import VideoViews, _Row
from lipbench.types import ClipSpec, View

CLOSE = 1e-6  # relative to 1 where a score is smaller
WAYS = ("straightforward", "lipbench")
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


def _canonical(take: VideoViews, row: int) -> Tensor:
    """(T, 3, 352, 320) uint8, made again whenever somebody asks."""
    pixels = (take._scaled[row].nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
    return geometry.paste(take._around(row), pixels, take.scene.box)


def _psnr(metric: psnr.PSNR, pred: Tensor, target: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """All frames of a video at once."""
    return over_frames(metric._compare(pred, target), length)


def _cpbd(
    metric: cpbd.CPBD, pred: Tensor, target: Tensor, length: Tensor, pred_len: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """All frames of a video at once, and grey in whole numbers."""
    asked = torch.arange(pred.shape[1])[None] < (length if pred_len is None else pred_len)[:, None]
    asked &= pred.isfinite().flatten(2).all(2)
    red, green, blue = (pred[asked] * 255).round().clamp(0, 255).to(torch.int32).unbind(-3)
    grey = ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).to(torch.uint8)
    values = torch.full(asked.shape, torch.nan, dtype=torch.float64)
    values[asked] = cpbd.cpbd(grey[:, None], metric.variant)[:, 0]
    return over_frames(values, length)


def _blur(planes: Tensor) -> Tensor:
    """Products with whole banded matrices."""
    product: Tensor = ssim._banded(planes.shape[-2], planes).T @ (planes @ ssim._banded(planes.shape[-1], planes))
    return product


def _broken(row: _Row) -> Tensor:
    """(T,) bool, looked for whenever somebody asks."""
    return ~row.take.native[row.row, : row.length].isfinite().flatten(1).all(1)


@contextmanager
def straightforward() -> Iterator[None]:
    """Without what saves time and changes no score."""
    with ExitStack() as stack:
        for owner, name, instead in (
            (VideoViews, "canonical", _canonical),
            (_Row, "broken", property(_broken)),
            (ssim, "_blur", _blur),
            (psnr.PSNR, "score", _psnr),
            (cpbd.CPBD, "score", _cpbd),
        ):
            stack.enter_context(mock.patch.object(owner, name, instead))
        yield


def differences(rows: dict[str, ScoreRow]) -> dict[str, float]:
    """Column -> how far the scores of the two ways lie apart at most, relative to 1 where they are smaller."""
    found = {}
    one, other = (rows[way].local_scores() for way in WAYS)
    for name in one:
        a, b = one[name].value, other[name].value
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            raise SystemExit(f"{name}: the two ways leave other clips undefined")
        apart = np.abs(a - b) / np.maximum(np.abs(a), 1)
        found[name] = float(np.nanmax(apart)) if np.isfinite(apart).any() else 0.0
    return found


def timed_row(bank: Bank, clock: Clock) -> ScoreRow:
    """Empty accumulators whose metrics are measured."""
    row = bank.row()
    for name, metric in (*row.metrics.items(), *row.sets.items()):
        metric.update = clock.around(name, metric.update)
    return row


def score(bank: Bank, row: ScoreRow, clock: Clock, dataset: ClipDataset, k: int, view: View) -> None:
    """Score one clip."""
    with clock.measure("reading the store"):
        given = to_float(collate([dataset[k]]))
    made = generated(given["video"])
    with clock.measure("pictures and everything else"):
        scene = bank.scene(given, view)
        row.update(scene.take(made), scene)


def main() -> None:
    """Score the clips one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="grid", help="corpus, whose prepared store is taken (default: %(default)s)")
    parser.add_argument("--store", type=Path, help="another prepared store")
    parser.add_argument("--clips", type=int, default=100, help="clips, evenly spaced (default: %(default)s)")
    parser.add_argument("--view", choices=VIEWS, default="face", help="what the generated video shows (%(default)s)")
    parser.add_argument("--metrics", nargs="+", help="names or groups (default: those of `test`)")
    parser.add_argument("--files", nargs="+", default=[], metavar="NAME=FILE", help="weights, as for lipbench evaluate")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)

    try:
        store = Store(arguments.store or default_store(arguments.data))
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
    bank = Bank(arguments.metrics, dict(pair.split("=", 1) for pair in arguments.files))

    clocks = {way: Clock() for way in WAYS}
    rows: dict[str, ScoreRow] = {}
    observe = {name: observer.observe for name, observer in bank.observers.items()}
    with torch.inference_mode():
        for k in (-1, *range(count)):  # the first warms up
            for way, clock in clocks.items():
                for name, observer in bank.observers.items():
                    observer.observe = clock.around(f"observation: {name}", observe[name])
                if k <= 0:
                    clock.seconds.clear()
                    rows[way] = timed_row(bank, clock)
                with straightforward() if way == WAYS[0] else ExitStack():
                    score(bank, rows[way], clock, dataset, max(k, 0), view)
        for way, clock in clocks.items():
            with clock.measure("means and distances of sets"):
                rows[way].compute_set()
                for metric in rows[way].metrics.values():
                    metric.compute()

    frames = sum(store[clip_id].n_frames for clip_id in ids)
    print(f"{count} clips, {frames} frames, generated {view}, {arguments.threads} thread(s) of torch")
    print(f"{'ms of processor time a clip, median':40}{WAYS[0]:>16}{WAYS[1]:>12}{'ratio':>8}")
    lines = {}
    for name in clocks[WAYS[0]].seconds:
        lines[name] = [1000 * float(np.median(c.seconds[name])) * len(c.seconds[name]) / count for c in clocks.values()]
    for name, (before, after) in sorted(lines.items(), key=lambda line: -line[1][0]):
        print(f"{name:40}{before:16.2f}{after:12.2f}{before / max(after, 1e-9):8.2f}")
    before, after = (1000 * sum(map(sum, clock.seconds.values())) / count for clock in clocks.values())
    print(f"{'total, mean':40}{before:16.0f}{after:12.0f}{before / after:8.2f}")
    apart = differences(rows)
    worst = max(apart, key=lambda name: apart[name])
    equal = [name for name, value in apart.items() if value == 0]
    print(
        f"largest difference of a score: {apart[worst]:.1e} ({worst}); bit-equal: {len(equal)} of {len(apart)} columns"
    )
    for why in dict.fromkeys(rows[WAYS[0]].reasons.values()):
        names = [name for name, said in rows[WAYS[0]].reasons.items() if said == why]
        print(f"not computed: {', '.join(names)}: {why}")
    if apart[worst] > CLOSE:
        raise SystemExit(f"scores differ by more than {CLOSE:g}")


if __name__ == "__main__":
    main()
