"""DTW: PSNR, SSIM and LMD of videos of different length, along the path that fits their frames together best."""

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipbench.metrics.lmd import LEAST, MOUTH, lmd
from lipbench.metrics.psnr import CAP, psnr
from lipbench.metrics.ssim import ssim
from lipbench.scoring import checks
from lipbench.scoring.base import Column, FramesMetric, ObservationMetric, Spans


def path(cost: Tensor) -> Tensor:
    """Cheapest way through a table of distances: dynamic time warping (Sakoe and Chiba 1978).

    It starts at the first frames of both videos, ends at the last of both, and goes on by one frame in either video or
    in both; every cell on it costs its distance once, without weights or a band (the default of
    `librosa.sequence.dtw`). Among equals it goes on in both, so that a video and its copy meet frame by frame.

    The table is filled by anti-diagonals, each at once.

    Args:
        cost: (N, M) distances, finite; N and M at least 1.

    Returns:
        (L, 2) int64 frames that meet, in order; max(N, M) <= L <= N + M - 1.

    Raises:
        ValueError: The table is empty, or a distance is NaN or infinite.
    """
    if not isinstance(cost, Tensor):
        raise ValueError(f"DTW needs a tensor (N, M) of finite distances, got a {type(cost).__name__}")
    table: npt.NDArray[np.float64] = cost.detach().cpu().double().numpy()
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        found = f"{int((~np.isfinite(table)).sum())} that are not"
        raise ValueError(f"DTW needs a table (N, M) of finite distances, got shape {table.shape} and {found}")
    rows, columns = table.shape
    own = np.zeros((rows + 1, columns + 1))
    own[1:, 1:] = table
    best = np.full((rows + 1, columns + 1), np.inf)
    best[0, 0] = 0
    cells, costs = best.reshape(-1), own.reshape(-1)
    for diagonal in range(2, rows + columns + 1):
        top = max(1, diagonal - columns)
        here = top * (columns + 1) + diagonal - top  # its first cell; the next lies `columns` further
        span = (min(rows, diagonal - 1) - top) * columns + 1
        before = [cells[k : k + span : columns] for k in (here - columns - 2, here - columns - 1, here - 1)]
        costs_here = costs[here : here + span : columns]
        cells[here : here + span : columns] = costs_here + np.minimum(np.minimum(*before[:2]), before[2])
    i, j = rows, columns
    steps = [(i - 1, j - 1)]
    while (i, j) != (1, 1):
        _, i, j = min(((best[p], *p) for p in ((i - 1, j - 1), (i - 1, j), (i, j - 1))), key=lambda step: step[0])
        steps.append((i - 1, j - 1))
    return torch.tensor(steps[::-1], device=cost.device)


def picture_distance(pred: Tensor, target: Tensor) -> Tensor:
    """Mean squared error between every frame of one video and every frame of the other.

    Args:
        pred: (N, 3, h, w) float in [0, 1], N at least 1.
        target: (M, 3, h, w), M at least 1.

    Returns:
        (N, M).

    Raises:
        ValueError: They are no pictures of one size in [0, 1].
    """
    for what, given in (("pred", pred), ("target", target)):
        checks.tensor(what, given, ("frames", *checks.PICTURES[1:]))
        checks.pictures_in_range(what, given)
    checks.same(pred[0], target[0])
    a, b = pred.flatten(1), target.flatten(1)
    # |a - b|^2 by one matrix product; what all frames share is taken off first, or single precision would not do.
    common = (a.sum(0) + b.sum(0)) / (len(a) + len(b))
    a, b = a - common, b - common
    squared = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    return squared.clamp(min=0) / a.shape[1]


def lip_distance(pred: Tensor, target: Tensor) -> Tensor:
    """LMD between every frame of one video and every frame of the other.

    Args:
        pred: (N, 68, 2) landmarks, pixels.
        target: (M, 68, 2).

    Returns:
        (N, M) pixels.

    Raises:
        ValueError: They are no landmarks.
    """
    for what, given in (("pred", pred), ("target", target)):
        checks.tensor(what, given, ("N", *checks.LANDMARKS[1:]))
    return lmd(pred[:, None, MOUTH], target[None, :, MOUTH])


class _Warped(ABC):
    """A mean along the DTW path; each clip counts by the frames of its reference, whatever was made.

    The path is the best one there is, so the score flatters any video that can be warped to fit, and it says nothing
    about timing: compare it with other `[dtw]` numbers only. For predicted durations no publication states its rule
    (ParaLip's tables cut or warp, they do not say), so this is our own choice, as is the mean over the path's cells,
    which is how mel cepstral distortion is usually warped.
    """

    aligned = False

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score videos of their own lengths.

        Args:
            pred: (B, N, ...).
            target: (B, T, ...).
            spans: Valid frames of both; those of the generated videos are at most N.

        Raises:
            ValueError: `pred` was cut.
        """
        values = []
        lengths = spans.pred_length.tolist(), spans.length.tolist()
        for p, t, made, frames in zip(pred, target, *lengths, strict=True):
            if made > len(p):
                raise ValueError(f"pred_len says {made} frames and pred has {len(p)}: it was cut")
            defined = made > 0 and frames > 0
            values.append(self.along(p[:made], t[:frames]) if defined else p.new_tensor(torch.nan))
        return torch.stack(values), spans.length

    @abstractmethod
    def along(self, pred: Tensor, target: Tensor) -> Tensor:
        """Compare two clips of N and M frames, each at least 1."""


class _WarpedPictures(_Warped, FramesMetric):
    """Pictures meet by `picture_distance`, the error that PSNR is made of."""

    undefined = "a frame holds NaN, or there is none"

    @abstractmethod
    def compare(self, pred: Tensor, target: Tensor) -> Tensor:
        """Score (L,) of L pairs of frames (L, 3, h, w)."""

    def along(self, pred: Tensor, target: Tensor) -> Tensor:
        """Mean over the path of two clips (N, 3, h, w) and (M, 3, h, w)."""
        if not (pred.isfinite().all() and target.isfinite().all()):
            return pred.new_tensor(torch.nan)
        i, j = path(picture_distance(pred, target)).T
        return self.compare(pred[i], target[j]).mean()


class WarpedPSNR(_WarpedPictures):
    """Mean PSNR along the path, in dB; 100 for a copy, also one played at another speed."""

    name = "psnr"
    unit = "dB"
    higher_is_better = True
    perfect = CAP
    columns = (Column("mouth/psnr[dtw]", "dtw", 10, default=False, region="mouth"),)

    def compare(self, pred: Tensor, target: Tensor) -> Tensor:
        """PSNR of pairs of frames."""
        return psnr(pred, target)


class WarpedSSIM(_WarpedPictures):
    """Mean SSIM along the path (that of the squared error); 1 for a copy, also one played at another speed."""

    name = "ssim"
    unit = ""
    higher_is_better = True
    perfect = 1.0
    columns = (Column("mouth/ssim[dtw]", "dtw", 20, default=False, region="mouth"),)

    def compare(self, pred: Tensor, target: Tensor) -> Tensor:
        """SSIM of pairs of frames."""
        return ssim(pred, target)


class WarpedLMD(_Warped, ObservationMetric):
    """Mean landmark distance along the path that it makes shortest, in px; 0 for a copy, also at another speed.

    Frames without landmarks are left out of their video; where more than 5 % are, the clip is undefined, as in LMD.
    """

    name = "lmd"
    unit = "px"
    higher_is_better = False
    perfect = 0.0
    undefined = "fewer than 95 % of the frames of a video have landmarks"
    observes = "landmarks"
    columns = (Column("lmd[dtw]", "dtw", 30, default=False),)

    def along(self, pred: Tensor, target: Tensor) -> Tensor:
        """Mean over the path of two clips (N, 68, 2) and (M, 68, 2)."""
        found = [points[points[:, MOUTH].isfinite().flatten(1).all(1)] for points in (pred, target)]
        if any(len(f) < LEAST * len(points) for f, points in zip(found, (pred, target), strict=True)):
            return pred.new_tensor(torch.nan)
        distance = lip_distance(*found)
        i, j = path(distance).T
        return distance[i, j].mean()
