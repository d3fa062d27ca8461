"""wav2vec 2.0 base: audio -> 50 features a second, each of which depends on the whole audio.

Sources: Baevski et al., "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations" (NeurIPS
2020); the layers and their names in weights files are those of the library transformers (`Wav2Vec2Model` of
`models/wav2vec2/modeling_wav2vec2.py`), in which facebook/wav2vec2-base-960h is published; rates of dropout and masking
are those of that publication's configuration file. The features are resampled between convolutions and transformer as
in FaceFormer (EvelynFan/FaceFormer `wav2vec.py`), whose convolutions are frozen, too.

Parameters have the library's names, but for the prefix "wav2vec2." and the position convolution's weight norm, which
newer versions of the library call `parametrizations` (`lipbench.pretrained.networks.load_wav2vec2` knows both).

Own choices: the convolutions are computed for each clip by itself, in pieces of 10 s, with the normalization's
statistics of the whole clip, which gives the same features in bounded memory; padding is masked, so that a clip has the
same features alone and in a batch of longer ones.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from lipbench.nets.fastspeech import length_mask

KERNELS: Final = (10, 3, 3, 3, 3, 2, 2)
"""Of the convolutions, in samples or in steps of the layer before."""
STRIDES: Final = (5, 2, 2, 2, 2, 2, 2)
HOP: Final = 320
"""Samples from one feature to the next: 0.02 s at 16,000 a second."""
FIELD: Final = 400
"""Samples that a feature of the convolutions depends on, less those of the normalization."""
_PIECE: Final = 500  # features that are convolved at once, 10 s
_SILENT: Final = 1e-7  # added to the variance of the audio, as the library's feature extractor does
_SPAN: Final = 10  # features in a row that are masked in training
_MASKED: Final = 0.05  # share of the features at which a masked span starts, times `_SPAN`
_SPANS: Final = 2  # masked spans of a clip at least


def feature_count(samples: int) -> int:
    """Features of an audio of so many samples; one shorter than a feature's `FIELD` is filled up with zeros to it."""
    return (max(samples, FIELD) - FIELD) // HOP + 1


class _Convolution(nn.Module):
    """A convolution without padding and bias; the first one is followed by a GroupNorm with a group a channel."""

    layer_norm: nn.GroupNorm

    def __init__(self, before: int, after: int, kernel: int, stride: int, first: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(before, after, kernel, stride, bias=False)
        if first:
            self.layer_norm = nn.GroupNorm(after, after)


class FeatureExtractor(nn.Module):
    """The convolutions: audio -> 50 features a second. Frozen: no gradient reaches them.

    4,200,448 parameters as published.

    Args:
        widths: Channels of the seven convolutions.

    Raises:
        ValueError: There are not seven.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        if len(widths) != len(KERNELS):
            raise ValueError(f"wav2vec 2.0 has {len(KERNELS)} convolutions; found {len(widths)} widths")
        layers = zip((1, *widths[:-1]), widths, KERNELS, STRIDES, strict=True)
        self.conv_layers = nn.ModuleList(_Convolution(*sizes, first=k == 0) for k, sizes in enumerate(layers))
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """Convolve one clip in pieces.

        Args:
            audio: (S,) normalized, `FIELD` samples or more.

        Returns:
            (1, widths[-1], feature_count(S)) float32.
        """
        layers = [layer for layer in self.conv_layers if isinstance(layer, _Convolution)]
        norm, (first, *others) = layers[0].layer_norm, (layer.conv for layer in layers)
        # The normalization is over the whole clip, so its statistics are gathered before.
        steps = (len(audio) - KERNELS[0]) // STRIDES[0] + 1
        sums = audio.new_zeros(2, norm.num_channels, dtype=torch.float64)
        for piece in _pieces(audio, steps, STRIDES[0], KERNELS[0], _PIECE * HOP // STRIDES[0]):
            x = first(piece)[0].float()  # (C, steps of the piece)
            sums += torch.stack([x.sum(1, dtype=torch.float64), x.square().sum(1, dtype=torch.float64)])
        mean, square = (sums / steps).unbind()
        variance = (square - mean.square()).clamp(min=0)
        found = []
        for piece in _pieces(audio, feature_count(len(audio)), HOP, FIELD, _PIECE):
            x = first(piece).float()
            # With given statistics, BatchNorm computes what GroupNorm with a group a channel does.
            x = F.gelu(F.batch_norm(x, mean.float(), variance.float(), norm.weight, norm.bias, eps=norm.eps))
            for convolution in others:
                x = F.gelu(convolution(x))
            found.append(x.float())
        return torch.cat(found, dim=2)


def _pieces(audio: Tensor, steps: int, hop: int, field: int, size: int) -> Iterator[Tensor]:
    """(1, 1, samples) each: what `size` steps depend on, of which each sees `field` samples, `hop` after the last."""
    for begin in range(0, steps, size):
        last = min(begin + size, steps) - 1
        yield audio[begin * hop : last * hop + field][None, None]


class _FeatureProjection(nn.Module):
    """LayerNorm and a linear layer from the convolutions' channels to the transformer's."""

    def __init__(self, before: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(before)
        self.projection = nn.Linear(before, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, before) -> (B, T, hidden)."""
        return self.dropout(self.projection(self.layer_norm(x)))  # type: ignore[no-any-return]


class _WeightNormConvolution(nn.Module):
    """A grouped convolution over time, as long as its input, whose weight has a norm at every place of the kernel."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.bias = nn.Parameter(torch.zeros(width))
        self.weight_v = nn.Parameter(torch.randn(width, width // groups, kernel) * 2 * (kernel * width) ** -0.5)
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))  # (1, 1, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, T) -> (B, width, T); of an even kernel the half before a step is the longer one."""
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True))
        out = F.conv1d(x, weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return out[:, :, : x.shape[2]]


class _PositionEmbedding(nn.Module):
    """What a convolution over 2.56 s says of the place of a step."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = _WeightNormConvolution(width, kernel, groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        return F.gelu(self.conv(x.transpose(1, 2))).transpose(1, 2)


class _Attention(nn.Module):
    """Self-attention with biases."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, width) and (B, 1, 1, T) bool, true on steps that are looked at -> (B, T, width)."""
        parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)  # (B, heads, T, d)
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class _FeedForward(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.intermediate_dense, self.output_dense = nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        inner = self.dropout(F.gelu(self.intermediate_dense(x)))
        return self.dropout(self.output_dense(inner))  # type: ignore[no-any-return]


class _EncoderLayer(nn.Module):
    """Self-attention and a feed-forward part, both residual, with LayerNorm after each."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.attention = _Attention(width, heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed_forward = _FeedForward(width, ffn, dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, width) -> (B, T, width); see `_Attention`."""
        x = self.layer_norm(x + self.dropout(self.attention(x, mask)))
        return self.final_layer_norm(x + self.feed_forward(x))  # type: ignore[no-any-return]


class _Encoder(nn.Module):
    """Positions, LayerNorm and the layers, of which training leaves out some at random."""

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        ffn: int,
        position_kernel: int,
        position_groups: int,
        dropout: float,
        layer_drop: float,
    ) -> None:
        super().__init__()
        self.layer_drop = layer_drop
        self.pos_conv_embed = _PositionEmbedding(width, position_kernel, position_groups)
        self.layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_EncoderLayer(width, heads, ffn, dropout) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, width), 0 on padding -> (B, T, width); see `_Attention`."""
        x = self.dropout(self.layer_norm(x + self.pos_conv_embed(x)))
        for layer in self.layers:
            if not self.training or torch.rand(()) >= self.layer_drop:
                x = layer(x, mask)
        return x


class Wav2Vec2(nn.Module):
    """Frozen convolutions over the audio, a transformer over their features.

    94,371,712 parameters as published, 90,171,264 of which are trained.

    Args:
        widths: Channels of the seven convolutions.
        hidden: Channels of the transformer.
        layers: Of the transformer.
        heads: Of its attention.
        ffn: Channels of its feed-forward parts.
        position_kernel: Steps that the position convolution looks at.
        position_groups: Its groups.
        dropout: Everywhere: after projection, positions, attention and feed-forward, and in the latter two.
        layer_drop: Probability by which training leaves a layer out.

    Raises:
        ValueError: There are not seven widths, or `hidden` does not divide by `heads` or `position_groups`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (512,) * 7,
        hidden: int = 768,
        layers: int = 12,
        heads: int = 12,
        ffn: int = 3072,
        position_kernel: int = 128,
        position_groups: int = 16,
        dropout: float = 0.1,
        layer_drop: float = 0.1,
    ) -> None:
        super().__init__()
        if hidden % heads or hidden % position_groups:
            raise ValueError(
                f"wav2vec 2.0 of {hidden} channels cannot have {heads} heads and {position_groups} groups of the "
                "position convolution: both must divide the channels"
            )
        self.feature_extractor = FeatureExtractor(widths)
        self.feature_projection = _FeatureProjection(widths[-1], hidden, dropout)
        self.masked_spec_embed = nn.Parameter(torch.rand(hidden))
        self.encoder = _Encoder(
            hidden, layers, heads, ffn, position_kernel, position_groups, dropout, layer_drop=layer_drop
        )

    def forward(self, audio: Tensor, length: Tensor, steps: Tensor) -> Tensor:
        """Encode clips; in training, spans of features are masked.

        Args:
            audio: (B, S) mono in [-1, 1] at 16,000 a second, zero-padded. Each clip is normalized to mean 0 and
                variance 1, as the library does before the network.
            length: (B,) int64 valid samples.
            steps: (B,) int64 to how many features the convolutions' are interpolated linearly, from end to end
                (`align_corners`); with `feature_count(length)` they stay as they are.

        Returns:
            (B, max(steps), hidden) float32, 0 on padding.
        """
        counts = [max(count, 1) for count in steps.tolist()]  # a clip without any has one here, and none below
        extracted = []
        for samples, valid, count in zip(audio, length.tolist(), counts, strict=True):
            variance, mean = torch.var_mean(samples[:valid], correction=0)
            normalized = (samples[:valid] - mean) * (variance + _SILENT).rsqrt()
            features = self.feature_extractor(F.pad(normalized, (0, max(0, FIELD - valid))))  # (1, C, n)
            extracted.append(F.interpolate(features, count, mode="linear", align_corners=True)[0].T)  # (count, C)
        x = self.feature_projection(pad_sequence(extracted, batch_first=True))  # (B, T, hidden)
        if self.training:
            x = torch.where(_masked_spans(counts).to(x.device)[..., None], self.masked_spec_embed.to(x.dtype), x)
        there = length_mask(torch.tensor(counts, device=x.device), x.shape[1])  # (B, T)
        mask = there[:, None, None] if min(counts) < max(counts) else None
        x = self.encoder(x * there[..., None], mask).float()[:, : int(steps.max())]
        kept: Tensor = x * length_mask(steps, x.shape[1])[..., None]
        return kept


def _masked_spans(counts: Sequence[int]) -> Tensor:
    """(B, T) bool: which features training masks, drawn on the processor; none of a clip shorter than a span.

    Spans of 10 features that may overlap, 0.5 % of a clip's features as starts but 2 at least.
    """
    masked = torch.zeros(len(counts), max(counts), dtype=torch.bool)
    for row, count in enumerate(counts):
        spans = max(int(_MASKED * count / _SPAN + torch.rand(()).item()), _SPANS)
        starts = torch.randperm(max(count - _SPAN + 1, 0))[:spans]
        masked[row, (starts[:, None] + torch.arange(_SPAN)).flatten()] = True
    return masked
