"""strip: several checkpoints over the same frames of a clip, as one picture: a row each, the real clip first.

The figures of snapshots in papers, such as figure 4 of TalkLip (CVPR 2023). Every model generates as in `test`: its
identity is the clip's first frame, and it has the true timing where it supports it (its label says so otherwise). What
it makes is pasted into the real frames, and the same view is cut out of all rows, so that models of different sizes and
views stand on the same pixels.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lipbench.console import systems as compared
from lipbench.errors import UsageError

if TYPE_CHECKING:
    from lipbench.data.datamodule import ClipDataModule
    from lipbench.data.store import StoredClip

GROUP = "Train and score"
_FRAMES: Final = 8
_OUT: Final = Path("strip.png")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench strip`."""
    compared.arguments(parser)
    parser.add_argument(
        "--clip",
        nargs="+",
        metavar="ID",
        help="such as grid/s1/bbaf2n; several make a strip each (default: the first test clip of the protocol)",
    )
    parser.add_argument(
        "--frames", type=int, default=_FRAMES, help=f"columns, evenly spaced in time (default: {_FRAMES})"
    )
    parser.add_argument(
        "--start", type=float, metavar="SECONDS", help="where they begin in the clip (default: where its speech does)"
    )
    parser.add_argument(
        "--stop", type=float, metavar="SECONDS", help="where they end in the clip (default: where its speech does)"
    )
    parser.add_argument(
        "--view", help="mouth, face or another view (default: the face where all models make it, else the mouth)"
    )
    parser.add_argument(
        "--frozen-frame", action="store_true", help="a row of the clip's first frame throughout, for comparison"
    )
    parser.add_argument(
        "--heard",
        metavar="ID",
        help="another clip whose sound drives the models in place of the clip's own, such as another speaker's: it "
        "becomes the first row, and the clip whose identity they are given the last",
    )
    parser.add_argument("--out", type=Path, default=_OUT, metavar="FILE", help=f"png to write (default: {_OUT})")


def run(
    checkpoints: Sequence[Path],
    labels: Sequence[str] | None = None,
    data: str | None = None,
    store: Path | None = None,
    protocol: str | None = None,
    model: Sequence[str] | None = None,
    clip: Sequence[str] | None = None,
    frames: int = _FRAMES,
    start: float | None = None,
    stop: float | None = None,
    view: str | None = None,
    frozen_frame: bool = False,
    heard: str | None = None,
    out: Path = _OUT,
) -> None:
    """Generate, draw, write a PNG file a clip.

    Args:
        checkpoints: Of models that generate video.
        labels: What they are called.
        data: Corpus; None takes what the checkpoints were trained on.
        store: Folder of its store.
        protocol: None takes what the checkpoints were trained on.
        model: Class paths of models that are neither built in nor installed.
        clip: Which clips; of several, each file has the clip's id in its name.
        frames: Columns; fewer where the span has fewer frames.
        start: Begin of the span in seconds of the clip.
        stop: Its end.
        view: Name of the view that is shown.
        frozen_frame: Add a row of the first frame.
        heard: Clip whose sound drives the models in place of each clip's own.
        out: File to write.

    Raises:
        UsageError: Options do not fit together, or a clip is not in the store.
        FileNotFoundError: A checkpoint or the store is not there.
        ValueError: A checkpoint is of another kind, or the store cannot supply what a model needs.
        OSError: The file cannot be written there; known before anything is generated.
    """
    if out.suffix.lower() != ".png" or out.is_dir():
        raise UsageError(f"--out {out}: expected the name of a file that ends in .png")
    if frames < 1:
        raise UsageError(f"--frames {frames}: expected 1 or more")

    from lipbench.evaluation import output_folder

    output_folder.probe(out.parent)

    from PIL import Image

    from lipbench.evaluation import strips
    from lipbench.files import written_whole
    from lipbench.media import captions

    shown = None if view is None else strips.view_of(view)
    systems = compared.load(checkpoints, labels, model)
    corpus = compared.datamodule(systems, data, store, protocol)
    clips = [corpus.store[clip_id] for clip_id in _clips(corpus, clip)]
    spoken = None if heard is None else corpus.store[_known(corpus, heard, "--heard")]
    columns = [_columns(spoken or own, frames, start, stop) for own in clips]
    models = [(system.label, system.model) for system in systems]
    if shown is None:
        shown = strips.common_view([system.model for system in systems])
    for own, places in zip(clips, columns, strict=True):
        for system in systems:
            if own.clip_id in compared.training_clips(system, corpus):
                print(f"{own.clip_id} is a training clip of {system.line} ({system.origin.protocol})")
        picture = captions.strip(
            strips.rows(corpus, own.clip_id, models, shown, frozen_frame, heard), places, own.text, own.fps
        )
        path = out if len(clips) == 1 else out.with_stem(f"{out.stem}_{own.clip_id.replace('/', '_')}")
        with written_whole(path) as aside:
            Image.fromarray(picture).save(aside, "PNG")
        print(f"{path}: {own.clip_id}, {shown.name}, {len(places)} frames from {places[0]} to {places[-1]}")


def _clips(data: "ClipDataModule", asked: Sequence[str] | None) -> list[str]:
    """Ids of the clips to be shown.

    Raises:
        UsageError: One is not in the store; the message says which are.
    """
    if asked is None:
        if not data.test_ids:
            raise UsageError(
                f"no test clip of {data.protocol.name} is in the store {data.store.path}: name a clip, such as --clip "
                f"{data.store.clip_ids[0]}"
            )
        return data.test_ids[:1]
    return list(dict.fromkeys(_known(data, clip_id, "--clip") for clip_id in asked))


def _known(data: "ClipDataModule", clip_id: str, option: str) -> str:
    """A clip's id, if it is in the store.

    Raises:
        UsageError: It is not; the message says which are.
    """
    if clip_id not in data.store:
        reason = data.store.manifest["rejected"].get(clip_id, {}).get("reason")
        name = clip_id.rpartition("/")[2]
        near = [known for known in data.store.clip_ids if known.rpartition("/")[2] == name]
        known = ", ".join((near or data.test_ids or data.store.clip_ids)[:3])
        why = f" ({reason})" if reason else ""
        raise UsageError(f"{option} {clip_id}: it is not in the store {data.store.path}{why}; in it are {known}, ...")
    return clip_id


def _columns(clip: "StoredClip", count: int, start: float | None, stop: float | None) -> list[int]:
    """Up to `count` frames, evenly spaced over a span of the clip.

    Raises:
        UsageError: The span lies outside the clip or is empty.
    """
    from lipbench import tracking

    first, last = clip.speech
    if start is not None:
        first = round(start * clip.fps)
    if stop is not None:
        last = round(stop * clip.fps)
    if not 0 <= first < last <= clip.n_frames:
        spoken = " to ".join(f"{frame / clip.fps:.2f}" for frame in clip.speech)
        raise UsageError(
            f"{clip.clip_id} lasts {clip.n_frames / clip.fps:.2f} s, with speech from {spoken} s; --start and --stop "
            f"ask for {first / clip.fps:.2f} to {last / clip.fps:.2f} s"
        )
    return tracking.spread(first, last, count)
