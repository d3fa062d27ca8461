"""FlowNetS: published count, sizes of its flow fields, gradients to the frames.

Beside the authors' own code with the same random weights: float32 rounding (6e-6 at a deviation of 0.6), and equal to
1e-7 where both run in double precision.
"""

import pytest
import torch

from lipbench.nets.flownet import SCALES, FlowNetS, adjacent_pairs


def test_published_count_and_shapes():
    with torch.device("meta"):
        network = FlowNetS()
        assert sum(p.numel() for p in network.parameters()) == 38_676_496
        assert network(torch.zeros(2, 16, 3, 64, 64)).shape == (2, 15, 2, 16, 16)
        flows = network.pyramid(torch.zeros(2, 6, 128, 64))
        assert [tuple(flow.shape) for flow in flows] == [(2, 2, 128 // s, 64 // s) for s in SCALES]


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (50, 70)])
def test_any_size(size):
    flows = FlowNetS(2).pyramid(torch.zeros(1, 6, *size))
    assert [tuple(flow.shape[-2:]) for flow in flows] == [tuple(-(-side // s) for side in size) for s in SCALES]


def test_pairs_are_a_frame_and_the_next():
    video = torch.rand(2, 4, 3, 8, 8)
    pairs = adjacent_pairs(video)
    assert pairs.shape == (6, 6, 8, 8)
    assert (pairs[4, :3] == video[1, 1]).all()
    assert (pairs[4, 3:] == video[1, 2]).all()


def test_clips_are_taken_pair_by_pair():
    torch.manual_seed(0)
    network, video = FlowNetS(2).eval(), torch.rand(2, 3, 3, 32, 32)
    flow = network(video)
    assert flow.shape == (2, 2, 2, 8, 8)
    alone = network.pyramid(torch.cat([video[1:, 1], video[1:, 2]], dim=1))[0]
    torch.testing.assert_close(flow[1:, 1], alone)
    torch.testing.assert_close(network.train()(video), flow)  # no mode changes what it returns


def test_gradient_reaches_every_frame_and_every_parameter():
    torch.manual_seed(0)
    network, video = FlowNetS(2), torch.rand(1, 3, 3, 32, 32, requires_grad=True)
    network(video).square().sum().backward()
    assert (video.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all()
    assert all(p.grad is not None for p in network.parameters())


def test_initialization_keeps_the_scale_of_the_signal():
    """The copy's 0.02 / n would leave maps of 1e-20; He's do not."""
    torch.manual_seed(0)
    maps = []
    network = FlowNetS(8)
    network.convolutions[-1].register_forward_hook(lambda _, __, out: maps.append(out))
    network.pyramid(torch.randn(2, 6, 64, 64))
    assert 0.05 < maps[0].std() < 20
