"""Reference and generated frames side by side for the eye, with captions: strips of frames, and frames of a video.

Frames are enlarged by a whole factor, each pixel as a square (nearest neighbor), so that what is seen is what was made.
Captions are in the font that comes with Pillow.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipbench.media import text

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
_SIDE: Final = 92  # px: left of a strip's frames, for the names of its rows
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


def strip(
    reference: Tensor,
    generated: Tensor,
    frames: Sequence[int],
    words: Sequence[str] | None = None,
    made_words: Sequence[str] | None = None,
    sentence: str = "",
    fps: float | None = None,
) -> npt.NDArray[np.uint8]:
    """Reference frames over generated frames of the same times, with what is said and when.

    Args:
        reference: (T, 3, h, w) float in [0, 1].
        generated: (N, 3, h, w) float in [0, 1]; where it is shorter, its last frame is repeated.
        frames: Which frames, as positions in the reference.
        words: The word of each reference frame, from `spoken`; None where it is unknown.
        made_words: Likewise of each generated frame, drawn where it differs from `words`.
        sentence: What is said, drawn where `words` is None.
        fps: Frames a second, for the times below the frames; None writes numbers of frames.

    Returns:
        (H, W, 3) RGB: white, a line of words, two rows of n frames, each `factor(w)` times as large and 2 px apart,
        with their names on the left, a line of words of the generated row where that differs, and a line of times.

    Raises:
        ValueError: The two have different sizes, or no frame is asked for.
    """
    if reference.shape[1:] != generated.shape[1:]:
        raise ValueError(f"a strip needs one size: got {tuple(reference.shape[1:])} and {tuple(generated.shape[1:])}")
    if not frames:
        raise ValueError("a strip needs at least one frame")
    scale = factor(reference.shape[3])
    height, width = scale * reference.shape[2], scale * reference.shape[3]
    own = _at(words, frames)
    other = _at(made_words, frames) if made_words is not None else None
    second = other is not None and other != own
    rows = [_LINE, _LINE + height + GAP]  # tops of the two rows
    bottom = rows[1] + height
    size = (_SIDE + len(frames) * (width + GAP) - GAP, bottom + _LINE * (2 if second else 1))
    canvas = np.full((size[1], size[0], 3), 255, np.uint8)
    for top, video in zip(rows, (reference, generated), strict=True):
        chosen = _enlarged(video[[min(frame, len(video) - 1) for frame in frames]], scale)  # (n, height, width, 3)
        for column, picture in enumerate(chosen):
            left = _SIDE + column * (width + GAP)
            canvas[top : top + height, left : left + width] = picture
    image, draw, font = _drawing(canvas)
    for top, label in zip(rows, ("reference", "generated"), strict=True):
        _centered(draw, font, label, _SIDE // 2, top + height // 2, _BLACK, _SIDE - 8)
    lines = [(0, own)] + ([(bottom, other)] if second else [])
    for top, line in lines:
        if line is not None:
            _words(draw, font, line, top, width)
    if own is None and sentence:
        _centered(draw, font, sentence.replace(" ", "  "), (_SIDE + size[0]) // 2, _LINE // 2, _BLUE, size[0] - _SIDE)
    for column, frame in enumerate(frames):
        when = f"{frame / fps:.2f} s" if fps else f"frame {frame}"
        middle = _SIDE + column * (width + GAP) + width // 2
        _centered(draw, font, when, middle, size[1] - _LINE // 2, _GRAY, width)
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


def _drawing(canvas: npt.NDArray[np.uint8]) -> "tuple[Image, ImageDraw, ImageFont | FreeTypeFont]":
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(canvas)
    return image, ImageDraw.Draw(image), ImageFont.load_default(_FONT)


def _words(draw: "ImageDraw", font: "ImageFont | FreeTypeFont", line: Sequence[str], top: int, width: int) -> None:
    """Each word once over the columns in which it is spoken, between two short lines."""
    first = 0
    for column in range(1, len(line) + 1):
        if column < len(line) and line[column] == line[first]:
            continue
        if line[first]:
            left = _SIDE + first * (width + GAP)
            right = _SIDE + column * (width + GAP) - GAP
            middle, room = (left + right) // 2, right - left
            half = min(draw.textlength(line[first], font) / 2 + 6, room / 2)
            y = top + _LINE // 2
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
