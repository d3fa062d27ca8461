"""Every public function of the package refuses what it would score wrongly, with what was found and what is wanted."""

import importlib
import inspect
import pkgutil

import pytest
import torch

import lipbench.metrics
from lipbench.evaluation.bank import METRICS
from lipbench.metrics.cpbd import cpbd, edge_widths, grey
from lipbench.metrics.csim import csim
from lipbench.metrics.dtw import lip_distance, path, picture_distance
from lipbench.metrics.fid import SetMetric, frechet_distance, kernel_distance
from lipbench.metrics.jitter import jitter
from lipbench.metrics.lmd import interocular, lmd
from lipbench.metrics.lpips import lpips
from lipbench.metrics.lse import distances, lse
from lipbench.metrics.motion import lip_speed, one_sidedness
from lipbench.metrics.opening import amplitude_ratio, correlation, opening
from lipbench.metrics.psnr import grey_levels, psnr, psnr_uint8_wrap
from lipbench.metrics.ssim import ssim, ssim_grey
from lipbench.metrics.wer import edits
from lipbench.scoring.base import ClipMetric

NOT_SCORES = {"weights_path", "backbone_path", "load", "outside_lips"}
"""Public functions that take no data."""
PICTURES, POINTS = torch.rand(4, 3, 64, 72), torch.rand(4, 68, 2)
LEVELS = (PICTURES[:, 0] * 255).to(torch.uint8)
EMBEDDED, WINDOWS = torch.rand(2, 9, 5), torch.tensor([9, 4])
MEAN, COVARIANCE = torch.rand(5), torch.eye(5)
TEXT = torch.rand(2, 6, 3)


def network(a, b):
    return (a - b).square().mean((1, 2, 3))


def compared(function, *more):
    """Wrong calls of a function of two tensors of pictures."""
    bytes_ = (PICTURES * 255).to(torch.uint8)
    for wrong in (
        PICTURES.movedim(1, -1),
        PICTURES[:, :1],
        PICTURES[:, 0],
        bytes_,
        PICTURES * 255,
        PICTURES * 2 - 1,
        PICTURES[..., :0],
        PICTURES[0, 0],
        PICTURES.numpy(),
    ):
        yield function, (wrong, wrong, *more)
    for other in (PICTURES[:, :, :32], PICTURES[:2], PICTURES[0], bytes_, PICTURES.movedim(1, -1)):
        yield function, (PICTURES, other, *more)
        yield function, (other, PICTURES, *more)


def wrong_points(function, *more):
    """Wrong calls of a function of points."""
    for points in (POINTS.movedim(1, -1), POINTS[..., :1], POINTS[..., 0], POINTS[:, :, None], POINTS.long()):
        yield function, (points, *more)


WRONG = [
    *(call for function in (psnr, psnr_uint8_wrap, ssim, ssim_grey) for call in compared(function)),
    *compared(lpips, network),
    *((ssim, (PICTURES[..., :10], PICTURES[..., :10])), (ssim_grey, (PICTURES[..., :6], PICTURES[..., :6]))),
    (lpips, (PICTURES[..., :31], PICTURES[..., :31], network)),
    *((grey_levels, (wrong,)) for wrong in (PICTURES.movedim(1, -1), PICTURES[0, 0], LEVELS, PICTURES * 255)),
    *((grey, (wrong,)) for wrong in (PICTURES, LEVELS, LEVELS[..., None].expand(-1, -1, -1, 3), LEVELS[0])),
    *(
        (function, (wrong,))
        for function in (cpbd, edge_widths)
        for wrong in (
            (PICTURES * 255).to(torch.uint8),
            (PICTURES * 255).to(torch.uint8).movedim(1, -1),
            (PICTURES[0] * 255).to(torch.uint8),
            (PICTURES[0] * 255).to(torch.uint8).movedim(0, -1),
            PICTURES[:, 0],
            LEVELS[0, 0],
            LEVELS[..., :0],
            LEVELS.numpy(),
        )
    ),
    *wrong_points(interocular),
    *wrong_points(opening),
    *wrong_points(one_sidedness),
    *(
        (function, (wrong,))
        for function in (jitter, lip_speed)
        for wrong in (POINTS[0], POINTS[..., :1], POINTS.long())
    ),
    *((lmd, (wrong, wrong)) for wrong in (POINTS.movedim(1, -1), POINTS[..., 0], POINTS.long(), POINTS[:, :0])),
    *((lmd, pair) for pair in ((POINTS, POINTS[:, :20]), (POINTS, POINTS[:, :1]))),
    *((lip_distance, (wrong, POINTS)) for wrong in (POINTS[0], POINTS[None], POINTS[:, 48:], POINTS.long())),
    *(
        (picture_distance, (PICTURES, other))
        for other in (PICTURES[..., :32], PICTURES[0], PICTURES * 255, PICTURES[:0])
    ),
    *(
        (path, (wrong,))
        for wrong in (PICTURES, PICTURES[0, 0, 0], torch.zeros(0, 3), torch.full((2, 2), torch.nan), [[1]])
    ),
    *(
        (csim, pair)
        for pair in ((EMBEDDED, EMBEDDED[:1]), (EMBEDDED.long(), EMBEDDED.long()), (EMBEDDED[..., :0],) * 2)
    ),
    *(
        (function, arguments)
        for function in (distances, lse)
        for arguments in (
            (EMBEDDED, EMBEDDED[:, :4], WINDOWS),
            (EMBEDDED[0], EMBEDDED[0], WINDOWS),
            (EMBEDDED.movedim(0, 1), EMBEDDED.movedim(0, 1), WINDOWS),
            (EMBEDDED, EMBEDDED, WINDOWS[:1]),
            (EMBEDDED, EMBEDDED, WINDOWS + 1),
            (EMBEDDED, EMBEDDED, -WINDOWS),
            (EMBEDDED, EMBEDDED, WINDOWS.float()),
            (EMBEDDED, EMBEDDED, WINDOWS, -1),
            (EMBEDDED, EMBEDDED, WINDOWS, 3, "none"),
            (EMBEDDED.long(), EMBEDDED.long(), WINDOWS),
        )
    ),
    *(
        (frechet_distance, arguments)
        for arguments in (
            (MEAN, COVARIANCE, MEAN[:4], COVARIANCE),
            (MEAN, COVARIANCE, MEAN, COVARIANCE[:4, :4]),
            (MEAN, COVARIANCE[:4], MEAN, COVARIANCE),
            (MEAN[None], COVARIANCE, MEAN[None], COVARIANCE),
            (MEAN, COVARIANCE * torch.nan, MEAN, COVARIANCE),
            (MEAN.long(), COVARIANCE, MEAN, COVARIANCE),
        )
    ),
    *((kernel_distance, pair) for pair in ((TEXT, TEXT), (TEXT[0], TEXT[0, :, :2]), (TEXT[0], TEXT[0, :1]))),
    *(
        (function, pair)
        for function in (correlation, amplitude_ratio)
        for pair in ((MEAN, MEAN[:4]), (COVARIANCE, COVARIANCE), (MEAN.long(), MEAN.long()))
    ),
    *((edits, pair) for pair in (("bin blue", "bin blue"), (["bin"], "bin"), ([["bin"]], []), ({"a"}, {"a"}))),
]


def public():
    """Every public function that a module of the package defines."""
    for module in pkgutil.iter_modules(lipbench.metrics.__path__):
        if not module.name.startswith("_"):
            members = inspect.getmembers(importlib.import_module(f"lipbench.metrics.{module.name}"))
            for name, value in members:
                own = getattr(value, "__module__", None) == f"lipbench.metrics.{module.name}"
                if own and not inspect.isclass(value) and callable(value) and not name.startswith("_"):
                    yield value


def test_no_public_function_is_left_out():
    assert {f.__name__ for f in public()} - NOT_SCORES == {function.__name__ for function, _ in WRONG}


def shown(value):
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype)[6:]}{tuple(value.shape)}"
    return value.__name__ if callable(value) else str(type(value).__name__)


@pytest.mark.parametrize(
    ("function", "given"), WRONG, ids=[f"{f.__name__}-{'-'.join(map(shown, given))}" for f, given in WRONG]
)
def test_what_would_be_scored_wrongly_is_refused(function, given):
    with pytest.raises(ValueError, match=r"expected|got|must|each needs|takes|lengths"):
        function(*given)


def test_no_clips_and_no_frames_are_no_mistake():
    for function in (psnr, psnr_uint8_wrap, ssim, ssim_grey):
        assert function(PICTURES[:0], PICTURES[:0]).shape == (0,)
        assert function(PICTURES[None, :0], PICTURES[None, :0]).shape == (1, 0)
    assert lpips(PICTURES[:0], PICTURES[:0], network).shape == (0,)
    assert cpbd(LEVELS[:0]).shape == (0,)
    assert lmd(POINTS[:0], POINTS[:0]).shape == opening(POINTS[:0]).shape == (0,)
    assert jitter(POINTS[:0]).shape == (0,)


def test_the_message_says_what_to_type():
    with pytest.raises(ValueError, match=r"\(4, 64, 72, 3\).*x\.movedim\(-1, -3\)"):
        psnr(PICTURES.movedim(1, -1), PICTURES.movedim(1, -1))
    with pytest.raises(ValueError, match=r"uint8.*x\.float\(\) / 255"):
        ssim((PICTURES * 255).to(torch.uint8), (PICTURES * 255).to(torch.uint8))
    with pytest.raises(ValueError, match=r"looks like color.*cpbd\(grey\(x\)\)"):
        cpbd((PICTURES * 255).to(torch.uint8))
    three = LEVELS[:3]
    assert torch.equal(cpbd(three[:, None])[:, 0], cpbd(LEVELS)[:3])


TAKEN = {
    None: torch.rand(2, 4, 3, 64, 72),
    "landmarks": POINTS.expand(2, 4, 68, 2),
    "syncnet": torch.rand(2, 4, 2, 5),
    "identity": torch.rand(2, 4, 5),
    "lower_face": torch.rand(2, 4, 16, 32),
}
CLASSES = {
    name: entry.metric
    for name, entry in METRICS.items()
    if issubclass(entry.metric, ClipMetric) and entry.metric.observes in TAKEN and name != "mouth/lpips"
}


@pytest.mark.parametrize("name", CLASSES)
def test_metrics_refuse_missing_batches_and_clips_that_differ_in_number(name):
    metric = CLASSES[name]()
    right = TAKEN[metric.observes]
    index, length = torch.arange(2), torch.tensor([4, 3])
    metric.update(right, right, index, length, length, torch.tensor([[1, 3]] * 2))
    for wrong in (right[0], right[:, :, None], right.long(), *([right.movedim(2, -1)] if right.ndim > 3 else [])):
        with pytest.raises(ValueError, match="expected"):
            metric.update(wrong, wrong, index, length)
    with pytest.raises(ValueError, match="differ"):
        metric.update(right, right, index, length[:1])
    assert len(metric.index) == 1


def test_sets_refuse_them_too():
    for entry in METRICS.values():
        if issubclass(entry.metric, SetMetric):
            metric = entry.metric(5)
            with pytest.raises(ValueError, match="expected"):
                metric.update(EMBEDDED[0], EMBEDDED[0], torch.arange(2), WINDOWS)
