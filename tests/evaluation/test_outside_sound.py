"""Whose sound each video is judged beside, and what is said of it: a rendered clip, the SyncNet that comes along."""

import shutil
import wave
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from lipbench import cli
from lipbench.evaluation.external import evaluate
from lipbench.evaluation.external_clips import CORPUS_INSTEAD
from lipbench.leaderboard import table as leaderboard
from lipbench.media import audio, geometry, video
from lipbench.metrics.lse import lse
from lipbench.nets import syncnet
from lipbench.pretrained import bundled
from lipbench.pretrained.networks import load_syncnet
from lipbench.synthetic.corpus import render, sentence_ids

FRAMES, LATE = 50, 4
STEP = 1764  # samples of a frame
FILES = {"syncnet": bundled.judges("rendered/seen")["syncnet"]}
OFFSETS = ["av_offset", "av_offset[signed]"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def shot():
    """A rendered sentence, and the same sound late by 4 frames."""
    clip = render(0, sentence_ids(0, 1, 3)[0], 3)
    sound = clip.samples[15 * STEP : (15 + FRAMES) * STEP]
    late = np.concatenate([np.zeros(LATE * STEP, sound.dtype), sound[: -LATE * STEP]])
    return SimpleNamespace(frames=list(clip.frames[15 : 15 + FRAMES]), sound=sound, late=late)


def write(path, frames, sound=None):
    video.write_video(path, frames, 25, sound, None if sound is None else 44100)


def record_wave(path, sound):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 44100, len(sound), "NONE", ""))
        file.writeframes((sound * 32767).astype("<i2").tobytes())


def printed(capsys, *words):
    more = ["--files.syncnet", FILES["syncnet"], "--no-calibration", "--workers", "0"]
    assert cli.main(["evaluate", *words, *more]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_each_video_is_judged_beside_its_own_sound(shot, tmp_path):
    """A late sound must not be late for the reference too, and so cancel. `b` is two frames shorter."""
    for name, frames in (("a", shot.frames), ("b", shot.frames[:-2])):
        write(tmp_path / "true" / f"{name}.avi", shot.frames, shot.sound)
        write(tmp_path / "made" / f"{name}.avi", frames, shot.late)
    found = evaluate("made", "true", metrics=OFFSETS, files=FILES, calibration=False)
    assert found["sound"].tolist() == ["generated"] * 2
    assert found["av_offset"].tolist() == [LATE] * 2
    assert found["av_offset[signed]"].tolist() == [-LATE] * 2
    assert found["reason"].tolist() == [""] * 2


def test_a_reference_without_sound_is_judged_beside_the_generated_one_and_this_is_said(shot, tmp_path):
    write(tmp_path / "true" / "a.avi", shot.frames)
    write(tmp_path / "made" / "a.avi", shot.frames, shot.late)
    found = evaluate("made", "true", metrics=OFFSETS, files=FILES, calibration=False).iloc[0]
    assert found[OFFSETS].tolist() == [0, -LATE]
    assert "reference: a.avi has no sound; its pictures are judged beside the generated" in found["reason"]
    found = evaluate("made", "true", metrics=["native/psnr"], calibration=False).iloc[0]
    assert found["reason"] == ""  # nobody listens


def squeezed_scores(frames, sound):
    """LSE of frames that OpenCV squeezes to 224x224, as `calculate_scores_LRS.py` does."""
    network, _ = load_syncnet(FILES["syncnet"])
    squares = np.stack([cv2.resize(frame, (224, 224)) for frame in frames])
    pictures = torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255
    heard = torch.from_numpy(audio.resample(sound, 44100, 16000))
    with torch.inference_mode():
        sound_windows = syncnet.embed_sound(network, heard)
        found = syncnet.embed_clip(network, geometry.resize(pictures, network.view.size), sound_windows, len(heard))
        return lse(*found[None].unbind(2), torch.tensor([len(found)]))


def test_whole_frames_are_squeezed_to_a_square(shot, tmp_path):
    """The generated video has half the size of its reference."""
    small = [np.asarray(Image.fromarray(frame).resize((180, 144), Image.Resampling.BOX)) for frame in shot.frames]
    write(tmp_path / "true" / "a.avi", shot.frames, shot.sound)
    write(tmp_path / "made" / "a.avi", small, shot.sound)
    names = ["lse_c[whole]", "lse_d[whole]", "lse_d"]
    table = evaluate("made", "true", metrics=names, files=FILES, out=tmp_path / "results")
    (board,), _ = leaderboard.boards(tmp_path / "results")
    rows = {line.record.name: line.record.scores for line in board.lines}
    for name, frames in (("made", small), ("ground-truth", shot.frames), ("frozen-frame", shot.frames[:1] * FRAMES)):
        expected = squeezed_scores(frames, shot.sound)
        for column in names[:2]:
            value = float(getattr(expected, column.removesuffix("[whole]")))
            assert rows[name][column].value == pytest.approx(value, abs=0.02), (name, column)
    assert abs(table["lse_d[whole]"][0] - table["lse_d"][0]) > 0.1  # where a face is looked for, it is another number


def test_what_was_judged_beside_another_sound_or_a_short_one_is_counted(shot, tmp_path, capsys):
    """`own` has its sound, `none` has none, `still` a silent one; that of `short` ends after a second."""
    for name in ("own", "none", "still", "short"):
        write(tmp_path / "true" / f"{name}.avi", shot.frames, shot.sound)
    write(tmp_path / "made" / "own.avi", shot.frames, shot.sound)
    write(tmp_path / "made" / "none.avi", shot.frames)
    write(tmp_path / "made" / "still.avi", shot.frames, 0 * shot.sound)
    folder = tmp_path / "made" / "short"
    folder.mkdir()
    for k, frame in enumerate(shot.frames):
        Image.fromarray(frame).save(folder / f"{k}.png")
    record_wave(folder / "sound.wav", shot.sound[: 25 * STEP])
    words = "--generated", "made", "--reference", "true"
    told = printed(capsys, *words, "--metrics", "lse_c", "--name", "a")
    assert "videos with no sound of their own (or a silent one), judged beside the reference's: 2" in told
    assert "videos with a sound that ends long before their pictures, judged only so far: 1" in told
    assert "short: the sound (generated) lasts 1.00 s beside 2.00 s of pictures" in told
    assert "left out" not in told
    for name in ("own", "still"):
        (tmp_path / "made" / f"{name}.avi").unlink()
    told = printed(capsys, *words, "--metrics", "native/psnr", "--name", "b", "--partial")
    assert "sound" not in told  # nobody listens


def test_a_prepared_corpus_sound_comes_before_the_videos_own_and_this_is_said(tmp_path, capsys):
    words = ["--data", "rendered", "--speakers", "1", "--clips", "1", "--landmarks", "exact", "--workers", "0"]
    assert cli.main(["prepare", *words]) == 0
    (clip,) = (tmp_path / "home" / "corpora" / "rendered" / "video").rglob("*.mpg")
    (tmp_path / "made").mkdir()
    shutil.copy(clip, "made")
    store = str(tmp_path / "home" / "stores" / "rendered")
    told = printed(capsys, "--generated", "made", "--reference", store, "--metrics", "lse_c")
    assert "videos with a sound of their own, left out for the corpus': 1" in told
    assert "judged beside the reference's" not in told
    found = evaluate("made", store, metrics=["av_offset"], files=FILES, calibration=False)
    assert found["sound"].tolist() == [CORPUS_INSTEAD]
    assert found["av_offset"].tolist() == [0]
    write(tmp_path / "made" / clip.name, video.read_video(clip).frames)
    found = evaluate("made", store, metrics=["lse_c"], files=FILES, calibration=False)
    assert found["sound"].tolist() == ["corpus"]
    assert cli.main(["evaluate", "--help"]) == 0
    assert "the videos' own sound is left out for the corpus'" in " ".join(capsys.readouterr().out.split())
