"""Training FlowNetS: pairs of a batch, a known motion that it learns, what it logs, its weights file."""

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
from lipbench.media.optical_flow import farneback
from lipbench.models.flownet import FlowNet, end_point_error, valid_pairs
from lipbench.nets.flownet import FlowNetS
from lipbench.pretrained import weights
from lipbench.types import ClipBatch, View

TINY: dict[str, Any] = {"size": 32, "width": 4, "window": 4, "lr": 5e-3}
MOTION = torch.tensor([[2.0, 0.0], [0.0, -2.0], [-1.0, 1.0], [0.0, 0.0]])  # px a frame: right, down


def tiny(**options: Any) -> FlowNet:
    torch.manual_seed(0)
    return FlowNet(**(TINY | options))


def moving(frames: int = 4, size: int = 32) -> ClipBatch:
    """Smooth textures that move by MOTION."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(len(MOTION), 3, 20, 20, generator=draw)
    texture = F.interpolate(coarse, size=(64, 64), mode="bicubic", align_corners=False).clamp(0, 1)
    video = torch.empty(len(MOTION), frames, 3, size, size)
    for row, (right, down) in enumerate(MOTION.int().tolist()):
        for k in range(frames):
            top, left = 16 - k * down, 16 - k * right
            video[row, k] = texture[row, :, top : top + size, left : left + size]
    clips = torch.arange(len(MOTION))
    return {"index": clips, "video": video, "video_len": torch.full_like(clips, frames)}


class Moving(pl.LightningDataModule):
    """The moving textures, to train and to validate."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([moving()], batch_size=None)  # type: ignore[arg-type]  # a list will do

    val_dataloader = train_dataloader


def test_published_size_and_settings() -> None:
    with torch.device("meta"):
        model = FlowNet()
    assert sum(p.numel() for p in model.parameters()) == 38_676_496
    assert model.clip_spec.frames == {"video": View("mouth_square", 64, 64)}
    assert (model.clip_spec.window, model.clip_spec.sampling, model.clip_spec.audio_rate) == (16, "consecutive", None)
    assert model.monitor == ("val/epe", "min")
    (group,) = model.build_optimizers()["flow"].param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-4, 4e-4)


def test_it_learns_a_known_motion(trainer_for: Callable[..., pl.Trainer]) -> None:
    model = tiny()
    losses: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            losses.append(trainer.callback_metrics["train/flow"].item())

    trainer = trainer_for(max_epochs=150, callbacks=[Watch()], limit_val_batches=0)
    trainer.fit(model, Moving())
    assert losses[-1] < 0.2 * losses[0]
    logged = trainer_for().validate(model, Moving(), verbose=False)[0]
    assert logged["val/epe"] < 0.2 * logged["val/epe_zero"]
    with torch.no_grad():
        flow = model.net(2 * moving()["video"] - 1)  # (4, 3, 2, 8, 8) px
    inside = flow[..., 2:-2, 2:-2].mean((1, 3, 4))  # (4, 2)
    assert (inside - MOTION).norm(dim=1).max() < 0.4


def test_resolutions_have_their_weights(trainer_for: Callable[..., pl.Trainer]) -> None:
    """The first loss of a batch is the weighted sum by hand."""
    model, batch = tiny(scale_weights=(1.0, 0.0, 0.0, 0.0, 2.0)), moving()
    pairs = valid_pairs(batch)
    target = farneback(pairs[:, :3], pairs[:, 3:])
    with torch.no_grad():
        flows = model.net.pyramid(2 * pairs - 1)
    finest, coarsest = (end_point_error(flows[k], target).mean().item() for k in (0, 4))
    trainer = trainer_for(max_steps=1, limit_val_batches=0)
    trainer.fit(model, Moving())
    assert trainer.callback_metrics["train/flow"].item() == pytest.approx(finest + 2 * coarsest, rel=1e-4)


def test_pairs_are_all_that_lie_in_the_clips() -> None:
    model = tiny()
    batch = make_batch(model.clip_spec, 0, (3, 1, 4))
    pairs = valid_pairs(batch)
    video = batch["video"]
    expected = [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    assert torch.equal(pairs[:, :3], torch.stack([video[row, k] for row, k in expected]))
    assert torch.equal(pairs[:, 3:], torch.stack([video[row, k + 1] for row, k in expected]))
    with pytest.raises(ValueError, match="clips of 2 frames or more"):
        valid_pairs(make_batch(model.clip_spec, 0, (1, 1)))


def test_end_point_errors_by_hand() -> None:
    target = torch.zeros(2, 2, 8, 8)
    target[0, 0, :4, :4] = torch.arange(16.0).reshape(4, 4)  # mean 7.5
    flow = torch.zeros(2, 2, 2, 2)
    flow[0, :, 0, 0] = torch.tensor([4.5, 4.0])
    flow[1, 0] = 2
    assert end_point_error(flow, target).tolist() == [5 / 4, 2]


def test_what_it_logs(monkeypatch: pytest.MonkeyPatch, trainer_for: Callable[..., pl.Trainer]) -> None:
    """Of networks that know the answer, or twice the answer; pieces change nothing."""
    batch = moving()
    pairs = valid_pairs(batch)
    target = farneback(pairs[:, :3], pairs[:, 3:])
    still = F.avg_pool2d(target, 4).norm(dim=1).mean().item()
    for factor, pieces in ((1, 128), (2, 128), (0, 5)):
        model = tiny()
        monkeypatch.setattr("lipbench.models.flownet._PAIRS_AT_ONCE", pieces)

        def answer(given: torch.Tensor, factor: int = factor) -> list[torch.Tensor]:
            assert given.min() < 0  # [-1, 1]
            frames = (given + 1) / 2
            return [factor * F.avg_pool2d(farneback(frames[:, :3], frames[:, 3:]), 4)]

        monkeypatch.setattr(model.net, "pyramid", answer)
        logged = trainer_for().validate(model, Moving(), verbose=False)[0]
        assert logged["val/epe_zero"] == pytest.approx(still, rel=1e-5)
        assert logged["val/epe"] == pytest.approx(abs(factor - 1) * still, rel=1e-4, abs=1e-4)


def test_short_clips_train(trainer_for: Callable[..., pl.Trainer]) -> None:
    model = tiny(window=8)
    before = [p.clone() for p in model.parameters()]
    trainer_for(max_steps=1).fit(model, FakeData(1, lengths=(1, 3, 12)))
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_its_file_is_the_network(tmp_path: Path) -> None:
    model = tiny()
    card = model.save_observer(tmp_path / "observer.safetensors", "nothing")
    net, again = weights.load(tmp_path / "observer.safetensors", FlowNetS)
    assert again == card
    assert (card.architecture, card.view) == ("flownet.FlowNetS", View("mouth_square", 32, 32))
    own, stored = model.net.state_dict(), net.state_dict()
    assert own.keys() == stored.keys()
    assert all(torch.equal(stored[name], value.half().float()) for name, value in own.items())
    video = 2 * moving()["video"] - 1
    with torch.no_grad():
        torch.testing.assert_close(net(video), model.net(video), rtol=0, atol=1e-2)


def test_the_advice_names_the_option_that_takes_its_file() -> None:
    said = next_steps.advice("flownet", "grid", Path("x"))
    assert "lipbench fit --model corrgan --data grid --model.flow x" in said


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="window is 1; expected 2 or more"):
        tiny(window=1)
    with pytest.raises(ValueError, match="scale_weights has 2 numbers; expected one for each of 5"):
        tiny(scale_weights=(1.0, 1.0))
