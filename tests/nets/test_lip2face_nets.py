"""DualLip's lip-to-face network: its size, what each frame depends on, clips in parts."""

import torch
from torch import nn

from lipbench.nets.lip2face import LipToFaceNet

LENGTHS = torch.tensor([5, 3])


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small() -> LipToFaceNet:
    torch.manual_seed(0)
    return LipToFaceNet(12, 9, 4, 6, 10, 0.0, (5, 6), (6, 5, 4, 4)).eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Faces of all valid frames, text features, which frames are valid."""
    draw = torch.Generator().manual_seed(1)
    valid = torch.arange(5) < LENGTHS[:, None]
    return torch.rand(8, 6, 12, 12, generator=draw), torch.randn(2, 5, 6, generator=draw), valid


def test_sizes_follow_song_et_al() -> None:
    """Their code's features of 512 and GRU of 1024: 4.5 M in the image encoder, 20 M in the decoder at 128x128."""
    with torch.device("meta"):
        net = LipToFaceNet(128, 30, 256, 512, 1024, 0.5, (16, 32, 64, 128), (256, 196, 128, 80, 48, 16))
    sizes = {name: count(part) for name, part in net.named_children()}
    assert sizes["rnn"] == 3 * 1024 * (1024 + 1024 + 2)
    convs = 25 * (6 * 16 + 16 * 32 + 32 * 64 + 64 * 128) + 3 * (16 + 32 + 64 + 128)  # with biases and BatchNorms
    assert sizes["image_encoder"] == convs + (128 * 8 * 8 + 1) * 512
    deconvs = 25 * ((256 + 128) * 196 + (196 + 64) * 128 + (128 + 32) * 80 + (80 + 16) * 48 + 48 * 16 + 16 * 3)
    biases_and_norms = 3 * (196 + 128 + 80 + 48 + 16) + 3
    assert sizes["image_decoder"] == deconvs + biases_and_norms + (1024 + 1) * 256 * 8 * 8
    assert count(net) == 35_594_591


def test_a_frame_depends_on_its_face_the_frames_before_and_nothing_else() -> None:
    net, (faces, text, valid) = small(), inputs()
    made, _ = net(faces, text, valid)
    assert made.shape == (8, 3, 12, 12)
    for place in (2, 6):  # the third frame of the first clip, the second one of the second
        other = faces.clone()
        other[place] = 1 - other[place]
        changed = (net(other, text, valid)[0] - made).abs().amax(dim=(1, 2, 3))
        last = 5 if place < 5 else 8
        assert (changed[place:last] > 1e-6).all()
        assert changed[:place].max() == 0
        assert last == 8 or changed[last:].max() == 0
    spoken = text.clone()
    spoken[0, 3] += 1
    changed = (net(faces, spoken, valid)[0] - made).abs().amax(dim=(1, 2, 3))
    assert (changed[3:5] > 1e-6).all()
    assert changed[:3].max() == changed[5:].max() == 0


def test_clips_in_parts_equal_whole_clips() -> None:
    net, (faces, text, valid) = small(), inputs()
    whole, _ = net(faces, text, valid)
    first, state = net(faces[[0, 1, 5, 6]], text[:, :2], valid[:, :2])
    second, _ = net(faces[[2, 3, 4, 7]], text[:, 2:], valid[:, 2:], state)
    torch.testing.assert_close(first, whole[[0, 1, 5, 6]], rtol=0, atol=1e-6)
    torch.testing.assert_close(second, whole[[2, 3, 4, 7]], rtol=0, atol=1e-6)
