"""generate: make the face in a picture or a video say a sentence or follow a sound, as a video."""

import argparse
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from lipbench.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from lipbench.generation.talking import Speech
    from lipbench.training.generative import GenerativeModel
    from lipbench.types import ClipBatch

GROUP = "Train and score"
_SHOWN: Final = 60  # words of a vocabulary


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
) -> None:
    """Write a video in which the face speaks; everything that the model does not make stays as it was.

    A text-driven model decides how long each letter lasts (timing "free"), and there is no sound. With a sound-driven
    one, picture and sound end together: a longer video is cut, the last frame of one that is up to half a second
    shorter stays, a still shorter one starts again.

    Args:
        ckpt_path: Checkpoint of a model that is driven by text or by sound.
        model: Class path of its model, needed where it is neither built in nor installed as an entry point.
        image: A picture, turned as its camera says; transparent parts are mixed with white. Either this or `video`.
        video: Frames without a face stay as they are, and are counted.
        text: Words; punctuation is left out with a notice, and words that the training corpus does not have are named:
            of those a model makes nonsense.
        audio: Any file with sound; None takes that of the video.
        out: The video; .mp4, .mpg or .avi (lossless).
        face: Number of the face, from left to right; None takes the largest.
        heatmap: Picture of the model's activations in the first seconds (`lipbench.generation.activation_maps`).
        landmarks: Backend that finds the 68 points.

    Raises:
        UsageError: The options do not fit together or not to the model.
        FileNotFoundError: A file is not there.
        OSError: The video or the picture cannot be written there; known before anything is made.
        ValueError: A file cannot be used, the text has other characters, or there is no face.
    """
    if (image is None) == (video is None):
        found = "neither" if image is None else "both"
        raise UsageError(f"whose face shall speak? Give --image PICTURE or --video FILE; found {found}")
    from lipbench.console import run_folders

    run_folders.refuse_alias(ckpt_path)
    given = image if video is None else video
    assert given is not None
    if out.resolve() in {path.resolve() for path in (given, audio) if path is not None}:
        raise UsageError(f"--out {out} would overwrite what it is made from; give another name")
    if heatmap is not None and heatmap.suffix.lower() != ".png":
        raise UsageError(f"--heatmap {heatmap}: expected a name that ends in .png")

    from lipbench.evaluation import output_folder

    for path in (out, heatmap):
        if path is not None and path.is_dir():
            raise UsageError(f"{path} is a folder; expected the name of a file to write")
    for folder in dict.fromkeys(path.parent for path in (out, heatmap) if path is not None):
        output_folder.probe(folder)

    from lipbench.generation import dubbing as dub
    from lipbench.generation import talking
    from lipbench.media import audio as sounds
    from lipbench.media import landmarks as backends
    from lipbench.media import text as tokens
    from lipbench.media import video as films
    from lipbench.training import loading
    from lipbench.training.generative import GenerativeModel

    loaded = loading.load(ckpt_path, GenerativeModel, model)  # type: ignore[type-abstract]
    driver = _driver(ckpt_path, loaded)
    _check_driver(f"{ckpt_path} holds {type(loaded).__name__}, which is driven by {driver}", driver, text, audio, image)
    target = dub.film(given) if image is None else dub.picture(given)

    def watch(batch: "ClipBatch") -> None:
        if heatmap is not None:
            _draw(heatmap, loaded, batch)

    samples, rate, total = None, None, None
    if driver == "text":
        import torch

        ids = torch.tensor(tokens.encode(tokens.symbols(_words(str(text), ckpt_path, model))))  # (L,)

        def speak(identity: "Tensor", points: "Tensor") -> "Speech":
            return talking.from_text(loaded, identity, points, ids, watch)
    else:
        samples, rate = sounds.read_audio(audio or given)
        wanted = loaded.clip_spec.audio_rate
        assert wanted is not None
        heard = sounds.resample(samples, rate, wanted)
        total = frames = round(len(heard) * talking.FPS / wanted)
        if total == 0:
            raise ValueError(f"{audio or given} holds {len(samples)} samples of sound, less than one frame of picture")

        def speak(identity: "Tensor", points: "Tensor") -> "Speech":
            return talking.from_sound(loaded, identity, points, heard, wanted, frames, watch)

    dubbing = dub.Dubbing(loaded, target, backends.load(landmarks), face, total, speak)
    films.write_video(out, dubbing, talking.FPS, samples, rate)
    lost = f", {dubbing.lost} frames without the face left as they were" if dubbing.lost else ""
    height, width = dubbing.size
    print(f"{out}: {dubbing.frames} frames, {dubbing.frames / talking.FPS:.2f} s, {width}x{height}{lost}")


def _words(text: str, ckpt_path: Path, model: str | None) -> list[str]:
    """The words to be spoken; says what was left out, and which of them the model never met.

    Raises:
        ValueError: No word is in the text, or a character that is neither letter nor punctuation.
    """
    from lipbench.console import config_origin
    from lipbench.media import text as tokens

    plain, left_out = _without_punctuation(text)
    words = tokens.normalize(plain).split()
    if left_out:
        print(f"left out of the text: {' '.join(left_out)}; spoken is {' '.join(words)!r}", file=sys.stderr)
    origin = config_origin.read(ckpt_path, model)
    strange = [word for word in dict.fromkeys(words) if origin.words and word not in origin.words]
    if strange:
        known = sorted(origin.words)
        shown = ", ".join(known) if len(known) <= _SHOWN else f"{', '.join(known[:_SHOWN])}, ..."
        print(
            f"warning: the model was trained on {origin.protocol}, whose {len(known)} words do not include "
            f"{', '.join(map(repr, strange))}; expect nonsense there. It knows: {shown}",
            file=sys.stderr,
        )
    return words


def _without_punctuation(text: str) -> tuple[str, list[str]]:
    """A text without punctuation, and the characters that were left out.

    Apostrophes join what they stand in ("don't" is "dont"), everything else parts words. Signs that are spoken stay, to
    be refused with digits: somebody must write them as words.
    """
    left_out = {c: None for c in text if (unicodedata.category(c)[0] == "P" and c not in "&%@#") or c in "`´"}
    joined = "".join("" if c in "'’‘`´" else " " if c in left_out else c for c in text)
    return joined, list(left_out)


def _draw(path: Path, model: "GenerativeModel", batch: "ClipBatch") -> None:
    """Write the heat maps of six frames, evenly spaced, of what the batch makes the model make."""
    import torch
    from PIL import Image

    from lipbench.generation import activation_maps

    with torch.inference_mode():
        count = int(model.run_generate(batch, "free")["video_len"][0])
    frames = sorted({round(place) for place in torch.linspace(0, count - 1, 8).tolist()[1:-1]})
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(activation_maps.heat(model, batch, "free", frames)).save(path)
    print(f"{path}: frames {', '.join(map(str, frames))}")


def _driver(ckpt_path: Path, model: "GenerativeModel") -> Literal["text", "sound"]:
    """What makes the model speak.

    Raises:
        ValueError: It needs more than one of them and a face.
    """
    face = {"identity", "identity_landmarks", "durations", "n_frames", "pose", "pose_len"}
    lacking = model.needs - face - {"tokens", "token_len"}
    if "free" in model.timings and not lacking and "tokens" in model.needs:
        return "text"
    if "free" in model.timings and model.needs - face == {"audio", "audio_len", "fps"}:
        return "sound"
    raise ValueError(
        f"{ckpt_path} holds {type(model).__name__}, which can speak neither from text nor from sound alone: it needs "
        f"{sorted(model.needs)}, and has the timings {sorted(model.timings)}"
    )


def _check_driver(model: str, driver: str, text: str | None, audio: Path | None, image: Path | None) -> None:
    """Exactly what the model needs must be given.

    Raises:
        UsageError: Something else is, or nothing.
    """
    if driver == "text":
        if audio is not None:
            raise UsageError(f'{model} and hears nothing: leave --audio out, give --text "bin blue at f two now"')
        if text is None:
            raise UsageError(f'{model}: give --text "bin blue at f two now"')
    elif text is not None:
        raise UsageError(f"{model} and reads nothing: leave --text out, give --audio FILE")
    elif audio is None and image is not None:
        raise UsageError(f"{model}, and a picture has none: give --audio FILE")
