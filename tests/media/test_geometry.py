import numpy as np
import pytest
import torch

from lipbench.media import geometry
from lipbench.types import View

FACE, MOUTH = View("face", 256, 256), View("mouth", 80, 160)
CANONICAL = geometry.TEMPLATE + np.array([32, 16])


def moving_heads(scales, angles, shifts) -> np.ndarray:
    """(T, 68, 2) template points as they lie in source frames; inverse of the wanted transforms."""
    turn = np.exp(1j * np.asarray(angles)) * scales
    points = (CANONICAL @ (1, 1j))[None] * turn[:, None] + (np.asarray(shifts) @ (1, 1j))[:, None]
    return np.stack([points.real, points.imag], -1)


def picture(seed: int = 0) -> torch.Tensor:
    """A smooth random canonical picture (3, 352, 320) in [0, 1]."""
    coarse = torch.rand(1, 3, 22, 20, generator=torch.Generator().manual_seed(seed))
    return geometry.resize(coarse, (geometry.HEIGHT, geometry.WIDTH))[0]


def uint8(pixels: torch.Tensor) -> np.ndarray:
    return (pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


@pytest.mark.parametrize("height", [6, 7])
def test_halves(height):
    pixels = 0.5 + torch.rand(2, 4, 3, height, 5)
    before = pixels.clone()
    half = geometry.lower_half(pixels)
    blanked = geometry.without_lower_half(pixels)
    assert half.shape == (2, 4, 3, height - 3, 5)
    assert torch.equal(half, before[..., 3:, :])
    assert torch.equal(blanked[..., :3, :], before[..., :3, :])
    assert not geometry.lower_half(blanked).any()
    assert torch.equal(pixels, before)  # a copy was blanked
    still = torch.ones(1, 3, height, 5).expand(7, -1, -1, -1)  # one frame shown seven times
    assert geometry.without_lower_half(still).sum() == 7 * 3 * 3 * 5
    assert still.min() == 1


def test_similarity_maps_landmarks_on_the_template():
    landmarks = moving_heads([0.5] * 9, [0.2] * 9, [(40.0, 30.0)] * 9)
    transforms = geometry.similarity(landmarks)
    assert transforms.shape == (9, 2, 3)
    assert geometry.transform_points(landmarks, transforms) == pytest.approx(np.stack([CANONICAL] * 9), abs=1e-6)
    assert np.hypot(transforms[:, 0, 0], transforms[:, 1, 0]) == pytest.approx(2.0)
    assert transforms[:, 0, 0] == pytest.approx(transforms[:, 1, 1])
    assert transforms[:, 0, 1] == pytest.approx(-transforms[:, 1, 0])


def test_similarity_follows_motion_and_ignores_mouth_and_brows():
    k = np.arange(40)
    landmarks = moving_heads(0.5 + 0.001 * k, 0.002 * k, np.stack([40.0 + k, 30.0 - 0.5 * k], 1))
    fitted = geometry.transform_points(landmarks, geometry.similarity(landmarks))
    assert np.abs(fitted[5:-5] - CANONICAL).max() < 0.2
    talking = landmarks.copy()
    talking[:, 48:] += 7
    talking[:, :27] -= 5
    assert geometry.similarity(talking) == pytest.approx(geometry.similarity(landmarks))


def test_similarity_calms_the_detector():
    landmarks = moving_heads([0.5] * 60, [0.0] * 60, [(40.0, 30.0)] * 60)
    noise = np.random.default_rng(0).normal(0, 1, landmarks.shape)
    shift = geometry.similarity(landmarks + noise)[:, :, 2]
    raw = np.concatenate([geometry.similarity((landmarks + noise)[t : t + 1])[:, :, 2] for t in range(60)])
    assert (shift.std(0) < 0.6 * raw.std(0)).all()


def test_smooth_keeps_constants_and_slopes():
    assert geometry.smooth(np.full((5, 2), 3.0)) == pytest.approx(np.full((5, 2), 3.0))
    slope = np.arange(30.0)
    assert geometry.smooth(slope)[4:-4] == pytest.approx(slope[4:-4])
    assert geometry.smooth(np.ones(1)) == pytest.approx(np.ones(1))


def test_invert_undoes():
    landmarks = moving_heads([0.5, 0.7], [0.2, -0.1], [(40.0, 30.0), (9.0, 8.0)])
    transforms = geometry.similarity(landmarks)
    there = geometry.transform_points(landmarks, transforms)
    assert geometry.transform_points(there, geometry.invert(transforms)) == pytest.approx(landmarks)


def test_warp_and_paste_into_frame_are_inverse():
    frame = uint8(picture()[:, :288])  # 288 x 320
    transform = geometry.similarity(moving_heads([0.6], [0.15], [(40.0, 20.0)]))
    canonical = geometry.warp([frame], transform)[0]
    assert canonical.shape == (352, 320, 3)
    back = geometry.paste_into_frame(frame, canonical, transform[0], geometry.feather(FACE)[0].numpy())
    error = np.abs(back.astype(int) - frame)
    assert error.mean() < 0.5
    assert error.max() <= 5


def test_pasting_into_a_frame_changes_the_view_and_nothing_else():
    frame = uint8(picture()[:, :288])
    transform = geometry.similarity(moving_heads([0.6], [0.15], [(40.0, 20.0)]))[0]
    black = np.zeros((352, 320, 3), np.uint8)
    out = geometry.paste_into_frame(frame, black, transform, geometry.feather(MOUTH)[0].numpy())
    y, x = np.mgrid[:288, :320]
    place = geometry.transform_points(np.stack([x, y], -1).reshape(1, -1, 2).astype(float), transform[None])[0]
    top, left, bottom, right = geometry.box("mouth")
    u, v = (place[:, i].reshape(288, 320) for i in (0, 1))
    depth = np.minimum(np.minimum(u - left, right - 1 - u), np.minimum(v - top, bottom - 1 - v))
    assert (out[depth > 9] == 0).all()
    assert (out[depth < -2] == frame[depth < -2]).all()
    assert (depth > 9).sum() > 1000


@pytest.mark.parametrize("shift", [(0, 0), (-60, 0), (90, 70), (1000, 0), (0, -1000)])
def test_pasting_a_face_partly_outside_the_frame_equals_pasting_into_a_larger_one(shift):
    mask = geometry.feather(FACE)[0].numpy()
    frame, canonical = uint8(picture(1)[:, :200, :240]), uint8(picture(2))
    inside = geometry.similarity(moving_heads([0.6], [0.15], [np.add(shift, (40.0, 20.0))]))
    around = geometry.similarity(moving_heads([0.6], [0.15], [np.add(shift, (240.0, 220.0))]))
    large = np.pad(frame, ((200, 200), (200, 200), (0, 0)))
    wanted = geometry.paste_into_frame(large, canonical, around[0], mask)[200:400, 200:440]
    out = geometry.paste_into_frame(frame, canonical, inside[0], mask)
    assert np.abs(out.astype(int) - wanted).max() <= 1  # OpenCV rounds coordinates to 1/32 px
    assert (out != frame).any() == (max(map(abs, shift)) < 1000)


def test_pasting_nothing():
    frame = uint8(picture())
    transform = geometry.similarity(moving_heads([0.6], [0.0], [(40.0, 20.0)]))[0]
    assert (geometry.paste_into_frame(frame, frame, transform, np.zeros((352, 320), np.float32)) == frame).all()


@pytest.mark.parametrize("scale", [0.3, 0.45, 0.55, 1.0])  # below 0.5 the frame is reduced first
@pytest.mark.parametrize("size", [(1080, 1920), (1079, 1917)])
def test_warp_has_no_shift_at_any_scale(scale, size):
    center = np.array([901.3, 507.6])
    y, x = np.mgrid[: size[0], : size[1]]
    blob = 255 * np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * (12 / scale) ** 2))
    transform = np.array([[scale, 0.0, 160.4 - scale * center[0]], [0.0, scale, 170.7 - scale * center[1]]])
    out = geometry.warp([np.repeat(np.rint(blob).astype(np.uint8)[..., None], 3, 2)], transform[None])[0, ..., 0]
    weight = out.astype(float)
    rows, columns = np.mgrid[:352, :320]
    found = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
    assert found == pytest.approx((160.4, 170.7), abs=0.06)


def test_reduction_does_not_alias():
    board = np.indices((1000, 1000)).sum(0) % 2 * 255  # a pattern of single pixels becomes even grey
    frame = np.repeat(board.astype(np.uint8)[..., None], 3, 2)
    transform = np.array([[[0.3, 0, 0], [0, 0.3, 0]]])
    inside = geometry.warp([frame], transform)[0, 10:290, 10:290].astype(int)
    assert np.abs(inside - 127).max() < 30


def test_pixels_outside_the_frame_repeat_its_border():
    out = geometry.warp([np.full((50, 50, 3), 77, np.uint8)], np.array([[[1.0, 0, 100], [0, 1.0, 100]]]))
    assert (out == 77).all()


@pytest.mark.parametrize("name", sorted(geometry.BOXES))
def test_every_box_lies_in_the_picture(name):
    top, left, bottom, right = geometry.box(name)
    assert 0 <= top < bottom <= geometry.HEIGHT
    assert 0 <= left < right <= geometry.WIDTH


def test_the_mouth_lies_in_the_mouth_boxes():
    lips = CANONICAL[48:]
    for name in ("mouth", "mouth_square"):
        top, left, bottom, right = geometry.box(name)
        assert top + 10 < lips[:, 1].min()
        assert lips[:, 1].max() < bottom - 10
        assert left + 5 < lips[:, 0].min()
        assert lips[:, 0].max() < right - 5


def test_unknown_view():
    with pytest.raises(ValueError, match=r"unknown view 'nose'; known views are .*'mouth'"):
        geometry.box("nose")


@pytest.mark.parametrize("name", sorted(geometry.BOXES))
def test_paste_is_the_inverse_of_crop(name):
    top, left, bottom, right = geometry.box(name)
    view = View(name, bottom - top, right - left)
    base, other = picture(0)[None], picture(1)[None]
    assert torch.equal(geometry.paste(base, geometry.crop(base, view), view), base)
    pasted = geometry.paste(base, geometry.crop(other, view), view)
    assert torch.equal(geometry.crop(pasted, view), geometry.crop(other, view))
    outside = torch.ones(352, 320, dtype=torch.bool)
    outside[top:bottom, left:right] = False
    assert torch.equal(pasted[..., outside], base[..., outside])


def test_paste_of_a_smaller_view_comes_close():
    base = picture()[None]
    half = View("mouth", 40, 80)
    again = geometry.crop(geometry.paste(base, geometry.crop(base, half), half), half)
    assert (again - geometry.crop(base, half)).abs().mean() < 0.01


def test_crops_of_bytes_and_floats_agree():
    base = picture()
    view = View("mouth", 40, 80)
    whole = (base * 255).round().to(torch.uint8)
    small = geometry.crop(whole[None, None], view)
    assert (small.dtype, small.shape) == (torch.uint8, (1, 1, 3, 40, 80))
    assert (small[0, 0].float() - geometry.crop(whole.float(), view)).abs().max() <= 1
    assert geometry.resize(whole, (352, 320)) is whole


@pytest.mark.parametrize("want", [MOUTH, View("mouth", 40, 80), View("lower_face", 64, 128), View("face", 96, 96)])
def test_change_view_equals_the_crop_of_the_canonical_picture(want):
    base = picture()[None]
    assert torch.equal(geometry.change_view(geometry.crop(base, FACE), FACE, want), geometry.crop(base, want))


def test_change_view_from_another_size_comes_close():
    base = picture()[None]
    small = View("face", 128, 128)
    changed = geometry.change_view(geometry.crop(base, small), small, MOUTH)
    assert (changed - geometry.crop(base, MOUTH)).abs().mean() < 0.01


def test_change_view_cannot_invent_pixels():
    with pytest.raises(ValueError, match="view 'face' does not lie inside 'mouth'"):
        geometry.change_view(torch.zeros(1, 3, 80, 160), MOUTH, FACE)


def test_gradients_flow_to_the_pixels_that_are_used():
    base = picture()[None].requires_grad_()
    geometry.crop(base, View("mouth", 40, 80)).sum().backward()
    top, left, bottom, right = geometry.box("mouth")
    inside = base.grad[..., top:bottom, left:right]
    assert (inside > 0).all()
    assert base.grad.sum().item() == pytest.approx(inside.sum().item())
    assert inside.sum().item() == pytest.approx(3 * 40 * 80, rel=1e-4)

    pixels = torch.rand(1, 3, 40, 80, requires_grad=True)
    base = picture()[None].requires_grad_()
    geometry.paste(base, pixels, View("mouth", 40, 80)).sum().backward()
    assert (pixels.grad > 0).all()
    assert (base.grad[..., top:bottom, left:right] == 0).all()
    assert base.grad[0, 0, 0, 0] == 1

    face = torch.rand(1, 3, 96, 96, requires_grad=True)
    geometry.change_view(face, View("face", 96, 96), View("mouth", 40, 80)).sum().backward()
    assert (face.grad != 0).any()
    assert face.grad[..., 0, 0].abs().sum() == 0  # the forehead is no part of the mouth


@pytest.mark.parametrize("name", ["face", "mouth"])
def test_feather(name):
    mask = geometry.feather(View(name, 1, 1), border=8)
    assert mask.shape == (1, 352, 320)
    top, left, bottom, right = geometry.box(name)
    outside = torch.ones(352, 320, dtype=torch.bool)
    outside[top:bottom, left:right] = False
    assert mask.min() == 0
    assert mask.max() == 1
    assert (mask[0][outside] == 0).all()
    assert (mask[0, top + 8 : bottom - 8, left + 8 : right - 8] == 1).all()
    inside = mask[0, top:bottom, left:right]
    assert torch.equal(inside, inside.flip(0))
    assert torch.equal(inside, inside.flip(1))
    edge = mask[0, (top + bottom) // 2, left : left + 9]
    assert (edge.diff() > 0).all()
    assert 0 < edge[0] < 0.1


@pytest.mark.parametrize("name", ["mouth_square", "lower_face", "mouth", "face"])
def test_overlay_is_the_crop_of_what_was_pasted(name):
    generator = torch.Generator().manual_seed(0)
    top, left, bottom, right = geometry.box(name)
    view, mouth = View(name, bottom - top, right - left), View("mouth", 80, 160)
    picture = torch.rand(2, 3, geometry.HEIGHT, geometry.WIDTH, generator=generator)
    pixels = torch.rand(2, 3, *view.size, generator=generator)
    found = geometry.overlay(geometry.crop(picture, mouth), mouth, pixels, view)
    assert torch.equal(found, geometry.crop(geometry.paste(picture, pixels, view), mouth))


@pytest.mark.parametrize("size", [256, 128, 64, 96])
def test_superimpose_is_paste_seen_in_a_view_that_holds_the_box(size):
    face, lips = View("face", size, size), View("mouth", 40, 80)
    base, pixels = picture(0)[None], geometry.crop(picture(1)[None], lips)
    found = geometry.superimpose(geometry.crop(base, face), face, pixels, lips)
    expected = geometry.crop(geometry.paste(base, pixels, lips), face)
    top, left, bottom, right = (side * size / 256 for side in geometry.BOXES["mouth"])
    rows, columns = torch.arange(size)[:, None], torch.arange(size)
    # The antialiasing filter of a pixel reaches half a pixel over its borders.
    outside = (rows + 1.5 <= top) | (rows - 0.5 >= bottom) | (columns + 1.5 <= left) | (columns - 0.5 >= right)
    inside = (rows - 0.5 >= top) & (rows + 1.5 <= bottom) & (columns - 0.5 >= left) & (columns + 1.5 <= right)
    assert torch.equal(found[..., outside], geometry.crop(base, face)[..., outside])
    torch.testing.assert_close(found[..., inside], expected[..., inside])
    assert (found - expected).abs().max() < (1e-6 if size == 256 else 0.15)
    assert inside.sum() >= (bottom - top - 3) * (right - left - 3)


def test_superimpose_needs_a_view_around_the_box():
    with pytest.raises(ValueError, match="view 'face' does not lie inside 'mouth'"):
        geometry.superimpose(torch.zeros(1, 3, 80, 160), MOUTH, torch.zeros(1, 3, 256, 256), FACE)
