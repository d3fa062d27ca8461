"""Parts that come from earlier stages: trained on from a weights file, or frozen from a checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from fake_data import FakeData
from test_models import small
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from lipbench.files import sha256
from lipbench.models.paralip import ParaLip
from lipbench.nets.lipnet import LipNet
from lipbench.pretrained import weights
from lipbench.training import loading
from lipbench.training.base import BenchModule
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipSpec, View


def reader_file(folder: Path, hidden: int = 8, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    net = LipNet((16, 24), (4, 6, 8), hidden)
    path = folder / f"reader{hidden}-{seed}.safetensors"
    weights.save(path, net, arguments=net.arguments, view=View("mouth", 16, 24), trained_on="nothing")
    return path


class Second(BenchModule):
    """Trains a reader on, from a first stage, towards what a frozen generator makes."""

    def __init__(self, reader: str | None = None, generator: str | None = None, lr: float = 0.0) -> None:
        super().__init__()
        self.reader, self.generator, self.lr = reader, generator, lr
        self.net = LipNet((16, 24), (4, 6, 8), 8)

    @property
    def clip_spec(self) -> ClipSpec:
        keys = frozenset({"tokens", "durations", "identity"})
        return ClipSpec(frames={"video": View("mouth", 12, 24)}, keys=keys)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.reader is not None:
            self.start_part("reader", self.net, self.reader, "reader at {path}; train one")
        if stage == "fit" and self.generator is not None:
            self.register_frozen(
                "generator", *loading.load_frozen(self.generator, GenerativeModel, "generator at {path}; train one")
            )

    def build_optimizers(self) -> dict[str, Optimizer]:
        return {"reader": SGD(self.net.parameters(), lr=self.lr)}

    def compute_step(self, batch: Any) -> None:
        video: Tensor = batch["video"]
        if "generator" in self.frozen:
            generator = self.frozen["generator"]
            assert isinstance(generator, GenerativeModel)
            assert not generator.training
            video = generator.run_generate(batch, "given")["video"]
        wide = nn.functional.interpolate(video.flatten(0, 1), (16, 24)).unflatten(0, video.shape[:2])
        self.step_optimizer("reader", {"loss": self.net(wide, batch["video_len"]).mean()})


def test_a_part_starts_from_a_stage_and_goes_on(tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    path = reader_file(tmp_path)
    stored, card = weights.load(path, LipNet)

    def fit(model: Second, steps: int, ckpt_path: Path | None = None) -> Second:
        torch.manual_seed(0)
        trainer = trainer_for(max_steps=steps, limit_val_batches=0)
        trainer.fit(model, FakeData(4), ckpt_path=ckpt_path, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return model

    still = fit(Second(str(path)), 1)
    assert all(torch.equal(value, stored.state_dict()[key]) for key, value in still.net.state_dict().items())
    trained = fit(Second(str(path), lr=0.1), 2)
    assert not torch.equal(next(trained.net.parameters()), next(stored.parameters()))
    meta = torch.load(tmp_path / "2.ckpt", weights_only=True)["lipbench"]
    assert meta["started"] == {"reader": card.sha256} == {"reader": sha256(path)}
    whole = fit(Second(str(path), lr=0.1), 3)
    resumed = fit(Second(str(path), lr=0.1), 3, tmp_path / "2.ckpt")  # from its own weights, not from the file's
    assert all(torch.equal(value, whole.net.state_dict()[key]) for key, value in resumed.net.state_dict().items())
    with pytest.raises(ValueError, match=r"--model\.reader has SHA-256 .* was trained with"):
        fit(Second(str(reader_file(tmp_path, seed=2))), 3, tmp_path / "2.ckpt")
    path.unlink()
    assert fit(Second(str(path), lr=0.1), 3, tmp_path / "2.ckpt").started_sha256 == {"reader": card.sha256}
    with pytest.raises(FileNotFoundError, match=r"no reader at .*reader8-1\.safetensors; train one"):
        fit(Second(str(path)), 1)
    with pytest.raises(ValueError, match=r"--model\.reader .* holds a lipnet\.LipNet of other sizes .* differs"):
        fit(Second(str(reader_file(tmp_path, hidden=12))), 1)


def test_a_frozen_part_is_a_checkpoint(tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    first = trainer_for(max_steps=1, limit_val_batches=0)
    first.fit(small("paralip", tmp_path), FakeData(1))
    path = tmp_path / "first.ckpt"
    first.save_checkpoint(path)
    model = Second(generator=str(path), lr=0.1)
    trainer = trainer_for(max_steps=2, limit_val_batches=0)
    trainer.fit(model, FakeData(2))
    frozen = model.frozen["generator"]
    assert isinstance(frozen, ParaLip)
    assert all(torch.equal(value, frozen.state_dict()[k]) for k, value in first.lightning_module.state_dict().items())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    trainer.save_checkpoint(tmp_path / "second.ckpt")
    content = torch.load(tmp_path / "second.ckpt", weights_only=True)
    assert content["lipbench"]["frozen"] == {"generator": sha256(path)}
    assert all(key.startswith("net.") for key in content["state_dict"])
    with pytest.raises(FileNotFoundError, match=r"no generator at .*gone\.ckpt; train one"):
        trainer_for(max_steps=1).fit(Second(generator=str(tmp_path / "gone.ckpt")), FakeData(1))
    with pytest.raises(ValueError, match=r"holds test_stages\.Second, which is no model of lipbench"):
        loading.load_frozen(tmp_path / "second.ckpt", GenerativeModel, "{path}")
