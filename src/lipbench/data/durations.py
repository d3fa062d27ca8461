"""Where words, their times and the durations of tokens come from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

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

    @property
    def settings(self) -> dict[str, str]:
        """What the durations of a store depend on."""
        return {"durations": self.name}

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


class Aligner(Protocol):
    """Finds durations of known words by looking at a face, see `lipbench.scoring.aligner.ReaderAligner`; it pickles."""

    judge: str
    """Whose eyes these are: the settings of a store name it."""

    def durations(self, pictures: npt.NDArray[np.uint8], symbols: Sequence[str]) -> npt.NDArray[np.int64]:
        """(T, 352, 320, 3) canonical pictures, L symbols -> (L,) frames of each, summing to T."""
        ...

    def within(
        self, pictures: npt.NDArray[np.uint8], symbols: Sequence[str], durations: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """The same where durations are right for words and silences: only those inside of words are found anew."""
        ...


class _Seen(DurationSource):
    """A source that has somebody look at the pictures.

    Args:
        aligner: Who looks.
    """

    def __init__(self, aligner: Aligner) -> None:
        self.aligner = aligner

    @property
    def settings(self) -> dict[str, str]:
        """The name, and whose eyes these are."""
        return {**super().settings, "reader": self.aligner.judge}


class SeenWords(_Seen):
    """Monotonic alignment search: the text of a clip is known, when it is said is seen.

    The text is the sentence that the corpus states, else that of a text file beside the video, else that of the
    alignment, whose times are not used.
    """

    name: ClassVar[str] = "mas"

    def words(self, clip: "RawClip") -> list[alignment.Word]:
        """No times are known before the pictures are."""
        return []

    def seen(
        self, clip: "RawClip", pictures: npt.NDArray[np.uint8], fps: float, tokenizer: Tokenizer
    ) -> tuple[list[alignment.Word], npt.NDArray[np.int64]]:
        """Words with their times in seconds, silences at both ends included, and (L,) frames of each symbol.

        Args:
            clip: Whose text is said.
            pictures: (T, 352, 320, 3) canonical pictures.
            fps: Frames a second.
            tokenizer: That of the corpus.

        Raises:
            ValueError, OSError: No text is known, it cannot be spelled, or it has more symbols than the clip frames.
        """
        said = tokenizer.normalize(_text(clip)).split()
        symbols = tokenizer.symbols(said)
        frames = self.aligner.durations(pictures, symbols)
        return alignment.timed(said, symbols, frames, fps), frames


class SeenLetters(_Seen, AlignmentFile):
    """Word times of the alignment file; inside of each word, letters last as long as monotonic search sees them."""

    name: ClassVar[str] = "mas-words"


def _text(clip: "RawClip") -> str:
    """What is said in a clip, without times."""
    if clip.sentence is not None:
        return clip.sentence
    if clip.text is not None:
        return clip.text.read_text(encoding="utf-8-sig")
    if clip.align is not None:
        return " ".join(word.word for word in alignment.spoken(alignment.read_align(clip.align)))
    raise ValueError(f"no text: expected {clip.video.stem}.txt beside the video")


class NoDurations(DurationSource):
    """For videos of which nothing is known but what is seen and heard: no text, no tokens, no durations."""

    name: ClassVar[str] = "none"

    def words(self, clip: "RawClip") -> list[alignment.Word]:
        """None are known."""
        return []
