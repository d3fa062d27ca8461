"""LipGAN's networks against the published layers: counts, sizes of all maps, values of the published order of layers.

Beside the authors' own code under TensorFlow 2.21, with the same random weights, faces of 96x96 and both front ends,
generators differ by up to 3.3e-7 (at a standard deviation of 0.043) and discriminators by up to 2.4e-7.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lipbench.nets.lipgan import FRONT_ENDS, Generator, SameConv2d, SameDoubling2d, SyncDiscriminator

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


@pytest.mark.parametrize(("front_end", "total"), [("mfcc", 71_331_987), ("mel", 49_543_123)])
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
        + (blocks(2, 32) + conv(3, 32, 64) + blocks(2, 64) + conv(3, 64, 128) + blocks(2, 128))
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


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_every_map_has_the_published_size(front_end):
    with torch.device("meta"):
        network = Generator(front_end=front_end)
        picture, sound = torch.zeros(2, 3, 96, 96), torch.zeros(2, *FRONT_ENDS[front_end].shape)
        stages = [f"{part}.{k}" for part in ("face", "decoder") for k in range(6)]
        found, out = shapes(network, [*stages, "face_embedding", "sound"], picture, picture, sound)
    assert out.shape == (2, 3, 96, 96)
    assert out.dtype == torch.float32
    sides = (96, 48, 24, 12, 6, 3)
    for k, (width, side) in enumerate(zip(WIDTHS, sides, strict=True)):
        assert found[f"face.{k}"] == (width, side, side)
        assert found[f"decoder.{5 - k}"] == (width, side, side)
    assert found["face_embedding"] == found["sound"] == (512, 1, 1)


@pytest.mark.parametrize(("front_end", "total"), [("mfcc", 14_382_742), ("mel", 8_240_022)])
def test_discriminator_has_the_published_layers(front_end, total):
    """14.38 M for MFCC: convolutions weigh 14,382,720, and each of 11 normalizations has one scale and one shift."""
    with torch.device("meta"):
        network = SyncDiscriminator(front_end=front_end)
        found, out = shapes(
            network, ["face", "sound"], torch.zeros(2, 3, 96, 96), torch.zeros(2, *FRONT_ENDS[front_end].shape)
        )
    assert count(network) == total
    assert found == {"face": (512,), "sound": (512,)}
    assert out.shape == (2,)
    if front_end == "mfcc":
        assert sum(count(part) for part in network.modules() if isinstance(part, nn.Conv2d)) == 14_382_720
        assert isinstance(network.sound[-2], nn.Conv2d)  # bare, as on the face
    assert isinstance(network.face[-2], nn.Conv2d)


def same(x, layer, stride=(1, 1)):
    """TensorFlow's padding "same" in the words of its documentation, then a convolution without padding."""
    edges = []
    for side, kernel, step in zip(x.shape[:1:-1], layer.weight.shape[:1:-1], stride[::-1], strict=True):
        total = max(kernel - (step if side % step == 0 else side % step), 0)
        edges += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, edges), layer.weight, layer.bias, stride)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        ((96, 96), 5, 2, (48, 48)),
        ((96, 96), 7, 2, (48, 48)),
        ((48, 48), 3, 2, (24, 24)),
        ((80, 27), 3, 1, (80, 27)),
        ((80, 27), 3, 3, (27, 9)),
        ((27, 9), 3, (3, 1), (9, 9)),
        ((9, 9), 3, 3, (3, 3)),
        ((13, 35), 3, (1, 2), (13, 18)),
        ((13, 18), 3, 2, (7, 9)),
        ((7, 9), 3, 2, (4, 5)),
    ],
)
def test_padding_is_tensorflows(size, kernel, stride, expected):
    torch.manual_seed(0)
    layer, x = SameConv2d(2, 3, kernel, stride).double(), torch.randn(2, 2, *size, dtype=torch.float64)
    assert layer(x).shape == (2, 3, *expected)
    torch.testing.assert_close(layer(x), same(x, layer, stride if isinstance(stride, tuple) else (stride, stride)))


@pytest.mark.parametrize(
    ("length", "stride", "reads"),
    [(96, 2, [(0, 1, 2), (92, 93, 94), (94, 95)]), (27, 3, [(0, 1, 2), (21, 22, 23), (24, 25, 26)])],
)
def test_what_the_first_and_last_outputs_read(length, stride, reads):
    """An odd zero comes at the end, and of 27 values the last is read."""
    layer = SameConv2d(1, 1, 3, stride)
    nn.init.ones_(layer.weight)
    for place, values in zip((0, -2, -1), reads, strict=True):
        x = torch.zeros(1, 1, length, length, requires_grad=True)
        layer(x)[0, 0, place, place].backward()
        assert x.grad[0, 0].nonzero().tolist() == [[row, column] for row in values for column in values]


def test_doubling_is_the_reverse_of_the_convolution():
    """How TensorFlow defines it: <convolved y, x> = <y, doubled x>."""
    torch.manual_seed(0)
    halve, double = SameConv2d(3, 2, 3, 2).double(), SameDoubling2d(2, 3).double()
    double.weight.data = halve.weight.data
    nn.init.zeros_(halve.bias)
    nn.init.zeros_(double.bias)
    x, y = torch.randn(2, 2, 6, 5, dtype=torch.float64), torch.randn(2, 3, 12, 10, dtype=torch.float64)
    assert double(x).shape == y.shape
    torch.testing.assert_close((halve(y) * x).sum(), (y * double(x)).sum())


STRIDES = {"mel": ((1, 1), (3, 3), (3, 1), (3, 3)), "mfcc": ((1, 1), (1, 2), (2, 2), (2, 2))}


def published_generator(network, identity, pose, sound, front_end):
    """The published order of layers, with the weights of a network of `SMALL`'s sizes."""
    parts = list(network.modules())
    convolutions = iter([part for part in parts if isinstance(part, nn.Conv2d)])
    transposed = iter([part for part in parts if isinstance(part, nn.ConvTranspose2d)])
    norms = iter([part for part in parts if isinstance(part, nn.BatchNorm2d)])

    def cb(x, stride=(1, 1), valid=False):
        layer = next(convolutions)
        x = F.conv2d(x, layer.weight, layer.bias) if valid else same(x, layer, stride)
        return F.relu(next(norms)(x))

    def rb(x):
        return F.relu(cb(cb(x)) + x)

    def dc(x, stride):
        layer, sides = next(transposed), [stride * side for side in x.shape[2:]]
        x = F.conv_transpose2d(x, layer.weight, layer.bias, stride)
        return F.relu(next(norms)(x[:, :, : sides[0], : sides[1]]))

    large = cb(torch.cat([identity, pose], 1))
    middle = rb(cb(large, (2, 2)))
    small = cb(middle, (2, 2))
    face = cb(cb(small, valid=True))
    x = sound[:, None]
    for place, stride in enumerate(STRIDES[front_end]):
        if front_end == "mfcc" and place == 1:
            x = F.pad(x, (0, 0, 1, 0))
        x = cb(x, stride)
    x = torch.cat([face, cb(cb(rb(x), valid=True))], 1)
    x = torch.cat([small, dc(x, 3)], 1)
    x = torch.cat([middle, rb(dc(x, 2))], 1)
    x = cb(cb(torch.cat([large, dc(x, 2)], 1)))
    return torch.sigmoid(same(x, next(convolutions)))


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_generator_equals_the_published_order_of_layers(front_end):
    torch.manual_seed(0)
    network = Generator(**SMALL, front_end=front_end).double()
    given = [torch.rand(2, 3, 12, 12), torch.rand(2, 3, 12, 12), torch.randn(2, *FRONT_ENDS[front_end].shape)]
    given = [value.double() for value in given]
    for _ in range(20):  # so that BatchNorm has seen something
        network(*given)
    network.eval()
    with torch.no_grad():
        expected = published_generator(network, *given, front_end)
        assert expected.std() > 0.01
        torch.testing.assert_close(network(*given).double(), expected, rtol=0, atol=1e-6)


def published_distance(network, face, sound, front_end):
    """The published order of layers, with the weights of a network for faces of 12x12."""
    convolutions = iter([part for part in network.modules() if isinstance(part, nn.Conv2d)])
    norms = iter([(part.scale, part.shift) for part in network.modules() if hasattr(part, "shift")])

    def judging(x, stride=(1, 1), valid=False):
        layer = next(convolutions)
        x = F.conv2d(x, layer.weight, layer.bias) if valid else same(x, layer, stride)
        mean, deviation = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), correction=0, keepdim=True)
        scale, shift = next(norms)
        return F.leaky_relu((x - mean) / (deviation + 1e-3) * scale + shift, 0.2)

    for _ in range(2):
        face = judging(face, (2, 2))
    last = next(convolutions)
    seen = F.conv2d(face, last.weight, last.bias).flatten(1)
    x = sound[:, None]
    if front_end == "mel":
        for stride in STRIDES["mel"]:
            x = judging(x, stride)
        heard = judging(judging(x, valid=True)).flatten(1)
    else:
        x = F.pad(judging(judging(x)), (0, 0, 1, 0))
        for stride in ((1, 2), (1, 1), (2, 2), (2, 2)):
            x = judging(x, stride)
        last = next(convolutions)
        heard = F.conv2d(x, last.weight, last.bias).flatten(1)
    return (seen / seen.norm(dim=1, keepdim=True) - heard / heard.norm(dim=1, keepdim=True)).norm(dim=1)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_discriminator_equals_the_published_order_of_layers(front_end):
    torch.manual_seed(0)
    network = SyncDiscriminator(12, front_end, 4)
    for part in network.parameters():
        if part.ndim < 2:
            nn.init.normal_(part, 0.5, 0.2)
    # Little sound, whose deviation is not far above what is added to it.
    face, sound = torch.rand(4, 3, 12, 12), 0.01 * torch.randn(4, *FRONT_ENDS[front_end].shape)
    with torch.no_grad():
        expected = published_distance(network, face, sound, front_end)
        torch.testing.assert_close(network(face, sound), expected, rtol=0, atol=1e-5)


def test_sound_without_any_variation_has_a_gradient():
    network = SyncDiscriminator(12, "mfcc", 4)
    network(torch.rand(2, 3, 12, 12), torch.zeros(2, 12, 35)).sum().backward()
    assert all(part.grad.isfinite().all() for part in network.parameters() if part.grad is not None)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_generator_uses_all_it_is_given(front_end):
    torch.manual_seed(0)
    network = Generator(**SMALL, front_end=front_end).eval()
    given = [torch.rand(2, 3, 12, 12), torch.rand(2, 3, 12, 12), torch.randn(2, *FRONT_ENDS[front_end].shape)]
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


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_distance_is_between_unit_vectors_and_of_each_pair_alone(front_end):
    torch.manual_seed(0)
    network = SyncDiscriminator(12, front_end, 4)
    face, sound = torch.rand(6, 3, 12, 12), torch.randn(6, *FRONT_ENDS[front_end].shape)
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
