"""Speech2Vid's networks: counts of the published layers, sizes of all maps, identity images, TensorFlow's padding.

Beside the authors' own code with the same random weights, the clip generator is equal bit by bit in evaluation and in
training. Beside the reimplementation's own lines under Keras 3 (backend PyTorch), the frame generator differs by up to
2.4e-7 at a deviation of 0.075.
"""

import pytest
import torch
from torch.nn import functional as F

from lipbench.nets.speech2vid import ClipGenerator, FrameGenerator, _SamePool2d, _SameUpconv2d


def count(module):
    return sum(p.numel() for p in module.parameters())


def shapes(network, *inputs):
    """Name of a part -> (channels, height, width) of what it gives, and the network's output."""
    found = {}
    for name, part in network.named_modules():
        part.register_forward_hook(lambda _, __, out, name=name: found.update({name: tuple(out.shape[1:])}))
    return found, network(*inputs)


def test_clip_generator_has_the_published_layers():
    with torch.device("meta"):
        network = ClipGenerator()
        found, video = shapes(network, torch.zeros(2, 1, 3, 64, 64), torch.zeros(2, 64, 128))
        unread = 3 * 9 * 128 + 128 * 9 * 256 + 2 * (128 + 256)
        assert count(network) == 38_778_992 - unread
        assert count(ClipGenerator(5)) - count(network) == 4 * 3 * 49 * 96
    assert video.shape == (2, 16, 3, 64, 64)
    assert found["large"] == (96, 30, 30)
    assert found["middle"] == (256, 12, 12)
    assert found["decoder.0"] == (256, 12, 12)
    assert found["decoder.1"] == (96, 30, 30)
    assert found["to_rgb"] == (48, 64, 64)


def test_frame_generator_has_the_published_layers():
    with torch.device("meta"):
        network = FrameGenerator()
        found, frames = shapes(network, torch.zeros(2, 5, 3, 112, 112), torch.zeros(2, 12, 35))
        assert count(network) == 41_748_325
        assert count(FrameGenerator(2)) == 41_705_989  # the reimplementation with one still image and its masked frame
    assert frames.shape == (2, 3, 112, 112)
    assert [found[name] for name in ("large", "middle", "small")] == [(96, 28, 28), (256, 14, 14), (256, 7, 7)]
    assert [found[f"decoder.{k}"][1] for k in range(4)] == [7, 14, 28, 112]
    assert found["audio.6"] == (512, 6, 9)


@pytest.mark.parametrize("references", [1, 5])
def test_identity_images_are_stacked(references):
    torch.manual_seed(0)
    network = ClipGenerator(references, width=1, bands=8).eval()
    identity, audio = torch.rand(2, references, 3, 64, 64), torch.randn(2, 64, 8)
    video = network(identity, audio)
    assert video.shape == (2, 16, 3, 64, 64)
    assert video.dtype == torch.float32
    for place in range(references):
        other = identity.clone()
        other[:, place] = 0
        assert (network(other, audio) != video).any()
    assert (network(identity, -audio) != video).any()


def test_colors_lie_apart_in_the_output():
    """48 channels are the red of all 16 frames, then the green, then the blue, as published."""
    network = ClipGenerator(width=1, bands=8).eval()
    torch.nn.init.zeros_(network.to_rgb.weight)
    network.to_rgb.bias.data = torch.arange(48) / 100
    video = network(torch.rand(1, 1, 3, 64, 64), torch.randn(1, 64, 8))
    torch.testing.assert_close(video[0, 5, 1].mean(), torch.tensor((16 + 5) / 100).tanh())


def test_frame_generator_trains_all_its_parameters():
    torch.manual_seed(0)
    network = FrameGenerator(1, width=2)
    frames = network(torch.rand(2, 1, 3, 112, 112), torch.randn(2, 12, 35))
    assert frames.shape == (2, 3, 112, 112)
    assert frames.min() > 0
    assert frames.max() < 1
    frames.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("shape", [(12, 35), (12, 18), (56, 56), (14, 14)])
@pytest.mark.parametrize("stride", [(1, 2), (2, 2)])
def test_pooling_pads_as_tensorflow(shape, stride):
    x = torch.rand(1, 2, *shape)
    edges = []
    for side, step in zip(shape[::-1], stride[::-1], strict=True):
        total = max(3 - (step if side % step == 0 else side % step), 0)
        edges += [total // 2, total - total // 2]
    torch.testing.assert_close(_SamePool2d(stride)(x), F.max_pool2d(F.pad(x, edges, value=-torch.inf), 3, stride))


@pytest.mark.parametrize(("kernel", "stride"), [(6, 1), (5, 1), (5, 2)])
def test_transposed_convolution_is_the_reverse_of_tensorflows(kernel, stride):
    """How TensorFlow defines it: <convolved y, x> = <y, upsampled x>, with its padding "same"."""
    torch.manual_seed(0)
    layer = _SameUpconv2d(3, 2, kernel, stride).double()
    torch.nn.init.zeros_(layer.bias)
    x, y = torch.randn(2, 3, 6, 5, dtype=torch.float64), torch.randn(2, 2, 6 * stride, 5 * stride, dtype=torch.float64)
    total = kernel - stride
    convolved = F.conv2d(F.pad(y, (total // 2, total - total // 2) * 2), layer.weight, stride=stride)
    assert layer(x).shape == y.shape
    torch.testing.assert_close((convolved * x).sum(), (y * layer(x)).sum())


@pytest.mark.parametrize(
    ("network", "inputs", "message"),
    [
        (
            ClipGenerator(2, 1, 8),
            ((1, 1, 3, 64, 64), (1, 64, 8)),
            r"shape \(B, 2, 3, 64, 64\), found \(B, 1, 3, 64, 64\)",
        ),
        (ClipGenerator(1, 1, 8), ((1, 1, 3, 64, 64), (1, 60, 8)), "16 frames need 64 columns, found 60"),
        (FrameGenerator(1, 1), ((1, 1, 3, 96, 96), (1, 12, 35)), r"found \(B, 1, 3, 96, 96\)"),
        (FrameGenerator(1, 1), ((1, 1, 3, 112, 112), (1, 13, 35)), r"shape \(12, 35\), found \(13, 35\)"),
    ],
)
def test_errors_name_the_shapes(network, inputs, message):
    with pytest.raises(ValueError, match=message):
        network(*(torch.zeros(shape) for shape in inputs))
