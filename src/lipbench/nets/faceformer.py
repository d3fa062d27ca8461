"""FaceFormer's autoregressive transformer decoder, and the generator of images that TalkLip's comparison makes of it.

Sources: Fan et al., "FaceFormer: Speech-Driven 3D Facial Animation with Transformers" (CVPR 2022) and its published
code (EvelynFan/FaceFormer `faceformer.py`, commit dfaea81), which animates meshes; Wang et al., "Seeing What You Said"
(TalkLip, CVPR 2023), section 4.1: a video encoder in place of the style encoder, its skip connections to the image that
is made. Nothing else of that adaptation is published.

From the code: the transformer decoder layer (PyTorch's, LayerNorm after each part, feed-forward of twice the width),
periodic positions, the attention bias by whole periods, the alignment of every frame with two features of the speech
(its setting for 25 frames a second), feedback of what was made through two linear layers, the style added to every
frame.

Own choices: the face encoder and decoder are Wav2Lip's, as in TalkLip's other models. What the decoder makes is an
embedding in the place of Wav2Lip's audio embedding, and it is this embedding that is fed back, not the image. The last
linear layer, which the code starts at 0 so that the first mesh is the template, starts as PyTorch does: an embedding
that is 0 everywhere has no variance for the BatchNorm after it.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.nets.fastspeech import alternating_positions
from lipbench.nets.wav2lip import FaceDecoder, FaceEncoder, ToRGB

PER_FRAME: Final = 2
"""Features of the speech that a frame attends to: 50 a second at 25 frames a second."""
REACH: Final = 600
"""Frames that a frame attends to, itself and those before: the length of the published mask."""


def head_slopes(heads: int) -> list[float]:
    """How much a period of distance counts in each head, as in ALiBi: 2^(-8 / heads), squared, cubed and so on.

    Where the number is no power of two, the rest are every other one of those of twice the next lower power.
    """
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (k + 1) / power) for k in range(power)]
    return slopes + ([] if power == heads else head_slopes(2 * power)[0::2][: heads - power])


def attention_bias(heads: int, period: int, reach: int) -> Tensor:
    """What is added to a frame's attention to itself and the frames before.

    Returns:
        (heads, 1, reach) float32: the last is the frame itself, 0; others lose the head's slope a whole period of
        distance.
    """
    periods = torch.arange(reach - 1, -1, -1) // period  # (reach,)
    return -torch.tensor(head_slopes(heads))[:, None, None] * periods


class _Attention(nn.Module):
    """Attention of one step, initialized as PyTorch's `MultiheadAttention`."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def keys(self, x: Tensor) -> Tensor:
        """(B, n, width) -> (B, n, 2 width) keys and values."""
        width = x.shape[2]
        return F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:])

    def forward(self, x: Tensor, keys: Tensor, bias: Tensor | None) -> Tensor:
        """Attend.

        Args:
            x: (B, 1, width).
            keys: (B, n, 2 width) of what it attends to.
            bias: (heads, 1, n), or None.

        Returns:
            (B, 1, width).
        """
        width = x.shape[2]
        query = F.linear(x, self.qkv.weight[:width], self.qkv.bias[:width])
        query = query.view(len(x), 1, self.heads, -1).transpose(1, 2)  # (B, heads, 1, width / heads)
        key, value = keys.view(*keys.shape[:2], 2, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, n, d) each
        mask = None if bias is None else bias.to(query.dtype)
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """PyTorch's `TransformerDecoderLayer` for one step: attention to steps before, to the speech, feed-forward.

    Args:
        width: Channels.
        heads: Of either attention.
        dropout: After each part, of the attention weights and inside the feed-forward part.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attention, self.speech_attention = (_Attention(width, heads, dropout) for _ in range(2))
        self.expand, self.contract = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, speech: Tensor, past: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one step.

        Args:
            x: (B, 1, width).
            speech: (B, k, width), the features that this step is aligned with.
            past: (B, n, 2 width) keys and values of the steps before.
            bias: (heads, 1, reach) of `attention_bias`.

        Returns:
            (B, 1, width), and `past` with this step, `reach` at most.
        """
        past = torch.cat([past, self.self_attention.keys(x)], dim=1)[:, -bias.shape[2] :]
        seen = self.self_attention(x, past, bias[:, :, -past.shape[1] :])
        x = self.norms[0](x + self.dropout(seen))
        x = self.norms[1](x + self.dropout(self.speech_attention(x, self.speech_attention.keys(speech), None)))
        inner = self.contract(self.dropout(F.relu(self.expand(x))))
        return self.norms[2](x + self.dropout(inner)), past


class State(NamedTuple):
    """Where a `FrameDecoder` goes on.

    Args:
        frame: (B,) int64 number of the next frame in its clip.
        embedding: (B, width) made for the last one; 0 at the beginning.
        past: Of every layer, (B, n, 2 width) keys and values of the frames before, the decoder's `reach` at most.
    """

    frame: Tensor
    embedding: Tensor
    past: list[Tensor]


class FrameDecoder(nn.Module):
    """Style and speech of frames in a row -> an embedding of each, which the next one is given.

    The published code decodes all frames before anew for each frame, for n frames n (n + 1) / 2 steps. Without dropout
    a step gives the same each time, since it attends to none after it, so here its keys and values are kept: n steps,
    of which each attends to `reach` at most. In training, dropout is thus drawn once for each frame.

    The steps follow each other, in training too (there is no teacher forcing), and the gradient runs through all of
    them: training keeps the attention of n steps to n (n + 1) / 2, so its memory grows with the square of the frames up
    to `reach`, beside the images' that grows with the frames.

    Args:
        width: Channels of style, speech and embedding.
        heads: Of the attention, 4 as published.
        layers: 1 as published.
        period: Frames after which positions start again, and by which attention loses: 25 as published for 25 frames a
            second, 30 for 30.
        dropout: After the positions and in the layers.
        reach: Frames that a frame attends to. The published mask ends after as many, and the code with it; here later
            frames attend to the last `reach`, so that memory is bounded and the first `reach` frames are as published.

    Raises:
        ValueError: The width does not divide by the heads, or is odd.
    """

    positions: Tensor
    bias: Tensor

    def __init__(
        self, width: int, heads: int = 4, layers: int = 1, period: int = 25, dropout: float = 0.1, reach: int = REACH
    ) -> None:
        super().__init__()
        if width % heads or width % 2:
            raise ValueError(f"the decoder's channels must be even and divide by its {heads} heads; found {width}")
        self.layers = nn.ModuleList(DecoderLayer(width, heads, dropout) for _ in range(layers))
        self.to_embedding, self.feedback = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("positions", alternating_positions(torch.arange(period), width), persistent=False)
        self.register_buffer("bias", attention_bias(heads, period, reach), persistent=False)

    def begin(self, frame: Tensor) -> State:
        """The state before the first frames that are decoded, (B,) int64 by their numbers in their clips."""
        width = self.positions.shape[1]
        past = [self.positions.new_zeros(len(frame), 0, 2 * width) for _ in self.layers]
        return State(frame, self.positions.new_zeros(len(frame), width), past)

    def forward(self, style: Tensor, speech: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode frames in a row.

        Args:
            style: (B, N, width), of every frame.
            speech: (B, N, k, width), the features that every frame is aligned with.
            state: After the frames before, or that of `begin`.

        Returns:
            (B, N, width) embeddings, and the state after them.
        """
        made = []
        for of_frame, heard in zip(style.unbind(1), speech.unbind(1), strict=True):  # (B, width), (B, k, width)
            begun = state.past[0].shape[1] > 0  # the first frame decoded is given its style alone
            x = of_frame + self.feedback(state.embedding) if begun else of_frame
            x = self.dropout(x + self.positions[state.frame % len(self.positions)])[:, None]  # (B, 1, width)
            past = []
            for layer, before in zip(self.layers, state.past, strict=True):
                x, after = layer(x, heard, before, self.bias)
                past.append(after)
            state = State(state.frame + 1, self.to_embedding(x[:, 0]), past)
            made.append(state.embedding)
        return torch.stack(made, dim=1), state


class Generator(nn.Module):
    """Masked faces of frames in a row, another face of the same person and the features of the speech -> the faces.

    37,558,835 parameters with features of 768 channels: face encoder and decoder of TalkLip (33,485,363), linear layer
    of the features (393,728), the decoder layer (3,154,432) and the two linear layers of the feedback (525,312).

    Args:
        size: See `lipbench.nets.wav2lip.Generator`; so are the next four.
        widths: See there.
        residuals: See there.
        decoder_widths: See there.
        decoder_residuals: See there.
        hidden: Channels of the embeddings of face and frame, and of the transformer.
        heads: See `FrameDecoder`; so are the next three.
        layers: See there.
        period: See there.
        dropout: See there.
        speech_width: Channels of the speech's features.

    Raises:
        ValueError: The size is not 3 x 2^n, a list has another length than the stages, or `hidden` does not fit the
            heads.
    """

    def __init__(
        self,
        size: int = 96,
        widths: Sequence[int] = (16, 32, 64, 128, 256, 512),
        residuals: Sequence[int] = (2, 3, 2, 2, 1),
        decoder_widths: Sequence[int] = (512, 512, 384, 256, 128, 64),
        decoder_residuals: int = 2,
        hidden: int = 512,
        heads: int = 4,
        layers: int = 1,
        period: int = 25,
        dropout: float = 0.1,
        speech_width: int = 768,
    ) -> None:
        super().__init__()
        self.face = FaceEncoder(size, widths, residuals, hidden)
        self.speech_map = nn.Linear(speech_width, hidden)
        self.sequence = FrameDecoder(hidden, heads, layers, period, dropout)
        self.decoder = FaceDecoder(size, decoder_widths, decoder_residuals, widths, hidden)
        self.to_rgb = ToRGB(decoder_widths[-1], widths[0])

    def forward(
        self, identity: Tensor, pose: Tensor, there: Tensor, speech: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Make the faces of frames in a row; in training, BatchNorm sees exactly the M frames that are there.

        Args:
            identity: (M, 3, size, size) in [0, 1], the reference of each frame: any frame of the person.
            pose: (M, 3, size, size), the frames to be made, their lower half 0.
            there: (B, N) bool, M of them true: which frames of the clips there are, the first ones of each.
            speech: (B, N, k, speech_width) features that the frames are aligned with.
            state: After the frames before, or that of `sequence.begin`.

        Returns:
            (M, 3, size, size) float32 in (0, 1), and the state after the frames.
        """
        maps = self.face(identity, pose)
        style = maps[-1].new_zeros(*there.shape, maps[-1].shape[1], dtype=torch.float32)  # (B, N, hidden)
        style[there] = maps[-1].flatten(1).float()
        embedding, state = self.sequence(style, self.speech_map(speech), state)
        faces: Tensor = self.to_rgb(self.decoder(embedding[there][:, :, None, None], maps))
        return faces, state
