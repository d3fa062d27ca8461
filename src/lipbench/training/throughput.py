"""How fast training goes: clips a second, and the share of the time in which it waits for data."""

import time
from typing import Any

import pytorch_lightning as pl


class Throughput(pl.Callback):
    """Logs `throughput/clips_per_second` over all processes and `throughput/wait_share`, 0 to 1, of every batch."""

    def __init__(self) -> None:
        self._start = 0.0
        self._end: float | None = None  # of the batch before, if nothing but loading lies between

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What lies before is no training."""
        self._end = None

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,  # noqa: ANN401 - a ClipBatch, or a dict of them
        batch_idx: int,
    ) -> None:
        """The batch is there."""
        self._start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - none here
        batch: Any,  # noqa: ANN401 - as above
        batch_idx: int,
    ) -> None:
        """Log what it took."""
        end = time.perf_counter()
        if self._end is not None:
            whole = end - self._end
            pl_module.log("throughput/clips_per_second", clips(batch) * trainer.world_size / whole)
            pl_module.log("throughput/wait_share", (self._start - self._end) / whole)
        self._end = end

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation is not waiting."""
        self._end = None


def clips(batch: Any) -> int:  # noqa: ANN401 - a ClipBatch, or a dict of them
    """Clips in a batch, or in all streams of a dict of batches."""
    return len(batch["index"]) if "index" in batch else sum(clips(stream) for stream in batch.values())
