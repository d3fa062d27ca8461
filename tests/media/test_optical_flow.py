"""Farneback's flow: its axes, signs and unit on texture that moves by a known amount."""

import pytest
import torch
from torch.nn import functional as F

from lipbench.media.optical_flow import farneback


def moved(right: int, down: int, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Two (1, 3, size, size) views of a smooth texture, which moves in between."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 24, 24, generator=draw)
    texture = F.interpolate(coarse, size=(96, 96), mode="bicubic", align_corners=False).clamp(0, 1)
    before = texture[..., 16 : 16 + size, 16 : 16 + size]
    return before, texture[..., 16 - down : 16 - down + size, 16 - right : 16 - right + size]


@pytest.mark.parametrize(("right", "down"), [(2, 0), (0, 1), (-1, 3)])
def test_flow_of_a_known_motion(right, down):
    flow = farneback(*moved(right, down))
    assert flow.shape == (1, 2, 64, 64)
    assert flow.dtype == torch.float32
    inside = flow[0, :, 12:-12, 12:-12]
    assert (inside - torch.tensor([right, down])[:, None, None]).abs().mean() < 0.1


def test_pairs_do_not_touch_each_other():
    first, second = (torch.cat(frames) for frames in zip(moved(2, 0), moved(0, -2), strict=True))
    flow = farneback(first, second)
    assert torch.equal(flow[1:], farneback(first[1:], second[1:]))
    assert not torch.equal(flow[0], flow[1])
    assert farneback(first, first).abs().mean() < 0.02  # at the edges it is not quite 0
