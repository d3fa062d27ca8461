"""ATVGnet in its two stages: the basis of landmarks, losses by hand, what generation hears and remembers, its files."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from fake_data import FakeData, make_batch, make_landmark_stage
from test_models import SMALL

from lipbench.media import features
from lipbench.models import atvgnet
from lipbench.models.atvgnet import ATVGnet, landmark_error
from lipbench.models.atvgnet_landmarks import ATVGnetLandmarks
from lipbench.nets.atvgnet import AudioToLandmarks, LandmarkDiscriminator, in_pixels, normalize
from lipbench.nets.convolutions import initialize_he
from lipbench.pretrained import weights
from lipbench.types import ClipBatch, View

TINY: dict[str, Any] = {"width": 4, "hidden": 32, "layers": 1, "lr": 5e-3}


def stage_one(**options: Any) -> ATVGnetLandmarks:
    torch.manual_seed(0)
    return ATVGnetLandmarks(**(TINY | options))


def stage_two(landmarks: str | None = None, **options: Any) -> ATVGnet:
    torch.manual_seed(0)
    return ATVGnet(**(SMALL["atvgnet"] | {"landmarks": landmarks} | options))


def with_landmarks(folder: Path, **options: Any) -> ATVGnet:
    """A model whose landmark stage is there and whose generator shows how landmarks move."""
    path = make_landmark_stage(folder)
    model = stage_two(path, size=32, **options)  # at 16, landmarks pass a single unit, which may be dead
    model.landmark_stage.load_state_dict(weights.load(path, AudioToLandmarks)[0].state_dict())
    initialize_he(model.generator)
    model.generator.gru.reset_parameters()
    return model.eval()


def test_published_sizes_and_settings() -> None:
    with torch.device("meta"):
        first, second = ATVGnetLandmarks(), ATVGnet()
    assert sum(p.numel() for p in first.parameters()) == 30_071_750
    assert sum(p.numel() for p in second.generator_parameters()) == 58_355_781
    assert first.lr == second.lr == second.discriminator_lr == 2e-4
    assert first.betas == second.betas == (0.5, 0.999)
    assert first.window == second.window == 16
    assert second.loss_weights == {"pixel": 10, "adversarial": 1, "adversarial_landmarks": 1}
    assert second.clip_spec.frames == {"video": View("face", 128, 128)}
    assert second.clip_spec.sampling == first.clip_spec.sampling == "consecutive"
    assert not any(p.requires_grad for p in second.landmark_stage.parameters())


# ------------------------------------------------------------------------------------------------ audio to landmarks


class Watch(pl.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.losses.append(trainer.callback_metrics["train/mse"].item())


def test_learns_landmarks_and_is_better_than_a_still_face(
    trainer_for: Callable[..., pl.Trainer], tmp_path: Path
) -> None:
    model, watch = stage_one(schedule="cosine"), Watch()  # so that BatchNorm's statistics catch up with the weights
    trainer = trainer_for(max_epochs=100, callbacks=[watch], check_val_every_n_epoch=100)
    trainer.fit(model, FakeData(1))
    assert watch.losses[-1] < 0.3 * watch.losses[0]
    logged = {key: value.item() for key, value in trainer.callback_metrics.items()}
    assert logged["val/mouth_error_still"] > 0.5  # px
    assert logged["val/mouth_error"] < 0.8 * logged["val/mouth_error_still"]
    assert logged["val/landmark_error"] == pytest.approx(
        20 / 68 * logged["val/mouth_error"], rel=0.01
    )  # no other moves
    trainer.test(model, FakeData(1))
    assert trainer.callback_metrics["test/mouth_error"].item() == pytest.approx(logged["val/mouth_error"])

    card = model.save_observer(tmp_path / "landmarks.safetensors", "one made-up batch")
    assert card.architecture == "atvgnet.AudioToLandmarks"
    net, again = weights.load(tmp_path / "landmarks.safetensors", AudioToLandmarks)
    assert again == card
    assert torch.equal(net.basis, model.net.basis)
    assert torch.equal(net.mean, model.net.mean)
    second = stage_two(str(tmp_path / "landmarks.safetensors"), audio_width=4, audio_hidden=32)
    trainer_for(max_steps=1).fit(second, FakeData(1))
    assert torch.equal(second.landmark_stage.basis, model.net.basis)


def test_the_basis_is_fitted_once(trainer_for: Callable[..., pl.Trainer], tmp_path: Path) -> None:
    class Counts(FakeData):
        asked = 0

        def training_landmarks(self) -> Any:
            self.asked += 1
            return super().training_landmarks()

    model, data = stage_one(ema_decay=0.9), Counts(2)
    trainer = trainer_for(max_steps=2)
    trainer.fit(model, data)
    assert data.asked == 1
    reference = stage_one().net
    reference.fit_basis(normalize(clip) for clip in FakeData().training_landmarks())
    assert torch.equal(model.net.basis, reference.basis)
    assert model.net.basis.abs().sum() > 0
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    stored = torch.load(tmp_path / "first.ckpt", weights_only=True)
    for part in ("state_dict", "current_model_state"):
        assert torch.equal(stored[part]["net.basis"], reference.basis)
    resumed, warm = stage_one(ema_decay=0.9), stage_one(init_from=str(tmp_path / "first.ckpt"))
    trainer_for(max_steps=4).fit(resumed, data, ckpt_path=tmp_path / "first.ckpt", weights_only=True)
    trainer_for(max_steps=1).fit(warm, data)
    assert data.asked == 1
    assert torch.equal(resumed.net.basis, reference.basis)
    assert torch.equal(warm.net.basis, reference.basis)


def test_other_data_modules_are_refused(trainer_for: Callable[..., pl.Trainer]) -> None:
    class Without(FakeData):
        def __getattribute__(self, name: str) -> Any:
            if name == "training_landmarks":
                raise AttributeError(name)
            return super().__getattribute__(name)

    with pytest.raises(ValueError, match=r"expected a datamodule with `training_landmarks`.*found Without"):
        trainer_for(max_steps=1).fit(stage_one(), Without(1))


def test_padding_takes_no_part_in_the_loss_or_the_errors(
    trainer_for: Callable[..., pl.Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stage_one()
    model.net.fit_basis(normalize(clip) for clip in FakeData().training_landmarks())
    batch = make_batch(model.clip_spec, 3)
    found: list[float] = []
    monkeypatch.setattr(model, "step_optimizer", lambda _, terms: found.append(terms["mse"].item()))
    monkeypatch.setattr(model, "log_dict", lambda values, **_: found.extend(value.item() for value in values.values()))
    model.eval()
    for value in (0.0, 1e4):
        padded = torch.arange(batch["landmarks"].shape[1]) >= batch["video_len"][:, None]
        batch["landmarks"][padded] = value
        with torch.no_grad():
            model.compute_step(batch)
            model.validation_step(batch, 0)
    assert found[:5] == found[5:]
    assert min(found) > 0


# ------------------------------------------------------------------------------------------------ landmarks to frames


def test_pixel_loss_by_hand(tmp_path: Path) -> None:
    model = with_landmarks(tmp_path)
    batch = make_batch(model.clip_spec, 3)
    terms, sample = model.generator_losses(batch)
    row, last = 0, int(batch["video_len"][0]) - 1
    assert last + 1 < batch["video"].shape[1]
    for side in ("real", "landmarks"):  # a short clip's last frame is repeated
        assert torch.equal(sample[side][row, last:], sample[side][row, last].expand_as(sample[side][row, last:]))
    torch.testing.assert_close((sample["real"][1] + 1) / 2, batch["video"][1])
    torch.testing.assert_close(in_pixels(sample["landmarks"][1]), batch["landmarks"][1], rtol=0, atol=1e-3)
    still = normalize(batch["identity_landmarks"][:, 0])
    made = model.generator(2 * batch["identity"][:, 0] - 1, sample["landmarks"], still)
    assert torch.equal(sample["identity_landmarks"], still)
    expected = ((made.video - sample["real"]).abs() * (made.attention + 0.5)).mean()
    torch.testing.assert_close(terms["pixel"], expected)
    assert set(terms) == {"pixel"}
    # Attention weighs the loss and gets no gradient for that: where frames are right, it would fall otherwise.
    model.generator.color.weight.data.zero_()
    model.generator.color.bias.data.zero_()
    batch["identity"].fill_(0.5)
    batch["video"].zero_()
    batch["landmarks"][:] = batch["landmarks"][:, :1]
    terms, _ = model.generator_losses(batch)
    attention_bias = torch.autograd.grad(terms["pixel"], model.generator.attention.bias)[0]
    assert attention_bias.abs().sum() == 0  # color and identity are both 0 there: the mixture does not depend on it


def test_landmark_error_by_hand() -> None:
    true = torch.zeros(1, 1, 68, 2)
    for point, axis, factor in ((0, 1, 1), (47, 1, 1), (48, 0, 1), (48, 1, 100), (67, 1, 100)):
        seen = true.clone()
        seen[0, 0, point, axis] = 0.5
        assert landmark_error(seen, true).item() == pytest.approx((0.5 * factor) ** 2 / 136)


def test_losses_of_the_discriminator_by_hand() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, video: torch.Tensor, identity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            real = video.mean(dim=(1, 2, 3, 4)) > 0  # (B,)
            return torch.where(real, 1.5, -0.5), identity[:, None].expand(-1, 2, -1, -1) + real[:, None, None, None]

    adversary = atvgnet.LandmarkAdversary(Fixed())  # type: ignore[arg-type]
    known = torch.rand(3, 68, 2)
    sample = {
        "real": torch.ones(3, 2, 3, 4, 4),
        "made": -torch.ones(3, 2, 3, 4, 4),
        "landmarks": known[:, None].expand(-1, 2, -1, -1),
        "identity_landmarks": known,
    }
    terms, balance = adversary.losses(sample)
    assert {key: value.item() for key, value in terms.items()} == pytest.approx(
        {
            "discriminator_real": math.log1p(math.exp(-1.5)),
            "discriminator_fake": math.log1p(math.exp(-0.5)),
            "discriminator_landmarks_real": (116 + 20 * 100**2) / 136,
            "discriminator_landmarks_fake": 0,
        }
    )
    assert balance["score_real"].item() == pytest.approx(1 / (1 + math.exp(-1.5)))
    fooling = adversary.generator_losses(sample)
    assert fooling["adversarial"].item() == pytest.approx(math.log1p(math.exp(0.5)))
    assert fooling["adversarial_landmarks"].item() == 0


def test_trains_without_a_discriminator(trainer_for: Callable[..., pl.Trainer], tmp_path: Path) -> None:
    model = stage_two(make_landmark_stage(tmp_path), adversarial_weight=0)
    assert model.discriminator is None
    trainer = trainer_for(max_steps=2)
    trainer.fit(model, FakeData(2))
    assert not [key for key in trainer.callback_metrics if "adversarial" in key or "discriminator" in key]


def test_the_landmark_stage_is_part_of_the_checkpoint_and_stays_as_it_is(
    trainer_for: Callable[..., pl.Trainer], tmp_path: Path
) -> None:
    path = Path(make_landmark_stage(tmp_path))
    stored = weights.load(path, AudioToLandmarks)[0].state_dict()
    model = stage_two(str(path), ema_decay=0.5)
    trainer = trainer_for(max_steps=3)
    trainer.fit(model, FakeData(3))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    path.unlink()
    loaded = ATVGnet.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    for key, value in loaded.landmark_stage.state_dict().items():
        assert torch.equal(value, stored[key]), key
    trainer_for().test(loaded, FakeData(1))  # without the file
    trainer_for(max_steps=4).fit(loaded, FakeData(3), ckpt_path=tmp_path / "model.ckpt", weights_only=True)
    warm = stage_two(init_from=str(tmp_path / "model.ckpt"))
    trainer_for(max_steps=1).fit(warm, FakeData(1))
    assert all(torch.equal(value, stored[key]) for key, value in warm.landmark_stage.state_dict().items())


def test_the_landmark_stage_is_asked_for(trainer_for: Callable[..., pl.Trainer], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--model\.landmarks names no file.*fit --model atvgnet_landmarks"):
        trainer_for(max_steps=1).fit(stage_two(), FakeData(1))
    with pytest.raises(FileNotFoundError, match=r"no landmark stage at .*gone\.safetensors; --model\.landmarks takes"):
        trainer_for(max_steps=1).fit(stage_two(str(tmp_path / "gone.safetensors")), FakeData(1))
    with pytest.raises(ValueError, match=r"holds a atvgnet\.AudioToLandmarks of other sizes .*'hidden': 4"):
        trainer_for(max_steps=1).fit(stage_two(make_landmark_stage(tmp_path), audio_hidden=8), FakeData(1))


def silence_after(batch: ClipBatch, frame: int) -> ClipBatch:
    other = {**batch, "audio": batch["audio"].clone()}
    other["audio"][:, 640 * frame :] = 0
    return other  # type: ignore[return-value]


def test_frames_follow_the_audio_around_them_and_before(tmp_path: Path) -> None:
    model = with_landmarks(tmp_path)
    batch = make_batch(model.clip_spec, 3, lengths=(14, 12))
    with torch.no_grad():
        video = model.run_generate(batch, "given")["video"]
        changed = (model.run_generate(silence_after(batch, 8), "given")["video"] - video).abs().amax((2, 3, 4)) > 0
    # A window reaches three frames on, and its last step 240 samples more.
    assert not changed[:, :4].any()
    assert changed[0, 5:].all()
    assert changed[1, 5:12].all()


def test_frames_start_from_the_identity(tmp_path: Path) -> None:
    model = with_landmarks(tmp_path)
    batch = make_batch(model.clip_spec, 3)
    seen: list[tuple[torch.Tensor, ...]] = []
    model.generator.register_forward_pre_hook(lambda _, given: seen.append(given))
    with torch.no_grad():
        model.run_generate(batch, "given")
    identity, points, still, state = seen[0]
    assert state is None
    assert torch.equal(identity, 2 * batch["identity"][:, 0] - 1)
    torch.testing.assert_close(in_pixels(still), batch["identity_landmarks"][:, 0], rtol=0, atol=1e-3)
    stage = model.landmark_stage
    change = points - still[:, None]  # what the components do not describe stays as it is in the identity
    left = change - (stage.coefficients(change + stage.mean) @ stage.basis.flatten(1)).unflatten(2, (68, 2))
    assert change.abs().max() > 0.01
    torch.testing.assert_close(left, torch.zeros_like(left), rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_pieces_are_the_whole(precision: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_landmarks(tmp_path)
    batch = make_batch(model.clip_spec, 3)
    lengths: list[int] = []
    model.generator.register_forward_pre_hook(lambda _, given: lengths.append(given[1].shape[1]))
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
        whole = model.run_generate(batch, "given")["video"]
        monkeypatch.setattr(atvgnet, "_FRAMES_AT_ONCE", 8)
        pieces = model.run_generate(batch, "given")["video"]
    assert lengths == [9, 2, 2, 2, 2, 1]
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5 if precision == torch.float32 else 0.02)
    assert (whole[1, 1:] - whole[1, :-1]).abs().amax() > 1e-4


def test_as_long_as_the_audio(tmp_path: Path) -> None:
    model = with_landmarks(tmp_path)
    batch = make_batch(model.clip_spec, 3)
    batch["audio_len"] = torch.tensor([1, 2, 3, 4]) * 640 + 100
    with torch.no_grad():
        made = model.run_generate(batch, "free")
    assert made["video_len"].tolist() == [1, 2, 3, 4]
    assert made["video"].shape[:2] == (4, 4)
    assert model.clip_spec.audio_rate == features.RATE


def test_discriminator_and_generator_take_their_own_steps(
    trainer_for: Callable[..., pl.Trainer], tmp_path: Path
) -> None:
    model = stage_two(make_landmark_stage(tmp_path), lr=0.0, discriminator_lr=1e-3)
    before = {key: value.clone() for key, value in model.named_parameters()}
    trainer_for(max_steps=2).fit(model, FakeData(2))
    moved = {key.partition(".")[0] for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert isinstance(model.discriminator, LandmarkDiscriminator)
    assert moved == {"discriminator", "landmark_stage"}  # the latter from its file
