"""Bad files through `lipbench.evaluate` with every metric: a reason in the row, and no number that is none.

Empty and unreadable files, kinds of pictures, other lengths, absent sound and text: test_outside.py, test_videos.py.
"""

import shutil
import wave

import numpy as np
import pytest
import torch
from PIL import Image

import lipbench
from lipbench.evaluation.bank import METRICS
from lipbench.media import text, video
from lipbench.nets import syncnet
from lipbench.nets.lipnet import LipNet
from lipbench.pretrained import weights
from lipbench.synthetic.corpus import render, sentence_ids
from lipbench.types import View

FRAMES = 12
EVERYTHING = sorted({entry.group for entry in METRICS.values()})
COLUMNS = [name for name, entry in METRICS.items() if entry.column.scores == "video"]


@pytest.fixture(scope="module")
def shot():
    """A rendered clip in the middle of its sentence: frames and sound."""
    clip = render(0, sentence_ids(0, 1, 3)[0], 3)
    return list(clip.frames[30 : 30 + FRAMES]), clip.samples[30 * 1764 : (30 + FRAMES) * 1764]


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """A SyncNet and a reader of random weights."""
    folder = tmp_path_factory.mktemp("judges")
    torch.manual_seed(0)
    judge = syncnet.SmallSyncNet(size=(16, 32), video_widths=(4, 4), audio_widths=(4, 4, 4, 4, 4), hidden=8, width=8)
    weights.save(folder / "judge.safetensors", judge, arguments=judge.arguments, view=judge.view, trained_on="nothing")
    reader = LipNet((16, 32), (4, 4, 4), 4)
    saved = {"arguments": reader.arguments, "view": View("mouth", 16, 32), "vocabulary": text.SYMBOLS}
    weights.save(folder / "reader.safetensors", reader, trained_on="nothing", **saved)
    return {"syncnet": str(folder / "judge.safetensors"), "transcript": str(folder / "reader.safetensors")}


@pytest.fixture
def evaluate(judges, tmp_path, monkeypatch):
    """`lipbench.evaluate` of the folders made and true with every metric whose weights are here, a row a clip."""
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        torch.hub, "get_dir", lambda: str(tmp_path / "hub")
    )  # no weights that this machine happens to have

    def run(**options):
        options = {"metrics": EVERYTHING, "files": judges, "calibration": False} | options
        table = lipbench.evaluate(tmp_path / "made", tmp_path / "true", **options).set_index("clip_id")
        scores = [name for name in COLUMNS if name in table]
        assert not np.isinf(table[scores].to_numpy(float)).any()
        empty = table[scores].isna().all()
        for name in COLUMNS:
            known = name in table and not empty[name]
            assert known or table.attrs["reasons"][name], name
        return table, scores

    return run


def sound_file(path, samples):
    """One channel of 16 bits at 44.1 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def test_files_without_usable_frames(shot, evaluate, tmp_path):
    frames, sound = shot
    names = ["good", "mute", "half", "hollow", "torn", "veil", "still", "deaf"]
    true, made = tmp_path / "true", tmp_path / "made"
    made.mkdir()
    for name in names[:-1]:
        video.write_video(true / f"{name}.avi", frames, 25, sound, 44100)
    whole = (true / "good.avi").read_bytes()
    (made / "good.avi").write_bytes(whole)
    (made / "deaf.avi").write_bytes(whole)
    sound_file(true / "deaf.mp4", sound)  # a reference without pictures
    sound_file(made / "mute.mp4", sound)  # a video of no frames
    (made / "half.avi").write_bytes(whole[: len(whole) * 2 // 5])
    (made / "hollow").mkdir()
    for name, count in (("torn", FRAMES), ("veil", FRAMES), ("still", 1)):
        (made / name).mkdir()
        for k, frame in enumerate(frames[:count]):
            picture = Image.fromarray(frame)
            (picture.convert("LA") if name == "veil" else picture).save(made / name / f"{k}.png")
    (made / "torn" / "7.png").write_bytes(b"")

    table, scores = evaluate(text=dict.fromkeys(names, "bin blue"))
    assert table.loc["good", "reason"] == ""
    assert table.loc["good", "native/psnr"] == 100
    assert table.loc["veil", "reason"] == ""
    assert 15 < table.loc["veil", "native/psnr"] < 40  # two channels: grey, and opaque throughout
    for name, expected in (
        ("mute", "has no picture stream (sound only)"),
        ("hollow", "no generated video of this name"),
        ("torn", "7.png is no picture"),
        ("deaf", "reference: deaf.mp4 has no picture stream (sound only)"),
    ):
        assert expected in table.loc[name, "reason"], name
        assert table.loc[name, scores].isna().all(), name
    aligned = [name for name in scores if METRICS[name].metric.aligned]
    for name in ("half", "still"):
        assert table.loc[name, "reason"], name
        assert table.loc[name, aligned].isna().all(), name
    assert "1 frames at 25 a second beside 12 of the reference" in table.loc["still", "reason"]


def test_clips_of_one_frame(shot, evaluate, tmp_path):
    frames, sound = shot
    for folder in ("true", "made"):
        video.write_video(tmp_path / folder / "one.avi", frames[:1], 25, sound[:1764], 44100)
    table, _ = evaluate(text={"one": "bin blue"})
    one = table.loc["one"]
    assert one[["mouth/psnr", "lmd", "mouth/ssim"]].tolist() == pytest.approx([100, 0, 1])
    for name in ("opening_corr", "opening_corr[speech]", "opening_ratio", "jitter", "lse_c", "lse_d", "av_offset"):
        assert np.isnan(one[name]), name
        assert "1 of 1 clips have no score" in table.attrs["reasons"][name]
    assert np.isfinite(one[["wer", "cer", "mouth/cpbd"]].astype(float)).all()


def test_sounds_and_texts_that_hold_nothing(shot, evaluate, tmp_path):
    """Beside good pictures: sounds of no samples, and texts of white space, of digits and of no word."""
    frames, sound = shot
    names = ["good", "none", "quiet", "blank", "digits", "marks"]
    for name in names:
        video.write_video(tmp_path / "true" / f"{name}.avi", frames, 25)
        sound_file(tmp_path / "audio" / f"{name}.wav", {"none": sound[:0], "quiet": 0 * sound}.get(name, sound))
    shutil.copytree(tmp_path / "true", tmp_path / "made")
    said = {"blank": " \n", "digits": "set 4", "marks": "...!"}
    (tmp_path / "said").mkdir()
    for name in names:
        (tmp_path / "said" / f"{name}.txt").write_text(said.get(name, "bin blue"))
    table, scores = evaluate(audio=tmp_path / "audio", text=tmp_path / "said")
    reading = [name for name in scores if METRICS[name].group == "reading"]
    sync = [name for name in scores if METRICS[name].metric.observes == "syncnet"]
    assert table.loc["good", "reason"] == ""
    for name, expected in (
        ("none", "none.wav has a sound stream but no samples in it"),
        ("quiet", "the sound of quiet.wav is silent throughout"),
        ("blank", "is empty; expected at least one word"),
        ("digits", "write numbers as words"),
        ("marks", "is empty; expected at least one word"),
    ):
        assert expected in table.loc[name, "reason"], name
        lacking, there = (sync, reading) if name in ("none", "quiet") else (reading, sync)
        assert table.loc[name, lacking].isna().all(), name
        assert table.loc[name, there].notna().all(), name
        assert table.loc[name, "mouth/psnr"] == 100
    assert table.attrs["reasons"]["lse_c"] == "2 of 6 clips have no sound (--audio DIR gives it)"
    assert table.attrs["reasons"]["wer"].startswith("3 of 6 clips have no text")


def test_folders_that_are_files(shot, evaluate, tmp_path):
    (tmp_path / "made").write_bytes(b"")
    (tmp_path / "true").mkdir()
    with pytest.raises(FileNotFoundError, match="made is no folder of videos"):
        evaluate()
