"""Which checkpoints a fit leaves behind, `last.ckpt` to resume from and `best.ckpt` to score, and how it stops."""

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from lipbench.training import position
from lipbench.training.base import BenchModule
from lipbench.training.optimization import TrainingFailed

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_FIRST_BATCH, _SETTLED = 2, 20  # the first batches are slower; after so many a rate is known
_PATIENCE: Final = 60.0  # seconds after which fewer batches must do


class Stopped(Exception):
    """Training stopped at the end of a batch because a signal asked for it.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def best(monitor: str, mode: str) -> ModelCheckpoint:
    """`best.ckpt`: where what the model names was best so far.

    Args:
        monitor: What a validation logs, such as "val/l1".
        mode: "min" or "max".
    """
    return ModelCheckpoint(filename="best", monitor=monitor, mode=mode, enable_version_counter=False)


class Last(Checkpoint):
    """`last.ckpt`: after every validation, at the end, in long epochs every few minutes, on interrupts and on errors.

    Lightning's own `save_last` writes only when the monitored value has just improved: that is not the last state.

    A first Ctrl-C, or SIGTERM, stops training at the end of the batch, so that a resumed run ends in the weights of an
    uninterrupted one; a second one stops at once.

    Args:
        minutes: Longest time between two writes.
    """

    def __init__(self, minutes: float = 2.0) -> None:
        self.minutes = minutes
        self.last_model_path = ""
        """Where it was written last; empty before that."""
        self.batches = -1
        """Batches that were done when it was written last."""
        self._ended = -1  # batches that were done when training stopped of itself
        self._started: int | None = None  # batches that were done before this run; None before it trains
        self._written = time.monotonic()
        self._flush = False
        self._signal = self._stopping = 0
        self._process = os.getpid()
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on, signals wait for the end of a batch."""
        assert isinstance(pl_module, BenchModule)
        self._started, self._signal, self._process = pl_module.batches, 0, os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first is kept in mind, the second interrupts."""
        if os.getpid() != self._process:  # a process of the loader; it ends with this one, or when it is told to
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self._signal:
            raise KeyboardInterrupt
        self._signal = number
        # Not `print`: its buffer may be in use just now.
        os.write(2, b"\nstopping after this batch, and saving; once more: stop at once, without saving\n")

    def _let_go(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Signals do again what they did before."""
        self._let_go()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:  # noqa: ANN401 - see below
        """Stop if that was asked for; write down what was logged after the last checkpoint was written."""
        self._stop()
        if self._flush:
            self._flush = False
            for logger in trainer.loggers:
                logger.save()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:  # noqa: ANN401 - outputs, batch and its number: not looked at
        """Write if the time is up or training stops; the first process decides for all."""
        due = time.monotonic() - self._written >= 60 * self.minutes
        number = self._signal
        if trainer.world_size > 1:
            due, number = trainer.strategy.broadcast((due, number))
        if number:
            self._write(trainer)
            self._stopping = number  # after this batch is logged
        elif trainer.should_stop and trainer.fit_loop._can_stop_early and not position.validation_is_due(trainer):
            # Now, not after the validation that only takes place because training stops: resumed, it has not been.
            self._write(trainer)
            self._ended = self.batches
        elif due:
            self._write(trainer)

    def _stop(self) -> None:
        if self._stopping:
            raise Stopped(self._stopping)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not begin what the resumed run will do."""
        self._stop()

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:  # noqa: ANN401 - as above
        """Validation need not end first; the resumed run begins with it. Several processes wait for its end."""
        if self._signal and trainer.world_size == 1 and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._write(trainer)
            raise Stopped(self._signal)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write after a validation that belongs to training."""
        assert isinstance(pl_module, BenchModule)
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._ended != pl_module.batches:
            self._write(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the end of training. Not in `on_train_end`: there, averaged weights have replaced the running ones."""
        assert isinstance(pl_module, BenchModule)
        steps, epochs = trainer.max_steps, trainer.max_epochs
        ended = 0 <= steps <= trainer.global_step or trainer.current_epoch + 1 == epochs
        if not ended:
            self._stop()
        if (ended or trainer.should_stop) and self.batches != pl_module.batches:
            self._write(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save what was learned up to the batch that failed, unless the weights are spoiled or half changed."""
        self._let_go()
        assert isinstance(pl_module, BenchModule)
        spoiled = isinstance(exception, TrainingFailed) and exception.spoiled
        if (
            isinstance(exception, Exception)  # an interrupt may come in the middle of a step
            and not spoiled
            and trainer.state.fn == "fit"
            and trainer.world_size == 1  # the others would not take part
            and self._started is not None  # not while a checkpoint is restored: what is half restored would replace it
            and pl_module.batches > max(self._started, self.batches)
        ):
            try:
                self._write(trainer)
            except Exception as second:  # the first one is what went wrong
                pl.utilities.rank_zero_warn(f"the weights could not be saved: {second}")

    def _write(self, trainer: pl.Trainer) -> None:
        """Write beside `best.ckpt`, and what was logged until now."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it in a connector
            return
        for logger in trainer.loggers:
            logger.save()
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        path = str(folder / "checkpoints" / "last.ckpt")
        trainer.save_checkpoint(path, weights_only=False)  # all: it is resumed from
        assert isinstance(trainer.lightning_module, BenchModule)
        self.last_model_path, self.batches = path, trainer.lightning_module.batches
        self._written = time.monotonic()
        self._flush = True


class Pace(pl.Callback):
    """Says once how long training will take at the rate of its first batches, if that is an hour or more.

    Args:
        hint: What to type for a shorter one; empty if there is nothing.
    """

    def __init__(self, hint: str = "") -> None:
        self.hint = hint
        self._seconds: list[float] = []  # of batches, with their share of loading
        self._since = time.monotonic()
        self._said = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation is no training."""
        self._since = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to measure."""
        self._since = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:  # noqa: ANN401 - not looked at
        """Measure, and say it when enough is known."""
        if self._said:
            return
        now = time.monotonic()
        self._seconds.append(now - self._since)
        self._since = now
        counted = self._seconds[_FIRST_BATCH:]
        if len(counted) < _SETTLED and (not counted or sum(counted) < _PATIENCE):
            return
        self._said = True
        seconds = sum(counted) / len(counted)
        left = float(trainer.estimated_stepping_batches) - trainer.global_step
        if seconds * left >= 3600:
            pl.utilities.rank_zero_info(
                f"about {spoken(seconds * left)} left: {left:,.0f} batches of {seconds:.2g} s, "
                f"validation not counted{self.hint}"
            )


def spoken(seconds: float) -> str:
    """A long time in hours or days."""
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
