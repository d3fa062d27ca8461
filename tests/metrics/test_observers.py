"""Observers in the bank: who reads and who listens, what they are given, and what is said where they are absent."""

import dataclasses

import numpy as np
import pytest
import torch

from lipbench.errors import Unavailable
from lipbench.evaluation import bank as banks
from lipbench.media import geometry, text
from lipbench.nets import syncnet
from lipbench.nets.lipnet import LipNet
from lipbench.nets.mvm import MVM
from lipbench.pretrained import weights
from lipbench.scoring import observers
from lipbench.types import View

VIEW = View("mouth", 40, 80)
READING = ["wer", "cer", "word_accuracy", "wer[sub]", "wer[del]", "wer[ins]"]


def batch(frames=10, clips=2, seed=0):
    rng = np.random.default_rng(seed)
    low = torch.from_numpy(rng.random((clips, frames, 3, 22, 20))).float()
    face = (geometry.resize(low, (geometry.HEIGHT, geometry.WIDTH)) * 255).round().to(torch.uint8)
    return {
        "index": torch.arange(clips),
        "video": geometry.crop(face, VIEW).float() / 255,
        "video_len": torch.tensor([frames, frames - 1][:clips]),
        "face": face,
        "landmarks": torch.from_numpy(geometry.TEMPLATE + np.array([32, 16])).float()
        + torch.zeros(clips, frames, 68, 2),
        "speech": torch.tensor([[0, frames]] * clips),
        "fps": torch.full((clips,), 25.0),
        "text": ["bin blue at", "set red"][:clips],
        "sound": torch.from_numpy(rng.normal(0, 0.1, (clips, 640 * frames))).float(),
        "sound_len": torch.tensor([640 * frames, 640 * (frames - 1)][:clips]),
    }


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A reader that says the same of every clip: weights are zero, biases choose a letter in every frame."""
    torch.manual_seed(0)
    net = LipNet((16, 32), (4, 4, 4), 4)
    with torch.no_grad():
        net.back_end.out.weight.zero_()
        net.back_end.out.bias.zero_()
        net.back_end.out.bias[text.SYMBOLS.index("a")] = 9
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    weights.save(
        path,
        net,
        arguments=net.arguments,
        view=View("mouth", 16, 32),
        trained_on="nothing: it always writes an a",
        vocabulary=text.SYMBOLS,
    )
    return path


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    torch.manual_seed(0)
    net = syncnet.SmallSyncNet(size=(16, 32), video_widths=(4, 4), audio_widths=(4, 4, 4, 4, 4), hidden=8, width=8)
    path = tmp_path_factory.mktemp("judge") / "judge.safetensors"
    weights.save(path, net, arguments=net.arguments, view=net.view, trained_on="nothing: random")
    return path


def rows(bank, given, *videos):
    """Scores and reasons of videos (with their lengths) of the same clips."""
    scene = bank.scene(given, VIEW)
    found = []
    for video, length in videos:
        row = bank.row()
        row.update(scene.take(video, length), scene)
        found.append(({name: clips.value for name, clips in row.local_scores().items()}, row.reasons))
    return found


def test_reading_is_scored_against_the_text_not_against_what_is_read_in_the_reference(reader):
    given = batch()
    bank = banks.Bank(READING, {"transcript": str(reader)})
    broken = given["video"].clone()
    broken[1, 3] = torch.nan
    (read, _), (partly, _) = rows(bank, given, (given["video"], None), (broken, None))
    # "a" for "bin blue at" (3 words, 11 characters) and for "set red" (2 words, no a)
    assert read["wer"] == pytest.approx([1, 1])
    assert read["wer[sub]"] == pytest.approx([1 / 3, 1 / 2])
    assert read["wer[del]"] == pytest.approx([2 / 3, 1 / 2])
    assert read["wer[ins]"].tolist() == [0, 0]
    assert read["cer"] == pytest.approx([10 / 11, 1])
    assert read["word_accuracy"].tolist() == [0, 0]
    assert np.isnan(partly["wer"]).tolist() == [False, True]
    assert bank.judges["wer"].startswith("lipnet.LipNet sha256 ")


def test_a_classifier_of_words_leaves_clips_of_several_words_empty(tmp_path):
    torch.manual_seed(0)
    sizes = {"size": 32, "front": 2, "widths": (2, 2, 2, 2), "embedding": 4, "audio_widths": (2, 2), "channels": 3}
    net = MVM(**sizes, layers=2, slots=2, heads=2, outputs=2)
    with torch.no_grad():
        net.out.weight.zero_()
        net.out.bias.copy_(torch.tensor([1.0, 0.0]))
    path = tmp_path / "words.safetensors"
    words = ("about", "after")
    weights.save(path, net, arguments=net.arguments, view=net.view, trained_on="always about", vocabulary=words)
    names = ["wer", "word_accuracy"]
    given = batch()
    for said, accuracy in (
        (["about", "after"], [1, 0]),
        (["about", "bin blue at"], [1, None]),
        (["about bin", "bin blue at"], [None, None]),
    ):
        given["text"] = said
        bank = banks.Bank(names, {"transcript": str(path)})
        ((scores, reasons),) = rows(bank, given, (given["video"], None))
        assert [None if np.isnan(value) else value for value in scores["word_accuracy"]] == accuracy
        assert np.isnan(scores["wer"]).tolist() == [value is None for value in accuracy]
        told = "the reader classifies clips of one word, and clips here say several"
        assert reasons == (dict.fromkeys(names, told) if None in accuracy else {})


def test_a_longer_video_is_read_and_listened_to_whole(reader, judge):
    given = batch()
    names = ["wer", "lse_c", "mouth/psnr[dtw]", "mouth/psnr", "mouth/cpbd"]
    bank = banks.Bank(names, {"transcript": str(reader), "syncnet": str(judge)})
    longer = given["video"].repeat_interleave(2, 1)
    ((scores, reasons),) = rows(bank, given, (longer, given["video_len"] * 2))
    assert np.isnan(scores["mouth/psnr"]).all()
    assert "differ in length" in reasons["mouth/psnr"]
    assert np.isfinite(scores["wer"]).all()
    assert np.isfinite(scores["lse_c"]).all()
    assert np.isfinite(scores["mouth/cpbd"]).all()
    ((same, _),) = rows(bank, given, (given["video"], None))
    assert scores["mouth/psnr[dtw]"] == pytest.approx(same["mouth/psnr[dtw]"], abs=1e-4)


def test_listening_depends_on_the_pictures_and_leaves_what_is_too_short_undefined(judge):
    given = batch(40)
    bank = banks.Bank(["sync", "lse_d[mask]"], {"syncnet": str(judge)})
    broken = given["video"].clone()
    broken[0, 5] = torch.nan
    truth, still, nan, short = rows(
        bank,
        given,
        (given["video"], None),
        (given["video"][:, :1].expand_as(given["video"]), None),
        (broken, None),
        (given["video"], torch.tensor([40, 5])),
    )
    for name in ("lse_c", "lse_d", "lse_d[mask]"):
        assert np.isfinite(truth[0][name]).all()
        assert not np.allclose(truth[0][name], still[0][name])
        assert np.isnan(nan[0][name]).tolist() == [True, False]
        assert np.isnan(short[0][name]).tolist() == [False, True]
    assert bank.judges["lse_c"].startswith("SmallSyncNet sha256 ")


def test_the_reference_has_no_offset_from_itself_and_its_sound_is_embedded_once(judge, monkeypatch):
    calls = []
    embed = syncnet.embed_sound
    monkeypatch.setattr(syncnet, "embed_sound", lambda *given: calls.append(1) or embed(*given))
    bank = banks.Bank(["av_offset", "lse_c"], {"syncnet": str(judge)})
    scene = bank.scene(batch(), VIEW)
    for take in (scene.reference, scene.take(scene.batch["video"] * 0.5)):
        row = bank.row()
        row.update(take, scene)
        if take is scene.reference:
            assert row.local_scores()["av_offset"].value.tolist() == [0, 0]
    assert len(calls) == 2  # clips


def test_without_sound_or_text_the_cells_are_empty_with_a_reason(reader, judge):
    given = batch()
    for key in ("sound", "sound_len", "text"):
        del given[key]
    bank = banks.Bank(["sync", "reading"], {"transcript": str(reader), "syncnet": str(judge)})
    ((scores, reasons),) = rows(bank, given, (given["video"], None))
    assert not any(len(value) for value in scores.values())
    assert "no sound" in reasons["lse_c"]
    assert "no text" in reasons["wer"]


def test_an_observer_without_weights_is_a_reason_by_group_and_an_error_by_name(tmp_path, judge):
    bank = banks.Bank(["sync", "reading", "native/psnr"])
    assert "--evaluator.files.syncnet" in bank.reasons["lse_c"]
    assert "--evaluator.files.transcript" in bank.reasons["wer"]
    ((scores, _),) = rows(bank, batch(), (batch()["video"], None))
    assert scores["native/psnr"].tolist() == [100, 100]
    with pytest.raises(Unavailable, match="lip reader"):
        banks.Bank(["cer"])
    with pytest.raises(Unavailable, match="no weights file"):
        banks.Bank(["cer"], {"transcript": str(tmp_path / "absent.safetensors")})
    with pytest.raises(FileNotFoundError, match="no weights file"):  # whatever was asked for
        banks.Bank(None, {"transcript": str(tmp_path / "absent.safetensors")})
    with pytest.raises(Unavailable, match="SmallSyncNet, which does not read"):
        banks.Bank(["cer"], {"transcript": str(judge)})


def test_sets_are_compared_over_all_clips_and_broken_ones_left_out(monkeypatch):
    class Mean(torch.nn.Module):
        judge = "mean colors"

        def __init__(self, path):
            super().__init__()
            self.path = path

        def forward(self, pictures):
            assert pictures.shape[1:] == (3, 80, 160)
            return pictures.mean((2, 3))

    monkeypatch.setattr(observers, "Inception", Mean)
    for name in ("fid", "kid"):
        entry = banks.METRICS[name]
        three = dataclasses.replace(entry.column, options={"dim": 3})
        monkeypatch.setitem(banks.METRICS, name, dataclasses.replace(entry, column=three))
    given = batch()
    bank = banks.Bank(["distribution"], {"inception": "file"})
    scene = bank.scene(given, VIEW)
    broken = given["video"].clone()
    broken[1, 3] = torch.nan
    found = []
    for take in (scene.reference, scene.take(given["video"] * 0.5), scene.take(broken)):
        row = bank.row()
        row.update(take, scene)
        assert row.local_scores() == {}
        found.append(row.compute_set())
    same, darker, partly = found
    assert same["fid"] == pytest.approx((0, 2), abs=1e-5)
    colors = [scene.reference.mouth[k, :n].mean((2, 3)) for k, n in enumerate(given["video_len"].tolist())]
    assert darker["fid"][0] > float((torch.cat(colors).mean(0) * 0.5).square().sum()) * 0.9
    assert partly["fid"][1] == partly["kid"][1] == 1
    assert bank.judges == {"fid": "mean colors", "kid": "mean colors"}
