"""FlowNetS without BatchNorm: optical flow of two frames, differentiable with respect to both.

Layer for layer after the copy of ClementPinard/FlowNetPytorch in the correlation GAN's published code
(lelechen63/3d_gan `flownet/FlowNetS.py`, commit a3f5dcc), 38,676,496 parameters. Its transposed convolutions have
biases; those of FlowNetPytorch today (commit d5f3292) have none. Two things differ:

- Initialization: He's with the LeakyReLU's slope of 0.1, biases 0, as FlowNetPytorch does today. The copy's own, a
  normal distribution with a deviation of 0.02 / (kernel area x channels), only serves until trained weights are loaded.
- Maps are cut where a size is odd, as FlowNetPytorch does, so that any size of frames works.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.nets.convolutions import in_float32, initialize_he

SCALES = (4, 8, 16, 32, 64)
"""How many pixels of the frames one pixel of each flow field covers along an axis, finest first."""

_WIDTHS = (1, 2, 4, 4, 8, 8, 8, 8, 16, 16)  # of the convolutions, in units of the first width
_KERNELS = (7, 5, 5, 3, 3, 3, 3, 3, 3, 3)
_STRIDES = (2, 2, 2, 1, 2, 1, 2, 1, 2, 1)
_KEPT = (1, 3, 5, 7)  # convolutions whose maps the refinement takes: 1/4, 1/8, 1/16, 1/32 of the frames' size
_UP_WIDTHS = (1, 2, 4, 8)  # of the transposed convolutions that lead to each of them


class FlowNetS(nn.Module):
    """Flow from one frame to the next at five resolutions.

    The unit of the flow is that of the targets it is taught with: pixels of the frames in `lipbench.models.flownet`,
    published are pixels divided by 20.

    Args:
        width: Channels of the first convolution, 64 as published.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {"width": width}
        channels = [6, *(unit * width for unit in _WIDTHS)]
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, kernel, stride, kernel // 2),
                nn.LeakyReLU(0.1, inplace=True),
            )
            for (before, after), kernel, stride in zip(pairwise(channels), _KERNELS, _STRIDES, strict=True)
        )
        kept = [channels[place + 1] for place in _KEPT]
        ups = [unit * width for unit in _UP_WIDTHS]
        joined = [a + b + 2 for a, b in zip(kept, ups, strict=True)] + [
            channels[-1]
        ]  # channels of each scale, finest first
        self.upsampling = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(coarser, up, 4, 2, 1), nn.LeakyReLU(0.1, inplace=True))
            for coarser, up in zip(joined[1:], ups, strict=True)
        )
        self.flow = nn.ModuleList(nn.Conv2d(before, 2, 3, padding=1, bias=False) for before in joined)
        self.flow_upsampling = nn.ModuleList(nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=False) for _ in ups)
        initialize_he(self, slope=0.1)

    def pyramid(self, pairs: Tensor) -> list[Tensor]:
        """Flow at all resolutions, for the multi-scale loss in training.

        Args:
            pairs: (N, 6, H, W) in [-1, 1]: the RGB channels of a frame, then those of the next.

        Returns:
            (N, 2, H / s, W / s) float32 for s in 4, 8, 16, 32, 64, sizes rounded up: x, then y.
        """
        with in_float32(pairs):
            return self._pyramid(pairs.float())

    def _pyramid(self, pairs: Tensor) -> list[Tensor]:
        maps = []
        x = pairs.contiguous(memory_format=torch.channels_last)
        for layer in self.convolutions:
            x = layer(x)
            maps.append(x)
        flows = [self.flow[-1](x)]
        for scale in reversed(range(len(_KEPT))):
            skip = maps[_KEPT[scale]]
            height, width = skip.shape[-2:]
            coarse = self.flow_upsampling[scale](flows[0])[..., :height, :width]
            x = torch.cat([skip, self.upsampling[scale](x)[..., :height, :width], coarse], dim=1)
            flows.insert(0, self.flow[scale](x))
        return flows

    def forward(self, video: Tensor) -> Tensor:
        """Flow between the adjacent frames of clips.

        Args:
            video: (B, T, 3, H, W) in [-1, 1].

        Returns:
            (B, T - 1, 2, H / 4, W / 4) float32, sizes rounded up: x, then y.
        """
        finest = self.pyramid(adjacent_pairs(video))[0]
        return finest.reshape(len(video), -1, *finest.shape[1:])


def adjacent_pairs(video: Tensor) -> Tensor:
    """The adjacent frames of clips, stacked along the channels: (B, T, 3, H, W) -> (B (T - 1), 6, H, W)."""
    return torch.cat([video[:, :-1], video[:, 1:]], dim=2).flatten(0, 1)
