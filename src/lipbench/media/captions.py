"""Videos of one clip side by side for the eye, with captions: strips of their frames, and frames of a video.

Frames are enlarged by a whole factor, each pixel as a square (nearest neighbor), so that what is seen is what was made.
Captions are in the font that comes with Pillow.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipbench.media import text
from lipbench.types import ClipBatch, Generated

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

GAP: Final = 2
"""White pixels between the frames of a strip."""
_WIDTH: Final = 240  # px: an enlarged frame is at most that wide
_LARGEST: Final = 4  # factor
_FONT: Final = 15  # px
_LINE: Final = 24  # px: height of a line of captions
_LABEL: Final = 18  # px: from one line of a label to the next
_SIDE: Final = (92, 240)  # px: left of a strip's frames, for the labels of its rows: at least and at most
_USUAL: Final = 160  # px: captions of a strip whose frames are wider are as much larger than the sizes above
_BLACK: Final = (0, 0, 0)
_GRAY: Final = (120, 120, 120)
_BLUE: Final = (0, 70, 160)


def factor(width: int) -> int:
    """By how much frames of a width are enlarged: 1 to 4, so that they are at most 240 pixels wide.

    Args:
        width: Pixels.
    """
    return max(1, min(_LARGEST, _WIDTH // width))


def spoken(ids: Tensor, durations: Tensor) -> list[str]:
    """The word that is spoken in each frame; empty in silence.

    Args:
        ids: (L,) tokens, silence around every word.
        durations: (L,) frames of each token; padding has none.

    Returns:
        One word a frame.
    """
    symbols = [text.SYMBOLS[k] for k in ids.tolist()]
    words: list[str] = []
    parts: list[list[int]] = []  # tokens of each word
    for place, symbol in enumerate(symbols):
        if symbol in (text.SILENCE, "<pad>", "<eos>"):
            continue
        if place == 0 or symbols[place - 1] == text.SILENCE:
            parts.append([])
            words.append("")
        parts[-1].append(place)
        words[-1] += symbol
    word_of = {place: word for word, places in zip(words, parts, strict=True) for place in places}
    counts = durations.round().long().tolist()
    return [word_of.get(place, "") for place, count in enumerate(counts) for _ in range(int(count))]


def words_at(spans: Iterable[tuple[str, int, int]], count: int) -> list[str]:
    """The word that is spoken in each frame; empty in silence.

    Args:
        spans: Words, the first frame of each and the frame after its last (`lipbench.media.alignment.word_frames`).
        count: Frames of the clip.

    Returns:
        One word a frame.
    """
    words = [""] * count
    for word, first, last in spans:
        words[first:last] = [word] * (last - first)
    return words


def batch_words(batch: ClipBatch, row: int, made: Generated | None = None) -> list[str] | None:
    """The word of each frame of a clip of a batch, as the batch or, if it is given, the model times them.

    Args:
        batch: Of characters' tokens.
        row: Which clip.
        made: What the model made of the batch; without `durations` of its own those of the batch hold.

    Returns:
        One word a frame; None where tokens or durations are unknown.
    """
    durations = batch.get("durations") if made is None else made.get("durations", batch.get("durations"))
    return None if durations is None or "tokens" not in batch else spoken(batch["tokens"][row], durations[row])


@dataclass(frozen=True)
class Row:
    """A row of a strip.

    Args:
        label: Its name, on the left; what follows a line break stands below it in gray.
        video: (N, 3, h, w) float in [0, 1]; where it is shorter than the first row's, its last frame is repeated.
        words: The word of each of its frames, from `spoken` or `words_at`; None where they are unknown or, in a later
            row, those of the first.
    """

    label: str
    video: Tensor
    words: Sequence[str] | None = None


def strip(
    rows: Sequence[Row], frames: Sequence[int], sentence: str = "", fps: float | None = None
) -> npt.NDArray[np.uint8]:
    """The same frames of several videos, a row each, with what is said and when.

    Args:
        rows: One or more, the reference first.
        frames: Which frames, as positions in the reference.
        sentence: What is said, drawn where the first row has no words.
        fps: Frames a second, for the times below the frames; None writes numbers of frames.

    Returns:
        (H, W, 3) RGB: white, a line with the words of the first row, the rows of n frames, each `factor(w)` times as
        large and 2 px apart, with their labels on the left, and a line of times. Below a row whose words at these
        frames differ from those of the first stands a line with its own. The wider the frames, the larger the letters.

    Raises:
        ValueError: The rows have different sizes, or there is no row or no frame.
    """
    if not rows or not frames:
        raise ValueError(f"a strip needs at least one row and one frame; got {len(rows)} and {len(frames)}")
    sizes = list(dict.fromkeys(tuple(row.video.shape[1:]) for row in rows))
    if len(sizes) > 1:
        raise ValueError(f"a strip needs one size: got {' and '.join(map(str, sizes))}")
    scale = factor(sizes[0][2])
    height, width = scale * sizes[0][1], scale * sizes[0][2]
    first, *later = [_at(row.words, frames) for row in rows]
    own = [None, *(None if words == first else words for words in later)]
    letters = max(1.0, width / _USUAL)
    line = round(_LINE * letters)
    heights = [height + (GAP if words is None else line) for words in own]
    tops = [line + sum(heights[:k]) for k in range(len(rows))]
    side = _side(rows, letters)
    size = side + len(frames) * (width + GAP) - GAP, tops[-1] + height + line * (1 if own[-1] is None else 2)
    canvas = np.full((size[1], size[0], 3), 255, np.uint8)
    for row, top in zip(rows, tops, strict=True):
        last = len(row.video) - 1
        chosen = _enlarged(row.video[[min(frame, last) for frame in frames]], scale)  # (n, height, width, 3)
        for column, pixels in enumerate(chosen):
            left = side + column * (width + GAP)
            canvas[top : top + height, left : left + width] = pixels
    image, draw, font = _drawing(canvas, letters)
    for row, top in zip(rows, tops, strict=True):
        parts = row.label.split("\n")
        for place, part in enumerate(parts):
            y = top + height // 2 + round((place - (len(parts) - 1) / 2) * _LABEL * letters)
            _centered(draw, font, part, side // 2, y, _GRAY if place else _BLACK, side - 8)
    for top, words in [(0, first), *((top + height, words) for top, words in zip(tops, own, strict=True))]:
        if words is not None:
            _words(draw, font, words, top + line // 2, side, width)
    if first is None and sentence:
        _centered(draw, font, sentence.replace(" ", "  "), (side + size[0]) // 2, line // 2, _BLUE, size[0] - side)
    for column, frame in enumerate(frames):
        when = f"{frame / fps:.2f} s" if fps else f"frame {frame}"
        middle = side + column * (width + GAP) + width // 2
        _centered(draw, font, when, middle, size[1] - line // 2, _GRAY, width)
    return np.asarray(image)


def side_by_side(
    reference: Tensor,
    generated: Tensor,
    words: Sequence[str] | None = None,
    made_words: Sequence[str] | None = None,
    sentence: str = "",
) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames of a video: the reference on the left, what was generated on the right, and the words under each.

    Args:
        reference: (T, 3, h, w) float in [0, 1].
        generated: (N, 3, h, w) float in [0, 1]; the last frame of the shorter one stays.
        words: The word of each reference frame, from `spoken`; None where it is unknown.
        made_words: Likewise of each generated frame; None takes `words`.
        sentence: What is said, drawn where `words` is None.

    Yields:
        (H, W, 3) RGB, max(T, N) of them, all of one even size.

    Raises:
        ValueError: The two have different sizes.
    """
    if reference.shape[1:] != generated.shape[1:]:
        raise ValueError(
            f"videos side by side need one size: got {tuple(reference.shape[1:])} and {tuple(generated.shape[1:])}"
        )
    scale = factor(reference.shape[3])
    height, width = scale * reference.shape[2], scale * reference.shape[3]
    columns = (0, width + GAP)
    size = (-(-(height + 2 * _LINE) // 2) * 2, -(-(2 * width + GAP) // 2) * 2)
    for frame in range(max(len(reference), len(generated))):
        canvas = np.full((*size, 3), 255, np.uint8)
        for left, video in zip(columns, (reference, generated), strict=True):
            place = min(frame, len(video) - 1)
            canvas[_LINE : _LINE + height, left : left + width] = _enlarged(video[place : place + 1], scale)[0]
        image, draw, font = _drawing(canvas)
        said = _at(words, [frame]), _at(made_words if made_words is not None else words, [frame])
        below = _LINE + height + _LINE // 2
        for left, label, word in zip(columns, ("reference", "generated"), said, strict=True):
            _centered(draw, font, label, left + width // 2, _LINE // 2, _BLACK, width)
            if word is not None:
                _centered(draw, font, word[0], left + width // 2, below, _BLUE, width)
        if words is None and sentence:
            _centered(draw, font, sentence.replace(" ", "  "), size[1] // 2, below, _BLUE, size[1])
        yield np.asarray(image)


def _at(words: Sequence[str] | None, frames: Sequence[int]) -> list[str] | None:
    """The words at some frames; nothing is said after the last one."""
    return None if words is None else [words[frame] if frame < len(words) else "" for frame in frames]


def _enlarged(video: Tensor, scale: int) -> npt.NDArray[np.uint8]:
    """(n, 3, h, w) float in [0, 1] -> (n, scale h, scale w, 3) levels, each pixel repeated."""
    levels = video.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)  # (n, 3, h, w)
    large = levels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)  # (n, 3, scale h, scale w)
    return np.asarray(large.permute(0, 2, 3, 1).cpu().numpy())


def _drawing(
    canvas: npt.NDArray[np.uint8], letters: float = 1.0
) -> "tuple[Image, ImageDraw, ImageFont | FreeTypeFont]":
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(canvas)
    return image, ImageDraw.Draw(image), ImageFont.load_default(_FONT * letters)


def _side(rows: Sequence[Row], letters: float) -> int:
    """Width in px that the labels need."""
    _, draw, font = _drawing(np.zeros((1, 1, 3), np.uint8), letters)
    longest = max(draw.textlength(part, font) for row in rows for part in row.label.split("\n"))
    least, most = (round(letters * bound) for bound in _SIDE)
    return min(max(least, math.ceil(longest) + 16), most)


def _words(
    draw: "ImageDraw", font: "ImageFont | FreeTypeFont", line: Sequence[str], y: int, side: int, width: int
) -> None:
    """Each word once over the columns in which it is spoken, between two short lines."""
    first = 0
    for column in range(1, len(line) + 1):
        if column < len(line) and line[column] == line[first]:
            continue
        if line[first]:
            left = side + first * (width + GAP)
            right = side + column * (width + GAP) - GAP
            middle, room = (left + right) // 2, right - left
            half = min(draw.textlength(line[first], font) / 2 + 6, room / 2)
            draw.line([(left, y), (middle - half, y)], _BLUE)
            draw.line([(middle + half, y), (right - 1, y)], _BLUE)
            _centered(draw, font, line[first], middle, y, _BLUE, room)
        first = column


def _centered(
    draw: "ImageDraw",
    font: "ImageFont | FreeTypeFont",
    words: str,
    x: int,
    y: int,
    color: tuple[int, int, int],
    room: int,
) -> None:
    """Write around a point; what is wider than the room is cut at its end."""
    shown = words
    while draw.textlength(shown, font) > room and len(shown) > 1:
        shown = shown.removesuffix("..")[:-1] + ".."
        if shown == "..":
            break
    draw.text((x, y), shown, color, font, anchor="mm")
