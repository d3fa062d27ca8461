"""TransformerT2L: its layer out of PyTorch's parts, teacher forcing, and that generation keeps what it has computed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fake_data import LENGTHS
from test_models import SMALL
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lipbench.models.transformert2l import TransformerT2L
from lipbench.nets import duallip
from lipbench.nets.duallip import frames_before
from lipbench.nets.transformert2l import CausalBlock, Clips, Generator, most_focused
from lipbench.types import ClipBatch


def model(**options: Any) -> TransformerT2L:
    torch.manual_seed(0)
    return TransformerT2L(**{**SMALL["transformert2l"], "adversarial_weight": 0.0, **options})


def lively(**options: Any) -> TransformerT2L:
    """In evaluation mode, with two layers and with frames, positions and text that all show in what is generated."""
    net = model(layers=2, **options).eval()
    with torch.no_grad():
        for key, value in net.generator.named_parameters():
            if value.dim() > 1 and not key.startswith("picture_decoder.first"):
                value.mul_(2)
    return net


def encoded(net: TransformerT2L, batch: ClipBatch) -> tuple[Clips, Tensor]:
    identity = batch["identity"][:, 0]
    return net.generator.encode(batch["tokens"], batch["token_len"], identity), identity


# ------------------------------------------------------------------------------------------------------ sizes


def test_parameters_at_the_published_sizes() -> None:
    with torch.device("meta"):
        net = TransformerT2L(adversarial_weight=0.1)
    generator, discriminator = net.generator, net.discriminator
    assert discriminator is not None

    def count(part: nn.Module) -> int:
        return sum(p.numel() for p in part.parameters())

    assert count(generator) == 37_702_449  # with the stop prediction, without the 86,352 that ParaLip's code never uses
    assert round((count(generator) + 86_352) / 1000) == 37_789  # the paper: 37.780 M
    assert count(generator.blocks[0]) == 3_148_544  # the published DecSALayer
    assert count(generator.stop) == 257
    assert count(discriminator) == 14_113_793
    assert count(net) == count(generator) + count(discriminator)


# ------------------------------------------------------------------------------------------------------ layer


def test_a_block_is_the_published_layer_out_of_pytorchs_parts() -> None:
    """Pre-LN attentions without bias, then a convolution padded on the left, divided by the root of its kernel."""
    torch.manual_seed(0)
    width, heads, frames = 16, 2, 13
    block = CausalBlock(width, heads, 24, 9, 0.0).double()
    for value in block.parameters():
        nn.init.normal_(value, std=0.3)
    x, text = torch.randn(2, frames, width).double(), torch.randn(2, 5, width).double()
    missing = torch.arange(5) >= torch.tensor([5, 3])[:, None]
    attentions = []
    for into, out in (
        (block.qkv.weight, block.attention_out.weight),
        (torch.cat([block.text_query.weight, block.text_keys_values.weight]), block.text_out.weight),
    ):
        attention = nn.MultiheadAttention(width, heads, bias=False, batch_first=True).double()
        attention.load_state_dict({"in_proj_weight": into, "out_proj.weight": out})
        attentions.append(attention)
    future = torch.ones(frames, frames, dtype=torch.bool).triu(1)
    y = block.attention_norm(x)
    y = x + attentions[0](y, y, y, attn_mask=future)[0]
    read, expected_weights = attentions[1](
        block.text_norm(y), text, text, key_padding_mask=missing, average_attn_weights=False
    )
    y = y + read
    inner = block.conv(F.pad(block.ffn_norm(y).transpose(1, 2), (8, 0))).transpose(1, 2) / 3
    expected = y + block.ffn_out(F.relu(inner))

    padding = torch.zeros(2, 1, 1, 5).double().masked_fill(missing[:, None, None], -torch.inf)
    found, weights, past = block(x, block.of_text(text), padding, None)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(weights, expected_weights)
    assert past.keys_values.shape == (2, 2, heads, frames, width // heads)
    assert past.inputs.shape == (2, width, 8)


def test_heads_must_fit() -> None:
    with pytest.raises(ValueError, match=r"hidden \(9\) must divide by heads \(2\)"):
        CausalBlock(9, 2, 8, 3, 0.0)


# ------------------------------------------------------------------------------------------------------ generation


def generated_anew(net: Generator, clips: Clips, identity: Tensor, count: int) -> Tensor:
    """(B, count, 3, h, w): every frame out of all frames before, encoded, decoded and drawn anew."""
    frames = identity[:, None]  # (B, 1, 3, h, w), one more in every turn
    for _ in range(count):
        before = net.see(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        motion = net(clips, before).motion[:, -1]
        drawn = net.picture_decoder(motion, clips.identity, clips.skips, None).clamp(0, 1)
        frames = torch.cat([frames, drawn[:, None]], dim=1)
    return frames[:, 1:]


@torch.no_grad()
def test_generation_equals_one_that_computes_everything_anew(batch_for: Callable[..., ClipBatch]) -> None:
    """Over more frames than the convolutions look back, of clips of other lengths."""
    lengths = (14, 21, 17)
    net = lively(kernel=5)
    batch = batch_for(net.clip_spec, 0, lengths)
    made = net.run_generate(batch, "length")
    anew = generated_anew(net.generator, *encoded(net, batch), max(lengths))
    assert made["video"].diff(dim=1).abs().amax(dim=(0, 2, 3, 4))[:13].min() > 1e-3  # no frame is that before it
    for row, count in enumerate(lengths):
        torch.testing.assert_close(made["video"][row, :count], anew[row, :count], rtol=0, atol=1e-5)
        assert not made["video"][row, count:].any()


@torch.no_grad()
def test_teacher_forcing_equals_steps_that_are_fed_the_same_frames(batch_for: Callable[..., ClipBatch]) -> None:
    net = lively(kernel=5)
    batch = batch_for(net.clip_spec, 0)
    clips, identity = encoded(net, batch)
    before = frames_before(net.generator.see, identity, batch["video"], batch["video_len"], 0.0)
    whole = net.generator(clips, before)
    shifts, past = net.generator.shifts(clips, max(LENGTHS)), None
    for place in range(max(LENGTHS)):
        frame = batch["video"][:, place - 1] if place else identity
        step = net.generator.decode(clips, (net.generator.see(frame) + shifts[:, place])[:, None], past)
        past = step.past
        there = batch["video_len"] > place
        torch.testing.assert_close(step.motion[there, 0], whole.motion[there, place], rtol=0, atol=1e-5)
        torch.testing.assert_close(step.stop[there, 0], whole.stop[there, place], rtol=0, atol=1e-5)
        for one, other in zip(step.weights, whole.weights, strict=True):
            torch.testing.assert_close(one[there, :, 0], other[there, :, place], rtol=0, atol=1e-5)


@torch.no_grad()
def test_what_is_to_come_changes_nothing(batch_for: Callable[..., ClipBatch]) -> None:
    """A clip's frame sees the real frames before it, and those alone."""
    net = lively()
    batch = batch_for(net.clip_spec, 0)
    clips, identity = encoded(net, batch)

    def motion() -> Tensor:
        before = frames_before(net.generator.see, identity, batch["video"], batch["video_len"], 0.0)
        decoded: Tensor = net.generator(clips, before).motion
        return decoded

    first = motion()
    batch["video"][:, 3] = 1 - batch["video"][:, 3]
    second = motion()
    torch.testing.assert_close(second[:, :4], first[:, :4])
    assert (second[:, 4] - first[:, 4]).abs().max() > 1e-3


class Asked(TorchDispatchMode):
    """Counts how often a number is read out of a tensor: on an accelerator, how often the processor waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.times += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_the_processor_seldom_waits(batch_for: Callable[..., ClipBatch], monkeypatch: pytest.MonkeyPatch) -> None:
    net = model(longest=24).eval()
    nn.init.constant_(net.generator.stop.bias, -9.0)  # no clip stops by itself

    def times(frames: int, timing: str) -> int:
        batch = batch_for(net.clip_spec, 0, (frames, 6))
        with Asked() as asked:
            net.run_generate(batch, timing)  # type: ignore[arg-type]
        return asked.times

    assert times(8, "length") == times(24, "length") <= 4
    assert times(24, "free") == times(8, "length") + 24
    monkeypatch.setattr(duallip, "FRAMES_BETWEEN_CHECKS", {})  # as on an accelerator
    assert times(24, "free") == times(8, "length") + 24 // 8


class Timed(nn.Module):
    """A stop prediction that says so in a frame of each clip, and nonsense after it."""

    def __init__(self, last: list[int]) -> None:
        super().__init__()
        self.last, self.frames = torch.tensor(last), 0

    def forward(self, motion: Tensor) -> Tensor:
        self.frames += 1
        return torch.where(self.frames >= self.last, 1.0, -1.0)[:, None, None]


@torch.no_grad()
@pytest.mark.parametrize("every", [1, 4])
def test_clips_end_with_the_frame_that_says_so(
    every: int, batch_for: Callable[..., ClipBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is asked; `longest` ends those that never say so."""
    monkeypatch.setattr(duallip, "FRAMES_BETWEEN_CHECKS", {"cpu": every})
    net = lively(longest=10)
    batch = batch_for(net.clip_spec, 0)
    whole = net.run_generate(batch | {"n_frames": torch.full((4,), 10)}, "length")
    for last, steps in (([2, 5, 1, 3], (5, 8)[every == 4]), ([2, 99, 1, 3], 10)):
        stop = net.generator.stop = Timed(last)  # type: ignore[assignment]
        made = net.run_generate(batch, "free")
        lengths = [min(count, 10) for count in last]
        assert made["video_len"].tolist() == lengths
        assert stop.frames == steps
        assert made["video"].shape[1] == made["attention"].shape[1] == max(lengths)
        assert torch.equal(made["durations"].sum(dim=1), made["video_len"])
        for row, count in enumerate(lengths):
            torch.testing.assert_close(made["video"][row, :count], whole["video"][row, :count])
            assert not made["video"][row, count:].any()
            assert torch.allclose(made["attention"][row].sum(dim=1), (torch.arange(max(lengths)) < count).float())


def test_the_most_focused_head_is_chosen_by_valid_frames() -> None:
    flat, sharp = torch.full((4, 3), 1 / 3), torch.eye(3)[[0, 1, 1, 2]]
    late = torch.cat([flat[:2], sharp[2:]])  # sharp where the second clip has no frame
    weights = torch.stack([torch.stack([flat, sharp]), torch.stack([flat + torch.tensor([0.1, 0, -0.1]), late])])
    found = most_focused(weights, torch.tensor([[True] * 4, [True, True, False, False]]))
    assert torch.equal(found[0], sharp)
    assert torch.equal(found[1, :2], weights[1, 0, :2])
    assert not found[1, 2:].any()


# ------------------------------------------------------------------------------------------------------ training


def test_losses_follow_the_arguments(batch_for: Callable[..., ClipBatch]) -> None:
    def terms(**options: Any) -> tuple[dict[str, Tensor], int]:
        net = model(**options)
        losses, sample = net.generator_losses(batch_for(net.clip_spec, 0, training=True))
        assert sample["made"].shape == sample["real"].shape
        return losses, len(sample["made"])

    losses, count = terms(frames=None)
    assert set(losses) == {"l1", "stop", "ssim"}
    assert count == sum(LENGTHS)
    losses, count = terms(ssim_weight=0.0, frames=3)
    assert set(losses) == {"l1", "stop"}
    assert count == 4 * 3
    assert model(ssim_weight=0.3, stop_weight=0.2).loss_weights == {"ssim": 0.3, "stop": 0.2, "adversarial": 0.0}


@torch.no_grad()
@pytest.mark.parametrize("frames", [None, 7])
def test_a_frame_is_compared_with_what_follows_the_frame_before_it(
    frames: int | None, batch_for: Callable[..., ClipBatch]
) -> None:
    """All frames, or up to 7 of each clip: more than the first clip has."""
    net = model(frames=frames).eval()
    batch = batch_for(net.clip_spec, 0, training=True)
    batch["video"] = torch.rand_like(batch["video"])  # no two frames look the same
    _, sample = net.generator_losses(batch)
    assert len(sample["real"]) == (sum(LENGTHS) if frames is None else 6 + 7 + 7 + 7)
    clips, identity = encoded(net, batch)
    for real, made in zip(sample["real"], sample["made"], strict=True):
        clip, place = (batch["video"] == real).flatten(2).all(dim=2).nonzero()[0].tolist()
        before = torch.cat([identity[:, None], batch["video"]], dim=1)[:, : place + 1]
        motion = net.generator(clips, net.generator.see(before.flatten(0, 1)).unflatten(0, before.shape[:2])).motion
        drawn = net.generator.picture_decoder(motion[:, -1], clips.identity, clips.skips, None)
        torch.testing.assert_close(made, drawn[clip], rtol=0, atol=1e-5)


def test_withheld_frames_leave_the_identity_frame(batch_for: Callable[..., ClipBatch]) -> None:
    """With all frames withheld, the real ones no longer matter to what is made."""
    for dropout in (0.0, 1.0):
        net = lively(frame_dropout=dropout, frames=None)
        batch = batch_for(net.clip_spec, 0)
        with torch.no_grad():
            _, first = net.generator_losses(batch)
            batch["video"] = batch["video"].flip(3)
            _, second = net.generator_losses(batch)
        assert ((first["made"] - second["made"]).abs().max() > 1e-3) == (dropout == 0.0)


def test_what_does_not_fit_together() -> None:
    with pytest.raises(ValueError, match="adversarial_from needs an adversarial_weight above 0"):
        model(adversarial_from=2)
    with pytest.raises(ValueError, match="longest is 0"):
        model(longest=0)
