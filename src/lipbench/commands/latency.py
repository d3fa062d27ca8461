"""latency: how long models take to generate a clip, against its length: time, memory, parameters and operations.

Tables 3 and 5 and Figure 8 of Liu et al., "Parallel and High-Fidelity Text-to-Lip Generation" (AAAI 2022). One clip at
a time, in eval mode, after a warm-up, synchronized, until its frames are uint8 in host memory. The inputs are made up,
25 frames a second; times do not depend on weights, so that models need not be trained. Timing "length": the model times
its tokens itself and is held to the length asked for; where it decides when to stop, that is ignored. "free": as many
frames as the audio lasts. "given": the durations of the tokens are inputs, and nothing predicts them.

Writes latency.csv (a row a system, length and variant), latency_lines.csv (slope and intercept) and latency.png.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from lipbench.errors import UsageError

if TYPE_CHECKING:
    import torch

    from lipbench.console.timed_systems import TimedSystem
    from lipbench.evaluation.latency import Pace, Variant
    from lipbench.evaluation.latency_results import Line, Row, Setup
    from lipbench.training.generative import GenerativeModel
    from lipbench.types import Timing

GROUP = "Train and score"
_LENGTHS: Final = (25, 50, 75, 150, 300)
_CLIPS: Final = 50
_WARMUP: Final = 10
_PRECISIONS: Final = ("32", "tf32", "bf16", "16")
_REFERENCE: Final = "paralip"
_OUT: Final = Path("latency")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench latency`."""
    parser.add_argument(
        "systems",
        nargs="*",
        metavar="SYSTEM",
        help="models by name (at the size of their paper), recipes (untrained) or checkpoints (default: every model "
        "that generates video, and every other generator of the recipes in papers/)",
    )
    parser.add_argument(
        "--lengths",
        nargs="+",
        type=int,
        default=_LENGTHS,
        metavar="FRAMES",
        help=f"of the clips (default: {' '.join(map(str, _LENGTHS))})",
    )
    parser.add_argument("--clips", type=int, default=_CLIPS, help=f"timed for each row (default: {_CLIPS})")
    parser.add_argument("--warmup", type=int, default=_WARMUP, help=f"clips before them (default: {_WARMUP})")
    parser.add_argument(
        "--seconds",
        type=float,
        help="begin no clip of a row after so many of warm-up, and of timed clips, once 1 and 3 are done (default: no "
        "limit)",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto, the GPU if there is one"
    )
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU (default: as many as it takes)")
    parser.add_argument(
        "--timing",
        nargs="+",
        choices=("given", "length", "free"),
        help="default: the model's own, held to the length: length, else free if audio drives it, else given",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=_PRECISIONS,
        default=_PRECISIONS[:1],
        help="32: float32; tf32: with TF32 on NVIDIA's GPUs; bf16 and 16: autocast to half precision (default: 32)",
    )
    parser.add_argument(
        "--compile", dest="compiled", action="store_true", help="rows with torch.compile beside those without"
    )
    parser.add_argument(
        "--against",
        metavar="NAME",
        help=f"system that the others are compared with (default: {_REFERENCE}, else the first)",
    )
    parser.add_argument(
        "--model", nargs="+", metavar="CLASS", help="class paths of checkpoints' models neither built in nor installed"
    )
    parser.add_argument("--out", type=Path, default=_OUT, metavar="DIR", help=f"where the files go (default: {_OUT})")


def run(
    systems: Sequence[str] = (),
    lengths: Sequence[int] = _LENGTHS,
    clips: int = _CLIPS,
    warmup: int = _WARMUP,
    seconds: float | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    timing: "Sequence[Timing] | None" = None,
    precision: Sequence[str] = _PRECISIONS[:1],
    compiled: bool = False,
    against: str | None = None,
    model: Sequence[str] | None = None,
    out: Path = _OUT,
) -> None:
    """Time, write the three files, print the tables.

    Args:
        systems: Models, recipes and checkpoints; none is every model that generates video.
        lengths: Frames of the clips.
        clips: Timed ones of each row.
        warmup: Clips before them.
        seconds: See `lipbench.evaluation.latency.Pace`.
        device: "auto" takes the GPU if there is one.
        threads: Of PyTorch on the CPU.
        timing: Timings of each system; None takes the usual one.
        precision: Out of `lipbench.evaluation.latency.PRECISIONS`.
        compiled: Also with `torch.compile`.
        against: Name of the reference system.
        model: Class paths of models that are neither built in nor installed.
        out: Folder of the files.

    Raises:
        UsageError: Options do not fit together, or a system is unknown.
        FileNotFoundError: A checkpoint is not there.
        ValueError: A system generates no video, or nothing could be measured.
    """
    for option, value, least in (
        ("--lengths", min(lengths), 1),
        ("--clips", clips, 1),
        ("--warmup", warmup, 0),
        ("--threads", threads, 1),
        ("--seconds", seconds, 0),
    ):
        if value is not None and not value >= least:
            raise UsageError(f"{option} {value:g}: expected {least} or more")

    import torch

    from lipbench.console import timed_systems
    from lipbench.evaluation import latency, latency_results, output_folder

    place = _device(device)
    output_folder.probe(out)
    chosen = timed_systems.chosen(systems, model) if systems else timed_systems.published()
    reference = _reference(chosen, against)
    variants = [latency.Variant(*pair) for pair in itertools.product(dict.fromkeys(precision), {False, compiled})]
    pace = latency.Pace(clips, warmup, seconds)
    before = torch.get_num_threads()
    rows: list[Row] = []
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        setup = latency_results.Setup(place.type, latency.machine(place), torch.get_num_threads())
        print(f"{setup.machine}; {setup.threads} threads, torch {torch.__version__}")
        for system in chosen:
            rows += _timed(system, sorted(set(lengths)), timing, variants, place, pace)
            _write(out, rows, reference, setup)
    finally:
        torch.set_num_threads(before)
    found = latency_results.lines(rows, reference)
    if not found:
        raise ValueError(f"nothing could be measured; {rows[0].name}, for one: {rows[0].reason}")
    _draw(out, found, setup)
    _print(found, reference, setup)
    print(f"{out}: latency.csv, latency_lines.csv, latency.png")


def _device(asked: str) -> "torch.device":
    """The device.

    Raises:
        UsageError: PyTorch sees no GPU that was asked for.
    """
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        built = "is built for CUDA and finds no GPU" if torch.version.cuda else "is built without CUDA"
        raise UsageError(f"--device cuda: PyTorch {torch.__version__} {built}; type --device cpu, or leave it out")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def _reference(chosen: "Sequence[TimedSystem]", against: str | None) -> str:
    """Name of the reference system.

    Raises:
        UsageError: None of the systems is called so.
    """
    from lipbench import discovery

    names = [system.name for system in chosen]
    if against is None:
        return _REFERENCE if _REFERENCE in names else names[0]
    if against not in names:
        raise discovery.unknown("--against", against, names)
    return against


def _timed(
    system: "TimedSystem",
    lengths: Sequence[int],
    timings: "Sequence[Timing] | None",
    variants: "Sequence[Variant]",
    device: "torch.device",
    pace: "Pace",
) -> "list[Row]":
    """All rows of a system; tells each as soon as it is known."""
    from lipbench.errors import visible
    from lipbench.evaluation import latency
    from lipbench.evaluation.latency_results import Row

    model: GenerativeModel = system.build().to(device)
    for network in model.frozen.values():
        network.to(device)
    rows = []
    for timing in dict.fromkeys(timings or [latency.usual_timing(model)]):
        for variant, frames in itertools.product(variants, lengths):
            what = (*system[:3], timing, frames, variant)
            try:
                rows.append(Row(*what, *latency.measure(model, frames, timing, device, variant, pace)))
                told = f"{rows[-1].ms:.1f} ms"
            except latency.NoLatency as error:
                rows.append(Row(*what, reason=str(error)))
                told = f"not measured: {error}"
            print(visible(f"{system.name}, {timing}, {variant}, {frames} frames: {told}"), flush=True)
    model.to("cpu")
    return rows


def _write(folder: Path, rows: "Sequence[Row]", reference: str, setup: "Setup") -> None:
    """Write both tables as far as they are known."""
    from lipbench.evaluation import latency_results
    from lipbench.files import write_text

    lines = latency_results.lines(rows, reference)
    write_text(folder / "latency_lines.csv", latency_results.lines_csv(lines, reference, setup))
    write_text(folder / "latency.csv", latency_results.rows_csv(rows, reference, setup))


def _draw(folder: Path, lines: "Sequence[Line]", setup: "Setup") -> None:
    from PIL import Image

    from lipbench.evaluation import latency_results
    from lipbench.files import written_whole

    with written_whole(folder / "latency.png") as aside:
        Image.fromarray(latency_results.chart(lines, setup)).save(aside, "PNG")


def _print(lines: "Sequence[Line]", reference: str, setup: "Setup") -> None:
    """Tables: medians over length with slope, intercept and ratio; then the cost of the longest clip."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from lipbench.errors import visible
    from lipbench.evaluation import formatting, latency_results

    console = formatting.console()
    lengths = sorted({row.frames for line in lines for row in line.rows})
    times = Table(box=box.SIMPLE_HEAD, title="median ms of a clip, by its frames", title_justify="left")
    costs = Table(box=box.SIMPLE_HEAD, title="of the longest clip", title_justify="left")
    columns = ("ms a frame", "intercept, ms", f"times {visible(reference)}")
    for table, heads in (
        (times, (*map(str, lengths), *columns)),
        (costs, ("frames", "p95, ms", "real time", "first frame, ms", "peak MB", "10^6 weights", "10^9 MACs")),
    ):
        table.add_column("system")
        table.add_column("timing")
        for head in heads:
            table.add_column(head, justify="right")
    for line in lines:
        known = {row.frames: f"{row.ms:.1f}" for row in line.rows}
        name = Text(visible(latency_results.label(line.rows[0], lines)))
        medians = [known.get(frames, formatting.EMPTY) for frames in lengths]
        fitted = [_shown(line.slope), _shown(line.intercept), _shown(line.ratio)]
        times.add_row(name, line.rows[0].timing, *medians, *fitted)
        own, cost = line.rows[-1].latency, line.rows[-1].cost
        if own is not None and cost is not None:
            peak = None if own.peak_bytes is None else own.peak_bytes / 1e6
            numbers = (own.p95_ms, own.real_time_factor, own.first_frame_ms, peak)
            shown = [*map(_shown, numbers), _shown(cost.parameters / 1e6), _shown(cost.macs / 1e9)]
            costs.add_row(name, line.rows[0].timing, str(own.frames), *shown)
    console.print(times)
    console.print(costs)
    published = {line.rows[0].name: line.rows[0].published for line in lines if line.rows[0].published}
    for system, told in published.items():
        console.print(Text(f"published of {visible(system)}: {told}"))
    if published and setup.device == "cpu":
        console.print("published times are of GPUs: on a CPU no ratio is expected to be like theirs")


def _shown(value: float | None) -> str:
    from lipbench.evaluation.formatting import EMPTY

    return EMPTY if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
