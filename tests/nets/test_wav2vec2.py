"""wav2vec 2.0 against PyTorch's own layers, and its published file's names; sizes as published."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from lipbench.nets import wav2vec2
from lipbench.nets.wav2vec2 import Wav2Vec2, feature_count
from lipbench.pretrained.networks import load_wav2vec2

SMALL = {
    "widths": (4, 5, 6, 4, 5, 6, 8),
    "hidden": 16,
    "layers": 2,
    "heads": 2,
    "ffn": 12,
    "position_kernel": 6,
    "position_groups": 4,
}


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = Wav2Vec2(**SMALL).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # nothing at its initial value
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def encode(net, audio, length=None, steps=None):
    length = torch.tensor([audio.shape[1]]) if length is None else length
    steps = torch.tensor([feature_count(n) for n in length.tolist()]) if steps is None else steps
    with torch.no_grad():
        return net(audio, length, steps)


def test_has_the_published_sizes():
    with torch.device("meta"):
        published = Wav2Vec2()
    assert count(published) == 94_371_712  # of transformers' Wav2Vec2Model
    assert count(published.feature_extractor) == 4_200_448
    assert not any(p.requires_grad for p in published.feature_extractor.parameters())
    assert sum(p.numel() for p in published.parameters() if p.requires_grad) == 90_171_264
    assert [feature_count(n) for n in (1, 400, 719, 720, 16_000, 48_000)] == [1, 1, 1, 2, 49, 149]


def test_convolutions_in_pieces_are_those_of_the_whole(net, monkeypatch):
    audio = torch.randn(11_111)
    x = audio[None, None]
    for layer, stride in zip(net.feature_extractor.conv_layers, wav2vec2.STRIDES, strict=True):
        x = F.conv1d(x, layer.conv.weight, stride=stride)
        if stride == 5:
            x = F.group_norm(x, 4, layer.layer_norm.weight, layer.layer_norm.bias)
        x = F.gelu(x)
    assert x.shape == (1, 8, feature_count(11_111)) == (1, 8, 34)
    for piece in (500, 7):  # all at once, and in five
        monkeypatch.setattr(wav2vec2, "_PIECE", piece)
        torch.testing.assert_close(net.feature_extractor(audio), x, rtol=0, atol=1e-6)


def test_transformer_is_pytorchs_with_gelu_and_norms_after_each_part(net):
    x = torch.randn(2, 9, 16)
    conv = parametrizations.weight_norm(nn.Conv1d(16, 16, 6, padding=3, groups=4), dim=2)
    own = net.encoder.pos_conv_embed.conv
    stored = {"bias": own.bias, "weight.original0": own.weight_g, "weight.original1": own.weight_v}
    conv.load_state_dict({key.replace("weight.", "parametrizations.weight."): value for key, value in stored.items()})
    placed = net.encoder.layer_norm(x + F.gelu(conv(x.transpose(1, 2))[:, :, :9]).transpose(1, 2))
    expected = placed
    for layer in net.encoder.layers:
        theirs = nn.TransformerEncoderLayer(16, 2, 12, activation="gelu", batch_first=True).eval()
        of = layer.attention
        stored = {
            "self_attn.in_proj_weight": torch.cat([of.q_proj.weight, of.k_proj.weight, of.v_proj.weight]),
            "self_attn.in_proj_bias": torch.cat([of.q_proj.bias, of.k_proj.bias, of.v_proj.bias]),
        }
        parts = {
            "self_attn.out_proj": of.out_proj,
            "linear1": layer.feed_forward.intermediate_dense,
            "linear2": layer.feed_forward.output_dense,
            "norm1": layer.layer_norm,
            "norm2": layer.final_layer_norm,
        }
        stored |= {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
        theirs.load_state_dict(stored)
        expected = theirs(expected)
    torch.testing.assert_close(net.encoder(x, None), expected, rtol=0, atol=1e-5)


def test_a_clip_is_the_same_alone_and_in_a_batch(net):
    audio, length = torch.randn(3, 9_000), torch.tensor([5_001, 9_000, 250])  # the last is shorter than a feature
    together = encode(net, audio, length)
    assert together.shape == (3, feature_count(9_000), 16)
    for row, valid in enumerate(length.tolist()):
        alone = encode(net, audio[row : row + 1, :valid])[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=0, atol=1e-5)
        assert together[row, len(alone) :].abs().sum() == 0
    torch.testing.assert_close(encode(net, 3 * audio[1:2] + 0.5), together[1:2], rtol=0, atol=1e-4)  # normalized


def test_features_of_the_convolutions_are_interpolated_from_end_to_end(net):
    audio, seen = torch.randn(1, 4_000), []
    net.feature_projection.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    for steps in (12, 23, 5, 1, 0):
        assert encode(net, audio, steps=torch.tensor([steps])).shape == (1, steps, 16)
    plain, doubled, fewer, single, _ = seen
    assert len(plain) == 12 == feature_count(4_000)
    torch.testing.assert_close(doubled[::2], plain)
    torch.testing.assert_close(doubled[1::2], (plain[:-1] + plain[1:]) / 2)
    torch.testing.assert_close(fewer[2], (plain[5] + plain[6]) / 2)
    torch.testing.assert_close(single[0], plain[0])


def test_training_masks_spans_leaves_out_layers_and_keeps_the_convolutions(net):
    torch.manual_seed(1)
    masked = wav2vec2._masked_spans([3000, 40, 10, 9])
    assert masked.shape == (4, 3000)
    changes = masked.long().diff(dim=1, prepend=torch.zeros(4, 1).long())
    starts, ends = (changes == 1).nonzero(), (changes == -1).nonzero()
    assert bool((ends[:, 1] - starts[:, 1] >= 10).all())
    assert 2 <= (starts[:, 0] == 0).sum() <= 16
    assert 0.03 < masked[0].float().mean() <= 0.16 / 3
    assert 11 <= masked[1, :40].sum() <= 20
    assert masked[1:, 40:].sum() == 0
    assert (masked[2].sum(), masked[3].sum()) == (10, 0)

    for part in net.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(part, wav2vec2._Attention):
            part.dropout = 0.0
    net.train().encoder.layer_drop = 1.0
    x = torch.randn(1, 7, 16)
    torch.testing.assert_close(net.encoder(x, None), net.encoder.layer_norm(x + net.encoder.pos_conv_embed(x)))
    net.encoder.layer_drop = 0.0
    net(torch.randn(1, 8_000), torch.tensor([8_000]), torch.tensor([24])).square().sum().backward()
    without = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    assert without == {f"feature_extractor.{name}" for name, _ in net.feature_extractor.named_parameters()}


def test_refuses_sizes_that_do_not_fit():
    for options, message in (
        ({"widths": (4, 4)}, "7 convolutions; found 2"),
        ({"heads": 3}, "16 channels cannot have 3 heads and 4 groups"),
        ({"position_groups": 5}, "2 heads and 5 groups"),
    ):
        with pytest.raises(ValueError, match=message):
            Wav2Vec2(**(SMALL | options))


# ------------------------------------------------------------------------------------------------------ published files


def published(net, new_names=False):
    """The state dict as transformers saves it, of a network for recognition."""
    tensors = {f"wav2vec2.{key}": value for key, value in net.state_dict().items()}
    tensors |= {"lm_head.weight": torch.zeros(5, 16), "lm_head.bias": torch.zeros(5)}
    if new_names:
        for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
            prefix = "wav2vec2.encoder.pos_conv_embed.conv"
            tensors[f"{prefix}.parametrizations.weight.{new}"] = tensors.pop(f"{prefix}.{old}")
    return tensors


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_published_files_load_by_their_names(net, tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    if suffix == "bin":
        torch.save(published(net, new_names=True), path)
    else:
        save_file(published(net), path)
    loaded, digest = load_wav2vec2(path)
    assert len(digest) == 64
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in net.state_dict().items())
    assert loaded.state_dict().keys() == net.state_dict().keys()
    assert not loaded.training
    loaded.encoder.layers[0].attention.heads = loaded.encoder.layers[1].attention.heads = 2  # no shape tells these
    audio = torch.randn(1, 4_000)
    assert torch.equal(encode(loaded, audio), encode(net, audio))


def test_other_files_are_refused(net, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(
        FileNotFoundError, match=r"no wav2vec 2\.0 weights at .*; give model\.safetensors or pytorch_mo"
    ):
        load_wav2vec2(path)
    whole = published(net)
    large = {"wav2vec2.feature_extractor.conv_layers.1.layer_norm.weight": torch.zeros(5)}  # of the large network
    query = "wav2vec2.encoder.layers.0.attention.q_proj.weight"
    for tensors, message in (
        ({"a": torch.zeros(3)}, "conv_layers.0.conv.weight is absent or of another shape, and a is there"),
        ({"lm_head.weight": torch.zeros(3)}, "and nothing is there"),
        (whole | large, "does not fit Wav2Vec2: 1 belong to no layer, such as feature_extractor.conv_layers.1.layer_n"),
        ({key: value for key, value in whole.items() if "masked" not in key}, "1 tensors are missing, such as masked_"),
        (whole | {query: torch.zeros(8, 16)}, r"\(16, 4, 6\) and encoder.layers.0.attention.q_proj.weight \(8, 16\)"),
        (whole | {query: torch.full((16, 16), torch.nan)}, "spoiled: 256 of 256"),
    ):
        save_file(tensors, path)
        with pytest.raises(ValueError, match=message):
            load_wav2vec2(path)
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match="no plain dictionary of tensors, and nothing in it was run"):
        load_wav2vec2(path)
