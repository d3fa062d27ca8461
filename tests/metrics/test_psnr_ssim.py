"""PSNR and SSIM against other implementations, on scikit-image's astronaut."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage import data, metrics

from lipbench.metrics.psnr import CAP, PSNR, GreyWrapPSNR, grey_levels, psnr, psnr_uint8_wrap
from lipbench.metrics.ssim import SSIM, GreySSIM, ssim, ssim_grey
from lipbench.scoring.base import Spans

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "psnr_ssim.json").read_text())["values"]
FACE = data.astronaut()[0:256, 100:356]


def distorted(name):
    """As reference/psnr_ssim.json says under _recipe."""
    if name.startswith("noise"):
        noise = np.random.Generator(np.random.PCG64(0)).standard_normal(FACE.shape)
        return np.clip(np.rint(FACE + float(name[5:]) * noise), 0, 255).astype(np.uint8)
    if name == "blur2":
        return cv2.GaussianBlur(FACE, (0, 0), 2)
    if name == "shift1px":
        return np.roll(FACE, 1, axis=1)
    if name == "random":
        return np.random.Generator(np.random.PCG64(1)).integers(0, 256, FACE.shape, np.uint8)
    return 255 - FACE


def picture(image, dtype=torch.float64):
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).to(dtype) / 255


def spans(frames):
    length = torch.tensor([frames])
    return Spans(length, length, torch.tensor([[0, frames]]))


NAMES = ["noise2", "noise5", "noise10", "noise20", "noise40", "blur2", "shift1px", "random", "inverted"]


@pytest.mark.parametrize("name", NAMES)
def test_reference_values(name):
    pred, target = picture(distorted(name)), picture(FACE)
    assert psnr(pred, target).item() == pytest.approx(REFERENCE[name]["psnr"], abs=1e-5)
    assert ssim(pred, target).item() == pytest.approx(REFERENCE[name]["ssim"], abs=1e-6)
    wrapped = psnr_uint8_wrap(pred, target).item()
    assert wrapped == pytest.approx(REFERENCE[name]["psnr_uint8_wrap"], abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_grey_variants_are_those_of_the_released_script(name):
    """As 3d_gan's test.py does with OpenCV, numpy and scikit-image, on 8-bit grey pictures of 64x64 px."""
    images = [cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA) for image in (distorted(name), FACE)]
    a, b = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images)
    error = np.mean((a - b) ** 2)  # 8-bit integers: both operations wrap around
    pred, target = (picture(image, torch.float32) for image in images)
    assert np.array_equal(grey_levels(pred), a)
    assert psnr_uint8_wrap(pred, target, grey=True).item() == pytest.approx(
        20 * np.log10(255 / np.sqrt(error)), abs=1e-9
    )
    assert ssim_grey(pred, target).item() == pytest.approx(metrics.structural_similarity(a, b), abs=1e-12)
    video, other = pred.expand(1, 2, -1, -1, -1).clone(), target.expand(1, 2, -1, -1, -1)
    video[0, 1] = torch.nan
    for metric, function in ((GreyWrapPSNR(), lambda *x: psnr_uint8_wrap(*x, grey=True)), (GreySSIM(), ssim_grey)):
        value, _ = metric.score(video, other, spans(1))
        assert value.item() == pytest.approx(function(pred, target).item())
        assert metric.score(video, other, spans(2))[0].isnan()


@pytest.mark.parametrize("shape", [(2, 3, 64, 72), (3, 11, 40), (1, 1, 3, 12, 12)])
def test_ssim_blurs_alike_by_opencv_and_by_products(shape):
    """Gradients and devices other than processors go through products of matrices."""
    pred, target = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    by_products = ssim(pred.clone().requires_grad_(), target)
    assert by_products.requires_grad
    assert torch.allclose(ssim(pred, target), by_products.detach(), rtol=0, atol=1e-6)
    tall = torch.stack([pred, pred * torch.nan, pred])
    assert torch.equal(ssim(tall, torch.stack([target] * 3))[[0, 2]], torch.stack([ssim(pred, target)] * 2))


@pytest.mark.parametrize("shape", [(40, 80), (80, 160), (11, 64)])
def test_ssim_equals_skimage(shape):
    rng = np.random.default_rng(3)
    a = rng.random((*shape, 3))
    b = np.clip(a + 0.1 * rng.standard_normal(a.shape), 0, 1)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = metrics.structural_similarity(a, b, data_range=1.0, channel_axis=2, **settings)
    pictures = [torch.from_numpy(x).permute(2, 0, 1) for x in (a, b)]
    assert ssim(*pictures).item() == pytest.approx(expected, abs=1e-10)
    assert ssim(*(x.float() for x in pictures)).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("step", "wrapped"), [(1, 48.1308), (15, 24.6090), (16, 100.0), (17, 32.95), (255, 48.1308)])
def test_constant_difference(step, wrapped):
    low = torch.zeros(3, 16, 16, dtype=torch.float64)
    high = low + step / 255
    assert psnr(high, low).item() == pytest.approx(20 * np.log10(255 / step), abs=1e-9)
    assert psnr_uint8_wrap(high, low).item() == pytest.approx(wrapped, abs=0.01)


def test_identical_and_nan_frames():
    a = torch.rand(2, 3, 16, 16)
    assert psnr(a, a).tolist() == [CAP, CAP]
    assert ssim(a, a).tolist() == pytest.approx([1, 1], abs=1e-5)
    b = a.clone()
    b[1, 0, 3, 3] = torch.nan
    assert psnr(b, a).isnan().tolist() == [False, True]
    assert ssim(b, a).isnan().tolist() == [False, True]


def test_frames_are_averaged_not_pooled_and_padding_does_not_count():
    target = torch.full((1, 3, 3, 16, 16), 0.5)
    pred = target.clone()
    pred[0, 0] += 0.1
    pred[0, 1] += 0.01
    pred[0, 2] = 0  # padding
    metric = PSNR()
    metric.update(pred, target, torch.tensor([0]), torch.tensor([2]))
    assert metric.compute().item() == pytest.approx((20 + 40) / 2, abs=1e-3)
    copied = pred.clone()
    copied[0, 0] = target[0, 0]  # a copy counts as 100 dB
    for length, expected in ((2, (CAP + 40) / 2), (1, CAP)):
        metric = PSNR()
        metric.update(copied, target, torch.tensor([0]), torch.tensor([length]))
        assert metric.compute().item() == pytest.approx(expected, abs=1e-3)
    alone = SSIM()
    alone.update(pred, target, torch.tensor([0]), torch.tensor([2]))
    assert alone.compute().item() == pytest.approx(ssim(pred[0, :2], target[0, :2]).mean().item(), abs=1e-6)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="must be equal"):
        psnr(torch.zeros(3, 16, 16), torch.zeros(1, 16, 16))
    with pytest.raises(ValueError, match="11x11"):
        ssim(torch.zeros(3, 8, 16), torch.zeros(3, 8, 16))
