"""generate: make the face in a picture or a video say a sentence or follow a sound, as a video."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lipbench.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from lipbench.generation.talking import Speech, Watch
    from lipbench.media.audio import Samples
    from lipbench.training.generative import GenerativeModel
    from lipbench.types import ClipBatch, Timing

GROUP = "Train and score"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench generate`."""
    parser.add_argument("--ckpt_path", type=Path, required=True, help="checkpoint of a model that generates")
    parser.add_argument("--model", help="class path of its model, where that is neither built in nor installed")
    parser.add_argument(
        "--image",
        type=Path,
        help="whose face speaks: a picture (png, jpg), frontal; transparent parts are put on white",
    )
    parser.add_argument("--video", type=Path, help="or: a video, of which every frame is dubbed")
    parser.add_argument(
        "--text", help='for text-driven models: words, e.g. "bin blue at f two now"; punctuation is left out'
    )
    parser.add_argument(
        "--audio", type=Path, help="for sound-driven models: a file with sound (default: that of --video)"
    )
    parser.add_argument("--out", type=Path, default=Path("talk.mp4"), help="video to write (default: talk.mp4)")
    parser.add_argument("--face", type=int, help="of several, which: counted from the left, from 0 (default: largest)")
    parser.add_argument(
        "--heatmap", type=Path, help="png to write, too: where the stages of the model respond, in six frames"
    )
    parser.add_argument(
        "--landmarks", choices=("dlib", "face-alignment"), default="dlib", help="who finds the face (default: dlib)"
    )
    talking = parser.add_argument_group("for text-driven models, which are silent without a voice")
    talking.add_argument("--voice", help="speak with eSpeak NG: espeak, or espeak:NAME such as espeak:en-us+f2")
    talking.add_argument("--speech-ckpt", type=Path, help="or: speak with the model of this checkpoint (fastspeech)")
    talking.add_argument("--speaker", help="of --speech-ckpt, which: name, or number from 0 (default: the first)")
    talking.add_argument(
        "--face-ckpt", type=Path, help="put the lips of --ckpt_path into a face with this model (lip2face)"
    )


def run(
    ckpt_path: Path,
    model: str | None = None,
    image: Path | None = None,
    video: Path | None = None,
    text: str | None = None,
    audio: Path | None = None,
    out: Path = Path("talk.mp4"),
    face: int | None = None,
    heatmap: Path | None = None,
    landmarks: str = "dlib",
    voice: str | None = None,
    speech_ckpt: Path | None = None,
    speaker: str | None = None,
    face_ckpt: Path | None = None,
) -> None:
    """Write a video in which the face speaks; everything that the model does not make stays as it was.

    Picture and sound of a text are made by the same durations, frames that each letter lasts. A model with timing
    "given" takes those of the voice or of the speech model; one that decides them itself hands them to the speech
    model. Without a voice a text-driven model decides them (timing "free"), and there is no sound. With a sound-driven
    one, picture and sound end together: a longer video is cut, the last frame of one that is up to half a second
    shorter stays, a still shorter one starts again.

    Args:
        ckpt_path: Checkpoint of a model that is driven by text or by sound.
        model: Class path of its model, needed where it is neither built in nor installed as an entry point.
        image: A picture, turned as its camera says; transparent parts are mixed with white. Either this or `video`.
        video: Frames without a face stay as they are, and are counted.
        text: Words; punctuation is left out with a notice, and words that the training corpus does not have are named,
            as is a text longer than its sentences: of those a model makes nonsense.
        audio: Any file with sound; None takes that of the video.
        out: The video; .mp4, .mpg or .avi (lossless).
        face: Number of the face, from left to right; None takes the largest.
        heatmap: Picture of the model's activations in the first seconds (`lipbench.generation.activation_maps`).
        landmarks: Backend that finds the 68 points.
        voice: "espeak" or "espeak:NAME": eSpeak NG speaks the text.
        speech_ckpt: Checkpoint of a model that speaks the text, in place of `voice`.
        speaker: Which of the speech model's speakers.
        face_ckpt: Checkpoint of a model that makes a face of the lips.

    Raises:
        UsageError: The options do not fit together or not to the model.
        FileNotFoundError: A file is not there.
        OSError: The video or the picture cannot be written there; known before anything is made.
        ValueError: A file cannot be used, the text has other characters, or there is no face.
    """
    given = _check_files(ckpt_path, image, video, audio, out, heatmap)
    if voice is not None and speech_ckpt is not None:
        raise UsageError("who shall speak? Give --voice or --speech-ckpt; found both")
    if speaker is not None and speech_ckpt is None:
        raise UsageError("--speaker belongs to --speech-ckpt; one of eSpeak NG's voices is --voice espeak:NAME")

    from lipbench.console import talking_models
    from lipbench.generation import dubbing as dub
    from lipbench.generation import talking
    from lipbench.media import landmarks as backends
    from lipbench.media import video as films

    loaded, driver = talking_models.load_driven(ckpt_path, model)
    name = f"{ckpt_path} holds {type(loaded).__name__}"

    def watch(batch: "ClipBatch", timing: "Timing") -> None:
        if heatmap is not None:
            _draw(heatmap, job.model, batch, timing)

    if driver == "text":
        words = talking_models.check_text_driven(name, text, audio)
        talking_models.check_timing(ckpt_path, loaded, voice, speech_ckpt)
        job = _of_text(loaded, ckpt_path, model, words, voice, speech_ckpt, speaker, face_ckpt, watch)
    else:
        typed = {"--voice": voice, "--speech-ckpt": speech_ckpt, "--face-ckpt": face_ckpt}
        of_text = [option for option, value in typed.items() if value is not None]
        talking_models.check_audio_driven(name, text, audio, image is not None, of_text)
        job = _of_audio(loaded, audio or given, watch)
    target = dub.film(given) if image is None else dub.picture(given)
    lower = face_ckpt is not None or "pose" in job.model.needs
    dubbing = dub.Dubbing(job.model, target, backends.load(landmarks), face, job.total, job.speak, lower=lower)
    samples, rate = job.sound(dubbing.speech) or (None, None)
    films.write_video(out, dubbing, talking.FPS, samples, rate)
    lost = f", {dubbing.lost} frames without the face left as they were" if dubbing.lost else ""
    height, width = dubbing.size
    print(f"{out}: {dubbing.frames} frames, {dubbing.frames / talking.FPS:.2f} s, {width}x{height}{lost}")


def _check_files(
    ckpt_path: Path, image: Path | None, video: Path | None, audio: Path | None, out: Path, heatmap: Path | None
) -> Path:
    """The picture or video whose face shall speak.

    Raises:
        UsageError: There is none or there are two, or what is to be written has no fitting name.
        OSError: Nothing can be written there.
    """
    if (image is None) == (video is None):
        found = "neither" if image is None else "both"
        raise UsageError(f"whose face shall speak? Give --image PICTURE or --video FILE; found {found}")
    from lipbench.console import run_folders
    from lipbench.evaluation import output_folder
    from lipbench.media import video as films

    run_folders.refuse_alias(ckpt_path)
    given = image if video is None else video
    assert given is not None
    if out.resolve() in {path.resolve() for path in (given, audio) if path is not None}:
        raise UsageError(f"--out {out} would overwrite what it is made from; give another name")
    if out.suffix.lower() not in films.SUFFIXES:
        raise UsageError(f"--out {out}: expected a name that ends in {', '.join(films.SUFFIXES)}")
    if heatmap is not None and heatmap.suffix.lower() != ".png":
        raise UsageError(f"--heatmap {heatmap}: expected a name that ends in .png")
    for path in (out, heatmap):
        if path is not None and path.is_dir():
            raise UsageError(f"{path} is a folder; expected the name of a file to write")
    for folder in dict.fromkeys(path.parent for path in (out, heatmap) if path is not None):
        output_folder.probe(folder)
    return given


class _Job(NamedTuple):
    """What a face shall say.

    Attributes:
        model: What makes the frames.
        total: How many there are, where it is known beforehand.
        speak: See `lipbench.generation.dubbing.Dubbing`.
        sound: What is said -> samples and their rate; None for a video without sound.
    """

    model: "GenerativeModel"
    total: int | None
    speak: Callable[["Tensor", "Tensor"], "Speech"]
    sound: Callable[["Speech"], "tuple[Samples, int] | None"]


def _of_text(
    lips: "GenerativeModel",
    ckpt_path: Path,
    model: str | None,
    text: str,
    voice: str | None,
    speech_ckpt: Path | None,
    speaker: str | None,
    face_ckpt: Path | None,
    watch: "Watch",
) -> _Job:
    """A text, with whatever speaks it and whatever makes a face of the lips; arguments as those of `run`."""
    import torch

    from lipbench.console import spoken_text, talking_models
    from lipbench.generation import speech, talking
    from lipbench.media import text as tokens

    espeak = None if voice is None else talking_models.espeak_voice(voice)
    face = None if face_ckpt is None else talking_models.load_face(face_ckpt, lips, ckpt_path)
    talker = None if speech_ckpt is None else talking_models.load_speech(speech_ckpt)
    number = 0 if talker is None else talking_models.speaker_number(talker, speaker)
    others = [(path, None) for path in (face_ckpt, speech_ckpt) if path is not None]
    words = spoken_text.words(text, [(ckpt_path, model), *others])
    ids = torch.tensor(tokens.encode(tokens.symbols(words)))  # (L,)
    spoken = None if espeak is None else speech.espeak(" ".join(words), espeak)
    durations = None if spoken is None else spoken.durations
    if talker is not None and "given" in lips.timings:
        durations = speech.predicted(talker, ids, number)

    def speak(canonical: "Tensor", points: "Tensor") -> "Speech":
        timed = durations
        if face is not None and timed is None and ("pose" in face.needs or "free" not in face.timings):
            timed = talking.own_durations(lips, talking.identity_batch(lips, canonical, points), ids)
        shown = face or lips
        return talking.from_text(shown, talking.identity_batch(shown, canonical, points), ids, timed, watch)

    def sound(said: "Speech") -> "tuple[Samples, int] | None":
        heard = spoken
        if talker is not None:
            heard = speech.spoken(talker, ids, talking.said_durations(type(lips).__name__, said), number)
        return None if heard is None else (heard.samples, heard.rate)

    return _Job(face or lips, None if durations is None else int(durations.sum()), speak, sound)


def _of_audio(model: "GenerativeModel", path: Path, watch: "Watch") -> _Job:
    """The sound of a file, for a sound-driven model."""
    from lipbench.generation import talking
    from lipbench.media import audio as sounds

    samples, rate = sounds.read_audio(path)
    wanted = model.clip_spec.audio_rate
    assert wanted is not None
    heard = sounds.resample(samples, rate, wanted)
    total = round(len(heard) * talking.FPS / wanted)
    if total == 0:
        raise ValueError(f"{path} holds {len(samples)} samples of sound, less than one frame of picture")

    def speak(canonical: "Tensor", points: "Tensor") -> "Speech":
        identity = talking.identity_batch(model, canonical, points)
        return talking.from_sound(model, identity, heard, wanted, total, watch)

    return _Job(model, total, speak, lambda said: (samples, rate))


def _draw(path: Path, model: "GenerativeModel", batch: "ClipBatch", timing: "Timing") -> None:
    """Write the heat maps of six frames, evenly spaced, of what the batch makes the model make."""
    import torch
    from PIL import Image

    from lipbench.generation import activation_maps

    with torch.inference_mode():
        count = int(model.run_generate(batch, timing)["video_len"][0])
    frames = sorted({round(place) for place in torch.linspace(0, count - 1, 8).tolist()[1:-1]})
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(activation_maps.heat(model, batch, timing, frames)).save(path)
    print(f"{path}: frames {', '.join(map(str, frames))}")
