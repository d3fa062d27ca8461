"""What the public functions of this package refuse, in sentences that name what was found and what is wanted.

A wrong shape mostly broadcasts to a number that looks like a score, and pictures in 0..255 give one too.
"""

from typing import Final

import torch
from torch import Tensor

Shape = tuple[int | str, ...]
"""Sizes by number or by letter; the same letter is the same size within one tensor, "..." at the front is anything."""

PICTURES: Final[Shape] = ("...", 3, "h", "w")
LANDMARKS: Final[Shape] = ("...", 68, 2)
POINTS: Final[Shape] = ("...", "P", 2)

_SLACK: Final = 1e-3  # how far outside [0, 1] rounding may lead
_EVERY: Final = 8  # pixels between those whose range is checked: all would cost as much as the score
_HELD: Final = {"...", "B", "T", "N", "M", "W"}  # sizes that may be 0: no clips, no frames


def tensor(what: str, given: Tensor, shape: Shape) -> None:
    """Refuse anything but a floating-point tensor of a shape.

    Args:
        what: Its name in the message.
        given: The tensor.
        shape: What it must have.

    Raises:
        ValueError: It is no such tensor.
    """
    wanted = f"({', '.join(map(str, shape))})"
    if not isinstance(given, Tensor):
        raise ValueError(f"{what} is a {type(given).__name__}; expected a floating-point tensor {wanted}")
    if not fits(given.shape, shape):
        hint = ""
        if shape[-3:] == PICTURES[1:] and given.ndim >= 3 and given.shape[-1] == 3:
            hint = "; channels come before height and width: x.movedim(-1, -3)"
        raise ValueError(f"{what} has shape {tuple(given.shape)}; expected {wanted}{hint}")
    if not given.dtype.is_floating_point:
        hint = ": x.float() / 255" if given.dtype == torch.uint8 and shape[-3:] == PICTURES[1:] else ""
        raise ValueError(f"{what} is {given.dtype}; expected floating point{hint}")


def fits(sizes: torch.Size, shape: Shape) -> bool:
    """Whether a tensor's sizes are those of a shape."""
    own = shape
    if own[0] == "...":
        own = ("...",) * (len(sizes) - len(own) + 1) + own[1:]
    if len(own) != len(sizes):
        return False
    known: dict[int | str, int] = {}
    for name, size in zip(own, sizes, strict=True):
        if name == "...":
            continue
        if size != (name if isinstance(name, int) else known.setdefault(name, size)):
            return False
        if size == 0 and name not in _HELD:
            return False
    return True


def same(pred: Tensor, target: Tensor) -> None:
    """Refuse tensors of different shapes, which broadcasting would compare without a word.

    Raises:
        ValueError: The shapes differ, or one is no tensor.
    """
    for what, given in (("pred", pred), ("target", target)):
        if not isinstance(given, Tensor):
            raise ValueError(f"{what} is a {type(given).__name__}; expected a tensor")
    if pred.shape != target.shape:
        raise ValueError(f"pred has shape {tuple(pred.shape)} and target {tuple(target.shape)}; they must be equal")


def pictures_in_range(what: str, given: Tensor) -> None:
    """Refuse anything but pictures (..., 3, h, w) in [0, 1].

    The range is looked at on every 8th pixel in both directions. Values that are not finite pass: they leave a frame
    undefined.

    Args:
        what: Its name in the message.
        given: The tensor.

    Raises:
        ValueError: It is something else.
    """
    tensor(what, given, PICTURES)
    some = given.detach()[..., ::_EVERY, ::_EVERY]
    some = some if some.sum().isfinite() else some[some.isfinite()]
    low, high = some.aminmax() if some.numel() else (0, 1)
    if low < -_SLACK or high > 1 + _SLACK:
        raise ValueError(f"{what} lies in [{low:.3g}, {high:.3g}]; expected pictures in [0, 1]")


def pictures(pred: Tensor, target: Tensor, least: int = 1) -> None:
    """Refuse anything but two tensors of pictures of one shape (..., 3, h, w) in [0, 1], see `pictures_in_range`.

    Args:
        pred: Generated pictures.
        target: The reference's.
        least: Smallest height and width in pixels.

    Raises:
        ValueError: They are something else.
    """
    same(pred, target)
    pictures_in_range("pred", pred)
    pictures_in_range("target", target)
    if min(pred.shape[-2:]) < least:
        height, width = pred.shape[-2:]
        raise ValueError(f"pictures of {height}x{width} px; expected at least {least}x{least}")
