"""Broken pictures, found by looking at them.

MPEG decoders hide missing data: what refers to a lost picture is drawn on plain grey or on the last picture they had,
block by block, and no error is raised. What such frames look like does not depend on who speaks: large parts are
exactly mid-grey or one flat color, squares stand out along the codec's 8-pixel grid, the picture freezes, or it
jumps although the camera stands still.

All thresholds are own choices. The values beside them are the extremes over 963 GRID clips of 13 speakers that count as
whole; one of these has damaged blocks in three frames, which alone makes the largest values of `_torn`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from lipbench.media import geometry

_CELL: Final = 8  # px: the unit of every MPEG codec; colors are compared as means of such squares
_GREY: Final = 130  # a decoder's empty picture, Y = Cb = Cr = 128, as 8-bit RGB
_GREY_NEAR: Final = 8
_GREY_SHARE: Final = 0.08  # share of mid-grey cells beyond that of the least grey frame; up to 0.003
_FLAT: Final = 8.0  # standard deviation of the cells' values in a color channel, 0 to 255; from 32 on
_PLANE: Final = 2.0  # the same of a color difference (Cb, Cr); from 16 on
_ALIKE: Final = 2.0  # mean difference of two color channels, 0 to 255; from 20 on
_CONSTANT: Final = 0.25  # share of cells of one and the same color without any texture; up to 0.07
_MOVED: Final = 24  # change of a cell's mean color in any channel, 0 to 255, that shows another picture
_JUMP_SHARE: Final = 0.08  # share of cells that change so from one frame to the next; up to 0.046
_CUT: Final = 10.0  # change of all cells at once (root mean square) beyond twice those before and after; up to 5.3
_BRIGHTER: Final = 6.0  # change of the mean of all cells from one frame to the next; up to 1.8
_NOISE: Final = 12.0  # mean change of a pixel, 0 to 255; up to 4.5
_STILL: Final = 0.1  # mean change of a pixel below which two frames are the same picture
_STILL_RUN: Final = 4  # such frames in a row; up to 2
_STILL_TOTAL: Final = 8  # such frames in all; up to 2
_AGAIN: Final = 0.8  # difference of two frames of cells, in the least difference of one of them and its neighbor,
_AGAIN_RUN: Final = 5  # of so many frames in a row and those as many frames later; from 1.41 on
_AGAIN_LEAST: Final = 0.3  # such a difference, 0 to 255, below which pictures have no noise to be told apart by
_EDGE: Final = 12  # step across the border of two cells beyond twice the slope on either side, 0 to 255
_TORN_SHARE: Final = 0.03  # share of borders with such a step, less that off the grid; up to 0.020, then 0.004
_TORN_LONG: Final = (0.01, 5)  # a smaller share in at least so many frames; up to 2 frames
_LINE: Final = 6  # cells in a row with such a step at the same place: a straight edge; up to 5
_LINE_ALONE: Final = 12  # cells of an edge that counts by itself
_LINES: Final = 4  # such edges, counted at each of their places, in a frame of a clip in which most have none; 0
_LINE_STEP: Final = 4  # frames between two looks for straight edges
_MOUTH_STILL: Final = (
    0.5  # change of the mouth's pixels in changes of the frame's; below it the mouth is a still picture
)
_MOUTH_RUN: Final = 0.6  # s of such frames; up to 0.2
_MOUTH_SPEAKS: Final = 0.9  # the same while words are said
_MOUTH_SPEAKS_RUN: Final = 0.5  # s of such frames; up to 0.2
_SHAPE: Final = 0.4  # canonical px: standard deviation of the mouth's points over a second of speech; from 0.51 on
_RED: Final = (
    0.01  # redness (red less green, in the sum of all) of eyes and brows beyond the mouth's; from 0.014 below it
)
_BLUE: Final = 15  # blue beyond red of the skin between eyes and nose, 0 to 255; red is 59 or more beyond blue
_FACE_JUMP: Final = 0.35  # way of eyes and nose from one frame to the next, in distances of the eyes; up to 0.16
_FACE_SIZE: Final = 0.3  # change of the distance of the eyes, as a logarithm; up to 0.14
_PARTS: Final = (slice(17, 27), slice(27, 36), slice(36, 48), slice(48, 68))  # points of brows, nose, eyes, mouth
_TILT: Final = 60.0  # degrees by which the line of the eyes is turned; up to 6
_OUTSIDE: Final = 0.1  # share of the points outside the picture; 0


def problem(frames: Sequence[npt.NDArray[np.uint8]], *, still_camera: bool = True) -> str | None:
    """What is wrong with the pictures of a clip.

    Args:
        frames: T frames (h, w, 3) RGB of one size.
        still_camera: The clip shows one speaker before a camera that stands still: cuts, jumps, large flat areas,
            repeated and frozen frames are faults too. Otherwise only missing data, empty pictures and missing colors
            are: a rate converter repeats frames, a moving camera changes them all.

    Returns:
        A phrase for a person, naming the frames; None if nothing is wrong.
    """
    cells = np.stack([_cells(frame) for frame in frames])  # (T, h / 8, w / 8, 3)
    planes = np.ascontiguousarray(cells.transpose(3, 0, 1, 2))  # (3, T, h / 8, w / 8), faster to compare
    if not still_camera:
        return _colors(planes) or _blocks(frames)
    return (
        _colors(planes)
        or _flat_areas(frames, planes)
        or _blocks(frames)
        or _order(frames, cells.reshape(len(frames), -1).astype(np.float32))  # (T, h / 8 * w / 8 * 3)
        or _places(frames)
    )


def face_problem(
    frames: Sequence[npt.NDArray[np.uint8]],
    points: npt.NDArray[np.floating],
    speech: tuple[int, int],
    fps: float,
    *,
    still_camera: bool = True,
) -> str | None:
    """What is wrong with the face of a clip: a mouth that stands still, a face that jumps or stands on its head.

    Args:
        frames: T frames (h, w, 3) RGB of one size.
        points: (T, 68, 2) x, y in pixels of the frames.
        speech: First frame of speech and the frame after its last.
        fps: Frames a second.
        still_camera: See `problem`; otherwise the mouth may stand still, and colors are as the camera gave them.

    Returns:
        A phrase for a person, naming the frames; None if nothing is wrong.
    """
    if not np.isfinite(points).all():
        return "the landmarks hold numbers that are none"
    height, width = frames[0].shape[:2]
    outside = ((points < 0) | (points > (width - 1, height - 1))).any(-1).mean()
    if outside > _OUTSIDE:
        return f"{outside:.0%} of the face's points lie outside the picture"
    eyes = points[:, 42:48].mean(1) - points[:, 36:42].mean(1)  # (T, 2)
    apart = np.maximum(np.linalg.norm(eyes, axis=1), 1e-6)
    tilt = np.abs(np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0])))
    if tilt.max() > _TILT:
        return f"the face lies on its side or stands on its head in {_spans(tilt > _TILT)}"
    steps = np.linalg.norm(np.diff(points[:, 27:48].mean(1), axis=0), axis=1) / np.median(apart)  # (T - 1,)
    grows = np.abs(np.diff(np.log(apart)))
    for jumps, limit in ((steps, _FACE_JUMP), (grows, _FACE_SIZE)):
        if jumps.max(initial=0) > limit:
            at = int(jumps.argmax())
            return f"the face jumps between frames {at} and {at + 1}"
    if not still_camera:
        return None
    brows, nose, eyes_, mouth = (_color(frames, points[:, part]) for part in _PARTS)
    if nose[2] - nose[0] > _BLUE:
        return f"the skin is blue (by {nose[2] - nose[0]:.0f} of 255 more than red): red and blue are exchanged"
    if min(_redness(brows), _redness(eyes_)) > _redness(mouth) + _RED:
        return "the face stands on its head (eyes and brows are redder than the mouth)"
    moves = _mouth_moves(frames, points)  # (T - 1,)
    run = longest(moves < _MOUTH_STILL)
    if run[1] - run[0] >= _MOUTH_RUN * fps:
        return f"the mouth stands still in frames {run[0]}-{run[1]}, the rest of the picture does not"
    first, last = speech
    run = longest(moves[first : last - 1] < _MOUTH_SPEAKS)
    if run[1] - run[0] >= _MOUTH_SPEAKS_RUN * fps:
        return f"the mouth stands still in frames {first + run[0]}-{first + run[1]}, while words are said"
    shapes = geometry.transform_points(points, geometry.similarity(points))[:, 48:68]  # (T, 20, 2)
    shapes -= shapes.mean(1, keepdims=True)
    second = round(fps)
    for k in range(first, last - second + 1):
        if shapes[k : k + second].std(0).mean() < _SHAPE:
            return f"the mouth keeps one shape in frames {k}-{k + second - 1}, while words are said"
    return None


def longest(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Start and end of the longest run of true values; (0, 0) if there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int))).reshape(-1, 2)
    first, last = max(edges.tolist(), key=lambda run: run[1] - run[0], default=(0, 0))
    return first, last


def _colors(cells: npt.NDArray[np.int16]) -> str | None:
    """Grey and empty pictures, and channels that are missing; `cells` is (3, T, h / 8, w / 8)."""
    total = cells.shape[1]
    spread = cells.reshape(3, total, -1).std(2)  # (3, T)
    neutral = (np.abs(cells - _GREY).max(0) <= _GREY_NEAR).mean((1, 2))  # (T,)
    grey = (neutral - neutral.min() > _GREY_SHARE) | ((neutral > 0.5) & (spread[1] < _FLAT))
    if grey.any():
        most = f"up to {neutral.max():.0%} of a frame is the grey of missing data"
        return f"picture is grey and smeared in {_spans(grey)} ({most})"
    flat = spread < _FLAT  # (3, T)
    if (empty := flat.all(0)).any():
        level = float(cells[:, empty].mean())
        color = "black" if level < 24 else "white" if level > 232 else "one flat color"
        return f"picture is {color} in {_spans(empty)}"
    for name, lacks in zip(("red", "green", "blue"), flat, strict=True):
        if lacks.any():
            return f"the {name} of the picture is missing in {_spans(lacks)}"
    red, green, blue = cells.astype(np.float32)  # (T, h / 8, w / 8) each
    blueness, redness = ((c - 0.587 * green).reshape(total, -1) for c in (blue - 0.299 * red, red - 0.114 * blue))
    planes = np.stack(
        [
            (0.564 * (blueness - (0.114 * blue).reshape(total, -1))).std(1),
            (0.713 * (redness - (0.299 * red).reshape(total, -1))).std(1),
        ]
    )  # (2, T) of Cb and Cr
    if (half := (planes.min(0) < _PLANE) & (planes.max(0) > 3 * _PLANE)).any():
        return f"one of the two color planes of the picture is missing in {_spans(half)}"
    pairs = np.stack([np.abs(a - b).mean((1, 2)) for a, b in ((red, green), (green, blue), (blue, red))])  # (3, T)
    if (twice := (pairs.min(0) < _ALIKE) & (pairs.max(0) > 3 * _ALIKE)).any():
        return f"two color channels of the picture are the same in {_spans(twice)}"
    return None


def _flat_areas(frames: Sequence[npt.NDArray[np.uint8]], cells: npt.NDArray[np.int16]) -> str | None:
    """Large areas of one color; `cells` is (3, T, h / 8, w / 8)."""
    total = len(frames)
    constant = np.array([_constant(frames[k], cells[:, k]) for k in range(0, total, _LINE_STEP)])
    if constant.max() > _CONSTANT:
        where = _spans(np.repeat(constant > _CONSTANT, _LINE_STEP)[:total])
        return f"{constant.max():.0%} of the picture is one flat color in {where}"
    return None


def _order(frames: Sequence[npt.NDArray[np.uint8]], cells: npt.NDArray[np.float32]) -> str | None:
    """Jumps, noise, standstill and repetition; `cells` is (T, cells and channels)."""
    if len(frames) < 2:
        return None
    change = np.abs(np.diff(cells, axis=0))  # (T - 1, cells and channels)
    moved = (change.reshape(len(change), -1, 3).max(2) > _MOVED).mean(1)  # (T - 1,)
    if moved.max() > _JUMP_SHARE:
        at = int(moved.argmax())
        return f"picture jumps between frames {at} and {at + 1} ({moved[at]:.0%} of it changes at once)"
    brighter = np.abs(np.diff(cells.mean(1)))
    if brighter.max() > _BRIGHTER:
        at = int(brighter.argmax())
        return f"picture jumps in brightness between frames {at} and {at + 1}"
    pixels = _pixel_changes(frames)  # (T - 1,)
    if pixels.max() > _NOISE:
        return f"picture is noise in {_spans(np.append(pixels, pixels[-1]) > _NOISE)}"
    still = pixels < _STILL
    first, last = longest(still)
    if last - first >= _STILL_RUN:
        return f"picture stands still in frames {first}-{last}"
    if still.sum() >= _STILL_TOTAL:
        return f"{int(still.sum())} of {len(frames)} frames are the same as the one before"
    steps = np.sqrt((change**2).mean(1))  # (T - 1,)
    around = np.maximum(np.append(steps[1:], steps[-1]), np.append(steps[0], steps[:-1]))
    cut = steps - 2 * around
    if cut.max() > _CUT:
        at = int(cut.argmax())
        return f"picture jumps between frames {at} and {at + 1}"
    return _repetition(cells, steps)


def _repetition(cells: npt.NDArray[np.float32], steps: npt.NDArray[np.float32]) -> str | None:
    """Frames that come again: noise tells apart what looks alike, so only a copy is nearer than its neighbor in time.

    Args:
        cells: (T, cells and channels).
        steps: (T - 1,) differences (root mean square) of neighbors.
    """
    centered = cells - cells.mean(0)
    products = centered @ centered.T
    squares = np.diag(products)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0) / cells.shape[1])  # (T, T)
    near = np.maximum(np.minimum(np.append(steps, steps[-1]), np.append(steps[0], steps)), _AGAIN_LEAST)  # (T,)
    copies = apart < _AGAIN * np.minimum(near[:, None], near)
    for lag in range(_AGAIN_RUN, len(cells) - _AGAIN_RUN):
        first, last = longest(np.diag(copies, lag))
        if last - first >= _AGAIN_RUN:
            return f"frames {first + lag}-{last + lag - 1} repeat frames {first}-{last - 1}"
    return None


def _blocks(frames: Sequence[npt.NDArray[np.uint8]]) -> str | None:
    """Squares that stand out along the codec's grid."""
    torn = np.array([_torn(frame) for frame in frames])
    if torn.max() > _TORN_SHARE or (torn > _TORN_LONG[0]).sum() >= _TORN_LONG[1]:
        return f"picture is torn into blocks in {_spans(torn > _TORN_LONG[0])} (damaged data)"
    return None


def _places(frames: Sequence[npt.NDArray[np.uint8]]) -> str | None:
    """Straight edges that come and go, as around blocks that lie where they do not belong."""
    lines = np.array([_lines(frame) for frame in frames[::_LINE_STEP]])
    if np.median(lines) == 0 and (come := lines >= _LINES).any():
        return f"blocks of the picture are out of place in {_spans(np.repeat(come, _LINE_STEP)[: len(frames)])}"
    return None


def _cells(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """Mean colors of 8x8 squares; a rest at the right and lower border is left out."""
    import cv2

    height, width = (side // _CELL * _CELL for side in frame.shape[:2])
    size = (width // _CELL, height // _CELL)
    return np.asarray(cv2.resize(frame[:height, :width], size, interpolation=cv2.INTER_AREA), np.int16)


def _constant(frame: npt.NDArray[np.uint8], cells: npt.NDArray[np.int16]) -> float:
    """Share of cells that have the most frequent color and no texture; `cells` is (3, h / 8, w / 8)."""
    import cv2

    kernel = np.ones((3, 3), np.uint8)
    texture = cv2.subtract(cv2.dilate(frame, kernel), cv2.erode(frame, kernel))  # range of the pixels around each
    smooth = _cells(np.asarray(texture, np.uint8)).max(-1).ravel() <= 2
    colors = cells.reshape(3, -1)[:, smooth].T  # (smooth cells, 3)
    if len(colors) == 0:
        return 0.0
    kinds, counts = np.unique(colors // 3, axis=0, return_counts=True)
    near = np.abs(colors - (kinds[counts.argmax()] * 3 + 1)).max(1) <= 3
    return float(near.sum() / smooth.size)


def _pixel_changes(frames: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float64]:
    """(T - 1,) mean change of a pixel from frame to frame; every eighth row is compared."""
    import cv2

    return np.array([cv2.absdiff(b[::8], a[::8]).mean() for a, b in pairwise(frames)])


def _around(points: npt.NDArray[np.floating], grown: float) -> tuple[int, int, int, int]:
    """Left, top, right, bottom around points of all frames, in whole pixels inside the picture at its upper left."""
    low, high = points.min((0, 1)), points.max((0, 1))
    left, top = np.maximum(np.floor(low - grown), 0).astype(int).tolist()
    right, bottom = np.ceil(high + grown).astype(int).tolist()
    return left, top, right, bottom


def _color(frames: Sequence[npt.NDArray[np.uint8]], points: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(3,) mean RGB, 0 to 255, of squares of 9 pixels around points (T, N, 2)."""
    import cv2

    height, width = frames[0].shape[:2]
    found = []
    for k in range(0, len(frames), _LINE_STEP):
        columns, rows = np.rint(points[k]).astype(int).clip(0, (width - 1, height - 1)).T
        found.append(cv2.blur(frames[k], (9, 9))[rows, columns].mean(0))
    return np.asarray(np.mean(found, 0), np.float64)


def _redness(color: npt.NDArray[np.float64]) -> float:
    return float((color[0] - color[1]) / max(color.sum(), 1.0))


def _mouth_moves(frames: Sequence[npt.NDArray[np.uint8]], points: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(T - 1,) change of the mouth's pixels from frame to frame, in changes of the whole frame's.

    The median of five frames: codecs draw a whole picture anew now and then, and all of it changes.
    """
    import cv2

    left, top, right, bottom = _around(np.median(points[:, 48:68], 0)[None], 1)
    mouths = [frame[top:bottom, left:right] for frame in frames]
    changes = np.array([cv2.absdiff(a, b).mean() for a, b in pairwise(mouths)])
    ratios = changes / np.maximum(_pixel_changes(frames), 1e-3)  # (T - 1,)
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(np.pad(ratios, 2, "edge"), 5), axis=1))


def _torn(frame: npt.NDArray[np.uint8]) -> float:
    """Share of borders on the 8-pixel grid with a step that slopes do not explain, less the same off the grid."""
    import cv2

    grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.int16)
    return _steps(grey, _CELL) - _steps(grey[_CELL // 2 :, _CELL // 2 :], _CELL)


def _lines(frame: npt.NDArray[np.uint8]) -> int:
    """Places at which `_LINE` cells in a row have a step that slopes do not explain, at any column or row of pixels.

    0 unless there are upright and level ones, as around a block, or one is `_LINE_ALONE` cells long: lips and teeth
    that are drawn, not filmed, have shorter level ones.
    """
    import cv2

    grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY), np.float32)
    found = []
    for picture in (grey, grey.T):
        rows = len(picture) // _CELL
        means = picture[: rows * _CELL].reshape(rows, _CELL, -1).mean(1)  # (rows, w) of 8 px each
        slopes = np.abs(np.diff(means, axis=1))
        edge = slopes[:, 1:-1] - 2 * np.maximum(slopes[:, :-2], slopes[:, 2:]) > _EDGE
        runs = edge[: rows - _LINE + 1].copy()
        for k in range(1, _LINE):
            runs &= edge[k : rows - _LINE + 1 + k]
        found.append(int(runs.sum()))
    return sum(found) if min(found) > 0 or max(found) > _LINE_ALONE - _LINE else 0


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
