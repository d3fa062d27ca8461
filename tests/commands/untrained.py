"""Checkpoints of models that were never trained."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lipbench import tracking
from lipbench.training.base import BenchModule


def checkpoint(model: BenchModule, path: Path, trained_on: dict[str, Any] | None = None) -> Path:
    """The checkpoint of a model; `trained_on` is what a fit would say of its corpus."""
    plain = {"pytorch-lightning_version": pl.__version__}
    stored = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), **plain}
    model.on_save_checkpoint(stored)
    if trained_on is not None:
        stored[checkpoints.DATA] = trained_on
    torch.save(stored, path)
    return path
