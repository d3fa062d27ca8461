"""LMD a clip: points in the reference's box, as lipbench looks for them, beside a detector on every frame.

Both sides look at the same pictures: the canonical pictures of real GRID clips, and blurred copies of them as the
generated video. lipbench takes the reference's box for both videos and asks a detector on a few frames whether a face
is there at all. The other side is what published scripts do (ATVGnet's `evaluation_matrix.py`, commit 02d8f8f): dlib's
detector on every frame of both videos, enlarged once, the last face that it finds, then the 68 points; frames without a
face are left out. Without the enlargement the detector is cheaper, so that is measured too. All take the mean over 20
aligned points. The boxes come from preparing the corpus, once for all models: how long that takes is printed. Times are
processor time of one thread, so that other work on the machine does not count.

    python benchmarks/lmd.py [--root GRID] [--clips 2] [--rounds 3]
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from lipbench.corpora.grid import Grid
from lipbench.evaluation.external_videos import EVERY
from lipbench.media import geometry, landmarks, video
from lipbench.metrics.lmd import MOUTH, lmd
from lipbench.scoring.observers import Landmarks
from lipbench.types import View

ROOT = Path(__file__).resolve().parents[2] / "shared" / "grid"
OURS = "lipbench, reference's box"
FACE = View("face", geometry.FACE, geometry.FACE)


@dataclass(frozen=True)
class Pictures:
    """What the observer of the bank asks of a clip here."""

    canonical: np.ndarray  # (T, 352, 320, 3) uint8
    boxes: np.ndarray  # (T, 4)
    shown: View = FACE  # as a generated face, so that one is looked for
    cacheable: bool = False  # nothing is kept on disk


def prepared(path: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Canonical pictures (T, 352, 320, 3) of a video, boxes (T, 4) of its face in them, and seconds for these."""
    frames = video.read_video(path).frames
    started = time.process_time()
    points = landmarks.track(frames, landmarks.load("dlib"), EVERY).points
    taken = time.process_time() - started
    transforms = geometry.similarity(points)
    boxes = landmarks.box_of(geometry.transform_points(points, transforms))
    return np.asarray(geometry.warp(frames, transforms)), np.asarray(boxes, np.float32), taken


class EveryFrame:
    """dlib's detector and predictor, as published scripts use them."""

    def __init__(self) -> None:
        import dlib

        self.detector = dlib.get_frontal_face_detector()
        self.predictor = dlib.shape_predictor(str(landmarks._predictor_file()))

    def points(self, pictures: np.ndarray, upsample: int) -> np.ndarray:
        """(T, 68, 2) points in the detector's own box of each frame (T, h, w, 3), NaN where it finds no face."""
        found = np.full((len(pictures), 68, 2), np.nan)
        for k, picture in enumerate(pictures):
            grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
            for box in self.detector(grey, upsample):
                found[k] = [(point.x, point.y) for point in self.predictor(grey, box).parts()]
        return found


def distance(pred: np.ndarray, target: np.ndarray) -> float:
    """Mean LMD over the frames with points in both videos, canonical pixels."""
    pair = (torch.from_numpy(np.asarray(points, float))[:, MOUTH] for points in (pred, target))
    return float(lmd(*pair).nanmean())


def main() -> None:
    """Measure all sides in turn on every clip and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(os.environ.get("LIPBENCH_GRID", ROOT))
    parser.add_argument("--root", type=Path, default=root, help="GRID corpus (default: LIPBENCH_GRID or %(default)s)")
    parser.add_argument("--clips", type=int, default=2, help="clips, evenly spaced (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side, of which the median counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    clips = [clip.video for clip in Grid.scan(arguments.root) if clip.problem is None]
    paths = [clips[k] for k in np.linspace(0, len(clips) - 1, min(arguments.clips, len(clips))).astype(int)]
    observer, published = Landmarks(), EveryFrame()
    sides: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        OURS: lambda shown, boxes: observer.observe(Pictures(shown, boxes)).numpy(),
        "every frame, enlarged": lambda shown, boxes: published.points(shown, 1),
        "every frame, as it is": lambda shown, boxes: published.points(shown, 0),
    }
    taken = {name: np.zeros((len(paths), arguments.rounds)) for name in sides}  # s
    values = {name: np.zeros(len(paths)) for name in sides}  # px
    lost = dict.fromkeys(sides, 0)  # frames
    tracking = []
    for k, path in enumerate(paths):
        true, boxes, seconds = prepared(path)
        tracking.append(seconds)
        made = np.stack([cv2.GaussianBlur(picture, (0, 0), 2) for picture in true])
        for look in sides.values():
            look(true[:3], boxes[:3])  # this warms up
        for turn in range(arguments.rounds):
            for name, look in sides.items():
                started = time.process_time()
                found = [look(shown, boxes) for shown in (made, true)]
                taken[name][k, turn] = time.process_time() - started
                values[name][k] = distance(*found)  # the same in every round
                lost[name] += int(np.isnan(np.stack(found)).any((2, 3)).sum()) if turn == 0 else 0

    mean = {name: np.median(seconds, 1).mean() for name, seconds in taken.items()}
    print(f"{len(paths)} GRID clips, both videos of each, one thread; the generated video is blurred by 2 px")
    print(f"{'':28}{'s a clip':>10}{'ratio':>8}{'LMD, px':>10}{'difference':>12}{'frames lost':>13}")
    for name, seconds in mean.items():
        value = values[name].mean()
        apart = value - values[OURS].mean()
        print(f"{name:28}{seconds:10.3f}{seconds / mean[OURS]:8.1f}{value:10.3f}{apart:+12.3f}{lost[name]:13d}")
    print(f"the reference's boxes, once a corpus: {np.mean(tracking):.3f} s a clip")


if __name__ == "__main__":
    main()
