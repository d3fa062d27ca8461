"""A speaker's face in motion: contours and landmarks from mouth parameters, and the head painted with them.

Everything here is in pixels of the 256 face, before the head moves (`lipbench.synthetic.camera`). Lips, chin and
cheeks are the static head (`lipbench.synthetic.texture`) pulled column by column so that nose, lip contours and jaw
line come to lie where the contours say; teeth, tongue and eyes are painted into the openings. Landmarks are read from
the same contours.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from lipbench.synthetic import texture
from lipbench.synthetic.looks import Look, landmarks
from lipbench.synthetic.planes import smoothstep
from lipbench.synthetic.visemes import Shape

_CX: Final = 128.0
_REACH: Final = 84  # px from the middle to either side that the mouth and jaw can move

# Where on the contours the mouth's landmarks lie, u from corner (-1) to corner (1), in iBUG order
_OUTER_UPPER: Final = np.array([-1.0, -0.64, -0.26, 0.0, 0.26, 0.64, 1.0])
_OUTER_LOWER: Final = np.array([0.65, 0.29, 0.0, -0.29, -0.65])
_INNER_UPPER: Final = np.array([-0.82, -0.27, 0.0, 0.27, 0.82])
_INNER_LOWER: Final = np.array([0.27, 0.0, -0.27])
_INNER_CORNER: Final = 0.88  # |u| where the inner lips meet

Array = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


class Eyes(NamedTuple):
    """State of the eyes: lids from 0 (open) to 1 (shut), gaze in px to the right and down, brows in px up."""

    lid: float
    right: float
    down: float
    brow: float


class Contours(NamedTuple):
    """The lips as functions of u: y of the four contours, and half the mouth's width; all px."""

    half: float
    outer_upper: Array
    inner_upper: Array
    inner_lower: Array
    outer_lower: Array


class Face:
    """One speaker's face."""

    def __init__(self, look: Look, seed: int) -> None:
        """Paint what does not move.

        Args:
            look: Who it is.
            seed: Of the skin's and hair's irregularities.
        """
        rng = np.random.default_rng(seed)
        self.look = look
        self.points = landmarks(look)  # (68, 2)
        self.lips = texture.lips(look)
        self.head, self.depth = texture.build_head(look, self.points, rng)
        self.body = texture.build_body(look, self.points, rng)
        self.chin = float(self.points[8, 1])

        # The part of the head that the mouth moves.
        self._top = round(float(self.points[33, 1]) + 3.0)
        self._bottom = round(self.chin + 46.0)
        columns = np.arange(_CX - _REACH, _CX + _REACH + 1, dtype=np.float32)
        self._x = columns - np.float32(_CX)
        self._y = np.arange(self._top, self._bottom, dtype=np.float32)[:, None]
        order = np.argsort(self.points[:17, 0])
        jaw = np.interp(columns, self.points[order, 0], self.points[order, 1])  # y of the jaw line in each column
        self._jaw = np.convolve(np.pad(jaw, 6, mode="edge"), np.hanning(13) / np.hanning(13).sum(), "valid")
        self._jaw_moves = self._hang(self._jaw)
        away = np.abs(self._y - look.mouth_y - 5.0)
        self._sideways = smoothstep(54.0, 24.0, away)  # (rows, 1)
        self._eyes = [_Eye(look, self.points[part], side) for part, side in ((slice(36, 42), -1), (slice(42, 48), 1))]

    def _hang(self, y: Array) -> Array:
        """Share of the jaw's drop that a point of the jaw line follows, by its height."""
        t = np.clip((y - self.look.mouth_y - 12.0) / 34.0, 0.0, 1.0)
        return t * t * (3.0 - 2.0 * t)

    def contours(self, shape: Shape, u: Array) -> Contours:
        """The lips for mouth parameters, at positions u in [-1, 1]."""
        lift = 0.22 * shape.opening + 1.2 * shape.tuck + 0.15 * max(shape.spread, 0.0) * min(shape.opening / 4.0, 1.0)
        lift = min(lift, shape.opening)
        gap = np.maximum(1.0 - np.abs(u / _INNER_CORNER) ** 2.2, 0.0)
        middle = self.look.mouth_y + 0.20 * shape.opening * u**2
        inner_upper = middle - lift * gap
        inner_lower = inner_upper + shape.opening * gap
        pout = 1.0 + 0.30 * shape.protrusion
        upper = np.interp(u, texture.LIP_U, self.lips.upper) * pout * (1.0 - 0.42 * shape.press)
        lower = np.interp(u, texture.LIP_U, self.lips.lower) * pout * (1.0 - 0.38 * shape.press - 0.35 * shape.tuck)
        half = self.look.mouth_half + shape.spread
        return Contours(half, inner_upper - upper, inner_upper, inner_lower, inner_lower + lower)

    def landmarks(self, shape: Shape, eyes: Eyes) -> Array:
        """(68, 2) points in iBUG order."""
        points = self.points.copy()
        points[:17, 1] += shape.jaw * self._hang(points[:17, 1])
        points[17:27, 1] -= eyes.brow
        for eye, first in zip(self._eyes, (36, 42), strict=True):
            part = points[first : first + 6]
            upper, lower = eye.lids(part[:, 0], eyes.lid)
            part[1:3, 1], part[4:6, 1] = upper[1:3], lower[4:6]
        outer_upper = self.contours(shape, _OUTER_UPPER)
        outer_lower = self.contours(shape, _OUTER_LOWER)
        inner_upper = self.contours(shape, _INNER_UPPER)
        inner_lower = self.contours(shape, _INNER_LOWER)
        u = np.concatenate([_OUTER_UPPER, _OUTER_LOWER, _INNER_UPPER, _INNER_LOWER])
        points[48:, 0] = _CX + u * outer_upper.half
        inner = inner_upper.inner_upper.copy()
        inner[[0, 4]] = 0.5 * (inner + inner_upper.inner_lower)[[0, 4]]
        points[48:, 1] = np.concatenate(
            [outer_upper.outer_upper, outer_lower.outer_lower, inner, inner_lower.inner_lower]
        )
        return points

    def paint(self, shape: Shape, eyes: Eyes) -> Pixels:
        """The head with this mouth and these eyes: premultiplied RGBA, laid out as `texture` says."""
        import cv2

        head = self.head.copy()
        if eyes.brow:
            self._raise_brows(head, eyes.brow)
        for eye in self._eyes:
            eye.paint(head, eyes)

        lips = self.contours(shape, np.clip(self._x / (self.look.mouth_half + shape.spread), -1.0, 1.0))
        closed = self.contours(
            Shape(0, 0, 0, 0, 0, 0, 0), np.clip(self._x / (self.look.mouth_half + shape.spread), -1, 1)
        )
        u = self._x / lips.half

        # Heights in the picture (`to`) and in the static head (`source`) of each column, from nose to below the chin.
        top = np.full_like(self._jaw, self._top)
        jaw = np.maximum(self._jaw, lips.outer_lower + 6.0)
        jaw_to = np.maximum(jaw + shape.jaw * self._jaw_moves, lips.outer_lower + 5.0)
        bottom = np.maximum(jaw_to + 14.0, np.full_like(jaw, self._bottom))
        to = np.stack([top, *lips[1:], jaw_to, bottom])
        source = np.stack([top, *closed[1:], jaw, bottom])
        length = np.diff(to, axis=0)
        slope = np.where(length > 1e-3, np.diff(source, axis=0) / np.maximum(length, 1e-3), 0.0)
        to, length, slope = (a.astype(np.float32) for a in (to, length, slope))
        y = np.full((len(self._y), len(self._x)), np.float32(self._top - texture.TOP))
        for k in range(len(length)):
            y += slope[k] * np.clip(self._y - to[k], 0.0, length[k])

        beyond = np.clip((np.abs(self._x) - lips.half) / 46.0, 0.0, 1.0)
        pull = shape.spread * np.clip(u, -1, 1) * (0.5 + 0.5 * np.cos(np.pi * beyond))
        x = (self._x + np.float32(_CX - texture.LEFT)) - self._sideways * pull.astype(np.float32)
        rows = slice(self._top - texture.TOP, self._bottom - texture.TOP)
        left = round(_CX) - _REACH - texture.LEFT
        part = np.asarray(cv2.remap(self.head, x, y, cv2.INTER_LINEAR), np.uint8)
        if shape.opening > 0.05:
            self._fill_mouth(part, shape, lips, u)
        head[rows, left : left + len(self._x)] = part
        return head

    def _raise_brows(self, head: Pixels, up: float) -> None:
        import cv2

        first, last = 22 - texture.TOP, self._eyes[0].high - texture.TOP
        rows = np.arange(first, last, dtype=np.float32)[:, None]
        t = (rows - first) / (last - first)
        y = np.repeat(rows + np.float32(up) * np.sin(np.pi * t) ** 2 * 1.1, texture.WIDTH, axis=1)
        x = np.repeat(np.arange(texture.WIDTH, dtype=np.float32)[None], len(rows), axis=0)
        head[first:last] = cv2.remap(self.head, x, y, cv2.INTER_LINEAR)

    def _fill_mouth(self, part: Pixels, shape: Shape, lips: Contours, u: npt.NDArray[np.floating]) -> None:
        """Paint the inside of the mouth into the part of the head that it moves."""
        mouth = np.float32(self.look.mouth_y)
        columns = np.flatnonzero(np.abs(u) < 1.0)
        cols = slice(int(columns[0]), int(columns[-1]) + 1)
        r0 = max(0, int(lips.inner_upper.min() - self._top) - 1)
        r1 = int(lips.inner_lower.max() - self._top) + 3
        y = self._y[r0:r1]
        u = u[cols].astype(np.float32)
        upper, lower = lips.inner_upper[cols].astype(np.float32), lips.inner_lower[cols].astype(np.float32)
        cover = np.clip(y - upper + 0.5, 0, 1) * np.clip(lower - y + 0.5, 0, 1)
        thin = np.clip((lower - upper) * 1.2, 0, 1)

        inside = np.empty((*cover.shape, 3), np.float32)
        inside[:] = (38.0, 13.0, 13.0)
        tongue_top = mouth + 5.0 + 0.75 * shape.jaw - shape.tongue * (0.35 * shape.opening + 2.0) + 5.0 * u**2
        tongue = np.clip((y - tongue_top) / 3.0, 0, 1) * np.clip(6.0 * (0.8 - np.abs(u)), 0, 1)
        flesh = np.array((150.0, 76.0, 74.0), np.float32) * (0.55 + 0.06 * np.clip(y - tongue_top, 0, 7))[..., None]
        inside += (flesh - inside) * tongue[..., None]
        gaps = 1.0 - 0.16 * np.exp(-((((u * lips.half + 0.0) % 7.0) - 3.5) ** 2) / 0.6).astype(np.float32)
        enamel = np.array((236.0, 226.0, 208.0), np.float32)
        low_edge = mouth + 2.5 + 0.8 * shape.jaw + 2.5 * u**2
        for edge, sign, tone in ((low_edge, 1.0, 0.74), (mouth + 2.2 - 3.2 * u**2, -1.0, 0.95)):
            teeth = np.clip(sign * (y - edge) + 0.5, 0, 1) * np.clip(5.0 * (0.86 - np.abs(u)), 0, 1)
            inside += (enamel * (tone * gaps * (1.0 - 0.5 * u**2))[:, None] - inside) * teeth[..., None]
        shadow = (0.42 + 0.58 * np.clip((y - upper) / 5.0, 0, 1)) * (0.7 + 0.3 * np.clip((lower - y) / 3.0, 0, 1))
        inside *= shadow[..., None]

        rim = np.exp(-(np.maximum(np.maximum(upper - y, y - lower), 0.0) ** 2) / 2.5) * 0.45 * thin * (1 - cover)
        block = part[r0:r1, cols, :3].astype(np.float32) * (1.0 - rim)[..., None]
        cover = (cover * thin)[..., None]
        part[r0:r1, cols, :3] = np.rint(block + (inside - block) * cover)


class _Eye:
    """One eye: its lids, and the ball behind them."""

    def __init__(self, look: Look, points: Array, side: int) -> None:
        self.look = look
        order = np.argsort(points[:, 0])
        left, right = points[order[0]], points[order[-1]]
        self.x0, self.x1 = float(left[0]), float(right[0])
        self.corners = (float(left[1]), float(right[1]))
        self.top, self.under = self._arch(points[1:3]), self._arch(points[4:6])
        self._seen: dict[tuple[float, float, float], Pixels] = {}
        self.center = (0.5 * (self.x0 + self.x1) + 0.4 * side, float(points[:, 1].mean()) - 0.9)
        self.radius = 6.3 * (0.5 + 0.5 * look.eye_size)

        self.left, self.upto = int(self.x0) - 7, int(self.x1) + 9
        self.high, self.low = int(points[:, 1].min()) - 8, int(points[:, 1].max()) + 8
        self.columns = np.arange(self.left, self.upto, dtype=np.float32)
        self.y = np.arange(self.high, self.low, dtype=np.float32)[:, None]
        self.open_upper, self.open_lower = self.lids(self.columns.astype(np.float64), 0.0)
        across = np.clip((self.columns - self.x0) / (self.x1 - self.x0), 0, 1)
        self.across = across if side > 0 else 1.0 - across  # 0 at the nose, 1 outside
        self.within = np.clip((self.columns - self.x0) / 2.0, 0, 1) * np.clip((self.x1 - self.columns) / 2.0, 0, 1)
        self.white = np.array((228.0, 222.0, 218.0), np.float32) * np.float32(0.72 + 0.28 * max(look.skin))
        self.iris = np.array(look.iris, np.float32) * 255.0
        self.lash = np.array(look.hair, np.float32) * (70.0 if look.female else 110.0)

    def _arch(self, middle: Array) -> Array:
        """Coefficients of a cubic arch through both corners and a lid's two landmarks."""
        middle = middle[np.argsort(middle[:, 0])]
        at = (middle[:, 0] - self.x0) / (self.x1 - self.x0)
        above = middle[:, 1] - self.corners[0] - (self.corners[1] - self.corners[0]) * at
        return np.asarray(np.linalg.solve(np.stack([at * (1 - at), at * (1 - at) * (at - 0.5)], -1), above), np.float64)

    def lids(self, x: Array, shut: float) -> tuple[Array, Array]:
        """Heights of the upper and lower lid at x."""
        t = np.clip((x - self.x0) / (self.x1 - self.x0), 0.0, 1.0)
        line = self.corners[0] + (self.corners[1] - self.corners[0]) * t
        upper, lower = (line + t * (1 - t) * (c[0] + c[1] * (t - 0.5)) for c in (self.top, self.under))
        lower = lower - 0.18 * shut * (lower - upper)
        return upper + shut * (lower - upper), lower

    def paint(self, head: Pixels, eyes: Eyes) -> None:
        """Paint the eye into a head."""
        rows = slice(self.high - texture.TOP, self.low - texture.TOP)
        cols = slice(self.left - texture.LEFT, self.upto - texture.LEFT)
        key = (eyes.lid, eyes.right, eyes.down)
        if key not in self._seen:  # states come in steps (`camera.eye_motion`), so most have been painted before
            self._seen[key] = self._picture(head[rows, cols, :3].astype(np.float32), eyes)
        head[rows, cols, :3] = self._seen[key]

    def _picture(self, skin: npt.NDArray[np.float32], eyes: Eyes) -> Pixels:
        upper64, lower64 = self.lids(self.columns.astype(np.float64), eyes.lid)
        upper, lower = upper64.astype(np.float32), lower64.astype(np.float32)
        y, within = self.y, self.within

        crease_y = self.open_upper - 4.6 + 1.6 * (1 - self.across) + 0.5 * eyes.lid
        crease = np.exp(-(((y - crease_y) / 1.3) ** 2)) * within * (0.34 - 0.2 * eyes.lid)
        under = np.exp(-(((y - lower - 3.6) / 1.5) ** 2)) * within * (0.08 + 0.12 * self.look.age)
        skin *= (1.0 - crease - under)[..., None]

        dx = self.columns - np.float32(self.center[0] + eyes.right)
        dy = y - np.float32(self.center[1] + eyes.down)
        r = np.sqrt(dx**2 + dy**2)
        ball = np.repeat((1.0 - 0.30 * (2 * self.across - 1) ** 2)[None], len(y), 0)
        ball = ball * (0.50 + 0.50 * np.clip((y - upper) / 4.0, 0, 1))  # the lid's shadow
        color = self.white * ball[..., None]
        spokes = 1.0 + 0.18 * np.sin(11.0 * np.arctan2(dy, dx)) * np.clip(r / self.radius, 0, 1)
        tone = self.iris * (spokes * (1.35 - 0.75 * np.clip(r / self.radius, 0, 1) ** 3))[..., None]
        tone *= (0.55 + 0.45 * np.clip((y - upper) / 4.0, 0, 1))[..., None]
        color += (tone - color) * np.clip(self.radius - r + 0.5, 0, 1)[..., None]
        color *= 1.0 - 0.93 * np.clip(0.42 * self.radius - r + 0.5, 0, 1)[..., None]
        gx, gy = 2.2 * self.look.key / abs(self.look.key), -2.4
        glint = np.exp(-((dx - gx) ** 2 + (dy - gy) ** 2) / 1.5)
        color += (250.0 - color) * (0.9 * glint)[..., None]
        cover = np.clip(y - upper + 0.5, 0, 1) * np.clip(lower - y + 0.5, 0, 1) * within
        skin += (color - skin) * cover[..., None]

        heavy = (1.15 if self.look.female else 0.85) * (0.8 + 0.5 * self.across)
        lash = np.exp(-(((y - upper + 0.2) / heavy) ** 2)) * within * 0.85
        rim = np.exp(-(((y - lower - 0.3) / 0.8) ** 2)) * within * 0.35
        skin += (self.lash - skin) * np.maximum(lash, rim)[..., None]
        return np.rint(np.clip(skin, 0, 255)).astype(np.uint8)
