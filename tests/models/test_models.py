"""What every model must keep. A new model adds one line to CASES, or to OBSERVERS if it generates nothing."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from fake_data import (
    LENGTHS,
    FakeData,
    make_autoencoder,
    make_batch,
    make_expert,
    make_flow,
    make_landmark_stage,
    make_lips,
    make_reader,
    make_speech,
    make_vocoder,
)
from pytorch_lightning.callbacks import ModelCheckpoint

import lipbench.models
from lipbench.training.adversarial import AdversarialModel, Adversary
from lipbench.training.base import BenchModule
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipBatch, Generated, Timing


@dataclass(frozen=True)
class Case:
    """A model small enough for seconds of training, with every part switched on.

    Args:
        arguments: Of its constructor.
        files: Argument -> what makes the file that it names (an expert, a reader), in a folder.
        lengths: Frames of the clips of a batch.
        learns: Loss that falls while one batch is learned; of several calls in a batch, their sum.
        share: To which share of its beginning it falls within 40 batches.
        without_gradient: Parameters that one batch leaves without gradient, by name, with the reason beside them.
        judged: Whether discriminators train it, if it is an AdversarialModel.
    """

    arguments: dict[str, Any]
    files: dict[str, Callable[[Path], str]] = field(default_factory=dict)
    lengths: tuple[int, ...] = LENGTHS
    learns: str = "l1"
    share: float = 0.6
    without_gradient: tuple[str, ...] = ()
    judged: bool = True


SMALL: dict[str, dict[str, Any]] = {
    "corrgan": {
        "size": 16,
        "width": 4,
        "blocks": 1,
        "audio_widths": (4, 4, 4, 8),
        "correlation_widths": (2, 4, 4),
        "flow_width": 2,
        "discriminator_width": 4,
        "pixel_weight": 20.0,
        "lr": 3e-3,
    },
    "atvgnet": {
        **{"size": 16, "width": 4, "blocks": 1, "dropout": 0.1, "audio_width": 2, "audio_hidden": 4},
        **{"audio_layers": 1, "discriminator_width": 2, "discriminator_hidden": 4, "lr": 1e-2},
    },
    "duallip": {
        **{"size": (16, 32), "embedding": 8, "hidden": 16, "rnn": 24, "encoder_widths": (6, 8), "dropout": 0.1},
        **{"decoder_widths": (8, 8, 6, 6), "reader_options": {"widths": (4, 4, 8), "hidden": 8, "dropout": 0.0}},
        **{"unsupervised_from": 0, "curriculum": 0, "generator_lr": 1e-2, "lr": 1e-2},
    },
    "cran": {
        **{"size": 48, "widths": (8,) * 4, "decoder_widths": (16, 12, 12, 12, 8, 8), "audio_widths": (4, 4, 4, 6, 8)},
        **{"embedding": 12, "hidden": 32, "window": 8, "video_frames": 9},
        **{"frame_widths": (4, 4, 4, 4), "video_widths": (4, 4, 4), "lr": 5e-3},
    },
    "faceformer": {
        "size": 12,
        "widths": (12, 8, 8),
        "residuals": (1, 0),
        "decoder_widths": (8, 8, 8),
        "decoder_residuals": 1,
        "hidden": 8,
        "heads": 2,
        "period": 4,
        "window": 5,
        **{"speech_widths": (4,) * 7, "speech_hidden": 16, "speech_layers": 2, "speech_heads": 2, "speech_ffn": 24},
        "lr": 1e-2,
    },
    "fastspeech": {
        **{"speakers": 2, "hidden": 16, "layers": 1, "decoder_layers": 1, "ffn": 24, "kernel": 3, "lr": 1e-2},
    },
    "lip2face": {
        **{"size": 16, "embedding": 4, "hidden": 8, "rnn": 8, "dropout": 0.0, "window": 5},
        **{"encoder_widths": (6, 8), "decoder_widths": (8, 8, 6, 6), "lr": 1e-2},
    },
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
    "speech2vid": {"references": 2, "width": 4, "lr": 1e-2},
    "speech2vid_frame": {"references": 2, "width": 4, "window": 3, "lr": 1e-2},
    "talklip": {
        **{"size": 12, "widths": (12, 8, 8), "residuals": (1, 0), "decoder_widths": (8, 8, 8), "decoder_residuals": 1},
        "hidden": 8,
        "audio_encoder": {"width": 16, "layers": 4, "heads": 2, "ffn": 16, "position_kernel": 8, "position_groups": 2},
        "context_width": 16,
        "discriminator_width": 2,
        "audio_from": 0,
        "reader_from": 0,
        "lr": 1e-2,
    },
    "transformert2l": {
        **{"size": (12, 24), "hidden": 16, "layers": 1, "ffn": 24, "encoder_widths": (6, 8), "frames": 5},
        **{"decoder_widths": (8, 8, 6, 6), "longest": 12, "discriminator_width": 2, "adversarial_weight": 0.1},
        "lr": 3e-3,
    },
    "vgan": {
        "size": 16,
        "width": 4,
        "audio_widths": (4, 4, 4, 4),
        "discriminator_width": 4,
        "discriminator_audio_widths": (4, 4, 4, 4),
        "lr": 1e-2,
        "discriminator_lr": 1e-5,  # so slow that the generator, which has no other loss, can fool it
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
        "sync_from": 0,
        "judge_width": 2,
        "lr": 1e-2,
    },
}

WINDOWS = (14, 18, 26, 16)  # frames: shorter than a window of 16, several windows, a single one

CASES: dict[str, Case] = {
    "corrgan": Case(
        SMALL["corrgan"],
        files={"autoencoder": make_autoencoder, "flow": make_flow},
        lengths=(18, 20, 6, 17),
        share=0.7,
    ),
    "atvgnet": Case(SMALL["atvgnet"], files={"landmarks": make_landmark_stage}, learns="pixel"),
    "duallip": Case(SMALL["duallip"]),
    "cran": Case(SMALL["cran"], share=0.8),  # its weights begin as published, with frames that hardly differ
    "faceformer": Case(SMALL["faceformer"], files={"speech": make_speech}, learns="mse", judged=False),
    "fastspeech": Case(SMALL["fastspeech"], files={"vocoder": make_vocoder}, learns="mel"),
    "lip2face": Case(SMALL["lip2face"], files={"lips": make_lips}),
    "lipgan": Case(SMALL["lipgan"]),
    "paralip": Case(SMALL["paralip"]),
    "speech2vid": Case(SMALL["speech2vid"], lengths=WINDOWS, judged=False),
    "speech2vid_frame": Case(SMALL["speech2vid_frame"], judged=False),
    "talklip": Case(SMALL["talklip"], files={"reader": make_reader}, lengths=(18, 20, 6, 17)),
    "transformert2l": Case(SMALL["transformert2l"]),
    "vgan": Case(SMALL["vgan"], lengths=WINDOWS, learns="adversarial"),
    "wav2lip": Case(SMALL["wav2lip"], files={"expert": make_expert}),
}

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
    assert request.param in CASES, f"add a line for {request.param!r} to CASES in this file"
    return str(request.param)


def small(name: str, folder: Path, **options: Any) -> GenerativeModel:
    """The model of a case; the files that it names are made in a folder."""
    torch.manual_seed(0)
    files = {argument: make(folder) for argument, make in CASES[name].files.items()}
    torch.manual_seed(0)
    return class_of(name)(**(CASES[name].arguments | files | options))


def data_of(name: str, batches: int) -> FakeData:
    return FakeData(batches, CASES[name].lengths)


def batch_of(name: str, model: BenchModule, seed: int) -> ClipBatch:
    return make_batch(model.clip_spec, seed, CASES[name].lengths)


def timings(model: GenerativeModel) -> Iterator[Timing]:
    yield from sorted(model.timings)  # type: ignore[misc]


class Only(dict[str, Any]):
    """A batch that refuses every key but those allowed."""

    def __init__(self, batch: ClipBatch, allowed: frozenset[str]) -> None:
        super().__init__(batch)
        self.allowed = allowed

    def __getitem__(self, key: str) -> Any:
        if key not in self.allowed:
            raise AssertionError(f"read {key!r}, which is not among {sorted(self.allowed)}")
        return super().__getitem__(key)


def test_says_what_it_is(name: str, tmp_path: Path) -> None:
    model = small(name, tmp_path)
    assert model.timings <= {"given", "speech", "length", "free"}
    assert model.timings
    assert model.capabilities <= {"video", "audio", "text"}
    assert model.capabilities & {"video", "audio"}
    assert model.context is None or model.context >= 0
    assert model.paper
    assert "video" not in model.needs
    assert ("video" in model.clip_spec.frames) == ("video" in model.capabilities)
    doc = inspect.getmodule(type(model)).__doc__  # type: ignore[union-attr]
    assert doc
    assert doc.splitlines()[0].endswith(".")


def test_fits_saves_loads_and_tests(name: str, tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    data = data_of(name, 3)
    trainer = trainer_for(max_epochs=1)
    trainer.fit(small(name, tmp_path), data)
    assert trainer.global_step == 3
    assert torch.isfinite(trainer.callback_metrics[class_of(name).monitor[0]])
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
    for capability, key in (("video", "video"), ("audio", "audio"), ("text", "text")):
        assert (key in made[0]) == (capability in loaded.capabilities)
        assert key not in made[0] or len(made[0][key]) == len(CASES[name].lengths)  # type: ignore[index, call-overload]
    trainer_for().test(loaded, data)


def test_learns_one_batch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer_for: Callable[..., pl.Trainer]
) -> None:
    model, case = small(name, tmp_path), CASES[name]
    history = [0.0] * 40
    original = model.step_optimizer

    def watched(optimizer: str, terms: dict[str, torch.Tensor]) -> dict[str, float]:
        history[model.batches] += terms[case.learns].item() if case.learns in terms else 0.0
        return original(optimizer, terms)

    monkeypatch.setattr(model, "step_optimizer", watched)
    trainer_for(max_epochs=40, overfit_batches=1, limit_val_batches=0).fit(model, data_of(name, 1))
    assert sum(history[-5:]) < case.share * sum(history[:5])
    assert min(history[:5]) > 0


def test_gradients_reach_every_parameter(name: str, tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    model = small(name, tmp_path)
    reached: set[str] = set()

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, *_: Any) -> None:
            reached.update(key for key, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0)

    trainer_for(max_steps=1, callbacks=[Watch()], limit_val_batches=0).fit(model, data_of(name, 1))
    expected = {key for key, p in model.named_parameters() if p.requires_grad}
    assert expected - reached == set(CASES[name].without_gradient)


def test_discriminators_feel_their_own_losses_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer_for: Callable[..., pl.Trainer]
) -> None:
    """Their gradients in their step are, to the bit, those of their losses on samples cut from the generator."""
    model = small(name, tmp_path)
    if not isinstance(model, AdversarialModel):
        return
    assert bool(model.adversaries) == CASES[name].judged, "switch the discriminators on in SMALL"
    alone: dict[str, tuple[torch.Tensor, ...]] = {}
    compared: dict[str, list[bool]] = {key: [] for key in model.adversaries}
    judges = {key: list(adversary.net.parameters()) for key, adversary in model.adversaries.items()}

    def watch(key: str, adversary: Adversary) -> None:
        losses = adversary.losses

        def watched(sample: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
            state = torch.get_rng_state()
            terms, _ = losses({name: value.detach().clone() for name, value in sample.items()})
            alone[key] = torch.autograd.grad(torch.stack(list(terms.values())).sum(), judges[key])
            torch.set_rng_state(state)
            return losses(sample)

        monkeypatch.setattr(adversary, "losses", watched)

    for key, adversary in model.adversaries.items():
        watch(key, adversary)

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, _: Any, __: Any, optimizer: torch.optim.Optimizer) -> None:
            trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
            own = {key for key, judge in judges.items() if trained & {id(p) for p in judge}}
            assert not own or trained == {id(p) for key in own for p in judges[key]}
            for key in own:
                equal = [torch.equal(p.grad, g) for p, g in zip(judges[key], alone[key], strict=True)]
                compared[key].append(all(equal))

    trainer_for(max_steps=3, callbacks=[Watch()], limit_val_batches=0).fit(model, data_of(name, 3))
    assert compared == {key: [True] * 3 for key in model.adversaries}


def test_reads_only_what_it_says_and_keeps_the_lengths(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(name, tmp_path).eval()
    batch = batch_of(name, model, 5)
    generate, handed = model.generate, {}

    def watched(given: ClipBatch, timing: Timing) -> Generated:
        handed.update(given)
        return generate(given, timing)

    monkeypatch.setattr(model, "generate", watched)
    for timing in timings(model):
        hidden = {
            "given": {"speech"},
            "speech": {"durations"},
            "length": {"durations", "speech"},
            "free": {"durations", "speech", "n_frames"},
        }[timing]
        allowed = model.needs - hidden
        handed.clear()
        with torch.no_grad():
            driven = model.run_generate(batch, timing)
            assert set(handed) == allowed
            made = generate(Only({**batch, **handed}, allowed), timing)  # type: ignore[arg-type, typeddict-item]
        if "audio" in model.capabilities:
            assert made["audio"].shape[0] == len(batch["index"])
            assert made["sample_rate"] > 0
        if "video" not in model.capabilities:
            continue
        video, lengths = made["video"], made["video_len"]
        assert torch.equal(video, driven["video"])
        assert video.dtype == torch.float32
        assert video.shape == (len(batch["index"]), int(lengths.max()), 3, *model.clip_spec.frames["video"].size)
        assert video.min() >= 0
        assert video.max() <= 1
        if timing != "free":
            assert torch.equal(lengths, batch["n_frames"])
        after = torch.arange(video.shape[1]) >= lengths[:, None]
        assert video[after].abs().sum() == 0
        if "durations" in made:
            assert torch.equal(made["durations"].sum(dim=1), lengths)
            assert made["durations"].min() >= 0


def test_refuses_unknown_timing_and_missing_keys(name: str, tmp_path: Path) -> None:
    model = small(name, tmp_path)
    with pytest.raises(ValueError, match="has no timing 'late'"):
        model.run_generate(batch_of(name, model, 1), "late")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs"):
        model.run_generate({}, next(timings(model)))


def test_a_clip_is_the_same_alone_and_in_a_batch(name: str, tmp_path: Path) -> None:
    model = small(name, tmp_path).eval()
    batch = batch_of(name, model, 7)
    for timing in timings(model):
        with torch.no_grad():
            together = model.run_generate(batch, timing)
            for row in range(len(batch["index"])):
                one: dict[str, Any] = {k: v[row : row + 1] for k, v in batch.items()}
                if "tokens" in one:  # alone there is no padding either
                    one["tokens"] = one["tokens"][:, : int(one["token_len"])]
                    one["durations"] = one["durations"][:, : int(one["token_len"])]
                alone = model.run_generate(one, timing)  # type: ignore[arg-type]
                for key in sorted(model.capabilities & {"video", "audio"}):
                    count = int(together[f"{key}_len"][row])  # type: ignore[literal-required]
                    assert int(alone[f"{key}_len"]) == count  # type: ignore[literal-required]
                    found, expected = alone[key][0], together[key][row, :count]  # type: ignore[literal-required]
                    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9, "schedule": "cosine", "warmup": 2}], ids=["plain", "ema"])
def test_resumed_equals_uninterrupted(
    name: str, options: dict[str, Any], tmp_path: Path, trainer_for: Callable[..., pl.Trainer]
) -> None:
    def fit(folder: str, ckpt_path: Path | None = None) -> tuple[dict[str, Any], pl.Trainer]:
        model = small(name, tmp_path, **options)
        torch.manual_seed(11 if ckpt_path is None else 99)  # resuming must not lean on the seed of the new process
        keep = ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = trainer_for(max_steps=6, callbacks=[keep], enable_checkpointing=True)
        trainer.fit(model, data_of(name, 4), ckpt_path=ckpt_path, weights_only=True)
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
    "clip_autoencoder": {"size": 8, "width": 2, "blocks": 1},
    "flownet": {"size": 64, "width": 2, "window": 4},  # at 32, a stride of 2 on one pixel: broken in bf16 on CPUs
    "atvgnet_landmarks": {"width": 2, "hidden": 4, "layers": 1},
    "avhubert": {
        **{"size": 24, "front": 4, "widths": (4, 4, 8, 8), "width": 8, "layers": 1, "heads": 2, "ffn": 8, "beam": 2},
        **{"position_kernel": 4, "position_groups": 2, "decoder_layers": 1, "decoder_heads": 2, "decoder_ffn": 8},
    },
    "conformer": {
        **{"view": "mouth", "size": (16, 24), "front": 4, "widths": (4, 4, 8, 8), "width": 8, "layers": 1, "heads": 2},
        **{"ffn": 8, "kernel": 3, "decoder_layers": 1, "margin": 1, "beam": 2},
    },
    "lipnet": {"size": (16, 24), "widths": (4, 6, 8), "hidden": 8},
    "lipresnet": {"size": (16, 24), "front": 4, "widths": (4, 4, 8, 8), "hidden": 8},
    "mvm": {
        **{"size": 32, "front": 4, "widths": (4, 4, 8, 8), "embedding": 8, "audio_widths": (2, 4), "channels": 12},
        **{"slots": 4, "heads": 2, "outputs": 8, "words": "sentences"},
    },
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


def observer(name: str, **options: Any) -> BenchModule:
    """The model in a file that makes no video."""
    (kind,) = (
        item
        for item in vars(importlib.import_module(f"lipbench.models.{name}")).values()
        if inspect.isclass(item) and issubclass(item, BenchModule) and item.__module__.endswith(f".{name}")
    )
    torch.manual_seed(0)
    return kind(**(OBSERVERS[name] | options))


@pytest.mark.parametrize("name", sorted(set(FILES) - set(NAMES)))
def test_observers_train_in_half_precision(
    name: str, fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    model = observer(name)
    trainer_for(max_steps=2, precision="bf16-mixed").fit(model, fake_data(2))
    assert model.batches == 2
    assert all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in model.parameters())


def test_trains_and_tests_in_half_precision(name: str, tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    model = small(name, tmp_path)
    before = {key: value.clone() for key, value in model.named_parameters()}
    trainer = trainer_for(max_steps=2, precision="bf16-mixed")
    trainer.fit(model, data_of(name, 2))
    assert all(value.dtype == torch.float32 for value in model.parameters())
    assert sum(not torch.equal(before[key], value) for key, value in model.named_parameters()) > len(before) / 2
    made = trainer.predict(model, data_of(name, 2))
    assert made is not None
    for key in model.capabilities & {"video", "audio"}:
        assert made[0][key].dtype == torch.float32  # type: ignore[index, call-overload]
