"""Training Wav2Lip's expert: the loss, the windows of a batch, and a tiny one that learns one batch."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from test_syncnet_model import Talks, talk
from torch.nn import functional as F

from lipbench.media import features
from lipbench.models.wav2lip_expert import Wav2LipExpert, in_sync_loss, sync_bce
from lipbench.nets.wav2lip import Expert
from lipbench.pretrained import weights
from lipbench.types import View

TINY: dict[str, Any] = {
    "size": 24,
    "widths": (8, 8, 16, 16),
    "residuals": (0, 0, 0),
    "audio_widths": (8, 8, 16, 16),
    "audio_residuals": (0, 0, 0, 0),
    "hidden": 32,
    "window": 21,
    "near": 3,
    "lr": 3e-3,
}


def tiny(**options: Any) -> Wav2LipExpert:
    torch.manual_seed(0)
    return Wav2LipExpert(**(TINY | options))


def test_published_size_and_settings() -> None:
    with torch.device("meta"):
        model = Wav2LipExpert()
    assert sum(p.numel() for p in model.parameters()) == 16_435_072
    assert model.clip_spec.frames == {"video": View("face", 96, 96)}
    assert (model.clip_spec.audio_rate, model.clip_spec.sampling) == (features.RATE, "consecutive")
    assert (model.lr, model.near, model.monitor) == (1e-4, 1, ("val/bce", "min"))


def test_learns_one_batch(trainer_for: Callable[..., pl.Trainer], tmp_path: Path) -> None:
    model = tiny(lr=1e-2)
    seen: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append(trainer.callback_metrics["train/bce"].item())

    trainer_for(max_epochs=25, callbacks=[Watch()], limit_val_batches=0).fit(model, Talks(1))
    assert seen[0] > 0.6
    assert seen[-1] < 0.5

    card = model.save_observer(tmp_path / "expert.safetensors", "one made-up batch")
    assert (card.architecture, card.view) == ("wav2lip.Expert", model.net.view)
    net, again = weights.load(tmp_path / "expert.safetensors", Expert)
    assert again == card
    model.eval()
    lower, window = torch.rand(3, 5, 3, 12, 24), torch.randn(3, 80, 16)
    with torch.no_grad():  # parameters are kept in half precision
        torch.testing.assert_close(net.embed_faces(lower), model.net.embed_faces(lower), rtol=0, atol=1e-2)
        torch.testing.assert_close(net.embed_sound(window), model.net.embed_sound(window), rtol=0, atol=1e-2)


def test_loss_by_hand() -> None:
    """Two clips of three windows, of which the second clip's last does not take part; near = 2."""
    angle = torch.tensor([[0.1, 0.7, 1.2], [0.3, 0.9, 0.0]])
    faces = torch.stack([angle.cos(), angle.sin()], 2)
    sound = torch.stack([(angle + 0.2).cos(), (angle + 0.2).sin()], 2)
    valid = torch.tensor([[True, True, True], [True, True, False]])
    own = -math.log(math.cos(0.2))  # of five pairs, all the same
    apart = [math.cos(1.2 + 0.2 - 0.1), math.cos(1.2 - 0.1 - 0.2)]  # windows 0 and 2 of the first clip
    other = -sum(math.log(1 - cosine) for cosine in apart) / 2
    assert in_sync_loss(faces, sound, valid, 2).item() == pytest.approx((own + other) / 2, abs=1e-6)
    near = -math.log(1 - math.cos(0.4)), -math.log(1 - math.cos(0.8)), -math.log(1 - math.cos(0.3))
    near += -math.log(1 - math.cos(0.7)), -math.log(1 - math.cos(0.4)), -math.log(1 - math.cos(0.8))
    assert in_sync_loss(faces, sound, valid, 1).item() == pytest.approx(
        (own + (sum(near) + 2 * other) / 8) / 2, abs=1e-6
    )


def test_loss_without_pairs_is_nothing_and_breaks_nothing() -> None:
    faces = F.normalize(torch.rand(2, 4, 8)).requires_grad_()
    for valid in (torch.zeros(2, 4, dtype=torch.bool), torch.eye(2, 4, dtype=torch.bool)):
        loss = in_sync_loss(faces, faces.detach(), valid, 1)
        loss.backward()
        assert loss.item() == 0
    assert faces.grad is not None
    assert faces.grad.abs().sum() == 0


def test_cross_entropy_of_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    cosine = torch.tensor([0.25, 1 + 1e-6, 0.0], requires_grad=True)
    assert sync_bce(cosine, together=True).item() == pytest.approx((math.log(4) + 100) / 3)
    assert sync_bce(cosine, together=False).item() == pytest.approx((math.log(4 / 3) + 100) / 3)
    assert sync_bce(torch.full((3,), 0.5), together=True).item() == pytest.approx(math.log(2))
    original = F.binary_cross_entropy

    def checked(*given: Any) -> torch.Tensor:
        assert not torch.is_autocast_enabled("cpu")  # on CUDA it raises an error there
        return original(*given)

    monkeypatch.setattr(F, "binary_cross_entropy", checked)
    torch.manual_seed(0)
    faces, sound = F.normalize(torch.rand(2, 2, 6, 16), dim=-1)
    valid = torch.ones(2, 6, dtype=torch.bool)
    plain = in_sync_loss(faces, sound, valid, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(in_sync_loss(faces, sound, valid, 1), plain)


def test_windows_of_a_batch_are_those_of_the_clip() -> None:
    """Drawn windows give the embeddings that the whole clip has there, and only whole, spoken ones are valid."""
    model = tiny()
    whole, drawn = (talk(model.clip_spec, 3, training=training) for training in (False, True))
    whole["video"].copy_(torch.rand(whole["video"].shape))
    drawn["video"] = torch.stack([v[f] for v, f in zip(whole["video"], drawn["frame"], strict=True)])
    drawn["audio"] = whole["audio"]
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        model.embed(drawn)
        model.eval()
        faces, sound, valid = model.embed(whole)
        faces_drawn, sound_drawn, _ = model.embed(drawn)
        assert faces.shape == sound.shape == (8, 36, 32)
        assert valid.all()
        for row, start in enumerate(drawn["frame"][:, 0].tolist()):
            torch.testing.assert_close(faces_drawn[row], faces[row, start : start + 17], rtol=0, atol=1e-5)
            torch.testing.assert_close(sound_drawn[row], sound[row, start : start + 17], rtol=0, atol=1e-5)
        # Window 7 is frames 7 to 11, and the sound around frame 9.
        lower = whole["video"][0, None, 7:12, :, 12:]
        torch.testing.assert_close(model.net.embed_faces(lower)[0], faces[0, 7], rtol=0, atol=1e-5)
        given = whole["audio"], whole["audio_len"], torch.tensor([0]), torch.tensor([9]), whole["fps"]
        torch.testing.assert_close(
            model.net.embed_sound(features.mel_windows(*given, 16))[0], sound[0, 7], rtol=0, atol=1e-5
        )
        whole["video"][:, :, :, :12] = 0
        assert torch.equal(model.embed(whole)[0], faces)  # upper halves are not looked at

        whole["speech"][0] = torch.tensor([10, 20])
        whole["video_len"][1] = 30
        valid = model.embed(whole)[2]
    assert valid[0].nonzero().flatten().tolist() == list(range(6, 20))  # windows that touch frames 10 to 19
    assert valid[1].sum() == 26


def test_what_it_hears_is_centerd_on_its_third_frame() -> None:
    model = tiny()
    heard: list[torch.Tensor] = []
    model.net.sound.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    for training in (True, False):
        batch = talk(model.clip_spec, 0, clips=1, training=training)
        start = int(batch["frame"][0, 0])
        batch["audio"] = torch.zeros_like(batch["audio"])
        batch["audio"][0, 640 * (start + 6) + 320] = 1
        model.embed(batch)
        there = (heard.pop()[4, 0] != -4).any(dim=0).nonzero().double()  # window 4 is frames 4 to 8, its middle 6
        assert abs(there.mean().item() - 7.5) <= 1


def test_silence_changes_nothing(trainer_for: Callable[..., pl.Trainer]) -> None:
    model = tiny()
    before = [p.clone() for p in model.parameters()]
    trainer_for(max_epochs=1).fit(model, Talks(2, silent=True))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_logs_what_tells_it_from_chance(trainer_for: Callable[..., pl.Trainer]) -> None:
    trainer = trainer_for(max_epochs=1)
    trainer.fit(tiny(), Talks(1))
    assert {"val/bce", "val/sync_accuracy", "val/offset_right", "train/bce"} <= set(trainer.callback_metrics)
    assert 0.4 < trainer.callback_metrics["val/bce"] < 2


def test_gradients_reach_every_parameter() -> None:
    model = tiny()
    in_sync_loss(*model.embed(talk(model.clip_spec, 0)), model.near).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []


def test_wrong_arguments_and_clips_are_refused() -> None:
    for options in ({"window": 7}, {"near": 0}):
        with pytest.raises(ValueError, match="expected 1 <= near <= window - 5"):
            tiny(**options)
    model = tiny()
    batch = talk(model.clip_spec, 0)
    batch["fps"][0] = 29.97
    with pytest.raises(ValueError, match="25 frames a second"):
        model.embed(batch)
    batch = talk(model.clip_spec, 0)
    batch["video"], batch["frame"] = batch["video"][:, :4], batch["frame"][:, :4]
    with pytest.raises(ValueError, match=r"5 frames or more .* found 4 frames"):
        model.embed(batch)
