"""CTC decoding: the best path, prefix beam search, and a character n-gram model that can steer it.

Connectionist temporal classification is Graves et al. 2006; the prefix beam search with a language model follows Hannun
et al. 2014, with the model's probability kept apart from CTC's, so that the order of merging does not matter.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_EDGE: Final = "\n"  # where a sentence begins and ends: the one sign that no sentence holds


class Reading(NamedTuple):
    """What was read in a clip."""

    ids: list[int]
    """Classes, repeats and blanks taken out."""
    log_prob: float
    """Log of the probability that CTC gives them (of what the beam held: a lower bound), without language model."""


def greedy(log_probs: Tensor, length: Tensor, blank: int = 0) -> list[list[int] | None]:
    """The best path: the likeliest class of every frame, repeats taken together, blanks left out.

    Args:
        log_probs: (B, T, C) log-probabilities, or anything that orders classes alike.
        length: (B,) valid frames.
        blank: The class that writes nothing.

    Returns:
        Classes of each clip; None where a valid frame holds NaN: nothing could be read, which is not an empty reading.
    """
    inside = torch.arange(log_probs.shape[1], device=log_probs.device) < length.to(log_probs.device)[:, None]  # (B, T)
    best = log_probs.argmax(-1).masked_fill(~inside, blank)
    fresh = best != torch.nn.functional.pad(best[:, :-1], (1, 0), value=blank)
    broken = (log_probs.isnan().any(-1) & inside).any(1)
    rows = zip(best.cpu().numpy(), (fresh & (best != blank)).cpu().numpy(), broken.tolist(), strict=True)
    return [None if nan else row[keep].tolist() for row, keep, nan in rows]


class CharacterModel:
    """Character n-gram model with Witten-Bell smoothing (Witten and Bell 1991), which has nothing to tune.

    A longer context gives p(c | h) = (n(h c) + u(h) p(c | h without its first character)) / (n(h) + u(h)), where u is
    how many different characters followed h; the empty context falls back to a uniform choice. The contexts are the
    states of an automaton, kept as two tables, so that many beams take a step in one look-up.

    Args:
        symbols: What every class of the reader writes: a character, or "" for classes that write nothing (the blank).
        order: Length n of the n-grams, at least 1.
        counts: Context of up to n - 1 characters -> what followed it -> how often. A line feed stands for both ends of
            a sentence.

    Raises:
        ValueError: An entry of `symbols` is longer than a character, or two are the same.
    """

    def __init__(self, symbols: Sequence[str], order: int, counts: Mapping[str, Mapping[str, int]]) -> None:
        written = [s for s in symbols if s]
        if len(set(written)) < len(written) or any(len(s) > 1 or s == _EDGE for s in written):
            raise ValueError(f"symbols must be different single characters or '', got {list(symbols)}")
        self.symbols = tuple(symbols)
        self.order = order
        self.counts = counts
        contexts = sorted(counts, key=len)  # every context comes after the shorter one that it falls back to
        states = {context: k for k, context in enumerate(contexts)}
        columns = {s: k for k, s in enumerate(self.symbols) if s} | {_EDGE: len(self.symbols)}
        probs = np.zeros((len(contexts), len(self.symbols) + 1))
        uniform = np.zeros(probs.shape[1])
        uniform[list(columns.values())] = 1 / len(columns)
        for k, context in enumerate(contexts):
            lower = probs[states[context[1:]]] if context else uniform
            followers = counts[context]
            probs[k] = len(followers) * lower
            for symbol, count in followers.items():
                probs[k, columns[symbol]] += count
            probs[k] /= sum(followers.values()) + len(followers)
        with np.errstate(divide="ignore"):
            self.log_probs: Floats = np.log(probs)
            """(states, C + 1) log-probability of every class after every context, and of the end; -inf for "" ."""
        self.following = np.array([[self._state(states, c + s) for s in self.symbols] for c in contexts], np.int64)
        """(states, C) the state after another class."""
        self.start = self._state(states, _EDGE)
        """State at the start of a sentence."""

    def _state(self, states: Mapping[str, int], written: str) -> int:
        """State of the longest known context at the end of what is written."""
        context = written[max(0, len(written) - self.order + 1) :]
        while context not in states:
            context = context[1:]
        return states[context]

    @classmethod
    def fit(cls, sentences: Iterable[str], symbols: Sequence[str], order: int = 5) -> "CharacterModel":
        """Count n-grams of sentences.

        Args:
            sentences: Texts as the reader writes them.
            symbols: See the class.
            order: See the class. 5 knows which letters make a word and which word may follow in a small grammar.

        Raises:
            ValueError: No sentences, or one holds a character that the reader cannot write.
        """
        if order < 1:
            raise ValueError(f"the order of an n-gram model is at least 1, got {order}")
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for sentence in sentences:
            strange = sorted(set(sentence) - set(symbols))
            if strange:
                raise ValueError(f"{sentence!r} holds {', '.join(map(repr, strange))}, which the reader cannot write")
            text = _EDGE + sentence + _EDGE
            for k in range(1, len(text)):
                for n in range(min(order - 1, k) + 1):
                    counts[text[k - n : k]][text[k]] += 1
        if not counts:
            raise ValueError("no sentences to learn a language model from")
        return cls(symbols, order, counts)

    def log_prob(self, sentence: str) -> float:
        """Log-probability of a whole sentence, its end included."""
        total, state = 0.0, self.start
        for character in sentence:
            column = self.symbols.index(character)
            total += float(self.log_probs[state, column])
            state = int(self.following[state, column])
        return total + float(self.log_probs[state, -1])

    def save(self, file: str | Path) -> None:
        """Write the counts as JSON."""
        content = {"symbols": self.symbols, "order": self.order, "counts": self.counts}
        Path(file).write_text(json.dumps(content, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, file: str | Path) -> "CharacterModel":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else.
        """
        if not Path(file).is_file():
            raise FileNotFoundError(f"no language model: {file}")
        try:
            content = json.loads(Path(file).read_text(encoding="utf-8"))
            return cls(content["symbols"], content["order"], content["counts"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is no character model of lipbench: {error!r}") from None


class _Prefixes:
    """Numbers for sequences of classes: equal sequences have equal numbers, however they were found; 0 is empty."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, int], int] = {}
        self._known = [(-1, -1)]  # of every number: the sequence without its last class, and that class

    def number(self, shorter: int, last: int) -> int:
        """Number of a sequence with one class more."""
        found = self._numbers.setdefault((shorter, last), len(self._known))
        if found == len(self._known):
            self._known.append((shorter, last))
        return found

    def classes(self, number: int) -> list[int]:
        """The sequence."""
        found = []
        while number > 0:
            number, last = self._known[number]
            found.append(last)
        return found[::-1]


@dataclass
class _Beams:
    """The K prefixes that each of B clips holds: all (B, K). Places that hold none have probability 0."""

    prefix: Ints
    shorter: Ints  # the prefix without its last class
    last: Ints
    ends_blank: Floats  # log-probability of the paths that write the prefix and end in a blank
    ends_label: Floats  # and of those that end in its last class
    bias: Floats  # what the language model says of it
    state: Ints  # of the language model

    @property
    def total(self) -> Floats:
        """Log-probability of each prefix."""
        return np.logaddexp(self.ends_blank, self.ends_label)

    def advance(self, step: Floats, blank: int) -> tuple[Floats, Floats, Floats]:
        """Read another frame.

        Args:
            step: (B, C) log-probabilities of the frame.
            blank: The class that writes nothing.

        Returns:
            Log-probability of the paths that stay at each prefix and end in a blank (B, K), of those that end in its
            last class (B, K), and of those that write another class (B, K, C).
        """
        total = self.total
        again = np.take_along_axis(step, self.last, 1)  # (B, K)
        longer = total[..., None] + step[:, None]  # (B, K, C)
        # The same class again is a new one only after a blank.
        np.put_along_axis(longer, self.last[..., None], (self.ends_blank + again)[..., None], 2)
        longer[..., blank] = -np.inf
        # A longer prefix that has a place already gets its paths there.
        same = self.prefix[..., None] == self.shorter[:, None]  # (B, K, K'): K' is K and one class
        paths = np.take_along_axis(longer, np.broadcast_to(self.last[:, None], same.shape), 2)
        joined = np.where(same, paths, -np.inf).max(1)  # (B, K')
        clip, short, long = same.nonzero()
        longer[clip, short, self.last[clip, long]] = -np.inf
        return total + step[:, blank, None], np.logaddexp(self.ends_label + again, joined), longer


def beam_search(
    log_probs: Tensor,
    length: Tensor,
    *,
    blank: int = 0,
    beam: int = 10,
    model: CharacterModel | None = None,
    weight: float = 0.5,
    bonus: float = 0.0,
) -> list[Reading | None]:
    """Likeliest labeling: prefix beam search over the paths that collapse to the same classes.

    With a language model it looks for the largest log p_CTC + weight * log p_model + bonus * (classes written).
    All clips and prefixes take each step together, in double precision on the CPU.

    Args:
        log_probs: (B, T, C) log-probabilities (log_softmax over C).
        length: (B,) valid frames.
        blank: The class that writes nothing.
        beam: Prefixes kept after every frame.
        model: Language model whose `symbols` are the C classes.
        weight: How much the model counts, above 0.
        bonus: For every class written, against a model's liking for short texts.

    Returns:
        The best reading of each clip; None where a valid frame holds NaN, since nothing could be read.

    Raises:
        ValueError: These are no log-probabilities, or the model was made for other classes.
    """
    steps, broken = _clean(log_probs, length, blank)  # (T, B, C)
    classes = steps.shape[2]
    if model is not None and (len(model.symbols) != classes or weight <= 0):
        raise ValueError(
            f"the model writes {len(model.symbols)} classes and has weight {weight}; "
            f"the reader has {classes} classes, and the weight must be above 0"
        )
    prefixes = _Prefixes()
    none = np.zeros((len(broken), 1), np.int64)
    start = none + (model.start if model else 0)
    zero = np.zeros(none.shape)
    beams = _Beams(none, none - 1, none + blank, zero, zero - np.inf, zero.copy(), start)
    clip = np.arange(len(broken))[:, None]  # (B, 1)
    for step in steps:
        stay_blank, stay_label, longer = beams.advance(step, blank)
        gain = np.broadcast_to(bonus, longer.shape)  # (B, K, C)
        if model:
            gain = gain + weight * model.log_probs[beams.state, :-1]
        stay = np.logaddexp(stay_blank, stay_label) + beams.bias
        grown = longer + gain + beams.bias[..., None]
        scores = np.concatenate([stay, grown.reshape(len(clip), stay.shape[1] * classes)], 1)  # (B, K + K C)
        width = min(beam, scores.shape[1])
        chosen = np.sort(np.argpartition(-scores, width - 1, 1)[:, :width], 1)  # (B, K)
        fresh = chosen >= stay.shape[1]
        parent, symbol = np.divmod(chosen - stay.shape[1], classes)
        parent = np.where(fresh, parent, chosen)
        symbol = np.where(fresh, symbol, beams.last[clip, parent])
        state = beams.state[clip, parent]
        beams = _Beams(
            prefix=beams.prefix[clip, parent],
            shorter=np.where(fresh, beams.prefix[clip, parent], beams.shorter[clip, parent]),
            last=symbol,
            ends_blank=np.where(fresh, -np.inf, stay_blank[clip, parent]),
            ends_label=np.where(fresh, longer[clip, parent, symbol], stay_label[clip, parent]),
            bias=beams.bias[clip, parent] + np.where(fresh, gain[clip, parent, symbol], 0),
            state=np.where(fresh, model.following[state, symbol], state) if model else state,
        )
        empty = np.isneginf(np.take_along_axis(scores, chosen, 1))
        for k in zip(*(fresh & ~empty).nonzero(), strict=True):
            beams.prefix[k] = prefixes.number(int(beams.shorter[k]), int(symbol[k]))
        # These numbers are nobody's, so that an empty place never passes for a prefix.
        for values, number in ((beams.prefix, -2), (beams.shorter, -3), (beams.bias, 0)):
            values[empty] = number
        beams.ends_blank[empty] = beams.ends_label[empty] = -np.inf
    ending = weight * model.log_probs[beams.state, -1] if model else 0
    best = (beams.total + beams.bias + ending).argmax(1)
    return [
        None if nan else Reading(prefixes.classes(int(prefix[k])), float(total[k]))
        for nan, prefix, total, k in zip(broken, beams.prefix, beams.total, best, strict=True)
    ]


def _clean(log_probs: Tensor, length: Tensor, blank: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Frames first, sure blanks after a clip's end: they change nothing; and which clips hold NaN (all blanks then)."""
    values = np.array(log_probs.detach().cpu().double().numpy())  # (B, T, C)
    inside = np.arange(values.shape[1]) < length.cpu().numpy()[:, None]  # (B, T)
    broken = np.asarray((np.isnan(values).any(-1) & inside).any(1))
    inside &= ~broken[:, None]
    values[~inside] = -np.inf
    values[~inside, blank] = 0
    sums = np.exp(values).sum(-1)
    if values.size and not (np.abs(sums - 1) < 0.05).all():
        raise ValueError(
            f"the classes of a frame have probabilities that add up to {sums.flat[np.abs(sums - 1).argmax()]:.3g}; "
            "expected log-probabilities, such as log_softmax gives"
        )
    return values.transpose(1, 0, 2), broken
