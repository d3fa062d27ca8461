"""How a model talks: frames made of a text or of a sound, at once or piece by piece with the context they depend on."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar, cast

import torch
from torch import Tensor

from lipbench.media import audio, geometry
from lipbench.types import ClipBatch, Generated, Timing

if TYPE_CHECKING:
    from lipbench.training.generative import GenerativeModel

FPS: Final = 25.0
"""Frames a second of what is made: what every corpus so far is prepared at, and so what models have learned."""
STEP: Final = 10
"""Frames by which pieces are counted: 0.4 s are whole steps of every front end's spectrogram (hops of 160 and 200
samples at 16,000 a second), so pieces give what the whole gives. One with another hop needs `context = None`."""
Watch = Callable[[ClipBatch, Timing], None]
"""Is shown what drives a model, and the timing."""
Carried = TypeVar("Carried")


@dataclass(frozen=True)
class Piece:
    """Frames in a row that are made together, and those around them that the model looks at.

    Args:
        first: Number of the first frame to be made.
        shown: (n, 3, h, w) what the target shows there, in the model's view and in [0, 1].
        before: (a, 3, h, w) what it shows in the frames before.
        after: (b, 3, h, w) what it shows in the frames after.
    """

    first: int
    shown: Tensor
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class Speech:
    """What is said, and how it becomes frames.

    Args:
        frames: How many there are to make.
        make: A piece -> (n, 3, h, w) its frames in [0, 1].
        context: Frames around a piece that it must be made with; None makes all frames in one piece.
        durations: (L,) int64 frames of each token of a text, given or decided by the model; None if neither.
    """

    frames: int
    make: Callable[[Piece], Tensor]
    context: int | None
    durations: Tensor | None = None


def identity_batch(model: "GenerativeModel", canonical: Tensor, landmarks: Tensor) -> ClipBatch:
    """The keys of a batch that say who speaks: in every view that the model asks for, out of one canonical picture.

    Args:
        model: Says views and number of references by its `clip_spec`.
        canonical: (3, 352, 320) uint8.
        landmarks: (68, 2) in pixels of the canonical picture.

    Returns:
        `identity` and the keys of `identity_views` (1, R, 3, h, w) in [0, 1], `identity_landmarks` (1, R, 68, 2).
    """
    spec = model.clip_spec
    views = {"identity": spec.frames["video"], **spec.identity_views}
    seen = {
        key: (geometry.crop(canonical, view).float() / 255).expand(1, spec.references, -1, -1, -1)
        for key, view in views.items()
    }
    return cast("ClipBatch", {**seen, "identity_landmarks": landmarks.expand(1, spec.references, -1, -1)})


def own_durations(model: "GenerativeModel", identity: ClipBatch, ids: Tensor) -> Tensor:
    """Frames that a text-driven model gives to each token with timing "free".

    Args:
        model: Makes lips.
        identity: Whose lips, from `identity_batch`.
        ids: (L,) int64 tokens.

    Returns:
        (L,) int64.

    Raises:
        ValueError: The model gives the text no time, or does not say which.
    """
    made = from_text(model, identity, ids, None, lambda batch, timing: None)
    return said_durations(type(model).__name__, made)


def said_durations(name: str, speech: Speech) -> Tensor:
    """The durations (L,) by which frames were made.

    Args:
        name: The model's, for the message.
        speech: What was made.

    Raises:
        ValueError: The model returned none, or not those of its frames.
    """
    if speech.durations is None or int(speech.durations.sum()) != speech.frames:
        told = "no durations" if speech.durations is None else f"durations of {int(speech.durations.sum())} frames"
        raise ValueError(
            f"{name}.generate returned {told} with {speech.frames} frames of video; expected those of its frames, "
            "which the speech must share"
        )
    return speech.durations


def from_text(
    model: "GenerativeModel", identity: ClipBatch, ids: Tensor, durations: Tensor | None, watch: Watch
) -> Speech:
    """What a text-driven model makes: all at once, and handed out piece by piece.

    Args:
        model: With durations, has timing "given", or "free" and makes these durations itself; without, "free".
        identity: Who speaks, from `identity_batch`.
        ids: (L,) int64 tokens.
        durations: (L,) int64 frames of each token; None lets the model decide.
        watch: Is shown what drives the model.

    Raises:
        ValueError: The model gives the text no time, or other times than those given.
    """
    batch: ClipBatch = {
        **identity,
        "tokens": ids[None],
        "token_len": torch.tensor([len(ids)]),
        "fps": torch.tensor([FPS]),
    }
    timing: Timing = "free" if durations is None or "given" not in model.timings else "given"
    if durations is not None:
        batch |= {"durations": durations[None], "n_frames": durations.sum()[None]}

    def generate(driven: ClipBatch) -> Generated:
        with torch.inference_mode():
            made = model.run_generate(driven, timing)
        count = int(made["video_len"][0])
        if count == 0:
            raise ValueError("the model gives this text no time at all: it has hardly been trained. Train it longer")
        if durations is not None:
            said = made.get("durations", durations[None])[0].cpu()
            if count != int(durations.sum()) or not torch.equal(said, durations):
                raise ValueError(
                    f"{type(model).__name__}.generate returned {count} frames by the durations {said.tolist()}; "
                    f"expected {int(durations.sum())} by {durations.tolist()}, which the speech has"
                )
        watch(driven, timing)
        return made

    if durations is not None and "pose" in model.needs:  # the target's frames, which are known when they are asked for

        def make(piece: Piece) -> Tensor:
            poses = geometry.without_lower_half(piece.shown)[None]  # (1, N, 3, h, w)
            return generate(batch | {"pose": poses, "pose_len": torch.tensor([len(piece.shown)])})["video"][0]

        return Speech(int(durations.sum()), make, None, durations)
    made = generate(batch)
    own = made["durations"][0].cpu() if durations is None and "durations" in made else durations
    return Speech(
        int(made["video_len"][0]),
        lambda piece: made["video"][0, piece.first : piece.first + len(piece.shown)],
        0,
        own,
    )


def from_sound(
    model: "GenerativeModel",
    identity: ClipBatch,
    samples: audio.Samples,
    rate: int,
    total: int,
    watch: Watch,
) -> Speech:
    """What a sound-driven model makes of the sound and the poses of a piece and its surroundings.

    Args:
        model: Driven by sound alone. Its `context` says how much of the surroundings it needs.
        identity: Who speaks, from `identity_batch`.
        samples: (S,) mono in [-1, 1].
        rate: Samples a second, as the model wants it.
        total: Frames of the whole sound.
        watch: Is shown what drives the model in the first piece.
    """
    encoded: Tensor | None = None
    if model.encodes_audio:
        whole: ClipBatch = {
            "audio": torch.from_numpy(samples)[None],
            "audio_len": torch.tensor([len(samples)]),
            "fps": torch.tensor([FPS]),
            "n_frames": torch.tensor([total]),
        }
        with torch.inference_mode():
            encoded = model.audio_embeddings(whole)  # (1, total, C)

    def make(piece: Piece) -> Tensor:
        begin, end = piece.first - len(piece.before), piece.first + len(piece.shown) + len(piece.after)
        last = len(samples) if end == total else audio.frame_to_sample(end, rate, FPS)
        heard = torch.from_numpy(samples[audio.frame_to_sample(begin, rate, FPS) : last])
        poses = geometry.without_lower_half(torch.cat([piece.before, piece.shown, piece.after]))  # (P, 3, h, w)
        batch: ClipBatch = {
            **identity,
            "audio": heard[None],
            "audio_len": torch.tensor([len(heard)]),
            "fps": torch.tensor([FPS]),
            "pose": poses[None],
            "pose_len": torch.tensor([len(poses)]),
        }
        if encoded is not None:
            batch["audio_embeddings"] = encoded[:, begin:end]
        if piece.first == 0:
            watch(batch, "free")
        with torch.inference_mode():
            return model.run_generate(batch, "free")["video"][0, len(piece.before) :][: len(piece.shown)]

    return Speech(total, make, model.context if encoded is None else 0)


def in_pieces(
    speech: Speech, pieces: Iterable[tuple[Carried, Tensor]], views: Callable[[], Iterable[Tensor]]
) -> Iterator[tuple[Carried, Tensor]]:
    """Make frames piece by piece, each with the context that the model needs, or all of them first.

    Args:
        speech: What is made.
        pieces: What belongs to the frames of a piece, and what the target shows in them, (n, 3, h, w) in [0, 1]; of
            multiples of `STEP` frames, but for the last. As many are read ahead as the context takes.
        views: Starts the second members of `pieces` from the beginning.

    Yields:
        What belongs to a piece, and (n, 3, h, w) its frames.
    """
    first = 0
    if speech.context is None:
        shown = torch.cat(list(views()))  # (N, 3, h, w)
        made = speech.make(Piece(0, shown, shown[:0], shown[:0]))
        for carried, seen in pieces:
            yield carried, made[first : first + len(seen)]
            first += len(seen)
        return
    reach = math.ceil(speech.context / STEP) * STEP
    rest, ahead = iter(pieces), deque[tuple[Carried, Tensor]]()
    before: Tensor | None = None
    while True:
        while sum(len(seen) for _, seen in ahead) < reach + (len(ahead[0][1]) if ahead else 1):
            following = next(rest, None)
            if following is None:
                break
            ahead.append(following)
        if not ahead:
            return
        carried, seen = ahead.popleft()
        before = seen[:0] if before is None else before
        after = torch.cat([seen[:0], *(later for _, later in ahead)])[:reach]
        yield carried, speech.make(Piece(first, seen, before, after))
        before, first = torch.cat([before, seen])[-reach:] if reach else before, first + len(seen)
