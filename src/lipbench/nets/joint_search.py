"""Reading by CTC and an attention decoder at once: one-pass beam search with CTC prefix scores.

Watanabe et al. 2017, "Hybrid CTC/attention architecture for end-to-end speech recognition", algorithm 2 and equation
50, as ESPnet's `BatchBeamSearch`, `CTCPrefixScoreTH` and `end_detect` run it for Auto-AVSR (mpc001/auto_avsr
`espnet/nets/`, commit 182b628): a hypothesis is scored by (1 - w) log p_decoder + w log p_CTC(prefix), without any
correction for its length.

Here all clips take each step together, and CTC's recursion over the frames is solved by cumulative sums in double
precision in place of a loop.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from lipbench.nets.fastspeech import length_mask
from lipbench.nets.sequence_decoder import Beams, SequenceDecoder

_CANDIDATES: Final = 1.5  # symbols that CTC scores, per hypothesis of the beam; ESPnet's `pre_beam_ratio`
_BEHIND: Final = 10.0  # nats behind the best reading
_LENGTHS: Final = 3  # in a row whose readings must lie so far behind


@dataclass(kw_only=True)
class _Beams(Beams):
    """Scores are float64; what is written begins with the mark of the beginning."""

    lengths: Tensor
    """(A,) frames; no reading has more symbols."""
    log_probs: Tensor
    """(A, V, T) float64 of CTC; 0 after a clip's length."""
    prefix: Tensor
    """(A, K) float64 log-probability that CTC gives to all that begins with them."""
    ends_label: Tensor
    """(A, K, T) float64 log-probability of the paths up to each frame that write them and end in their last symbol."""
    ends_blank: Tensor
    """(A, K, T) float64, and of those that end in a blank."""
    ended: Tensor
    """(A, S - 1) float64 best score of those that ended at each step; -inf where none did."""


@torch.no_grad()
def joint_search(
    decoder: SequenceDecoder,
    memory: Tensor,
    memory_len: Tensor,
    log_probs: Tensor,
    *,
    end: int,
    beam: int,
    ctc_weight: float,
    blank: int = 0,
) -> list[list[int] | None]:
    """The symbols with the highest joint score.

    The decoder's likeliest 1.5 K symbols after every hypothesis, and the end, are scored by both. Of all continuations
    of a clip the best K stay; each of them that ends leaves one hypothesis less. A clip is read when no hypothesis goes
    on; when there are as many symbols as frames, where all end; or when readings of three lengths in a row each lie 10
    nats or more behind the best of all.

    Call it with the decoder in evaluation mode.

    Args:
        decoder: Of the layout "espnet" or another, with the symbols of `log_probs`.
        memory: (B, T, M).
        memory_len: (B,) valid frames, at least 1.
        log_probs: (B, T, V) of CTC.
        end: Symbol before the first and after the last one.
        beam: Hypotheses K.
        ctc_weight: w, from 0 to below 1.
        blank: Symbol of CTC that writes nothing; it is never read.

    Returns:
        Symbols of each clip without the ends; None where a valid frame of the memory is not finite.

    Raises:
        ValueError: `beam` is below 1, or the weight is out of range.
    """
    if beam < 1 or not 0 <= ctc_weight < 1:
        raise ValueError(
            f"a search needs a beam of at least 1 and a weight of CTC from 0 to below 1, found {beam} and {ctc_weight}"
        )
    found: list[list[int] | None] = [None] * len(memory)
    mask = length_mask(memory_len, memory.shape[1])
    clips = (memory.isfinite().all(dim=2) | ~mask).all(dim=1).nonzero()[:, 0]  # (A,)
    memory, mask = memory[clips], mask[clips]
    frames = log_probs[clips].double().masked_fill(~mask[:, :, None], 0).transpose(1, 2)  # (A, V, T)
    shape = len(clips), beam, memory.shape[1]
    scores = frames.new_full(shape[:2], -math.inf)
    scores[:, 0] = 0  # all hypotheses are the same at first: only one of them counts
    beams = _Beams(
        clips=clips,
        lengths=memory_len[clips],
        mask=mask,
        log_probs=frames,
        memory=decoder.attended(memory, mask),
        tokens=clips.new_full((*shape[:2], 1), end),
        scores=scores,
        prefix=torch.zeros_like(scores),
        ends_label=frames.new_full(shape, -math.inf),
        ends_blank=frames[:, None, blank].cumsum(2).expand(shape),
        best=frames.new_full((len(clips),), -math.inf),
        ended=frames.new_zeros(len(clips), 0),
    )
    while len(beams.clips):
        _step(decoder, beams, found, end, ctc_weight, blank)
    return found


def _step(
    decoder: SequenceDecoder, beams: _Beams, found: list[list[int] | None], end: int, weight: float, blank: int
) -> None:
    """One symbol more for every hypothesis; readings that end go to `found` if none before was better."""
    rows, beam, written = beams.tokens.shape
    logits, past = decoder.advance(beams.tokens[:, :, -1].reshape(-1, 1), beams.memory, beams.mask, beams.past)
    likelihoods = logits[:, -1].double().log_softmax(1).view(rows, beam, -1)  # (A, K, V)
    # The end stands last among the candidates and nowhere else; in its other place stands a blank.
    candidates = likelihoods.topk(min(int(_CANDIDATES * beam), likelihoods.shape[2]), dim=2).indices  # (A, K, P)
    candidates = candidates.masked_fill(candidates == end, blank)
    starts = _before_each_frame(beams, candidates) + _in_each_frame(beams, candidates)  # (A, K, P, T)
    prefix = starts.masked_fill(~beams.mask[:, None, None], -math.inf).logsumexp(3)
    last_frame = (beams.lengths - 1)[:, None, None].expand(-1, beam, 1)
    whole = torch.logaddexp(beams.ends_label.gather(2, last_frame), beams.ends_blank.gather(2, last_frame))
    prefix = torch.cat([prefix, whole], dim=2)  # (A, K, P + 1)
    candidates = torch.cat([candidates, torch.full_like(last_frame, end)], dim=2)

    totals = beams.scores[:, :, None] + (1 - weight) * likelihoods.gather(2, candidates)
    if weight:
        totals = totals + weight * (prefix - beams.prefix[:, :, None])
    impossible = (candidates == blank) | (beams.scores == -math.inf)[:, :, None]
    scores, places = totals.masked_fill(impossible, -math.inf).flatten(1).topk(beam, dim=1)  # (A, K), best first
    parents, symbols = places // totals.shape[2], candidates.flatten(1).gather(1, places)
    full = beams.lengths == written  # as many symbols as frames
    ends = ((symbols == end) | full[:, None]) & (scores > -math.inf)

    ending, winner = scores.masked_fill(~ends, -math.inf).max(dim=1)  # (A,)
    for row in (ending > beams.best).nonzero()[:, 0].tolist():
        reading = [*beams.tokens[row, parents[row, winner[row]], 1:].tolist(), int(symbols[row, winner[row]])]
        found[int(beams.clips[row])] = reading[:-1] if reading[-1] == end else reading
    beams.best = torch.maximum(beams.best, ending)
    recent = beams.ended[:, -_LENGTHS - 1 : -1]  # ESPnet leaves the two last steps out
    hopeless = ((recent > -math.inf) & (recent < beams.best[:, None] - _BEHIND)).sum(1) == _LENGTHS
    beams.ended = torch.cat([beams.ended, ending[:, None]], dim=1)

    _go_on(beams, parents, symbols, blank)
    beams.prefix = prefix.flatten(1).gather(1, places)
    beams.scores = scores.masked_fill(ends, -math.inf)
    beams.reorder(parents, past)
    beams.keep((beams.scores > -math.inf).any(dim=1) & ~hopeless)


def _in_each_frame(beams: _Beams, symbols: Tensor) -> Tensor:
    """(A, ...) symbols -> (A, ..., T) their log-probabilities."""
    places = symbols.flatten(1)[:, :, None].expand(-1, -1, beams.log_probs.shape[2])
    return beams.log_probs.gather(1, places).view(*symbols.shape, -1)


def _before_each_frame(beams: _Beams, symbols: Tensor) -> Tensor:
    """Log-probability that the frames before each one write a hypothesis, and the frame may begin another symbol.

    Args:
        beams: The hypotheses.
        symbols: (A, K, P) the other symbol: the same as the last one needs a blank before it.

    Returns:
        (A, K, P, T).
    """
    either = torch.logaddexp(beams.ends_label, beams.ends_blank)  # (A, K, T)
    again = symbols == beams.tokens[:, :, -1:]
    paths = torch.where(again[..., None], beams.ends_blank[:, :, None], either[:, :, None])  # (A, K, P, T)
    return _later(paths, 0.0 if beams.tokens.shape[2] == 1 else -math.inf)


def _later(paths: Tensor, first: float) -> Tensor:
    """(..., T) -> (..., T): what stood in the frame before; `first` in the first one."""
    return torch.cat([torch.full_like(paths[..., :1], first), paths[..., :-1]], dim=-1)


def _go_on(beams: _Beams, parents: Tensor, symbols: Tensor, blank: int) -> None:
    """Continue hypotheses: (A, K) which, and by which symbol."""
    for name in ("tokens", "ends_label", "ends_blank"):
        value = getattr(beams, name)
        setattr(beams, name, value.gather(1, parents[:, :, None].expand(-1, -1, value.shape[2])))
    before = _before_each_frame(beams, symbols[:, :, None])[:, :, 0]  # (A, K, T)
    beams.ends_label = _paths(before, _in_each_frame(beams, symbols))
    beams.ends_blank = _paths(_later(beams.ends_label, -math.inf), beams.log_probs[:, None, blank])
    beams.tokens = torch.cat([beams.tokens, symbols[:, :, None]], dim=2)


def _paths(before: Tensor, steps: Tensor) -> Tensor:
    """Paths that have come to a state at each frame: p[t] = (p[t - 1] + before[t]) steps[t], all as logarithms.

    Divided by the product of the steps so far, p is a cumulative sum.

    Args:
        before: (..., T) those that come to it in a frame, without that frame's step.
        steps: (..., T), finite.
    """
    total = steps.cumsum(-1)
    return total + (before - (total - steps)).logcumsumexp(-1)
