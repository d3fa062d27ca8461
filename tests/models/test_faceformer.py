"""FaceFormer: what is trained, where its speech encoder comes from, and which sound its frames hear."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from fake_data import LENGTHS, FakeData, make_batch, make_speech
from test_models import SMALL
from torch.nn import functional as F

from lipbench.media import features, geometry
from lipbench.models import faceformer
from lipbench.models.faceformer import FaceFormer
from lipbench.pretrained.networks import load_wav2vec2
from lipbench.types import ClipBatch

MEL: dict[str, Any] = {
    **{key: value for key, value in SMALL["faceformer"].items() if not key.startswith("speech")},
    **{"front_end": "mel", "audio_widths": (4, 4, 6, 8), "audio_residuals": (0, 0, 0, 1)},
}


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., FaceFormer]:
    """With the front end "wav2vec2" and its weights file, or with "mel"."""

    def make(front_end: str = "wav2vec2", **options: Any) -> FaceFormer:
        torch.manual_seed(0)
        if front_end == "mel":
            return FaceFormer(**(MEL | options))
        return FaceFormer(**(SMALL["faceformer"] | {"speech": make_speech(tmp_path)} | options))

    return make


def fitted(model: FaceFormer) -> FaceFormer:
    """In eval mode, with BatchNorm statistics that leave no map dead."""
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        model.generator_losses(make_batch(model.clip_spec, 0, training=True))
    return model.eval()


def generated(model: FaceFormer, batch: ClipBatch, timing: Any = "given") -> torch.Tensor:
    with torch.no_grad():
        return model.run_generate(batch, timing)["video"]


def test_defaults_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = FaceFormer()
    assert sum(p.numel() for p in model.parameters()) == 94_371_712 + 37_558_835
    (optimizer,) = model.build_optimizers().values()
    (group,) = optimizer.param_groups
    assert sum(p.numel() for p in group["params"]) == 90_171_264 + 37_558_835  # the convolutions are frozen
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.999), 0.0)
    assert (model.clip_spec.window, model.clip_spec.audio_rate, model.clip_spec.references) == (None, 16_000, 1)
    assert (model.discriminator_lr, model.adversaries, model.context) == (1e-4, {}, None)
    with torch.device("meta"):
        assert sum(p.numel() for p in FaceFormer(front_end="mel").parameters()) == 37_427_763 + 2_812_672


def test_the_loss_is_the_squared_error_of_pixels(small: Callable[..., FaceFormer]) -> None:
    model = fitted(small())
    batch = make_batch(model.clip_spec, 3, training=True)
    terms, sample = model.generator_losses(batch)
    assert sample == {}
    assert batch["video"].shape[1] == 5  # the window
    whole = {**batch, "pose": geometry.without_lower_half(batch["video"]), "pose_len": batch["video_len"]}
    drawn = torch.ones(len(LENGTHS), 5, dtype=torch.bool)
    encoded = model.whole_speech(batch, batch["n_frames"])
    assert encoded is not None
    assert encoded.shape == (len(LENGTHS), max(LENGTHS), 2, 16)
    heard = torch.stack([of[place] for of, place in zip(encoded, batch["frame"], strict=True)])  # of the whole audio
    identity = batch["identity"].expand(-1, 5, -1, -1, -1).flatten(0, 1)
    start = model.generator.sequence.begin(batch["frame"][:, 0])
    assert start.frame.max() > 0
    made, _ = model.generator(identity, whole["pose"].flatten(0, 1), drawn, heard, start)
    torch.testing.assert_close(terms, {"mse": F.mse_loss(made, batch["video"].flatten(0, 1))})


def test_says_how_to_get_the_weights(
    tmp_path: Path, small: Callable[..., FaceFormer], trainer_for: Callable[..., pl.Trainer]
) -> None:
    with pytest.raises(ValueError, match=r"names no weights.*weights fetch wav2vec2.*--model\.front_end mel"):
        trainer_for(max_steps=1).fit(small(speech=None), FakeData(1))
    with pytest.raises(FileNotFoundError, match=r"no wav2vec 2\.0 weights at .*gone\.bin; --model\.speech takes"):
        trainer_for(max_steps=1).fit(small(speech=str(tmp_path / "gone.bin")), FakeData(1))
    with pytest.raises(ValueError, match=r"holds a wav2vec2\.Wav2Vec2 of other sizes than this model's: \S+ differs$"):
        trainer_for(max_steps=1).fit(small(speech_layers=1), FakeData(1))
    with pytest.raises(ValueError, match=r"--model\.front_end mel does not use"):
        small("mel", speech="model.safetensors")


def test_starts_from_the_file_and_keeps_its_convolutions(
    tmp_path: Path, small: Callable[..., FaceFormer], trainer_for: Callable[..., pl.Trainer]
) -> None:
    model = small()
    assert model.speech is not None
    network, sha256 = load_wav2vec2(model.speech)
    stored = network.state_dict()
    torch.manual_seed(1)
    trainer = trainer_for(max_steps=2, limit_val_batches=0)
    trainer.fit(model, FakeData(4))
    trained = {key for key, value in model.speech_encoder.state_dict().items() if not torch.equal(value, stored[key])}
    kept = stored.keys() - trained
    assert {key for key in stored if key.startswith("feature_extractor")} <= kept
    assert len(trained) > 0.8 * sum(not key.startswith("feature_extractor") for key in stored)
    assert all((value - stored[key]).abs().max() < 0.1 for key, value in model.speech_encoder.state_dict().items())
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    assert torch.load(tmp_path / "two.ckpt", weights_only=True)["lipbench"]["started"] == {"speech": sha256}
    Path(model.speech).unlink()  # it is part of the checkpoint
    again = FaceFormer(**(SMALL["faceformer"] | {"speech": model.speech}))
    trainer_for(max_steps=3).fit(again, FakeData(4), ckpt_path=tmp_path / "two.ckpt", weights_only=True)
    assert again.batches == 3
    batch = make_batch(model.clip_spec, 7)
    loaded = FaceFormer.load_from_checkpoint(tmp_path / "two.ckpt", weights_only=True)
    assert torch.equal(generated(loaded.eval(), batch), generated(model.eval(), batch))


def test_the_mel_front_end_learns_and_all_of_it_is_trained(
    small: Callable[..., FaceFormer], trainer_for: Callable[..., pl.Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small("mel")
    history: list[float] = []
    without: set[str] = set()
    original = model.step_optimizer

    def watched(optimizer: str, terms: dict[str, torch.Tensor]) -> dict[str, float]:
        history.append(terms["mse"].item())
        values = original(optimizer, terms)
        grads = {key: parameter.grad for key, parameter in model.named_parameters()}
        without.update(key for key, grad in grads.items() if grad is None or grad.abs().sum() == 0)
        return values

    monkeypatch.setattr(model, "step_optimizer", watched)
    trainer_for(max_epochs=30, overfit_batches=1, limit_val_batches=0).fit(model, FakeData(1))
    assert sum(history[-5:]) < 0.5 * sum(history[:5])
    assert without == set()


@pytest.mark.parametrize("front_end", ["wav2vec2", "mel"])
def test_frames_in_pieces_are_those_made_at_once(
    front_end: str, small: Callable[..., FaceFormer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fitted(small(front_end))
    batch = make_batch(model.clip_spec, 5)
    whole = generated(model, batch)
    assert whole.std(dim=1).max() > 1e-4
    monkeypatch.setattr(faceformer, "_FRAMES_AT_ONCE", 2 * len(LENGTHS))  # two frames of each clip, then the next two
    torch.testing.assert_close(generated(model, batch), whole, rtol=0, atol=1e-6)
    assert torch.equal(generated(model, batch, "free"), generated(model, batch))  # as long as the audio


def test_wav2vec_hears_the_whole_audio_and_mel_what_is_around(small: Callable[..., FaceFormer]) -> None:
    for front_end in ("wav2vec2", "mel"):
        model = fitted(small(front_end))
        batch = make_batch(model.clip_spec, 5, (20, 20))
        before = generated(model, batch)
        batch["audio"][0, -640:] += 0.3  # the last of 20 frames
        change = (generated(model, batch) - before).abs().flatten(2).amax(dim=2)  # (2, 20)
        assert change[1].max() == 0
        assert change[0, -1] > 1e-6
        assert (change[0, :10].max() > 0) == (front_end == "wav2vec2")


def test_audio_after_the_last_frame_moves_no_feature(small: Callable[..., FaceFormer]) -> None:
    model = fitted(small())
    batch = make_batch(model.clip_spec, 5)
    before = generated(model, batch)
    longest = LENGTHS.index(max(LENGTHS))
    longer: ClipBatch = {**batch, "audio": F.pad(batch["audio"], (0, 3000), value=0.2)}
    assert torch.equal(generated(model, longer)[longest], before[longest])
    shorter: ClipBatch = {**batch, "audio": batch["audio"][:, :4000]}  # silence takes the place of what is missing
    silent: ClipBatch = {**batch, "audio": batch["audio"] * (torch.arange(batch["audio"].shape[1]) < 4000)}
    assert torch.equal(generated(model, shorter), generated(model, silent))


def test_mel_windows_lie_around_half_frames_of_the_frames_own(
    small: Callable[..., FaceFormer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small("mel").eval()
    batch = make_batch(model.clip_spec, 5, training=True)
    there = torch.ones(len(LENGTHS), 5, dtype=torch.bool)
    there[2, 3:] = False
    seen: list[torch.Tensor] = []
    original = features.mel_windows
    monkeypatch.setattr(features, "mel_windows", lambda *given: seen.extend(given[2:5]) or original(*given))
    with torch.no_grad():
        heard = model.aligned_speech(batch, None, batch["frame"], there)
    clip, half, rate = seen
    assert heard.shape == (len(LENGTHS), 5, 2, 8)
    assert heard[2, 3:].abs().sum() == 0
    assert torch.equal(rate, 2 * batch["fps"])
    assert torch.equal(clip[::2], there.nonzero()[:, 0])
    assert torch.equal(half[::2], 2 * batch["frame"][there])
    assert torch.equal(half[1::2], half[::2] + 1)


def test_poses_that_run_out_start_again(small: Callable[..., FaceFormer]) -> None:
    model = fitted(small("mel"))
    batch = make_batch(model.clip_spec, 5)
    batch["pose"] = geometry.without_lower_half(batch["video"])[:, :3]
    batch["pose_len"] = torch.full((len(LENGTHS),), 3)
    turned: ClipBatch = {**batch, "pose": batch["pose"].repeat(1, 3, 1, 1, 1), "pose_len": torch.full((4,), 9)}
    assert torch.equal(generated(model, batch), generated(model, turned))
