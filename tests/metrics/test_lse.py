"""LSE-C, LSE-D and AV offset: reference values, padding, and clips of different lengths."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lipbench.metrics.lse import LSEC, LSED, AVOffset, distances, lse

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "syncnet.json").read_text())["scorer"]
INDEX = torch.arange(4)


def embeddings():
    """Roll -> (video, audio), (1, 60, 1024) float32 each, drawn as the recipe in the reference file says."""
    draw = np.random.Generator(np.random.PCG64(123))
    base = draw.standard_normal((60, 1024))
    found = {}
    for roll in (-3, 0, 4):
        near = (0.3 * np.roll(base, roll, axis=0)).astype(np.float32)
        noise = (0.1 * draw.standard_normal((60, 1024))).astype(np.float32)
        video = torch.from_numpy((0.3 * base).astype(np.float32))
        found[roll] = (video[None], torch.from_numpy(near + noise)[None])
    return found


PAIRS = embeddings()


@pytest.mark.parametrize("name", list(REFERENCE))
def test_reference_values(name):
    """Values of the published scorer: shared reference values, key syncnet."""
    roll, shift = int(name.split("_")[0][4:]), int(name.split("_")[1][6:])
    video, audio = PAIRS[roll]
    padding = "mask" if name.endswith("masked_padding") else "zero"
    found = lse(video, audio, torch.tensor([60]), shift, padding)
    assert found.lse_c.item() == pytest.approx(REFERENCE[name]["LSE_C"], abs=1e-4)
    assert found.lse_d.item() == pytest.approx(REFERENCE[name]["LSE_D"], abs=1e-4)
    assert found.offset.item() == REFERENCE[name]["offset"]


def test_equals_a_loop_over_windows():
    """The published way: zero vectors around the sound, one picture window after the other, eps in the distance."""
    video, audio = (x[:, :20] for x in PAIRS[4])
    padded = F.pad(audio[0], (0, 0, 15, 15))
    loop = torch.stack([F.pairwise_distance(video[0, [k]].expand(31, -1), padded[k : k + 31]) for k in range(20)])
    torch.testing.assert_close(distances(video, audio, torch.tensor([20]))[0], loop.mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding", ["zero", "mask"])
def test_a_clip_is_the_same_alone_and_in_a_batch(padding):
    (video, audio), windows = PAIRS[-3], torch.tensor([60, 33, 9, 1])
    noise = torch.full((4, 60, 1024), torch.nan)  # what lies after the last window is never read
    videos, audios = noise.clone(), noise.clone()
    for row, count in enumerate(windows.tolist()):
        videos[row, :count], audios[row, :count] = video[0, :count], audio[0, :count]
    together = lse(videos, audios, windows, padding=padding)
    for row, count in enumerate(windows.tolist()):
        alone = lse(video[:, :count], audio[:, :count], torch.tensor([count]), padding=padding)
        for one, all_ in zip(alone, together, strict=True):
            assert one.item() == pytest.approx(all_[row].item(), abs=1e-5)
    assert torch.isfinite(together.lse_d).all()


def observed(roll, count=60, rows=64):
    """An observation (1, rows, 2, 1024): pictures and sound of `count` windows, NaN after them."""
    found = torch.full((1, rows, 2, 1024), torch.nan)
    found[0, :count] = torch.stack([x[0, :count] for x in PAIRS[roll]], 1)
    return found


def test_metrics_take_an_observation_and_average_over_clips():
    pred = torch.cat([observed(0), observed(-3), observed(4), observed(4, 0)])
    target = torch.cat([observed(0)] * 4)
    values = {}
    for metric in (LSEC(), LSED(), AVOffset(), AVOffset(signed=True), LSEC("mask")):
        metric.update(pred, target, INDEX, torch.tensor([65, 65, 65, 5]))
        clips = metric.per_clip()
        assert clips.weight.tolist() == [1, 1, 1, 1]
        assert np.isnan(clips.value[3])  # no window: undefined, and not 0
        assert metric.compute().item() == pytest.approx(np.mean(clips.value[:3]))
        values[type(metric).__name__, getattr(metric, "signed", metric.padding)] = clips.value[:3].tolist()
    for metric, key in (("LSEC", "LSE_C"), ("LSED", "LSE_D")):
        expected = [REFERENCE[f"roll{roll}_vshift15"][key] for roll in (0, -3, 4)]
        assert values[metric, "zero"] == pytest.approx(expected, abs=1e-4)
    masked = [REFERENCE[f"roll{roll}_vshift15_masked_padding"]["LSE_C"] for roll in (0, -3, 4)]
    assert values["LSEC", "mask"] == pytest.approx(masked, abs=1e-4)
    assert values["AVOffset", True] == [0, 3, -4]
    assert values["AVOffset", False] == [0, 3, 4]


def test_the_offset_is_measured_from_the_references_own():
    metric = AVOffset()
    metric.update(observed(-3), observed(4), INDEX[:1], torch.tensor([65]))
    assert metric.compute().item() == 7
    copy = AVOffset()
    copy.update(observed(4), observed(4), INDEX[:1], torch.tensor([65]))
    assert copy.compute().item() == AVOffset.perfect == 0


@pytest.mark.parametrize("padding", ["zero", "mask"])
def test_broken_clips_are_undefined(padding):
    nan = observed(0)
    nan[0, 7, 0, 3] = torch.nan  # a picture of NaN in the middle
    first = observed(0)
    first[0, 0, 0] = torch.nan  # one that masked shifts leave out
    for metric in (LSEC(padding), LSED(padding), AVOffset(padding=padding)):
        metric.update(
            torch.cat([nan, first, observed(0), observed(0)]),
            torch.cat([observed(0)] * 4),
            INDEX,
            torch.tensor([65, 65, 0, 65]),  # the third has no valid frame
        )
        assert np.isfinite(metric.per_clip().value).tolist() == [False, False, False, True]
