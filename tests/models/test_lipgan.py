from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lipbench.media import features, geometry
from lipbench.models import lipgan
from lipbench.models.lipgan import LipGAN
from lipbench.types import ClipBatch, View

SMALL: dict[str, Any] = {
    "size": 12,
    "widths": (4, 6, 8),
    "blocks": (0, 0),
    "audio_widths": (4, 4, 6, 8),
    "audio_blocks": (0, 0, 0, 0),
    "decoder_blocks": 0,
    "hidden": 8,
    "window": 5,
    "judge_width": 4,
    "quality_width": 2,
}


def small(**options: Any) -> LipGAN:
    torch.manual_seed(0)
    return LipGAN(**(SMALL | options))


def test_published_size_and_settings() -> None:
    with torch.device("meta"):
        model = LipGAN(front_end="mfcc")
    assert model.discriminator is not None
    assert sum(p.numel() for p in model.discriminator.parameters()) == 14_382_742
    assert sum(p.numel() for p in model.parameters()) - 14_382_742 == 71_331_987
    assert model.clip_spec.frames == {"video": View("face", 96, 96)}
    assert (model.lr, model.discriminator_lr, model.betas) == (1e-4, 1e-4, (0.9, 0.999))
    assert (model.loss_weights, model.lip_weight) == ({"sync": 0.01, "quality": 0.0}, 1.0)


@pytest.mark.parametrize(("version", "age"), [(None, "an older"), (1, "an older"), (3, "a newer"), ("2", "an older")])
def test_checkpoints_of_other_networks_are_refused(
    version: int | str | None,
    age: str,
    tmp_path: Path,
    fake_data: Callable[..., Any],
    trainer_for: Callable[..., pl.Trainer],
) -> None:
    """Weights of the same shapes that mean something else, in generation, resuming, testing and warm starts."""
    first = trainer_for(max_steps=1, limit_val_batches=0)
    first.fit(small(), fake_data(1))
    path = tmp_path / "first.ckpt"
    first.save_checkpoint(path)
    LipGAN.load_from_checkpoint(path, weights_only=True)
    stored = torch.load(path, weights_only=True)
    assert stored["lipbench"].pop("networks") == 2
    if version is not None:
        stored["lipbench"]["networks"] = version
    torch.save(stored, path)
    said = f"was trained with {age} network"
    with pytest.raises(ValueError, match=said):
        LipGAN.load_from_checkpoint(path, weights_only=True)
    with pytest.raises(ValueError, match=said):
        trainer_for(max_steps=2).fit(small(), fake_data(1), ckpt_path=path, weights_only=True)
    with pytest.raises(ValueError, match=said):
        trainer_for().test(small(), fake_data(1), ckpt_path=path, weights_only=True)
    with pytest.raises(ValueError, match=f"--model.init_from .*first.ckpt {said}"):
        trainer_for(max_steps=1).fit(small(init_from=str(path)), fake_data(1))


@pytest.mark.parametrize("front_end", ["mel", "mfcc"])
def test_training_and_inference_hear_and_make_the_same(front_end: str, batch_for: Callable[..., ClipBatch]) -> None:
    """In eval mode, the training path on scattered frames equals those frames of the whole clip generated."""
    model = small(front_end=front_end, identity="first").eval()
    batch = batch_for(model.clip_spec, 0, training=True)
    whole = batch_for(model.clip_spec, 0)
    whole |= {key: batch[key] for key in ("identity", "audio", "audio_len")}  # type: ignore[literal-required, typeddict-item]
    for row in range(4):  # the drawn frames' poses are those of the clip
        whole["video"][row, batch["frame"][row]] = batch["video"][row]
    with torch.no_grad():
        _, sample = model.generator_losses(batch)
        made = model.run_generate(whole, "given")
    assert sample["made"].shape == sample["real"].shape == (4 * 5, 3, 12, 12)
    for row, drawn in enumerate(sample["made"].view(4, 5, 3, 12, 12)):
        torch.testing.assert_close(drawn, made["video"][row, batch["frame"][row]], rtol=0, atol=1e-5)


def test_the_targets_lower_halves_change_nothing(batch_for: Callable[..., ClipBatch]) -> None:
    model = small().eval()
    batch = batch_for(model.clip_spec, 0)
    with torch.no_grad():
        before = model.run_generate(batch, "given")["video"]
        batch["video"][:, :, :, 6:] = torch.rand(4, 9, 3, 6, 12)
        assert torch.equal(model.run_generate(batch, "given")["video"], before)
        batch["video"][:, :, :, :6] = torch.rand(4, 9, 3, 6, 12)
        assert not torch.equal(model.run_generate(batch, "given")["video"], before)


@pytest.mark.parametrize("key", ["audio", "identity"])
def test_the_sound_and_the_identity_matter(key: str, batch_for: Callable[..., ClipBatch]) -> None:
    model = small().eval()
    batch = batch_for(model.clip_spec, 0)
    with torch.no_grad():
        before = model.run_generate(batch, "given")["video"]
        batch[key] = batch[key].flip(0)  # type: ignore[literal-required]
        assert (model.run_generate(batch, "given")["video"] - before).abs().max() > 1e-4


def test_sound_decides_the_length_and_poses_start_again(batch_for: Callable[..., ClipBatch]) -> None:
    model = small().eval()
    batch: Any = batch_for(model.clip_spec, 0)
    batch |= {"audio": batch["audio"].repeat(1, 2), "audio_len": batch["audio_len"] + 640 * 3}
    six = torch.full((4,), 6)

    def free(**posed: Tensor) -> Any:
        return model.run_generate(batch | posed, "free")

    with torch.no_grad():
        plain, kept = free(), model.run_generate(batch, "given")
        assert plain["video_len"].tolist() == [9, 12, 10, 11]
        assert kept["video_len"].tolist() == [6, 9, 7, 8]
        torch.testing.assert_close(plain["video"][0, :6], kept["video"][0, :6], rtol=0, atol=1e-6)
        # After the last frame of the video comes its first again; a still image is a video of one frame.
        twice = batch["video"][:, torch.arange(12) % 6]
        again = free(video=twice, video_len=2 * six)["video"]
        assert torch.equal(again, free(video_len=six)["video"])
        assert not torch.equal(again, plain["video"])
        still = free(video=batch["video"][:, :1], video_len=six // 6)["video"]
    assert still.shape == plain["video"].shape
    torch.testing.assert_close(still[:, 0], plain["video"][:, 0], rtol=0, atol=1e-6)


def test_a_pose_in_the_batch_is_used_as_it_is(batch_for: Callable[..., ClipBatch]) -> None:
    model = small().eval()
    batch: Any = batch_for(model.clip_spec, 0)
    pose = geometry.without_lower_half(batch["video"].flip(0))
    with torch.no_grad():
        made = model.run_generate(batch | {"pose": pose, "pose_len": batch["video_len"].flip(0)}, "given")["video"]
        other = model.run_generate(batch, "given")["video"]
        assert not torch.equal(made, other)
        batch |= {"video": batch["video"].flip(0), "video_len": batch["video_len"].flip(0)}
        assert torch.equal(made, model.run_generate(batch, "given")["video"])


def test_lips_weigh_more() -> None:
    weights = lipgan.lip_weight_map(96, 5.0)
    assert weights.shape == (1, 96, 96)
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)
    assert (weights[0, 67, 48] / weights[0, 10, 48]).item() == pytest.approx(5)  # mouth (128, 179) px of 256, brow
    top, left, bottom, right = geometry.BOXES["mouth_square"]
    share = (bottom - top) * (right - left) / 256**2
    assert weights.max().item() == pytest.approx(5 / (1 + 4 * share), rel=1e-3)
    assert torch.equal(lipgan.lip_weight_map(96, 1.0), torch.ones(1, 96, 96))


def test_reconstruction_follows_the_weights(batch_for: Callable[..., ClipBatch]) -> None:
    def l1(**options: Any) -> tuple[Tensor, dict[str, Tensor]]:
        model = small(identity="first", **options)
        terms, sample = model.generator_losses(batch_for(model.clip_spec, 0, training=True))
        return terms["l1"], sample

    plain, sample = l1()
    error = (sample["made"] - sample["real"]).abs()
    torch.testing.assert_close(plain, error.mean())
    torch.testing.assert_close(l1(lip_weight=3.0)[0], (error * lipgan.lip_weight_map(12, 3.0)).mean())


def test_contrastive_loss() -> None:
    distance = torch.tensor([0.0, 0.5, 1.0, 1.5])
    assert lipgan.contrastive(distance, together=True).item() == pytest.approx((0.25 + 1 + 2.25) / 4)
    assert lipgan.contrastive(distance, together=False).item() == pytest.approx((1 + 0.25) / 4)


def test_identity_frames_are_distant() -> None:
    torch.manual_seed(0)
    frame = torch.tensor([[0, 3, 7, 20, 0], [10, 11, 12, 14, 15]])
    drawn = torch.tensor([[True, True, True, True, False], [True] * 5])
    video = torch.arange(10.0).view(2, 5, 1, 1, 1).expand(2, 5, 3, 2, 2)  # clip and place
    seen: dict[tuple[int, int], set[float]] = {}
    for _ in range(60):
        found = lipgan.distant(video, frame, drawn, torch.full((2, 3, 2, 2), -1.0))
        assert found.shape == video.shape
        for row in range(2):
            for place in range(5):
                seen.setdefault((row, place), set()).add(found[row, place, 0, 0, 0].item())
    assert [seen[0, place] for place in range(4)] == [{2.0, 3.0}, {3.0}, {0.0, 3.0}, {0.0, 1.0, 2.0}]
    assert all(seen[1, place] == {-1.0} for place in range(5))


def test_other_sound_is_from_another_time() -> None:
    torch.manual_seed(0)
    frame, total = torch.arange(75).repeat(40), torch.full((3000,), 75)
    found = lipgan.elsewhere(frame, total)
    assert ((found - frame).abs() >= 6).all()
    assert found.min() >= 0
    assert found.max() < 75
    assert len({(a, b) for a, b in zip(frame.tolist(), found.tolist(), strict=True)}) > 1500
    for short in (2, 3, 7):
        frame = torch.arange(short).repeat(20)
        found = lipgan.elsewhere(frame, torch.full((len(frame),), short))
        assert ((found - frame).abs() >= short // 2).all()
        assert ((found >= 0) & (found < short)).all()


def test_negatives(monkeypatch: pytest.MonkeyPatch, batch_for: Callable[..., ClipBatch]) -> None:
    """Real faces with their sound, against made faces with it or real ones with other sound: one kind a batch."""

    def negatives(**options: Any) -> set[str]:
        model = small(**options)
        assert model.discriminator is not None
        batch = batch_for(model.clip_spec, 0, lengths=(16, 19, 17, 18), training=True)
        _, sample = model.generator_losses(batch)
        assert sample["sound"].shape == sample["other"].shape == (20, 80, 27)
        if options.get("unsynced") == "rolled":
            assert torch.equal(sample["other"], torch.cat([sample["sound"][10:], sample["sound"][:10]]))
        else:
            assert not (sample["other"] == sample["sound"]).flatten(1).all(1).any()
        judged = []
        handle = model.discriminator["sync"].register_forward_pre_hook(lambda _, pair: judged.append(pair))
        kinds = set()
        for _ in range(12):
            terms, _ = model.adversaries["sync"].losses({key: value.detach() for key, value in sample.items()})
            assert set(terms) == {"discriminator_synced", "discriminator_unsynced"}
            (faces, sounds), _ = judged.pop(), judged.clear()
            assert torch.equal(faces[:20], sample["real"])
            assert torch.equal(sounds[:20], sample["sound"])
            made = torch.equal(faces[20:], sample["made"]) and torch.equal(sounds[20:], sample["sound"])
            other = torch.equal(faces[20:], sample["real"]) and torch.equal(sounds[20:], sample["other"])
            assert made != other
            kinds.add("made" if made else "other")
        handle.remove()
        return kinds

    assert negatives() == negatives(unsynced="rolled") == {"made", "other"}
    assert negatives(quality_weight=0.1) == {"other"}


def test_judges_follow_the_arguments(batch_for: Callable[..., ClipBatch]) -> None:
    def judged(**options: Any) -> tuple[set[str], set[str]]:
        model = small(**options)
        assert set(model.build_optimizers()) == {"generator", *(["discriminator"] if model.discriminator else [])}
        terms, sample = model.generator_losses(batch_for(model.clip_spec, 0, training=True))
        assert set(terms) == {"l1"}
        assert model.loss_weights["sync"] == options.get("adversarial_weight", 0.01)
        assert model.loss_weights["quality"] == options.get("quality_weight", 0.0)
        assert (model.discriminator is None) == (not model.adversaries)
        judges = model.adversaries.values()
        learned = {key.removeprefix("discriminator_") for judge in judges for key in judge.losses(sample)[0]}
        return learned, {key for judge in judges for key in judge.generator_losses(sample)}

    assert judged(adversarial_weight=0.0) == (set(), set())
    assert judged() == ({"synced", "unsynced"}, {"sync"})
    assert judged(adversarial_weight=0.0, quality_weight=0.1) == ({"real", "fake"}, {"quality"})
    assert judged(quality_weight=0.1) == ({"synced", "unsynced", "real", "fake"}, {"sync", "quality"})


def test_without_a_discriminator_it_is_plain_training(
    fake_data: Callable[..., Any], trainer_for: Callable[..., pl.Trainer]
) -> None:
    trainer = trainer_for(max_steps=2, limit_val_batches=0)
    trainer.fit(small(adversarial_weight=0.0, front_end="mfcc"), fake_data(2))
    assert trainer.global_step == 2
    assert torch.isfinite(trainer.callback_metrics["train/l1"])
    assert "train/sync" not in trainer.callback_metrics


def test_what_it_hears_is_centerd_on_its_frame(batch_for: Callable[..., ClipBatch]) -> None:
    """An impulse in the middle of a frame lies in the middle of what the generator gets for that frame."""
    for front_end, silence, columns in (("mel", -4.0, 27), ("mfcc", 0.0, 35)):
        model = small(front_end=front_end).eval()
        batch = batch_for(model.clip_spec, 0)
        batch["audio"] = torch.zeros_like(batch["audio"])
        batch["audio"][:, 640 * 4 + 320] = 1
        heard: list[Tensor] = []
        model.generator.sound.register_forward_pre_hook(lambda _, given, heard=heard: heard.append(given[0]))
        with torch.no_grad():
            model.run_generate(batch, "given")
        there = (heard[0][4, 0] != silence).any(dim=0).nonzero().double()  # frame 4 of the first clip
        assert abs(there.mean().item() - (columns - 1) / 2) <= 1
        assert model.clip_spec.audio_rate == features.RATE
