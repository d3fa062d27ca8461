"""Training the autoencoder of clips: its windows, what it logs, its weights file."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from fake_data import FakeData, make_batch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lipbench.console import next_steps
from lipbench.models.clip_autoencoder import ClipAutoencoding, cut_windows
from lipbench.nets.clip_autoencoder import ClipAutoencoder
from lipbench.pretrained import weights
from lipbench.types import ClipBatch, View

TINY: dict[str, Any] = {"size": 16, "width": 4, "blocks": 1, "lr": 5e-3}


def tiny(**options: Any) -> ClipAutoencoding:
    torch.manual_seed(0)
    return ClipAutoencoding(**(TINY | options))


def test_published_size_and_settings() -> None:
    with torch.device("meta"):
        model = ClipAutoencoding()
    assert sum(p.numel() for p in model.parameters()) == 23_584_643
    assert model.clip_spec.frames == {"video": View("mouth_square", 64, 64)}
    assert (model.clip_spec.window, model.clip_spec.sampling, model.clip_spec.audio_rate) == (16, "consecutive", None)
    assert model.monitor == ("val/mse", "min")
    (group,) = model.build_optimizers()["autoencoder"].param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-4, (0.5, 0.999), 0)


def test_windows_by_hand() -> None:
    """Clips of 5, 16 and 37 frames, whose pixels say which frame they are."""
    lengths = torch.tensor([5, 16, 37])
    video = torch.arange(37.0)[None, :, None, None, None] + 100 * torch.arange(3)[:, None, None, None, None]
    windows, valid = cut_windows(video, lengths)
    assert windows.shape == (5, 16, 1, 1, 1)
    shown = [
        [*range(5), *[4] * 11],
        [*range(100, 116)],
        [*range(200, 216)],
        [*range(216, 232)],
        [*range(232, 237), *[236] * 11],
    ]
    assert windows[..., 0, 0, 0].tolist() == shown
    assert valid.sum(1).tolist() == [5, 16, 16, 16, 5]
    assert valid[4].tolist() == [True] * 5 + [False] * 11


def test_short_clips_are_windows_too(trainer_for: Callable[..., pl.Trainer]) -> None:
    model = tiny()
    seen: list[torch.Tensor] = []
    model.net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    trainer_for(max_steps=1, limit_val_batches=0).fit(model, FakeData(1, lengths=(6, 20)))
    assert seen[0].shape == (2, 16, 3, 16, 16)
    assert seen[0].min() < 0  # [-1, 1]
    assert (seen[0][0, 5:] == seen[0][0, 5]).all()
    assert not (seen[0][1, 15] == seen[0][1, 5]).all()


class Smooth(pl.LightningDataModule):
    """One batch of smooth pictures that fade, to train and to validate."""

    def train_dataloader(self) -> DataLoader[Any]:
        draw = torch.Generator().manual_seed(0)
        pictures = F.interpolate(torch.rand(3, 3, 3, 3, generator=draw), size=(16, 16), mode="bilinear")
        video = pictures[:, None] * torch.linspace(1, 0.5, 16)[:, None, None, None]
        batch: ClipBatch = {"index": torch.arange(3), "video": video, "video_len": torch.full((3,), 16)}
        return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]  # a list will do

    val_dataloader = train_dataloader


def test_learns_one_batch(trainer_for: Callable[..., pl.Trainer]) -> None:
    model, data = tiny(), Smooth()
    losses: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            losses.append(trainer.callback_metrics["train/mse"].item())

    trainer_for(max_epochs=60, callbacks=[Watch()], limit_val_batches=0).fit(model, data)
    (batch,) = data.train_dataloader()
    assert losses[0] > 0.1
    assert losses[-1] < 0.5 * (2 * batch["video"] - 1).var()  # a constant has the variance


def test_what_it_logs_by_hand(monkeypatch: pytest.MonkeyPatch, trainer_for: Callable[..., pl.Trainer]) -> None:
    """A network that is wrong by 0.2 everywhere, and by 1 in the first frame of each window."""
    model = tiny()

    def wrong(video: torch.Tensor) -> torch.Tensor:
        error = torch.full_like(video, 0.2)
        error[:, 0] = 1
        return video + error

    monkeypatch.setattr(model.net, "forward", wrong)
    logged = trainer_for().validate(model, FakeData(1, lengths=(6, 20)), verbose=False)[0]
    # Windows of 6, 16 and 4 frames: 3 first frames and 23 others; repeated frames do not count.
    assert logged["val/mse"] == pytest.approx((3 * 1 + 23 * 0.04) / 26, rel=1e-5)
    assert logged["val/psnr"] == pytest.approx((3 * 10 * math.log10(4) + 23 * 20) / 26, rel=1e-5)
    assert trainer_for().test(model, FakeData(1, lengths=(6, 20)), verbose=False)[0].keys() == {"test/mse", "test/psnr"}


def test_scores_of_a_clip_do_not_depend_on_the_others(trainer_for: Callable[..., pl.Trainer]) -> None:
    model = tiny().eval()
    batch = make_batch(model.clip_spec, 0, (6, 20))
    windows, valid = cut_windows(2 * batch["video"] - 1, batch["video_len"])
    alone, alone_valid = cut_windows(2 * batch["video"][:1, :6] - 1, batch["video_len"][:1])
    with torch.no_grad():
        together = model.net(windows)[valid][:6]
        torch.testing.assert_close(model.net(alone)[alone_valid], together, rtol=0, atol=1e-5)


@pytest.mark.parametrize("per_frame", [False, True])
def test_its_file_is_the_network(per_frame: bool, tmp_path: Path) -> None:
    model = tiny(per_frame=per_frame)
    card = model.save_observer(tmp_path / "observer.safetensors", "nothing")
    net, again = weights.load(tmp_path / "observer.safetensors", ClipAutoencoder)
    assert again == card
    assert (card.architecture, card.view) == ("clip_autoencoder.ClipAutoencoder", View("mouth_square", 16, 16))
    own, stored = model.net.state_dict(), net.state_dict()
    learned = {name for name, _ in model.net.named_parameters()}
    assert own.keys() == stored.keys()
    for name, value in own.items():
        assert torch.equal(stored[name], value.half().float() if name in learned else value)
    video = torch.rand(1, 4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(net.encode(video), model.net.eval().encode(video), rtol=0, atol=1e-2)


def test_the_advice_names_the_option_that_takes_its_file() -> None:
    said = next_steps.advice("clip_autoencoder", "grid", Path("x"))
    assert "lipbench fit --model corrgan --data grid --model.autoencoder x" in said


def test_sizes_that_cannot_be_halved_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="size is 18; expected a multiple of 4"):
        tiny(size=18)
