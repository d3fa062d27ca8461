"""From files to the store: what is kept, what is rejected and why, and what survives a kill."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from made_up_store import DEADLY, deadly_shard

from lipbench.corpora.grid import Grid
from lipbench.corpora.rendered import Rendered
from lipbench.data import lock, pack, rows
from lipbench.data import prepare as preparation
from lipbench.data.prepare import prepare
from lipbench.data.store import Store
from lipbench.media import geometry, video
from lipbench.types import View

FRAMES = 26
CODES = [
    f"{c}{k}{p}{letter}{d}{a}" for c in "bl" for k in "bg" for p in "ai" for letter in "dk" for d in "z3" for a in "np"
]


def speech(frames: int, rate: int, first: int = 2) -> np.ndarray:
    """A tone that is loud and quiet in turns between the frames `first` and the second from the end."""
    seconds = np.arange(frames * rate // 25) / rate
    says = (seconds > first / 25) & (seconds < frames / 25 - 0.08)
    return (0.3 * np.sin(seconds * 1764) * np.where(says, np.sin(seconds * 20) ** 4, 0.003)).astype(np.float32)


def film(frames: int, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """A room with a face whose mouth opens and closes, 96x128, and its 68 points."""
    rows, columns = np.mgrid[:96, :128]
    shade = rng.uniform(60, 120, 3)
    points = np.tile(geometry.TEMPLATE / 4 + (32, 16), (frames, 1, 1))
    points[:, 48:68, 1] += 2 * np.sin(np.arange(frames))[:, None] * np.where(points[:, 48:68, 1] > 61, 1, 0)
    made = []
    for k in range(frames):
        picture = shade + np.stack([columns, rows, columns / 2], -1) / 2 + rng.normal(0, 8, (96, 128, 3))
        picture[((rows - 50) / 32) ** 2 + ((columns - 64) / 24) ** 2 < 1] += (70, 40, 20)
        inside = ((rows - 61) / (3 + np.sin(k))) ** 2 + ((columns - 64) / 9) ** 2 < 1
        picture[inside] += (20, -60, -40)
        made.append(cv2.GaussianBlur(np.clip(picture, 0, 255).astype(np.uint8), (5, 5), 0))  # no edge is sharp
    return made, points.astype(np.float32)


def write_corpus(root: Path, clips: dict[str, int]) -> Path:
    """A tiny corpus with exact landmarks: no face need be found.

    Args:
        root: Folder.
        clips: Speaker -> number of clips.
    """
    from lipbench.corpora.grid import sentence

    rng = np.random.default_rng(0)
    for speaker, count in clips.items():
        for code in CODES[:count]:
            said = sentence(code)
            assert said is not None
            frames, points = film(FRAMES, rng)
            video.write_video(root / "video" / speaker / f"{code}.mpg", frames, 25, speech(FRAMES, 44100), 44100)
            edges = np.linspace(2000, 24000, 7).astype(int)
            lines = [f"{a} {b} {w}" for a, b, w in zip(edges[:-1], edges[1:], said.split(), strict=True)]
            align = root / "alignments" / speaker / f"{code}.align"
            align.parent.mkdir(parents=True, exist_ok=True)
            align.write_text("\n".join(["0 2000 sil", *lines, f"24000 {FRAMES * 1000} sil"]) + "\n")
            exact = root / "exact" / speaker / f"{code}.npz"
            exact.parent.mkdir(parents=True, exist_ok=True)
            np.savez(exact, landmarks=points)
    return root


def exact(root: Path, store: Path, **arguments: Any) -> preparation.Summary:
    return prepare(Rendered, root, store, landmarks="exact", workers=2, progress=False, **arguments)


def stamps(store: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (store / "shards").iterdir()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """34 clips of speaker s1, which make two shards, and 2 of s2."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), {"s1": 34, "s2": 2})


@pytest.fixture(scope="module")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its store, made in one go."""
    store = tmp_path_factory.mktemp("store") / "whole"
    assert exact(corpus, store).done == 36
    return store


def test_rows_are_right(corpus: Path, prepared: Path) -> None:
    store = Store(prepared)
    assert len(store) == 36
    assert store.manifest["counts"] == {"clips": 36, "frames": 936, "rejected": 0, "seconds": 37.44, "speakers": 2}
    assert sorted(p.name for p in (prepared / "shards").iterdir()) == [
        "s1-000of002.arrow",
        "s1-001of002.arrow",
        "s2-000of001.arrow",
    ]
    clip = store["rendered/s1/bbadzn"]
    assert clip.text == "bin blue at d zero now"
    assert clip.n_frames == FRAMES
    assert clip.durations.sum() == FRAMES
    assert clip.speech == (2, 24)
    assert clip.frame_size == (96, 128)
    assert clip.sample_rate == 44100
    assert abs(len(clip.audio(16000)) - FRAMES * 640) < 1000
    assert np.abs(clip.audio(16000)).max() == pytest.approx(0.3, abs=0.05)
    with np.load(corpus / "exact/s1/bbadzn.npz") as file:
        moved = geometry.transform_points(file["landmarks"], clip.transforms)
    np.testing.assert_allclose(clip.landmarks, moved, atol=1e-3)
    np.testing.assert_allclose(clip.landmarks[0, :48], geometry.TEMPLATE[:48] + np.array((32, 16)), atol=0.1)
    frames = video.read_video(corpus / "video/s1/bbadzn.mpg").frames
    reference = geometry.warp(frames[7:8], clip.transforms[7:8])
    assert np.abs(clip.pictures([7]).astype(int) - reference).mean() < 2
    words = {word: (start, end) for start, end, word in clip.words}
    assert words["bin"] == (pytest.approx(0.08), pytest.approx(5666 / 25000))


def test_second_run_does_nothing(corpus: Path, prepared: Path) -> None:
    before, manifest = stamps(prepared), (prepared / "manifest.json").stat().st_mtime_ns
    summary = exact(corpus, prepared)
    assert (summary.done, summary.kept, summary.rejected) == (0, 36, {})
    assert summary.seconds < 2
    assert stamps(prepared) == before
    assert (prepared / "manifest.json").stat().st_mtime_ns == manifest


def test_lost_notes_cost_nothing_but_hashing(corpus: Path, prepared: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(prepared, store)
    (store / "seen.jsonl").write_text('{"shard": "s1-000of002", "sta')
    (store / "manifest.json").unlink()
    assert exact(corpus, store).done == 0
    assert (store / "manifest.json").read_bytes() == (prepared / "manifest.json").read_bytes()


def test_killed_and_started_again(corpus: Path, prepared: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    code = (
        "from lipbench.data.prepare import prepare\nfrom lipbench.corpora.rendered import Rendered\n"
        f"prepare(Rendered, {str(corpus)!r}, {str(store)!r}, landmarks='exact', workers=2, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    shards = store / "shards"
    while process.poll() is None and not (shards.is_dir() and any(shards.glob("*.arrow"))):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (store / "manifest.json").exists()
    (shards / "s1-000of002.arrow.1.part").write_bytes(b"half")
    summary = exact(corpus, store)
    assert 0 < summary.done < 36
    assert (store / "manifest.json").read_bytes() == (prepared / "manifest.json").read_bytes()
    assert not list(store.rglob("*.part"))


def test_changed_and_added_sources_redo_only_their_shards(corpus: Path, prepared: Path, tmp_path: Path) -> None:
    root, store = tmp_path / "corpus", tmp_path / "store"
    shutil.copytree(corpus, root)
    shutil.copytree(prepared, store)
    before = stamps(store)
    align = root / "alignments/s2/bbadzn.align"
    align.write_text(align.read_text().replace("0 2000 sil\n2000", "0 1000 sil\n1000"))
    summary = exact(root, store)
    assert summary.done == 2
    assert {name for name, stamp in stamps(store).items() if before[name] != stamp} == {"s2-000of001.arrow"}
    assert Store(store)["rendered/s2/bbadzn"].words[0][1] == 0.04
    before = stamps(store)
    write_corpus(root, {"s3": 1})
    assert exact(root, store).done == 1
    assert set(stamps(store)) - set(before) == {"s3-000of001.arrow"}
    shutil.rmtree(root / "video/s1")
    assert exact(root, store).kept == 37, "speakers that are elsewhere now stay in the store"
    (root / "video/s2/bbadzn.mpg").unlink()
    assert exact(root, store).kept == 36


def test_other_settings_are_refused(corpus: Path, prepared: Path) -> None:
    with pytest.raises(ValueError, match=r"made with other settings \(limit None, now 1\).*--store"):
        exact(corpus, prepared, limit=1)


def test_two_clips_of_one_id_are_told(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [dataclasses.replace(clip, clip_id="rendered/s1") for clip in Rendered.scan(corpus)]
    monkeypatch.setattr(Rendered, "scan", lambda root: clips)
    with pytest.raises(ValueError, match=r"scan gives the id 'rendered/s1' to .* and to .*; expected an id for"):
        exact(corpus, tmp_path / "store")


def test_limit_takes_the_first_of_every_speaker(corpus: Path, tmp_path: Path) -> None:
    assert exact(corpus, tmp_path / "few", limit=1).kept == 2
    assert Store(tmp_path / "few").clip_ids == ["rendered/s1/bbad3n", "rendered/s2/bbadzn"]


def test_one_writer_at_a_time(corpus: Path, prepared: Path) -> None:
    with lock.alone(prepared, "prepare"), pytest.raises(RuntimeError, match="another `lipbench prepare` is writing"):
        exact(corpus, prepared)


def test_exact_landmarks_need_a_corpus_that_has_them(tmp_path: Path, corpus: Path) -> None:
    root = tmp_path / "corpus"
    shutil.copytree(corpus / "video/s2", root / "video/s2")
    shutil.copytree(corpus / "alignments/s2", root / "alignments/s2")
    with pytest.raises(ValueError, match="landmarks 'exact' need a corpus that knows them"):
        exact(root, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_dead_worker_gives_a_row(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip that kills its process is tried twice and rejected; the others are kept."""
    root, store = tmp_path / "corpus", tmp_path / "store"
    for part in ("video", "alignments", "exact"):
        shutil.copytree(corpus / part / "s2", root / part / "s2")
    with monkeypatch.context() as patch:
        patch.setattr(rows, "make_shard", deadly_shard)
        summary = exact(root, store)
    assert summary.kept == 1
    reason = "the process that read this clip was killed by signal 9, twice (out of memory?)"
    assert summary.rejected == {DEADLY: reason}
    assert exact(root, store).kept == 2, "such a clip gets another chance in the next run"


def test_quarantine_of_real_clips(grid_root: Path, tmp_path: Path) -> None:
    """Every kind of bad file is a row with its reason; the whole clips beside it are kept."""
    root, store = tmp_path / "corpus", tmp_path / "store"
    folder = root / "s1"
    folder.mkdir(parents=True)
    codes = ["bwaa2p", "lbby4p", "lriezp", "lriq9a", "pgak5a", "prwkzp", "pwbq5s", "pwij2n", "bwwuzn"]
    for code in codes:
        shutil.copy(grid_root / "video/s1" / f"{code}.mpg", folder)
        shutil.copy(grid_root / "alignments/s1" / f"{code}.align", folder)
    whole = video.read_video(folder / "bwaa2p.mpg")
    samples = speech(75, 16000, first=10)
    (folder / "lbby4p.mpg").write_bytes(b"")
    (folder / "lriezp.mpg").write_text("this is no video\n" * 100)
    rows, columns = np.mgrid[:288, :360]
    wall = [
        np.repeat((128 + 80 * np.sin(rows / 30 + columns / 50 + k / 99))[..., None], 3, 2).astype(np.uint8)
        for k in range(75)
    ]
    video.write_video(folder / "lriq9a.mpg", wall, 25, samples, 16000)
    video.write_video(folder / "pgak5a.mpg", whole.frames, 25)
    video.write_video(folder / "prwkzp.mpg", whole.frames[:10], 25, samples[:6400], 16000)
    video.write_video(folder / "pwbq5s.mpg", whole.frames[:60], 25, samples, 16000)
    video.write_video(folder / "pwij2n.mpg", whole.frames, 25, samples * 0, 16000)
    (folder / "sgai6n.mpg").write_bytes((folder / "bwaa2p.mpg").read_bytes())
    shutil.copy(folder / "bwaa2p.align", folder / "sgai6n.align")
    (folder / "diary.mpg").write_text("")
    summary = prepare(Grid, root, store, workers=2, progress=False)
    reasons = {clip_id.removeprefix("grid/s1/"): reason for clip_id, reason in summary.rejected.items()}
    assert Store(store).clip_ids == ["grid/s1/bwaa2p"]
    expected = {
        "bwwuzn": "picture is grey and smeared in frames 0-11",
        "diary": "the file name diary.mpg spells no GRID sentence",
        "lbby4p": "empty",
        "lriezp": "lriezp.mpg",
        "lriq9a": "no face",
        "pgak5a": "has no sound",
        "prwkzp": "too short: 10 frames (0.40 s); a clip needs at least 25",
        "pwbq5s": "picture and alignment differ in length: 60 frames are 2.40 s, the alignment ends at 2.98 s",
        "pwij2n": "the sound is silent throughout",
        "sgai6n": "the alignment says 'bin white at a two please', the file name 'set green at i six now'",
    }
    assert set(reasons) == set(expected)
    for code, words in expected.items():
        assert words in reasons[code], reasons[code]
    manifest = json.loads((store / "manifest.json").read_text())
    assert manifest["counts"]["rejected"] == 10
    assert not list(store.rglob("*.part"))
    clip = Store(store)["grid/s1/bwaa2p"]
    assert clip.n_frames == 75
    assert clip.landmarks.shape == (75, 68, 2)
    assert (
        np.abs(clip.landmarks[:, 27:48].mean((0, 1)) - (geometry.TEMPLATE[27:48].mean(0) + np.array((32, 16)))).max()
        < 1
    )


def copied(corpus: Path, prepared: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Speaker s2 with its two clips, and a store of it."""
    root, store = tmp_path / "corpus", tmp_path / "store"
    for part in ("video", "alignments", "exact"):
        shutil.copytree(corpus / part / "s2", root / part / "s2")
    exact(root, store)
    return root, store


def test_damaged_shards_are_made_anew(corpus: Path, prepared: Path, tmp_path: Path) -> None:
    root, store = copied(corpus, prepared, tmp_path)
    (path,) = (store / "shards").iterdir()
    content, manifest = path.read_bytes(), (store / "manifest.json").read_bytes()
    sound = Store(store)["rendered/s2/bbadzn"].columns()["sound"].tobytes()
    place = content.index(sound) + 100
    path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    assert exact(root, store).done == 0, "a row is compared with its hash only when asked to"
    summary = exact(root, store, verify=True)
    assert (summary.done, summary.added, list(summary.repaired)) == (2, 2, ["rendered/s2/bbadzn"])
    assert path.read_bytes() == content
    assert exact(root, store, verify=True).done == 0
    for cut in (0, len(content) // 2):  # a shard that cannot be opened is made anew unasked
        path.write_bytes(content[:cut])
        assert exact(root, store).done == 2
        assert path.read_bytes() == content
    assert (store / "manifest.json").read_bytes() == manifest
    path.write_bytes(b"nothing")
    shutil.rmtree(root / "video/s2")
    write_corpus(root, {"s3": 1})
    with pytest.raises(ValueError, match=r"shard s2-000of001 is damaged.*its speaker is not in the corpus folder"):
        exact(root, store)
    assert path.read_bytes() == b"nothing"


def test_damaged_shards_of_packed_stores_are_made_anew(corpus: Path, prepared: Path, tmp_path: Path) -> None:
    _, store = copied(corpus, prepared, tmp_path)
    view = View("mouth", 16, 32)
    packed = pack.pack(store, view, tmp_path / "packed", progress=False)
    (path,) = (packed / "shards").iterdir()
    content = path.read_bytes()
    sound = Store(packed)["rendered/s2/bbadzn"].columns()["sound"].tobytes()
    path.write_bytes(content.replace(sound, sound[:50] + b"??" + sound[52:]))
    pack.pack(store, view, packed, verify=True, progress=False)
    assert path.read_bytes() == content
    path.write_bytes(b"")
    pack.pack(store, view, packed, progress=False)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "notes",
    [
        b"",
        b"\xff\xfe\x00",
        b"[]\nnull\n3\n",
        b'{"shard": 3, "stamps": {}}\n{"shard": "s2-000of001"}\n{"shard": "s2-000of001", "stamps": [1]}\n{"half',
        b'{"shard": "s2-000of001", "stamps": {"rendered/s2/bbadzn": 7}}\n',
    ],
)
@pytest.mark.parametrize("manifest", [b"", b"[]", b"\xff\x00"])
def test_odd_notes_and_manifests_cost_nothing_but_hashing(
    corpus: Path, prepared: Path, tmp_path: Path, notes: bytes, manifest: bytes
) -> None:
    root, store = tmp_path / "corpus", tmp_path / "store"
    for part in ("video", "alignments", "exact"):
        shutil.copytree(corpus / part / "s2", root / part / "s2")
    (store / "shards").mkdir(parents=True)
    shutil.copy(prepared / "shards/s2-000of001.arrow", store / "shards")
    (store / "seen.jsonl").write_bytes(notes)
    (store / "manifest.json").write_bytes(manifest)
    summary = exact(root, store)
    assert (summary.done, summary.kept) == (0, 2)
    assert len(Store(store)) == 2


def test_pipes_named_like_clips_are_rows_with_reasons(corpus: Path, tmp_path: Path) -> None:
    """Opening a pipe without a writer would wait for ever."""
    root, store = tmp_path / "corpus", tmp_path / "store"
    for part in ("video", "alignments", "exact"):
        shutil.copytree(corpus / part / "s1", root / part / "s1", ignore=lambda _, names: sorted(names)[4:])
    codes = sorted(path.stem for path in (root / "video/s1").iterdir())
    for part, suffix, code in zip(("video", "alignments", "exact"), ("mpg", "align", "npz"), codes, strict=False):
        path = root / part / "s1" / f"{code}.{suffix}"
        path.unlink()
        os.mkfifo(path)
    summary = exact(root, store)
    assert summary.kept == 1
    assert all("is not a file" in reason for reason in summary.rejected.values())
    assert len(summary.rejected) == 3


def test_reasons_are_shown_as_they_are(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets from files are no markup, control characters do not reach the terminal."""
    monkeypatch.setenv("COLUMNS", "200")
    root, store = tmp_path / "corpus", tmp_path / "[bold]store[/red]"
    for part in ("video", "alignments", "exact"):
        shutil.copytree(corpus / part / "s2", root / part / "s2")
    (root / "alignments/s2/bbadzn.align").write_text("0 100 [/red] and [bold]\n")
    (root / "video/s2/a[bold]\x1b[31m.mpg").write_bytes(b"x")
    (root / "video/s2/\udcff.mpg").write_bytes(b"x")
    prepare(Rendered, root, store, landmarks="exact", workers=1)
    shown = capsys.readouterr().out
    assert "[/red] and [bold]" in shown
    assert "a[bold]" in shown
    assert "\x1b[31m" not in shown
    assert "4 clips read, 1 of them kept" in shown


BAD_TIMES = {
    "all words in one instant": lambda words: [(0.5, 0.5, w) for w in words],
    "all words in a tenth of a second": lambda words: [
        (0.5 + k / 60, 0.5 + (k + 1) / 60, w) for k, w in enumerate(words)
    ],
    "words before the beginning": lambda words: [(k / 10 - 0.2, k / 10 - 0.1, w) for k, w in enumerate(words)],
    "words that overlap": lambda words: [(k / 10, k / 10 + 0.15, w) for k, w in enumerate(words)],
    "words after the end": lambda words: [(k / 2, k / 2 + 0.5, w) for k, w in enumerate(words)],
    "words backwards": lambda words: [(1 - (k + 1) / 8, 1 - k / 8, w) for k, w in enumerate(words)],
    "another sentence": lambda words: [(k / 8, (k + 1) / 8, w) for k, w in enumerate(words[::-1])],
    "no words": lambda words: [(0.0, 1.04, "sil")],
}


@pytest.mark.parametrize("times", BAD_TIMES)
def test_wrong_word_times_are_found(corpus: Path, tmp_path: Path, times: str) -> None:
    clip = Rendered.scan(corpus)[0]
    assert clip.sentence is not None
    lines = BAD_TIMES[times](clip.sentence.split())
    align = tmp_path / "x.align"
    align.write_text("".join(f"{a * 25000:.0f} {b * 25000:.0f} {w}\n" for a, b, w in [*lines, (1.04, 1.04, "sil")]))
    with pytest.raises(ValueError, match="align"):
        rows.make_row(Rendered, dataclasses.replace(clip, align=align), {"landmarks": "exact"}, Rendered.durations)


def content(store: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


KILLED = """
import os, signal, sys
from pathlib import Path
from lipbench.corpora.rendered import Rendered
from lipbench.data import process_pool, sources
from lipbench.data.prepare import prepare
append = sources.Seen.append
def killed(self, name, stamps):  # after the first shard
    append(self, name, stamps)
    (Path(sys.argv[2]) / "shards" / "s6-000of001.arrow.1.part").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
sources.Seen.append = killed
prepare(Rendered, sys.argv[1], sys.argv[2], landmarks="exact", workers=1, part=(2, 4), progress=False)
"""


def test_four_parts_are_one_store_byte_for_byte(tmp_path: Path) -> None:
    """One of them is killed half way, and goes on; the last two run at the same time."""
    corpus = write_corpus(tmp_path / "corpus", {f"s{k}": 1 for k in range(1, 9)})  # 8 shards
    whole, store = tmp_path / "whole", tmp_path / "parts"
    assert exact(corpus, whole).done == 8
    first = exact(corpus, store, part=(1, 4))
    assert first.done == 2
    assert exact(corpus, store, part=(1, 4)).done == 0
    with pytest.raises(FileNotFoundError, match="an unfinished store"):
        Store(store)
    with pytest.raises(ValueError, match=r"6 of 8 shards of .* missing, of the parts 2/4, 3/4, 4/4: run these parts"):
        exact(corpus, store, finish=True)
    done = subprocess.run([sys.executable, "-c", KILLED, corpus, store], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert len(list((store / "shards").glob("*.arrow"))) == 3
    second = exact(corpus, store, part=(2, 4))
    assert second.done == 1
    command = [sys.executable, "-c", CALL, str(corpus), str(store), "3"]
    third = subprocess.Popen(command)
    assert exact(corpus, store, part=(4, 4)).done == 2
    assert third.wait() == 0
    summary = exact(corpus, store, finish=True)
    assert (summary.done, summary.kept + len(summary.rejected)) == (0, 8)
    assert content(store) == content(whole)
    assert exact(corpus, store).done == 0
    assert content(store) == content(whole)


CALL = """
import sys
from lipbench.corpora.rendered import Rendered
from lipbench.data.prepare import prepare
prepare(Rendered, sys.argv[1], sys.argv[2], landmarks="exact", workers=1, part=(int(sys.argv[3]), 4), progress=False)
"""


def test_parts_and_a_whole_run_do_not_write_at_the_same_time(corpus: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with lock.alone(store, "prepare", ".part-1of4.lock"):
        with lock.alone(store, "prepare", ".part-2of4.lock"):
            pass
        for other in (".part-1of4.lock", None):
            with pytest.raises(RuntimeError, match="is writing"), lock.alone(store, "prepare", other):
                pass


def test_a_corpus_without_clips_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rendered, "scan", lambda root: [])
    with pytest.raises(FileNotFoundError, match="no clip of the corpus rendered in"):
        exact(tmp_path, tmp_path / "store")
    assert not (tmp_path / "store").exists()
