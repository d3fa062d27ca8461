"""The models behind `lipbench generate`: what drives them, how they fit together and to what was typed."""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, runtime_checkable

from lipbench.errors import UsageError
from lipbench.files import sha256
from lipbench.generation.arrays import FACE_AND_TIMING
from lipbench.generation.speech import SpeechModel
from lipbench.media import phonemes
from lipbench.training import loading
from lipbench.training.generative import GenerativeModel

if TYPE_CHECKING:
    from lipbench.types import View

_EXAMPLE: Final = 'give --text "bin blue at f two now"'
_TEXT: Final = frozenset({"tokens", "token_len"})
_SPEECH: Final = _TEXT | {"durations", "speech", "n_frames", "fps", "speaker_id"}


@runtime_checkable
class FaceOfLips(Protocol):
    """A model that makes faces out of the lips of another one, as that of --face-ckpt."""

    def use_lips(self, lips: GenerativeModel, sha256: str) -> None:
        """Take the model that makes lips, and the hash of its checkpoint."""


def load_driven(path: Path, model: str | None) -> tuple[GenerativeModel, Literal["text", "audio"]]:
    """The model of --ckpt_path and what drives it: text or audio.

    Args:
        path: The checkpoint.
        model: Class path of its model, if one was given.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint of a model that generates video, or needs more than one of them and a face.
    """
    loaded = loading.load(path, GenerativeModel, model)  # type: ignore[type-abstract]
    name = f"{path} holds {type(loaded).__name__}, which"
    if "video" not in loaded.capabilities:
        raise ValueError(f"{name} generates no video: give it as --speech-ckpt, and a model of lips as --ckpt_path")
    if isinstance(loaded, FaceOfLips):
        raise ValueError(f"{name} makes faces of lips: give it as --face-ckpt, and the model of lips as --ckpt_path")
    rest = loaded.needs - FACE_AND_TIMING
    if "tokens" in rest and rest <= _TEXT and {"given", "free"} & loaded.timings:
        return loaded, "text"
    if rest == {"audio", "audio_len", "fps"} and "free" in loaded.timings:
        return loaded, "audio"
    raise ValueError(
        f"{name} can speak neither from text nor from sound alone: it needs {sorted(loaded.needs)}, and has the "
        f"timings {sorted(loaded.timings)}"
    )


def check_text_driven(model: str, text: str | None, audio: Path | None) -> str:
    """The text of a text-driven model.

    Raises:
        UsageError: There is none, or a sound.
    """
    if audio is not None:
        raise UsageError(f"{model}, which is driven by text and hears nothing: leave --audio out, {_EXAMPLE}")
    if text is None:
        raise UsageError(f"{model}, which is driven by text: {_EXAMPLE}")
    return text


def check_audio_driven(model: str, text: str | None, audio: Path | None, still: bool, of_text: list[str]) -> None:
    """What a sound-driven model cannot do without, or makes no use of.

    Args:
        model: What is held by what, for the message.
        text: As typed.
        audio: As typed.
        still: Whether a picture speaks, which has no sound.
        of_text: Options that were typed and belong to text-driven models.

    Raises:
        UsageError: Something else is given, or nothing.
    """
    if text is not None:
        raise UsageError(f"{model}, which is driven by sound and reads nothing: leave --text out, give --audio FILE")
    if of_text:
        raise UsageError(f"{model}, which is driven by sound: leave {' and '.join(of_text)} out, give --audio FILE")
    if audio is None and still:
        raise UsageError(f"{model}, which is driven by sound, and a picture has none: give --audio FILE")


def check_timing(path: Path, lips: GenerativeModel, voice: str | None, speech: Path | None) -> None:
    """Whether a text-driven model can share its durations with what speaks.

    Raises:
        UsageError: It takes durations and nobody gives any, or decides them and the voice has its own.
    """
    name = f"{path} holds {type(lips).__name__}, which"
    if "given" in lips.timings:
        if voice is None and speech is None and "free" not in lips.timings:
            raise UsageError(f"{name} is told how long each letter lasts: give --voice espeak or --speech-ckpt FILE")
    elif voice is not None:
        raise UsageError(
            f"{name} decides itself how long each letter lasts, and so does --voice: picture and sound would part. "
            "Give --speech-ckpt FILE of a model that speaks by durations, or leave --voice out for a silent video"
        )


def espeak_voice(voice: str) -> str:
    """The name of an eSpeak NG voice in --voice.

    Raises:
        UsageError: It is none of eSpeak NG's.
    """
    engine, colon, name = voice.partition(":")
    if engine != "espeak" or (colon and not name):
        raise UsageError(f"--voice {voice!r}: expected espeak or espeak:NAME, such as espeak:en-us+f2")
    return name or phonemes.VOICE


def load_face(path: Path, lips: GenerativeModel, lips_path: Path) -> GenerativeModel:
    """The model of --face-ckpt, with the lips that it puts into faces.

    Args:
        path: Its checkpoint.
        lips: The model of --ckpt_path.
        lips_path: That model's checkpoint.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint of a model that makes faces of lips, or these are not the lips it takes.
    """
    loaded = loading.load(path, GenerativeModel)  # type: ignore[type-abstract]
    name = f"--face-ckpt {path} holds {type(loaded).__name__}, which"
    if not isinstance(loaded, FaceOfLips):
        raise ValueError(f"{name} makes no faces of lips; expected a model such as lip2face")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loaded.use_lips(lips, sha256(lips_path))
    for warning in told:  # such as that these lips are not those of the training
        print(f"warning: {warning.message}", file=sys.stderr)
    views: dict[str, View] = loaded.clip_spec.identity_views
    rest = loaded.needs - FACE_AND_TIMING - _TEXT - views.keys()
    if rest or not {"given", "free"} & loaded.timings:
        raise ValueError(
            f"{name} needs {sorted(rest) or 'the timing length'} beside a text, durations and a face; its timings are "
            f"{sorted(loaded.timings)}"
        )
    return loaded


def load_speech(path: Path) -> SpeechModel:
    """The model of --speech-ckpt.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint of a model that speaks a text by given durations.
    """
    loaded = loading.load(path, GenerativeModel)  # type: ignore[type-abstract]
    name = f"--speech-ckpt {path} holds {type(loaded).__name__}, which"
    if "audio" not in loaded.capabilities or not isinstance(loaded, SpeechModel):
        raise ValueError(f"{name} speaks no text; expected a model such as fastspeech")
    if "given" not in loaded.timings or loaded.needs - _SPEECH:
        raise ValueError(
            f"{name} needs {sorted(loaded.needs)} and has the timings {sorted(loaded.timings)}; expected some of "
            f"{sorted(_SPEECH)} and the timing given"
        )
    return loaded


def speaker_number(model: SpeechModel, wanted: str | None) -> int:
    """The `speaker_id` of a speaker of a speech model; says which one it is where nobody chose.

    Args:
        model: Of --speech-ckpt. Where its checkpoint names no speakers, only numbers are known.
        wanted: A speaker's name, or a number from 0; None takes the first.

    Raises:
        UsageError: It has no such speaker, or speaks with one voice only.
    """
    if "speaker_id" not in model.needs:
        if wanted is not None:
            raise UsageError(f"--speaker {wanted}: {type(model).__name__} has one voice; leave --speaker out")
        return 0
    names: list[str] = getattr(model, "speaker_names", [])
    if wanted is None:
        if len(names) != 1:
            first = f"{names[0]}, the first of {len(names)} speakers" if names else "speaker 0"
            print(f"speaks as {first}; --speaker changes that", file=sys.stderr)
        return 0
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and (not names or int(wanted) < len(names)):
        return int(wanted)
    known = f"{', '.join(names)} (0 to {len(names) - 1})" if names else "speakers without names: give a number from 0"
    raise UsageError(f"--speaker {wanted}: the speech model has {known}")
