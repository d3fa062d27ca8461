"""Five clips for every metric that needs no weights, with scores where they can be worked out by hand."""

import torch
from tester import Case

from lipbench.metrics.cpbd import CPBD
from lipbench.metrics.csim import CSIM
from lipbench.metrics.dtw import WarpedLMD, WarpedPSNR, WarpedSSIM
from lipbench.metrics.jitter import Jitter
from lipbench.metrics.lmd import LMD, GuideLMD, LandmarkCoverage, NormalizedLMD
from lipbench.metrics.lse import LSEC, LSED, AVOffset, WholeLSEC, WholeLSED
from lipbench.metrics.motion import MotionInSilence, MotionOutsideLips, OneSidedMotion
from lipbench.metrics.opening import OpeningCorrelation, OpeningRatio
from lipbench.metrics.psnr import PSNR, GreyWrapPSNR
from lipbench.metrics.ssim import SSIM, GreySSIM
from lipbench.metrics.wer import CER, PER, WER, SecondCER, SecondWER, TeacherForcedWER, WordAccuracy

LENGTH = torch.tensor([9, 7, 0, 8, 4])
MADE = torch.tensor([6, 9, 5, 8, 4])
SPEECH = torch.tensor([[2, 7], [1, 5], [0, 0], [3, 8], [1, 2]])
NAN = float("nan")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def landmarks() -> tuple[torch.Tensor, torch.Tensor]:
    """(5, 9, 68, 2) twice: moving faces, and the same faces with noise, where one clip loses a frame."""
    draw = generator()
    start = 200 * torch.rand(5, 1, 68, 2, generator=draw, dtype=torch.float64)
    moved = start + torch.randn(5, 9, 68, 2, generator=draw, dtype=torch.float64).cumsum(1)
    found = moved + torch.randn(5, 9, 68, 2, generator=draw, dtype=torch.float64)
    found[3, 0] = torch.nan
    return found, moved


def frames(side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """(5, 9, 3, side, side) twice."""
    first, second = torch.rand(2, 5, 9, 3, side, side, generator=generator())
    return first, second


def levels() -> tuple[torch.Tensor, torch.Tensor]:
    """(5, 9, 3, 16, 16) twice, 0.1 apart: a PSNR of 20 dB."""
    target = 0.4 * torch.rand(5, 9, 3, 16, 16, generator=generator(), dtype=torch.float64)
    return target + 0.1, target


def embeddings(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(5, ...) twice."""
    first, second = torch.randn(2, 5, *shape, generator=generator(), dtype=torch.float64)
    return first, second


READ = ["bin blue at f two", "set in g", "a", "now", None]
SAID = ["bin blue at s two", "set red in g", "a", "lay now", "a b"]
TEXTS = READ, SAID, LENGTH
POINTS = (*landmarks(), LENGTH)
FRAMES = (*frames(), LENGTH)
CASES = {
    "wer": Case(WER, *TEXTS, expected=[1 / 5, 1 / 4, NAN, 1 / 2, NAN]),
    "wer[utterance]": Case(lambda: WER(pooling="utterance"), *TEXTS, expected=[1 / 5, 1 / 4, NAN, 1 / 2, NAN]),
    "wer[del]": Case(lambda: WER("deletions"), *TEXTS, expected=[0, 1 / 4, NAN, 1 / 2, NAN]),
    "wer[second]": Case(SecondWER, *TEXTS, expected=[1 / 5, 1 / 4, NAN, 1 / 2, NAN]),
    "cer": Case(CER, *TEXTS, expected=[1 / 17, 4 / 12, NAN, 4 / 7, NAN]),
    "wer[teacher-forced]": Case(
        lambda: TeacherForcedWER(pooling="utterance"), *TEXTS, expected=[1 / 5, 1 / 4, NAN, 1 / 2, NAN]
    ),
    "cer[second]": Case(SecondCER, *TEXTS, expected=[1 / 17, 4 / 12, NAN, 4 / 7, NAN]),
    "per": Case(PER, *TEXTS, expected=[1 / 5, 1 / 4, NAN, 1 / 2, NAN]),
    "word_accuracy": Case(WordAccuracy, *TEXTS, expected=[0, 0, NAN, 0, NAN]),
    "lmd": Case(LMD, *POINTS),
    "lmd[raw]": Case(lambda: LMD("raw"), *POINTS),
    "lmd[guide]": Case(GuideLMD, *POINTS),
    "lmd_iod": Case(NormalizedLMD, *POINTS),
    "lmd_coverage": Case(LandmarkCoverage, *POINTS, expected=[1, 1, NAN, 7 / 8, 1]),
    "jitter": Case(Jitter, *POINTS),
    "opening_corr": Case(OpeningCorrelation, *POINTS),
    "opening_corr[speech]": Case(lambda: OpeningCorrelation("speech"), *POINTS, {"speech": SPEECH}),
    "opening_ratio": Case(OpeningRatio, *POINTS),
    "motion_silence": Case(MotionInSilence, *POINTS, {"speech": SPEECH}),
    "motion_one_sided": Case(OneSidedMotion, *POINTS),
    "motion_outside": Case(MotionOutsideLips, *torch.rand(2, 5, 9, 16, 32, generator=generator()), LENGTH),
    "psnr": Case(PSNR, *levels(), LENGTH, expected=[20, 20, NAN, 20, 20]),
    "psnr[grey-wrap]": Case(GreyWrapPSNR, *FRAMES),
    "ssim": Case(SSIM, *FRAMES),
    "ssim[grey]": Case(GreySSIM, *FRAMES),
    "cpbd": Case(CPBD, *frames(64), LENGTH, {"pred_len": MADE}),
    "csim": Case(CSIM, *embeddings(9, 5), LENGTH),
    "lse_c": Case(LSEC, *embeddings(9, 2, 5), LENGTH),
    "lse_d": Case(LSED, *embeddings(9, 2, 5), LENGTH),
    "lse_c[whole]": Case(WholeLSEC, *embeddings(9, 2, 5), LENGTH),
    "lse_d[whole]": Case(WholeLSED, *embeddings(9, 2, 5), LENGTH),
    "av_offset": Case(AVOffset, *embeddings(9, 2, 5), LENGTH),
    "lmd[dtw]": Case(WarpedLMD, *landmarks(), LENGTH, {"pred_len": MADE}),
    "psnr[dtw]": Case(WarpedPSNR, *FRAMES, {"pred_len": MADE}),
    "ssim[dtw]": Case(WarpedSSIM, *FRAMES, {"pred_len": MADE}),
}
"""Name -> what is scored."""
