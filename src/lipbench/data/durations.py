"""Where words, their times and the durations of tokens come from."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from lipbench.data import speech_checks
from lipbench.media import alignment
from lipbench.media.text import Tokenizer

if TYPE_CHECKING:
    from lipbench.data.corpus import RawClip


class DurationSource(ABC):
    """Gives word times of a clip and frames of its tokens.

    Attributes:
        name: As the settings of a store name it.
    """

    name: ClassVar[str]

    @abstractmethod
    def words(self, clip: "RawClip") -> list[alignment.Word]:
        """Words with their times in seconds, silences included; empty if the source knows none.

        Raises:
            ValueError, OSError: The clip cannot be used; the message is the reason.
        """

    def durations(
        self, words: list[alignment.Word], symbols: list[str], n_frames: int, fps: float, tokenizer: Tokenizer
    ) -> npt.NDArray[np.int64]:
        """(L,) frames of each token, summing to `n_frames`; empty if the source knows no words.

        By default the time of a word is spread evenly over its tokens; a source with times of phones does better.
        """
        if not words:
            return np.zeros(0, np.int64)
        return alignment.durations(words, symbols, n_frames, fps, tokenizer)


class AlignmentFile(DurationSource):
    """GRID's `.align` files; what they say must agree with the sentence that the corpus states elsewhere."""

    name: ClassVar[str] = "alignment"

    def words(self, clip: "RawClip") -> list[alignment.Word]:
        """Read and check the file of the clip."""
        if clip.align is None:
            raise ValueError("no alignment file")
        words = alignment.read_align(clip.align)
        text = " ".join(w.word for w in alignment.spoken(words))
        if clip.sentence is not None and text != clip.sentence:
            raise ValueError(f"the alignment says {text!r}, the file name {clip.sentence!r}")
        if broken := speech_checks.words_problem(words):
            raise ValueError(broken)
        return words


class NoDurations(DurationSource):
    """For videos of which nothing is known but what is seen and heard: no text, no tokens, no durations."""

    name: ClassVar[str] = "none"

    def words(self, clip: "RawClip") -> list[alignment.Word]:
        """None are known."""
        return []
