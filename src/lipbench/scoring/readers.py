"""Readers out of weights files, known by what they do and not by what they are called.

A network reads if its card names a vocabulary. How it writes follows from the network itself:

- a method `transcribe(frames, length) -> list[list[int] | None]`: a sequence decoder of its own, ids without marks of
  beginning and end, None where it could not read;
- outputs (B, T, V), a class a frame with the blank first: the best path of CTC;
- outputs (B, V), a class a clip: the word whose score is highest; clips of several words are then left without a score.

A network with a method `force(frames, length, ids) -> (B, L, V)` also says what it writes when it is shown the truth so
far: step l of L was given the first l ids of each text.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from lipbench.errors import Unavailable
from lipbench.media import text
from lipbench.nets import ctc
from lipbench.pretrained import weights
from lipbench.scoring import checks

_BEGINS: Final = "\u2581"
"""Begins the subwords that begin a word, as SentencePiece writes them."""


class LipReader:
    """A lip reader.

    Args:
        net: From `lipbench.pretrained.weights.load`, or a network of the same interface.
        card: Its card.

    Attributes:
        one_word: It writes a word a clip, whatever is said; known once it has read.

    Raises:
        Unavailable: It does not read: its card names no vocabulary or no view.
    """

    def __init__(self, net: nn.Module, card: weights.Card) -> None:
        if not card.vocabulary or card.view is None:
            raise Unavailable(f"the weights hold a {card.architecture}, which does not read: no vocabulary or view")
        self.net, self.card, self.view = net, card, card.view
        self.one_word = False

    @classmethod
    def load(cls, path: str | Path) -> "LipReader":
        """The reader of a weights file.

        Raises:
            Unavailable: The file is absent, holds something else, or does not read.
        """
        try:
            return cls(*weights.load(Path(path).expanduser(), nn.Module))
        except (FileNotFoundError, ValueError) as error:
            raise Unavailable(str(error)) from error

    @torch.inference_mode()
    def read(self, frames: Tensor, length: Tensor) -> list[str | None]:
        """What is said in B videos.

        Args:
            frames: (B, T, 3, h, w) float in [0, 1] in the reader's view, on any device.
            length: (B,) valid frames.

        Returns:
            Words with single spaces; None where a valid frame is not finite, so that nothing could be read.

        Raises:
            ValueError: The network has another number of outputs than its card has symbols.
        """
        net = self.net.to(frames.device)
        own: Callable[[Tensor, Tensor], list[list[int] | None]] | None = getattr(net, "transcribe", None)
        if own is not None:
            found = own(frames, length)
        else:
            outputs = net(frames, length)  # (B, T, V) or (B, V)
            if outputs.shape[-1] != len(self.card.vocabulary):
                raise ValueError(
                    f"{self.card.architecture} has {outputs.shape[-1]} outputs for {len(self.card.vocabulary)} symbols"
                )
            self.one_word = outputs.dim() == 2
            found = _best(outputs) if self.one_word else ctc.greedy(outputs, length)
        return [None if ids is None else spelled(ids, self.card.vocabulary) for ids in found]

    @property
    def characters(self) -> tuple[str, ...]:
        """The lower-case character or space that each output writes, "" for marks in angle brackets.

        Raises:
            Unavailable: It cannot be teacher-forced: it has no decoder, or its symbols are no characters.
        """
        if not callable(getattr(self.net, "force", None)):
            raise Unavailable(
                f"a {self.card.architecture} has no decoder that can be shown the true text (no method `force`); name "
                "a reader that has one, such as one trained with `lipbench fit --model conformer`: "
                "--evaluator.files.teacher_forced FILE"
            )
        written = tuple("" if _is_mark(s) else s.replace(text.SILENCE, " ").lower() for s in self.card.vocabulary)
        long = next((symbol for symbol in written if len(symbol) > 1), None)
        if long is not None:
            raise Unavailable(
                f"the {self.card.architecture} writes {long!r} as one symbol; texts are shown to readers of characters"
            )
        return written

    @torch.inference_mode()
    def force(self, frames: Tensor, length: Tensor, texts: Sequence[str]) -> list[str | None]:
        """What the decoder writes in B videos when it is shown the truth so far, see `teacher_forced`.

        Args:
            frames: See `read`.
            length: See `read`.
            texts: What is said in each, lower-case.

        Returns:
            As many characters as each text has; None where it holds others than the reader's, or a score is not finite.

        Raises:
            Unavailable: See `characters`.
        """
        written = self.characters
        places = {character: k for k, character in reversed(list(enumerate(written))) if character}
        known = [set(words) <= places.keys() for words in texts]
        ids = [[places[c] for c in words] if fits else [] for words, fits in zip(texts, known, strict=True)]
        network: Any = self.net.to(frames.device)
        scores = network.force(frames, length, ids)  # (B, L, V)
        found = teacher_forced(scores, torch.tensor([len(row) for row in ids], device=scores.device), written)
        return [read if fits else None for read, fits in zip(found, known, strict=True)]


def _is_mark(symbol: str) -> bool:
    """Whether it stands for padding, an end and the like."""
    return symbol.startswith("<") and symbol.endswith(">")


def _best(scores: Tensor) -> list[list[int] | None]:
    """The class of every clip (B, V); None where a score is NaN."""
    broken = scores.isnan().any(1).tolist()
    return [None if nan else [k] for k, nan in zip(scores.argmax(1).tolist(), broken, strict=True)]


def spelled(ids: Iterable[int], vocabulary: Sequence[str]) -> str:
    """Words that symbols spell.

    Reading stops at "<eos>"; other symbols in angle brackets are left out. Subwords that begin a word begin with "▁",
    as SentencePiece writes them; characters have "|" or " " between words; other symbols are words.

    Args:
        ids: Positions in the vocabulary.
        vocabulary: Symbol of every output.

    Returns:
        Lower-case words with single spaces.
    """
    symbols: list[str] = []
    for symbol in (vocabulary[k] for k in ids):
        if symbol == "<eos>":
            break
        if not _is_mark(symbol):
            symbols.append(symbol)
    if any(symbol.startswith(_BEGINS) for symbol in vocabulary):
        written = "".join(symbols).replace(_BEGINS, " ")
    elif text.SILENCE in vocabulary or " " in vocabulary:
        written = "".join(symbols).replace(text.SILENCE, " ")
    else:
        written = " ".join(symbols)
    return " ".join(written.lower().split())


def teacher_forced(scores: Tensor, length: Tensor, symbols: Sequence[str]) -> list[str | None]:
    """What an attention decoder writes when at every step it has seen the true text so far.

    The word error rate of these transcripts, a mean over clips, is the second one of TalkLip's tables (WER2; published
    code), here `wer[teacher-forced]`. It is no reading: the length is the truth's, so that characters are substituted
    only, and an error at one step does not lead to others. It lies below WER by free decoding and does not compare.

    Args:
        scores: (B, L, V) logits or log-probabilities; step l was given the first l characters of the truth.
        length: (B,) characters of each truth, without a mark of its end.
        symbols: V, what each output writes: a character, or "" for marks of beginning and end.

    Returns:
        B transcripts; None where a score is not finite.

    Raises:
        ValueError: There are more or fewer symbols than outputs, a truth is longer than the steps, or a clip has no
            length.
    """
    checks.tensor("scores", scores, ("B", "L", "V"))
    if tuple(length.shape) != (len(scores),) or not len(scores):
        raise ValueError(f"lengths of shape {tuple(length.shape)} for {len(scores)} clips; each needs its own")
    if len(symbols) != scores.shape[2] or int(length.max()) > scores.shape[1]:
        raise ValueError(
            f"{len(symbols)} symbols and up to {int(length.max())} characters for scores of shape "
            f"{tuple(scores.shape)}; expected (clips, at least as many steps as characters, symbols)"
        )
    rows = zip(scores.argmax(dim=2).tolist(), scores.isfinite().all(dim=2).tolist(), length.tolist(), strict=True)
    return ["".join(symbols[k] for k in best[:count]) if all(finite[:count]) else None for best, finite, count in rows]
