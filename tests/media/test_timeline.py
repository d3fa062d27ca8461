"""Timestamps: repaired, measured, and the nearest frames chosen."""

import numpy as np
import pytest

from lipbench.media import timeline


def clock(*milliseconds, step=40):
    """Repaired milliseconds; every item keeps its number."""
    items = [(None if time is None else time / 1000, k) for k, time in enumerate(milliseconds)]
    found = list(timeline.repaired(items, step / 1000, "a.mp4"))
    assert [item for _, item in found] == list(range(len(milliseconds)))
    times = [time for time, _ in found]
    assert times[0] == 0
    assert (np.diff(times) > 0).all()
    return [round(1000 * time) for time in times]


@pytest.mark.parametrize(
    ("given", "repaired"),
    [
        ((0, 40, 80), [0, 40, 80]),
        ((-120, -80, 400), [0, 40, 520]),  # a negative start; a hole stays one
        ((None, None, None), [0, 40, 80]),
        ((None, 900, 940), [0, 40, 80]),
        ((0, None, 80, None, 200), [0, 40, 80, 120, 200]),
        ((0, 40, 40, 120), [0, 40, 80, 120]),  # twice the same
        ((0, 40, 20, 120, 160), [0, 40, 80, 120, 160]),  # out of order
        ((0, 40, 9000, 120, 160), [0, 40, 80, 120, 160]),  # far off, alone
        ((2000, 2040, 0, 40, 80), [0, 40, 80, 120, 160]),  # begins again
        ((2000, 2040, 0, 2120), [0, 40, 80, 120]),  # backward, alone
    ],
)
def test_times_that_cannot_be(given, repaired):
    assert clock(*given) == repaired


def test_damaged_times_are_refused():
    with pytest.raises(ValueError, match=r"a\.mp4 has timestamps that jump by 3600 seconds: they are damaged"):
        clock(0, 40, 3_600_040, 3_600_080)


def rate(times, labeled=0.0):
    return timeline.rate_of(np.asarray(times, float), labeled)


def test_constant_rates():
    assert rate(np.arange(75) / 25, 25.0) == 25
    assert rate(np.round(np.arange(60) / 30, 3), 30.0) == 30  # milliseconds
    assert rate(np.arange(60) / 24, 90.0) == pytest.approx(24)  # mislabeled
    assert rate([0.0], 12.0) == 12
    assert rate([0.0]) == 25
    for seed in range(5):
        shaken = np.arange(90) / 30 + np.random.default_rng(seed).uniform(-0.008, 0.008, 90)
        shaken -= shaken[0]
        assert rate(shaken, 30.0) == 30
        assert timeline.is_constant(shaken, 30)


@pytest.mark.parametrize(
    ("places", "fps"),
    [
        ([*range(26), *range(27, 75, 2)], 25),  # half at 25, half at 12.5
        ([k for k in range(90) if k % 3 != 2], 30000 / 1001),  # every third is lost
        ([*range(40), *range(200, 240)], 30),  # a long hole
        ([*range(30), *range(30, 90, 3)], 24),
    ],
)
def test_variable_rates_have_the_rate_of_their_shorter_steps(places, fps):
    times = np.array(places) / fps
    labeled = (len(times) - 1) / times[-1]  # what heads say of such files: the mean
    found = rate(times, labeled)
    assert found == pytest.approx(fps, rel=1e-6)
    shown = timeline.nearest(times, 1 / fps, found)
    assert set(shown) == set(range(len(places)))  # none is left out
    assert np.abs(times[shown] - np.arange(len(shown)) / fps).max() <= np.diff(times).max() / 2 + 1e-9


def test_two_frames_at_nearly_one_time_make_no_rate_of_a_thousand():
    assert rate([0, 0.001, *np.arange(1, 50) / 20], 20.0) == 20
    assert rate(np.cumsum(np.resize([0.001, 0.08], 60)), 25.0) == 60
