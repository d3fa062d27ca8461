"""generate: make one face image say a sentence, as an mp4."""

import argparse
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

GROUP = "Train and score"
FPS: Final = 25.0  # what every corpus so far is prepared at, and so what models have learned


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench generate`."""
    parser.add_argument("--ckpt_path", type=Path, required=True, help="checkpoint of a text-driven model")
    parser.add_argument("--text", required=True, help='what to say: letters and spaces, e.g. "bin blue at f two now"')
    parser.add_argument("--image", type=Path, required=True, help="a picture (png, jpg) with one face, frontal")
    parser.add_argument("--out", type=Path, default=Path("talk.mp4"), help="video to write (default: talk.mp4)")
    parser.add_argument(
        "--landmarks", choices=("dlib", "face-alignment"), default="dlib", help="who finds the face (default: dlib)"
    )


def run(ckpt_path: Path, text: str, image: Path, out: Path = Path("talk.mp4"), landmarks: str = "dlib") -> None:
    """Write a video in which the mouth of the picture speaks the text; everything around the mouth stays the picture.

    The model decides how long each letter lasts (timing "free").

    Args:
        ckpt_path: Checkpoint of a model that is driven by text.
        text: Letters and spaces; a token table outside of what the model was trained on gives nonsense, not an error.
        image: The picture. Of several faces the largest is used, and that is said.
        out: The video; .mp4.
        landmarks: Backend that finds the 68 points.

    Raises:
        FileNotFoundError: The checkpoint or the picture is not there.
        ValueError: The text has other characters, the picture no face, or the model is not driven by text alone.
    """
    import torch

    from lipbench.commands import _load
    from lipbench.media import geometry, video
    from lipbench.media import text as tokens

    symbols = tokens.symbols(tokens.normalise(text).split())
    frame = _picture(image)
    transform = geometry.similarity(_points(frame, landmarks, image)[None])  # (1, 2, 3)
    canonical = geometry.warp([frame], transform)[0]  # (352, 320, 3)
    model = _load.generative(ckpt_path)
    view = model.clip.frames["video"]
    lacking = model.needs - {"tokens", "token_len", "identity", "durations", "n_frames"}
    if lacking or "free" not in model.timings:
        raise ValueError(
            f"{ckpt_path} holds {type(model).__name__}, which cannot speak from text alone: it also needs "
            f"{sorted(lacking) or 'the timing'}"
        )
    background = torch.from_numpy(canonical).permute(2, 0, 1) / 255  # (3, 352, 320)
    ids = torch.tensor([tokens.encode(symbols)])  # (1, L)
    with torch.inference_mode():
        made = model.drive(
            {
                "tokens": ids,
                "token_len": torch.tensor([ids.shape[1]]),
                "identity": geometry.crop(background, view)[None, None],  # (1, 1, 3, h, w)
            },
            "free",
        )
        mouths = made["video"][0, : int(made["video_len"][0])].clamp(0, 1)  # (N, 3, h, w)
        if len(mouths) == 0:
            raise ValueError(f"the model gives {text!r} no time at all: it has hardly been trained. Train it longer")
        pictures = geometry.paste(background.expand(len(mouths), -1, -1, -1), mouths, view)  # (N, 3, 352, 320)
    spoken = pictures.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()  # (N, 352, 320, 3)
    video.write_video(out, (geometry.paste_into_frame(frame, one, transform[0], view) for one in spoken), FPS)
    print(f"{out}: {len(spoken)} frames, {len(spoken) / FPS:.2f} s, {frame.shape[1]}x{frame.shape[0]}")


def _picture(path: Path) -> npt.NDArray[np.uint8]:
    """A picture file as (h, w, 3) RGB, turned the way its camera says."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not path.is_file():
        raise FileNotFoundError(f"no picture at {path}; expected a png or jpg file")
    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no picture that can be read; expected a png or jpg file") from error


def _points(frame: npt.NDArray[np.uint8], backend: str, path: Path) -> npt.NDArray[np.float32]:
    """68 points of the largest face; says so if there are more."""
    from lipbench.media import landmarks

    landmarker = landmarks.load(backend)
    box = landmarker.detect(frame)
    if box is None:
        raise ValueError(
            f"no face found in {path} ({frame.shape[1]}x{frame.shape[0]}): it must be frontal, upright and at least "
            "80 pixels wide"
        )
    points = landmarker.points(frame, box)
    left, top, right, bottom = (max(0, round(side)) for side in box)
    rest = frame.copy()
    rest[top:bottom, left:right] = frame.mean(axis=(0, 1)).astype(np.uint8)  # the face found is painted over
    if landmarker.detect(rest) is not None:
        print(f"{path} shows several faces; the largest is used, {right - left} px wide at x {left}, y {top}")
    return points
