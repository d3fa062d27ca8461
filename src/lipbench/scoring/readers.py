"""Readers out of weights files, known by what they do and not by what they are called.

A network reads if its card names a vocabulary. How it writes follows from the network itself:

- a method `transcribe(frames, length) -> list[list[int] | None]`: a sequence decoder of its own, ids without marks of
  beginning and end, None where it could not read;
- outputs (B, T, V), a class a frame with the blank first: the best path of CTC;
- outputs (B, V), a class a clip: the word whose score is highest.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from lipbench.errors import Unavailable
from lipbench.media import text
from lipbench.nets import ctc
from lipbench.pretrained import weights

_BEGINS: Final = "\u2581"
"""Begins the subwords that begin a word, as SentencePiece writes them."""


class Reader:
    """A lip reader.

    Args:
        net: From `lipbench.pretrained.weights.load`, or a network of the same interface.
        card: Its card.

    Raises:
        Unavailable: It does not read: its card names no vocabulary.
    """

    def __init__(self, net: nn.Module, card: weights.Card) -> None:
        if not card.vocabulary:
            raise Unavailable(f"the weights hold a {card.architecture}, which does not read: no vocabulary")
        self.net, self.card, self.view = net, card, card.view

    @classmethod
    def load(cls, path: str | Path) -> "Reader":
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
            found = ctc.greedy(outputs, length) if outputs.dim() == 3 else _best(outputs)
        return [None if ids is None else spelled(ids, self.card.vocabulary) for ids in found]


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
        if not (symbol.startswith("<") and symbol.endswith(">")):
            symbols.append(symbol)
    if any(symbol.startswith(_BEGINS) for symbol in vocabulary):
        written = "".join(symbols).replace(_BEGINS, " ")
    elif text.SILENCE in vocabulary or " " in vocabulary:
        written = "".join(symbols).replace(text.SILENCE, " ")
    else:
        written = " ".join(symbols)
    return " ".join(written.lower().split())
