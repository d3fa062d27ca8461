"""The contract of clip metrics: batches, duplicates, weights, undefined scores. (Two processes: tests/evaluation.)"""

import numpy as np
import pytest
import torch

from lipbench.metrics.psnr import PSNR

LENGTHS = torch.tensor([4, 2, 3, 4, 1])


def clips():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(5, 4, 3, 12, 12, generator=generator) for _ in range(2)]


def fill(metric, rows):
    pred, target = clips()
    for k in rows:
        metric.update(pred[k : k + 1], target[k : k + 1], torch.tensor([k]), LENGTHS[k : k + 1])
    return metric


def test_one_batch_equals_clip_by_clip_equals_the_mean_over_all_frames():
    pred, target = clips()
    whole = PSNR()
    whole.update(pred, target, torch.arange(5), LENGTHS)
    single = fill(PSNR(), [3, 1, 0, 4, 2])
    assert single.compute().item() == pytest.approx(whole.compute().item(), abs=1e-6)
    frames = [
        -10 * np.log10(((p - t) ** 2).mean().item())
        for k in range(5)
        for p, t in zip(pred[k, : LENGTHS[k]], target[k], strict=False)
    ]
    assert whole.compute().item() == pytest.approx(np.mean(frames), abs=1e-5)
    assert single.per_clip().index.tolist() == [0, 1, 2, 3, 4]


def test_repeated_clips_count_once():
    assert fill(PSNR(), [0, 1, 2, 0, 0]).compute().item() == pytest.approx(
        fill(PSNR(), [0, 1, 2]).compute().item(), abs=1e-9
    )


def test_undefined_clips_take_no_part():
    pred, target = clips()
    pred[1, 0] = torch.nan
    metric = PSNR()
    metric.update(pred, target, torch.arange(5), torch.tensor([4, 2, 0, 4, 1]))
    values = metric.per_clip().value
    assert np.isnan(values).tolist() == [False, True, True, False, False]
    assert metric.compute().item() == pytest.approx(np.average(values[[0, 3, 4]], weights=[4, 4, 1]), abs=1e-9)
    assert PSNR().compute().isnan()


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        ((torch.tensor(0.5), torch.ones(2)), r"a tuple of \[\(\), \(2,\)\]"),
        ((torch.ones(2, 5), torch.ones(2)), r"a tuple of \[\(2, 5\), \(2,\)\]"),
        (torch.ones(2, 2), "a Tensor"),
        ((0.5, 1), r"a tuple of \['float', 'int'\]"),
    ],
)
def test_scores_that_belong_to_no_clip_are_refused(returned, found):
    class Odd(PSNR):
        def score(self, pred, target, spans):
            return returned

    video = torch.rand(2, 5, 3, 8, 8)
    with pytest.raises(ValueError, match=rf"Odd\.score returned {found} for 2 clips; expected two tensors"):
        Odd().update(video, video)
