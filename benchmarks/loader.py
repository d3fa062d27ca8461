"""Faces a second: the prepared store, whole and packed, beside a folder of JPEG files and beside the corpus files.

All sides end in the same thing: uint8 pictures of a view, (frames, 3, h, w), cut by the same boxes and resized.

- whole: the store, through the loader that training uses
- packed: a copy with this view alone (`lipbench prepare --pack face 96 96`), through the same loader
- pixels: the same without JPEG (`--pixels`)
- JPEG folder: one JPEG a frame, cut out as Wav2Lip's preprocessing does, read by `cv2.imread` and resized by
  `cv2.resize`, as its loader does
- corpus files: each file decoded, with a seek where that helps, the box cut out and resized

One process, one thread. Processor time counts, so that other programs on the machine change little; but caches and
memory are shared, so only the ratios say something.

    python benchmarks/loader.py --root CORPUS [--store STORE] [--view face 96 96] [--clips 30]
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from lipbench.corpora.grid import Grid
from lipbench.data import pack, prepare
from lipbench.data import store as stores_module
from lipbench.data.loader import ClipDataset
from lipbench.data.store import Store
from lipbench.media import geometry, video
from lipbench.paths import default_store
from lipbench.types import ClipSpec, View

ROUNDS = 5


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


def write_faces(folder: Path, path: Path, boxes: np.ndarray) -> None:
    """One JPEG a frame, at the size that the face has in the frame and OpenCV's own quality, as Wav2Lip writes them."""
    folder.mkdir(parents=True)
    for k, frame in enumerate(video.read_video(path).frames):
        left, top, right, bottom = boxes[k]
        cv2.imwrite(str(folder / f"{k}.jpg"), cv2.cvtColor(frame[top:bottom, left:right], cv2.COLOR_RGB2BGR))


def read_faces(folder: Path, view: View, first: int, count: int) -> np.ndarray:
    """(count, 3, h, w) uint8."""
    faces = [cv2.resize(cv2.imread(str(folder / f"{k}.jpg")), view.size[::-1]) for k in range(first, first + count)]
    return np.stack(faces)[..., ::-1].transpose(0, 3, 1, 2)


def write_packed(folder: Path, store: Store, ids: Sequence[str], view: View, pixels: bool) -> Store:
    """A packed store of a few clips."""
    rows = [pack.packed_row(store[clip_id], view, pixels) for clip_id in ids]
    settings = {**store.manifest["settings"], "packed": {"name": view.name, "height": view.height, "width": view.width}}
    lines = {row["clip_id"]: stores_module.summary(row, k) for k, row in enumerate(rows)}
    metadata = {"settings": settings, "made_with": {}, "clips": lines, "rejected": {}, "sources": {}}
    (folder / "shards").mkdir(parents=True)
    stores_module.write_shard(folder / "shards" / "all-000of001.arrow", rows, metadata)
    prepare.write_manifest(folder, settings, view)
    return Store(folder)


def cost(work: Callable[[int], object], clips: int, times: int) -> float:
    """Seconds of processor time a call."""
    started = time.process_time()
    for _ in range(times):
        for k in range(clips):
            work(k)
    return (time.process_time() - started) / (clips * times)


def main() -> None:
    """Measure all sides in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the raw GRID corpus")
    parser.add_argument("--store", type=Path, default=default_store("grid"), help="its prepared store")
    parser.add_argument("--view", nargs=3, default=("face", "96", "96"), metavar=("VIEW", "HEIGHT", "WIDTH"))
    parser.add_argument("--clips", type=int, default=30, help="clips to measure on, evenly spaced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    store = Store(arguments.store)
    raw = {clip.clip_id: clip.video for clip in Grid.scan(arguments.root)}
    shared = [clip_id for clip_id in store.clip_ids if clip_id in raw]
    ids = [shared[k] for k in np.linspace(0, len(shared) - 1, min(arguments.clips, len(shared))).astype(int)]
    name, height, width = arguments.view
    view = View(name, int(height), int(width))
    boxes = {clip_id: raw_boxes(store, clip_id, view) for clip_id in ids}
    starts = np.random.default_rng(0).integers(min(store[clip_id].n_frames for clip_id in ids) - 5, size=len(ids))

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for clip_id in ids:
            write_faces(folder / "faces" / clip_id, raw[clip_id], boxes[clip_id])
        packed = write_packed(folder / "packed", store, ids, view, pixels=False)
        plain = write_packed(folder / "pixels", store, ids, view, pixels=True)

        def of_store(opened: Store, window: int | None) -> Callable[[int], object]:
            spec = ClipSpec(frames={"video": view}, window=window)
            dataset = ClipDataset(opened, ids, spec, frozenset(), seed=0, training=window is not None, speakers={})
            return lambda k: dataset[k]["video"]

        def of_faces(window: int | None) -> Callable[[int], object]:
            def work(k: int) -> np.ndarray:
                first, count = (int(starts[k]), window) if window else (0, store[ids[k]].n_frames)
                return read_faces(folder / "faces" / ids[k], view, first, count)

            return work

        def of_files(window: int | None) -> Callable[[int], object]:
            def work(k: int) -> np.ndarray:
                first, count = (int(starts[k]), window) if window else (0, store[ids[k]].n_frames)
                return decode(raw[ids[k]], boxes[ids[k]], view, first, count)

            return work

        print(f"{len(ids)} clips, view {view}, one process, one thread")
        print(f"ms of processor time, median of {ROUNDS} rounds, and ratios")
        names = ("whole", "packed", "pixels", "folder", "files")
        ratios = [("folder", "whole"), ("folder", "packed"), ("folder", "pixels"), ("files", "whole")]
        print(" " * 16 + "".join(f"{n:>8}" for n in names) + "".join(f"{a}/{b}".rjust(15) for a, b in ratios))
        for label, window, times in (("a single frame", 1, 10), ("5 frames", 5, 5), ("whole clips", None, 1)):
            stores = [of_store(opened, window) for opened in (store, packed, plain)]
            sides = dict(zip(names, (*stores, of_faces(window), of_files(window)), strict=True))
            for side in sides.values():
                cost(side, min(3, len(ids)), 1)  # once through, so that imports and caches do not count
            rounds = [
                {name: cost(side, len(ids), 1 if name == "files" else times) for name, side in sides.items()}
                for _ in range(ROUNDS)
            ]
            found = {name: 1e3 * float(np.median([each[name] for each in rounds])) for name in names}
            shown = "".join(f"{found[name]:8.2f}" for name in names)
            print(f"{label:16}{shown}" + "".join(f"{found[a] / found[b]:15.2f}" for a, b in ratios))
        same = [
            np.abs(store[i].view([40], view).numpy().astype(int) - read_faces(folder / "faces" / i, view, 40, 1)).mean()
            for i in ids
        ]
        near = [(store[i].view([40], view).int() - packed[i].view([40], view).int()).abs().float().mean() for i in ids]
        equal = all(torch.equal(store[i].view([40], view), plain[i].view([40], view)) for i in ids)
        print(f"frame 40 of every clip is the same in the whole store and as pixels: {equal}")
        print(
            f"frame 40 differs from the whole store's by {np.mean(same):.1f} of 255 in the folder (its box does not "
            f"turn with the head) and by {np.mean(near):.2f} in the packed store (coded twice)"
        )


if __name__ == "__main__":
    main()
