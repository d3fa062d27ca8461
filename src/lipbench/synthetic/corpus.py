"""Writes the rendered corpus to a folder, in GRID's layout, with the exact truth beside it.

    root/video/s1/<id>.mpg           MPEG-1, 360x288, 25 frames a second, 75 frames; MP2 sound at 44.1 kHz
    root/alignments/s1/<id>.align    words in GRID's units (1000 = one frame), contiguous
    root/exact/s1/<id>.npz           landmarks (75, 68, 2) float32 px of the frame, iBUG order
                                     opening (75,) float32 px between the inner lips (`opening`)
                                     phones (P,) of (start, end, label), seconds
    root/exact/settings.json         what the corpus was rendered with

Frame k shows the mouth at (k + 0.5) / 25 s, the middle of the time it is on the screen.
"""

import json
import os
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from lipbench.synthetic import looks, voice
from lipbench.synthetic.camera import Camera, Pose, eye_motion, poses
from lipbench.synthetic.face import Face
from lipbench.synthetic.visemes import Phone, Shape, track

FPS: Final = 25
FRAMES: Final = 75
SAMPLE_RATE: Final = 44_100
MAX_SPEAKERS: Final = 64
MAX_CLIPS: Final = 1000
_SECONDS: Final = FRAMES / FPS
_VERSION: Final = 1  # of the pictures and sounds: raised when the same seed gives other ones

# The grammar of GRID (Cooke et al. 2006): a sentence takes one word of each column, its id one letter.
GRAMMAR: Final[tuple[dict[str, str], ...]] = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"},  # w, the only letter of three syllables, is left out
    {
        **{"z": "zero", "1": "one", "2": "two", "3": "three", "4": "four"},
        **{"5": "five", "6": "six", "7": "seven", "8": "eight", "9": "nine"},
    },
    {"a": "again", "n": "now", "p": "please", "s": "soon"},
)


class Truth(NamedTuple):
    """What is known exactly about a clip."""

    landmarks: npt.NDArray[np.float32]  # (T, 68, 2) px of the frame
    opening: npt.NDArray[np.float32]  # (T,) px
    phones: list[Phone]
    words: list[tuple[float, float, str]]  # seconds, without silences


class Clip(NamedTuple):
    """A rendered clip before encoding."""

    frames: npt.NDArray[np.uint8]  # (75, 288, 360, 3) RGB
    samples: npt.NDArray[np.float32]  # (132300,) mono at 44.1 kHz, in [-1, 1]
    truth: Truth


def opening(landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Mean vertical distance between the inner lips (points 61/67, 62/66, 63/65), px; (..., 68, 2) to (...)."""
    gaps = landmarks[..., [67, 66, 65], 1] - landmarks[..., [61, 62, 63], 1]
    return np.asarray(gaps.mean(-1), np.float64)


def sentence_ids(speaker: int, clips: int, seed: int) -> list[str]:
    """The first `clips` sentences of a speaker (from 0). No two speakers share one, however many there are."""
    sizes = [len(column) for column in GRAMMAR]
    order = np.random.default_rng([seed, 3]).permutation(int(np.prod(sizes)))
    picks = order[speaker : speaker + MAX_SPEAKERS * clips : MAX_SPEAKERS]
    columns = [list(column) for column in GRAMMAR]
    return ["".join(c[int(k)] for c, k in zip(columns, np.unravel_index(pick, sizes), strict=True)) for pick in picks]


def word_segments(clip_id: str) -> list[str]:
    """The sentence that a GRID id spells: "bbaf2n" is bin blue at f two now.

    Raises:
        ValueError: The id spells no sentence of GRID.
    """
    if len(clip_id) != len(GRAMMAR) or any(c not in column for c, column in zip(clip_id, GRAMMAR, strict=False)):
        raise ValueError(f"{clip_id!r} spells no GRID sentence; an id looks like 'bbaf2n' (bin blue at f two now)")
    return [column[c] for c, column in zip(clip_id, GRAMMAR, strict=True)]


@lru_cache(maxsize=16)
def _camera(speaker: int, seed: int) -> Camera:
    """A speaker before the camera; kept, since painting a head takes as long as a clip."""
    rng = np.random.default_rng([seed, speaker, 4])
    return Camera(Face(looks.make(speaker, seed), int(rng.integers(2**31))), int(rng.integers(2**31)))


def _speak(words: list[str], look: looks.Look, rng: np.random.Generator) -> voice.Speech:
    """The sentence at this speaker's rate, varied by a few words a minute, and faster if it would not fit."""
    speed = look.voice.speed + int(rng.integers(-6, 7))
    while True:
        speech = voice.speak(words, look.voice._replace(speed=speed))
        if len(speech.samples) / voice.RATE <= _SECONDS - 0.45:
            return speech
        speed += 10


def _sound(speech: voice.Speech, lead: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The clip's sound: the speech after `lead` seconds, in a quiet room."""
    from lipbench.media import audio

    spoken = audio.resample(speech.samples, voice.RATE, SAMPLE_RATE)
    samples = rng.normal(0.0, 4e-4, round(_SECONDS * SAMPLE_RATE)).astype(np.float32)
    start = round(lead * SAMPLE_RATE)
    samples[start : start + len(spoken)] += spoken * np.float32(rng.uniform(0.5, 0.8) / np.abs(spoken).max())
    return np.clip(samples, -1.0, 1.0)


def _loudness(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(75,) loudness of every frame in [0, 1], smoothed over a fifth of a second."""
    power = np.sqrt((samples.reshape(FRAMES, -1) ** 2).mean(1))
    smooth = np.convolve(power, np.hanning(7) / np.hanning(7).sum(), "same")
    return np.asarray(smooth / max(float(smooth.max()), 1e-6), np.float64)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep OpenCV to one thread: workers are the parallelism, and strips of a picture may round differently."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@_one_thread()
def render(speaker: int, clip_id: str, seed: int) -> Clip:
    """Render one clip; it depends on nothing but its arguments.

    Args:
        speaker: Number of the speaker, from 0.
        clip_id: The sentence, spelled as in GRID.
        seed: Of the corpus.
    """
    camera = _camera(speaker, seed)
    look = camera.face.look
    rng = np.random.default_rng([seed, speaker, 5, *clip_id.encode()])
    words = word_segments(clip_id)
    speech = _speak(words, look, rng)

    length = len(speech.samples) / voice.RATE
    lead = 0.12 + float(rng.uniform(0.15, 0.75)) * (_SECONDS - 0.15 - length - 0.12)  # so that both silences vary
    samples = _sound(speech, lead, rng)
    spoken = [Phone(p.start + lead, p.end + lead, p.label) for p in speech.phones]
    phones = [Phone(0.0, spoken[0].start, ""), *spoken, Phone(spoken[-1].end, _SECONDS, "")]

    times = (np.arange(FRAMES) + 0.5) / FPS
    shapes = [Shape(*(float(v) for v in row)) for row in track(phones, times, energy=look.energy)]
    loudness = _loudness(samples)
    path, eyes = poses(camera.face, rng, loudness), eye_motion(rng, loudness)
    seat = Pose(*(float(v) for v in np.mean(path, 0)))
    stage = camera.stage(seat)
    frames = np.stack(
        [
            camera.picture(stage, seat, pose, camera.face.paint(shape, eye), rng)
            for shape, eye, pose in zip(shapes, eyes, path, strict=True)
        ]
    )
    points = np.stack(
        [
            camera.project(camera.face.landmarks(shape, eye), pose)
            for shape, eye, pose in zip(shapes, eyes, path, strict=True)
        ]
    ).astype(np.float32)
    spans = [(start + lead, end + lead, word) for (start, end), word in zip(speech.words, words, strict=True)]
    return Clip(frames, samples, Truth(points, opening(points).astype(np.float32), phones, spans))


def _align_lines(words: list[tuple[float, float, str]]) -> str:
    """The text of an .align file: GRID's units, in steps of 10 ms as there, contiguous, ending at 74500 as there."""
    edges = [0, *(round(start * 100) * 250 for start, _, _ in words), round(words[-1][1] * 100) * 250, 74_500]
    labels = ["sil", *(word for _, _, word in words), "sil"]
    return "".join(f"{a} {b} {label}\n" for a, b, label in zip(edges[:-1], edges[1:], labels, strict=True))


def _save_truth(path: Path, truth: Truth) -> None:
    """Write the .npz; numpy's own writer would put the time of day into it."""
    phones = np.array([tuple(phone) for phone in truth.phones], dtype=[("start", "f4"), ("end", "f4"), ("label", "U8")])
    arrays = {"landmarks": truth.landmarks, "opening": truth.opening, "phones": phones}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _paths(root: Path, speaker: int, clip_id: str) -> tuple[Path, Path, Path]:
    """The clip's video, alignment and truth."""
    folder = f"s{speaker + 1}"
    return (
        root / "video" / folder / f"{clip_id}.mpg",
        root / "alignments" / folder / f"{clip_id}.align",
        root / "exact" / folder / f"{clip_id}.npz",
    )


class _Task(NamedTuple):
    """One clip to write."""

    root: Path
    speaker: int
    clip_id: str
    seed: int


def _write_clip(task: _Task) -> None:
    """Render a clip and write its three files, each aside and then renamed."""
    from lipbench.media.video import write_video

    root, speaker, clip_id, seed = task
    clip = render(speaker, clip_id, seed)
    video, align, truth = _paths(root, speaker, clip_id)
    for path in (video, align, truth):
        path.parent.mkdir(parents=True, exist_ok=True)
    aside = align.with_name(f".{align.name}.{os.getpid()}.part")
    aside.write_text(_align_lines(clip.truth.words), encoding="ascii", newline="\n")
    aside.replace(align)
    aside = truth.with_name(f".{truth.name}.{os.getpid()}.part")
    _save_truth(aside, clip.truth)
    aside.replace(truth)
    write_video(video, clip.frames, FPS, clip.samples, SAMPLE_RATE)


def _claim(root: Path, seed: int) -> None:
    """Note in the folder what it is rendered with, or refuse to mix.

    Raises:
        ValueError: The folder holds clips of another seed or version.
    """
    settings = {"seed": seed, "version": _VERSION}
    note = root / "exact" / "settings.json"
    if note.exists():
        have: Any = json.loads(note.read_text(encoding="utf-8"))
        if have != settings:
            raise ValueError(f"{root} holds a corpus rendered with {have}, not with {settings}: choose another folder")
        return
    note.parent.mkdir(parents=True, exist_ok=True)
    aside = note.with_name(f".{note.name}.{os.getpid()}.part")
    aside.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    aside.replace(note)


def write_corpus(
    root: Path, *, speakers: int = 8, clips: int = 40, seed: int = 0, workers: int | None = None, progress: bool = True
) -> None:
    """Render the corpus into a folder; clips that are already there are kept.

    The same seed gives the same files whatever the number of workers, and a clip does not change when speakers or clips
    are added. A run that was killed is continued by calling this again.

    Args:
        root: Folder to write to; it is made if missing.
        speakers: How many, 1 to 64; their folders are s1, s2, ...
        clips: How many of each speaker, 1 to 1000.
        seed: Of everything: looks, voices, sentences, movement, noise.
        workers: Processes; None takes one per CPU that this process may use.
        progress: Show a progress bar.

    Raises:
        ValueError: Numbers out of range, or the folder holds a corpus of another seed.
    """
    from rich.progress import track as bar

    if not 1 <= speakers <= MAX_SPEAKERS or not 1 <= clips <= MAX_CLIPS:
        raise ValueError(
            f"cannot render {speakers} speakers with {clips} clips each: "
            f"expected 1 to {MAX_SPEAKERS} speakers and 1 to {MAX_CLIPS} clips"
        )
    root = Path(root)
    _claim(root, seed)
    tasks = [
        _Task(root, speaker, clip_id, seed)
        for speaker in range(speakers)
        for clip_id in sentence_ids(speaker, clips, seed)
        if not all(path.exists() for path in _paths(root, speaker, clip_id))
    ]
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, len(tasks)))
    with ExitStack() as stack:
        done: Iterator[None] = map(_write_clip, tasks)
        if workers > 1:
            # Fresh processes: threads of torch or OpenCV in this one would not survive a fork.
            pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
            stack.enter_context(pool)
            # Neighbors share a speaker, whose head is painted once in a worker.
            chunk = max(1, min(20, len(tasks) // (2 * workers)))
            done = pool.map(_write_clip, tasks, chunksize=chunk)
        for _ in bar(done, description="rendering", total=len(tasks), disable=not progress):
            pass
