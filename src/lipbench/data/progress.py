"""What one sees of `lipbench prepare`: a bar, and a table of what is in the store."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lipbench.data.manifest import MANIFEST, ClipLines
from lipbench.errors import visible


@dataclass
class Summary:
    """What a run of `prepare` left behind.

    Args:
        store: Folder.
        kept: Clips in the store.
        rejected: Clip id -> reason.
        done: Clips that this run looked at; 0 if everything was there already.
        added: Those of them that are in the store now.
        repaired: Clip id -> how its row was damaged; these were read anew (only with `verify`).
        seconds: Time this run took.
    """

    store: Path
    kept: int
    rejected: dict[str, str] = field(default_factory=dict)
    done: int = 0
    added: int = 0
    repaired: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@contextmanager
def bar(show: bool, total: int, before: int, what: str = "preparing") -> Iterator[Any]:
    """A progress bar; yields a function that moves it on."""
    if not show:
        yield lambda steps: None
        return
    from rich import progress as bars

    columns = [
        bars.TextColumn(what),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("clips, {task.fields[rate]}"),
        bars.TimeRemainingColumn(),
    ]
    with bars.Progress(*columns, refresh_per_second=2) as bar:  # drawing costs time that the workers need
        if before:
            bar.console.print(f"{before} clips are in the store already")
        task = bar.add_task("", total=total, rate="")
        started = time.monotonic()

        def advance(steps: int) -> None:
            bar.advance(task, steps)
            rate = bar.tasks[0].completed / max(time.monotonic() - started, 1e-6)
            bar.update(task, rate=f"{rate:.1f} a second")

        yield advance


def print_part(summary: Summary, part: tuple[int, int]) -> None:
    """One line about a part of a store."""
    from rich.console import Console

    Console().print(
        f"part {part[0]}/{part[1]} of the store {visible(str(summary.store))} is there: {summary.kept} clips kept, "
        f"{len(summary.rejected)} rejected; {_looked(summary)}. When all parts are there: --finish",
        markup=False,
    )


def _looked(summary: Summary) -> str:
    read = f"{summary.done} clips read, {summary.added} of them kept" if summary.done else "nothing to do"
    return f"{read}, {summary.seconds:.0f} s"


def print_table(manifest: dict[str, Any], summary: Summary) -> None:
    """A line a speaker, and the first rejected clips with their reasons."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    def shown(text: object) -> str:  # names and reasons come from files: brackets in them are no markup
        return escape(visible(str(text)))

    console = Console()
    counts = manifest["counts"]
    table = Table(title=shown(f"store {summary.store}"), title_justify="left")
    for heading in ("speaker", "clips", "minutes", "rejected"):
        table.add_column(heading, justify="left" if heading == "speaker" else "right")
    speakers: dict[str, list[float]] = {}
    lines: ClipLines = manifest["clips"]
    for speaker, frames, fps in zip(*(lines.column(name) for name in ("speaker", "n_frames", "fps")), strict=True):
        entry = speakers.setdefault(speaker, [0, 0, 0])
        entry[0] += 1
        entry[1] += frames / fps / 60
    for clip_id in manifest["rejected"]:
        speakers.setdefault(clip_id.split("/")[1], [0, 0, 0])[2] += 1
    for name, (clips, minutes, bad) in sorted(speakers.items(), key=lambda item: (len(item[0]), item[0])):
        table.add_row(shown(name), f"{clips:.0f}", f"{minutes:.1f}", f"{bad:.0f}" if bad else "")
    table.add_section()
    table.add_row("all", str(counts["clips"]), f"{counts['seconds'] / 60:.1f}", str(counts["rejected"] or ""))
    console.print(table)
    if summary.rejected:
        reasons = Table(title="rejected", title_justify="left")
        reasons.add_column("clip", no_wrap=True)
        reasons.add_column("reason")
        for clip_id, reason in list(summary.rejected.items())[:20]:
            reasons.add_row(shown(clip_id), shown(reason))
        console.print(reasons)
        if len(summary.rejected) > 20:
            console.print(f"... and {len(summary.rejected) - 20} more in {shown(summary.store / MANIFEST)}")
    for clip_id, how in summary.repaired.items():
        console.print(f"made anew: {shown(clip_id)} ({shown(how)})")
    console.print(_looked(summary))
