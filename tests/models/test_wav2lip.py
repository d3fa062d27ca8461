"""Wav2Lip: its losses and their weights, the switch of the synchronization, and the expert that stays as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F

from lipbench.media import features, geometry
from lipbench.models.wav2lip import Wav2Lip
from lipbench.nets.wav2lip import Expert
from lipbench.pretrained import weights
from lipbench.types import ClipBatch, View

SMALL: dict[str, Any] = {
    "size": 12,
    "widths": (4, 6, 8),
    "residuals": (1, 0),
    "decoder_widths": (8, 6, 4),
    "decoder_residuals": 0,
    "audio_widths": (4, 4, 6, 8),
    "audio_residuals": (0, 0, 0, 0),
    "hidden": 8,
    "judge_width": 2,
}


@pytest.fixture
def small(expert: str) -> Callable[..., Wav2Lip]:
    def make(**options: Any) -> Wav2Lip:
        torch.manual_seed(0)
        return Wav2Lip(**(SMALL | {"expert": expert} | options))

    return make


def fitted(model: Wav2Lip, batch: ClipBatch) -> Wav2Lip:
    """In eval mode, with BatchNorm statistics that leave no map dead."""
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        model.generator_losses(batch)
    return model.eval()


class Weights(pl.Callback):
    """Notes the loss weights and the terms of every batch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.sync: list[bool] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.rows.append(dict(pl_module.loss_weights))
        self.sync.append("train/sync" in trainer.callback_metrics)


def test_published_size_and_settings() -> None:
    with torch.device("meta"):
        model = Wav2Lip()
    assert model.discriminator is not None
    judge = sum(p.numel() for p in model.discriminator.parameters())
    assert (sum(p.numel() for p in model.parameters()) - judge, judge) == (36_298_035, 14_113_793)
    assert model.clip_spec.frames == {"video": View("face", 96, 96)}
    assert (model.clip_spec.window, model.clip_spec.references, model.clip_spec.identity) == (5, 5, "run")
    assert model.clip_spec.sampling == "consecutive"
    assert (model.sync_weight, model.adversarial_weight, model.sync_below) == (0.03, 0.07, 0.75)
    assert (model.lr, model.discriminator_lr, model.betas) == (1e-4, 1e-4, (0.5, 0.999))
    first = Wav2Lip(**SMALL, identity="first").clip_spec
    assert (first.identity, first.references) == ("first", 1)


@pytest.mark.parametrize("identity", ["first", "run"])
def test_training_and_inference_hear_and_make_the_same(
    identity: str, small: Callable[..., Wav2Lip], batch_for: Callable[..., ClipBatch]
) -> None:
    """In eval mode, the training path on five frames in a row equals those frames of the whole clip generated."""
    model = small(identity=identity)
    batch = batch_for(model.clip_spec, 0, training=True)
    fitted(model, batch)
    with torch.no_grad():
        _, sample = model.generator_losses(batch)
    assert sample["made"].shape == sample["real"].shape == (4 * 5, 3, 12, 12)
    assert torch.equal(sample["real"], batch["video"].flatten(0, 1))
    for place in range(batch["identity"].shape[1] if identity == "run" else 1):
        whole = batch_for(model.clip_spec, 0)
        whole |= {key: batch[key] for key in ("audio", "audio_len")}  # type: ignore[literal-required, typeddict-item]
        whole["identity"] = batch["identity"][:, place, None]
        for row in range(4):  # the drawn frames' poses are those of the clip
            whole["video"][row, batch["frame"][row]] = batch["video"][row]
        with torch.no_grad():
            made = model.run_generate(whole, "given")["video"]
        for row, drawn in enumerate(sample["made"].view(4, 5, 3, 12, 12)):
            places = [place] if identity == "run" else list(range(5))
            torch.testing.assert_close(drawn[places], made[row, batch["frame"][row, places]], rtol=0, atol=1e-5)


def test_the_targets_lower_halves_change_nothing(
    small: Callable[..., Wav2Lip], batch_for: Callable[..., ClipBatch]
) -> None:
    model = small(identity="first")
    fitted(model, batch_for(model.clip_spec, 0, training=True))
    for training in (False, True):
        batch = batch_for(model.clip_spec, 0, training=training)

        def made(given: ClipBatch, training: bool = training) -> Tensor:
            return model.generator_losses(given)[1]["made"] if training else model.run_generate(given, "given")["video"]

        with torch.no_grad():
            before = made(batch)
            batch["video"][:, :, :, 6:] = torch.rand_like(batch["video"][:, :, :, 6:])
            assert torch.equal(made(batch), before)
            batch["video"][:, :, :, :6] = torch.rand_like(batch["video"][:, :, :, :6])
            assert not torch.equal(made(batch), before)


@pytest.mark.parametrize("key", ["audio", "identity"])
def test_the_sound_and_the_identity_matter(
    key: str, small: Callable[..., Wav2Lip], batch_for: Callable[..., ClipBatch]
) -> None:
    model = small()
    fitted(model, batch_for(model.clip_spec, 0, training=True))
    batch = batch_for(model.clip_spec, 0)
    with torch.no_grad():
        before = model.run_generate(batch, "given")["video"]
        batch[key] = batch[key].flip(0)  # type: ignore[literal-required]
        assert (model.run_generate(batch, "given")["video"] - before).abs().max() > 1e-4


def test_what_it_hears_is_centerd_on_its_frame(
    small: Callable[..., Wav2Lip], batch_for: Callable[..., ClipBatch]
) -> None:
    """An impulse in the middle of a frame lies in the middle of what is heard for that frame, here as there."""
    model = small().eval()
    heard: list[Tensor] = []
    model.generator.sound.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    for training in (True, False):
        batch = batch_for(model.clip_spec, 0, training=training)
        frame = int(batch["frame"][0, 1])
        batch["audio"] = torch.zeros_like(batch["audio"])
        batch["audio"][0, 640 * frame + 320] = 1
        with torch.no_grad():
            if training:
                model.generator_losses(batch)
            else:
                model.run_generate(batch, "given")
        window = heard[-1][1 if training else frame, 0]
        assert window.shape == (80, 16)
        there = (window != -4).any(dim=0).nonzero().double()
        assert abs(there.mean().item() - 7.5) <= 1
        # Five frames' middle, heard by the expert, is the same window.
        assert torch.equal(model.audio_windows(batch, torch.tensor([0]), torch.tensor([frame]))[0], window)
    assert torch.equal(heard[0][1], heard[1][int(batch_for(model.clip_spec, 0, training=True)["frame"][0, 1])])
    assert model.clip_spec.audio_rate == features.RATE


def test_weights_of_the_losses_and_the_switch_by_batch(
    small: Callable[..., Wav2Lip], fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    seen = Weights()
    model = small(sync_from=2, sync_weight=0.04, adversarial_weight=0.1)
    trainer_for(max_steps=4, callbacks=[seen], limit_val_batches=0).fit(model, fake_data(4))
    off = {"l1": pytest.approx(0.9), "sync": 0.0, "adversarial": 0.1}
    on = {"l1": pytest.approx(0.86), "sync": 0.04, "adversarial": 0.1}
    assert seen.rows == [off, off, on, on]
    assert seen.sync == [False, False, True, True]


def test_without_expert_or_discriminator(
    small: Callable[..., Wav2Lip], fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    seen = Weights()
    trainer = trainer_for(max_steps=2, callbacks=[seen])
    trainer.fit(small(sync_weight=0.0, adversarial_weight=0.0, expert=None, sync_from=0), fake_data(2))
    assert seen.rows[-1] == {"l1": 1.0, "sync": 0.0, "adversarial": 0.0}
    assert not {"train/sync", "train/adversarial", "val/sync"} & set(trainer.callback_metrics)
    assert torch.isfinite(trainer.callback_metrics["val/l1"])


@pytest.mark.parametrize("below", [1e9, 0.0])
def test_a_validation_switches_the_synchronization_on(
    below: float,
    tmp_path: Path,
    small: Callable[..., Wav2Lip],
    fake_data: Callable[..., Any],
    trainer_for: Callable[..., pl.Trainer],
) -> None:
    seen = Weights()
    keep = ModelCheckpoint(tmp_path, filename="{step}", monitor="val/l1", save_top_k=-1)
    trainer = trainer_for(max_epochs=2, callbacks=[seen, keep], enable_checkpointing=True, num_sanity_val_steps=1)
    trainer.fit(small(sync_below=below), fake_data(2))
    switched = below > 0
    assert seen.sync == [False, False, switched, switched]  # and the sanity check does not count
    # The checkpoint of the validation that switched knows it.
    stored = torch.load(tmp_path / "step=2.ckpt", weights_only=True)
    assert stored["lipbench"]["sync_on"] == switched
    loaded = Wav2Lip.load_from_checkpoint(tmp_path / "step=2.ckpt", weights_only=True)
    assert loaded.sync_on == switched


def test_val_sync_is_the_mean_over_windows(
    small: Callable[..., Wav2Lip],
    fake_data: Callable[..., Any],
    trainer_for: Callable[..., pl.Trainer],
    batch_for: Callable[..., ClipBatch],
) -> None:
    model = small()
    trainer = trainer_for(max_steps=1)
    trainer.fit(model, fake_data(1))
    model.eval()
    batch = batch_for(model.clip_spec, 0)
    with torch.no_grad():
        made = model.run_generate(batch, "given")["video"][:, :5]  # of 6 to 9 frames, one window each
        seen = model.frozen["expert"].embed_faces(geometry.lower_half(geometry.resize(made, (24, 24))))
        heard = model.frozen["expert"].embed_sound(model.audio_windows(batch, torch.arange(4), torch.full((4,), 2)))
    expected = -(seen * heard).sum(1).log().mean()
    torch.testing.assert_close(trainer.callback_metrics["val/sync"], expected)
    cosine = F.cosine_similarity(seen, heard)
    assert (cosine > 0).all()


def test_resumed_equals_uninterrupted_over_the_switch(
    tmp_path: Path,
    small: Callable[..., Wav2Lip],
    fake_data: Callable[..., Any],
    trainer_for: Callable[..., pl.Trainer],
) -> None:
    def fit(folder: str, steps: int, ckpt_path: Path | None = None) -> dict[str, Any]:
        keep = ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = trainer_for(max_steps=steps, callbacks=[keep], enable_checkpointing=True)
        trainer.fit(small(sync_below=1e9), fake_data(2), ckpt_path=ckpt_path, weights_only=True)
        return dict(torch.load(tmp_path / folder / f"step={steps}.ckpt", weights_only=True))

    whole = fit("whole", 5)
    at_three = tmp_path / "whole" / "step=3.ckpt"
    assert torch.load(at_three, weights_only=True)["lipbench"]["sync_on"]
    resumed = fit("resumed", 5, at_three)
    assert not [key for key, value in whole["state_dict"].items() if not torch.equal(value, resumed["state_dict"][key])]
    assert whole["lipbench"] == resumed["lipbench"]


def test_the_expert_stays_as_it_is_and_outside(
    tmp_path: Path,
    expert: str,
    small: Callable[..., Wav2Lip],
    fake_data: Callable[..., Any],
    trainer_for: Callable[..., pl.Trainer],
    expert_for: Callable[..., str],
) -> None:
    model = small(sync_from=0, ema_decay=0.9)
    own = {key for key, _ in model.named_parameters()}
    trainer = trainer_for(max_steps=2)
    trainer.fit(model, fake_data(2))
    net = model.frozen["expert"]
    assert isinstance(net, Expert)
    assert not net.training
    assert {key for key, _ in model.named_parameters()} == own
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    fresh, card = weights.load(expert, Expert)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in fresh.state_dict().items())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    stored = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert stored["lipbench"]["frozen"] == {"expert": card.sha256}
    assert all(key.startswith(("generator.", "discriminator.")) for key in stored["state_dict"])

    other = expert_for(tmp_path, seed=1)
    with pytest.raises(ValueError, match=rf"--model\.expert has SHA-256 .*, and .* trained with {card.sha256[:12]}"):
        trainer_for(max_steps=3).fit(
            small(sync_from=0, expert=other, ema_decay=0.9),
            fake_data(2),
            ckpt_path=tmp_path / "a.ckpt",
            weights_only=True,
        )
    # To score it, the expert is not needed.
    loaded = Wav2Lip.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True, expert="nowhere")
    trainer_for().test(loaded, fake_data(1))


def test_the_synchronization_reaches_the_generator_alone(
    small: Callable[..., Wav2Lip], batch_for: Callable[..., ClipBatch], expert: str
) -> None:
    model = small(sync_from=0)
    batch = batch_for(model.clip_spec, 0, training=True)
    model.register_frozen("expert", *weights.load(expert, Expert))
    fitted(model, batch_for(model.clip_spec, 1, training=True))
    terms, _ = model.generator_losses(batch)
    terms["sync"].backward()
    assert model.generator.to_rgb[-1].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.frozen["expert"].parameters())
    # Upper halves are nothing that the expert sees.
    faces = torch.rand(2, 5, 3, 12, 12, requires_grad=True)
    model.sync_loss(batch, faces, torch.arange(2), torch.tensor([2, 3])).backward()
    assert faces.grad is not None
    seen = faces.grad.abs().sum((0, 1, 2, 4))
    assert (seen[6:] > 0).all()
    assert (seen[:5] == 0).all()  # row 5 takes part in row 12 of 24, by interpolation


def test_clips_shorter_than_a_window_have_no_synchronization(
    small: Callable[..., Wav2Lip],
    batch_for: Callable[..., ClipBatch],
    monkeypatch: pytest.MonkeyPatch,
    expert: str,
) -> None:
    model = small(sync_from=0, identity="first")
    model.register_frozen("expert", *weights.load(expert, Expert))
    asked: list[tuple[list[int], list[int]]] = []
    original = model.sync_loss

    def watched(batch: ClipBatch, faces: Tensor, clip: Tensor, middle: Tensor) -> Tensor:
        assert faces.shape[1:] == (5, 3, 12, 12)
        asked.append((clip.tolist(), (middle - batch["frame"][clip, 0]).tolist()))
        return original(batch, faces, clip, middle)

    monkeypatch.setattr(model, "sync_loss", watched)
    some, _ = model.generator_losses(batch_for(model.clip_spec, 0, lengths=(3, 9, 4, 5), training=True))
    assert asked == [([1, 3], [2, 2])]
    assert some["sync"].isfinite()
    short = batch_for(model.clip_spec, 0, lengths=(3, 4), training=True)
    short["video"], short["frame"] = short["video"][:, :4], short["frame"][:, :4]  # as batches are padded
    assert set(model.generator_losses(short)[0]) == {"l1"}
    model._judged = torch.zeros(2)
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    model.eval()
    with torch.no_grad():
        model.validation_step(batch_for(model.clip_spec, 0, lengths=(3, 4)), 0)
        assert model._judged.tolist() == [0, 0]
        model.validation_step(batch_for(model.clip_spec, 0, lengths=(3, 11, 5)), 1)
    assert model._judged[1] == 3
    assert asked[-1] == ([1, 1, 2], [2, 7, 2])


def test_adversarial_losses_by_hand(small: Callable[..., Wav2Lip]) -> None:
    """Binary cross-entropy on lower halves alone."""
    model = small()
    sample = {"real": torch.rand(3, 3, 12, 12), "made": torch.rand(3, 3, 12, 12)}
    assert model.discriminator is not None
    real, made = (model.discriminator(sample[key][:, :, 6:]).sigmoid() for key in ("real", "made"))
    judge = model.adversaries["discriminator"]
    torch.testing.assert_close(judge.generator_losses(sample)["adversarial"], -made.log().mean())
    terms, balance = judge.losses(sample)
    torch.testing.assert_close(terms["discriminator_real"], -real.log().mean())
    torch.testing.assert_close(terms["discriminator_fake"], -(1 - made).log().mean())
    torch.testing.assert_close(balance, {"score_real": real.mean(), "score_made": made.mean()})


def test_says_how_to_get_an_expert(
    tmp_path: Path,
    small: Callable[..., Wav2Lip],
    fake_data: Callable[..., Any],
    trainer_for: Callable[..., pl.Trainer],
) -> None:
    with pytest.raises(ValueError, match=r"lipbench fit --model wav2lip_expert .* --model\.sync_weight 0"):
        trainer_for(max_steps=1).fit(small(expert=None), fake_data(1))
    with pytest.raises(FileNotFoundError, match=r"no expert at .*gone\.safetensors; .* fit --model wav2lip_expert"):
        trainer_for(max_steps=1).fit(small(expert=str(tmp_path / "gone.safetensors")), fake_data(1))


def test_audio_embeddings_are_what_faces_are_made_of(
    small: Callable[..., Wav2Lip], batch_for: Callable[..., ClipBatch]
) -> None:
    model = small()
    fitted(model, batch_for(model.clip_spec, 0, training=True))
    whole = batch_for(model.clip_spec, 0)
    heard: list[Tensor] = []
    model.generator.sound.register_forward_hook(lambda _, given, found: heard.append(found.flatten(1)))
    with torch.no_grad():
        model.run_generate(whole, "given")
        sound: Any = {key: value for key, value in whole.items() if key in ("audio", "audio_len", "fps", "n_frames")}
        found = model.audio_embeddings(sound)
    assert found.shape == (4, 9, 8)
    there = torch.arange(9) < whole["n_frames"][:, None]
    assert torch.equal(found[there], heard[0])
    assert heard[0].unique(dim=0).shape[0] > 20  # most frames have an embedding of their own
    assert not found[~there].any()
