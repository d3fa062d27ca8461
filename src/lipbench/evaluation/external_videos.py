"""Videos that any system made, beside their references: read, and brought to the same rate, frame and length.

Another frame rate than the reference's is resampled to it by nearest time; where the reference lacks frames (variable
rate), both show its own instants, so that nothing is compared with a frame that is not there. Whole frames must have
the reference's shape (width to height, within 2 %); its own transforms, scaled to their size, bring them to the
canonical picture. Up to `SLACK` frames of difference in length are cut off at the end; beyond that no frame is compared
with a frame, and the video is brought to the canonical picture by its own landmarks. That a video is a crop and not a
whole frame is never guessed.
"""

import hashlib
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lipbench.data import jpeg
from lipbench.data.store import StoredClip
from lipbench.evaluation.pairing import PICTURES, SOUNDS, read_words
from lipbench.media import alignment, audio, decoding, geometry, images, text, timeline, video
from lipbench.media import landmarks as backends
from lipbench.media.timeline import Clock
from lipbench.media.video import Frame
from lipbench.types import View

SLACK: Final = 5
"""Frames by which two videos may differ in length and still be compared frame by frame. Systems that look ahead lose up
to four frames at 25 a second (a fifth of a second of sound in Wav2Lip); own choice."""
SOUND_SLACK: Final = 0.2
"""Seconds by which a sound may end before its pictures without a word: `SLACK` at 25 frames a second; own choice."""
FACE: Final = View("face", geometry.FACE, geometry.FACE)
"""What whole frames are judged in."""
RATE: Final = 16_000
"""Samples a second of the sound that observers hear."""
WHOLE: Final = 224
"""Pixels a side of whole frames that are squeezed to a square."""
EVERY: Final = 15
"""Frames between two looks of the face detector, as in prepared stores."""

POLICY: Final = {
    "frame rate": "the reference's, by nearest time",
    "size": "whole frames of the reference's shape, by its transforms",
    "length": f"cut to the shorter one up to {SLACK} frames of difference, else not compared frame by frame",
    "sound": "each video's own, a generated one without any is judged beside the reference's; a folder of sounds or a "
    "prepared corpus gives one for both",
}
"""As records state it."""

_SHAPE: Final = 0.02  # relative difference of width to height that even sizes of encoders explain
_SAME_RATE: Final = 5e-4  # 29.97 and 30 frames a second are two rates
_LONGEST: Final = 1000  # frames: 40 s at 25 a second, for which scoring takes a few GB
_LARGEST: Final = 4 << 30  # bytes of decoded frames
_SILENT: Final = 1e-3  # peak, full scale 1
_PUNCTUATION: Final = str.maketrans(dict.fromkeys('.,;:!?"', " "))

# ---------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Clip:
    """A decoded video.

    Args:
        frames: (h, w, 3) uint8 RGB each, at `fps`.
        fps: Frames a second of `frames`.
        source_fps: Frames a second of the file; None for pictures, which have none of their own.
        source_frames: Frames of the file.
        start: Seconds at which the first frame is shown, on the clock of the file's sound.
        times: See `video.Video`.
    """

    frames: list[Frame]
    fps: float
    source_fps: float | None
    source_frames: int
    start: float = 0.0
    times: Clock | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.frames[0].shape[:2]
        return height, width


def read(path: Path, fps: float | None = None, pictures_fps: float | None = None, times: Clock | None = None) -> Clip:
    """Decode a video file or a folder of pictures.

    Args:
        path: File, or folder of PNG or JPEG pictures in the order of the numbers in their names.
        fps: Frames a second wanted: frame k is the one nearest in time to k / fps. None takes the source's, constant
            also where the source's varies (`video.read_video`).
        pictures_fps: Frames a second of pictures; default: `fps`.
        times: With `fps`: when the reference shows its frames, if not at a constant rate (`video.Video.times`).

    Raises:
        FileNotFoundError, ValueError: It cannot be used; the message is the reason, on one line.
    """
    if path.is_dir():
        rate = pictures_fps or fps
        if rate is None:
            raise ValueError(f"{path.name} is a folder of pictures, which has no frame rate; --fps gives it")
        frames = _pictures(path)
        count = len(frames)
        if fps is not None and (times is not None or _other(rate, fps)):
            chosen = timeline.nearest(np.arange(count) / rate, 1 / rate, fps, times)
            frames = [frames[k] for k in chosen]
        return Clip(frames, fps or rate, pictures_fps, count)
    _refuse_large(path)
    made = video.read_video(path)
    count, own = len(made.frames), made.fps
    if fps is not None and (times is not None or _other(own, fps)):
        made = video.read_video(path, fps, times)
    if len(made.frames) > _LONGEST:
        raise ValueError(_too_long(len(made.frames)))
    return Clip(made.frames, fps or own, own, count, made.start, made.times)


def _other(rate: float, fps: float) -> bool:
    return abs(rate / fps - 1) > _SAME_RATE


def _too_long(frames: int) -> str:
    return f"{frames} frames are too long to be scored in one piece (at most {_LONGEST}); cut it into shorter clips"


def _refuse_large(path: Path) -> None:
    """Refuse, before it is decoded, what would not fit into memory, as far as the file says.

    Raises:
        FileNotFoundError, ValueError: It cannot be opened, or is too large.
    """
    with decoding.opened(path) as container:
        stream = decoding.picture_stream(container)
        if stream is None or stream.codec_context is None:
            return  # `read_video` says so
        rate = float(stream.average_rate or 0)
        seconds = float(container.duration or 0) / 1e6
        frames = stream.frames or round(seconds * rate)
        height, width = stream.height, decoding.shown_width(stream, stream.width)
        size = 3 * height * width
    if frames * size > _LARGEST:
        raise ValueError(
            f"{frames} frames of {width}x{height} take {frames * size / 2**30:.0f} GB (at most {_LARGEST >> 30}); cut "
            "it into shorter clips"
        )


def _pictures(folder: Path) -> list[Frame]:
    """Frames of a folder, in the order of the numbers in their names."""
    paths = sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith(".")),
        key=lambda path: _natural(path.name),
    )
    if not paths:
        raise ValueError(f"the folder {folder.name} has no pictures")
    if len(paths) > _LONGEST:
        raise ValueError(_too_long(len(paths)))
    frames = []
    for path in paths:
        frames.append(images.read_image(path))
        if frames[-1].shape != frames[0].shape:
            sizes = [f"{frame.shape[1]}x{frame.shape[0]}" for frame in (frames[0], frames[-1])]
            raise ValueError(f"{path.name} is {sizes[1]}, the first picture {sizes[0]}")
        if len(paths) * frames[0].nbytes > _LARGEST:
            raise ValueError(f"{len(paths)} pictures like {path.name} do not fit into {_LARGEST >> 30} GB")
    return frames


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts frame2 before frame10."""
    parts: list[tuple[int, str]] = []
    digits = ""
    for character in f"{name}\0":
        if character in string.digits:
            digits += character
            continue
        if digits:
            parts.append((int(digits), ""))
            digits = ""
        parts.append((-1, character))
    return parts


def read_sound(path: Path | None, start: float | None = None) -> Tensor:
    """Sound of a file, or of the one sound file in a folder of pictures.

    Args:
        path: Sound file, video or folder; None where no file has the clip's name.
        start: `Clip.start` of the same file, if it was read.

    Returns:
        (S,) float32 mono in [-1, 1] at 16,000 samples a second.

    Raises:
        FileNotFoundError, ValueError: There is none, or it is silent throughout.
    """
    if path is None:
        raise ValueError("no sound of this name")
    if path.is_dir():
        files = [inner for inner in path.iterdir() if inner.suffix.lower() in SOUNDS]
        if len(files) != 1:
            raise ValueError(f"{path.name} has {'several sound files' if files else 'no sound'}")
        path, start = files[0], None
    samples, _ = audio.read_audio(path, RATE, start=start)
    if len(samples) == 0 or np.abs(samples).max() < _SILENT:
        raise ValueError(f"the sound of {path.name} is silent throughout")
    return torch.from_numpy(samples)


def read_text(source: str | Path | None) -> tuple[str, list[alignment.Word]]:
    """What is said, lower case with single spaces, sentence punctuation left out; and word times where they are known.

    Args:
        source: The text, or a .txt or .align file; None where nothing has the clip's name.

    Raises:
        FileNotFoundError, ValueError: No such file, no text, or other characters than letters.
    """
    if source is None:
        raise ValueError("no text of this name")
    if isinstance(source, str):
        return text.normalize(source.translate(_PUNCTUATION)), []
    if source.suffix.lower() == ".align":
        words = alignment.read_align(source)
        return text.normalize(" ".join(word.word for word in alignment.spoken(words))), words
    return text.normalize(read_words(source).translate(_PUNCTUATION)), []


# ------------------------------------------------------------------------------------------- the canonical picture


@dataclass(frozen=True)
class Truth:
    """A reference clip of T frames, ready to be compared with.

    Args:
        face: (T, 3, 352, 320) uint8 canonical pictures.
        landmarks: (T, 68, 2) float32 pixels of them.
        transforms: (T, 2, 3) from its frames to the canonical picture.
        size: (height, width) of its frames.
        fps: Frames a second.
        speech: First frame of speech and the one after its last; (0, T) where unknown.
        sound: (S,) float32 mono at 16,000 samples a second; None if there is none.
        text: What is said; None if that is not known.
        sha256: Of the file, or of the clip in its store.
        stored: Its pictures went through the JPEG coder of a prepared store.
        missing: "sound" or "text" -> why it is None.
        times: When its file shows its frames, if not at a constant rate (`video.Video.times`).
        whole: (T, 3, 224, 224) uint8 whole frames, where they were asked for.
    """

    face: Tensor
    landmarks: Tensor
    transforms: npt.NDArray[np.float64]
    size: tuple[int, int]
    fps: float
    speech: tuple[int, int]
    sound: Tensor | None
    text: str | None
    sha256: str
    stored: bool
    missing: dict[str, str]
    times: Clock | None = None
    whole: Tensor | None = None

    def __len__(self) -> int:
        """Frames."""
        return len(self.face)


def from_store(clip: StoredClip) -> Truth:
    """A clip of a prepared store as a reference."""
    return Truth(
        face=torch.from_numpy(clip.pictures(range(clip.n_frames))).permute(0, 3, 1, 2),
        landmarks=torch.from_numpy(clip.landmarks.copy()),
        transforms=clip.transforms,
        size=clip.frame_size,
        fps=clip.fps,
        speech=clip.speech,
        sound=torch.from_numpy(clip.audio(RATE)),
        text=clip.text or None,
        sha256=clip.hash,
        stored=True,
        missing={} if clip.text else {"text": "the corpus has no text for it"},
    )


def from_video(
    path: Path,
    pictures_fps: float | None,
    sound: Path | None,
    said: str | Path | None,
    backend: str,
    whole: bool = False,
) -> Truth:
    """A video as a reference: its face is found, followed and cut out as `lipbench prepare` does.

    Args:
        path: File or folder of pictures.
        pictures_fps: See `read`.
        sound: File of its sound, which may be the video itself; None if there is none.
        said: See `read_text`; None if it is not known.
        backend: Who finds the 68 points.
        whole: Keep whole frames too.

    Raises:
        FileNotFoundError, ValueError: It cannot be used: it is unreadable, or has no face.
    """
    clip = read(path, pictures_fps=pictures_fps)
    points = _followed(clip.frames, backend)
    transforms = geometry.similarity(points)
    total = len(clip.frames)
    heard, what, words, missing = None, None, list[alignment.Word](), dict[str, str]()
    try:
        heard = read_sound(sound, clip.start if sound == path else None)
    except (ValueError, OSError) as error:
        missing["sound"] = str(error)
    try:
        what, words = read_text(said)
    except (ValueError, OSError) as error:
        missing["text"] = str(error)
    if words:
        speech = alignment.speech_frames(words, total, clip.fps)
    else:
        span = audio.speech_span(heard.numpy(), RATE) if heard is not None else None
        timed = [alignment.Word(*span, "speech")] if span else []
        speech = alignment.speech_frames(timed, total, clip.fps)
    face = torch.from_numpy(geometry.warp(clip.frames, transforms)).permute(0, 3, 1, 2)  # (T, 3, 352, 320)
    canonical = torch.from_numpy(geometry.transform_points(points, transforms).astype(np.float32))
    return Truth(
        face,
        canonical,
        transforms,
        clip.size,
        clip.fps,
        speech,
        heard,
        what,
        _sha256(path),
        stored=False,
        missing=missing,
        times=clip.times,
        whole=squeezed(clip.frames) if whole else None,
    )


def squeezed(frames: Sequence[Frame]) -> Tensor:
    """Whole frames (h, w, 3) as squares (T, 3, 224, 224) uint8; bilinear, not antialiased, as in published scripts."""
    squares = []
    for frame in frames:
        pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()  # (1, 3, h, w)
        square = F.interpolate(pixels, (WHOLE, WHOLE), mode="bilinear", align_corners=False)
        squares.append(square.round().to(torch.uint8))
    return torch.cat(squares)


def view_of(clip: Clip, truth: Truth, view: View | None, backend: str) -> tuple[Tensor, int]:
    """The frames of a generated video in the view that it is judged in, beside those of its reference.

    Args:
        clip: Frames at the reference's rate.
        truth: The reference.
        view: What the frames show, at their own size; None for whole frames, as the reference's.
        backend: Who finds the face where the video is too long or too short for the reference's transforms.

    Returns:
        (N, 3, h, w) uint8, and how many frames from the start are compared frame by frame; 0 if none are.

    Raises:
        ValueError: Shape or size do not fit, or no face was found.
    """
    made, total = len(clip.frames), len(truth)
    common = min(made, total) if abs(made - total) <= SLACK else 0
    frames = clip.frames[: common or made]
    if view is not None:
        if clip.size != view.size:
            raise ValueError(f"frames of {_shown(clip.size)}; the first video of this view has {_shown(view.size)}")
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), common
    if not _alike(clip.size, truth.size):
        raise ValueError(
            f"frames of {_shown(clip.size)} cannot show what the reference's {_shown(truth.size)} show: they have "
            "another shape. Crop the reference likewise; --view is for crops out of the canonical picture"
        )
    if common:
        transforms = _scaled(truth.transforms[:common], truth.size, clip.size)
    else:
        transforms = geometry.similarity(_followed(frames, backend))
    pictures = geometry.warp(frames, transforms)  # (N, 352, 320, 3)
    if truth.stored:  # what the store did to its reference
        for picture in pictures:
            jpeg.decode(jpeg.encode(picture), picture)
    return geometry.crop(torch.from_numpy(pictures).permute(0, 3, 1, 2), FACE), common


def crop_view(name: str, size: tuple[int, int]) -> View:
    """A named view at the size of a video that shows it.

    Raises:
        ValueError: There is no such view, or its box has another shape.
    """
    top, left, bottom, right = geometry.box(name)
    if not _alike(size, (bottom - top, right - left)):
        box = _shown((bottom - top, right - left))
        raise ValueError(f"frames of {_shown(size)} cannot show the view {name!r}, whose box is {box}")
    return View(name, *size)


def _alike(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two (height, width) have one shape."""
    return abs(size[1] * other[0] / (size[0] * other[1]) - 1) <= _SHAPE


def _shown(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _scaled(
    transforms: npt.NDArray[np.float64], size: tuple[int, int], other: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Transforms (T, 2, 3) of frames of `size` for the same frames at another (height, width)."""
    factor = np.array([size[1] / other[1], size[0] / other[0]])
    scaled = transforms.copy()
    scaled[..., 2] += transforms[..., :2] @ (0.5 * factor - 0.5)  # pixel centers lie at whole numbers
    scaled[..., :2] *= factor
    return scaled


def _followed(frames: Sequence[Frame], backend: str) -> npt.NDArray[np.float32]:
    """(T, 68, 2) points of the face.

    Raises:
        ValueError: No face, or none in more than a tenth of the frames, as in `lipbench prepare`.
    """
    track = backends.track(frames, backends.load(backend), EVERY)
    if track.coverage < 0.9:
        raise ValueError(f"no face in {1 - track.coverage:.0%} of the frames")
    return track.points


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    inside = sorted(inner for inner in path.iterdir() if inner.is_file()) if path.is_dir() else [path]
    for file in inside:
        digest.update(file.read_bytes())
    return digest.hexdigest()
