"""demo: no data needed: render a corpus, prepare it, train, score, rank, and show where the pictures lie."""

import argparse
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from lipbench import discovery
from lipbench.errors import UsageError
from lipbench.paths import home

if TYPE_CHECKING:
    from torch import Tensor

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
    from lipbench.commands import prepare
    from lipbench.leaderboard import table

    folder = (folder or home() / "demo").absolute()
    recipes = {path.stem: path for path in discovery.recipes() if path.parent.name == "demo"}
    chosen = [name for name in _DEFAULT if name in recipes]
    chosen += [name for name in recipes if everything and name not in _DEFAULT]
    print(f"lipbench demo, in {folder}")
    minutes = _SPEAKERS * _CLIPS / 100
    print(f"  1. render and prepare {_SPEAKERS} speakers x {_CLIPS} clips: about {minutes:.0f} minutes on 2 cores")
    for name in chosen:
        about = recipes[name].read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        print(f"  2. train and score {name}: {about}")
    print("  3. rank, and write a strip and a video")
    print("Stopped, the same command goes on from the last checkpoint, which is at most two minutes old.\n")

    store = folder / "store"
    _timed(
        "rendered and prepared",
        lambda: prepare.run("rendered", folder / "corpus", store, speakers=_SPEAKERS, clips=_CLIPS),
    )
    for name in chosen:
        checkpoint = _trained(name, recipes[name], folder, store)
        _timed(f"{name} scored", lambda checkpoint=checkpoint: _score(checkpoint, folder, store))  # type: ignore[misc]  # a lambda with a default has no inferred type
        _pictures(checkpoint, folder / name, store)
    table.compare(folder / "results", folder / "leaderboards")
    print("\nLook at (reference on top or on the left, generated below or on the right):")
    for name in chosen:
        print(f"  {folder / name}.png\n  {folder / name}.mp4")
    print(f"  {folder / 'leaderboards'}: the table as CSV\n  {folder / 'results'}: records, with scores of every clip")
    print("Next: lipbench prepare --data grid --root DIR; lipbench fit --model paralip --data grid")


def _timed(what: str, step: Callable[[], object]) -> None:
    """Run one step and say how long it took."""
    start = time.perf_counter()
    step()
    print(f"{what}: {time.perf_counter() - start:.0f} s\n", flush=True)


def _lightning(command: str, words: list[str]) -> None:
    """Run fit or test in this process, as `lipbench` would."""
    from lipbench.console import argv
    from lipbench.console import trainer as trainer

    # One device: several would start copies of the command line, which is that of the demo.
    trainer.run(command, argv.prepared(command, [*words, "--trainer.devices", "1"]))


def _trained(name: str, recipe: Path, folder: Path, store: Path) -> Path:
    """Train a recipe to its end, or go on with an interrupted training.

    Returns:
        The last checkpoint. Its run lies in a folder named after the recipe's content: a changed recipe starts anew.
    """
    from lipbench.training import checkpoints

    text = recipe.read_text(encoding="utf-8")
    end = yaml.safe_load(text).get("trainer", {}).get("max_steps")
    if end is None:
        raise UsageError(f"{recipe} needs trainer.max_steps: the demo goes by it to see whether training is done")
    runs = folder / "runs" / hashlib.sha256(text.encode()).hexdigest()[:8]

    def newest() -> Path | None:
        found = runs.glob("*/version_*/checkpoints/last.ckpt")
        return max(found, key=lambda path: path.stat().st_mtime, default=None)

    last = newest()
    done = 0 if last is None else checkpoints.read(last)["lipbench"]["batches"]
    if last is None or done < end:
        words = ["--config", str(recipe), "--data.store", str(store), "--trainer.default_root_dir", str(runs)]
        words += [] if last is None else ["--ckpt_path", str(last)]
        _timed(f"{name} trained", lambda: _lightning("fit", words))
        last = newest()
        assert last is not None
    else:
        print(f"{name} is trained: {last}")
    return last


def _score(checkpoint: Path, folder: Path, store: Path) -> None:
    """Score a checkpoint once; its record is named after the checkpoint's run."""
    run = checkpoint.parents[3].name
    results = folder / "results"
    if not list(results.glob(f"**/{run}.json")):
        words = ["--ckpt_path", str(checkpoint), "--data.store", str(store), "--data.limit_test", str(_SCORED)]
        words += ["--evaluator.out", str(results), "--evaluator.name", run]
        if list(results.glob("**/ground-truth/*.json")):  # the same rows for every model
            words += ["--evaluator.calibration", "false"]
        _lightning("test", words)


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
    view = model.clip.frames["video"]
    prepared = stores.Store(store)
    clip = prepared[protocol.load("rendered/seen").split(prepared.clip_ids).test[0]]
    frames = range(clip.n_frames)
    real = clip.view(frames, view).float() / 255  # (T, 3, h, w)
    with torch.inference_mode():
        made = model.drive(_batch(clip, real, model.clip.audio_rate), model.timing)["video"][0]  # (T, 3, h, w)
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
