"""A transformer decoder that writes symbols while it attends to a memory: teacher-forced, or by beam search.

Blocks are pre-LN: self-attention over what is written so far, attention to the memory, two linear layers with ReLU.
Two published decoders differ in all else, and `layout` names which one it is:

- "fairseq": AV-HuBERT's (facebookresearch/av_hubert `avhubert/decoder.py`, commit 258fb50, on fairseq afc77bd).
  Embeddings are not scaled; positions have sines in the first half of the channels and cosines in the second and begin
  at `padding` + 1; outputs are products with the embedding, without bias.
- "espnet": that of ESPnet's Conformer readers (mpc001/auto_avsr
  `espnet/nets/pytorch_backend/decoder/transformer_decoder.py`, commit 182b628). Embeddings are scaled by the root of
  the width; sines and cosines alternate and positions begin at 0; outputs are a linear layer with bias; LayerNorm's
  epsilon is 1e-12.

Own choices: one dropout probability at every place where fairseq has one for its decoder, but none on attention
weights; embeddings begin with a variance of 1 / width in both layouts, linear layers of attention as in fairseq.
"""

import math
from dataclasses import dataclass, fields
from typing import Final, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.nets.fastspeech import alternating_positions, length_mask, positions

Layout = Literal["fairseq", "espnet"]
_EPSILONS: Final = {"fairseq": 1e-5, "espnet": 1e-12}

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of an attention, (B, heads, T, width / heads) each."""


class Attention(nn.Module):
    """Multi-head attention with biases.

    Args:
        width: Channels of queries and outputs.
        heads: Attention heads.
        memory_width: Channels of what is attended to; None takes `width`.

    Raises:
        ValueError: `width` does not divide by `heads`.
    """

    def __init__(self, width: int, heads: int, memory_width: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"the width of an attention must divide by its heads, found {width} and {heads}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key, self.value = (nn.Linear(memory_width or width, width) for _ in range(2))
        self.out = nn.Linear(width, width)
        for linear in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(linear.weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def keys_values(self, memory: Tensor) -> KeysValues:
        """(B, T, memory_width) -> keys and values."""
        return self._split(self.key(memory)), self._split(self.value(memory))

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, heads, T, width / heads)."""
        return x.view(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)

    def forward(self, x: Tensor, memory: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Attend.

        Args:
            x: (B K, L, width) queries. Those of K rows in a row share keys and values, so that the hypotheses of a beam
                need no copy of them.
            memory: Of B rows.
            mask: (B, T) bool, true where a query may attend; None allows all.
            causal: Query l sees keys 0..l only.

        Returns:
            (B K, L, width).
        """
        keys, values = memory
        query = self._split(self.query(x).reshape(len(keys), -1, x.shape[2]))  # (B, heads, K L, width / heads)
        allowed = None if mask is None else mask[:, None, None, :]
        seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=allowed, is_causal=causal)
        return self.out(seen.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


class DecoderBlock(nn.Module):
    """Self-attention, attention to the memory, two linear layers: each after a LayerNorm, each residual.

    Args:
        width: Channels.
        heads: Attention heads.
        ffn: Channels between the linear layers.
        memory_width: Channels of the memory.
        dropout: After each part and between the linear layers.
        eps: Of LayerNorm.
    """

    def __init__(self, width: int, heads: int, ffn: int, memory_width: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.self_norm, self.memory_norm, self.ffn_norm = (nn.LayerNorm(width, eps) for _ in range(3))
        self.self_attention = Attention(width, heads)
        self.memory_attention = Attention(width, heads, memory_width)
        self.ffn = nn.Sequential(nn.Linear(width, ffn), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn, width))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, memory: KeysValues, mask: Tensor, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """A whole sequence, or its next position after what is known.

        Args:
            x: (B K, L, width), K hypotheses a row of the memory; L = 1 where there is a past.
            memory: Keys and values of B rows, from `memory_attention`.
            mask: (B, T) bool, true on valid steps of the memory.
            past: Keys and values of the positions before, from `self_attention`.

        Returns:
            (B K, L, width); keys and values of the past and of `x`.
        """
        normed = self.self_norm(x)
        written = self.self_attention.keys_values(normed)
        if past is not None:
            written = torch.cat([past[0], written[0]], dim=2), torch.cat([past[1], written[1]], dim=2)
        x = x + self.dropout(self.self_attention(normed, written, causal=past is None))
        x = x + self.dropout(self.memory_attention(self.memory_norm(x), memory, mask))
        return x + self.dropout(self.ffn(self.ffn_norm(x))), written


@dataclass(kw_only=True)
class Beams:
    """What a search knows of the clips that are still being read: A of them, with K hypotheses each."""

    clips: Tensor
    """(A,) rows of the batch."""
    memory: list[KeysValues]
    """Of every block of the decoder."""
    mask: Tensor
    """(A, T) valid steps of the memory."""
    tokens: Tensor
    """(A, K, S) written so far."""
    scores: Tensor
    """(A, K) of each hypothesis; -inf of those that do not exist or have ended."""
    best: Tensor
    """(A,) best score of a hypothesis that has ended."""
    past: list[KeysValues] | None = None
    """Of every block of the decoder, A K rows."""

    def keep(self, going: Tensor) -> None:
        """Leave clips out where `going` (A,) is false."""
        if bool(going.all()):
            return
        rows = going.repeat_interleave(self.tokens.shape[1])
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, Tensor):
                setattr(self, part.name, value[going])
        self.memory = [(keys[going], values[going]) for keys, values in self.memory]
        if self.past is not None:
            self.past = [(keys[rows], values[rows]) for keys, values in self.past]

    def reorder(self, parents: Tensor, past: list[KeysValues]) -> None:
        """Take keys and values over from the hypotheses (A, K) that are continued."""
        rows, beam = parents.shape
        chosen = (parents + beam * torch.arange(rows, device=parents.device)[:, None]).flatten()
        self.past = [(keys[chosen], values[chosen]) for keys, values in past]


@dataclass(kw_only=True)
class _Beams(Beams):
    """Scores are log-probabilities, the best one is normalized by its length."""

    limits: Tensor
    """(A,) most symbols of each, its end not counted."""
    finished: Tensor
    """(A,) how many hypotheses have ended."""


class SequenceDecoder(nn.Module):
    """Symbols out of a memory.

    Args:
        vocabulary: Symbols V.
        width: Channels.
        layers: Blocks.
        heads: Attention heads.
        ffn: Channels between the linear layers of a block.
        memory_width: Channels M of the memory; None takes `width`.
        dropout: Of the embedding, and see `DecoderBlock`.
        layout: Whose decoder it is, see the module.
        padding: Symbol that fills shorter rows up and is never written; None if there is none. fairseq's dictionaries
            have 1.

    Raises:
        ValueError: The layout is unknown or lacks a padding, or sizes do not fit.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 768,
        layers: int = 6,
        heads: int = 4,
        ffn: int = 3072,
        memory_width: int | None = None,
        dropout: float = 0.1,
        layout: Layout = "fairseq",
        padding: int | None = 1,
    ) -> None:
        super().__init__()
        if layout not in get_args(Layout):
            raise ValueError(f"the layout of a decoder is one of {', '.join(get_args(Layout))}, found {layout!r}")
        if layout == "fairseq" and padding is None:
            raise ValueError("positions of the layout 'fairseq' begin after the padding; expected a symbol, found None")
        if width % 2:
            raise ValueError(f"sinusoidal positions need an even width, found {width}")
        self.layout, self.padding = layout, padding
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=padding)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        if padding is not None:
            with torch.no_grad():
                self.embedding.weight[padding].zero_()
        self.dropout = nn.Dropout(dropout)
        eps = _EPSILONS[layout]
        self.blocks = nn.ModuleList(
            DecoderBlock(width, heads, ffn, memory_width or width, dropout, eps) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, eps)
        self.output = nn.Linear(width, vocabulary) if layout == "espnet" else None

    def forward(self, tokens: Tensor, memory: Tensor, memory_len: Tensor) -> Tensor:
        """Teacher-forced scores of the symbol after each one.

        Args:
            tokens: (B, L) int64, from the symbol of the beginning on; what stands after the last one changes nothing
                before it.
            memory: (B, T, M).
            memory_len: (B,) valid steps, at least 1.

        Returns:
            (B, L, V) logits.
        """
        mask = length_mask(memory_len, memory.shape[1])
        scores, _ = self.advance(tokens, self.attended(memory, mask), mask)
        return scores

    def attended(self, memory: Tensor, mask: Tensor) -> list[KeysValues]:
        """Keys and values of the memory for every block; steps after a length may hold anything, also NaN."""
        memory = memory.masked_fill(~mask[:, :, None], 0)
        return [block.memory_attention.keys_values(memory) for block in self.blocks]  # type: ignore[operator, union-attr]

    def advance(
        self, tokens: Tensor, memory: list[KeysValues], mask: Tensor, past: list[KeysValues] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """(B K, L) symbols after S positions -> (B K, L, V) logits; keys and values of all S + L positions."""
        start = past[0][0].shape[2] if past else 0
        embedded = self.embedding(tokens)  # (B K, L, width)
        table = self._positions(start + tokens.shape[1], tokens.device)[start:].to(embedded.dtype)
        if self.layout == "espnet":
            embedded = embedded * math.sqrt(embedded.shape[2])
        x = self.dropout(embedded + table)
        written = []
        for k, block in enumerate(self.blocks):
            x, keys_values = block(x, memory[k], mask, past[k] if past else None)
            written.append(keys_values)
        x = self.norm(x)
        return F.linear(x, self.embedding.weight) if self.output is None else self.output(x), written

    def _positions(self, length: int, device: torch.device) -> Tensor:
        """(length, width) float32."""
        width = self.embedding.embedding_dim
        if self.layout == "fairseq":
            before = self.padding or 0
            return positions(before + length, width, device)[before:]  # its first row is position 1
        return alternating_positions(torch.arange(length, device=device), width)

    @torch.no_grad()
    def search(
        self,
        memory: Tensor,
        memory_len: Tensor,
        *,
        begin: int,
        end: int,
        beam: int = 1,
        longest: int | None = None,
        length_penalty: float = 1.0,
    ) -> list[list[int] | None]:
        """The likeliest symbols, by beam search; a beam of 1 takes the likeliest symbol at every position.

        As fairseq's `SequenceGenerator`: of the 2 x `beam` likeliest continuations, those that end and are among the
        first `beam` are finished, the first `beam` others go on; a clip is read when `beam` hypotheses are finished or
        the longest has been reached, where all must end. The best of the finished ones has the highest log-probability
        divided by (symbols with the end) ^ `length_penalty`. At least one symbol is written before the end. Unlike
        there, a clip's longest hypothesis follows from its own length and not from the longest one of the batch, so
        that the other clips change nothing.

        Call it in evaluation mode.

        Args:
            memory: (B, T, M).
            memory_len: (B,) valid steps, at least 1.
            begin: Symbol before the first one.
            end: Symbol that ends.
            beam: Hypotheses K.
            longest: Most symbols, at least 1; None takes as many as a clip's memory has steps (fairseq's `max_len_a` 1
                and `max_len_b` 0).
            length_penalty: fairseq's `lenpen`; above 1 favors long readings.

        Returns:
            Symbols of each clip without begin and end; None where a valid step of the memory is not finite.

        Raises:
            ValueError: `beam` or `longest` is below 1.
        """
        if beam < 1 or (longest is not None and longest < 1):
            raise ValueError(f"a search needs a beam and a longest reading of at least 1, found {beam} and {longest}")
        found: list[list[int] | None] = [None] * len(memory)
        mask = length_mask(memory_len, memory.shape[1])
        clips = (memory.isfinite().all(dim=2) | ~mask).all(dim=1).nonzero()[:, 0]  # (A,)
        limits = memory_len[clips] if longest is None else torch.full_like(clips, longest)
        memory, mask = memory[clips], mask[clips]
        scores = memory.new_full((len(clips), beam), -math.inf, dtype=torch.float32)
        scores[:, 0] = 0  # all hypotheses are the same at first: only one of them counts
        beams = _Beams(
            clips=clips,
            limits=limits,
            memory=self.attended(memory, mask),
            mask=mask,
            tokens=clips.new_empty(len(clips), beam, 0),
            scores=scores,
            finished=torch.zeros_like(clips),
            best=memory.new_full((len(clips),), -math.inf, dtype=torch.float32),
        )
        while len(beams.clips):
            self._step(beams, found, begin, end, length_penalty)
        return found

    def _step(self, beams: _Beams, found: list[list[int] | None], begin: int, end: int, length_penalty: float) -> None:
        """One symbol more for every hypothesis; readings that end go to `found` if none before was better."""
        rows, beam, step = beams.tokens.shape
        last = beams.tokens[:, :, -1] if step else beams.tokens.new_full((rows, beam), begin)
        logits, past = self.advance(last.reshape(-1, 1), beams.memory, beams.mask, beams.past)
        log_probs = logits.float().log_softmax(-1).view(rows, beam, -1)  # (A, K, V)
        if self.padding is not None:
            log_probs[:, :, self.padding] = -math.inf
        if step == 0:
            log_probs[:, :, end] = -math.inf
        others = torch.arange(log_probs.shape[2], device=log_probs.device) != end
        log_probs = log_probs.masked_fill((step >= beams.limits)[:, None, None] & others, -math.inf)

        totals = beams.scores[:, :, None] + log_probs
        scores, places = totals.flatten(1).topk(2 * beam, dim=1)  # (A, 2 K), best first
        parents, symbols = places // log_probs.shape[2], places % log_probs.shape[2]
        ends = (symbols == end) & (scores > -math.inf)

        finishing = ends[:, :beam]
        finishing = finishing & (beams.finished[:, None] + finishing.cumsum(1) <= beam)
        normalized = scores[:, :beam].masked_fill(~finishing, -math.inf) / (step + 1) ** length_penalty
        best, winner = normalized.max(dim=1)  # (A,)
        for row in (best > beams.best).nonzero()[:, 0].tolist():
            found[int(beams.clips[row])] = beams.tokens[row, parents[row, winner[row]]].tolist()
        beams.best = torch.maximum(beams.best, best)
        beams.finished = beams.finished + finishing.sum(1)

        # The first K that do not end: ends are counted behind all others.
        order = torch.arange(2 * beam, device=ends.device) + 2 * beam * ends
        active = order.topk(beam, dim=1, largest=False).indices  # (A, K)
        beams.scores = scores.gather(1, active).masked_fill(ends.gather(1, active), -math.inf)
        parents = parents.gather(1, active)
        before = beams.tokens.gather(1, parents[:, :, None].expand(-1, -1, step))
        beams.tokens = torch.cat([before, symbols.gather(1, active)[:, :, None]], dim=2)
        beams.reorder(parents, past)
        beams.keep((beams.finished < beam) & (step < beams.limits))
