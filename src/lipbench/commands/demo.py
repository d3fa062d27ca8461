"""demo: no data needed: render a corpus, prepare it, train, score, rank, and show where the pictures lie."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lipbench import discovery
from lipbench.paths import home

if TYPE_CHECKING:
    from lipbench.console.stages import Experiment

GROUP = "Start here"
_DEFAULT: Final[tuple[str, ...]] = ("paralip", "lipgan")  # one driven by text, one by sound
_SPEAKERS: Final = 8
_CLIPS: Final = 20  # a speaker
_SCORED: Final = 12  # test clips: all 33 would take as long as a training


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench demo`."""
    parser.add_argument("--all", action="store_true", dest="everything", help="every system that has a demo recipe")
    parser.add_argument("--folder", type=Path, help="where everything goes (default: $LIPBENCH_HOME/demo)")


def run(everything: bool = False, folder: Path | None = None) -> None:
    """Walk the whole road once; stopped and started again, it goes on where it was.

    Args:
        everything: Train every system with a demo recipe, not only the default ones.
        folder: Corpus, store, runs, records and tables go here.

    Raises:
        UsageError: A recipe names no end of training.
    """
    from lipbench.console import stage_runs

    folder = (folder or home() / "demo").absolute()
    experiment = _experiment(folder, everything)
    print(f"lipbench demo, in {folder}")
    runner = stage_runs.Runner(experiment, folder / "runs", folder / "results", folder / "leaderboards")
    runner.check()
    print(f"  rendering and preparing take about {_SPEAKERS * _CLIPS / 100:.0f} minutes on 2 cores")
    for line in runner.plan():
        print(f"  {line}")
    print("  write a strip and a video of each")
    print("Stopped, the same command goes on from the last checkpoint, which is at most two minutes old.\n", flush=True)
    for name, checkpoint in runner.run().items():
        _pictures(checkpoint, folder / name, folder / "store")
    print("\nLook at (reference on top or on the left, generated below or on the right):")
    for stage in experiment.stages:
        print(f"  {folder / stage.name}.png\n  {folder / stage.name}.mp4")
    print(f"  {folder / 'leaderboards'}: the table as CSV\n  {folder / 'results'}: records, with scores of every clip")
    print("Next: lipbench prepare --data grid --root DIR; lipbench fit --model paralip --data grid")


def _experiment(folder: Path, everything: bool) -> "Experiment":
    """The demo's recipes as stages on one corpus; the first one scores the calibration rows for all of them."""
    from lipbench.console.stages import Experiment, Stage

    recipes = {path.stem: path for path in discovery.recipes() if path.parent.name == "demo"}
    chosen = [name for name in _DEFAULT if name in recipes]
    chosen += [name for name in recipes if everything and name not in _DEFAULT]
    prepare = {"data": "rendered", "speakers": _SPEAKERS, "clips": _CLIPS}
    prepare |= {"root": str(folder / "corpus"), "store": str(folder / "store")}
    return Experiment(
        "demo", tuple(Stage(name, (recipes[name],), _scoring(name == chosen[0])) for name in chosen), prepare
    )


def _scoring(first: bool) -> dict[str, Any]:
    """What the demo states beside a recipe."""
    return {"data": {"limit_test": _SCORED}, "evaluator": {"calibration": first}}


def _pictures(checkpoint: Path, target: Path, store: Path) -> None:
    """A strip (reference over generated) and a video (reference beside generated, with sound) of one test clip."""
    import torch
    from PIL import Image

    from lipbench import tracking
    from lipbench.data.datamodule import ClipDataModule
    from lipbench.evaluation import strips
    from lipbench.media import captions, geometry, video
    from lipbench.training import loading
    from lipbench.training.generative import GenerativeModel

    model = loading.load(checkpoint, GenerativeModel)  # type: ignore[type-abstract]
    view = model.clip_spec.frames["video"]
    data = ClipDataModule("rendered", str(store), num_workers=0)
    data.clip_spec = model.clip_spec
    data.setup("test")
    clip = data.store[data.test_ids[0]]
    batch = data.one_clip(clip.clip_id, model.clip_spec)
    with torch.inference_mode():
        made = model.run_generate(batch, model.timing)["video"][0]  # (T, 3, h, w)
    words = strips.words(clip)
    rows = [captions.Row("reference", batch["video"][0], words), captions.Row("generated", made)]
    picture = captions.strip(rows, tracking.spread(*clip.speech, 10), fps=clip.fps)
    Image.fromarray(picture).save(target.with_suffix(".png"))
    pixels = torch.from_numpy(clip.pictures(range(clip.n_frames)))
    reference = pixels.permute(0, 3, 1, 2).float() / 255  # (T, 3, 352, 320)
    mask = geometry.feather(view)  # (1, 352, 320)
    spoken = mask * geometry.paste(reference, made.clamp(0, 1), view) + (1 - mask) * reference  # (T, 3, 352, 320)
    pictures = captions.side_by_side(reference, spoken, words)
    sound = clip.audio(clip.sample_rate)
    video.write_video(target.with_suffix(".mp4"), pictures, clip.fps, sound, clip.sample_rate)
