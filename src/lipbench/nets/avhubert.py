"""AV-HuBERT with a sequence decoder: reads lips, audio or both with one transformer.

Layer for layer after the published code (Shi et al., ICLR 2022; facebookresearch/av_hubert `avhubert/hubert.py`,
`resnet.py` and `hubert_asr.py`, commit 258fb50, on fairseq afc77bd), written anew and without fairseq: the network as
it is fine-tuned for lip reading, without what pre-training alone uses (masks, targets).

Sizes at a dictionary of 1,000, without the mask embedding of pre-training: "base" (the defaults) 160,100,480
parameters, of which the decoder has 57,480,192; "large" (width 1024, 24 layers, 16 heads, ffn 4096; decoder of 9
layers, 8 heads, ffn 4096) 476,819,072, of which the decoder has 152,196,096.

Own choices: BatchNorm of the front end sees valid frames only; one dropout probability for encoder and decoder; no
layers are dropped in training; an optional CTC head, for readers that are trained here from scratch.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from lipbench.media.features import FILTERBANKS
from lipbench.nets.fastspeech import length_mask
from lipbench.nets.lipresnet import FrontEnd, ResNetTrunk, gray
from lipbench.nets.sequence_decoder import Attention, SequenceDecoder
from lipbench.types import View

_MEAN, _DEVIATION = 0.421, 0.165  # of gray values
_BORDER: Final = 24  # one pixel in so many is cut from every side: 4 of 96, which leaves 88


class EncoderBlock(nn.Module):
    """Self-attention and two linear layers with GELU, each after a LayerNorm, each residual.

    Args:
        width: Channels.
        heads: Attention heads.
        ffn: Channels between the linear layers.
        dropout: After each part and between the linear layers.
    """

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.ffn = nn.Sequential(nn.Linear(width, ffn), nn.GELU(), nn.Dropout(dropout), nn.Linear(ffn, width))
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, T, width) and (B, T) bool, which steps are attended to -> (B, T, width)."""
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, self.attention.keys_values(normed), valid))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))  # type: ignore[no-any-return]


class AudioHubert(nn.Module):
    """What of AV-HuBERT hears: its transformer and what leads to it, without the video front end and the decoder.

    Its weights are called as those of an `AVHubert`, which it can start from.

    Args:
        width: Channels of the transformer.
        layers: Its blocks.
        heads: Its attention heads.
        ffn: Channels between the linear layers of its blocks.
        position_kernel: Frames that the convolution sees from which positions are learned.
        position_groups: Its groups.
        dropout: In the transformer.

    Attributes:
        sizes: The arguments but for `dropout`.
        blocks: Those of the transformer.
    """

    def __init__(
        self,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        ffn: int = 3072,
        position_kernel: int = 128,
        position_groups: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.width = width
        self.sizes = {
            **{"width": width, "layers": layers, "heads": heads, "ffn": ffn},
            **{"position_kernel": position_kernel, "position_groups": position_groups},
        }
        self.audio_projection = nn.Linear(FILTERBANKS, width)
        self.fusion_norm, self.fusion = nn.LayerNorm(2 * width), nn.Linear(2 * width, width)
        position = nn.Conv1d(width, width, position_kernel, padding=position_kernel // 2, groups=position_groups)
        nn.init.normal_(position.weight, std=math.sqrt(4 / (position_kernel * width)))
        nn.init.zeros_(position.bias)  # type: ignore[arg-type]
        self.position = weight_norm(position, dim=2)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads, ffn, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def hear(self, filterbanks: Tensor) -> Tensor:
        """Front-end features of audio: (B, T, 104) from `lipbench.media.features.log_filterbanks` -> (B, T, width)."""
        return self.audio_projection(filterbanks)  # type: ignore[no-any-return]

    def encode(self, seen: Tensor | None, heard: Tensor | None, length: Tensor) -> Tensor:
        """Context features of lips, of audio, or of both.

        Args:
            seen: (B, T, width) from `see`; None counts as zeros, and so does the other.
            heard: (B, T, width) from `hear`.
            length: (B,) int64, valid frames, at least 1.

        Returns:
            (B, T, width), zero after each clip's last frame.

        Raises:
            ValueError: Neither is given.
        """
        given = heard if seen is None else seen
        if given is None:
            raise ValueError("AV-HuBERT encodes what is seen, what is heard or both; found neither")
        absent = torch.zeros_like(given)
        parts = [absent if part is None else part for part in (heard, seen)]
        outside = ~length_mask(length, given.shape[1])  # (B, T)
        x = self.fusion(self.fusion_norm(torch.cat(parts, dim=2))).masked_fill(outside[:, :, None], 0)  # (B, T, width)
        near = self.position(x.transpose(1, 2))[:, :, : x.shape[1]]  # (B, width, T): an even kernel makes a step more
        x = self.dropout(x + F.gelu(near).transpose(1, 2))
        for block in self.blocks:
            x = block(x, ~outside)
        return self.norm(x).masked_fill(outside[:, :, None], 0)  # type: ignore[no-any-return]


class AVHubert(AudioHubert):
    """Lips and audio of a clip -> context features of every frame -> symbols.

    Args:
        vocabulary: Symbols V, with `padding` and `end`; fairseq's dictionaries of 1,000 SentencePiece units.
        size: Pixels a side of the mouth, of which the middle 11/12 are seen: 88 of 96 as published.
        front: Channels of the spatio-temporal convolution.
        widths: Channels of the four stages of the ResNet.
        width: Channels of the transformer and of the decoder.
        layers: Blocks of the transformer.
        heads: Its attention heads.
        ffn: Channels between the linear layers of its blocks.
        position_kernel: Frames that the convolution sees from which positions are learned.
        position_groups: Its groups.
        decoder_layers: Blocks of the decoder.
        decoder_heads: Its attention heads.
        decoder_ffn: Channels between the linear layers of its blocks.
        dropout: In transformer and decoder.
        ctc: With a linear layer that gives every frame log-probabilities of symbols, of which `padding` is the blank.
        padding: Symbol that fills texts up; 1 in fairseq's dictionaries.
        end: Symbol that ends texts, and before which they begin; 2 in fairseq's dictionaries.
        beam: Hypotheses of `transcribe`; 50 as published.
        length_penalty: See `SequenceDecoder.search`; 1 as published.

    Attributes:
        arguments: The above, as plain values.
        view: What it looks at.
        blocks: Those of the transformer.

    Raises:
        ValueError: Sizes do not fit each other.
    """

    def __init__(
        self,
        vocabulary: int = 1000,
        size: int = 96,
        front: int = 64,
        widths: Sequence[int] = (64, 128, 256, 512),
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        ffn: int = 3072,
        position_kernel: int = 128,
        position_groups: int = 16,
        decoder_layers: int = 6,
        decoder_heads: int = 4,
        decoder_ffn: int = 3072,
        dropout: float = 0.1,
        ctc: bool = False,
        padding: int = 1,
        end: int = 2,
        beam: int = 50,
        length_penalty: float = 1.0,
    ) -> None:
        super().__init__(width, layers, heads, ffn, position_kernel, position_groups, dropout)
        self.arguments: dict[str, Any] = {
            "vocabulary": vocabulary,
            "size": size,
            "front": front,
            "widths": list(widths),
            "width": width,
            "layers": layers,
            "heads": heads,
            "ffn": ffn,
            "position_kernel": position_kernel,
            "position_groups": position_groups,
            "decoder_layers": decoder_layers,
            "decoder_heads": decoder_heads,
            "decoder_ffn": decoder_ffn,
            "dropout": dropout,
            "ctc": ctc,
            "padding": padding,
            "end": end,
            "beam": beam,
            "length_penalty": length_penalty,
        }
        self.view = View("avhubert_mouth", size, size)
        self.padding, self.end, self.beam, self.length_penalty = padding, end, beam, length_penalty
        self.front_end = FrontEnd(front, prelu=True)
        self.trunk = ResNetTrunk(front, widths, prelu=True)
        self.video_projection = nn.Linear(widths[-1], width)
        self.decoder = SequenceDecoder(
            vocabulary, width, decoder_layers, decoder_heads, decoder_ffn, dropout=dropout, padding=padding
        )
        self.ctc_head = nn.Linear(width, vocabulary) if ctc else None
        self.trunk.to(memory_format=torch.channels_last)

    # Features

    def see(self, frames: Tensor, length: Tensor) -> Tensor:
        """Front-end features of mouths.

        Args:
            frames: (B, T, 3, size, size) RGB in [0, 1].
            length: (B,) int64, valid frames, at least 1.

        Returns:
            (B, T, width), zero after each clip's last frame. Gradients reach the frames.
        """
        valid = length_mask(length, frames.shape[1])  # (B, T)
        border = frames.shape[-1] // _BORDER
        inner = slice(border, frames.shape[-1] - border)
        x = (gray(frames[valid][..., inner, inner]) - _MEAN) / _DEVIATION  # (M, 1, 11/12 size, 11/12 size)
        x = self.video_projection(self.trunk(self.front_end(x, valid)))  # (M, width)
        seen: Tensor = x.new_zeros(*valid.shape, x.shape[1])  # (B, T, width)
        seen[valid] = x
        return seen

    # Text

    def targets(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Symbols of B texts -> (B, L) int64, each with its end, filled up with padding."""
        rows = [torch.tensor([*text, self.end]) for text in texts]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.padding)
        return padded.to(self.norm.weight.device)

    def text_scores(self, context: Tensor, length: Tensor, tokens: Tensor) -> Tensor:
        """Scores of every symbol of a text, given the true ones before it (teacher forcing).

        `lipbench.losses.label_smoothed_cross_entropy` makes a loss of them and of the tokens.

        Args:
            context: (B, T, width) from `encode`.
            length: (B,) valid frames.
            tokens: (B, L) from `targets`.

        Returns:
            (B, L, V) logits: those at position l say what token l is; meaningless where it is padding.
        """
        before = F.pad(tokens[:, :-1], (1, 0), value=self.end)  # (B, L)
        return self.decoder(before, context, length)  # type: ignore[no-any-return]

    def frame_scores(self, context: Tensor) -> Tensor:
        """(B, T, width) from `encode` -> (B, T, V) float32 log-probabilities for CTC, the blank at `padding`.

        Raises:
            ValueError: The network has no CTC head.
        """
        if self.ctc_head is None:
            raise ValueError("this AV-HuBERT was made without a CTC head: ctc is False")
        return self.ctc_head(context).float().log_softmax(-1)  # type: ignore[no-any-return]

    def decode(self, context: Tensor, length: Tensor) -> list[list[int] | None]:
        """Symbols by beam search: (B, T, width) from `encode`, (B,) -> see `SequenceDecoder.search`."""
        options: dict[str, Any] = {"beam": self.beam, "length_penalty": self.length_penalty}
        return self.decoder.search(context, length, begin=self.end, end=self.end, **options)

    @torch.no_grad()
    def transcribe(self, frames: Tensor, length: Tensor) -> list[list[int] | None]:
        """Read lips; `see` says what the arguments are. None where a valid frame is not finite."""
        return self.decode(self.encode(self.see(frames, length), None, length), length)

    @torch.no_grad()
    def transcribe_audio(self, filterbanks: Tensor, length: Tensor) -> list[list[int] | None]:
        """Recognize speech: (B, T, 104), see `hear`, and (B,) valid frames. None where a value is not finite."""
        return self.decode(self.encode(None, self.hear(filterbanks), length), length)
