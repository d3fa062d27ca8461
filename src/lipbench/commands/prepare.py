"""prepare: raw corpus -> prepared store: faces found and warped, sound, words and durations, ready for training."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lipbench import discovery
from lipbench.errors import UsageError, visible
from lipbench.paths import home

if TYPE_CHECKING:
    from lipbench.data.durations import DurationSource
    from lipbench.types import View

GROUP = "Corpora"
_SPEAKERS: Final = 8
_CLIPS: Final = 40  # a speaker


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench prepare`."""
    names = tuple(discovery.files("data"))
    parser.add_argument(
        "--data", required=True, metavar="NAME", help=f"corpus: {', '.join(names)}, or a class path of another package"
    )
    parser.add_argument(
        "--root", type=Path, help="its folder (default: LIPBENCH_<NAME>; `rendered` is made on the spot)"
    )
    parser.add_argument("--store", type=Path, help="where to write (default: $LIPBENCH_HOME/stores/<data>)")
    parser.add_argument(
        "--landmarks",
        choices=("dlib", "face-alignment", "exact"),
        default="dlib",
        help="who finds the 68 points (default: dlib; exact: rendered corpora only)",
    )
    parser.add_argument(
        "--durations",
        choices=("mas", "mas-words"),
        help="who says when things are said (default: the corpus's own files). mas: a lip reader that looks at the "
        "clips and knows their text (monotonic alignment search); mas-words: the corpus's files for words, the reader "
        "for the letters in each",
    )
    parser.add_argument(
        "--reader", metavar="FILE", help="with --durations: weights file of the reader, or a name (`lipbench weights`)"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one a processor)")
    parser.add_argument("--limit", type=int, help="at most so many clips a speaker")
    parser.add_argument(
        "--part", metavar="K/N", help="make only every N-th shard, from the K-th on: N machines share a folder"
    )
    parser.add_argument("--finish", action="store_true", help="after all parts: put the manifest together")
    parser.add_argument(
        "--verify", action="store_true", help="compare all that is there with its hashes, make damaged shards anew"
    )
    parser.add_argument(
        "--pack",
        nargs=3,
        metavar=("VIEW", "HEIGHT", "WIDTH"),
        help="afterwards, write a small copy with one view only beside the store, e.g. --pack mouth 80 160",
    )
    parser.add_argument(
        "--pixels",
        action="store_true",
        help="with --pack: pixels instead of JPEG, for training; larger, but read several times as fast",
    )
    parser.add_argument("--speakers", type=int, help=f"rendered: how many speakers to render (default: {_SPEAKERS})")
    parser.add_argument("--clips", type=int, help=f"rendered: how many clips a speaker (default: {_CLIPS})")


def run(
    data: str,
    root: Path | None = None,
    store: Path | None = None,
    landmarks: str = "dlib",
    durations: str | None = None,
    reader: str | None = None,
    workers: int | None = None,
    limit: int | None = None,
    part: str | None = None,
    finish: bool = False,
    verify: bool = False,
    pack: list[str] | None = None,
    pixels: bool = False,
    speakers: int | None = None,
    clips: int | None = None,
) -> None:
    """Prepare a corpus; see `lipbench.data.prepare.prepare`. Started again, it does only what is missing.

    Args:
        data: Short name or class path of the corpus.
        root: Its folder.
        store: Folder to write.
        landmarks: Backend.
        durations: Source of word times and durations.
        reader: Weights file or name of the lip reader that it needs.
        workers: Processes.
        limit: At most this many clips a speaker.
        part: Such as "3/16": make only these shards, and no manifest.
        finish: Put the manifest together from the shards of all parts, and make none.
        verify: Compare rows with their hashes first, and make damaged shards anew.
        pack: View, height and width of a packed copy to write as well.
        pixels: The packed copy holds pixels instead of JPEG.
        speakers: Rendered corpus only.
        clips: Rendered corpus only, a speaker.

    Raises:
        UsageError: The corpus is unknown, or options do not fit together.
        ValueError: Every clip was rejected.
    """
    if "." not in data and data not in discovery.files("data"):
        raise discovery.unknown("--data", data, discovery.files("data"))
    if data != "rendered" and (speakers is not None or clips is not None):
        raise UsageError(
            f"--speakers and --clips are for --data rendered; for {data} there is --limit, clips a speaker"
        )
    if pixels and pack is None:
        raise UsageError("--pixels goes with --pack, e.g. --pack face 96 96 --pixels")
    if (durations is None) != (reader is None):
        raise UsageError("--durations mas or mas-words and --reader FILE go together: a lip reader says when")
    share = _share(part)
    if share and (finish or pack):
        other = "--finish comes after all parts" if finish else "--pack needs the whole store; give it with --finish"
        raise UsageError(f"--part {part}: {other}")
    view = _view(pack)

    from lipbench.data import pack as packing
    from lipbench.data import prepare
    from lipbench.data.manifest import MANIFEST

    corpus = discovery.load("data", data)
    if data == "rendered":
        from lipbench.synthetic.corpus import write_corpus

        root = root or home() / "corpora" / data
        speakers = _SPEAKERS if speakers is None else speakers
        clips = _CLIPS if clips is None else clips
        write_corpus(root, speakers=speakers, clips=clips, workers=workers)
    summary = prepare.prepare(
        corpus,
        root,
        store,
        landmarks=landmarks,
        durations=None if durations is None or reader is None else _seen(durations, reader),
        workers=workers,
        limit=limit,
        verify=verify,
        part=share,
        finish=finish,
    )
    if share is not None:
        return
    if not summary.kept:
        clip_id, reason = next(iter(summary.rejected.items()))
        raise ValueError(
            f"none of {len(summary.rejected)} clips could be used, the store {summary.store} is empty; "
            f"{visible(clip_id)}, for one: {reason}. {MANIFEST} in it gives the reason for each"
        )
    if view is not None:
        print(f"packed: {packing.pack(summary.store, view, pixels=pixels, verify=verify)}")


def _share(part: str | None) -> tuple[int, int] | None:
    """The numbers of `--part`.

    Raises:
        UsageError: They are none.
    """
    if part is None:
        return None
    number, _, count = part.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--part {part}: expected K/N with K from 1 to N, e.g. --part 3/16")
    return int(number), int(count)


def _view(pack: list[str] | None) -> "View | None":
    """The view that `--pack` names.

    Raises:
        UsageError: There is no such view, or the size is no size.
    """
    if pack is None:
        return None

    from lipbench.media import geometry
    from lipbench.types import View

    name, height, width = pack
    if name not in geometry.BOXES:
        raise discovery.unknown("view", name, geometry.BOXES)
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UsageError(
            f"--pack {' '.join(pack)}: height and width are whole numbers of pixels, e.g. --pack mouth 80 160"
        )
    return View(name, int(height), int(width))


def _seen(how: str, reader: str) -> "DurationSource":
    """Durations by a lip reader that looks at the clips."""
    from lipbench.data.durations import SeenLetters, SeenWords
    from lipbench.pretrained import bundled
    from lipbench.scoring.aligner import ReaderAligner

    aligner = ReaderAligner(bundled.resolved({"transcript": reader}, home())["transcript"])
    return SeenWords(aligner) if how == "mas" else SeenLetters(aligner)
