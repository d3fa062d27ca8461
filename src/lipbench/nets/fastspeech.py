"""Feed-forward transformer blocks, duration predictor and length regulator of FastSpeech, as ParaLip uses them.

Sizes from ParaLip's published code (Dianezzy/ParaLip `modules/`, commit a7824ac): pre-LN blocks, attention without
bias, a convolution of kernel 9 in the feed-forward part. Sequences are (B, T, H) with a boolean mask `valid` (B, T),
true on real steps.

Own choice: padded steps are zeroed before every convolution, not only after every block. A clip therefore gives the
same result alone and inside a batch of longer ones.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def positions(length: int, width: int, device: torch.device) -> Tensor:
    """Sinusoidal positions: sines in the first half of the channels, cosines in the second (tensor2tensor's layout).

    Returns:
        (length, width) float32. `width` must be even.
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(10000.0) / max(half - 1, 1)))  # (half,)
    angles = torch.arange(1, length + 1, device=device)[:, None] * rates  # (length, half)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def alternating_positions(places: Tensor, width: int) -> Tensor:
    """Sinusoidal positions: sines and cosines in turn (Vaswani et al. 2017, section 3.5).

    Args:
        places: (n,) any numbers.
        width: Channels, even.

    Returns:
        (n, width) float32.
    """
    rates = torch.exp(torch.arange(0, width, 2, device=places.device) * (-math.log(10000.0) / width))  # (width / 2,)
    angles = places[:, None] * rates  # (n, width / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """(B,) lengths -> (B, size) bool, true before each length."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


class FFTBlock(nn.Module):
    """One feed-forward transformer block: pre-LN self-attention, then a pre-LN convolution and linear, both residual.

    Args:
        hidden: Channels H.
        heads: Attention heads.
        ffn: Channels inside the feed-forward part.
        kernel: Its convolution kernel, odd.
        dropout: After the attention, inside and after the feed-forward part.
    """

    def __init__(self, hidden: int, heads: int, ffn: int, kernel: int, dropout: float) -> None:
        super().__init__()
        if hidden % heads or kernel % 2 == 0:
            raise ValueError(f"hidden ({hidden}) must divide by heads ({heads}) and kernel ({kernel}) must be odd")
        self.heads = heads
        self.attention_norm = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.attention_out = nn.Linear(hidden, hidden, bias=False)
        self.ffn_norm = nn.LayerNorm(hidden)
        self.conv = nn.Conv1d(hidden, ffn, kernel, padding=kernel // 2)
        self.ffn_out = nn.Linear(ffn, hidden)
        self.dropout = nn.Dropout(dropout)
        self.scale = kernel**-0.5

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, T, H) and (B, T) bool -> (B, T, H), zero where not valid."""
        keep = valid[:, :, None]
        batch, steps, hidden = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, steps, 3, self.heads, hidden // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, H / heads)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None, :])
        x = (x + self.dropout(self.attention_out(seen.transpose(1, 2).reshape(batch, steps, hidden)))) * keep
        inner = self.conv((self.ffn_norm(x) * keep).transpose(1, 2)).transpose(1, 2)  # (B, T, ffn)
        inner = self.dropout(F.relu(inner * self.scale))
        x = (x + self.dropout(self.ffn_out(inner))) * keep
        return x


class FFTStack(nn.Module):
    """Several `FFTBlock`s and a final LayerNorm; arguments as `FFTBlock`."""

    def __init__(self, layers: int, hidden: int, heads: int, ffn: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FFTBlock(hidden, heads, ffn, kernel, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, T, H) and (B, T) bool -> (B, T, H), zero where not valid."""
        x = x * valid[:, :, None]
        for block in self.blocks:
            x = block(x, valid)
        return self.norm(x) * valid[:, :, None]  # type: ignore[no-any-return]


class TextEncoder(nn.Module):
    """Token embedding, positions and feed-forward transformer blocks.

    Args:
        tokens: Size of the vocabulary; id 0 is padding.
        layers: Blocks; the other arguments are those of `FFTBlock`.
        hidden: Channels H.
        heads: Attention heads.
        ffn: Channels of the feed-forward part.
        kernel: Convolution kernel.
        dropout: Also applied to the embedding.
    """

    def __init__(
        self, tokens: int, layers: int, hidden: int, heads: int, ffn: int, kernel: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, hidden, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=hidden**-0.5)
        with torch.no_grad():
            self.embedding.weight[0].zero_()
        self.dropout = nn.Dropout(dropout)
        self.stack = FFTStack(layers, hidden, heads, ffn, kernel, dropout)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """(B, L) int64 and (B, L) bool -> (B, L, H), zero where not valid."""
        hidden = self.embedding.embedding_dim
        x = self.embedding(tokens) * math.sqrt(hidden) + positions(tokens.shape[1], hidden, tokens.device)
        return self.stack(self.dropout(x), valid)  # type: ignore[no-any-return]


class MotionDecoder(nn.Module):
    """Positions with a learnt scale, then feed-forward transformer blocks; arguments as `FFTStack`."""

    def __init__(self, layers: int, hidden: int, heads: int, ffn: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.position_scale = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(dropout)
        self.stack = FFTStack(layers, hidden, heads, ffn, kernel, dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, N, H) and (B, N) bool -> (B, N, H), zero where not valid."""
        x = x + self.position_scale * positions(x.shape[1], x.shape[2], x.device)
        return self.stack(self.dropout(x), valid)  # type: ignore[no-any-return]


class DurationPredictor(nn.Module):
    """Two convolutions and a linear layer that predict log(frames + 1) of every token.

    Args:
        hidden: Channels H.
        kernel: Convolution kernel.
        dropout: 0.5 in ParaLip's published code, whatever the rest of the model uses.
    """

    def __init__(self, hidden: int, kernel: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden, eps=1e-12) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, L, H) and (B, L) bool -> (B, L) log(frames + 1), zero where not valid."""
        keep = valid[:, :, None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(conv((x * keep).transpose(1, 2)).transpose(1, 2))
            x = self.dropout(norm(x))
        return self.out(x)[:, :, 0] * valid  # type: ignore[no-any-return]


def predicted_frames(log_frames: Tensor) -> Tensor:
    """log(frames + 1) as the predictor gives it -> float frames, never negative. Any shape."""
    return torch.expm1(log_frames.float()).clamp(min=0)


def round_durations(frames: Tensor, valid: Tensor) -> Tensor:
    """Round predicted durations to whole frames.

    Args:
        frames: (B, L) float.
        valid: (B, L) bool.

    Returns:
        (B, L) int64. A clip whose durations would all be 0 gets one frame a token, as in ParaLip's published code.
    """
    rounded = torch.round(frames).long() * valid  # (B, L)
    empty = rounded.sum(dim=1, keepdim=True) == 0  # (B, 1)
    return torch.where(empty, valid.long(), rounded)


def rescale_durations(frames: Tensor, valid: Tensor, total: Tensor) -> Tensor:
    """Rescale predicted durations to a known total and round them by the largest remainder.

    Args:
        frames: (B, L) float, not negative.
        valid: (B, L) bool.
        total: (B,) int64 frames of each clip.

    Returns:
        (B, L) int64, every row summing exactly to its total.
    """
    share = frames.double() * valid
    share = torch.where(share.sum(dim=1, keepdim=True) > 0, share, valid.double())
    exact = share * (total[:, None] / share.sum(dim=1, keepdim=True))  # (B, L)
    whole = exact.floor()
    missing = total - whole.sum(dim=1).long()  # (B,), fewer than L
    remainder = torch.where(valid, exact - whole, -1.0)
    rank = remainder.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # (B, L), 0 = largest remainder
    return whole.long() + (rank < missing[:, None])


def fit_durations(frames: Tensor, valid: Tensor, total: Tensor | None, speech: Tensor | None = None) -> Tensor:
    """Predicted durations as whole frames, of a known total or not, with a known span of speech or not.

    Args:
        frames: (B, L) float, not negative.
        valid: (B, L) bool; the first and the last token of each clip are the silences before and after speech.
        total: (B,) int64 frames of each clip; None rounds each token by itself.
        speech: (B, 2) int64 first frame of speech and the frame after its last, with `total`.

    Returns:
        (B, L) int64.
    """
    if total is None:
        return round_durations(frames, valid)
    if speech is None:
        return rescale_durations(frames, valid, total)
    first, last = speech.unbind(1)  # (B,) each
    place = torch.arange(frames.shape[1], device=frames.device)
    after = place == valid.sum(dim=1, keepdim=True) - 1  # (B, L)
    inside = valid & (place > 0) & ~after
    found = rescale_durations(frames, inside, last - first)  # (B, L), 0 outside
    return found + torch.where(place == 0, first[:, None], 0) + torch.where(after, (total - last)[:, None], 0)


def expand(x: Tensor, durations: Tensor) -> tuple[Tensor, Tensor]:
    """Length regulator: repeat every token for its frames.

    Args:
        x: (B, L, H).
        durations: (B, L) int64 frames.

    Returns:
        (B, N, H) with N the longest clip, zero where not valid; (B, N) bool.
    """
    ends = durations.cumsum(dim=1)  # (B, L), the frame after each token's last
    frames = torch.arange(int(ends[:, -1].max()), device=x.device).expand(len(x), -1)  # (B, N)
    valid = frames < ends[:, -1:]
    owner = torch.searchsorted(ends, frames.contiguous(), right=True).clamp(max=x.shape[1] - 1)  # (B, N)
    return x.gather(1, owner[:, :, None].expand(-1, -1, x.shape[2])) * valid[:, :, None], valid
