"""MFCC against python_speech_features (stored numbers) and against numpy's and scipy's building blocks."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch

from lipbench.media import features

WORD_MELS = (  # band, column, value
    *((0, 0, 0.7448), (0, 40, -4.0933), (5, 20, 0.2488), (20, 41, -4.3886), (40, 30, 0.441), (40, 100, 0.3967)),
    *((60, 80, 0.4841), (79, 115, 0.2227)),
)
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


# ---------------------------------------------------------------------------------------- windows around video frames

WINDOWS = {"mel": (features.mel_windows, 27, 4, -4.0), "cepstra": (features.cepstrum_windows, 35, 4, 0.0)}
"""Front end -> function, columns of LipGAN's window, frames that it hears on either side of its own, silence."""


def cut(name, x, frames, fps=25.0, length=None, columns=None):
    """(F, bands, columns) windows of one sound (S,) around frames."""
    function, usual, *_ = WINDOWS[name]
    frames = torch.tensor(frames)
    samples = torch.as_tensor(x, dtype=torch.float32)[None]
    length = torch.tensor([samples.shape[1] if length is None else length])
    clip = torch.zeros(len(frames), dtype=torch.long)
    return function(samples, length, clip, frames, torch.tensor([fps]), columns or usual)


def in_place(windows, first, hop_of_frame):
    """Column of the clip's spectrogram -> what the windows of consecutive frames 0, 1, ... hold for it."""
    found = {}
    for k, window in enumerate(windows):
        for j, column in enumerate(window.T):
            found.setdefault(round(first + k * hop_of_frame) + j, []).append(column.numpy())
    return found


def test_mel_columns_are_the_published_ones():
    """What Wav2Lip's and LipGAN's `audio.py` computes with librosa, but for the ends, where librosa mirrors."""
    import librosa
    import scipy.signal

    x = sound(32000) / 32768
    emphasized = scipy.signal.lfilter([1, -0.97], [1], x)
    basis = librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    published = {}
    for mode in ("constant", "reflect"):
        spectrum = np.abs(librosa.stft(y=emphasized, n_fft=800, hop_length=200, win_length=800, pad_mode=mode))
        decibels = 20 * np.log10(np.maximum(1e-5, basis @ spectrum)) - 20
        published[mode] = np.clip(8 * ((decibels + 100) / 100) - 4, -4, 4).T  # (161, 80)
    assert np.ptp(published["constant"]) > 5
    windows = cut("mel", x, range(50))
    assert windows.shape == (50, 80, 27)
    assert windows.dtype == torch.float32
    # Frame k's middle is sample 640 k + 319.5, so column 3.2 k + 1.6; 27 columns begin 13 before the nearest.
    seen = 0
    for column, values in in_place(windows, 1.5975 - 13, 3.2).items():
        if 0 <= column < 161:
            for value in values:
                np.testing.assert_allclose(value, published["constant"][column], rtol=0, atol=2e-4)
            if 2 <= column < 159:
                np.testing.assert_allclose(values[0], published["reflect"][column], rtol=0, atol=2e-4)
            seen += 1
    assert seen == 161


def test_cepstrum_columns_are_those_of_the_published_scripts():
    """Wojcicki's mfcc.m, trifbank.m and vec2frames.m, a column and a filter at a time."""
    x = sound(16000)
    assert np.abs(x).max() > 1  # or the scripts would scale it
    emphasized = np.append(x[0], x[1:] - 0.97 * x[:-1])
    hz = np.linspace(0, 8000, 257)
    low, high = 1127 * np.log(1 + 300 / 700), 1127 * np.log(1 + 3700 / 700)
    corners = 700 * np.exp((low + np.arange(42) * ((high - low) / 41)) / 1127) - 700
    filters = np.zeros((40, 257))
    for m in range(40):
        up, down = (hz >= corners[m]) & (hz <= corners[m + 1]), (hz >= corners[m + 1]) & (hz <= corners[m + 2])
        filters[m, up] = (hz[up] - corners[m]) / (corners[m + 1] - corners[m])
        filters[m, down] = (corners[m + 2] - hz[down]) / (corners[m + 2] - corners[m + 1])
    taper = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)
    cosines = np.sqrt(2 / 40) * np.cos(np.arange(13)[:, None] * np.pi * (np.arange(1, 41) - 0.5) / 40)
    lifter = 1 + 0.5 * 22 * np.sin(np.pi * np.arange(13) / 22)
    windows = cut("cepstra", x / np.float32(32768), range(25))
    assert windows.shape == (25, 12, 35)
    # Frame k's middle is sample 640 k + 319.5, column c's 160 c + 199.5; 35 columns begin 17 before the nearest.
    compared = 0
    for column, values in in_place(windows, 0.75 - 17, 4).items():
        piece = emphasized[160 * column : 160 * column + 400]
        if column >= 0 and len(piece) == 400 and piece.any():
            energy = filters @ np.abs(np.fft.fft(piece * taper, 512))[:257]
            expected = (lifter * (cosines @ np.log(energy)))[1:]
            for value in values:
                np.testing.assert_allclose(value, expected, rtol=0, atol=1e-4)
            compared += 1
    assert compared > 80


def test_mfcc_windows_are_those_of_atvgnets_demo():
    """Silence of three frames on both sides, then four steps a frame from three frames before to three after."""
    x = sound(16000)
    x[-1] = 0  # the demo's pre-emphasis runs on into the silence
    silence = np.zeros(1920, np.int16)
    steps = from_building_blocks(np.concatenate([silence, x, silence]))  # (.., 13)
    frames = torch.arange(22)
    batch = torch.from_numpy(np.stack([x, x]) / np.float32(32768))
    clip, fps = torch.ones(22, dtype=torch.long), torch.tensor([50.0, 25.0])
    windows = features.mfcc_windows(batch, torch.tensor([9000, 16000]), clip, frames, fps)
    assert windows.shape == (22, 28, 12)
    assert windows.dtype == torch.float32
    for k, window in enumerate(windows.numpy()):
        np.testing.assert_allclose(window, steps[4 * k : 4 * k + 28, 1:], rtol=0, atol=1e-3)

    # A row does not depend on its padding or on its neighbors, and there is silence outside of it.
    rows, places = torch.tensor([0, 0, 0, 0]), torch.tensor([3, 9, -9, 40])
    short = features.mfcc_windows(batch, torch.tensor([9000, 16000]), rows, places, torch.tensor([25.0, 25.0]))
    alone = features.mfcc_windows(batch[:1, :9000], torch.tensor([9000]), rows, places, torch.tensor([25.0]))
    torch.testing.assert_close(short, alone, rtol=0, atol=1e-4)
    assert short[:2].abs().amax() > 1
    torch.testing.assert_close(short[2:], torch.zeros(2, 28, 12), rtol=0, atol=1e-4)
    # At 50 frames a second, frame 2k + 1 begins in the middle of frame k at 25.
    twice = features.mfcc_windows(batch, torch.tensor([16000, 16000]), 0 * clip[:1], frames[11:12], fps)
    there = (twice[0] - torch.from_numpy(steps[21:49, 1:]).float()).abs().amax()
    assert there < 1e-3


@pytest.mark.parametrize("name", WINDOWS)
def test_an_impulse_is_heard_around_its_frame_alike_on_both_sides(name):
    _, columns, reach, silence = WINDOWS[name]
    x = np.zeros(40 * 640)
    x[17 * 640 + 320] = 1
    heard = (cut(name, x, range(40)) != silence).any(dim=1)  # (40, columns)
    # LipGAN's mel window: 26 columns of 200 samples and half of 800 on either side are 4.7 frames to a side; its MFCC
    # window: 34 of 160 and half of 400, 4.6.
    assert heard.any(dim=1).nonzero().flatten().tolist() == list(range(17 - reach, 17 + reach + 1))
    middle = (columns - 1) / 2
    centers = [(row.nonzero().double().mean() - middle).item() for row in heard[17 - reach : 17 + reach + 1]]
    assert abs(centers[reach]) <= 1
    assert all(abs(before + after) <= 1 for before, after in zip(centers, reversed(centers), strict=True))
    assert centers == sorted(centers, reverse=True)


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("columns", [16, 27])
def test_windows_do_not_drift_at_other_frame_rates(name, columns):
    """29.97 frames a second have no whole number of samples a frame."""
    silence = WINDOWS[name][3]
    frames = [0, 1, 333, 2000]
    x = np.zeros(round(2001 * 16000 / 29.97))
    for frame in frames:
        x[round((frame + 0.5) * 16000 / 29.97)] = 1
    heard = (cut(name, x, frames[2:], fps=29.97, columns=columns) != silence).any(dim=1)
    for row in heard:
        assert abs(row.nonzero().double().mean().item() - (columns - 1) / 2) <= 1


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_do_not_depend_on_padding_and_end_in_silence(name):
    function, columns, _, silence = WINDOWS[name]
    x = torch.from_numpy(sound(9000) / np.float32(32768))
    batch = torch.stack([x, x])
    clip, frame = torch.tensor([0, 1, 1, 1, 1]), torch.tensor([7, 7, 3, -9, 30])
    found = function(batch, torch.tensor([9000, 5001]), clip, frame, torch.tensor([25.0, 25.0]), columns)
    alone = cut(name, x[:5001], [7, 3])
    torch.testing.assert_close(found[1:3], alone, rtol=0, atol=1e-5)
    assert not torch.equal(found[0], found[1])
    assert torch.isfinite(found).all()
    assert (found[3:] == silence).all()


# ------------------------------------------------------------------------------------------- log-mel of single frames


def frame_mels(x, frames, fps=25.0):
    """(F, 4, 128) of int16 samples at 44,100 a second."""
    samples = torch.from_numpy(x / np.float32(32768))[None]
    clip = torch.zeros(len(frames), dtype=torch.long)
    return features.frame_mels(samples, torch.tensor([len(x)]), clip, torch.tensor(frames), torch.tensor([fps]))


def test_word_mels_are_what_torchaudio_gives_for_the_published_settings():
    """Stored numbers: torchaudio 2.11's Spectrogram, MelScale, AmplitudeToDB, and CMVN; everything else: librosa."""
    import librosa

    x = torch.from_numpy(sound(18_560) / 32768).float()
    here, first, count = torch.tensor([0]), torch.tensor([0]), torch.tensor([18_560])
    (found,) = features.word_mels(x[None], count, here, first, 29)
    assert found.shape == (80, 116)
    for band, column, value in WORD_MELS:
        assert found[band, column].item() == pytest.approx(value, abs=2e-4)

    power = librosa.feature.melspectrogram(
        y=x.double().numpy(), sr=16_000, n_fft=400, hop_length=160, pad_mode="reflect", n_mels=80, htk=True, norm=None
    )
    decibels = 10 * np.log10((power / (scipy.signal.get_window("hann", 400) ** 2).sum()).clip(1e-10))
    expected = (decibels - decibels.mean(1, keepdims=True)) / decibels.std(1, ddof=1, keepdims=True)
    np.testing.assert_allclose(found, expected[:, :116], rtol=0, atol=1e-4)

    late = torch.cat([torch.zeros(3 * 640), x, torch.ones(500)])[None]  # three frames later; what follows is padding
    again = features.word_mels(late, count + 3 * 640, here.repeat(2), torch.tensor([3, -40]), 29)
    torch.testing.assert_close(again[0], found, rtol=0, atol=1e-5)
    assert torch.equal(again[1], torch.zeros(80, 116))  # silence before the clip


def test_frame_mels_are_what_librosa_gives_for_the_published_settings():
    import librosa

    x = sound(44100)
    found = frame_mels(x, range(25)).numpy()
    assert found.shape == (25, 4, 128)
    for k, columns in enumerate(found):
        piece = x[1764 * k : 1764 * (k + 1)].astype(float)
        power = librosa.feature.melspectrogram(
            y=piece, sr=44100, n_fft=1024, hop_length=512, n_mels=128, fmax=16000, pad_mode="reflect"
        )
        assert power.shape == (128, 4)
        np.testing.assert_allclose(columns, librosa.power_to_db(power, ref=1.0, top_db=80).T, rtol=0, atol=2e-3)
    assert np.ptp(found) > 60


def test_frame_mels_hear_their_own_frame_alone():
    x = np.zeros(44100, np.int16)
    x[1764 * 10 + 900] = 20000
    found = frame_mels(x, range(25))
    assert (found > -100).flatten(1).any(dim=1).nonzero().flatten().tolist() == [10]
    assert bool((frame_mels(x, [-1, 25, 40]) == -100).all())


@pytest.mark.parametrize("fps", [24.0, 29.97, 50.0, 60.0])
def test_four_columns_span_a_frame_at_every_rate(fps):
    """A click at a quarter of the frame is loudest in the column whose middle is nearest."""
    length = 44100 / fps
    for place in (0.02, 0.3, 0.6, 0.87):
        x = np.zeros(44100, np.int16)
        x[int(int(5 * length) + place * length)] = 20000
        column = frame_mels(x, [5], fps)[0].mean(dim=1).argmax().item()
        assert column == round(place / 0.29)


# ----------------------------------------------------------------------------------------------------- log filterbanks

FILTERBANKS = json.loads((Path(__file__).parents[1] / "reference" / "filterbanks.json").read_text())["rows"]


def heard(int16, frames, fps=25.0):
    """Filterbanks of one clip, (frames, 104)."""
    samples = torch.from_numpy(int16 / np.float32(32768))[None]
    sizes = torch.tensor([len(int16)]), torch.tensor([frames]), torch.tensor([fps])
    return features.log_filterbanks(samples, *sizes)[0]


def test_filterbanks_equal_the_published_package():
    found = heard(sound(9000), 16)
    assert found.shape == (16, features.FILTERBANKS)
    for frame, expected in FILTERBANKS.items():  # of the last one, one of four steps is absent
        np.testing.assert_allclose(found[int(frame)], expected, rtol=0, atol=1e-5)
    assert not found[14:].any()  # the sound has 55 steps
    assert torch.equal(heard(sound(9000), 9), found[:9])


def test_filterbanks_of_a_batch_are_those_of_its_clips():
    lengths, frames, fps = torch.tensor([9000, 5000, 300]), torch.tensor([14, 5, 3]), torch.tensor([25.0, 20.0, 29.97])
    rows = [torch.from_numpy(sound(9000)[:n] / np.float32(32768)) for n in lengths.tolist()]
    found = features.log_filterbanks(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, frames, fps)
    assert found.shape == (3, 14, 104)
    for row, (length, count, rate) in enumerate(zip(lengths.tolist(), frames.tolist(), fps.tolist(), strict=True)):
        assert torch.equal(found[row, :count], heard(sound(9000)[:length], count, rate))
        assert not found[row, count:].any()


@pytest.mark.parametrize(("fps", "frames"), [(25.0, [23, 24]), (29.97, [23, 24]), (50.0, [22, 23, 24])])
def test_filterbanks_stay_with_their_frames_at_any_rate(fps, frames):
    """A click early in frame 24 is heard by no later frame; windows reach 55 ms beyond the beginning of theirs."""
    x = np.zeros(32000, np.int16)
    x[round(24.2 * 16000 / fps)] = 20000
    assert heard(x, 40, fps).any(1).nonzero()[:, 0].tolist() == frames


def test_silence_has_filterbanks():
    found = heard(np.zeros(4000, np.int16), 6)
    assert found.isfinite().all()
    assert found.abs().max() < 1e-2
