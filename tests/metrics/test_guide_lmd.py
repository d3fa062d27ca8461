"""LMD on the guide face: lips of every frame on the first frame's face, beside the landmarks of the real video."""

import numpy as np
import pytest
import torch

from lipbench.evaluation import bank as banks
from lipbench.evaluation import calibration
from lipbench.media import geometry, landmarks, video
from lipbench.scoring import observers
from lipbench.scoring.views import MOUTH
from lipbench.types import View

COLUMNS = ["lmd", "lmd[guide]"]
FRAMES, STEP = 5, 2  # px a frame that the head moves down
NOSE, LIPS = 130, 185  # rows of the canonical picture
SHAPE = geometry.TEMPLATE[48:] - geometry.TEMPLATE[48:].mean(0)  # (20, 2)


class Marks:
    """Finds lips at the lower of two red marks, as wide as it lies below the upper one: face and lips fit together."""

    def points(self, picture, box):
        rows = np.flatnonzero((picture == (255, 0, 0)).all(2).any(1))
        found = np.zeros((68, 2), np.float32)
        found[48:] = (160, rows[-1]) + SHAPE * (rows[-1] - rows[0]) / (LIPS - NOSE)
        return found

    def sees(self, picture, box):
        return True


@pytest.fixture(autouse=True)
def marks(request, monkeypatch):
    if "grid_root" not in request.fixturenames:
        monkeypatch.setattr(observers.landmarks, "load", lambda name: Marks())


def batch(step, view=MOUTH):
    """A clip whose marks move down together by a number of pixels a frame: the mouth itself is still."""
    low = torch.rand(3, 22, 20, generator=torch.Generator().manual_seed(0))
    face = (geometry.resize(low, (geometry.HEIGHT, geometry.WIDTH)) * 200).to(torch.uint8).repeat(FRAMES, 1, 1, 1)
    for k in range(FRAMES):
        for row in (NOSE, LIPS):
            face[k, :, row + k * step, 160] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    return of(face, torch.from_numpy(geometry.TEMPLATE + np.array([32, 16])).float().repeat(FRAMES, 1, 1), view)


def of(face, points, view):
    return {
        "index": torch.tensor([0]),
        "face": face[None],  # (1, T, 3, 352, 320)
        "landmarks": points[None],
        "video": geometry.crop(face, view)[None].float() / 255,
        "video_len": torch.tensor([len(face)]),
        "fps": torch.tensor([25.0]),
    }


def rows(given, names, view=MOUTH):
    """Calibration row -> column -> score."""
    bank = banks.Bank(COLUMNS)
    scene = bank.scene(given, view)
    found = {}
    with torch.inference_mode():
        for name, take, target in calibration.iter_calibration_rows(bank, scene, given["video"][0].mean(0), names):
            row = bank.row()
            row.update(take, target)
            assert not row.reasons
            found[name] = {column: clips.value.item() for column, clips in row.local_scores().items()}
    return found


def test_pose_alone_is_a_distance_of_the_true_lips():
    """The guide's upper mark stays, so that the lips of frame k are wider by 2 k of 55 there than in the real video."""
    wider = STEP * np.arange(FRAMES).mean() / (LIPS - NOSE)
    floor = wider * np.linalg.norm(SHAPE, axis=1).mean()
    found = rows(batch(STEP), [])
    assert found["ground-truth"]["lmd"] == 0
    assert found["ground-truth"]["lmd[guide]"] == pytest.approx(floor, rel=1e-5)
    assert found["resized-truth"] == found["ground-truth"]  # pasted at its own size
    # The first frame has both marks where the guide has them: aligned, its lips are those of every real frame.
    assert found["frozen-frame"] == {"lmd": pytest.approx(floor, rel=1e-5), "lmd[guide]": pytest.approx(0, abs=1e-5)}


def test_where_nothing_moves_it_is_0():
    found = rows(batch(0), [])
    assert found["ground-truth"] == found["resized-truth"] == found["frozen-frame"] == {"lmd": 0, "lmd[guide]": 0}


def test_the_lips_are_those_of_the_frame_and_the_face_that_of_the_first():
    given = batch(STEP)
    bank = banks.Bank(COLUMNS)
    scene = bank.scene(given, MOUTH)
    made = given["video"].flip(1)
    shown = scene.take(made).on_guide(0)  # (T, 3, 352, 320)
    assert torch.equal(geometry.crop(shown, MOUTH).float() / 255, made[0])
    guide = given["face"][0, :1].expand_as(shown)
    assert torch.equal(geometry.paste(shown, geometry.crop(guide, MOUTH), MOUTH), guide)
    assert torch.equal(scene.reference.on_guide(0), scene.take(given["video"]).on_guide(0))


@pytest.mark.parametrize(
    ("view", "there"),
    [
        (View("mouth", 40, 80), True),
        (View("mouth_square", 64, 64), True),
        (View("lower_face", 128, 256), True),
        (View("face", 96, 96), False),
    ],
)
def test_views_that_leave_part_of_the_face_have_it(view, there):
    given = batch(0, view)
    bank = banks.Bank(["lmd[guide]"])
    scene = bank.scene(given, view)
    row = bank.row()
    row.update(scene.take(given["video"]), scene)
    assert np.isfinite(row.local_scores()["lmd[guide]"].value).tolist() == [True] * there
    told = "the view face 96x96 holds the whole face, so that it is not pasted into another one"
    assert row.reasons == ({} if there else {"lmd[guide]": told})


def test_videos_of_another_length_and_broken_frames():
    given = batch(STEP)
    bank = banks.Bank(COLUMNS)
    scene = bank.scene(given, MOUTH)
    row = bank.row()
    row.update(scene.take(given["video"][:, :3], torch.tensor([3])), scene)
    assert "differ in length" in row.reasons["lmd[guide]"]
    broken = given["video"].clone()
    broken[0, 2] = torch.nan
    missing = scene.take(broken).observe("guide_landmarks")[0].isnan().all((1, 2))  # (T,)
    assert missing.tolist() == [False, False, True, False, False]


def test_it_is_off_unless_it_is_named():
    assert "lmd[guide]" not in [entry.name for entry in banks.select(None)]
    (entry,) = banks.select(["lmd[guide]"])
    assert banks.observed(entry) == ("guide_landmarks", "landmarks")
    assert "guide_landmarks" not in banks.Bank(["lmd"]).observers


def test_a_real_clip(grid_root):
    """Standing still is worse than the true lips on the guide face, whose floor is dlib's noise."""
    frames = video.read_video(grid_root / "video" / "s2" / "pwij3p.mpg").frames[16:40]
    points = landmarks.track(frames, landmarks.load("dlib")).points
    matrices = geometry.similarity(points)
    face = torch.from_numpy(geometry.warp(frames, matrices)).permute(0, 3, 1, 2)
    given = of(face, torch.from_numpy(geometry.transform_points(points, matrices)).float(), MOUTH)
    found = rows(given, ["reencoded-truth"])
    assert found["ground-truth"]["lmd"] == 0
    assert found["ground-truth"]["lmd[guide]"] < found["reencoded-truth"]["lmd[guide]"] < 1
    assert 0.1 < found["ground-truth"]["lmd[guide]"] < 1
    assert found["frozen-frame"]["lmd[guide]"] > 1.5 * found["ground-truth"]["lmd[guide]"]
