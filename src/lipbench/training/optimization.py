"""Optimization, written once: any number of optimizers, schedules, clipping, accumulation, means over processes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lipbench.errors import on_one_line
from lipbench.training import position
from lipbench.training.parameters import check_ownership, parameters_of
from lipbench.training.schedules import LearningRate, Plateau, Schedule


class TrainingFailed(RuntimeError):
    """Training cannot go on: from here it would meet the same end again.

    Args:
        message: What happened and what to type.
        spoiled: Whether the weights are no good any more.
    """

    def __init__(self, message: str, *, spoiled: bool = False) -> None:
        super().__init__(message)
        self.spoiled = spoiled


@dataclass
class _Sum:
    """Gradients and losses of the batches that make one step of an optimizer together."""

    batches: int = 0
    gradients: list[Tensor | None] = field(default_factory=list)
    values: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, parameters: list[nn.Parameter], values: Mapping[str, Tensor], scale: float) -> None:
        """Take over the gradients of another batch, divided by the loss scale, and its losses."""
        before = self.gradients or [None] * len(parameters)
        self.gradients = []
        for parameter, total in zip(parameters, before, strict=True):
            own, parameter.grad = parameter.grad, None
            if own is not None and scale != 1:
                own /= scale
            self.gradients.append(own if total is None else total if own is None else total.add_(own))
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)
        self.batches += 1

    def give(self, parameters: list[nn.Parameter], scale: float) -> dict[str, Tensor]:
        """Put the mean gradients where an optimizer looks for them; the mean losses, of the batches that have them."""
        for parameter, total in zip(parameters, self.gradients, strict=True):
            parameter.grad = None if total is None else total.mul_(scale / self.batches)
        return {name: torch.stack(values).mean() for name, values in self.values.items()}


class OptimizedModule(pl.LightningModule, ABC):
    """How all models are optimized: a model names its optimizers (`build_optimizers`) and steps each.

    Optimization is manual in Lightning's sense: `step_optimizer` does zero_grad, backward, the average over processes,
    clipping, the check for values that are not finite, and the step. One batch is one `global_step`, however many
    optimizers there are, so `max_steps`, checkpoints and logs count batches.

    With `--trainer.accumulate_grad_batches N`, N batches of the loader count as one: gradients and losses are their
    means, and schedules, `batches` and everything that counts them go on by 1. What is left at the end of an epoch
    makes a smaller one.

    Gradients are averaged over processes here and not by DistributedDataParallel's hooks: a loss may then touch any
    part of the model (a discriminator alone, a stage alone) under the plain strategy "ddp". BatchNorm statistics are
    averaged with them.

    Args:
        clip_norm: Largest norm of the gradient of one optimizer; 0 does not clip.
        schedule: Shape of the learning rate over batches, after `warmup`: "constant"; "inverse_sqrt", sqrt(warmup /
            batch); "cosine", to 0 at the end of training, for small budgets; "step", times `decay_factor` after every
            `decay_every` batches; "plateau", times `decay_factor` each time that `patience` validations in a row have
            not improved the monitored value.
        warmup: Batches over which the rate rises linearly from 0.
        decay_every: Batches between two steps of the schedule "step".
        decay_factor: Of the schedules "step" and "plateau".
        patience: Validations without improvement, of the schedule "plateau".
        schedules: Name of an optimizer -> its schedule, in place of the model's choice.
    """

    monitor: ClassVar[tuple[str, Literal["min", "max"]]] = ("val/l1", "min")
    """What decides which checkpoint is the best and when a plateau is reached, and in which direction."""

    def __init__(
        self,
        *,
        clip_norm: float = 0.0,
        schedule: Schedule = "constant",
        warmup: int = 0,
        decay_every: int = 0,
        decay_factor: float = 0.5,
        patience: int = 5,
        schedules: dict[str, Schedule] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()  # here, where the arguments of all bases and of the model are at hand
        self.automatic_optimization = False
        self.clip_norm, self.schedule, self.warmup = clip_norm, schedule, warmup
        self.decay_every, self.decay_factor, self.patience = decay_every, decay_factor, patience
        self.schedules: dict[str, Schedule] = schedules or {}
        for chosen in (schedule, *self.schedules.values()):
            self._rate(chosen)
        self.batches = 0
        """Training batches done, over all resumed runs; those whose gradients are accumulated count as one."""
        self.drawn = 0
        """Batches of the loader so far: as `batches`, where nothing is accumulated."""
        self.accumulated = 0
        """Batches of the loader since the last step."""
        self.loss_weights: dict[str, float] = {}
        """Name of a loss -> its weight in the sum; 1 where not named."""
        self._seed: int | None = None
        self._names: list[str] = []
        self._in_bar: dict[str, bool] = {}  # by loss: whether the progress bar shows it
        self._begun: set[str] = set()  # optimizers that have taken a step: the schedule of a later one begins with it
        self._counted = False  # this batch already has its optimizer step that Lightning counts
        self._steps = True  # this batch ends an accumulation
        self._sums: dict[str, _Sum] = {}  # by optimizer
        self._buffers_before: dict[str, Tensor] = {}  # statistics as they were before an accumulation
        self._plateaus: dict[str, Plateau] = {}  # by optimizer
        self._total_batches = 0.0
        self._current: tuple[str, Mapping[str, Tensor]] = ("", {})

    # What a subclass says

    @abstractmethod
    def build_optimizers(self) -> dict[str, Optimizer]:
        """Name -> optimizer, each over its own parameters and at its peak learning rate.

        Parameter groups may differ in learning rate, betas and weight decay, see `parameters.groups`. Every parameter
        that is trained must be in exactly one optimizer.
        """

    @abstractmethod
    def compute_step(self, batch: Any) -> None:  # noqa: ANN401 - a ClipBatch, or a dict of them if there are several streams
        """Compute losses and call `step_optimizer` once for each optimizer."""

    def follows_schedule(self, name: str) -> bool:
        """Whether the learning rate of the named optimizer follows `schedule`; otherwise it stays at its peak."""
        return True

    def learning_rate(self, name: str) -> LearningRate:
        """The schedule of the named optimizer: that of `schedules`, else the model's if it follows it."""
        if name in self.schedules:
            return self._rate(self.schedules[name])
        return self._rate(self.schedule) if self.follows_schedule(name) else LearningRate()

    def decayed(self, name: str) -> bool:
        """Whether the learning rate of the named optimizer has gone down, by the schedule "step" or "plateau"."""
        rate = self.learning_rate(name)
        if rate.schedule == "step":
            return self.batches >= rate.warmup + rate.every
        return name in self._plateaus and self._plateaus[name].factor < 1

    def _rate(self, schedule: Schedule) -> LearningRate:
        return LearningRate(schedule, self.warmup, self.decay_every, self.decay_factor, self.patience)

    @property
    def follows_validations(self) -> bool:
        """Whether `look_for_plateaus` is called after every validation, also without a schedule "plateau"."""
        return False

    # The optimizers

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union of shapes
        """The optimizers, each with the schedule of the learning rate.

        Raises:
            ValueError: A trainable parameter is in no optimizer or in two, an optimizer has one that the model does not
                have, `schedules` names an optimizer that is not there, or "cosine" does not know when training ends.
        """
        optimizers = self.build_optimizers()
        check_ownership(type(self).__name__, dict(self.named_parameters()), optimizers)
        self._names = list(optimizers)
        unknown = sorted(self.schedules.keys() - optimizers.keys())
        if unknown:
            raise ValueError(
                f"--model.schedules names {unknown[0]!r}, which is no optimizer of {type(self).__name__}; it has "
                f"{', '.join(self._names)}"
            )
        rates = {name: self.learning_rate(name) for name in optimizers}
        if any(rate.schedule == "cosine" for rate in rates.values()):
            self._total_batches = float(self.trainer.estimated_stepping_batches)
            if not math.isfinite(self._total_batches):
                raise ValueError(
                    "schedule cosine must know when training ends; add --trainer.max_steps N or --trainer.max_epochs N"
                )
        for name, rate in rates.items():
            if rate.schedule == "plateau":
                self._plateaus.setdefault(name, Plateau())

        def schedule(name: str) -> LambdaLR:
            def factor(batch: int) -> float:
                decay = self._plateaus[name].factor if name in self._plateaus else 1.0
                return rates[name].at(batch, self._total_batches) * decay

            return LambdaLR(optimizers[name], factor)

        return list(optimizers.values()), [schedule(name) for name in optimizers]

    def look_for_plateaus(self, value: float) -> None:
        """Take in what the last validation monitored; where it is a plateau, the learning rate falls at once.

        Args:
            value: The same on all processes.
        """
        found = self.lr_schedulers()
        schedulers = found if isinstance(found, list) else [found]
        for name, scheduler in zip(self._names, schedulers, strict=True):
            if name not in self._plateaus:
                continue
            self._plateaus[name].add(value, self.monitor[1], self.learning_rate(name))
            assert isinstance(scheduler, LambdaLR)
            factors = [rate(scheduler.last_epoch) for rate in scheduler.lr_lambdas]
            for group, base, factor in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, factors, strict=True):
                group["lr"] = base * factor

    # A batch

    def training_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401 - see compute_step
        """One batch of the loader: seed, train, and where it ends an accumulation step the learning rate and count."""
        if self._seed is None:
            self._seed = self.trainer.strategy.broadcast(torch.initial_seed())
        position.seed(self._seed, self.batches, self.global_rank, self.accumulated)
        wanted = self.trainer.accumulate_grad_batches
        self._steps = self.accumulated + 1 >= wanted or self.trainer.is_last_batch
        if wanted > 1 and not self.accumulated:
            self._sums = {}
            self._buffers_before = {name: buffer.clone() for name, buffer in self.named_buffers()}
        self._counted = False
        try:
            self.compute_step(batch)
        except RuntimeError as error:  # torch.OutOfMemoryError is one, and on the CPU there is only its message
            if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
                raise
            raise TrainingFailed(self._too_large(str(error))) from error
        self.drawn += 1
        if not self._steps:
            self.accumulated += 1
            return
        found = self.lr_schedulers()
        schedulers = found if isinstance(found, list) else [found]
        for name, scheduler in zip(self._names, schedulers, strict=True):
            if name in self._begun:
                cast("LambdaLR", scheduler).step()
        self.batches += 1
        self.accumulated = 0

    def step_optimizer(self, name: str, terms: Mapping[str, Tensor]) -> dict[str, float]:
        """Take one step of the named optimizer down the weighted sum of losses.

        Args:
            name: A key of `build_optimizers`.
            terms: Name of a loss -> scalar, unweighted; logged as `train/<name>`, weighted by `loss_weights`.

        Returns:
            Name of a loss -> its value, unweighted, and "total", their weighted sum: means over processes. Empty while
            gradients are accumulated: then there is no step yet.

        Raises:
            ValueError: There is no optimizer of that name.
            TrainingFailed: A loss or the gradient is not finite. The weights are still those of the last good step.
        """
        if name not in self._names:
            raise ValueError(
                f"step_optimizer was given {name!r}, which is no optimizer of {type(self).__name__}; "
                f"build_optimizers returns {', '.join(self._names)}"
            )
        found = self.optimizers()
        optimizer = (found if isinstance(found, list) else [found])[self._names.index(name)]
        total = torch.stack([self.loss_weights.get(key, 1.0) * value.float() for key, value in terms.items()]).sum()
        names = (*terms, "total")
        values = torch.stack([*(value.float() for value in terms.values()), total]).detach()
        optimizer.zero_grad()
        strategy = self.trainer.strategy
        with strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext():
            self.manual_backward(total)
        if self.trainer.accumulate_grad_batches > 1:
            parameters = parameters_of(optimizer.optimizer)
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            scale = 1.0 if scaler is None else float(scaler.get_scale())
            sums = self._sums.setdefault(name, _Sum())
            sums.add(parameters, dict(zip(names, values, strict=True)), scale)
            if not self._steps:
                return {}
            means = sums.give(parameters, scale)
            names = (*(key for key in means if key != "total"), "total")
            values = torch.stack([means[key] for key in names])
        if isinstance(strategy, ParallelStrategy):
            values = self._average_over_processes(optimizer.optimizer, values)
        self._current = name, dict(zip(names, values, strict=True))
        self._begun.add(name)
        if self._counted:  # past the wrapper that counts global_step, with the same precision plugin
            strategy.optimizer_step(optimizer.optimizer, lambda: None)
        else:
            optimizer.step()
            self._counted = True
        # Not logged in the hook: when hooks alternate, Lightning forgets the earlier values of an epoch's first batch.
        self.log(f"train/grad_norm_{name}", self._norm)
        for key, value in zip(names[:-1], values, strict=False):
            # Where a loss begins later, the others stay as they are: Lightning refuses a change.
            self.log(f"train/{key}", value, prog_bar=self._in_bar.setdefault(key, len(names) <= 4))
        return self._found

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip, and refuse values that are not finite; called just before the step, with gradients unscaled."""
        name, terms = self._current
        gradients = [p.grad for p in parameters_of(optimizer) if p.grad is not None]
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

    def _too_large(self, message: str) -> str:
        """The message for a batch that does not fit into memory; its first sentence says how much was asked for."""
        return (
            f"training stopped at batch {self.batches}: it does not fit into the memory of {self.device} "
            f"({on_one_line(message)[:200]}). It was not skipped: go on from the last checkpoint with a lower "
            "--data.batch_size, with --trainer.accumulate_grad_batches N for the gradients of N such batches, or with "
            "--trainer.precision bf16-mixed. Of models that train on whole clips the longest clip decides"
        )

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
            f"training stopped at batch {self.batches} before the step of optimizer {name!r}: {what}. The weights were "
            f"not changed; the last good checkpoint is {kept or 'not written yet'}. "
            "Lower --model.lr, or set --model.clip_norm 1"
        )

    def _average_over_processes(self, optimizer: Optimizer, values: Tensor) -> Tensor:
        """Average the gradients of one optimizer, all floating-point buffers and (L,) losses in one exchange.

        A parameter without a gradient counts as zero if any other process has one, and stays without if none has.
        """
        parameters = parameters_of(optimizer)
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

    # What a checkpoint keeps of it

    def optimization_state(self) -> dict[str, Any]:
        """Plain values from which optimization goes on beside the states of optimizers and schedulers."""
        state: dict[str, Any] = {"batches": self.batches, "seed": self._seed}
        if self.drawn != self.batches:
            state |= {"drawn": self.drawn - self.accumulated, "accumulated": self.accumulated}
        if self._plateaus:
            state["plateaus"] = {name: asdict(plateau) for name, plateau in self._plateaus.items()}
        return state

    def restore_optimization(self, meta: Mapping[str, Any]) -> None:
        """Go on from `optimization_state`, checked by `checkpoints.check_meta`.

        A checkpoint from the middle of an accumulation goes on from its beginning: the batches since then are drawn
        again, with the same random numbers.
        """
        self.batches, self._seed = meta["batches"], meta["seed"]
        self.drawn, self.accumulated = meta.get("drawn", self.batches), 0
        self._plateaus = {name: Plateau(**state) for name, state in meta.get("plateaus", {}).items()}

    def statistics_before(self, stored: dict[str, Tensor]) -> None:
        """Put buffers back, in a state dict to be stored, to what they were before the gradients now accumulated."""
        if self.accumulated:
            stored |= {name: value for name, value in self._buffers_before.items() if name in stored}

    def check_optimizers(self) -> None:
        """The state of every optimizer must have the kinds and shapes of its parameters; torch does not look.

        Raises:
            ValueError: A checkpoint holds the state of other optimizers.
        """
        for name, optimizer in zip(self._names, self.trainer.optimizers, strict=True):
            odd = [
                key
                for group in optimizer.param_groups
                for key, own in optimizer.defaults.items()
                if not _alike(group.get(key), own)
            ]
            states: dict[Any, Any] = dict(optimizer.state)  # a number for a parameter that is not there
            names = {key for state in states.values() for key in state}
            for parameter, state in states.items():
                odd += sorted(names - state.keys()) if isinstance(parameter, Tensor) else [str(parameter)]
                odd += [key for key, value in state.items() if not odd and not _belongs(value, parameter)]
            if odd:
                raise ValueError(
                    f"{self.trainer.ckpt_path} is damaged: {odd[0]!r} of the optimizer {name!r} does not fit its "
                    "parameters. Start a new run from its weights with --model.init_from in place of --ckpt_path"
                )


class PlateauCallback(pl.Callback):
    """Shows a model what its validations have monitored; before checkpoints are written, which come last."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand the value on.

        Raises:
            ValueError: The validation did not log what the model monitors.
        """
        assert isinstance(pl_module, OptimizedModule)
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        key = pl_module.monitor[0]
        if key not in trainer.callback_metrics:
            logged = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("val/")))
            raise ValueError(
                f"training follows {key!r}, which the validation of {type(pl_module).__name__} did not log; "
                f"it logged {logged or 'nothing'}"
            )
        pl_module.look_for_plateaus(float(trainer.callback_metrics[key]))


def _belongs(value: object, parameter: Tensor) -> bool:
    """Whether a part of an optimizer's state can be that of a parameter: a number, or a tensor of its shape."""
    return isinstance(value, Tensor) and (value.dim() == 0 or value.shape == parameter.shape)


def _alike(value: object, own: object) -> bool:
    """Whether a setting of an optimizer is of the kind of its default."""
    if isinstance(own, tuple | list):
        return isinstance(value, tuple | list) and len(value) == len(own) and all(map(_alike, value, own))
    if isinstance(own, bool) or own is None:
        return isinstance(value, bool) or value is None
    if isinstance(own, int | float):
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, type(own))
