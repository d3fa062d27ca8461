"""Convolution blocks that several networks share, in two and three dimensions, and the initialization of He et al.

A block is a convolution without bias, BatchNorm and ReLU, as in the helper functions of the correlation GAN's published
code (lelechen63/3d_gan `ops.py`, `pts3d.py`, commit 8d16802).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

Size3d = int | tuple[int, int, int]


def conv2d(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int | tuple[int, int] = 1, padding: int = 1
) -> nn.Sequential:
    """2-d convolution without bias, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def conv3d(
    in_channels: int, out_channels: int, kernel: Size3d = 3, stride: Size3d = 1, padding: Size3d = 1
) -> nn.Sequential:
    """3-d convolution without bias, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(inplace=True),
    )


def upconv2d(in_channels: int, out_channels: int, kernel: int = 4, stride: int = 2, padding: int = 1) -> nn.Sequential:
    """2-d transposed convolution without bias, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def upconv3d(
    in_channels: int,
    out_channels: int,
    kernel: Size3d = 4,
    stride: Size3d = 2,
    padding: Size3d = 1,
    output_padding: Size3d = 0,
) -> nn.Sequential:
    """3-d transposed convolution without bias, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.ConvTranspose3d(in_channels, out_channels, kernel, stride, padding, output_padding, bias=False),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(inplace=True),
    )


def linear(in_features: int, out_features: int) -> nn.Sequential:
    """Linear layer without bias, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Linear(in_features, out_features, bias=False), nn.BatchNorm1d(out_features), nn.ReLU(inplace=True)
    )


def fold_time(x: Tensor) -> Tensor:
    """Fold the frames of a clip into the batch: (B, C, T, H, W) -> (B T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def unfold_time(x: Tensor, frames: int) -> Tensor:
    """Undo `fold_time`: (B T, C, H, W) -> (B, C, T, H, W)."""
    return x.reshape(-1, frames, *x.shape[1:]).transpose(1, 2)


def in_float32(x: Tensor) -> AbstractContextManager[Any]:
    """Leave autocast, for networks that reduce maps to a pixel: their weights' gradients may be NaN otherwise.

    Measured with PyTorch 2.15 in bfloat16 on a CPU: 3x3 convolutions with padding on maps of one or two pixels give NaN
    in the gradient of their weights, or write outside of their memory.

    Args:
        x: Tells the device.
    """
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


class ResidualBlock(nn.Module):
    """Convolution, BatchNorm, ReLU, (dropout,) convolution, BatchNorm, the input added; no ReLU after the sum.

    Args:
        channels: Of input and output.
        volumetric: 3-d convolutions instead of 2-d ones.
        padding_mode: Of `torch.nn.Conv2d`, one pixel on each side.
        dropout: Probability after the ReLU.
    """

    def __init__(
        self, channels: int, volumetric: bool = False, padding_mode: str = "zeros", dropout: float = 0
    ) -> None:
        super().__init__()
        convolution: Callable[..., nn.Module] = nn.Conv3d if volumetric else nn.Conv2d
        norm: Callable[[int], nn.Module] = nn.BatchNorm3d if volumetric else nn.BatchNorm2d
        options: dict[str, Any] = {"padding": 1, "bias": False, "padding_mode": padding_mode}
        self.layers = nn.Sequential(
            convolution(channels, channels, 3, **options),
            norm(channels),
            nn.ReLU(inplace=True),
            *([nn.Dropout(dropout)] if dropout else []),
            convolution(channels, channels, 3, **options),
            norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Any (B, channels, ...) -> the same shape."""
        return x + self.layers(x)  # type: ignore[no-any-return]


def initialize_he(network: nn.Module, slope: float = 0) -> None:
    """Initialize all convolutions and linear layers as He et al. (2015): normal with variance 2 / fan-in, biases 0.

    Args:
        network: Changed in place; BatchNorm keeps scale 1 and shift 0.
        slope: Of the LeakyReLU after the layers; 0 for ReLU.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, slope)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
