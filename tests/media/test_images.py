"""Still images: every kind becomes the RGB that is shown, or a sentence."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lipbench.media import images

RAMP = np.stack(np.broadcast_arrays(np.arange(0, 256, 4)[None, :], np.arange(0, 240, 5)[:, None], 90), -1).astype(
    np.uint8
)
"""(48, 64, 3)."""
GRAY = RAMP[..., 0]


def saved(path, picture, **options):
    picture.save(path, **options)
    return images.read_image(path).astype(int)


def test_opaque_images_keep_their_values(tmp_path):
    solid = np.dstack([RAMP, np.full(RAMP.shape[:2], 255, np.uint8)])
    assert (saved(tmp_path / "a.png", Image.fromarray(RAMP)) == RAMP).all()
    assert (saved(tmp_path / "b.png", Image.fromarray(solid)) == RAMP).all()
    assert (saved(tmp_path / "c.png", Image.fromarray(GRAY)) == GRAY[..., None]).all()
    palette = Image.fromarray(RAMP).quantize(16)
    assert (saved(tmp_path / "d.png", palette) == np.asarray(palette.convert("RGB"))).all()
    assert (saved(tmp_path / "e.png", Image.fromarray(GRAY > 99)) == 255 * (GRAY > 99)[..., None]).all()
    assert np.abs(saved(tmp_path / "f.jpg", Image.fromarray(RAMP).convert("CMYK"), quality=100) - RAMP).mean() < 3


def test_transparent_parts_show_white(tmp_path):
    alpha = np.zeros(RAMP.shape[:2], np.uint8)
    alpha[:, 16:32], alpha[:, 32:] = 128, 255
    for name, picture, shown in (
        ("color", Image.fromarray(np.dstack([RAMP, alpha])), RAMP),
        ("gray", Image.fromarray(np.dstack([GRAY, alpha]), "LA"), np.repeat(GRAY[..., None], 3, 2)),
    ):
        read = saved(tmp_path / f"{name}.png", picture)
        assert (read[:, :16] == 255).all()
        assert np.abs(read[:, 16:32] - (shown[:, 16:32] * (128 / 255) + 255 * (127 / 255))).max() <= 0.5
        assert (read[:, 32:] == shown[:, 32:]).all()
    palette = Image.fromarray((GRAY > 99).astype(np.uint8), "P")
    palette.putpalette([9, 9, 9, 40, 50, 60])
    read = saved(tmp_path / "palette.png", palette, transparency=0)
    assert (read[GRAY <= 99] == 255).all()
    assert (read[GRAY > 99] == (40, 50, 60)).all()


def test_sixteen_bits_are_scaled(tmp_path):
    deep = GRAY.astype(np.uint16) * 257
    assert (saved(tmp_path / "a.png", Image.fromarray(deep)) == GRAY[..., None]).all()
    assert (saved(tmp_path / "a.tif", Image.fromarray(deep)) == GRAY[..., None]).all()
    shades = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
    assert saved(tmp_path / "dark.png", Image.fromarray(shades)).max() == 12  # 3071 of 65535
    for kind in (np.int32, np.float32):
        with pytest.raises(ValueError, match="more than 16 bits a channel"):
            saved(tmp_path / "b.tif", Image.fromarray(GRAY.astype(kind)))


@pytest.mark.parametrize(("orientation", "shown"), [(3, RAMP[::-1, ::-1]), (6, np.rot90(RAMP, -1)), (2, RAMP[:, ::-1])])
def test_the_orientation_of_the_camera_is_applied(tmp_path, orientation, shown):
    tags = Image.Exif()
    tags[0x0112] = orientation
    assert (saved(tmp_path / "a.png", Image.fromarray(RAMP), exif=tags) == shown).all()


def png(width, height):
    """A PNG file with a head and no pixels."""

    def chunk(content):
        return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))

    head = struct.pack(">4sII5B", b"IHDR", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(head) + chunk(b"IDAT") + chunk(b"IEND")


def test_files_that_cannot_be_used(tmp_path):
    for size in (10000, 20000):  # Pillow warns of the first and refuses the second
        (tmp_path / f"{size}.png").write_bytes(png(size, size))
    noise = np.random.default_rng(0).integers(0, 256, RAMP.shape, np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:4000])
    (tmp_path / "words.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name, expected in (
        ("10000", "is too large: more than 89 million pixels; make it smaller"),
        ("20000", "is too large: more than 89 million pixels; make it smaller"),
        ("cut", "cannot be read"),
        ("words", "is no picture that can be read; expected a png or jpg file"),
        ("empty", "is no picture that can be read"),
        ("folder", "is not a file"),
        ("pipe", "is not a file"),
    ):
        with pytest.raises(ValueError, match=expected) as caught:
            images.read_image(tmp_path / f"{name}.png")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no image at"):
        images.read_image(tmp_path / "none.png")
