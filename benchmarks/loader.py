"""Clips and windows a second: the prepared store against decoding the corpus files directly.

Both sides end in the same thing: uint8 pictures of the mouth, (frames, 3, 40, 80), cut by the same boxes and resized.
The store reads them with the loader that training uses; the other side decodes each file, seeks where that helps,
cuts the box out of the frame and resizes it. One process, one thread.

    python benchmarks/loader.py --root CORPUS [--store STORE] [--clips 60]
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from lipbench.data._loader import ClipDataset, collate
from lipbench.data._prepare import RawClip
from lipbench.data._store import Store, default_path
from lipbench.data.grid import Grid
from lipbench.media import geometry
from lipbench.types import ClipSpec, View

WINDOW = 5


def raw_boxes(store: Store, clip_id: str, view: View) -> np.ndarray:
    """(T, 4) left, top, right, bottom of the view in pixels of the source frames."""
    top, left, bottom, right = geometry.box(view.name)
    corners = np.array([[left, top], [right, bottom]], float)
    clip = store[clip_id]
    back = geometry.invert(clip.transforms)
    found = geometry.transform_points(np.broadcast_to(corners, (clip.n_frames, 2, 2)), back).reshape(-1, 4)
    height, width = clip.frame_size
    return np.clip(np.rint(found), 0, [width, height, width, height]).astype(int)


def decode(path: Path, boxes: np.ndarray, view: View, first: int, count: int) -> np.ndarray:
    """Frames first..first + count of a file, cut and resized: (count, 3, h, w) uint8."""
    out = []
    converter = VideoReformatter()  # one for all frames, as in lipbench.media.video: half the time
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        rate = stream.average_rate or stream.guessed_rate
        start = stream.start_time or 0
        if first and stream.time_base and path.suffix == ".mp4":  # MPEG program streams have no index to seek by
            container.seek(start + int(first / rate / stream.time_base), stream=stream)
        k = -1
        for picture in container.decode(stream):
            seconds = (picture.pts - start) * stream.time_base if picture.pts is not None else None
            k = round(seconds * rate) if seconds is not None and path.suffix == ".mp4" else k + 1
            if k < first:
                continue
            left, top, right, bottom = boxes[min(k, len(boxes) - 1)]
            crop = converter.reformat(picture, format="rgb24", threads=1).to_ndarray()[top:bottom, left:right]
            out.append(cv2.resize(crop, (view.width, view.height), interpolation=cv2.INTER_LINEAR))
            if len(out) == count:
                break
    return np.stack(out).transpose(0, 3, 1, 2)


def rate(work: Callable[[int], object], rounds: Sequence[int]) -> float:
    """Calls a second."""
    started = time.perf_counter()
    for k in rounds:
        work(k)
    return len(rounds) / (time.perf_counter() - started)


def main() -> None:
    """Measure both sides in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the raw GRID corpus")
    parser.add_argument("--store", type=Path, default=default_path("grid"), help="its prepared store")
    parser.add_argument("--clips", type=int, default=60, help="clips to measure on, evenly spaced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    store = Store(arguments.store)
    raw: dict[str, RawClip] = {clip.clip_id: clip for clip in Grid.scan(arguments.root)}
    shared = [clip_id for clip_id in store.clip_ids if clip_id in raw]
    ids = [shared[k] for k in np.linspace(0, len(shared) - 1, min(arguments.clips, len(shared))).astype(int)]
    view = View("mouth", 40, 80)
    boxes = {clip_id: raw_boxes(store, clip_id, view) for clip_id in ids}
    starts = np.random.default_rng(0).integers(70 - WINDOW, size=len(ids))

    def of_store(window: int | None) -> Callable[[int], object]:
        spec = ClipSpec(frames={"video": view}, window=window)
        dataset = ClipDataset(store, ids, spec, frozenset(), seed=0, training=window is not None, speakers={})
        return lambda k: collate([dataset[k]])

    def of_files(window: int | None) -> Callable[[int], object]:
        def work(k: int) -> np.ndarray:
            count = window or store[ids[k]].n_frames
            return decode(raw[ids[k]].video, boxes[ids[k]], view, int(starts[k]) if window else 0, count)

        return work

    places = range(len(ids))
    print(f"{len(ids)} clips, view {view}, one process, one thread")
    print(f"{'':24}{'store':>10}{'files':>10}{'ratio':>8}")
    for name, window in ((f"{WINDOW}-frame windows / s", WINDOW), ("whole clips / s", None)):
        for side in (of_store(window), of_files(window)):
            rate(side, places[:3])  # once through, so that imports and caches do not count
        rounds = [(rate(of_store(window), places), rate(of_files(window), places)) for _ in range(3)]
        fast, slow = (float(np.median(side)) for side in zip(*rounds, strict=True))
        print(f"{name:24}{fast:10.1f}{slow:10.1f}{fast / slow:8.1f}")


if __name__ == "__main__":
    main()
