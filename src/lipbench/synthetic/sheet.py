"""The contact sheet of a rendered corpus: what its speakers look like when they speak.

`python -m lipbench.synthetic.sheet CORPUS docs/rendered.png` makes the picture in the documentation.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

_CROP = (slice(16, 272), slice(76, 284))  # rows and columns of a frame: head and shoulders
_TILE = (176, 143)  # (height, width) px


def _moments(landmarks: npt.NDArray[np.floating], opening: npt.NDArray[np.floating]) -> list[int]:
    """Frames in which the mouth is closed, widest open, most rounded and most spread."""
    eyes = np.linalg.norm(landmarks[:, 36:42].mean(1) - landmarks[:, 42:48].mean(1), axis=-1)
    width = np.linalg.norm(landmarks[:, 54] - landmarks[:, 48], axis=-1) / eyes
    seeing = (landmarks[:, 41, 1] - landmarks[:, 37, 1]) / eyes > 0.07  # not in a blink
    speaking = seeing & (opening > 1.5)

    def best(score: npt.NDArray[np.floating], among: npt.NDArray[np.bool_]) -> int:
        return int(np.argmax(np.where(among, score, -np.inf)))

    return [best(-opening, seeing), best(opening, seeing), best(-width, speaking), best(width, speaking)]


def contact_sheet(root: Path, speakers: int = 8) -> npt.NDArray[np.uint8]:
    """Four moments of the first clip of each speaker, two speakers a row.

    Args:
        root: Folder of a rendered corpus.
        speakers: How many speakers to show, an even number.

    Returns:
        (height, width, 3) RGB.

    Raises:
        FileNotFoundError: The corpus has fewer speakers.
    """
    import cv2

    from lipbench.media.video import read_video

    strips = []
    for speaker in range(1, speakers + 1):
        videos = sorted((root / "video" / f"s{speaker}").glob("*.mpg"))
        if not videos:
            raise FileNotFoundError(f"{root} holds no rendered clips of speaker s{speaker}")
        truth = np.load(root / "exact" / f"s{speaker}" / f"{videos[0].stem}.npz")
        frames = read_video(videos[0]).frames
        tiles = [
            cv2.resize(frames[k][_CROP], _TILE[::-1], interpolation=cv2.INTER_AREA)
            for k in _moments(truth["landmarks"], truth["opening"])
        ]
        strips.append(np.concatenate(tiles, 1))
    return np.concatenate([np.concatenate(strips[k : k + 2], 1) for k in range(0, speakers, 2)], 0)


def main() -> None:
    """Write the sheet as a PNG of 256 colors, which keeps it small enough for a repository."""
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder of a rendered corpus")
    parser.add_argument("picture", type=Path, help="PNG to write")
    given = parser.parse_args()
    sheet = contact_sheet(given.corpus)
    # Colors are chosen with weight on the mouths, whose reds are few pixels among so much wall.
    tiles = sheet.reshape(-1, _TILE[0], sheet.shape[1] // _TILE[1], _TILE[1], 3).swapaxes(1, 2)
    mouths = np.tile(tiles[:, :, 100:120, 55:90].reshape(-1, 3), (4, 1))
    sample = np.concatenate([mouths, sheet[::2, ::2].reshape(-1, 3)])
    palette = Image.fromarray(sample[None]).quantize(256, kmeans=2)
    picture = Image.fromarray(sheet).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    picture.save(given.picture, optimize=True)


if __name__ == "__main__":
    main()
