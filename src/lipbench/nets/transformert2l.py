"""TransformerT2L, the autoregressive baseline of ParaLip's paper (AAAI 2022, section 5.1): a causal transformer.

The paper says of it that it has "the same model settings with ParaLip", that most modules and the number of parameters
are similar, that its identity encoder is the same (Table 6), and that the last generated frame is down-sampled to
predict the current one. ParaLip's published code (Dianezzy/ParaLip, commit a7824ac) does not hold the model, but its
decoder layer (`modules/operations.py`, `DecSALayer`): pre-LN self-attention and attention to the text, 2 heads each and
without bias, and a feed-forward part whose convolution sees a frame and the 8 before.

Own choices, since both are silent: the last frame is seen through an encoder of its own, built as the identity encoder,
and its vector is added to the identity vector; a learnt scale of the positions and a LayerNorm at the end, as ParaLip's
motion decoder has them; the identity frame stands before the first frame; a linear layer says which frame is the last.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.nets import duallip
from lipbench.nets.fastspeech import TextEncoder, length_mask, positions
from lipbench.nets.pictures import IdentityEncoder, PictureDecoder


class Past(NamedTuple):
    """What a block keeps of the frames before."""

    keys_values: Tensor
    """(2, B, heads, n, H / heads) of the self-attention."""
    inputs: Tensor
    """(B, H, kernel - 1) last inputs of the convolution."""


class CausalBlock(nn.Module):
    """Self-attention over the frames so far, attention to the text, a causal convolution and a linear layer.

    Each after a LayerNorm, each residual. Dropout is where the published layer has it: after each part and inside the
    feed-forward part, none on the attention weights.

    Args:
        hidden: Channels H.
        heads: Of either attention.
        ffn: Channels inside the feed-forward part.
        kernel: Its convolution kernel: a frame and the kernel - 1 before.
        dropout: See above.

    Raises:
        ValueError: `hidden` does not divide by `heads`.
    """

    def __init__(self, hidden: int, heads: int, ffn: int, kernel: int, dropout: float) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"hidden ({hidden}) must divide by heads ({heads})")
        self.heads, self.kernel = heads, kernel
        self.attention_norm, self.text_norm, self.ffn_norm = (nn.LayerNorm(hidden) for _ in range(3))
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.attention_out = nn.Linear(hidden, hidden, bias=False)
        self.text_query = nn.Linear(hidden, hidden, bias=False)
        self.text_keys_values = nn.Linear(hidden, 2 * hidden, bias=False)
        self.text_out = nn.Linear(hidden, hidden, bias=False)
        self.conv = nn.Conv1d(hidden, ffn, kernel)
        self.ffn_out = nn.Linear(ffn, hidden)
        self.dropout = nn.Dropout(dropout)

    def of_text(self, text: Tensor) -> Tensor:
        """(B, L, H) -> (2, B, heads, L, H / heads) keys, scaled, and values: the same for all frames."""
        keys, values = self._split(self.text_keys_values(text), 2)
        return torch.stack([keys * keys.shape[3] ** -0.5, values])

    def _split(self, x: Tensor, parts: int) -> Tensor:
        """(B, T, parts H) -> (parts, B, heads, T, H / heads)."""
        return x.view(*x.shape[:2], parts, self.heads, -1).permute(2, 0, 3, 1, 4)

    def forward(self, x: Tensor, text: Tensor, padding: Tensor, past: Past | None) -> tuple[Tensor, Tensor, Past]:
        """All frames of clips, or the next one after what is known.

        Args:
            x: (B, N, H); N = 1 where there is a past.
            text: Of `of_text`.
            padding: (B, 1, 1, L), -inf where there is no token, else 0.
            past: Of the frames before, None at the beginning.

        Returns:
            (B, N, H); (B, heads, N, L) weights of the text's tokens; what the next frame needs of these and before.
        """
        qkv = self._split(self.qkv(self.attention_norm(x)), 3)
        query, keys_values = qkv[0], qkv[1:]  # (B, heads, N, H / heads), (2, B, heads, N, H / heads)
        if past is not None:
            keys_values = torch.cat([past.keys_values, keys_values], dim=3)
        keys, values = keys_values
        seen = F.scaled_dot_product_attention(query, keys, values, is_causal=past is None)  # (B, heads, N, H / heads)
        x = x + self.dropout(self.attention_out(seen.transpose(1, 2).flatten(2)))

        (query,) = self._split(self.text_query(self.text_norm(x)), 1)
        weights = (query @ text[0].transpose(2, 3) + padding).softmax(dim=3)  # (B, heads, N, L)
        read = weights @ text[1]  # (B, heads, N, H / heads)
        x = x + self.dropout(self.text_out(read.transpose(1, 2).flatten(2)))

        inputs = self.ffn_norm(x).transpose(1, 2)  # (B, H, N)
        before = inputs.new_zeros(*inputs.shape[:2], self.kernel - 1) if past is None else past.inputs
        inputs = torch.cat([before, inputs], dim=2)  # (B, H, kernel - 1 + N)
        if x.shape[1] == 1:  # one product in place of a convolution, which would lay out its weights anew each time
            inner = F.linear(inputs.flatten(1), self.conv.weight.flatten(1), self.conv.bias)[:, None]  # (B, 1, ffn)
        else:
            inner = self.conv(inputs).transpose(1, 2)  # (B, N, ffn)
        x = x + self.dropout(self.ffn_out(self.dropout(F.relu(inner * self.kernel**-0.5))))
        return x, weights, Past(keys_values, inputs[:, :, inputs.shape[2] - self.kernel + 1 :])


class Clips(NamedTuple):
    """Encoded texts and identity frames: what all frames of the clips share."""

    text: list[Tensor]
    """Of every block, see `CausalBlock.of_text`."""
    padding: Tensor
    """(B, 1, 1, L), -inf where there is no token, else 0."""
    identity: Tensor
    """(B, H)."""
    skips: list[Tensor]


class Decoded(NamedTuple):
    """What the decoder makes of frames in a row."""

    motion: Tensor
    """(B, N, H): what is drawn."""
    stop: Tensor
    """(B, N) logits that a frame is the last."""
    weights: list[Tensor]
    """Of every block, (B, heads, N, L) of the text's tokens."""
    past: list[Past]
    """Of every block."""


class Generator(nn.Module):
    """Text encoder, identity encoder, encoder of the last frame, causal decoder, picture decoder, stop prediction.

    37,702,449 parameters at 30 tokens and 80x160: text encoder 11,551,744, two picture encoders of 1,909,376, decoder
    12,594,689, picture decoder 9,737,007, stop prediction 257. The paper counts 37.780 M. Its count of ParaLip includes
    86,352 parameters that the published code never uses; with these it would be 37,788,801 here.

    Args:
        size: (height, width) of the frames.
        tokens: Size of the vocabulary; id 0 is padding.
        layers: Blocks of the text encoder, and as many of the decoder.
        hidden: Channels H.
        heads: Attention heads.
        ffn: Channels of the feed-forward parts.
        kernel: Their convolution kernel, odd.
        dropout: Of the sequence part.
        encoder_widths: Channels of both picture encoders, one number a halving of the picture.
        decoder_widths: Channels of the picture decoder: first map, one a doubling, last map.
    """

    def __init__(
        self,
        size: tuple[int, int],
        tokens: int,
        layers: int,
        hidden: int,
        heads: int,
        ffn: int,
        kernel: int,
        dropout: float,
        encoder_widths: Sequence[int],
        decoder_widths: Sequence[int],
    ) -> None:
        super().__init__()
        self.text_encoder = TextEncoder(tokens, layers, hidden, heads, ffn, kernel, dropout)
        self.identity_encoder = IdentityEncoder(size, encoder_widths, hidden)
        self.previous_encoder = IdentityEncoder(size, encoder_widths, hidden)
        self.position_scale = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(CausalBlock(hidden, heads, ffn, kernel, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.stop = nn.Linear(hidden, 1)
        self.picture_decoder = PictureDecoder(size, encoder_widths, decoder_widths, hidden)

    def encode(self, tokens: Tensor, token_len: Tensor, identity: Tensor) -> Clips:
        """(B, L) int64, (B,) int64, (B, 3, height, width) in [0, 1] -> what all frames share."""
        valid = length_mask(token_len, tokens.shape[1])  # (B, L)
        encoded = self.text_encoder(tokens, valid)  # (B, L, H)
        text = [block.of_text(encoded) for block in self.blocks]  # type: ignore[operator]
        padding = torch.zeros(valid.shape, device=valid.device).masked_fill(~valid, -torch.inf)[:, None, None]
        return Clips(text, padding, *self.identity_encoder(identity))

    def see(self, frames: Tensor) -> Tensor:
        """What the decoder takes of frames: (M, 3, height, width) in [0, 1] -> (M, H)."""
        return self.previous_encoder(frames)[0]  # type: ignore[no-any-return]

    def shifts(self, clips: Clips, count: int) -> Tensor:
        """(B, count, H) what is added to the vectors of the frames before: identity vectors and positions."""
        places = self.position_scale * positions(count, clips.identity.shape[1], clips.identity.device)  # (count, H)
        return clips.identity[:, None] + places

    def forward(self, clips: Clips, before: Tensor) -> Decoded:
        """All frames of clips whose frames are known; what comes after a clip's last frame changes nothing before.

        Args:
            clips: What all frames share.
            before: (B, N, H) of `see`, the frame before each frame.
        """
        return self.decode(clips, before + self.shifts(clips, before.shape[1]), None)

    def decode(self, clips: Clips, x: Tensor, past: list[Past] | None) -> Decoded:
        """All frames, or the next one after a past.

        Args:
            clips: What all frames share.
            x: (B, N, H) of `see` and `shifts`; N = 1 where there is a past.
            past: Of the frames before, None at the beginning.
        """
        x = self.dropout(x)
        weights, after = [], []
        for k, block in enumerate(self.blocks):
            x, of_block, own = block(x, clips.text[k], clips.padding, past[k] if past else None)
            weights.append(of_block)
            after.append(own)
        motion = self.norm(x)
        return Decoded(motion, self.stop(motion)[..., 0], weights, after)

    def generate(self, clips: Clips, identity: Tensor, most: Tensor, *, stops: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Frame after frame, each from the one before; the first from the identity frame.

        Nothing is computed twice: keys and values of the frames before and the inputs of the convolutions are kept, and
        what the frames of a clip share is there from the beginning. All clips of a batch go on until the last one ends.

        Args:
            clips: What all frames share.
            identity: (B, 3, height, width) in [0, 1].
            most: (B,) int64 frames to make at most, 1 or more.
            stops: Whether a clip ends before with a frame whose stop probability is above a half.

        Returns:
            (B, N, 3, height, width) in [0, 1], zero after each clip; (B,) int64 frames; (B, N, L) weights of the tokens
            by the most focused head, zero there.
        """
        limit, every = int(most.max()), duallip.FRAMES_BETWEEN_CHECKS.get(most.device.type, 8)
        shared, shifts = list(self.picture_decoder.of_clips(clips.identity, clips.skips)), self.shifts(clips, limit)
        frame, past, ended = identity, None, torch.zeros_like(most, dtype=torch.bool)
        frames, stop, weights = [], [], []
        for place in range(limit):
            made = self.decode(clips, (self.see(frame) + shifts[:, place])[:, None], past)
            frame, past = self.picture_decoder.draw(made.motion[:, 0], shared, None).float().clamp(0, 1), made.past
            frames.append(frame)
            stop.append(made.stop)
            weights.append(torch.cat(made.weights, dim=1))  # (B, A, 1, L) of all heads
            if stops:
                ended = ended | (made.stop[:, 0] > 0) | (most <= place + 1)
                if (place + 1) % every == 0 and bool(ended.all()):
                    break
        if stops:
            said = torch.cat(stop, dim=1) > 0  # (B, n)
            most = torch.where(said.any(dim=1), said.int().argmax(dim=1) + 1, most).minimum(most)
        valid = length_mask(most, int(most.max()))  # (B, N)
        video = torch.stack(frames[: valid.shape[1]], dim=1).mul_(valid[:, :, None, None, None])
        return video, most, most_focused(torch.cat(weights[: valid.shape[1]], dim=2), valid)


def most_focused(weights: Tensor, valid: Tensor) -> Tensor:
    """Of every clip, the head whose frames look at one token each the most.

    FastSpeech's choice (Ren et al. 2019, section 3.3) among the heads of a transformer: the largest focus rate, the
    mean over frames of the largest weight.

    Args:
        weights: (B, A, N, L) of A heads.
        valid: (B, N) bool.

    Returns:
        (B, N, L), zero where not valid.
    """
    focus = (weights.amax(dim=3) * valid[:, None]).sum(dim=2)  # (B, A)
    clips = torch.arange(len(weights), device=weights.device)
    return weights[clips, focus.argmax(dim=1)] * valid[:, :, None]
