"""Videos without a face, end to end: no landmarks, however well a predictor's points would fit the reference's box."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from lipbench.evaluation.external import evaluate
from lipbench.media import video
from lipbench.synthetic.corpus import render, sentence_ids

FRAMES = 4
COLUMNS = ["lmd", "lmd[guide]", "lmd_coverage", "opening_corr", "native/psnr"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def frames():
    clip = render(0, sentence_ids(0, 1, 3)[0], 3)
    return list(clip.frames[30 : 30 + FRAMES])


def filled(picture, size):
    return np.asarray(Image.fromarray(picture).convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC))


def soft(frame):
    height, width = frame.shape[:2]
    little = Image.fromarray(frame).resize((width // 6, height // 6), Image.Resampling.BOX)
    return np.asarray(little.resize((width, height), Image.Resampling.BILINEAR))


def faceless(shape):
    """Name -> frames that show no face."""
    rng = np.random.default_rng(0)
    size, color = shape[:2], np.array([230, 140, 60], np.uint8)
    return {
        "black": [np.zeros(shape, np.uint8)] * FRAMES,
        "color": [np.broadcast_to(color, shape).copy()] * FRAMES,
        "noise": [rng.integers(0, 256, shape, np.uint8) for _ in range(FRAMES)],
        "coarse": [filled(rng.integers(0, 256, (12, 15, 3), np.uint8), size) for _ in range(FRAMES)],
        "wall": [filled(data.brick(), size)] * FRAMES,
        "cat": [filled(data.chelsea(), size)] * FRAMES,
    }


def scored(tmp_path, frames, made, view=None):
    """Table by name of generated videos beside one reference each."""
    for name, shown in made.items():
        video.write_video(tmp_path / "true" / f"{name}.avi", frames, 25)
        video.write_video(tmp_path / "made" / f"{name}.avi", shown, 25)
    table = evaluate(tmp_path / "made", tmp_path / "true", metrics=COLUMNS, view=view)
    return table.set_index("clip_id"), table.attrs


@pytest.fixture(autouse=True)
def folders(tmp_path):
    for name in ("true", "made"):
        (tmp_path / name).mkdir()


def test_whole_frames(frames, tmp_path):
    without = faceless(frames[0].shape) | {"upside-down": [frame[::-1].copy() for frame in frames]}
    half = [*frames[: FRAMES // 2], *without["wall"][FRAMES // 2 :]]
    faces = {"copy": frames, "soft": [soft(frame) for frame in frames], "dim": [frame // 3 for frame in frames]}
    table, about = scored(tmp_path, frames, {**without, "half": half, **faces})
    assert "the view face 256x256 holds the whole face" in about["reasons"]["lmd[guide]"]
    for name in without:
        assert table.loc[name, "lmd_coverage"] == 0, name
        assert table.loc[name, ["lmd", "opening_corr"]].isna().all(), name
        assert np.isfinite(table.loc[name, "native/psnr"]), name
    assert table.loc["half", "lmd_coverage"] == 0.5
    assert np.isnan(table.loc["half", "lmd"])
    assert (table.loc[list(faces), "lmd_coverage"] == 1).all()
    assert table.loc["copy", "lmd"] == 0
    assert (table.loc[["soft", "dim"], "lmd"] < 5).all()
    assert "8 of 11 clips have no score: fewer than 95 % of its frames have landmarks" in about["reasons"]["lmd"]


def test_crops_of_the_mouth(frames, tmp_path):
    """Where no face can be seen, only what is plain or mere noise is known to be none."""
    without = faceless((80, 160, 3))
    made = {name: without[name] for name in ("black", "color", "noise")}
    table, _ = scored(tmp_path, frames, {**made, "something": without["cat"]}, view="mouth")
    assert (table.loc[list(made), "lmd_coverage"] == 0).all()
    assert table.loc[list(made), ["lmd", "lmd[guide]"]].isna().all(axis=None)
    assert table.loc["something", "lmd[guide]"] > 0
    assert table.loc["something", "lmd_coverage"] == 1
