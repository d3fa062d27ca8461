"""Trains small models on two CPU processes and saves what each one has: run by test_base.py.

Usage: two_processes.py FOLDER CASE...
"""

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from fake_data import FakeData, make_trainer
from test_models import small

CASES: dict[str, dict[str, Any]] = {
    "paralip": {},
    "paralip-plain": {"adversarial_weight": 0.0},
    "lipgan": {},
    "wav2lip": {"sync_from": None, "sync_below": 1e9},  # the validation after the fifth batch switches it on
}


class Clips(pl.Callback):
    """Notes which clips this process saw."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen += batch["clip_id"]


def main(folder: Path, case: str) -> None:
    torch.set_num_threads(1)
    model = small(case.partition("-")[0], folder, **CASES[case])
    start = {key: value.clone() for key, value in model.state_dict().items()}
    clips = Clips()
    trainer = make_trainer(max_steps=10, devices=2, strategy="ddp", callbacks=[clips], use_distributed_sampler=False)
    trainer.fit(model, FakeData(5))
    kept: dict[str, Any] = {}
    model.on_save_checkpoint(kept)
    report = {"weights": model.state_dict(), "start": start, "clips": clips.seen, "step": trainer.global_step, **kept}
    torch.save(report, folder / f"{case}-{trainer.global_rank}.pt")


if __name__ == "__main__":
    for case in sys.argv[2:]:
        main(Path(sys.argv[1]), case)
