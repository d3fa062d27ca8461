"""Every entry of the catalogue: the same scores however clips are dealt out, and bad clips harm nobody else."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision

from lipbench.evaluation import bank as banks
from lipbench.media import geometry, text
from lipbench.metrics import fvd
from lipbench.nets import syncnet
from lipbench.nets.conformer import Conformer
from lipbench.nets.lipnet import LipNet
from lipbench.pretrained import weights
from lipbench.scoring import observers
from lipbench.scoring.base import ClipMetric, TranscriptMetric, mean, merge
from lipbench.scoring.sets import SetMetric
from lipbench.types import View

VIEW = View("mouth", 40, 80)
LENGTH = torch.tensor([8, 6, 8, 7])
MADE = torch.tensor([8, 6, 8, 6])
"""The last generated video is a frame short: what compares frame by frame has no score for it."""
NAMES = [name for name, entry in banks.METRICS.items() if entry.column.scores == "video"]
TOO_SMALL = ["native/cpbd"]
"""Columns that this view is too small for."""
CLIPS = [name for name in NAMES if issubclass(banks.METRICS[name].metric, ClipMetric) and name not in TOO_SMALL]
SETS = [name for name in NAMES if issubclass(banks.METRICS[name].metric, SetMetric)]
NEEDS_MORE_FRAMES = ("opening_corr", "opening_ratio", "jitter", "motion_", "lse_", "av_offset", "fvd")
"""Beginnings of the names of what one frame cannot be scored by."""


class Points:
    """Landmarks that move with the brightness of the mouth."""

    name = "dlib"

    def points(self, frame, box):
        top, left, bottom, _ = geometry.box("mouth")
        line = frame[(top + bottom) // 2, left : left + 136 : 2].mean(-1) / 255  # (68,)
        return (geometry.TEMPLATE + np.array([32, 16]) + 8 * line[:, None]).astype(np.float32)


class Colors:
    """Mean colors of the mouth in windows of some frames: stands in for networks whose weights are not here."""

    judge = "mean colors"
    needs = frozenset({"face"})

    def __init__(self, window=1):
        self.window = window

    def observe(self, clip):
        frames = clip.pictures(VIEW).mean((2, 3)).masked_fill(clip.broken[:, None], torch.nan)  # (T, 3)
        whole = len(frames) // self.window * self.window
        return frames[:whole].reshape(-1, self.window, 3).mean(1)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """The whole bank; every network is a small random one, or mean colors."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    reader = LipNet((16, 32), (4, 4, 4), 4)
    with torch.no_grad():
        reader.back_end.out.weight.mul_(100)  # so that it reads something else in every clip
    saved = {"arguments": reader.arguments, "view": View("mouth", 16, 32), "vocabulary": text.SYMBOLS}
    weights.save(folder / "reader.safetensors", reader, trained_on="nothing", **saved)
    sizes = {"front": 4, "widths": (4, 4, 4, 4), "width": 8, "layers": 1, "heads": 2, "ffn": 8, "decoder_layers": 1}
    decodes = Conformer(**sizes, margin=0)
    saved["arguments"] = decodes.arguments
    weights.save(folder / "decodes.safetensors", decodes, trained_on="nothing", **saved)
    judge = syncnet.SmallSyncNet(size=(16, 32), video_widths=(4, 4), audio_widths=(4, 4, 4, 4, 4), hidden=8, width=8)
    weights.save(folder / "judge.safetensors", judge, arguments=judge.arguments, view=judge.view, trained_on="nothing")
    backbone = torchvision.models.alexnet(weights=None).features.state_dict()
    torch.save({f"features.{name}": value for name, value in backbone.items()}, folder / "alexnet.pth")
    files = {"transcript": "reader.safetensors", "second_transcript": "reader.safetensors"}
    files |= {"teacher_forced": "decodes.safetensors", "syncnet": "judge.safetensors", "lpips": "alexnet.pth"}
    stand_in = {"inception": Colors(), "identity": Colors(), "i3d": Colors(2)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observers.landmarks, "load", lambda name: Points())
        patch.setattr(banks, "MAKE", banks.MAKE | {k: lambda files, cache, v=v: v for k, v in stand_in.items()})
        patch.setattr(fvd, "WINDOW", 2)
        yield banks.Bank(NAMES, {name: str(folder / file) for name, file in files.items()})


@pytest.fixture(scope="module")
def clips():
    """Four clips of different length, zero-padded, and generated videos that resemble them."""
    rng = np.random.default_rng(0)
    low = torch.from_numpy(rng.random((4, 8, 3, 22, 20))).float()
    face = (geometry.resize(low, (geometry.HEIGHT, geometry.WIDTH)) * 255).round().to(torch.uint8)
    points = torch.from_numpy(geometry.TEMPLATE + np.array([32, 16])).float() + torch.zeros(4, 8, 68, 2)
    video = geometry.crop(face, VIEW).float() / 255
    made = 0.8 * video + 0.2 * torch.from_numpy(rng.random(tuple(video.shape))).float()
    whole, made_whole = (geometry.resize((shown * 255).to(torch.uint8), (224, 224)) for shown in (video, made))
    for row, (true, own) in enumerate(zip(LENGTH, MADE, strict=True)):
        face[row, true:], video[row, true:], points[row, true:], made[row, own:] = 0, 0, 0, 0
    return {
        "index": torch.arange(4),
        "video": video,
        "video_len": LENGTH,
        "made": made,
        "made_len": MADE,
        "made_whole": made_whole,
        "whole": whole,
        "face": face,
        "landmarks": points,
        "speech": torch.stack([torch.full_like(LENGTH, 2), LENGTH - 1], 1),
        "fps": torch.full((4,), 25.0),
        "text": ["bin blue at", "set red", "a", "lay now"],
        "sound": torch.from_numpy(rng.normal(0, 0.1, (4, 640 * 8))).float(),
        "sound_len": LENGTH * 640,
    }


def some(clips, rows):
    """Those clips as a batch of their own, padded to the longest of them."""
    given = {key: [value[k] for k in rows] for key, value in clips.items()}
    own = max(given["made_len"])
    longest = {"sound": max(given["sound_len"]), "made": own, "made_whole": own}
    frames = max(given["video_len"])
    for key, values in given.items():
        if key != "text":
            stacked = torch.stack(values)
            cut = longest.get(key, frames if key in ("video", "face", "landmarks", "whole") else None)
            given[key] = stacked if cut is None else stacked[:, :cut]
    return given


def score(bank, *batches, names=NAMES):
    """A row with these batches, one after the other; sets are compared by three features a frame or window."""
    entries = [banks.METRICS[name] for name in names]
    made = {e.name: e.metric(3) if issubclass(e.metric, SetMetric) else e.make(bank._files) for e in entries}
    row = banks.ScoreRow(entries, made, {}, bank.observers)
    for batch in batches:
        given = dict(batch)
        video, length = given.pop("made"), given.pop("made_len")
        scene = bank.scene(given, VIEW)
        row.update(scene.take(video, length, whole=given.pop("made_whole")), scene)
    return row


@pytest.fixture(scope="module")
def dealt(bank, clips):
    """The clips in one batch, one at a time, in uneven batches with one twice, and as the shares of two processes."""
    return SimpleNamespace(
        together=score(bank, clips),
        single=score(bank, *[some(clips, [k]) for k in (2, 0, 3, 1)]),
        uneven=score(bank, some(clips, [3, 0, 1]), some(clips, [2]), some(clips, [0])),
        shares=[score(bank, some(clips, [0, 2])), score(bank, some(clips, [1, 3, 0]))],
    )


def equal(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CLIPS)
def test_clips_score_the_same_however_they_are_dealt_out(dealt, name):
    whole = dealt.together.metrics[name]
    expected = whole.local_scores()
    assert expected.index.tolist() == [0, 1, 2, 3], dealt.together.reasons.get(name)
    assert np.isnan(expected.value).tolist() == [False, False, False, whole.aligned]
    shares = merge([row.local_scores()[name] for row in dealt.shares])
    for found in (dealt.single.metrics[name].local_scores(), dealt.uneven.metrics[name].local_scores(), shares):
        assert found.index.tolist() == [0, 1, 2, 3]
        equal(found.value, expected.value)
        equal(found.weight, expected.weight)
    for other in (dealt.single.metrics[name].compute(), dealt.uneven.metrics[name].compute()):
        equal(other.item(), whole.compute().item())
    equal(mean(shares.value, shares.weight), whole.compute().item())


@pytest.mark.parametrize("name", SETS)
def test_sets_score_the_same_however_they_are_dealt_out(dealt, name):
    """Sums of two processes: `two_sets.py`."""
    expected, count = dealt.together.sets[name].compute_set()
    assert count == 4, dealt.together.reasons.get(name)
    assert abs(expected) > 1e-4
    for row in (dealt.single, dealt.uneven):
        found, count = row.sets[name].compute_set()
        assert count == 4
        equal(found, expected)


def test_every_entry_is_tested_here():
    assert sorted(CLIPS + SETS + TOO_SMALL) == sorted(NAMES)


@pytest.fixture(scope="module")
def broken(bank, clips):
    """The same clips, where a generated frame of the second is NaN."""
    made = clips["made"].clone()
    made[1, 2, 0, 7, 7] = torch.nan
    return score(bank, clips | {"made": made})


@pytest.mark.parametrize("name", CLIPS)
def test_a_frame_of_nan_is_never_a_score_and_leaves_the_other_clips_alone(dealt, broken, name):
    metric = broken.metrics[name]
    value, expected = metric.local_scores().value, dealt.together.metrics[name].local_scores().value
    equal(value[[0, 2, 3]], expected[[0, 2, 3]])
    assert np.isnan(value[1]) or (np.isfinite(value[1]) and value[1] not in (0, 100, metric.perfect))
    # What is looked for frame by frame may still be said of the other frames.
    assert np.isnan(value[1]) or metric.observes in ("landmarks", "lower_face")


@pytest.mark.parametrize("name", SETS)
def test_a_frame_of_nan_takes_its_clip_out_of_the_set(broken, name):
    value, count = broken.sets[name].compute_set()
    assert np.isfinite(value)
    assert count == 3


@pytest.fixture(scope="module")
def short(bank, clips):
    """Two clips of one frame."""
    lengths = {"video_len", "made_len"}
    one = {k: torch.ones_like(v) if k in lengths else v for k, v in clips.items()}
    return score(bank, some(one | {"speech": torch.tensor([[0, 1]] * 4), "sound_len": one["video_len"] * 640}, [0, 1]))


@pytest.mark.parametrize("name", CLIPS + SETS)
def test_one_frame_is_scored_or_undefined(short, name):
    if name in SETS:
        value, count = short.sets[name].compute_set()
        assert np.isnan(value) == (count == 0)
        assert not np.isinf(value)
    else:
        value = short.metrics[name].local_scores().value
        assert not np.isinf(value).any()
        assert len(value) == 2
    if name.startswith(NEEDS_MORE_FRAMES):
        assert np.isnan(value).all()
    elif not name.startswith(("wer", "cer", "per", "word_accuracy", "lmd_coverage")):
        assert not np.isin(value, (0, 100)).any()


def test_nothing_said_and_nothing_heard(bank, clips):
    """An empty text leaves nothing to be read wrong; silence is a sound; without samples there is none to compare."""
    sync = [name for name in CLIPS if banks.METRICS[name].metric.observes == "syncnet"]
    reading = [name for name in CLIPS if issubclass(banks.METRICS[name].metric, TranscriptMetric)]
    said, silent = ["", " ", "a", "lay now"], torch.zeros_like(clips["sound"])
    quiet = score(bank, clips | {"sound": silent, "text": said}, names=[*sync, *reading])
    deaf = score(bank, clips | {"sound": silent[:, :0], "sound_len": torch.zeros(4, dtype=torch.int64)}, names=sync)
    for name in reading:
        assert np.isnan(quiet.metrics[name].local_scores().value).tolist() == [True, True, False, False], name
    for name in sync:
        assert not np.isinf(quiet.metrics[name].local_scores().value).any(), name
        assert np.isnan(deaf.metrics[name].local_scores().value).all(), name
