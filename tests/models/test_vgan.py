"""What is special about VGAN: its noise, the identity image, a discriminator as its only teacher."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from lipbench.models.vgan import VGAN
from lipbench.types import ClipBatch, View

SMALL: dict[str, Any] = {
    "size": 16,
    "width": 4,
    "audio_widths": (4, 4, 4, 4),
    "discriminator_width": 4,
    "discriminator_audio_widths": (4, 4, 4, 4),
}
LENGTHS = (14, 18, 26, 16)  # 1, 2, 3 and 1 windows


def small(**options: Any) -> VGAN:
    torch.manual_seed(0)
    return VGAN(**(SMALL | options))


def inputs_of(model: VGAN) -> list[tuple[Tensor, ...]]:
    """Identity, audio and noise of every later call of the generator."""
    seen: list[tuple[Tensor, ...]] = []
    model.generator.register_forward_pre_hook(lambda _, given: seen.append(given))
    return seen


def test_published_sizes_and_settings() -> None:
    with torch.device("meta"):
        model, published = VGAN(), VGAN(identity=False)
    assert sum(p.numel() for p in published.generator.parameters()) == 35_938_343
    assert sum(p.numel() for p in published.discriminator.parameters()) == 40_797_537
    assert sum(p.numel() for p in model.generator.parameters()) == 47_084_967
    assert (model.lr, model.discriminator_lr, model.betas) == (2e-4, 2e-4, (0.5, 0.999))
    assert (model.clip_spec.frames, model.clip_spec.window) == ({"video": View("mouth_square", 64, 64)}, 16)
    assert (model.clip_spec.identity, model.clip_spec.references) == ("random", 1)


@pytest.mark.parametrize("identity", [True, False])
def test_the_identity_image_counts_only_where_it_is_asked_for(
    identity: bool, batch_for: Callable[..., ClipBatch]
) -> None:
    model = small(identity=identity).eval()
    batch = batch_for(model.clip_spec, 0, LENGTHS)
    with torch.no_grad():
        before = model.run_generate(batch, "given")["video"]
        other = model.run_generate({**batch, "identity": batch["identity"].flip(0)}, "given")["video"]
        assert torch.equal(before, other) == (not identity)
        unheard = model.run_generate({**batch, "audio": batch["audio"].flip(0)}, "given")["video"]
        assert not torch.equal(before, unheard)


def test_noise_is_fixed_in_generation(batch_for: Callable[..., ClipBatch]) -> None:
    model = small().eval()
    batch, seen = batch_for(model.clip_spec, 0, LENGTHS), inputs_of(model)
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            made.append(model.run_generate(batch, "given")["video"])
    assert torch.equal(*made)
    noise = torch.cat([given[2] for given in seen])
    assert noise.shape == (2 * 7, 100)
    assert (noise == model.noise).all()
    assert (noise.std() - 1).abs() < 0.2
    torch.manual_seed(3)
    assert torch.equal(VGAN(**SMALL).noise, model.noise)  # another run's model has the same
    assert torch.equal(model.state_dict()["noise"], model.noise)
    model.noise.neg_()
    with torch.no_grad():
        assert not torch.equal(model.run_generate(batch, "given")["video"], made[0])


def test_noise_is_drawn_in_training(batch_for: Callable[..., ClipBatch]) -> None:
    model = small()
    batch, seen = batch_for(model.clip_spec, 0, LENGTHS, training=True), inputs_of(model)
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        model.generator_losses(batch)
    first, second, again = (given[2] for given in seen)
    assert first.shape == (4, 100)
    assert not (first == second).any()
    assert torch.pdist(first).min() > 0
    assert torch.equal(first, again)
    both = torch.cat([first, second])
    assert both.mean().abs() < 0.1
    assert (both.std() - 1).abs() < 0.1


def test_training_and_generation_make_the_same(batch_for: Callable[..., ClipBatch], monkeypatch: Any) -> None:
    """In eval mode and with the same noise, the training path equals clips of one window that were generated."""
    model = small().eval()
    batch = batch_for(model.clip_spec, 0, (16, 16))
    monkeypatch.setattr(torch, "randn", lambda *size, **_: model.noise.expand(*size))
    with torch.no_grad():
        terms, sample = model.generator_losses(batch)
        made = model.run_generate(batch, "given")["video"]
    assert terms == {}
    torch.testing.assert_close((sample["made"] + 1) / 2, made, rtol=0, atol=1e-5)
    torch.testing.assert_close((sample["real"] + 1) / 2, batch["video"], rtol=0, atol=1e-6)


def test_losses_are_those_of_the_published_code(batch_for: Callable[..., ClipBatch]) -> None:
    model = small().eval()  # in training the statistics of BatchNorm would change between two calls
    batch = batch_for(model.clip_spec, 0, LENGTHS, training=True)
    with torch.no_grad():
        _, sample = model.generator_losses(batch)
        adversary = model.adversaries["discriminator"]
        terms, _ = adversary.losses(sample)
        fooling = adversary.generator_losses(sample)
        real, made, audio = sample["real"], sample["made"], sample["audio"]
        ones, zeros = torch.ones(4), torch.zeros(4)

        def bce(video: Tensor, heard: Tensor, target: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(model.discriminator(video, heard), target)

        expected = {
            "discriminator_real": bce(real, audio, ones),
            "discriminator_fake": 0.5 * bce(made, audio, zeros),
            "discriminator_mismatched": 0.5 * bce(real, audio[[3, 0, 1, 2]], zeros),
        }
        torch.testing.assert_close(terms, expected)
        torch.testing.assert_close(fooling, {"adversarial": bce(made, audio, ones)})
    assert model.loss_weights.get("adversarial", 1.0) == 1


def test_the_discriminator_learns_what_is_generated_and_not_what_matches(
    monkeypatch: pytest.MonkeyPatch, fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    """Its logits are a sum over video and audio, as published: real and mismatched pairs look alike to it."""
    model = small(lr=0.0, discriminator_lr=3e-3)
    history: dict[str, list[float]] = {}
    original = model.step_optimizer

    def watched(optimizer: str, terms: dict[str, Tensor]) -> dict[str, float]:
        for key, value in terms.items():
            history.setdefault(key, []).append(value.item())
        return original(optimizer, terms)

    monkeypatch.setattr(model, "step_optimizer", watched)
    trainer_for(max_epochs=40, overfit_batches=1, limit_val_batches=0).fit(model, fake_data(1, LENGTHS))
    last = {key: sum(values[-5:]) / 5 for key, values in history.items()}
    assert last["discriminator_fake"] < 0.1 * history["discriminator_fake"][0]
    # The lowest that two real pairs to one mismatched pair of the same looks allow.
    assert last["discriminator_real"] == pytest.approx(-math.log(2 / 3), abs=0.05)
    assert last["discriminator_mismatched"] == pytest.approx(-0.5 * math.log(1 / 3), abs=0.05)

    with torch.no_grad():
        video, audio = torch.rand(2, 16, 3, 16, 16), 60 + 10 * torch.randn(2, 64, 32)
        net = model.discriminator.double().eval()
        matched, exchanged = net(video.double(), audio.double()), net(video.double(), audio.double().flip(0))
    assert not torch.equal(matched, exchanged)
    torch.testing.assert_close(matched.sum(), exchanged.sum(), rtol=1e-4, atol=1e-5)


def test_refusals(batch_for: Callable[..., ClipBatch]) -> None:
    model = small()
    with pytest.raises(ValueError, match=r"this batch holds one; expected --data\.batch_size 2 or more"):
        model.generator_losses(batch_for(model.clip_spec, 0, (16,), training=True))
    with pytest.raises(ValueError, match=r"--model\.adversarial_from is 5, expected 0"):
        small(adversarial_from=5)
