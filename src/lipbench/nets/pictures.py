"""ParaLip's picture networks: the identity encoder with its skips and the picture decoder.

Layer for layer after ParaLip's published code (Dianezzy/ParaLip `modules/lip_modules/img_modules.py`), which follows
Song et al.; kernels of 5, BatchNorm always on. Widths are arguments; any picture size works, since every decoder
stage restores exactly the size that the encoder had there.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_KERNEL = 5


def halved(size: tuple[int, int], times: int) -> list[tuple[int, int]]:
    """The (height, width) of a picture before and after each of `times` convolutions of stride 2: times + 1 entries."""
    sizes = [size]
    for _ in range(times):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def halvings(size: int) -> int:
    """How often a picture is halved until 3x3 pixels are left.

    Raises:
        ValueError: It does not come to 3.
    """
    times = 0
    while 3 * 2**times < size:
        times += 1
    if 3 * 2**times != size:
        raise ValueError(f"faces here are 3 x 2^n pixels a side (12, 24, 48, 96, ...), found {size}")
    return times


class IdentityEncoder(nn.Module):
    """Stride-2 convolutions with BatchNorm and ReLU, then a linear layer and tanh.

    Args:
        size: (height, width) of the picture.
        widths: Channels after each convolution.
        hidden: Size H of the identity vector.
        channels: C of the picture: 3, or more where several pictures lie one behind the other.
    """

    def __init__(self, size: tuple[int, int], widths: Sequence[int], hidden: int, channels: int = 3) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, _KERNEL, stride=2, padding=_KERNEL // 2),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            )
            for before, after in zip((channels, *widths), widths, strict=False)
        )
        height, width = halved(size, len(widths))[-1]
        self.out = nn.Linear(widths[-1] * height * width, hidden)

    def forward(self, picture: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode one picture a clip, or one a frame.

        Args:
            picture: (B, C, height, width) in [0, 1].

        Returns:
            Identity vector (B, H) in (-1, 1); the map after every convolution, from large to small.
        """
        x = picture.contiguous(memory_format=torch.channels_last)
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return torch.tanh(self.out(x.flatten(1))), skips


def _add_per_clip(frames: Tensor, clips: Tensor, clip: Tensor | None) -> Tensor:
    """(M, ...) of frames + (B, ...) of the clips they belong to -> (M, ...); `clip` as in `PictureDecoder.forward`."""
    if clip is None:  # broadcasting copies nothing, and its gradient is a plain sum
        frames_of = frames.view(len(clips), -1, *frames.shape[1:])  # (B, M / B, ...)
        return (frames_of + clips[:, None]).flatten(0, 1)
    return frames + clips.index_select(0, clip)


class _Stage(nn.Module):
    """A transposed convolution of stride 2 over [frame map, identity map], BatchNorm, ReLU.

    The identity map is the same for all frames of a clip. A convolution over two maps side by side is the sum of one
    over each, so the identity's share is computed once a clip and added: same weights, same result, a fifth less
    work.
    """

    def __init__(self, frame_width: int, skip_width: int, out_width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.frame_width, self.size = frame_width, size
        self.deconv = nn.ConvTranspose2d(frame_width + skip_width, out_width, _KERNEL, stride=2, padding=_KERNEL // 2)
        self.norm = nn.BatchNorm2d(out_width)

    def of_clips(self, skip: Tensor) -> Tensor:
        """(B, S, h, w) identity maps of clips -> (B, O, *size), their share of the convolution."""
        return self._transposed(skip, self.deconv.weight[self.frame_width :], self.deconv.bias)

    def forward(self, x: Tensor, theirs: Tensor, clip: Tensor | None) -> Tensor:
        """(M, C, h, w) of frames and (B, O, *size) of `of_clips` -> (M, O, *size)."""
        ours = self._transposed(x, self.deconv.weight[: self.frame_width], None)
        return F.relu(self.norm(_add_per_clip(ours, theirs, clip)), inplace=True)

    def _transposed(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        extra = [self.size[0] - (2 * x.shape[2] - 1), self.size[1] - (2 * x.shape[3] - 1)]  # 0 or 1 a side
        return F.conv_transpose2d(x, weight, bias, 2, _KERNEL // 2, extra)


class PictureDecoder(nn.Module):
    """A linear layer to a small map, stride-2 transposed convolutions with identity skips, two convolutions, tanh.

    Args:
        size: (height, width) of the pictures.
        identity_widths: Channels of the identity encoder's maps, from large to small; one stage undoes each.
        widths: Channels of the first map, after every stage and of the last hidden map: len(identity_widths) + 2.
        hidden: Size H of the motion vector, and of the identity vector if there is one.
        with_identity: Whether the first layer sees an identity vector beside the motion vector, as ParaLip's does.

    Raises:
        ValueError: `widths` has the wrong length.
    """

    def __init__(
        self,
        size: tuple[int, int],
        identity_widths: Sequence[int],
        widths: Sequence[int],
        hidden: int,
        with_identity: bool = True,
    ) -> None:
        super().__init__()
        if len(widths) != len(identity_widths) + 2:
            raise ValueError(
                f"the decoder needs {len(identity_widths) + 2} widths (first map, one a stage, last map) "
                f"for {len(identity_widths)} encoder widths, found {len(widths)}: {tuple(widths)}"
            )
        sizes = halved(size, len(identity_widths))[::-1]  # from small to large
        self.first_map, self.with_identity = (widths[0], *sizes[0]), with_identity
        self.first = nn.Linear(2 * hidden if with_identity else hidden, widths[0] * sizes[0][0] * sizes[0][1])
        self.stages = nn.ModuleList(
            _Stage(before, skip, after, out)
            for before, skip, after, out in zip(
                widths[:-2], identity_widths[::-1], widths[1:-1], sizes[1:], strict=True
            )
        )
        self.smooth = nn.Sequential(
            nn.Conv2d(widths[-2], widths[-1], _KERNEL, padding=_KERNEL // 2),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(inplace=True),
        )
        self.to_rgb = nn.Conv2d(widths[-1], 3, _KERNEL, padding=_KERNEL // 2)

    def forward(self, motion: Tensor, identity: Tensor | None, skips: Sequence[Tensor], clip: Tensor | None) -> Tensor:
        """Draw frames; BatchNorm sees exactly the frames given, so padding must not be among them.

        Args:
            motion: (M, H), one vector a frame, of any clips.
            identity: (B, H) identity vectors; None without.
            skips: The identity encoder's maps, from large to small, each (B, ...).
            clip: (M,) int64, the row of `identity` and `skips` that each frame belongs to. None: every clip has M / B
                frames, one clip after the other (faster); with B = M, each frame has maps of its own.

        Returns:
            (M, 3, height, width) in (-1, 1); the target range is [0, 1].
        """
        return self.draw(motion, self.of_clips(identity, skips), clip)

    def of_clips(self, identity: Tensor | None, skips: Sequence[Tensor]) -> Iterator[Tensor]:
        """What all frames of a clip share, for `draw`: a list of it serves frames that are drawn one after the other.

        Args:
            identity: (B, H) identity vectors; None without.
            skips: The identity encoder's maps, from large to small, each (B, ...).

        Yields:
            The shares of the first layer, if there is an identity vector, and of every stage, each (B, ...).
        """
        if identity is not None:
            yield F.linear(identity, self.first.weight.chunk(2, dim=1)[0], self.first.bias)
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            yield stage.of_clips(skip)  # type: ignore[operator]

    def draw(self, motion: Tensor, shared: Iterable[Tensor], clip: Tensor | None) -> Tensor:
        """`forward` with what `of_clips` gives in place of identity vectors and maps."""
        theirs = iter(shared)
        if self.with_identity:  # one layer over [identity, motion]
            of_motion = F.linear(motion, self.first.weight.chunk(2, dim=1)[1])
            x = F.relu(_add_per_clip(of_motion, next(theirs), clip))
        else:
            x = F.relu(self.first(motion))
        x = x.view(-1, *self.first_map).contiguous(memory_format=torch.channels_last)
        for stage, of_clips in zip(self.stages, theirs, strict=True):
            x = stage(x, of_clips, clip)
        return torch.tanh(self.to_rgb(self.smooth(x)))
