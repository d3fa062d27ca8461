"""FaceFormer's decoder against PyTorch's with masks over all frames, decoded anew for each frame as published."""

import pytest
import torch
from torch import nn

from lipbench.nets import faceformer
from lipbench.nets.faceformer import FrameDecoder, Generator

SMALL = {
    "size": 12,
    "widths": (4, 6, 8),
    "residuals": (1, 0),
    "decoder_widths": (8, 6, 4),
    "decoder_residuals": 0,
    "hidden": 8,
    "heads": 2,
    "period": 3,
    "speech_width": 5,
}


def count(module):
    return sum(p.numel() for p in module.parameters())


def masks(frames, heads, slopes, period, per_frame, reach):
    """Bias (heads, frames, frames) of the attention to frames before, and what of the speech is hidden."""
    bias = torch.full((heads, frames, frames), -torch.inf)
    hidden = torch.ones(frames, per_frame * frames, dtype=torch.bool)
    for here in range(frames):
        hidden[here, per_frame * here : per_frame * (here + 1)] = False
        for there in range(max(0, here + 1 - reach), here + 1):
            for head, slope in enumerate(slopes):
                bias[head, here, there] = -slope * ((here - there) // period)
    return bias, hidden


def made_anew(net, style, speech, bias, hidden, period):
    """Embeddings by PyTorch's decoder with the same weights, which for each frame decodes all before again."""
    layers = []
    for own in net.layers:
        theirs = nn.TransformerDecoderLayer(style.shape[2], 2, 2 * style.shape[2], batch_first=True).eval()
        stored = {}
        for name, part in (("self_attn", own.self_attention), ("multihead_attn", own.speech_attention)):
            stored |= {f"{name}.in_proj_weight": part.qkv.weight, f"{name}.in_proj_bias": part.qkv.bias}
            stored |= {f"{name}.out_proj.{key}": value for key, value in part.out.state_dict().items()}
        parts = {"linear1": own.expand, "linear2": own.contract}
        parts |= {f"norm{k + 1}": norm for k, norm in enumerate(own.norms)}
        stored |= {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
        theirs.load_state_dict(stored)
        layers.append(theirs)
    tokens = style[:, :1]
    for frame in range(style.shape[1]):
        x = torch.stack([token + net.positions[k % period] for k, token in enumerate(tokens.unbind(1))], dim=1)
        n = frame + 1
        for layer in layers:
            own_bias = bias[:, :n, :n].repeat(len(style), 1, 1)
            x = layer(x, speech.flatten(1, 2), tgt_mask=own_bias, memory_mask=hidden[:n])
        embeddings = net.to_embedding(x)
        if n < style.shape[1]:
            tokens = torch.cat([tokens, (net.feedback(embeddings[:, -1]) + style[:, n])[:, None]], dim=1)
    return embeddings


@pytest.mark.parametrize(("layers", "per_frame", "reach"), [(1, 2, 600), (2, 1, 600), (1, 2, 4), (2, 2, 4)])
def test_kept_keys_give_what_decoding_anew_gives(layers, per_frame, reach):
    torch.manual_seed(0)
    net = FrameDecoder(8, heads=2, layers=layers, period=3, reach=reach).eval()
    style, speech = torch.randn(2, 11, 8), torch.randn(2, 11, per_frame, 8)
    with torch.no_grad():
        start = net.begin(torch.zeros(2, dtype=torch.long))
        made, state = net(style, speech, start)
        bias, hidden = masks(11, 2, (1 / 16, 1 / 256), 3, per_frame, reach)
        torch.testing.assert_close(made, made_anew(net, style, speech, bias, hidden, 3), rtol=0, atol=1e-6)
        assert [past.shape for past in state.past] == [(2, min(11, reach), 16)] * layers
        # In pieces, and so in bounded memory.
        first, between = net(style[:, :4], speech[:, :4], start)
        rest, end = net(style[:, 4:], speech[:, 4:], between)
        assert torch.equal(torch.cat([first, rest], dim=1), made)
        assert (between.frame.tolist(), end.frame.tolist()) == ([4, 4], [11, 11])
        # Nothing of a frame depends on what comes after it, and all on the speech of the first.
        other = speech.clone()
        other[:, 6:] += 1
        assert torch.equal(net(style, other, start)[0][:, :6], made[:, :6])
        assert (net(style, other, start)[0][:, 6] - made[:, 6]).abs().min() > 0
        other = speech.clone()
        other[:, 0] += 1
        assert (net(style, other, start)[0] - made).abs().amax(dim=2).min() > 0
        # Frames from the middle of a clip have its positions, which are the same after a period.
        later, _ = net(style, speech, net.begin(torch.tensor([3, 4])))
        assert torch.equal(later[0], made[0])
        assert (later[1] - made[1]).abs().amax(dim=1).min() > 0


def test_gradients_run_through_what_is_fed_back():
    torch.manual_seed(0)
    net = FrameDecoder(8, heads=2, period=3)
    style = torch.randn(1, 9, 8, requires_grad=True)
    nn.init.zeros_(net.layers[0].self_attention.out.weight)  # then feedback is the only way from frame to frame
    net(style, torch.randn(1, 9, 2, 8), net.begin(torch.tensor([0])))[0][:, -1].square().sum().backward()
    assert style.grad is not None
    assert style.grad.abs().amax(dim=2).min() > 0


def test_slopes_and_positions_are_the_published_ones():
    assert faceformer.head_slopes(4) == [1 / 4, 1 / 16, 1 / 64, 1 / 256]
    assert faceformer.head_slopes(8) == [0.5**k for k in range(1, 9)]
    assert faceformer.head_slopes(6) == [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]
    assert faceformer.attention_bias(4, 2, 5)[:, 0].tolist() == [
        [-2 * s, -s, -s, 0, 0] for s in (1 / 4, 1 / 16, 1 / 64, 1 / 256)
    ]
    table = FrameDecoder(64).positions
    angle = torch.tensor(7 / 10000 ** (10 / 64))
    torch.testing.assert_close(table[7, 10:12], torch.stack([angle.sin(), angle.cos()]))
    assert table.shape == (25, 64)


def test_generator_has_talklips_face_and_faceformers_decoder():
    with torch.device("meta"):
        net = Generator()
    face = count(net.face) + count(net.decoder) + count(net.to_rgb)
    assert face == 8_171_056 + 25_314_307
    layer = 2 * 4 * (512 * 512 + 512) + 512 * 1024 + 1024 + 1024 * 512 + 512 + 3 * 2 * 512
    assert count(net.sequence.layers) == layer == 3_154_432
    assert count(net.speech_map) == 393_728  # as TalkLip's map of its audio features
    assert count(net) == face + layer + 393_728 + 2 * (512 * 512 + 512) == 37_558_835
    assert net.sequence.bias.shape == (4, 1, 600)


def test_generator_uses_all_it_is_given_and_no_padding():
    torch.manual_seed(0)
    net = Generator(**SMALL)
    there = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    start = net.sequence.begin(torch.zeros(2, dtype=torch.long))
    given = [torch.rand(8, 3, 12, 12), torch.rand(8, 3, 12, 12), there, torch.randn(2, 5, 2, 5), start]
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        net(*given)  # so that no map is dead
        net.eval()
        before = net(*given)[0]
        assert before.shape == (8, 3, 12, 12)
        for place in (0, 1, 3):
            other = [value + 0.5 if k == place else value for k, value in enumerate(given)]
            assert (net(*other)[0] - before).abs().max() > 1e-3
        padded = given[3].clone()
        padded[1, 3:] = 9
        assert torch.equal(net(*given[:3], padded, start)[0], before)
        single = net.sequence.begin(torch.zeros(1, dtype=torch.long))
        alone = net(given[0][5:], given[1][5:], torch.ones(1, 3, dtype=torch.bool), given[3][1:, :3], single)[0]
        torch.testing.assert_close(alone, before[5:], rtol=0, atol=1e-6)


def test_refuses_sizes_that_do_not_fit():
    for width, heads in ((6, 4), (3, 3)):
        with pytest.raises(ValueError, match=f"divide by its {heads} heads; found {width}"):
            FrameDecoder(width, heads)
    with pytest.raises(ValueError, match="needs 3 decoder_widths"):
        Generator(**(SMALL | {"decoder_widths": (8, 8)}))
