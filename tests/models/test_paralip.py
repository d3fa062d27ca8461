from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lipbench.models.paralip import ParaLip
from lipbench.types import ClipBatch

SMALL: dict[str, Any] = {
    "size": (12, 24),
    "hidden": 16,
    "layers": 1,
    "ffn": 24,
    "encoder_widths": (6, 8),
    "decoder_widths": (8, 8, 6, 6),
    "window": 5,
}


def test_published_parameter_counts() -> None:
    model = ParaLip(adversarial_weight=0.1)
    assert model.discriminator is not None
    of_discriminator = sum(p.numel() for p in model.discriminator.parameters())
    assert of_discriminator == 14_113_793
    assert sum(p.numel() for p in model.parameters()) - of_discriminator == 35_137_201


def test_losses_follow_the_arguments(batch_for: Callable[..., ClipBatch]) -> None:
    def terms(**options: Any) -> dict[str, float]:
        torch.manual_seed(0)
        model = ParaLip(**SMALL, **options)
        losses, sample = model.generator_losses(batch_for(model.clip_spec, 0, training=True))
        assert sample["made"].shape == sample["real"].shape == (4 * 5, 3, 12, 24)
        return {key: value.item() for key, value in losses.items()}

    assert set(terms()) == {"l1", "duration", "duration_sentence", "ssim"}
    assert set(terms(ssim_weight=0.0)) == {"l1", "duration", "duration_sentence"}
    weights = ParaLip(**SMALL, ssim_weight=0.3, duration_weight=0.2, sentence_weight=0.1).loss_weights
    assert weights == {"ssim": 0.3, "duration": 0.2, "duration_sentence": 0.1, "adversarial": 0.0}


def test_duration_loss_does_not_reach_the_encoder(batch_for: Callable[..., ClipBatch]) -> None:
    model = ParaLip(**SMALL)
    losses, _ = model.generator_losses(batch_for(model.clip_spec, 0, training=True))
    (losses["duration"] + losses["duration_sentence"]).backward()
    assert all(p.grad is None for p in model.text_encoder.parameters())
    assert all(p.grad is not None for p in model.duration_predictor.parameters())


def test_frames_drawn_are_the_frames_of_the_clip(batch_for: Callable[..., ClipBatch]) -> None:
    """In eval mode, the training path on scattered frames equals those frames of the whole clip generated."""
    model = ParaLip(**SMALL).eval()
    batch = batch_for(model.clip_spec, 0, training=True)
    with torch.no_grad():
        _, sample = model.generator_losses(batch)
        made = model.generate(batch, "given")
    drawn = sample["made"].clamp(0, 1).view(4, 5, 3, 12, 24)
    for row in range(4):
        torch.testing.assert_close(drawn[row], made["video"][row, batch["frame"][row]], rtol=0, atol=1e-5)


def test_padding_is_kept_from_batch_norm(batch_for: Callable[..., ClipBatch]) -> None:
    def statistics(lengths: tuple[int, ...], window: int | None) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = ParaLip(**(SMALL | {"window": window, "dropout": 0.0}))
        batch = batch_for(model.clip_spec, 0, lengths=lengths, training=True)
        if window is None:  # more padding than the clips need
            for key in ("video", "frame"):
                value = batch[key]
                batch[key] = torch.cat([value, value.new_full((len(value), 7, *value.shape[2:]), 0)], dim=1)
        model.generator_losses(batch)
        return [value for key, value in model.named_buffers() if "running" in key]

    exact = statistics((6, 9, 7, 8), 9)
    padded = statistics((6, 9, 7, 8), None)
    for one, other in zip(exact, padded, strict=True):
        torch.testing.assert_close(one, other)


def test_timings_choose_the_durations(batch_for: Callable[..., ClipBatch]) -> None:
    torch.manual_seed(0)
    model = ParaLip(**SMALL).eval()
    torch.nn.init.constant_(model.duration_predictor.out.bias, 1.0)
    batch = batch_for(model.clip_spec, 0)
    with torch.no_grad():
        made = {timing: model.run_generate(batch, timing) for timing in ("given", "length", "free")}  # type: ignore[arg-type]
    assert torch.equal(made["given"]["durations"], batch["durations"])
    assert torch.equal(made["length"]["durations"].sum(dim=1), batch["n_frames"])
    assert not torch.equal(made["length"]["durations"], batch["durations"])
    assert torch.equal(made["free"]["durations"].sum(dim=1), made["free"]["video_len"])
    assert not torch.equal(made["free"]["video_len"], batch["n_frames"])


@pytest.mark.parametrize("references", [1, 3])
def test_the_identity_frame_matters(references: int, batch_for: Callable[..., ClipBatch]) -> None:
    torch.manual_seed(0)
    model = ParaLip(**SMALL).eval()
    batch = batch_for(model.clip_spec, 0)
    batch["identity"] = batch["identity"].repeat(1, references, 1, 1, 1)
    with torch.no_grad():
        before = model.run_generate(batch, "given")["video"]
        batch["identity"] = 1 - batch["identity"]
        after = model.run_generate(batch, "given")["video"]
    assert (before - after).abs().max() > 1e-3


class Watched(pl.Callback):
    """Weights of the discriminator and the learning rates after every batch."""

    def __init__(self) -> None:
        self.weights: list[float] = []
        self.rates: list[list[float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        assert isinstance(pl_module, ParaLip)
        assert pl_module.discriminator is not None
        self.weights.append(float(sum(p.detach().sum() for p in pl_module.discriminator.parameters())))
        self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])


def test_the_adversarial_stage_begins_at_a_batch_and_its_rate_stays(
    fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    seen = Watched()
    model = ParaLip(
        **SMALL, adversarial_weight=0.1, adversarial_from=2, discriminator_width=2, schedule="cosine", lr=1e-3
    )
    trainer = trainer_for(max_steps=4, callbacks=[seen], limit_val_batches=0)
    trainer.fit(model, fake_data(4))
    assert seen.weights[0] == seen.weights[1] != seen.weights[2] != seen.weights[3]
    assert [rates[1] for rates in seen.rates] == [1e-4] * 4  # published; the generator's falls
    assert seen.rates[0][0] > seen.rates[2][0]
    assert {"train/adversarial", "train/discriminator_real"} <= set(trainer.logged_metrics)


def test_an_adversarial_stage_needs_its_loss() -> None:
    with pytest.raises(ValueError, match="adversarial_from needs an adversarial_weight above 0"):
        ParaLip(**SMALL, adversarial_from=2)
