"""evaluate: score videos that any other system made against their references, or a lip reader's weights file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lipbench import discovery
from lipbench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from lipbench.evaluation.record import Record
    from lipbench.types import Timing

GROUP = "Train and score"
WEIGHTS: Final = (
    *("lpips", "transcript", "second_transcript", "teacher_forced", "syncnet", "inception", "identity", "i3d"),
)
"""Who needs a file of weights: a metric or an observation of the bank."""
_SHOWN: Final = 5  # clips with a reason


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench evaluate`."""
    parser.add_argument(
        "--generated",
        type=Path,
        metavar="DIR",
        help="videos (mp4, avi, mpg, ...) or folders of PNG or JPEG frames, as x.mp4 or s1/x.mp4",
    )
    parser.add_argument(
        "--reader",
        metavar="FILE|NAME",
        help="in place of videos, a lip reader: its weights file, or a name of `lipbench list`; with --protocol",
    )
    parser.add_argument(
        "--reference", type=Path, metavar="DIR", help="the true videos, under the same names; or a prepared store"
    )
    parser.add_argument(
        "--name",
        help="name of the row (default: that of the folder). A second evaluation under one name stands beside the "
        "first in tables; to replace that, delete its records before: rm -r OUT/PROTOCOL/NAME, such as "
        "rm -r leaderboards/results/evaluate/REFERENCE/NAME",
    )
    parser.add_argument(
        "--protocol",
        help="score the test clips of e.g. grid/s1 against its prepared store, in one table with trained models; "
        "the videos' own sound is left out for the corpus'",
    )
    parser.add_argument("--partial", action="store_true", help="score only references that have a generated video")
    parser.add_argument(
        "--view", metavar="NAME", help="the videos show not whole frames but this crop, e.g. mouth as `predict` writes"
    )
    parser.add_argument(
        "--timing",
        choices=("given", "speech", "length", "free"),
        default="free",
        help="who decided how long each sound lasts: the truth, its length and span of speech, its length, or the "
        "system (default: free)",
    )
    parser.add_argument(
        "--audio",
        type=Path,
        metavar="DIR",
        help="sounds (default: each video's own, for generated ones without any the reference's; beside a prepared "
        "corpus the corpus')",
    )
    parser.add_argument(
        "--text", type=Path, metavar="PATH", help="CSV with the columns clip and text, or a folder of .txt or .align"
    )
    parser.add_argument("--fps", type=float, help="frames a second of folders of frames (default: the reference's)")
    parser.add_argument(
        "--landmarks", choices=("dlib", "face-alignment"), default="dlib", help="who finds the face (default: dlib)"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        metavar="A,B",
        help="columns, groups, or metrics of other packages, e.g. quality,sync,my_package.my_module.MyMetric "
        "(default: most columns; `default` adds them to others)",
    )
    for name in WEIGHTS:
        options = f"--files.{name}", f"--evaluator.files.{name}"  # the latter as `test` spells it, and as errors say
        what = f"weights of {name}: a file, or a name of `lipbench list`"
        parser.add_argument(*options, dest=name, metavar="FILE|NAME", help=what)
    parser.add_argument("--no-calibration", action="store_true", help="leave out the ground truth and the frozen frame")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("leaderboards/results"),
        metavar="DIR",
        help="where the records go (default: leaderboards/results, where `compare` looks)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that read and score, with a thread each; 0: none beside this one (default: one a processor, as "
        "far as memory reaches; up to 4 on a GPU)",
    )


def run(
    generated: Path | None = None,
    reader: str | None = None,
    reference: Path | None = None,
    name: str | None = None,
    protocol: str | None = None,
    partial: bool = False,
    view: str | None = None,
    timing: "Timing" = "free",
    audio: Path | None = None,
    text: Path | None = None,
    fps: float | None = None,
    landmarks: str = "dlib",
    metrics: list[str] | None = None,
    no_calibration: bool = False,
    out: Path = Path("leaderboards/results"),
    workers: int | None = None,
    **weights: str | None,
) -> None:
    """Score, write the records and a CSV file with a row a clip, print a summary.

    With `reader`, a lip reader's weights file is scored over the test clips of a protocol, as `lipbench test` scores a
    checkpoint; see `lipbench.evaluation.reader_files`.

    Videos of another frame rate are resampled to the reference's by nearest time; other sizes are brought to its frame;
    up to 5 frames more or less are cut off, beyond that no frame is compared with a frame. Each video's pictures are
    judged beside its own sound; generated ones without any, or with a silent one, beside the reference's; and with
    --protocol all of them beside the corpus', as trained models are. The arguments are those of
    `lipbench.evaluation.external.evaluate`.

    Raises:
        UsageError: Options do not fit together.
        ValueError: Every column is empty; what is known is written and printed all the same.
    """
    if (generated is None) == (reader is None):
        raise UsageError("what is scored? Give --generated DIR for videos, or --reader FILE|NAME for a lip reader")
    if reader is not None:
        others = {"reference": reference, "view": view, "audio": audio, "text": text, "fps": fps} | weights
        given = [key for key, value in others.items() if value is not None] + (["partial"] if partial else [])
        if protocol is None or given:
            raise UsageError(
                f"--reader goes with --protocol, --metrics, --name, --no-calibration and --out; "
                f"{f'leave out --{given[0]}' if given else 'add --protocol NAME of a prepared corpus'}"
            )
        _read(reader, protocol, name, out, metrics, not no_calibration)
        return
    assert generated is not None
    if reference is None and protocol is None:
        raise UsageError("where are the references? Give --reference DIR, or --protocol NAME of a prepared corpus")
    if workers is not None and workers < 0:
        raise UsageError(f"--workers {workers}: expected 0 or more")

    import torch

    from lipbench.data import process_pool
    from lipbench.evaluation import clip_scores, external, record
    from lipbench.evaluation.workers import suitable
    from lipbench.media import geometry

    if view is not None and view not in geometry.BOXES:
        raise discovery.unknown("--view", view, geometry.BOXES)
    if workers is None:
        gpu = torch.cuda.is_available()
        workers = min(4, process_pool.processors() - 1) if gpu else suitable(torch.device("cpu"))
    table = external.evaluate(
        generated,
        reference,
        name=name,
        out=out,
        protocol=protocol,
        partial=partial,
        view=view,
        timing=timing,
        audio=audio,
        text=text,
        fps=fps,
        landmarks=landmarks,
        metrics=None if metrics is None else discovery.listed(" ".join(metrics)),
        files={what: file for what, file in weights.items() if file is not None},
        calibration=not no_calibration,
        workers=workers,
        progress=True,
    )
    paths = [Path(path) for path in table.attrs["records"]]
    records = [record.read(path) for path in paths]
    _print(table, records, paths[0])
    clip_scores.refuse_all_empty(records[0])


def _read(
    reader: str, protocol: str, name: str | None, out: Path, metrics: list[str] | None, calibration: bool
) -> None:
    """Score a lip reader's weights file and print a summary."""
    from lipbench.evaluation import clip_scores, record
    from lipbench.evaluation.reader_files import evaluate_reader

    chosen = None if metrics is None else discovery.listed(" ".join(metrics))
    table = evaluate_reader(reader, protocol, name=name, out=out, metrics=chosen, calibration=calibration)
    paths = [Path(path) for path in table.attrs["records"]]
    records = [record.read(path) for path in paths]
    _print_scores(records)
    _print_place(paths[0])
    clip_scores.refuse_all_empty(records[0])


def _print(table: "pd.DataFrame", records: "list[Record]", path: Path) -> None:
    """The scores, and what is to be known of the videos."""
    from lipbench.errors import on_one_line
    from lipbench.evaluation import external_clips, formatting

    _print_scores(records)
    console = formatting.console()
    first = records[0]
    for what, label in (("fps", "frame rate"), ("size", "size"), ("frames", "number of frames")):
        other = (table[f"generated_{what}"] != table[f"reference_{what}"]) & table["compared_frames"].notna()
        if other.any():
            line = table[other].iloc[0]
            pair = f"{line[f'generated_{what}']} beside {line[f'reference_{what}']}"
            console.print(f"videos of another {label}: {int(other.sum())}, e.g. {pair}", markup=False)
    if any(score.n for name, score in first.scores.items() if name.startswith(("lse_", "av_offset"))):
        for label, those in (
            ("no sound of their own (or a silent one), judged beside the reference's", table["sound"] == "reference"),
            ("a sound of their own, left out for the corpus'", table["sound"] == external_clips.CORPUS_INSTEAD),
            ("a sound that ends long before their pictures, judged only so far", external_clips.falls_short(table)),
        ):
            if those.any():
                console.print(f"videos with {label}: {int(those.sum())}", markup=False)
    noted = table[table["reason"] != ""]
    for _, line in noted.head(_SHOWN).iterrows():
        console.print(on_one_line(f"{line['clip_id']}: {line['reason']}"), style="yellow", markup=False)
    if len(noted) > _SHOWN:
        console.print(f"... and {len(noted) - _SHOWN} more with a reason", style="yellow", markup=False)
    _print_place(path)


def _print_place(path: Path) -> None:
    """Where the record is."""
    from lipbench.evaluation import formatting

    where = f"record: {path}; clip by clip: {path.with_suffix('.csv').name}"
    formatting.console().print(where, markup=False)


def _print_scores(records: "list[Record]") -> None:
    """A line a metric, and what is missing."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from lipbench.errors import on_one_line
    from lipbench.evaluation import formatting

    first = records[0]
    console = formatting.console()
    title = f"{first.protocol['name']}: {first.name}, {first.clips['n']} clips, {first.view}"
    shown = Table(
        title=Text(title, style="table.title"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    shown.add_column("metric")
    shown.add_column("")
    for heading in (first.name, "95 %", "clips", *(entry.control or entry.name for entry in records[1:])):
        shown.add_column(heading, justify="right", overflow="fold")
    for name, score in first.scores.items():
        if score.value is None:
            continue
        better = {True: "higher", False: "lower", None: f"near {score.perfect:g}" if score.perfect is not None else ""}
        shown.add_row(
            escape(name),
            " ".join(part for part in (score.unit, better[score.higher_is_better]) if part),
            formatting.cell(score),
            formatting.margin(score),
            str(score.n),
            *(formatting.cell(entry.scores.get(name)) for entry in records[1:]),
        )
    console.print(shown)
    columns: dict[str, list[str]] = {}
    for name, score in first.scores.items():
        if score.reason:
            columns.setdefault(score.reason, []).append(name)
    for reason, names in columns.items():
        console.print(on_one_line(f"{', '.join(names)}: {reason}"), style="dim", markup=False)
