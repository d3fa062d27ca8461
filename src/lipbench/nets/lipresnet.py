"""LipResNet: a spatio-temporal convolution, a ResNet-18 on every frame, two bidirectional GRUs, symbols by CTC.

The front end of Stafylakis and Tzimiropoulos 2017 (tstafylakis/Lipreading-ResNet; in PyTorch smeetrs/deep_avsr
`video_only/models/visual_frontend.py`, commit 350a94e): grey pictures, kernel 5x7x7, maximum over 3x3; grey values
normalized by 0.4161 and 0.1688. ResNet-18 and GRUs as DualLip uses them (section 4.3.1), since the original is a
pre-activation ResNet-34 with an LSTM. 13,563,614 parameters at 30 outputs.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.media import text
from lipbench.nets.fastspeech import length_mask
from lipbench.nets.lipnet import BackEnd, convolve

_LUMA: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV turns RGB to grey
_MEAN: Final = 0.4161
_DEVIATION: Final = 0.1688
_BLOCKS: Final = 2  # a stage: ResNet-18


def gray(frames: Tensor) -> Tensor:
    """(M, 3, H, W) RGB -> (M, 1, H, W), weighed as OpenCV does."""
    return torch.einsum("mchw,c->mhw", frames, frames.new_tensor(_LUMA))[:, None]


def _rectifier(prelu: bool) -> Callable[[int], nn.Module]:
    """Channels -> a layer: PReLU with a slope a channel, or ReLU."""
    return nn.PReLU if prelu else lambda width: nn.ReLU(inplace=True)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a shortcut, rectified after the sum (He et al. 2016, "basic block").

    Args:
        before: Channels in.
        after: Channels out.
        stride: Of the first convolution and of the shortcut, which is a 1x1 convolution wherever shapes change.
        prelu: PReLU instead of ReLU.
    """

    def __init__(self, before: int, after: int, stride: int, prelu: bool = False) -> None:
        super().__init__()
        rectifier = _rectifier(prelu)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1, self.rectifier1 = nn.BatchNorm2d(after), rectifier(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2, self.rectifier2 = nn.BatchNorm2d(after), rectifier(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """(M, before, h, w) -> (M, after, h / stride, w / stride), rounded up."""
        inner = self.rectifier1(self.norm1(self.conv1(x)))
        return self.rectifier2(self.norm2(self.conv2(inner)) + self.shortcut(x))  # type: ignore[no-any-return]


class ResNetTrunk(nn.Module):
    """The four stages of ResNet-18 and the mean over what is left of the picture; all but its first convolution.

    Args:
        before: Channels in.
        widths: Channels of the four stages; every stage but the first halves the picture.
        prelu: PReLU instead of ReLU, as in AV-HuBERT's front end.
    """

    def __init__(self, before: int = 64, widths: Sequence[int] = (64, 128, 256, 512), prelu: bool = False) -> None:
        super().__init__()
        blocks = [
            ResidualBlock(width_in if k == 0 else width, width, 2 if k == 0 and stage > 0 else 1, prelu)
            for stage, (width_in, width) in enumerate(pairwise((before, *widths)))
            for k in range(_BLOCKS)
        ]
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(M, before, h, w) -> (M, widths[-1])."""
        return self.blocks(x).mean(dim=(2, 3))  # type: ignore[no-any-return]


class FrontEnd(nn.Module):
    """The spatio-temporal convolution over grey pictures, BatchNorm, rectifier, maximum over 3x3.

    Args:
        width: Channels out.
        prelu: PReLU instead of ReLU, as in AV-HuBERT.
    """

    def __init__(self, width: int = 64, prelu: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, width, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False)
        self.norm, self.rectifier = nn.BatchNorm2d(width), _rectifier(prelu)(width)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, frames: Tensor, valid: Tensor) -> Tensor:
        """(M, 1, H, W) normalized grey frames where (B, T) is valid -> (M, width, H / 4, W / 4), rounded up."""
        x = convolve(self.conv, frames, valid)  # (M, width, H / 2, W / 2)
        return F.max_pool2d(self.rectifier(self.norm(x)), 3, 2, 1)


class LipResNet(nn.Module):
    """Reads mouths: every frame gives log-probabilities of symbols, which CTC collapses to text.

    Args:
        front: Channels of the spatio-temporal convolution.
        widths: Channels of the four stages of the ResNet.
        hidden: Units of each direction of both GRUs.
        outputs: Symbols V; 0 is the CTC blank.
        dropout: After each GRU.

    Attributes:
        arguments: The above, as plain values.
    """

    def __init__(
        self,
        front: int = 64,
        widths: Sequence[int] = (64, 128, 256, 512),
        hidden: int = 256,
        outputs: int = len(text.SYMBOLS),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "front": front,
            "widths": list(widths),
            "hidden": hidden,
            "outputs": outputs,
            "dropout": dropout,
        }
        self.front_end = FrontEnd(front)
        self.trunk = ResNetTrunk(front, widths)
        self.back_end = BackEnd(widths[-1], hidden, outputs, dropout)
        self.trunk.to(memory_format=torch.channels_last)

    def forward(self, video: Tensor, lengths: Tensor) -> Tensor:
        """Read clips.

        Args:
            video: (B, T, 3, H, W) RGB in [0, 1], of any size.
            lengths: (B,) int64, valid frames, at least 1.

        Returns:
            (B, T, V) float32 log-probabilities; what stands after a clip's length means nothing.
        """
        valid = length_mask(lengths, video.shape[1])  # (B, T)
        frames = gray(video[valid])  # (M, 1, H, W)
        x = self.trunk(self.front_end((frames - _MEAN) / _DEVIATION, valid))  # (M, widths[-1])
        return self.back_end(x, valid)  # type: ignore[no-any-return]
