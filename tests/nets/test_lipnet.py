import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.media import text
from lipbench.nets import lipnet
from lipbench.nets.lipnet import LipNet

SMALL = {"size": (16, 24), "widths": (4, 6, 8), "hidden": 8}


def published(net: LipNet, video: Tensor) -> Tensor:
    """The published order of layers (model.py of LipNet-PyTorch), on whole clips without padding."""
    x = video.transpose(1, 2)  # (B, 3, T, H, W)
    for conv in net.convs:
        x = F.max_pool3d(F.relu(conv(x)), (1, 2, 2))
    x = x.permute(0, 2, 1, 3, 4).flatten(2)  # (B, T, F)
    x, _ = net.back_end.gru1(x)
    x, _ = net.back_end.gru2(x)
    return net.back_end.out(x).log_softmax(2)


def test_published_parameter_count():
    """3 x conv, 2 x BiGRU of 256 over 3,072 features, 28 outputs: 6.64 M."""
    assert sum(p.numel() for p in LipNet(outputs=28).parameters()) == 6_638_844


def test_a_small_one_stays_below_two_million():
    net = LipNet((40, 80), (32, 64, 96), 160, norm=True)
    assert 1_500_000 < sum(p.numel() for p in net.parameters()) < 2_000_000


@pytest.mark.parametrize("size", [(16, 24), (20, 40), (25, 33)])
def test_equals_the_published_order_of_layers(size):
    torch.manual_seed(0)
    net = LipNet(size, (4, 6, 8), 8).eval()
    video = torch.rand(3, 7, 3, *size)
    with torch.no_grad():
        found = net(video, torch.tensor([7, 7, 7]))
        torch.testing.assert_close(found, published(net, video), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.exp().sum(2), torch.ones(3, 7))


@pytest.mark.parametrize("norm", [False, True])
def test_padding_and_company_do_not_change_a_clip(norm):
    torch.manual_seed(0)
    net = LipNet(**SMALL, norm=norm).eval()
    video, lengths = torch.rand(3, 9, 3, 16, 24), torch.tensor([9, 4, 1])
    with torch.no_grad():
        together = net(video, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = net(video[row : row + 1, :length], lengths[row : row + 1])
            torch.testing.assert_close(together[row, :length], alone[0], rtol=0, atol=1e-5)
        video[1, 4:] = torch.nan  # whatever lies in the padding
        torch.testing.assert_close(net(video, lengths)[0], together[0], rtol=0, atol=1e-5)


def test_batch_norm_sees_no_padding():
    def statistics(extra: int) -> list[Tensor]:
        torch.manual_seed(0)
        net = LipNet(**SMALL, dropout=0.0, norm=True)
        net(F.pad(video, (0, 0, 0, 0, 0, 0, 0, extra)), torch.tensor([5, 3]))
        return [value for key, value in net.named_buffers() if "running" in key]

    torch.manual_seed(1)
    video = torch.rand(2, 5, 3, 16, 24)
    assert len(statistics(0)) == 6
    for one, other in zip(statistics(0), statistics(6), strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_takes_the_same_channels_in_all_frames_of_a_clip():
    torch.manual_seed(0)
    net = LipNet(**SMALL)
    nn.init.constant_(net.convs[2].bias, 100.0)  # so that nothing else is silent
    seen: list[Tensor] = []
    net.back_end.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(torch.rand(2, 6, 3, 16, 24) + 1, torch.tensor([6, 6]))
    maps = seen[0].view(2, 6, 8, -1)
    silent = (maps == 0).all(3)  # (clip, frame, channel)
    assert torch.equal(silent, silent[:, :1].expand_as(silent))
    assert 0 < silent.float().mean() < 1


def test_refuses_sizes_that_leave_nothing():
    with pytest.raises(ValueError, match="at least 16x16"):
        LipNet((8, 40))
    with pytest.raises(ValueError, match="three widths"):
        LipNet(widths=(4, 8))


def stranger() -> dict[str, Tensor]:
    """A state dict with the published names and shapes."""
    torch.manual_seed(3)
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv3d(3, 32, (3, 5, 5)),
        "conv2": nn.Conv3d(32, 64, (3, 5, 5)),
        "conv3": nn.Conv3d(64, 96, (3, 3, 3)),
        "gru1": nn.GRU(96 * 4 * 8, 256, bidirectional=True),
        "gru2": nn.GRU(512, 256, bidirectional=True),
        "FC": nn.Linear(512, 28),
    }
    return {f"{layer}.{k}": v for layer, module in layers.items() for k, v in module.state_dict().items()}


def test_published_weights_read_bgr_and_their_own_alphabet():
    tensors = stranger()
    net = lipnet.from_published(tensors).eval()
    video = torch.rand(1, 3, 3, 64, 128)
    with torch.no_grad():
        found = net(video, torch.tensor([3])).exp()
        raw = LipNet(outputs=28).eval()
        raw.load_state_dict(
            {
                key: tensors[key.replace("convs.0", "conv1").replace("convs.1", "conv2").replace("convs.2", "conv3")
                             .replace("back_end.out", "FC").replace("back_end.", "")]
                for key in raw.state_dict()
            }
        )  # fmt: skip
        theirs = raw(video.flip(2), torch.tensor([3])).exp()  # BGR; blank, space, A to Z
    order = [text.SYMBOLS.index(symbol) for symbol in ("<pad>", "|", *"abcdefghijklmnopqrstuvwxyz")]
    torch.testing.assert_close(found[..., order], theirs, rtol=0, atol=1e-6)
    assert found[..., [text.SYMBOLS.index("<eos>"), text.SYMBOLS.index("<unk>")]].sum() == 0


def test_other_weights_are_refused():
    tensors = stranger()
    with pytest.raises(ValueError, match=r"FC\.weight has shape"):
        lipnet.from_published(tensors | {"FC.weight": torch.zeros(27, 512)})
    tensors["module.FC.bias"] = tensors.pop("FC.bias")
    with pytest.raises(ValueError, match=r"absent, such as \['FC.bias'\].*unknown, such as \['module.FC.bias'\]"):
        lipnet.from_published(tensors)
