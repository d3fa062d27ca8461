"""LipGAN's networks against the published layers: parameters counted from the tables, sizes of all maps."""

import pytest
import torch
from torch import nn

from lipbench.nets.lipgan import HEARING, Generator, SyncDiscriminator

SMALL = {
    "size": 12,
    "widths": (4, 6, 8),
    "blocks": (1, 0),
    "audio_widths": (4, 4, 6, 8),
    "audio_blocks": (0, 0, 0, 1),
    "decoder_blocks": 1,
    "hidden": 8,
}
WIDTHS = (32, 64, 128, 256, 512, 512)


def count(module):
    return sum(p.numel() for p in module.parameters())


def conv(kernel, before, after, other=None):
    """Weights and biases of a convolution, scale and shift of its BatchNorm."""
    return kernel * (other or kernel) * before * after + 3 * after


def blocks(number, width):
    return number * 2 * conv(3, width, width)


def shapes(module, names, *inputs):
    """Name of a part -> (channels, height, width) of what it gives."""
    found = {}
    for name in names:
        part = module.get_submodule(name)
        part.register_forward_hook(lambda _, __, out, name=name: found.update({name: tuple(out.shape[1:])}))
    out = module(*inputs)
    return found, out


@pytest.mark.parametrize(("front_end", "total"), [("mfcc", 71_331_987), ("mel", 49_838_803)])
def test_generator_has_the_published_layers(front_end, total):
    """The tables of the published code: master (mfcc, 71.33 M) and fully_pythonic (mel), summed layer by layer."""
    face = conv(7, 6, 32) + conv(5, 32, 64) + blocks(2, 64) + conv(3, 64, 128) + blocks(3, 128)
    face += conv(3, 128, 256) + blocks(2, 256) + conv(3, 256, 512) + blocks(2, 512) + conv(3, 512, 512)
    face += conv(3, 512, 512) + conv(1, 512, 512)
    sound = {
        "mfcc": conv(3, 1, 128)
        + (blocks(3, 128) + conv(3, 128, 256) + blocks(2, 256) + conv(3, 256, 512) + blocks(2, 512))
        + (conv(3, 512, 512) + blocks(1, 512) + conv(4, 512, 512, 5) + conv(1, 512, 512)),
        "mel": conv(3, 1, 32)
        + (blocks(2, 32) + conv(3, 32, 64) + blocks(2, 64) + conv(3, 64, 128) + blocks(3, 128))
        + (conv(3, 128, 256) + blocks(2, 256) + conv(3, 256, 512) + conv(1, 512, 512)),
    }[front_end]
    decoder = conv(3, 1024, 512) + conv(3, 1024, 512) + blocks(2, 512) + conv(3, 1024, 256) + blocks(2, 256)
    decoder += conv(3, 512, 128) + blocks(2, 128) + conv(3, 256, 64) + blocks(2, 64) + conv(3, 128, 32)
    decoder += conv(3, 64, 16) + conv(3, 16, 16) + 16 * 3 + 3
    assert face + sound + decoder == total
    with torch.device("meta"):
        network = Generator(front_end=front_end)
    assert count(network) == total
    assert count(network.sound) == sound


@pytest.mark.parametrize("front_end", HEARING)
def test_every_map_has_the_published_size(front_end):
    with torch.device("meta"):
        network = Generator(front_end=front_end)
        picture, sound = torch.zeros(2, 3, 96, 96), torch.zeros(2, *HEARING[front_end].shape)
        stages = [f"{part}.{k}" for part in ("face", "decoder") for k in range(6)]
        found, out = shapes(network, [*stages, "face_embedding", "sound"], picture, picture, sound)
    assert out.shape == (2, 3, 96, 96)
    assert out.dtype == torch.float32
    sides = (96, 48, 24, 12, 6, 3)
    for k, (width, side) in enumerate(zip(WIDTHS, sides, strict=True)):
        assert found[f"face.{k}"] == (width, side, side)
        assert found[f"decoder.{5 - k}"] == (width, side, side)
    assert found["face_embedding"] == found["sound"] == (512, 1, 1)


@pytest.mark.parametrize(("front_end", "total"), [("mfcc", 14_388_608), ("mel", 8_245_952)])
def test_discriminator_has_the_published_layers(front_end, total):
    """14.39 M for MFCC; convolutions weigh 14,382,720, and every normalised one has a scale and a shift a channel."""
    with torch.device("meta"):
        network = SyncDiscriminator(front_end=front_end)
        found, out = shapes(
            network, ["face", "sound"], torch.zeros(2, 3, 96, 96), torch.zeros(2, *HEARING[front_end].shape)
        )
    assert count(network) == total
    assert found == {"face": (512,), "sound": (512,)}
    assert out.shape == (2,)
    if front_end == "mfcc":
        assert sum(count(part) for part in network.modules() if isinstance(part, nn.Conv2d)) == 14_382_720
        assert isinstance(network.sound[-2], nn.Conv2d)  # bare, as on the face
    assert isinstance(network.face[-2], nn.Conv2d)


@pytest.mark.parametrize("front_end", HEARING)
def test_generator_uses_all_it_is_given(front_end):
    torch.manual_seed(0)
    network = Generator(**SMALL, front_end=front_end).eval()
    given = [torch.rand(2, 3, 12, 12), torch.rand(2, 3, 12, 12), torch.randn(2, *HEARING[front_end].shape)]
    with torch.no_grad():
        before = network(*given)
        assert before.min() > 0
        assert before.max() < 1
        for place in range(3):
            other = [value + 0.5 if k == place else value for k, value in enumerate(given)]
            assert (network(*other) - before).abs().max() > 1e-6
        torch.testing.assert_close(network(*(value[1:] for value in given)), before[1:])


def test_settings_of_the_published_layers():
    network = Generator(**SMALL)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    assert {(part.eps, part.momentum) for part in norms} == {(1e-3, 0.2)}  # Keras: epsilon, 1 - momentum
    convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d)]
    assert all((part.bias == 0).all() for part in convolutions)
    first = network.face[0][0].weight  # Glorot: uniform up to sqrt(6 / (fan in + fan out))
    assert 0.9 < first.abs().max() / (6 / (49 * 6 + 49 * 4)) ** 0.5 <= 1


@pytest.mark.parametrize("front_end", HEARING)
def test_distance_is_between_unit_vectors_and_of_each_pair_alone(front_end):
    torch.manual_seed(0)
    network = SyncDiscriminator(12, front_end, 4)
    face, sound = torch.rand(6, 3, 12, 12), torch.randn(6, *HEARING[front_end].shape)
    distance = network(face, sound)
    assert distance.shape == (6,)
    assert ((distance > 0) & (distance < 2)).all()
    torch.testing.assert_close(network(face[2:3], sound[2:3]), distance[2:3])
    assert not torch.allclose(network(face, sound.roll(1, 0)), distance)
    assert not torch.allclose(network(face.roll(1, 0), sound), distance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 40}, "3 x 2"),
        ({"size": 24}, "needs 4 widths"),
        ({"blocks": (1, 1, 1)}, "needs 2 blocks"),
        ({"audio_widths": (8, 8)}, "needs 4 audio_widths"),
        ({"audio_blocks": (1,)}, "needs 4 audio_blocks"),
    ],
)
def test_generator_refuses_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        Generator(**(SMALL | options))


@pytest.mark.parametrize(("size", "width"), [(40, 4), (3, 4), (12, 5), (12, 0)])
def test_discriminator_refuses_sizes_that_do_not_fit(size, width):
    with pytest.raises(ValueError, match=r"3 x 2\^n pixels a side|LipGAN's discriminator"):
        SyncDiscriminator(size, "mel", width)
