"""Averaged weights: an exponential moving average of a model, used in validation, test and generation."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor


class MovingAverage(WeightAveraging):
    """Lightning's weight averaging with a decay that warms up, so that short runs profit too.

    A model switches it on by `ema_decay`. The checkpoint's `state_dict` holds the averaged weights (BatchNorm
    statistics included), the running ones lie beside them for resuming.

    Args:
        decay: Limit of the decay; after n updates it is min(decay, (1 + n) / (10 + n)).
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay must lie between 0 (off) and 1, found {decay}")

        def update(averaged: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
            share = min(decay, (1 + int(updates)) / (10 + int(updates)))
            if averaged[0].is_floating_point():
                torch._foreach_lerp_(list(averaged), list(current), 1 - share)
            else:  # counters, such as BatchNorm's number of batches
                torch._foreach_copy_(list(averaged), list(current))

        super().__init__(multi_avg_fn=update)
        self._swapped = False  # during validation the model holds the average, and the average the running weights

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the model to its device: the average was made before the model was moved there."""
        if self._average_model is not None:
            self._average_model.to(pl_module.device)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore both sets of weights when a fit resumes.

        A test by the trainer that has just fitted needs nothing: `state_dict` is the average already. Lightning's own
        method would replace it by the running weights there.
        """
        if trainer.state.fn == TrainerFn.FITTING:
            if "current_model_state" not in checkpoint or not isinstance(checkpoint.get("averaging_state"), dict):
                raise ValueError("it has no averaged weights beside the running ones, which ema_decay needs to go on")
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write both sets of weights under their names, also in the middle of a validation that is broken off."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._swapped:
            running, averaged = checkpoint["state_dict"], checkpoint["current_model_state"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = averaged, running
