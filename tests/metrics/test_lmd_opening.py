"""Landmark distance and mouth opening on points whose scores are known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lipbench.metrics.lmd import LMD, LandmarkCoverage, NormalizedLMD, interocular, lmd
from lipbench.metrics.opening import OpeningCorrelation, OpeningRatio, amplitude_ratio, correlation, opening

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "lmd.json").read_text())


def points():
    rng = np.random.Generator(np.random.PCG64(42))
    a = np.round(rng.uniform(0, 64, (3, 20, 2)), 3)
    assert a.sum() == pytest.approx(REFERENCE["checksum_sum_a"], abs=1e-6)
    center = a.mean(1, keepdims=True)
    return a, {
        "identical": a,
        "shift(3,4)": a + np.array([3, 4]),
        "scale1.1_about_mean": center + 1.1 * (a - center),
        "noise_sd1": a + np.round(rng.standard_normal(a.shape), 3),
    }


def faces(mouth):
    """(1, T, 68, 2) landmarks whose mouth is given."""
    all_points = torch.zeros(1, len(mouth), 68, 2, dtype=torch.float64)
    all_points[0, :, 48:] = torch.from_numpy(mouth)
    return all_points


@pytest.mark.parametrize("name", ["identical", "shift(3,4)", "scale1.1_about_mean", "noise_sd1"])
def test_reference_values(name):
    a, others = points()
    expected = REFERENCE["values"][name]
    pred, target = torch.from_numpy(others[name]), torch.from_numpy(a)
    assert lmd(pred, target).mean().item() == pytest.approx(expected["lmd"], abs=1e-9)
    assert lmd(pred, target, aligned=False).mean().item() == pytest.approx(expected["raw"], abs=1e-9)
    for variant, key in (("mean", "lmd"), ("raw", "raw"), ("sum", "sum")):
        metric = LMD(variant)
        metric.update(faces(others[name]), faces(a), torch.tensor([0]), torch.tensor([3]))
        assert metric.compute().item() == pytest.approx(expected[key], abs=1e-9)


def test_frames_without_points_are_left_out_until_there_are_too_many():
    a = np.random.default_rng(0).uniform(0, 64, (40, 20, 2))
    b = a * 1.0
    b[:, 0] += 2.0
    full, one, many = faces(b), faces(b), faces(b)
    one[0, 5] = torch.nan
    many[0, 5:9] = torch.nan
    metric = LMD()
    metric.update(torch.cat([full, one, many]), faces(a).repeat(3, 1, 1, 1), torch.arange(3), torch.tensor([40] * 3))
    clips = metric.per_clip()
    assert clips.value[0] == pytest.approx(clips.value[1])
    assert np.isnan(clips.value[2])
    assert clips.weight.tolist()[:2] == [40, 39]


def test_over_the_distance_between_the_eyes_the_size_does_not_matter():
    a, others = points()
    pred, target = faces(others["noise_sd1"]), faces(a)
    for face in (pred, target):
        face[..., 36, :] = torch.tensor([10.0, 20.0])
        face[..., 45, :] = torch.tensor([40.0, 60.0])  # 50 px
    pred[..., 36, :] = 0  # the eyes of what was made do not count
    assert interocular(target).unique().tolist() == [50]
    for scale in (1, 0.25):
        metric = NormalizedLMD()
        metric.update(scale * pred, scale * target, torch.tensor([0]), torch.tensor([3]))
        assert metric.compute().item() == pytest.approx(REFERENCE["values"]["noise_sd1"]["lmd"] / 50, abs=1e-9)
    target[0, 1, 45] = torch.nan  # 2 of 3 frames
    metric.update(pred, target, torch.tensor([1]), torch.tensor([3]))
    assert np.isnan(metric.per_clip().value).tolist() == [False, True]


def test_coverage():
    target = faces(np.random.default_rng(0).uniform(0, 64, (40, 20, 2))).repeat(4, 1, 1, 1)
    pred = target.clone()
    pred[1, 5:9] = torch.nan
    pred[2, 30, 60] = torch.nan
    target[2, 39] = torch.nan
    target[2, 0, 3] = torch.nan  # not of the mouth
    metric = LandmarkCoverage()
    metric.update(pred, target, torch.arange(4), torch.tensor([40, 40, 20, 0]))
    clips = metric.per_clip()
    assert clips.value.tolist() == pytest.approx([1, 0.9, 1, np.nan], nan_ok=True)
    assert metric.compute().item() == pytest.approx(96 / 100)
    again = LandmarkCoverage()
    again.update(pred, target, torch.arange(4), torch.tensor([40, 40, 40, 1]))
    assert again.per_clip().value.tolist() == pytest.approx([1, 0.9, 38 / 40, 1])


def mouths(heights):
    """(1, T, 68, 2) landmarks whose inner lips are so far apart."""
    all_points = torch.zeros(1, len(heights), 68, 2)
    all_points[0, :, [65, 66, 67], 1] = torch.tensor(heights, dtype=torch.float32)[:, None]
    return all_points


def test_opening_and_its_comparisons():
    truth = mouths([0, 4, 8, 4, 0, 2])
    assert opening(truth)[0].tolist() == [0, 4, 8, 4, 0, 2]
    half = mouths([1, 3, 5, 3, 1, 2])
    assert correlation(opening(half)[0], opening(truth)[0]).item() == pytest.approx(1)
    assert amplitude_ratio(opening(half)[0], opening(truth)[0]).item() == pytest.approx(0.5)
    assert correlation(opening(-half)[0] * -1, opening(truth)[0]).item() == pytest.approx(-1)
    still = torch.full((6,), 3.0)
    assert correlation(still, opening(truth)[0]).isnan()
    assert amplitude_ratio(still, opening(truth)[0]).item() == 0
    assert amplitude_ratio(opening(truth)[0], still).isnan()
    assert correlation(still[:2], still[:2]).isnan()


def test_the_speech_span_is_its_own_number():
    truth = mouths([0, 0, 0, 1, 5, 2, 0, 0, 9])
    pred = mouths([3, 3, 3, 1, 5, 2, 3, 3, 0])
    both = {}
    for span in ("clip", "speech"):
        metric = OpeningCorrelation(span)
        metric.update(pred, truth, torch.tensor([0]), torch.tensor([8]), speech=torch.tensor([[3, 6]]))
        both[span] = metric.compute().item()
    assert both["speech"] == pytest.approx(1)
    assert both["clip"] == pytest.approx(np.corrcoef([3, 3, 3, 1, 5, 2, 3, 3], [0, 0, 0, 1, 5, 2, 0, 0])[0, 1])
    ratio = OpeningRatio()
    ratio.update(pred, truth, torch.tensor([0]), torch.tensor([8]), speech=torch.tensor([[3, 6]]))
    assert ratio.compute().item() == pytest.approx(np.std([3, 3, 3, 1, 5, 2, 3, 3]) / np.std([0, 0, 0, 1, 5, 2, 0, 0]))
