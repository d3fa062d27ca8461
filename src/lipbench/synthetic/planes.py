"""Planes of light: noise, blurs, filled outlines, and the way from color to light and back."""

import numpy as np
import numpy.typing as npt

from lipbench.synthetic.looks import Color

Plane = npt.NDArray[np.floating]
"""(height, width) or (height, width, channels), float32 wherever it matters for speed."""


def linear(color: Color) -> Plane:
    """Linear light of an sRGB color in [0, 1]."""
    return np.asarray(np.asarray(color, np.float32) ** 2.2)


def encode(light: Plane) -> npt.NDArray[np.uint8]:
    """Linear light to sRGB of 8 bits."""
    return np.asarray(np.rint(np.clip(light, 0.0, 1.0) ** (1 / 2.2) * 255.0), np.uint8)


def smoothstep(low: float, high: float, x: Plane) -> Plane:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), np.float32)


def noise(shape: tuple[int, int], size: float, rng: np.random.Generator, across: float | None = None) -> Plane:
    """Smooth noise of unit variance; `size` is its grain in px (down, and `across` if it differs)."""
    import cv2

    grain = (max(2, round(shape[1] / (across or size))), max(2, round(shape[0] / size)))
    field: Plane = rng.standard_normal((grain[1], grain[0])).astype(np.float32)
    field = np.asarray(cv2.resize(field, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)
    return np.asarray(field / field.std(), np.float32)


def blur(plane: Plane, sigma: float) -> Plane:
    """Gaussian blur; `sigma` in px."""
    import cv2

    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float32)


def fill(points: npt.NDArray[np.floating], left: int, top: int, shape: tuple[int, int]) -> Plane:
    """Coverage in [0, 1] of a polygon given in pixels of the 256 face."""
    import cv2

    canvas = np.zeros((shape[0] * 4, shape[1] * 4), np.uint8)
    corners = (np.asarray(points) - (left, top) + 0.5) * 4.0 - 0.5
    cv2.fillPoly(canvas, [np.rint(corners).astype(np.int32)], 255)
    return np.asarray(cv2.resize(canvas, shape[::-1], interpolation=cv2.INTER_AREA), np.float32) / 255.0


def distance_inside(mask: Plane) -> Plane:
    """Distance in px of every inner pixel to the edge of a coverage mask."""
    import cv2

    distance = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(distance, np.float32)


def spline(points: npt.NDArray[np.floating], n: int) -> npt.NDArray[np.float64]:
    """A smooth closed or open path through points: (n, 2), Catmull-Rom."""
    p = np.asarray(points, np.float64)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, len(p) - 3, n, endpoint=False)
    k = t.astype(int)
    f = (t - k)[:, None]
    a, b, c, d = p[k], p[k + 1], p[k + 2], p[k + 3]
    bend = (2 * a - 5 * b + 4 * c - d) * f**2 + (3 * b - a - 3 * c + d) * f**3
    return np.asarray(0.5 * (2 * b + (c - a) * f + bend))


def dot(normal: Plane, direction: Plane) -> Plane:
    """(H, W, 3) times (3,): written out, since a matrix library may round differently with other numbers of threads."""
    return np.asarray(normal[..., 0] * direction[0] + normal[..., 1] * direction[1] + normal[..., 2] * direction[2])
