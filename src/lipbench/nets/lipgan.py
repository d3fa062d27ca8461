"""LipGAN's networks: the residual generator of faces, and the discriminator that measures how far sound and face are.

Layer for layer after the published Keras code: generator and discriminator of the master branch (Rudrabha/LipGAN
`generator.py: create_model_residual` and `discriminator.py`, commit 7489174) for MFCC, those of the branch
`fully_pythonic` (commit d8ef8ef) for mel spectrograms. "conv" below is convolution, BatchNorm, ReLU in the generator
(Keras' settings: epsilon 1e-3, momentum 0.8, weights drawn by Glorot's uniform rule, biases 0). Padding is
TensorFlow's. One thing differs: pictures are RGB, the published ones BGR.

The discriminator's normalization is called instance normalization, but as published (keras_contrib's layer without an
axis, commit b20aa1a) it takes one mean and deviation over all values of a sample, with one scale and one shift. A true
instance normalization would turn the 1x1 maps of the mel tower into zeros.

Widths and numbers of blocks are arguments, and the size may be 3, 6, 12, 24, 48, 96, ... pixels a side: one halving
less or more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.nets.pictures import halvings

FrontEnd = Literal["mel", "mfcc"]


@dataclass(frozen=True)
class Hearing:
    """How the networks take the windows of one acoustic front end.

    Args:
        shape: (bands, columns) of a window.
        widths: Published channels of the generator's audio encoder, one number a stage.
        blocks: Published residual blocks of each stage.
        strides: Of the convolution that begins a stage.
        kernel: Of the convolution without padding after the stages: what is left of a window then.
        judge_widths: Channels of the discriminator's convolutions, in units of half its first width.
        judge_strides: Their strides.
        judge_bare: The discriminator's last convolution is the one without padding, bare; otherwise that one is
            followed by normalization, LeakyReLU and the same again of size 1x1.
    """

    shape: tuple[int, int]
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    strides: tuple[tuple[int, int], ...]
    kernel: tuple[int, int]
    judge_widths: tuple[int, ...]
    judge_strides: tuple[tuple[int, int], ...]
    judge_bare: bool


FRONT_ENDS: Final[dict[FrontEnd, Hearing]] = {
    "mel": Hearing(
        shape=(80, 27),
        widths=(32, 64, 128, 256),
        blocks=(2, 2, 2, 2),
        strides=((1, 1), (3, 3), (3, 1), (3, 3)),
        kernel=(3, 3),
        judge_widths=(1, 2, 4, 8),
        judge_strides=((1, 1), (3, 3), (3, 1), (3, 3)),
        judge_bare=False,
    ),
    "mfcc": Hearing(
        shape=(12, 35),
        widths=(128, 256, 512, 512),
        blocks=(3, 2, 2, 1),
        strides=((1, 1), (1, 2), (2, 2), (2, 2)),
        kernel=(4, 5),
        judge_widths=(2, 4, 8, 8, 8, 16),
        judge_strides=((1, 1), (1, 1), (1, 2), (1, 1), (2, 2), (2, 2)),
        judge_bare=True,
    ),
}
"""Front end -> its networks' tables. The 12 bands of MFCC get a row of zeros on top before they are first halved."""

_JUDGE_KERNELS = (7, 5, 3, 3, 3)
_JUDGE_WIDTHS = (1, 2, 4, 8, 8)  # in units of the first width; further halvings repeat the last


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding "same": ceil(side / stride) values a side are left.

    No more zeros are added than its kernel reaches, half of them on either side; an odd one comes below or to the
    right. A stride of 3 over 27 values adds none, where a padding of 1 adds one above and never reads the last value.

    Args:
        before: Channels of the input.
        after: Channels of the output.
        kernel: One number for a square, or (height, width).
        stride: One number, or (vertical, horizontal).
    """

    def __init__(
        self, before: int, after: int, kernel: int | tuple[int, int], stride: int | tuple[int, int] = 1
    ) -> None:
        super().__init__(before, after, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(M, before, h, w) -> (M, after, ceil(h / vertical), ceil(w / horizontal))."""
        edges: list[int] = []
        for axis in (1, 0):  # as `pad` wants it: left, right, top, bottom
            side, kernel, stride = x.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            added = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            edges += [added // 2, added - added // 2]
        if edges[0] == edges[1] and edges[2] == edges[3]:  # without a copy of the input
            return F.conv2d(x, self.weight, self.bias, self.stride, (edges[2], edges[0]))
        return super().forward(F.pad(x, edges))


class SameDoubling2d(nn.ConvTranspose2d):
    """A 3x3 transposed convolution of stride 2 with TensorFlow's padding "same": the reverse of its convolution.

    That one adds a row below and a column to the right of maps with even sides; here they are cut off.

    Args:
        before: Channels of the input.
        after: Channels of the output.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # its size is always the same
        """(M, before, h, w) -> (M, after, 2 h, 2 w)."""
        return super().forward(x)[:, :, :-1, :-1]


def _normalized(layer: nn.Module, channels: int) -> nn.Sequential:
    """A layer, BatchNorm and ReLU."""
    return nn.Sequential(layer, nn.BatchNorm2d(channels, eps=1e-3, momentum=0.2), nn.ReLU(inplace=True))


def _conv(before: int, after: int, kernel: int = 3, stride: int | tuple[int, int] = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU; the size is divided by the stride and rounded up."""
    return _normalized(SameConv2d(before, after, kernel, stride), after)


def _embed(before: int, after: int, kernel: int | tuple[int, int]) -> nn.Sequential:
    """Convolution without padding over all that is left of a map, then one of size 1, each with BatchNorm, ReLU."""
    return nn.Sequential(_normalized(nn.Conv2d(before, after, kernel), after), _conv(after, after, 1))


class _Residual(nn.Module):
    """Two convolutions, the input added, ReLU: the ReLU of the second comes before the sum too, as published."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_conv(width, width), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Any (M, width, h, w) -> the same shape."""
        return F.relu(x + self.layers(x), inplace=True)


def _residuals(width: int, count: int) -> list[nn.Module]:
    return [_Residual(width) for _ in range(count)]


def _by_glorot(network: nn.Module) -> None:
    """Draw the weights of all convolutions as Keras does."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


class Generator(nn.Module):
    """A face, a masked face and the sound around a frame -> the face that says it.

    Args:
        size: Pixels a side, 96 as published.
        front_end: What the sound comes as: its windows' shape and the encoder's strides.
        widths: Channels of the face encoder before and after each halving; the decoder has the same.
        blocks: Residual blocks of the face encoder after each halving.
        audio_widths: Channels of the audio encoder's four stages; None as published.
        audio_blocks: Residual blocks of each stage; None as published.
        decoder_blocks: Residual blocks of every stage of the decoder but the first and the last.
        hidden: Channels of either embedding.

    Raises:
        ValueError: The size is not 3 x 2^n, or a list has another length than the stages.
    """

    def __init__(
        self,
        size: int = 96,
        front_end: FrontEnd = "mel",
        widths: Sequence[int] = (32, 64, 128, 256, 512, 512),
        blocks: Sequence[int] = (2, 3, 2, 2, 0),
        audio_widths: Sequence[int] | None = None,
        audio_blocks: Sequence[int] | None = None,
        decoder_blocks: int = 2,
        hidden: int = 512,
    ) -> None:
        super().__init__()
        times, hearing = halvings(size), FRONT_ENDS[front_end]
        audio_widths = hearing.widths if audio_widths is None else audio_widths
        audio_blocks = hearing.blocks if audio_blocks is None else audio_blocks
        for name, found, wanted in (
            ("widths", widths, times + 1),
            ("blocks", blocks, times),
            ("audio_widths", audio_widths, len(hearing.widths)),
            ("audio_blocks", audio_blocks, len(hearing.widths)),
        ):
            if len(found) != wanted:
                raise ValueError(f"LipGAN at {size} pixels needs {wanted} {name}, found {len(found)}: {tuple(found)}")
        self.face = nn.ModuleList([_conv(6, widths[0], 7)])
        for place, (before, after) in enumerate(pairwise(widths)):
            first = _conv(before, after, 5 if place == 0 else 3, stride=2)
            self.face.append(nn.Sequential(first, *_residuals(after, blocks[place])))
        self.face_embedding = _embed(widths[-1], hidden, 3)

        sound: list[nn.Module] = []
        for place, (before, after) in enumerate(pairwise((1, *audio_widths))):
            if front_end == "mfcc" and place == 1:
                sound.append(nn.ZeroPad2d((0, 0, 1, 0)))  # 12 bands to 13
            sound += [_conv(before, after, 3, hearing.strides[place]), *_residuals(after, audio_blocks[place])]
        self.sound = nn.Sequential(*sound, *_embed(audio_widths[-1], hidden, hearing.kernel))

        self.decoder = nn.ModuleList([_normalized(nn.ConvTranspose2d(2 * hidden, widths[-1], 3, 3), widths[-1])])
        for place, (before, after) in enumerate(pairwise(reversed(widths))):
            count = decoder_blocks if place < times - 1 else 0
            doubled = _normalized(SameDoubling2d(2 * before, after), after)
            self.decoder.append(nn.Sequential(doubled, *_residuals(after, count)))
        last = max(widths[0] // 2, 1)
        self.to_rgb = nn.Sequential(_conv(2 * widths[0], last), _conv(last, last), nn.Conv2d(last, 3, 1))
        _by_glorot(self)

    def forward(self, identity: Tensor, pose: Tensor, sound: Tensor) -> Tensor:
        """Make faces; in training, BatchNorm sees exactly the frames given.

        Args:
            identity: (M, 3, size, size) in [0, 1], any other frame of the person.
            pose: (M, 3, size, size), the frame to be made, its lower half 0.
            sound: (M, bands, columns) window around it.

        Returns:
            (M, 3, size, size) float32 in (0, 1).
        """
        x = torch.cat([identity, pose], dim=1).contiguous(memory_format=torch.channels_last)  # (M, 6, size, size)
        skips = []
        for stage in self.face:
            x = stage(x)
            skips.append(x)
        x = torch.cat([self.face_embedding(x), self.sound(sound[:, None])], dim=1)  # (M, 2 hidden, 1, 1)
        for stage, skip in zip(self.decoder, reversed(skips), strict=True):
            x = torch.cat([skip, stage(x)], dim=1)
        return torch.sigmoid(self.to_rgb(x).float())


class _SampleNorm(nn.Module):
    """Normalization over all values of a sample, with one scale and one shift: keras_contrib's layer without an axis.

    As published, 1e-3 is added to the deviation, not to the variance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Any (M, channels, h, w) -> the same shape, float32."""
        x = x.float()
        variance, mean = torch.var_mean(x, dim=(1, 2, 3), correction=0, keepdim=True)  # (M, 1, 1, 1)
        # The root's gradient is infinite at 0; cut, it is 0 there.
        return (x - mean) * (self.scale / (variance.clamp(min=1e-12).sqrt() + 1e-3)) + self.shift


def _judging(layer: nn.Conv2d) -> list[nn.Module]:
    """A convolution, normalization over all values of a sample, LeakyReLU."""
    return [layer, _SampleNorm(), nn.LeakyReLU(0.2)]


class SyncDiscriminator(nn.Module):
    """The distance of a face from the sound around it: small where they belong together.

    Args:
        size: Pixels a side of the face, 96 as published.
        front_end: What the sound comes as.
        width: Channels of the first convolution on pictures, an even number; 64 as published.

    Raises:
        ValueError: The size is not 3 x 2^n with n of at least 1, or the width is odd.
    """

    def __init__(self, size: int = 96, front_end: FrontEnd = "mel", width: int = 64) -> None:
        super().__init__()
        times, hearing = halvings(size), FRONT_ENDS[front_end]
        if times < 1 or width < 2 or width % 2:
            raise ValueError(
                f"LipGAN's discriminator needs faces of 6 pixels or more and an even width, found {size} and {width}"
            )
        embedding = 8 * width
        face: list[nn.Module] = []
        before = 3
        for place in range(times):
            kernel = _JUDGE_KERNELS[min(place, len(_JUDGE_KERNELS) - 1)]
            after = width * _JUDGE_WIDTHS[min(place, len(_JUDGE_WIDTHS) - 1)]
            face += _judging(SameConv2d(before, after, kernel, 2))
            before = after
        self.face = nn.Sequential(*face, nn.Conv2d(before, embedding, 3), nn.Flatten())

        sound: list[nn.Module] = []
        before = 1
        for place, (units, stride) in enumerate(zip(hearing.judge_widths, hearing.judge_strides, strict=True)):
            if front_end == "mfcc" and place == 2:
                sound.append(nn.ZeroPad2d((0, 0, 1, 0)))  # 12 bands to 13
            after = units * width // 2
            sound += _judging(SameConv2d(before, after, 3, stride))
            before = after
        if hearing.judge_bare:
            sound.append(nn.Conv2d(before, embedding, hearing.kernel))
        else:
            sound += _judging(nn.Conv2d(before, embedding, hearing.kernel))
            sound += _judging(nn.Conv2d(embedding, embedding, 1))
        self.sound = nn.Sequential(*sound, nn.Flatten())
        _by_glorot(self)

    def forward(self, face: Tensor, sound: Tensor) -> Tensor:
        """Judge pairs.

        Args:
            face: (M, 3, size, size) in [0, 1].
            sound: (M, bands, columns).

        Returns:
            (M,) float32 distances of embeddings of length 1, 0 to 2.
        """
        seen = F.normalize(self.face(face.contiguous(memory_format=torch.channels_last)).float())  # (M, 8 width)
        heard = F.normalize(self.sound(sound[:, None]).float())
        # The root's gradient is infinite at 0; cut, it is 0 there.
        return (seen - heard).square().sum(dim=1).clamp(min=1e-12).sqrt()
