"""Views of the videos of a batch, each made at most once: what metrics and observers look at."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipbench.media import geometry, landmarks
from lipbench.scoring.base import finite
from lipbench.scoring.observers import Observer
from lipbench.types import ClipBatch, View

MOUTH: Final = View("mouth", 80, 160)
"""What the way "mouth" scores: full size, whatever the model makes."""


_SLACK: Final = 1e-3  # how far outside [0, 1] rounding may lead a model


class VideoViews:
    """One video of a batch, seen in every way that metrics ask for, each made at most once and kept as long as this.

    A clip of 75 frames holds up to 140 MB here: let go of a take before the next one is scored.

    Args:
        scene: The clips it belongs to.
        native: (B, T, 3, h, w) float in [0, 1], in the scene's view.
        length: (B,) valid frames.
        cacheable: Every test over these clips sees it again, so that observations are worth keeping on disk.
        whole: (B, T, 3, 224, 224) uint8 whole frames; None where the video has none.
    """

    def __init__(
        self,
        scene: "ReferenceBatch",
        native: Tensor,
        length: Tensor,
        cacheable: bool = False,
        whole: Tensor | None = None,
    ) -> None:
        self.scene = scene
        self.whole = whole
        self.native = native
        self.length = length
        self.cacheable = cacheable
        self._observed: dict[str, Any] = {}
        self._pasted: dict[int, Tensor] = {}

    @property
    def shown(self) -> View | None:
        """The view that was made and stands in the reference's pictures; None for the reference itself."""
        return self.scene.view

    def pictures(self, way: str) -> Tensor:
        """Float pictures in [0, 1]: "native" (B, T, 3, h, w) or "mouth" (B, T, 3, 80, 160)."""
        return self.native if way == "native" else self.mouth

    def observe(self, name: str) -> Any:  # noqa: ANN401 - points, embeddings or texts
        """What an observer found: (B, T, ...) float, NaN where nothing was found and on padding; or B texts."""
        if name not in self._observed:
            rows = [self.scene.observers[name].observe(ClipView(self, k)) for k in range(len(self.native))]
            self._observed[name] = self._stacked(rows) if isinstance(rows[0], Tensor) else rows
        return self._observed[name]

    def _stacked(self, rows: Sequence[Any]) -> Tensor:
        found: Tensor = rows[0].new_full((len(rows), self.native.shape[1], *rows[0].shape[1:]), torch.nan)
        for row, clip in zip(found, rows, strict=True):
            row[: len(clip)] = clip
        return found

    @cached_property
    def broken(self) -> Tensor:
        """(B, T) bool, frames with a value that is not finite."""
        return ~finite(self.native)

    @cached_property
    def _scaled(self) -> Tensor:
        """(B, T, 3, h', w') native pictures at the scale of the canonical picture."""
        return geometry.resize(self.native, self.scene.box.size)

    @cached_property
    def mouth(self) -> Tensor:
        """(B, T, 3, 80, 160): the mouth of the canonical picture after pasting."""
        try:
            return geometry.change_view(self._scaled, self.scene.box, MOUTH)
        except ValueError:  # the view is smaller than the mouth: around it stands the reference
            around = torch.stack([self._around(row) for row in range(len(self.native))])
            return geometry.overlay(geometry.crop(around, MOUTH).float() / 255, MOUTH, self._scaled, self.scene.box)

    def canonical(self, row: int) -> Tensor:
        """(T, 3, 352, 320) uint8: the reference's canonical pictures of a clip with this video pasted in.

        Colors of a pixel lie side by side in memory, as what looks at them wants.
        """
        if row not in self._pasted:
            around = self._around(row).contiguous(memory_format=torch.channels_last)
            self._pasted[row] = geometry.paste(around, self._pixels(row), self.scene.box)
        return self._pasted[row]

    def on_guide(self, row: int) -> Tensor:
        """(T, 3, 352, 320) uint8: the reference's first canonical picture throughout, with this video pasted in."""
        pixels = self._pixels(row)
        return geometry.paste(self.scene.face[row, :1].expand(len(pixels), -1, -1, -1), pixels, self.scene.box)

    def _pixels(self, row: int) -> Tensor:
        """(T, 3, h', w') uint8 pixels of a clip in the scene's view, at the scale of the canonical picture."""
        return self._scaled[row].nan_to_num(0).mul_(255).round_().clamp_(0, 255).to(torch.uint8)

    def _around(self, row: int) -> Tensor:
        """(T, 3, 352, 320) uint8 canonical pictures of the reference; the last one stays if this video is longer."""
        return _held(self.scene.face[row], self.native.shape[1])


class _Reference(VideoViews):
    """The true video: its pictures come from the canonical picture as they are."""

    @property
    def shown(self) -> View | None:
        """None: nothing was made."""
        return None

    @cached_property
    def mouth(self) -> Tensor:
        """(B, T, 3, 80, 160)."""
        return geometry.crop(self.scene.face, MOUTH).float() / 255

    def canonical(self, row: int) -> Tensor:
        """(T, 3, 352, 320) uint8."""
        return self.scene.face[row]

    def _pixels(self, row: int) -> Tensor:
        """(T, 3, h', w') uint8."""
        return geometry.crop(self.scene.face[row], self.scene.box)


@dataclass(frozen=True)
class ClipView:
    """One clip of a video as an observer sees it.

    Args:
        take: The videos of a batch.
        row: Which clip.
    """

    take: VideoViews
    row: int

    @property
    def cacheable(self) -> bool:
        """Whether other tests see this video again, so that observations of it are worth keeping on disk."""
        return self.take.cacheable

    @property
    def shown(self) -> View | None:
        """The view that was generated; None for the reference itself."""
        return self.take.shown

    @property
    def length(self) -> int:
        """Valid frames."""
        return int(self.take.length[self.row])

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """(T, 4) boxes around the reference's landmarks, NaN in broken frames."""
        scene = self.take.scene
        points = scene.batch["landmarks"][self.row, : int(scene.reference.length[self.row])]
        boxes = np.array(landmarks.box_of(_held(points, self.length).cpu().numpy()), np.float32)  # (T, 4)
        boxes[self.broken.cpu().numpy()] = np.nan
        return boxes

    @property
    def broken(self) -> Tensor:
        """(T,) bool, frames with a value that is not finite."""
        return self.take.broken[self.row, : self.length]

    @property
    def canonical(self) -> npt.NDArray[np.uint8]:
        """(T, 352, 320, 3) canonical frames."""
        return self._last_channels(self.take.canonical(self.row))

    @property
    def on_guide(self) -> npt.NDArray[np.uint8]:
        """(T, 352, 320, 3) canonical frames whose surroundings are those of the reference's first one."""
        return self._last_channels(self.take.on_guide(self.row))

    def _last_channels(self, pictures: Tensor) -> npt.NDArray[np.uint8]:
        """(N, 3, h, w) -> the valid frames (T, h, w, 3)."""
        return np.asarray(pictures[: self.length].permute(0, 2, 3, 1).contiguous().cpu().numpy())

    @property
    def whole(self) -> Tensor:
        """(T, 3, 224, 224) float in [0, 1], whole frames.

        Raises:
            ValueError: The video has none.
        """
        if self.take.whole is None:
            raise ValueError("the video shows no whole frames, and its reference does")
        return self.take.whole[self.row, : self.length].float() / 255

    def pictures(self, view: View) -> Tensor:
        """(T, 3, view.height, view.width) float in [0, 1]."""
        return geometry.crop(self.take.canonical(self.row)[: self.length], view).float() / 255

    @property
    def sound(self) -> Tensor:
        """(S,) audio at 16,000 samples a second."""
        batch = self.take.scene.batch
        return batch["sound"][self.row, : int(batch["sound_len"][self.row])]

    @property
    def text(self) -> str:
        """What is said in the clip."""
        return self.take.scene.batch["text"][self.row]

    @property
    def fps(self) -> float:
        """Frames a second."""
        return float(self.take.scene.batch["fps"][self.row])

    def cached(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What `make` returns, made once for all videos of a clip."""
        known = self.take.scene.known
        if (name, self.row) not in known:
            known[name, self.row] = make()
        return known[name, self.row]


def _held(frames: Tensor, count: int) -> Tensor:
    """The first `count` of frames (T, ...); after the last of them it is repeated."""
    if count <= len(frames):
        return frames[:count]
    return torch.cat([frames, frames[-1:].expand(count - len(frames), *frames.shape[1:])])


class ReferenceBatch:
    """The clips of one batch, against which videos are scored.

    Args:
        batch: With `video` in the model's view and, unless the store is packed, `face` and `landmarks`.
        view: The model's view.
        observers: From `Bank`.
    """

    def __init__(self, batch: ClipBatch, view: View, observers: Mapping[str, Observer]) -> None:
        self.batch = batch
        self.view = view
        self.observers = observers
        top, left, bottom, right = geometry.box(view.name)
        self.box = View(view.name, bottom - top, right - left)
        """The view at the scale of the canonical picture."""
        self.known: dict[tuple[str, int], Tensor] = {}
        """What observers made once for all videos of a clip: (name, row of the batch) -> tensor."""
        # Weak, for else the two hold each other, and 100 MB a clip wait for the collector of cycles.
        own = cast(ReferenceBatch, weakref.proxy(self))
        self.reference: VideoViews = _Reference(
            own, batch["video"].float(), batch["video_len"], cacheable=True, whole=batch.get("whole")
        )

    @property
    def face(self) -> Tensor:
        """(B, T, 3, 352, 320) uint8 canonical pictures of the reference."""
        return self.batch["face"]

    def take(
        self, video: Tensor, length: Tensor | None = None, cacheable: bool = False, whole: Tensor | None = None
    ) -> VideoViews:
        """A video made for these clips.

        Args:
            video: (B, N, 3, h, w) float in [0, 1] in the scene's view; padded to the reference's T frames if shorter.
            length: (B,) valid frames; None means the reference's.
            cacheable: See `VideoViews`.
            whole: See `VideoViews`.

        Raises:
            ValueError: Size or range is not what the view says.
        """
        if tuple(video.shape[-3:]) != (3, *self.view.size):
            got, wanted = tuple(video.shape[-3:]), (3, *self.view.size)
            raise ValueError(f"generated frames have shape {got}; the view {self.view} needs {wanted}")
        video = video.detach().float()
        low, high = video.aminmax() if video.numel() else (video.new_zeros(()), video.new_ones(()))
        if low < -_SLACK or high > 1 + _SLACK:  # False for NaN, which metrics leave undefined
            raise ValueError(f"generated frames lie in [{low:.3f}, {high:.3f}]; a model returns frames in [0, 1]")
        frames = self.reference.native.shape[1]
        if video.shape[1] < frames:
            video = torch.cat([video, video.new_zeros(len(video), frames - video.shape[1], *video.shape[2:])], 1)
        if not (low >= 0 and high <= 1):
            video = video.clamp(0, 1)
        video = video.to(self.reference.native.device)
        own = self.reference.length if length is None else length.to(self.reference.length.device)
        return VideoViews(self, video, own, cacheable, whole)
