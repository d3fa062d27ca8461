"""Conformer lip readers: convolutions and a ResNet-18, a Conformer encoder, symbols by CTC and by an attention decoder.

The encoder is Gulati et al. 2020 as ESPnet has it: blocks of half a feed-forward part, self-attention with relative
positions (Dai et al. 2019, Transformer-XL, appendix B), a convolution over time and the other half. Two published
readers differ in details, and `layout` names which one it is:

- "talklip": the second lip-reading observer of TalkLip's tables (Sxjdwang/TalkLip `models/conformer_lip_reading.py` and
  `models/visual_frontend.py`, commit 7ed53ee, on ESPnet 0.10.6). The front end is deep_avsr's, whose second block of a
  stage adds the sum that the first one had before BatchNorm; a linear layer and LayerNorm lead to the encoder; all
  feed-forward parts of the encoder have swish. 52,492,560 parameters with the published sizes (256 channels, 4 heads,
  2,048 in the feed-forward parts) and 40 symbols; the published file holds 4,096 more, of a layer that is not used.
- "auto_avsr": Auto-AVSR's (mpc001/auto_avsr `espnet/nets/pytorch_backend/e2e_asr_conformer.py`, commit 182b628). The
  front end has swish, the feed-forward parts have ReLU, and a linear layer alone leads to the encoder. 250,383,410
  parameters with the published sizes (768 channels, 12 heads, 3,072) and 5,049 symbols.

Both have the newer form of ESPnet's relative positions (espnet/espnet#2816), which counts in both directions.

Own choices: BatchNorm and the convolutions over time see no padding, so that a clip is read alike alone and beside
longer ones (the published code is run clip by clip); linear layers of the decoder begin as in
`lipbench.nets.sequence_decoder`.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.media import text
from lipbench.nets.fastspeech import alternating_positions, length_mask
from lipbench.nets.joint_search import joint_search
from lipbench.nets.lipnet import convolve
from lipbench.nets.lipresnet import ResNetTrunk
from lipbench.nets.sequence_decoder import SequenceDecoder

Layout = Literal["talklip", "auto_avsr"]


class _Gray(NamedTuple):
    """How pictures become numbers."""

    weights: tuple[float, float, float]
    mean: float
    deviation: float


_GRAY: Final[dict[Layout, _Gray]] = {
    "talklip": _Gray((0.299, 0.587, 0.114), 0.4161, 0.1688),  # OpenCV's gray
    "auto_avsr": _Gray((0.2989, 0.587, 0.114), 0.421, 0.165),  # torchvision's
}
_EPS: Final = 1e-12  # of ESPnet's LayerNorm


class _Stage(nn.Module):
    """Two residual blocks of deep_avsr's ResNet-18: the second one adds what the first one had before its last norm.

    Args:
        before: Channels in.
        after: Channels out.
        stride: Of the first convolution and of the shortcut, which is a 1x1 convolution unless this is 1.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        widths = (before, after, after, after)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, after, 3, stride if k == 0 else 1, 1, bias=False) for k, width in enumerate(widths)
        )
        self.norms = nn.ModuleList(_norm2d(after) for _ in widths)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(M, before, h, w) -> (M, after, h / stride, w / stride), rounded up."""
        inner = F.relu(self.norms[0](self.convs[0](x)))
        total = self.convs[1](inner) + self.shortcut(x)
        inner = F.relu(self.norms[2](self.convs[2](F.relu(self.norms[1](total)))))
        return F.relu(self.norms[3](self.convs[3](inner) + total))


def _norm2d(width: int) -> nn.BatchNorm2d:
    """BatchNorm as deep_avsr has it, which TensorFlow had before."""
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


class FrontEnd(nn.Module):
    """Gray frames -> a vector a frame: a spatio-temporal convolution, the maximum over 3x3, a ResNet-18.

    Args:
        layout: Whose, see the module.
        front: Channels of the spatio-temporal convolution.
        widths: Channels of the four stages of the ResNet.
    """

    def __init__(self, layout: Layout, front: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, front, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.activation: nn.Module
        if layout == "talklip":
            self.norm, self.activation = _norm2d(front), nn.ReLU(inplace=True)
            stages = enumerate(pairwise((front, *widths)))
            self.trunk = nn.Sequential(*(_Stage(before, after, 2 if k else 1) for k, (before, after) in stages))
        else:
            self.norm, self.activation = nn.BatchNorm2d(front), nn.SiLU(inplace=True)
            self.trunk = ResNetTrunk(front, widths).blocks
            for block in self.trunk:
                block.rectifier1, block.rectifier2 = nn.SiLU(inplace=True), nn.SiLU(inplace=True)
        self.trunk.to(memory_format=torch.channels_last)

    def forward(self, frames: Tensor, valid: Tensor) -> Tensor:
        """(M, 1, H, W) normalized gray frames where (B, T) is valid -> (M, widths[-1])."""
        x = self.activation(self.norm(convolve(self.conv, frames, valid)))  # (M, front, H / 2, W / 2)
        return self.trunk(F.max_pool2d(x, 3, 2, 1)).mean(dim=(2, 3))  # type: ignore[no-any-return]


class _FeedForward(nn.Sequential):
    """LayerNorm, a linear layer, its activation, dropout, a linear layer, dropout; half of it is added."""

    def __init__(self, width: int, inner: int, dropout: float, layout: Layout) -> None:
        activation = nn.SiLU() if layout == "talklip" else nn.ReLU()
        super().__init__(
            nn.LayerNorm(width, _EPS),
            nn.Linear(width, inner),
            activation,
            nn.Dropout(dropout),
            nn.Linear(inner, width),
            nn.Dropout(dropout),
        )


class RelativeAttention(nn.Module):
    """Multi-head self-attention whose scores also depend on how far apart two steps are (Dai et al. 2019, appendix B).

    Args:
        width: Channels, which divide by `heads`.
        heads: Attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.position = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.content_bias, self.position_bias = (nn.Parameter(torch.empty(heads, width // heads)) for _ in range(2))
        nn.init.xavier_uniform_(self.content_bias)
        nn.init.xavier_uniform_(self.position_bias)

    def forward(self, x: Tensor, distances: Tensor, valid: Tensor) -> Tensor:
        """Attend.

        Args:
            x: (B, T, width).
            distances: (1, 2 T - 1, width) of `relative_positions`.
            valid: (B, T) bool, true where steps may be attended to.

        Returns:
            (B, T, width).
        """
        steps = x.shape[1]
        query = self.query(x).unflatten(2, (self.heads, -1))  # (B, T, heads, width / heads)
        key, value, position = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.key(x), self.value(x), self.position(distances))
        )  # (B, heads, T, width / heads), the last one (1, heads, 2 T - 1, width / heads)
        by_place = (query + self.position_bias).transpose(1, 2) @ position.transpose(2, 3)  # (B, heads, T, 2 T - 1)
        here = torch.arange(steps, device=x.device)
        row = (steps - 1 - here)[:, None] + here  # (T, T): the place of distance t - s for query t and key s
        by_place = by_place.gather(3, row.expand(*by_place.shape[:2], -1, -1)) / math.sqrt(key.shape[3])
        bias = by_place.masked_fill(~valid[:, None, None, :], -math.inf)
        seen = F.scaled_dot_product_attention((query + self.content_bias).transpose(1, 2), key, value, attn_mask=bias)
        return self.out(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def relative_positions(steps: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines, in turn, of the distances T - 1, ..., 0, ..., 1 - T from a query back to a key.

    Returns:
        (1, 2 T - 1, width) float32; `width` must be even.
    """
    return alternating_positions(torch.arange(steps - 1, -steps, -1, device=device), width)[None]


class _Convolution(nn.Module):
    """LayerNorm, a gated linear layer, a convolution over time of each channel, BatchNorm, swish, a linear layer.

    Args:
        width: Channels.
        kernel: Steps that the convolution sees, odd.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(width, _EPS)
        self.gated = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, T, width) and (B, T) bool -> (B, T, width), zero where not valid."""
        gated = F.glu(self.gated(self.layer_norm(x)), dim=2) * valid[:, :, None]
        convolved = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)  # (B, T, width)
        found = self.out(F.silu(self.norm(convolved[valid])))  # (M, width)
        return torch.zeros_like(x).index_put((valid,), found.to(x.dtype))


class ConformerBlock(nn.Module):
    """Half a feed-forward part, self-attention, a convolution, half a feed-forward part, LayerNorm.

    Args:
        width: Channels.
        heads: Attention heads.
        ffn: Channels inside the feed-forward parts.
        kernel: Of the convolution, odd.
        dropout: After each part and inside the feed-forward parts.
        layout: Whose, see the module.
    """

    def __init__(self, width: int, heads: int, ffn: int, kernel: int, dropout: float, layout: Layout) -> None:
        super().__init__()
        self.first, self.second = (_FeedForward(width, ffn, dropout, layout) for _ in range(2))
        self.attention_norm = nn.LayerNorm(width, _EPS)
        self.attention = RelativeAttention(width, heads)
        self.convolution = _Convolution(width, kernel)
        self.norm = nn.LayerNorm(width, _EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, distances: Tensor, valid: Tensor) -> Tensor:
        """(B, T, width), see `RelativeAttention` -> (B, T, width)."""
        x = x + 0.5 * self.first(x)
        x = x + self.dropout(self.attention(self.attention_norm(x), distances, valid))
        x = x + self.dropout(self.convolution(x, valid))
        return self.norm(x + 0.5 * self.second(x))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """A vector a frame -> a memory that CTC and the decoder read.

    Args:
        features: Channels in.
        width: Channels of the blocks, even.
        layers: Blocks; the other arguments are those of `ConformerBlock`.
        heads: Attention heads.
        ffn: Channels inside the feed-forward parts.
        kernel: Of the convolutions.
        dropout: Also of what enters the blocks, and of the positions.
        layout: Whose, see the module.
    """

    def __init__(
        self,
        features: int,
        width: int,
        layers: int,
        heads: int,
        ffn: int,
        kernel: int,
        dropout: float,
        layout: Layout,
    ) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(features, width))
        if layout == "talklip":
            self.project.extend((nn.LayerNorm(width), nn.Dropout(dropout)))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(ConformerBlock(width, heads, ffn, kernel, dropout, layout) for _ in range(layers))
        self.norm = nn.LayerNorm(width, _EPS)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """(B, T, features) and (B, T) bool -> (B, T, width); what stands where not valid means nothing."""
        x = self.project(features)
        steps, width = x.shape[1:]
        distances = self.dropout(relative_positions(steps, width, x.device).to(x.dtype))
        x = self.dropout(x * math.sqrt(width))
        for block in self.blocks:
            x = block(x, distances, valid)
        return self.norm(x)  # type: ignore[no-any-return]


class Conformer(nn.Module):
    """Reads mouths.

    Args:
        layout: Whose, see the module.
        front: Channels of the spatio-temporal convolution.
        widths: Channels of the four stages of the ResNet.
        width: Channels of encoder and decoder.
        layers: Blocks of the encoder.
        heads: Attention heads of encoder and decoder.
        ffn: Channels inside the feed-forward parts of both.
        kernel: Steps that the convolutions of the encoder see, odd.
        decoder_layers: Blocks of the decoder.
        outputs: Symbols V; 0 is the CTC blank.
        end: Symbol before the first and after the last one.
        margin: Pixels that are cut off on every side: 4 of Auto-AVSR's 96.
        dropout: Of encoder, decoder and what CTC sees.
        beam: Hypotheses of `transcribe`; 40 in Auto-AVSR.
        ctc_weight: Share of CTC in their scores, 0 to 1.

    Attributes:
        arguments: The above, as plain values.

    Raises:
        ValueError: The layout is unknown, or sizes do not fit.
    """

    def __init__(
        self,
        layout: Layout = "auto_avsr",
        front: int = 64,
        widths: Sequence[int] = (64, 128, 256, 512),
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        ffn: int = 3072,
        kernel: int = 31,
        decoder_layers: int = 6,
        outputs: int = len(text.SYMBOLS),
        end: int = text.SYMBOLS.index("<eos>"),
        margin: int = 4,
        dropout: float = 0.1,
        beam: int = 40,
        ctc_weight: float = 0.1,
    ) -> None:
        super().__init__()
        if layout not in get_args(Layout):
            raise ValueError(f"the layout of a Conformer is one of {', '.join(get_args(Layout))}, found {layout!r}")
        if width % heads or width % 2 or kernel % 2 == 0:
            raise ValueError(
                f"the width must be even and divide by the heads, and the kernel must be odd, found a width of "
                f"{width}, {heads} heads and a kernel of {kernel}"
            )
        if layout == "talklip" and front != widths[0]:
            raise ValueError(
                "in the layout 'talklip' the first stage adds what enters it, so that front must be the first of the "
                f"widths; found {front} and {widths[0]}"
            )
        if not 0 < end < outputs:
            raise ValueError(f"the end must be a symbol other than 0, the blank, and below {outputs}; found {end}")
        self.arguments: dict[str, Any] = {
            "layout": layout,
            "front": front,
            "widths": list(widths),
            "width": width,
            "layers": layers,
            "heads": heads,
            "ffn": ffn,
            "kernel": kernel,
            "decoder_layers": decoder_layers,
            "outputs": outputs,
            "end": end,
            "margin": margin,
            "dropout": dropout,
            "beam": beam,
            "ctc_weight": ctc_weight,
        }
        self.gray, self.margin, self.end = _GRAY[layout], margin, end
        self.beam, self.ctc_weight = beam, ctc_weight
        self.front_end = FrontEnd(layout, front, widths)
        self.encoder = Encoder(widths[-1], width, layers, heads, ffn, kernel, dropout, layout)
        self.decoder = SequenceDecoder(
            outputs, width, decoder_layers, heads, ffn, dropout=dropout, layout="espnet", padding=None
        )
        self.ctc = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, outputs))

    def forward(self, video: Tensor, lengths: Tensor) -> Tensor:
        """What CTC sees in every frame.

        Args:
            video: (B, T, 3, H, W) RGB in [0, 1], of any size.
            lengths: (B,) int64, valid frames, at least 1.

        Returns:
            (B, T, V) float32 log-probabilities; what stands after a clip's length means nothing.
        """
        return self.symbols(self.encode(video, lengths))

    def encode(self, video: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, 3, H, W) and (B,), as `forward` -> (B, T, width)."""
        return self._encode(self._features(video, lengths), lengths)

    def symbols(self, memory: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, V) float32 log-probabilities of CTC."""
        return F.log_softmax(self.ctc(memory).float(), dim=2)

    def _features(self, video: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T, widths[-1]), zero after each length."""
        valid = length_mask(lengths, video.shape[1])  # (B, T)
        height, width = video.shape[-2:]
        margin = self.margin
        frames = video[valid][..., margin : height - margin, margin : width - margin]  # (M, 3, h, w)
        gray = torch.einsum("mchw,c->mhw", frames, frames.new_tensor(self.gray.weights))[:, None]  # (M, 1, h, w)
        found: Tensor = self.front_end((gray - self.gray.mean) / self.gray.deviation, valid)  # (M, F)
        return found.new_zeros(*valid.shape, found.shape[1]).index_put((valid,), found)

    def _encode(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, widths[-1]) -> (B, T, width)."""
        return self.encoder(features, length_mask(lengths, features.shape[1]))  # type: ignore[no-any-return]

    def decode(self, memory: Tensor, lengths: Tensor, ids: Sequence[Sequence[int]]) -> Tensor:
        """Scores of the attention decoder, which at every step has seen the true symbols so far.

        Args:
            memory: (B, T, width).
            lengths: (B,) valid steps.
            ids: Symbols of each clip, without marks of beginning and end.

        Returns:
            (B, longest + 1, V) logits; step l was given the first l symbols.
        """
        seen = torch.full((len(ids), 1 + max(map(len, ids))), self.end, device=memory.device)
        for row, own in zip(seen, ids, strict=True):
            row[1 : 1 + len(own)] = torch.tensor(own, dtype=row.dtype)
        return self.decoder(seen, memory, lengths)  # type: ignore[no-any-return]

    @torch.no_grad()
    def force(self, frames: Tensor, length: Tensor, ids: Sequence[Sequence[int]]) -> Tensor:
        """Teacher-forced scores of texts in videos.

        As TalkLip's code: a video with fewer frames than CTC needs for its text is brought to as many by features of
        zero, half of them in front.

        Args:
            frames: (B, T, 3, h, w) in [0, 1].
            length: (B,) valid frames.
            ids: Symbols of each text, without marks of beginning and end.

        Returns:
            (B, longest + 1, V) logits; step l was given the first l symbols.
        """
        features = self._features(frames, length)
        needed = torch.tensor([len(own) + sum(a == b for a, b in pairwise(own)) for own in ids], device=length.device)
        if bool((needed > length).any()):
            features, length = _widened(features, length, needed)
        return self.decode(self._encode(features, length), length, ids)

    @torch.no_grad()
    def transcribe(self, frames: Tensor, length: Tensor) -> list[list[int] | None]:
        """Read videos.

        Args:
            frames: (B, T, 3, h, w) in [0, 1].
            length: (B,) valid frames.

        Returns:
            Symbols of each clip; None where a valid frame is not finite.
        """
        return self.search(self.encode(frames, length), length)

    def search(self, memory: Tensor, lengths: Tensor) -> list[list[int] | None]:
        """Symbols of (B, T, width), by both CTC and the decoder: see `lipbench.nets.joint_search`."""
        return joint_search(
            self.decoder,
            memory,
            lengths,
            self.symbols(memory),
            end=self.end,
            beam=self.beam,
            ctc_weight=self.ctc_weight,
        )


def _widened(features: Tensor, lengths: Tensor, needed: Tensor) -> tuple[Tensor, Tensor]:
    """Clips of at least `needed` (B,) steps, their own in the middle: (B, T', F) and (B,)."""
    wide = torch.maximum(lengths, needed)
    out = features.new_zeros(len(features), int(wide.max()), features.shape[2])
    starts = (wide - lengths) // 2
    for row, clip, start, length in zip(out, features, starts.tolist(), lengths.tolist(), strict=True):
        row[start : start + length] = clip[:length]
    return out, wide
