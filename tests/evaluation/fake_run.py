"""A small model and corpus that need no files; `python fake_run.py OUT` tests them as one of two processes."""

import dataclasses
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from lipbench.evaluation import bank
from lipbench.evaluation.clip_scores import Scorer
from lipbench.evaluation.evaluator import Evaluator
from lipbench.media import geometry
from lipbench.metrics.psnr import PSNR
from lipbench.scoring import observers
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipSpec, View

VIEW = View("mouth", 20, 40)
FRAMES = 5
COLUMNS = ("quality", "landmarks", "motion", "dtw", "sync", "reading", "legacy", "fid", "kid")


class Mean(torch.nn.Module):
    """Features of pictures that need no weights: their mean color."""

    judge = "mean colors"
    dim = 3

    def __init__(self, path=None):
        super().__init__()

    def forward(self, pictures):
        return pictures.mean((2, 3))


def with_dim(name, dim):
    """The catalogue's entry of a set metric, over as many features a frame."""
    entry = bank.METRICS[name]
    return dataclasses.replace(entry, column=dataclasses.replace(entry.column, options={"dim": dim}))


SETS = {name: with_dim(name, 3) for name in ("fid", "kid")}
"""Over mean colors in place of Inception's features."""


def scorer(plan):
    """What scores clips in a worker, by mean colors."""
    observers.Inception = Mean
    bank.METRICS.update(SETS)
    return Scorer(plan)


class Blinker(GenerativeModel):
    """Returns the identity frame, its lower half brightened by the tokens' share of it: it listens."""

    timings = frozenset({"given", "length"})
    paper = "Nobody, Nothing, nowhere"

    def __init__(self, scale: float = 1.0, weights: str | None = None):
        super().__init__()
        self.save_hyperparameters()
        self.part = torch.nn.Linear(3, 2)

    @property
    def clip_spec(self):
        return ClipSpec({"video": VIEW}, keys=frozenset({"identity", "tokens"}))

    @property
    def needs(self):
        return frozenset({"identity", "tokens", "n_frames"})

    def build_optimizers(self):
        return {"all": torch.optim.SGD(self.parameters(), 0.1)}

    def compute_step(self, batch):
        raise AssertionError("not trained here")

    def generate(self, batch, timing):
        frames = int(batch["n_frames"].max())
        video = batch["identity"][:, :1].repeat(1, frames, 1, 1, 1)
        level = batch["tokens"].float()[:, :frames, None, None, None] / 100 * self.hparams.scale
        video[..., 10:, :] = (video[..., 10:, :] + level).clamp(0, 1)
        return {"video": video, "video_len": batch["n_frames"]}


class Clips(Dataset):
    """Five clips of two speakers whose lower half brightens with their tokens."""

    def __init__(self, packed=False):
        self.packed = packed

    def __len__(self):
        return 5

    def __getitem__(self, k):
        rng = np.random.default_rng(k)
        tokens, other = torch.from_numpy(rng.integers(1, 30, (2, FRAMES)))
        tokens[0] = 0
        base = torch.from_numpy(rng.random((1, 3, 22, 20))).float()
        face = geometry.resize(base, (geometry.HEIGHT, geometry.WIDTH)).repeat(FRAMES, 1, 1, 1) * 0.7
        top, left, bottom, right = geometry.box("mouth")
        face[..., (top + bottom) // 2 : bottom, left:right] += tokens[:, None, None, None] / 100
        face = (face * 255).round().to(torch.uint8)
        video = geometry.crop(face, VIEW).float() / 255
        clip = {
            "index": k,
            "clip_id": f"fake/s{k % 2}/{k}",
            "speaker": f"s{k % 2}",
            "video": video,
            "video_len": FRAMES,
            "n_frames": FRAMES,
            "fps": 25.0,
            "identity": video[:1],
            "tokens": tokens,
            "speech": torch.tensor([1, FRAMES]),
            "mismatched": {"tokens": other},
        }
        if not self.packed:
            points = torch.from_numpy(geometry.TEMPLATE + np.array([32, 16])).float()
            clip |= {"face": face, "landmarks": points.expand(FRAMES, 68, 2)}
        return clip


class Data(pl.LightningDataModule):
    """What the evaluator reads of a datamodule."""

    protocol = SimpleNamespace(name="fake/seen", version=1)
    split = SimpleNamespace(sha256="ab" * 32)

    def __init__(self, packed=False, clips=5):
        super().__init__()
        self.packed, self.clips = packed, clips
        self.other_speakers = clips > 1
        self.store_info = {
            "settings": {"landmarks": "dlib"},
            "counts": {"clips": 9},
            "packed": str(VIEW) if packed else None,
        }

    def mean_view(self, view):
        return torch.linspace(0.3, 0.5, view.width).expand(3, *view.size)  # plain frames have no landmarks

    def test_dataloader(self):
        return DataLoader(torch.utils.data.Subset(Clips(self.packed), range(self.clips)), batch_size=2)


def run(out, cache, name="one", model=None, data=None, ckpt_path=None, **evaluator):
    """Test and give the evaluator back; metrics that a test has put in place of others are those of this process."""
    callback = Evaluator(out=str(out), name=name, observations=str(cache), **{"workers": 0, **evaluator})
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
    )
    trainer.test(model or Blinker(), data or Data(), ckpt_path=ckpt_path, verbose=False)
    return callback


def check_gathering():
    """Metric states of two processes, dealt out unevenly: padded by a repeated clip, and one process without any."""
    pred, target = torch.rand(2, 5, 3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    length = torch.tensor([3, 2, 3, 1, 3])
    frames = -10 * (pred - target).square().mean((-3, -2, -1)).log10()
    expected = torch.cat([f[:n] for f, n in zip(frames, length, strict=True)]).mean().item()
    for shares in (([0, 2, 4], [1, 3]), ([0, 2, 4], [1, 3, 0]), ([3, 1, 2, 0, 4], [])):
        metric = PSNR()
        for k in shares[torch.distributed.get_rank()]:
            metric.update(pred[k : k + 1], target[k : k + 1], torch.tensor([k]), length[k : k + 1])
        assert abs(metric.compute().item() - expected) < 1e-5
        assert metric.per_clip().index.tolist() == [0, 1, 2, 3, 4]
        assert len(metric.index) == len(shares[torch.distributed.get_rank()])  # gathering left the own states alone


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), Path(sys.argv[1]) / "cache")
    check_gathering()
    torch.distributed.barrier()  # neither leaves while the other still reads
    torch.distributed.destroy_process_group()
