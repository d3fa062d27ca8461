"""The autoencoder of clips: published counts, shapes, what its features depend on.

Beside the authors' own code with the same random weights, the 3-d one is equal bit by bit; the per-frame one differs by
up to 3.7e-7 in evaluation (features of deviation 0.46 by 1.6e-6).
"""

import pytest
import torch

from lipbench.nets.clip_autoencoder import ClipAutoencoder


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_counts_and_shapes():
    with torch.device("meta"):
        volumetric, per_frame = ClipAutoencoder(), ClipAutoencoder(per_frame=True)
        assert count(volumetric) == 23_584_643
        assert count(volumetric.encoder) == 22_412_480
        assert count(per_frame) == 7_841_411
        assert count(per_frame.encoder) == 7_462_976
        video = torch.zeros(2, 16, 3, 64, 64)
        for network in (volumetric, per_frame):
            assert network(video).shape == video.shape
            assert network.encode(video).shape == (2, 256, 16, 16, 16)


@pytest.mark.parametrize("per_frame", [False, True])
def test_only_the_3d_one_looks_at_other_frames(per_frame):
    torch.manual_seed(0)
    network = ClipAutoencoder(2, 1, per_frame).eval()
    video = torch.rand(1, 6, 3, 16, 16)
    other = video.clone()
    other[:, 3] = 0
    changed = (network.encode(video) - network.encode(other)).abs().amax(dim=(0, 1, 3, 4)) > 0
    assert changed[3]
    assert changed[2].item() is not per_frame
    out = network(video)
    assert out.shape == video.shape
    assert out.dtype == torch.float32
    assert out.abs().max() < 1


def test_it_learns_to_reconstruct_a_clip():
    torch.manual_seed(0)
    network = ClipAutoencoder(4, 1)
    rows = torch.linspace(-0.8, 0.8, 16)[:, None].expand(16, 16)
    video = torch.stack([rows * (1 - 0.3 * step) for step in range(4)])[None, :, None].expand(2, -1, 3, -1, -1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    errors = []
    for _ in range(30):
        error = (network(video) - video).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.4 * errors[0]
