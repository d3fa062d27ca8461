"""How much of a clip's timing its text tells: what a generator could reach at best by predicted durations.

For every test clip the mouth opening of the real video is moved in time, from the true durations to others, and
compared with itself: Pearson's r over the frames of speech, as the column "opening_corr[speech]". So perfect pictures
are assumed, and what is lost is lost by timing alone. The durations are those of

- even: the frames of the clip, spread evenly over all tokens,
- means: the mean duration of each word at its place in the sentence, and of the silences, over the training clips,
  fitted to the length of the clip (what a predictor can learn of a text, but for the influence of neighboring words),
- model: a trained model's own durations, fitted to the length (where a checkpoint is given),
- means, onset known: the frame in which speech begins is the true one,
- means, speech known: the frame in which it ends, too.

"boundaries" is the mean error of the first frames of words and pauses. The second table moves the real opening as a
whole: how many frames of shift cost how much.

    python benchmarks/predicted_timing.py [last.ckpt] [--data grid] [--protocol grid/s1] [--clips 205]
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from held_out import held_out_clips

from lipbench.data import protocol
from lipbench.data.loader import ClipDataset, collate, to_float
from lipbench.data.store import Store, StoredClip
from lipbench.media import text
from lipbench.metrics.opening import opening
from lipbench.training import loading
from lipbench.training.generative import GenerativeModel

Array = npt.NDArray[np.float64]
Part = tuple[str, int]  # a word or "|", and its place in the sentence
SHIFTS = range(6)  # frames


def parts(clip: StoredClip) -> tuple[list[Part], list[int]]:
    """Words and silences of a clip, and the first token of each; the end of the last one is added."""
    found: list[Part] = []
    first: list[int] = []
    for k, symbol in enumerate(clip.symbols):
        if symbol == text.SILENCE or found[-1][0] == text.SILENCE:
            found.append((symbol, len(found)))
            first.append(k)
        else:
            found[-1] = (found[-1][0] + symbol, found[-1][1])
    return found, [*first, len(clip.symbols)]


def frames_of(clip: StoredClip, durations: Array) -> Array:
    """Frames of each part, from those of each token."""
    _, first = parts(clip)
    return np.diff(np.concatenate([[0], np.cumsum(durations)])[first])


def means(store: Store, clips: list[str]) -> dict[Part, float]:
    """Mean frames of each part over training clips."""
    seen: defaultdict[Part, list[float]] = defaultdict(list)
    for name in clips:
        clip = store[name]
        for part, frames in zip(parts(clip)[0], frames_of(clip, clip.durations.astype(float)), strict=True):
            seen[part].append(float(frames))
    return {part: float(np.mean(frames)) for part, frames in seen.items()}


def fitted(frames: Array, total: float) -> Array:
    """Frames of parts, scaled to a sum."""
    return frames * (total / frames.sum())


def moved(curve: Array, true: Array, other: Array) -> Array:
    """The curve as it would be if its parts lasted as long as `other` says: (T,) both."""
    time = np.interp(np.arange(len(curve)) + 0.5, np.cumsum([0, *other]), np.cumsum([0, *true])) - 0.5
    return np.interp(time, np.arange(len(curve)), curve)


def correlation(made: Array, real: Array, speech: tuple[int, int]) -> float:
    """Pearson's r over the frames of speech."""
    return float(np.corrcoef(made[slice(*speech)], real[slice(*speech)])[0, 1])


def predicted(path: Path, store: Store, ids: list[str]) -> list[Array]:
    """A model's own durations of each token, at the clips' lengths.

    Raises:
        SystemExit: It predicts none.
    """
    model = loading.load(path, GenerativeModel)  # type: ignore[type-abstract]
    if "length" not in model.timings:
        raise SystemExit(f"{path} predicts no durations: its timings are {', '.join(sorted(model.timings))}")
    spec = model.clip_spec
    dataset = ClipDataset(store, ids, spec, spec.keys, seed=0, training=False, speakers={})
    batches = (to_float(collate([dataset[k]])) for k in range(len(ids)))
    return [model.run_generate(batch, "length")["durations"][0].double().numpy() for batch in batches]


@torch.no_grad()
def main() -> None:
    """Go through the clips and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="of a model that predicts durations")
    parser.add_argument("--data", default="grid", help="corpus (default: %(default)s)")
    parser.add_argument("--protocol", default="grid/s1", help="whose clips are taken (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=205, help="test clips, evenly spaced (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    store, ids = held_out_clips(arguments.data, arguments.clips, arguments.protocol)
    training = [name for name in protocol.load(arguments.protocol).split(store.clip_ids).train if name in store]
    usual = means(store, training)
    edges = np.array([(clip.durations[0], clip.durations[-1]) for clip in (store[name] for name in training)])
    own = predicted(arguments.checkpoint, store, ids) if arguments.checkpoint else [None] * len(ids)
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    shifted: defaultdict[int, list[float]] = defaultdict(list)
    for name, durations in zip(ids, own, strict=True):
        clip = store[name]
        real = opening(torch.from_numpy(clip.landmarks.copy())[None])[0].double().numpy()  # (T,)
        total, (words, first) = float(clip.n_frames), parts(clip)
        true = frames_of(clip, clip.durations.astype(float))
        mean = np.array([usual[word] for word in words])
        begin, end = true[0], true[-1]
        others = {
            "even": fitted(np.diff(first).astype(float), total),
            "means": fitted(mean, total),
            "means, onset known": np.array([begin, *fitted(mean[1:], total - begin)]),
            "means, speech known": np.array([begin, *fitted(mean[1:-1], total - begin - end), end]),
        }
        if durations is not None:
            others["model"] = frames_of(clip, durations)
        for row, other in others.items():
            error = np.abs(np.cumsum(other) - np.cumsum(true))[:-1].mean()
            found[row].append((correlation(moved(real, true, other), real, clip.speech), float(error)))
        for shift in SHIFTS:
            late = real[(np.arange(len(real)) - shift).clip(0)]
            shifted[shift].append(correlation(late, real, clip.speech))
    spread = edges.std(0)
    print(
        f"{arguments.protocol}: {len(ids)} test clips, means of {len(training)} training clips, in which speech begins"
    )
    print(
        f"after {edges[:, 0].mean():.1f} frames (standard deviation {spread[0]:.1f}) and ends {edges[:, 1].mean():.1f}"
    )
    print(f"frames before the end ({spread[1]:.1f})")
    print(f"{'durations':22}{'opening corr., speech':>24}{'boundaries, frames':>22}")
    for row, values in found.items():
        corr, error = np.nanmean(values, axis=0)
        print(f"{row:22}{corr:24.3f}{error:22.2f}")
    print(f"{'late by, frames':22}" + "".join(f"{shift:8d}" for shift in SHIFTS))
    print(f"{'opening corr., speech':22}" + "".join(f"{np.nanmean(shifted[shift]):8.3f}" for shift in SHIFTS))


if __name__ == "__main__":
    main()
