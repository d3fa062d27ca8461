"""weights convert as it is typed: published files of every network become lipbench's, hostile ones nothing."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from hostile import Hostile

from lipbench.media import text
from lipbench.nets import avhubert, conformer, lipnet, syncnet, vocoder
from lipbench.pretrained import networks, weights
from lipbench.pretrained.networks import load_syncnet
from lipbench.types import View


class Dictionary:
    """Stands for fairseq's, which lies in every checkpoint beside the tensors."""

    def __init__(self):
        self.symbols = ["<s>"]


@pytest.fixture(scope="module")
def avhubert_file(tmp_path_factory):
    """A checkpoint as fairseq saves it, with random weights under the published names, of a width that is small."""
    names = json.loads((Path(__file__).parents[1] / "reference" / "avhubert.json").read_text())["tensors"]
    small = {768: 32, 1536: 64, 3072: 24, 1000: 7, 128: 16, 48: 8}
    torch.manual_seed(0)
    tensors = {}
    for name, shape in names.items():
        in_resnet = ".resnet." in name
        for k in range(1 if name.startswith("decoder.") else 2):
            size = shape if in_resnet else [small.get(n, n) for n in shape]
            made = 0.1 * torch.randn(size).half()
            tensors[name.format(k=k)] = made.abs() + 1 if name.endswith("running_var") else made
            if name.endswith("num_batches_tracked"):
                tensors[name] = torch.tensor(7)
    path = tmp_path_factory.mktemp("published") / "tiny_433h.pt"
    content = {"args": None, "cfg": {"model": {"_name": "av_hubert_seq2seq"}}, "model": tensors}
    torch.save(content | {"task_state": {"target_dictionary": Dictionary()}}, path)
    return path


@pytest.fixture
def dictionary(tmp_path, monkeypatch):
    """The units of that checkpoint; and its width counts as a published one."""
    monkeypatch.setitem(networks._AVHUBERT_HEADS, 32, (4, 2))
    path = tmp_path / "dict.wrd.txt"
    path.write_text("\u2581the 1\ns 12\n\u2581o f 3\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def conformer_files(tmp_path_factory):
    """Random weights under the names of both published Conformers, small: of 8 symbols, and of TalkLip's characters."""
    published = json.loads((Path(__file__).parents[1] / "reference" / "conformer.json").read_text("utf-8"))
    torch.manual_seed(0)
    files = {}
    for layout, name in (("auto_avsr", "vsr_small.pth"), ("talklip", "conformer_small.pt")):
        tensors = {}
        for key, shape in published[layout]["tensors"].items():
            written = layout == "talklip" and key.startswith(("ctc.", "decoder.embed.", "decoder.output_layer."))
            made = 0.1 * torch.randn([40, *shape[1:]] if written else shape)
            tensors[key] = made.abs() + 1 if key.endswith("running_var") else made
            if key.endswith("num_batches_tracked"):
                tensors[key] = torch.tensor(7)
        files[layout] = tmp_path_factory.mktemp("published") / name
        torch.save(tensors, files[layout])
    return files


def test_convert_syncnet(told, places, syncnet_file):
    code, out, err = told("convert", "syncnet", syncnet_file, places / "judge.safetensors")
    assert (code, err) == (0, "")
    digest = hashlib.sha256(syncnet_file.read_bytes()).hexdigest()
    net, _ = load_syncnet(places / "judge.safetensors")
    card = weights.read_card(places / "judge.safetensors")
    assert isinstance(net, syncnet.SyncNetV2)
    assert card.sha256 in out
    assert f"--evaluator.files.syncnet {places}/judge.safetensors" in out
    assert f"Converted from syncnet_v2.model, sha256 {digest}" in card.trained_on
    assert "License of its code: MIT, of its weights: not stated" in card.trained_on
    assert card.view == View("syncnet", 224, 224)
    expected = load_syncnet(syncnet_file)[0].state_dict()
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-6)
    assert told("verify", places / "judge.safetensors")[0] == 0


def test_convert_lipnet(told, places, lipnet_file):
    assert told("convert", "lipnet", lipnet_file, "reader.safetensors")[0] == 0
    net, card = weights.load("reader.safetensors", lipnet.LipNet)
    assert card.vocabulary == text.SYMBOLS
    assert card.view == View("mouth", 64, 128)
    assert "data: GRID, CC BY 4.0" in card.trained_on
    stored = torch.load(lipnet_file, weights_only=True)
    torch.testing.assert_close(net.convs[0].weight, stored["conv1.weight"].flip(1), rtol=1e-3, atol=1e-6)
    from lipbench.scoring.observers import Reader

    assert Reader("reader.safetensors").judge.startswith("lipnet.LipNet sha256 ")  # the bank takes it


def test_convert_avhubert(told, places, avhubert_file, dictionary):
    words = ("convert", "avhubert", avhubert_file, "reader.safetensors", "--vocabulary", dictionary)
    code, out, err = told(*words)
    assert (code, err) == (0, "")
    assert "unverified" in out
    assert "--evaluator.files.transcript reader.safetensors" in out
    net, card = weights.load("reader.safetensors", avhubert.AVHubert)
    assert card.vocabulary == ("<s>", "<pad>", "</s>", "<unk>", "\u2581the", "s", "\u2581o f")
    assert card.view == View("avhubert_mouth", 96, 96)
    assert "code: AV-HuBERT License Agreement, NON-COMMERCIAL RESEARCH ONLY" in card.trained_on
    sizes = ("width", "layers", "heads", "ffn", "position_kernel", "position_groups", "decoder_layers", "decoder_heads")
    assert [net.arguments[key] for key in sizes] == [32, 2, 4, 24, 16, 4, 1, 2]
    assert (net.padding, net.end, net.beam, net.length_penalty) == (1, 2, 50, 1.0)
    stored = torch.load(avhubert_file, weights_only=False)["model"]
    for own, published in (
        ("trunk.blocks.3.conv2", "encoder.w2v_model.feature_extractor_video.resnet.trunk.layer2.1.conv2"),
        ("trunk.blocks.2.shortcut.1", "encoder.w2v_model.feature_extractor_video.resnet.trunk.layer2.0.downsample.1"),
        ("blocks.1.attention.query", "encoder.w2v_model.encoder.layers.1.self_attn.q_proj"),
        ("fusion", "encoder.w2v_model.post_extract_proj"),
        ("norm", "encoder.w2v_model.encoder.layer_norm"),
        ("fusion_norm", "encoder.w2v_model.layer_norm"),
        ("decoder.blocks.0.memory_attention.value", "decoder.layers.0.encoder_attn.v_proj"),
        ("decoder.norm", "decoder.layer_norm"),
    ):
        found = net.get_parameter(f"{own}.weight")
        torch.testing.assert_close(found, stored[f"{published}.weight"].float(), rtol=1e-3, atol=1e-5)
    from lipbench.scoring.readers import LipReader

    (read,) = LipReader.load("reader.safetensors").read(torch.rand(1, 3, 3, 96, 96), torch.tensor([3]))
    assert read is not None
    assert set(read.replace(" ", "")) <= set("theosf")
    assert told("verify", "reader.safetensors")[0] == told("verify", avhubert_file)[0] == 0


def test_convert_avhubert_says_what_it_needs(told, places, avhubert_file, dictionary):
    Path("short.txt").write_text("a 1\n")
    Path("torn.txt").write_text("a 1\nb\n")
    Path("twice.txt").write_text("a 1\nb 1\na 1\n")
    Path("latin.txt").write_bytes(b"\xe9 1\n")
    stored = torch.load(avhubert_file, weights_only=False)
    before = "encoder.w2v_model."
    pretrained = {key.removeprefix(before): value for key, value in stored["model"].items() if key.startswith(before)}
    torch.save({"model": pretrained}, "base_vox_iter5.pt")
    torch.save({"model": {"weight": torch.zeros(2)}}, "other_433h.pt")
    torch.save({"args": None, "epoch": 3}, "empty_433h.pt")
    file = str(avhubert_file)
    refused = {
        (file, None): (2, "avhubert needs --vocabulary dict.wrd.txt: its weights do not say which units"),
        (file, "none.txt"): (1, "no list of units at none.txt"),
        (file, "short.txt"): (1, "it has 5 symbols with the 4 that fairseq adds, and the network writes 7"),
        (file, "torn.txt"): (1, "torn.txt, line 2: found 'b', expected a unit, a space and a number"),
        (file, "twice.txt"): (1, "'a' stands twice"),
        (file, "latin.txt"): (1, "no text in UTF-8"),
        ("base_vox_iter5.pt", dictionary): (1, "an AV-HuBERT of pre-training, which has no decoder"),
        ("other_433h.pt", dictionary): (1, "no fine-tuned AV-HuBERT: it has no decoder.embed_tokens.weight"),
        ("empty_433h.pt", dictionary): (1, "holds args, epoch; expected a checkpoint with tensors in its entry"),
    }
    for (source, symbols), (expected, message) in refused.items():
        options = [] if symbols is None else ["--vocabulary", symbols]
        code, _, err = told("convert", "avhubert", source, "out.safetensors", *options)
        assert code == expected, err
        assert message in err
        assert err.count("\n") == 1
    code, _, err = told("convert", "lipnet", file, "out.safetensors", "--vocabulary", dictionary)
    assert (code, "--vocabulary belongs to avhubert, conformer and mvm, not to lipnet" in err) == (2, True)
    assert told("list", "--vocabulary", dictionary)[0] == 2
    assert not Path("out.safetensors").exists()


def test_convert_hifigan(told, places):
    """A generator without weight normalization, as the published code has it after `remove_weight_norm`."""
    sizes = {"upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 4], "upsample_initial_channel": 8, "hop_size": 8}
    sizes |= {"resblock": "2", "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 2]], "sampling_rate": 4000}
    sizes |= {"n_fft": 64, "win_size": 64, "num_mels": 6, "fmin": 0, "fmax": 2000}
    shapes = {"conv_pre": (8, 6, 7), "ups.0": (8, 4, 8), "ups.1": (4, 2, 4), "conv_post": (1, 2, 7)}
    shapes |= {f"resblocks.{k}.convs.{j}": (4 // (k + 1), 4 // (k + 1), 3) for k in (0, 1) for j in (0, 1)}
    torch.manual_seed(0)
    tensors = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": torch.randn(shape[name.startswith("ups")]) for name, shape in shapes.items()}
    torch.save({"generator": tensors}, "g_00000100")
    code, _, err = told("convert", "hifigan", "g_00000100", "vocoder.safetensors")
    assert (code, "config.json: the weights of g_00000100 do not say their rate and hop" in err) == (1, True)
    Path("config.json").write_text(json.dumps(sizes))
    code, out, err = told("convert", "hifigan", "g_00000100", "vocoder.safetensors")
    assert (code, err) == (0, "")
    assert "use: --model.vocoder vocoder.safetensors" in out
    assert "unverified" in out
    net, card = weights.load("vocoder.safetensors", vocoder.HifiGAN)
    assert card.view is None
    assert "License of its code: MIT, of its weights: not stated" in card.trained_on
    assert str(net.definition) == "4,000 Hz, FFT 64, window 64, hop 8, 6 mels from 0 to 2,000 Hz"
    stored = tensors["resblocks.1.convs.0.weight"]
    torch.testing.assert_close(net.residuals[1].dilated[0].weight, stored, rtol=1e-3, atol=1e-6)
    assert told("verify", "g_00000100")[0] == told("verify", "vocoder.safetensors")[0] == 0
    (places / "home" / "weights").mkdir(parents=True)
    Path("vocoder.safetensors").rename(places / "home" / "weights" / "vocoder.safetensors")
    assert "vocoder.HifiGAN, no view\n" in told("list")[1]


def test_convert_conformer(told, places, conformer_files):
    units = "".join(f"{unit} {k}\n" for k, unit in enumerate(("<unk>", "'", "\u2581B", "\u2581A", "IN", "T"), 1))
    Path("units.txt").write_text(units, "utf-8")
    file = conformer_files["auto_avsr"]
    code, out, err = told("convert", "conformer", file, "reader.safetensors", "--vocabulary", "units.txt")
    assert (code, err) == (0, "")
    assert "unverified" in out
    assert "--evaluator.files.transcript reader.safetensors" in out
    net, card = weights.load("reader.safetensors", conformer.Conformer)
    assert card.vocabulary == ("<blank>", "<unk>", "'", "\u2581B", "\u2581A", "IN", "T", "<eos>")
    assert card.view == View("avhubert_mouth", 96, 96)
    assert "License of its code: Apache-2.0" in card.trained_on
    assert (net.end, net.margin, net.beam, net.ctc_weight) == (7, 4, 40, 0.1)
    stored = torch.load(file, weights_only=True)["encoder.encoders.0.conv_module.pointwise_cov1.weight"]
    found = net.get_parameter("encoder.blocks.0.convolution.gated.weight")
    torch.testing.assert_close(found, stored[:, :, 0], rtol=1e-3, atol=1e-5)
    from lipbench.scoring.readers import LipReader

    (read,) = LipReader.load("reader.safetensors").read(torch.rand(1, 3, 3, 96, 96), torch.tensor([3]))
    assert read is not None
    assert set(read.replace(" ", "")) <= set("'bant i")
    assert told("verify", "reader.safetensors")[0] == told("verify", file)[0] == 0


def test_convert_conformer_of_talklip(told, places, conformer_files):
    file = conformer_files["talklip"]
    code, out, err = told("convert", "conformer-talklip", file, "reader.safetensors")
    assert (code, err) == (0, "")
    assert "--evaluator.files.teacher_forced reader.safetensors" in out
    net, card = weights.load("reader.safetensors", conformer.Conformer)
    assert (len(card.vocabulary), card.vocabulary[:4], card.vocabulary[-1]) == (40, ("<blank>", " ", "E", "T"), "<eos>")
    assert (str(card.view), net.end, net.margin) == ("lrs2_mouth 112x112", 39, 0)
    from lipbench.scoring.observers import TeacherForced
    from lipbench.scoring.readers import LipReader

    assert TeacherForced("reader.safetensors").judge.startswith("conformer.Conformer sha256 ")
    (read,) = LipReader.load("reader.safetensors").force(
        torch.rand(1, 2, 3, 112, 112), torch.tensor([2]), ["bin blue at 2"]
    )
    assert len(read) <= len("bin blue at 2")
    assert told("verify", file)[0] == 0


def test_convert_conformer_says_what_it_needs(told, places, conformer_files):
    Path("short.txt").write_text("a 1\n")
    Path("twice.txt").write_text("".join(f"{unit} 1\n" for unit in "abcdea"))
    Path("end.txt").write_text("".join(f"{unit} 1\n" for unit in ("a", "b", "c", "d", "e", "<eos>")))
    own, other = conformer_files["auto_avsr"], conformer_files["talklip"]
    tensors = torch.load(other, weights_only=True)
    torch.save({key: value[:8] if value.shape[:1] == (40,) else value for key, value in tensors.items()}, "eight.pt")
    torch.save({key: value for key, value in tensors.items() if "src_attn" not in key}, "torn.pt")
    refused = {
        ("conformer", own, None): (2, "conformer needs --vocabulary unigram5000_units.txt"),
        ("conformer", own, "short.txt"): (
            1,
            "it has 3 symbols with the 2 that Auto-AVSR adds, and the network writes 8",
        ),
        ("conformer", own, "twice.txt"): (1, "'a' stands twice"),
        ("conformer", own, "end.txt"): (1, "'<eos>' stands twice, with the 2 that Auto-AVSR adds"),
        ("conformer", other, "short.txt"): (1, "of the layout 'talklip', where 'auto_avsr' is wanted"),
        ("conformer-talklip", own, None): (1, "of the layout 'auto_avsr', where 'talklip' is wanted"),
        ("conformer-talklip", own, "short.txt"): (2, "--vocabulary belongs to avhubert, conformer and mvm, not to"),
        ("conformer-talklip", "eight.pt", None): (1, "has 8 outputs; TalkLip's reader writes 40 symbols"),
        ("conformer-talklip", "torn.pt", None): (1, "8 tensors are missing, such as decoder.blocks.0.memory_attention"),
    }
    for (name, source, vocabulary), (expected, message) in refused.items():
        options = [] if vocabulary is None else ["--vocabulary", vocabulary]
        code, _, err = told("convert", name, source, "out.safetensors", *options)
        assert code == expected, err
        assert message in err
        assert err.count("\n") == 1
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize("name", ["syncnet", "lipnet", "conformer-talklip"])
def test_convert_refuses_what_does_not_fit(told, places, name):
    torch.save({"features.0.weight": torch.zeros(3)}, "alexnet.pth")
    torch.save([1, 2], "list.pth")
    torch.save({"epoch": 3, "state_dict": {}}, "checkpoint.pth")
    Path("page.pth").write_text("<html>sorry</html>")
    Path("empty.pth").touch()
    expected = {
        "alexnet.pth": "features.0.weight",
        "list.pth": "holds list; expected a plain dictionary of tensors",
        "checkpoint.pth": "holds dict; expected a plain dictionary of tensors",
        "page.pth": "is a web page",
        "empty.pth": "is empty",
    }
    for file, message in expected.items():
        code, out, err = told("convert", name, file, "out.safetensors")
        assert (code, out) == (1, ""), file
        assert message in err, file
        assert err.startswith("lipbench: ")
        assert err.count("\n") == 1, file
    assert sorted(path.name for path in Path().iterdir()) == sorted(expected)


def test_converting_a_hostile_checkpoint_runs_nothing_in_it(told, places, avhubert_file, dictionary):
    """What lies beside the tensors is left out; in their place it is refused."""
    stored = torch.load(avhubert_file, weights_only=False)
    torch.save(stored | {"cfg": Hostile(places / "ran")}, "beside.pt")
    torch.save({"model": {"weight": Hostile(places / "ran")}}, "inside.pt")
    torch.save(Hostile(places / "ran"), "alone.pt")
    torch.save(stored | {"cfg": Hostile(places / "ran")}, "legacy.pt", _use_new_zipfile_serialization=False)
    codes = {
        file: told("convert", "avhubert", file, f"{file}.safetensors", "--vocabulary", dictionary)[0]
        for file in ("beside.pt", "inside.pt", "alone.pt", "legacy.pt")
    }
    assert codes == {"beside.pt": 0, "inside.pt": 1, "alone.pt": 1, "legacy.pt": 1}
    assert not (places / "ran").exists()


@pytest.mark.parametrize("name", ["syncnet", "lipnet", "conformer-talklip"])
def test_converting_a_hostile_file_runs_nothing_in_it(told, places, name):
    content = {"netcnnaud.0.weight": torch.zeros(1), "x": Hostile(places / "ran")}
    torch.save(content, "zip.pth")
    torch.save(content, "legacy.pth", _use_new_zipfile_serialization=False)
    Path("plain.pth").write_bytes(pickle.dumps({"x": Hostile(places / "ran")}, protocol=2))
    for file in ("zip.pth", "legacy.pth", "plain.pth"):
        code, _, err = told("convert", name, file, "out.safetensors")
        assert code == 1
        assert "is no plain dictionary of tensors" in err
    assert not (places / "ran").exists()
    assert not Path("out.safetensors").exists()


def test_convert_is_typed_right(told, places, syncnet_file):
    Path("there.safetensors").write_text("mine")
    refused = {
        ("alexnet", "x.pth", "x.safetensors"): (
            "alexnet is used as it is published; converted are avhubert, conformer, conformer-talklip, hifigan, "
            "lipnet, mvm and syncnet"
        ),
        ("sincnet", "x.pth", "x.safetensors"): "Did you mean 'syncnet'?",
        ("mvm", syncnet_file, "x.safetensors"): "mvm needs --vocabulary 500WordsSortedList.txt: its weights do not say",
        ("syncnet", syncnet_file, "x.pth"): "x.pth must end in .safetensors",
        ("syncnet", syncnet_file, "there.safetensors"): "is there already",
        ("syncnet", "there.safetensors", "x.safetensors"): "is no published file of syncnet",
        ("syncnet", syncnet_file): "type: lipbench weights convert NAME FILE OUT.safetensors",
    }
    for words, message in refused.items():
        code, _, err = told("convert", *words)
        assert code == 2
        assert message in err
    assert told("convert", "syncnet", "no.model", "x.safetensors")[::2] == (1, "lipbench: no file at no.model\n")
    assert Path("there.safetensors").read_text() == "mine"
