"""One's own videos: found, prepared and used without text, at whatever frame rate they have."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lipbench import cli
from lipbench.corpora.folder import Folder
from lipbench.data.datamodule import ClipDataModule
from lipbench.data.loader import mismatched_clips
from lipbench.data.store import Store
from lipbench.media import audio, video
from lipbench.synthetic import corpus as synthetic
from lipbench.types import ClipSpec, View

NTSC = 30_000 / 1001
MOUTH = View("mouth", 8, 16)


def put(root: Path, name: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def film(root: Path, name: str, speaker: int, code: str, fps: float, seconds: float = 2.0) -> Path:
    """A rendered clip at another frame rate: its frames are shown at their times, so some come twice."""
    made = synthetic.render(speaker, code, 0)
    shown = (np.arange(round(seconds * fps)) * (synthetic.FPS / fps)).astype(int)
    path = root / name
    video.write_video(path, made.frames[shown], fps, made.samples[: round(seconds * 44_100)], 44_100)
    return path


def test_speakers_are_sub_folders(tmp_path: Path) -> None:
    for name in ("ann/a.mp4", "ann/day 2/a.MP4", "bob/b.mov", "bob/b.mp4", "c.webm", ".hidden/x.mp4", "ann/.x.mp4"):
        put(tmp_path, name)
    put(tmp_path, "ann/notes.txt")
    found = Folder.scan(tmp_path)
    assert [(clip.clip_id, clip.speaker, clip.video.name) for clip in found] == [
        ("folder/ann/a", "ann", "a.mp4"),
        ("folder/ann/day 2__a", "ann", "a.MP4"),
        ("folder/bob/b", "bob", "b.mp4"),
        ("folder/root/c", "root", "c.webm"),
    ]
    assert all(clip.problem is None and clip.align is None for clip in found)


def test_folders_without_videos_say_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        Folder.scan(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no video files \(.mp4.*found an empty folder"):
        Folder.scan(tmp_path)
    put(tmp_path, "notes.txt")
    with pytest.raises(FileNotFoundError, match=r"found notes\.txt"):
        Folder.scan(tmp_path)


def test_the_split_is_a_hash_and_clips_stay_on_their_side() -> None:
    ids = [f"folder/s{k % 7}/clip{k}" for k in range(400)]
    protocol = Folder.protocols[0]
    split, fewer = protocol.split(ids), protocol.split(ids[::3])
    assert 60 < len(split.test) < 100
    assert set(fewer.test) == set(split.test) & set(ids[::3])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 29.97 frames a second, prepared; the home folder."""
    root = tmp_path_factory.mktemp("folder")
    codes = synthetic.sentence_ids(0, 5, 0)
    for k, code in enumerate(codes):
        film(root / "videos", f"ann/clip{k}.mp4", 0, code, NTSC)  # clip4 is a test clip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIPBENCH_HOME", str(root / "home"))
        words = ["--data", "folder", "--root", str(root / "videos"), "--workers", "2"]
        assert cli.main(["prepare", *words]) == 0
    return root


def test_rates_and_missing_text_are_kept(world: Path) -> None:
    store = Store(world / "home" / "stores" / "folder")
    assert (len(store), store.manifest["rejected"]) == (5, {})
    settings = store.manifest["settings"]
    assert (settings["durations"], settings["still_camera"]) == ("none", False)
    assert not store.has_text
    for clip_id in store.clip_ids:
        clip = store[clip_id]
        assert clip.fps == pytest.approx(NTSC, abs=1e-6)
        assert clip.n_frames == 60
        assert (clip.text, clip.words, clip.symbols, len(clip.durations)) == ("", [], [], 0)
        assert clip.speech == (0, 60)
        samples, rate = audio.read_audio(world / "videos" / "ann" / f"{clip_id.rpartition('/')[2]}.mp4")
        assert abs(len(samples) / rate - 2.0) < 0.05
        assert abs(len(clip.audio(16_000)) - 32_000) < 800
    others = mismatched_clips(store, store.clip_ids)
    assert all(clip != other for clip, other in zip(store.clip_ids, others, strict=True))


def test_batches_hold_no_text(world: Path) -> None:
    module = ClipDataModule("folder", str(world / "home" / "stores" / "folder"), batch_size=2, num_workers=0)
    module.clip_spec = ClipSpec({"video": MOUTH}, audio_rate=16_000, keys=frozenset({"audio"}))
    module.setup("test")
    batch = next(iter(module.test_dataloader()))
    assert not {"text", "tokens", "durations"} & set(batch)
    assert not {"text", "tokens", "durations"} & set(batch["mismatched"])
    assert batch["mismatched"]["audio_len"].tolist() == batch["audio_len"].tolist()
    assert not torch.equal(batch["mismatched"]["audio"], batch["audio"])
    module.clip_spec = ClipSpec({"video": MOUTH}, keys=frozenset({"tokens", "durations"}))
    with pytest.raises(
        ValueError, match=r"needs durations and tokens, and the store .* the corpus folder comes without"
    ):
        module.setup("fit")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_lipgan_trains_and_is_tested_on_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIPBENCH_HOME", str(world / "home"))
    sizes = [
        *("--model.size", "48", "--model.widths", "8,8,8,8,8", "--model.blocks", "0,0,0,0"),
        *("--model.audio_widths", "8,8,8,8", "--model.audio_blocks", "0,0,0,0", "--model.decoder_blocks", "0"),
        *("--model.hidden", "8", "--model.window", "2", "--model.judge_width", "4"),
    ]
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--data.num_workers", "0"]
    words = ["--model", "lipgan", "--data", "folder", *sizes, *quiet, "--data.batch_size", "2"]
    assert cli.main(["fit", *words, "--trainer.max_steps", "2"]) == 0
    scored = [
        *("--evaluator.metrics", "mouth/psnr,sync,wer", "--evaluator.name", "run", "--evaluator.workers", "0"),
        *("--evaluator.files.syncnet", "syncnet-small[rendered]"),
        *("--evaluator.files.transcript", "lipnet-small[rendered]"),
    ]
    checkpoint = "runs/lipgan_folder/version_0/checkpoints/last.ckpt"
    assert cli.main(["test", "--ckpt_path", checkpoint, *scored]) == 0
    (path,) = Path("leaderboards/results/folder/seen/lipgan").glob("run.json")
    record = json.loads(path.read_text())
    scores = record["scores"]
    assert scores["mouth/psnr"]["value"] > 0
    assert scores["lse_c"]["value"] is not None
    assert scores["wer"]["value"] is None
    assert "no text" in scores["wer"]["reason"]
    assert list(path.parent.glob("*wrong-audio*"))
    assert record["protocol"]["name"] == "folder/seen"
    assert record["data"]["settings"]["durations"] == "none"
    rows = list(csv.DictReader(path.with_suffix(".csv").open(newline="")))
    assert [row["clip_id"] for row in rows] == ["folder/ann/clip4"]
