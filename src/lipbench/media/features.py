"""Acoustic front ends: what published networks hear, as torch functions that take batches on any device."""

from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

RATE: Final = 16_000
"""Samples a second that every front end here takes, but for `frame_mels`."""
CEPSTRA: Final = 13
_WINDOW, _HOP, _FFT = 400, 160, 512  # samples: 25 ms, 10 ms, and the power of two above the window
_FILTERS, _LIFTER, _EMPHASIS = 26, 22, 0.97
FILTERBANKS: Final = 4 * _FILTERS
"""Values a video frame of `log_filterbanks`."""
_INT16: Final = 32768
_EPS: Final = float(np.finfo(np.float64).eps)  # what the package puts in place of a power of exactly 0

MELS: Final = 80
WORD_FPS: Final = 25
"""Frames a second of the windows of `word_mels`."""
_MEL_WINDOW, _MEL_HOP = 800, 200  # samples: 50 ms, 12.5 ms
LIPGAN_CEPSTRA: Final = 12
CLIP_RATE: Final = 44_100
"""Samples a second that `frame_mels` takes."""
CLIP_MELS: Final = 128
_CLIP_FFT, _CLIP_HOP, _CLIP_COLUMNS, _CLIP_FPS = 1024, 512, 4, 25.0
_ATVGNET_STEPS: Final = 28
_LIPGAN_FILTERS, _LIPGAN_BAND = 40, (300.0, 3700.0)  # Hz


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
    power = _power(samples, length)  # (..., steps, 257)
    energy = _positive(power.sum(-1)).log()  # (..., steps)
    filters, cosines = _filters().to(power.device), _cosines(_FILTERS).to(power.device)
    cepstra = _positive(power @ filters).log() @ cosines  # (..., steps, 13)
    cepstra[..., 0] = energy
    return cepstra.float()


def _power(samples: Tensor, length: Tensor | None) -> Tensor:
    """Power spectra of `python_speech_features`: (..., S) and (...) -> (..., steps, 257) float64; see `mfcc`."""
    x = (samples.double() * _INT16).round().clamp(-_INT16, _INT16 - 1)
    x = torch.cat([x[..., :1], x[..., 1:] - _EMPHASIS * x[..., :-1]], dim=-1)  # (..., S)
    if length is not None:  # the package pads after the pre-emphasis, so the sample after the last is 0 as well
        x = x * (torch.arange(x.shape[-1], device=x.device) < length[..., None])
    steps = mfcc_steps(x.shape[-1])
    x = F.pad(x, (0, (steps - 1) * _HOP + _WINDOW - x.shape[-1])).unfold(-1, _WINDOW, _HOP)  # (..., steps, 400)
    power: Tensor = torch.fft.rfft(x, _FFT).abs().square() / _FFT
    return power


def log_filterbanks(samples: Tensor, length: Tensor, n_frames: Tensor, fps: Tensor) -> Tensor:
    """Log filterbanks of every video frame, as AV-HuBERT hears them.

    As its published code (facebookresearch/av_hubert `avhubert/hubert_dataset.py`, commit 258fb50): `logfbank` of
    `python_speech_features` 0.6 with its defaults (the 26 filters of `mfcc`, on the same windows of 16-bit samples),
    four steps of 10 ms side by side for each frame, and their 104 values brought to mean 0 and variance 1 (eps 1e-5).
    As in its training, zeros stand where the sound has no step any more, and steps after the last frame are left out.

    Own choice: the four steps of frame k begin with the one nearest to the beginning of the frame, so that 25 frames a
    second give the published ones, and at any other rate frames and sound stay together.

    Args:
        samples: (B, S) mono in [-1, 1], 16,000 a second, zero-padded.
        length: (B,) valid samples.
        n_frames: (B,) frames of each clip.
        fps: (B,) frames a second.

    Returns:
        (B, T, 104) float32, T the most frames; zero after each clip's last frame.
    """
    logs = _positive(_power(samples, length) @ _filters().to(samples.device)).log().float()  # (B, steps, 26)
    steps = 1 + (-(-(length - _WINDOW) // _HOP)).clamp(min=0)  # (B,) as `mfcc_steps`
    frame = torch.arange(int(n_frames.max()), device=samples.device)  # (T,)
    first = (frame.double() * (RATE / _HOP) / fps.double()[:, None]).round().long()  # (B, T)
    places = first[:, :, None] + torch.arange(FILTERBANKS // _FILTERS, device=samples.device)  # (B, T, 4)
    inside = (places < steps[:, None, None]) & (frame < n_frames[:, None])[:, :, None]
    rows = torch.arange(len(logs), device=samples.device)[:, None, None]
    stacked = logs[rows, places.clamp(max=logs.shape[1] - 1)] * inside[..., None]  # (B, T, 4, 26)
    return F.layer_norm(stacked.flatten(2), (FILTERBANKS,))


def _positive(power: Tensor) -> Tensor:
    return torch.where(power == 0, _EPS, power)


@lru_cache(maxsize=1)
def _filters() -> Tensor:
    """Filters of `python_speech_features` (257, 26), float64."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, top, _FILTERS + 2) / 2595) - 1)
    corners = np.floor((_FFT + 1) * corners_hz / RATE)  # FFT bins
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]  # (26,) each
    bins = np.arange(_FFT // 2 + 1)[:, None]
    rising = (bins - left) / np.maximum(middle - left, 1)
    falling = (right - bins) / np.maximum(right - middle, 1)
    filters = np.where((left <= bins) & (bins < middle), rising, 0.0)
    return torch.from_numpy(np.where((middle <= bins) & (bins < right), falling, filters))


@lru_cache(maxsize=2)
def _cosines(filters: int) -> Tensor:
    """(filters, 13) DCT-II with the lifter, float64; column 0, which nobody uses, is not scaled as the others are."""
    order = np.arange(CEPSTRA)
    cosines = np.cos(np.pi / filters * (np.arange(filters)[:, None] + 0.5) * order) * np.sqrt(2 / filters)
    return torch.from_numpy(cosines * (1 + _LIFTER / 2 * np.sin(np.pi * order / _LIFTER)))


# ---------------------------------------------------------------------------------------- windows around video frames


def mel_windows(samples: Tensor, length: Tensor, clip: Tensor, frame: Tensor, fps: Tensor, columns: int) -> Tensor:
    """Log-mel spectrogram of the sound around video frames, as Wav2Lip and LipGAN (branch `fully_pythonic`) make it.

    After their `audio.py` and its hyperparameters (Rudrabha/LipGAN `audio.py`, commit 7fdac52): pre-emphasis 0.97, FFT
    of 800 under a periodic Hann window every 200 samples (80 columns a second), magnitude, 80 mel filters from 55 to
    7,600 Hz (librosa's default, Slaney), decibels with a floor of -100, less 20, and -100 to 0 dB mapped to -4 to 4
    and cut there. Column c of the published spectrogram looks at samples 200 c - 400 to 200 c + 399.

    Two things are lipbench's own. A window lies **centerd on its frame**, where the published indices lead or lag by
    frames, and otherwise in training than in inference. And outside the clip there is silence (-4), where librosa
    mirrors the first and last 400 samples. Everywhere else the columns are the published ones.

    Args:
        samples: (B, S) mono in [-1, 1], 16,000 a second, zero-padded.
        length: (B,) valid samples.
        clip: (M,) int64, the row of `samples` that each window is cut from.
        frame: (M,) int64, the video frame in its middle; any number, also outside the clip.
        fps: (B,) frames a second.
        columns: Of a window: 27 in LipGAN (0.34 s), 16 in Wav2Lip (0.2 s).

    Returns:
        (M, 80, columns) float32 in [-4, 4].
    """
    x = _emphasized(samples.double(), length)  # (B, S)
    begin = -(_MEL_WINDOW // 2)  # of what column 0 looks at; the Hann window's peak lies at sample 0
    x = _cut(x, clip, frame, fps, columns, _MEL_HOP, _MEL_WINDOW, begin, 0.0)  # (M, columns, 800)
    taper = torch.hann_window(_MEL_WINDOW, dtype=x.dtype, device=x.device)
    magnitude = torch.fft.rfft(x * taper).abs() @ _mel_basis().to(x.device)  # (M, columns, 80)
    decibels = 20 * magnitude.clamp(min=1e-5).log10() - 20
    scaled: Tensor = (8 * (decibels + 100) / 100 - 4).clamp(-4, 4)
    return scaled.float().transpose(1, 2)


def word_mels(samples: Tensor, length: Tensor, clip: Tensor, first: Tensor, frames: int) -> Tensor:
    """Normalized log-mel spectrogram of windows of video frames, as MVM hears words: 4 columns a frame.

    After its published loader (ms-dot-k/Multi-head-Visual-Audio-Memory `src/data/vid_aud_lrw.py`, commit a902f49) by
    torchaudio: FFT of 400 under a periodic Hann window every 160 samples, the ends of the cut samples mirrored, power
    over the energy of the Hann window, 80 mel filters up to 8 kHz (HTK, not normalized by area), decibels with a floor
    of -100; then each band less its mean over time, over its standard deviation. The last of the 4 frames + 1 columns
    is dropped after that.

    Args:
        samples: (B, S) mono in [-1, 1], 16,000 a second, zero-padded.
        length: (B,) valid samples; outside there is silence.
        clip: (M,) int64, the row of `samples` that each window is cut from.
        first: (M,) int64, frame with which each window begins, at `WORD_FPS`; any number, also outside the clip.
        frames: Of a window, 29 in LRW.

    Returns:
        (M, 80, 4 frames) float32; 0 where a band does not change, as in silence.
    """
    step = RATE // WORD_FPS
    place = (first * step)[:, None] + torch.arange(frames * step, device=samples.device)  # (M, samples)
    inside = (place >= 0) & (place < length.to(place.device)[clip][:, None])
    x = samples.double()[clip[:, None], place.clamp(0, samples.shape[1] - 1)] * inside
    taper = torch.hann_window(_WINDOW, dtype=x.dtype, device=x.device)
    power = torch.stft(x, _WINDOW, _HOP, window=taper, return_complex=True).abs().square()  # (M, 201, 4 frames + 1)
    power = power / taper.square().sum()
    decibels = 10 * (_word_basis().to(x.device) @ power).clamp(min=1e-10).log10()  # (M, 80, 4 frames + 1)
    apart = decibels - decibels.mean(2, keepdim=True)
    return (apart / (decibels.std(2, keepdim=True) + 1e-10))[..., :-1].float()


def cepstrum_windows(samples: Tensor, length: Tensor, clip: Tensor, frame: Tensor, fps: Tensor, columns: int) -> Tensor:
    """MFCC of the sound around video frames, as LipGAN's master branch makes them.

    After its MATLAB scripts (Rudrabha/LipGAN `matlab/create_mat.m`, commit 7489174), which call Wojcicki's HTK-like
    `mfcc` (as in Hangz-nju-cuhk/Talking-Face-Generation-DAVS `preprocess/`): 16-bit samples, pre-emphasis 0.97, 25 ms
    under a symmetric Hamming window every 10 ms, magnitude of an FFT of 512, 40 triangular filters even on the HTK mel
    scale from 300 to 3,700 Hz, log, DCT-II, 13 cepstra of which the first is dropped, lifter 22. Column c looks at
    samples 160 c to 160 c + 399.

    As in `mel_windows`, windows are centerd on their frames and there is silence outside the clip. Of exact silence,
    whose logarithm the published code does not catch (it skips such windows), every cepstrum is 0: lipbench's choice.

    Args:
        samples: See `mel_windows`.
        length: See `mel_windows`.
        clip: See `mel_windows`.
        frame: See `mel_windows`.
        fps: See `mel_windows`.
        columns: Of a window: 35 in LipGAN (0.35 s).

    Returns:
        (M, 12, columns) float32.
    """
    x = (samples.double() * _INT16).round().clamp(-_INT16, _INT16 - 1)
    x = _cut(
        _emphasized(x, length), clip, frame, fps, columns, _HOP, _WINDOW, 0, (_WINDOW - 1) / 2
    )  # (M, columns, 400)
    taper = torch.hamming_window(_WINDOW, periodic=False, dtype=x.dtype, device=x.device)
    magnitude = torch.fft.rfft(x * taper, _FFT).abs() @ _lipgan_filters().to(x.device)  # (M, columns, 40)
    logs = _positive(magnitude).log()
    # What all filters share goes into the dropped cepstrum alone: less that, silence is 0 to the last bit.
    cepstra = (logs - logs[..., :1]) @ _cosines(_LIPGAN_FILTERS).to(x.device)  # (M, columns, 13)
    return cepstra[..., 1:].float().transpose(1, 2)


def mfcc_windows(samples: Tensor, length: Tensor, clip: Tensor, frame: Tensor, fps: Tensor) -> Tensor:
    """MFCC around video frames, as ATVGnet hears: 28 steps of 10 ms, four for each of seven frames at 25 fps.

    After its published code (lelechen63/ATVGnet `code/demo.py`, commit 02d8f8f): `mfcc`, of which the first coefficient
    is dropped, and with it the scale of the samples; silence of three frames before and after the audio. The window of
    frame k begins with the step at the beginning of frame k - 3.

    Own choice: at another frame rate a window has the same 0.28 s around the middle of its frame.

    Args:
        samples: (B, S) mono in [-1, 1], 16,000 a second, zero-padded.
        length: (B,) valid samples.
        clip: (M,) int64, the row of `samples` that each window is cut from.
        frame: (M,) int64; outside of the clip there is silence.
        fps: (B,) frames a second.

    Returns:
        (M, 28, 12) float32.
    """
    silence = _ATVGNET_STEPS + 2  # steps on both sides: a window of nothing else fits in
    padded = F.pad(samples, (silence * _HOP, silence * _HOP))
    cepstra = mfcc(padded, length + silence * _HOP)[..., 1:]  # (B, steps, 12)
    middle = (frame.double() + 0.5) * RATE / _HOP / fps.double()[clip]  # (M,) in steps from the beginning of the clip
    first = middle.round().long() - _ATVGNET_STEPS // 2 + silence
    steps = first.clamp(0, cepstra.shape[1] - _ATVGNET_STEPS)[:, None] + torch.arange(
        _ATVGNET_STEPS, device=first.device
    )
    return cepstra[clip[:, None], steps]  # (M, 28, 12)


def frame_mels(samples: Tensor, length: Tensor, clip: Tensor, frame: Tensor, fps: Tensor) -> Tensor:
    """Log-mel spectrograms of single video frames, as the correlation GAN hears: 4 columns a frame.

    After its preparation scripts (lelechen63/3d_gan `grid_data.py` at HEAD), which cut the audio into frames of 1764
    samples (25 frames a second) and transform each alone with librosa: 16-bit samples, FFT of 1024 under a periodic
    Hann window every 512 samples, ends mirrored, power, 128 mel filters up to 16 kHz (Slaney), decibels with a floor of
    80 below the frame's loudest value. The paper gives the same FFT and hop, a rate of 41.1 kHz (a misprint), and
    64 x 128 values for 16 frames, which its hop alone would not give: 0.64 s have 55.1 columns.

    Own choice: at another frame rate the four columns lie as far apart as the frame is long, 512 x 25 / fps samples.

    Args:
        samples: (B, S) mono in [-1, 1], 44,100 a second, zero-padded.
        length: (B,) valid samples.
        clip: (M,) int64, the row of `samples` that each frame is cut from.
        frame: (M,) int64; outside of the clip there is silence, -100 dB.
        fps: (B,) frames a second, up to 80.

    Returns:
        (M, 4, 128) float32 decibels, of a power of 1 in units of 16-bit samples; speech lies around 60.
    """
    there = torch.arange(samples.shape[1], device=samples.device) < length[:, None]
    x = (samples.double() * _INT16).round().clamp(-_INT16, _INT16 - 1) * there  # (B, S)
    rate = CLIP_RATE / fps.double()[clip]  # (M,) samples of a frame
    last = rate.long()[:, None, None] - 1  # (M, 1, 1)
    columns = torch.arange(_CLIP_COLUMNS, device=x.device) * _CLIP_HOP
    centers = (columns * (_CLIP_FPS / fps.double()[clip])[:, None]).round().long()  # (M, 4)
    offsets = torch.arange(_CLIP_FFT, device=x.device) - _CLIP_FFT // 2
    inside = (centers[..., None] + offsets).abs()  # (M, 4, 1024) sample of the frame; mirrored at its ends
    inside = torch.where(inside > last, 2 * last - inside, inside)
    places = (frame.double() * rate).long()[:, None, None] + inside
    valid = (places >= 0) & (places < x.shape[1])
    windows = x[clip[:, None, None], places.clamp(0, x.shape[1] - 1)] * valid  # (M, 4, 1024)
    taper = torch.hann_window(_CLIP_FFT, dtype=x.dtype, device=x.device)
    power = torch.fft.rfft(windows * taper).abs().square() @ _clip_basis().to(x.device)  # (M, 4, 128)
    decibels = 10 * power.clamp(min=1e-10).log10()
    return torch.maximum(decibels, decibels.amax(dim=(1, 2), keepdim=True) - 80).float()


def _emphasized(x: Tensor, length: Tensor) -> Tensor:
    """(B, S) -> (B, S) with pre-emphasis, 0 from `length` on, as if every row had been filtered alone."""
    x = torch.cat([x[:, :1], x[:, 1:] - _EMPHASIS * x[:, :-1]], dim=1)
    return x * (torch.arange(x.shape[1], device=x.device) < length[:, None])


def _cut(
    x: Tensor,
    clip: Tensor,
    frame: Tensor,
    fps: Tensor,
    columns: int,
    hop: int,
    size: int,
    begin: int,
    middle: float,
) -> Tensor:
    """Cut the samples of a window's columns around frames; zeros outside the clip.

    Frame k covers the time from k to k + 1 frames. The columns are those of the whole clip's spectrogram, so a window's
    middle lies within half a column (6.25 ms at most) of its frame's.

    Args:
        x: (B, S), 0 after each row's end.
        clip: (M,) rows.
        frame: (M,) frames.
        fps: (B,).
        columns: Of a window.
        hop: Samples from a column to the next.
        size: Samples that a column looks at.
        begin: First of those of column 0.
        middle: Sample in the middle of column 0.

    Returns:
        (M, columns, size).
    """
    center = (frame.double() + 0.5) * RATE / fps.double()[clip] - 0.5  # (M,) sample in the middle of each frame
    first = ((center - middle) / hop - (columns - 1) / 2).round().long()  # (M,) first column of each window
    there = (first * hop + begin)[:, None] + torch.arange((columns - 1) * hop + size, device=x.device)  # (M, samples)
    inside = (there >= 0) & (there < x.shape[1])
    return (x[clip[:, None], there.clamp(0, x.shape[1] - 1)] * inside).unfold(1, size, hop)


@lru_cache(maxsize=1)
def _mel_basis() -> Tensor:
    """(401, 80) float64."""
    from librosa.filters import mel

    basis = mel(sr=RATE, n_fft=_MEL_WINDOW, n_mels=MELS, fmin=55, fmax=7600)  # (80, 401) float32
    return torch.from_numpy(basis.T.astype(np.float64))


@lru_cache(maxsize=1)
def _word_basis() -> Tensor:
    """(80, 201) float64."""
    from librosa.filters import mel

    basis = mel(sr=RATE, n_fft=_WINDOW, n_mels=MELS, htk=True, norm=None)  # (80, 201) float32
    return torch.from_numpy(basis.astype(np.float64))


@lru_cache(maxsize=1)
def _clip_basis() -> Tensor:
    """(513, 128) float64."""
    from librosa.filters import mel

    basis = mel(sr=CLIP_RATE, n_fft=_CLIP_FFT, n_mels=CLIP_MELS, fmax=16_000)  # (128, 513) float32
    return torch.from_numpy(basis.T.astype(np.float64))


@lru_cache(maxsize=1)
def _lipgan_filters() -> Tensor:
    """(257, 40) float64: triangles between corners that are even in mel, evaluated at the bins' frequencies."""
    low, high = (1127 * np.log(1 + hz / 700) for hz in _LIPGAN_BAND)
    corners = 700 * np.exp(np.linspace(low, high, _LIPGAN_FILTERS + 2) / 1127) - 700  # Hz
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]  # (40,) each
    hz = np.linspace(0, RATE / 2, _FFT // 2 + 1)[:, None]
    triangles = np.minimum((hz - left) / (middle - left), (right - hz) / (right - middle))
    return torch.from_numpy(triangles.clip(min=0))
