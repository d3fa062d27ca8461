import math

import pytest
import torch
from torch.nn import functional as F

from lipbench import losses


def test_l1_counts_valid_steps_only() -> None:
    prediction, target = torch.zeros(2, 3, 1, 2, 2), torch.zeros(2, 3, 1, 2, 2)
    prediction[0, 0] = 0.5
    prediction[1, 2] = 100  # padding
    assert losses.l1(prediction, target, torch.tensor([3, 1])).item() == pytest.approx(0.5 / 4)
    assert losses.l1(prediction[:1], target[:1]).item() == pytest.approx(0.5 / 3)
    assert losses.l1(torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([1, 3])).item() == 1


def reference_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The textbook way: a 2D window as a depthwise convolution, in double precision."""
    at = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(at**2) / (2 * 1.5**2))
    window = torch.outer(line, line)
    window = (window / window.sum()).expand(x.shape[1], 1, 11, 11)

    def mean(z: torch.Tensor) -> torch.Tensor:
        return F.conv2d(z, window, groups=z.shape[1])

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 1e-4, 9e-4
    value = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return value.mean(dim=(1, 2, 3))


def test_ssim_equals_the_textbook() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, 17, 30, generator=draw)
    y = (0.7 * x + 0.3 * torch.rand(3, 3, 17, 30, generator=draw)).clamp(0, 1)
    found = losses.ssim(x, y)
    assert found.shape == (3,)
    torch.testing.assert_close(found.double(), reference_ssim(x.double(), y.double()), rtol=0, atol=2e-5)
    torch.testing.assert_close(losses.ssim(x, x), torch.ones(3))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(losses.ssim(x, y), found)


def test_ssim_climbs_by_its_gradient_and_refuses_small_pictures() -> None:
    draw = torch.Generator().manual_seed(0)
    target = torch.rand(1, 3, 12, 14, generator=draw)
    picture = torch.full_like(target, 0.5).requires_grad_()
    before = losses.ssim(picture, target).sum()
    (slope,) = torch.autograd.grad(before, picture)
    assert losses.ssim(picture + 0.05 * slope / slope.abs().max(), target).item() > before.item() + 0.01
    with pytest.raises(ValueError, match="found 8x14"):
        losses.ssim(picture[:, :, :8], target[:, :, :8])


def test_duration_losses() -> None:
    durations, valid = torch.tensor([[3, 1, 0], [2, 9, 9]]), torch.tensor([[True, True, True], [True, False, False]])
    exact = torch.log1p(durations.float())
    assert losses.duration_token(exact, durations, valid).item() == 0
    assert losses.duration_sentence(exact, durations, valid).item() == pytest.approx(0, abs=1e-10)
    off = exact + torch.tensor([[0.1, 0.0, 0.0], [0.0, 5.0, 5.0]])  # what is wrong outside the sentence does not count
    assert losses.duration_token(off, durations, valid).item() == pytest.approx(0.01 / 4)
    moved = torch.log1p(torch.tensor([[1.0, 3.0, 0.0], [2.0, 0.0, 0.0]]))  # wrong tokens, right sums
    assert losses.duration_sentence(moved, durations, valid).item() == pytest.approx(0, abs=1e-10)
    empty = torch.zeros(2, 3)
    expected = (math.log(5) ** 2 + math.log(3) ** 2) / 2
    assert losses.duration_sentence(empty, durations, valid).item() == pytest.approx(expected)


def test_lsgan() -> None:
    real, fake = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5])
    found = losses.lsgan_discriminator(real, fake)
    assert {key: value.item() for key, value in found.items()} == {"real": 0.125, "fake": 0.125}
    assert losses.lsgan_generator(fake).item() == 0.625


def test_derivative_correlation_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    audio, motion = torch.randn(3, 15, 16), torch.randn(3, 15, 4)
    published = torch.nn.CosineEmbeddingLoss()(audio.mean(2), motion.mean(2), torch.ones(3))
    assert losses.derivative_correlation(audio, motion).item() == pytest.approx(published.item(), abs=1e-6)
    assert losses.derivative_correlation(audio, 3 * audio).item() == pytest.approx(0, abs=1e-6)
    assert losses.derivative_correlation(audio, -audio).item() == pytest.approx(2, abs=1e-6)


def test_derivative_correlation_is_finite_where_nothing_moves() -> None:
    still = torch.zeros(2, 15, 16, requires_grad=True)
    loss = losses.derivative_correlation(torch.ones(2, 15, 16), still)
    loss.backward()
    assert loss.item() == 1
    assert still.grad is not None
    assert torch.isfinite(still.grad).all()


def test_derivative_correlation_refuses_other_numbers_of_steps() -> None:
    with pytest.raises(ValueError, match=r"audio has \(2, 16\), motion \(2, 15\)"):
        losses.derivative_correlation(torch.zeros(2, 16, 4), torch.zeros(2, 15, 4))


def test_flow_pyramid_averages_the_target_and_weighs_the_scales() -> None:
    target = torch.zeros(1, 2, 8, 8)
    target[:, 0, :, :4] = 3
    target[:, 1, :, :4] = 4
    exact = [F.avg_pool2d(target, 4), F.avg_pool2d(target, 8)]
    assert losses.flow_pyramid(exact, target, (0.5, 2)).item() == 0
    assert losses.flow_pyramid([exact[0], torch.zeros(1, 2, 1, 1)], target, (0.5, 2)).item() == pytest.approx(2 * 2.5)
    assert losses.flow_pyramid([torch.zeros(1, 2, 2, 2), exact[1]], target, (0.5, 2)).item() == pytest.approx(1.25)
    with pytest.raises(ValueError, match="zip"):
        losses.flow_pyramid(exact, target)


def test_matching_losses_are_the_papers_logarithms() -> None:
    torch.manual_seed(0)
    real, fake, mismatched = torch.randn(3, 4, dtype=torch.float64).unbind()
    terms = losses.matching_discriminator(real, fake, mismatched)
    expected = {
        "real": -torch.sigmoid(real).log().mean(),
        "fake": -0.5 * (1 - torch.sigmoid(fake)).log().mean(),
        "mismatched": -0.5 * (1 - torch.sigmoid(mismatched)).log().mean(),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {name: term.item() for name, term in expected.items()}, rel=1e-6
    )
    generator = losses.matching_generator(fake)
    assert generator.item() == pytest.approx(-torch.sigmoid(fake).log().mean().item(), rel=1e-6)
    assert losses.matching_generator(torch.tensor([-200.0])).item() == 200  # a saturated sigmoid would give infinity


def test_label_smoothing_is_fairseqs():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5), torch.tensor([[3, 4, 1], [2, 1, 1]])
    log_probs = logits.log_softmax(-1)
    expected = 0.0
    for row, place in ((0, 0), (0, 1), (1, 0)):  # the others are padding
        shares = torch.full((5,), 0.1 / 4)
        shares[target[row, place]] = 0.9
        expected -= (shares * log_probs[row, place]).sum().item()
    assert losses.label_smoothed_cross_entropy(logits, target, padding=1).item() == pytest.approx(expected)
    plain = F.cross_entropy(logits[:, :2].flatten(0, 1), target[:, :2].flatten(), ignore_index=1, reduction="sum")
    assert losses.label_smoothed_cross_entropy(logits, target, 1, smoothing=0).item() == pytest.approx(plain.item())
