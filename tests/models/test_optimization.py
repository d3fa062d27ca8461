"""Optimizers own every parameter; schedules, groups, and gradients that are accumulated."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from fake_data import FakeData, make_batch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from lipbench.training import parameters
from lipbench.training.base import BenchModule
from lipbench.training.optimization import TrainingFailed
from lipbench.training.schedules import LearningRate, Plateau
from lipbench.types import ClipBatch, ClipSpec, View


class Halves(BenchModule):
    """Two linear networks, each with an optimizer, that learn the mean brightness of a frame from its corners."""

    def __init__(self, norm: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.left, self.right = nn.Linear(3, 1), nn.Linear(3, 1)
        self.norm = nn.BatchNorm1d(3) if norm else nn.Identity()
        self.drawn_numbers: list[float] = []

    @property
    def clip_spec(self) -> ClipSpec:
        return ClipSpec(frames={"video": View("mouth", 4, 8)})

    def build_optimizers(self) -> dict[str, Optimizer]:
        left = [*self.left.parameters(), *self.norm.parameters()]
        return {"left": SGD(left, lr=0.1, momentum=0.9), "right": SGD(self.right.parameters(), lr=0.1)}

    def compute_step(self, batch: Any) -> None:
        self.drawn_numbers.append(torch.rand(()).item())
        corners = batch["video"][:, 0, :, 0, 0]  # (B, 3)
        wanted = batch["video"][:, 0].mean((1, 2, 3))  # (B,)
        self.step_optimizer("left", {"left": (self.left(self.norm(corners))[:, 0] - wanted).square().mean()})
        self.step_optimizer("right", {"right": (self.right(corners)[:, 0] - wanted).square().mean()})

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/l1", self.values[self.batches // 4 - 1], batch_size=1)  # validation follows every 4th batch

    values = (3.0, 2.0, 2.0, 2.5, 2.0, 1.0, 1.0, 1.0)


class Forgets(Halves):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(1, 2)


class Frozen(Forgets):
    def __init__(self) -> None:
        super().__init__()
        self.extra.requires_grad_(False)


class Twice(Halves):
    def build_optimizers(self) -> dict[str, Optimizer]:
        return super().build_optimizers() | {"third": SGD(self.left.parameters(), lr=0.1)}


class Hidden(Halves):
    def build_optimizers(self) -> dict[str, Optimizer]:
        return super().build_optimizers() | {"hidden": SGD(nn.Linear(2, 2).parameters(), lr=0.1)}


def test_optimizers_own_every_parameter(trainer_for: Callable[..., pl.Trainer]) -> None:
    def fit(model: BenchModule) -> None:
        trainer_for(max_steps=1, limit_val_batches=0).fit(model, FakeData(1))

    with pytest.raises(
        ValueError, match=r"2 trainable .* Forgets are in no optimizer .*: extra\.weight, extra\.bias\."
    ):
        fit(Forgets())
    fit(Frozen())
    with pytest.raises(ValueError, match=r"2 parameters of Twice are in two optimizers, left and third: left\.weight"):
        fit(Twice())
    with pytest.raises(ValueError, match=r"'hidden' of Hidden has 2 parameters .* shape \(2, 2\): they would not be"):
        fit(Hidden())


class Misnamed(Halves):
    def compute_step(self, batch: Any) -> None:
        self.step_optimizer("lft", {"left": self.left.weight.sum()})


def test_a_step_of_no_optimizer_is_told(trainer_for: Callable[..., pl.Trainer]) -> None:
    with pytest.raises(ValueError, match=r"given 'lft', .* of Misnamed; build_optimizers returns left, right$"):
        trainer_for(max_steps=1, limit_val_batches=0).fit(Misnamed(), FakeData(1))


def test_groups_have_settings_of_their_own(trainer_for: Callable[..., pl.Trainer]) -> None:
    class Grouped(Halves):
        def build_optimizers(self) -> dict[str, Optimizer]:
            chosen = {"": {}, "left.": {"lr": 0.01, "betas": (0.5, 0.9)}, "left.bias": {"weight_decay": 0.0}}
            return {"both": AdamW(parameters.groups(self.named_parameters(), chosen), lr=0.1, weight_decay=0.3)}

        def compute_step(self, batch: Any) -> None:
            seen.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
            self.step_optimizer("both", {"sum": sum(p.sum() for p in self.parameters())})  # type: ignore[dict-item]

    seen: list[list[float]] = []
    model = Grouped(schedule="step", decay_every=2, decay_factor=0.1, warmup=1)
    trainer = trainer_for(max_steps=4, limit_val_batches=0)
    trainer.fit(model, FakeData(4))
    rest, left, bias = trainer.optimizers[0].param_groups
    assert [len(group["params"]) for group in (rest, left, bias)] == [2, 1, 1]
    assert (rest["betas"], left["betas"], bias["betas"]) == ((0.9, 0.999), (0.5, 0.9), (0.9, 0.999))
    assert (rest["weight_decay"], left["weight_decay"], bias["weight_decay"]) == (0.3, 0.3, 0.0)
    assert seen[2] == pytest.approx([0.1, 0.01, 0.1])
    assert seen[3] == pytest.approx([0.01, 0.001, 0.01])  # all fall by the same factor
    with pytest.raises(ValueError, match=r"right\.weight belongs to no group; names begin with \['left\.'\]"):
        parameters.groups(model.named_parameters(), {"left.": {}})
    with pytest.raises(ValueError, match=r"no parameter is left for the group 'top\.'"):
        parameters.groups(model.named_parameters(), {"": {}, "top.": {}})


def test_every_optimizer_has_its_schedule(trainer_for: Callable[..., pl.Trainer]) -> None:
    class Watched(Halves):
        def compute_step(self, batch: Any) -> None:
            seen.append(tuple(optimizer.param_groups[0]["lr"] for optimizer in self.trainer.optimizers))
            super().compute_step(batch)

    seen: list[tuple[float, ...]] = []
    model = Watched(schedule="cosine", schedules={"right": "step"}, decay_every=3)
    trainer_for(max_steps=7, limit_val_batches=0).fit(model, FakeData(7))
    left, right = zip(*seen, strict=True)
    assert left == pytest.approx([0.1 * 0.5 * (1 + math.cos(math.pi * k / 7)) for k in range(7)])
    assert right == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025])
    with pytest.raises(
        ValueError, match="schedules names 'wrong', which is no optimizer of Halves; it has left, right"
    ):
        trainer_for(max_steps=1).fit(Halves(schedules={"wrong": "step"}, decay_every=1), FakeData(1))
    with pytest.raises(ValueError, match="decay_every >= 1"):
        Halves(schedule="step")
    with pytest.raises(ValueError, match="decay_every >= 1"):
        Halves(schedules={"right": "step"})
    with pytest.raises(ValueError, match=r"decay_factor is 1\.5"):
        Halves(decay_factor=1.5)


def test_a_plateau_lowers_the_rate_and_is_resumed(tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    class Watched(Halves):
        def compute_step(self, batch: Any) -> None:
            seen.append(self.trainer.optimizers[0].param_groups[0]["lr"])
            super().compute_step(batch)

    def fit(steps: int, ckpt_path: Path | None = None) -> list[float]:
        seen.clear()
        keep = ModelCheckpoint(tmp_path / f"{len(folders)}", filename="best", monitor="val/l1")
        folders.append(steps)
        trainer = trainer_for(max_steps=steps, callbacks=[keep], enable_checkpointing=True)
        model = Watched(schedule="plateau", patience=2, decay_factor=0.1)
        trainer.fit(model, FakeData(4), ckpt_path=ckpt_path, weights_only=True)
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        return list(seen)

    seen: list[float] = []
    folders: list[int] = []
    whole = fit(32)
    # 3, 2 | 2, 2.5: a plateau after 16 batches | 2, 1: better | 1, 1: a plateau, after the last batch
    assert whole == pytest.approx([0.1] * 16 + [0.01] * 16)
    for stop in (8, 14):  # after a validation, and between two
        assert fit(stop) + fit(32, tmp_path / "end.ckpt") == whole
    stored = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert stored["lipbench"]["plateaus"]["left"] == {"best": 1.0, "waited": 0, "factor": pytest.approx(0.01)}
    with pytest.raises(ValueError, match="training follows 'val/l1', which the validation of Silent did not log"):
        trainer_for(max_steps=4).fit(Silent(schedule="plateau"), FakeData(4))


class Silent(Halves):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/other", 1.0, batch_size=1)


def test_plateaus_know_both_directions_and_values_that_are_none() -> None:
    def factors(direction: Any, values: list[float]) -> list[float]:
        plateau, found = Plateau(), []
        for value in values:
            plateau.add(value, direction, LearningRate("plateau", patience=1))
            found.append(plateau.factor)
        return found

    assert factors("max", [0.5, 0.6, 0.6, 0.7]) == [1, 1, 0.5, 0.5]
    assert factors("min", [0.5, 0.6, 0.4, math.nan]) == [1, 0.5, 0.5, 0.25]
    assert factors("min", [math.nan, 0.6, 0.5])[1:] == [0.5, 0.5]  # the first improves on nothing


class Joined(FakeData):
    """Batches of four clips, each cut into `parts` smaller ones."""

    def __init__(self, batches: int, parts: int) -> None:
        super().__init__(batches)
        self.parts = parts

    def train_dataloader(self) -> Any:
        spec = View("mouth", 4, 8)
        whole = [make_batch(ClipSpec(frames={"video": spec}), seed, training=True) for seed in range(self.batches)]
        return Parts([part for batch in whole for part in cut(batch, self.parts)])


class Parts:
    """A loader of batches that are there, whose place can be saved."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.start, self.done = batches, 0, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        start, self.start = self.start, 0
        for place in range(start, len(self.batches)):
            self.done = place + 1
            yield self.batches[place]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": 0, "batches": self.done % len(self.batches)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["batches"]


def cut(batch: ClipBatch, parts: int) -> list[dict[str, Any]]:
    size = len(batch["index"]) // parts
    return [{key: value[k * size : (k + 1) * size] for key, value in batch.items()} for k in range(parts)]  # type: ignore[index]


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_batches_are_one_larger_batch(parts: int, trainer_for: Callable[..., pl.Trainer]) -> None:
    gradients: dict[int, list[Tensor]] = {1: [], parts: []}
    models = {}
    for count in gradients:

        class Watch(pl.Callback):
            def on_before_optimizer_step(self, _: Any, module: Any, optimizer: Optimizer) -> None:
                gradients[count] += [p.grad.clone() for p in parameters.parameters_of(optimizer)]  # noqa: B023

        torch.manual_seed(0)
        models[count] = Halves(clip_norm=0.1, schedule="cosine", warmup=2)
        options: dict[str, Any] = {"accumulate_grad_batches": count, "max_epochs": 2, "limit_val_batches": 0}
        trainer = trainer_for(callbacks=[Watch()], **options)
        trainer.fit(models[count], Joined(5, count))
        assert (trainer.global_step, models[count].batches) == (10, 10)
        assert trainer.accumulate_grad_batches == count
        assert len(set(models[count].drawn_numbers)) == 10 * count  # each draws for itself
        assert trainer.callback_metrics["train/left"] > 0
    assert len(gradients[1]) == len(gradients[parts]) == 10 * 4
    for one, several in zip(gradients[1], gradients[parts], strict=True):
        torch.testing.assert_close(several, one, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(models[parts].state_dict(), models[1].state_dict(), rtol=1e-4, atol=1e-6)


def test_what_is_left_of_an_epoch_is_a_smaller_batch(trainer_for: Callable[..., pl.Trainer]) -> None:
    """Five batches, by two: steps after 2, 4 and 5. The last gradient is that of one batch, not half of it."""
    norms: list[float] = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, _: Any, module: Any, optimizer: Optimizer) -> None:
            norms.append(float(parameters.parameters_of(optimizer)[0].grad.norm()))  # type: ignore[union-attr]

    class Constant(Halves):
        def compute_step(self, batch: Any) -> None:
            for name, net in (("left", self.left), ("right", self.right)):
                self.step_optimizer(name, {name: net.weight.sum()})

    trainer = trainer_for(max_epochs=1, accumulate_grad_batches=2, callbacks=[Watch()], limit_val_batches=0)
    model = Constant()
    trainer.fit(model, FakeData(5))
    assert (trainer.global_step, model.batches, model.drawn) == (3, 3, 5)
    assert norms == pytest.approx([math.sqrt(3)] * 6)


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}], ids=["plain", "ema"])
def test_resumed_within_an_accumulation_equals_uninterrupted(
    options: dict[str, Any], tmp_path: Path, trainer_for: Callable[..., pl.Trainer]
) -> None:
    """After whatever batch of the loader it stopped: the batches since the last step are drawn again."""

    class SavesAt(Checkpoint):  # of this kind, so that it comes after the moving average
        def __init__(self, drawn: int) -> None:
            self.drawn = drawn

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            if pl_module.drawn == self.drawn:
                trainer.save_checkpoint(tmp_path / f"{self.drawn}.ckpt")

    def fit(ckpt_path: Path | None = None, saves: int = 0) -> dict[str, Any]:
        torch.manual_seed(3 if ckpt_path is None else 99)
        trainer = trainer_for(
            max_epochs=2, accumulate_grad_batches=3, callbacks=[SavesAt(saves)], enable_checkpointing=True
        )
        model = Halves(norm=True, schedule="cosine", **options)
        trainer.fit(model, FakeData(8), ckpt_path=ckpt_path, weights_only=True)
        assert (trainer.global_step, model.batches, model.drawn) == (6, 6, 16)
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        return torch.load(tmp_path / "end.ckpt", weights_only=True)

    whole = fit()
    for stop in (1, 2, 3, 5, 7, 8, 11):
        fit(saves=stop)
        resumed = fit(tmp_path / f"{stop}.ckpt")
        for part in ("state_dict", *(["current_model_state"] if options else [])):
            different = [key for key, value in whole[part].items() if not torch.equal(value, resumed[part][key])]
            assert not different, f"stopped after {stop}: {different}"
        assert whole["lipbench"] == resumed["lipbench"]
        assert str(whole["optimizer_states"]) == str(resumed["optimizer_states"])
        assert (
            whole["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            == resumed["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        )


class TooLarge(Halves):
    """Its third batch does not fit."""

    def compute_step(self, batch: ClipBatch) -> None:
        if self.batches == 2:
            raise self.error
        super().compute_step(batch)

    error: Exception


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "Tried to allocate 2 GiB"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), "you tried 8"),
    ],
)
def test_a_batch_that_does_not_fit_is_an_error_with_advice(
    error: Exception, told: str, trainer_for: Callable[..., pl.Trainer]
) -> None:
    model = TooLarge()
    model.error = error
    with pytest.raises(TrainingFailed, match="stopped at batch 2: it does not fit") as found:
        trainer_for(max_steps=4, limit_val_batches=0).fit(model, FakeData(4))
    assert told in str(found.value)
    assert "--data.batch_size" in str(found.value)
    assert (model.batches, model.trainer.global_step) == (2, 2)
    model.error = RuntimeError("another one")
    with pytest.raises(RuntimeError, match="another one"):
        trainer_for(max_steps=4, limit_val_batches=0).fit(model, FakeData(4))


def test_losses_may_become_more(tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    """Three losses, which the progress bar shows, and from the third batch on four, which would be too many."""
    from test_models import data_of, small

    trainer = trainer_for(max_steps=4, limit_val_batches=0)
    trainer.fit(small("corrgan", tmp_path, adversarial_from=2), data_of("corrgan", 4))
    assert {"train/correlation", "train/adversarial"} <= trainer.logged_metrics.keys()
    assert "train/correlation" in trainer.progress_bar_metrics
    assert "train/adversarial" not in trainer.progress_bar_metrics


def test_a_discriminator_that_begins_later_can_be_resumed(
    tmp_path: Path, trainer_for: Callable[..., pl.Trainer]
) -> None:
    """Its schedule has then seen fewer batches than the generator's."""
    from test_models import small

    def fit(steps: int, ckpt_path: Path | None = None) -> dict[str, Any]:
        trainer = trainer_for(max_steps=steps, limit_val_batches=0)
        trainer.fit(small("paralip", tmp_path, adversarial_from=2), FakeData(4), ckpt_path=ckpt_path, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return torch.load(tmp_path / f"{steps}.ckpt", weights_only=True)

    whole = fit(5)
    fit(3)
    resumed = fit(5, tmp_path / "3.ckpt")
    assert [state["last_epoch"] for state in resumed["lr_schedulers"]] == [5, 3]
    assert all(torch.equal(value, resumed["state_dict"][key]) for key, value in whole["state_dict"].items())
