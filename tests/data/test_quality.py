"""Broken pictures are found, whole ones are not suspected."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lipbench.data._quality import problem
from lipbench.media.video import read_video

Frames = list[np.ndarray]


def scene(total: int = 40, height: int = 96, width: int = 128, seed: int = 0) -> Frames:
    """A noisy room with a face-sized ellipse that moves a little, and a flickering patch."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    room = np.stack([40 + columns, 200 - columns / 2, 120 + rows], -1)
    frames = []
    for k in range(total):
        picture = room.copy()
        centre = 64 + 3 * np.sin(k / 5)
        picture[((rows - 50) / 30) ** 2 + ((columns - centre) / 22) ** 2 < 1] = (210, 160, 130)
        picture[60 : 64 + k % 5, 58:70] = (90, 20, 30)
        frames.append(np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255).astype(np.uint8))
    return frames


def grey(frames: Frames) -> Frames:
    for frame in frames[:6]:
        frame[:, 30:] = 130
    return frames


def black(frames: Frames) -> Frames:
    frames[20][:] = 2
    return frames


def green(frames: Frames) -> Frames:
    for frame in frames[20:23]:
        frame[40:] = (0, 135, 0)
    return frames


def frozen(frames: Frames) -> Frames:
    return frames[:20] + [frames[20]] * 20


def cut(frames: Frames) -> Frames:
    return frames[:20] + [frame[:, ::-1].copy() for frame in frames[20:]]


def torn(frames: Frames) -> Frames:
    """Three blocks show what was elsewhere, darker, until the next whole picture."""
    for frame in frames[10:18]:
        for top, left in ((16, 32), (48, 80), (64, 16)):
            frame[top : top + 16, left : left + 16] = (255 - frame[80 - top : 96 - top, 96 - left : 112 - left]) // 2
    return frames


BROKEN: dict[Callable[[Frames], Frames], str] = {
    grey: "picture is grey and smeared in frames 0-5 (up to 75% of a frame is the grey of missing data)",
    black: "picture is black in frame 20",
    green: "50% of the picture is one flat colour in frames 20-23",
    frozen: "picture stands still in frames 20-39",
    cut: "picture jumps between frames 19 and 20",
    torn: "picture is torn into blocks in frames 10-17 (damaged data)",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_damage_is_named(damage: Callable[[Frames], Frames]) -> None:
    found = problem(damage(scene()))
    assert found is not None
    assert found.startswith(BROKEN[damage])


def test_grey_throughout() -> None:
    found = problem([np.full((96, 128, 3), 130, np.uint8)] * 30)
    assert found == "picture is grey and smeared in all frames (up to 100% of a frame is the grey of missing data)"


@pytest.mark.parametrize("seed", range(3))
def test_whole_scene_is_not_suspected(seed: int) -> None:
    assert problem(scene(seed=seed)) is None


def test_grey_wall_is_not_missing_data() -> None:
    frames = scene()
    for frame in frames:
        frame[:30] = np.random.default_rng(0).normal(130, 2, frame[:30].shape)
    assert problem(frames) is None


def test_single_frame() -> None:
    assert problem(scene(1)) is None


@pytest.mark.parametrize("name", ["bwwuzn", "brwg8p", "lgbf8n", "pbio7a", "sbbh4p", "sran9s"])
def test_broken_grid_clips(grid_root: Path, name: str) -> None:
    found = problem(read_video(grid_root / "video" / "s1" / f"{name}.mpg").frames)
    assert found is not None
    assert found.startswith("picture is grey and smeared in frames 0-11")


def test_whole_grid_clips(grid_root: Path) -> None:
    """The clips that come nearest to a threshold, and one of every other speaker."""
    near = ["pgwy8n", "pbbi8n", "srah5s", "sgii3s", "bgig6n", "pbav3s"]
    paths = [next((grid_root / "video" / "s1").glob(f"{name}.*")) for name in near]
    paths += [sorted(folder.iterdir())[0] for folder in sorted((grid_root / "video").iterdir()) if folder.name != "s1"]
    assert {path.name: problem(read_video(path).frames) for path in paths} == {path.name: None for path in paths}
