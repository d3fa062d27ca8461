"""Warping: the cheapest path, and scores that forgive another speed but no other picture."""

import itertools

import numpy as np
import pytest
import torch

from lipbench.metrics.dtw import WarpedLMD, WarpedPSNR, WarpedSSIM, lip_distance, path, picture_distance
from lipbench.metrics.lmd import lmd
from lipbench.metrics.psnr import CAP, psnr
from lipbench.metrics.ssim import ssim

PICTURES = [WarpedPSNR, WarpedSSIM]
REFERENCE = [  # of PCG64(seed).random(shape), by librosa 0.11.0
    (0, (75, 80), 23.181207511780812, 97),
    (1, (80, 60), 23.035489684296984, 91),
    (2, (30, 100), 29.869434691160144, 100),
]


def video(frames, seed=0):
    """(frames, 3, 16, 16), every frame unlike the others."""
    return torch.rand(frames, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def faces(frames, seed=0):
    """(frames, 68, 2) landmarks."""
    return 100 * torch.rand(frames, 68, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def score(metric, pred, target, made=None, length=None):
    metric.update(
        pred[None],
        target[None],
        torch.tensor([0]),
        torch.tensor([len(target) if length is None else length]),
        pred_len=torch.tensor([len(pred) if made is None else made]),
    )
    return metric.compute().item()


def every_path(rows, columns):
    """All ways from the first cell to the last."""
    if (rows, columns) == (1, 1):
        return [[(0, 0)]]
    before = [(rows - 1, columns - 1), (rows - 1, columns), (rows, columns - 1)]
    return [[*p, (rows - 1, columns - 1)] for n, m in before if n and m for p in every_path(n, m)]


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5), (1, 5), (5, 1), (1, 1), (2, 7)])
def test_the_path_is_the_cheapest_of_all(shape):
    rng = np.random.default_rng(sum(shape))
    for _ in range(5):
        cost = rng.random(shape)
        found = path(torch.from_numpy(cost)).tolist()
        assert found[0] == [0, 0]
        assert found[-1] == [shape[0] - 1, shape[1] - 1]
        assert all((c - a, d - b) in {(0, 1), (1, 0), (1, 1)} for (a, b), (c, d) in itertools.pairwise(found))
        best = min(sum(cost[cell] for cell in p) for p in every_path(*shape))
        assert sum(cost[i, j] for i, j in found) == pytest.approx(best, abs=1e-12)


def test_reference_values():
    """librosa 0.11.0, `librosa.sequence.dtw(C=cost)` with its defaults: total cost and length of the path."""
    for seed, shape, total, length in REFERENCE:
        cost = np.random.Generator(np.random.PCG64(seed)).random(shape)
        i, j = path(torch.from_numpy(cost)).T.numpy()
        assert cost[i, j].sum() == pytest.approx(total, abs=1e-9)
        assert len(i) == length


def test_equal_videos_meet_frame_by_frame():
    same = [[k, k] for k in range(6)]
    assert path(picture_distance(video(6), video(6))).tolist() == same
    assert path(torch.zeros(6, 6)).tolist() == same  # a video that stands still too
    assert path(torch.ones(6, 6)).tolist() == same


def test_distances():
    a, b = video(5, 1), video(7, 2)
    expected = (a[:, None] - b).square().mean((2, 3, 4))
    assert torch.allclose(picture_distance(a, b), expected, atol=1e-6)
    x, y = faces(4, 1), faces(3, 2)
    table = lip_distance(x, y)
    assert table.shape == (4, 3)
    assert table[2, 1].item() == pytest.approx(lmd(x[2, 48:68], y[1, 48:68]).item(), abs=1e-12)


def test_small_differences_survive_single_precision():
    """Frames of one bright face that differ by a thousandth still find their own."""
    base = 0.9 + 0.05 * video(1)
    frames = base + 0.001 * video(20, 3)
    assert path(picture_distance(frames, frames)).tolist() == [[k, k] for k in range(20)]


@pytest.mark.parametrize("metric", PICTURES)
def test_another_speed_costs_nothing(metric):
    target = video(8)
    slow = target.repeat_interleave(2, 0)
    jerky = target[[0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 7]]
    for pred in (target, slow, jerky):
        assert score(metric(), pred, target) == pytest.approx(metric.perfect, abs=1e-5)
        assert score(metric(), target, pred) == pytest.approx(metric.perfect, abs=1e-5)
    assert score(metric(), target.flip(0), target) < 0.7 * metric.perfect


def test_another_speed_costs_no_landmark_distance():
    target = faces(8)
    assert score(WarpedLMD(), target.repeat_interleave(2, 0), target) == pytest.approx(0, abs=1e-9)
    moved = target.repeat_interleave(3, 0)
    moved[:, 48] += 2.0  # of 20 points one: after centring 1.9 there and 0.1 at the others
    expected = np.hypot(1.9, 1.9) / 20 + 19 * np.hypot(0.1, 0.1) / 20
    assert score(WarpedLMD(), moved, target) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("metric", "function"), [(WarpedPSNR, psnr), (WarpedSSIM, ssim)])
def test_the_score_is_the_mean_along_the_path(metric, function):
    pred, target = video(5, 1), video(9, 2)
    i, j = path((pred[:, None] - target).square().mean((2, 3, 4))).T
    expected = torch.stack([function(pred[a], target[b]) for a, b in zip(i, j, strict=True)]).mean()
    assert score(metric(), pred, target) == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("metric", PICTURES)
def test_padding_is_never_looked_at(metric):
    pred, target = video(9, 1), video(7, 2)
    expected = score(metric(), pred[:6], target[:4])
    pred[6:], target[4:] = torch.nan, torch.nan
    assert score(metric(), pred, target, made=6, length=4) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", PICTURES)
def test_bad_pictures_are_undefined(metric):
    pred, target = video(5), video(7)
    assert np.isnan(score(metric(), pred, target, made=0))
    assert np.isnan(score(metric(), pred, target, length=0))
    assert np.isfinite(score(metric(), pred[:1], target))
    assert np.isfinite(score(metric(), pred, target[:1]))
    pred[3, 0, 2, 2] = torch.nan
    assert np.isnan(score(metric(), pred, target))


def test_frames_without_landmarks_are_left_out_until_there_are_too_many():
    target = faces(40)
    pred = target.repeat_interleave(2, 0)
    pred[10] = torch.nan
    assert score(WarpedLMD(), pred, target) == pytest.approx(0, abs=1e-9)
    pred[10:16] = torch.nan
    assert np.isnan(score(WarpedLMD(), pred, target))
    assert np.isnan(score(WarpedLMD(), torch.full((3, 68, 2), torch.nan), target))
    assert np.isnan(score(WarpedLMD(), target, target, made=0))


def test_clips_weigh_by_their_reference():
    metric = WarpedPSNR()
    long, short = video(8), video(8, 1)
    pred = torch.stack([long, torch.zeros_like(long)])
    metric.update(
        pred, torch.stack([long, short]), torch.arange(2), torch.tensor([8, 2]), pred_len=torch.tensor([8, 5])
    )
    clips = metric.per_clip()
    assert clips.weight.tolist() == [8, 2]
    assert metric.compute().item() == pytest.approx((8 * CAP + 2 * clips.value[1]) / 10)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="1 that are not"):
        path(torch.tensor([[0.0, torch.nan], [1, 1]]))
    with pytest.raises(ValueError, match=r"\(0, 3\)"):
        path(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="must be equal"):
        picture_distance(video(2), video(2)[..., :8])
    with pytest.raises(ValueError, match="it was cut"):
        score(WarpedPSNR(), video(4), video(4), made=5)
