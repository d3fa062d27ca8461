"""SyncNet: the published network window by window, its weights file, and the small one."""

import hashlib
import importlib.util
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from lipbench.media import features
from lipbench.nets import syncnet
from lipbench.pretrained import weights
from lipbench.pretrained.networks import load_syncnet
from lipbench.types import View

REPOSITORY = Path(__file__).resolve().parents[2]
PARAMETERS = 13_631_616  # shared reference values, key syncnet


@pytest.fixture(scope="module")
def benchmark():
    """benchmarks/lse.py, which holds the network in its published form."""
    spec = importlib.util.spec_from_file_location("lse_benchmark", REPOSITORY / "benchmarks" / "lse.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def published(benchmark):
    return benchmark.random_published()


@pytest.fixture(scope="module")
def file(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "syncnet_v2.model"
    torch.save(published.state_dict(), path)
    return path


def small(**options):
    torch.manual_seed(0)
    return syncnet.SmallSyncNet(**options).eval()


def test_published_parameter_count(published):
    assert sum(p.numel() for p in syncnet.SyncNetV2().parameters()) == PARAMETERS
    assert sum(p.numel() for p in published.parameters()) == PARAMETERS
    assert len(published.state_dict()) == 102  # tensors of the published file


@torch.no_grad()
def test_a_clip_in_one_pass_equals_the_published_network_window_by_window(benchmark, published, file):
    network, sha256 = load_syncnet(file)
    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    torch.manual_seed(1)
    frames = (torch.rand(15, 224, 224, 3) * 255).to(torch.uint8)
    sound = 0.1 * torch.randn(15 * 640)
    mfcc = features.mfcc(sound)
    count = syncnet.window_count(15, len(sound))
    assert count == 10  # more than one pass of the network takes
    bgr = frames.flip(3).permute(3, 0, 1, 2)[None].float()
    video, audio = benchmark.window_embeddings(published, bgr, mfcc.T[None, None], count)
    heard = syncnet.embed_sound(network, sound)
    found = syncnet.embed_clip(network, frames.permute(0, 3, 1, 2).float() / 255, heard, len(sound))
    assert found.shape == (10, 2, 1024)
    for k, expected in ((0, video), (1, audio)):
        assert expected.std() > 0.1  # the random network does not map everything to one point
        torch.testing.assert_close(found[:, k], expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize("view", [View("mouth", 40, 80), View("syncnet", 30, 33)])
def test_the_small_one_equals_itself_window_by_window(view):
    network = small(view=view.name, size=view.size)
    assert network.view == view
    assert sum(p.numel() for p in network.parameters()) < 2_000_000
    torch.manual_seed(1)
    pictures, mfcc = torch.rand(2, 14, 3, *view.size), 10 * torch.randn(2, 55, 13)
    video, audio = network.embed_video(pictures), network.embed_audio(mfcc)
    assert video.shape == (2, 10, 128)
    assert audio.shape == (2, 9, 128)  # (55 - 20) // 4 + 1
    for k in range(10):
        torch.testing.assert_close(network.embed_video(pictures[:, k : k + 5])[:, 0], video[:, k], rtol=0, atol=1e-5)
    for k in range(9):
        window = mfcc[:, 4 * k : 4 * k + 20]
        torch.testing.assert_close(network.embed_audio(window)[:, 0], audio[:, k], rtol=0, atol=1e-5)


def test_lengths_as_published():
    assert syncnet.window_count(75, 75 * 640) == 70
    assert syncnet.window_count(75, 74 * 640 + 639) == 69  # the sound decides
    assert syncnet.window_count(60, 75 * 640) == 55
    assert [syncnet.window_count(frames, 99999) for frames in (0, 4, 5, 6)] == [0, 0, 0, 1]
    network = small()
    for frames in (5, 6, 30):
        sound = syncnet.embed_sound(network, torch.randn(frames * 640))
        assert len(sound) == frames - 5 or frames == 5
        found = syncnet.embed_clip(network, torch.rand(frames, 3, 40, 80), sound, frames * 640)
        assert found.shape == (frames - 5, 2, 128)
    nothing = syncnet.embed_sound(network, torch.zeros(100))
    assert nothing.shape == (0, 128)
    assert syncnet.embed_clip(network, torch.rand(30, 3, 40, 80), nothing, 100).shape == (0, 2, 128)


def test_other_frame_rates_are_shown_at_25():
    assert syncnet.frames_at_25(7, 25.0).tolist() == list(range(7))
    assert syncnet.frames_at_25(8, 50.0).tolist() == [0, 2, 4, 6]
    assert syncnet.frames_at_25(4, 12.5).tolist() == [0, 0, 1, 2, 2, 2, 3, 3]  # halves go to the even frame
    thirty = syncnet.frames_at_25(90, 30000 / 1001)
    assert len(thirty) == 75
    assert int(thirty[-1]) == 89
    assert int((thirty[1:] - thirty[:-1]).min()) == 1


def test_wrong_input_is_refused():
    network = small()
    with pytest.raises(ValueError, match=r"mouth 40x80.*found \(3, 80, 160\)"):
        network.embed_video(torch.rand(1, 9, 3, 80, 160))
    with pytest.raises(ValueError, match="needs 5 pictures in a row, found 4"):
        network.embed_video(torch.rand(1, 4, 3, 40, 80))
    with pytest.raises(ValueError, match="needs 20 steps of MFCC"):
        network.embed_audio(torch.rand(1, 19, 13))
    with pytest.raises(ValueError, match="audio_widths needs 5 numbers"):
        syncnet.SmallSyncNet(audio_widths=(8, 8))


@torch.no_grad()
def test_a_picture_of_nan_spoils_only_its_windows():
    network = small()
    pictures = torch.rand(1, 20, 3, 40, 80)
    pictures[0, 9] = torch.nan
    broken = network.embed_video(pictures)[0].isnan().any(1)
    assert broken.nonzero().flatten().tolist() == [5, 6, 7, 8, 9]


def test_a_sync_loss_reaches_the_pictures():
    network = small().requires_grad_(False)
    pictures = torch.rand(1, 6, 3, 40, 80, requires_grad=True)
    network.embed_video(pictures).square().sum().backward()
    assert all(float(pictures.grad[0, k].abs().sum()) > 0 for k in range(6))


def save(network, path):
    return weights.save(path, network, arguments=network.arguments, view=network.view, trained_on="made-up data")


@torch.no_grad()
def test_weights_of_ones_own_come_back(tmp_path):
    network = small(size=(20, 40), video_widths=(8, 12), width=16)
    network.audio[0].running_var.fill_(1e6)  # more than half precision holds
    card = save(network, tmp_path / "judge.safetensors")
    loaded, sha256 = load_syncnet(tmp_path / "judge.safetensors")
    assert isinstance(loaded, syncnet.SmallSyncNet)
    assert sha256 == card.sha256
    assert loaded.arguments == network.arguments
    pictures, sound = torch.rand(1, 9, 3, 20, 40), torch.randn(9 * 640)
    torch.testing.assert_close(loaded.embed_video(pictures), network.embed_video(pictures), rtol=0, atol=5e-3)
    heard = syncnet.embed_sound(network, sound)
    torch.testing.assert_close(syncnet.embed_sound(loaded, sound), heard, rtol=0, atol=5e-3)


def test_old_files_without_counters_are_read(published, file, tmp_path):
    old = {key: value for key, value in published.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.model", _use_new_zipfile_serialization=False)  # the format of 2017
    loaded, _ = load_syncnet(tmp_path / "old.model")
    expected = load_syncnet(file)[0].state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())


class Hostile:
    """Would write a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_wrong_files_are_refused(published, tmp_path):
    good = published.state_dict()

    def refused(content, match, name="bad.model"):
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=match):
            load_syncnet(tmp_path / name)

    with pytest.raises(FileNotFoundError, match=r"no SyncNet weights at .*give syncnet_v2.model"):
        load_syncnet(tmp_path / "absent.model")
    lacking = {key: value for key, value in good.items() if key != "netcnnlip.4.weight"}
    refused(lacking, r"1 tensors are missing, such as video.4.weight")
    refused(good | {"netcnnlip.99.weight": torch.zeros(1)}, r"1 belong to no layer, such as video.99.weight")
    refused(good | {"netfclip.3.weight": torch.zeros(512, 512)}, r"video_head.3.weight has shape \(512, 512\)")
    refused(good | {"netcnnlip.0.weight": torch.zeros(96, 1, 5, 7, 7)}, r"has shape \(96, 5, 7, 7\), expected \(96, 15")
    refused({"features.0.weight": torch.zeros(3)}, "is not SyncNet v2: it has 'features.0.weight'")
    refused([1, 2], "holds list; expected a plain dictionary of tensors")
    (tmp_path / "text.model").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"text.model is a web page"):
        load_syncnet(tmp_path / "text.model")
    (tmp_path / "hostile.model").write_bytes(pickle.dumps({"a": Hostile(tmp_path / "ran")}, protocol=2))
    with pytest.raises(ValueError, match="is no plain dictionary of tensors"):
        load_syncnet(tmp_path / "hostile.model")
    refused({"a": Hostile(tmp_path / "ran")}, "is no plain dictionary of tensors")
    assert not (tmp_path / "ran").exists()


def test_safetensors_of_another_network_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="was not written by lipbench"):
        load_syncnet(tmp_path / "other.safetensors")
    network = small()
    network.audio[1] = nn.Conv1d(13, 65, 3)
    save(network, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=r"audio.1.bias has shape \(65,\) .*, expected \(64,\)"):
        load_syncnet(tmp_path / "odd.safetensors")
