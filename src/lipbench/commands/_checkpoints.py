"""Which checkpoints a fit leaves behind: `last.ckpt`, to resume from, and `best.ckpt`, to score."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint


def best(monitor: str, mode: str) -> ModelCheckpoint:
    """`best.ckpt`: where what the model names was best so far.

    Args:
        monitor: What a validation logs, such as "val/l1".
        mode: "min" or "max".
    """
    return ModelCheckpoint(filename="best", monitor=monitor, mode=mode, enable_version_counter=False)


class Last(Checkpoint):
    """`last.ckpt`: after every validation, at the end, and in long epochs every few minutes.

    Lightning's own `save_last` writes only when the monitored value has just improved: that is not the last state.

    Args:
        minutes: Longest time between two writes.
    """

    def __init__(self, minutes: float = 2.0) -> None:
        self.minutes = minutes
        self.last_model_path = ""
        """Where it was written last; empty before that."""
        self._written = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:  # noqa: ANN401 - outputs, batch and its number: not looked at
        """Write if the time is up; the first process decides for all."""
        due = time.monotonic() - self._written >= 60 * self.minutes
        if trainer.strategy.broadcast(due) if trainer.world_size > 1 else due:
            self._write(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write after a validation that belongs to training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._write(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the end of training. Not in `on_train_end`: there, averaged weights have replaced the running ones."""
        steps, epochs = trainer.max_steps, trainer.max_epochs
        ended = 0 <= steps <= trainer.global_step or trainer.current_epoch + 1 == epochs
        if ended or trainer.should_stop:
            self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        """Write beside `best.ckpt`; Lightning writes aside first and renames."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it in a connector
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        self.last_model_path = str(folder / "checkpoints" / "last.ckpt")
        trainer.save_checkpoint(self.last_model_path, weights_only=False)  # all: it is resumed from
        self._written = time.monotonic()
