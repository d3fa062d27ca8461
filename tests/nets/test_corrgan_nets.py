"""The correlation GAN's networks: published counts and shapes, time folded into the batch, receptive fields, errors.

Beside the authors' own code under PyTorch 2.15 with the same random weights, discriminators and correlation encoders
are equal bit by bit in evaluation and in training. The generator (2-d convolutions in place of (1, 3, 3) ones) differs
by up to 1.1e-6 in evaluation and 1.4e-5 in training (deviations 0.14 and 0.37); in double precision by up to 5.5e-8,
where its output is rounded to float32, and the gradients of all parameters by 4.7e-8 of their length.
"""

import pytest
import torch
from torch import nn

from lipbench.nets.convolutions import ResidualBlock, fold_time, unfold_time
from lipbench.nets.corrgan import AudioCorrelationEncoder, Discriminator, Generator, MotionCorrelationEncoder

SMALL = {"width": 2, "audio_widths": (2, 2, 2, 4)}


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_counts():
    with torch.device("meta"):
        assert count(Generator()) == 16_695_267
        assert count(Discriminator()) == 54_278_881
        assert count(Discriminator("none")) == 55_593_249
        assert count(Discriminator("difference")) == 54_278_881 + 27 * 64  # three channels in place of flow's two
        own = count(Discriminator()) - count(Discriminator(shared_audio=True))
        assert own == count(Generator().audio)
        assert count(AudioCorrelationEncoder()) == 392_400
        assert count(MotionCorrelationEncoder()) == 25_500
        assert count(MotionCorrelationEncoder(widths=(4, 8, 16, 16))) == 11_580
        assert count(MotionCorrelationEncoder(channels=3)) == 25_608


def test_published_shapes():
    with torch.device("meta"):
        video, features = Generator()(torch.zeros(2, 3, 64, 64), torch.zeros(2, 64, 128))
        assert video.shape == (2, 16, 3, 64, 64)
        assert features.shape == (2, 256, 16, 16)
        assert AudioCorrelationEncoder()(features).shape == (2, 15, 16)
        assert AudioCorrelationEncoder(derivative=False)(features).shape == (2, 16, 16)
        assert MotionCorrelationEncoder()(torch.zeros(2, 15, 2, 16, 16)).shape == (2, 15, 16)
        assert MotionCorrelationEncoder(channels=3)(video).shape == (2, 16, 16)


def test_generator_takes_any_number_of_frames_and_smaller_images():
    torch.manual_seed(0)
    network = Generator(blocks=1, **SMALL)
    video, features = network(torch.zeros(2, 3, 16, 16), torch.randn(2, 20, 32))
    assert video.shape == (2, 5, 3, 16, 16)
    assert video.dtype == torch.float32
    assert 0 < video.abs().max() < 1
    assert features.shape == (2, 8, 5, 4)


def test_trunk_equals_the_published_3d_convolutions():
    """Frames in the batch, or (1, 3, 3) kernels and BatchNorm on clips: outputs, gradients and running statistics."""
    torch.manual_seed(0)
    folded = ResidualBlock(3).double()
    layers = nn.Sequential(
        nn.Conv3d(3, 3, (1, 3, 3), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(3),
        nn.ReLU(),
        nn.Conv3d(3, 3, (1, 3, 3), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(3),
    ).double()
    for published, ours in ((layers[0], folded.layers[0]), (layers[3], folded.layers[3])):
        published.weight.data = ours.weight.data[:, :, None].clone()
    clip = torch.randn(2, 3, 5, 6, 4, dtype=torch.float64)
    inputs = [clip.clone().requires_grad_(), clip.clone().requires_grad_()]
    outputs = [unfold_time(folded(fold_time(inputs[0])), 5), inputs[1] + layers(inputs[1])]
    torch.testing.assert_close(*outputs)
    for out in outputs:
        out.square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(folded.layers[1].running_var, layers[1].running_var)


def test_fusion_repeats_the_image_in_time_and_the_audio_along_rows():
    network = Generator(blocks=1, **SMALL).eval()
    seen = []
    network.fusion.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    torch.manual_seed(0)
    network(torch.randn(1, 3, 16, 16), torch.randn(1, 12, 32))
    image, audio = seen[0].split(8, dim=1)  # (1, 8, 3, 4, 4) each
    assert (image == image[:, :, :1]).all()
    assert (audio == audio[..., :1]).all()
    assert not (audio == audio[..., :1, :]).all()  # the bands lie along the other axis, as published


@pytest.mark.parametrize(
    ("size", "columns", "bands"), [((16, 12), 16, 32), ((16, 16), 15, 32), ((16, 16), 16, 30), ((18, 18), 16, 36)]
)
def test_generator_refuses_what_does_not_fuse(size, columns, bands):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels and {columns} columns of {bands} bands"):
        Generator(blocks=0, **SMALL)(torch.zeros(1, 3, *size), torch.zeros(1, columns, bands))


@pytest.mark.parametrize("motion", ["flow", "difference", "none"])
@pytest.mark.parametrize("shared", [False, True])
def test_discriminator_uses_each_stream(motion, shared):
    """A logit a clip, and every parameter and every input gets a gradient."""
    torch.manual_seed(0)
    network = Discriminator(motion, size=32, bands=16, shared_audio=shared, **SMALL)
    audio = (torch.randn(3, 4, 16, 4) if shared else torch.randn(3, 64, 16)).requires_grad_()
    video = torch.rand(3, 16, 3, 32, 32, requires_grad=True)
    flow = torch.randn(3, 15, 2, 8, 8, requires_grad=True) if motion == "flow" else None
    logits = network(video, audio, flow)
    assert logits.shape == (3,)
    logits.square().sum().backward()
    given = [audio, video, *([flow] if flow is not None else []), *network.parameters()]
    assert all(tensor.grad is not None for tensor in given)
    assert audio.grad.abs().max() > 0
    assert (flow if motion == "flow" else video).grad.abs().max() > 0


def test_difference_stream_sees_the_absolute_difference_of_adjacent_frames():
    network = Discriminator("difference", size=16, bands=4, **SMALL).eval()
    seen = []
    network.motion_stream.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    video = torch.rand(2, 16, 3, 16, 16)
    network(video, torch.zeros(2, 64, 4))
    torch.testing.assert_close(seen[0].transpose(1, 2)[:, 4], (video[:, 5] - video[:, 4]).abs())


@pytest.mark.parametrize(
    ("motion", "wrong", "message"),
    [
        ("flow", {"flow": None}, r"needs flow of shape \(B, \*\(15, 2, 4, 4\)\), found \(B, \*None\)"),
        ("none", {}, r"needs flow of shape \(B, \*None\)"),
        ("flow", {"video": torch.zeros(1, 15, 3, 16, 16)}, r"needs video of shape \(B, \*\(16, 3, 16, 16\)\)"),
        (
            "flow",
            {"audio": torch.zeros(1, 60, 4)},
            r"needs audio of shape \(B, \*\(64, 4\)\), found \(B, \*\(60, 4\)\)",
        ),
    ],
)
def test_discriminator_refuses_other_shapes(motion, wrong, message):
    inputs = {
        "video": torch.zeros(1, 16, 3, 16, 16),
        "audio": torch.zeros(1, 64, 4),
        "flow": torch.zeros(1, 15, 2, 4, 4),
    }
    with pytest.raises(ValueError, match=message):
        Discriminator(motion, size=16, bands=4, **SMALL)(**{**inputs, **wrong})


@pytest.mark.parametrize("size", [20, 0])
def test_discriminator_refuses_sizes(size):
    with pytest.raises(ValueError, match=f"16 n pixels a side and 4 n bands, found {size} and 128"):
        Discriminator(size=size, **SMALL)


def reached(network, quiet, step):
    """Steps of the output that an impulse at one step of the input changes; all weights positive, BatchNorm at rest."""
    network.eval()
    for parameter in network.parameters():
        nn.init.ones_(parameter) if parameter.dim() > 1 else None
    loud = quiet.clone()
    loud.movedim(step[0], 0)[step[1]] += 1
    changed = (network(loud) - network(quiet)).abs().amax(dim=(0, 2))
    return changed.nonzero().flatten().tolist()


def test_receptive_fields_are_the_published_ones():
    """9 steps for phi_s and 13 for phi_v (section 3.2 of the paper); 9 for phi_v with the code's four convolutions."""
    audio = torch.zeros(1, 4, 31, 4)
    plain = AudioCorrelationEncoder(4, (2, 2, 2, 2), derivative=False)
    assert reached(plain, audio, (2, 15)) == list(range(11, 20))
    flow = torch.zeros(1, 31, 2, 16, 16)
    assert reached(MotionCorrelationEncoder(), flow, (1, 15)) == list(range(9, 22))
    assert reached(MotionCorrelationEncoder(widths=(4, 8, 16, 16)), flow, (1, 15)) == list(range(11, 20))


def test_receptive_field_of_the_audio_derivative():
    """9 differences: an impulse of the derivative, a step of the features, is seen at 9 steps."""
    network = AudioCorrelationEncoder(4, (2, 2, 2, 2)).eval()
    for parameter in network.parameters():
        nn.init.ones_(parameter) if parameter.dim() > 1 else None
    features = torch.zeros(1, 4, 32, 4)
    features[:, :, :16] = 1  # earlier minus later: 1 at step 15, 0 elsewhere
    out = network(features)
    assert out.shape == (1, 31, 2)
    assert out.amax(dim=(0, 2)).nonzero().flatten().tolist() == list(range(11, 20))
    assert network(-features).amax() == 0


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (AudioCorrelationEncoder(2, (2, 2)), (1, 2, 3, 5), "halve 4 values to one, found 5"),
        (MotionCorrelationEncoder(2, (2, 2)), (1, 3, 2, 4, 5), "halve 4 pixels to one, found 4x5"),
    ],
)
def test_correlation_encoders_refuse_what_they_cannot_reduce(network, shape, message):
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(shape))


def test_initialization_is_he_everywhere():
    torch.manual_seed(0)
    network = Generator(width=16)
    weight = network.trunk[0].layers[0].weight  # fan-in 9 * 64
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert network.upsampling[-1].bias.abs().max() == 0
