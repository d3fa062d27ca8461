"""Jitter of lips whose motion is known."""

import numpy as np
import pytest
import torch

from lipbench.metrics.jitter import Jitter, jitter


def lips(frames=12, seed=0):
    """(1, frames, 68, 2) speaking lips: upper and lower ones move smoothly apart and together."""
    points = 100 * torch.rand(68, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    track = points.repeat(1, frames, 1, 1)
    opening = 4 * torch.sin(torch.arange(frames) / 2.0)
    track[0, :, 48:58, 1] += opening[:, None]
    track[0, :, 58:68, 1] -= opening[:, None]
    return track


def score(pred, target, length=None):
    metric = Jitter()
    length = torch.tensor([target.shape[1] if length is None else length])
    metric.update(pred, target, torch.tensor([0]), length)
    return metric.compute().item()


def test_acceleration_of_one_point():
    points = torch.zeros(5, 20, 2, dtype=torch.float64)
    points[2, 0, 0] = 20.0  # aligned: 19 there and -1 at the other 19, for one frame
    expected = np.array([1, 2, 1]) * (19 + 19 * 1) / 20
    assert jitter(points).numpy() == pytest.approx(expected)


def test_the_motion_of_the_head_and_steady_motion_are_no_jitter():
    time = torch.arange(8.0, dtype=torch.float64)
    still = torch.rand(20, 2, dtype=torch.float64)
    head = 10 * torch.sin(3 * time)[:, None, None] + still
    assert jitter(head).numpy() == pytest.approx(0, abs=1e-12)
    opening = still.repeat(8, 1, 1)
    opening[:, :10, 1] += 0.7 * time[:, None]
    assert jitter(opening).numpy() == pytest.approx(0, abs=1e-12)


def test_a_copy_has_one_and_trembling_more_and_smoothing_less():
    target = lips()
    assert score(target, target) == 1
    assert score(target + 7, target) == pytest.approx(1)
    assert score(2 * target, target) == pytest.approx(2)
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    some, more = (score(target + scale * noise, target) for scale in (0.3, 1.0))
    assert 1 < some < more
    smooth = target.clone()
    smooth[:, 1:-1] = (target[:, :-2] + target[:, 1:-1] + target[:, 2:]) / 3
    assert score(smooth, target) < 0.95
    assert score(target[:, :1].expand_as(target), target) == 0


def test_frames_without_landmarks_and_padding_take_no_part():
    target = lips()
    pred = 3 * target
    pred[0, 5] = torch.nan
    assert score(pred, target) == pytest.approx(3)
    pred[0, 9:] = 1000 * torch.rand(3, 68, 2, dtype=torch.float64)
    assert score(pred, target, 9) == pytest.approx(3)
    expected = jitter(target[0, [6, 7, 8, 9, 10, 11], 48:68]).mean()
    noisy = target.clone()
    noisy[0, 7, 50] += 5
    noisy[0, :6] = torch.nan
    found = jitter(noisy[0, 6:, 48:68]).mean()
    assert score(noisy, target) == pytest.approx((found / expected).item())


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_too_few_frames_are_undefined(frames):
    target = lips()
    assert np.isnan(score(target, target, frames))
    assert np.isnan(score(target[:, :frames], target[:, :frames], frames))
    assert jitter(target[:, :frames]).shape == (1, 0)


def test_undefined_without_landmarks_or_where_the_reference_rests():
    target = lips()
    every_third = target.clone()
    every_third[:, ::3] = torch.nan
    assert np.isnan(score(every_third, target))
    assert np.isnan(score(target, torch.full_like(target, torch.nan)))
    assert np.isnan(score(target, target[:, :1].expand_as(target)))
