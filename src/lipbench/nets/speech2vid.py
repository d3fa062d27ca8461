"""Speech2Vid ("You said that?", Chung et al. 2017): one or several identity images and audio -> frames that speak.

Its authors published weights and no layers (joonson/yousaidthat). Two public sources have layers, and both are here:

- `ClipGenerator`: the baseline as the correlation GAN's paper ran it (lelechen63/3d_gan `model_vgg.py`, commit
  8d16802): 64x64 pixels, all 16 frames of a clip at once from its log-mel spectrogram, no deblurring, L1. The paper
  describes it as Speech2Vid with two convolutions changed for the size. 38,778,992 parameters, of which 299,136 belong
  to two convolutions that nothing reads; they are left out.
- `FrameGenerator`: one frame from 0.35 s of MFCC, 112x112 pixels, after a public reimplementation
  (Sindhu-Hegde/you_said_that `train.py`, commit 28e6a2b, in Keras with TensorFlow's padding). That one also sees the
  frame to be made with its lower half masked, which Chung et al. do not have; here it is left out.

Several identity images are stacked along the channels, as the authors' demo does with five. Neither network has the
demo's second one, which adds what sharpens the frame. Weights are He's in `ClipGenerator`, as in its code, and Glorot's
in `FrameGenerator`.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.nets.convolutions import conv2d, initialize_he, linear, upconv2d
from lipbench.nets.corrgan import COLUMNS_PER_FRAME, FRAMES, AudioEncoder
from lipbench.nets.lipgan import SameConv2d

CLIP_SIZE: Final = 64
"""Height and width of `ClipGenerator`'s frames; its convolutions without padding fit no other."""
FRAME_SIZE: Final = 112
"""Height and width of `FrameGenerator`'s frames."""
MFCC_SHAPE: Final = (12, 35)
"""Coefficients (without the first) and columns of 10 ms that `FrameGenerator` hears for a frame."""


class ClipGenerator(nn.Module):
    """Identity images and a log-mel spectrogram -> a clip of 16 frames; 38,479,856 parameters.

    Args:
        references: Identity images, stacked along the channels.
        width: Unit of all channels, 32 as published.
        bands: Of the log-mel spectrogram, a multiple of 4; 128 as published.
    """

    def __init__(self, references: int = 1, width: int = 32, bands: int = 128) -> None:
        super().__init__()
        w = width
        self.references = references
        self.audio = nn.Sequential(
            AudioEncoder((w, 2 * w, 4 * w, 4 * w)), nn.Flatten(), linear(4 * w * FRAMES * bands // 4, 8 * w)
        )
        self.large = conv2d(3 * references, 3 * w, 7, 2)  # 30x30
        self.middle = nn.Sequential(conv2d(3 * w, 8 * w, 5, 2), conv2d(8 * w, 8 * w, 3, 1, 0))  # 12x12
        self.small = nn.Sequential(
            nn.MaxPool2d(3, 2),  # 5x5
            conv2d(8 * w, 16 * w),
            conv2d(16 * w, 8 * w),
            conv2d(8 * w, 4 * w),
            nn.Flatten(),
            linear(4 * w * 25, 16 * w),
            linear(16 * w, 8 * w),
        )
        self.fusion = linear(16 * w, 4 * w)
        self.decoder = nn.ModuleList(
            [
                nn.Sequential(upconv2d(4 * w, 16 * w, 7), upconv2d(16 * w, 8 * w, 6)),  # 5x5, 12x12
                nn.Sequential(upconv2d(16 * w, 8 * w, 6), upconv2d(8 * w, 8 * w, 5, 1), upconv2d(8 * w, 3 * w, 5, 1)),
                nn.Sequential(upconv2d(6 * w, 3 * w, 6), upconv2d(3 * w, 2 * w, 5, 1)),  # 62x62, 64x64
            ]
        )
        self.to_rgb = nn.Conv2d(2 * w, 3 * FRAMES, 3, padding=1)
        initialize_he(self)

    def forward(self, identity: Tensor, audio: Tensor) -> Tensor:
        """Generate clips.

        Args:
            identity: (B, references, 3, 64, 64) in [-1, 1].
            audio: (B, 64, bands) log-mel spectrogram, 4 columns a frame.

        Returns:
            (B, 16, 3, 64, 64) float32 in (-1, 1).

        Raises:
            ValueError: Another number or size of identity images, or another number of columns.
        """
        _check_identity(identity, self.references, CLIP_SIZE)
        if audio.shape[1] != FRAMES * COLUMNS_PER_FRAME:
            raise ValueError(f"{FRAMES} frames need {FRAMES * COLUMNS_PER_FRAME} columns, found {audio.shape[1]}")
        large = self.large(identity.flatten(1, 2))
        middle = self.middle(large)
        x = self.fusion(torch.cat([self.audio(audio[:, None]), self.small(middle)], dim=1))[..., None, None]
        x = self.decoder[0](x)
        x = self.decoder[1](torch.cat([middle, x], dim=1))  # 30x30
        x = self.decoder[2](torch.cat([large, x], dim=1))
        video = torch.tanh(self.to_rgb(x).float())  # (B, 48, 64, 64): the red of all frames, then the green, the blue
        return video.reshape(-1, 3, FRAMES, CLIP_SIZE, CLIP_SIZE).transpose(1, 2)


def _check_identity(identity: Tensor, references: int, size: int) -> None:
    if identity.shape[1:] != (references, 3, size, size):
        raise ValueError(
            f"this Speech2Vid needs identity images of shape (B, {references}, 3, {size}, {size}), "
            f"found (B, {', '.join(map(str, identity.shape[1:]))})"
        )


class _SamePool2d(nn.Module):
    """Maximum over 3x3 values with TensorFlow's padding "same"."""

    def __init__(self, stride: tuple[int, int]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(M, C, h, w) -> (M, C, ceil(h / vertical), ceil(w / horizontal)); x is 0 or more."""
        edges: list[int] = []
        for side, stride in ((x.shape[3], self.stride[1]), (x.shape[2], self.stride[0])):
            added = (-(-side // stride) - 1) * stride + 3 - side
            edges += [added // 2, added - added // 2]
        return F.max_pool2d(F.pad(x, edges), 3, self.stride)


class _SameUpconv2d(nn.ConvTranspose2d):
    """A transposed convolution with TensorFlow's padding "same": sides are multiplied by the stride."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, (kernel - stride) // 2)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # its size is always the same
        """(M, in, h, w) -> (M, out, stride h, stride w); an odd value too many is cut below and to the right."""
        height, width = (side * self.stride[0] for side in x.shape[2:])
        return super().forward(x)[:, :, :height, :width]


def _normalized(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    """A layer, BatchNorm with Keras' settings, ReLU."""
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels, eps=1e-3, momentum=0.2), nn.ReLU(inplace=True))


class FrameGenerator(nn.Module):
    """Identity images and the MFCC around a frame -> the frame; 41,748,325 parameters with five images.

    Args:
        references: Identity images, stacked along the channels: five in the authors' demo.
        width: Unit of all channels, 32 as published.
    """

    def __init__(self, references: int = 5, width: int = 32) -> None:
        super().__init__()
        w = width
        self.references = references
        self.audio = nn.Sequential(
            _normalized(SameConv2d(1, 2 * w, 3)),
            _normalized(SameConv2d(2 * w, 4 * w, 3)),
            _SamePool2d((1, 2)),  # 12x18
            _normalized(SameConv2d(4 * w, 8 * w, 3)),
            _normalized(SameConv2d(8 * w, 8 * w, 3)),
            _normalized(SameConv2d(8 * w, 16 * w, 3)),
            _SamePool2d((2, 2)),  # 6x9
            nn.Flatten(),
            nn.Linear(16 * w * 54, 16 * w),
            nn.ReLU(inplace=True),
            nn.Linear(16 * w, 8 * w),
            nn.ReLU(inplace=True),
        )
        self.large = nn.Sequential(_normalized(SameConv2d(3 * references, 3 * w, 7, 2)), _SamePool2d((2, 2)))  # 28x28
        self.middle = _normalized(SameConv2d(3 * w, 8 * w, 5, 2))  # 14x14
        self.small = _SamePool2d((2, 2))  # 7x7
        self.identity = nn.Sequential(
            _normalized(SameConv2d(8 * w, 16 * w, 3)),
            _normalized(SameConv2d(16 * w, 16 * w, 3)),
            _normalized(SameConv2d(16 * w, 16 * w, 3)),
            nn.Flatten(),
            nn.Linear(16 * w * 49, 16 * w),
            nn.ReLU(inplace=True),
            nn.Linear(16 * w, 8 * w),
            nn.ReLU(inplace=True),
        )
        self.fusion = nn.Sequential(nn.Linear(16 * w, 98), nn.ReLU(inplace=True))  # 2 channels of 7x7
        self.decoder = nn.ModuleList(
            [
                nn.Sequential(
                    _normalized(_SameUpconv2d(2, 16 * w, 6, 1)), _normalized(_SameUpconv2d(16 * w, 8 * w, 5, 1))
                ),
                _normalized(_SameUpconv2d(16 * w, 3 * w, 5, 2)),  # 14x14
                _normalized(_SameUpconv2d(11 * w, 3 * w, 5, 2)),  # 28x28
                nn.Sequential(_normalized(_SameUpconv2d(6 * w, 2 * w, 5, 2)), _SameUpconv2d(2 * w, 3, 5, 2)),
            ]
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, identity: Tensor, audio: Tensor) -> Tensor:
        """Generate frames.

        Args:
            identity: (M, references, 3, 112, 112) in [0, 1].
            audio: (M, 12, 35) MFCC around each frame.

        Returns:
            (M, 3, 112, 112) float32 in (0, 1).

        Raises:
            ValueError: Another number or size of identity images, or another shape of audio.
        """
        _check_identity(identity, self.references, FRAME_SIZE)
        if audio.shape[1:] != MFCC_SHAPE:
            raise ValueError(f"Speech2Vid hears MFCC of shape {MFCC_SHAPE}, found {tuple(audio.shape[1:])}")
        large = self.large(identity.flatten(1, 2).contiguous(memory_format=torch.channels_last))
        middle = self.middle(large)
        small = self.small(middle)
        x = self.fusion(torch.cat([self.audio(audio[:, None]), self.identity(small)], dim=1)).unflatten(1, (2, 7, 7))
        x = self.decoder[0](x)
        for stage, skip in zip(list(self.decoder)[1:], (small, middle, large), strict=True):
            x = stage(torch.cat([x, skip], dim=1))
        return torch.sigmoid(x.float())
