"""Trains ParaLip without and with discriminator on two CPU processes, and saves what each one has: run by test_base.py.

Usage: two_processes.py FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from test_base import SMALL

from conftest import FakeData, make_trainer
from lipbench.models.paralip import ParaLip


class Clips(pl.Callback):
    """Notes which clips this process saw."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen += batch["clip_id"]


def main(folder: Path, adversarial: float) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ParaLip(**SMALL, adversarial_weight=adversarial)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    clips = Clips()
    trainer = make_trainer(max_steps=3, devices=2, strategy="ddp", callbacks=[clips], use_distributed_sampler=False)
    trainer.fit(model, FakeData(3))
    report = {"weights": model.state_dict(), "start": start, "clips": clips.seen, "step": trainer.global_step}
    torch.save(report, folder / f"{adversarial}-{trainer.global_rank}.pt")


if __name__ == "__main__":
    for weight in (0.0, 0.1):
        main(Path(sys.argv[1]), weight)
