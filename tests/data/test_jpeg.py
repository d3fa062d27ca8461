"""JPEG rows decoded apart equal those of the whole picture."""

import numpy as np
import pytest

from lipbench.data import jpeg


def picture(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(rows / a + columns / b) for a, b in ((9, 17), (23, 7), (13, 31))]
    return np.stack(waves, -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("top", "bottom"), [(155, 235), (0, 20), (300, 352), (16, 272), (0, 352), (15, 16), (159, 161)]
)
def test_rows_equal_the_whole(top: int, bottom: int) -> None:
    source = picture(352, 320)
    data = jpeg.encode(source)
    whole, part = np.zeros_like(source), np.full_like(source, 77)
    jpeg.decode(data, whole)
    jpeg.decode(data, part, top, bottom)
    assert np.abs(whole.astype(int) - source).mean() < 1.5
    np.testing.assert_array_equal(part[top:bottom], whole[top:bottom])
    untouched = np.r_[0 : max(0, top - 32), min(352, bottom + 32) : 352]
    assert (part[untouched] == 77).all()


@pytest.mark.parametrize("size", [(40, 80), (37, 50), (16, 16)])
def test_other_sizes(size: tuple[int, int]) -> None:
    source = picture(*size)
    out = np.zeros_like(source)
    jpeg.decode(jpeg.encode(source), out, 3, 12)
    assert np.abs(out[3:12].astype(int) - source[3:12]).mean() < 3


def test_other_readers_open_it() -> None:
    import cv2

    source = picture(352, 320)
    read = cv2.imdecode(np.frombuffer(jpeg.encode(source), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(read.astype(int) - source).mean() < 1.5
