"""Wav2Lip's networks against the published layers: parameters counted from the tables, sizes of all maps."""

import pytest
import torch
from torch import nn

from lipbench.nets.wav2lip import Expert, Generator
from lipbench.types import View

SMALL = {
    "size": 12,
    "widths": (4, 6, 8),
    "residuals": (1, 0),
    "decoder_widths": (8, 6, 4),
    "decoder_residuals": 1,
    "audio_widths": (4, 4, 6, 8),
    "audio_residuals": (0, 0, 0, 1),
    "hidden": 8,
}
SMALL_EXPERT = {
    "size": 24,
    "widths": (4, 6, 6, 8),
    "residuals": (1, 0, 0),
    "audio_widths": (4, 4, 6, 8),
    "audio_residuals": (0, 0, 0, 1),
    "hidden": 16,
}


def count(module):
    return sum(p.numel() for p in module.parameters())


def conv(kernel, before, after):
    """Weights and biases of a convolution, scale and shift of its BatchNorm."""
    return kernel**2 * before * after + 3 * after


def residuals(number, width):
    return number * conv(3, width, width)


def sound(last):
    """The audio encoder of either network, with so many residual convolutions in its last stage."""
    layers = conv(3, 1, 32) + residuals(2, 32) + conv(3, 32, 64) + residuals(2, 64) + conv(3, 64, 128)
    layers += residuals(2, 128) + conv(3, 128, 256) + residuals(last, 256)
    return layers + conv(3, 256, 512) + conv(1, 512, 512)


def test_generator_has_the_published_layers():
    face = conv(7, 6, 16) + conv(3, 16, 32) + residuals(2, 32) + conv(3, 32, 64) + residuals(3, 64)
    face += conv(3, 64, 128) + residuals(2, 128) + conv(3, 128, 256) + residuals(2, 256)
    face += conv(3, 256, 512) + residuals(1, 512) + conv(3, 512, 512) + conv(1, 512, 512)
    decoder = conv(1, 512, 512) + conv(3, 1024, 512) + residuals(1, 512) + conv(3, 1024, 512) + residuals(2, 512)
    decoder += conv(3, 768, 384) + residuals(2, 384) + conv(3, 512, 256) + residuals(2, 256)
    decoder += conv(3, 320, 128) + residuals(2, 128) + conv(3, 160, 64) + residuals(2, 64)
    decoder += conv(3, 80, 32) + 32 * 3 + 3
    assert (face, sound(1), decoder) == (8_171_056, 2_812_672, 25_314_307)
    with torch.device("meta"):
        network = Generator()
    assert count(network) == face + sound(1) + decoder == 36_298_035
    assert (count(network.face), count(network.sound)) == (face, sound(1))
    assert (count(network.decoder), count(network.to_rgb)) == (25_291_072, 23_235)
    # Names in checkpoints, and their order, by which Adam's state in them is kept.
    names = list(dict.fromkeys(name.rpartition(".")[0].partition(".")[0] for name in network.state_dict()))
    assert names == ["face", "sound", "decoder", "to_rgb"]
    assert {f"{part}.0.0.weight" for part in ("face", "decoder", "to_rgb")} <= network.state_dict().keys()
    assert "sound.0.0.0.weight" in network.state_dict()


def test_expert_has_the_published_layers():
    face = conv(7, 15, 32) + conv(5, 32, 64) + residuals(2, 64) + conv(3, 64, 128) + residuals(3, 128)
    face += conv(3, 128, 256) + residuals(2, 256) + conv(3, 256, 512) + residuals(2, 512)
    face += conv(3, 512, 512) + conv(3, 512, 512) + conv(1, 512, 512)
    with torch.device("meta"):
        network = Expert()
    assert (count(network.face), count(network.sound)) == (face, sound(2))
    assert count(network) == 16_435_072
    assert network.view == View("face", 96, 96)


def shapes(module, names, call):
    """Name of a part -> (channels, height, width) of what it gives."""
    found = {}
    for name in names:
        part = module.get_submodule(name)
        part.register_forward_hook(lambda _, __, out, name=name: found.update({name: tuple(out.shape[1:])}))
    return found, call()


def test_every_map_has_the_published_size():
    with torch.device("meta"):
        network = Generator()
        picture, window = torch.zeros(2, 3, 96, 96), torch.zeros(2, 80, 16)
        names = [f"{part}.{k}" for part in ("face", "decoder") for k in range(7)]
        names += [f"sound.{k}" for k in range(6)]
        found, out = shapes(network, names, lambda: network(picture, picture, window))
    assert out.shape == (2, 3, 96, 96)
    assert out.dtype == torch.float32
    sides = (96, 48, 24, 12, 6, 3, 1)
    for k, (width, side) in enumerate(zip((16, 32, 64, 128, 256, 512, 512), sides, strict=True)):
        assert found[f"face.{k}"] == (width, side, side)
    for k, (width, side) in enumerate(zip((512, 512, 512, 384, 256, 128, 64), reversed(sides), strict=True)):
        assert found[f"decoder.{k}"] == (width, side, side)
    of_sound = [(32, 80, 16), (64, 27, 16), (128, 9, 6), (256, 3, 3), (512, 1, 1), (512, 1, 1)]
    assert [found[f"sound.{k}"] for k in range(6)] == of_sound


def test_the_experts_maps_have_the_published_sizes():
    with torch.device("meta"):
        network = Expert()
        names = [f"face.{k}" for k in range(8)]
        found, faces = shapes(network, names, lambda: network.embed_faces(torch.zeros(2, 5, 3, 48, 96)))
        heard = network.embed_sound(torch.zeros(2, 80, 16))
    assert faces.shape == heard.shape == (2, 512)
    sizes = [(48, 96), (46, 47), (23, 24), (12, 12), (6, 6), (3, 3), (1, 1), (1, 1)]
    assert [found[f"face.{k}"][1:] for k in range(8)] == sizes


def test_generator_uses_all_it_is_given():
    torch.manual_seed(0)
    network = Generator(**SMALL)
    given = [torch.rand(8, 3, 12, 12), torch.rand(8, 3, 12, 12), torch.randn(8, 80, 16)]
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = 1.0
        network(*given)  # so that no map is dead
        network.eval()
        before = network(*given)
        assert before.min() > 0
        assert before.max() < 1
        for place in range(3):
            other = [value + 0.5 if k == place else value for k, value in enumerate(given)]
            assert (network(*other) - before).abs().max() > 1e-6
        torch.testing.assert_close(network(*(value[1:] for value in given)), before[1:])
        # The pose comes before the reference, as in published weights.
        network.face[0][0].weight[:, :3] = 0
        assert torch.equal(network(given[0], given[1] * 0, given[2]), network(*given))
        assert not torch.equal(network(given[0] * 0, given[1], given[2]), network(*given))


def test_residual_convolutions_add_their_input_before_they_cut():
    network = Generator(**SMALL)
    part = network.face[1][1].eval()
    x = torch.randn(1, 6, 6, 6)
    nn.init.zeros_(part.layers[0].weight)
    nn.init.zeros_(part.layers[0].bias)
    assert torch.equal(part(x), x.relu())


def test_embeddings_are_unit_vectors_whose_cosine_is_a_probability():
    torch.manual_seed(0)
    network = Expert(**SMALL_EXPERT).eval()
    lower, window = torch.rand(6, 5, 3, 12, 24), torch.randn(6, 80, 16)
    with torch.no_grad():
        faces, heard = network.embed_faces(lower), network.embed_sound(window)
        for embedding in (faces, heard):
            assert embedding.shape == (6, 16)
            assert embedding.min() >= 0
            torch.testing.assert_close(embedding.norm(dim=1), torch.ones(6))
        torch.testing.assert_close(network.embed_faces(lower[2:3]), faces[2:3])
        assert not torch.allclose(network.embed_faces(lower.flip(1)), faces)  # the order of the frames matters
        assert not torch.allclose(network.embed_sound(window.flip(2)), heard)
    again = Expert(**network.arguments)
    assert [p.shape for p in again.parameters()] == [p.shape for p in network.parameters()]


@pytest.mark.parametrize("size", [12, 24, 48, 192])
def test_other_sizes(size):
    stages = {12: 2, 24: 3, 48: 4, 192: 6}[size]
    shared = {"size": size, "widths": (4,) * (stages + 1), "residuals": (0,) * stages, "hidden": 4}
    sizes = {"audio_widths": (4,) * 4, "audio_residuals": (0,) * 4}
    picture, window = torch.rand(1, 3, size, size), torch.rand(1, 80, 16)
    generator = Generator(**shared, **sizes, decoder_widths=(4,) * (stages + 1)).eval()
    assert generator(picture, picture, window).shape == picture.shape
    if size == 12:
        with pytest.raises(ValueError, match="24 pixels or more a side, found 12"):
            Expert(**shared, **sizes)
    else:
        assert Expert(**shared, **sizes).eval().embed_faces(torch.rand(1, 5, 3, size // 2, size)).shape == (1, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 40}, "3 x 2"),
        ({"size": 24}, "needs 4 widths, found 3"),
        ({"residuals": (1, 1, 1)}, "needs 2 residuals"),
        ({"decoder_widths": (8, 8)}, "needs 3 decoder_widths"),
        ({"audio_widths": (8, 8)}, "4 stages; found 2 audio_widths"),
        ({"audio_residuals": (1,)}, "4 stages; found 4 audio_widths and 1"),
    ],
)
def test_generator_refuses_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        Generator(**(SMALL | options))


def test_expert_refuses_sizes_that_do_not_fit():
    for options, message in (({"size": 25}, "3 x 2"), ({"widths": (4, 4)}, "4 widths"), ({"residuals": ()}, "3 resid")):
        with pytest.raises(ValueError, match=message):
            Expert(**(SMALL_EXPERT | options))
