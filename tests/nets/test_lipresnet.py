import torch
from torch.nn import functional as F

from lipbench.nets.lipresnet import LipResNet, ResNetTrunk

SMALL = {"front": 4, "widths": (4, 6, 8, 8), "hidden": 8}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts():
    """ResNet-18 has 11,689,512 with a first convolution, its norm and a classifier, which the trunk lacks."""
    assert count(ResNetTrunk()) == 11_689_512 - 512 * 1000 - 1000 - 3 * 64 * 49 - 2 * 64
    assert count(LipResNet(outputs=40)) == 13_568_744  # DualLip's variant: 13.6 M
    assert round(count(LipResNet(hidden=512, outputs=40)) / 1e6, 1) == 19.1
    assert count(LipResNet()) == 13_563_614


def test_a_small_one_stays_below_two_million():
    assert 1_000_000 < count(LipResNet(32, (32, 48, 64, 96), 192)) < 2_000_000


def test_trunk_is_torchvisions_resnet():
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.resnet18().eval()
    trunk = ResNetTrunk().eval()
    stages = [theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4]
    values = [value for stage in stages for block in stage for value in (*block.conv1.state_dict().values(),
              *block.bn1.state_dict().values(), *block.conv2.state_dict().values(), *block.bn2.state_dict().values(),
              *(block.downsample.state_dict().values() if block.downsample else ()))]  # fmt: skip
    own = trunk.state_dict()
    assert len(own) == len(values)
    trunk.load_state_dict(dict(zip(own, values, strict=True)))
    x = torch.rand(2, 64, 9, 12)
    with torch.no_grad():
        expected = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x)))).mean((2, 3))
        torch.testing.assert_close(trunk(x), expected, rtol=1e-4, atol=1e-5)


def test_prelu_has_a_slope_a_channel():
    assert count(ResNetTrunk(4, (4, 6, 8, 8), prelu=True)) - count(ResNetTrunk(4, (4, 6, 8, 8))) == 4 * (4 + 6 + 8 + 8)


def test_padding_and_company_do_not_change_a_clip():
    torch.manual_seed(0)
    net = LipResNet(**SMALL).eval()
    video, lengths = torch.rand(3, 9, 3, 16, 24), torch.tensor([9, 4, 1])
    with torch.no_grad():
        together = net(video, lengths)
        assert together.shape == (3, 9, 30)
        for row, length in enumerate(lengths.tolist()):
            alone = net(video[row : row + 1, :length], lengths[row : row + 1])
            torch.testing.assert_close(together[row, :length], alone[0], rtol=0, atol=1e-5)


def test_batch_norm_sees_no_padding():
    def statistics(extra: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = LipResNet(**SMALL, dropout=0.0)
        net(F.pad(video, (0, 0, 0, 0, 0, 0, 0, extra)), torch.tensor([5, 3]))
        return [value for key, value in net.named_buffers() if "running" in key]

    torch.manual_seed(1)
    video = torch.rand(2, 5, 3, 16, 24)
    for one, other in zip(statistics(0), statistics(6), strict=True):
        torch.testing.assert_close(one, other)


def test_sees_grey():
    torch.manual_seed(0)
    net = LipResNet(**SMALL).eval()
    video = torch.rand(1, 4, 3, 16, 24)
    grey = (video * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2, keepdim=True).expand_as(video)
    with torch.no_grad():
        torch.testing.assert_close(net(video, torch.tensor([4])), net(grey, torch.tensor([4])), rtol=0, atol=1e-5)
