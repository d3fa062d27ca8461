"""CPBD against the published implementations, on the pictures of reference/cpbd.npz."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data, feature

from lipbench.metrics import cpbd as module
from lipbench.metrics.cpbd import CPBD, cpbd, edge_widths, grey

FOLDER = Path(__file__).parents[1] / "reference"
REFERENCE = json.loads((FOLDER / "cpbd.json").read_text())["values"]
with np.load(FOLDER / "cpbd.npz") as archive:
    IMAGES = {name: torch.from_numpy(archive[name]) for name in archive}
FACE = IMAGES["astronaut_L_face_0-256,100-356"]


@pytest.mark.parametrize("name", list(IMAGES))
def test_reference_values(name):
    image, expected = IMAGES[name], REFERENCE[name]
    widths = edge_widths(image)
    assert (int((widths > 0).sum()), int(widths.sum())) == (expected["edges"], expected["width_sum"])
    for variant, key in (("port", "cpbd"), ("atvgnet", "atvgnet")):
        value = cpbd(image, variant).item()
        if min(image.shape) < 64:  # where published code says 0
            assert np.isnan(value)
            assert expected[key] == 0
        else:
            assert value == pytest.approx(expected[key], abs=1e-9)


NATURAL = [name for name in IMAGES if name.startswith(("camera", "astronaut", "pcg64", "rings", "const"))]


@pytest.mark.parametrize("name", NATURAL)
def test_canny_is_that_of_skimage(name):
    """Checkerboards and ramps are left out: there all hangs on the last bit of equal neighbors."""
    expected = feature.canny(IMAGES[name].numpy().astype(np.float64))
    assert expected.sum() == REFERENCE[name]["canny"]
    assert np.array_equal(module._canny(IMAGES[name].to(torch.int16)).numpy(), expected)


def by_definition(image, widths):
    """The score from widths and skimage's edges, block by block, with the published histogram."""
    edges, histogram = feature.canny(image.astype(np.float64)), np.zeros(101)
    for top in range(0, image.shape[0] - 63, 64):
        for left in range(0, image.shape[1] - 63, 64):
            block = np.s_[top : top + 64, left : left + 64]
            if np.count_nonzero(edges[block]) > 0.002 * 4096:
                jnb = 5 if int(np.ptp(image[block])) <= 50 else 3
                for width in widths[block][widths[block] > 0]:
                    histogram[round(100 * (1 - np.exp(-((width / jnb) ** 3.6))))] += 1
    return histogram[:64].sum() / max(histogram.sum(), 1)


def test_the_gate_for_blocks():
    """Faint blocks, where the gate decides and hysteresis is needed: few or no Canny pixels beside measured edges."""
    rng = np.random.default_rng(0)
    closed = 0
    for _ in range(25):
        image = np.full((128, 192), 100, np.uint8)
        for _ in range(rng.integers(1, 5)):  # lone dots and short strokes, in the rows that are looked at last too
            y, x, tall = rng.integers(2, 120), rng.integers(2, 186), rng.integers(1, 4)
            image[y : y + tall, x : x + 2] += np.uint8(rng.integers(1, 100))
        image[64:, :64] = FACE[:64, :64].numpy()
        widths = edge_widths(torch.from_numpy(image)).numpy()
        edges = feature.canny(image.astype(np.float64)).reshape(2, 64, 3, 64).sum((1, 3))
        measured = (widths > 0).reshape(2, 64, 3, 64).sum((1, 3))
        closed += int(((edges < 9) & (measured > 0)).sum())
        assert cpbd(torch.from_numpy(image)).item() == pytest.approx(by_definition(image, widths), abs=1e-12)
    assert closed > 5


def test_many_frames_at_once(monkeypatch):
    images = torch.stack([IMAGES[name] for name in IMAGES if IMAGES[name].shape == FACE.shape])
    single = torch.stack([cpbd(image) for image in images])
    assert torch.equal(cpbd(images[:, None]), single[:, None])
    monkeypatch.setattr(module, "_CHUNK", 3 * 2**16)
    assert torch.equal(cpbd(images), single)
    assert cpbd(images[:0]).shape == (0,)


def test_properties():
    blurred = ["astronaut_L_face_0-256,100-356", "astronaut_face_blur1", "astronaut_face_blur2"]
    assert [cpbd(IMAGES[k]).item() for k in blurred] == sorted((cpbd(IMAGES[k]).item() for k in blurred), reverse=True)
    dim = FACE // 2
    assert cpbd(dim + 100).item() == cpbd(dim).item()
    assert cpbd(FACE.to(torch.int64)).item() == cpbd(FACE).item()
    # What is left over beside the blocks takes part in threshold and widths only.
    wide = IMAGES["astronaut_mouth_64x96"]
    assert cpbd(wide).item() == pytest.approx(by_definition(wide.numpy(), edge_widths(wide).numpy()), abs=1e-12)
    assert cpbd(wide).item() != cpbd(wide[:, :64]).item()
    assert cpbd(torch.full((64, 64), 7)).item() == 0


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match=r"integers in 0..255, got torch.float32"):
        cpbd(FACE / 255)
    with pytest.raises(ValueError, match=r"got torch\.bool"):
        cpbd(FACE > 100)
    with pytest.raises(ValueError, match=r"got -1\.\.254"):
        cpbd(FACE.to(torch.int16) - 1)
    with pytest.raises(ValueError, match="no variant 'octave'"):
        cpbd(FACE, "octave")


def test_grey_is_that_of_pil():
    picture = data.astronaut()
    expected = np.asarray(Image.fromarray(picture).convert("L"))
    assert np.array_equal(grey(torch.from_numpy(picture).permute(2, 0, 1)).numpy(), expected)


def video():
    """(3, 4, 3, 64, 96): noise that is blurred more from clip to clip."""
    pictures = torch.rand(3, 4, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    for k in (1, 2):
        pictures[k] = torch.nn.functional.avg_pool2d(pictures[k], 2 * k + 1, 1, k)
    return pictures


@pytest.mark.parametrize("variant", ["port", "atvgnet"])
def test_mean_over_frames(variant):
    pictures, length = video(), torch.tensor([4, 2, 3])
    broken = pictures.clone()
    broken[0, 3, 1, 2, 3] = torch.nan
    broken[1, 2] = torch.nan  # padding
    pixels = (pictures * 255).round().to(torch.uint8)
    frames = [[cpbd(grey(frame), variant).item() for frame in clip[:n]] for clip, n in zip(pixels, length, strict=True)]
    whole, single, bad = CPBD(variant), CPBD(variant), CPBD(variant)
    whole.update(pictures, pictures, torch.arange(3), length)
    bad.update(broken, pictures, torch.arange(3), length)
    for k in (2, 0, 1, 0):
        single.update(pictures[k : k + 1], pictures[k : k + 1], torch.tensor([k]), length[k : k + 1])
    assert whole.per_clip().value == pytest.approx([np.mean(clip) for clip in frames], abs=1e-12)
    assert whole.compute().item() == pytest.approx(np.mean([value for clip in frames for value in clip]), abs=1e-12)
    assert single.compute().item() == pytest.approx(whole.compute().item(), abs=1e-12)
    assert np.isnan(bad.per_clip().value).tolist() == [True, False, False]
    assert whole.per_clip().value[0] > whole.per_clip().value[2]


def test_undefined():
    metric = CPBD()
    small = torch.rand(1, 2, 3, 40, 80)
    metric.update(small, small, torch.tensor([0]), torch.tensor([2]))
    metric.update(video()[:1], video()[:1], torch.tensor([1]), torch.tensor([0]))
    assert np.isnan(metric.per_clip().value).all()
    assert metric.compute().isnan()
