"""Training a SyncNet: the loss, the windows of a batch, and a tiny one that learns to tell a shift."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lipbench.media import features
from lipbench.models.syncnet import SyncNet, matching_loss, sync_accuracy
from lipbench.nets import syncnet
from lipbench.pretrained.networks import load_syncnet
from lipbench.types import ClipBatch, ClipSpec

TINY: dict[str, Any] = {
    "network": "small",
    "size": (8, 8),
    "video_widths": (16, 16),
    "audio_widths": (16, 16, 16, 16, 32),
    "hidden": 32,
    "width": 16,
    "window": 21,
    "lr": 3e-3,
    "weight_decay": 0.0,
}


def talk(spec: ClipSpec, seed: int, clips: int = 8, frames: int = 40, training: bool = True) -> ClipBatch:
    """Faces whose brightness is the loudness of their sound: noise that changes its level at every frame."""
    draw = torch.Generator().manual_seed(seed)
    level = torch.rand(clips, frames, generator=draw)
    samples = frames * 640
    audio = torch.randn(clips, samples, generator=draw) * 0.2 * 10 ** (1.5 * level.repeat_interleave(640, 1) - 1.5)
    window = spec.window if training and spec.window else frames
    start = torch.randint(frames - window + 1, (clips, 1), generator=draw)
    frame = start + torch.arange(window)
    shown = level.gather(1, frame)[:, :, None, None, None].expand(-1, -1, 3, *spec.frames["video"].size)
    return {
        "index": torch.arange(clips),
        "video": shown + 0.05 * torch.randn(shown.shape, generator=draw),
        "video_len": torch.full((clips,), window),
        "frame": frame,
        "n_frames": torch.full((clips,), frames),
        "fps": torch.full((clips,), 25.0),
        "audio": audio,
        "audio_len": torch.full((clips,), samples),
        "speech": torch.tensor([[0, frames]] * clips),
    }


class Talks(pl.LightningDataModule):
    """Made-up clips; validation sees others than training."""

    def __init__(self, batches: int, silent: bool = False) -> None:
        super().__init__()
        self.batches, self.silent = batches, silent

    def _loader(self, first: int, count: int, training: bool) -> DataLoader[Any]:
        module = self.trainer.lightning_module  # type: ignore[union-attr]
        made = [talk(module.clip_spec, first + k, training=training) for k in range(count)]
        if self.silent:
            made = [{**batch, "speech": batch["speech"] * 0} for batch in made]
        return DataLoader(made, batch_size=None)  # type: ignore[arg-type]  # a list will do

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(0, self.batches, True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(1000, 2, False)


def test_a_tiny_one_learns_to_tell_a_shift(trainer_for: Callable[..., pl.Trainer], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SyncNet(**TINY)
    trainer = trainer_for(max_epochs=6)
    data = Talks(20)
    trainer.validate(model, data, verbose=False)
    before = trainer.callback_metrics["val/sync_accuracy"].item()
    assert 0.3 < before < 0.7  # chance is 0.5
    trainer.fit(model, data)
    metrics = {key: value.item() for key, value in trainer.callback_metrics.items()}
    assert metrics["val/sync_accuracy"] > 0.9
    assert metrics["val/offset_right"] == 1.0
    assert metrics["val/matching"] < math.log(16 * 36) - 1  # chance is the log of the candidates

    card = model.save_observer(tmp_path / "judge.safetensors", "made-up data, 120 batches, seed 0")
    judge, sha256 = load_syncnet(tmp_path / "judge.safetensors")
    assert sha256 == card.sha256
    batch = talk(model.clip_spec, 5000, clips=4, training=False)
    late = batch["audio"].roll(3 * 640, 1)  # the sound comes 3 frames after its pictures
    from lipbench.metrics.lse import lse  # a test may look across layers: the metric reads what the model has learned

    for audio, offset in ((batch["audio"], 0), (late, -3)):
        for video, samples in zip(batch["video"], audio, strict=True):
            with torch.no_grad():
                pair = syncnet.embed_clip(judge, video, syncnet.embed_sound(judge, samples), len(samples))[None]
            found = lse(pair[:, :, 0], pair[:, :, 1], torch.tensor([pair.shape[1]]), padding="mask")
            assert found.offset.item() == offset


def test_both_networks_can_be_trained() -> None:
    published, small = SyncNet(), SyncNet(network="small")
    assert sum(p.numel() for p in published.parameters()) == 13_631_616
    assert sum(p.numel() for p in small.parameters()) <= 2_000_000
    assert str(published.clip_spec.frames["video"]) == "syncnet 224x224"
    assert str(small.clip_spec.frames["video"]) == "mouth 40x80"
    for model in (published, small):
        assert model.clip_spec.audio_rate == features.RATE
        assert model.clip_spec.sampling == "consecutive"
        assert "audio" in model.clip_spec.keys


def test_windows_of_a_batch_are_those_of_the_clip() -> None:
    """Drawn windows give the embeddings that the whole clip has there, and only whole, spoken ones are valid."""
    torch.manual_seed(0)
    model = SyncNet(**TINY).eval()
    whole, drawn = (talk(model.clip_spec, 3, training=training) for training in (False, True))
    whole["video"].copy_(torch.rand(whole["video"].shape))
    drawn["video"] = torch.stack([v[f] for v, f in zip(whole["video"], drawn["frame"], strict=True)])
    drawn["audio"] = whole["audio"]
    with torch.no_grad():
        video, audio, valid = model.embed(whole)
        video_drawn, audio_drawn, _ = model.embed(drawn)
    assert video.shape == audio.shape == (8, 36, 16)
    for row, start in enumerate(drawn["frame"][:, 0].tolist()):
        torch.testing.assert_close(video_drawn[row], video[row, start : start + 17], rtol=0, atol=1e-5)
        last = min(start + 17, 35)  # of the sound, window 35 lacks its last step
        torch.testing.assert_close(audio_drawn[row, : last - start], audio[row, start:last], rtol=0, atol=1e-5)
    assert valid.sum(1).tolist() == [35] * 8  # 40 - 5, as published

    whole["speech"][0] = torch.tensor([10, 20])
    whole["video_len"][1] = 30
    whole["audio_len"][2] = 20 * 640
    valid = model.embed(whole)[2]
    assert valid[0].nonzero().flatten().tolist() == list(range(6, 20))  # windows that touch frames 10 to 19
    assert valid[1].sum() == 26
    assert valid[2].sum() == 15


def test_matching_loss() -> None:
    """By hand: one clip of 4 windows on a line, near = 2."""
    video = torch.arange(4.0)[None, :, None]
    audio, valid = video + 0.5, torch.ones(1, 4, dtype=torch.bool)
    candidates = [[0, 2, 3], [1, 3], [0, 2], [0, 1, 3]]  # itself, and those two or more away
    rows = [math.log(sum(math.exp(-abs(j + 0.5 - i)) for j in js)) + 0.5 for i, js in enumerate(candidates)]
    columns = [math.log(sum(math.exp(-abs(j + 0.5 - i)) for i in js)) + 0.5 for j, js in enumerate(candidates)]
    expected = (sum(rows) + sum(columns)) / 8
    assert matching_loss(video, audio, valid, 2).item() == pytest.approx(expected, abs=1e-5)
    far = torch.cat([video, video + 100]), torch.cat([audio, audio + 100])  # another clip, told apart at once
    assert matching_loss(*far, valid.expand(2, 4), 2).item() == pytest.approx(expected, abs=1e-5)
    none = matching_loss(video.requires_grad_(), audio, ~valid, 2)
    none.backward()
    assert none.item() == 0
    assert video.grad.abs().sum() == 0


def test_told_apart_by_hand() -> None:
    video = torch.arange(30.0)[None, :, None]  # windows on a line, a unit apart
    valid = torch.ones(1, 30, dtype=torch.bool)

    def found(audio: torch.Tensor, where: torch.Tensor = valid) -> tuple[float, float]:
        told, right = sync_accuracy(video, audio, where, 3)
        return told.item(), right.item()

    assert found(video) == (1, 1)
    assert found(video + 1) == (1, 1)  # a frame late is still nearer than 3 frames, and within a frame
    assert found(video * 0)[0] == 0  # all sound is equally near: nothing is told apart
    # 5 frames late: the sound of 3 to 10 frames before is as near or nearer, that of 11 to 15 or any after is not.
    pairs = {shift: 30 - abs(shift) for shift in (*range(-15, -2), *range(3, 16))}
    worse = sum(count for shift, count in pairs.items() if shift > 0 or shift < -10)
    assert found(video + 5) == (pytest.approx(worse / sum(pairs.values())), 0)
    assert all(math.isnan(value) for value in found(video, ~valid))


def test_wrong_arguments_and_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="near is 3 and window 7"):
        SyncNet(**TINY | {"window": 7})
    model = SyncNet(**TINY)
    batch = talk(model.clip_spec, 0)
    batch["fps"][0] = 29.97
    with pytest.raises(ValueError, match="25 frames a second"):
        model.embed(batch)
    batch = talk(model.clip_spec, 0)
    batch["video"] = batch["video"][:, :4]
    with pytest.raises(ValueError, match="at least 5 frames, found 4"):
        model.embed(batch)


def test_a_batch_of_silence_changes_nothing_and_breaks_nothing(trainer_for: Callable[..., pl.Trainer]) -> None:
    torch.manual_seed(0)
    model = SyncNet(**TINY)
    before = [p.clone() for p in model.parameters()]
    trainer_for(max_epochs=1).fit(model, Talks(2, silent=True))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9, "schedule": "cosine"}], ids=["plain", "ema"])
def test_a_checkpoint_comes_back(
    options: dict[str, Any], trainer_for: Callable[..., pl.Trainer], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    best = ModelCheckpoint(tmp_path, "best", monitor=SyncNet.monitor[0], mode=SyncNet.monitor[1])
    trainer = trainer_for(max_epochs=1, callbacks=[best], enable_checkpointing=True)
    trainer.fit(SyncNet(**TINY, **options), Talks(3))
    loaded = SyncNet.load_from_checkpoint(tmp_path / "best.ckpt", weights_only=True)
    assert loaded.batches == 3
    fitted = trainer.lightning_module.state_dict()
    assert all(torch.equal(value, fitted[key]) for key, value in loaded.state_dict().items())
    trainer_for().validate(loaded, Talks(1), verbose=False)


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    model = SyncNet(**TINY)
    matching_loss(*model.embed(talk(model.clip_spec, 0)), model.near).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []
