"""VGAN's networks: published counts, shapes, what the identity image changes, background and mask.

Beside the authors' own code with the same random weights, generator (without the identity image, as there) and
discriminator are equal bit by bit in evaluation and in training.
"""

import pytest
import torch

from lipbench.nets.vgan import NOISE, Discriminator, Generator

SMALL = {"size": 32, "bands": 16, "width": 2, "audio_widths": (2, 2, 2, 2)}


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_counts_and_shapes():
    with torch.device("meta"):
        generator, discriminator = Generator(identity=False), Discriminator()
        assert count(generator) == 35_938_343
        assert count(discriminator) == 40_797_537
        assert count(Generator()) == 47_084_967
        video = generator(torch.zeros(2, 3, 64, 64), torch.zeros(2, 64, 128), torch.zeros(2, NOISE))
        assert video.shape == (2, 16, 3, 64, 64)
        assert discriminator(video, torch.zeros(2, 64, 128)).shape == (2,)


@pytest.mark.parametrize("identity", [True, False])
def test_the_identity_image_counts_only_where_it_is_asked_for(identity):
    torch.manual_seed(0)
    network = Generator(identity, **SMALL).eval()
    image, audio, noise = torch.rand(2, 3, 32, 32), torch.randn(2, 64, 16), torch.randn(2, NOISE)
    video = network(image, audio, noise)
    assert video.shape == (2, 16, 3, 32, 32)
    assert video.dtype == torch.float32
    assert (network(1 - image, audio, noise) != video).any() == identity
    assert (network(image, -audio, noise) != video).any()
    assert (network(image, audio, -noise) != video).any()


def test_the_mask_decides_between_a_still_background_and_the_foreground():
    torch.manual_seed(0)
    network = Generator(**SMALL).eval()
    inputs = torch.rand(2, 3, 32, 32), torch.randn(2, 64, 16), torch.randn(2, NOISE)
    network.mask[-1].weight.data.zero_()
    network.mask[-1].bias.data.fill_(-100)
    still = network(*inputs)
    assert (still == still[:, :1]).all()
    network.mask[-1].bias.data.fill_(100)
    moving = network(*inputs)
    assert (moving != moving[:, :1]).any()


def test_discriminator_hears_and_sees():
    torch.manual_seed(0)
    network = Discriminator(**SMALL)
    video, audio = torch.rand(3, 16, 3, 32, 32, requires_grad=True), torch.randn(3, 64, 16, requires_grad=True)
    logits = network(video, audio)
    assert logits.shape == (3,)
    logits.square().sum().backward()
    assert all(x.grad.abs().max() > 0 for x in (video, audio))
    assert all(p.grad is not None for p in network.parameters())


def test_errors_name_the_shapes():
    with pytest.raises(ValueError, match="16 n pixels a side and 4 n bands, found 40 and 16"):
        Generator(**{**SMALL, "size": 40})
    with pytest.raises(ValueError, match=r"found \(B, \*\(15, 3, 32, 32\)\) and \(B, \*\(64, 16\)\)"):
        Discriminator(**SMALL)(torch.zeros(1, 15, 3, 32, 32), torch.zeros(1, 64, 16))
