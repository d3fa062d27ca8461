"""Broken pictures, found by looking at them.

MPEG decoders hide missing data: what refers to a lost picture is drawn on plain grey or on the last picture they had,
block by block, and no error is raised. What such frames look like does not depend on who speaks: large parts are
exactly mid-grey or one flat colour, squares stand out along the codec's 8-pixel grid, the picture freezes, or it
jumps although the camera stands still.

All thresholds are own choices. The values beside them are the extremes over 963 GRID clips of 13 speakers that count as
whole; one of these has damaged blocks in three frames, which alone makes the largest values of `_torn`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

_CELL: Final = 8  # px: the unit of every MPEG codec; colours are compared as means of such squares
_GREY: Final = 130  # a decoder's empty picture, Y = Cb = Cr = 128, as 8-bit RGB
_GREY_NEAR: Final = 8
_GREY_SHARE: Final = 0.08  # share of mid-grey cells beyond that of the least grey frame; up to 0.003
_FLAT: Final = 8.0  # standard deviation of the cells' brightness, 0 to 255; from 31 on
_MOVED: Final = 24  # change of a cell's mean colour in any channel, 0 to 255, that shows another picture
_JUMP_SHARE: Final = 0.12  # share of cells that change so from one frame to the next; up to 0.046
_STILL: Final = 0.05  # mean change of a pixel, 0 to 255, below which two frames are the same picture
_FROZEN_FRAMES: Final = 12  # such frames in a row, half a second; up to 1
_EDGE: Final = 12  # step across the border of two cells beyond twice the slope on either side, 0 to 255
_TORN_SHARE: Final = 0.03  # share of borders with such a step, less that off the grid; up to 0.020, then 0.004
_TORN_LONG: Final = (0.01, 5)  # a smaller share in at least so many frames; up to 2 frames
_SUSPECT: Final = 0.008  # share of moved cells from which on the borders are looked at,
_AROUND: Final = 12  # in so many frames before and after: damage lasts until the next whole picture


def problem(frames: Sequence[npt.NDArray[np.uint8]]) -> str | None:
    """What is wrong with the pictures of a clip with one speaker before a camera that stands still.

    Args:
        frames: T frames (h, w, 3) RGB of one size.

    Returns:
        A phrase for a person, naming the frames; None if nothing is wrong.
    """
    cells = np.stack([_cells(frame) for frame in frames])  # (T, h / 8, w / 8, 3)
    cells = np.ascontiguousarray(cells.transpose(3, 0, 1, 2))  # (3, T, h / 8, w / 8), faster to compare
    spread = cells[1].reshape(len(frames), -1).std(1)  # (T,) of green, which carries most of the brightness
    neutral = (np.abs(cells - _GREY).max(0) <= _GREY_NEAR).mean((1, 2))  # (T,)
    moved = (np.abs(np.diff(cells, axis=1)).max(0) > _MOVED).mean((1, 2))  # (T - 1,)

    grey = (neutral - neutral.min() > _GREY_SHARE) | ((neutral > 0.5) & (spread < _FLAT))
    if grey.any():
        most = f"up to {neutral.max():.0%} of a frame is the grey of missing data"
        return f"picture is grey and smeared in {_spans(grey)} ({most})"
    flat = spread < _FLAT
    if flat.any():
        level = float(cells[:, flat].mean())
        colour = "black" if level < 24 else "white" if level > 232 else "one flat colour"
        return f"picture is {colour} in {_spans(flat)}"
    if moved.max(initial=0) > _JUMP_SHARE:
        at = int(moved.argmax())
        return f"picture jumps between frames {at} and {at + 1} ({moved[at]:.0%} of it changes at once)"
    if frozen := _frozen(frames):
        return f"picture stands still in frames {frozen[0]}-{frozen[1]}"
    torn = np.zeros(len(frames))
    changes = np.flatnonzero(moved > _SUSPECT)
    for k, frame in enumerate(frames):
        if (np.abs(changes - k) <= _AROUND).any():
            torn[k] = _torn(frame)
    if torn.max() > _TORN_SHARE or (torn > _TORN_LONG[0]).sum() >= _TORN_LONG[1]:
        return f"picture is torn into blocks in {_spans(torn > _TORN_LONG[0])} (damaged data)"
    return None


def _cells(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """Mean colours of 8x8 squares; a rest at the right and lower border is left out."""
    import cv2

    height, width = (side // _CELL * _CELL for side in frame.shape[:2])
    size = (width // _CELL, height // _CELL)
    return np.asarray(cv2.resize(frame[:height, :width], size, interpolation=cv2.INTER_AREA), np.int16)


def _frozen(frames: Sequence[npt.NDArray[np.uint8]]) -> tuple[int, int] | None:
    """First and last frame of the longest standstill, if it is long; every eighth row is compared."""
    import cv2

    same = np.array([cv2.absdiff(b[::8], a[::8]).mean() < _STILL for a, b in pairwise(frames)])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(int))).reshape(-1, 2)
    first, last = max(edges.tolist(), key=lambda run: run[1] - run[0], default=(0, 0))
    return (first, last) if last - first >= _FROZEN_FRAMES else None


def _torn(frame: npt.NDArray[np.uint8]) -> float:
    """Share of borders on the 8-pixel grid with a step that slopes do not explain, less the same off the grid."""
    import cv2

    grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.int16)
    return _steps(grey, _CELL) - _steps(grey[_CELL // 2 :, _CELL // 2 :], _CELL)


def _steps(grey: npt.NDArray[np.int16], size: int) -> float:
    count = total = 0
    for picture in (grey, grey.T):
        rows = len(picture) // size * size
        at = np.arange(size, picture.shape[1] - 1, size)
        columns = [picture[:rows, at + d].reshape(-1, size, len(at)).mean(1) for d in (-2, -1, 0, 1)]  # of 8 px each
        left, step, right = (np.abs(b - a) for a, b in pairwise(columns))
        count += int((step - 2 * np.maximum(left, right) > _EDGE).sum())
        total += step.size
    return count / total


def _spans(mask: npt.NDArray[np.bool_]) -> str:
    """Such as "frames 0-11, 40"."""
    if mask.all():
        return "all frames"
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int))).reshape(-1, 2)
    spans = [f"{a}" if b == a + 1 else f"{a}-{b - 1}" for a, b in edges.tolist()]
    if len(spans) > 4:
        return f"{int(mask.sum())} of {len(mask)} frames"
    return f"frame{'' if mask.sum() == 1 else 's'} {', '.join(spans)}"
