"""Speech with exact times from eSpeak NG, through its C interface.

Its library is loaded afresh for every sentence, so that the sound depends on nothing but text and voice
(`lipbench.media.phonemes.espeak`).
"""

import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from lipbench.media import phonemes
from lipbench.synthetic.visemes import Phone, plain

RATE: Final = 22050
"""Samples a second of eSpeak NG's voices."""

LEAD: Final = 0.06
"""Seconds of near-silence at the start of a spoken sentence."""

# Constants of espeak-ng's speak_lib.h
_PHONEME_EVENTS, _IPA = 0x0001, 0x0002  # flags of espeak_Initialize
_WORD, _END, _PHONEME = 1, 0, 7  # types of event
_SPEED, _PITCH, _RANGE = 1, 3, 4  # parameters
_UTF8, _PHONEMES = 0x1, 0x100  # flags of espeak_Synth: encoding, [[...]] holds phoneme mnemonics

_STOPS: Final = frozenset("pbtdkɡ")
_SILENT: Final = 60  # |sample| of 16 bits below which eSpeak NG is silent


class Voice(NamedTuple):
    """Who speaks: an eSpeak NG voice with a variant ("en-us+f2"), words a minute, pitch and its range (0 to 100)."""

    name: str
    speed: int
    pitch: int
    pitch_range: int


class Speech(NamedTuple):
    """A spoken sentence: mono samples at `RATE` in [-1, 1], words and phones in seconds of these samples."""

    samples: npt.NDArray[np.float32]
    words: list[tuple[float, float]]
    phones: list[Phone]


class _Id(ctypes.Union):
    _fields_: ClassVar[Sequence[Any]] = [
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    ]


class _Event(ctypes.Structure):
    """espeak_EVENT."""

    _fields_: ClassVar[Sequence[Any]] = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def _synthesise(text: str, voice: Voice) -> tuple[npt.NDArray[np.int16], list[tuple[int, int, str]]]:
    """Samples, and the events (type, sample, label) of words and phones."""
    chunks: list[npt.NDArray[np.int16]] = []
    events: list[tuple[int, int, str]] = []

    def receive(samples: Any, count: int, event: Any) -> int:  # noqa: ANN401 (pointers of ctypes have no useful type)
        if count > 0 and samples:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        k = 0
        while event[k].type != _END:
            if event[k].type in (_WORD, _PHONEME):
                label = event[k].id.string.decode() if event[k].type == _PHONEME else ""
                events.append((event[k].type, event[k].sample, label))
            k += 1
        return 0

    callback = _Callback(receive)
    with phonemes.espeak(voice.name, _PHONEME_EVENTS | _IPA) as library:
        library.espeak_SetSynthCallback(callback)
        for parameter, value in ((_SPEED, voice.speed), (_PITCH, voice.pitch), (_RANGE, voice.pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8 | _PHONEMES, None, None)
    return np.concatenate(chunks), events


def _quiet_before(samples: npt.NDArray[np.int16], at: int) -> int:
    """First sample of the silence that ends at `at`."""
    back = samples[max(0, at - RATE // 8) : at][::-1]
    loud = np.flatnonzero(np.abs(back.astype(np.int32)) > _SILENT)
    return at - int(loud[0]) if len(loud) else at - len(back)


def speak(words: Sequence[str], voice: Voice) -> Speech:
    """Speak a sentence, one word after the other.

    The phone of a stop begins with its closure, which eSpeak NG reports as part of the phone before it or of a gap; at
    the start of the sentence it is the silence that eSpeak NG puts first (about 50 ms).

    Args:
        words: Words; the letter "a" is spoken as its name.
        voice: Who speaks.

    Returns:
        The sound, cut `LEAD` before the first phone and at the end of the last.

    Raises:
        ValueError: eSpeak NG has no such voice, or did not report every word.
    """
    # "at a six" would be spoken with the article; in GRID it is the letter.
    spelled = ["[['eI]]" if word == "a" else word for word in words]
    text = " ".join(spelled)
    samples, events = _synthesise(text, voice)
    if sum(kind == _WORD for kind, _, _ in events) != len(words):
        # Its dictionary holds pairs such as "of the", which it reports as one word. A bar parts them without a pause.
        samples, events = _synthesise(" | ".join(spelled), voice)

    # (sample, label, word) of every phone; silences inside the sentence come with an empty label
    phones: list[tuple[int, str, int]] = []
    word, closing = -1, 0
    for kind, sample, label in events:
        if kind == _WORD:
            word, closing = word + 1, sample
            continue
        start = sample
        if plain(label)[:1] in _STOPS:
            start = _quiet_before(samples, sample)
            if phones and phones[-1][2] != word:
                start = min(start, closing)
        phones.append((start, plain(label), word))
    if word + 1 != len(words) or {p[2] for p in phones if p[1]} != set(range(len(words))):
        raise ValueError(f"eSpeak NG reported {word + 1} words of {text!r} with the voice {voice.name}")

    while phones[-1][1] == "" and phones[-2][1] == "":
        phones.pop()
    if phones[-1][1] != "":
        phones.append((len(samples), "", word))
    origin, last = phones[0][0] - round(LEAD * RATE), phones[-1][0]
    ahead = max(0, -origin)  # eSpeak NG may start less than LEAD before the first phone
    cut = np.concatenate([np.zeros(ahead, np.int16), samples])[origin + ahead : last + ahead]

    seconds = [(start - origin) / RATE for start, _, _ in phones]
    timed = [Phone(seconds[k], seconds[k + 1], label) for k, (_, label, _) in enumerate(phones[:-1])]
    spans = []
    for index in range(len(words)):
        own = [p for p, (_, label, w) in zip(timed, phones, strict=False) if w == index and label]
        spans.append((own[0].start, own[-1].end))
    return Speech((cut / 32768.0).astype(np.float32), spans, timed)
