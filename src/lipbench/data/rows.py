"""From the files of a clip to its row in the store, and from the clips of a shard to its file."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lipbench.data import frame_checks, jpeg, shards, sources, speech_checks
from lipbench.data.corpus import Corpus, RawClip
from lipbench.data.durations import DurationSource, SeenLetters, SeenWords
from lipbench.errors import visible
from lipbench.files import sha256
from lipbench.media import alignment, audio, geometry, video
from lipbench.media import landmarks as backends

HIGHEST_RATE: Final = 48_000
_FEWEST_FRAMES: Final = 25
_LONGEST_GAP: Final = 0.1  # s between the ends of alignment and picture; up to 0.02 s on whole GRID clips
_LEAST_COVERAGE: Final = 0.9  # share of frames with a face


def make_row(corpus: type[Corpus], clip: RawClip, settings: dict[str, Any], source: DurationSource) -> dict[str, Any]:
    """All columns of a clip.

    Args:
        corpus: Whose.
        clip: As it was found.
        settings: The store's.
        source: Of word times and durations.

    Raises:
        ValueError, OSError: The clip cannot be used; the message is the reason.
    """
    if clip.problem:
        raise ValueError(clip.problem)
    words = source.words(clip)
    pictures = video.read_video(clip.video)
    frames, fps = pictures.frames, pictures.fps
    seconds = len(frames) / fps
    if len(frames) < _FEWEST_FRAMES:
        raise ValueError(f"too short: {len(frames)} frames ({seconds:.2f} s); a clip needs at least {_FEWEST_FRAMES}")
    if words and abs(words[-1].end - seconds) > _LONGEST_GAP:
        raise ValueError(
            f"picture and alignment differ in length: {len(frames)} frames are {seconds:.2f} s, "
            f"the alignment ends at {words[-1].end:.2f} s"
        )
    if broken := frame_checks.problem(frames, still_camera=corpus.still_camera):
        raise ValueError(broken)
    samples, rate = audio.read_audio(clip.video, start=pictures.start)
    if rate > HIGHEST_RATE:
        samples, rate = audio.resample(samples, rate, HIGHEST_RATE), HIGHEST_RATE
    if broken := speech_checks.problem(samples, rate, words, seconds):
        raise ValueError(broken)
    points = _points(clip, frames, settings)
    transforms = geometry.similarity(points)
    canonical = geometry.warp(frames, transforms)
    durations: npt.NDArray[np.int64] | None = None
    if isinstance(source, SeenWords):
        words, durations = source.seen(clip, canonical, fps, corpus.tokenizer)
    speech = alignment.speech_frames(words, len(frames), fps)
    if broken := frame_checks.face_problem(frames, points, speech, fps, still_camera=corpus.still_camera):
        raise ValueError(broken)
    said = [w.word for w in alignment.spoken(words)]
    symbols = corpus.tokenizer.symbols(said) if said else []
    if durations is None:
        durations = source.durations(words, symbols, len(frames), fps, corpus.tokenizer)
    if isinstance(source, SeenLetters):
        durations = source.aligner.within(canonical, symbols, durations)
    row: dict[str, Any] = {
        "clip_id": clip.clip_id,
        "speaker": clip.speaker,
        "text": corpus.tokenizer.normalize(" ".join(said)) if said else "",
        "words": [w._asdict() for w in words],
        "symbols": symbols,
        "durations": durations,
        "speech": list(speech),
        "fps": fps,
        "n_frames": len(frames),
        "frame_size": list(frames[0].shape[:2]),
        "sample_rate": rate,
        "sound": np.rint(samples * 32767).astype(np.int16),
        "transforms": transforms,
        "landmarks": geometry.transform_points(points, transforms).astype(np.float32),
        "pictures": [jpeg.encode(picture) for picture in canonical],
        "source_sha256": sha256(clip.video),
    }
    return {**row, "hash": shards.row_hash(row)}


def _points(clip: RawClip, frames: Sequence[video.Frame], settings: dict[str, Any]) -> npt.NDArray[np.float32]:
    if settings["landmarks"] == "exact":
        if clip.exact is None:
            raise ValueError("no file with exact landmarks")
        if not clip.exact.is_file():  # opening a pipe would wait for a writer
            raise ValueError(f"{clip.exact.name} is not a file")
        try:
            with np.load(clip.exact) as file:
                points = np.asarray(file["landmarks"], np.float32)
        except (ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{clip.exact.name} holds no exact landmarks ({error})") from error
        if points.shape != (len(frames), 68, 2):
            raise ValueError(f"exact landmarks of shape {points.shape} for {len(frames)} frames")
        return points
    track = backends.track(frames, backends.load(settings["landmarks"]), settings["detect_every"])
    if track.coverage < _LEAST_COVERAGE:
        raise ValueError(f"no face in {1 - track.coverage:.0%} of the frames")
    return track.points


def make_shard(
    folder: Path,
    settings: dict[str, Any],
    corpus: type[Corpus],
    source: DurationSource,
    name: str,
    clips: list[RawClip],
    fatal: dict[str, str],
) -> Iterator[str]:
    """Read the clips of a shard and write it; yields each clip's id before it is begun.

    Args:
        folder: The store.
        settings: The store's.
        corpus: Whose clips they are.
        source: Of word times and durations.
        name: The shard.
        clips: Its clips.
        fatal: Clips that ended a worker process before, with the reason: they are not opened again.
    """
    rows: list[dict[str, Any]] = []
    lines: dict[str, dict[str, Any]] = {}
    rejected: dict[str, dict[str, Any]] = {}
    origins = {clip.clip_id: sources.identity(clip) for clip in clips}
    for clip in clips:
        yield clip.clip_id
        try:
            if clip.clip_id in fatal:
                raise ValueError(fatal[clip.clip_id])
            row = make_row(corpus, clip, settings, source)
        except Exception as error:  # whatever a broken file sets off becomes its reason; it must not stop the others
            known = isinstance(error, ValueError | OSError)
            reason = visible(str(error) if known else f"unexpected {type(error).__name__}: {error}")
            rejected[clip.clip_id] = {"reason": reason, "again": clip.clip_id in fatal or not known}
        else:
            lines[clip.clip_id] = shards.summary(row, len(rows))
            rows.append(row)
    made_with = {package: version(package) for package in ("lipbench", "av", "opencv-python", "numpy")}
    metadata = {"settings": settings, "made_with": made_with, "clips": lines, "rejected": rejected, "sources": origins}
    shards.write_shard(folder / "shards" / f"{name}.arrow", rows, metadata)
