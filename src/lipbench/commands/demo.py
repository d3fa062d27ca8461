"""demo: no data needed: render a corpus, prepare it, train, score, rank, and show where the pictures lie."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lipbench import discovery
from lipbench.paths import home

if TYPE_CHECKING:
    from torch import Tensor

    from lipbench.console.stages import Experiment
    from lipbench.data.store import StoredClip
    from lipbench.types import ClipBatch

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
    from lipbench.data import protocol
    from lipbench.data import store as stores
    from lipbench.media import captions, geometry, text, video
    from lipbench.training import loading
    from lipbench.training.generative import GenerativeModel

    model = loading.load(checkpoint, GenerativeModel)  # type: ignore[type-abstract]
    view = model.clip_spec.frames["video"]
    prepared = stores.Store(store)
    clip = prepared[protocol.load("rendered/seen").split(prepared.clip_ids).test[0]]
    frames = range(clip.n_frames)
    real = clip.view(frames, view).float() / 255  # (T, 3, h, w)
    with torch.inference_mode():
        generated = model.run_generate(_batch(clip, real, model.clip_spec.audio_rate), model.timing)
    made = generated["video"][0]  # (T, 3, h, w)
    ids = torch.tensor(text.encode(clip.symbols))  # (L,)
    words = captions.spoken(ids, torch.tensor(clip.durations.copy()))
    picture = captions.strip(real, made, tracking.spread(*clip.speech, 10), words, fps=clip.fps)
    Image.fromarray(picture).save(target.with_suffix(".png"))
    reference = torch.from_numpy(clip.pictures(frames)).permute(0, 3, 1, 2).float() / 255  # (T, 3, 352, 320)
    mask = geometry.feather(view)  # (1, 352, 320)
    spoken = mask * geometry.paste(reference, made.clamp(0, 1), view) + (1 - mask) * reference  # (T, 3, 352, 320)
    pictures = captions.side_by_side(reference, spoken, words)
    sound = clip.audio(clip.sample_rate)
    video.write_video(target.with_suffix(".mp4"), pictures, clip.fps, sound, clip.sample_rate)


def _batch(clip: "StoredClip", real: "Tensor", audio_rate: int | None) -> "ClipBatch":
    """Everything that drives a model, for one clip."""
    import torch

    from lipbench.media import text

    symbols, length = clip.symbols, torch.tensor([clip.n_frames])
    batch: ClipBatch = {
        "tokens": torch.tensor([text.encode(symbols)]),
        "token_len": torch.tensor([len(symbols)]),
        "durations": torch.tensor(clip.durations.copy())[None],
        "n_frames": length,
        "video": real[None],
        "video_len": length,
        "fps": torch.tensor([clip.fps]),
        "identity": real[None, :1],
    }
    if audio_rate is not None:
        sound = torch.from_numpy(clip.audio(audio_rate))[None]
        batch |= {"audio": sound, "audio_len": torch.tensor([sound.shape[1]])}
    return batch
