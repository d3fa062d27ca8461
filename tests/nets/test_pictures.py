from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lipbench.nets.discriminators import FrameDiscriminator
from lipbench.nets.pictures import IdentityEncoder, PictureDecoder, halved

ENCODER, DECODER = (16, 32, 64, 128), (256, 196, 128, 80, 48, 16)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes() -> None:
    assert count(IdentityEncoder((80, 160), ENCODER, 256)) == 1_909_376
    assert count(PictureDecoder((80, 160), ENCODER, DECODER, 256)) == 9_737_007
    assert count(FrameDiscriminator((80, 160))) == 14_113_793
    assert count(FrameDiscriminator((48, 96))) == 14_113_793


@pytest.mark.parametrize("size", [(16, 32), (40, 80), (17, 23), (12, 24)])
def test_every_size_comes_back(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    encoder, decoder = IdentityEncoder(size, (4, 6, 8), 10), PictureDecoder(size, (4, 6, 8), (8, 7, 6, 5, 4), 10)
    identity, skips = encoder(torch.rand(2, 3, *size))
    assert identity.shape == (2, 10)
    assert [tuple(skip.shape[2:]) for skip in skips] == halved(size, 3)[1:]
    made = decoder(torch.randn(6, 10), identity, skips, None)
    assert made.shape == (6, 3, *size)
    assert made.abs().max() < 1


def test_skips_computed_once_equal_skips_side_by_side() -> None:
    """The published form: each frame's map beside its clip's, through one transposed convolution."""
    torch.manual_seed(0)
    size, widths = (16, 32), (8, 7, 6, 5)
    encoder, decoder = IdentityEncoder(size, (4, 6), 10).double(), PictureDecoder(size, (4, 6), widths, 10).double()
    motion, clip = torch.randn(6, 10).double(), torch.tensor([0, 0, 1, 1, 2, 2])
    identity, skips = encoder(torch.rand(3, 3, *size).double())

    both = torch.cat([identity[clip], motion], dim=1)
    x = F.relu(decoder.first(both)).view(6, 8, 4, 8)
    for stage, skip in zip(decoder.stages, skips[::-1], strict=True):
        joined = torch.cat([x, skip[clip]], dim=1)
        plain = F.conv_transpose2d(joined, stage.deconv.weight, stage.deconv.bias, 2, 2, 1)
        x = F.relu(stage.norm(plain))
    expected = torch.tanh(decoder.to_rgb(decoder.smooth(x)))

    torch.testing.assert_close(decoder(motion, identity, skips, clip), expected)
    torch.testing.assert_close(decoder(motion, identity, skips, None), expected)
    shared = list(decoder.eval().of_clips(identity, skips))
    whole = decoder(motion, identity, skips, clip)
    for frames in ([0, 2, 4], [1, 3, 5]):  # a frame of every clip at a time, as they are drawn one after the other
        assert torch.equal(decoder.draw(motion[frames], shared, None), decoder(motion[frames], identity, skips, None))
        torch.testing.assert_close(decoder.draw(motion[frames], shared, None), whole[frames])
    decoder.train()
    order = torch.tensor([4, 0, 3, 1, 5, 2])  # frames of any clips, in any order
    torch.testing.assert_close(decoder(motion[order], identity, skips, clip[order]), expected[order])


def test_frames_may_have_maps_of_their_own_and_no_identity_vector() -> None:
    torch.manual_seed(0)
    size, widths = (16, 16), (8, 7, 6, 5)
    encoder = IdentityEncoder(size, (4, 6), 10, channels=6)
    decoder = PictureDecoder(size, (4, 6), widths, 12, with_identity=False)
    assert count(decoder.first) == 13 * 8 * 4 * 4
    vector, skips = encoder(torch.rand(5, 6, *size))
    assert vector.shape == (5, 10)
    motion = torch.randn(5, 12)
    made = decoder.eval()(motion, None, skips, None)
    own = torch.cat([decoder(motion[k : k + 1], None, [skip[k : k + 1] for skip in skips], None) for k in range(5)])
    torch.testing.assert_close(made, own)
    turned = decoder(motion, None, [skip.flip(0) for skip in skips], None)
    assert (made - turned).abs().flatten(1).amax(dim=1)[[0, 1, 3, 4]].min() > 1e-3
    torch.testing.assert_close(made[2], turned[2])


def test_widths_must_match() -> None:
    with pytest.raises(ValueError, match="needs 4 widths"):
        PictureDecoder((16, 32), (4, 6), (8, 7, 6), 10)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((48, 96), [(48, 96), (48, 48), (48, 48), (24, 24), (24, 24), (12, 12), (12, 12), (6, 6), (6, 6), (3, 3)]),
        ((80, 160), [(40, 80), (40, 40), (40, 40), (20, 20), (20, 20), (10, 10), (10, 10), (5, 5), (5, 5), (3, 3)]),
        ((40, 80), [(40, 80), (40, 40), (40, 40), (20, 20), (20, 20), (10, 10), (10, 10), (5, 5), (5, 5), (3, 3)]),
    ],
)
def test_discriminator_strides(size: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    discriminator = FrameDiscriminator(size, width=1)
    x, seen = torch.rand(2, 3, *size), []
    for layer in discriminator.layers:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            seen.append(tuple(x.shape[2:]))
    assert seen == [*expected, (3, 3), (1, 1), (1, 1), (1, 1)]
    assert x.shape == (2, 1, 1, 1)
    kinds = [type(layer) for layer in discriminator.layers]
    assert kinds[-1] is nn.Conv2d  # an unbounded score, as LSGAN wants
    assert all(first is not second for first, second in pairwise(kinds))


@pytest.mark.parametrize("size", [(12, 24), (3, 3), (64, 64), (128, 128), (256, 256)])
def test_discriminator_takes_any_size(size: tuple[int, int]) -> None:
    assert FrameDiscriminator(size, width=1)(torch.rand(2, 3, *size)).shape == (2,)


def test_discriminator_refuses_a_dot() -> None:
    with pytest.raises(ValueError, match="found 2x9"):
        FrameDiscriminator((2, 9))


def test_a_new_discriminator_tells_pictures_apart():
    """With PyTorch's default initialization the scores of different pictures differ by less than .001."""
    torch.manual_seed(0)
    pictures = torch.nn.functional.interpolate(torch.rand(16, 3, 4, 8), (64, 128))
    assert FrameDiscriminator((64, 128), width=8)(pictures).std() > 0.02
