"""Which calibration and control rows there are, and what their videos show."""

import numpy as np
import pytest
import torch

from lipbench.evaluation import bank as banks
from lipbench.evaluation import calibration
from lipbench.media import geometry, video
from lipbench.scoring.views import MOUTH
from lipbench.types import View

VIEW = View("mouth", 40, 80)
MEAN = torch.full((3, 40, 80), 0.5)


def batch(frames=6):
    """Two clips, the second a frame shorter, with smooth moving pictures."""
    draw = torch.Generator().manual_seed(0)
    low = torch.rand(2, frames, 3, 11, 10, generator=draw)
    face = (geometry.resize(low, (geometry.HEIGHT, geometry.WIDTH)) * 255).round().to(torch.uint8)
    face[1, -1] = 0
    points = torch.from_numpy(geometry.TEMPLATE + np.array([32, 16])).float()
    return {
        "index": torch.arange(2),
        "video": geometry.crop(face, VIEW).float() / 255,
        "video_len": torch.tensor([frames, frames - 1]),
        "fps": torch.tensor([25.0, 25.0]),
        "face": face,
        "landmarks": points.expand(2, frames, 68, 2),
        "sound": torch.rand(2, frames * 640, generator=draw),
        "sound_len": torch.tensor([frames, frames - 1]) * 640,
        "text": ["a", "b"],
        "mismatched": {
            "text": ["b", "a"],
            "sound": torch.zeros(2, frames * 640),
            "sound_len": torch.tensor([frames, frames - 1]) * 640,
        },
    }


def test_the_reencoded_truth_is_what_a_saved_file_shows(tmp_path):
    given = batch()
    bank = banks.Bank(["native/psnr", "mouth/psnr"])
    scene = bank.scene(given, VIEW)
    takes = calibration.iter_calibration_rows(bank, scene, MEAN, ["reencoded-truth"])
    name, take, target = next(found for found in takes if found[0] == "reencoded-truth")
    assert (name, target) == ("reencoded-truth", scene)
    for row, length in enumerate(given["video_len"].tolist()):
        pictures = given["face"][row, :length].permute(0, 2, 3, 1).numpy()
        video.write_video(tmp_path / "clip.mp4", pictures, 25, crf=calibration.CRF)
        read = np.stack(video.read_video(tmp_path / "clip.mp4").frames)
        shown = torch.from_numpy(read).permute(0, 3, 1, 2)
        assert not torch.equal(shown, given["face"][row, :length])
        assert torch.equal(take.canonical(row)[:length], shown)
        assert torch.equal(take.pictures("native")[row, :length], geometry.crop(shown, VIEW).float() / 255)
        assert torch.equal(take.pictures("mouth")[row, :length], geometry.crop(shown, MOUTH).float() / 255)
    assert not take.canonical(1)[-1].any()  # padding


def test_reencoding_keeps_more_the_lower_the_factor():
    frames = batch()["face"][0].permute(0, 2, 3, 1).numpy()
    errors = [np.abs(video.reencode(frames, 25, crf).astype(int) - frames).mean() for crf in (5, 23, 40)]
    assert 0 < errors[0] < errors[1] < errors[2] < 30
    assert video.reencode(frames[:0], 25).shape == (0, 352, 320, 3)
    with pytest.raises(ValueError, match="uint8 RGB"):
        video.reencode(frames.astype(np.float32), 25)


def test_shuffled_rows_change_one_thing_only():
    bank = banks.Bank(["native/psnr"])
    scene = bank.scene(batch(), VIEW)
    found = {
        name: (take.scene.batch, target)
        for name, take, target in calibration.iter_calibration_rows(bank, scene, MEAN, list(calibration.ROWS))
        if name.startswith("shuffled")
    }
    sound, target = found["shuffled-audio"]
    assert not sound["sound"].any()
    assert sound["text"] == ["a", "b"]
    assert target is scene  # whose offset is the true one
    text, target = found["shuffled-text"]
    assert text["text"] == target.batch["text"] == ["b", "a"]
    assert torch.equal(text["sound"], scene.batch["sound"])
    assert scene.batch["text"] == ["a", "b"]
    del scene.batch["mismatched"]
    with pytest.raises(ValueError, match="no other clip's text"):
        calibration.with_swapped(bank, scene, "text")


def test_columns_by_what_they_look_at(monkeypatch):
    class Observer:
        judge = "x"

        def __init__(self, *needs):
            self.needs = frozenset(needs)

    monkeypatch.setitem(banks.MAKE, "syncnet", lambda files, cache: Observer("face", "sound", "fps"))
    bank = banks.Bank(["sync", "reading", "lse_c[mask]", "native/psnr"])
    assert calibration.looking_at(bank, "sound", packed=False) == {"lse_c", "lse_d", "av_offset", "lse_c[mask]"}
    assert calibration.looking_at(bank, "sound", packed=True) == set()
    assert calibration.looking_at(bank, "text", packed=False) == set()  # no reader's weights
    assert set(calibration.left_out(bank, packed=False)) == {"shuffled-text"}
    monkeypatch.setitem(banks.MAKE, "transcript", lambda files, cache: Observer("face"))
    bank = banks.Bank(["wer", "native/psnr"])
    assert calibration.looking_at(bank, "text", packed=False) == {"wer"}
    row = calibration.restricted_row(bank, "cpu", {"wer"}, "not here")
    assert set(row.local_scores()) == {"wer"}
    assert row.reasons == {"native/psnr": "not here"}


@pytest.mark.parametrize(
    ("needs", "names"),
    [
        ({"identity", "tokens", "n_frames"}, ["wrong-text"]),
        ({"tokens", "audio"}, ["wrong-text"]),
        ({"identity", "audio"}, ["wrong-audio", "silent-audio", "other-speaker"]),
        ({"identity"}, []),
    ],
)
def test_what_drives_a_model_decides_its_controls(needs, names):
    found, lacking = calibration.controls(needs)
    assert [control.name for control in found] == names
    assert lacking == {}
    for options, why in (({"packed": True}, "packed store"), ({"other_speakers": False}, "not every test clip")):
        found, lacking = calibration.controls(needs, **options)
        assert [control.name for control in found] == [name for name in names if name != "other-speaker"]
        assert [why in reason for reason in lacking.values()] == [True] * ("other-speaker" in names)


def test_silence_is_as_long_as_the_sound():
    control = next(own for own in calibration.controls({"audio"})[0] if own.name == "silent-audio")
    given = {"audio": torch.rand(2, 7), "audio_len": torch.tensor([7, 5])}
    driven = {**given, **control.drive(given)}
    assert torch.equal(driven["audio"], torch.zeros(2, 7))
    assert driven["audio_len"].tolist() == [7, 5]
    with pytest.raises(ValueError, match=r"--evaluator\.controls false"):
        calibration.controls({"audio"})[0][0].drive(given)
