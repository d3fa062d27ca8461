"""Videos made elsewhere from end to end: scores, records, and a clear row for whatever is wrong."""

import errno
import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lipbench.evaluation import record
from lipbench.evaluation.bank import Bank
from lipbench.evaluation.external import evaluate
from lipbench.leaderboard import table as leaderboard
from lipbench.media import text, video
from lipbench.nets import syncnet
from lipbench.nets.lipnet import LipNet
from lipbench.pretrained import bundled, weights
from lipbench.synthetic.corpus import render, sentence_ids
from lipbench.types import View

FRAMES = 12
FAST = ["mouth/psnr", "native/psnr", "lmd", "opening_corr"]
PRIMARY = [*FAST, "mouth/ssim", "opening_corr[speech]"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def shot():
    """A rendered clip in the middle of its sentence: frames and sound."""
    clip = render(0, sentence_ids(0, 1, 3)[0], 3)
    return list(clip.frames[30 : 30 + FRAMES]), clip.samples[30 * 1764 : (30 + FRAMES) * 1764]


@pytest.fixture(scope="module")
def true(shot, tmp_path_factory):
    """A reference, as lossless video."""
    path = tmp_path_factory.mktemp("true") / "clip.avi"
    video.write_video(path, *(shot[0], 25, shot[1], 44100))
    return path


def small(frames):
    return [np.asarray(Image.fromarray(frame).resize((180, 144), Image.Resampling.BOX)) for frame in frames]


def copies(true, folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(true, folder / f"{name}.avi")
    return folder


def save(folder, frames):
    folder.mkdir(parents=True)
    for k, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{k}.png")


def test_whatever_was_made_gets_a_row(true, shot, tmp_path):
    frames, sound = shot
    made = tmp_path / "made"
    names = ["copy", "small", "fast", "grey", "solid", "shorter", "longer", "cut", "one", "glass", "empty", "words"]
    reference = copies(true, tmp_path / "true", [*names, "square", "black", "missing", "broken"])
    copies(true, made, ["copy", "extra", "broken"])
    (reference / "broken.avi").write_bytes(true.read_bytes()[:1000])
    video.write_video(made / "small.mp4", small(frames), 25, crf=10)
    video.write_video(made / "fast.avi", [frame for frame in frames for _ in range(2)], 50, sound, 44100)
    save(made / "grey", [np.asarray(Image.fromarray(frame).convert("L")) for frame in frames])
    save(made / "solid", [np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)]) for frame in frames])
    save(made / "glass", frames)
    (made / "glass" / "0.png").write_text("no image")
    video.write_video(made / "shorter.avi", frames[:-3], 25)
    video.write_video(made / "longer.avi", [*frames, frames[-1]], 25, 0 * sound, 44100)
    video.write_video(made / "cut.avi", frames[::2], 25)
    video.write_video(made / "one.avi", frames[:1], 25)
    (made / "empty.mp4").write_bytes(b"")
    (made / "words.mp4").write_text("no video")
    video.write_video(made / "square.avi", [frame[:200, :200] for frame in frames], 25)
    video.write_video(made / "black.avi", [0 * frame for frame in frames[:5]], 25)

    metrics = [*FAST, "mouth/cpbd", "mouth/psnr[dtw]"]
    table = evaluate(made, reference, metrics=metrics, out=tmp_path / "results").set_index("clip_id")
    assert len(table) == 17
    assert not np.isinf(table[metrics].to_numpy(float)).any()

    def row(name):
        return table.loc[name]

    for name in ("copy", "fast", "solid", "shorter", "longer"):
        assert (row(name)[["mouth/psnr", "native/psnr"]] == 100).all(), name
        assert row(name)["lmd"] == 0
        assert row(name)["opening_corr"] == pytest.approx(1)
        assert row(name)["reason"] == ""
    assert row("copy")[["compared_frames", "generated_fps", "generated_size"]].tolist() == [12, 25, "360x288"]
    assert row("fast")[["generated_frames", "generated_fps", "compared_frames"]].tolist() == [24, 50, 12]
    assert row("small")[["generated_size", "reference_size"]].tolist() == ["180x144", "360x288"]
    assert 25 < row("small")["native/psnr"] < 45
    assert row("small")["lmd"] < 1.5
    assert row("small")["mouth/cpbd"] < row("copy")["mouth/cpbd"]
    assert 15 < row("grey")["native/psnr"] < 40
    assert row("shorter")["compared_frames"] == 9
    assert row("longer")["compared_frames"] == 12
    origin = {"copy": "generated", "small": "reference", "longer": "reference", "solid": "reference"}
    assert {name: row(name)["sound"] for name in origin} == origin

    for name, count in (("cut", 6), ("one", 1)):
        assert f"{count} frames at 25 a second beside 12 of the reference" in row(name)["reason"]
        assert row(name)[FAST].isna().all(), name
        assert 0 < row(name)["mouth/cpbd"] <= 1
    assert row("cut")["mouth/psnr[dtw]"] > 30  # every second frame, warped: its own landmarks place it
    for name, expected in (
        ("glass", "0.png is no picture"),
        ("empty", "empty.mp4 is empty (0 bytes)"),
        ("words", "words.mp4 is no video"),
        ("square", "another shape"),
        ("black", "no face found"),
        ("missing", "no generated video of this name"),
        ("extra", "no reference of this name"),
        ("broken", "reference: broken.avi"),
    ):
        assert expected in row(name)["reason"], name
        assert row(name)[metrics].isna().all(), name

    path, *checks = table.attrs["records"]
    found = record.read(Path(path))
    assert found.clips["n"] == 15  # with a reference that can be used
    score = found.scores["native/psnr"]
    assert (score.n, score.coverage) == (7, pytest.approx(7 / 15))
    assert "6 of 15 videos are not there or cannot be used" in score.reason
    assert "2 of 15 clips are more than 5 frames longer or shorter" in score.reason
    assert "longer or shorter" not in found.scores["mouth/cpbd"].reason
    assert str(tmp_path) not in Path(path).with_suffix(".csv").read_text()
    truth, still = (record.read(Path(check)) for check in checks)
    assert (truth.name, truth.scores["native/psnr"].value, truth.scores["native/psnr"].n) == ("ground-truth", 100, 15)
    assert still.name == "frozen-frame"
    assert still.scores["lmd"].value > 0.5


def test_records_are_ranked_in_one_table(true, shot, tmp_path):
    reference = copies(true, tmp_path / "true", ["s1/a", "s2/b"])
    for name, crf in (("fine", 12), ("rough", 40)):
        for clip in ("s1/a", "s2/b"):
            video.write_video(tmp_path / name / f"{clip}.mp4", shot[0], 25, shot[1], 44100, crf=crf)
        found = evaluate(tmp_path / name, reference, metrics=PRIMARY, out=tmp_path / "results")
        assert found["clip_id"].tolist() == ["s1/a", "s2/b"]
        assert found.attrs["reasons"] == {}
    (board,), unread = leaderboard.boards(tmp_path / "results")
    assert unread == []
    assert board.name == "evaluate_true"
    assert [(line.record.name, line.rank) for line in board.lines if line.rank] == [("fine", 1), ("rough", 2)]
    assert [line.record.name for line in board.lines if line.record.kind == "calibration"] == [
        "ground-truth",
        "frozen-frame",
    ]
    fine = board.lines[0].record
    assert (fine.timing, fine.clips["speakers"], fine.view) == ("free", 2, "face 256x256")
    assert fine.paired[0].against == "frozen-frame"
    (reference / "s1" / "a.avi").write_bytes((tmp_path / "rough" / "s1" / "a.mp4").read_bytes())
    evaluate(tmp_path / "fine", reference, metrics=["native/psnr"], calibration=False, out=tmp_path / "results")
    boards, _ = leaderboard.boards(tmp_path / "results")
    assert len(boards) == 2  # another reference under the same names is another task


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """A SyncNet of random weights, and a reader that always writes "a"."""
    folder = tmp_path_factory.mktemp("judges")
    torch.manual_seed(0)
    judge = syncnet.SmallSyncNet(size=(16, 32), video_widths=(4, 4), audio_widths=(4, 4, 4, 4, 4), hidden=8, width=8)
    weights.save(folder / "judge.safetensors", judge, arguments=judge.arguments, view=judge.view, trained_on="nothing")
    reader = LipNet((16, 32), (4, 4, 4), 4)
    with torch.no_grad():
        reader.back_end.out.weight.zero_()
        reader.back_end.out.bias.zero_()
        reader.back_end.out.bias[text.SYMBOLS.index("a")] = 9
    saved = {"arguments": reader.arguments, "view": View("mouth", 16, 32), "vocabulary": text.SYMBOLS}
    weights.save(folder / "reader.safetensors", reader, trained_on="nothing", **saved)
    return {"syncnet": str(folder / "judge.safetensors"), "transcript": str(folder / "reader.safetensors")}


def test_texts_and_sounds(shot, judges, tmp_path):
    """`a` has everything; `b` no text and no sound; `c` a text only; `d` is one frame."""
    frames, sound = shot
    for name in "abcd":
        shown = frames[:1] if name == "d" else frames
        video.write_video(tmp_path / "true" / f"{name}.avi", shown, 25)
        heard = {"a": sound, "c": 0 * sound, "d": sound[:1764]}.get(name)
        video.write_video(tmp_path / "made" / f"{name}.avi", shown, 25, heard, None if heard is None else 44100)
    said = tmp_path / "said.csv"
    said.write_text('clip,text\na,"Bin, blue"\nb,\nc,a\nd,a\n')
    sync, reading = ["lse_c", "lse_d", "av_offset"], ["wer", "cer"]
    folders = tmp_path / "made", tmp_path / "true"
    found = evaluate(*folders, metrics=[*sync, *reading], text=said, files=judges).set_index("clip_id")
    assert found.loc["a", [*sync, *reading]].notna().all()
    assert found.loc["a", "wer"] == 1  # one deletion and one substitution of two words
    assert found.loc["c", reading].tolist() == [0, 0]
    assert found.loc["a", "reason"].startswith("reference: a.avi has no sound; its pictures are judged beside")
    assert found.loc[["b", "c", "d"], sync].isna().to_numpy().all()  # a frame is shorter than SyncNet's window
    assert found.loc["b", reading].isna().all()
    assert "b.avi has no sound" in found.loc["b", "reason"]
    assert "the text is empty" in found.loc["b", "reason"]
    assert "the sound of c.avi is silent throughout" in found.loc["c", "reason"]
    assert found["sound"].fillna("").tolist() == ["generated", "", "", "generated"]
    reasons = found.attrs["reasons"]
    assert reasons["lse_c"] == (
        "2 of 4 clips have no sound (--audio DIR gives it); "
        "1 of 4 clips have no score: it is shorter than 6 frames, or a frame holds NaN"
    )
    assert reasons["wer"].startswith("1 of 4 clips have no text (--text")

    (tmp_path / "audio").mkdir()
    video.write_video(tmp_path / "audio" / "a.avi", frames[:2], 25, 0 * sound[:3528], 44100)
    video.write_video(tmp_path / "audio" / "b.avi", frames, 25, sound, 44100)
    asked = {"metrics": ["lse_d"], "files": judges, "calibration": False}
    found = evaluate(*folders, audio=tmp_path / "audio", **asked).set_index("clip_id")
    assert found["lse_d"].notna().tolist() == [False, True, False, False]
    assert found["sound"].fillna("").tolist() == ["", "audio", "", ""]
    assert found.loc["a", "reason"] == "the sound of a.avi is silent throughout"
    assert found.loc["c", "reason"] == "no sound of this name"


def test_a_name_is_written_as_that_of_a_folder(true, tmp_path):
    for folder in ("true", "a b (1)"):
        copies(true, tmp_path / folder, ["x"])
    asked = {"metrics": ["native/psnr"], "calibration": False, "out": tmp_path / "results"}
    for name in (None, "a b (1)"):
        evaluate(tmp_path / "a b (1)", tmp_path / "true", name=name, **asked)
    assert [path.name for path in (tmp_path / "results" / "evaluate" / "true").iterdir()] == ["a-b-1"]


def test_videos_without_any_face_say_so(true, shot, tmp_path):
    """The predictor of landmarks answers on anything: the reference around what was made must not count as a face."""
    reference = copies(true, tmp_path / "true", ["whole", "black", "wall", "half"])
    copies(true, tmp_path / "made", ["whole"])
    empty = {"black": 0 * shot[0][0], "wall": 0 * shot[0][0] + np.array([120, 130, 140], np.uint8)}
    for name, frame in empty.items():
        video.write_video(tmp_path / "made" / f"{name}.avi", [frame] * FRAMES, 25)
    half = [*shot[0][:6], *[empty["wall"]] * 6]
    video.write_video(tmp_path / "made" / "half.avi", half, 25)
    found = evaluate(tmp_path / "made", reference, metrics=["lmd", "lmd_coverage"], out=tmp_path / "results")
    reasons = found.attrs["reasons"]
    found = found.set_index("clip_id")
    assert found["lmd"].isna().to_dict() == {"whole": False, "black": True, "wall": True, "half": True}
    assert found["lmd_coverage"].to_dict() == {"whole": 1, "black": 0, "wall": 0, "half": 0.5}
    assert found["reason"].to_dict() == {
        "whole": "",
        "half": "no face in 6 of 12 generated frames",
        **dict.fromkeys(empty, "no face in 12 of 12 generated frames"),
    }
    assert reasons["lmd"].startswith("3 of 4 clips have no score: ")


def test_a_reference_without_a_face_is_a_reason_for_its_pair(true, shot, tmp_path):
    reference = copies(true, tmp_path / "true", ["a"])
    video.write_video(reference / "b.avi", [0 * frame for frame in shot[0]], 25)
    video.write_video(reference / "c.avi", [*shot[0][:2], *[0 * frame for frame in shot[0][2:]]], 25)
    made = copies(true, tmp_path / "made", ["a", "b", "c"])
    found = evaluate(made, reference, metrics=["native/psnr", "lmd"], calibration=False).set_index("clip_id")
    assert found.loc["a", "native/psnr"] == 100
    for name in ("b", "c"):
        assert "reference: no face" in found.loc[name, "reason"]
        assert found.loc[name, ["native/psnr", "lmd"]].isna().all()


def test_no_column_at_all_is_an_error_before_the_work(true, tmp_path, monkeypatch):
    copies(true, tmp_path / "true", ["a"])
    monkeypatch.setattr("lipbench.evaluation.external.Pool", None)  # nothing is scored
    asked = {"metrics": ["sync"], "out": tmp_path / "results"}
    with pytest.raises(
        ValueError, match=r"^nothing that was asked for can be computed\. lse_c, lse_d, av_offset: LSE"
    ) as e:
        evaluate(tmp_path / "true", tmp_path / "true", **asked)
    assert "--files.syncnet 'syncnet-small[grid-s1]'  (knows GRID's speaker s1 only)" in str(e.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("where", ["file", "file/below", "full"])
def test_results_that_cannot_be_written_are_known_before_the_work(true, tmp_path, monkeypatch, where):
    copies(true, tmp_path / "true", ["a"])
    (tmp_path / "file").touch()
    monkeypatch.setattr("lipbench.evaluation.external.Pool", None)  # nothing is scored
    if where == "full":

        def full(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=f"cannot write into .*{where}: .*; name another folder"):
        evaluate(tmp_path / "true", tmp_path / "true", metrics=["native/psnr"], out=tmp_path / where)
    assert {path.name for path in tmp_path.iterdir()} == {"true", "file"}


def test_weights_go_by_name(true, tmp_path, monkeypatch):
    copies(true, tmp_path / "true", ["a"])
    mine = tmp_path / "home" / "weights" / "mine.safetensors"
    mine.parent.mkdir(parents=True)
    shutil.copy(bundled.FOLDER / "syncnet-small[grid-s1].safetensors", mine)
    asked = {"metrics": ["sync"], "calibration": False}
    whole = evaluate(tmp_path / "true", tmp_path / "true", files={"syncnet": str(mine)}, **asked)["lse_d"]
    assert whole.notna().all()
    for name in ("mine", "syncnet-small[grid-s1]", "syncnet-small-grid-s1", "Syncnet-small:grid-s1"):
        found = evaluate(tmp_path / "true", tmp_path / "true", files={"syncnet": name}, **asked)["lse_d"]
        pd.testing.assert_series_equal(found, whole)
    for name, expected in (
        (
            "syncnet-smal[grid-s1]",
            r"neither a file nor the name of weights\. Did you mean 'syncnet-small\[grid-s1\]'\?",
        ),
        ("syncnet", "the weights syncnet are not there. Type: lipbench weights fetch syncnet"),
        ("nowhere/x.model", "no SyncNet weights at nowhere/x.model"),
    ):
        with pytest.raises(FileNotFoundError, match=expected):
            evaluate(tmp_path / "true", tmp_path / "true", files={"syncnet": name}, **asked)


def test_memory_holds_one_clip(true, tmp_path, monkeypatch):
    """Python's own collector counts objects, not megabytes; here it is off."""
    scenes, alive = [], []
    make = Bank.scene

    def scene(*arguments):
        alive.append(sum(known() is not None for known in scenes))
        made = make(*arguments)
        scenes.append(weakref.ref(made))
        return made

    monkeypatch.setattr(Bank, "scene", scene)
    reference = copies(true, tmp_path / "true", "abcd")
    gc.disable()
    try:
        evaluate(reference, reference, metrics=["native/psnr"])
    finally:
        gc.enable()
    assert alive == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("given", "error", "expected"),
    [
        ({"reference": None}, ValueError, "where are the references"),
        ({"generated": "none"}, FileNotFoundError, "no folder none"),
        ({"protocol": "grid/s1"}, FileNotFoundError, "lipbench prepare --data grid --root DIR"),
        ({"protocol": "grid/s2"}, ValueError, "no protocol 'grid/s2'"),
        ({"metrics": ["mouth/pnsr"]}, ValueError, "did you mean 'mouth/psnr'"),
        ({"metrics": ["lse_c"]}, RuntimeError, "SyncNet"),
        ({"name": "a/b"}, ValueError, "the name 'a/b' cannot name a file: expected 1 to 100 letters"),
        ({"name": "x" * 300}, ValueError, "cannot name a file"),
        ({"name": "ground-truth"}, ValueError, "cannot be the name of a row"),
        ({"fps": 0}, ValueError, "fps is 0"),
        ({"timing": "late"}, ValueError, "unknown timing 'late'"),
        ({"view": "moth"}, ValueError, "unknown view 'moth'"),
        ({"view": "mouth"}, ValueError, "360x288 cannot show the view 'mouth'"),
    ],
)
def test_what_cannot_work_is_said_at_once(true, tmp_path, monkeypatch, given, error, expected):
    monkeypatch.chdir(tmp_path)
    copies(true, tmp_path / "true", ["a"])
    copies(true, tmp_path / "made", ["a"])
    options = {"generated": "made", "reference": "true", "metrics": ["native/psnr"]} | given
    with pytest.raises(error, match=expected):
        evaluate(options.pop("generated"), options.pop("reference"), **options)


def test_nothing_that_could_be_scored_is_an_error(true, tmp_path):
    reference = copies(true, tmp_path / "true", ["a", "b"])
    (tmp_path / "made").mkdir()
    for name in ("a", "b"):
        (tmp_path / "made" / f"{name}.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 2 clips could be scored; a: a\.mp4 is empty"):
        evaluate(tmp_path / "made", reference, metrics=["native/psnr"], calibration=False, out=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_references_that_are_pictures_need_a_rate(true, shot, tmp_path):
    for folder in ("true", "made"):
        save(tmp_path / folder / "a", shot[0][:8])
    with pytest.raises(ValueError, match="add it, such as --fps 25"):
        evaluate(tmp_path / "made", tmp_path / "true", metrics=["native/psnr"])
    found = evaluate(tmp_path / "made", tmp_path / "true", metrics=["native/psnr"], fps=25, calibration=False)
    assert found["native/psnr"].tolist() == [100]
    assert found["reference_fps"].tolist() == [25]
    assert "a has no sound" in found["reason"][0]


def test_real_clips_beside_re_encoded_copies(grid_root, tmp_path):
    """Every metric whose weights are here is finite and sensible, every other has its reason."""
    clips = ("s1/bbaf2n.mp4", "s2/" + min(path.name for path in (grid_root / "video" / "s2").glob("*.mpg")))
    for clip in clips:
        (tmp_path / "true" / clip).parent.mkdir(parents=True)
        shutil.copy(grid_root / "video" / clip, tmp_path / "true" / clip)
        read = video.read_video(grid_root / "video" / clip)
        target = (tmp_path / "made" / clip).with_suffix(".mp4")
        video.write_video(target, read.frames, 25)  # .986 below; at CRF 28 the landmarks tremble: .964
    found = evaluate(tmp_path / "made", tmp_path / "true", text=grid_root / "alignments", out=tmp_path / "results")
    scores, reasons = found.attrs["scores"], found.attrs["reasons"]
    assert all(np.isfinite(value) for value in scores.values() if value is not None)
    assert {name for name, value in scores.items() if value is None} == set(reasons)
    assert 30 < scores["native/psnr"] < 45
    assert 0.85 < scores["mouth/ssim"] < 1
    assert 0 < scores["lmd"] < 0.8
    assert scores["opening_corr[speech]"] > 0.9
    assert scores["opening_ratio"] == pytest.approx(1, abs=0.15)
    assert (found["reason"] == "").all()
    assert found["compared_frames"].tolist() == [75, 75]
    truth, still = (record.read(Path(path)).scores for path in found.attrs["records"][1:])
    assert still["lmd"].value > 2 * scores["lmd"]
    assert truth["lmd"].value == 0
