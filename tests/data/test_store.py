"""What a store gives back, and what it says when something is wrong."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_store import color, row
from torch.utils.data import DataLoader

from lipbench.data import pack
from lipbench.data import shards as shard_files
from lipbench.data import store as stores
from lipbench.data.loader import ClipDataset, collate
from lipbench.data.store import Store
from lipbench.paths import default_store, home
from lipbench.types import ClipSpec, View


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
        assert np.abs(picture.reshape(-1, 3).mean(0) - color(3, frame)).max() < 2
    views = clip.views([4, 9], {"video": View("mouth", 40, 80), "eyes": View("face", 64, 64)})
    assert views["video"].shape == (2, 3, 40, 80)
    assert views["video"].dtype == torch.uint8
    assert views["eyes"].shape == (2, 3, 64, 64)
    assert abs(views["video"][1, 1].float().mean() - color(3, 9)[1]) < 2
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
        seen.add(shard_files.row_hash({**made, name: value}))
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
    assert default_store("grid") == tmp_path / "a" / "stores" / "grid"
    monkeypatch.delenv("LIPBENCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert home() == tmp_path / "c" / "lipbench"


def test_packed_copy(rendered_store: Path, tmp_path: Path) -> None:
    view = View("mouth", 40, 80)
    folder = pack.pack(rendered_store, view, tmp_path / "packed", progress=False)
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
    pack.pack(rendered_store, view, folder, progress=False)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.arrow")} == stamps
    with pytest.raises(ValueError, match="made with other settings"):
        pack.pack(rendered_store, View("mouth", 80, 160), folder, progress=False)
    with pytest.raises(ValueError, match="packed store already"):
        pack.pack(folder, view, progress=False)


def shards(store: Path) -> list[Path]:
    return sorted((store / "shards").iterdir())


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_every_row_agrees_with_its_hash(rendered_store: Path, tmp_path: Path) -> None:
    assert [stores.damaged(path, None) for path in shards(rendered_store)] == [{}, {}, {}]
    folder = pack.pack(rendered_store, View("mouth", 20, 40), tmp_path / "packed", progress=False)
    assert [stores.damaged(path, Store(folder).packed) for path in shards(folder)] == [{}, {}, {}]


def test_a_flipped_bit_is_found_in_its_clip(rendered_store: Path, tmp_path: Path) -> None:
    """In every part of a shard but its padding; the other clips stay whole."""
    store = tmp_path / "store"
    shutil.copytree(rendered_store, store)
    path = shards(store)[0]
    content = path.read_bytes()
    sound = Store(store)["rendered/s1/clip3"].columns()["sound"].tobytes()
    picture = Store(store)["rendered/s1/clip3"].row()["pictures"][5]
    for place in (content.index(sound) + 7, content.index(picture) + len(picture) // 2):
        flip(path, place)
        assert list(stores.damaged(path, None)) == ["rendered/s1/clip3"]
        assert Store(store).damaged(path.stem) == stores.damaged(path, None)
        path.write_bytes(content)
    flip(path, content.rindex(b"place red in a nine soon"))  # in the summary at its end
    assert stores.damaged(path, None)
    path.write_bytes(content)
    as_format_1(store)
    manifest = store / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"n_frames": 23', '"n_frames": 24'))
    assert "the manifest says something else" in Store(store).damaged(path.stem)["rendered/s1/clip3"]


def test_a_flipped_bit_in_the_lines_of_the_manifest_is_found(rendered_store: Path, tmp_path: Path) -> None:
    """Whatever is flipped, opening and reading ends in a sentence or goes on: Arrow never crashes."""
    store = tmp_path / "store"
    shutil.copytree(rendered_store, store)
    (path,) = store.glob("clips-*.arrow")
    content = path.read_bytes()
    flip(path, content.index(bytes.fromhex(Store(store)["rendered/s1/clip3"].hash)))
    assert "the manifest says something else" in Store(store).damaged("s1-000of001")["rendered/s1/clip3"]
    refused = 0
    for place in np.random.default_rng(0).integers(0, len(content), 400):
        path.write_bytes(content)
        flip(path, int(place))
        try:
            opened = Store(store)
            assert len(opened) == len(opened.clip_ids) == len(opened.column("text"))
            for clip_id in opened.clip_ids:
                assert opened.manifest["clips"][clip_id]["row"] is not None
        except ValueError as error:  # UnicodeDecodeError is one
            refused += 1
            told = isinstance(error, UnicodeDecodeError) or path.name in str(error) or "manifest.json" in str(error)
            if not told:
                raise
    assert refused > 40


def as_format_1(store: Path) -> Path:
    """Turn a store into one of format 1, which keeps the lines of its clips in manifest.json."""
    manifest = dict(Store(store).manifest)
    manifest |= {"format": "lipbench-store/1", "clips": dict(manifest["clips"])}
    (store / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, indent=1) + "\n")
    for file in store.glob("clips-*.arrow"):
        file.unlink()
    return store


def test_stores_of_format_1_open_as_they_are(rendered_store: Path, tmp_path: Path) -> None:
    old, new = Store(as_format_1(shutil.copytree(rendered_store, tmp_path / "old"))), Store(rendered_store)
    assert old.clip_ids == new.clip_ids
    assert {**old.manifest, "clips": None, "format": None} == {**new.manifest, "clips": None, "format": None}
    assert old.manifest["clips"] == dict(new.manifest["clips"])
    for name in ("text", "speaker", "hash", "fps", "n_frames", "shard"):
        assert old.column(name) == new.column(name)
    for clip_id in old.clip_ids:
        assert (clip_id in old, clip_id in new) == (True, True)
        assert shard_files.row_hash(old[clip_id].row()) == new[clip_id].hash
    assert "rendered/s1/clip" not in new
    assert "rendered/s4/clip0" not in new
    assert 3 not in new
    again = pickle.loads(pickle.dumps(new.manifest["clips"]))
    assert dict(again) == dict(new.manifest["clips"])
    folder = tmp_path / "packed"
    pack.pack(old.path, View("mouth", 8, 16), folder, progress=False)
    assert Store(folder).clip_ids == old.clip_ids


def test_damaged_shards_are_errors_that_name_them(rendered_store: Path, tmp_path: Path) -> None:
    """Whatever is flipped or cut, reading ends in an error with the shard's name or goes on: Arrow never crashes."""
    store = tmp_path / "store"
    shutil.copytree(rendered_store, store)
    path = shards(store)[0]
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [
        *rng.integers(0, 4000, 60),
        *(len(content) - rng.integers(1, 6000, 60)),
        *rng.integers(0, len(content), 60),
    ]
    harmless, told = 0, set()
    for place in places:
        flip(path, int(place))
        opened = Store(store)
        try:
            for clip_id in opened.clip_ids[:8]:
                clip = opened[clip_id]
                clip.row(), clip.view([0, clip.n_frames - 1], View("mouth", 8, 16)), clip.audio(16000)
            harmless += 1
        except shard_files.DamagedStore as error:
            told.add((path.name in str(error), "prepare --verify" in str(error)))
        path.write_bytes(content)
    assert harmless < len(places) - 10
    assert told == {(True, True)}
    for cut in (0, 8, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:cut])
        with pytest.raises(shard_files.DamagedStore, match=path.name):
            Store(store)["rendered/s1/clip0"]
    path.write_bytes(shards(store)[1].read_bytes())
    with pytest.raises(shard_files.DamagedStore, match="its row 0 is the clip 'rendered/s2/clip0'"):
        Store(store)["rendered/s1/clip0"]


def test_loader_processes_hand_on_the_sentence(rendered_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(rendered_store, store)
    for path in shards(store):
        path.write_bytes(path.read_bytes()[:1000])
    spec = ClipSpec({"video": View("mouth", 8, 16)}, window=2)
    opened = Store(store)
    clips = ClipDataset(opened, opened.clip_ids, spec, frozenset(), seed=0, training=True, speakers={})
    with pytest.raises(shard_files.DamagedStore, match=rf"^{store}/shards/s1-000of001\.arrow is damaged") as caught:
        next(iter(DataLoader(clips, num_workers=1, collate_fn=collate)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is damaged"),
        (b"\xff\x00\xfe", "is damaged"),
        (b"[1, 2]", "it holds a list"),
        (b"null", "it holds a NoneType"),
        (b"[" * 100_000, "is damaged"),
        ({"clips": []}, "'clips' is no object"),
        ({"clips": None}, "'clips' is no object"),
        ({"format": "lipbench-store/2"}, "'clips' names no file"),
        ({"format": "lipbench-store/2", "clips": "../x.arrow"}, "'clips' names no file"),
        ({"format": "lipbench-store/2", "clips": "clips-0.arrow"}, "has lost its file clips-0.arrow"),
        ({"clips": {"rendered/s1/clip0": 3}}, "the line of rendered/s1/clip0 is not whole"),
        ({"clips": {"rendered/s1/clip0": {"row": "0"}}}, "the line of rendered/s1/clip0 is not whole"),
        ({"rejected": {"rendered/s1/x": {}}}, "rejected without a reason"),
        ({"settings": {}}, "do not name the corpus"),
        ({"packed": "mouth"}, "'packed' is no view"),
        ({"packed": {"name": "mouth", "height": "20", "width": 40}}, "'packed' is no view"),
        ({"format": ["x"]}, "has format"),
    ],
    ids=str,
)
def test_odd_manifests_are_sentences(
    rendered_store: Path, tmp_path: Path, content: bytes | dict[str, object], told: str
) -> None:
    store = as_format_1(shutil.copytree(rendered_store, tmp_path / "store"))
    manifest = json.loads((store / "manifest.json").read_text())
    written = content if isinstance(content, bytes) else json.dumps({**manifest, **content}).encode()
    (store / "manifest.json").write_bytes(written)
    with pytest.raises(ValueError, match=told):
        Store(store)


def test_packed_as_pixels_is_exactly_the_whole_store(rendered_store: Path, tmp_path: Path) -> None:
    view = View("face", 24, 24)
    small = pack.pack(rendered_store, view, tmp_path / "jpeg", progress=False)
    folder = pack.pack(rendered_store, view, tmp_path / "pixels", pixels=True, progress=False)
    packed, whole = Store(folder), Store(rendered_store)
    for clip_id in whole.clip_ids[::5]:
        assert torch.equal(packed[clip_id].view([7, 0, 7], view), whole[clip_id].view([7, 0, 7], view))
    given = packed["rendered/s1/clip0"].view([3], view)
    given.zero_()  # a copy: the file is not written
    assert packed["rendered/s1/clip0"].view([3], view).any()
    assert [stores.damaged(path, view) for path in shards(folder)] == [{}, {}, {}]
    with pytest.raises(ValueError, match="made with other settings \\(coding"):
        pack.pack(rendered_store, view, small, pixels=True, progress=False)
