"""Discriminators of pictures."""

from itertools import pairwise

from torch import Tensor, nn

# Where an axis is halved, in this order of preference, counted from 0 in the list of convolutions.
_HEIGHT_SLOTS = (9, 7, 5, 3, 0, 1)
_WIDTH_SLOTS = (9, 7, 5, 3, 1, 0)
_KERNELS = (7, 5, 5, 5, 5, 5, 5, 3, 3, 3, 3, 3, 1, 1)
_WIDTHS = (1, 2, 2, 4, 4, 8, 8, 16, 16, 16, 16, 16, 16)  # in units of the first width


class FrameDiscriminator(nn.Module):
    """Wav2Lip's visual quality discriminator: 14 convolutions, LeakyReLU 0.01, no normalization.

    14,113,793 parameters at width 32, which is ParaLip's count. Strides follow the size, so that the score map is 1x1
    at 48x96 (Wav2Lip's own strides), 80x160 (the first layer halves too: own choice, since ParaLip's table is lost) and
    40x80. Weights begin with He's initialization (own choice): with PyTorch's default, which Wav2Lip's code has, the
    signal fades over 14 layers, and the scores of real and generated frames stay equal for hundreds of batches.

    Args:
        size: (height, width) of the pictures, at least 3 a side.
        width: Channels of the first convolution.

    Raises:
        ValueError: The size is too small.
    """

    def __init__(self, size: tuple[int, int], width: int = 32) -> None:
        super().__init__()
        if min(size) < 3:
            raise ValueError(f"a discriminated picture needs at least 3 pixels a side, found {size[0]}x{size[1]}")
        halved = [_halved_at(size[0], _HEIGHT_SLOTS), _halved_at(size[1], _WIDTH_SLOTS)]
        channels = [3, *(unit * width for unit in _WIDTHS), 1]
        layers: list[nn.Module] = []
        for place, (before, after) in enumerate(pairwise(channels)):
            kernel = _KERNELS[place]
            stride = (1 + (place in halved[0]), 1 + (place in halved[1]))
            padding = kernel // 2 if place < 11 else 0  # the last 3x3 convolution shrinks its map to the score
            convolution = nn.Conv2d(before, after, kernel, stride, padding)
            nn.init.kaiming_normal_(convolution.weight, 0.01)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]  # it has one
            layers += [convolution, nn.LeakyReLU(0.01)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, pictures: Tensor) -> Tensor:
        """(M, 3, height, width) -> (M,) unbounded scores, the mean of the score map."""
        return self.layers(pictures).float().mean(dim=(1, 2, 3))  # type: ignore[no-any-return]


def _halved_at(length: int, slots: tuple[int, ...]) -> set[int]:
    """The convolutions that halve an axis so that 3 or 4 pixels are left for the last 3x3 (more if it is very long)."""
    times = 0
    while length >= 5:
        length, times = (length + 1) // 2, times + 1
    return set(slots[:times])
