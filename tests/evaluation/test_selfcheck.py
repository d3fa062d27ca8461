"""The checks of `doctor --metrics`: all right as the metrics are, and each of them fails when its metric is broken."""

import numpy as np
import pytest
import torch

from lipbench.evaluation import bank as banks
from lipbench.evaluation import selfcheck
from lipbench.metrics import wer
from lipbench.metrics.cpbd import CPBD
from lipbench.metrics.lmd import LMD
from lipbench.metrics.lse import lse
from lipbench.metrics.motion import MotionInSilence, MotionOutsideLips, OneSidedMotion
from lipbench.metrics.opening import OpeningCorrelation
from lipbench.metrics.psnr import PSNR
from lipbench.scoring.views import MOUTH

IDENTITY, BLUR, NOISE = "a copy is perfect", "blur lowers CPBD", "noise lowers PSNR"
LIPS, OPENING = "a frozen frame raises LMD more than a slight blur", "a frozen frame lowers the opening's correlation"
MOTION = {
    "speech where nothing is said raises motion in silence",
    "a cheek that twitches raises motion outside the lips",
    "a mouth whose left half rests raises one-sided motion",
}
RULE, SHIFT = "a shift of made-up embeddings is the AV offset", "a shift of the sound is the AV offset"
FOREIGN = "another clip's sound lowers LSE-C and raises LSE-D"
WORDS, READER = "a wrong sentence raises WER and CER", "another clip's sentence raises a reader's WER and CER"


@pytest.fixture(scope="module")
def batch():
    """Half a second about the first word of both clips."""
    return selfcheck.cut(selfcheck.clips(), 12, 26)


def heard(sound):
    """(S,) -> (T, 2, 161): every frame's spectrum, once for the picture and once for the sound."""
    spectrum = torch.fft.rfft(sound[: len(sound) // 640 * 640].reshape(-1, 640)).abs()[:, ::2].log1p()
    return torch.stack([spectrum, spectrum], 1)


class Listener:
    """A perfect judge of these clips: it knows what sound belongs to a picture."""

    judge = "listener"
    needs = frozenset({"face", "sound"})

    def __init__(self, batch):
        self.true = {
            int(face[0].long().sum()): sound for face, sound in zip(batch["face"], batch["sound"], strict=True)
        }

    def observe(self, clip):
        found = heard(clip.sound)
        found[:, 0] = heard(self.true[int(clip.canonical[0].astype(np.int64).sum())])[:, 0]
        return found


class Reader:
    """Reads the clips as they are; each has its own mean color."""

    judge = "reader"
    needs = frozenset({"face"})

    def __init__(self, batch):
        self.said = {int(face[0].long().sum()): text for face, text in zip(batch["face"], batch["text"], strict=True)}

    def observe(self, clip):
        return self.said[int(clip.canonical[0].astype(np.int64).sum())]


def checks(batch):
    found = selfcheck.run(batch)
    return {check.name: check.state for check in found}, {check.name: check.detail for check in found}


def test_without_weights_the_rest_is_in_order(batch):
    states, details = checks(batch)
    assert {name for name, state in states.items() if state == "FAILED"} == set()
    ok = {IDENTITY, BLUR, NOISE, LIPS, OPENING, RULE, WORDS} | MOTION
    assert ok <= {name for name, state in states.items() if state == "ok"}
    for name in (SHIFT, FOREIGN, READER):
        assert states[name] == "skipped"
    assert "syncnet_v2.model" in details[SHIFT]
    assert "lip reader" in details[READER]
    assert "mouth/psnr 100 > " in details[NOISE]
    assert {"lmd", "mouth/ssim", "jitter", "opening_ratio"} <= set(details[IDENTITY].split(", "))


def test_broken_metrics_fail_and_good_judges_do_not(batch, monkeypatch):
    def worse(metric, change):
        score = metric.score
        monkeypatch.setattr(metric, "score", lambda *given, **known: change(*score(*given, **known)))

    worse(PSNR, lambda value, weight: (100 - value, weight))
    worse(CPBD, lambda value, weight: (torch.full_like(value, 0.5), weight))
    worse(LMD, lambda value, weight: (value * torch.nan, weight))
    worse(OpeningCorrelation, lambda value, weight: (1 - value.nan_to_num(0), weight))
    for metric in (MotionInSilence, MotionOutsideLips, OneSidedMotion):
        worse(metric, lambda value, weight: (-value, weight))
    monkeypatch.setattr(wer, "_cost", lambda read, true: np.zeros(len(read), np.int64))
    monkeypatch.setattr(selfcheck, "lse", lambda *given: lse(*given)._replace(offset=torch.tensor(0.0)))
    monkeypatch.setitem(banks.MAKE, "syncnet", lambda files, cache: Listener(batch))
    states, details = checks(batch)
    failed = {name for name, state in states.items() if state == "FAILED"}
    assert failed == {IDENTITY, BLUR, NOISE, LIPS, OPENING, RULE, WORDS} | MOTION
    assert (states[SHIFT], states[FOREIGN]) == ("ok", "ok")
    assert "mouth/psnr of a copy is 0, not 100" in details[IDENTITY]
    assert "lmd of a copy is nan, not 0" in details[IDENTITY]
    assert "mouth/ssim" not in details[IDENTITY]
    assert "mouth/cpbd is not 0.5 > 0.5" in details[BLUR]
    assert "reads as +0" in details[RULE]


def test_judges_that_hear_or_read_nothing_fail(batch, monkeypatch):
    class Deaf(Listener):
        def observe(self, clip):
            return super().observe(clip)[:, :1].expand(-1, 2, -1).clone()  # the picture's own sound, whatever is played

    for judge, expected in ((Listener(batch), "ok"), (Deaf(batch), "FAILED")):
        monkeypatch.setitem(banks.MAKE, "syncnet", lambda files, cache, judge=judge: judge)
        bank = banks.Bank(["sync", "av_offset[signed]"])
        scene = bank.scene(batch, MOUTH)
        assert selfcheck._shifted(bank, scene).state == expected
        assert selfcheck._foreign_sound(bank, scene).state == expected
    blind = Reader(batch)
    blind.observe = lambda clip: ""
    echo = Reader(batch)
    echo.observe = lambda clip: clip.text  # writes whatever it is shown
    for judge, *expected in (
        (Reader(batch), "ok", "ok", "ok"),
        (blind, "FAILED", "FAILED", "FAILED"),
        (echo, "FAILED", "FAILED", "FAILED"),
    ):
        for name in ("transcript", "second_transcript", "teacher_forced"):
            monkeypatch.setitem(banks.MAKE, name, lambda files, cache, judge=judge: judge)
        bank = banks.Bank(["wer", "cer", "wer[second]", "cer[second]", "wer[teacher-forced]"])
        found = selfcheck._words(bank, bank.scene(batch, MOUTH))
        assert [check.state for check in found] == ["ok", *expected]


def test_a_ladder_must_name_columns_that_there_are(batch, monkeypatch):
    monkeypatch.setattr(selfcheck, "_LADDERS", (selfcheck._Ladder("x", ("mouth/pnsr",), True, {}),))
    monkeypatch.setattr(selfcheck, "_identity", lambda bank, scene: None)
    with pytest.raises(ValueError, match="no column mouth/pnsr"):
        selfcheck.run(batch)
