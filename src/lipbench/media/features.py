"""Acoustic front ends: what published networks hear, as torch functions that take batches on any device."""

from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

RATE: Final = 16_000
"""Samples a second that every front end here takes."""
CEPSTRA: Final = 13
_WINDOW, _HOP, _FFT = 400, 160, 512  # samples: 25 ms, 10 ms, and the power of two above the window
_FILTERS, _LIFTER, _EMPHASIS = 26, 22, 0.97
_INT16: Final = 32768
_EPS: Final = float(np.finfo(np.float64).eps)  # what the package puts in place of a power of exactly 0


def mfcc_steps(samples: int) -> int:
    """How many MFCC a sound has: 100 a second, the last from a window that is filled up with zeros.

    SyncNet's windows end one frame early for this: 50 frames (32,000 samples) have 199 steps, not 200.
    """
    return 1 + max(0, -(-(samples - _WINDOW) // _HOP))


def mfcc(samples: Tensor, length: Tensor | None = None) -> Tensor:
    """MFCC of `python_speech_features` 0.6 with its defaults, as SyncNet and LSE-C/D use them.

    Windows of 25 ms every 10 ms without taper, pre-emphasis 0.97, FFT of 512, 26 triangular filters on the HTK mel
    scale from 0 to 8 kHz with corners rounded down to FFT bins, log, orthonormal DCT-II, 13 cepstra, lifter 22;
    cepstrum 0 is replaced by the log energy of the window. The published pipeline reads 16-bit files, so samples are
    scaled by 32768 and rounded first: with samples in [-1, 1] as they are, cepstrum 0 would be 20.79 lower. A power of
    exactly 0 counts as 2.2e-16. Computed in float64, as the package does.

    Args:
        samples: (..., S) mono in [-1, 1], 16,000 a second, zero-padded.
        length: (...) valid samples of each row; None takes all. The steps of a row do not depend on its padding.

    Returns:
        (..., `mfcc_steps(S)`, 13) float32; row b has `mfcc_steps(length[b])` valid steps.
    """
    x = (samples.double() * _INT16).round().clamp(-_INT16, _INT16 - 1)
    x = torch.cat([x[..., :1], x[..., 1:] - _EMPHASIS * x[..., :-1]], dim=-1)  # (..., S)
    if length is not None:  # the package pads after the pre-emphasis, so the sample after the last is 0 as well
        x = x * (torch.arange(x.shape[-1], device=x.device) < length[..., None])
    steps = mfcc_steps(x.shape[-1])
    x = F.pad(x, (0, (steps - 1) * _HOP + _WINDOW - x.shape[-1])).unfold(-1, _WINDOW, _HOP)  # (..., steps, 400)
    power = torch.fft.rfft(x, _FFT).abs().square() / _FFT  # (..., steps, 257)
    energy = _positive(power.sum(-1)).log()  # (..., steps)
    filters, cosines = (constant.to(x.device) for constant in _constants())
    cepstra = _positive(power @ filters).log() @ cosines  # (..., steps, 13)
    cepstra[..., 0] = energy
    return cepstra.float()


def _positive(power: Tensor) -> Tensor:
    return torch.where(power == 0, _EPS, power)


@lru_cache(maxsize=1)
def _constants() -> tuple[Tensor, Tensor]:
    """Filters (257, 26), and the DCT with the lifter (26, 13); float64."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, top, _FILTERS + 2) / 2595) - 1)
    corners = np.floor((_FFT + 1) * corners_hz / RATE)  # FFT bins
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]  # (26,) each
    bins = np.arange(_FFT // 2 + 1)[:, None]
    rising = (bins - left) / np.maximum(middle - left, 1)
    falling = (right - bins) / np.maximum(right - middle, 1)
    filters = np.where((left <= bins) & (bins < middle), rising, 0.0)
    filters = np.where((middle <= bins) & (bins < right), falling, filters)  # (257, 26)
    order = np.arange(CEPSTRA)
    cosines = np.cos(np.pi / _FILTERS * (np.arange(_FILTERS)[:, None] + 0.5) * order) * np.sqrt(2 / _FILTERS)
    cosines *= 1 + _LIFTER / 2 * np.sin(np.pi * order / _LIFTER)  # (26, 13); column 0 is replaced by the energy
    return torch.from_numpy(filters), torch.from_numpy(cosines)
