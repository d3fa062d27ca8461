"""Expensive looks at a video that several metrics share: each is made once, and those of videos that recur are kept."""

import hashlib
import os
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipbench.media import landmarks
from lipbench.metrics._base import Unavailable


class Clip(Protocol):
    """What an observer may ask of one clip."""

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """(T, 4) left, top, right, bottom of the reference's face in canonical pixels."""
        ...

    @property
    def canonical(self) -> npt.NDArray[np.uint8]:
        """(T, 352, 320, 3) RGB canonical pictures, valid frames only."""
        ...

    @property
    def recurs(self) -> bool:
        """Worth keeping on disk: every test over the same corpus looks at it again."""
        ...


class Observer(Protocol):
    """Turns the pictures of one clip into what metrics compare."""

    judge: str
    """Name and version: scores by different judges are not compared."""

    def observe(self, clip: Clip) -> Tensor:
        """Observe one clip: (T, ...) float32, NaN where nothing was found."""
        ...


class Landmarks:
    """68 points on every frame, looked for in the reference's face box for both videos: a mouth crop has no face.

    Args:
        backend: "dlib" or "face-alignment".
        cache: Folder that keeps the points of videos that recur, by the hash of their pixels; None keeps nothing.

    Raises:
        Unavailable: The backend or its weights are missing.
    """

    _PACKAGES = {"dlib": "dlib-bin", "face-alignment": "face-alignment"}  # noqa: RUF012

    def __init__(self, backend: str = "dlib", cache: Path | None = None) -> None:
        try:
            self._landmarker = landmarks.load(backend)
        except (ImportError, OSError, RuntimeError) as error:
            raise Unavailable(f"68-point landmarks cannot be found: {error}") from error
        self.judge = f"{backend} {metadata.version(self._PACKAGES[backend])}"
        self._cache = cache

    def observe(self, clip: Clip) -> Tensor:
        """Points (T, 68, 2) float32 in canonical pixels."""
        pictures, boxes = clip.canonical, clip.boxes
        if self._cache is None or not clip.recurs:
            return torch.from_numpy(self._points(pictures, boxes))
        digest = hashlib.sha256(np.ascontiguousarray(pictures).data)
        digest.update(np.ascontiguousarray(boxes, np.float32).data)
        path = self._cache / "landmarks" / self.judge.replace(" ", "-") / f"{digest.hexdigest()[:32]}.npy"
        if path.is_file():
            return torch.from_numpy(np.load(path))
        points = self._points(pictures, boxes)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".tmp")  # other processes may write the same clip
        with os.fdopen(handle, "wb") as stream:
            np.save(stream, points)
        Path(aside).replace(path)
        return torch.from_numpy(points)

    def _points(self, pictures: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        points = np.full((len(pictures), 68, 2), np.nan, np.float32)
        # One thread: dlib holds the interpreter's lock.
        for k, (picture, box) in enumerate(zip(pictures, boxes, strict=True)):
            if np.isfinite(box).all():
                points[k] = self._landmarker.points(picture, box)
        return points
