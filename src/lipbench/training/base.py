"""What every model shares: optimisation, checkpoints, exact resuming, validation, test and predict. Written once."""

import math
import random
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, cast

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy, ParallelStrategy, SingleDeviceStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lipbench import __version__, losses
from lipbench.media import geometry
from lipbench.pretrained.weights import Card
from lipbench.training import checkpoints, position
from lipbench.training.checkpoints import SCHEMA
from lipbench.training.moving_average import MovingAverage
from lipbench.types import ClipBatch, ClipSpec, Generated, Timing

Schedule = Literal["constant", "inverse_sqrt", "cosine"]
_TIMINGS: Final[tuple[Timing, ...]] = ("given", "length", "free")
_UNKNOWN: Final[dict[Timing, frozenset[str]]] = {
    "given": frozenset(),
    "length": frozenset({"durations"}),
    "free": frozenset({"durations", "n_frames"}),
}


class TrainingFailed(RuntimeError):
    """Training cannot go on: from here it would meet the same end again.

    Args:
        message: What happened and what to type.
        spoiled: Whether the weights are no good any more.
    """

    def __init__(self, message: str, *, spoiled: bool = False) -> None:
        super().__init__(message)
        self.spoiled = spoiled


class BenchModule(pl.LightningModule, ABC):
    """Base of all models. A subclass names its optimisers and its losses; this class does the rest.

    Optimisation is manual in Lightning's sense, and written here once: `optimise` does zero_grad, backward, the average
    over processes, clipping, the check for values that are not finite, and the step. One batch is one `global_step`,
    however many optimisers there are, so `max_steps`, checkpoints and logs count batches.

    Gradients are averaged over processes here and not by DistributedDataParallel's hooks: a loss may then touch any
    part of the model (a discriminator alone, a stage alone) under the plain strategy "ddp". BatchNorm statistics are
    averaged with them.

    Randomness: before each batch all generators are seeded from (seed of the run, number of the batch, process). A
    resumed run thus draws the same numbers as an uninterrupted one, whatever validation or loaders drew in between.

    Args:
        clip_norm: Largest norm of the gradient of one optimiser; 0 does not clip.
        schedule: Shape of the learning rate over batches, after `warmup`: "constant", "inverse_sqrt" (falls with
            1/sqrt(batch / warmup)) or "cosine" (to 0 at the end of training, for small budgets).
        warmup: Batches over which the rate rises linearly from 0.
        ema_decay: Decay of the moving average of the weights that validation, test and generation use; 0 is off.
        init_from: Checkpoint whose weights are the start of a fresh fit (a warm start from an earlier stage).
    """

    monitor: ClassVar[tuple[str, Literal["min", "max"]]] = ("val/l1", "min")
    """What decides which checkpoint is the best, and in which direction."""
    networks: ClassVar[int] = 1
    """Version of the networks, kept in checkpoints: raised when the same weights come to mean something else."""
    may_be_fresh: ClassVar[tuple[str, ...]] = ()
    """Names of submodules that `init_from` need not hold."""
    files: ClassVar[tuple[str, ...]] = ()
    """Arguments that name a file of a frozen network: on resuming it may lie elsewhere, but must be the same."""
    takes: ClassVar[dict[str, str]] = {}
    """Argument -> short name of the model whose training writes the file that it takes; told after that training."""

    def __init__(
        self,
        *,
        clip_norm: float = 0.0,
        schedule: Schedule = "constant",
        warmup: int = 0,
        ema_decay: float = 0.0,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        if schedule == "inverse_sqrt" and warmup < 1:
            raise ValueError("schedule inverse_sqrt needs warmup >= 1: it falls with 1/sqrt(batch / warmup)")
        self.automatic_optimization = False
        self.clip_norm, self.schedule, self.warmup = clip_norm, schedule, warmup
        self.ema_decay, self.init_from = ema_decay, init_from
        self.batches = 0
        """Training batches seen so far, over all resumed runs."""
        self.frozen: dict[str, nn.Module] = {}
        """Networks of earlier stages that train this one: outside of its parameters and its checkpoint."""
        self.frozen_sha256: dict[str, str] = {}
        """Name of a frozen network -> hash of its file; read back from checkpoints."""
        self.loss_weights: dict[str, float] = {}
        """Name of a loss -> its weight in the sum; 1 where not named."""
        self.images: dict[str, Tensor] = {}
        """Name of a picture that `log_image` was given -> (H, W, 3) uint8, until tracking has written it."""
        self._seed: int | None = None
        self._validated = -1  # batches that were done when a validation last ended
        self._validate_first = False  # the resumed run stopped where a validation was due
        self._begun: set[str] = set()  # optimisers that have taken a step: the schedule of a later one begins with it
        self._counted = False  # this batch already has its optimiser step that Lightning counts
        self._total_batches = 0.0
        self._batch_end: float | None = None
        self._current: tuple[str, Mapping[str, Tensor]] = ("", {})

    # What a subclass says

    @property
    @abstractmethod
    def clip(self) -> ClipSpec:
        """What the datamodule shall put into a batch."""

    @abstractmethod
    def make_optimisers(self) -> dict[str, Optimizer]:
        """Name -> optimiser, each over its own parameters and at its peak learning rate."""

    @abstractmethod
    def train_batch(self, batch: Any) -> None:  # noqa: ANN401 - a ClipBatch, or a dict of them if there are several streams
        """Compute losses and call `optimise` once for each optimiser."""

    def follows_schedule(self, name: str) -> bool:
        """Whether the learning rate of the named optimiser follows `schedule`; otherwise it stays at its peak."""
        return True

    # Optimisation

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union of shapes
        """The optimisers, each with the schedule of the learning rate."""
        optimisers = self.make_optimisers()
        self._names = list(optimisers)
        if self.schedule == "cosine":
            self._total_batches = float(self.trainer.estimated_stepping_batches)
            if not math.isfinite(self._total_batches):
                raise ValueError(
                    "schedule cosine must know when training ends; add --trainer.max_steps N or --trainer.max_epochs N"
                )
        rates = [self.rate if self.follows_schedule(name) else self.peak for name in optimisers]
        pairs = zip(optimisers.values(), rates, strict=True)
        return list(optimisers.values()), [LambdaLR(optimiser, rate) for optimiser, rate in pairs]

    def peak(self, batch: int) -> float:
        """Factor of a learning rate that does not change."""
        return 1.0

    def rate(self, batch: int) -> float:
        """Factor of the learning rate, 0 to 1, at a number of batches already done."""
        if batch < self.warmup:
            return (batch + 1) / self.warmup
        match self.schedule:
            case "constant":
                return 1.0
            case "inverse_sqrt":
                return math.sqrt(self.warmup / (batch + 1))
            case "cosine":
                done = (batch - self.warmup) / max(self._total_batches - self.warmup, 1)
                return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def training_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401 - see train_batch
        """One batch: seed, train, step the learning rate, count, log."""
        start = time.perf_counter()
        self._seed_batch()
        self._counted = False
        self.train_batch(batch)
        found = self.lr_schedulers()
        schedulers = found if isinstance(found, list) else [found]
        for name, scheduler in zip(self._names, schedulers, strict=True):
            if name in self._begun:
                cast("LambdaLR", scheduler).step()
        self.batches += 1
        self._log_throughput(start, _clips(batch))

    def optimise(self, name: str, terms: Mapping[str, Tensor]) -> dict[str, float]:
        """Take one step of the named optimiser down the weighted sum of losses.

        Args:
            name: A key of `make_optimisers`.
            terms: Name of a loss -> scalar, unweighted; logged as `train/<name>`, weighted by `loss_weights`.

        Returns:
            Name of a loss -> its value, unweighted, and "total", their weighted sum: means over processes.

        Raises:
            TrainingFailed: A loss or the gradient is not finite. The weights are still those of the last good step.
        """
        found = self.optimizers()
        optimiser = (found if isinstance(found, list) else [found])[self._names.index(name)]
        total = torch.stack([self.loss_weights.get(key, 1.0) * value.float() for key, value in terms.items()]).sum()
        values = torch.stack([*(value.float() for value in terms.values()), total]).detach()
        optimiser.zero_grad()
        strategy = self.trainer.strategy
        if isinstance(strategy, ParallelStrategy):
            with strategy.block_backward_sync():
                self.manual_backward(total)
            values = self._average_over_processes(optimiser.optimizer, values)
        else:
            self.manual_backward(total)
        self._current = name, dict(zip((*terms, "total"), values, strict=True))
        self._begun.add(name)
        if self._counted:  # past the wrapper that counts global_step, with the same precision plugin
            strategy.optimizer_step(optimiser.optimizer, lambda: None)
        else:
            optimiser.step()
            self._counted = True
        # Not logged in the hook: when hooks alternate, Lightning forgets the earlier values of an epoch's first batch.
        self.log(f"train/grad_norm_{name}", self._norm)
        for key, value in zip(terms, values, strict=False):
            self.log(f"train/{key}", value, prog_bar=len(terms) <= 3)
        return self._found

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip, and refuse values that are not finite; called just before the step, with gradients unscaled."""
        name, terms = self._current
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        values = torch.stack([norm.float(), *terms.values()]).tolist()  # the one wait for the device in a step
        # In half precision the loss scaler skips steps whose gradient overflows; that is no error.
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if not all(map(math.isfinite, values[1:])) or not (math.isfinite(values[0]) or scaled):
            raise TrainingFailed(self._not_finite(name, dict(zip(("the gradient", *terms), values, strict=True))))
        if self.clip_norm > 0:
            factor = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, factor)
        self._norm, self._found = norm, dict(zip(terms, values[1:], strict=True))

    def _not_finite(self, name: str, values: dict[str, float]) -> str:
        """The message for a step that would have destroyed the weights."""
        bad = {key: value for key, value in values.items() if not math.isfinite(value)}
        named = [key for key in bad if key not in ("the gradient", "total")]
        what = " and ".join(f"the loss {key!r} is {bad[key]}" for key in named)
        what = what or f"{' and '.join(bad)} is not finite"
        paths = [getattr(c, "last_model_path", "") for c in reversed(self.trainer.checkpoint_callbacks)]
        paths += [getattr(c, "best_model_path", "") for c in self.trainer.checkpoint_callbacks]
        kept = next(filter(None, paths), "")
        return (
            f"training stopped at batch {self.batches} before the step of optimiser {name!r}: {what}. The weights were "
            f"not changed; the last good checkpoint is {kept or 'not written yet'}. "
            "Lower --model.lr, or set --model.clip_norm 1"
        )

    def _average_over_processes(self, optimiser: Optimizer, values: Tensor) -> Tensor:
        """Average the gradients of one optimiser, all floating-point buffers and (L,) losses in one exchange.

        A parameter without a gradient counts as zero if any other process has one, and stays without if none has.
        """
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        buffers = [b for b in self.buffers() if b.is_floating_point()]
        used = values.new_tensor([p.grad is not None for p in parameters], dtype=torch.float32)
        parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([*(part.float().flatten() for part in (*parts, *buffers)), used, values])
        torch.distributed.all_reduce(flat)
        flat /= self.trainer.world_size
        sizes = [*(p.numel() for p in parameters), *(b.numel() for b in buffers), len(used), len(values)]
        means = torch.split(flat, sizes)
        anywhere = means[-2].tolist()
        for parameter, mean, share in zip(parameters, means, anywhere, strict=False):
            parameter.grad = mean.view_as(parameter).to(parameter.dtype) if share else None
        for buffer, mean in zip(buffers, means[len(parameters) :], strict=False):
            buffer.copy_(mean.view_as(buffer))
        return means[-1]

    def _seed_batch(self) -> None:
        """Seed torch, numpy and python for this batch."""
        if self._seed is None:
            self._seed = self.trainer.strategy.broadcast(torch.initial_seed())
        state = np.random.SeedSequence([self._seed, self.batches, self.global_rank]).generate_state(3)
        torch.manual_seed(int(state[0]))
        np.random.seed(int(state[1]))  # noqa: NPY002 - the global generator, which other packages draw from
        random.seed(int(state[2]))

    def _log_throughput(self, start: float, clips: int) -> None:
        """Log clips a second and the share of the time spent waiting for the loader."""
        end = time.perf_counter()
        if self._batch_end is not None:
            self.log("throughput/clips_per_second", clips * self.trainer.world_size / (end - self._batch_end))
            self.log("throughput/wait_share", (start - self._batch_end) / (end - self._batch_end))
        self._batch_end = end

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401 - see train_batch
        """What this batch logs stands at its number. Lightning's own count differs by one after a resume."""
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.batches

    def on_validation_end(self) -> None:
        """Validation is not waiting."""
        self._batch_end = None
        self._validated = self.batches

    def log_image(self, name: str, image: Tensor) -> None:
        """Log a picture of any kind, such as an alignment or a plot; it is written where the strips are.

        To be called in a training or validation step. A later picture of the same name in the same step replaces it.

        Args:
            name: Such as "attention/bbaf2n".
            image: (3, H, W) RGB or (H, W) gray, float in [0, 1] or uint8.

        Raises:
            ValueError: It has another shape or another type.
        """
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise ValueError(f"the image {name!r} is {image.dtype}; expected float in [0, 1] or uint8")
        if image.dim() not in (2, 3) or (image.dim() == 3 and image.shape[0] != 3):
            raise ValueError(f"the image {name!r} has shape {tuple(image.shape)}; expected (3, H, W) or (H, W)")
        pixels = image.detach().expand(3, *image.shape[-2:])  # (3, H, W)
        if pixels.dtype != torch.uint8:
            pixels = (pixels.float().nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
        self.images[name] = pixels.permute(1, 2, 0).cpu()  # (H, W, 3)

    # Starting, saving and resuming

    def configure_callbacks(self) -> list[pl.Callback]:
        """The moving average of the weights, while fitting and if wanted."""
        if self.ema_decay and self.trainer.state.fn == TrainerFn.FITTING:
            return [MovingAverage(self.ema_decay)]
        return []

    def setup(self, stage: str) -> None:
        """Check the trainer, and have it write and read checkpoints in lipbench's way.

        Raises:
            ValueError: The strategy shards the model, or checkpoints are asked for by time.
        """
        if not isinstance(self.trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ValueError(
                "lipbench runs on one device or with --trainer.strategy ddp, "
                f"found {type(self.trainer.strategy).__name__}"
            )
        strategy = self.trainer.strategy
        if type(strategy.checkpoint_io) is TorchCheckpointIO:  # not one that the user has asked for
            strategy.checkpoint_io = checkpoints.CheckpointFiles()
        if stage != "fit":
            return
        for callback in self.trainer.checkpoint_callbacks:
            if getattr(callback, "_train_time_interval", None) is not None:
                raise ValueError(
                    "ModelCheckpoint's train_time_interval does nothing under manual optimisation (Lightning 2.6); "
                    "set every_n_train_steps instead"
                )
        # Lightning warns that checkpoints hold the weights after the step, which is what they should hold.
        warnings.filterwarnings("ignore", "Using ModelCheckpoint with manual optimization")

    def keep_frozen(self, name: str, network: nn.Module, card: Card) -> None:
        """Take a network of an earlier stage along.

        Args:
            name: Under which it lies in `frozen`; the option that names its file.
            network: As `lipbench.pretrained.weights.load` gives it.
            card: Its hash is kept in checkpoints.
        """
        self.frozen[name], self.frozen_sha256[name] = network, card.sha256

    def on_fit_start(self) -> None:
        """Take over the weights of `init_from` in a fresh fit; frozen networks go where the model went.

        Raises:
            FileNotFoundError: There is no such checkpoint.
            ValueError: It is damaged, or its weights do not fit.
        """
        if self.init_from and not self.trainer.ckpt_path:  # a resumed run has them in its own checkpoint
            self._take_weights(Path(self.init_from))
        for network in self.frozen.values():
            network.to(self.device)

    def on_train_start(self) -> None:
        """Check what was restored for the optimisers, and make up for a validation that was due.

        Raises:
            ValueError: A checkpoint holds the state of other optimisers.
        """
        self._check_optimisers()
        if self._validate_first:
            self._validate_first = False
            position.validate(self.trainer)

    def _check_optimisers(self) -> None:
        """The state of every optimiser must have the kinds and shapes of its parameters; torch does not look."""
        for name, optimiser in zip(self._names, self.trainer.optimizers, strict=True):
            odd = [
                key
                for group in optimiser.param_groups
                for key, own in optimiser.defaults.items()
                if not _alike(group.get(key), own)
            ]
            states: dict[Any, Any] = dict(optimiser.state)  # a number for a parameter that is not there
            names = {key for state in states.values() for key in state}
            for parameter, state in states.items():
                odd += sorted(names - state.keys()) if isinstance(parameter, Tensor) else [str(parameter)]
                odd += [key for key, value in state.items() if not odd and not _belongs(value, parameter)]
            if odd:
                raise ValueError(
                    f"{self.trainer.ckpt_path} is damaged: {odd[0]!r} of the optimiser {name!r} does not fit its "
                    "parameters. Start a new run from its weights with --model.init_from in place of --ckpt_path"
                )

    def _take_weights(self, path: Path) -> None:
        """Load what a checkpoint holds; everything outside `may_be_fresh` must be there with the right shape."""
        if not path.is_file():
            raise FileNotFoundError(
                f"--model.init_from: no checkpoint at {path}; give the .ckpt file of the earlier stage"
            )
        content = checkpoints.read(path)
        self._check_networks(content["lipbench"], f"--model.init_from {path}")
        stored = content["state_dict"]
        own = self.state_dict()
        fits = {key: stored[key] for key in own if key in stored and stored[key].shape == own[key].shape}
        lacking = [key for key in own if key not in fits and not key.startswith(self.may_be_fresh or ("\0",))]
        if lacking:
            raise ValueError(
                f"--model.init_from {path} does not fit this model: {len(lacking)} of {len(own)} tensors are absent or "
                f"of another size, such as {lacking[:3]}; give the same sizes as in the earlier stage"
            )
        self.load_state_dict(fits, strict=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write what identifies and resumes the run; plain values only, so that `weights_only` loading works."""
        checkpoint["lipbench"] = {
            "schema": SCHEMA,
            "version": __version__,
            "model": type(self).__module__.rpartition(".")[2],
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            "networks": self.networks,
            "batches": self.batches,
            "seed": self._seed,
            "frozen": self.frozen_sha256,
            "validate": self._trainer is not None
            and self.trainer.state.fn == TrainerFn.FITTING
            and self._validated != self.batches
            and position.validation_is_due(self.trainer),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read it back.

        Raises:
            ValueError: Not a lipbench checkpoint, a newer one, another model's, one of older networks, or one that was
                trained with other frozen networks than those this run has taken along.
        """
        meta = checkpoint.get("lipbench")
        if meta is None:
            raise ValueError("this checkpoint was not written by lipbench: it has no entry 'lipbench'")
        checkpoints.check_meta(meta, "this checkpoint")
        if meta["class"] != f"{type(self).__module__}.{type(self).__qualname__}":
            raise ValueError(f"this checkpoint holds a {meta['model']!r}, not a {type(self).__qualname__}")
        self._check_networks(meta, "this checkpoint")
        self.batches, self._seed = meta["batches"], meta["seed"]
        for name, sha256 in meta.get("frozen", {}).items():  # absent before there were such models
            own = self.frozen_sha256.setdefault(name, sha256)
            if own != sha256:
                raise ValueError(
                    f"--model.{name} has SHA-256 {own[:12]}..., and the run that is resumed was trained with "
                    f"{sha256[:12]}...; give that file, or start a new run"
                )
        if self._trainer is not None:
            self._restore_trainer(checkpoint, meta)

    def _callback_states(self, stored: dict[str, Any]) -> dict[str, Any]:
        """The states of callbacks that a resumed run takes over.

        A limit of time is one of this run: Lightning's would count all resumed ones. What was best so far counts where
        its checkpoints lie; names from the file are only followed there, since what is no longer best is removed.
        """
        states = {key: state for key, state in stored.items() if not key.startswith(("Timer", "ModelCheckpoint"))}
        resumed = Path(self.trainer.ckpt_path or "").resolve().parent
        for callback in self.trainer.checkpoint_callbacks:
            if not isinstance(callback, ModelCheckpoint) or callback.state_key not in stored:
                continue
            folder = Path(callback.dirpath or "")
            if folder.resolve() == resumed:
                states[callback.state_key] = checkpoints.moved(stored[callback.state_key], folder)
        return states

    def _restore_trainer(self, checkpoint: dict[str, Any], meta: dict[str, Any]) -> None:
        """Leave in the checkpoint what the trainer shall restore, in the form in which it goes on exactly."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            checkpoint.pop("loops", None)
            checkpoint.pop("callbacks", None)
            return
        checkpoints.check_resumable(checkpoint, self.batches)
        checkpoint["loops"] = position.written(self.trainer, position.read(checkpoint["loops"]), self.batches)
        checkpoint["callbacks"] = self._callback_states(checkpoint["callbacks"])
        self._validate_first = meta.get("validate") is True

    def _check_networks(self, meta: Mapping[str, Any], named: str) -> None:
        """Refuse weights of the same shapes that would compute something else here."""
        found = meta.get("networks", 1)  # absent before any network had changed
        if found != self.networks:
            age = "a newer" if isinstance(found, int) and found > self.networks else "an older"
            raise ValueError(
                f"{named} was trained with {age} network: version {found} of {type(self).__name__}'s, and this is "
                f"{self.networks}. The same weights would give other results here; train anew"
            )


class GenerativeModel(BenchModule):
    """A model that makes pictures: the contract that the evaluator and `lipbench generate` rely on.

    Attributes:
        timing: How the next test or predict times its clips; the evaluator sets it.
    """

    timings: ClassVar[frozenset[str]]
    """Which of "given", "length" and "free" it supports."""
    paper: ClassVar[str]
    """Authors, title, venue and year."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - BenchModule's arguments
        super().__init__(**options)
        self.timing: Timing = next(timing for timing in _TIMINGS if timing in self.timings)

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """The batch keys that `generate` is handed, and no others. Never "video"."""

    @abstractmethod
    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Make whole clips.

        Args:
            batch: Only `needs`, less "durations" unless timing is "given", less "n_frames" too if it is "free".
            timing: Who decides how long each token lasts: the truth (its durations, or the sound that drives), the
                truth's total length, or the model (if it is driven by sound, that is as long as the video).

        Returns:
            At least `video` (B, N, 3, h, w) in [0, 1] in the main view, zero after `video_len` (B,).
        """

    def drive(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Call `generate` with exactly the keys that the timing allows.

        A model that needs `pose` gets the batch's frames with their lower half blanked, unless the batch holds poses.

        Raises:
            ValueError: The model does not support this timing, or the batch lacks a key.
        """
        if timing not in self.timings:
            raise ValueError(f"{type(self).__name__} has no timing {timing!r}; it has {sorted(self.timings)}")
        if "pose" in self.needs and "pose" not in batch and "video" in batch:
            blanked = geometry.without_lower_half(batch["video"])
            batch = {**batch, "pose": blanked, "pose_len": batch["video_len"]}
        keys = self.needs - _UNKNOWN[timing]
        lacking = keys - batch.keys()
        if lacking:
            raise ValueError(
                f"{type(self).__name__} needs {sorted(lacking)} for timing {timing!r}; the batch lacks them"
            )
        return self.generate(cast("ClipBatch", {key: batch[key] for key in keys}), timing)  # type: ignore[literal-required]

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """Generate with the timing closest to the truth and log `val/l1` and `val/psnr` on the frames both have."""
        timing = next(timing for timing in _TIMINGS if timing in self.timings)
        made, truth = self.drive(batch, timing), batch["video"]
        frames = min(made["video"].shape[1], truth.shape[1])
        lengths = torch.minimum(made["video_len"], batch["video_len"])  # (B,)
        prediction, target = made["video"][:, :frames].float(), truth[:, :frames]
        valid = torch.arange(frames, device=truth.device) < lengths[:, None]  # (B, frames)
        error = F.mse_loss(prediction, target, reduction="none").flatten(2).mean(dim=2)  # (B, frames)
        psnr = -10 * torch.log10(error.clamp(min=1e-10))
        size = len(truth)
        self.log("val/l1", losses.l1(prediction, target, lengths), prog_bar=True, batch_size=size, sync_dist=True)
        self.log("val/psnr", psnr[valid].mean(), prog_bar=True, batch_size=size, sync_dist=True)
        return made

    def test_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """Generate as `timing` says; the evaluator scores what is returned."""
        return self.drive(batch, self.timing)

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """Generate as `timing` says."""
        return self.drive(batch, self.timing)


def _clips(batch: Any) -> int:  # noqa: ANN401 - see BenchModule.train_batch
    """Clips in a batch, or in all streams of a dict of batches."""
    return len(batch["index"]) if "index" in batch else sum(_clips(stream) for stream in batch.values())


def _belongs(value: object, parameter: Tensor) -> bool:
    """Whether a part of an optimiser's state can be that of a parameter: a number, or a tensor of its shape."""
    return isinstance(value, Tensor) and (value.dim() == 0 or value.shape == parameter.shape)


def _alike(value: object, own: object) -> bool:
    """Whether a setting of an optimiser is of the kind of its default."""
    if isinstance(own, tuple | list):
        return isinstance(value, tuple | list) and len(value) == len(own) and all(map(_alike, value, own))
    if isinstance(own, bool) or own is None:
        return isinstance(value, bool) or value is None
    if isinstance(own, int | float):
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, type(own))
