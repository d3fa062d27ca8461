"""The joint search against all symbol sequences that there are."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from lipbench.nets.joint_search import joint_search
from lipbench.nets.sequence_decoder import SequenceDecoder

END, SYMBOLS, WIDTH = 3, 4, 8  # 0 is the blank: two symbols can be written


def make(seed: int, frames: int = 4, clips: int = 3) -> tuple[SequenceDecoder, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    decoder = SequenceDecoder(SYMBOLS, WIDTH, 1, 2, 16, layout="espnet", padding=None).double().eval()
    with torch.no_grad():
        decoder.output.weight.mul_(3)  # type: ignore[union-attr, operator]
    memory = 2 * torch.randn(clips, frames, WIDTH, dtype=torch.float64)
    return decoder, memory, (2 * torch.randn(clips, frames, SYMBOLS, dtype=torch.float64)).log_softmax(2)


def best_of_all(decoder: SequenceDecoder, memory: torch.Tensor, log_probs: torch.Tensor, weight: float) -> list[int]:
    """The sequence of up to T symbols with the highest score; one of T symbols ends for nothing, as in ESPnet."""
    frames = len(memory)
    scores = {}
    for count in range(frames + 1):
        for symbols in product((1, 2), repeat=count):
            logits = decoder(torch.tensor([[END, *symbols]]), memory[None], torch.tensor([frames]))[0].log_softmax(1)
            written = [*symbols, END] if count < frames else list(symbols)
            by_decoder = sum(float(row[k]) for row, k in zip(logits, written, strict=False))
            target = torch.tensor([symbols], dtype=torch.long).view(1, count)
            by_ctc = -F.ctc_loss(log_probs[:, None], target, [frames], [count], reduction="sum")
            scores[symbols] = (1 - weight) * by_decoder + weight * float(by_ctc)
    return list(max(scores, key=lambda symbols: scores[symbols]))


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_finds_the_best_of_all_sequences(weight: float) -> None:
    found = set()
    for seed in range(6):
        decoder, memory, log_probs = make(seed)
        with torch.no_grad():
            read = joint_search(decoder, memory, torch.tensor([4] * 3), log_probs, end=END, beam=40, ctc_weight=weight)
            assert read == [best_of_all(decoder, *clip, weight) for clip in zip(memory, log_probs, strict=True)]
        found |= {len(symbols or ()) for symbols in read}
    assert len(found) > 2  # readings of several lengths


@pytest.mark.parametrize("beam", [1, 3])
def test_other_clips_and_padding_change_nothing(beam: int) -> None:
    decoder, memory, log_probs = make(7, frames=9)
    lengths = torch.tensor([9, 4, 1])
    memory[1, 4:], memory[2, 1:] = torch.nan, torch.nan
    options = {"end": END, "beam": beam, "ctc_weight": 0.3}
    together = joint_search(decoder, memory, lengths, log_probs, **options)  # type: ignore[arg-type]
    for row, frames in enumerate(lengths.tolist()):
        own = memory[row : row + 1, :frames], torch.tensor([frames]), log_probs[row : row + 1, :frames]
        assert joint_search(decoder, *own, **options) == [together[row]]  # type: ignore[arg-type]
        assert len(together[row] or ()) <= frames


def test_nothing_is_read_where_a_frame_is_broken() -> None:
    decoder, memory, log_probs = make(1)
    options = {"end": END, "beam": 2, "ctc_weight": 0.1}
    whole = joint_search(decoder, memory, torch.tensor([4, 4, 4]), log_probs, **options)  # type: ignore[arg-type]
    memory[1, 2, 0] = torch.inf
    assert joint_search(decoder, memory, torch.tensor([4, 4, 4]), log_probs, **options) == [whole[0], None, whole[2]]  # type: ignore[arg-type]


def test_ends_when_longer_readings_lie_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that is sure of an end at once goes on for a few steps, and not to as many symbols as frames."""
    decoder, memory, log_probs = make(0, frames=40, clips=1)
    with torch.no_grad():
        decoder.output.bias[END] += 20  # type: ignore[union-attr, operator]
    steps = []
    advance = decoder.advance
    monkeypatch.setattr(decoder, "advance", lambda *given: steps.append(1) or advance(*given))
    assert joint_search(decoder, memory, torch.tensor([40]), log_probs, end=END, beam=10, ctc_weight=0.0) == [[]]
    assert 3 < len(steps) < 10


def test_without_a_weight_ctc_says_nothing() -> None:
    decoder, memory, log_probs = make(3)
    lengths = torch.tensor([4, 4, 4])
    alone = joint_search(decoder, memory, lengths, log_probs, end=END, beam=6, ctc_weight=0)
    assert alone == joint_search(decoder, memory, lengths, log_probs.flip(1), end=END, beam=6, ctc_weight=0)
    assert alone != joint_search(decoder, memory, lengths, log_probs, end=END, beam=6, ctc_weight=0.9)


@pytest.mark.parametrize(("beam", "weight"), [(0, 0.1), (2, 1.0), (2, -0.1)])
def test_refuses_what_has_no_meaning(beam: int, weight: float) -> None:
    decoder, memory, log_probs = make(0)
    with pytest.raises(ValueError, match=rf"found {beam} and {weight}"):
        joint_search(decoder, memory, torch.tensor([4, 4, 4]), log_probs, end=END, beam=beam, ctc_weight=weight)
