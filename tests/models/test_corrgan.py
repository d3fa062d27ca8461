"""The correlation GAN: its configurations, losses and windows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from fake_data import FakeData, make_autoencoder, make_batch, make_flow
from test_models import SMALL as SIZES

from lipbench import losses
from lipbench.models.corrgan import CorrGAN, MatchingAdversary
from lipbench.training.speech_to_clip import starts
from lipbench.types import ClipBatch, View

SMALL = SIZES["corrgan"] | {"pixel_weight": 0.5, "lr": 2e-4}  # weight and rate as published
LENGTHS = (18, 30, 6)
TABLE2: dict[str, dict[str, Any]] = {
    "a": {"adversarial_weight": 0.0},
    "b": {"pixel_weight": 0.0},
    "c": {"perceptual_weight": 0.0},
    "d": {"correlation_weight": 0.0},
    "e": {},
    "f": {"correlation": "features", "correlation_widths": (2, 4, 4, 4)},
    "g": {"motion": "none"},
    "h": {"motion": "none", "correlation_weight": 0.0},
    "i": {"motion": "difference"},
}


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., CorrGAN]:
    files = {"autoencoder": make_autoencoder(tmp_path), "flow": make_flow(tmp_path)}

    def make(**options: Any) -> CorrGAN:
        torch.manual_seed(0)
        return CorrGAN(**(SMALL | files | options))

    return make


def training_batch(model: CorrGAN, seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> ClipBatch:
    return make_batch(model.clip_spec, seed, lengths, training=True)


def test_published_sizes_and_settings() -> None:
    with torch.device("meta"):
        model = CorrGAN()
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts == {
        "generator": 16_695_267,
        "audio_motion": 392_400,
        "video_motion": 25_500,
        "flow_network": 38_676_496,
        "discriminator": 54_278_881,
    }
    assert model.clip_spec.frames == {"video": View("mouth_square", 64, 64)}
    assert (model.clip_spec.window, model.clip_spec.audio_rate, model.clip_spec.identity) == (16, 44_100, "random")
    assert model.loss_weights == {"l1": 0.5, "perceptual": 1.0, "correlation": 1.0, "adversarial": 1.0}
    generator, discriminator = model.build_optimizers().values()
    assert [(g["lr"], g["betas"], g["weight_decay"]) for g in generator.param_groups] == [
        (2e-4, (0.5, 0.999), 0.0),
        (1e-4, (0.9, 0.999), 5e-4),
        (1e-4, (0.9, 0.999), 5e-4),
        (1e-4, (0.9, 0.999), 4e-4),
    ]
    assert (discriminator.defaults["lr"], discriminator.defaults["betas"]) == (2e-4, (0.5, 0.999))
    with torch.device("meta"):
        decayed = CorrGAN(weight_decay=4e-4)
    assert [g["weight_decay"] for o in decayed.build_optimizers().values() for g in o.param_groups][::4] == [4e-4, 4e-4]


@pytest.mark.parametrize("letter", TABLE2)
def test_every_configuration_of_table_2_trains_with_its_networks_alone(
    letter: str, small: Callable[..., CorrGAN], trainer_for: Callable[..., pl.Trainer]
) -> None:
    model = small(**TABLE2[letter])
    before = {key: value.clone() for key, value in model.named_parameters()}
    trainer = trainer_for(max_steps=2, limit_val_batches=0)
    trainer.fit(model, FakeData(2, LENGTHS))
    assert {name for name, _ in model.named_children()} == {
        "generator",
        *(() if letter in "dh" else ("audio_motion", "video_motion")),
        *(() if letter == "h" else ("flow_network",)),
        *(() if letter == "a" else ("discriminator",)),
    }
    changed = [key for key, value in model.named_parameters() if not torch.equal(before[key], value)]
    assert len(changed) > 0.9 * len(before)
    logged = {name.removeprefix("train/") for name in trainer.callback_metrics}
    terms = {"l1": "b", "perceptual": "c", "correlation": "dh", "adversarial": "a"}
    for term, without in terms.items():
        assert (term in logged) == (letter not in without)
    assert ("autoencoder" in model.frozen) == (letter != "c")


def test_the_correlation_follows_the_generated_video_or_both(small: Callable[..., CorrGAN]) -> None:
    paper, code = small(), small(correlation_of="both")
    code.load_state_dict(paper.state_dict())
    batch = training_batch(paper)
    found = []
    for model in (paper, code):
        model.loss_weights["perceptual"] = 0.0
        terms, sample = model.eval().generator_losses(batch)
        video, audio = model.training_windows(batch)
        heard = model.generator(2 * batch["identity"][:, 0] - 1, audio)[1]
        each = {side: model.correlation_loss(heard, sample[f"{side}_flow"]) for side in ("real", "made")}
        found.append((terms["correlation"], each))
        assert torch.equal(sample["real"], 2 * video - 1)
    (of_made, each), (of_both, _) = found
    assert torch.equal(of_made, each["made"])
    torch.testing.assert_close(of_both, (each["real"] + each["made"]) / 2)
    assert not torch.equal(of_made, of_both)


def test_mismatched_pairs_exchange_the_audio_or_the_video(small: Callable[..., CorrGAN]) -> None:
    model = small().eval()
    net = model.discriminator
    assert net is not None
    draw = torch.Generator().manual_seed(0)
    sample = {
        "real": torch.rand(3, 16, 3, 16, 16, generator=draw),
        "made": torch.rand(3, 16, 3, 16, 16, generator=draw),
        "audio": torch.randn(3, 64, 32, generator=draw),
        "real_flow": torch.randn(3, 15, 2, 4, 4, generator=draw),
        "made_flow": torch.randn(3, 15, 2, 4, 4, generator=draw),
    }
    order = [2, 0, 1]
    with torch.no_grad():
        real = net(sample["real"], sample["audio"], sample["real_flow"])
        made = net(sample["made"], sample["audio"], sample["made_flow"])
        other = {
            "audio": net(sample["real"], sample["audio"][order], sample["real_flow"]),
            "video": net(sample["real"][order], sample["audio"], sample["real_flow"][order]),
        }
        for exchanged in ("audio", "video"):
            terms, _ = MatchingAdversary(net, exchanged).losses(sample)  # type: ignore[arg-type]
            expected = losses.matching_discriminator(real, made, other[exchanged])
            assert {key.removeprefix("discriminator_") for key in terms} == set(expected)
            for key, value in expected.items():
                torch.testing.assert_close(terms[f"discriminator_{key}"], value)
    assert not torch.allclose(other["audio"], other["video"])


def test_needs_its_files_to_train_and_not_to_resume(
    small: Callable[..., CorrGAN], tmp_path: Path, trainer_for: Callable[..., pl.Trainer]
) -> None:
    for option, model in (("autoencoder", "clip_autoencoder"), ("flow", "flownet")):
        with pytest.raises(ValueError, match=f"--model.{option} names no file.*--model {model}"):
            trainer_for(max_steps=1).fit(small(**{option: None}), FakeData(1, LENGTHS))
        with pytest.raises(FileNotFoundError, match=rf"--model\.{option} takes"):
            trainer_for(max_steps=1).fit(small(**{option: str(tmp_path / "gone")}), FakeData(1, LENGTHS))
    trainer = trainer_for(max_steps=1)
    trainer.fit(small(), FakeData(2, LENGTHS))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = small(flow=str(tmp_path / "gone"))
    trainer_for(max_steps=2).fit(again, FakeData(2, LENGTHS), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    assert again.batches == 2


def test_flow_starts_from_its_file_and_goes_on(
    small: Callable[..., CorrGAN], trainer_for: Callable[..., pl.Trainer]
) -> None:
    from lipbench.nets.flownet import FlowNetS
    from lipbench.pretrained import weights

    model = small()
    stored, _ = weights.load(Path(model.flow or ""), FlowNetS)
    seen: list[dict[str, torch.Tensor]] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            seen.append({key: value.clone() for key, value in model.flow_network.state_dict().items()})  # type: ignore[union-attr]

    trainer_for(max_steps=2, limit_val_batches=0, callbacks=[Watch()]).fit(model, FakeData(2, LENGTHS))
    assert all(torch.equal(value, seen[0][key]) for key, value in stored.state_dict().items())
    assert any(not torch.equal(value, seen[1][key]) for key, value in seen[0].items())


def test_windows_cover_a_clip_and_end_with_it() -> None:
    assert starts(30) == [0, 8, 14]
    assert starts(32) == [0, 8, 16]
    assert starts(16) == starts(5) == [0]
    assert starts(17) == [0, 1]
    assert starts(75) == [0, 8, 16, 24, 32, 40, 48, 56, 59]
    assert starts(0) == []


def test_overlapping_windows_are_averaged_with_falling_weights(small: Callable[..., CorrGAN]) -> None:
    model = small().eval()
    batch = make_batch(model.clip_spec, 1, (30,))
    numbers = iter(torch.tensor([0.0, 1.0, 0.5]))

    def make(identity: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        assert audio.shape == (3, 64, 32)
        return torch.stack([next(numbers).expand(16, 3, 16, 16) for _ in identity])

    model.make = make  # type: ignore[method-assign]
    video = model.run_generate(batch, "given")["video"][0, :, 0, 0, 0]  # windows from 0, 8 and 14
    assert video[:8].tolist() == [0.0] * 8
    torch.testing.assert_close(video[8:14], (torch.arange(6) + 0.5) / 8)  # the second window rises
    assert bool((video[14:16].diff() > 0).all())
    assert video[24:].tolist() == [0.5] * 6


def test_a_window_hears_its_own_frames(small: Callable[..., CorrGAN]) -> None:
    """A change of the audio in frame 40 changes the frames of the windows that hold it, and no other."""
    model = small().eval()
    batch = make_batch(model.clip_spec, 1, (75,))
    with torch.no_grad():
        before = model.run_generate(batch, "given")["video"]
        batch["audio"][:, 1764 * 40 : 1764 * 41] = 0.9
        after = model.run_generate(batch, "given")["video"]
    changed = (before != after).flatten(2).any(dim=2)[0].nonzero().flatten()
    assert changed.min() >= 32  # windows from 32 and 40 hold frame 40
    assert changed.max() <= 55
    assert 40 in changed.tolist()


def test_a_short_clip_repeats_its_last_frame(small: Callable[..., CorrGAN]) -> None:
    model = small()
    batch = training_batch(model, lengths=(6, 20))
    video, audio = model.training_windows(batch)
    assert video.shape == (2, 16, 3, 16, 16)
    assert audio.shape == (2, 64, 32)
    assert torch.equal(video[0, :6], batch["video"][0, :6])
    assert torch.equal(video[0, 6:], video[0, 5:6].expand(10, -1, -1, -1))
    assert torch.equal(audio[0, 24:].view(10, 4, 32), audio[0, 20:24].expand(10, -1, -1))


def test_validation_compares_matched_and_mismatched_audio(
    small: Callable[..., CorrGAN], trainer_for: Callable[..., pl.Trainer]
) -> None:
    trainer = trainer_for(max_steps=1)
    trainer.fit(small(), FakeData(1, LENGTHS))
    matched, mismatched = (trainer.callback_metrics[f"val/correlation{end}"] for end in ("", "_mismatched"))
    assert 0 <= matched <= 2
    assert matched != mismatched


def test_dubbing_a_long_sound_onto_a_still_has_no_seam(small: Callable[..., CorrGAN]) -> None:
    """20 seconds in a piece; frames change at the borders of windows as they do elsewhere."""
    from lipbench.generation import talking

    model = small(perceptual_weight=0.0)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
                part.momentum = 1.0
        model.generator_losses(training_batch(model))  # statistics that leave no map dead
        model.eval()
    total = 500
    draw = torch.Generator().manual_seed(3)
    samples = (torch.rand(total * 1764, generator=draw) - 0.5).numpy()
    identity = torch.rand(3, 16, 16, generator=draw)
    who: Any = {"identity": identity[None, None]}
    speech = talking.from_sound(model, who, samples, 44_100, total, lambda *_: None)
    still = identity.expand(total, -1, -1, -1)
    ((_, made),) = talking.in_pieces(speech, [(None, still)], lambda: [still])
    assert made.shape == (total, 3, 16, 16)
    change = made.diff(dim=0).abs().mean(dim=(1, 2, 3))  # (499,)
    border = torch.arange(1, total) % 8 == 0  # where a window begins and another one ends
    assert change[border].mean() < 1.1 * change[~border].mean()
    assert change.min() > 0
