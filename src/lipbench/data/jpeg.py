"""JPEG pictures whose rows can be decoded apart.

Every row of blocks (16 pixels) ends in a restart marker, which resets the entropy coder (ITU-T T.81, section E.1.4). So
the rows that a view needs are cut out and given a header of their own: decoding a mouth costs a third of decoding the
picture. The files stay ordinary JPEG that any reader opens.
"""

import re
from typing import Final

import numpy as np
import numpy.typing as npt

QUALITY: Final = 95
BLOCK: Final = 16
"""Pixels of a block's side at 4:2:0."""

_RESTART: Final = re.compile(rb"\xff[\xd0-\xd7]")
_SOF, _SOS = 0xC0, 0xDA  # markers: start of a baseline frame, start of scan


def encode(picture: npt.NDArray[np.uint8]) -> bytes:
    """Baseline JPEG, 4:2:0, with a restart marker after every row of blocks.

    Args:
        picture: (h, w, 3) RGB.
    """
    import cv2

    options = [
        *(cv2.IMWRITE_JPEG_QUALITY, QUALITY),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
        *(cv2.IMWRITE_JPEG_RST_INTERVAL, -(-picture.shape[1] // BLOCK)),
    ]
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def decode(data: bytes | memoryview, out: npt.NDArray[np.uint8], top: int = 0, bottom: int | None = None) -> None:
    """Decode the rows top..bottom into the same rows of `out`; up to 17 rows around them change too, the others do not.

    Args:
        data: From `encode`.
        out: (h, w, 3) RGB, contiguous, of the picture's size.
        top: First row wanted.
        bottom: Row after the last one wanted; None is the picture's height.
    """
    import simplejpeg

    height = len(out)
    # A row more on each side: smooth upsampling of the colors looks at the neighboring row.
    first = max(0, top - 1) // BLOCK
    last = -(-min(height, (height if bottom is None else bottom) + 1) // BLOCK)
    whole = first == 0 and last * BLOCK >= height
    piece = data if whole else _cut(data, first, last)
    simplejpeg.decode_jpeg(piece, "RGB", buffer=out[first * BLOCK : last * BLOCK])


def _cut(data: bytes | memoryview, first: int, last: int) -> bytearray:
    """The rows of blocks first..last as a JPEG of their own."""
    view = memoryview(data)
    place, height_at = 2, 0
    while True:  # segments: 0xFF, marker, two bytes of length
        marker, length = view[place + 1], int.from_bytes(view[place + 2 : place + 4], "big")
        if marker == _SOF:
            height_at = place + 5
        place += 2 + length
        if marker == _SOS:
            break
    ends = [found.start() for found in _RESTART.finditer(view, place)]
    height = int.from_bytes(view[height_at : height_at + 2], "big")
    begin = place if first == 0 else ends[first - 1] + 2
    end = ends[last - 1] if last <= len(ends) else len(view) - 2
    piece = bytearray(view[:place])
    piece[height_at : height_at + 2] = (min(height, last * BLOCK) - first * BLOCK).to_bytes(2, "big")
    piece += view[begin:end]
    for k in range(last - first - 1):  # the markers count modulo 8 from the start of the picture
        piece[place + ends[first + k] - begin + 1] = 0xD0 + k % 8
    return piece + b"\xff\xd9"
