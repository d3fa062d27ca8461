"""MFCC against python_speech_features (stored numbers) and against numpy's and scipy's building blocks."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch

from lipbench.media import features

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "syncnet.json").read_text())


def sound(samples=32000):
    """Int16 samples: a modulated tone in noise, with digital silence inside (`mfcc_recipe`)."""
    t = np.arange(samples) / 16000
    noise = np.random.Generator(np.random.PCG64(7)).standard_normal(samples)
    x = 0.3 * np.sin(2 * np.pi * 220 * t) * np.sin(2 * np.pi * 3 * t) + 0.02 * noise
    x[samples // 3 : samples // 3 + 1200] = 0
    return np.rint(32767 * x).astype(np.int16)


def ours(int16, **options):
    return features.mfcc(torch.from_numpy(int16 / np.float32(32768)), **options).numpy()


def from_building_blocks(x):
    """The definition, a window at a time, in float64, with numpy's FFT and scipy's DCT."""
    x = np.append(x[0], x[1:] - 0.97 * x[:-1])
    count = 1 if len(x) <= 400 else 1 + int(np.ceil((len(x) - 400) / 160))
    x = np.append(x, np.zeros((count - 1) * 160 + 400 - len(x)))
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
    corners = np.floor(513 * 700 * (10 ** (mel / 2595) - 1) / 16000).astype(int)
    rows = []
    for k in range(count):
        power = np.abs(np.fft.rfft(x[160 * k : 160 * k + 400], 512)) ** 2 / 512
        bands = np.zeros(26)
        for band in range(26):
            a, b, c = corners[band : band + 3]
            bands[band] += sum(power[i] * (i - a) / (b - a) for i in range(a, b))
            bands[band] += sum(power[i] * (c - i) / (c - b) for i in range(b, c))
        bands[bands == 0] = np.finfo(float).eps
        row = scipy.fft.dct(np.log(bands), norm="ortho")[:13] * (1 + 11 * np.sin(np.pi * np.arange(13) / 22))
        row[0] = np.log(power.sum() or np.finfo(float).eps)
        rows.append(row)
    return np.array(rows)


def test_equals_the_published_package():
    found = ours(sound())
    assert list(found.shape) == REFERENCE["mfcc_shape_50frames"]
    for row, expected in REFERENCE["mfcc_rows"].items():
        np.testing.assert_allclose(found[int(row)], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 399, 400, 401, 560, 561, 4321])
def test_equals_its_building_blocks_at_any_length(samples):
    x = sound(samples)
    np.testing.assert_allclose(ours(x), from_building_blocks(x.astype(float)), rtol=0, atol=1e-5)
    assert features.mfcc_steps(samples) == len(ours(x))


def test_the_scale_is_that_of_16_bits():
    """Samples in [-1, 1] handed to the package as they are lower cepstrum 0 by ln 32768^2 and change nothing else."""
    x = sound()
    plain = from_building_blocks(x / 32768)
    heard = np.abs(plain[:, 0]) < 30  # not the digital silence
    difference = (ours(x) - plain)[heard]
    np.testing.assert_allclose(difference[:, 0], REFERENCE["mfcc_c0_offset_float_vs_int16"], atol=1e-4)
    np.testing.assert_allclose(difference[:, 1:], 0, atol=1e-4)
    loud = torch.tensor([1.5, -1.5]).repeat(400)  # beyond full scale: cut, as a file of 16 bits would
    assert torch.equal(features.mfcc(loud), features.mfcc(torch.tensor([1.0, -1.0]).repeat(400)))


def test_a_row_of_a_padded_batch_is_as_alone():
    x, lengths = sound(9000), torch.tensor([9000, 5001, 400])
    batch = torch.zeros(3, 9000)
    for row, length in zip(batch, lengths.tolist(), strict=True):
        row[:length] = torch.from_numpy(x[:length] / np.float32(32768))
    found = features.mfcc(batch, lengths)
    assert found.dtype == torch.float32
    assert found.shape == (3, features.mfcc_steps(9000), 13)
    for row, length in zip(found, lengths.tolist(), strict=True):
        alone = ours(x[:length])
        assert len(alone) == features.mfcc_steps(length)
        np.testing.assert_allclose(row[: len(alone)].numpy(), alone, rtol=0, atol=1e-5)


def test_silence_is_finite():
    found = features.mfcc(torch.zeros(2, 1600))
    assert torch.isfinite(found).all()
    assert found[0, 0, 0].item() == pytest.approx(np.log(np.finfo(float).eps), abs=1e-5)
