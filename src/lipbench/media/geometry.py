"""The canonical picture, its views, and the way back into the original frame.

Every corpus is warped once, by a similarity transform that follows the eyes and the nose, to one **canonical picture**
of 352x320 pixels (height x width). A 256x256 **face** in the manner of LipNet and DualLip lies inside it with a margin,
so that the crops of published observers lie inside too (`BOXES`). Nobody else in the package resamples pixels.

The template is lipbench's own: the Procrustes mean of dlib's 68 points on 34 GRID clips of 13 speakers (each speaker
counted once), made symmetric, scaled so that the centers of the eyes are 78 px apart. At 84 px, as in some LipNet
re-implementations, the chin falls outside the 256 face.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lipbench.types import View

HEIGHT: Final = 352
WIDTH: Final = 320
FACE: Final = 256
"""Side of the face box in pixels of the canonical picture: distances "in px of the 256 face" are canonical pixels."""
_TOP, _LEFT = 16, 32  # corner of the face box in the canonical picture

BOXES: Final[dict[str, tuple[int, int, int, int]]] = {
    # name: (top, left, bottom, right) in pixels of the 256 face; outside 0..256 it reaches into the margin
    "face": (0, 0, 256, 256),
    "lower_face": (128, 0, 256, 256),
    # DualLip section 4.1, ParaLip's released data code: 160x80 (w x h) around the mean of the mouth points
    "mouth": (139, 48, 219, 208),
    # Correlation GAN: half-side 0.65 x the larger side of the mouth's bounding box (released grid_data.py)
    "mouth_square": (137, 86, 221, 170),
    # SyncNet's run_pipeline: a box of half-side 110 px around (135, 128), sideways 1.4 x, up 1 x, down 1.8 x
    "syncnet": (25, -26, 333, 282),
    # AV-HuBERT: 96 px of a 256 px frame around the mean of the mouth points, after a similarity transform to the mean
    # face of 20 words of LRW (preparation/align_mouth.py). One pixel there is 1.4353 here: the least squares fit of
    # that mean face (20words_mean_face.npy, mpc001/Lipreading_using_Temporal_Convolutional_Networks 0cc99fa) to the
    # template over AV-HuBERT's stable points 33, 36, 39, 42, 45. The network then takes the middle 88 of the 96.
    "avhubert_mouth": (110, 59, 248, 197),
    # Multi-head visual-audio memory: columns 59 to 195 and rows 95 to 231 of a 256 px frame of LRW (its `crop`). The
    # same mean face is that of LRW's frames, so the same fit takes the square here (its center to 124.4, 183.9): from
    # the middle of the eyes to well below the chin. LRW's faces turn, and lie and measure otherwise from clip to clip;
    # here all of them have the mean one's place.
    "mvm_mouth": (86, 27, 281, 222),
    # TalkLip's second reader, and deep_avsr: the middle half, in both directions, of a frame of LRS2. Its authors cut
    # such frames as SyncNet's (TalkLip measures LSE on them whole), so that this is the middle half of "syncnet".
    "lrs2_mouth": (102, 51, 256, 205),
}

# 68 points (x, y) in pixels of the 256 face, iBUG order.
TEMPLATE: Final[npt.NDArray[np.float64]] = np.array(
    [
        *[(39.7, 88.2), (41.3, 113.0), (44.8, 137.2), (48.7, 161.7), (55.8, 185.1), (67.7, 205.8), (84.6, 222.8)],
        *[(104.6, 235.7), (128.0, 239.8), (151.4, 235.7), (171.4, 222.8), (188.3, 205.8), (200.2, 185.1)],
        *[(207.3, 161.7), (211.2, 137.2), (214.7, 113.0), (216.3, 88.2)],  # jaw, 0 to 16
        *[(56.0, 65.8), (67.1, 55.5), (83.0, 52.7), (99.3, 56.0), (114.3, 62.5)],  # brows, 17 to 26
        *[(141.7, 62.5), (156.7, 56.0), (173.0, 52.7), (188.9, 55.5), (200.0, 65.8)],
        *[(128.0, 80.1), (128.0, 95.2), (128.0, 109.9), (128.0, 125.5)],  # nose, 27 to 35
        *[(110.5, 140.0), (118.9, 143.0), (128.0, 145.5), (137.1, 143.0), (145.5, 140.0)],
        *[(73.6, 85.2), (83.3, 79.9), (94.8, 79.7), (105.1, 86.4), (94.4, 89.1), (82.8, 89.4)],  # eyes, 36 to 47
        *[(150.9, 86.4), (161.2, 79.7), (172.7, 79.9), (182.4, 85.2), (173.2, 89.4), (161.6, 89.1)],
        *[(96.2, 177.6), (107.5, 169.0), (119.6, 164.4), (128.0, 166.9), (136.4, 164.4), (148.5, 169.0)],
        *[(159.8, 177.6), (148.9, 189.5), (137.3, 194.5), (128.0, 195.5), (118.7, 194.5), (107.1, 189.5)],
        *[(101.8, 177.6), (119.5, 173.2), (128.0, 174.0), (136.5, 173.2), (154.2, 177.6), (136.6, 182.3)],
        *[(128.0, 183.3), (119.4, 182.3)],  # mouth, 48 to 67
    ]
)
_STEADY = slice(27, 48)  # nose and eyes: they do not move with speech or with the brows


def box(name: str) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of a view in pixels of the canonical picture.

    Raises:
        ValueError: The view has no box; the message lists those that have.
    """
    if name not in BOXES:
        raise ValueError(f"unknown view {name!r}; known views are {sorted(BOXES)}")
    top, left, bottom, right = BOXES[name]
    return top + _TOP, left + _LEFT, bottom + _TOP, right + _LEFT


def holds_face(view: View) -> bool:
    """Whether a view's box holds that of the face: then nothing of the face lies outside its pixels."""
    top, left, bottom, right = box(view.name)
    face_top, face_left, face_bottom, face_right = box("face")
    return top <= face_top and left <= face_left and bottom >= face_bottom and right >= face_right


def smooth(points: npt.NDArray[np.floating], radius: int = 4) -> npt.NDArray[np.float64]:
    """Smooth tracks over time with a Gaussian window (sigma = radius / 2 frames), weights renormalized at the ends.

    Args:
        points: (T, ...) any unit.
        radius: Frames on each side.

    Returns:
        (T, ...) the same unit.
    """
    steps = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (steps / max(radius / 2, 1e-6)) ** 2)
    frames = np.arange(len(points))[:, None] + steps  # (T, 2r+1)
    weight = kernel * ((frames >= 0) & (frames < len(points)))
    weight /= weight.sum(1, keepdims=True)
    window = np.asarray(points, np.float64)[np.clip(frames, 0, len(points) - 1)]  # (T, 2r+1, ...)
    smoothed: npt.NDArray[np.float64] = np.einsum("tk,tk...->t...", weight, window)
    return smoothed


def similarity(landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Similarity transforms from source frames to the canonical picture, least squares on nose and eyes.

    The tracks are smoothed first (`smooth`), so that the detector's jitter does not shake the picture.

    Args:
        landmarks: (T, 68, 2) x, y in pixels of the source frames.

    Returns:
        (T, 2, 3) matrices: canonical (x, y) = A @ (x, y, 1).
    """
    source = smooth(landmarks[:, _STEADY])  # (T, 21, 2)
    target = TEMPLATE[_STEADY] + (_LEFT, _TOP)
    center_s, center_t = source.mean(1), target.mean(0)
    s = (source - center_s[:, None]) @ (1, 1j)  # (T, 21) points as complex numbers: a similarity is one factor
    t = (target - center_t) @ (1, 1j)
    factor = (s.conj() @ t) / (np.abs(s) ** 2).sum(1)  # (T,)
    a, b = factor.real, factor.imag
    linear = np.stack([np.stack([a, -b], -1), np.stack([b, a], -1)], -2)  # (T, 2, 2)
    shift = center_t - np.einsum("tij,tj->ti", linear, center_s)
    return np.concatenate([linear, shift[..., None]], -1)


def transform_points(points: npt.NDArray[np.floating], transforms: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Apply (T, 2, 3) transforms to (T, N, 2) points."""
    moved: npt.NDArray[np.float64] = np.einsum("tij,tnj->tni", transforms[..., :2], points)
    return moved + transforms[:, None, :, 2]


def invert(transforms: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Inverse of (T, 2, 3) transforms: from the canonical picture back to source frames."""
    linear = np.linalg.inv(transforms[..., :2])
    return np.concatenate([linear, -(linear @ transforms[..., 2:])], -1)


def warp(frames: Sequence[npt.NDArray[np.uint8]], transforms: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Warp source frames to canonical pictures; pixels outside the source repeat its border.

    Frames much larger than the canonical face are first reduced by area, so that nothing aliases.

    Args:
        frames: T frames (h, w, 3) RGB.
        transforms: (T, 2, 3) from `similarity`.

    Returns:
        (T, 352, 320, 3) RGB.
    """
    import cv2

    out = np.empty((len(frames), HEIGHT, WIDTH, 3), np.uint8)
    for k, (frame, matrix) in enumerate(zip(frames, transforms, strict=True)):
        scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
        matrix = np.array(matrix, np.float64)
        if scale < 0.5:
            h, w = frame.shape[:2]
            small = (max(1, round(w * scale)), max(1, round(h * scale)))
            frame = cv2.resize(frame, small, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
            factor = np.array([w / small[0], h / small[1]])
            matrix[:, 2] += matrix[:, :2] @ (0.5 * factor - 0.5)  # pixel centers lie at integer coordinates
            matrix[:, :2] *= factor
        wide = cv2.cvtColor(frame, cv2.COLOR_RGB2RGBA)  # same pixels; OpenCV warps four channels much faster than three
        wide = cv2.warpAffine(wide, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        cv2.cvtColor(wide, cv2.COLOR_RGBA2RGB, out[k])
    return out


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear resize, differentiable for float pictures.

    Args:
        pixels: (..., 3, H, W) float, or uint8 (rounded).
        size: (height, width) in pixels.

    Returns:
        (..., 3, height, width), same dtype.
    """
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    flat = pixels.reshape(-1, *pixels.shape[-3:])
    if flat.dtype == torch.uint8:
        flat = flat.contiguous(memory_format=torch.channels_last)  # the fast uint8 kernel
    flat = F.interpolate(flat, size=size, mode="bilinear", antialias=True, align_corners=False)
    return flat.reshape(*pixels.shape[:-2], *size)


def crop(picture: Tensor, view: View) -> Tensor:
    """Cut a view out of canonical pictures and bring it to the view's size.

    Args:
        picture: (..., 3, 352, 320).
        view: Name and size of the view.

    Returns:
        (..., 3, view.height, view.width), same dtype and range.
    """
    top, left, bottom, right = box(view.name)
    return resize(picture[..., top:bottom, left:right], view.size)


def paste(picture: Tensor, pixels: Tensor, view: View) -> Tensor:
    """Put the pixels of a view back into canonical pictures.

    Args:
        picture: (..., 3, 352, 320) float.
        pixels: (..., 3, view.height, view.width) float, same range.
        view: The view that `pixels` shows.

    Returns:
        (..., 3, 352, 320), a copy; differentiable in both inputs.
    """
    top, left, bottom, right = box(view.name)
    out = picture.clone()
    out[..., top:bottom, left:right] = resize(pixels, (bottom - top, right - left))
    return out


def overlay(below: Tensor, shows: View, pixels: Tensor, view: View) -> Tensor:
    """Put what a view shares with another over that other's pixels, both at the scale of the canonical picture.

    Args:
        below: (..., 3, height, width) pixels of `shows`.
        shows: A view of the size of its own box.
        pixels: (..., 3, height, width) pixels of `view`, same range.
        view: A view of the size of its own box.

    Returns:
        Like `below`, a copy.
    """
    top, left, bottom, right = box(shows.name)
    own_top, own_left, own_bottom, own_right = box(view.name)
    first, start = max(top, own_top), max(left, own_left)
    last, end = max(first, min(bottom, own_bottom)), max(start, min(right, own_right))
    out = below.clone()
    common = pixels[..., first - own_top : last - own_top, start - own_left : end - own_left]
    out[..., first - top : last - top, start - left : end - left] = common
    return out


def lower_half(pixels: Tensor) -> Tensor:
    """(..., 3, H, W) -> (..., 3, H - H // 2, W): the rows from H // 2 on."""
    return pixels[..., pixels.shape[-2] // 2 :, :]


def without_lower_half(pixels: Tensor) -> Tensor:
    """(..., 3, H, W) -> a copy whose `lower_half` is 0: what face models are shown of the frame they shall make."""
    blanked = pixels.clone()
    lower_half(blanked).zero_()
    return blanked


def change_view(pixels: Tensor, have: View, want: View) -> Tensor:
    """Show one view's pixels as another view that lies inside it, without the canonical picture in between.

    Args:
        pixels: (..., 3, have.height, have.width) float.
        have: The view that `pixels` shows.
        want: A view whose box lies inside that of `have`.

    Returns:
        (..., 3, want.height, want.width); differentiable.

    Raises:
        ValueError: The wanted box reaches outside.
    """
    if have.name == want.name:
        return resize(pixels, want.size)
    top, left, bottom, right = box(have.name)
    wtop, wleft, wbottom, wright = box(want.name)
    if wtop < top or wleft < left or wbottom > bottom or wright > right:
        raise ValueError(f"view {want.name!r} does not lie inside {have.name!r}")
    at_face_scale = resize(pixels, (bottom - top, right - left))
    return resize(at_face_scale[..., wtop - top : wbottom - top, wleft - left : wright - left], want.size)


def superimpose(below: Tensor, shows: View, pixels: Tensor, view: View) -> Tensor:
    """Put a view over another one that holds it, as `paste` does in the canonical picture: `change_view` reversed.

    Pixels of `below` that the box covers in part show both, in shares of the area; those outside stay to the bit.

    Args:
        below: (..., 3, shows.height, shows.width) float.
        shows: The view of `below`.
        pixels: (..., 3, view.height, view.width) float, same range and same dimensions in front.
        view: A view whose box lies inside that of `shows`.

    Returns:
        Like `below`, a copy; differentiable in both.

    Raises:
        ValueError: The box reaches outside.
    """
    top, left, bottom, right = box(shows.name)
    own_top, own_left, own_bottom, own_right = box(view.name)
    if own_top < top or own_left < left or own_bottom > bottom or own_right > right:
        raise ValueError(f"view {view.name!r} does not lie inside {shows.name!r}")
    around = (own_left - left, right - own_right, own_top - top, bottom - own_bottom)
    placed = F.pad(resize(pixels, (own_bottom - own_top, own_right - own_left)), around)  # (..., 3, box of `shows`)
    covered = F.pad(pixels.new_ones(1, own_bottom - own_top, own_right - own_left), around)
    return below * (1 - resize(covered, shows.size)) + resize(placed, shows.size)


def feather(view: View, border: int = 8) -> Tensor:
    """A mask of the canonical picture, 1 inside the view's box, falling smoothly to 0 at its edge.

    Args:
        view: The view; only its box counts.
        border: Width of the fall inside the box, in canonical pixels.

    Returns:
        (1, 352, 320) float in [0, 1].
    """
    top, left, bottom, right = box(view.name)
    rows, columns = torch.arange(HEIGHT), torch.arange(WIDTH)
    inside_r = torch.minimum(rows - top + 1, bottom - rows).clamp(0, border + 1)
    inside_c = torch.minimum(columns - left + 1, right - columns).clamp(0, border + 1)
    rise_r, rise_c = (0.5 - 0.5 * torch.cos(torch.pi * inside / (border + 1)) for inside in (inside_r, inside_c))
    return (rise_r[:, None] * rise_c)[None]  # their product has round corners


def paste_into_frame(
    frame: npt.NDArray[np.uint8],
    picture: npt.NDArray[np.uint8],
    transform: npt.NDArray[np.floating],
    mask: npt.NDArray[np.float32],
) -> npt.NDArray[np.uint8]:
    """Blend a canonical picture into the frame it was warped from: the inverse of `warp`.

    Args:
        frame: (h, w, 3) RGB source frame.
        picture: (352, 320, 3) RGB canonical picture holding the generated pixels.
        transform: (2, 3) the frame's transform from `similarity`.
        mask: (352, 320) how much of the picture to take, 0 to 1, such as `feather`; where it is 0, pixels stay those of
            `frame`.

    Returns:
        (h, w, 3) RGB.
    """
    import cv2

    out = frame.copy()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return out
    back = invert(transform[None])[0]
    corners = np.array([[(x, y) for x in columns[[0, -1]] + (-1, 1) for y in rows[[0, -1]] + (-1, 1)]], np.float64)
    corners = transform_points(corners, back[None])[0]  # (4, 2) x, y: around all that is not 0
    low = np.clip(np.floor(corners.min(0)).astype(int), 0, frame.shape[1::-1])
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, frame.shape[1::-1])
    if (low >= high).any():  # it lies outside the frame
        return out
    back[:, 2] -= low
    size = (high - low).tolist()
    alpha = cv2.warpAffine(mask, back, size, flags=cv2.INTER_LINEAR, borderValue=0)[..., None]
    pixels = cv2.warpAffine(picture, back, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    part = out[low[1] : high[1], low[0] : high[0]]
    part[:] = np.clip(np.rint(part * (1 - alpha) + pixels * alpha), 0, 255)
    return out
