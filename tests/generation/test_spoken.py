"""Speech for a text: the times of eSpeak NG's audio in frames, and what speech models may return."""

import itertools
import random

import numpy as np
import pytest
import torch

from lipbench.corpora.grid import Grid
from lipbench.generation import speech
from lipbench.media import alignment, text
from lipbench.synthetic import voice

FRAME = voice.RATE // 25  # samples: 22,050 a second divide by 25


def test_boundaries_of_tokens_in_audio_and_frames_are_one_frame_apart_at_most(monkeypatch):
    """Over 200 sentences; the times of the audio are eSpeak NG's own, of its samples as they stand in what is made."""
    kept = []
    speak = voice.speak
    monkeypatch.setattr(voice, "speak", lambda *given: kept.append(speak(*given)) or kept[-1])
    apart = []
    for sentence in random.Random(0).sample(list(Grid.sentences()), 200):
        made = speech.espeak(sentence)
        own = kept.pop()
        lead = int(np.flatnonzero(made.samples)[0] - np.flatnonzero(own.samples)[0])
        assert np.array_equal(made.samples[lead:][: len(own.samples)], own.samples)
        ends = []
        for (start, end), word in zip(own.words, sentence.split(), strict=True):
            ends += [start, *np.linspace(start, end, len(word) + 1)[1:]]
        heard = np.array(ends) * voice.RATE + lead  # samples, of every token but the last
        shown = made.durations.cumsum(0).numpy() * FRAME
        assert len(made.durations) == len(text.symbols(sentence.split()))
        assert len(made.samples) == shown[-1]
        apart.append(np.abs(heard - shown[:-1]).max())
        silent = np.r_[made.samples[: lead + 600], made.samples[lead + len(own.samples) :]]
        assert np.abs(silent).max() < 0.03
        assert np.abs(made.samples).max() > 0.2
        assert made.durations[[0, -1]].min() >= 5
    assert max(apart) <= FRAME / 2 + 1  # half a frame, by construction
    assert max(apart) > FRAME / 4


def test_words_that_espeak_joins_are_parted():
    words = ["one", "of", "the", "best", "that", "could", "have", "been"]
    spoken = voice.speak(words, voice.Voice("en", speech.SPEED, 50, 50))
    assert len(spoken.words) == len(words)
    assert all(end <= start + 1e-9 for (_, end), (start, _) in itertools.pairwise(spoken.words))
    assert int(speech.espeak(" ".join(words)).durations.min()) >= 0


def test_a_word_sounds_when_its_letters_have_frames():
    """Frames of letters are loud, those of the outer two `|` are silent."""
    made = speech.espeak("place white in a nine soon", "en-us+f2")
    ends = made.durations.cumsum(0).tolist()
    loud = np.array([np.square(part).mean() for part in made.samples.reshape(-1, FRAME)])  # (N,)
    inside = loud[made.durations[0] : ends[-2]]
    assert inside.mean() > 1000 * loud[: made.durations[0] - 1].mean()
    assert inside.mean() > 1000 * loud[ends[-2] + 1 :].mean()


@pytest.mark.parametrize(
    ("sentence", "name", "expected"),
    [
        ("bin 4", "en", "holds '4'"),
        ("", "en", "the text is empty"),
        ("bin", "martian", "eSpeak NG has no voice 'martian'"),
        ("bin", "en+f99", "eSpeak NG has no variant 'f99' for the voice 'en\\+f99'; it has Alex, "),
    ],
)
def test_what_espeak_cannot_speak(sentence, name, expected):
    with pytest.raises(ValueError, match=expected):
        speech.espeak(sentence, name)


class Voice:
    """A speech model whose answers are given."""

    needs = frozenset({"tokens", "token_len", "durations"})

    def __init__(self, durations=None, **made):
        self.durations, self.made = durations, made

    def predict_durations(self, batch):
        return torch.tensor([self.durations])

    def run_generate(self, batch, timing):
        assert timing == "given"
        assert batch["n_frames"].tolist() == [5]
        return self.made


TOKENS = torch.tensor(text.encode("|a|"))
SPANS = torch.tensor([1, 3, 1])


def test_what_a_speech_model_says_is_as_long_as_its_frames():
    audio = torch.linspace(-2, 2, 2200)[None]
    made = speech.spoken(Voice(audio=audio, audio_len=torch.tensor([2100]), sample_rate=11025), TOKENS, SPANS, 0)
    assert made.samples.shape == (2205,)  # 5 frames
    assert made.samples.dtype == np.float32
    assert made.samples.min() == -1
    assert (made.samples[2100:] == 0).all()
    assert made.rate == 11025
    assert torch.equal(speech.predicted(Voice([1, 0, 2]), TOKENS, 0), torch.tensor([1, 0, 2]))


@pytest.mark.parametrize(
    ("audio", "expected"),
    [
        (torch.zeros(1, 2205 + 442), "0.240 s of audio for durations of 0.200 s; expected the same, to a frame"),
        (torch.zeros(1, 2205 - 442), "0.160 s of audio for durations of 0.200 s"),
        (torch.full((1, 2205), torch.nan), "not finite"),
    ],
)
def test_audio_that_would_part_from_the_frames(audio, expected):
    model = Voice(audio=audio, audio_len=torch.tensor([audio.shape[1]]), sample_rate=11025)
    with pytest.raises(ValueError, match=expected):
        speech.spoken(model, TOKENS, SPANS, 0)


@pytest.mark.parametrize(
    ("durations", "expected"),
    [([0, 0, 0], "gives this text no time at all"), ([1, 2], "for 3 tokens"), ([1, -1, 2], r"returned \[1, -1, 2\]")],
)
def test_durations_that_are_none(durations, expected):
    with pytest.raises(ValueError, match=expected):
        speech.predicted(Voice(durations), TOKENS, 0)


def test_audio_that_is_not_there():
    with pytest.raises(ValueError, match=r"Voice.generate returned \['video'\]; expected audio, audio_len"):
        speech.spoken(Voice(video=0), TOKENS, SPANS, 0)


def test_letters_share_the_time_of_their_word():
    spoken = speech.espeak("bin")
    own = voice.speak(["bin"], voice.Voice("en", speech.SPEED, 50, 50))
    (start, end), count = own.words[0], int(spoken.durations.sum())
    word = alignment.Word(start + 0.2, end + 0.2, "bin")
    assert spoken.durations.tolist() == alignment.durations([word], list("|bin|"), count, 25).tolist()
