"""Lip to face: what the network sees, who is frozen, whose lips they are, and when things are said."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from fake_data import FakeData, make_batch, make_lips
from test_models import SMALL as SIZES
from torch import Tensor

from lipbench.media import geometry
from lipbench.models import lip2face
from lipbench.models.lip2face import LipToFace
from lipbench.models.lipgan import LipGAN
from lipbench.models.paralip import ParaLip
from lipbench.training import loading
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipBatch, View

SMALL = SIZES["lip2face"]


@pytest.fixture
def lips(tmp_path: Path) -> str:
    return make_lips(tmp_path)


@pytest.fixture
def model(lips: str) -> Callable[..., LipToFace]:
    def make(**options: Any) -> LipToFace:
        torch.manual_seed(0)
        return LipToFace(**(SMALL | {"lips": lips} | options))

    return make


def seen(model: LipToFace, batch: ClipBatch, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor, Tensor]:
    """A training step without its optimizer: the faces that the network sees, its text features, what it draws."""
    found: list[Tensor] = []
    hook = model.net.register_forward_hook(lambda _, given, made: found.extend((given[0], given[1], made[0])))
    monkeypatch.setattr(model, "step_optimizer", lambda *_: None)
    model.compute_step(batch)
    hook.remove()
    return found[0], found[1], found[2]


def test_sizes_and_settings() -> None:
    with torch.device("meta"):
        model = LipToFace()
    assert sum(p.numel() for p in model.parameters()) == 35_594_591
    assert (model.lr, model.decay_factor, model.masked, model.identity) == (1e-3, 0.1, "fixed", "random")
    assert model.clip_spec.frames == {"video": View("face", 128, 128)}
    assert model.clip_spec.identity_views == {"identity_lips": View("mouth", 64, 128)}
    assert model.timings == {"given", "speech", "length", "free"}
    assert LipToFace(**SMALL, masked="own").needs - LipToFace(**SMALL).needs == {"pose", "pose_len"}


def test_sees_lips_on_the_guide_and_the_target_without_its_lower_half(
    model: Callable[..., LipToFace], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = model(size=256, window=2)  # at the scale of the canonical picture, no pixel shows both
    batch = make_batch(own.clip_spec, 3, training=True)
    assert batch["identity_lips"].shape == (4, 1, 3, 8, 16)  # type: ignore[typeddict-item]
    batch["identity"] = batch["identity"].flip(-1)  # another guide than the target
    faces, _, made = seen(own, batch, monkeypatch)
    assert made.shape == (8, 3, 256, 256)
    guided, masked = faces.split(3, dim=1)  # (8, 3, 256, 256)
    generated, _ = own.make_lips(batch, "given")
    clip, frame = torch.arange(4).repeat_interleave(2), batch["frame"].flatten()
    mouths = geometry.resize(generated["video"][clip, frame], (80, 160))
    assert mouths.flatten(1).std(dim=1).min() > 0.01
    top, left, bottom, right = geometry.BOXES["mouth"]
    torch.testing.assert_close(guided[..., top:bottom, left:right], mouths)
    outside = torch.ones(256, 256, dtype=torch.bool)
    outside[top:bottom, left:right] = False
    assert torch.equal(guided[..., outside], batch["identity"][clip, 0][..., outside])
    assert masked[..., 128:, :].abs().max() == 0
    assert torch.equal(masked[..., :128, :], batch["video"].flatten(0, 1)[..., :128, :])
    assert not faces.requires_grad


def test_lips_stay_as_they_are(model: Callable[..., LipToFace], trainer_for: Callable[..., pl.Trainer]) -> None:
    own = model()
    before = {key: value.clone() for key, value in own.lip_generator().state_dict().items()}
    trainer_for(max_steps=3).fit(own, FakeData(3))
    after = own.lip_generator()
    assert all(torch.equal(value, before[key]) for key, value in after.state_dict().items())
    assert not any(part.training for part in after.modules())
    assert not any(p.requires_grad or p.grad is not None for p in after.parameters())
    assert not [key for key in own.state_dict() if not key.startswith("net.")]


def test_draws_in_training_what_it_draws_in_generation(
    model: Callable[..., LipToFace], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = model(masked="own", window=None).eval()
    batch = make_batch(own.clip_spec, 3)
    with torch.no_grad():
        _, _, made = seen(own, batch, monkeypatch)
        video = own.run_generate(batch, "given")["video"]
    valid = torch.arange(video.shape[1]) < batch["n_frames"][:, None]
    torch.testing.assert_close(made.clamp(0, 1), video[valid], rtol=0, atol=1e-6)


def test_a_window_shows_its_frames_and_their_text(
    model: Callable[..., LipToFace], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = model(window=3).eval()
    batch = make_batch(own.clip_spec, 3, training=True)
    assert batch["frame"][:, 0].max() > 0
    with torch.no_grad():
        _, text, _ = seen(own, batch, monkeypatch)
        for row in range(4):
            said = batch["tokens"][row].repeat_interleave(batch["durations"][row])  # (N,)
            whole = own.net.text_encoder(said[None], torch.tensor([len(said)]))[0]  # (N, H)
            torch.testing.assert_close(text[row], whole[batch["frame"][row]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("masked", ["fixed", "own"])
def test_what_targets_show_of_themselves(masked: str, model: Callable[..., LipToFace]) -> None:
    own = model(masked=masked).eval()
    batch = make_batch(own.clip_spec, 3)
    noise = torch.rand(batch["video"].shape, generator=torch.Generator().manual_seed(9))
    lower, upper = batch["video"].clone(), batch["video"].clone()
    lower[..., 8:, :], upper[..., :8, :] = noise[..., 8:, :], noise[..., :8, :]
    with torch.no_grad():
        true, other, above = (
            own.run_generate({**batch, "video": video}, "given")["video"] for video in (batch["video"], lower, upper)
        )
    assert torch.equal(true, other)
    assert torch.equal(true, above) == (masked == "fixed")


@pytest.mark.parametrize("masked", ["fixed", "own"])
def test_clips_in_parts_equal_whole_clips(
    masked: str, model: Callable[..., LipToFace], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = model(masked=masked).eval()
    batch = make_batch(own.clip_spec, 3)
    with torch.no_grad():
        whole = own.run_generate(batch, "free")["video"]
        monkeypatch.setattr(lip2face, "_FRAMES_AT_ONCE", 8)  # two frames of each clip
        parts = own.run_generate(batch, "free")["video"]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
    assert whole.std() > 0


# ------------------------------------------------------------------------------------------------ the lip generator


def test_without_lips_it_says_what_to_type(
    lips: str, tmp_path: Path, model: Callable[..., LipToFace], trainer_for: Callable[..., pl.Trainer]
) -> None:
    nobody, lost = model(lips=None), model(lips=str(tmp_path / "lost.ckpt"))
    told = "--model.lips names no lip generator. Train one.* lipbench fit --model paralip"
    with pytest.raises(ValueError, match=told):
        trainer_for(max_steps=1).fit(nobody, FakeData(1))
    with pytest.raises(ValueError, match=told):
        nobody.run_generate(make_batch(nobody.clip_spec, 1), "given")
    with pytest.raises(FileNotFoundError, match=r"no lip generator at .*lost.ckpt; --model.lips takes a checkpoint"):
        trainer_for(max_steps=1).fit(lost, FakeData(1))
    face, sha = LipGAN(**SIZES["lipgan"]), "0" * 64
    with pytest.raises(ValueError, match=r"LipGAN makes face 12x12 of audio, .*takes a model that makes .* 'mouth'"):
        nobody.use_lips(face, sha)
    assert "lips" not in nobody.frozen


def test_a_checkpoint_loads_without_lips_and_takes_others(
    lips: str, tmp_path: Path, model: Callable[..., LipToFace], trainer_for: Callable[..., pl.Trainer]
) -> None:
    trainer = trainer_for(max_steps=1)
    trainer.fit(model(), FakeData(1))
    trainer.save_checkpoint(tmp_path / "face.ckpt")
    away = Path(lips).rename(tmp_path / "moved.ckpt")
    loaded = loading.load(tmp_path / "face.ckpt", LipToFace)
    batch = make_batch(model(lips=str(away)).clip_spec, 1)
    with pytest.raises(FileNotFoundError, match="no lip generator at"):
        loaded.run_generate(batch, "given")
    with torch.no_grad():
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the same lips at another place are no news
            loaded.use_lips(*loading.load_frozen(away, ParaLip, "{path}"))
        first = loaded.run_generate(batch, "given")["video"]
        other, sha256 = loading.load_frozen(make_lips(tmp_path, seed=1), ParaLip, "{path}")
        with pytest.warns(UserWarning, match="its faces are made of other lips than it has learned from"):
            loaded.use_lips(other, sha256)
        second = loaded.run_generate(batch, "given")["video"]
    assert loaded.frozen_sha256 == {"lips": sha256}
    assert not torch.equal(first, second)


def test_other_lips_may_be_tested_and_not_trained_on(
    tmp_path: Path, model: Callable[..., LipToFace], trainer_for: Callable[..., pl.Trainer]
) -> None:
    trainer = trainer_for(max_steps=1)
    trainer.fit(model(), FakeData(2))
    path, other = tmp_path / "face.ckpt", make_lips(tmp_path, seed=1)
    trainer.save_checkpoint(path)
    with pytest.raises(ValueError, match=r"--model.lips has SHA-256 .* was trained with .* give that file"):
        trainer_for(max_steps=2).fit(model(lips=other), FakeData(2), ckpt_path=path, weights_only=True)
    tested = model(lips=other)
    with pytest.warns(UserWarning, match="its faces are made of other lips than it has learned from"):
        trainer_for().test(tested, FakeData(2), ckpt_path=path, weights_only=True)
    assert tested.frozen_sha256 == {"lips": loading.load_frozen(other, ParaLip, "{path}")[1]}


class NotGiven(ParaLip):
    """Lips whose durations are never given."""

    timings = frozenset({"length", "free"})


class Free(ParaLip):
    timings = frozenset({"free"})


def lips_of(kind: type[ParaLip], path: str) -> ParaLip:
    """The lip generator of a checkpoint as another class."""
    stored = loading.load(Path(path), ParaLip)
    made = kind(**{key: value for key, value in stored.hparams.items() if not key.startswith("_")})
    made.load_state_dict(stored.state_dict())
    torch.nn.init.constant_(made.duration_predictor.out.bias, 1.0)
    return made


def test_predicted_durations_drive_lips_and_face(
    lips: str, model: Callable[..., LipToFace], trainer_for: Callable[..., pl.Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, generator, timings = model(lips=None), lips_of(NotGiven, lips), []
    generate = generator.run_generate
    monkeypatch.setattr(generator, "run_generate", lambda batch, way: timings.append(way) or generate(batch, way))
    own.use_lips(generator, "0" * 64)
    assert own.timings == {"length", "free"}
    trainer_for(max_steps=1, limit_val_batches=0).fit(own, FakeData(1))
    assert timings == ["length"]
    own.eval()
    batch = make_batch(own.clip_spec, 1)
    with torch.no_grad():
        made = own.run_generate(batch, "free")
        mouths = generate({**batch, "identity": batch["identity_lips"]}, "free")  # type: ignore[typeddict-item]
    assert torch.equal(made["durations"], mouths["durations"])
    assert torch.equal(made["video_len"], mouths["video_len"])
    assert not torch.equal(made["video_len"], batch["n_frames"])


def test_lips_of_another_length_or_without_durations_are_refused(
    lips: str, model: Callable[..., LipToFace], trainer_for: Callable[..., pl.Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = model(lips=None)
    own.use_lips(lips_of(Free, lips), "0" * 64)
    with pytest.raises(ValueError, match=r"Free has the timings \['free'\]; to train on its lips"):
        trainer_for(max_steps=1).fit(own, FakeData(1))

    own = model().eval()
    batch, generator = make_batch(own.clip_spec, 1), own.lip_generator()
    generate: Callable[..., Any] = generator.generate
    assert isinstance(generator, GenerativeModel)

    def lacking(batch: ClipBatch, timing: str) -> Any:
        return {key: value for key, value in generate(batch, timing).items() if key != "durations"}

    monkeypatch.setattr(generator, "generate", lacking)
    with torch.no_grad():
        made = own.run_generate(batch, "given")
        assert torch.equal(made["durations"], batch["durations"])
        with pytest.raises(ValueError, match="ParaLip gives no durations for the timing 'length'"):
            own.run_generate(batch, "length")
    shorter = {"durations": batch["durations"] - (batch["durations"] > 0).long()}
    monkeypatch.setattr(generator, "generate", lambda batch, timing: generate(batch, timing) | shorter)
    with pytest.raises(ValueError, match=r"clips of \[6, 9, 7, 8\] frames; expected as many as its durations say"):
        own.run_generate(batch, "given")
