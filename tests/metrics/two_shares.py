"""Clips for metrics of text, landmarks and warped videos; `python two_shares.py FOLDER` scores them as one of two."""

import json
import os
import sys
from pathlib import Path

import torch

from lipbench.metrics.dtw import WarpedLMD, WarpedPSNR, WarpedSSIM
from lipbench.metrics.jitter import Jitter
from lipbench.metrics.lmd import LMD, LandmarkCoverage, NormalisedLMD
from lipbench.metrics.wer import CER, PER, WER, WordAccuracy

LENGTH = torch.tensor([9, 7, 0, 8, 4])
MADE = torch.tensor([6, 9, 5, 8, 4])


def landmarks():
    """(5, 9, 68, 2) twice: moving faces, and the same faces with noise, where one clip loses a frame."""
    generator = torch.Generator().manual_seed(0)
    start = 200 * torch.rand(5, 1, 68, 2, generator=generator, dtype=torch.float64)
    moved = start + torch.randn(5, 9, 68, 2, generator=generator, dtype=torch.float64).cumsum(1)
    found = moved + torch.randn(5, 9, 68, 2, generator=generator, dtype=torch.float64)
    found[3, 0] = torch.nan
    return found, moved


def pictures():
    """(5, 9, 3, 16, 16) twice."""
    return tuple(torch.rand(2, 5, 9, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


TEXTS = (
    ["bin blue at f two", "set in g", "a", "now", None],
    ["bin blue at s two", "set red in g", "a", "lay now", "a b"],
    LENGTH,
)
POINTS = (*landmarks(), LENGTH)
CASES = {
    "wer": (WER, TEXTS),
    "wer[utterance]": (lambda: WER(pooling="utterance"), TEXTS),
    "wer_del": (lambda: WER("deletions"), TEXTS),
    "cer": (CER, TEXTS),
    "per": (PER, TEXTS),
    "word_accuracy": (WordAccuracy, TEXTS),
    "lmd": (LMD, POINTS),
    "lmd_iod": (NormalisedLMD, POINTS),
    "lmd_coverage": (LandmarkCoverage, POINTS),
    "jitter": (Jitter, POINTS),
    "lmd[dtw]": (WarpedLMD, (*landmarks(), LENGTH, MADE)),
    "psnr[dtw]": (WarpedPSNR, (*pictures(), LENGTH, MADE)),
    "ssim[dtw]": (WarpedSSIM, (*pictures(), LENGTH, MADE)),
}
"""Name -> metric and what it scores: five clips pred, target, length and, where it asks, pred_len."""


def known(arguments, rows):
    """Keywords of `update` beyond the length."""
    return {"pred_len": arguments[3][list(rows)]} if len(arguments) > 3 else {}


def update(metric, arguments, k):
    """Score clip k."""
    pred, target, length = (argument[k : k + 1] for argument in arguments[:3])
    metric.update(pred, target, torch.tensor([k]), length, **known(arguments, [k]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    results = {}
    for name, (make, arguments) in CASES.items():
        for share in ([[0, 2, 4], [1, 3, 0]], [[3, 1, 2, 0, 4], []]):  # with a repeated clip; and one without any
            metric = make()
            for k in share[rank]:
                update(metric, arguments, k)
            results[name] = metric.compute().item(), metric.per_clip().value.tolist()
            both = results.setdefault(f"{name} before", results[name])
            assert abs(both[0] - results[name][0]) < 1e-9
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(results))
    torch.distributed.barrier()  # neither leaves while the other still reads
    torch.distributed.destroy_process_group()
