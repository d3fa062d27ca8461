"""A face in a picture or a video is made to speak: found, followed, generated, and put back into every frame.

A picture is a video of one frame. Videos are decoded as often as they are looked at (once to follow the face, again to
make the frames) and never held as a whole, so that memory does not grow with their length. Only of a model whose frames
depend on the whole clip (its `context` is None) are all faces held, in the model's own small view.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipbench.errors import UsageError
from lipbench.generation.talking import FPS, STEP, Speech, in_pieces
from lipbench.media import geometry, images, landmarks, video
from lipbench.media.landmarks import Box, Landmarker, Points, Track
from lipbench.media.video import Frame
from lipbench.types import View

if TYPE_CHECKING:
    from lipbench.training.generative import GenerativeModel

# Own choices.
_PROBE: Final = 5  # frames between two looks for the first face
_MOST: Final = 16  # faces that are looked for in a frame
_NEAR: Final = 0.75  # sides of its box by which a face may move between two looks and still be the same
_BYTES: Final = 128 << 20  # of decoded frames held at once
_HOLD: Final = 12  # frames, half a second: by so much a video may be shorter without starting again
_BORDER: Final = 32  # canonical pixels over which made pixels fade into the frame
_JAW: Final = (26, 14)  # canonical pixels inside and outside of the jaw line over which they do so there
_REACH: Final = 16.0  # canonical pixels: sigma over which colors are compared across the border
_OTHER: Final = 12.0  # levels of 255 beside the usual difference that tell another thing from another color
_OVERALL: Final = 0.02  # weight of the mean difference beside those nearby: it counts where there are none
_SAME_RATE: Final = 5e-4  # 29.97 and 30 frames a second are two rates


# -------------------------------------------------------------------------------------------------- what is dubbed


@dataclass(frozen=True)
class Target:
    """What shall speak.

    Args:
        path: Its file.
        frames: Starts the frames, (h, w, 3) RGB at `FPS`, from the beginning.
        expected: How many these are, as the file's head says; None if it does not.
    """

    path: Path
    frames: Callable[[], Iterator[Frame]]
    expected: int | None


def picture(path: Path) -> Target:
    """An image file as a video of one frame; see `images.read_image` for how it is read, and for the errors."""
    frame = images.read_image(path)
    return Target(path, lambda: iter([frame]), 1)


def film(path: Path) -> Target:
    """A video file, resampled to `FPS` by nearest time; says so if its own rate is another.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no video.
    """
    rate, seconds = video.head(path)
    if abs(rate / FPS - 1) > _SAME_RATE:
        print(f"{path.name} has {rate:.5g} frames a second; {FPS:g} are taken, each the nearest in time")
    return Target(
        path, lambda: video.stream_video(path, FPS), None if seconds is None else max(1, round(seconds * FPS))
    )


# ------------------------------------------------------------------------------------------------------- which face


@dataclass(frozen=True)
class Face:
    """The face that shall speak, where it is seen first.

    Args:
        frame: (h, w, 3) RGB.
        points: (68, 2) its points in pixels of that frame.
        alone: Whether the frame shows no other.
    """

    frame: Frame
    points: Points
    alone: bool


def find(target: Target, landmarker: Landmarker, wanted: int | None, within: int | None) -> Face:
    """The face to be dubbed, in the first frame with one; looks at every 5th. Of several, the largest, and says so.

    Args:
        target: Where.
        landmarker: From `landmarks.load`.
        wanted: Its number, from left to right, from 0.
        within: Frames of the target that will be used at most; None is all.

    Raises:
        ValueError: No face in any of these frames.
        UsageError: There are not so many; the message lists them.
    """
    for k, frame in enumerate(itertools.islice(target.frames(), within)):
        boxes = sorted(_faces(landmarker, frame)) if k % _PROBE == 0 else []
        if boxes:
            break
    else:
        where = (
            f" ({frame.shape[1]}x{frame.shape[0]})" if k == 0 else f" in any of the frames looked at (1 of {_PROBE})"
        )
        raise ValueError(
            f"no face found in {target.path}{where}: it must be frontal, upright and at least 80 pixels wide"
        )
    largest = max(range(len(boxes)), key=lambda i: (boxes[i][2] - boxes[i][0]) * (boxes[i][3] - boxes[i][1]))
    listed = ", ".join(
        f"face {i} at x {left:.0f} y {top:.0f}, {right - left:.0f} px wide"
        for i, (left, top, right, _) in enumerate(boxes)
    )
    at = f" at {k / FPS:.2f} s" if k else ""
    if wanted is not None and not 0 <= wanted < len(boxes):
        raise UsageError(f"--face {wanted}: {target.path}{at} shows {listed}")
    if wanted is None and len(boxes) > 1:
        print(f"{target.path}{at} shows {listed}. The largest is used, --face {largest}; give another number to change")
    box = boxes[largest if wanted is None else wanted]
    steady = landmarks.box_of(landmarker.points(frame, box)).tolist()  # as in `landmarks.track`
    return Face(frame, landmarker.points(frame, tuple(steady)), len(boxes) == 1)


def _faces(landmarker: Landmarker, frame: Frame) -> list[Box]:
    """All faces of a frame, the largest first: each is painted over once it is found."""
    rest = frame.copy()
    found: list[Box] = []
    while len(found) < _MOST and (box := landmarker.detect(rest)) is not None:
        found.append(box)
        left, top, right, bottom = (max(0, round(side)) for side in box)
        rest[top : bottom + 1, left : right + 1] = frame.mean(axis=(0, 1)).astype(np.uint8)
    return found


class _Follower:
    """A landmarker that sees no other face than the one it follows.

    Args:
        landmarker: What finds faces.
        face: Where it was first.
    """

    def __init__(self, landmarker: Landmarker, face: Face) -> None:
        self.name = landmarker.name
        self._landmarker, self._alone = landmarker, face.alone
        self._last = landmarks.box_of(face.points)  # before the frames at hand
        self._place: dict[int, int] = {}
        self._boxes: dict[int, npt.NDArray[np.float64]] = {}

    def track(self, frames: list[Frame]) -> Track:
        """The face in the next frames; `found` is False everywhere if it is not in them."""
        self._place = {id(frame): k for k, frame in enumerate(frames)}
        self._boxes = {-1: self._last}
        try:
            track = landmarks.track(frames, self)
        except ValueError:  # no frame shows the face
            return Track(np.zeros((len(frames), 68, 2), np.float32), np.zeros(len(frames), np.bool_))
        self._last = landmarks.box_of(track.points[np.flatnonzero(track.found)[-1]])
        return track

    def detect(self, frame: Frame) -> Box | None:
        """The face nearest to where it was in the frame nearest in time; in part of a frame, to its middle.

        Where the face was alone in the beginning, the largest one counts if none is near: it may have jumped.
        """
        if id(frame) in self._place:
            k = self._place[id(frame)]
            last = self._boxes[min(self._boxes, key=lambda other: abs(other - k))]
        else:  # what `landmarks.track` cut out around the face
            height, width = frame.shape[:2]
            last = np.array([0.0, 0.0, width, height])
        largest = self._landmarker.detect(frame)
        if largest is None or _apart(largest, last) < _NEAR / 2:
            return largest
        nearest = min(_faces(self._landmarker, frame), key=lambda box: _apart(box, last))
        if _apart(nearest, last) < _NEAR:
            return nearest
        return largest if self._alone else None

    def points(self, frame: Frame, box: Box) -> Points:
        """Points of the face in the box."""
        points = self._landmarker.points(frame, box)
        if id(frame) in self._place:
            self._boxes[self._place[id(frame)]] = landmarks.box_of(points)
        return points


def _apart(box: Box, other: npt.NDArray[np.float64]) -> float:
    """Distance of the centers of two boxes in sides of the first."""
    left, top, right, bottom = box
    x, y = (other[0] + other[2] - left - right) / 2, (other[1] + other[3] - top - bottom) / 2
    return math.hypot(x, y) / max(right - left, 1.0)


def _follow(target: Target, face: Face, landmarker: Landmarker, limit: int) -> Track:
    """Points of the face in the target's frames, `limit` at most; where it is not seen, those of the frames around."""
    from rich.progress import track as shown

    follower = _Follower(landmarker, face)
    count = limit if target.expected is None else min(limit, target.expected)
    frames = shown(itertools.islice(target.frames(), limit), "following the face", total=count, disable=count == 1)
    parts = [follower.track(piece) for piece in _pieces(frames)]
    points = np.concatenate([part.points for part in parts])
    found = np.concatenate([part.found for part in parts])
    seen, missing = np.flatnonzero(found), np.flatnonzero(~found)
    if len(seen) == 0:
        raise ValueError(f"the face seen first in {target.path} could not be followed: it is in no frame that is used")
    for column in points.reshape(len(points), -1).T:  # views: this fills `points`
        column[missing] = np.interp(missing, seen, column[seen])
    return Track(points, found)


def _pieces(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Frames in lists whose memory is bounded; every list but the last holds the same multiple of `STEP`."""
    frames = iter(frames)
    for first in frames:
        size = max(2, min(25, _BYTES // first.nbytes // STEP)) * STEP
        yield [first, *itertools.islice(frames, size - 1)]


# ------------------------------------------------------------------------------------------------------------ frames


class Dubbing:
    """The frames of a dubbed picture or video: an iterator that does the work when it is asked for the first one.

    Args:
        model: What makes faces or mouths.
        target: What shall speak.
        landmarker: What finds faces.
        face: Number of the face, from left to right; None is the largest.
        total: Frames to make, where they are known beforehand.
        speak: Canonical picture (3, 352, 320) uint8 and its landmarks (68, 2) -> what is said with that face.
        lower: Whether only the lower face is put back, the upper one being given to the model: of models that look at
            poses, and of those that put lips into a face.

    Attributes:
        frames: How many were made.
        lost: How many of them show the target unchanged, since no face was found.
        size: (height, width) in pixels.
    """

    def __init__(
        self,
        model: "GenerativeModel",
        target: Target,
        landmarker: Landmarker,
        face: int | None,
        total: int | None,
        speak: Callable[[Tensor, Tensor], Speech],
        *,
        lower: bool,
    ) -> None:
        self._view = model.clip_spec.frames["video"]
        self._mask = lower_face() if lower else geometry.feather(self._view, _BORDER)[0].numpy()
        self._target, self._landmarker, self._face, self._total, self._speak = target, landmarker, face, total, speak
        self.frames = self.lost = 0
        self.size = (0, 0)

    @cached_property
    def _seen_first(self) -> Face:
        """The face where it is seen first."""
        return find(self._target, self._landmarker, self._face, self._total)

    @cached_property
    def speech(self) -> Speech:
        """What is said, which may depend on the face.

        Raises:
            ValueError: No face is found, or what `speak` raises.
            UsageError: The number of the face is too large.
        """
        face = self._seen_first
        aligned = geometry.similarity(face.points[None])  # (1, 2, 3)
        points = torch.from_numpy(geometry.transform_points(face.points[None], aligned)[0]).float()  # (68, 2)
        canonical = torch.from_numpy(geometry.warp([face.frame], aligned)[0]).permute(2, 0, 1)  # (3, 352, 320)
        return self._speak(canonical, points)

    def __iter__(self) -> Iterator[Frame]:
        """(h, w, 3) RGB each.

        Where the target is too short by half a second or less, its last frame stays; otherwise it starts again.

        Raises:
            ValueError: See `speech`; or the face cannot be followed.
            UsageError: The number of the face is too large.
        """
        from rich.progress import track as shown

        speech, face = self.speech, self._seen_first
        self.size = face.frame.shape[0], face.frame.shape[1]
        total = speech.frames
        track = _follow(self._target, face, self._landmarker, total)
        transforms, length = geometry.similarity(track.points), len(track.points)
        name, lasts, needed = self._target.path.name, length / FPS, total / FPS
        hold = length == 1 or total - length <= _HOLD
        if 1 < length < total:
            end = "its last frame stays" if hold else "it starts again"
            print(f"{name} lasts {lasts:.2f} s, less than {needed:.2f} s: {end}")

        def warped(bar: str) -> Iterator[tuple[tuple[list[Frame], npt.NDArray[np.uint8], list[int]], Tensor]]:
            """The target in pieces, as often as needed: frames, canonical frames, places in the track; the views."""
            again = _held(self._target.frames()) if hold else _repeated(self._target.frames)
            first = 0
            for piece in _pieces(shown(itertools.islice(again, total), bar, total=total)):
                places = np.arange(first, first + len(piece))
                places = places.clip(max=length - 1) if hold else places % length
                canonical = geometry.warp(piece, transforms[places])  # (n, 352, 320, 3)
                yield (piece, canonical, places.tolist()), self._seen(canonical)
                first += len(piece)

        whole = in_pieces(speech, warped("making the frames"), lambda: (seen for _, seen in warped("looking at all")))
        for (piece, canonical, places), made in whole:
            for frame, around, pixels, place in zip(piece, canonical, made.clamp(0, 1), places, strict=True):
                self.frames += 1
                if track.found[place]:
                    spoken = matched(around, pixels, self._view, self._mask)
                    yield geometry.paste_into_frame(frame, spoken, transforms[place], self._mask)
                else:
                    self.lost += 1
                    yield frame

    def _seen(self, canonical: npt.NDArray[np.uint8]) -> Tensor:
        """(n, 352, 320, 3) -> (n, 3, h, w) in [0, 1], the model's view."""
        return geometry.crop(torch.from_numpy(canonical).permute(0, 3, 1, 2), self._view).float() / 255


def _held(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Frames, then the last one for ever."""
    for frame in frames:
        yield frame
    while True:
        yield frame


def _repeated(frames: Callable[[], Iterator[Frame]]) -> Iterator[Frame]:
    """Frames, again and again."""
    while True:
        yield from frames()


def lower_face() -> npt.NDArray[np.float32]:
    """What is put back of a face that was made from its upper half, which stays the target's own: a mask.

    It lies in the lower half of the face box, ends around the jaw line of the template and fades to 0 on all sides, so
    that what is behind the face (hair, wall) keeps its sharpness. Own choice.

    Returns:
        (352, 320) in [0, 1].
    """
    import cv2

    top, left, bottom, right = geometry.box("lower_face")
    jaw = np.add(geometry.TEMPLATE[:17], (left, geometry.box("face")[0]))  # (17, 2) x, y
    inside = np.zeros((geometry.HEIGHT, geometry.WIDTH), np.uint8)
    cv2.fillPoly(inside, [np.rint(jaw).astype(np.int32)], 1)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    across = np.clip((depth + _JAW[1]) / sum(_JAW), 0, 1)
    down = np.clip((np.arange(geometry.HEIGHT) - top) / _BORDER, 0, 1)[:, None]
    mask = (0.5 - 0.5 * np.cos(np.pi * across)) * (0.5 - 0.5 * np.cos(np.pi * down))
    mask[bottom:] = mask[:, :left] = mask[:, right:] = 0
    return mask.astype(np.float32)


def matched(
    around: npt.NDArray[np.uint8], pixels: Tensor, view: View, mask: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """Put made pixels into a canonical picture, their colors moved so that none step where the mask fades out.

    Both pictures are known where they fade into each other. Their difference there, averaged by a Gaussian that reaches
    from the border to the middle, is what is added to the made ones. Where it is far from the median one, they show
    different things (a jaw that has moved, and the wall beside it): such pixels hardly count. Own choice.

    Args:
        around: (352, 320, 3) RGB canonical picture of the frame.
        pixels: (3, h, w) in [0, 1], made in `view`.
        view: What `pixels` shows.
        mask: (352, 320) how the result will be blended into the frame.

    Returns:
        (352, 320, 3) RGB.
    """
    import cv2

    picture = torch.from_numpy(around).permute(2, 0, 1) / 255
    made = geometry.paste(picture, pixels, view).permute(1, 2, 0).mul(255).numpy()  # (352, 320, 3)
    ring = 4 * mask * (1 - mask)  # (352, 320), 1 where both count alike
    difference = around - made
    unusual = np.abs(difference - np.median(difference[ring > 0.5], axis=0)).max(2) / _OTHER  # (352, 320)
    weight = (ring / (1 + unusual**2))[..., None]
    known = np.concatenate([weight * difference, weight], axis=-1)
    size = (geometry.WIDTH // 4, geometry.HEIGHT // 4)
    near = cv2.GaussianBlur(cv2.resize(known, size, interpolation=cv2.INTER_AREA), (0, 0), _REACH / 4)
    overall = known[..., :3].sum((0, 1)) / known[..., 3].sum()  # (3,)
    shift = (near[..., :3] + _OVERALL * overall) / (near[..., 3:] + _OVERALL)
    shift = cv2.resize(shift, (geometry.WIDTH, geometry.HEIGHT))
    return np.asarray(np.clip(np.rint(made + shift), 0, 255), np.uint8)
