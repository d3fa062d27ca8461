"""Training against a discriminator: neither side feels the other, and what has diverged is stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from test_base import SMALL
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from lipbench.models.paralip import ParaLip
from lipbench.training.adversarial import AdversarialModel, Adversary
from lipbench.training.speech_to_face import SpeechToFace
from lipbench.types import ClipBatch, ClipSpec, Generated, Timing, View


class OfScalars(Adversary):
    """Its gradients are 1000 for the generator and 2 for the discriminator, at any values."""

    def generator_losses(self, sample: Any) -> dict[str, Tensor]:
        return {"adversarial": 1000 * self.net(sample["made"]).mean()}

    def losses(self, sample: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert not sample["made"].requires_grad
        return {"discriminator_fake": 2 * self.net(sample["made"]).mean()}, {}


class Scalars(AdversarialModel):
    """A generator of one number and a discriminator of one number."""

    timings = frozenset({"free"})
    paper = "none"

    def __init__(self, adversarial: bool = True) -> None:
        super().__init__()
        self.generator = nn.Linear(1, 1)
        self.discriminator = nn.Linear(1, 1) if adversarial else None
        if self.discriminator is not None:
            self.adversaries["discriminator"] = self.adversary(self.discriminator)
        self.gradients: list[dict[str, float]] = []

    @property
    def clip_spec(self) -> ClipSpec:
        return ClipSpec(frames={"video": View("mouth", 4, 8)})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        return {"video": torch.zeros(1, 1, 3, 4, 8), "video_len": torch.ones(1, dtype=torch.long)}

    def build_optimizers(self) -> dict[str, Optimizer]:
        optimizers: dict[str, Optimizer] = {"generator": SGD(self.generator.parameters(), lr=0.1)}
        if self.discriminator is not None:
            optimizers["discriminator"] = SGD(self.discriminator.parameters(), lr=0.1)
        return optimizers

    def generator_losses(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        made = self.generator(torch.ones(1, 1))
        return {"l1": (made - 1).abs().mean()}, {"made": made, "real": torch.ones(1, 1)}

    def adversary(self, net: nn.Module) -> Adversary:
        return OfScalars(net)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.gradients.append({key: p.grad.item() for key, p in self.named_parameters() if p.grad is not None})


def test_a_discriminator_keeps_its_rate(fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]) -> None:
    """Published is a constant one; the generator follows the schedule. In speech to face, both do."""

    class Watched(Scalars):
        def compute_step(self, batch: Any) -> None:
            seen.append([optimizer.param_groups[0]["lr"] for optimizer in self.trainer.optimizers])
            super().compute_step(batch)

    seen: list[list[float]] = []
    model = Watched()
    model.schedule, model.warmup = "cosine", 2
    trainer_for(max_steps=6, limit_val_batches=0).fit(model, fake_data(6))
    generator, discriminator = zip(*seen, strict=True)
    assert discriminator == (0.1,) * 6
    assert generator[0] == pytest.approx(0.05)
    assert generator[5] < 0.05
    assert not ParaLip(**SMALL, adversarial_weight=0.1).follows_schedule("discriminator")
    assert SpeechToFace.follows_schedule(model, "discriminator")  # type: ignore[arg-type]  # it does not look


def test_neither_side_feels_the_other(fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]) -> None:
    torch.manual_seed(0)
    model = Scalars()
    assert model.discriminator is not None
    slope = model.discriminator.weight.item()
    trainer = trainer_for(max_steps=2, limit_val_batches=0)
    trainer.fit(model, fake_data(2))
    assert trainer.global_step == 2
    first, second = model.gradients[:2]
    assert set(first) == {"generator.weight", "generator.bias"}  # the generator's step leaves no trace in D
    assert abs(first["generator.bias"] - 1000 * slope) == pytest.approx(1, rel=1e-3)  # L1 gives +-1
    assert second["discriminator.bias"] == 2  # D's own loss only, not 1000 from the generator's
    assert second["generator.bias"] == first["generator.bias"]  # and D's step adds nothing to G's
    third = model.gradients[2]
    assert third["discriminator.bias"] == 2  # the generator's next step does not add to it either
    assert all(p.requires_grad for p in model.parameters())


def test_without_discriminator_is_plain_training(
    fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    model = Scalars(adversarial=False)
    trainer_for(max_steps=3, limit_val_batches=0).fit(model, fake_data(3))
    assert len(model.gradients) == 3
    assert ParaLip(**SMALL).discriminator is None


class Runs(Scalars):
    """Its losses are what a list says; the number of the batch that broke it off is `batches`."""

    def __init__(self, l1: list[float], judged: list[float] | None = None, reweigh: int | None = None) -> None:
        super().__init__(adversarial=judged is not None)
        self.l1, self.judged, self.reweigh = l1, judged or [], reweigh
        self.loss_weights = {"l1": 0.5, "adversarial": 7.0}

    def generator_losses(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if self.reweigh is not None:
            self.loss_weights = {"l1": 0.5 if self.batches < self.reweigh else 5.0, "adversarial": 7.0}
        made = self.generator(torch.ones(1, 1))
        return {"l1": 0 * made.sum() + self.l1[self.batches]}, {"made": made, "real": torch.ones(1, 1)}

    def adversary(self, net: nn.Module) -> Adversary:
        model = self

        class Says(OfScalars):
            def losses(self, sample: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
                return {"discriminator_fake": 0 * self.net(sample["made"]).sum() + model.judged[model.batches]}, {}

        return Says(net)

    def validation_step(self, batch: Any, batch_idx: int) -> Generated:
        self.log("val/l1", torch.tensor(1.0 + self.batches), batch_size=1)
        return {}


def noisy(around: float, batches: int = 400) -> list[float]:
    """Losses that scatter by the factor e either way."""
    return (around * torch.randn(batches, generator=torch.Generator().manual_seed(0)).exp()).tolist()


@pytest.mark.parametrize(("precision", "batches"), [("32-true", 300), ("bf16-mixed", 120)])
def test_noise_is_no_divergence(
    precision: str, batches: int, fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    falling = [value * (1 + 5 * 0.98**k) for k, value in enumerate(noisy(0.02))]
    judged = noisy(1.0)
    falling[110], judged[110] = 2.0, 500.0  # alone, a value of a hundred times the others is noise
    judged[:30] = [1000.0] * 30  # a bad beginning, too, if it passes
    model = Runs(falling, judged, reweigh=200)  # from there, the weighted sum is ten times as large
    trainer_for(max_steps=batches, limit_val_batches=0, precision=precision).fit(model, fake_data(batches))
    assert model.batches == batches


def test_stops_where_the_generator_runs_off(
    tmp_path: Path, fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    """From 0.02 to 0.1: the mean of 100 batches is three times the lowest with the 69th of them."""
    keep = ModelCheckpoint(tmp_path, filename="best", monitor="val/l1")
    trainer = trainer_for(max_epochs=-1, callbacks=[keep], enable_checkpointing=True)
    model = Runs([0.02] * 150 + [0.1] * 200, [1.0] * 350)
    with pytest.raises(RuntimeError, match="training has diverged") as error:
        trainer.fit(model, fake_data(100))
    assert model.batches == 218
    best = tmp_path / "best.ckpt"
    said = str(error.value)
    assert "the mean of l1 over 100 batches rose from 0.01 to 0.03" in said
    assert f"the last good checkpoint is {best}" in said
    assert "last.ckpt may be spoiled" in said
    assert f"a lower --model.discriminator_lr: --model.init_from {best}" in said
    assert torch.load(best, weights_only=True)["lipbench"]["batches"] == 100  # of 100 and 200, the better one


def test_stops_where_the_discriminator_runs_off(
    fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    model = Runs([0.02] * 400, [1.0] * 150 + [100.0] * 250)
    trainer = trainer_for(max_steps=400, limit_val_batches=0)
    with pytest.raises(RuntimeError, match=r"discriminator_fake .* from 1 to 10\.\d+") as error:
        trainer.fit(model, fake_data(400))
    assert model.batches == 213  # a batch counts as 20 at most: 1 + 19 (1 - 0.99^64) is more than 10
    assert "No validation has kept a checkpoint" in str(error.value)
    high = Runs([0.02] * 200, [50.0] * 200)  # never a good one: known after 100 batches
    with pytest.raises(RuntimeError, match="training has diverged at batch 99"):
        trainer_for(max_steps=200, limit_val_batches=0).fit(high, fake_data(200))


def test_without_a_discriminator_divergence_stops_too(
    fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    with pytest.raises(RuntimeError, match=r"diverged .* start again with a lower --model\.lr"):
        trainer_for(max_steps=400, limit_val_batches=0).fit(Runs([0.02] * 150 + [0.2] * 250), fake_data(400))


def test_a_resumed_run_diverges_at_the_same_batch(
    tmp_path: Path, fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    losses = [0.02] * 150 + [0.1] * 200, [1.0] * 350
    trainer = trainer_for(max_steps=190, limit_val_batches=0)
    trainer.fit(Runs(*losses), fake_data(400))
    trainer.save_checkpoint(tmp_path / "at190.ckpt")
    stored = torch.load(tmp_path / "at190.ckpt", weights_only=True)["lipbench"]["courses"]
    assert stored["discriminator"]["mean"] == pytest.approx(1)
    model = Runs(*losses)
    with pytest.raises(RuntimeError, match=r"from 0\.01 to 0\.03"):
        trainer_for(max_steps=400, limit_val_batches=0).fit(
            model, fake_data(400), ckpt_path=tmp_path / "at190.ckpt", weights_only=True
        )
    assert model.batches == 218
