"""Log-mel spectrograms that speech is synthesized from: their definition, how they are computed, and their time steps.

Magnitudes (not power) under a periodic Hann window, Slaney's mel filters normalized by area, natural logarithm with a
floor of 1e-5: as HiFi-GAN (jik876/hifi-gan `meldataset.py`, commit 4769534) and FastSpeech 2's public implementation
(ming024/FastSpeech2 `audio/`, commit d4e79eb) have them, so that vocoders fit. Both take an FFT of 1024 under a window
of 1024, 80 filters from 0 to 8,000 Hz, and a hop of 256 at 22,050 Hz.

Own choices: 16,000 Hz with a hop of 160, which divides a frame of 25 fps by 4 (DualLip names neither); outside the clip
there is silence, where HiFi-GAN mirrors its ends (the first and last three steps differ), so that a clip gives the same
alone and zero-padded in a batch; no 1e-9 under the root of the power, which the floor hides.

Computed without librosa, so that training does not import it; a test compares with it.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

FLOOR: Final = 1e-5
"""Smallest mel magnitude: the logarithm of silence is -11.5."""
_LINEAR_HZ, _BREAK_HZ, _LOG_STEP = 200 / 3, 1000.0, math.log(6.4) / 27  # Slaney's scale: linear to 1 kHz, then log


@dataclass(frozen=True)
class MelDefinition:
    """What a log-mel spectrogram is; two networks fit together if theirs are equal.

    Args:
        rate: Samples a second.
        fft: Length of the FFT in samples.
        window: Length of the Hann window in samples, at most `fft`.
        hop: Samples from a step to the next.
        mels: Filters.
        low: Lower end of the lowest filter in Hz.
        high: Upper end of the highest filter in Hz.
    """

    rate: int = 16_000
    fft: int = 1024
    window: int = 1024
    hop: int = 160
    mels: int = 80
    low: float = 0.0
    high: float = 8000.0

    def __post_init__(self) -> None:
        """Refuse what gives no spectrogram.

        Raises:
            ValueError: A number does not fit the others.
        """
        if min(self.rate, self.fft, self.window, self.hop, self.mels) < 1 or self.window > self.fft:
            raise ValueError(f"{self}: expected positive numbers, and a window that is no longer than the FFT")
        if not 0 <= self.low < self.high <= self.rate / 2:
            raise ValueError(f"{self}: expected 0 <= low < high <= {self.rate / 2:,.0f} Hz, half of the rate")
        if (self.fft - self.hop) % 2 or self.hop > self.fft:
            raise ValueError(f"{self}: expected an even difference, 0 or more, between FFT and hop")

    def __str__(self) -> str:
        """Such as "16,000 Hz, FFT 1024, window 1024, hop 160, 80 mels from 0 to 8,000 Hz"."""
        return (
            f"{self.rate:,} Hz, FFT {self.fft}, window {self.window}, hop {self.hop}, {self.mels} mels from "
            f"{self.low:,.0f} to {self.high:,.0f} Hz"
        )


def step_boundaries(frames: Tensor, fps: Tensor, definition: MelDefinition) -> Tensor:
    """The step of a spectrogram with which a video frame begins: round(frame * rate / fps / hop).

    Boundaries are rounded, not lengths: whatever the frame rate, no boundary is off by more than half a step.

    Args:
        frames: (B, L) int64 numbers of frames.
        fps: (B,) frames a second.
        definition: Of the spectrogram.

    Returns:
        (B, L) int64.
    """
    steps: Tensor = (frames * (definition.rate / definition.hop) / fps.double()[:, None]).round().long()
    return steps


def log_mels(samples: Tensor, length: Tensor, steps: int, definition: MelDefinition) -> Tensor:
    """Log-mel spectrogram; step k is centered on the middle of the samples k * hop to (k + 1) * hop - 1.

    Its inverse is `lipbench.nets.vocoder.griffin_lim`, or a `HifiGAN` of the same definition.

    Args:
        samples: (B, S) mono in [-1, 1]; what lies after `length` does not count.
        length: (B,) valid samples.
        steps: How many to compute.
        definition: Of the spectrogram.

    Returns:
        (B, steps, mels) float32, from -11.5 (silence) up to about 2.
    """
    hop, fft = definition.hop, definition.fft
    x = samples.double() * (torch.arange(samples.shape[1], device=samples.device) < length[:, None])  # (B, S)
    before = (fft - hop) // 2
    whole = (steps - 1) * hop + fft  # samples that the steps look at
    x = F.pad(x, (before, max(whole - before - x.shape[1], 0)))[:, :whole]
    pieces = x.unfold(1, fft, hop)  # (B, steps, fft)
    magnitude: Tensor = torch.fft.rfft(pieces * _taper(definition).to(x.device)).abs()  # (B, steps, fft // 2 + 1)
    return (magnitude @ mel_filters(definition).to(x.device)).clamp(min=FLOOR).log().float()


@lru_cache(maxsize=4)
def mel_filters(definition: MelDefinition) -> Tensor:
    """Triangular filters even on Slaney's mel scale, each of area 1 over Hz; librosa's default.

    Returns:
        (fft // 2 + 1, mels) float64.
    """
    low, high = _mel(definition.low), _mel(definition.high)
    corners = _hz(torch.linspace(low, high, definition.mels + 2, dtype=torch.float64))  # (mels + 2,)
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]  # (mels,) each
    hz = torch.linspace(0, definition.rate / 2, definition.fft // 2 + 1, dtype=torch.float64)[:, None]
    triangles = torch.minimum((hz - left) / (middle - left), (right - hz) / (right - middle)).clamp(min=0)
    return triangles * (2 / (right - left))


@lru_cache(maxsize=4)
def _taper(definition: MelDefinition) -> Tensor:
    """(fft,) Hann window in the middle of zeros, float64."""
    left = (definition.fft - definition.window) // 2
    window = torch.hann_window(definition.window, dtype=torch.float64)
    return F.pad(window, (left, definition.fft - definition.window - left))


def _mel(hz: float) -> float:
    """Slaney's mel scale."""
    if hz < _BREAK_HZ:
        return hz / _LINEAR_HZ
    return _BREAK_HZ / _LINEAR_HZ + math.log(hz / _BREAK_HZ) / _LOG_STEP


def _hz(mel: Tensor) -> Tensor:
    """Inverse of `_mel`."""
    over = mel - _BREAK_HZ / _LINEAR_HZ
    return torch.where(over < 0, mel * _LINEAR_HZ, _BREAK_HZ * torch.exp(over * _LOG_STEP))
