"""Loss functions: pure, with shapes stated. They take what a model made first and the truth second."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def l1(prediction: Tensor, target: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Mean absolute error.

    Args:
        prediction: (B, T, ...).
        target: Same shape.
        lengths: (B,) valid steps T of each row; None counts all.

    Returns:
        Scalar, mean over valid steps.
    """
    error = (prediction.float() - target.float()).abs()
    if lengths is None:
        return error.mean()
    per_step = error.flatten(2).mean(dim=2) if error.dim() > 2 else error  # (B, T)
    valid = torch.arange(error.shape[1], device=error.device) < lengths[:, None]
    return (per_step * valid).sum() / valid.sum()


def _blur_matrix(length: int, window: int, sigma: float, like: Tensor) -> Tensor:
    """(length, length - window + 1) matrix: multiplying from the right blurs an axis, valid positions only."""
    offset = torch.arange(window, device=like.device, dtype=torch.float32) - (window - 1) / 2
    kernel = torch.exp(-0.5 * (offset / sigma) ** 2)
    kernel = kernel / kernel.sum()
    column = torch.arange(length - window + 1, device=like.device)
    matrix = like.new_zeros(length, len(column), dtype=torch.float32)
    matrix[column[:, None] + torch.arange(window, device=like.device), column[:, None]] = kernel
    return matrix


def ssim(prediction: Tensor, target: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity with a Gaussian window (Wang et al. 2004), differentiable; window 11 as in ParaLip.

    The blur is two products with a banded matrix: faster than a depthwise convolution on CPUs and equal to it. Always
    computed in float32, since E[x^2] - E[x]^2 cancels in half precision.

    Args:
        prediction: (N, C, H, W), range of data 1.
        target: Same shape. No gradient flows to it.
        window: Side of the window, at most H and W.
        sigma: Of the Gaussian, in pixels.

    Returns:
        (N,) mean over channels and over positions where the window lies inside the picture.

    Raises:
        ValueError: The pictures are smaller than the window.
    """
    height, width = prediction.shape[-2:]
    if min(height, width) < window:
        raise ValueError(f"SSIM with a window of {window} needs pictures that large, found {height}x{width}")
    with torch.autocast(prediction.device.type, enabled=False):
        x, y = prediction.float(), target.detach().float()
        rows = _blur_matrix(height, window, sigma, x).T  # (H - 10, H)
        columns = _blur_matrix(width, window, sigma, x)  # (W, W - 10)
        maps = torch.stack([x, y, x * x + y * y, x * y])  # (4, N, C, H, W)
        mean_x, mean_y, mean_squares, mean_product = rows @ (maps @ columns)  # each (N, C, H - 10, W - 10)
        product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
        c1, c2 = 0.01**2, 0.03**2
        score = (2 * product + c1) * (2 * (mean_product - product) + c2)
        score = score / ((squares + c1) * (mean_squares - squares + c2))
        similarity: Tensor = score.mean(dim=(1, 2, 3))
        return similarity


def duration_token(log_frames: Tensor, durations: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of log(frames + 1) over tokens (ParaLip's published code).

    Args:
        log_frames: (B, L) predicted log(frames + 1).
        durations: (B, L) int64 true frames.
        valid: (B, L) bool, true on real tokens.

    Returns:
        Scalar.
    """
    error = (log_frames.float() - torch.log1p(durations.float())) ** 2
    return (error * valid).sum() / valid.sum()


def duration_sentence(log_frames: Tensor, durations: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of log(total frames + 1) over sentences.

    ParaLip names a sequence-level term and its form is lost; the logarithm, as in the token term, is an own choice.

    Args:
        log_frames: (B, L) predicted log(frames + 1).
        durations: (B, L) int64 true frames.
        valid: (B, L) bool, true on real tokens.

    Returns:
        Scalar.
    """
    # Tokens are not cut at 0 one by one: a token predicted below 0 frames keeps its gradient.
    predicted = (torch.expm1(log_frames.float()) * valid).sum(dim=1).clamp(min=0)
    true = (durations * valid).sum(dim=1).float()
    return F.mse_loss(torch.log1p(predicted), torch.log1p(true))


def lsgan_discriminator(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """Least-squares GAN, discriminator's side: real scores to 1, made ones to 0.

    ParaLip's constant factors are lost; 1 is an own choice.

    Args:
        real: Scores of real samples, any shape.
        fake: Scores of made samples, any shape.

    Returns:
        Scalars "real" and "fake", to be added.
    """
    return {"real": ((real.float() - 1) ** 2).mean(), "fake": (fake.float() ** 2).mean()}


def bce(logits: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of logits with one target, such as 1 for real samples. Any shape -> scalar, the mean."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def lsgan_generator(fake: Tensor) -> Tensor:
    """Least-squares GAN, generator's side: scores of made samples to 1. Any shape -> scalar."""
    return ((fake.float() - 1) ** 2).mean()


def matching_discriminator(
    real: Tensor, fake: Tensor, mismatched: Tensor, fake_weight: float = 0.5, mismatched_weight: float = 0.5
) -> dict[str, Tensor]:
    """Matching-aware GAN, discriminator's side (the correlation GAN's eq. 4; Reed et al. 2016).

    Args:
        real: Logits of real samples with their condition, any shape.
        fake: Logits of generated samples with their condition.
        mismatched: Logits of real samples with another's condition.
        fake_weight: The paper's lambda_p.
        mismatched_weight: The paper's lambda_u.

    Returns:
        Weighted scalars "real", "fake" and "mismatched", to be added: binary cross-entropy in nats.
    """
    return {
        "real": F.softplus(-real.float()).mean(),
        "fake": fake_weight * F.softplus(fake.float()).mean(),
        "mismatched": mismatched_weight * F.softplus(mismatched.float()).mean(),
    }


def matching_generator(fake: Tensor) -> Tensor:
    """Matching-aware GAN, generator's side: -log D of generated samples. Logits of any shape -> scalar."""
    return F.softplus(-fake.float()).mean()


def derivative_correlation(audio: Tensor, motion: Tensor, eps: float = 1e-8) -> Tensor:
    """The correlation GAN's loss: 1 - cosine of the angle between two curves over time, one for each clip.

    The formula, with eps added to the denominator, is the paper's (eq. 1). Each curve is the mean over the channels, as
    in the published code, where the paper says nothing.

    Args:
        audio: (B, T, C) what the audio's correlation encoder gives.
        motion: (B, T, C) what the motion's gives.
        eps: Keeps the quotient finite where a curve is 0 everywhere; the loss is 1 there.

    Returns:
        Scalar in [0, 2], mean over the batch.

    Raises:
        ValueError: The numbers of clips or steps differ.
    """
    if audio.shape[:2] != motion.shape[:2]:
        raise ValueError(
            f"correlated curves need as many clips and steps: audio has {tuple(audio.shape[:2])}, motion "
            f"{tuple(motion.shape[:2])}"
        )
    a, b = audio.float().mean(dim=2), motion.float().mean(dim=2)  # (B, T)
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    cosine: Tensor = (a * b).sum(dim=1) / (lengths + eps)
    return 1 - cosine.mean()


def contrastive(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float = 0.07) -> Tensor:
    """InfoNCE of audio embeddings with the visual context features of their frames (TalkLip's eq. 5 and 6).

    The positive of an audio embedding is its frame's context feature, its negatives are other frames' audio
    embeddings. Mean over frames as in the published code; the paper has the sum.

    Args:
        anchors: (N, C) audio embeddings of length 1.
        positives: (N, C) context features of length 1.
        negatives: (N, K) int64, the rows of `anchors` that each is contrasted with.
        temperature: tau; 0.07 in the published code.

    Returns:
        Scalar, 0 or more.
    """
    own = (anchors * positives).sum(dim=1, keepdim=True)  # (N, 1)
    others = (anchors @ anchors.T).gather(1, negatives)  # (N, K)
    logits = torch.cat([own, others], dim=1).float() / temperature
    return -logits.log_softmax(dim=1)[:, 0].mean()


def flow_pyramid(
    flows: Sequence[Tensor], target: Tensor, weights: Sequence[float] = (0.005, 0.01, 0.02, 0.08, 0.32)
) -> Tensor:
    """FlowNet's multi-scale loss: the weighted end-point errors of all resolutions.

    Weights and the mean over pixels as in the correlation GAN's published code, where FlowNetPytorch today sums over
    pixels. The target is averaged over the pixels that one of a coarser field covers; its unit stays.

    Args:
        flows: (N, 2, h, w) of each resolution, finest first.
        target: (N, 2, H, W).
        weights: One for each resolution.

    Returns:
        Scalar.
    """
    total = target.new_zeros((), dtype=torch.float32)
    for flow, weight in zip(flows, weights, strict=True):
        pooled = F.adaptive_avg_pool2d(target.float(), (flow.shape[-2], flow.shape[-1]))
        total = total + weight * torch.linalg.vector_norm(flow.float() - pooled, dim=1).mean()
    return total


def label_smoothed_cross_entropy(logits: Tensor, target: Tensor, padding: int, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy of symbols with smoothed labels, as fairseq's `label_smoothed_cross_entropy` (commit afc77bd).

    The true symbol counts 1 - `smoothing`, every other one of the V - 1 an equal share of the rest.

    Args:
        logits: (B, L, V) scores of the symbol at each position.
        target: (B, L) int64 true symbols.
        padding: Symbol of positions that do not count.
        smoothing: 0.1 in AV-HuBERT and TalkLip.

    Returns:
        Scalar in nats, summed over all symbols of the batch.
    """
    symbols = logits.shape[-1]
    # PyTorch gives the true symbol a share of what is smoothed, too.
    shared = smoothing * symbols / (symbols - 1)
    return F.cross_entropy(
        logits.float().flatten(0, 1), target.flatten(), ignore_index=padding, reduction="sum", label_smoothing=shared
    )
