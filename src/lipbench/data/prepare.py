"""From raw corpus files to the prepared store: parallel, resumable, every clip judged.

A shard holds the clips of one speaker whose ids hash alike, about 30; which clip lies where depends on names only. A
shard is written in one piece together with the reasons of its rejected clips, so a kill at any instant leaves whole
shards or none, and the manifest, which is put together from the shards, comes out the same whatever was interrupted.
For the same reason any number of machines may share the work: each takes every n-th shard.
"""

import hashlib
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from lipbench.data import jpeg, manifest, process_pool, rows, sources
from lipbench.data.corpus import Corpus, RawClip
from lipbench.data.durations import DurationSource
from lipbench.data.lock import alone
from lipbench.data.progress import Summary, bar, print_part, print_table
from lipbench.data.shards import shard_metadata
from lipbench.media import geometry
from lipbench.media import landmarks as backends
from lipbench.paths import default_store

_RULES: Final = 3  # raised when the same files would give other rows or other reasons
_EVERY: Final = 15  # frames between two looks of the face detector


def prepare(
    corpus: type[Corpus],
    root: str | Path | None = None,
    store: str | Path | None = None,
    *,
    landmarks: str = "dlib",
    durations: DurationSource | None = None,
    workers: int | None = None,
    limit: int | None = None,
    verify: bool = False,
    part: tuple[int, int] | None = None,
    finish: bool = False,
    progress: bool = True,
) -> Summary:
    """Read a corpus into a store, or bring a store up to date with its corpus.

    A shard that cannot be opened is made anew. Damage inside a shard shows only when every row is compared with its
    hash, which reads the whole store (`verify`).

    Clips that are broken are left out, each with a reason, and never stop the run. A clip is rejected if its files do
    not open, its alignment does not say what its name says or gives impossible times, its picture or face is broken
    (`lipbench.data.frame_checks`), it has fewer than 25 frames, its words end more than 0.1 s from the end of the
    picture, its sound is broken, of another length, or not where the words are (`lipbench.data.speech_checks`), or it
    has no face in more than a tenth of its frames. Which of these hold is the corpus's choice
    (`Corpus.still_camera`, `Corpus.durations`).

    Args:
        corpus: Which.
        root: Its folder; by default from the environment (`LIPBENCH_GRID` and so on).
        store: Folder to write; by default `$LIPBENCH_HOME/stores/<corpus>`.
        landmarks: "dlib", "face-alignment", or "exact" (rendered corpus only).
        durations: Source of word times and durations; by default the corpus's own.
        workers: Processes; by default one a processor.
        limit: At most this many clips a speaker, the first by name.
        verify: Compare every row that is there with its hash first, and make damaged shards anew.
        part: (k, n): make only every n-th shard, from the k-th on, 1 <= k <= n, and leave the manifest to `finish`.
            Parts may run on several machines that share the folder, at the same time.
        finish: Make nothing; put the manifest together from the shards of all parts.
        progress: Show a bar and a table.

    Returns:
        What is in the store now; of a part, what is in its shards.

    Raises:
        FileNotFoundError: No corpus there.
        ValueError: Two clips have one id, unknown landmarks, or the store was made with other settings, or a damaged
            shard holds a speaker that the corpus folder does not hold, or shards are missing that `finish` needs.
        RuntimeError: Another run is writing the same store or part, or a worker failed for a reason that lies in no
            clip.
    """
    started = time.monotonic()
    place = corpus.locate(root)
    clips = corpus.scan(place)
    if not clips:
        raise FileNotFoundError(f"no clip of the corpus {corpus.name} in {place}. {corpus.access}")
    first: dict[str, Path] = {}
    for clip in clips:
        if first.setdefault(clip.clip_id, clip.video) != clip.video:
            raise ValueError(
                f"{corpus.__name__}.scan gives the id {clip.clip_id!r} to {first[clip.clip_id]} and to {clip.video}; "
                "expected an id for each clip, such as CORPUS/SPEAKER/NAME"
            )
    if limit is not None:
        clips = sources.limited(clips, limit)
    folder = Path(store) if store is not None else default_store(corpus.name)
    if landmarks == "exact" and not any(clip.exact for clip in clips):
        raise ValueError("landmarks 'exact' need a corpus that knows them (--data rendered); use 'dlib'")
    source = corpus.durations if durations is None else durations
    settings = settings_of(corpus, landmarks, limit, source)
    shards_folder = folder / "shards"
    shards_folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, "prepare", f".part-{part[0]}of{part[1]}.lock" if part else None):
        shards = sources.assign(clips)
        own = list(shards)[part[0] - 1 :: part[1]] if part else None
        for unfinished in [*folder.glob("*.part"), *folder.glob(".*.tmp"), *shards_folder.glob("*.part")]:
            if own is None or unfinished.name.partition(".arrow")[0] in own:
                unfinished.unlink()
        sources.check_settings(folder, settings)
        damaged = (
            sources.damaged_shards(folder, settings, None, progress, own)
            if verify
            else sources.unreadable_shards(folder, settings, own)
        )
        sources.keep_what_cannot_be_made(damaged, shards)
        seen = sources.Seen(folder, part)
        pending: dict[str, list[RawClip]] = {}
        for name in shards if own is None else own:
            stamps = sources.stamps(shards[name])
            path = shards_folder / f"{name}.arrow"
            if name in damaged or not sources.up_to_date(path, shards[name], stamps, seen.known.get(name)):
                pending[name] = shards[name]
            elif seen.known.get(name) != stamps:
                seen.append(name, stamps)
        if finish and pending:
            raise ValueError(sources.missing(folder, list(shards), list(pending)))
        done = sum(len(members) for members in pending.values())
        if pending:
            if landmarks != "exact":
                backends.load(landmarks)  # what it needs and lacks is said here, once, not with every clip
            total = len(clips) if own is None else sum(len(shards[name]) for name in own)
            with bar(progress, done, total - done) as advance:
                process_pool.run(
                    pending,
                    partial(rows.make_shard, folder, settings, corpus, source),
                    workers or process_pool.processors(),
                    finished=lambda name: seen.append(name, sources.stamps(pending[name])),
                    advance=advance,
                )
        repaired = {clip_id: how for lines in damaged.values() for clip_id, how in lines.items()}
        if own is not None:
            found = [shard_metadata(shards_folder / f"{name}.arrow") for name in own]
            kept = {clip_id for metadata in found for clip_id in metadata["clips"]}
            rejected = {clip_id: line["reason"] for metadata in found for clip_id, line in metadata["rejected"].items()}
        else:
            speakers = {clip.speaker for clip in clips}
            for path in sorted(shards_folder.glob("*.arrow")):
                if path.stem not in shards and path.stem.rsplit("-", 1)[0] in speakers:
                    path.unlink()  # clips that were there before and are gone, or a speaker with more than before
            written = manifest.write(folder, settings, None)
            seen.write({name: sources.stamps(members) for name, members in shards.items()})
            kept = written["clips"]
            rejected = {clip_id: line["reason"] for clip_id, line in written["rejected"].items()}
    summary = Summary(
        store=folder,
        kept=len(kept),
        rejected=rejected,
        done=done,
        added=sum(clip.clip_id in kept for members in pending.values() for clip in members),
        repaired=repaired,
        seconds=time.monotonic() - started,
    )
    if progress and part is not None:
        print_part(summary, part)
    elif progress:
        print_table(written, summary)
    return summary


def settings_of(corpus: type[Corpus], landmarks: str, limit: int | None, source: DurationSource) -> dict[str, Any]:
    """What rows depend on beside the files; a store is made with one set of settings.

    What a corpus chooses is named where it differs from GRID's, so that stores that were made before still fit.

    Args:
        corpus: Which.
        landmarks: Backend.
        limit: Clips a speaker.
        source: Of word times and durations.
    """
    chosen: dict[str, Any] = {}
    if source.name != "alignment":
        chosen |= source.settings
    if corpus.tokenizer.name != "characters":
        chosen["tokenizer"] = corpus.tokenizer.name
    if not corpus.still_camera:
        chosen["still_camera"] = False
    return {
        "data": corpus.name,
        "rules": _RULES,
        "landmarks": landmarks,
        "detect_every": _EVERY,
        "jpeg_quality": jpeg.QUALITY,
        "picture": [geometry.HEIGHT, geometry.WIDTH],
        "template": hashlib.sha256(geometry.TEMPLATE.tobytes()).hexdigest()[:16],
        "highest_sample_rate": rows.HIGHEST_RATE,
        "limit": limit,
        **chosen,
    }
