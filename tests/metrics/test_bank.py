"""The bank: selection, one look a video, pasting, undefined cells and their reasons."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lipbench.errors import Unavailable
from lipbench.evaluation import bank as banks
from lipbench.media import geometry
from lipbench.metrics.cpbd import cpbd, grey
from lipbench.scoring import observers, views
from lipbench.scoring.observers import Landmarks
from lipbench.scoring.views import MOUTH, ClipView
from lipbench.types import View

VIEW = View("mouth", 40, 80)
FAST = ["mouth/psnr", "mouth/ssim", "native/psnr", "native/ssim"]


def batch(view=VIEW, clips=2, frames=4, seed=0):
    rng = np.random.default_rng(seed)
    low = torch.from_numpy(rng.random((clips, frames, 3, 22, 20))).float()
    face = (geometry.resize(low, (geometry.HEIGHT, geometry.WIDTH)) * 255).round().to(torch.uint8)
    points = torch.from_numpy(geometry.TEMPLATE + np.array([32, 16])).float() + torch.zeros(clips, frames, 68, 2)
    return {
        "index": torch.arange(clips),
        "video": geometry.crop(face, view).float() / 255,
        "video_len": torch.tensor([frames, frames - 1][:clips]),
        "face": face,
        "landmarks": points,
        "speech": torch.tensor([[0, frames]] * clips),
    }


def score(names, given, video, length=None, view=VIEW):
    bank = banks.Bank(names)
    row = bank.row()
    scene = bank.scene(given, view)
    row.update(scene.take(video, length), scene)
    return {name: clips.value for name, clips in row.local_scores().items()}, row.reasons


def test_selection():
    assert "lmd" in [entry.name for entry in banks.select(None)]
    assert "lmd[sum]" not in [entry.name for entry in banks.select(None)]
    assert [entry.name for entry in banks.select(["lmd", "mouth/psnr"])] == ["mouth/psnr", "lmd"]
    assert {entry.group for entry in banks.select(["quality"])} == {"quality"}
    with pytest.raises(ValueError, match="did you mean 'mouth/psnr'"):
        banks.select(["mouth/pnsr"])
    with pytest.raises(ValueError, match="did you mean 'mouth/psnr' or 'native/psnr'"):
        banks.select(["psnr"])


def test_a_copy_is_perfect_natively_and_nearly_so_after_pasting():
    given = batch()
    values, _ = score(FAST, given, given["video"])
    assert values["native/psnr"].tolist() == [100, 100]
    assert values["native/ssim"] == pytest.approx([1, 1], abs=1e-5)
    assert (values["mouth/psnr"] > 35).all()
    assert (values["mouth/psnr"] < 100).all()  # the way through half the size costs something


def test_the_reference_scores_perfectly_everywhere():
    bank = banks.Bank([*FAST, "lmd", "lmd[raw]"])
    scene = bank.scene(batch(), VIEW)
    row = bank.row()
    row.update(scene.reference, scene)
    for name, clips in row.local_scores().items():
        assert clips.value == pytest.approx([row.metrics[name].perfect] * 2, abs=1e-5), name


@pytest.mark.parametrize(
    "view", [View("mouth", 80, 160), View("face", 128, 128), View("mouth_square", 64, 64)], ids=str
)
def test_the_mouth_way_is_the_pasted_picture(view):
    given = batch(view)
    video = torch.rand(2, 4, 3, *view.size)
    bank = banks.Bank(FAST)
    scene = bank.scene(given, view)
    take = scene.take(video)
    pasted = geometry.paste(given["face"].float() / 255, video, view)
    assert torch.allclose(take.pictures("mouth"), geometry.crop(pasted, MOUTH), atol=1e-6)
    assert torch.allclose(take.canonical(0).float() / 255, pasted[0], atol=1 / 255)


def test_each_video_is_looked_at_once_and_the_reference_only_once_a_corpus(tmp_path, monkeypatch):
    looks = []

    class Fake:
        name = "dlib"

        def points(self, frame, box):
            assert frame.shape == (352, 320, 3)
            assert frame.dtype == np.uint8
            looks.append(tuple(box))
            return np.full((68, 2), frame.mean(), np.float32)

    monkeypatch.setattr(observers.landmarks, "load", lambda name: Fake())
    given = batch()
    names = ["lmd", "opening_corr", "opening_ratio", "lmd[raw]"]
    for expected in (7 + 7 + 7, 7 + 7):  # the second time the reference (4 + 3 frames) comes from the disk
        looks.clear()
        bank = banks.Bank(names, cache=tmp_path)
        scene = bank.scene(given, VIEW)
        for video in (given["video"], given["video"] * 0.5):
            bank.row().update(scene.take(video), scene)
        assert len(looks) == expected
    assert len(set(looks)) == 1  # the reference's box for every video
    assert len(list(tmp_path.rglob("*.npy"))) == 2


def test_nan_frames_are_undefined_not_zero():
    given = batch()
    video = given["video"].clone()
    video[0, 1] = torch.nan
    values, _ = score([*FAST, "lmd"], given, video)
    for name, value in values.items():
        assert np.isnan(value).tolist() == [True, False], name


def test_packed_stores_fill_only_native_columns():
    given = batch()
    del given["face"], given["landmarks"]
    values, reasons = score(["quality", "landmarks"], given, given["video"])
    assert {name for name, value in values.items() if len(value)} == {"native/psnr", "native/ssim"}
    assert "no face" in reasons["mouth/psnr"]
    assert "no face and no landmarks" in reasons["lmd"]


def test_other_lengths_are_undefined_with_a_reason():
    given = batch()
    values, reasons = score(FAST, given, given["video"][:, :3], torch.tensor([3, 3]))
    assert np.isnan(values["native/psnr"]).tolist() == [True, False]
    assert "differ in length" in reasons["native/psnr"]
    longer = torch.cat([given["video"], given["video"]], 1)
    values, _ = score(FAST, given, longer, torch.tensor([8, 3]))
    assert np.isnan(values["mouth/psnr"]).tolist() == [True, False]


def test_each_video_is_pasted_and_looked_through_once_and_let_go_with_its_take(monkeypatch):
    """Four observers asked for both, and each access made them again."""
    pasted, looked = [], []
    paste, finite = geometry.paste, views.finite
    monkeypatch.setattr(views.geometry, "paste", lambda *given: pasted.append(1) or paste(*given))
    monkeypatch.setattr(views, "finite", lambda frames: looked.append(1) or finite(frames))
    given = batch()
    scene = banks.Bank(FAST).scene(given, VIEW)
    take = scene.take(given["video"] * 0.5)
    rows = [ClipView(take, row) for row in (0, 1, 0, 1)]
    for row in rows:
        for view in (VIEW, View("face", 64, 64), VIEW):
            assert row.pictures(view).shape == (row.length, 3, *view.size)
        assert row.canonical.shape == (row.length, 352, 320, 3)
        assert not row.broken.any()
        assert np.isfinite(row.boxes).all()
    assert (len(pasted), len(looked)) == (2, 1)
    kept = weakref.ref(take._pasted[0])
    del take, rows, row
    assert kept() is None


def test_a_view_too_small_for_a_metric_leaves_its_column_empty_with_a_reason():
    """CPBD looks at blocks of 64x64 px: published code gives 0 for smaller pictures, sharp or not."""
    given = batch()
    values, reasons = score(["native/cpbd", "mouth/cpbd", "native/ssim[grey]"], given, given["video"])
    assert len(values["native/cpbd"]) == 0
    assert reasons == {"native/cpbd": "cpbd needs pictures of 64x64 px; the view mouth 40x80 is smaller"}
    assert np.isfinite(values["mouth/cpbd"]).all()
    assert values["native/ssim[grey]"] == pytest.approx([1, 1])
    square = View("mouth_square", 64, 64)
    given = batch(square)
    values, reasons = score(["native/cpbd"], given, given["video"], view=square)
    pixels = (given["video"] * 255).round().to(torch.uint8)
    assert values["native/cpbd"] == pytest.approx(
        [cpbd(grey(p[:n])[:, None]).mean().item() for p, n in zip(pixels, (4, 3), strict=True)]
    )
    assert not reasons


def test_lmd_in_pixels_of_a_mouth_of_64_px(monkeypatch):
    fitted = SimpleNamespace(points=lambda picture, box: np.float32(picture[200:, 100:168, :2].mean(0)))
    monkeypatch.setattr(observers.landmarks, "load", lambda name: fitted)
    given = batch()
    values, _ = score(["lmd", "lmd[crop64]"], given, given["video"] ** 2)
    assert (values["lmd"] > 0).all()
    assert values["lmd[crop64]"] == pytest.approx(values["lmd"] * 64 / 84)


def test_wrong_ranges_and_sizes_are_refused():
    given = batch()
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        score(FAST, given, given["video"] * 2 - 1)
    with pytest.raises(ValueError, match="mouth 40x80"):
        score(FAST, given, torch.rand(2, 4, 3, 20, 80))


def test_a_missing_judge_is_a_reason_by_default_and_an_error_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    bank = banks.Bank(["quality"])
    assert "alexnet" in bank.reasons["mouth/lpips"]
    with pytest.raises(Unavailable, match="alexnet"):
        banks.Bank(["mouth/lpips"])
    monkeypatch.setattr(
        observers.landmarks, "load", lambda name: (_ for _ in ()).throw(FileNotFoundError("no model file"))
    )
    with pytest.raises(Unavailable, match="no model file"):
        Landmarks()
    assert "no model file" in banks.Bank(None).reasons["opening_corr"]


def test_a_file_that_was_named_and_is_none_is_an_error_before_the_scoring(tmp_path):
    (tmp_path / "notes").write_text("no weights")
    for names in (None, ["sync"], ["reading"]):
        with pytest.raises(ValueError, match="notes"):
            banks.Bank(names, {"syncnet": str(tmp_path / "notes"), "transcript": str(tmp_path / "notes")})
        with pytest.raises(FileNotFoundError, match="absent"):
            banks.Bank(names, {"syncnet": str(tmp_path / "absent"), "transcript": str(tmp_path / "absent")})
    assert banks.Bank(["native/psnr"], {"syncnet": str(tmp_path / "notes")}).entries  # nobody looks at it


def test_blank_pictures_have_no_landmarks(monkeypatch):
    """Points are fitted to anything that is not blank: nothing here knows what a face is."""
    fitted = SimpleNamespace(points=lambda picture, box: np.ones((68, 2), np.float32))
    monkeypatch.setattr(observers.landmarks, "load", lambda name: fitted)
    pictures = np.full((3, 352, 320, 3), 128, np.uint8)
    pictures[1] += np.random.default_rng(0).integers(0, 15, pictures[1].shape, np.uint8)  # a coder's noise
    pictures[2, 100:200, 100:200] = 20
    boxes = np.tile(np.float32([32, 64, 288, 320]), (3, 1))
    points = Landmarks().observe(SimpleNamespace(canonical=pictures, boxes=boxes, cacheable=False, shown=None))
    assert points.isnan().all((1, 2)).tolist() == [True, True, False]
