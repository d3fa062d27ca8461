"""Log-mel spectrograms for synthesis against librosa's, and the steps of video frames against their samples."""

import numpy as np
import pytest
import torch

from lipbench.media import audio
from lipbench.media.speech_features import MelDefinition, log_mels, mel_filters, step_boundaries

PUBLISHED = MelDefinition(22_050, 1024, 1024, 256)  # HiFi-GAN's and FastSpeech 2's
NARROW = MelDefinition(16_000, 1024, 800, 200, 40, 55.0, 7600.0)


def noise(samples):
    """Noise with silence inside, so that the floor is met."""
    sound = 0.1 * np.random.Generator(np.random.PCG64(3)).standard_normal(samples).astype(np.float32)
    sound[samples // 3 : samples // 2] = 0
    return sound


@pytest.mark.parametrize("definition", [MelDefinition(), PUBLISHED, NARROW], ids=str)
def test_equals_librosa(definition):
    import librosa

    sound, around = noise(12_000), (definition.fft - definition.hop) // 2
    expected = librosa.feature.melspectrogram(
        y=np.pad(sound, around),
        sr=definition.rate,
        n_fft=definition.fft,
        win_length=definition.window,
        hop_length=definition.hop,
        center=False,
        power=1.0,
        n_mels=definition.mels,
        fmin=definition.low,
        fmax=definition.high,
    )  # (mels, steps)
    steps = 12_000 // definition.hop
    assert expected.shape[1] == steps
    found = log_mels(torch.from_numpy(sound)[None], torch.tensor([12_000]), steps, definition)[0].numpy()
    np.testing.assert_allclose(found, np.log(np.maximum(expected, 1e-5)).T, rtol=0, atol=1e-4)
    filters = librosa.filters.mel(
        sr=definition.rate, n_fft=definition.fft, n_mels=definition.mels, fmin=definition.low, fmax=definition.high
    )
    np.testing.assert_allclose(mel_filters(definition).numpy().T, filters, rtol=0, atol=1e-7)


def test_a_click_lies_in_the_step_of_its_sample():
    definition = MelDefinition(fft=256, window=160)
    sound = torch.zeros(1, 3200)
    sound[0, 7 * 160 + 80] = 1  # in the middle of step 7
    assert int(log_mels(sound, torch.tensor([3200]), 20, definition)[0].sum(dim=1).argmax()) == 7


def test_a_row_does_not_depend_on_what_follows_its_end():
    sound = torch.from_numpy(noise(4000))
    alone = log_mels(sound[None, :2000], torch.tensor([2000]), 14, MelDefinition())
    together = log_mels(sound.expand(2, -1), torch.tensor([2000, 4000]), 14, MelDefinition())
    assert torch.equal(together[0], alone[0])
    assert not torch.equal(together[1], alone[0])


@pytest.mark.parametrize("fps", [25.0, 29.97, 30.0, 23.976])
@pytest.mark.parametrize("definition", [MelDefinition(), PUBLISHED], ids=str)
def test_boundaries_do_not_drift(definition, fps):
    frames = torch.arange(3000)[None]  # two minutes
    found = step_boundaries(frames, torch.tensor([fps], dtype=torch.float64), definition)[0]
    samples = torch.tensor([audio.frame_to_sample(k, definition.rate, fps) for k in range(3000)])
    off = (found * definition.hop - samples).abs().max()
    assert off <= definition.hop // 2 + 1
    assert off > 0 or (fps == 25 and definition.hop == 160)  # which a frame divides by
    assert found[0] == 0


def test_definitions_that_give_no_spectrogram_are_refused():
    with pytest.raises(ValueError, match=r"16,000 Hz, .* expected 0 <= low < high <= 8,000 Hz"):
        MelDefinition(high=9000)
    with pytest.raises(ValueError, match="a window that is no longer than the FFT"):
        MelDefinition(window=2048)
    with pytest.raises(ValueError, match="an even difference, 0 or more"):
        MelDefinition(hop=161)
