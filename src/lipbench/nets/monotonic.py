"""Monotonic alignment search: which frames belong to which token, if tokens follow one another and none is left out.

The dynamic program of Kim et al. 2020 (Glow-TTS, section 3 and `monotonic_align`), which ParaLip (section 6) runs on
the outputs of a lip reader. All clips of a batch and all tokens take each frame together, in NumPy.
"""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from lipbench.nets.fastspeech import length_mask

_LEAST: Final = -1e9  # a score of -inf would make all paths through it equal


def monotonic_durations(scores: Tensor, frames: Tensor, tokens: Tensor) -> Tensor:
    """Durations of the monotonic path with the largest sum of scores.

    The path starts in the first token, ends in the last, and goes on by at most one token a frame, so that each token
    has a frame at least. Of paths with the same sum, tokens change as early as possible, as in the published
    code.

    Args:
        scores: (B, N, L), such as the log-probability of every token in every frame.
        frames: (B,) int64, valid frames.
        tokens: (B,) int64, valid tokens, at least 1.

    Returns:
        (B, L) int64 frames of each token, on the device of `scores`; rows sum to `frames`.

    Raises:
        ValueError: A clip has fewer frames than tokens, a score is NaN, or a clip has no token.
    """
    last, ends = tokens.cpu().numpy() - 1, frames.cpu().numpy()
    if (last < 0).any() or (ends <= last).any():
        clip = int(np.argmax((last < 0) | (ends <= last)))
        raise ValueError(
            f"clip {clip} of the batch has {ends[clip]} frames for {last[clip] + 1} tokens; an alignment gives each of "
            "1 or more tokens a frame at least"
        )
    # (N, B, L): a frame of all clips lies in one piece
    steps = np.ascontiguousarray(scores.detach().float().cpu().numpy().transpose(1, 0, 2))
    if np.isnan(steps[: int(ends.max())]).any():
        raise ValueError("a score of the alignment is NaN")
    np.maximum(steps, _LEAST, out=steps)
    count, clips, most = steps.shape
    best = np.full((clips, most), -np.inf, np.float64)
    best[:, 0] = steps[0, :, 0]
    before = np.full((clips, most), -np.inf, np.float64)
    moved = np.zeros((count, clips, most), bool)  # whether the best path to a token came from the one before
    for frame in range(1, count):
        before[:, 1:] = best[:, :-1]
        np.greater(before, best, out=moved[frame])
        np.maximum(before, best, out=best)
        best += steps[frame]
    found = np.zeros((clips, most), np.int64)
    row, token = np.arange(clips), last.copy()
    for frame in range(count - 1, -1, -1):
        valid = frame < ends
        found[row, token] += valid
        token -= moved[frame, row, token] & valid
    return torch.from_numpy(found).to(scores.device)


def reader_scores(log_probs: Tensor, tokens: Tensor, token_len: Tensor, silence: int, blank: int = 0) -> Tensor:
    """Scores of tokens in frames by a lip reader that was trained with CTC (ParaLip, section 6).

    ParaLip takes the softmax over the tokens of the sentence in every frame. That adds one number to all scores of a
    frame and changes no path, so it is left out. Own choice: the silence before and after a sentence may also show as
    the blank, since readers learn to write nothing there; inside of it blanks stand between any two symbols.

    Args:
        log_probs: (B, N, V) log-probabilities of the reader.
        tokens: (B, L) int64 ids, padded with any id.
        token_len: (B,) int64, valid tokens.
        silence: Id of silence.
        blank: Id of the blank.

    Returns:
        (B, N, L).
    """
    scores = log_probs.gather(2, tokens[:, None].expand(-1, log_probs.shape[1], -1))  # (B, N, L)
    place = torch.arange(tokens.shape[1], device=tokens.device)
    outer = (tokens == silence) & ((place == 0) | (place == token_len[:, None] - 1))  # (B, L)
    quiet = torch.logaddexp(log_probs[..., silence], log_probs[..., blank])[..., None]  # (B, N, 1)
    return torch.where(outer[:, None], quiet, scores)


def reader_durations(
    log_probs: Tensor, frames: Tensor, tokens: Tensor, token_len: Tensor, silence: int, blank: int = 0
) -> Tensor:
    """Durations by the best monotonic path through a lip reader's outputs, see `reader_scores`.

    Own choice: the frames of a silence between two words go to the word before. Readers write a space there whether
    somebody pauses or not, as soon as the word is sure, which is before it ends: without this, words of the rendered
    corpus end 3 frames early in the mean, with it 0.7.

    Args:
        log_probs: (B, N, V) log-probabilities of the reader.
        frames: (B,) int64, valid frames.
        tokens: (B, L) int64 ids, padded with any id; the first and the last valid one are silences.
        token_len: (B,) int64, valid tokens.
        silence: Id of silence.
        blank: Id of the blank.

    Returns:
        (B, L) int64; rows sum to `frames`.

    Raises:
        ValueError: See `monotonic_durations`.
    """
    found = monotonic_durations(reader_scores(log_probs, tokens, token_len, silence, blank), frames, token_len)
    place = torch.arange(tokens.shape[1], device=tokens.device)
    inner = (tokens == silence) & (place > 0) & (place < token_len[:, None] - 1)  # (B, L)
    pauses = found * inner
    return found - pauses + pauses.roll(-1, dims=1)


def attention_durations(attention: Tensor, frames: Tensor, tokens: Tensor, *, monotonic: bool) -> Tensor:
    """Durations from an alignment by attention: frames whose largest weight is that of the token.

    DualLip (section 3.4.3), after FastSpeech: d_i = sum over frames k of [arg max A_k = i]. These durations may skip
    tokens and may come from frames in another order; the monotonic ones are those of the best monotonic path.

    Args:
        attention: (B, N, L) weights of every frame over the tokens.
        frames: (B,) int64, valid frames.
        tokens: (B,) int64, valid tokens.
        monotonic: Whether to search for the best monotonic path over log-weights.

    Returns:
        (B, L) int64; rows sum to `frames`.

    Raises:
        ValueError: Of the monotonic search, see `monotonic_durations`.
    """
    if monotonic:
        return monotonic_durations(attention.clamp(min=1e-8).log(), frames, tokens)
    inside = length_mask(tokens, attention.shape[2])[:, None]  # (B, 1, L)
    chosen = attention.masked_fill(~inside, -1).argmax(2)  # (B, N)
    valid = length_mask(frames, attention.shape[1]).long()  # (B, N)
    return torch.zeros_like(attention[:, 0], dtype=torch.long).scatter_add_(1, chosen, valid)
