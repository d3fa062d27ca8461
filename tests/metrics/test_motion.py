"""Motion in silence, outside the lips and on one side, on clips that have one of these faults and no other."""

import numpy as np
import pytest
import torch

from lipbench.evaluation import bank as banks
from lipbench.media import geometry
from lipbench.metrics.motion import (
    MotionInSilence,
    MotionOutsideLips,
    OneSidedMotion,
    lip_speed,
    one_sidedness,
    outside_lips,
)
from lipbench.scoring import observers
from lipbench.types import View

VIEW = View("lower_face", 128, 256)
NAMES = ["motion_silence", "motion_outside", "motion_one_sided"]
FRAMES = 24
SPEECH = (6, 18)
TIME = np.arange(FRAMES)
SPOKEN = np.zeros(FRAMES, int)
SPOKEN[slice(*SPEECH)] = np.rint(20 + 20 * np.sin(TIME[slice(*SPEECH)]))
RESTLESS = np.where(SPOKEN, SPOKEN, 10 * (TIME % 2))
LEFT, RIGHT, CHIN = (
    (slice(185, 205), slice(128, 152)),
    (slice(185, 205), slice(168, 192)),
    (slice(249, 265), slice(132, 188)),
)
"""Rows and columns of the canonical picture whose brightness says how far a part has moved."""


class Points:
    """Lips that open on either side by a tenth of a pixel for every grey level of that side's patch."""

    name = "dlib"

    def points(self, frame, box):
        left, right = ((frame[patch].mean() - 100) / 10 for patch in (LEFT, RIGHT))
        found = geometry.TEMPLATE + np.array([32.0, 16.0])
        for upper, lower, move in (
            ((48, 49, 50, 60, 61), (58, 59, 67), left),
            ((51, 62), (57, 66), (left + right) / 2),
            ((52, 53, 54, 63, 64), (55, 56, 65), right),
        ):
            found[list(upper), 1] -= move
            found[list(lower), 1] += move
        return found.astype(np.float32)


@pytest.fixture
def bank(monkeypatch):
    monkeypatch.setattr(observers.landmarks, "load", lambda name: Points())
    return banks.Bank(["motion"])


def clip(left=SPOKEN, right=SPOKEN, chin=SPOKEN // 2):
    """(1, 24, 3, 352, 320) uint8 canonical pictures whose parts have moved so far."""
    face = torch.full((1, len(left), 3, geometry.HEIGHT, geometry.WIDTH), 100, dtype=torch.uint8)
    for patch, track in ((LEFT, left), (RIGHT, right), (CHIN, chin)):
        face[0, :, :, *patch] += torch.from_numpy(np.asarray(track, np.uint8))[:, None, None, None]
    face[..., :32, :] = 20  # hair: a blank picture has no landmarks
    face[..., 150:165, :] = 60  # nor has a plain lower face
    return face


def scores(bank, made, true, speech=SPEECH):
    """Name -> score of one clip."""
    frames = true.shape[1]
    given = {
        "index": torch.tensor([0]),
        "video": geometry.crop(true, VIEW).float() / 255,
        "video_len": torch.tensor([frames]),
        "face": true,
        "landmarks": torch.from_numpy(geometry.TEMPLATE + np.array([32, 16])).float().expand(1, frames, 68, 2),
        "speech": torch.tensor([speech]),
    }
    scene, row = bank.scene(given, VIEW), bank.row()
    row.update(scene.take(geometry.crop(made, VIEW).float() / 255), scene)
    return {name: float(found.value[0]) for name, found in row.local_scores().items()}


def test_the_group_is_asked_for_by_name():
    assert [entry.name for entry in banks.select(["motion"])] == NAMES
    assert not {entry.name for entry in banks.select(None)} & set(NAMES)


def test_a_copy_is_perfect_even_of_a_one_sided_mouth_that_never_rests(bank):
    restless = clip(2 * RESTLESS, RESTLESS, RESTLESS)
    for true in (clip(), restless):
        assert scores(bank, true, true) == dict.fromkeys(NAMES, 0)


@pytest.mark.parametrize(
    ("fault", "made"),
    [
        ("motion_silence", clip(RESTLESS, RESTLESS)),
        ("motion_outside", clip(chin=SPOKEN // 2 + 8 * (TIME % 2))),
        ("motion_one_sided", clip(left=2 * SPOKEN)),
    ],
)
def test_every_fault_moves_its_own_metric_alone(bank, fault, made):
    found = scores(bank, made, clip())
    assert found.pop(fault) > 0.05
    assert list(found.values()) == pytest.approx([0, 0], abs=1e-6)


def test_known_values(bank):
    # Upper lips go up and lower ones down by 1 px: 12 points stand above the middle of the move, 8 below.
    speed = (12 * 2 * 8 / 20 + 8 * 2 * 12 / 20) / 20
    assert scores(bank, clip(RESTLESS, RESTLESS), clip())["motion_silence"] == pytest.approx(speed, rel=1e-5)
    doubled = scores(bank, clip(left=2 * SPOKEN), clip())["motion_one_sided"]
    assert doubled == pytest.approx((2 - 1) / (2 + 1), rel=1e-5)
    assert scores(bank, clip(right=2 * SPOKEN), clip())["motion_one_sided"] == pytest.approx(doubled, rel=1e-5)
    # The same doubling away from a mouth that has it, and to the other side of it.
    assert scores(bank, clip(), clip(left=2 * SPOKEN))["motion_one_sided"] == pytest.approx(1 / 3, rel=1e-5)
    mirrored = scores(bank, clip(left=2 * SPOKEN), clip(right=2 * SPOKEN))
    assert mirrored["motion_one_sided"] == pytest.approx(2 / 3, rel=1e-5)
    flickering = torch.zeros(1, 6, 16, 32)
    flickering[0, ::2, 14, [3, 20]] = torch.tensor([5 / 255, 2 / 255])
    flickering[0, ::2, 5, 15] = 1  # on the lips
    one = value(MotionOutsideLips(), flickering, torch.zeros_like(flickering), 6)[0]
    assert one == pytest.approx((5 + 2) / int(outside_lips().sum()))
    assert value(MotionOutsideLips(), flickering, flickering * 0.5, 6)[0] == pytest.approx(one / 2)


def test_a_frozen_frame_is_stiller_than_the_reference(bank):
    true = clip(RESTLESS, RESTLESS, RESTLESS)
    found = scores(bank, true[:, :1].expand_as(true), true)
    assert found["motion_silence"] < -0.5
    assert found["motion_outside"] == 0
    assert np.isnan(found["motion_one_sided"])
    assert scores(bank, clip(SPOKEN // 2, SPOKEN // 2), clip())["motion_silence"] == 0


def test_motion_elsewhere_is_not_made_up_for_by_rest(bank):
    """A chin that stands still beside a cheek that trembles."""
    true, made = clip(chin=20 * (TIME % 2)), clip(chin=0 * TIME)
    made[0, 1::2, :, 160:180, 50:60] += 5
    assert scores(bank, made, true)["motion_outside"] > 0.03


def test_noise_of_single_pixels_and_other_colors_are_hardly_motion(bank):
    draw = torch.Generator().manual_seed(0)
    true = clip(chin=0 * TIME)
    noisy = (true + torch.randint(-5, 6, true.shape, generator=draw)).to(torch.uint8)
    trembling = clip(chin=10 * (TIME % 2))
    seen = scores(bank, trembling, true)["motion_outside"]
    assert scores(bank, noisy, true)["motion_outside"] < 0.25  # 3.6 levels a pixel and color
    assert scores(bank, trembling, noisy)["motion_outside"] > 0.8 * seen
    assert scores(bank, true + 20, true)["motion_outside"] == pytest.approx(0, abs=1e-4)


def test_what_lies_outside_the_lips():
    mask = outside_lips()
    assert mask.shape == (16, 32)
    for free in (mask[:, :9], mask[:, 23:], mask[13:]):  # cheeks and chin
        assert bool(free.all())
    assert not mask[1:11, 11:21].any()  # the lips with a margin
    assert bool((mask == mask.flip(1)).all())


def test_speed_and_one_sidedness_of_heads():
    steps = torch.arange(8.0, dtype=torch.float64)
    still = 100 * torch.rand(68, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    head = still + (5 * torch.sin(steps))[:, None, None]
    assert lip_speed(head).numpy() == pytest.approx(0, abs=1e-12)
    assert float(one_sidedness(head)) == pytest.approx(0, abs=1e-12)
    one = still.repeat(8, 1, 1)
    one[:, [48, 49, 50, 58, 59, 60, 61, 67], 0] += steps[:, None]
    assert float(one_sidedness(one)) == pytest.approx(1)
    mirrored = still.repeat(8, 1, 1)
    mirrored[:, [52, 53, 54, 55, 56, 63, 64, 65], 0] += steps[:, None]
    assert float(one_sidedness(mirrored)) == pytest.approx(-1)
    assert bool(one_sidedness(still[None]).isnan())
    assert bool(one_sidedness(still.repeat(3, 1, 1)).isnan())


def track(frames=12, seed=0):
    """(1, frames, 68, 2) points that move at random."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, frames, 68, 2, generator=draw, dtype=torch.float64).cumsum(1)


def value(metric, pred, target, length, **known):
    metric.update(pred, target, torch.tensor([0]), torch.tensor([length]), **known)
    found = metric.local_scores()
    return found.value[0], found.weight[0]


def test_silence_is_what_lies_before_and_after_speech():
    speech = torch.tensor([[4, 8]])
    target, pred = track(), track(seed=1)
    own, true = (lip_speed(points[0, :, 48:]) for points in (pred, target))
    steps = [0, 1, 2, 8, 9, 10]  # 3 to 4 and 7 to 8 touch speech
    expected = (own - true)[steps].mean().item()
    assert value(MotionInSilence(), pred, target, 12, speech=speech) == pytest.approx((expected, 6))
    pred[0, 5] = torch.nan  # in speech
    assert value(MotionInSilence(), pred, target, 12, speech=speech) == pytest.approx((expected, 6))
    pred[0, 9] = torch.nan
    assert value(MotionInSilence(), pred, target, 12, speech=speech) == pytest.approx(
        ((own - true)[[0, 1, 2, 10]].mean().item(), 4)
    )
    assert value(MotionInSilence(), pred, target, 9, speech=speech) == pytest.approx(
        ((own - true)[:3].mean().item(), 3)
    )
    for span, frames in (([0, 12], 12), ([1, 11], 12), ([0, 8], 9), ([4, 8], 0)):
        found, weight = value(MotionInSilence(), pred, target, frames, speech=torch.tensor([span]))
        assert np.isnan(found), span
        assert weight == 0


def test_frames_without_landmarks_and_padding_take_no_part():
    target, pred = track(), track(seed=1)
    expected = abs(float(one_sidedness(pred[0, 3:9]) - one_sidedness(target[0, 3:9])))
    pred[0, 9:] = 1000 * track(3, 2)[0]
    pred[0, :2], target[0, 2] = torch.nan, torch.nan
    assert value(OneSidedMotion(), pred, target, 9)[0] == pytest.approx(expected)
    assert np.isnan(value(OneSidedMotion(), pred, target, 4)[0])
    assert np.isnan(value(OneSidedMotion(), pred, target, 0)[0])


def test_broken_frames_and_padding_of_pictures_take_no_part():
    draw = torch.Generator().manual_seed(0)
    target, pred = (torch.rand(1, 8, 16, 32, generator=draw) for _ in range(2))
    first = value(MotionOutsideLips(), pred[:, :5], target[:, :5], 5)
    assert 0 < first[0] < 255
    pred[0, 5] = torch.nan
    assert value(MotionOutsideLips(), pred, target, 5) == first
    target[0, 6] = torch.nan
    assert value(MotionOutsideLips(), pred, target, 8) == pytest.approx(first)
    for frames in (0, 1):
        assert np.isnan(value(MotionOutsideLips(), pred, target, frames)[0])
        assert np.isnan(value(MotionOutsideLips(), pred[:, :frames], target[:, :frames], frames)[0])
