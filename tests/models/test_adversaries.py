"""Several discriminators in one model: what each is shown, its loss, its optimizer, and the watch over it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from fake_data import FakeData
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from lipbench import losses
from lipbench.training.adversarial import AdversarialModel, Adversary, CrossEntropy, frames, keys, lower_halves
from lipbench.types import ClipBatch, ClipSpec, Generated, Timing, View


class OfClips(nn.Module):
    """Scores a clip by its frames, its audio and its optical flow."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.heard = nn.Conv3d(3, 1, (3, 3, 3)), nn.Linear(4, 1)
        self.moved = nn.Linear(1, 1)

    def forward(self, video: Tensor, audio: Tensor, flow: Tensor) -> Tensor:
        """(B, T, 3, h, w), (B, 4), (B, 1) -> (B,)."""
        maps: Tensor = self.seen(video.transpose(1, 2)).mean((1, 2, 3, 4))
        return maps + self.heard(audio)[:, 0] + self.moved(flow)[:, 0]


class Judged(AdversarialModel):
    """Shifts the brightness of its frames; four discriminators, three optimizers, one of them shared."""

    timings = frozenset({"given"})
    paper = "none"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.shift = nn.Parameter(torch.zeros(3, 1, 1))
        self.whole = nn.Sequential(nn.Conv2d(3, 1, 3), nn.Flatten(), nn.AdaptiveAvgPool1d(1), nn.Flatten(0))
        self.lower = nn.Sequential(nn.Conv2d(3, 1, 3), nn.Flatten(), nn.AdaptiveAvgPool1d(1), nn.Flatten(0))
        self.motion = nn.Sequential(nn.Conv3d(3, 1, 3), nn.Flatten(), nn.AdaptiveAvgPool1d(1), nn.Flatten(0))
        self.clips = OfClips()
        self.whole[0].bias.requires_grad_(False)  # a part of a discriminator may be frozen
        self.adversaries = {
            "whole": Adversary(self.whole, frames, term="fooled_whole", name="whole"),
            "lower": CrossEntropy(self.lower, lower_halves, term="fooled_lower", name="lower"),
            "motion": Adversary(self.motion, keys("{}_motion"), "fooled_motion", "motion", optimizer="motion"),
            "clips": CrossEntropy(
                self.clips, keys("{}_clip", "audio", "{}_flow"), "fooled_clips", "clips", optimizer="clips"
            ),
        }
        self.loss_weights = {"fooled_whole": 0.1, "fooled_lower": 0.2, "fooled_motion": 0.3, "fooled_clips": 0.4}

    @property
    def clip_spec(self) -> ClipSpec:
        return ClipSpec(frames={"video": View("face", 12, 12)}, window=4)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"identity", "n_frames"})

    def generator_losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        real = batch["video"]  # (B, 4, 3, 12, 12)
        made = 0.5 * real + self.shift
        sample = {
            "real": real.flatten(0, 1),
            "made": made.flatten(0, 1),
            "audio": torch.rand(len(real), 4),
        }
        for side, clip in (("real", real), ("made", made)):
            sample[f"{side}_clip"], sample[f"{side}_motion"] = clip, clip.transpose(1, 2)
            sample[f"{side}_flow"] = (clip[:, 1:] - clip[:, :-1]).abs().mean((1, 2, 3, 4))[:, None]
        return {"l1": losses.l1(made, real)}, sample

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        frame = batch["identity"] + self.shift  # (B, 1, 3, 12, 12)
        return {"video": frame.expand(-1, int(batch["n_frames"].max()), -1, -1, -1), "video_len": batch["n_frames"]}


def test_each_has_its_inputs_losses_and_optimizer(trainer_for: Callable[..., pl.Trainer]) -> None:
    torch.manual_seed(0)
    model = Judged(lr=0.1, discriminator_lr=0.01, schedule="cosine", schedules={"clips": "step"}, decay_every=2)
    assert model.follows_schedule("generator")
    assert not model.follows_schedule("motion")
    assert model.generator_parameters() == [model.shift]
    shown: dict[str, list[tuple[int, ...]]] = {name: [] for name in model.adversaries}
    for name, adversary in model.adversaries.items():
        adversary.net.register_forward_pre_hook(
            lambda _, given, name=name: shown[name].append(tuple(given[0].shape)) or None
        )
    before = {key: value.clone() for key, value in model.named_parameters()}
    trainer = trainer_for(max_steps=3, limit_val_batches=0)
    trainer.fit(model, FakeData(3))
    assert shown["whole"][0] == (16, 3, 12, 12)
    assert shown["lower"][0] == (16, 3, 6, 12)
    assert shown["motion"][0] == (4, 3, 4, 12, 12)
    assert shown["clips"][0] == (4, 4, 3, 12, 12)
    still = {key for key, value in model.named_parameters() if torch.equal(value, before[key])}
    assert still == {"whole.0.bias"}
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["whole.0.bias"]
    rates = {
        name: optimizer.param_groups[0]["lr"] for name, optimizer in zip(model._names, trainer.optimizers, strict=True)
    }
    assert rates == pytest.approx({"generator": 0, "discriminator": 0.01, "motion": 0.01, "clips": 0.005})
    logged = trainer.callback_metrics
    assert {"train/discriminator_whole_real", "train/discriminator_lower_fake", "train/motion_score_made"} <= set(
        logged
    )
    assert 0 < logged["train/clips_score_real"] < 1  # of cross-entropy, probabilities
    assert set(model._monitors.state()) == {"generator", "whole", "lower", "motion", "clips"}


def test_losses_of_one_do_not_reach_another(trainer_for: Callable[..., pl.Trainer]) -> None:
    """The gradients of every optimizer's step are those of the losses that belong to it, to the bit."""
    torch.manual_seed(0)
    model = Judged()
    compared: list[str] = []
    judge = {name: adversary.losses for name, adversary in model.adversaries.items()}
    alone: dict[str, tuple[Tensor, ...]] = {}

    def watched(name: str) -> Any:
        def losses_of(sample: dict[str, Tensor]) -> Any:
            assert not any(value.requires_grad for value in sample.values())
            total = torch.stack(list(judge[name](sample)[0].values())).sum()
            trained = [p for p in model.adversaries[name].net.parameters() if p.requires_grad]
            alone[name] = torch.autograd.grad(total, trained)
            return judge[name](sample)

        return losses_of

    for name, adversary in model.adversaries.items():
        adversary.losses = watched(name)  # type: ignore[method-assign]

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, _: Any, __: Any, optimizer: Optimizer) -> None:
            for name, adversary in model.adversaries.items():
                own = [p for p in adversary.net.parameters() if p.requires_grad]
                if any(p is own[0] for p in optimizer.param_groups[0]["params"]):
                    assert all(torch.equal(p.grad, g) for p, g in zip(own, alone[name], strict=True))
                    compared.append(name)

    trainer_for(max_steps=2, callbacks=[Watch()], limit_val_batches=0).fit(model, FakeData(2))
    assert compared == ["whole", "lower", "motion", "clips"] * 2


def test_an_optimizer_that_nobody_makes_is_refused(trainer_for: Callable[..., pl.Trainer]) -> None:
    class Lacks(Judged):
        def build_optimizers(self) -> dict[str, Optimizer]:
            return {"generator": SGD(self.generator_parameters(), lr=0.1)}

    with pytest.raises(
        ValueError, match=r"trainable parameters of Lacks are in no optimizer .*: whole\.0\.weight, lower"
    ):
        trainer_for(max_steps=1).fit(Lacks(), FakeData(1))


@pytest.mark.parametrize("name", ["lower", "clips"])
def test_divergence_is_seen_of_each(name: str, tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    """One alone runs off; the others' losses stay, and its name is in the message."""
    model = Judged(discriminator_lr=1e-6, lr=1e-6)
    original = model.adversaries[name].losses

    def runs_off(sample: Any) -> Any:
        terms, balance = original(sample)
        return {key: value + (100.0 if model.batches > 110 else 0.0) for key, value in terms.items()}, balance

    model.adversaries[name].losses = runs_off  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=rf"mean of discriminator_{name}_real \+ discriminator_{name}_fake over 100"):
        trainer_for(max_steps=300, limit_val_batches=0).fit(model, FakeData(300))
    assert 110 < model.batches < 180
