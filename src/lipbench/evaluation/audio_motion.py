"""Audio change against lip motion: by how many frames do the lips of a clip lag behind its audio?

The case study of Chen et al., "Lip Movements Generation at a Glance" (ECCV 2018, section 3.2 and figure 4): for each
pair of adjacent frames the mean change of the log-mel spectrogram and the mean length of the optical flow; the flow is
shifted against the audio, and Pearson's r of the two curves is taken for each shift and clip. The flow is Farneback's,
so nothing has to be trained.

A shift of s > 0 compares the audio with lips s frames later: the flow is moved forward by s frames, as in `make_delay`
of the published code (lelechen63/3d_gan `find_best_delay.py`). With s < 0 the lips are earlier than the audio.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipbench.data.store import Store, StoredClip
from lipbench.evaluation.workers import Pool
from lipbench.evaluation.writing import csv_text
from lipbench.media import features, optical_flow
from lipbench.metrics.opening import correlation
from lipbench.types import View

VIEW: Final = View("mouth_square", 64, 64)
"""What the flow is computed on: the crop and size of the published `flow_trend.py`."""
LEAST_PAIRS: Final = 16
"""Pairs of frames that a shift must leave: the published scripts leave out shorter ones (`chunk_histo.py`)."""
_HIGHEST_FPS: Final = 80.0  # of `frame_mels`


def audio_change(samples: Tensor, fps: float, frames: int, *, signed: bool = False) -> Tensor:
    """Mean change of the log-mel spectrogram from each video frame to the next.

    Args:
        samples: (S,) mono in [-1, 1], 44,100 a second.
        fps: Frames a second, up to 80.
        frames: T; frames after the end of the audio are silent.
        signed: Mean of the change as in the published `multithread_lms_trend.py`, where rising and falling bands cancel
            out; otherwise the mean of its absolute value, which is how the length of a flow is counted (own choice: the
            paper says "mean values of each derivative").

    Returns:
        (T - 1,) float64, decibels a frame: the mean over the 4 columns and 128 bands of `features.frame_mels`.

    Raises:
        ValueError: There is no audio, or fewer than 2 frames, or more than 80 a second.
    """
    if len(samples) == 0:
        raise ValueError("there is no audio")
    if frames < 2 or not 0 < fps <= _HIGHEST_FPS:
        raise ValueError(
            f"{frames} frames at {fps:g} a second; expected 2 or more, at up to {_HIGHEST_FPS:g} a second, of which "
            "each holds a window of the log-mel spectrogram"
        )
    clip = torch.zeros(frames, dtype=torch.int64)
    length = torch.tensor([len(samples)])
    mels = features.frame_mels(samples[None], length, clip, torch.arange(frames), torch.tensor([fps]))  # (T, 4, 128)
    change: Tensor = mels.double().diff(dim=0)  # (T - 1, 4, 128)
    return (change if signed else change.abs()).mean((1, 2))


def lip_motion(video: Tensor) -> Tensor:
    """Mean length of Farneback's optical flow from each video frame to the next.

    Args:
        video: (T, 3, H, W) RGB in [0, 1]; published is a square around the mouth of 64x64 (`VIEW`).

    Returns:
        (T - 1,) float64, pixels a frame.
    """
    flow = optical_flow.farneback(video[:-1], video[1:])  # (T - 1, 2, H, W)
    length: Tensor = torch.linalg.vector_norm(flow.double(), dim=1)  # (T - 1, H, W)
    return length.mean((1, 2))


def overlap(audio: Tensor, motion: Tensor, shift: int) -> tuple[Tensor, Tensor]:
    """The parts of two curves that lie beside each other after a shift.

    Args:
        audio: (N,)
        motion: (N,)
        shift: Frames by which `motion` is moved forward, less than N: `audio[k]` meets `motion[k + shift]`.

    Returns:
        Two curves of N - |shift| values.
    """
    count = len(audio) - abs(shift)
    return audio[max(-shift, 0) :][:count], motion[max(shift, 0) :][:count]


def shifted_correlation(audio: Tensor, motion: Tensor, shifts: Sequence[int]) -> Tensor:
    """Pearson's r of two curves at each shift.

    Args:
        audio: (N,)
        motion: (N,)
        shifts: In frames, see `overlap`.

    Returns:
        (len(shifts),) float64 in [-1, 1]; NaN where a curve is constant.

    Raises:
        ValueError: The curves differ in length, or a shift leaves fewer than 16 pairs.
    """
    if len(audio) != len(motion):
        raise ValueError(f"curves of {len(audio)} and {len(motion)} values; expected two of one length")
    left = len(audio) - max(map(abs, shifts))
    if left < LEAST_PAIRS:
        raise ValueError(f"the largest shift leaves {max(left, 0)} pairs of frames; expected {LEAST_PAIRS} or more")
    return torch.stack([correlation(*overlap(audio, motion, shift)) for shift in shifts])


@dataclass(frozen=True)
class ClipCorrelation:
    """What was found of a clip.

    Args:
        clip_id: Which.
        sample_rate: Samples a second of its audio as stored.
        audio: (N,) see `audio_change`; empty if there is a reason.
        motion: (N,) see `lip_motion`; empty if there is a reason.
        r: Pearson's r at each shift; empty if there is a reason.
        reason: Why the clip has no r at some shift, and so none at all; empty if it has.
    """

    clip_id: str
    sample_rate: int
    audio: npt.NDArray[np.float64]
    motion: npt.NDArray[np.float64]
    r: npt.NDArray[np.float64]
    reason: str = ""

    @property
    def best(self) -> int:
        """Place of the largest r among the shifts; of equal ones the first."""
        return int(self.r.argmax())


def correlate(clip: StoredClip, shifts: Sequence[int], *, signed: bool = False) -> ClipCorrelation:
    """Correlate the audio change of a clip with its lip motion.

    Args:
        clip: Of a whole store, or of one that is packed as `VIEW`. Its audio is brought to 44,100 samples a second.
        shifts: In frames, see `overlap`.
        signed: See `audio_change`.
    """
    video = clip.view(np.arange(clip.n_frames), VIEW).float() / 255  # (T, 3, 64, 64)
    samples = torch.from_numpy(clip.audio(features.CLIP_RATE))
    nothing = np.empty(0)
    try:
        audio = audio_change(samples, clip.fps, clip.n_frames, signed=signed)
        motion = lip_motion(video)
        r = shifted_correlation(audio, motion, shifts)
    except ValueError as error:
        return ClipCorrelation(clip.clip_id, clip.sample_rate, nothing, nothing, nothing, str(error))
    if r.isnan().any():
        shift = shifts[int(r.isnan().nonzero()[0])]
        still = " and ".join(
            name
            for name, curve in zip(("audio change", "lip motion"), overlap(audio, motion, shift), strict=True)
            if correlation(curve, curve).isnan()
        )
        reason = f"constant at a shift of {shift} frames: {still}"
        return ClipCorrelation(clip.clip_id, clip.sample_rate, nothing, nothing, nothing, reason)
    return ClipCorrelation(clip.clip_id, clip.sample_rate, audio.numpy(), motion.numpy(), r.numpy())


def correlate_clips(
    store: Path,
    clip_ids: Sequence[str],
    shifts: Sequence[int],
    *,
    signed: bool = False,
    workers: int = 0,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[ClipCorrelation]:
    """Correlate clips of a store, see `correlate`.

    Args:
        store: Its folder.
        clip_ids: Which.
        shifts: In frames, see `overlap`.
        signed: See `audio_change`.
        workers: Processes beside this one.
        advance: Called with 1 after each clip.

    Returns:
        One for each clip, in the same order.
    """
    found: list[ClipCorrelation] = []

    def done(clip: ClipCorrelation) -> None:
        found.append(clip)
        advance(1)

    make = functools.partial(_Correlator, store, tuple(shifts), signed)
    with Pool(make, min(workers, len(clip_ids)), done, "--workers") as pool:
        for clip_id in clip_ids:
            pool.submit(clip_id, clip_id)
        pool.finish()
    return found


class _Correlator:
    """`correlate` by clip id, with the store opened once a process."""

    def __init__(self, store: Path, shifts: tuple[int, ...], signed: bool) -> None:
        self._store, self._shifts, self._signed = Store(store), shifts, signed

    def __call__(self, clip_id: str) -> ClipCorrelation:
        return correlate(self._store[clip_id], self._shifts, signed=self._signed)


def table(found: Sequence[ClipCorrelation], shifts: Sequence[int]) -> str:
    """CSV with a row a clip.

    Args:
        found: Clips.
        shifts: In frames, see `overlap`.

    Returns:
        The columns clip_id, best_shift (frames, at which r is largest), `r[SHIFT]` for each shift to four decimals, and
        reason; without an r all but the first and the last are empty.
    """
    rows: list[list[object]] = []
    for clip in found:
        best = None if clip.reason else shifts[clip.best]
        r = [None] * len(shifts) if clip.reason else [round(float(value), 4) for value in clip.r]
        rows.append([clip.clip_id, best, *r, clip.reason])
    return csv_text(["clip_id", "best_shift", *(f"r[{shift}]" for shift in shifts), "reason"], rows)
