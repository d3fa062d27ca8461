"""Optimization, counting, guards, starting and saving, on a model of two weights."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from lipbench.models.paralip import ParaLip
from lipbench.training.base import BenchModule
from lipbench.types import ClipSpec, View

SMALL: dict[str, Any] = {
    "size": (12, 24),
    "hidden": 8,
    "layers": 1,
    "ffn": 8,
    "encoder_widths": (4, 4),
    "decoder_widths": (4, 4, 4, 4),
    "window": 4,
    "discriminator_width": 2,
}


class Two(BenchModule):
    """Two weights with an optimizer each; the gradient of each loss is `slope`."""

    def __init__(self, slope: float = 1.0, second_every: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.slope, self.second_every = slope, second_every
        self.one, self.two = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.seen: list[float] = []

    @property
    def clip_spec(self) -> ClipSpec:
        return ClipSpec(frames={"video": View("mouth", 4, 8)})

    def build_optimizers(self) -> dict[str, Optimizer]:
        return {"one": SGD([self.one], lr=1.0), "two": SGD([self.two], lr=1.0)}

    def compute_step(self, batch: Any) -> None:
        self.seen.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        if self.batches % self.second_every == 0:
            self.step_optimizer("two", {"second": self.slope * self.two.sum()})
        self.step_optimizer("one", {"first": self.slope * self.one.sum()})


class Logs(pl.Callback):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.rows.append({key: float(value) for key, value in trainer.callback_metrics.items()})


@pytest.mark.parametrize("second_every", [1, 3])
def test_one_batch_is_one_global_step(
    second_every: int, tmp_path: Path, fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1, save_last=True)
    trainer = trainer_for(max_steps=10, callbacks=[keep], enable_checkpointing=True, limit_val_batches=0)
    model = Two(second_every=second_every)
    trainer.fit(model, fake_data(4))
    assert (trainer.global_step, model.batches) == (10, 10)
    assert model.one.item() == -10
    assert model.two.item() == -math.ceil(10 / second_every)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "step=10.ckpt", "step=5.ckpt"]
    assert torch.load(tmp_path / "step=5.ckpt", weights_only=True)["lipbench"]["batches"] == 5


def test_clips_each_optimizer_by_itself(fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]) -> None:
    model = Two(slope=50.0, clip_norm=0.5)
    logs = Logs()
    trainer_for(max_steps=2, limit_val_batches=0, callbacks=[logs]).fit(model, fake_data(2))
    assert model.one.item() == pytest.approx(-1.0, abs=1e-5)
    assert model.two.item() == pytest.approx(-1.0, abs=1e-5)
    assert logs.rows[1]["train/grad_norm_one"] == 50  # as it was before clipping
    assert logs.rows[1]["train/first"] == 0
    assert "train/second" in logs.rows[1]


def test_schedules(fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]) -> None:
    def rates(**options: Any) -> list[float]:
        model = Two(**options)
        trainer_for(max_steps=8, limit_val_batches=0).fit(model, fake_data(4))
        return model.seen

    assert rates() == [1.0] * 8
    assert rates(schedule="inverse_sqrt", warmup=2) == pytest.approx([0.5, 1, *(math.sqrt(2 / n) for n in range(3, 9))])
    cosine = rates(schedule="cosine", warmup=2)
    assert cosine[:3] == pytest.approx([0.5, 1, 1])
    assert cosine[5] == pytest.approx(0.5)
    assert cosine[7] == pytest.approx(0.5 * (1 + math.cos(math.pi * 5 / 6)))
    with pytest.raises(ValueError, match="warmup >= 1"):
        Two(schedule="inverse_sqrt")
    with pytest.raises(ValueError, match="max_steps"):
        trainer_for(max_epochs=-1, limit_val_batches=0).fit(Two(schedule="cosine"), fake_data(4))


def test_gradients_are_means_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with gradients 1 and 3, and one where only the other has a gradient."""
    model = Two()
    model._trainer = SimpleNamespace(world_size=2)  # type: ignore[assignment]

    def add_the_other(flat: Tensor) -> None:
        flat += torch.tensor([3.0, 4.0, 1.0, 1.0, 10.0])  # gradients, whether there are any, a loss

    monkeypatch.setattr(torch.distributed, "all_reduce", add_the_other)
    model.one.grad = torch.ones(1)
    both = SGD([model.one, model.two], lr=1.0)
    assert model._average_over_processes(both, torch.tensor([2.0])).tolist() == [6]
    assert (model.one.grad.item(), model.two.grad.item()) == (2, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize(("slope", "message"), [(math.nan, "'second' is nan"), (math.inf, "the gradient|second")])
def test_stops_before_a_step_that_is_not_finite(
    slope: float,
    message: str,
    tmp_path: Path,
    fake_data: Callable[..., Any],
    trainer_for: Callable[..., pl.Trainer],
) -> None:
    class Breaks(Two):
        def compute_step(self, batch: Any) -> None:
            if self.batches == 3:
                self.slope = slope
            super().compute_step(batch)

    model = Breaks()
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_last=True)
    trainer = trainer_for(max_steps=9, callbacks=[keep], enable_checkpointing=True, limit_val_batches=0)
    with pytest.raises(RuntimeError, match=message) as error:
        trainer.fit(model, fake_data(4))
    assert "batch 3" in str(error.value)
    assert "last.ckpt" in str(error.value)
    assert (model.one.item(), model.two.item()) == (-3, -3)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["two"].item() == -3


def test_batches_draw_by_their_number(fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]) -> None:
    drawn: list[list[float]] = []

    class Draws(Two):
        def compute_step(self, batch: Any) -> None:
            drawn[-1].append(torch.rand(()).item())
            super().compute_step(batch)

    for disturbance in (0, 5):
        torch.manual_seed(3)
        model, trainer = Draws(), trainer_for(max_steps=4, limit_val_batches=0)
        drawn.append([])

        class Disturbs(pl.Callback):
            def on_train_batch_start(self, *_: Any) -> None:
                torch.rand(disturbance)  # noqa: B023 - used within this turn of the loop

        trainer.callbacks.append(Disturbs())  # type: ignore[attr-defined]
        trainer.fit(model, fake_data(4))
    assert len(set(drawn[0])) == 4
    assert drawn[0] == drawn[1]


def test_moving_average_is_what_is_tested(
    tmp_path: Path, fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3)
    trainer = trainer_for(max_steps=3, callbacks=[keep], enable_checkpointing=True, limit_val_batches=0)
    model = Two(ema_decay=0.99)
    trainer.fit(model, fake_data(4))
    average = -1.0  # the first update copies; then decays of min(0.99, 2/11) and 3/12
    average = 2 / 11 * average + 9 / 11 * -2
    average = 3 / 12 * average + 9 / 12 * -3
    assert model.one.item() == pytest.approx(average)
    stored = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    assert stored["state_dict"]["one"].item() == pytest.approx(average)
    assert stored["current_model_state"]["one"].item() == -3
    with pytest.raises(ValueError, match="ema_decay"):
        trainer_for(max_steps=1).fit(Two(ema_decay=1.5), fake_data(1))


def test_test_after_fit_keeps_the_average(
    tmp_path: Path, fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2)
    trainer = trainer_for(max_steps=2, callbacks=[keep], enable_checkpointing=True)
    model = ParaLip(**SMALL, ema_decay=0.9)
    trainer.fit(model, fake_data(2))
    path = tmp_path / "step=2.ckpt"
    stored = torch.load(path, weights_only=True)["state_dict"]
    trainer.test(model, fake_data(2), ckpt_path=path, weights_only=True)
    assert all(torch.equal(value, stored[key]) for key, value in model.state_dict().items())


def test_refuses_other_checkpoints(tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    model = Two()
    with pytest.raises(ValueError, match="not written by lipbench"):
        model.on_load_checkpoint({"state_dict": {}})
    written: dict[str, Any] = {}
    model.on_save_checkpoint(written)
    with pytest.raises(ValueError, match="holds a 'test_base', not a ParaLip"):
        ParaLip(**SMALL).on_load_checkpoint(written)
    written["lipbench"] |= {"schema": 99, "version": "9.9"}
    with pytest.raises(ValueError, match=r"lipbench 9\.9 .* upgrade"):
        model.on_load_checkpoint(written)


def test_warm_start(tmp_path: Path, fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]) -> None:
    first = trainer_for(max_steps=2, limit_val_batches=0)
    first.fit(ParaLip(**SMALL), fake_data(2))
    path = tmp_path / "first.ckpt"
    first.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)["state_dict"]

    second = ParaLip(**SMALL, adversarial_weight=0.1, lr=0.0, discriminator_lr=0.0, init_from=str(path))
    trainer = trainer_for(max_steps=1, limit_val_batches=0)
    trainer.fit(second, fake_data(1))
    weights = {key: value for key, value in second.state_dict().items() if "running" not in key and "num_b" not in key}
    assert all(
        torch.equal(value, stored[key]) for key, value in weights.items() if not key.startswith("discriminator.")
    )
    assert second.batches == 1

    # Without the file the finished model still loads: the path matters for a fresh fit only.
    trainer.save_checkpoint(tmp_path / "second.ckpt")
    path.unlink()
    ParaLip.load_from_checkpoint(tmp_path / "second.ckpt", weights_only=True)
    # Nor does going on: the start is in its own checkpoint.
    again = ParaLip(**SMALL, adversarial_weight=0.1, init_from=str(path))
    trainer_for(max_steps=2, limit_val_batches=0).fit(
        again, fake_data(2), ckpt_path=tmp_path / "second.ckpt", weights_only=True
    )
    assert again.batches == 2
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*first\.ckpt"):
        trainer_for(max_steps=1).fit(ParaLip(**SMALL, init_from=str(path)), fake_data(1))
    wider = ParaLip(**(SMALL | {"hidden": 16}), init_from=str(tmp_path / "second.ckpt"))
    with pytest.raises(ValueError, match="does not fit this model"):
        trainer_for(max_steps=1).fit(wider, fake_data(1))


class Seen(Two):
    """Notes the clips of its batches, and after which batches it validates."""

    def __init__(self) -> None:
        super().__init__()
        self.clips: list[str] = []
        self.validated: list[int] = []

    def compute_step(self, batch: Any) -> None:
        self.clips.append(batch["clip_id"][0])
        super().compute_step(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(self.batches)


class StopsAfter(pl.Callback):
    """Asks the trainer to stop, as a limit of time does."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        trainer.should_stop = pl_module.batches == self.batches


class Breaks(pl.Callback):
    """An error after so many batches, or in the validation after them."""

    def __init__(self, batches: int, where: str) -> None:
        self.batches, self.where = batches, where

    def _at(self, where: str, module: Any) -> None:
        if module.batches == self.batches and where == self.where:
            raise KeyError(where)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self._at("start", pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self._at("end", pl_module)

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self._at("validation", pl_module)


@pytest.mark.parametrize("stop", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("by", ["max_steps", "max_epochs", "asked", "start", "end", "validation"])
@pytest.mark.parametrize("until", [{"max_steps": 10}, {"max_epochs": 3}], ids=["steps", "epochs"])
def test_a_resumed_run_sees_what_is_left(
    stop: int,
    by: str,
    until: dict[str, int],
    tmp_path: Path,
    fake_data: Callable[..., Any],
    trainer_for: Callable[..., pl.Trainer],
) -> None:
    """However it stopped, within an epoch of four batches or between two, and whatever wrote the checkpoint."""
    if (by == "max_epochs" and stop % 4) or (by == "validation" and stop % 4):
        return
    whole = Seen()
    trainer_for(**until).fit(whole, fake_data(4))

    first = Seen()
    limits: dict[str, Any] = {"max_steps": stop} if by == "max_steps" else until
    limits = {"max_epochs": stop // 4} if by == "max_epochs" else limits
    calls: dict[str, list[pl.Callback]] = {
        "asked": [StopsAfter(stop)],
        **{w: [Breaks(stop, w)] for w in ("start", "end", "validation")},
    }
    trainer = trainer_for(**limits, callbacks=calls.get(by, []))
    path = tmp_path / "stopped.ckpt"

    class Saves(pl.Callback):  # as lipbench's own does
        def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(path)

    trainer.callbacks.append(Saves())  # type: ignore[attr-defined]
    try:
        trainer.fit(first, fake_data(4))
    except KeyError:
        assert by in ("start", "end", "validation")
    else:
        trainer.save_checkpoint(path)
    assert len(first.clips) == stop

    second = Seen()
    trainer = trainer_for(**until)
    trainer.fit(second, fake_data(4), ckpt_path=path, weights_only=True)
    assert first.clips + second.clips == whole.clips
    assert (second.batches, trainer.global_step) == (whole.batches, whole.batches)
    assert torch.equal(second.one, whole.one)
    if by != "asked":  # then, Lightning validates once more
        assert sorted({*first.validated, *second.validated}) == whole.validated


@pytest.mark.parametrize(
    "cases",
    [["paralip", "paralip-plain", "wav2lip"], pytest.param(["lipgan"], marks=pytest.mark.slow)],
    ids=["a model of each base", "others"],
)
def test_two_processes_end_equal(cases: list[str], tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_processes.py")
    subprocess.run([sys.executable, str(script), str(tmp_path), *cases], check=True, timeout=300)
    for case in cases:
        first, second = (torch.load(tmp_path / f"{case}-{rank}.pt", weights_only=True) for rank in (0, 1))
        different = [key for key in first["weights"] if not torch.equal(first["weights"][key], second["weights"][key])]
        assert not different
        assert first["clips"] != second["clips"]  # they did see different data
        moved = {key for key in first["weights"] if not torch.equal(first["weights"][key], first["start"][key])}
        assert any(key.startswith("discriminator.") for key in moved) == (case != "paralip-plain")
        assert any(key.startswith(("picture_decoder.", "generator.")) for key in moved)
        assert first["step"] == second["step"] == 10
        assert first["lipbench"] == second["lipbench"]  # so both stop at the same batch if training diverges
        assert {course["batches"] for course in first["lipbench"]["courses"].values()} == {
            10 if case != "wav2lip" else 5
        }
        assert first["lipbench"].get("sync_on", True)
