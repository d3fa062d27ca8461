"""Checkpoints and weights files of models that were never trained."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lipbench.media import text
from lipbench.nets import lipnet
from lipbench.pretrained import weights
from lipbench.training import checkpoints
from lipbench.training.base import BenchModule
from lipbench.types import View


def checkpoint(model: BenchModule, path: Path, trained_on: dict[str, Any] | None = None) -> Path:
    """The checkpoint of a model; `trained_on` is what a fit would say of its corpus."""
    plain = {"pytorch-lightning_version": pl.__version__}
    stored = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), **plain}
    model.on_save_checkpoint(stored)
    if trained_on is not None:
        stored[checkpoints.DATA] = trained_on
    torch.save(stored, path)
    return path


def reader(path: Path, trained_on: str = "rendered/unseen, seed 0") -> Path:
    """A small reader in lipbench's format."""
    net = lipnet.LipNet((16, 24), (4, 6, 8), 8)
    weights.save(
        path,
        net,
        arguments=net.arguments,
        view=View("mouth", 16, 24),
        trained_on=trained_on,
        vocabulary=text.SYMBOLS,
    )
    return path
