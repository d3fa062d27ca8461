"""What a store gives back, and what it says when something is wrong."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_store import colour, row

from lipbench.data import _prepare, _store
from lipbench.data._store import Store
from lipbench.types import View


def test_clip_comes_back(rendered_store: Path) -> None:
    store = Store(rendered_store)
    assert len(store) == 24
    assert store.clip_ids == sorted(store.clip_ids)
    number = 10
    clip_id = "rendered/s2/clip2"
    made = row(clip_id, number, 22, "place red in a nine soon")
    clip = store[clip_id]
    assert (clip.clip_id, clip.speaker, clip.text, clip.fps, clip.n_frames) == (clip_id, "s2", made["text"], 25.0, 22)
    assert clip.symbols == made["symbols"]
    assert clip.words[0] == (pytest.approx(0.2), pytest.approx(made["words"][0]["end"]), "place")
    np.testing.assert_array_equal(clip.durations, made["durations"])
    assert clip.durations.sum() == clip.n_frames
    assert list(clip.speech) == made["speech"]
    assert clip.frame_size == (288, 360)
    np.testing.assert_array_equal(clip.transforms, made["transforms"])
    np.testing.assert_array_equal(clip.landmarks[:, 5, 1], np.arange(22))
    assert clip.hash == made["hash"] == store.manifest["clips"][clip_id]["hash"]
    np.testing.assert_allclose(clip.audio(8000), 1100 / 32768)
    assert clip.audio(16000).shape == (2 * 22 * 320,)


def test_frames_are_read_at_random(rendered_store: Path) -> None:
    clip = Store(rendered_store)["rendered/s1/clip3"]
    pictures = clip.pictures([17, 0, 5])
    assert pictures.shape == (3, 352, 320, 3)
    for picture, frame in zip(pictures, (17, 0, 5), strict=True):
        assert np.abs(picture.reshape(-1, 3).mean(0) - colour(3, frame)).max() < 2
    views = clip.views([4, 9], {"video": View("mouth", 40, 80), "eyes": View("face", 64, 64)})
    assert views["video"].shape == (2, 3, 40, 80)
    assert views["video"].dtype == torch.uint8
    assert views["eyes"].shape == (2, 3, 64, 64)
    assert abs(views["video"][1, 1].float().mean() - colour(3, 9)[1]) < 2
    assert torch.equal(clip.view([4, 9], View("mouth", 40, 80)), views["video"])


def test_hash_covers_every_column() -> None:
    made = row("rendered/s1/a", 0, 20, "bin blue at f two now")
    seen = {made["hash"]}
    changes = {
        "text": "x",
        "fps": 24.0,
        "sound": made["sound"] + 1,
        "landmarks": made["landmarks"] + 1,
        "speech": [0, 1],
    }
    changes["pictures"] = made["pictures"][::-1]
    for name, value in changes.items():
        seen.add(_store.row_hash({**made, name: value}))
    assert len(seen) == 7


def test_copies_travel_to_processes(rendered_store: Path) -> None:
    store = Store(rendered_store)
    before = store["rendered/s1/clip0"].pictures([3])
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again["rendered/s1/clip0"].pictures([3]), before)


def test_unknown_clip_says_why(rendered_store: Path) -> None:
    store = Store(rendered_store)
    with pytest.raises(KeyError, match="rejected, picture is black in all frames"):
        store["rendered/s1/bad"]
    with pytest.raises(KeyError, match="not in the store"):
        store["rendered/s1/nothing"]


def test_missing_unfinished_or_foreign_stores(rendered_store: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no prepared store"):
        Store(tmp_path)
    (tmp_path / "shards").mkdir()
    with pytest.raises(FileNotFoundError, match="an unfinished store"):
        Store(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "lipbench-store/0"}))
    with pytest.raises(ValueError, match="lipbench-store/0"):
        Store(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(rendered_store, copy)
    next((copy / "shards").glob("s1-*.arrow")).unlink()
    with pytest.raises(FileNotFoundError, match="has lost its file"):
        Store(copy)["rendered/s1/clip0"]


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path / "a"))
    assert _store.default_path("grid") == tmp_path / "a" / "stores" / "grid"
    monkeypatch.delenv("LIPBENCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert _store.home() == tmp_path / "c" / "lipbench"


def test_packed_copy(rendered_store: Path, tmp_path: Path) -> None:
    view = View("mouth", 40, 80)
    folder = _prepare.pack(rendered_store, view, tmp_path / "packed", progress=False)
    packed, whole = Store(folder), Store(rendered_store)
    assert packed.packed == view
    assert packed.clip_ids == whole.clip_ids
    assert packed.manifest["rejected"] == whole.manifest["rejected"]
    one, other = packed["rendered/s3/clip1"], whole["rendered/s3/clip1"]
    np.testing.assert_array_equal(one.durations, other.durations)
    np.testing.assert_array_equal(one.audio(8000), other.audio(8000))
    assert (one.view([2, 3], view).int() - other.view([2, 3], view).int()).abs().max() <= 3
    assert one.view([2], View("mouth", 20, 40)).shape == (1, 3, 20, 40)
    with pytest.raises(ValueError, match="canonical pictures need the whole store"):
        one.pictures([0])
    with pytest.raises(ValueError, match="does not lie inside"):
        one.view([0], View("face", 64, 64))
    size = sum(p.stat().st_size for p in folder.rglob("*.arrow"))
    assert size < 0.6 * sum(p.stat().st_size for p in rendered_store.rglob("*.arrow"))  # flat pictures are small anyway
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("*.arrow")}
    _prepare.pack(rendered_store, view, folder, progress=False)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.arrow")} == stamps
    with pytest.raises(ValueError, match="made with other settings"):
        _prepare.pack(rendered_store, View("mouth", 80, 160), folder, progress=False)
    with pytest.raises(ValueError, match="packed store already"):
        _prepare.pack(folder, view, progress=False)
