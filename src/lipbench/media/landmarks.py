"""68 facial points (iBUG order): backends, and tracks through a clip.

Boxes are (left, top, right, bottom) in pixels, points (x, y) in pixels of the frame; pixel centers lie at whole
numbers. Every backend speaks of boxes as dlib's detector draws them (brows to below the mouth, about square), so that
`box_of` serves all.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
Points = npt.NDArray[np.float32]

NAMES: Final = ("dlib", "face-alignment")


class Landmarker(Protocol):
    """A face detector and a point predictor."""

    name: str

    def detect(self, frame: npt.NDArray[np.uint8]) -> Box | None:
        """Box of the largest face of a frame (h, w, 3) RGB, in pixels; None if there is none."""

    def points(self, frame: npt.NDArray[np.uint8], box: Box) -> Points:
        """(68, 2) points of the face in the box, in pixels of the frame (h, w, 3) RGB."""


class Backend(Landmarker, Protocol):
    """A landmarker that can also tell whether a face is where one should be."""

    def sees(self, frame: npt.NDArray[np.uint8], box: Box) -> bool:
        """Whether a face is about where the box of a frame (h, w, 3) RGB is: points are fitted to anything."""


@dataclass(frozen=True)
class Track:
    """Points through a clip.

    Args:
        points: (T, 68, 2) float32 pixels of the frames; where no face was found, interpolated in time between the
            frames around (repeated at the ends).
        found: (T,) bool, the frames whose points were seen.
    """

    points: Points
    found: npt.NDArray[np.bool_]

    @property
    def coverage(self) -> float:
        """Share of frames with a face, 0 to 1."""
        return float(self.found.mean())


@cache
def load(name: str) -> Backend:
    """The backend of that name, loaded once a process.

    Args:
        name: "dlib" (works offline: HOG detector and 68-point regression trees), or "face-alignment" (S3FD and
            2D-FAN-4; its weight files must be present).

    Raises:
        ValueError: Unknown name.
        FileNotFoundError: The weight files are absent; nothing is downloaded.
        ModuleNotFoundError: The backend's package is not installed.
    """
    if name == "dlib":
        return _Dlib()
    if name == "face-alignment":
        return _FaceAlignment()
    raise ValueError(f"unknown landmark backend {name!r}; known are {', '.join(NAMES)}")


# Box from points, fitted by least squares on 484 detections (dlib's HOG detector, upsample 0, grey) in 44 GRID clips
# of 13 speakers, each speaker with equal weight: center = mean point + (0, _RISE * spread), side = _SIDE * spread,
# where spread is the root mean square distance of the points from their mean. Residuals (root mean square, boxes of
# 103 to 149 px): side 9.4 px, center 3.0 px across and 3.7 px down. The detector's own boxes come in steps of 6/5 in
# size (a pyramid), which is nearly all of the 9.4 px; further features (extents, eyes, nose, mouth apart) did not
# lower it for unseen speakers.
_SIDE: Final = 2.860
_RISE: Final = -0.0746
_AROUND: Final = 0.3  # sides of the last box, on each side of it, in which the detector looks first
_CELL: Final = 10  # px of a picture's cells whose means are looked at for structure
_SPAN: Final = 8  # grey levels between the darkest and the brightest cell of a picture that shows anything
_COARSE: Final = 0.15  # share of the variance that such a picture has between cells
# Smallest box around the 68 points, relative to center and side of that box: what 2D-FAN was trained to be given.
_POINTS_BOX: Final = (-0.441, -0.400, 0.444, 0.540)


def box_of(points: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The box that dlib's detector would return for a face with these points; it moves without the detector's steps.

    Args:
        points: (..., 68, 2) pixels.

    Returns:
        (..., 4) left, top, right, bottom in pixels.
    """
    points = np.asarray(points, np.float64)
    mean = points.mean(-2)  # (..., 2)
    spread = np.sqrt(((points - mean[..., None, :]) ** 2).sum(-1).mean(-1))[..., None]  # (..., 1)
    center = mean + spread * (0.0, _RISE)
    half = spread * (_SIDE / 2)
    return np.concatenate([center - half, center + half], -1)


def track(frames: Sequence[npt.NDArray[np.uint8]], landmarker: Landmarker, every: int = 15) -> Track:
    """Follow the largest face through a clip.

    The detector looks at every 15th frame, first around the last face (half the time), then at all of it; its boxes are
    made steady by `box_of` and interpolated in time, and points are predicted on every frame inside them. Predictors
    return points on empty background too, so in between, every 5th frame is checked (`_holds`) and looked at where in
    doubt. Around a frame without a face, and around a jump, the detector looks at every frame.

    Args:
        frames: T frames (h, w, 3) RGB.
        landmarker: From `load`.
        every: Frames between two looks of the detector.

    Returns:
        Points of all frames, and on which of them a face was found.

    Raises:
        ValueError: No frames, or no face in any frame that was looked at.
    """
    total = len(frames)
    if total == 0:
        raise ValueError("no frames to find a face in")
    boxes: dict[int, npt.NDArray[np.float64] | None] = {}

    def look(first: int, last: int, near: npt.NDArray[np.float64] | None = None) -> None:
        for k in range(max(0, first), min(total, last + 1)):
            if k not in boxes:
                seen = _detect(landmarker, frames[k], near)
                boxes[k] = None if seen is None else box_of(landmarker.points(frames[k], seen))

    probes = range(0, total, every)
    for k in probes:
        look(k, k, boxes.get(k - every))
    if all(box is None for box in boxes.values()):
        raise ValueError(f"no face found in any of {len(probes)} probed frames")
    for k in [k for k in probes if boxes[k] is None]:
        look(k - every + 1, k + every - 1)
    step = max(1, every // 3)
    assumed = _between(boxes, total)
    for k in range(0, total, step):
        if k not in boxes and not _holds(landmarker, frames[k], assumed[k]):
            look(k, k)
            box = boxes[k]
            if box is None or _shift(box, assumed[k]) > 0.3:
                look(k - every + 1, k + every - 1)

    assumed = _between(boxes, total)
    found = np.array([boxes.get(k, assumed[k]) is not None for k in range(total)])
    points = np.zeros((total, 68, 2), np.float32)
    for k in np.flatnonzero(found).tolist():
        points[k] = landmarker.points(frames[k], _box(assumed[k]))
    for k in np.flatnonzero(found & _disagree(points, assumed)).tolist():
        again = landmarker.detect(frames[k])
        if again is None:
            found[k] = False
        else:
            points[k] = landmarker.points(frames[k], _box(box_of(landmarker.points(frames[k], again))))
    if not found.any():
        raise ValueError(f"no face found in any of {len(probes)} probed frames that its points agree with")
    seen, missing = np.flatnonzero(found), np.flatnonzero(~found)
    for column in points.reshape(total, -1).T:
        column[missing] = np.interp(missing, seen, column[seen])
    return Track(points, found)


def _detect(landmarker: Landmarker, frame: npt.NDArray[np.uint8], near: npt.NDArray[np.float64] | None) -> Box | None:
    """The face around the box `near` if there is one, else the largest of the frame."""
    if near is not None:
        height, width = frame.shape[:2]
        left, top, right, bottom = near
        margin = _AROUND * (right - left)
        x0, y0 = max(0, int(left - margin)), max(0, int(top - margin))
        x1, y1 = min(width, int(right + margin)), min(height, int(bottom + margin))
        if min(x1 - x0, y1 - y0) > 1.4 * (right - left):  # the face is not half outside the frame
            found = landmarker.detect(np.ascontiguousarray(frame[y0:y1, x0:x1]))
            if found is not None:
                return found[0] + x0, found[1] + y0, found[2] + x0, found[3] + y0
    return landmarker.detect(frame)


def _between(boxes: dict[int, npt.NDArray[np.float64] | None], total: int) -> npt.NDArray[np.float64]:
    """Drop false alarms from the boxes of some frames and interpolate the rest in time: (T, 4)."""
    _drop_strays(boxes)
    hits = {k: box for k, box in sorted(boxes.items()) if box is not None}
    sides = np.stack(list(hits.values()), 1)  # (4, hits)
    return np.stack([np.interp(np.arange(total), list(hits), side) for side in sides], -1)


def _holds(landmarker: Landmarker, frame: npt.NDArray[np.uint8], box: npt.NDArray[np.float64]) -> bool:
    """Whether there still is a face in the box.

    Given a box a fifth too large, a predictor shrinks back to a face (to 0.96 to 1.06 times the right box on GRID, 98
    % of frames), but on background, noise or half a face it fills what it was given (1.11 to 1.4 times).
    """
    margin = 0.1 * (box[2:] - box[:2])
    wanted = box_of(landmarker.points(frame, _box(np.concatenate([box[:2] - margin, box[2:] + margin]))))
    return bool(_stretch(wanted, box) < np.log(1.1) and _shift(wanted, box) < 0.15)


def _drop_strays(boxes: dict[int, npt.NDArray[np.float64] | None]) -> None:
    """Take out boxes whose size or place does not fit the box in the middle of all: false alarms in the background."""
    known = np.stack([box for box in boxes.values() if box is not None])
    usual = known[np.argmin(_shift(known, np.median(known, 0)))]  # one of the boxes, so that one stays
    for k, box in boxes.items():
        if box is not None and (_shift(box, usual) > 1.5 or abs(_stretch(box, usual)) > np.log(1.7)):
            boxes[k] = None


def _disagree(points: Points, boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """(T,) frames whose points want a box that is shifted by 15 % of its side or 25 % larger or smaller."""
    wanted = box_of(points)
    far = _shift(wanted, boxes) > 0.15
    return np.asarray(far | (np.abs(_stretch(wanted, boxes)) > np.log(1.25)), np.bool_)


def _shift(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Distance of the centers of boxes (..., 4) in sides of `b`."""
    centers = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    return np.asarray(np.linalg.norm(centers, axis=-1) / (b[..., 2] - b[..., 0]))


def _stretch(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithm of how much larger boxes `a` are than `b`, (..., 4)."""
    return np.asarray(np.log(np.maximum(a[..., 2] - a[..., 0], 1e-6) / np.maximum(b[..., 2] - b[..., 0], 1e-6)))


def _there(found: npt.NDArray[np.float64], box: npt.NDArray[np.float64]) -> bool:
    """Whether a detection is about as large as a box, and about there."""
    return bool(_shift(found, box) < 0.35 and abs(_stretch(found, box)) < np.log(1.5))


def structured(frame: npt.NDArray[np.uint8]) -> bool:
    """Whether a frame shows anything beyond a plain color and fine texture; what it shows, nobody can tell.

    Means over cells of 10x10 px must span 8 grey levels, and hold 15 % of the variance of the pixels. On 80 mouths of
    GRID's speakers (80x160 and 84x84 px; as they are, at a twelfth of the size, blurred, with noise of 25 levels, at 40
    % of the brightness) the cells spanned at least 20 levels and held at least 32 %; of noise they hold 1 %, of grass
    and gravel 7 to 36 %, of a brick wall 20 to 54 %, of plain pictures they span nothing.

    Args:
        frame: (h, w, 3) RGB at the scale of the canonical picture.
    """
    import cv2

    grey = _grey(np.ascontiguousarray(frame))
    cells = [max(1, round(size / _CELL)) for size in grey.shape[::-1]]
    means = cv2.resize(grey.astype(np.float32), cells, interpolation=cv2.INTER_AREA)
    return bool(np.ptp(means) >= _SPAN and means.var() >= _COARSE * grey.var())


def _box(values: npt.NDArray[np.float64]) -> Box:
    left, top, right, bottom = values.tolist()
    return left, top, right, bottom


def _grey(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    import cv2

    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


class _Dlib:
    """HOG detector and 68-point predictor of dlib, the latter looked at through an enlarged, sub-pixel crop.

    dlib returns whole pixels and reads single pixels. Given the face enlarged so that its box is `_CROP` px wide, the
    same predictor on GRID faces (boxes of 103 to 149 px) jitters a third less from frame to frame (0.32 to 0.22 px)
    and answers a shift of the picture by part of a pixel with half the error (0.74 to 0.33 px), for a quarter more
    time. Own choice.
    """

    name = "dlib"
    _CROP: Final = 320  # px of the enlarged box
    _MARGIN: Final = 0.2  # of the box's side, around it
    _LONGEST: Final = 640  # px: larger frames are reduced for the detector
    _AT_MOST: Final = 1280  # px: no frame is enlarged beyond that for the detector
    # Side of a box, px, in which a face is looked for that should be there: the detector's own window has 80. In 120
    # faces of GRID's speakers (as they are, at 24x24 px, with a Gaussian of 6 px, with noise of 25 levels, at a quarter
    # of the brightness) the score is at least 0.38, in 120 rendered ones 1.7; in some 4,000 pictures without a face
    # (noise of all sizes, walls, textures, text, cats, shuffled faces) at most -0.45, in faces upside down -0.38.
    _SEEN: Final = 75
    _SCORE: Final = -0.25

    def __init__(self) -> None:
        import dlib

        self._detector = dlib.get_frontal_face_detector()
        self._predictor = dlib.shape_predictor(str(_predictor_file()))
        self._rectangle = dlib.rectangle

    def detect(self, frame: npt.NDArray[np.uint8]) -> Box | None:
        import cv2

        grey = _grey(frame)  # faces are found at least as often as in color, in less time
        longest = max(grey.shape)
        scale = min(1.0, self._LONGEST / longest)
        if scale < 1:
            grey = np.asarray(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        for upsample in range(3):  # each step finds faces of half the size, at four times the cost
            if upsample and max(grey.shape) * 2**upsample > self._AT_MOST:
                break
            found = self._detector(grey, upsample)
            if len(found):
                largest = max(found, key=lambda box: box.area())
                sides = np.array([largest.left(), largest.top(), largest.right(), largest.bottom()], np.float64)
                return _box((sides + 0.5) / scale - 0.5)
        return None

    def sees(self, frame: npt.NDArray[np.uint8], box: Box) -> bool:
        import cv2

        wanted = np.array(box, np.float64)
        scale = self._SEEN / max(wanted[2] - wanted[0], 1.0)
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        grey = cv2.resize(_grey(np.ascontiguousarray(frame)), None, fx=scale, fy=scale, interpolation=way)
        found, _, _ = self._detector.run(grey, 0, self._SCORE)
        sides = [np.array([f.left(), f.top(), f.right(), f.bottom()], np.float64) for f in found]
        return any(_there((side + 0.5) / scale - 0.5, wanted) for side in sides)

    def points(self, frame: npt.NDArray[np.uint8], box: Box) -> Points:
        import cv2

        left, top, right, bottom = box
        height, width = frame.shape[:2]
        side = max(right - left, bottom - top, 1.0)
        margin = self._MARGIN * side
        x0, y0 = (min(max(int(v - margin), 0), size - 1) for v, size in ((left, width), (top, height)))
        x1, y1 = (min(max(int(v + margin), 1), size) for v, size in ((right, width), (bottom, height)))
        crop = _grey(np.ascontiguousarray(frame[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]))
        size = np.array(crop.shape[::-1])
        enlarged = np.maximum(np.rint(size * (self._CROP / side)), 1).astype(int)
        crop = np.asarray(cv2.resize(crop, enlarged.tolist(), interpolation=cv2.INTER_LINEAR), np.uint8)
        zoom, corner = enlarged / size, np.array([x0, y0])
        inner = (np.array([(left, top), (right, bottom)]) - corner + 0.5) * zoom - 0.5
        shape = self._predictor(crop, self._rectangle(*np.rint(inner).astype(int).ravel().tolist()))
        found = np.array([(p.x, p.y) for p in shape.parts()], np.float64)  # (68, 2) pixels of the crop
        return np.asarray((found + 0.5) / zoom - 0.5 + corner, np.float32)


def _predictor_file() -> Path:
    """The 68-point model of dlib inside a package that is found but not imported: importing it needs pkg_resources."""
    package = importlib.util.find_spec("face_recognition_models")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("landmarks 'dlib' need a package: pip install face_recognition_models")
    path = Path(package.origin).parent / "models" / "shape_predictor_68_face_landmarks.dat"
    if not path.is_file():
        raise FileNotFoundError(f"landmarks 'dlib' need {path}; reinstall the package face_recognition_models")
    return path


class _FaceAlignment:
    """The package face-alignment: S3FD detector and 2D-FAN-4 heat maps. Unverified with its real weights."""

    name = "face-alignment"
    # File names from face-alignment 1.5.0, api.py and detection/sfd/sfd_detector.py.
    _FILES: Final = ("2DFAN4-11f355bf06.pth.tar", "s3fd-619a316812.pth")

    def __init__(self) -> None:
        import torch

        folder = Path(torch.hub.get_dir()) / "checkpoints"
        absent = [name for name in self._FILES if not (folder / name).is_file()]
        if absent:
            raise FileNotFoundError(
                f"landmarks 'face-alignment' need {' and '.join(absent)} in {folder}; get them from "
                "https://www.adrianbulat.com/downloads/python-fan/ or use the backend 'dlib'"
            )
        import face_alignment

        self._net: Any = face_alignment.FaceAlignment(
            face_alignment.LandmarksType.TWO_D,
            device="cuda" if torch.cuda.is_available() else "cpu",
            compile=False,  # compiling needs a C++ compiler and writes to the home folder
        )

    def detect(self, frame: npt.NDArray[np.uint8]) -> Box | None:
        found = self._net.face_detector.detect_from_image(frame.copy())
        if len(found) == 0:
            return None
        largest = max(found, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        return _box(box_of(self._predict(frame, np.asarray(largest[:4], np.float64))))

    def sees(self, frame: npt.NDArray[np.uint8], box: Box) -> bool:
        found = self.detect(np.ascontiguousarray(frame))
        return found is not None and _there(np.array(found, np.float64), np.array(box, np.float64))

    def points(self, frame: npt.NDArray[np.uint8], box: Box) -> Points:
        left, top, right, bottom = box
        center = np.array([left + right, top + bottom] * 2) / 2
        return self._predict(frame, center + np.array(_POINTS_BOX) * (right - left))

    def _predict(self, frame: npt.NDArray[np.uint8], box: npt.NDArray[np.float64]) -> Points:
        return np.asarray(self._net.get_landmarks_from_image(frame, detected_faces=[box])[0], np.float32)
