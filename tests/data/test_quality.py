"""Broken pictures are found, whole ones are not suspected."""

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from lipbench.data.frame_checks import face_problem, problem
from lipbench.media import geometry
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
        center = 64 + 3 * np.sin(k / 5)
        picture[((rows - 50) / 30) ** 2 + ((columns - center) / 22) ** 2 < 1] = (210, 160, 130)
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


def white(frames: Frames) -> Frames:
    frames[7][:] = 255
    return frames


def dark(frames: Frames) -> Frames:
    return [frame if k < 20 else (frame * 0.8).astype(np.uint8) for k, frame in enumerate(frames)]


def noise(frames: Frames) -> Frames:
    for k in range(10, 13):
        frames[k] = np.clip(frames[k] + np.random.default_rng(k).normal(0, 40, frames[k].shape), 0, 255).astype(
            np.uint8
        )
    return frames


def half_empty(frames: Frames) -> Frames:
    for frame in frames:
        frame[:48] = (0, 135, 0)
    return frames


def no_red(frames: Frames) -> Frames:
    for frame in frames:
        frame[..., 0] = 0
    return frames


def blue_twice(frames: Frames) -> Frames:
    for frame in frames:
        frame[..., 1] = frame[..., 2]
    return frames


def no_plane(frames: Frames) -> Frames:
    made = []
    for frame in frames:
        planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb)
        planes[..., 2] = 128
        made.append(cv2.cvtColor(planes, cv2.COLOR_YCrCb2RGB))
    return made


def short_runs(frames: Frames) -> Frames:
    return [frames[k - k % 3] for k in range(40)]


def run(frames: Frames) -> Frames:
    return frames[:20] + [frames[20]] * 6 + frames[26:]


def loop(frames: Frames) -> Frames:
    return [frames[k % 15] for k in range(40)]


def repeated(frames: Frames) -> Frames:
    return frames[:25] + frames[5:15] + frames[35:]


def block(frames: Frames) -> Frames:
    """A large square shows a neighboring part of the picture, whose brightness differs a little."""
    for frame in frames[12:20]:
        frame[20:80, 30:90] = np.clip(frame[20:80, 36:96].astype(int) + 14, 0, 255)
    return frames


BROKEN: dict[Callable[[Frames], Frames], str] = {
    grey: "picture is grey and smeared in frames 0-5 (up to 75% of a frame is the grey of missing data)",
    black: "picture is black in frame 20",
    green: "50% of the picture is one flat color in frames 20-23",
    frozen: "picture stands still in frames 20-39",
    cut: "picture jumps between frames 19 and 20",
    white: "picture is white in frame 7",
    dark: "picture jumps",
    noise: "picture is noise in frames 9-12",
    half_empty: "42% of the picture is one flat color in all frames",
    no_red: "the red of the picture is missing in all frames",
    blue_twice: "two color channels of the picture are the same in all frames",
    no_plane: "one of the two color planes of the picture is missing in all frames",
    short_runs: "26 of 40 frames are the same as the one before",
    run: "picture stands still in frames 20-25",
    loop: "frames 15-39 repeat frames 0-24",
    repeated: "picture jumps between frames 24 and 25",
    block: "picture jumps",
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


def speaker(total: int = 50) -> tuple[Frames, np.ndarray]:
    """A face whose mouth opens and closes, 192x256, and its 68 points."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:192, :256]
    points = np.tile(geometry.TEMPLATE / 2 + (64, 32), (total, 1, 1))
    opening = np.sin(np.arange(total) * 0.9 + 0.02 * np.arange(total) ** 2)  # never the same again
    points[:, 48:68, 1] += 6 * opening[:, None] * (geometry.TEMPLATE[48:68, 1] > 178)
    frames = []
    for k in range(total):
        picture = np.stack([90 + columns / 4, 90 + rows / 3, 160 - columns / 4], -1) + rng.normal(0, 3, (192, 256, 3))
        picture[((rows - 100) / 64) ** 2 + ((columns - 128) / 48) ** 2 < 1] += (80, 30, 0)
        lips = ((rows - 122) / (8 + 5 * opening[k])) ** 2 + ((columns - 128) / 32) ** 2 < 1
        picture[lips] += (20, -60, -40)
        frames.append(cv2.GaussianBlur(np.clip(picture, 0, 255).astype(np.uint8), (5, 5), 0))
    return frames, points


def mouth_frozen(frames: Frames, points: np.ndarray) -> None:
    for frame in frames[25:]:
        frame[100:146, 100:156] = frames[24][100:146, 100:156]


def mouth_frozen_at_the_beginning(frames: Frames, points: np.ndarray) -> None:
    for frame in frames[1:25]:
        frame[100:146, 100:156] = frames[0][100:146, 100:156]


def mouth_one_shape(frames: Frames, points: np.ndarray) -> None:
    points[20:, 48:68] = points[20, 48:68] + np.random.default_rng(0).normal(0, 0.1, (30, 20, 2))


def face_elsewhere(frames: Frames, points: np.ndarray) -> None:
    points[30:] += (20, 0)


def face_larger(frames: Frames, points: np.ndarray) -> None:
    points[30:] = points[30:].mean((0, 1)) + 1.5 * (points[30:] - points[30:].mean((0, 1)))


def face_turned(frames: Frames, points: np.ndarray) -> None:
    points[:] = (256, 192) - points


def face_on_its_head(frames: Frames, points: np.ndarray) -> None:
    """The points are upright, as a predictor draws them; it sees eyes and brows where the lips are."""
    for frame in frames:
        frame[50:85, 92:164], frame[100:146, 92:164] = frame[105:140, 92:164].copy(), frame[60:61, 92:164].copy()
        frame[50:85, 92:164, 1] //= 2


def face_blue(frames: Frames, points: np.ndarray) -> None:
    for frame in frames:
        frame[:] = frame[..., ::-1].copy()


def face_outside(frames: Frames, points: np.ndarray) -> None:
    points += (110, 0)


def no_numbers(frames: Frames, points: np.ndarray) -> None:
    points[3, 5] = np.nan


FACES = {
    mouth_frozen: "the mouth stands still in frames 2[2-6]-49, the rest of the picture does not",
    mouth_frozen_at_the_beginning: "the mouth stands still in frames 0-2[2-6], the rest of the picture does not",
    mouth_one_shape: "the mouth keeps one shape",
    face_elsewhere: "the face jumps between frames 29 and 30",
    face_larger: "the face jumps between frames 29 and 30",
    face_turned: "the face lies on its side or stands on its head in all frames",
    face_on_its_head: "the face stands on its head",
    face_blue: "red and blue are exchanged",
    face_outside: "of the face's points lie outside the picture",
    no_numbers: "numbers that are none",
}


@pytest.mark.parametrize("damage", FACES, ids=lambda damage: damage.__name__)
def test_damaged_faces_are_named(damage: Callable[[Frames, np.ndarray], None]) -> None:
    frames, points = speaker()
    damage(frames, points)
    found = face_problem(frames, points, (5, 45), 25.0)
    assert found is not None
    assert re.search(FACES[damage], found), found


def test_a_whole_face_is_not_suspected() -> None:
    frames, points = speaker()
    assert problem(frames) is None
    assert face_problem(frames, points, (5, 45), 25.0) is None
    assert face_problem(frames, points, (0, 50), 50.0) is None
