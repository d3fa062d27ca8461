"""A small store of flat-colored pictures: what a batch shows can be read off its colors."""

import hashlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lipbench.data import jpeg, manifest, rows, shards
from lipbench.data.corpus import Corpus, RawClip
from lipbench.media import alignment, text

SENTENCES = ("bin blue at f two now", "place red in a nine soon", "set white with p zero again")

# Four training and two test clips of the published split.
GRID_IDS = tuple(
    f"grid/{name}" for name in ("s1/bbaf4p", "s1/bbaf5a", "s1/bbal6n", "s1/bbal7s", "s1/bbaf2n", "s1/bbaf3s")
)


def color(clip: int, frame: int) -> tuple[int, int, int]:
    """Color of the picture: clip in red, frame in green."""
    return 8 * clip + 4, 3 * frame + 4, 128


def row(clip_id: str, number: int, n_frames: int, sentence: str) -> dict[str, Any]:
    """All columns of a made-up clip."""
    said = sentence.split()
    edges = np.linspace(0.2, n_frames / 25 - 0.2, len(said) + 1)
    words = [alignment.Word(float(a), float(b), w) for a, b, w in zip(edges[:-1], edges[1:], said, strict=True)]
    symbols = text.symbols(said)
    landmarks = np.zeros((n_frames, 68, 2), np.float32)
    landmarks[:] = np.arange(n_frames)[:, None, None]
    pictures = [np.full((352, 320, 3), color(number, k), np.uint8) for k in range(n_frames)]
    made: dict[str, Any] = {
        "clip_id": clip_id,
        "speaker": clip_id.split("/")[1],
        "text": sentence,
        "words": [w._asdict() for w in words],
        "symbols": symbols,
        "durations": alignment.durations(words, symbols, n_frames, 25.0),
        "speech": list(alignment.speech_frames(words, n_frames, 25.0)),
        "fps": 25.0,
        "n_frames": n_frames,
        "frame_size": [288, 360],
        "sample_rate": 8000,
        "sound": np.full(n_frames * 320, 100 * (number + 1), np.int16),
        "transforms": np.tile(np.eye(2, 3), (n_frames, 1, 1)),
        "landmarks": landmarks,
        "pictures": [jpeg.encode(picture) for picture in pictures],
        "source_sha256": hashlib.sha256(clip_id.encode()).hexdigest(),
    }
    return {**made, "hash": shards.row_hash(made)}


def make_store(folder: Path, clip_ids: Sequence[str], lengths: Sequence[int], data: str, **settings: Any) -> Path:
    """A store of made-up clips, one shard a speaker."""
    (folder / "shards").mkdir(parents=True)
    settings = {"data": data, "landmarks": "dlib", **settings}
    speakers: dict[str, list[dict[str, Any]]] = {}
    for number, (clip_id, length) in enumerate(zip(clip_ids, lengths, strict=True)):
        made = row(clip_id, number, length, SENTENCES[number % len(SENTENCES)])
        speakers.setdefault(made["speaker"], []).append(made)
    for speaker, members in speakers.items():
        lines = {
            made["clip_id"]: {
                "row": k,
                "samples": len(made["sound"]),
                **{n: made[n] for n in ("hash", "n_frames", "fps", "sample_rate", "speaker", "text", "source_sha256")},
            }
            for k, made in enumerate(members)
        }
        rejected = {f"{data}/{speaker}/bad": {"reason": "picture is black in all frames", "again": False}}
        metadata = {"settings": settings, "made_with": {}, "clips": lines, "rejected": rejected, "sources": {}}
        shards.write_shard(folder / "shards" / f"{speaker}-000of001.arrow", members, metadata)
    manifest.write(folder, settings, None)
    return folder


DEADLY = "rendered/s2/bbadzn"


def deadly_shard(*arguments: Any) -> Iterator[str]:
    """Makes a shard in a process that is killed at one clip, as by a machine out of memory."""
    make, row = rows.make_shard, rows.make_row

    def deadly(corpus: type[Corpus], clip: RawClip, *more: Any) -> dict[str, Any]:
        if clip.clip_id == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return row(corpus, clip, *more)

    rows.make_row = deadly  # in this process only
    yield from make(*arguments)
