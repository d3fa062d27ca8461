"""What every model must keep. A new model adds one line to SMALL."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

import lipbench.models
from lipbench.training.adversarial import AdversarialModel
from lipbench.training.base import BenchModule, GenerativeModel
from lipbench.types import ClipBatch, Generated, Timing

SMALL: dict[str, dict[str, Any]] = {
    "lipgan": {
        "size": 12,
        "widths": (12, 8, 8),
        "blocks": (1, 0),
        "audio_widths": (4, 4, 6, 8),
        "audio_blocks": (0, 0, 0, 1),
        "decoder_blocks": 1,
        "hidden": 8,
        "window": 3,
        "lip_weight": 2.0,
        "judge_width": 4,
        "quality_weight": 0.01,
        "quality_width": 2,
        "lr": 1e-2,
    },
    "paralip": {
        "size": (12, 24),
        "hidden": 16,
        "layers": 1,
        "ffn": 24,
        "encoder_widths": (6, 8),
        "decoder_widths": (8, 8, 6, 6),
        "window": 5,
        "discriminator_width": 2,
        "adversarial_weight": 0.1,
        "lr": 3e-3,
    },
    "wav2lip": {
        "size": 12,
        "widths": (12, 8, 8),
        "residuals": (1, 0),
        "decoder_widths": (8, 8, 8),
        "decoder_residuals": 1,
        "audio_widths": (4, 4, 6, 8),
        "audio_residuals": (0, 0, 0, 1),
        "hidden": 8,
        "expert": "",  # the fixture's
        "sync_from": 0,
        "judge_width": 2,
        "lr": 1e-2,
    },
}
"""Arguments that make a model small enough for seconds of training, with every part switched on."""

WITHOUT_GRADIENT: dict[str, tuple[str, ...]] = {}
"""Model -> parameters that one batch leaves without gradient, by name, with the reason beside them."""

FILES = sorted(p.stem for p in Path(lipbench.models.__path__[0]).glob("*.py") if not p.stem.startswith("_"))


def video_models(file: str) -> list[type[GenerativeModel]]:
    """The models in a file that make video; readers and other observers have tests of their own."""
    module = importlib.import_module(f"lipbench.models.{file}")
    return [
        item
        for item in vars(module).values()
        if inspect.isclass(item) and issubclass(item, GenerativeModel) and item.__module__ == module.__name__
    ]


NAMES = [file for file in FILES if video_models(file)]


def class_of(name: str) -> type[GenerativeModel]:
    """The model in a file: its one concrete GenerativeModel."""
    found = video_models(name)
    assert len(found) == 1, f"models/{name}.py should hold one model, found {found}"
    return found[0]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    assert request.param in SMALL, f"add a line for {request.param!r} to SMALL in this file"
    return str(request.param)


def small(name: str, **options: Any) -> GenerativeModel:
    torch.manual_seed(0)
    return class_of(name)(**(SMALL[name] | options))


def timings(name: str) -> Iterator[Timing]:
    yield from sorted(class_of(name).timings)  # type: ignore[misc]


@pytest.fixture(autouse=True)
def _with_expert(expert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SMALL["wav2lip"], "expert", expert)


class Only(dict[str, Any]):
    """A batch that refuses every key but those allowed."""

    def __init__(self, batch: ClipBatch, allowed: frozenset[str]) -> None:
        super().__init__(batch)
        self.allowed = allowed

    def __getitem__(self, key: str) -> Any:
        if key not in self.allowed:
            raise AssertionError(f"read {key!r}, which is not among {sorted(self.allowed)}")
        return super().__getitem__(key)


def test_says_what_it_is(name: str) -> None:
    model = small(name)
    assert model.timings <= {"given", "length", "free"}
    assert model.timings
    assert model.paper
    assert "video" not in model.needs
    assert "video" in model.clip.frames
    doc = inspect.getmodule(type(model)).__doc__  # type: ignore[union-attr]
    assert doc
    assert doc.splitlines()[0].endswith(".")


def test_fits_saves_loads_and_tests(
    name: str, tmp_path: Path, fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    data = fake_data(3)
    trainer = trainer_for(max_epochs=1)
    trainer.fit(small(name), data)
    assert trainer.global_step == 3
    assert torch.isfinite(trainer.callback_metrics["val/l1"])
    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)["lipbench"]
    assert (stored["model"], stored["batches"], stored["schema"]) == (name, 3, 1)

    loaded = class_of(name).load_from_checkpoint(path, weights_only=True)
    assert loaded.batches == 3
    fitted = trainer.lightning_module.state_dict()
    assert all(torch.equal(value, fitted[key]) for key, value in loaded.state_dict().items())
    made = trainer_for().predict(loaded, data)
    assert made is not None
    assert made[0]["video"].shape[0] == 4  # type: ignore[index, call-overload]
    trainer_for().test(loaded, data)


def test_learns_one_batch(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    fake_data: Callable[..., Any],
    trainer_for: Callable[..., pl.Trainer],
) -> None:
    model = small(name)
    history: dict[str, list[float]] = {}
    original = model.optimise

    def watched(optimiser: str, terms: dict[str, torch.Tensor]) -> dict[str, float]:
        for key, value in terms.items():
            history.setdefault(key, []).append(value.item())
        return original(optimiser, terms)

    monkeypatch.setattr(model, "optimise", watched)
    trainer_for(max_epochs=40, overfit_batches=1, limit_val_batches=0).fit(model, fake_data(1))
    assert len(history["l1"]) == 40
    assert sum(history["l1"][-5:]) < 0.6 * sum(history["l1"][:5])


def test_gradients_reach_every_parameter(
    name: str, fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    model = small(name)
    reached: set[str] = set()

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, *_: Any) -> None:
            reached.update(key for key, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0)

    trainer_for(max_steps=1, callbacks=[Watch()], limit_val_batches=0).fit(model, fake_data(1))
    expected = {key for key, p in model.named_parameters() if p.requires_grad}
    assert expected - reached == set(WITHOUT_GRADIENT.get(name, ()))


def test_discriminators_feel_their_own_losses_alone(
    name: str, monkeypatch: pytest.MonkeyPatch, fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    """Their gradients in their step are, to the bit, those of their losses on samples cut from the generator."""
    model = small(name)
    assert isinstance(model, AdversarialModel)
    judge = model.discriminator
    assert judge is not None, "switch the discriminator on in SMALL"
    losses, alone, compared = model.discriminator_losses, [], []

    def watched(sample: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        state = torch.get_rng_state()
        total = torch.stack(list(losses({key: value.detach().clone() for key, value in sample.items()}).values())).sum()
        alone[:] = torch.autograd.grad(total, list(judge.parameters()))
        torch.set_rng_state(state)
        return losses(sample)

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, _: Any, __: Any, optimizer: torch.optim.Optimizer) -> None:
            ours, own = list(judge.parameters()), optimizer.param_groups[0]["params"]
            if own[0] is ours[0]:
                assert [id(p) for p in own] == [id(p) for p in ours]
                compared.append([torch.equal(p.grad, g) for p, g in zip(ours, alone, strict=True)])
            else:
                assert not {id(p) for p in own} & {id(p) for p in ours}

    monkeypatch.setattr(model, "discriminator_losses", watched)
    trainer_for(max_steps=3, callbacks=[Watch()], limit_val_batches=0).fit(model, fake_data(3))
    assert [all(equal) for equal in compared] == [True] * 3


def test_reads_only_what_it_says_and_keeps_the_lengths(
    name: str, monkeypatch: pytest.MonkeyPatch, batch_for: Callable[..., ClipBatch]
) -> None:
    model = small(name).eval()
    batch = batch_for(model.clip, 5)
    generate, handed = model.generate, {}

    def watched(given: ClipBatch, timing: Timing) -> Generated:
        handed.update(given)
        return generate(given, timing)

    monkeypatch.setattr(model, "generate", watched)
    for timing in timings(name):
        hidden = {"given": set(), "length": {"durations"}, "free": {"durations", "n_frames"}}[timing]
        allowed = model.needs - hidden
        handed.clear()
        with torch.no_grad():
            driven = model.drive(batch, timing)
            assert set(handed) == allowed
            made = generate(Only({**batch, **handed}, allowed), timing)  # type: ignore[arg-type, typeddict-item]
        video, lengths = made["video"], made["video_len"]
        assert torch.equal(video, driven["video"])
        assert video.dtype == torch.float32
        assert video.shape == (4, int(lengths.max()), 3, *model.clip.frames["video"].size)
        assert video.min() >= 0
        assert video.max() <= 1
        if timing != "free":
            assert torch.equal(lengths, batch["n_frames"])
        after = torch.arange(video.shape[1]) >= lengths[:, None]
        assert video[after].abs().sum() == 0
        if "durations" in made:
            assert torch.equal(made["durations"].sum(dim=1), lengths)
            assert made["durations"].min() >= 0


def test_refuses_unknown_timing_and_missing_keys(name: str, batch_for: Callable[..., ClipBatch]) -> None:
    model = small(name)
    with pytest.raises(ValueError, match="has no timing 'late'"):
        model.drive(batch_for(model.clip, 1), "late")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs"):
        model.drive({}, next(timings(name)))


def test_a_clip_is_the_same_alone_and_in_a_batch(name: str, batch_for: Callable[..., ClipBatch]) -> None:
    model = small(name).eval()
    batch = batch_for(model.clip, 7)
    for timing in timings(name):
        with torch.no_grad():
            together = model.drive(batch, timing)
            for row in range(4):
                one: dict[str, Any] = {k: v[row : row + 1] for k, v in batch.items()}
                if "tokens" in one:  # alone there is no padding either
                    one["tokens"] = one["tokens"][:, : int(one["token_len"])]
                    one["durations"] = one["durations"][:, : int(one["token_len"])]
                alone = model.drive(one, timing)  # type: ignore[arg-type]
                frames = int(together["video_len"][row])
                assert int(alone["video_len"]) == frames
                torch.testing.assert_close(alone["video"][0], together["video"][row, :frames], rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9, "schedule": "cosine", "warmup": 2}], ids=["plain", "ema"])
def test_resumed_equals_uninterrupted(
    name: str,
    options: dict[str, Any],
    tmp_path: Path,
    fake_data: Callable[..., Any],
    trainer_for: Callable[..., pl.Trainer],
) -> None:
    def fit(folder: str, ckpt_path: Path | None = None) -> tuple[dict[str, Any], pl.Trainer]:
        torch.manual_seed(11 if ckpt_path is None else 99)  # resuming must not lean on the seed of the new process
        keep = ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = trainer_for(max_steps=6, callbacks=[keep], enable_checkpointing=True)
        trainer.fit(small(name, **options), fake_data(4), ckpt_path=ckpt_path, weights_only=True)
        return torch.load(tmp_path / folder / "step=6.ckpt", weights_only=True), trainer

    whole, trainer = fit("whole")
    assert trainer.global_step == 6
    for stop in (3, 4):  # in the middle of an epoch and at its end
        resumed, _ = fit(f"resumed{stop}", tmp_path / "whole" / f"step={stop}.ckpt")
        for part in ("state_dict", *(["current_model_state"] if "ema_decay" in options else [])):
            different = [k for k, v in whole[part].items() if not torch.equal(v, resumed[part][k])]
            assert not different, f"stopped at {stop}: {part} differs in {different[:3]}"
        assert str(whole["optimizer_states"]) == str(resumed["optimizer_states"])
        assert whole["lipbench"] == resumed["lipbench"]
        assert whole["lr_schedulers"] == resumed["lr_schedulers"]


OBSERVERS: dict[str, dict[str, Any]] = {
    "lipnet": {"size": (16, 24), "widths": (4, 6, 8), "hidden": 8},
    "lipresnet": {"size": (16, 24), "front": 4, "widths": (4, 4, 8, 8), "hidden": 8},
    "syncnet": {
        **{"network": "small", "size": (8, 8), "video_widths": (16, 16), "audio_widths": (16, 16, 16, 16, 32)},
        **{"hidden": 32, "width": 16},
    },
    "wav2lip_expert": {
        **{"size": 24, "widths": (8, 8, 8, 8), "residuals": (0, 0, 0), "audio_widths": (8, 8, 8, 8)},
        **{"audio_residuals": (0, 0, 0, 0), "hidden": 16, "window": 6},
    },
}
"""The models that make no video, small."""


@pytest.mark.parametrize("name", sorted(set(FILES) - set(NAMES)))
def test_observers_train_in_half_precision(
    name: str, fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    (kind,) = (
        item
        for item in vars(importlib.import_module(f"lipbench.models.{name}")).values()
        if inspect.isclass(item) and issubclass(item, BenchModule) and item.__module__.endswith(f".{name}")
    )
    model = kind(**OBSERVERS[name])
    trainer_for(max_steps=2, precision="bf16-mixed").fit(model, fake_data(2))
    assert model.batches == 2
    assert all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in model.parameters())


def test_trains_and_tests_in_half_precision(
    name: str, fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    model = small(name)
    before = {key: value.clone() for key, value in model.named_parameters()}
    trainer = trainer_for(max_steps=2, precision="bf16-mixed")
    trainer.fit(model, fake_data(2))
    assert all(value.dtype == torch.float32 for value in model.parameters())
    assert sum(not torch.equal(before[key], value) for key, value in model.named_parameters()) > len(before) / 2
    made = trainer.predict(model, fake_data(2))
    assert made is not None
    assert made[0]["video"].dtype == torch.float32  # type: ignore[index, call-overload]
