"""How long a model takes to generate a clip: one clip at a time, synchronized, to uint8 frames in host memory.

The inputs are made up and lie on the device before the clock starts: identity frame, poses, tokens, the audio's
samples. What a model computes of them inside `generate`, such as a spectrogram or the durations of tokens, counts. A
sentence has as many tokens for its frames as one of GRID. The time of a clip does not depend on the weights, but where
a model decides how long the clip is: with timing "length" it is held to the frames asked for.
"""

import contextlib
import logging
import os
import platform
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lipbench.errors import on_one_line
from lipbench.media import geometry, text
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipBatch, Generated, Timing

FPS: Final = 25.0
"""Frames a second of the made-up clips."""
PRECISIONS: Final = ("32", "tf32", "bf16", "16")
"""Float32; the same with TF32 in convolutions and matrix products (NVIDIA); autocast to bfloat16, to float16."""
_DTYPES: Final = {"bf16": torch.bfloat16, "16": torch.float16}
_SENTENCE: Final = "bin blue at f two now"
_SENTENCE_FRAMES: Final = 75
_FEWEST: Final = 3  # clips of a row, however long they take


class Pace(NamedTuple):
    """How often a clip is made."""

    clips: int = 50
    """Timed ones."""
    warmup: int = 10
    """Before them, for every length and variant."""
    seconds: float | None = None
    """After so many of warm-up, and of timed clips, no other is begun once 1 and 3 are done; None is no limit."""


class Variant(NamedTuple):
    """How the same network is run."""

    precision: str = "32"
    """One of `PRECISIONS`."""
    compiled: bool = False
    """Whether `torch.compile` has compiled `generate`, anew for every length."""

    def __str__(self) -> str:
        """Short form used in tables, such as "bf16, compiled"."""
        return f"{self.precision}, compiled" if self.compiled else self.precision


class Cost(NamedTuple):
    """What a clip takes beside time."""

    parameters: int
    """Those that an operation of the generation reads."""
    macs: float
    """Multiply-adds of convolutions, matrix products, attention and recurrent layers."""
    weight_bytes: int
    """Of these parameters."""
    tensor_bytes: int
    """Most bytes of tensors alive at once that were made for the clip."""


@dataclass(frozen=True)
class Latency:
    """What was measured of one model at one length.

    Args:
        frames: Made, of each clip.
        times: Seconds of each timed clip.
        warmup: Clips made before them.
        first_times: Seconds to the first frame, likewise.
        first_by: What was made for it.
        peak_bytes: Most memory of tensors while a clip is made, with the weights it uses; None where it is not known.
    """

    frames: int
    times: Sequence[float]
    warmup: int
    first_times: Sequence[float]
    first_by: str
    peak_bytes: int | None

    @property
    def median_ms(self) -> float:
        """Median over the clips."""
        return 1e3 * statistics.median(self.times)

    @property
    def p95_ms(self) -> float:
        """95th percentile over the clips, interpolated linearly."""
        return 1e3 * float(np.percentile(self.times, 95))

    @property
    def ms_per_frame(self) -> float:
        """Median over the frames made."""
        return self.median_ms / self.frames

    @property
    def real_time_factor(self) -> float:
        """Median over how long the clip lasts at 25 frames a second; below 1, a clip is made before it is over."""
        return self.median_ms / 1e3 / (self.frames / FPS)

    @property
    def first_frame_ms(self) -> float:
        """Median time to the first frame."""
        return 1e3 * statistics.median(self.first_times)


class NoLatency(RuntimeError):
    """A model cannot be timed so; the message says why."""


# ------------------------------------------------------------------------------------------------------------- inputs


def made_up_clip(model: GenerativeModel, frames: int, device: torch.device) -> ClipBatch:
    """A batch of one clip that drives a model, whatever it needs.

    Args:
        model: Says by its `clip_spec` which views, how many references and which audio rate.
        frames: Of the clip, 25 a second.
        device: Where the tensors lie.

    Returns:
        Noise in the views, noise of amplitude .1 as audio, tokens of GRID's sentence, repeated, each of equal duration.
    """
    spec, draw = model.clip_spec, torch.Generator().manual_seed(0)
    views = {"identity": spec.frames["video"], **spec.identity_views}
    count = min(frames, max(1, round(frames * len(_ids()) / _SENTENCE_FRAMES)))
    tokens = (_ids() * (count // len(_ids()) + 1))[:count]
    ends = torch.linspace(0, frames, count + 1).round().long()  # (L + 1,)
    samples = round(frames * (spec.audio_rate or 0) / FPS)
    top, left, _, _ = geometry.box("face")
    landmarks = torch.from_numpy(geometry.TEMPLATE).float() + torch.tensor([left, top])  # (68, 2)
    pose = torch.rand(1, frames, 3, *spec.frames["video"].size, generator=draw)
    found: dict[str, Tensor] = {
        **{key: torch.rand(1, spec.references, 3, *view.size, generator=draw) for key, view in views.items()},
        "identity_landmarks": landmarks.expand(1, spec.references, -1, -1),
        "pose": geometry.without_lower_half(pose),
        "pose_len": torch.tensor([frames]),
        "audio": 0.1 * torch.randn(1, samples, generator=draw),
        "audio_len": torch.tensor([samples]),
        "tokens": torch.tensor([tokens]),
        "token_len": torch.tensor([count]),
        "durations": ends.diff()[None],
        "n_frames": torch.tensor([frames]),
        "fps": torch.tensor([FPS]),
        "speaker_id": torch.tensor([0]),
    }
    return cast("ClipBatch", {key: value.to(device) for key, value in found.items()})


def _ids() -> list[int]:
    return text.encode(text.symbols(_SENTENCE.split()))


def usual_timing(model: GenerativeModel) -> Timing:
    """The timing in which a model does all that it does in use, at a length that can be asked for.

    "length" where a model times its tokens itself; "free" for models that audio drives, which make as many frames as
    the audio lasts; else "given": the durations are inputs.
    """
    if "length" in model.timings:
        return "length"
    if "free" in model.timings and ("audio" in model.needs or "given" not in model.timings):
        return "free"
    return "given"


def _cut(batch: ClipBatch, frames: int, model: GenerativeModel) -> ClipBatch:
    """The first frames of a clip, with their audio and poses."""
    samples = round(frames * (model.clip_spec.audio_rate or 0) / FPS)
    return {
        **batch,
        "audio": batch["audio"][:, :samples],
        "audio_len": torch.full_like(batch["audio_len"], samples),
        "pose": batch["pose"][:, :frames],
        "pose_len": torch.full_like(batch["pose_len"], frames),
        "n_frames": torch.full_like(batch["n_frames"], frames),
    }


# ---------------------------------------------------------------------------------------------------------- measuring


def measure(
    model: GenerativeModel, frames: int, timing: Timing, device: torch.device, variant: Variant, pace: Pace
) -> tuple[Latency, Cost]:
    """Time a model at one length.

    Args:
        model: Generates video; in eval mode on the device.
        frames: Of the clips.
        timing: Out of the model's `timings`.
        device: CPU or CUDA.
        variant: How it is run.
        pace: How often.

    Raises:
        NoLatency: It cannot be run so, or makes no frame; the message is on one line.
    """
    try:
        with _precision(device, variant.precision), torch.inference_mode():
            return _measure(model, frames, timing, device, variant, pace)
    except NoLatency:
        raise
    except (RuntimeError, ValueError, LookupError) as error:  # too short a clip, no memory, no compiler, ...
        if device.type == "cuda":
            torch.cuda.empty_cache()
        lines = str(error).strip().splitlines() or [""]
        raise NoLatency(on_one_line(f"{type(error).__name__}: {lines[0]}")[:300]) from error


def _measure(
    model: GenerativeModel, frames: int, timing: Timing, device: torch.device, variant: Variant, pace: Pace
) -> tuple[Latency, Cost]:
    if timing not in model.timings:
        raise NoLatency(f"{type(model).__name__} has no timing {timing!r}; it has {', '.join(sorted(model.timings))}")
    batch = made_up_clip(model, frames, device)

    def whole() -> Tensor:
        return _on_host(model.run_generate(batch, timing))

    made = len(whole())
    if not made:
        raise NoLatency("the model decides how long a clip is, and gives this text no frame")
    cost = count(model, batch, timing)
    first, first_by = first_frame(model, batch, timing)
    with _compiled(model, variant.compiled):
        warmup, times = timed(whole, device, pace)
        first_times: Sequence[float] = times if first is None else timed(first, device, pace)[1]
        peak: int | None = cost.tensor_bytes + cost.weight_bytes
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            whole()
            peak = torch.cuda.max_memory_allocated(device) - before + cost.weight_bytes
        elif variant.compiled:
            peak = None  # compiled code makes other tensors than were watched
    return Latency(made, times, warmup, first_times, first_by, peak), cost


def timed(make: Callable[[], Tensor], device: torch.device, pace: Pace) -> tuple[int, list[float]]:
    """Warm up, then time.

    Args:
        make: Makes a clip; returns when its frames are in host memory.
        device: Is waited for before and after every clip.
        pace: How often.

    Returns:
        Clips of the warm-up, and the seconds of each clip after it.
    """
    parts: list[list[float]] = []
    for most, fewest in ((pace.warmup, min(1, pace.warmup)), (pace.clips, min(_FEWEST, pace.clips))):
        times: list[float] = []
        begun = time.perf_counter()
        while len(times) < most:
            if pace.seconds is not None and len(times) >= fewest and time.perf_counter() - begun > pace.seconds:
                break
            _wait(device)
            start = time.perf_counter()
            make()
            _wait(device)
            times.append(time.perf_counter() - start)
        parts.append(times)
    return len(parts[0]), parts[1]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _on_host(generated: Generated, most: int | None = None) -> Tensor:
    """The frames (N, 3, h, w) uint8 of the clip in host memory; only the first `most` of them if that is given."""
    video = generated["video"][0, : int(generated["video_len"][0])][:most]
    return video.clamp(0, 1).mul(255).round().to(torch.uint8).cpu()


def first_frame(model: GenerativeModel, batch: ClipBatch, timing: Timing) -> tuple[Callable[[], Tensor] | None, str]:
    """What has to be made until a clip's first frame can be handed out.

    - A model that makes frames one after the other (`frame_by_frame`): everything, and one frame.
    - One that encodes the whole audio first (`encodes_audio`): the embeddings, and one frame.
    - One whose frames depend on a limited stretch of audio (`context`): a piece of the first frame and its context.
    - Every other one: the whole clip.

    Returns:
        A function that makes it; None for the whole clip. And what it makes, in words.
    """
    frames = int(batch["n_frames"])
    if model.frame_by_frame:
        held: Timing = "length" if "length" in model.timings else "given"
        single: ClipBatch = {**batch, "n_frames": torch.ones_like(batch["n_frames"])}
        return lambda: _on_host(model.run_generate(single, held), 1), "frame by frame"
    if "audio" in model.needs and model.encodes_audio:
        keys = ("audio", "audio_len", "fps", "n_frames")
        whole = cast("ClipBatch", {key: batch[key] for key in keys})  # type: ignore[literal-required]
        piece = _cut(batch, 1, model)

        def encoded() -> Tensor:
            embeddings = model.audio_embeddings(whole)[:, :1]
            return _on_host(model.run_generate({**piece, "audio_embeddings": embeddings}, timing), 1)

        return encoded, "embeddings of the audio, then 1 frame"
    if "audio" in model.needs and model.context is not None and 1 + model.context < frames:
        piece = _cut(batch, 1 + model.context, model)
        return lambda: _on_host(model.run_generate(piece, timing), 1), f"a piece of {1 + model.context} frames"
    return None, "the whole clip"


@contextmanager
def _precision(device: torch.device, precision: str) -> Iterator[None]:
    """Run in one of `PRECISIONS`; what was set before is set again at the end."""
    if precision == "tf32" and device.type != "cuda":
        raise NoLatency("TF32 is a format of NVIDIA's GPUs")
    matmul, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolutions.allow_tf32
    matmul.allow_tf32 = convolutions.allow_tf32 = precision == "tf32"
    try:
        with torch.autocast(device.type, _DTYPES.get(precision), enabled=precision in _DTYPES):
            yield
    finally:
        matmul.allow_tf32, convolutions.allow_tf32 = before


@contextmanager
def _compiled(model: GenerativeModel, wanted: bool) -> Iterator[None]:
    """Have `torch.compile` compile `generate`."""
    if not wanted:
        yield
        return
    torch.compiler.reset()
    model.generate = torch.compile(model.generate)  # type: ignore[method-assign]
    log = logging.getLogger("torch._dynamo")
    before = log.level
    log.setLevel(logging.ERROR)  # each length would tell anew where Python runs in between
    try:
        yield
    finally:
        log.setLevel(before)
        del model.generate  # the class's own again


# ----------------------------------------------------------------------------------------------------------- counting


def count(model: GenerativeModel, batch: ClipBatch, timing: Timing) -> Cost:
    """Parameters, operations and memory of a clip, by watching every operation while it is made once.

    Memory is that of tensors, as PyTorch's caching allocator counts on a GPU; scratch memory inside an operation, such
    as that of a convolution, is not in it.
    """
    networks = (model, *model.frozen.values())
    watch = _Watch(networks)
    with watch, FlopCounterMode(display=False, custom_mapping=_RECURRENT) as counter:
        model.run_generate(batch, timing)
    used = [size for storage, size in watch.weights.items() if storage in watch.read]
    return Cost(
        sum(numbers for numbers, _ in used),
        counter.get_total_flops() / 2,
        sum(size for _, size in used),
        watch.most,
    )


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which weights operations read, and how many bytes of tensors that they make are alive.

    Args:
        networks: Whose weights.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights: dict[int, tuple[int, int]] = {}
        """Storage -> numbers and bytes of its parameters: recurrent layers of a GPU share one."""
        for parameter in {id(p): p for network in networks for p in network.parameters()}.values():
            numbers, size = self.weights.get(_storage(parameter), (0, 0))
            self.weights[_storage(parameter)] = numbers + parameter.numel(), size + parameter.nbytes
        self.read: set[int] = set()
        """Storages that were there before: weights and inputs."""
        self.most = self._now = 0
        self._made: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run an operation."""
        taken = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        self.read |= {_storage(leaf) for leaf in taken} - self._made.keys()
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor) and _storage(leaf) not in self._made.keys() | self.read:
                self._add(leaf.untyped_storage())
        return found

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def gone(_: object) -> None:
            self._made.pop(key, None)
            self._now -= size

        self._made[key] = weakref.ref(storage, gone)
        self._now += size
        self.most = max(self.most, self._now)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _cudnn_flops(inputs: Sequence[int], weights: Sequence[Sequence[int]], *_: object, **__: object) -> int:
    """Operations of a recurrent layer of cuDNN: every step of every clip multiplies by all matrices."""
    steps = inputs[0] * inputs[1]
    return 2 * steps * sum(shape[0] * shape[1] for shape in weights if len(shape) == 2)


def _mkldnn_flops(
    inputs: Sequence[int], weight: Sequence[int], hidden_weight: Sequence[int], *_: object, **__: object
) -> int:
    """Those of one of oneDNN, which is called for each layer and direction."""
    return _cudnn_flops(inputs, (weight, hidden_weight))


_RECURRENT: Final = {torch.ops.aten._cudnn_rnn: _cudnn_flops, torch.ops.aten.mkldnn_rnn_layer: _mkldnn_flops}
"""Operations that PyTorch's counter does not know."""


# ------------------------------------------------------------------------------------------------------------ machine


def machine(device: torch.device) -> str:
    """Name of the processor, or of the GPU and the processor that launches its work."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    host = f"{name}, {os.cpu_count()} processors"
    return host if device.type == "cpu" else f"{torch.cuda.get_device_name(device)} ({host})"
