"""Moves a face in front of a fixed camera: pose, backdrop, shoulders, noise."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from lipbench.synthetic import texture
from lipbench.synthetic.face import Eyes, Face
from lipbench.synthetic.planes import encode, linear

FRAME_HEIGHT: Final = 288
FRAME_WIDTH: Final = 360
_PIVOT: Final = np.array([128.0, 130.0])  # the point of the 256 face around which a head rolls and grows
_COARSE: Final = 4  # the head's map is computed on every 4th pixel: it is smooth

Array = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


class Pose(NamedTuple):
    """Where the head is: the pivot's place in frame pixels, frame pixels per face pixel, and angles in radians."""

    x: float
    y: float
    scale: float
    roll: float
    yaw: float
    pitch: float

    def matrix(self) -> Array:
        """(2, 3) from pixels of the 256 face to the frame, without yaw and pitch."""
        c, s = self.scale * np.cos(self.roll), self.scale * np.sin(self.roll)
        linear = np.array([[c, -s], [s, c]])
        return np.concatenate([linear, (np.array([self.x, self.y]) - linear @ _PIVOT)[:, None]], 1)


def _smooth_noise(rng: np.random.Generator, n: int, sigma: float) -> Array:
    """(n,) noise of unit variance with a Gaussian spectrum; `sigma` in frames."""
    radius = round(4 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= np.linalg.norm(kernel)
    return np.convolve(rng.standard_normal(n + 2 * radius), kernel, "valid")


def poses(face: Face, rng: np.random.Generator, loudness: Array) -> list[Pose]:
    """A head's movement over a clip: where the speaker sits this time, slow sway, nods with the voice.

    Args:
        face: Whose head.
        rng: Of the clip.
        loudness: (T,) of the voice, in [0, 1].
    """
    n = len(loudness)

    def wander(place: float, sway: float, sigma: float = 11.0) -> Array:
        return float(place * np.clip(rng.normal(), -2, 2)) + sway * _smooth_noise(rng, n, sigma)

    x = FRAME_WIDTH / 2 + wander(5.0, 1.3)
    y = 150.0 + wander(3.0, 0.9) + 0.7 * loudness
    scale = face.look.scale * (1.0 + wander(0.012, 0.004))
    roll, yaw = wander(0.016, 0.010), wander(0.03, 0.022)
    pitch = wander(0.02, 0.013) + 0.02 * loudness
    return [Pose(*(float(v) for v in row)) for row in np.stack([x, y, scale, roll, yaw, pitch], -1)]


def eye_motion(rng: np.random.Generator, loudness: Array) -> list[Eyes]:
    """Blinks (about 17 a minute), small jumps of the gaze, brows that follow the voice a little."""
    n = len(loudness)
    lid = np.zeros(n)
    stroke = np.array([0.35, 0.9, 1.0, 0.8, 0.45, 0.15])  # a blink at 25 fps
    at = int(rng.integers(0, 60))
    while at < n:
        part = stroke[: n - at]
        lid[at : at + len(part)] = np.maximum(lid[at : at + len(part)], part)
        at += int(rng.integers(35, 140))
    lid = np.maximum(lid, np.clip(0.04 + 0.03 * _smooth_noise(rng, n, 8.0), 0.0, 0.12))
    right, down = np.zeros(n), np.zeros(n)
    for jump in np.flatnonzero(rng.random(n) < 0.04):
        right[jump:], down[jump:] = rng.normal(0, 0.7), rng.normal(0, 0.35)
    brow = np.clip(0.5 * _smooth_noise(rng, n, 7.0) + 0.8 * loudness * rng.uniform(0, 1.5), -0.8, 3.0)
    # Steps too fine to see, so that a painted eye can be used again.
    states = np.stack([np.round(lid * 20) / 20, np.round(right * 4) / 4, np.round(down * 4) / 4, brow], -1)
    return [Eyes(*(float(v) for v in row)) for row in states]


def backdrop(face: Face, rng: np.random.Generator) -> Pixels:
    """(288, 360, 3) the wall behind a speaker, lit from one side."""
    y, x = np.mgrid[0:FRAME_HEIGHT, 0:FRAME_WIDTH].astype(np.float32)
    key = face.look.key
    spot = np.exp(-(((x - 180 - 190 * key) / 230) ** 2 + ((y - 60) / 240) ** 2))
    color = linear(face.look.backdrop) * (0.5 + 0.75 * spot)[..., None]
    color *= 1.0 + 0.01 * rng.standard_normal((FRAME_HEIGHT, FRAME_WIDTH, 1)).astype(np.float32)
    return encode(color)


class Camera:
    """Pictures of one speaker."""

    def __init__(self, face: Face, seed: int) -> None:
        """Set the scene.

        Args:
            face: Who sits there.
            seed: Of the wall's and the sensor's irregularities.
        """
        rng = np.random.default_rng(seed)
        self.face = face
        self.wall = backdrop(face, rng)
        # A sheet of sensor noise, cut anywhere, as two non-negative halves for saturating arithmetic on bytes.
        sheet = rng.standard_normal((FRAME_HEIGHT + 64, FRAME_WIDTH + 64, 3)) * 0.5
        sheet = (sheet + rng.standard_normal((*sheet.shape[:2], 1))) * 1.2
        self._lighter = np.rint(np.maximum(sheet, 0)).astype(np.uint8)
        self._darker = np.rint(np.maximum(-sheet, 0)).astype(np.uint8)

    def stage(self, seat: Pose) -> Pixels:
        """The wall with the speaker's shoulders, for a mean pose of the clip."""
        import cv2

        seat = seat._replace(roll=0.3 * seat.roll)
        matrix = seat.matrix() @ np.array([[1, 0, texture.BODY_LEFT], [0, 1, texture.BODY_TOP], [0, 0, 1]], np.float64)
        body = cv2.warpAffine(self.face.body, matrix, (FRAME_WIDTH, FRAME_HEIGHT), flags=cv2.INTER_LINEAR)
        return _over(np.asarray(body, np.uint8), self.wall)

    def picture(self, stage: Pixels, seat: Pose, pose: Pose, head: Pixels, rng: np.random.Generator) -> Pixels:
        """One frame.

        Args:
            stage: From `stage`.
            seat: The clip's mean pose; the shoulders follow a third of the way from there.
            pose: The head's pose now.
            head: From `Face.paint`.
            rng: Of the clip, for the noise.

        Returns:
            (288, 360, 3) RGB.
        """
        import cv2

        lag = np.array([[1, 0, 0.35 * (pose.x - seat.x)], [0, 1, 0.35 * (pose.y - seat.y)]])
        frame = stage.copy()
        first = int(seat.y + (texture.BODY_TOP - _PIVOT[1]) * seat.scale)  # the shoulders move, the wall does not
        below = stage[first:]
        cv2.warpAffine(below, lag, below.shape[1::-1], frame[first:], cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)

        # The head's box in the frame, in whole coarse cells.
        reach_x, up, down = 0.52 * texture.WIDTH * pose.scale, 246 * pose.scale, 225 * pose.scale
        left = max(0, int(pose.x - reach_x)) // _COARSE * _COARSE
        top = max(0, int(pose.y - up)) // _COARSE * _COARSE
        right = min(FRAME_WIDTH, int(pose.x + reach_x) // _COARSE * _COARSE)
        bottom = min(FRAME_HEIGHT, int(pose.y + down) // _COARSE * _COARSE)
        middle = (_COARSE - 1) / 2
        xs, ys = np.arange(left, right, _COARSE) + middle, np.arange(top, bottom, _COARSE) + middle
        forward = np.concatenate([pose.matrix(), [[0.0, 0.0, 1.0]]])
        back = np.linalg.inv(forward)
        qx = back[0, 0] * xs + back[0, 1] * ys[:, None] + back[0, 2]  # pixels of the 256 face, before yaw and pitch
        qy = back[1, 0] * xs + back[1, 1] * ys[:, None] + back[1, 2]
        qx, qy = (qx - texture.LEFT).astype(np.float32), (qy - texture.TOP).astype(np.float32)
        x, y = qx, qy
        for _ in range(3):  # a point at depth z moved by z times the angle: solve for where it came from
            z = cv2.remap(self.face.depth, x, y, cv2.INTER_LINEAR)
            x, y = qx - np.float32(np.sin(pose.yaw)) * z, qy + np.float32(np.sin(pose.pitch)) * -z
        size = (right - left, bottom - top)
        x, y = (cv2.resize(v, size, interpolation=cv2.INTER_LINEAR) for v in (x, y))
        part = np.asarray(cv2.remap(head, x, y, cv2.INTER_LINEAR), np.uint8)
        frame[top:bottom, left:right] = _over(part, frame[top:bottom, left:right])

        r, c = (int(v) for v in rng.integers(0, 64, 2))
        cut = (slice(r, r + FRAME_HEIGHT), slice(c, c + FRAME_WIDTH))
        return np.asarray(cv2.subtract(cv2.add(frame, self._lighter[cut]), self._darker[cut]))

    def project(self, points: Array, pose: Pose) -> Array:
        """Points of the 256 face (N, 2) to frame pixels, with yaw and pitch."""
        import cv2

        at = (points - (texture.LEFT, texture.TOP)).astype(np.float32)
        z = cv2.remap(self.face.depth, at[None, :, 0], at[None, :, 1], cv2.INTER_LINEAR)[0]  # (N,)
        turned = points + z[:, None] * np.array([np.sin(pose.yaw), np.sin(pose.pitch)])
        matrix = pose.matrix()
        return np.asarray(turned @ matrix[:, :2].T + matrix[:, 2])


def _over(top: Pixels, under: Pixels) -> Pixels:
    """A premultiplied RGBA picture over an opaque one."""
    import cv2

    clear = cv2.cvtColor(255 - top[..., 3], cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.add(cv2.multiply(under, clear, scale=1 / 255), cv2.cvtColor(top, cv2.COLOR_RGBA2RGB)))
