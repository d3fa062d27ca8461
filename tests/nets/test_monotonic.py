"""Monotonic alignment: equal to trying all paths, fast, and what becomes of a reader's and an attention's weights."""

import itertools
import time

import numpy as np
import pytest
import torch

from lipbench.nets.monotonic import attention_durations, monotonic_durations, reader_durations, reader_scores


def tried(scores: np.ndarray, tokens: int) -> tuple[float, set[tuple[int, ...]]]:
    """The largest sum over all monotonic paths through (N, L) scores, and the durations that reach it."""
    frames, found = len(scores), {}
    for changes in itertools.combinations(range(1, frames), tokens - 1):
        ends = (0, *changes, frames)
        lasts = tuple(b - a for a, b in itertools.pairwise(ends))
        found[lasts] = sum(scores[ends[k] : ends[k + 1], k].sum() for k in range(tokens))
    best = max(found.values())
    return best, {lasts for lasts, value in found.items() if value > best - 1e-9}


def test_equal_to_trying_all_paths() -> None:
    """1,000 small cases in batches of clips of different sizes; whole numbers, so that there are ties."""
    rng = np.random.default_rng(0)
    for _ in range(125):
        tokens = rng.integers(1, 6, size=8)
        frames = tokens + rng.integers(0, 5, size=8)
        scores = np.where(rng.random(()) < 0.5, rng.integers(-3, 1, (8, 10, 5)), rng.normal(size=(8, 10, 5)))
        found = monotonic_durations(torch.tensor(scores), torch.tensor(frames), torch.tensor(tokens))
        for row, count, length, lasts in zip(scores, tokens, frames, found.tolist(), strict=True):
            assert tuple(lasts[:count]) in tried(row[:length], count)[1]
            assert lasts[count:] == [0] * (5 - count)


def test_ties_change_early_and_impossible_scores_are_avoided() -> None:
    even = monotonic_durations(torch.zeros(1, 5, 3), torch.tensor([5]), torch.tensor([3]))
    assert even.tolist() == [[1, 1, 3]]
    scores = torch.zeros(1, 5, 3)
    scores[0, :3, 2] = -torch.inf
    assert monotonic_durations(scores, torch.tensor([5]), torch.tensor([3])).tolist() == [[1, 2, 2]]


def test_what_has_no_alignment() -> None:
    scores = torch.zeros(2, 4, 6)
    with pytest.raises(ValueError, match="clip 1 of the batch has 4 frames for 5 tokens"):
        monotonic_durations(scores, torch.tensor([4, 4]), torch.tensor([4, 5]))
    with pytest.raises(ValueError, match="for 0 tokens"):
        monotonic_durations(scores, torch.tensor([4, 4]), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="NaN"):
        monotonic_durations(scores * torch.nan, torch.tensor([4, 4]), torch.tensor([2, 3]))


def test_a_batch_of_sentences_is_fast() -> None:
    """32 clips of 100 tokens and 300 frames take about 10 ms on one core; the bound is for a busy machine."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(32, 300, 100, generator=draw)
    frames, tokens = torch.full((32,), 300), torch.full((32,), 100)
    monotonic_durations(scores, frames, tokens)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        monotonic_durations(scores, frames, tokens)
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.1


def test_a_reader_gives_silence_its_blanks() -> None:
    """Silence 1, letters 2 and 3, blank 0: `| 2 3 |` with letters in frames 2 and 4."""
    log_probs = torch.full((1, 7, 4), 0.01)
    for frame, symbol in enumerate((0, 0, 2, 0, 3, 1, 0)):
        log_probs[0, frame, symbol] = 0.97
    tokens, count = torch.tensor([[1, 2, 3, 1, 0]]), torch.tensor([4])
    scores = reader_scores(log_probs.log(), tokens, count, silence=1)
    assert scores[0, 0].exp().tolist() == pytest.approx([0.98, 0.01, 0.01, 0.98, 0.97])
    found = monotonic_durations(scores, torch.tensor([7]), count)
    assert found[0, 0] == 2
    assert found[0, 3] == 2
    assert found.sum() == 7


def test_a_space_between_words_is_no_pause() -> None:
    """Frames of the space go to the word before; those of the silences at both ends stay, and padding has none."""
    tokens, count = torch.tensor([[1, 2, 1, 3, 1, 0, 0], [1, 2, 1, 3, 3, 2, 1]]), torch.tensor([5, 7])
    said = [[1, 2, 1, 1, 3, 1, 1, 1, 0], [1, 2, 1, 3, 3, 3, 2, 1, 1]]
    log_probs = torch.full((2, 9, 4), -9.0)
    for row, ids in enumerate(said):
        log_probs[row, torch.arange(9), torch.tensor(ids)] = 0.0
    found = reader_durations(log_probs, torch.tensor([8, 9]), tokens, count, silence=1)
    assert found.tolist() == [[1, 3, 0, 1, 3, 0, 0], [1, 2, 0, 1, 2, 1, 2]]


def test_durations_of_an_attention() -> None:
    attention = torch.tensor([[[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.0, 0.2, 0.8], [0.5, 0.3, 0.2]]])
    frames, tokens = torch.tensor([4]), torch.tensor([3])
    assert attention_durations(attention, frames, tokens, monotonic=False).tolist() == [[2, 1, 1]]
    assert attention_durations(attention, frames, tokens, monotonic=True).tolist() == [[1, 2, 1]]
    # the third token is padding: no frame may fall on it
    assert attention_durations(attention, frames, torch.tensor([2]), monotonic=False).tolist() == [[2, 2, 0]]
