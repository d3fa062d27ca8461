"""Intervals and tests against what they must give."""

import numpy as np
import pytest

from lipbench.evaluation.statistics import gain, interval, p_value


def test_interval_of_independent_clips_is_that_of_the_normal_law():
    value = np.random.default_rng(0).normal(5, 2, 400)
    low, high = interval(value)
    half = 1.96 * value.std(ddof=1) / 20
    assert low == pytest.approx(value.mean() - half, abs=0.03)
    assert high == pytest.approx(value.mean() + half, abs=0.03)
    assert interval(value) == (low, high)


def test_interval_over_speakers_is_wider_when_they_differ():
    rng = np.random.default_rng(1)
    speaker = np.repeat([f"s{k}" for k in range(10)], 40)
    value = np.repeat(rng.normal(0, 1, 10), 40) + 0.1 * rng.normal(0, 1, 400)
    alone, grouped = interval(value), interval(value, None, speaker)
    assert grouped[1] - grouped[0] > 3 * (alone[1] - alone[0])


def test_weights_and_undefined_values():
    value, weight = np.array([1.0, np.nan, 3.0, 3.0]), np.array([1e6, 1.0, 1e-6, 0])
    low, _ = interval(value, weight)
    assert low == pytest.approx(1, abs=1e-6)
    assert interval(np.array([1.0, np.nan])) is None


def test_p_value():
    rng = np.random.default_rng(2)
    assert p_value(rng.normal(0.5, 1, 200)) < 0.001
    assert p_value(np.array([1.0, 1.0])) == pytest.approx(0.5, abs=0.03)  # both signs equal: 2 of 4 outcomes
    assert p_value(np.zeros(20)) == 1
    assert p_value(np.array([1.0, np.nan])) is None
    small = [p_value(rng.normal(0, 1, 30), seed=k) < 0.05 for k in range(100)]
    assert np.mean(small) < 0.15


def test_gain_turns_every_score_upwards():
    value = np.array([0.5, 1.5, 1.1])
    assert gain(value, True, 1).tolist() == value.tolist()
    assert gain(value, False, 0).tolist() == (-value).tolist()
    assert gain(value, None, 1.0) == pytest.approx([-0.5, -0.5, -0.1])
