"""From log-mel spectrograms to waveforms: Griffin-Lim, which needs no training, and HiFi-GAN's generator.

DualLip's vocoder is a WaveNet; in its place stand Griffin-Lim, and HiFi-GAN from a file (own choice: WaveNet makes a
sample at a time, and no weights of DualLip's are published).
"""

import math
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.media.speech_features import MelDefinition

_SLOPE: Final = 0.1  # of the leaky ReLU, but for the last one, which has PyTorch's 0.01 as published


def griffin_lim(log_mels: Tensor, samples: int, definition: MelDefinition, iterations: int = 32) -> Tensor:
    """Waveform of a log-mel spectrogram by librosa: Griffin-Lim's phases for magnitudes by nonnegative least squares.

    Griffin & Lim 1984, in librosa's fast form (Perraudin et al. 2013, momentum 0.99) from random phases of a fixed
    seed, so that the same spectrogram always gives the same waveform. 32 iterations are librosa's default; 100 come no
    closer to the spectrogram of a spoken sentence (measured).

    Args:
        log_mels: (N, mels) as `speech_features.log_mels` gives them, on any device.
        samples: Length of the waveform; what lies after the last step's window is silence.
        definition: Of the spectrogram.
        iterations: Of Griffin-Lim.

    Returns:
        (samples,) float32 in [-1, 1] on the CPU.
    """
    import librosa

    mels = log_mels.detach().double().exp().cpu().numpy().T  # (mels, N)
    magnitude = librosa.feature.inverse.mel_to_stft(
        mels, sr=definition.rate, n_fft=definition.fft, power=1.0, fmin=definition.low, fmax=definition.high
    )  # (fft // 2 + 1, N)
    wave = librosa.griffinlim(
        magnitude,
        n_iter=iterations,
        hop_length=definition.hop,
        win_length=definition.window,
        n_fft=definition.fft,
        center=False,  # windows lie as in `log_mels`, which pads both sides by this much
        random_state=0,
    )[(definition.fft - definition.hop) // 2 :]
    return _as_long_as(torch.from_numpy(np.asarray(wave, np.float32)), samples).clamp(-1, 1)


class HifiGAN(nn.Module):
    """HiFi-GAN's generator (Kong et al., NeurIPS 2020), with its weight normalization folded into the weights.

    After the published code (jik876/hifi-gan `models.py`, commit 4769534), to which it is equal. The defaults are
    those of `config_v1.json`, but for `upsample_rates` and `upsample_kernels` (own choice), which multiply to the hop
    of `MelDefinition()`; the published (8, 8, 2, 2) and (16, 16, 4, 4) make a hop of 256. It is trained elsewhere:
    lipbench reads its weights.

    Args:
        upsample_rates: Factor of each transposed convolution; their product is the hop.
        upsample_kernels: Kernel of each, larger than its rate by an even number.
        width: Channels before the first; each halves them.
        kernels: Of the residual blocks after each transposed convolution.
        dilations: Of each residual block.
        blocks: "1": a convolution without dilation after each with it; "2": none, as in V3.
        rate: Of the spectrogram, see `MelDefinition`; so are the others.
        fft: See there.
        window: See there.
        mels: See there.
        low: See there.
        high: See there.

    Attributes:
        arguments: Make it again.
        definition: Of the spectrograms that it takes.
    """

    def __init__(
        self,
        upsample_rates: Sequence[int] = (5, 4, 4, 2),
        upsample_kernels: Sequence[int] = (11, 8, 8, 4),
        width: int = 512,
        kernels: Sequence[int] = (3, 7, 11),
        dilations: Sequence[Sequence[int]] = ((1, 3, 5),) * 3,
        blocks: Literal["1", "2"] = "1",
        rate: int = 16_000,
        fft: int = 1024,
        window: int = 1024,
        mels: int = 80,
        low: float = 0.0,
        high: float = 8000.0,
    ) -> None:
        super().__init__()
        pairs = list(zip(upsample_rates, upsample_kernels, strict=True))
        odd = [(factor, kernel) for factor, kernel in pairs if kernel < factor or (kernel - factor) % 2]
        if odd:
            raise ValueError(
                f"upsample_rates has {odd[0][0]} with a kernel of {odd[0][1]}; expected one that is larger by an even "
                "number, since another makes more samples than steps times hop"
            )
        if width % 2 ** len(pairs):
            raise ValueError(f"width is {width}; expected a multiple of {2 ** len(pairs)}, which is halved each time")
        self.arguments: dict[str, Any] = {
            "upsample_rates": list(upsample_rates),
            "upsample_kernels": list(upsample_kernels),
            "width": width,
            "kernels": list(kernels),
            "dilations": [list(row) for row in dilations],
            "blocks": blocks,
            "rate": rate,
            "fft": fft,
            "window": window,
            "mels": mels,
            "low": low,
            "high": high,
        }
        self.definition = MelDefinition(rate, fft, window, math.prod(upsample_rates), mels, low, high)
        self.first = nn.Conv1d(mels, width, 7, padding=3)
        self.upsamplings = nn.ModuleList()
        self.residuals = nn.ModuleList()  # those after the first upsampling, then those after the second
        for factor, kernel in pairs:
            self.upsamplings.append(
                nn.ConvTranspose1d(width, width // 2, kernel, factor, padding=(kernel - factor) // 2)
            )
            width //= 2
            for size, row in zip(kernels, dilations, strict=True):
                self.residuals.append(_Residual(width, size, row, second=blocks == "1"))
        self.last = nn.Conv1d(width, 1, 7, padding=3)

    def forward(self, log_mels: Tensor) -> Tensor:
        """(B, N, mels) -> (B, N * hop) in [-1, 1]."""
        x = self.first(log_mels.transpose(1, 2))  # (B, width, N)
        each = len(self.residuals) // len(self.upsamplings)
        for k, upsampling in enumerate(self.upsamplings):
            x = upsampling(F.leaky_relu(x, _SLOPE))
            x = torch.stack([block(x) for block in self.residuals[k * each : (k + 1) * each]]).mean(0)
        wave: Tensor = self.last(F.leaky_relu(x))[:, 0].tanh()
        return wave

    def waveform(self, log_mels: Tensor, samples: int) -> Tensor:
        """One spectrogram (N, mels) -> its waveform (samples,) float32: cut, or with silence at its end."""
        return _as_long_as(self(log_mels[None])[0].float(), samples)


class _Residual(nn.Module):
    """Dilated convolutions one after the other, each added to what it takes; (B, channels, T) -> the same."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int], *, second: bool) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel - 1) // 2) for d in dilations
        )
        self.plain = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations if second
        )

    def forward(self, x: Tensor) -> Tensor:
        for k, dilated in enumerate(self.dilated):
            inner = dilated(F.leaky_relu(x, _SLOPE))
            if len(self.plain):
                inner = self.plain[k](F.leaky_relu(inner, _SLOPE))
            x = x + inner
        return x


def _as_long_as(wave: Tensor, samples: int) -> Tensor:
    """(S,) -> (samples,), cut or filled with zeros at its end."""
    return F.pad(wave[:samples], (0, max(samples - len(wave), 0)))
