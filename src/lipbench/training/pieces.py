"""Clips cut into pieces of words: how readers of sentences learn, whatever network and loss they have.

Training on whole sentences from scratch stays on a plateau for long where the network writes nothing, or the same for
every clip. So training starts with clips cut into words, by the durations of their tokens, and the pieces grow to
sentences (Chung et al. 2017, section 4.1, "curriculum learning", for a reader with attention).
"""

from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from lipbench.media import alignment, text
from lipbench.pretrained import weights
from lipbench.training.reading import ReadingModel
from lipbench.types import ClipBatch, View

_CONTEXT: Final = 3  # frames kept on both sides of a piece: neighbors shape the lips, and "at" lasts 1.5 frames
_SILENCE: Final = text.SYMBOLS.index(text.SILENCE)


class Word(NamedTuple):
    """A word in a clip."""

    start: int
    """First frame."""
    stop: int
    """Frame after the last."""
    ids: list[int]
    """Its letters, as positions in `lipbench.media.text.SYMBOLS`."""


class Piece(NamedTuple):
    """A stretch of a clip and what is said in it."""

    clip: int
    """Row of the batch."""
    frames: Tensor
    """(n,) int64 positions in the clip, in order; some may be left out or stand twice."""
    ids: list[int]
    """Letters and, between words, silences: what shall be read."""


def word_segments(tokens: list[int], durations: list[int]) -> list[Word]:
    """The words among a clip's tokens: what stands between silences.

    Args:
        tokens: Positions in `SYMBOLS`, without padding.
        durations: Frames of each.
    """
    found = alignment.spans([token == _SILENCE for token in tokens], durations)
    return [Word(own.first_frame, own.last_frame, tokens[own.first_symbol : own.last_symbol]) for own in found]


def spell(words: list[Word]) -> list[int]:
    """Ids of words with a silence between two of them."""
    ids = [k for word in words for k in (*word.ids, _SILENCE)]
    return ids[:-1]


def spelled(batch: ClipBatch) -> list[list[int]]:
    """Ids that a perfect reader would write of the clips of a batch, from its `tokens` and `token_len`."""
    rows = zip(batch["tokens"].tolist(), batch["token_len"].tolist(), strict=True)
    return [spell(word_segments(ids[:count], [0] * count)) for ids, count in rows]


class PieceReader(ReadingModel):
    """Base of lip readers that learn from pieces of clips: a subclass makes `net`, and a loss of its own.

    Args:
        curriculum: Batches over which pieces grow from single words to sentences; 0 reads sentences from the start.
        skip: Probability of a training frame to be left out, and as much to be shown twice (LipNet: 0.05).
        shift: Pixels by which a training piece is moved at most, up, down and sideways (Stafylakis and Tzimiropoulos
            2017: 5 at 112x112).
        lr: Peak learning rate (AdamW, as DualLip).
        weight_decay: Of AdamW.
        options: Those of `BenchModule`.

    Attributes:
        net: A network of `lipbench.nets` that reads; its `arguments` make it again.
        view: What it looks at.
    """

    net: nn.Module
    view: View

    def __init__(
        self,
        *,
        curriculum: int = 5000,
        skip: float = 0.05,
        shift: int = 0,
        lr: float = 2e-4,
        weight_decay: float = 0.01,
        **options: Any,  # noqa: ANN401 - BenchModule's arguments
    ) -> None:
        super().__init__(**options)
        if not 0 <= skip < 0.5:
            raise ValueError(f"skip is {skip}; expected at least 0 and less than 0.5")
        self.curriculum, self.skip, self.shift = curriculum, skip, shift
        self.lr, self.weight_decay = lr, weight_decay

    def build_optimizers(self) -> dict[str, Optimizer]:
        """AdamW over everything."""
        return {"reader": AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)}

    # Pieces

    def pieces(self, batch: ClipBatch) -> list[Piece]:
        """Cut the clips of a batch into pieces of as many words as the curriculum has come to.

        Nothing that is said is left out: the first piece of a clip may be shorter, so that cuts fall differently every
        time. A whole sentence begins and ends anywhere in the silence around it.
        """
        share = min(1.0, (self.batches + 1) / self.curriculum) if self.curriculum else 1.0
        tokens, durations = batch["tokens"].tolist(), batch["durations"].tolist()
        found = []
        rows = zip(tokens, durations, batch["token_len"].tolist(), batch["video_len"].tolist(), strict=True)
        for clip, (ids, lasts, count, total) in enumerate(rows):
            words = word_segments(ids[:count], lasts[:count])
            most = max(1, round(share * len(words)))
            if len(words) <= most:
                start = _draw(0, max(0, words[0].start - _CONTEXT)) if words else 0
                stop = _draw(min(total, words[-1].stop + _CONTEXT), total) if words else total
                found.append(Piece(clip, self._frames(start, stop, spell(words)), spell(words)))
                continue
            cuts = [0, *range(_draw(1, most), len(words), most), len(words)]
            for a, b in pairwise(cuts):
                start = max(0, words[a].start - _CONTEXT)
                stop = min(total, words[b - 1].stop + _CONTEXT)
                ids_of_piece = spell(words[a:b])
                found.append(Piece(clip, self._frames(start, stop, ids_of_piece), ids_of_piece))
        return found

    def _frames(self, start: int, stop: int, ids: list[int]) -> Tensor:
        """Positions start..stop, some left out and some twice, unless too few were left to write all symbols."""
        frames = torch.arange(start, stop)
        drawn = torch.rand(stop - start)
        counts = torch.ones_like(frames).masked_fill(drawn < self.skip, 0).masked_fill(drawn > 1 - self.skip, 2)
        repeats = sum(a == b for a, b in pairwise(ids))  # CTC writes a blank between equal symbols
        changed = frames.repeat_interleave(counts)
        return changed if len(changed) >= max(1, len(ids) + repeats) else frames

    def cut(self, video: Tensor, pieces: list[Piece]) -> tuple[Tensor, Tensor]:
        """The pictures of pieces, each piece mirrored half of the time and moved by up to `shift` pixels.

        Args:
            video: (B, T, 3, H, W).
            pieces: P of them.

        Returns:
            (P, longest, 3, H, W), zero-padded; (P,) lengths.
        """
        lengths = torch.tensor([len(p.frames) for p in pieces], device=video.device)
        out = video.new_zeros(len(pieces), int(lengths.max()), *video.shape[2:])
        height, width = video.shape[-2:]
        border = self.shift
        for row, piece in zip(out, pieces, strict=True):
            pictures = video[piece.clip].index_select(0, piece.frames.to(video.device))  # (n, 3, H, W)
            if torch.rand(()) < 0.5:
                pictures = pictures.flip(-1)
            if border:
                top, left = _draw(0, 2 * border), _draw(0, 2 * border)
                wide = F.pad(pictures, (border, border, border, border), mode="replicate")
                pictures = wide[..., top : top + height, left : left + width]
            row[: len(pictures)] = pictures
        return out, lengths

    # What is said

    def spoken(self, batch: ClipBatch) -> list[str]:
        """What the tokens of a batch spell."""
        return [text.decode(ids) for ids in spelled(batch)]

    # As an observer

    def save_observer(self, path: str | Path, trained_on: str) -> weights.Card:
        """Write the network to a weights file that metrics read (`lipbench.pretrained.weights`).

        Args:
            path: Ends in ".safetensors".
            trained_on: In words: corpus, protocol, how long, which seed.
        """
        return weights.save(
            path,
            self.net,
            arguments=self.net.arguments,  # type: ignore[arg-type]
            view=self.view,
            trained_on=trained_on,
            vocabulary=text.SYMBOLS,
        )


def cut_steps(steps: Tensor, pieces: list[Piece]) -> Tensor:
    """What goes with the frames of pieces, such as audio features.

    Args:
        steps: (B, T, F), a vector for every frame.
        pieces: P of them.

    Returns:
        (P, longest, F), zero-padded.
    """
    rows = [steps[piece.clip].index_select(0, piece.frames.to(steps.device)) for piece in pieces]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _draw(low: int, high: int) -> int:
    """An integer of low..high, both included."""
    return int(torch.randint(low, high + 1, ()))
