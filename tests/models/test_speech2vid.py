"""What is special about the two Speech2Vid models: sizes, one to five identity images, L1 alone, no pose."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lipbench.generation import talking
from lipbench.generation.arrays import ArrayModel
from lipbench.media import features
from lipbench.models.speech2vid import Speech2Vid
from lipbench.models.speech2vid_frame import Speech2VidFrame
from lipbench.types import ClipBatch, View

KINDS = [Speech2Vid, Speech2VidFrame]
LENGTHS = (14, 18, 26, 16)


def small(kind: type[Any], **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(**({"width": 2} | options)).eval()


def test_published_sizes_and_settings() -> None:
    with torch.device("meta"):
        clip, frame = Speech2Vid(), Speech2VidFrame()
    assert sum(p.numel() for p in clip.parameters()) == 38_479_856
    assert sum(p.numel() for p in frame.parameters()) == 41_748_325
    assert not clip.adversaries
    assert not frame.adversaries
    assert (clip.lr, clip.betas, frame.lr, frame.betas) == (2e-4, (0.5, 0.999), 1e-3, (0.9, 0.999))
    assert clip.clip_spec.frames == {"video": View("mouth_square", 64, 64)}
    assert frame.clip_spec.frames == {"video": View("face", 112, 112)}
    assert (clip.clip_spec.references, frame.clip_spec.references) == (1, 5)
    assert (clip.clip_spec.window, clip.clip_spec.sampling) == (16, "consecutive")
    assert (frame.clip_spec.window, frame.clip_spec.sampling) == (4, "random")


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_five_identity_images_and_the_audio_matter(
    kind: type[Any], batch_for: Callable[..., ClipBatch]
) -> None:
    model = small(kind, references=5)
    batch = batch_for(model.clip_spec, 0)
    assert batch["identity"].shape[1] == model.clip_spec.references == 5
    with torch.no_grad():
        before = model.run_generate(batch, "given")["video"]
        for place in range(5):
            identity = batch["identity"].clone()
            identity[:, place] = 1 - identity[:, place]
            assert not torch.equal(model.run_generate({**batch, "identity": identity}, "given")["video"], before)
        unheard = model.run_generate({**batch, "audio": batch["audio"].flip(0)}, "given")["video"]
    assert not torch.equal(unheard, before)


def test_l1_is_of_whole_windows_in_the_published_range(batch_for: Callable[..., ClipBatch]) -> None:
    """In eval mode the loss is that of clips of one window that were generated, on pixels in [-1, 1]."""
    model = small(Speech2Vid, references=5)
    batch = batch_for(model.clip_spec, 0, (16, 16, 16))
    with torch.no_grad():
        terms, sample = model.generator_losses(batch)
        made = model.run_generate(batch, "given")["video"]
    assert sample == {}
    torch.testing.assert_close(terms, {"l1": 2 * (made - batch["video"]).abs().mean()})


def test_frames_alone_are_those_of_the_whole_clip(batch_for: Callable[..., ClipBatch]) -> None:
    """In eval mode the loss is that of the drawn frames of the clips that were generated."""
    model = small(Speech2VidFrame, window=3)
    batch, whole = batch_for(model.clip_spec, 0, training=True), batch_for(model.clip_spec, 0)
    whole |= {key: batch[key] for key in ("identity", "audio", "audio_len")}  # type: ignore[typeddict-item]
    seen: list[tuple[Tensor, ...]] = []
    model.generator.register_forward_pre_hook(lambda _, given: seen.append(given))
    with torch.no_grad():
        terms, sample = model.generator_losses(batch)
        made = model.run_generate(whole, "given")["video"]
    assert sample == {}
    (identity, audio), (_, all_audio) = seen
    assert torch.equal(identity, batch["identity"].repeat_interleave(3, dim=0))
    first = torch.tensor([0, 6, 15, 22])[:, None]  # of each clip, among all frames
    assert torch.equal(audio, all_audio[(first + batch["frame"]).flatten()])
    drawn = made[torch.arange(4)[:, None], batch["frame"]]  # (4, 3, 3, 112, 112)
    torch.testing.assert_close(terms, {"l1": (drawn - batch["video"]).abs().mean()})


def test_no_loss_counts_padding(batch_for: Callable[..., ClipBatch]) -> None:
    model = small(Speech2VidFrame, window=8)  # the clips have 6 to 9 frames
    batch = batch_for(model.clip_spec, 0, training=True)
    with torch.no_grad():
        before = model.generator_losses(batch)[0]["l1"]
        batch["video"][0, 6:] = 1
        assert torch.equal(model.generator_losses(batch)[0]["l1"], before)
        batch["video"][0, 5:] = 1
        assert not torch.equal(model.generator_losses(batch)[0]["l1"], before)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_sees_what_it_is_to_make(kind: type[Any]) -> None:
    assert small(kind).needs == {"audio", "audio_len", "fps", "identity", "n_frames"}


def test_what_a_frame_hears_is_centered_on_it(batch_for: Callable[..., ClipBatch]) -> None:
    """An impulse in the middle of a frame lies in the middle of the 35 columns that the generator gets for it."""
    model = small(Speech2VidFrame)
    batch = batch_for(model.clip_spec, 0)
    batch["audio"] = torch.zeros_like(batch["audio"])
    batch["audio"][:, 640 * 4 + 320] = 1
    heard: list[Tensor] = []
    model.generator.register_forward_pre_hook(lambda _, given: heard.append(given[1]))
    with torch.no_grad():
        model.run_generate(batch, "given")
    assert heard[0].shape == (sum((6, 9, 7, 8)), 12, 35)
    place = (heard[0][4] != 0).any(dim=0).nonzero().double()  # frame 4 of the first clip
    assert abs(place.mean().item() - 17) <= 1
    assert model.clip_spec.audio_rate == features.RATE


@pytest.mark.parametrize("kind", KINDS)
def test_one_picture_is_shown_as_often_as_the_model_takes_images(kind: type[Any]) -> None:
    model = small(kind, references=5)
    size, rate = model.size, model.clip_spec.audio_rate
    samples = torch.randn(rate).clamp(-3, 3) / 6
    shown: list[Tensor] = []
    model.generator.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    canonical = torch.randint(256, (3, 352, 320), dtype=torch.uint8)
    identity = talking.identity_batch(model, canonical, torch.zeros(68, 2))
    picture = identity["identity"][0, 0]  # (3, h, w)
    speech = talking.from_sound(model, identity, samples.numpy(), rate, 25, lambda *_: None)
    poses = torch.rand(25, 3, size, size)
    made = speech.make(talking.Piece(0, poses, poses[:0], poses[:0]))
    arrays = ArrayModel(model)
    torch.testing.assert_close(arrays.generate(picture, audio=samples, sample_rate=rate), made, rtol=0, atol=1e-5)
    assert shown[0].shape[1:] == (5, 3, size, size)
    assert all((images == images[:, :1]).all() for images in shown)
    five = torch.stack([picture, *torch.rand(4, 3, size, size)])
    assert not np.allclose(arrays.generate(five, audio=samples, sample_rate=rate), made)
    with pytest.raises(ValueError, match="reference holds 2 pictures; expected 1, or 5 for this model"):
        arrays.generate(five[:2], audio=samples, sample_rate=rate)
