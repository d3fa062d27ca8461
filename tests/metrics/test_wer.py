"""Error rates against other packages' numbers and a plain edit distance, and every metric here over two processes."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import test_observers
import torch
from torchmetrics.functional.text import word_error_rate

from lipbench.errors import Unavailable
from lipbench.evaluation import bank as banks
from lipbench.media import phonemes
from lipbench.metrics.wer import CER, PER, WER, WordAccuracy, edits
from lipbench.scoring.readers import teacher_forced

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "text.json").read_text())
NAMES = list(REFERENCE["values"])
TRUTHS = ["bin blue at f two now", "set red in g nine", "a", "lay green by z zero please", ""]
READ = ["bin blue at s two now", "set in g nine soon", "a b c", "", "now"]


def scored(metric, pred, target, length=None):
    metric.update(pred, target, torch.arange(len(pred)), torch.tensor(length or [75] * len(pred)))
    return metric


def rate(found):
    return float(found.errors.sum() / found.length.sum())


@pytest.mark.parametrize("name", [n for n in NAMES if n != "empty_ref"])
def test_reference_values(name):
    """torchmetrics 1.9, jiwer 4.0 and deep_avsr's way of splitting."""
    case = REFERENCE["values"][name]
    hyp, ref = case["hyp"], case["ref"]
    expected = {key: pytest.approx(value, abs=1e-6) for key, value in case.items() if key not in ("hyp", "ref")}
    assert scored(WER(), hyp, ref).compute().item() == expected["tm_wer"] == expected["jiwer_wer"]
    assert scored(WER(pooling="utterance"), hyp, ref).compute().item() == expected["mean_of_utterance_wer"]
    assert scored(CER(), hyp, ref).compute().item() == expected["jiwer_cer"]
    assert scored(CER(spaces=False), hyp, ref).compute().item() == expected["cer_without_spaces"]
    assert rate(edits(hyp, ref)) == expected["tm_cer"]  # spaces around the text counted
    split = [[t.split(" ") for t in texts] for texts in (hyp, ref)]
    assert rate(edits(*split)) == expected["split_on_single_space(deep_avsr style)"]


def test_an_empty_text_has_no_error_rate():
    """torchmetrics gives inf, jiwer 1."""
    case = REFERENCE["values"]["empty_ref"]
    for metric in (WER(), CER(), PER(), WER("insertions"), WER(pooling="utterance"), WordAccuracy()):
        assert np.isnan(scored(metric, case["hyp"], case["ref"]).per_clip().value).all()
        assert metric.compute().isnan()
        assert np.isnan(scored(type(metric)(), [""], [" "]).per_clip().value).all()


def test_teacher_forced():
    """TalkLip's WER2: as long as the truth whatever stands after it, mean over clips."""
    symbols = ["", " ", *"abcdeinostuvwx"]
    truths = ["one two", "six", "is a"]
    written = ["one tvo", "sixxxx ", "is e"]  # an error that free decoding might follow; steps after the end; an error
    scores = torch.zeros(3, 7, len(symbols))
    for row, text in zip(scores, written, strict=True):
        for step, character in zip(row, text.ljust(7), strict=True):
            step[symbols.index(character)] = 3.0
    length = torch.tensor([len(t) for t in truths])
    read = teacher_forced(scores, length, symbols)
    assert read == ["one tvo", "six", "is e"]
    assert scored(WER(pooling="utterance"), read, truths).compute().item() == pytest.approx((1 / 2 + 0 + 1 / 2) / 3)
    assert scored(CER("insertions"), read, truths).compute() == scored(CER("deletions"), read, truths).compute() == 0
    scores[1, 2] = torch.nan
    scores[2, 6] = torch.nan  # after its text
    assert teacher_forced(scores, length, symbols) == ["one tvo", None, "is e"]
    with pytest.raises(ValueError, match="2 symbols and up to 7 characters"):
        teacher_forced(scores, length, ["a", "b"])
    with pytest.raises(ValueError, match="up to 7 characters for scores of shape"):
        teacher_forced(scores[:, :6], length, symbols)
    with pytest.raises(ValueError, match="each needs its own"):
        teacher_forced(scores, length[:2], symbols)
    with pytest.raises(ValueError, match=r"expected \(B, L, V\)"):
        teacher_forced(scores[0], length[:1], symbols)
    with pytest.raises(ValueError, match="for 0 clips"):
        teacher_forced(scores[:0], length[:0], symbols)


def test_phones():
    expected = REFERENCE["per"]
    true, read = "sil b ih n b l sil", "sil b iy n b l sil"
    assert scored(PER(silences=True), [read], [true]).compute().item() == pytest.approx(expected["with_sil"], abs=1e-6)
    assert scored(PER(), [read], [true]).compute().item() == pytest.approx(expected["without_sil"], abs=1e-6)
    assert scored(PER(), ["b iy | n sp b l"], [true]).compute().item() == pytest.approx(0.2)


def test_phones_of_words():
    """bin is b ɪ n and been b iː n; a letter is its name: s is ɛ s, f is ɛ f, z is z ɛ d."""
    true = ["bin blue", "at f two", "z", ""]
    read = ["been blue", "at s two", "", "now"]
    metric = scored(PER(words=True), read, true)
    assert metric.per_clip().value[:3] == pytest.approx([1 / 6, 1 / 6, 1])
    assert metric.per_clip().weight.tolist() == [6, 6, 3, 0]
    assert np.isnan(metric.per_clip().value[3])
    assert metric.compute().item() == pytest.approx((1 + 1 + 3) / 15)
    assert metric.judge == f"eSpeak NG {phonemes.version()} en"
    assert scored(PER(words=True), [None], ["bin"]).compute().isnan()
    assert PER().judge is None


def test_phones_of_words_as_torchmetrics_counts_them():
    """jiwer's word error rate is the same number on these strings (reference values above)."""
    true = ["bin blue at f two now", "set red in g nine again", "place white by z zero please"]
    read = ["bin blew at s two", "set read in j nine a gain", "lay white by said zero please soon"]
    strings = [[" ".join(phonemes.phones(text)) for text in texts] for texts in (read, true)]
    expected = float(word_error_rate(*strings))
    assert 0 < expected < scored(WER(), read, true).compute().item()
    assert scored(PER(words=True), read, true).compute().item() == pytest.approx(expected, abs=1e-6)
    assert scored(PER(), *strings).compute().item() == pytest.approx(expected, abs=1e-6)


class Writes:
    """A reader that writes the same for every clip."""

    judge = "somebody"
    needs: frozenset[str] = frozenset()

    def observe(self, clip):
        return "been blue"


def test_phones_in_the_bank(monkeypatch):
    monkeypatch.setitem(banks.MAKE, "transcript", lambda files, cache: Writes())
    bank = banks.Bank(["per", "wer"])
    scene = bank.scene({**test_observers.batch(), "text": ["bin blue", "been blue"]}, test_observers.VIEW)
    row = bank.row()
    row.update(scene.reference, scene)
    assert row.local_scores()["per"].value == pytest.approx([1 / 6, 0])
    assert row.local_scores()["wer"].value == pytest.approx([1 / 2, 0])
    assert "per" not in {entry.name for entry in banks.select(None)}
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "espeakng_loader", None)
        with pytest.raises(Unavailable, match=r"phones need eSpeak NG \(.*\); type: pip install espeakng-loader"):
            banks.Bank(["per"])
        reasons = banks.Bank(["reading"]).reasons
        assert "wer" not in reasons
        assert "pip install espeakng-loader" in reasons["per"]


def plain(read, true):
    """Edit distance and fewest substitutions among the best alignments, cell by cell."""
    table = {(0, 0): (0, 0)}
    for i in range(len(read) + 1):
        for j in range(len(true) + 1):
            ways = []
            if i and j:
                wrong = int(read[i - 1] != true[j - 1])
                ways.append((table[i - 1, j - 1][0] + wrong, table[i - 1, j - 1][1] + wrong))
            if i:
                ways.append((table[i - 1, j][0] + 1, table[i - 1, j][1]))
            if j:
                ways.append((table[i, j - 1][0] + 1, table[i, j - 1][1]))
            if ways:
                table[i, j] = min(ways)
    return table[len(read), len(true)]


def test_edits_equal_the_plain_table():
    rng = np.random.default_rng(0)
    pairs = [
        ["".join(rng.choice(list("abc"), rng.integers(0, 9))) for _ in range(2)] for _ in range(600)
    ]  # more than are worked on together
    read, true = zip(*pairs, strict=True)
    found = edits(read, true)
    for k, (r, t) in enumerate(pairs):
        errors, substitutions = plain(r, t)
        kinds = [int(kind[k]) for kind in (found.substitutions, found.deletions, found.insertions)]
        assert sum(kinds) == found.errors[k] == errors
        assert kinds[0] == substitutions
        assert kinds[2] - kinds[1] == len(r) - len(t)
        assert min(kinds) >= 0
        assert found.length[k] == len(t)


def test_kinds_of_errors():
    found = edits([["a", "x", "c"], ["a"], ["a", "b", "c", "d"], []], [["a", "b", "c"], ["a", "b"], ["b", "c"], []])
    assert found.substitutions.tolist() == [1, 0, 0, 0]
    assert found.deletions.tolist() == [0, 1, 0, 0]
    assert found.insertions.tolist() == [0, 0, 2, 0]
    assert edits(["bc"], ["ab"])[:3] == ([0], [1], [1])  # b is right: not two substitutions
    assert edits([], []).errors.tolist() == []
    parts = [scored(WER(kind), READ, TRUTHS).compute().item() for kind in ("substitutions", "deletions", "insertions")]
    assert parts == pytest.approx([1 / 18, 7 / 18, 3 / 18])
    assert scored(WER(), READ, TRUTHS).compute().item() == pytest.approx(sum(parts))


def test_corpus_utterances_and_rates_above_one():
    corpus, utterances = scored(WER(), READ, TRUTHS), scored(WER(pooling="utterance"), READ, TRUTHS)
    values = [1 / 6, 2 / 5, 2, 1]
    assert corpus.per_clip().value[:4] == pytest.approx(values)
    assert corpus.per_clip().weight.tolist() == [6, 5, 1, 6, 0]
    assert corpus.compute().item() == pytest.approx(11 / 18)
    assert utterances.compute().item() == pytest.approx(np.mean(values))


def test_unreadable_is_not_empty():
    metric = scored(WER(), [None, "", "a b"], ["a b", "a b", "a b"], [75, 75, 0])
    assert np.isnan(metric.per_clip().value).tolist() == [True, False, True]
    assert metric.compute().item() == 1
    words = scored(WordAccuracy(), [None, "", "a"], ["a", "a", "a"], [75, 75, 0])
    assert np.isnan(words.per_clip().value).tolist() == [True, False, True]


def test_word_accuracy():
    metric = scored(WordAccuracy(), ["about", " ABOUT", "about us", " about "], ["about"] * 4)
    assert metric.per_clip().value.tolist() == [1, 0, 0, 1]
    assert metric.compute().item() == 0.5


def test_numbers_that_differ_are_refused():
    for metric in (WER(), WordAccuracy()):
        with pytest.raises(ValueError, match="2 transcripts for 1 texts"):
            metric.score(["a", "b"], ["a"], torch.tensor([1, 1]))


def test_speed():
    """2,000 sentences of GRID take 20 ms in words and 50 ms in characters on one slow core."""
    rng = np.random.default_rng(0)
    words = [
        "bin",
        "lay",
        "place",
        "set",
        "blue",
        "green",
        "red",
        "white",
        "at",
        "by",
        "in",
        "with",
        "zero",
        "one",
        "two",
        "now",
        "soon",
        "please",
    ]
    sentences = [" ".join(rng.choice(words, 6)) for _ in range(4000)]
    start = time.process_time()
    edits(sentences[:2000], sentences[2000:])
    assert time.process_time() - start < 3
