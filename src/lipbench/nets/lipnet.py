"""LipNet (Assael et al. 2016): three spatio-temporal convolutions, two bidirectional GRUs, characters by CTC.

Sizes after VIPL-Audio-Visual-Speech-Understanding/LipNet-PyTorch `model.py`, commit f3d09c5: mouths of 64x128, widths
32, 64, 96, hidden 256; 6,638,844 parameters at its 28 outputs (blank, space, A-Z).

Equal to the published code but cheaper: pooling comes before ReLU and dropout, which commute with it. Own choices:
frames outside a clip count as zeros in every convolution, where the published code convolves into its padding to 75
frames (equal at 75 frames); optional BatchNorm after each pooling, without which small readers need many more hours.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lipbench.media import text
from lipbench.nets.fastspeech import length_mask

_KERNELS: Final = ((3, 5, 5), (3, 5, 5), (3, 3, 3))
_STRIDES: Final = (2, 1, 1)
_NEVER: Final = -1e4  # logit of a symbol that the published vocabulary lacks; fits half precision


def convolve(conv: nn.Conv3d, frames: Tensor, valid: Tensor) -> Tensor:
    """Convolve clips over time and space, each as if it stood alone between black frames.

    Computed as a convolution over space of every valid frame with its neighbors as further channels: the same sums
    and nothing for padding. Measured with torch 2.15 on one core, forward and backward at the published sizes: within
    5 % of `torch.nn.functional.conv3d` where four clips are of one length, and 1.2 to 1.4 times as fast where they have
    37, 50, 62 and 75 frames.

    Args:
        conv: Of stride 1 in time, its padding there as far as it reaches.
        frames: (M, C, H, W), the valid frames of all clips in order.
        valid: (B, T) bool, M of them true.

    Returns:
        (M, C', H', W') in channels-last layout.
    """
    reach = conv.kernel_size[0] // 2
    clip = valid.nonzero()[:, 0]  # (M,)
    place = torch.arange(len(clip), device=clip.device) + reach * (clip + 1)  # clips as one film, black in between
    film = frames.new_zeros(len(clip) + reach * (len(valid) + 1), *frames.shape[2:], frames.shape[1])  # (N, H, W, C)
    film = film.index_copy(0, place, frames.permute(0, 2, 3, 1))
    near = torch.cat([film.index_select(0, place + step) for step in range(-reach, reach + 1)], dim=3)  # (M, H, W, k C)
    weight = conv.weight.transpose(1, 2).flatten(1, 2)  # (C', k C, kernel height, kernel width)
    padding = cast("tuple[int, int, int]", conv.padding)[1:]
    return F.conv2d(near.permute(0, 3, 1, 2), weight, conv.bias, conv.stride[1:], padding)


class BackEnd(nn.Module):
    """Two bidirectional GRUs and a linear layer: what LipNet and LipResNet share (DualLip, section 4.3.1).

    Args:
        features: Size F of the vector of a frame.
        hidden: Units of each direction.
        outputs: Symbols V; 0 is the CTC blank.
        dropout: After each GRU.
    """

    def __init__(self, features: int, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.gru1 = nn.GRU(features, hidden, batch_first=True, bidirectional=True)
        self.gru2 = nn.GRU(2 * hidden, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(2 * hidden, outputs)
        for gru in (self.gru1, self.gru2):  # published code: Xavier from outside, orthogonal within, gate by gate
            bound = math.sqrt(6 / (gru.input_size + hidden))
            for name, parameter in gru.named_parameters():
                if name.startswith("weight_ih"):
                    nn.init.uniform_(parameter, -bound, bound)
                elif name.startswith("weight_hh"):
                    for gate in torch.split(parameter.data, hidden):
                        nn.init.orthogonal_(gate)
                else:
                    nn.init.zeros_(parameter)

    def forward(self, frames: Tensor, valid: Tensor) -> Tensor:
        """(M, F) vectors of the valid frames, (B, T) bool -> (B, T, V) log-probabilities, meaningless where not valid.

        Every clip needs a valid frame.
        """
        padded = frames.new_zeros(*valid.shape, frames.shape[1])  # (B, T, F)
        padded[valid] = frames
        packed = pack_padded_sequence(padded, valid.sum(dim=1).cpu(), batch_first=True, enforce_sorted=False)
        packed = self._dropped(self.gru1(packed)[0])
        packed = self._dropped(self.gru2(packed)[0])
        steps, _ = pad_packed_sequence(packed, batch_first=True, total_length=valid.shape[1])  # (B, T, 2 * hidden)
        return F.log_softmax(self.out(steps).float(), dim=-1)

    def _dropped(self, packed: PackedSequence) -> PackedSequence:
        return packed._replace(data=self.dropout(packed.data))


class LipNet(nn.Module):
    """Reads mouths: every frame gives log-probabilities of symbols, which CTC collapses to text.

    Args:
        size: (height, width) of the pictures.
        widths: Channels of the three convolutions.
        hidden: Units of each direction of both GRUs.
        outputs: Symbols V; 0 is the CTC blank.
        dropout: Of whole channels after each convolution, and of units after each GRU.
        norm: BatchNorm after each pooling.

    Attributes:
        arguments: The above, as plain values.
    """

    def __init__(
        self,
        size: Sequence[int] = (64, 128),
        widths: Sequence[int] = (32, 64, 96),
        hidden: int = 256,
        outputs: int = len(text.SYMBOLS),
        dropout: float = 0.5,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "size": list(size),
            "widths": list(widths),
            "hidden": hidden,
            "outputs": outputs,
            "dropout": dropout,
            "norm": norm,
        }
        if len(widths) != 3 or min(size) < 16:
            raise ValueError(
                f"LipNet has three convolutions and halves the picture four times; found widths {tuple(widths)} "
                f"and pictures of {size[0]}x{size[1]} (expected three widths, at least 16x16)"
            )
        self.convs = nn.ModuleList(
            nn.Conv3d(before, after, kernel, (1, stride, stride), (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2))
            for before, after, kernel, stride in zip((3, *widths), widths, _KERNELS, _STRIDES, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) if norm else nn.Identity() for width in widths)
        self.dropout = nn.Dropout2d(dropout)
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        height, width = (((side + 1) // 2) // 8 for side in size)  # the stride rounds up, pooling down
        self.back_end = BackEnd(widths[-1] * height * width, hidden, outputs, dropout)

    def forward(self, video: Tensor, lengths: Tensor) -> Tensor:
        """Read clips.

        Args:
            video: (B, T, 3, height, width) RGB in [0, 1].
            lengths: (B,) int64, valid frames, at least 1.

        Returns:
            (B, T, V) float32 log-probabilities; what stands after a clip's length means nothing.
        """
        valid = length_mask(lengths, video.shape[1])  # (B, T)
        x = video[valid]  # (M, 3, height, width)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(F.max_pool2d(convolve(cast("nn.Conv3d", conv), x, valid), 2)))  # (M, C, h, w)
            if self.training:
                keep = self.dropout(x.new_ones(*valid.shape[:1], x.shape[1], 1, 1))  # (B, C, 1, 1)
                x = x * keep.index_select(0, valid.nonzero()[:, 0])
        return self.back_end(x.flatten(1), valid)  # type: ignore[no-any-return]


def from_published(tensors: Mapping[str, Tensor]) -> LipNet:
    """The network with weights of LipNet-PyTorch (see the module's docstring), brought to lipbench's conventions.

    Key names and shapes were read from the published source; unverified: no published weights file has passed through
    here yet. The first convolution is turned from BGR to RGB, and the outputs are put in the order of
    `lipbench.media.text.SYMBOLS`, of which the published vocabulary lacks two (they get probability 0).

    Args:
        tensors: Its state dict: `torch.load(path, weights_only=True)`.

    Raises:
        ValueError: Names or shapes are not the published ones.
    """
    net = LipNet()
    letters = text.SYMBOLS[text.SYMBOLS.index(text.SILENCE) + 1 :]
    rows = [text.SYMBOLS.index(symbol) for symbol in (text.SYMBOLS[0], text.SILENCE, *letters)]  # blank, space, A to Z
    names = {f"convs.{k}.{part}": f"conv{k + 1}.{part}" for k in range(3) for part in ("weight", "bias")}
    names |= {
        f"back_end.gru{k}.{name}": f"gru{k}.{name}" for k in (1, 2) for name, _ in net.back_end.gru1.named_parameters()
    }
    names |= {f"back_end.out.{part}": f"FC.{part}" for part in ("weight", "bias")}
    if set(names.values()) != set(tensors):
        lacking, strange = set(names.values()) - set(tensors), set(tensors) - set(names.values())
        raise ValueError(
            f"not LipNet-PyTorch's weights: {len(lacking)} tensors are absent, such as {sorted(lacking)[:3]}, and "
            f"{len(strange)} are unknown, such as {sorted(strange)[:3]}"
        )
    found = {}
    for own, value in net.state_dict().items():
        stored = tensors[names[own]].float()
        if own.startswith("back_end.out."):
            wide = torch.full_like(value, _NEVER) if value.ndim == 1 else torch.zeros_like(value)
            if stored.shape == (len(rows), *value.shape[1:]):
                wide[rows] = stored
                stored = wide
        if stored.shape != value.shape:
            raise ValueError(
                f"not LipNet-PyTorch's weights: {names[own]} has shape {tuple(tensors[names[own]].shape)}, "
                f"which does not fit {tuple(value.shape)}"
            )
        found[own] = stored.flip(1) if own == "convs.0.weight" else stored
    net.load_state_dict(found)
    return net
