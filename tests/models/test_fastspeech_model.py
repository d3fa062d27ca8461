"""FastSpeech: steps of the spectrogram against frames, exact lengths, speakers, durations, vocoders; no librosa."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from fake_data import FakeData, make_batch, make_vocoder
from test_models import SMALL

from lipbench.media import audio
from lipbench.media.speech_features import MelDefinition
from lipbench.models.fastspeech import FastSpeech
from lipbench.types import ClipBatch


def small(**options: Any) -> FastSpeech:
    torch.manual_seed(0)
    return FastSpeech(**(SMALL["fastspeech"] | options)).eval()


def test_parameters() -> None:
    """8 blocks of 2,885,888, two norms and a scale, the duration predictor, 30 tokens, and 256 to 80 mels."""
    with torch.device("meta"):
        total = sum(parameter.numel() for parameter in FastSpeech().parameters())
        assert total == 8 * 2_885_888 + 2 * 512 + 1 + 395_009 + 30 * 256 + 257 * 80
        assert sum(parameter.numel() for parameter in FastSpeech(speakers=33).parameters()) == total + 33 * 256


def test_it_speaks_and_sees_nothing() -> None:
    model = small()
    assert model.capabilities == {"audio"}
    assert model.clip_spec.frames == {}
    assert "speaker_id" in model.needs
    assert "speaker_id" not in small(speakers=0).needs


@pytest.mark.parametrize("fps", [25.0, 29.97, 30.0])
@pytest.mark.parametrize(("rate", "hop"), [(16_000, 160), (22_050, 256)])
def test_tokens_begin_in_the_spectrogram_where_they_begin_in_the_video(fps: float, rate: int, hop: int) -> None:
    model = small(rate=rate, hop=hop)
    seen: list[torch.Tensor] = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    draw = torch.Generator().manual_seed(1)
    durations = torch.randint(1, 9, (2, 40), generator=draw)
    text = torch.arange(80.0).reshape(2, 40, 1).expand(-1, -1, 16) + 1  # every vector names its token
    with torch.no_grad():
        mels, steps = model._mels(text, durations, torch.tensor([fps, fps]))
    expanded, there = seen
    assert mels.shape == (2, int(steps.max()), 80)
    assert torch.equal(there.sum(dim=1), steps)
    for row in range(2):
        owner = expanded[row, : int(steps[row]), 0] - 1 - 40 * row
        for token, first in enumerate((durations[row].cumsum(0) - durations[row]).tolist()):
            begins = int((owner == token).nonzero()[0])
            assert abs(begins * hop - first * rate / fps) < hop
        total = int(durations[row].sum())
        assert abs(int(steps[row]) * hop - total * rate / fps) < hop


@pytest.mark.parametrize("fps", [25.0, 29.97])
def test_audio_is_as_long_as_the_video(fps: float, tmp_path: Path) -> None:
    model = small(vocoder=make_vocoder(tmp_path))
    batch = make_batch(model.clip_spec, 3)
    batch["fps"] = torch.full_like(batch["fps"], fps)
    for timing in ("given", "speech", "length", "free"):
        with torch.no_grad():
            made = model.run_generate(batch, timing)  # type: ignore[arg-type]
        frames = made["durations"].sum(dim=1)
        assert timing == "free" or torch.equal(frames, batch["n_frames"])
        expected = [audio.frame_to_sample(n, 16_000, float(batch["fps"][0])) for n in frames.tolist()]
        assert made["audio_len"].tolist() == expected
        assert made["audio"].shape == (4, max(expected))
        assert made["sample_rate"] == 16_000
        after = torch.arange(max(expected)) >= made["audio_len"][:, None]
        assert made["audio"][after].abs().sum() == 0
        assert made["audio"].abs().sum(dim=1).min() > 0


def test_griffin_lim_is_the_default_and_gives_the_same_each_time() -> None:
    model = small()
    batch = make_batch(model.clip_spec, 3, (6, 9))
    with torch.no_grad():
        model.to_mels.weight.mul_(3)
        first, again = (model.run_generate(batch, "given") for _ in range(2))
    assert torch.equal(first["audio"], again["audio"])
    assert first["audio_len"].tolist() == [6 * 640, 9 * 640]
    assert 0 < first["audio"].abs().max() <= 1


def test_speakers_sound_different(tmp_path: Path) -> None:
    model = small(vocoder=make_vocoder(tmp_path))
    batch = make_batch(model.clip_spec, 3)

    def speak(*ids: int) -> torch.Tensor:
        with torch.no_grad():
            return model.run_generate({**batch, "speaker_id": torch.tensor(ids)}, "given")["audio"]

    first, second, unknown = speak(0, 0, 0, 0), speak(1, 1, 1, 1), speak(-1, -1, -1, -1)
    assert (first - second).abs().max() > 1e-4
    assert torch.equal(speak(0, 1, 0, 1)[0], first[0])
    assert torch.equal(speak(0, 1, 0, 1)[1], second[1])
    with torch.no_grad():
        assert model.speaker_embedding is not None
        model.speaker_embedding.weight.copy_(model.speaker_embedding.weight.mean(dim=0).expand(2, -1))
    torch.testing.assert_close(speak(0, 0, 0, 0), unknown, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"speaker_id 2 in a model of 2 speakers; .* 3 or more"):
        speak(0, 1, 2, 0)
    with pytest.raises(ValueError, match="speakers is -1; expected how many"):
        small(speakers=-1)


def test_predicted_durations_are_those_that_it_speaks_with(tmp_path: Path) -> None:
    model = small(vocoder=make_vocoder(tmp_path))
    batch = make_batch(model.clip_spec, 3)
    free: ClipBatch = {key: batch[key] for key in ("tokens", "token_len", "speaker_id")}  # type: ignore[misc]
    with torch.no_grad():
        model.duration_predictor.out.bias.fill_(1.2)  # about 2.3 frames
        found = model.predict_durations(free)
        assert torch.equal(found, model.run_generate(batch, "free")["durations"])
        fitted = model.predict_durations({**free, "n_frames": batch["n_frames"]})
        assert torch.equal(fitted, model.run_generate(batch, "length")["durations"])
    assert found.dtype == torch.int64
    assert found[batch["tokens"] == 0].sum() == 0
    assert found.sum() > 0
    assert torch.equal(fitted.sum(dim=1), batch["n_frames"])


def test_trains_without_librosa(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trainer_for: Callable[..., pl.Trainer]
) -> None:
    monkeypatch.setitem(sys.modules, "librosa", None)  # importing it fails
    model, trainer = small(), trainer_for(max_steps=2)
    trainer.fit(model.train(), FakeData(2))
    assert {"val/mel_l1", "val/duration_l1", "train/mel", "train/duration"} <= set(trainer.callback_metrics)
    with pytest.raises(ImportError, match="librosa"):
        model.run_generate(make_batch(model.clip_spec, 0), "given")


def test_the_loss_ends_where_the_clip_does(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    terms: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(model, "step_optimizer", lambda _, losses: terms.update(losses))
    batch = make_batch(model.clip_spec, 3)
    alone: list[float] = []
    with torch.no_grad():
        for row, count in enumerate(batch["token_len"].tolist()):
            one: dict[str, Any] = {key: value[row : row + 1] for key, value in batch.items()}
            one["tokens"], one["durations"] = one["tokens"][:, :count], one["durations"][:, :count]
            model.compute_step(one)  # type: ignore[arg-type]
            alone.append(float(terms["mel"]))
        batch["audio"] = batch["audio"] + (torch.arange(batch["audio"].shape[1]) >= batch["audio_len"][:, None])
        model.compute_step(batch)
    weights = batch["n_frames"] / batch["n_frames"].sum()
    assert float(terms["mel"]) == pytest.approx(float((torch.tensor(alone) * weights).sum()), abs=1e-4)


# ------------------------------------------------------------------------------------------------------------ vocoders


def test_a_vocoder_of_other_spectrograms_is_refused(tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    other = make_vocoder(tmp_path, rate=22_050, upsample_rates=(8, 8, 4), upsample_kernels=(16, 16, 8))
    message = (
        r"of spectrograms of 22,050 Hz, .* hop 256, 80 mels .*; this model makes those of 16,000 Hz, .* hop 160, .*"
        "--model.rate 22050 --model.fft 1024 --model.hop 256"
    )
    with pytest.raises(ValueError, match=message):
        trainer_for().test(small(vocoder=other), FakeData(1))
    fits = small(vocoder=other, rate=22_050, hop=256)
    assert fits.definition == MelDefinition(22_050, 1024, 1024, 256)
    with torch.no_grad():
        made = fits.run_generate(make_batch(fits.clip_spec, 0), "given")
    assert made["audio_len"].tolist() == [882 * n for n in (6, 9, 7, 8)]
    with pytest.raises(FileNotFoundError, match=r"no vocoder at .*; leave --model.vocoder out, or make it: lipbench w"):
        small(vocoder=str(tmp_path / "none.safetensors")).run_generate(make_batch(fits.clip_spec, 0), "given")


def test_a_checkpoint_is_not_bound_to_a_vocoder(tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    trainer = trainer_for(max_steps=1)
    trainer.fit(small(vocoder=make_vocoder(tmp_path)).train(), FakeData(1))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert torch.load(tmp_path / "model.ckpt", weights_only=True)["lipbench"]["frozen"] == {}
    loaded = FastSpeech.load_from_checkpoint(tmp_path / "model.ckpt", vocoder=None, weights_only=True)
    trainer_for().test(loaded, FakeData(1))
    assert loaded.frozen == {}


class Named(FakeData):
    """Knows its speakers."""

    speakers: ClassVar[list[str]] = ["s1", "s20"]


def test_names_of_speakers_stand_in_the_checkpoint(tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    trainer = trainer_for(max_steps=1, limit_val_batches=0)
    trainer.fit(FastSpeech(**SMALL["fastspeech"]), Named(1))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert FastSpeech.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True).speaker_names == ["s1", "s20"]
    with pytest.raises(ValueError, match=r"has 2 speakers, and the model 1 embeddings; give --model.speakers 2"):
        trainer_for(max_steps=1).fit(FastSpeech(**{**SMALL["fastspeech"], "speakers": 1}), Named(1))
