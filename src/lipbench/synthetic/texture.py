"""What does not move of a speaker: the shaded head with closed eyes and lips, its depth, and the shoulders.

A head is a height field over the plane of the 256 face: a dome, and bumps and hollows for nose, brows, cheeks, lips,
chin. Its normals give diffuse light that bleeds into the shadows as in skin, highlights and occlusion, all in linear
light. A picture is `WIDTH` x `HEIGHT` pixels; pixel (column, row) lies at (column + LEFT, row + TOP) of the 256 face.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from lipbench.synthetic.looks import Look
from lipbench.synthetic.planes import Plane, blur, distance_inside, dot, encode, fill, linear, noise, smoothstep, spline

LEFT: Final = -72
TOP: Final = -112
WIDTH: Final = 400
HEIGHT: Final = 464
_CX: Final = 128.0


class Mouth(NamedTuple):
    """The contours of closed lips over u in [-1, 1] from corner to corner, in px up (upper) and down (lower)."""

    upper: npt.NDArray[np.float64]
    lower: npt.NDArray[np.float64]


LIP_U: Final = np.linspace(-1.0, 1.0, 129)
# Outline of the lips: cupid's bow above, one arch below; (u, share of the height)
_BOW_U: Final = (-1.0, -0.82, -0.62, -0.42, -0.26, -0.12, 0.0)
_BOW_Y: Final = (0.0, 0.33, 0.62, 0.86, 1.0, 0.97, 0.86)
_ARCH_U: Final = (-1.0, -0.85, -0.65, -0.42, -0.2, 0.0)
_ARCH_Y: Final = (0.0, 0.30, 0.66, 0.90, 0.99, 1.0)


def lips(look: Look) -> Mouth:
    """The closed lips of a speaker."""
    u = -np.abs(LIP_U)
    kernel = np.hanning(15) / np.hanning(15).sum()

    def curve(at: tuple[float, ...], height: tuple[float, ...]) -> npt.NDArray[np.float64]:
        values = np.interp(u, at, height)
        padded = np.concatenate([-values[7:0:-1], values, -values[-2:-9:-1]])  # odd at the corners: stays 0 there
        return np.convolve(padded, kernel, "valid")

    return Mouth(9.2 * look.upper_lip * curve(_BOW_U, _BOW_Y), 12.5 * look.lower_lip * curve(_ARCH_U, _ARCH_Y))


BODY_LEFT: Final = -260
BODY_TOP: Final = 180
BODY_WIDTH: Final = 776
BODY_HEIGHT: Final = 260


class _Head:
    """Builds the head of one speaker; every field is a plane over (HEIGHT, WIDTH)."""

    def __init__(self, look: Look, points: npt.NDArray[np.float64], rng: np.random.Generator) -> None:
        self.look, self.points, self.rng = look, points, rng
        self.shape = (HEIGHT, WIDTH)
        columns, rows = np.arange(WIDTH, dtype=np.float32) + LEFT, np.arange(HEIGHT, dtype=np.float32) + TOP
        self.x, self.y = np.meshgrid(columns - np.float32(_CX), rows)  # x from the middle of the face
        self.ax = np.abs(self.x)
        self.half = float((points[16, 0] - points[0, 0]) / 2)
        self.chin = float(points[8, 1])

    def bump(self, x: float, y: float, wide: float, high: float, both: bool = True) -> Plane:
        """A Gaussian bump of unit height, on both sides of the face where `both`."""
        across = self.ax if both else self.x
        return np.asarray(np.exp(-0.5 * (((across - x) / wide) ** 2 + ((self.y - y) / high) ** 2)), np.float32)

    # ---- geometry

    def skull(self, grow: float = 0.0) -> npt.NDArray[np.float64]:
        """Outline from the right ear over the crown to the left ear, widened by `grow` px at the top."""
        angle = np.linspace(np.pi, 2 * np.pi, 41)
        wide, high = self.half + 1.0 + 0.6 * grow, 122.0 + grow
        across, up = np.cos(angle), -np.sin(angle)
        return np.stack([_CX + wide * np.sign(across) * np.abs(across) ** 0.78, 86.0 - high * np.abs(up) ** 0.92], -1)

    def outline(self) -> npt.NDArray[np.float64]:
        """The whole head without ears and hair."""
        jaw = spline(self.points[:17], 120)
        return np.concatenate([jaw, self.skull()[::-1]])

    def relief(self, mask: Plane) -> Plane:
        """Height towards the viewer in px."""
        look, points, x, y, ax = self.look, self.points, self.x, self.y, self.ax
        ellipse = 1.0 - (ax / (self.half * 1.12)) ** 2 - ((y - 92.0) / 172.0) ** 2
        z = 92.0 * np.sqrt(np.maximum(ellipse, 0.02))
        edge = np.clip(distance_inside(mask) / 26.0, 0.0, 1.0)
        z -= 26.0 * (1.0 - np.sqrt(np.maximum(1.0 - (1.0 - edge) ** 2, 0.0)))

        eye_x, eye_y = float(points[42:48, 0].mean() - _CX), float(points[36:48, 1].mean())
        z -= 10.0 * self.bump(eye_x - 4, eye_y - 2, 19, 12)
        z += 5.5 * self.bump(eye_x, eye_y + 1, 14, 8)
        z += (3.5 if look.female else 6.0) * self.bump(eye_x - 2, points[17:27, 1].mean() + 3, 26, 8)
        z += 5.5 * self.bump(eye_x + 13, 128, 24, 20)  # cheekbones
        z -= 3.5 * self.bump(eye_x + 24, 172, 18, 24)  # hollow of the cheek

        tip = float(points[30, 1]) + 3.0
        base = float(points[33, 1])
        along = np.clip((y - 70.0) / (tip - 70.0), 0.0, 1.15)
        cross = (6.5 + 5.5 * along**2) * look.nose_width
        fall = 1.0 - smoothstep(tip + 1.0, base + 1.0, y)
        z += (4.0 + 20.0 * along**1.3) * np.exp(-0.5 * (x / cross) ** 2) * fall * smoothstep(52.0, 84.0, y)
        z += 8.0 * self.bump(0, tip, 9.0 * look.nose_width, 8.5, both=False)
        z += (
            10.0 * self.bump(14.0 * look.nose_width, base - 6.0, 5.5, 7.0) * (1 - smoothstep(base - 3.0, base + 3.0, y))
        )

        mouth, half = look.mouth_y, look.mouth_half
        z += 5.0 * self.bump(0, mouth + 2, 30, 26, both=False)  # the teeth behind the lips
        z -= 1.6 * self.bump(0, mouth - 19, 3.5, 7, both=False)  # philtrum
        fold = 19.0 + (y - base + 6) * (half + 12.0 - 19.0) / (mouth + 6 - base + 6)
        along_fold = smoothstep(base - 10, base + 4, y) * (1 - smoothstep(mouth - 4, mouth + 16, y))
        z -= (1.0 + 2.2 * look.age) * np.exp(-0.5 * ((ax - fold) / 3.4) ** 2) * along_fold
        shape = lips(look)
        u = np.clip(x / half, -1, 1)
        upper, lower = (np.interp(u, LIP_U, side).astype(np.float32) for side in shape)
        up, down = (
            np.maximum(mouth - y, 0.0) / np.maximum(upper, 0.3),
            np.maximum(y - mouth, 0.0) / np.maximum(lower, 0.3),
        )
        inside = smoothstep(1.02, 0.9, ax / half)
        z += inside * np.where(
            y < mouth,
            3.2 * np.sqrt(np.clip(1 - up, 0, 1)),
            4.4 * np.sqrt(np.clip(1 - (2 * down - 0.9) ** 2 / 1.21, 0, 1)),
        )
        z -= 1.6 * np.exp(-0.5 * ((y - mouth) / 1.2) ** 2) * inside
        z -= 3.6 * self.bump(0, mouth + float(shape.lower.max()) + 9, 20, 5.5, both=False)
        z += 6.0 * self.bump(0, self.chin - 16, 19, 12, both=False)
        z -= 2.5 * self.bump(half + 6, mouth + 2, 5, 6)  # corners
        return np.asarray(blur(z.astype(np.float32), 0.9), np.float32)

    # ---- color

    def skin(self) -> Plane:
        """(HEIGHT, WIDTH, 3) linear color of the bare skin with lips, brows and stubble."""
        look, points = self.look, self.points
        base = linear(look.skin)
        mottle = 1.0 + 0.03 * noise(self.shape, 26, self.rng) + 0.022 * noise(self.shape, 6, self.rng)
        mottle += (0.014 + 0.016 * look.age) * noise(self.shape, 2, self.rng)
        color = base * mottle[..., None]

        eye_x, eye_y = float(points[42:48, 0].mean() - _CX), float(points[36:48, 1].mean())
        red = 0.5 * self.bump(eye_x + 14, 136, 20, 16) + 0.45 * self.bump(0, points[30, 1], 14, 12, both=False)
        red += 0.3 * self.bump(0, self.chin - 14, 18, 10, both=False)
        color *= 1.0 - red[..., None] * np.array([0.02, 0.16, 0.13], np.float32)
        tired = (0.35 + 0.4 * look.age) * self.bump(eye_x - 3, eye_y + 9, 14, 5) + 0.4 * self.bump(
            eye_x - 12, eye_y, 6, 7
        )
        color *= 1.0 - tired[..., None] * np.array([0.20, 0.24, 0.20], np.float32)
        if look.age > 0.25:
            for k in range(3):
                row = 22.0 - 13.0 * k + 2.0 * np.cos(self.x / 23.0 + k)
                color *= (1.0 - 0.1 * look.age * np.exp(-0.5 * ((self.y - row) / 1.1) ** 2) * (self.ax < 48))[..., None]

        color = self._nostrils(color)
        color = self._lips(color)
        color = self._beard(color)
        return self._brows(color)

    def _mix(self, color: Plane, over: Plane, amount: Plane) -> Plane:
        return np.asarray(color + (over - color) * amount[..., None], np.float32)

    def _nostrils(self, color: Plane) -> Plane:
        look, base = self.look, float(self.points[33, 1])
        hole = np.exp(-((((self.ax - 8.2 * look.nose_width) / 4.2) ** 2 + ((self.y - base + 3.0) / 2.3) ** 2) ** 1.5))
        wing = np.exp(-0.5 * (((self.ax - 18.5 * look.nose_width) / 1.8) ** 2 + ((self.y - base + 6) / 6.0) ** 2))
        color = self._mix(color, color * np.array([0.55, 0.45, 0.42], np.float32), 0.6 * wing)
        return self._mix(color, linear((0.16, 0.07, 0.06)), 0.9 * hole)

    def lip_mask(self, soft: float) -> Plane:
        """Coverage of the closed lips, with edges `soft` px wide."""
        mouth, half = self.look.mouth_y, self.look.mouth_half
        shape = lips(self.look)
        u = np.clip(self.x / half, -1, 1)
        upper, lower = (np.interp(u, LIP_U, side).astype(np.float32) for side in shape)
        return np.minimum(
            smoothstep(-soft, soft, self.y - mouth + upper), smoothstep(-soft, soft, mouth + lower - self.y)
        ) * (smoothstep(1.01, 0.97, self.ax / half))

    def _lips(self, color: Plane) -> Plane:
        look, mouth = self.look, self.look.mouth_y
        tone = linear(look.lips)
        creases = 1.0 + 0.06 * noise(self.shape, 14, self.rng, across=2.2)
        lip = tone * creases[..., None] * np.where(self.y < mouth, 0.68, 0.9)[..., None]
        color = self._mix(color, lip, 0.92 * self.lip_mask(1.1))
        seam = np.exp(-0.5 * ((self.y - mouth) / 0.95) ** 2) * smoothstep(
            look.mouth_half + 2.5, look.mouth_half - 3, self.ax
        )
        return self._mix(color, tone * 0.16, 0.85 * seam)

    def _beard(self, color: Plane) -> Plane:
        look = self.look
        if look.female:
            return color
        mouth, half = look.mouth_y, look.mouth_half
        base = float(self.points[33, 1])
        cheek = mouth + 4.0 - 0.0085 * np.maximum(self.ax - 20.0, 0.0) ** 2 - 60.0 * smoothstep(68.0, 86.0, self.ax)
        region = smoothstep(-12.0, 12.0, self.y - cheek)
        region *= 1.0 - 0.5 * self.bump(0, mouth + float(lips(look).lower.max()) + 6, 11, 3.5, both=False)
        droop = 0.010 * self.ax**2
        top, bottom = base + 5.0 + 0.8 * droop, mouth - 7.0 * look.upper_lip + 1.2 * droop
        moustache = smoothstep(-3.0, 4.0, self.y - top) * smoothstep(4.0, -2.0, self.y - bottom - 5.0)
        moustache *= smoothstep(half + 10.0, half - 14.0, self.ax) * (
            1.0 - 0.45 * self.bump(0, mouth - 16, 3.5, 9, both=False)
        )
        free = 1.0 - self.lip_mask(2.0)
        hair = linear(look.hair)
        strands = 0.7 * noise(self.shape, 3.0, self.rng, across=1.6) + 0.5 * noise(self.shape, 1.5, self.rng)
        tone = 0.8 * hair * np.clip(1.0 + 0.25 * strands, 0.3, 2.5)[..., None] + 0.06 * color
        if look.beard == "full":
            region = np.maximum(region, 0.62 * moustache)
            return self._mix(color, tone, region * free * np.clip(0.66 + 0.10 * strands, 0.3, 0.95))
        if look.beard == "moustache":
            color = self._mix(color, tone, moustache * free * np.clip(0.58 + 0.12 * strands, 0.2, 0.9))
        region = np.maximum(region, 0.5 * moustache)
        shadow = {"stubble": 0.38, "moustache": 0.16}.get(look.beard, 0.11)
        grains = np.clip(0.85 + 0.25 * noise(self.shape, 1.5, self.rng), 0.1, 1.6)
        return self._mix(color, 0.5 * hair + 0.12 * color, region * free * np.clip(shadow * grains, 0, 0.8))

    def _brows(self, color: Plane) -> Plane:
        look = self.look
        hair = linear(look.hair) * (0.75 if max(look.hair) > 0.2 else 1.0)
        for side in (self.points[17:22], self.points[22:27][::-1]):
            path = spline(side, 60)
            at = self.x + _CX
            order = np.argsort(path[:, 0])
            middle = np.interp(at, path[order, 0], path[order, 1]) + 2.0
            t = np.interp(
                at, np.sort(side[[0, 4], 0]), (0.0, 1.0) if side[0, 0] < side[4, 0] else (1.0, 0.0)
            )  # 0 outside, 1 at the nose
            thick = look.brow_weight * (2.4 + 2.6 * t)
            ends = smoothstep(0.0, 0.12, t.astype(np.float32)) * (
                1 - 0.55 * smoothstep(0.86, 1.0, t.astype(np.float32))
            )
            ends *= (at > side[:, 0].min() - 1) & (at < side[:, 0].max() + 1)
            strands = noise(self.shape, 2.2, self.rng, across=3.2)
            amount = (
                np.exp(-(np.abs((self.y - middle) / thick) ** 2.6)) * ends * np.clip(0.82 + 0.16 * strands, 0.3, 0.97)
            )
            color = self._mix(color, hair, amount.astype(np.float32))
        return color

    # ---- light

    def shade(self, color: Plane, z: Plane, shine: float | Plane = 0.1) -> Plane:
        """Light a colored height field."""
        look = self.look
        down, right = np.gradient(z)
        n = np.stack([-right, -down, np.ones_like(z)], -1)
        n /= np.linalg.norm(n, axis=-1, keepdims=True)
        return shade(color, n, z, look, shine)


def shade(color: Plane, normal: Plane, z: Plane, look: Look, shine: float | Plane) -> Plane:
    """Diffuse light that wraps around edges (red farthest, as light does in skin), highlights, occlusion of hollows."""
    warm = np.array([1 + look.warmth, 1.0, 1 - 1.3 * look.warmth], np.float32)
    key = np.array([look.key, -0.62, 0.85], np.float32)
    fill = np.array([-1.4 * look.key, -0.1, 0.9], np.float32)
    wrap = np.array([0.36, 0.20, 0.14], np.float32)
    light = np.zeros((*z.shape, 3), np.float32)
    for direction, power, tint in ((key, 1.02, warm), (fill, 0.20, np.float32(1) / warm)):
        direction = direction / np.linalg.norm(direction)
        lambert = dot(normal, direction)[..., None]
        light += power * tint * np.maximum((lambert + wrap) / (1 + wrap), 0.0)
    light += 0.15 * (0.7 - 0.3 * normal[..., 1:2])
    hollow = np.clip(1.0 - 0.045 * (blur(z, 9.0) - z), 0.45, 1.12) * np.clip(1.0 - 0.06 * (blur(z, 3.0) - z), 0.6, 1.1)
    lit = color * light * hollow[..., None]
    half = key / np.linalg.norm(key) + (0, 0, 1)
    glint = np.maximum(dot(normal, (half / np.linalg.norm(half)).astype(np.float32)), 0.0)
    wide = glint * glint
    narrow = wide * wide
    narrow = narrow * narrow * wide  # to the 10th power
    narrow = narrow * narrow
    return np.asarray(lit + (shine * (0.6 * narrow + 0.35 * glint * wide * wide * wide))[..., None] * warm, np.float32)


def _ears(head: _Head, skin: Plane) -> tuple[Plane, Plane]:
    """Light (HEIGHT, WIDTH, 3) and coverage of the ears, which lie behind the head."""
    x, y = head.ax - head.half - 3.0, head.y - 106.0
    tilt = x - 0.12 * (-y)
    r = (tilt / np.where(y > 8, np.maximum(12.5 - 0.10 * (y - 8), 4.0), 14.0)) ** 2 + (y / 33.0) ** 2
    z = 16.0 * np.sqrt(np.clip(1.0 - r, 0.0, 1.0)) ** 0.6
    rim = np.exp(-0.5 * ((np.sqrt(r) - 0.55) / 0.13) ** 2)
    z = z - 5.0 * rim + 3.0 * np.exp(-0.5 * ((np.sqrt(r) - 0.86) / 0.1) ** 2)
    color = skin * np.array([1.0, 0.80, 0.78], np.float32)
    light = head.shade(color, blur(z.astype(np.float32), 1.0), 0.05) * (1.0 - 0.35 * rim)[..., None]
    return light, smoothstep(1.06, 0.94, r.astype(np.float32))


def _strands(head: _Head, coarse: float) -> Plane:
    """Noise that runs with the hair: down from the parting, around the skull."""
    import cv2

    side = 18.0 if head.look.style == "side" else 0.0
    angle = np.arctan2(head.x - side * 0.6, -(head.y - 60.0) + 60.0)
    radius = np.hypot(head.x - side * 0.6, (head.y + 30.0) * 0.6)
    sheet = head.rng.standard_normal((64, 1024)).astype(np.float32)
    sheet = np.asarray(cv2.GaussianBlur(sheet, (0, 0), coarse, sigmaY=1.2, borderType=cv2.BORDER_REFLECT), np.float32)
    across = ((angle / (2 * np.pi) + 0.5) * 1023).astype(np.float32)
    down = (np.clip(radius / 260.0, 0, 1) * 63).astype(np.float32)
    field = np.asarray(cv2.remap(sheet, across, down, cv2.INTER_LINEAR), np.float32)
    return np.asarray(field / field.std(), np.float32)


def _hair(head: _Head) -> tuple[tuple[Plane, Plane], tuple[Plane, Plane]]:
    """Light and coverage of the hair behind the face and of the hair in front of it."""
    look, x, y, ax = head.look, head.x, head.y, head.ax
    style = look.style
    color = linear(look.hair)
    grow = {"short": 13.0, "side": 18.0, "buzz": 4.0, "bald": 0.0, "long": 17.0, "bun": 9.0, "bob": 19.0}[style]
    ragged = (1.1 if style in ("short", "side") else 0.5) * noise(head.shape, 5.0, head.rng, across=5.0)

    # The cap: all of the skull above the hairline.
    cap = fill(
        np.concatenate([head.skull(grow + 3.0), [[_CX + head.half + 2, 120], [_CX - head.half - 2, 120]]]),
        LEFT,
        TOP,
        head.shape,
    )
    reach = distance_inside(cap)
    cap_soft = smoothstep(0.6, 3.2, reach - 2.4 + ragged) * (reach > 0)
    strands = _strands(head, 1.1) * 0.6 + _strands(head, 3.5) * 0.6
    side = {"side": 0.24, "short": 0.06}.get(style, 0.0) * x
    top = {"short": 4.0, "side": -6.0, "buzz": -6.0, "bald": -200.0, "long": -16.0, "bun": -18.0, "bob": 6.0}[style]
    temple = {"long": 0.021, "bob": 0.012, "bun": 0.012}.get(style, 0.010)
    line = top + side + temple * np.maximum(ax - 20.0, 0.0) ** 2  # y of the hairline over the forehead
    if style in ("long", "bob"):
        line = line + 90.0 * smoothstep(head.half - 26.0, head.half - 2.0, ax)
    fringe = {"short": 7.0, "side": 5.0, "bob": 6.0}.get(style, 2.0)
    edge = fringe * 0.5 * noise(head.shape, 40.0, head.rng, across=6.0) + 1.5 * strands
    above = smoothstep(-fringe * 0.5 - 1.0, fringe * 0.5 + 1.0, line + edge - y)
    burns = {"long": 400.0, "bob": 400.0, "bun": 86.0}.get(style, 112.0)
    bulk = (
        60.0 * np.sqrt(np.clip(1 - (1 - np.clip(reach / 70.0, 0, 1)) ** 2, 0, 1))
        + 2.2 * strands * min(grow, 12.0) / 12.0
    )
    tone = np.clip(1.0 + 0.34 * strands, 0.35, 2.2)[..., None] * color
    light = head.shade(
        tone.astype(np.float32), blur(bulk.astype(np.float32), 1.0), 0.05 + 0.03 * np.clip(strands, -1, 2)
    )
    back_light, back = light, np.zeros_like(cap_soft)
    if style in ("long", "bob"):
        bottom = 330.0 if style == "long" else 214.0
        wave = 3.0 * np.sin(y / 27.0 + 1.3 * np.sign(x)) + 1.5 * strands
        wide = head.half + grow * 0.75 + 6.0 * smoothstep(90.0, 210.0, y) + wave
        back = (
            smoothstep(1.5, -1.5, ax - wide)
            * smoothstep(40.0, 60.0, y)
            * smoothstep(bottom + 8, bottom - 10, y + 4 * strands)
        )
        inner_edge = head.half - 34.0 + wave
        back *= 1.0 - smoothstep(-2.0, 2.0, inner_edge - ax) * smoothstep(
            head.chin - 50, head.chin - 20, y
        )  # the neck shows between
        back = np.maximum(back, cap_soft)
        flow = noise(head.shape, 90.0, head.rng, across=3.0) * 0.7 + noise(head.shape, 60.0, head.rng, across=8.0) * 0.5
        round_ = 40.0 * np.sqrt(np.clip(1 - ((ax - head.half + 6) / 26.0) ** 2, 0.05, 1))
        tone = np.clip(0.85 + 0.3 * flow, 0.3, 2.0)[..., None] * color
        falling = head.shade(tone.astype(np.float32), blur((round_ + 1.5 * flow).astype(np.float32), 1.2), 0.04)
        mix = smoothstep(60.0, 110.0, y)[..., None]
        back_light = light * (1 - mix) + falling * mix
        inner = smoothstep(16.0, 0.0, ax - inner_edge)[..., None]  # shadow beside the neck
        back_light = back_light * (1.0 - 0.5 * inner * mix)
    elif style == "bun":
        r = (x / 34.0) ** 2 + ((y + 60.0) / 24.0) ** 2
        knot = 30.0 * np.sqrt(np.clip(1 - r, 0, 1)) + 1.5 * strands
        back_light = head.shade(tone.astype(np.float32), blur(knot.astype(np.float32), 1.2), 0.05)
        back = smoothstep(1.05, 0.92, (r + 0.03 * ragged).astype(np.float32))
    whole = np.maximum(cap_soft, back) if style in ("long", "bob") else cap_soft
    sides = smoothstep(head.half - 11.0, head.half - 5.0, ax + 0.8 * strands) * smoothstep(burns + 6, burns - 6, y)
    front = np.maximum(above, sides * (style != "bald")) * whole
    if style == "buzz":
        front = front * np.clip(0.72 + 0.12 * noise(head.shape, 1.7, head.rng), 0, 0.9)
    if style == "bald":
        front = front * 0.0
    front_light = back_light if style in ("long", "bob") else light
    return (back_light, back), (front_light, front)


def build_head(
    look: Look, points: npt.NDArray[np.float64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], Plane]:
    """The head with closed eyes and lips as premultiplied RGBA, and its depth."""
    head = _Head(look, points, rng)
    mask = fill(head.outline(), LEFT, TOP, head.shape)
    z = head.relief(mask)
    skin = head.skin()
    shine = 0.055 + 0.05 * head.lip_mask(1.0) + 0.03 * head.bump(0, 120, 10, 30, both=False)
    (back_light, back), (front_light, front) = _hair(head)
    cast = blur(np.roll(front, 5, axis=0), 5.0)  # the hair's shadow on the skin
    face = head.shade(skin * (1.0 - 0.45 * cast[..., None]), z, shine)
    ear_light, ears = _ears(head, linear(look.skin))

    light, alpha = back_light * back[..., None], back
    for over, cover in ((ear_light, ears * (look.style not in ("long", "bob"))), (face, mask), (front_light, front)):
        light = light * (1 - cover[..., None]) + over * cover[..., None]
        alpha = alpha * (1 - cover) + cover
    color = encode(light / np.maximum(alpha, 1e-3)[..., None])
    head_rgba = np.concatenate([color * alpha[..., None], 255.0 * alpha[..., None]], -1)
    return np.rint(head_rgba).astype(np.uint8), blur(np.where(mask > 0.5, z, 0.0).astype(np.float32), 7.0)


def build_body(look: Look, points: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Neck and shoulders as premultiplied RGBA."""
    shape = (BODY_HEIGHT, BODY_WIDTH)
    columns = np.arange(BODY_WIDTH, dtype=np.float32) + BODY_LEFT - np.float32(_CX)
    x, y = np.meshgrid(columns, np.arange(BODY_HEIGHT, dtype=np.float32) + BODY_TOP)
    ax = np.abs(x)
    chin = float(points[8, 1])
    neck = (49.0 if look.female else 59.0) * (0.5 + 0.5 * look.width)
    collar = chin + (44.0 if look.female else 37.0)  # where the neck meets the shoulders

    flare = np.clip((y - collar + 26.0) / 40.0, 0.0, 4.0)
    spread = neck - 2.0 + 2.0 * np.cos((y - chin) / 30.0) + 15.0 * flare**2.2
    neck_mask = smoothstep(1.2, -1.2, ax - spread)
    z = neck * np.sqrt(np.maximum(1 - np.clip(ax / (1.06 * spread), 0, 1) ** 2, 0.03))
    z += 3.0 * np.exp(-0.5 * ((ax - 0.42 * neck + (y - chin) * 0.22) / 6.0) ** 2) * smoothstep(chin - 10, chin + 10, y)
    if look.female:
        z += (
            3.0 * np.exp(-0.5 * ((y - collar - 9.0 - 0.05 * ax) / 4.0) ** 2) * smoothstep(8.0, 22.0, ax)
        )  # collar bones
    else:
        z += 4.0 * np.exp(-0.5 * ((x / 7.0) ** 2 + ((y - chin - 18) / 9.0) ** 2))
    down, right = np.gradient(blur(z.astype(np.float32), 2.0))
    n = np.stack([-right, -down + 0.15, np.ones_like(z)], -1)
    n /= np.linalg.norm(n, axis=-1, keepdims=True)
    tone = linear(look.skin) * (1 + 0.03 * noise(shape, 12, rng))[..., None]
    skin = shade(tone.astype(np.float32), n.astype(np.float32), z.astype(np.float32), look, 0.03)
    under = np.exp(-0.5 * (np.maximum(y - chin + 12, 0) / 24.0) ** 2) * smoothstep(neck + 30, neck - 20, ax)
    skin *= (0.86 - 0.56 * under)[..., None] * np.array([1.0, 0.96, 0.95], np.float32)

    # The upper edge of the cloth: a neckline within the neck's width, shoulders outside.
    reach = neck + (26.0 if look.female else 15.0)
    deep = 30.0 if look.female else 17.0
    slope = collar + 2.0 + 0.34 * np.maximum(ax - reach, 0.0) + 0.0013 * np.maximum(ax - reach, 0.0) ** 2
    neckline = slope + deep * np.sqrt(np.maximum(1 - (ax / reach) ** 2, 0.0))
    cloth = smoothstep(-1.2, 1.2, y - neckline)
    folds = 3.0 * noise(shape, 60, rng, across=24) + 0.5 * noise(shape, 3, rng)
    relief = (
        60.0 * np.sqrt(np.clip(1 - (ax / 300.0) ** 2, 0.02, 1))
        + folds
        - 30.0 * np.exp(-np.maximum(y - slope, 0) / 18.0)
    )
    seam = np.exp(-0.5 * ((y - neckline - 6.0) / 1.0) ** 2) * smoothstep(reach + 8, reach - 4, ax)
    down, right = np.gradient(blur(relief.astype(np.float32), 1.0))
    n = np.stack([-right, -down, np.ones_like(relief)], -1)
    n /= np.linalg.norm(n, axis=-1, keepdims=True)
    weave = (1 + 0.05 * noise(shape, 2, rng) - 0.25 * seam)[..., None] * linear(look.shirt)
    shirt = shade(weave.astype(np.float32), n.astype(np.float32), relief.astype(np.float32), look, 0.01)

    light = skin * neck_mask[..., None]
    light = light * (1 - cloth[..., None]) + shirt * cloth[..., None]
    alpha = np.maximum(neck_mask, cloth)
    color = encode(light / np.maximum(alpha, 1e-3)[..., None])
    return np.asarray(np.rint(np.concatenate([color * alpha[..., None], 255.0 * alpha[..., None]], -1)), np.uint8)
