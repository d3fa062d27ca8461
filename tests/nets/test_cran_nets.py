"""Song et al.'s networks: published counts, both recurrences by a loop written out, the discriminators' shapes.

Beside the authors' own code with the same random weights (at 128 and 64 pixels, in evaluation and in training), frames
differ by up to 6e-7 in float32 with either recurrence, and gradients by a relative 5e-15 in float64; the discriminators
are equal bit by bit.
"""

import pytest
import torch

from lipbench.nets.convolutions import initialize_he
from lipbench.nets.cran import AudioEncoder, Generator, PatchDiscriminator, VideoDiscriminator, WordDiscriminator

SMALL = {
    "size": 32,
    "widths": (4, 4, 6, 8),
    "decoder_widths": (8, 8, 8, 6, 6, 4),
    "audio_widths": (2, 2, 2, 2, 4),
    "embedding": 6,
    "hidden": 10,
}


def count(module):
    return sum(p.numel() for p in module.parameters())


def small(**options):
    """A generator whose frames depend visibly on what it is given; at these widths the published weights fade."""
    torch.manual_seed(0)
    network = Generator(**(SMALL | options))
    initialize_he(network)
    return network.eval()


def inputs(frames=4):
    torch.manual_seed(1)
    return 2 * torch.rand(2, 3, 32, 32) - 1, torch.randn(2, frames, 6)


def test_published_counts():
    with torch.device("meta"):
        assert count(Generator()) == 34_922_375
        assert count(Generator(64)) == 19_181_447
        assert count(Generator(front_end="mel")) == 49_733_511
        assert count(PatchDiscriminator()) == 97_569
        assert count(VideoDiscriminator()) == 1_119_361
        assert count(WordDiscriminator()) == 5_304_308


def test_published_initialization():
    torch.manual_seed(0)
    network = Generator(32)
    assert network.decoder.stages[0][0].weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert network.image.stages[3][0].weight.std().item() == pytest.approx(0.02, rel=0.01)
    scale = network.audio.convolutions[13]
    assert scale.weight.mean().item() == pytest.approx(1, abs=0.01)
    assert scale.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert (network.image.out.bias == 0.01).all()
    assert network.gru.bias_ih_l0.std() > 0  # PyTorch's


def test_every_frame_looks_at_the_identity_image():
    network, (identity, heard) = small(), inputs()
    with torch.no_grad():
        video, memory = network(identity, heard)
        seen, maps = network.image(identity)
        state = torch.zeros(1, 2, 10)
        for frame in range(4):
            joined = torch.cat([seen, heard[:, frame]], dim=1)[:, None]
            hidden, state = network.gru(joined, state)
            torch.testing.assert_close(video[:, frame], network.decoder(hidden[:, 0], maps), rtol=0, atol=1e-6)
        torch.testing.assert_close(memory.state, state, rtol=0, atol=1e-6)
    assert video.shape == (2, 4, 3, 32, 32)
    assert video.dtype == torch.float32
    assert (video[:, 1:] != video[:, :-1]).any(dim=(2, 3, 4)).all()


def test_every_frame_looks_at_the_one_before():
    network, (identity, heard) = small(), inputs()
    with torch.no_grad():
        video, _ = network(identity, heard, identity_share=0.0)
        image, state = identity, torch.zeros(1, 2, 10)
        for frame in range(4):
            seen, maps = network.image(image)
            hidden, state = network.gru(torch.cat([seen, heard[:, frame]], dim=1)[:, None], state)
            image = network.decoder(hidden[:, 0], maps)  # and the skips are those of the image before
            torch.testing.assert_close(video[:, frame], image, rtol=0, atol=1e-6)
        assert (video[:, 1:] - network(identity, heard)[0][:, 1:]).abs().amax() > 0.01


def test_steps_draw_which_image_they_look_at(monkeypatch):
    network, (identity, heard) = small(), inputs()
    looked = []
    network.image.register_forward_pre_hook(lambda _, given: looked.append(torch.equal(given[0], identity)))
    draws = iter((0.7, 0.2, 0.4))  # the first step draws nothing
    monkeypatch.setattr(torch, "rand", lambda _: torch.tensor(next(draws)))
    with torch.no_grad():
        network(identity, heard, identity_share=0.5)
    assert looked == [True, False, True, True]


def test_no_gradient_goes_through_the_frame_before():
    network, (identity, heard) = small(), inputs(2)
    video, _ = network(identity, heard, identity_share=0.0)
    pixel = video[0, 1, 0, 5, 5]
    bias = network.decoder.to_rgb.bias
    found = torch.autograd.grad(pixel, bias, retain_graph=True)[0]
    # The bias alone under tanh; the frame before, which depends on it too, would add to all three channels.
    torch.testing.assert_close(found, torch.stack([1 - pixel.detach() ** 2, *torch.zeros(2)]))
    assert torch.autograd.grad(pixel, network.audio.out.bias, allow_unused=True)[0] is None
    heard = heard.requires_grad_()
    video, _ = network(identity, heard, identity_share=0.0)
    assert torch.autograd.grad(video[0, 1, 0, 5, 5], heard)[0][0, 0].abs().sum() > 0  # through the GRU there is one


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_pieces_are_the_whole(share):
    network, (identity, heard) = small(), inputs(5)
    with torch.no_grad():
        whole, _ = network(identity, heard, identity_share=share)
        first, memory = network(identity, heard[:, :2], None, share)
        second, _ = network(identity, heard[:, 2:], memory, share)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=0, atol=1e-6)


def test_audio_encoder_takes_both_front_ends():
    for shape, features in (((12, 35), 3 * 9), ((80, 28), 20 * 7)):
        network = AudioEncoder(shape, (2, 2, 2, 2, 4), 6)
        assert network(torch.randn(3, *shape)).shape == (3, 6)
        assert network.hidden[0].in_features == 4 * features


def test_discriminators_judge_patches_clips_and_words():
    torch.manual_seed(0)
    video = (2 * torch.rand(2, 11, 3, 32, 32) - 1).requires_grad_()
    for network, given, shape in (
        (PatchDiscriminator((2, 2, 2, 2)), video[0], (11, 1, 2, 2)),
        (VideoDiscriminator((2, 2, 2)), video, (2, 1, 3, 2, 2)),
        (WordDiscriminator(7, 32, (2, 2, 2), 8), video, (2, 7)),
    ):
        scores = network(given)
        assert scores.shape == shape
        assert torch.autograd.grad(scores.square().sum(), video)[0].abs().sum() > 0


def test_errors_name_the_sizes():
    for size in (16, 40):
        with pytest.raises(ValueError, match=rf"32, 48, 64, \.\.\. pixels a side, found {size}"):
            Generator(size)
    with pytest.raises(ValueError, match=r"4 widths, 6 decoder_widths and 5 audio_widths, found \(3, 6, 5\)"):
        Generator(widths=(4, 4, 4))
