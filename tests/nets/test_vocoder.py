"""Vocoders: HiFi-GAN's sizes and lengths, its published files, and Griffin-Lim on a rendered sentence."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lipbench.media import audio
from lipbench.media.speech_features import MelDefinition, log_mels
from lipbench.nets.vocoder import HifiGAN, griffin_lim
from lipbench.pretrained import hifigan, weights
from lipbench.synthetic import voice

V1 = {"upsample_rates": (8, 8, 2, 2), "upsample_kernels": (16, 16, 4, 4), "rate": 22_050}
SMALL = {"upsample_rates": (4, 2), "upsample_kernels": (8, 4), "width": 8, "kernels": (3, 5)}
SMALL |= {"dilations": ((1, 3), (1, 2)), "rate": 4000, "fft": 64, "window": 64, "mels": 6, "high": 2000.0}
PUBLISHED = (  # ours -> published
    ("first.", "conv_pre."),
    ("last.", "conv_post."),
    ("upsamplings.", "ups."),
    ("residuals.", "resblocks."),
)


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("arguments", "folded", "published"),
    [
        (V1, 13_926_017, 13_936_130),  # the paper's 13.92 M
        ({**V1, "width": 128}, 925_985, 928_514),  # 0.92 M
        (
            {
                **{"upsample_rates": (8, 8, 4), "upsample_kernels": (16, 16, 8), "width": 256, "kernels": (3, 5, 7)},
                **{"dilations": ((1, 2), (2, 6), (3, 12)), "blocks": "2", "rate": 22_050},
            },
            1_462_273,  # 1.46 M
            1_464_322,
        ),
    ],
    ids=["v1", "v2", "v3"],
)
def test_parameters_are_those_of_the_paper(arguments, folded, published):
    with torch.device("meta"):
        net = HifiGAN(**arguments)
        assert net.definition.hop == 256
        assert count(net) == folded
        convolutions = [part for part in net.modules() if isinstance(part, nn.Conv1d | nn.ConvTranspose1d)]
        assert folded + sum(part.weight.shape[0] for part in convolutions) == published  # with weight norm's lengths


@pytest.mark.parametrize("blocks", ["1", "2"])
def test_a_step_becomes_hop_samples(blocks):
    net = HifiGAN(width=16, kernels=(3,), dilations=((1, 2),), blocks=blocks)
    assert net.definition == MelDefinition()
    made = net(torch.randn(2, 7, 80))
    assert made.shape == (2, 7 * 160)
    assert made.abs().max() <= 1
    mels = torch.randn(7, 80)
    assert torch.equal(net.waveform(mels, 1000), net(mels[None])[0, :1000])
    longer = net.waveform(mels, 1200)
    assert longer.shape == (1200,)
    assert longer[1120:].abs().sum() == 0


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="upsample_rates has 5 with a kernel of 10; expected one that is larger by an"):
        HifiGAN(upsample_kernels=(10, 8, 8, 4))
    with pytest.raises(ValueError, match="width is 24; expected a multiple of 16"):
        HifiGAN(width=24)


# ---------------------------------------------------------------------------------------------------- published files


def publish(folder, net, **other):
    """Write a network as the published code does: weight norm's directions and lengths, and config.json."""
    state = {}
    for name, part in net.named_modules():
        if isinstance(part, nn.Conv1d | nn.ConvTranspose1d):
            theirs = f"{name}."
            for ours, published in PUBLISHED:
                theirs = theirs.replace(ours, published)
            first = "convs1" if net.arguments["blocks"] == "1" else "convs"
            theirs = theirs.replace("dilated", first).replace("plain", "convs2")
            length = torch.rand(part.weight.shape[0], 1, 1) + 0.5
            state[f"{theirs}weight_g"], state[f"{theirs}weight_v"] = length, part.weight.detach().clone()
            state[f"{theirs}bias"] = part.bias.detach().clone()
            normalized = weight_norm(part)  # PyTorch's, whose weights are the expected ones
            normalized.parametrizations.weight.original0.data.copy_(length)
    path = folder / "g_00000100"
    torch.save({"generator": state}, path)
    config = {theirs: net.arguments[ours] for theirs, ours in hifigan._ARGUMENTS.items()}
    (folder / "config.json").write_text(json.dumps({**config, "hop_size": net.definition.hop, "seed": 1, **other}))
    return path


@pytest.mark.parametrize("blocks", ["1", "2"])
def test_reads_a_published_generator(tmp_path, blocks):
    torch.manual_seed(0)
    net = HifiGAN(**SMALL, blocks=blocks)
    path = publish(tmp_path, net)
    loaded = hifigan.load_hifigan(path)
    assert loaded.arguments == net.arguments
    mels = torch.randn(2, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(loaded(mels), net(mels), rtol=0, atol=1e-6)
        assert loaded(mels).std() > 1e-3


def test_says_what_a_published_file_lacks(tmp_path):
    torch.manual_seed(0)
    path = publish(tmp_path, HifiGAN(**SMALL))
    state = torch.load(path, weights_only=True)["generator"]
    config = (tmp_path / "config.json").read_text()

    def refuses(message, error=ValueError):
        with pytest.raises(error, match=message):
            hifigan.load_hifigan(path)
        torch.save({"generator": state}, path)
        (tmp_path / "config.json").write_text(config)

    torch.save({"generator": {key: value for key, value in state.items() if key != "ups.0.weight_g"}}, path)
    refuses("holds ups.0.weight_v and no ups.0.weight_g")
    torch.save({"generator": {key: value for key, value in state.items() if "conv_post" not in key}}, path)
    refuses("2 tensors are missing, such as last.bias")
    torch.save(state, path)
    refuses("expected a checkpoint with tensors in its entry 'generator'")
    (tmp_path / "config.json").write_text(json.dumps({"hop_size": 8}))
    refuses("config.json describes no HiFi-GAN generator: KeyError: 'upsample_rates'")
    (tmp_path / "config.json").write_text(json.dumps({**json.loads(config), "hop_size": 9}))
    refuses("has a hop_size of 9, and upsample_rates that make 8")
    (tmp_path / "config.json").unlink()
    refuses(r"no .*config.json: the weights of g_00000100 do not say their rate and hop", FileNotFoundError)


def test_a_weights_file_holds_a_vocoder_without_a_view(tmp_path):
    torch.manual_seed(0)
    net = HifiGAN(**SMALL)
    card = weights.save(tmp_path / "v.safetensors", net, arguments=net.arguments, view=None, trained_on="nothing")
    assert card.view is None
    loaded, _ = weights.load(tmp_path / "v.safetensors", HifiGAN)
    assert loaded.definition == net.definition == MelDefinition(4000, 64, 64, 8, 6, 0.0, 2000.0)
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, net.state_dict()[key], rtol=1e-3, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- Griffin-Lim


def test_griffin_lim_gives_a_spoken_sentence_back():
    """Silence is 6.8 away from this sentence, and what comes back half a hop late 0.25 (measured)."""
    spoken = voice.speak(["bin", "blue", "at", "f", "two", "now"], voice.Voice("en-us", 175, 50, 50))
    sound = torch.from_numpy(audio.resample(spoken.samples, voice.RATE, 16_000))[None]  # (1, S)
    length, steps = torch.tensor([sound.shape[1]]), sound.shape[1] // 160
    mels = log_mels(sound, length, steps, MelDefinition())[0]
    made = griffin_lim(mels, sound.shape[1], MelDefinition())
    assert made.shape == (sound.shape[1],)
    assert made.dtype == torch.float32
    again = log_mels(made[None], length, steps, MelDefinition())[0]
    assert (again - mels).abs().mean() < 0.22
    assert torch.equal(griffin_lim(mels[:50], 8100, MelDefinition()), griffin_lim(mels[:50], 8100, MelDefinition()))
