"""Still images to RGB frames: one function for all commands."""

import warnings
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]
"""(h, w, 3) RGB."""

BACKGROUND: Final = 255
"""What lies behind transparent pixels, of images and of videos: white, as in viewers and browsers. Own choice."""
LARGEST: Final = 89_478_485
"""Pixels of an image or a frame; Pillow's own limit."""


def read_image(path: Path) -> Frame:
    """Decode an image as it is shown.

    Orientation stored in the file (EXIF) is applied. Gray, palette and CMYK become RGB; 16 bits a channel are scaled to
    8; transparent pixels are mixed with white (`BACKGROUND`). Of an animation it is the first frame.

    Args:
        path: PNG, JPEG, or anything else that Pillow reads.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image, damaged, larger than `LARGEST`, or has more than 16 bits a channel.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not path.exists():
        raise FileNotFoundError(f"no image at {path}; expected a png or jpg file")
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path} is not a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                shown = ImageOps.exif_transpose(opened)  # decodes
    except UnidentifiedImageError:
        raise ValueError(f"{path.name} is no picture that can be read; expected a png or jpg file") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(
            f"{path.name} is too large: more than {LARGEST / 1e6:.0f} million pixels; make it smaller"
        ) from None
    except Exception as error:  # for damaged files Pillow raises OSError, SyntaxError, ValueError, struct.error, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path.name} cannot be read: {reason}") from error
    if shown.mode in ("I", "F"):
        raise ValueError(f"{path.name} has more than 16 bits a channel (mode {shown.mode}); save it with 8")
    if shown.mode.startswith("I;16"):
        deep = np.asarray(shown).astype(np.float64)  # (h, w) 0..65535
        return np.repeat(np.rint(deep / 257).astype(np.uint8)[..., None], 3, axis=2)
    if shown.has_transparency_data:
        return over_background(np.asarray(shown.convert("RGBA"), np.uint8))
    return np.array(shown.convert("RGB"), np.uint8)


def over_background(pixels: npt.NDArray[np.uint8]) -> Frame:
    """Mix (h, w, 4) RGBA, its color not multiplied by its alpha, with `BACKGROUND`; opaque pixels stay as they are."""
    alpha = pixels[..., 3:].astype(np.uint16)
    mixed = pixels[..., :3] * alpha + BACKGROUND * (255 - alpha)  # at most 255 * 255: fits 16 bits
    return ((mixed + 127) // 255).astype(np.uint8)
