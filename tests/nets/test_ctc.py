"""CTC decoding against every path written out, and the character model against its formula."""

import itertools
import json
import math
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from lipbench.nets.ctc import CharacterModel, beam_search, greedy

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "ctc.json").read_text())["values"]
LETTERS = ("", "a", "b", " ")


def log_probs(*shape, seed=0, spread=1.5):
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(*shape, generator=generator, dtype=torch.float64)).log_softmax(-1)


def labelings(table, blank=0):
    """Probability of every labeling of one clip (T, C), by writing out all C ** T paths."""
    found = defaultdict(float)
    for path in itertools.product(range(table.shape[1]), repeat=len(table)):
        ids = tuple(c for c, _ in itertools.groupby(path) if c != blank)
        found[ids] += math.exp(sum(table[t, c].item() for t, c in enumerate(path)))
    return found


def test_reference_values():
    table = torch.tensor([REFERENCE["probs"]]).log()
    length = torch.tensor([2])
    (ids,) = greedy(table, length)
    assert "".join(REFERENCE["labels"][k] for k in ids) == REFERENCE["greedy"]
    (reading,) = beam_search(table, length)
    assert "".join(REFERENCE["labels"][k] for k in reading.ids) == REFERENCE["best_labelling"]
    assert math.exp(reading.log_prob) == pytest.approx(REFERENCE["p_best_labelling"], abs=1e-6)
    assert labelings(table[0])[()] == pytest.approx(REFERENCE["p_empty"], abs=1e-6)


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("seed", range(6))
def test_a_wide_beam_finds_the_likeliest_labeling_and_its_whole_probability(seed, blank):
    table = log_probs(1, 6, 3, seed=seed)
    (reading,) = beam_search(table, torch.tensor([6]), beam=500, blank=blank)
    every = labelings(table[0], blank)
    best = max(every, key=every.get)
    assert tuple(reading.ids) == best
    assert math.exp(reading.log_prob) == pytest.approx(every[best], rel=1e-9)


def test_repeats_need_a_blank_between():
    one_hot = torch.nn.functional.one_hot
    table = (one_hot(torch.tensor([[1, 1, 0, 1, 2, 2, 0, 0]]), 3) * 20.0).log_softmax(-1)
    assert greedy(table, torch.tensor([8])) == [[1, 1, 2]]
    assert beam_search(table, torch.tensor([8]))[0].ids == [1, 1, 2]
    assert greedy(table, torch.tensor([2])) == [[1]]


def test_prefixes_that_leave_the_beam_and_come_back_are_counted_once():
    """A narrow beam holds less than the whole probability of what it finds, and never more."""
    for seed in range(30):
        table = log_probs(1, 7, 3, seed=seed, spread=0.7)
        every = labelings(table[0])
        for beam in (2, 3, 5, 8):
            (reading,) = beam_search(table, torch.tensor([7]), beam=beam)
            assert math.exp(reading.log_prob) <= every[tuple(reading.ids)] * (1 + 1e-9)


def test_batches_equal_single_clips_and_padding_is_never_read():
    table = log_probs(4, 30, 12)
    length = torch.tensor([30, 17, 1, 0])
    table[1, 17:] = torch.nan
    readings, paths = beam_search(table, length), greedy(table, length)
    for k, frames in enumerate(length.tolist()):
        single, best = (f(table[k : k + 1, : max(frames, 1)], torch.tensor([frames]))[0] for f in (beam_search, greedy))
        assert readings[k].ids == single.ids
        assert readings[k].log_prob == pytest.approx(single.log_prob, abs=1e-9)
        assert paths[k] == best
    assert readings[3] == ([], 0.0)
    assert paths[3] == []


def test_nan_is_unreadable_and_not_empty():
    table = log_probs(2, 5, 4)
    table[0, 3, 1] = torch.nan
    length = torch.tensor([5, 5])
    assert greedy(table, length)[0] is None
    broken, whole = beam_search(table, length)
    assert broken is None
    assert whole.ids == beam_search(table[1:], length[1:])[0].ids


def test_impossible_classes_and_no_clips():
    table = torch.tensor([[[0.5, 0.5, 0], [0, 1, 0], [1, 0, 0]]]).log()
    (reading,) = beam_search(table, torch.tensor([3]))
    assert reading.ids == [1]
    assert reading.log_prob == pytest.approx(0, abs=1e-6)
    assert beam_search(torch.zeros(0, 5, 3), torch.zeros(0)) == greedy(torch.zeros(0, 5, 3), torch.zeros(0)) == []
    assert (
        beam_search(torch.zeros(1, 0, 3), torch.tensor([0]))[0].ids == greedy(torch.zeros(1, 0, 3), torch.zeros(1))[0]
    )


def test_scores_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match="log_softmax"):
        beam_search(torch.randn(1, 5, 4), torch.tensor([5]))


def test_character_model_is_witten_bell():
    model = CharacterModel.fit(["ab", "aa"], LETTERS, order=2)
    uniform = 1 / 4  # a, b, space, end
    unigram = {"a": (3 + 3 * uniform) / 9, "b": (1 + 3 * uniform) / 9, " ": 3 * uniform / 9}  # 6 signs of 3 kinds
    p_a_start = (2 + unigram["a"]) / 3  # after the start: a, a
    p_b_after_a = (1 + 3 * unigram["b"]) / 6  # after a: b, a, end
    p_end_after_b = (1 + (2 + 3 * uniform) / 9) / 2
    expected = math.log(p_a_start * p_b_after_a * p_end_after_b)
    assert model.log_prob("ab") == pytest.approx(expected, abs=1e-12)
    assert np.exp(model.log_probs).sum(1) == pytest.approx(1)
    assert math.exp(model.log_prob(" ")) > 0  # never seen, never impossible
    assert np.isneginf(model.log_probs[:, 0]).all()  # the blank writes nothing


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_the_automaton_equals_the_definition(order):
    sentences = ["ab ba", "abba", "b a", "aab"]
    model = CharacterModel.fit(sentences, LETTERS, order)

    def p(symbol, context):
        lower = 1 / 4 if not context else p(symbol, context[1:])
        texts = ["\n" + s + "\n" for s in sentences]
        after = [t[k + len(context)] for t in texts for k in range(len(t) - len(context)) if t[k:].startswith(context)]
        after = after if context else [c for t in texts for c in t[1:]]
        return (after.count(symbol) + len(set(after)) * lower) / (len(after) + len(set(after))) if after else lower

    for text in ("abab", "", "bbb a"):
        written, expected = "\n", 0.0
        for symbol in text + "\n":
            expected += math.log(p(symbol, written[max(0, len(written) - order + 1) :]))
            written += symbol
        assert model.log_prob(text) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_beam_search_with_a_model_finds_the_best_of_all(seed):
    model = CharacterModel.fit(["ab", "abab", "ba b"], LETTERS, order=3)
    table = log_probs(1, 5, 4, seed=seed)
    weight, bonus = 0.7, 0.3

    def worth(ids, probability):
        text = "".join(LETTERS[k] for k in ids)
        return math.log(probability) + weight * model.log_prob(text) + bonus * len(ids)

    every = labelings(table[0])
    best = max(every, key=lambda ids: worth(ids, every[ids]))
    (reading,) = beam_search(table, torch.tensor([5]), beam=2000, model=model, weight=weight, bonus=bonus)
    assert tuple(reading.ids) == best
    assert reading.log_prob == pytest.approx(math.log(every[best]), abs=1e-9)


def test_a_model_repairs_a_sentence():
    symbols = ("", " ", *"abcdefghijklmnopqrstuvwxyz")
    model = CharacterModel.fit(["bin blue at f two now", "set red in g nine please"], symbols, order=5)
    ids = [symbols.index(c) for c in "bin blue"]
    wrong = [0, *itertools.chain.from_iterable((k, 0) for k in ids)]
    table = torch.nn.functional.one_hot(torch.tensor([wrong]), len(symbols)) * 8.0
    at = wrong.index(symbols.index("u"))
    table[0, at] = 0
    table[0, at, symbols.index("o")] = 8.0
    table[0, at, symbols.index("u")] = 7.0
    table = table.log_softmax(-1)
    length = torch.tensor([len(wrong)])

    def spell(found):
        return "".join(symbols[k] for k in found)

    assert spell(greedy(table, length)[0]) == spell(beam_search(table, length)[0].ids) == "bin bloe"
    assert spell(beam_search(table, length, model=model)[0].ids) == "bin blue"


def test_models_are_kept_as_json(tmp_path):
    model = CharacterModel.fit(["ab ba", "abba"], LETTERS, order=4)
    model.save(tmp_path / "characters.json")
    again = CharacterModel.load(tmp_path / "characters.json")
    assert again.symbols == model.symbols
    for text in ("ab", "", "b b"):
        assert again.log_prob(text) == pytest.approx(model.log_prob(text), abs=1e-12)
    with pytest.raises(FileNotFoundError, match=r"none.json"):
        CharacterModel.load(tmp_path / "none.json")
    for content in ("[]", "{}", "{", '{"symbols": ["a"], "order": 2, "counts": {"": 3}}'):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(ValueError, match="no character model"):
            CharacterModel.load(tmp_path / "other.json")


def test_models_that_do_not_fit_are_refused():
    model = CharacterModel.fit(["ab"], LETTERS)
    with pytest.raises(ValueError, match="the reader has 3"):
        beam_search(log_probs(1, 4, 3), torch.tensor([4]), model=model)
    with pytest.raises(ValueError, match="above 0"):
        beam_search(log_probs(1, 4, 4), torch.tensor([4]), model=model, weight=0)
    with pytest.raises(ValueError, match="'c', which the reader cannot write"):
        CharacterModel.fit(["abc"], LETTERS)
    with pytest.raises(ValueError, match="no sentences"):
        CharacterModel.fit([], LETTERS)
    with pytest.raises(ValueError, match="at least 1"):
        CharacterModel.fit(["ab"], LETTERS, order=0)
    with pytest.raises(ValueError, match="different single characters"):
        CharacterModel.fit(["ab"], ("", "a", "b", "b"))


def test_speed():
    """75 frames, 30 classes, beam 10: 3 ms a clip in a batch of 16 and 15 ms alone on one slow core."""
    table, length = log_probs(16, 75, 30), torch.full((16,), 75)
    times = []
    for _ in range(3):
        start = time.process_time()
        beam_search(table, length)
        times.append((time.process_time() - start) / 16)
    assert min(times) < 0.05
