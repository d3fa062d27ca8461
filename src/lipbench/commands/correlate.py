"""correlate: audio change against lip motion of a corpus: the shift that its clips prefer, and Pearson's r.

Figure 4 of Chen et al., "Lip Movements Generation at a Glance" (ECCV 2018). For each pair of adjacent frames of a clip:
the mean absolute change of the log-mel spectrogram (128 bands, 4 columns a frame), and the mean length of Farneback's
optical flow in 64x64 pixels around the mouth. A shift of 2 compares the audio with the lips 2 frames later (the flow is
moved forward, as in the published code); with a shift of -2 the lips are 2 frames earlier than the audio.

Writes correlation.csv (a row a clip), curves.png (four clips) and offsets.png (how many clips prefer each shift).
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lipbench import discovery
from lipbench.errors import UsageError, visible
from lipbench.paths import default_store

if TYPE_CHECKING:
    from lipbench.data.corpus import Corpus
    from lipbench.data.store import Store
    from lipbench.evaluation.audio_motion import ClipCorrelation

GROUP = "Corpora"
_SHIFTS: Final = (0, 7)  # the paper's
_SHOWN: Final = 5  # clips with a reason


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench correlate`."""
    names = ", ".join(discovery.files("data"))
    parser.add_argument(
        "--data", required=True, metavar="NAME", help=f"corpus: {names}, or a class path of another package"
    )
    parser.add_argument("--store", type=Path, help="its prepared store (default: $LIPBENCH_HOME/stores/<data>)")
    parser.add_argument("--protocol", help="only the test clips of e.g. grid/s1 (default: all clips of the store)")
    parser.add_argument(
        "--clips", type=int, help="at most this many, a random sample that is the same in every run (default: all)"
    )
    parser.add_argument(
        "--shifts",
        type=int,
        nargs=2,
        metavar=("FIRST", "LAST"),
        default=_SHIFTS,
        help="shifts in frames (default: 0 7, as the paper; 7 frames are 0.28 s at 25 fps)",
    )
    parser.add_argument(
        "--signed",
        action="store_true",
        help="mean of the signed change of the log-mel, as in the published code (default: of its absolute value)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the three files go (default: correlation/<data>)"
    )
    parser.add_argument(
        "--workers", type=int, help="processes, with a thread each; 0: none beside this one (default: one a processor)"
    )


def run(
    data: str,
    store: Path | None = None,
    protocol: str | None = None,
    clips: int | None = None,
    shifts: tuple[int, int] | list[int] = _SHIFTS,
    signed: bool = False,
    out: Path | None = None,
    workers: int | None = None,
) -> None:
    """Correlate, write the three files, print r and the number of clips for each shift.

    Args:
        data: Short name or class path of the corpus.
        store: Folder of its store.
        protocol: Take its test clips only.
        clips: At most this many.
        shifts: The first and the last, in frames.
        signed: See `lipbench.evaluation.audio_motion.audio_change`.
        out: Folder of the files.
        workers: Processes.

    Raises:
        UsageError: Options do not fit together.
        FileNotFoundError: There is no prepared store.
        ValueError: The store is of another corpus, or packed, or no clip has an r.
    """
    first, last = shifts
    if first > last:
        raise UsageError(f"--shifts {first} {last}: expected the smaller number first, e.g. --shifts -8 8")
    for option, value, least in (("--clips", clips, 1), ("--workers", workers, 0)):
        if value is not None and value < least:
            raise UsageError(f"{option} {value}: expected {least} or more")

    import torch

    from lipbench.data import progress
    from lipbench.evaluation import audio_motion, output_folder
    from lipbench.evaluation.workers import suitable

    corpus = discovery.load("data", data)
    opened = _store(corpus, store or default_store(corpus.name))
    clip_ids = _chosen(opened, corpus.name, protocol, clips)
    folder = out or Path("correlation") / corpus.name
    output_folder.probe(folder)
    steps = range(first, last + 1)
    with progress.bar(True, len(clip_ids), 0, "correlating") as advance:
        found = audio_motion.correlate_clips(
            opened.path,
            clip_ids,
            steps,
            signed=signed,
            workers=suitable(torch.device("cpu"), tasks=len(clip_ids)) if workers is None else workers,
            advance=advance,
        )
    whole = [clip for clip in found if not clip.reason]
    if not whole:
        lacking = found[0]
        raise ValueError(f"none of {len(found)} clips has an r; {visible(lacking.clip_id)}, for one: {lacking.reason}")
    _write(folder, found, whole, steps)
    _print(found, whole, steps, signed)
    print(f"{folder}: correlation.csv, curves.png, offsets.png")


def _store(corpus: "type[Corpus]", folder: Path) -> "Store":
    """The store of a corpus.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It holds another corpus, or frames in another form.
    """
    from lipbench.data.corpus import prepare_advice
    from lipbench.data.store import Store
    from lipbench.evaluation.audio_motion import VIEW

    folder = folder.expanduser()
    try:
        store = Store(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. {prepare_advice(corpus, folder)}") from None
    held = store.manifest["settings"]["data"]
    if held != corpus.name:
        raise ValueError(f"the store {folder} holds {held!r}, not {corpus.name!r}. {prepare_advice(corpus, folder)}")
    if store.packed not in (None, VIEW):
        raise ValueError(
            f"the store {folder} is packed: it holds the view {store.packed} only; expected the whole store, or one "
            f"packed as {VIEW}"
        )
    return store


def _chosen(store: "Store", corpus: str, protocol: str | None, count: int | None) -> list[str]:
    """The clips that were asked for, sorted by id.

    Raises:
        UsageError: The protocol is that of another corpus.
        ValueError: There is no such protocol, or none of its clips is in the store.
    """
    from lipbench.data import protocol as protocols

    clip_ids = store.clip_ids
    if protocol is not None:
        chosen = protocols.load(protocol)
        if chosen.data != corpus:
            raise UsageError(f"--protocol {protocol} belongs to the corpus {chosen.data!r}, not to {corpus!r}")
        test = chosen.split(clip_ids).test
        clip_ids = [clip_id for clip_id in test if clip_id in store]
        if not clip_ids:
            raise ValueError(f"none of the {len(test):,} test clips of {protocol} is in the store {store.path}")
    if count is not None:
        clip_ids = sorted(clip_ids, key=lambda clip_id: protocols.hashed(f"correlate/{clip_id}"))[:count]
    return sorted(clip_ids)


def _write(folder: Path, found: "list[ClipCorrelation]", whole: "list[ClipCorrelation]", shifts: range) -> None:
    """Write the three files, the table last."""
    from PIL import Image

    from lipbench.evaluation import audio_motion, audio_motion_figures
    from lipbench.files import write_text, written_whole

    figures = {
        "curves.png": audio_motion_figures.curves(audio_motion_figures.examples(whole), shifts),
        "offsets.png": audio_motion_figures.offsets(whole, shifts),
    }
    table = audio_motion.table(found, shifts)
    for name, pixels in figures.items():
        with written_whole(folder / name) as aside:
            Image.fromarray(pixels).save(aside, "PNG")
    write_text(folder / "correlation.csv", table)


def _print(found: "list[ClipCorrelation]", whole: "list[ClipCorrelation]", shifts: range, signed: bool) -> None:
    """A line a shift, and what is to be known of the clips."""
    import numpy as np
    from rich import box
    from rich.table import Table

    from lipbench.errors import on_one_line
    from lipbench.evaluation import formatting
    from lipbench.media import features

    console = formatting.console()
    mean = np.mean([clip.r for clip in whole], axis=0)
    counts = np.bincount([clip.best for clip in whole], minlength=len(shifts))
    change = "signed" if signed else "absolute"
    console.print(f"mean {change} change of the log-mel against mean lip motion, {len(whole):,} clips")
    shown = Table(box=box.SIMPLE_HEAD)
    for heading in ("shift, frames", "mean r", "clips with their largest r here", "share"):
        shown.add_column(heading, justify="right")
    for shift, r, count in zip(shifts, mean, counts, strict=True):
        shown.add_row(str(shift), f"{r:.3f}", str(count), f"{count / len(whole):.1%}")
    console.print(shown)
    console.print("shift above 0: the lips move after the sound; below 0: before it")
    lower = [clip.sample_rate for clip in found if clip.sample_rate < features.CLIP_RATE]
    if lower:
        console.print(
            f"clips resampled to {features.CLIP_RATE:,} samples a second: {len(lower):,}; in those of the lowest rate "
            f"nothing is above {min(lower) // 2:,} Hz"
        )
    lacking = [clip for clip in found if clip.reason]
    for clip in lacking[:_SHOWN]:
        console.print(on_one_line(f"no r for {clip.clip_id}: {clip.reason}"), style="yellow", markup=False)
    if len(lacking) > _SHOWN:
        console.print(f"... and {len(lacking) - _SHOWN} more without an r, see correlation.csv", style="yellow")
