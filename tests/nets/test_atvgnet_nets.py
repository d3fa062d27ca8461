"""ATVGnet's networks: published counts and shapes, recurrence over time, attention, landmarks.

Beside the authors' own code with the same random weights in double precision, all three agree to 2e-7 (outputs are
float32) where their recurrence is set to run over time; as published, VG_net agrees at one step of one clip.
"""

import pytest
import torch
from scipy.spatial import procrustes

from lipbench.media import geometry
from lipbench.nets.atvgnet import (
    AudioToLandmarks,
    ConvGRU,
    LandmarkDiscriminator,
    LandmarksToVideo,
    in_pixels,
    normalize,
)
from lipbench.nets.convolutions import initialize_he


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_published_counts_and_shapes():
    with torch.device("meta"):
        reader, generator, discriminator = AudioToLandmarks(), LandmarksToVideo(), LandmarkDiscriminator()
        assert count(reader) == 30_071_750
        assert count(generator) == 58_355_781
        unread = 1024 * 512 + 512 + 512 * 136 + 136
        assert count(discriminator) == 21_491_473 - unread
        assert reader(torch.zeros(2, 6), torch.zeros(2, 16, 28, 12))[0].shape == (2, 16, 6)
        made = generator(torch.zeros(2, 3, 128, 128), torch.zeros(2, 16, 68, 2), torch.zeros(2, 68, 2))
        assert made.video.shape == made.color.shape == (2, 16, 3, 128, 128)
        assert made.attention.shape == (2, 16, 1, 128, 128)
        assert made.motion.shape == (2, 16, 1, 32, 32)
        logits, landmarks = discriminator(made.video, torch.zeros(2, 68, 2))
        assert logits.shape == (2,)
        assert landmarks.shape == (2, 16, 68, 2)


def test_landmarks_follow_audio_in_time():
    torch.manual_seed(0)
    network = AudioToLandmarks(width=2, hidden=4, layers=1).eval()
    initialize_he(network)  # 0.02 leaves differences below float32's resolution in a network this small
    identity, audio = torch.randn(2, 6), torch.randn(2, 5, 28, 12)
    out, _ = network(identity, audio)
    assert out.shape == (2, 5, 6)
    assert out.dtype == torch.float32
    other = audio.clone()
    other[1, 2] = 0
    changed = (network(identity, other)[0] - out).abs().amax(dim=2) > 0
    assert changed.tolist() == [[False] * 5, [False, False, True, True, True]]
    assert (network(-identity, audio)[0] != out).any()
    first, state = network(identity, audio[:, :2])
    rest, _ = network(identity, audio[:, 2:], state)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), out)
    assert not torch.allclose(network(identity, audio[:, 2:])[0], rest)


def test_components_are_those_of_motion_within_clips():
    """Two made-up ways to move, of which one is faster, in clips of speakers that differ much more."""
    torch.manual_seed(0)
    network = AudioToLandmarks(components=2, width=1, hidden=1)
    slow, fast = torch.zeros(68, 2), torch.zeros(68, 2)
    slow[0, 0], fast[48:, 1] = 1, -1
    speakers = torch.randn(5, 1, 68, 2)
    time = torch.arange(12.0)[:, None, None]
    clips = speakers + 0.1 * slow * (time % 2 - 0.5) + fast * (time % 3 - 1)
    network.fit_basis(clips)
    torch.testing.assert_close(network.mean, clips.mean((0, 1)))
    torch.testing.assert_close(network.basis[0], -fast / 20**0.5, rtol=0, atol=1e-4)  # the largest entry is positive
    torch.testing.assert_close(network.basis[1], slow, rtol=0, atol=1e-4)
    torch.testing.assert_close(network.coefficients(network.mean + 3 * network.basis[1]), torch.tensor([0.0, 3.0]))
    # One frame of a clip and the components of the others give the others, the speaker's own shape included.
    known, wanted = clips[:, 0], network.coefficients(clips)
    torch.testing.assert_close(network.moved(known, wanted), clips, rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.coefficients(clips), wanted)
    with pytest.raises(ValueError, match="need clips, found none"):
        network.fit_basis([])


def test_normalized_landmarks_have_the_published_scale():
    top, left, _, _ = geometry.box("face")
    points = torch.from_numpy(geometry.TEMPLATE) + torch.tensor([left, top])
    scaled = normalize(points)
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled.mean(0), torch.zeros(2), rtol=0, atol=1e-6)
    assert torch.linalg.vector_norm(scaled).item() == pytest.approx(5, abs=1e-5)
    # Beside SciPy's analysis of the same points against themselves, as the published preparation calls it.
    expected, _, _ = procrustes(points.numpy(), points.numpy())
    torch.testing.assert_close(scaled, torch.from_numpy(5 * expected).float())
    torch.testing.assert_close(in_pixels(scaled), points.float())


def test_audio_windows_have_one_shape():
    with pytest.raises(ValueError, match=r"28 steps x 12, found \(35, 12\)"):
        AudioToLandmarks(width=1, hidden=1)(torch.zeros(1, 6), torch.zeros(1, 2, 35, 12))


def test_conv_gru_on_single_pixels_is_pytorchs_gru():
    torch.manual_seed(0)
    ours, reference = ConvGRU(3, 4, dilation=2).double(), torch.nn.GRU(3, 4, batch_first=True).double()
    ours.reset_parameters()
    reference.weight_ih_l0.data = ours.input.weight.data[:, :, 1, 1].clone()
    reference.weight_hh_l0.data = ours.state.weight.data[:, :, 1, 1].clone()
    reference.bias_ih_l0.data, reference.bias_hh_l0.data = ours.input.bias.data, ours.state.bias.data
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(x[..., None, None])[..., 0, 0], reference(x)[0])
    assert ours(torch.zeros(2, 5, 3, 6, 7, dtype=torch.float64)).shape == (2, 5, 4, 6, 7)
    assert ours.input.weight.abs().max() <= 0.5


def small_generator():
    torch.manual_seed(0)
    network = LandmarksToVideo(32, width=4, blocks=1).eval()
    return network, torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 4, 68, 2), torch.randn(2, 68, 2)


def test_recurrence_runs_over_time_and_not_over_the_batch():
    """The published one ran over the samples of a batch."""
    network, identity, landmarks, still = small_generator()
    initialize_he(network)
    network.gru.reset_parameters()
    video = network(identity, landmarks, still).video
    other = landmarks.clone()
    other[0, 1] = 0
    changed = (network(identity, other, still).video - video).abs().amax(dim=(2, 3, 4)) > 0
    assert changed.tolist() == [[False, True, True, True], [False] * 4]
    first = network(identity, landmarks[:, :3], still)
    rest = network(identity, landmarks[:, 3:], still, first.state)
    torch.testing.assert_close(torch.cat([first.video, rest.video], dim=1), video)
    assert not torch.allclose(network(identity, landmarks[:, 3:], still).video, rest.video)


def test_attention_mixes_color_and_the_identity_image():
    network, identity, landmarks, still = small_generator()
    made = network(identity, landmarks, still)
    expected = made.attention * made.color + (1 - made.attention) * identity[:, None]
    torch.testing.assert_close(made.video, expected)
    network.attention.weight.data.zero_()
    network.attention.bias.data.fill_(-100)
    torch.testing.assert_close(network(identity, landmarks, still).video, identity[:, None].expand(-1, 4, -1, -1, -1))


def test_all_parameters_train():
    network, identity, landmarks, still = small_generator()
    discriminator = LandmarkDiscriminator(32, 2, 4)
    video = network.train()(identity, landmarks, still).video
    logits, shown = discriminator(video, still)
    (logits.sum() + shown.square().sum()).backward()
    assert logits.shape == (2,)
    assert shown.shape == (2, 4, 68, 2)
    for part in (network, discriminator):
        assert all(p.grad is not None for p in part.parameters())


def test_discriminator_adds_motion_to_the_identity_landmarks():
    discriminator = LandmarkDiscriminator(16, 1, 2).eval()
    torch.nn.init.zeros_(discriminator.motion.weight)
    torch.nn.init.zeros_(discriminator.motion.bias)
    still = torch.randn(3, 68, 2)
    logits, shown = discriminator(torch.rand(3, 5, 3, 16, 16), still)
    torch.testing.assert_close(shown, still[:, None].expand(-1, 5, -1, -1))
    assert logits.dtype == shown.dtype == torch.float32


def test_initialization_is_the_published_one():
    torch.manual_seed(0)
    network = LandmarksToVideo(32, width=16, blocks=1)
    assert network.decoder[0].layers[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert network.landmark_features[1].weight.mean().item() == pytest.approx(1, abs=0.01)
    assert network.gru.state.weight.abs().max().item() == pytest.approx(128**-0.5, rel=0.01)
    reader = AudioToLandmarks(width=2, hidden=64)
    assert reader.out.bias.abs().max() == 0
    assert reader.lstm.weight_hh_l0.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)


@pytest.mark.parametrize(("size", "width"), [(40, 4), (32, 3)])
def test_errors_name_size_and_width(size, width):
    with pytest.raises(ValueError, match=f"found {size} and {width}"):
        LandmarksToVideo(size, width)


def test_images_of_another_size_are_refused():
    network, _, landmarks, still = small_generator()
    with pytest.raises(ValueError, match=r"32 pixels a side, found \(3, 64, 64\)"):
        network(torch.zeros(2, 3, 64, 64), landmarks, still)
    with pytest.raises(ValueError, match="16 n pixels a side, found 24"):
        LandmarkDiscriminator(24)
