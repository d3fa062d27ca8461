"""Speech for a text, and how many frames each of its tokens lasts: what keeps audio and frames of a face together.

DualLip (section 3.4.3) hands the same durations to the model of the face and to the model of the speech, which then
generate in parallel. Durations come from eSpeak NG, whose audio has exact times; from a speech model that predicts
them; or from a lip model that decides them itself, as DualLip without durations does.
"""

import math
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from lipbench.generation.talking import FPS
from lipbench.media import alignment, phonemes, text
from lipbench.media.audio import Samples, frame_to_sample
from lipbench.synthetic import voice as voices
from lipbench.types import ClipBatch, Generated, Timing

SPEED: Final = 140
"""Words a minute of eSpeak NG: the middle of the rendered corpus's speakers. Own choice."""
_PITCH: Final = (50, 50)  # pitch and its range, 0 to 100: eSpeak NG's defaults
_SILENCE: Final = 0.2  # s before and after what eSpeak NG speaks, so that the mouth starts and ends at rest. Own choice


@dataclass(frozen=True)
class Spoken:
    """A spoken text.

    Args:
        durations: (L,) int64 frames at `FPS` that each token lasts.
        samples: (S,) mono in [-1, 1], as long as these frames, to a sample.
        rate: Samples a second.
    """

    durations: Tensor
    samples: Samples
    rate: int


@runtime_checkable
class SpeechModel(Protocol):
    """What a model must have to speak a text: a `GenerativeModel` with the capability "audio" that has these.

    One of several speakers may have `speaker_names`, a list in which a speaker's position is its `speaker_id`.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Some of tokens, token_len, durations, n_frames, fps and speaker_id."""

    def predict_durations(self, batch: ClipBatch) -> Tensor:
        """(B, L) int64 frames that each token lasts, 0 where there is none, of tokens and what else it needs of them.

        Durations of its own choice, when nothing else decides them.
        """

    def run_generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Its `audio` (B, S), `audio_len` (B,) and `sample_rate` by given durations."""


def espeak(sentence: str, voice: str = phonemes.VOICE) -> Spoken:
    """Let eSpeak NG speak; the letters of a word share its time evenly, as in the corpora.

    Its own audio has hardly any silence at the ends: 0.2 s are added on both sides, and up to a frame at the end.

    Args:
        sentence: Letters and spaces; see `lipbench.media.text.normalize`.
        voice: Name of a voice of eSpeak NG, such as "en" or "en-us+f2".

    Raises:
        ValueError: The sentence has other characters or is empty, or eSpeak NG has no such voice.
        ModuleNotFoundError: The package espeakng-loader is not installed.
    """
    words = text.normalize(sentence).split()
    made = voices.speak(words, voices.Voice(voice, SPEED, *_PITCH))
    count = math.ceil((len(made.samples) / voices.RATE + 2 * _SILENCE) * FPS)
    times = [
        alignment.Word(start + _SILENCE, end + _SILENCE, word)
        for (start, end), word in zip(made.words, words, strict=True)
    ]
    durations = torch.from_numpy(alignment.durations(times, text.symbols(words), count, FPS))
    samples = np.pad(made.samples, (round(_SILENCE * voices.RATE), 0))
    return Spoken(durations, _fitted(samples, voices.RATE, count), voices.RATE)


def predicted(model: SpeechModel, tokens: Tensor, speaker: int) -> Tensor:
    """Frames that a speech model itself gives to each token.

    Args:
        model: In eval mode.
        tokens: (L,) int64.
        speaker: Its `speaker_id`.

    Returns:
        (L,) int64.

    Raises:
        ValueError: It gives the text no time.
    """
    with torch.inference_mode():
        durations = model.predict_durations(_batch(tokens, speaker))[0].cpu().long()  # (L,)
    if len(durations) != len(tokens) or int(durations.min()) < 0:
        raise ValueError(
            f"{type(model).__name__}.predict_durations returned {durations.tolist()} for {len(tokens)} tokens; "
            "expected a number of frames for each"
        )
    if int(durations.sum()) == 0:
        raise ValueError("the speech model gives this text no time at all: it has hardly been trained. Train it longer")
    return durations


def spoken(model: SpeechModel, tokens: Tensor, durations: Tensor, speaker: int) -> Spoken:
    """A text spoken by a speech model with these durations.

    Args:
        model: In eval mode.
        tokens: (L,) int64.
        durations: (L,) int64 frames at `FPS` for each token.
        speaker: Its `speaker_id`.

    Raises:
        ValueError: It returns no audio, values that are not finite, or audio whose length differs from the durations by
            more than a frame: their boundaries would not be the frames'.
    """
    batch = _batch(tokens, speaker)
    batch |= {"durations": durations[None], "n_frames": durations.sum()[None]}
    name = f"{type(model).__name__}.generate"
    with torch.inference_mode():
        made = model.run_generate(batch, "given")
    lacking = {"audio", "audio_len", "sample_rate"} - made.keys()
    if lacking:
        raise ValueError(f"{name} returned {sorted(made)}; expected audio, audio_len and sample_rate")
    rate, count = made["sample_rate"], int(durations.sum())
    samples = made["audio"][0, : int(made["audio_len"][0])].float().cpu().numpy()  # (S,)
    if abs(len(samples) / rate - count / FPS) > 1 / FPS:
        raise ValueError(
            f"{name} returned {len(samples) / rate:.3f} s of audio for durations of {count / FPS:.3f} s; expected the "
            "same, to a frame"
        )
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} returned audio with values that are not finite")
    return Spoken(durations, _fitted(samples.clip(-1, 1), rate, count), rate)


def _batch(tokens: Tensor, speaker: int) -> ClipBatch:
    return {
        "tokens": tokens[None],  # (1, L)
        "token_len": torch.tensor([len(tokens)]),
        "speaker_id": torch.tensor([speaker]),
        "fps": torch.tensor([FPS]),
    }


def _fitted(samples: Samples, rate: int, frames: int) -> Samples:
    """Samples cut or filled with silence to the length of so many frames."""
    length = frame_to_sample(frames, rate, FPS)
    return np.pad(samples[:length], (0, max(0, length - len(samples)))).astype(np.float32)
