"""WER, CER, PER: what a reader got wrong, by edit distance; and word accuracy."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipbench.errors import Unavailable
from lipbench.media import phonemes
from lipbench.media.alignment import SILENCES
from lipbench.media.text import SILENCE
from lipbench.scoring.base import Column, TranscriptMetric

_SILENT: Final = SILENCES | {SILENCE}

Counts = npt.NDArray[np.int64]
_ERROR: Final = 1 << 32  # cost of an error; one more for a substitution, so that it decides only between equals
_TOGETHER: Final = 256  # pairs a round: its tables stay in the cache


class Edits(NamedTuple):
    """Errors of N transcripts, each against its truth."""

    substitutions: Counts  # (N,)
    deletions: Counts  # (N,) tokens of the truth that were not read
    insertions: Counts  # (N,) tokens read that are not in the truth
    length: Counts  # (N,) tokens of the truth

    @property
    def errors(self) -> Counts:
        """(N,) edit distance."""
        return self.substitutions + self.deletions + self.insertions


def edits(pred: Sequence[Sequence[str]], target: Sequence[Sequence[str]]) -> Edits:
    """Fewest errors that lead from the truth to what was read (Levenshtein 1966), for many pairs at once.

    Where several alignments have as few errors, the one with the most tokens right counts, as NIST's sclite prefers;
    only the split into kinds depends on this. The split needs no way back through the table: the cost of a path is its
    errors in the high bits and its substitutions in the low ones, and insertions minus deletions is the difference of
    the lengths.

    Args:
        pred: N sequences of tokens: lists of words or phones, or strings for characters.
        target: The truth of each.

    Raises:
        ValueError: The two differ in number, or one is a single text.
    """
    _refuse(pred, target)
    number: dict[str, int] = {}
    read, true = (
        [np.array([number.setdefault(token, len(number)) for token in tokens], np.int64) for tokens in side]
        for side in (pred, target)
    )
    have, length = (np.array([len(s) for s in t], np.int64) for t in (read, true))
    cost = np.zeros(len(read), np.int64)
    order = np.lexsort((have, length))
    for start in range(0, len(order), _TOGETHER):
        rows = order[start : start + _TOGETHER]
        cost[rows] = _cost([read[k] for k in rows], [true[k] for k in rows])
    errors, substitutions = cost // _ERROR, cost % _ERROR
    insertions = (errors - substitutions + have - length) // 2
    return Edits(substitutions, errors - substitutions - insertions, insertions, length)


def _refuse(pred: Sequence[object], target: Sequence[object]) -> None:
    for what, given in (("pred", pred), ("target", target)):
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise ValueError(f"{what} is a {type(given).__name__}; expected a list with an entry for every clip")
    if len(pred) != len(target):
        raise ValueError(f"{len(pred)} transcripts for {len(target)} texts; each needs its own")


def _cost(read: list[Counts], true: list[Counts]) -> Counts:
    """(N,) cost of the cheapest path of each pair: rows of the tables one after another, all columns at once."""
    have, length = (np.array([len(s) for s in t], np.int64) for t in (read, true))
    a = np.full((len(read), have.max()), -1, np.int64)  # (N, I)
    b = np.full((len(true), length.max()), -2, np.int64)  # (N, J)
    for table, rows in ((a, read), (b, true)):
        for row, ids in zip(table, rows, strict=True):
            row[: len(ids)] = ids
    skipped = np.arange(b.shape[1] + 1) * _ERROR  # deletions from the first column to each
    row = np.tile(skipped, (len(read), 1))  # (N, J + 1)
    for i in range(a.shape[1]):
        below = row + _ERROR  # an insertion
        np.minimum(below[:, 1:], row[:, :-1] + (a[:, i, None] != b) * (_ERROR + 1), out=below[:, 1:])
        below = np.minimum.accumulate(below - skipped, 1) + skipped  # deletions along the row
        row = np.where((i < have)[:, None], below, row)
    return np.asarray(row[np.arange(len(row)), length])


class _ErrorRate(TranscriptMetric):
    """Errors over the length of the truth, in [0, inf): insertions can lead above 1, and nothing is clipped.

    Texts are compared as they are; bring both into one form first, such as `lipbench.media.text.normalize`.

    Args:
        count: Which errors; the three kinds add up to "errors".
        pooling: "corpus" divides all errors by the length of all texts, as AV-HuBERT and jiwer do; "utterance" is the
            mean over clips, as in LipNet-PyTorch and in TalkLip of teacher-forced transcripts. The two differ widely
            on short texts.
    """

    unit = ""
    higher_is_better = False
    perfect = 0.0
    undefined = "its text is empty, or nothing could be read in the video"

    def __init__(
        self,
        count: Literal["errors", "substitutions", "deletions", "insertions"] = "errors",
        pooling: Literal["corpus", "utterance"] = "corpus",
    ) -> None:
        super().__init__()
        self.count = count
        self.pooling = pooling

    @abstractmethod
    def tokens(self, text: str) -> Sequence[str]:
        """Split a text into what is counted."""

    def score(self, pred: Sequence[str | None], target: Sequence[str], length: Tensor) -> tuple[Tensor, Tensor]:
        """Score B transcripts against what was said.

        Args:
            pred: Transcripts; "" is a reader that saw no word, None one that could not read (frames of NaN).
            target: What was said (not what a reader sees in the reference video).
            length: (B,) valid frames; 0 makes a clip undefined.
        """
        found = edits([self.tokens(p or "") for p in pred], [self.tokens(t) for t in target])
        words = torch.from_numpy(found.length).double()
        read = torch.tensor([p is not None for p in pred], dtype=torch.bool) & (length.cpu() > 0)
        value = torch.from_numpy(getattr(found, self.count)) / words  # n / 0 is inf, 0 / 0 NaN
        value = value.masked_fill(~read | (words == 0), torch.nan)
        return value, words if self.pooling == "corpus" else torch.ones_like(words)


class WER(_ErrorRate):
    """Word error rate: words are what stands between white space; 0 is perfect."""

    name = "wer"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("wer", "reading", 10),
        Column("wer[sub]", "reading", 40, default=False, options={"count": "substitutions"}),
        Column("wer[del]", "reading", 50, default=False, options={"count": "deletions"}),
        Column("wer[ins]", "reading", 60, default=False, options={"count": "insertions"}),
        Column("wer[utterance]", "reading", 70, default=False, options={"pooling": "utterance"}),
        Column("text/wer", "reading", 120, scores="text"),
    )

    def tokens(self, text: str) -> list[str]:
        """Words of a text."""
        return text.split()


class CER(_ErrorRate):
    """Character error rate; spaces between words are characters, spaces around the text are not (as in jiwer 4).

    On GRID's sentences leaving out the spaces raises it by a third: an error in "bin blue at f two now" is 1/21 with
    them and 1/16 without.

    Args:
        count: See `WER`.
        pooling: See `WER`.
        spaces: Count the spaces between words.
    """

    name = "cer"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("cer", "reading", 20),
        Column("cer[utterance]", "reading", 80, default=False, options={"pooling": "utterance"}),
        Column("text/cer", "reading", 130, scores="text"),
    )

    def __init__(
        self,
        count: Literal["errors", "substitutions", "deletions", "insertions"] = "errors",
        pooling: Literal["corpus", "utterance"] = "corpus",
        spaces: bool = True,
    ) -> None:
        super().__init__(count, pooling)
        self.spaces = spaces

    def tokens(self, text: str) -> str:
        """Characters of a text."""
        return text.strip() if self.spaces else "".join(text.split())


class SecondWER(WER):
    """WER by a second reader of another kind.

    A model that learned from a reader may please that one alone: then the two differ.
    """

    observes = "second_transcript"
    columns = (Column("wer[second]", "reading", 90, default=False),)


class SecondCER(CER):
    """CER by the second reader, see `SecondWER`."""

    observes = "second_transcript"
    columns = (Column("cer[second]", "reading", 100, default=False),)


class TeacherForcedWER(WER):
    """WER of what a reader's decoder writes when it is shown the truth so far: TalkLip's WER2, the mean over clips.

    See `lipbench.scoring.readers.teacher_forced`, also for why it compares with no other error rate. Equal to the
    published code, but that this one counts an empty word where a transcript begins with a space.
    """

    observes = "teacher_forced"
    undefined = "its text is empty or holds what the reader cannot write, or nothing could be read in the video"
    columns = (Column("wer[teacher-forced]", "reading", 105, default=False, options={"pooling": "utterance"}),)


class PER(_ErrorRate):
    """Phone error rate, of phones written with spaces between them or of words as eSpeak NG speaks them.

    Silences (`sil`, `sp`, `|`) are left out of both sides (own choice: a resting mouth is easy to read, and counting
    them flatters). Words have none between them. Phones of a reader's words (`lipbench.media.phonemes`) forgive what
    sounds nearly alike: "bin" for "been" is one error in three where WER counts a whole word. They are a dictionary's,
    not those that the speaker said, so that papers' rates against hand-labeled phones (TCD-TIMIT) do not compare.

    Args:
        count: See `WER`.
        pooling: See `WER`.
        silences: Count silences as phones.
        words: Texts are words, to be turned into phones.

    Raises:
        Unavailable: Words cannot be turned into phones, since eSpeak NG is missing.
    """

    name = "per"
    columns = (
        Column("per", "reading", 110, default=False, options={"words": True}),
        Column("text/per", "reading", 140, scores="text", options={"words": True}),
    )

    def __init__(
        self,
        count: Literal["errors", "substitutions", "deletions", "insertions"] = "errors",
        pooling: Literal["corpus", "utterance"] = "corpus",
        silences: bool = False,
        words: bool = False,
    ) -> None:
        super().__init__(count, pooling)
        self.silences = silences
        self.words = words
        self._judge: str | None = None
        if words:
            try:
                self._judge = f"eSpeak NG {phonemes.version()} {phonemes.VOICE}"
            except (ImportError, OSError, RuntimeError) as error:
                raise Unavailable(f"phones need eSpeak NG ({error}); type: pip install espeakng-loader") from error

    @property
    def judge(self) -> str | None:
        """Who turns words into phones."""
        return self._judge

    def tokens(self, text: str) -> list[str]:
        """Phones of a transcription."""
        if self.words:
            return phonemes.phones(text)
        return [phone for phone in text.split() if self.silences or phone not in _SILENT]


class WordAccuracy(TranscriptMetric):
    """Share of clips that are read without an error: LRW's accuracy where a clip holds one word; 1 is perfect."""

    name = "word_accuracy"
    unit = ""
    higher_is_better = True
    perfect = 1.0
    undefined = _ErrorRate.undefined
    columns = (
        Column("word_accuracy", "reading", 30, default=False),
        Column("text/word_accuracy", "reading", 150, default=False, scores="text"),
    )

    def score(self, pred: Sequence[str | None], target: Sequence[str], length: Tensor) -> tuple[Tensor, Tensor]:
        """Score B transcripts against what was said; see `WER`.

        Raises:
            ValueError: The two differ in number, or one is a single text.
        """
        _refuse(pred, target)
        pairs = zip(pred, target, length.tolist(), strict=True)
        value = torch.tensor(
            [float(p.split() == t.split()) if p is not None and t.split() and n else torch.nan for p, t, n in pairs],
            dtype=torch.float64,
        )
        return value, torch.ones_like(value)
