"""Scores what a model that reads wrote itself, beside rows whose errors are known beforehand.

Calibration rows need no model: the text itself, which must have no error, and another clip's words in place of a
reading, which is what a reader has that knows the corpus and sees nothing. Controls are the tested reader again:
`wrong-video` is what it read elsewhere (its reading of this clip against another clip's words), and `still-video` what
it reads where the first frame stands still. A reader that scores there as well as in its own row does not look. All
four are our own choice.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

import torch

from lipbench.evaluation.bank import Bank, ScoreRow
from lipbench.evaluation.scoreboard import MODEL, ScoredRow
from lipbench.types import ClipBatch

ROWS: Final[dict[str, str]] = {
    "ground-truth": "the text itself: every error rate must be 0",
    "shuffled-text": "another clip's words in place of a reading: the errors of a reader that sees nothing",
}
"""Name of a calibration row -> what it is."""
CONTROLS: Final = ("wrong-video", "still-video")
"""The tested reader again: against another clip's words, and where the first frame stands still."""
AGAINST: Final = CONTROLS
"""Rows that a reader must beat clip by clip."""


class Reads(Protocol):
    """Whoever reads the videos of a batch."""

    def read(self, batch: ClipBatch) -> Sequence[str | None]:
        """What is said in each clip; None where nothing could be read."""
        ...


class ReadingRows:
    """The rows of a reader's test, filled batch by batch.

    Args:
        bank: Columns that score text.
        controls: Score the control rows.
        calibration: Score the calibration rows.
    """

    def __init__(self, bank: Bank, controls: bool, calibration: bool) -> None:
        self.bank = bank
        names = [MODEL, *(CONTROLS if controls else ()), *(ROWS if calibration else ())]
        self.rows: dict[str, ScoreRow] = {name: bank.row() for name in names}

    def update(
        self,
        batch: ClipBatch,
        texts: Sequence[str | None],
        reader: Reads,
        frames: Sequence[str],
        one_word: bool = False,
    ) -> None:
        """Score a batch in every row.

        Args:
            batch: With `mismatched`, another clip's words, unless neither controls nor calibration rows are scored.
            texts: What the reader wrote.
            reader: Reads the clips again where the first frame stands still.
            frames: Batch keys of what it looks at.
            one_word: It writes a word a clip, see `ScoreRow.update_text`.

        Raises:
            ValueError: The batch holds no other clip's words.
        """
        here = _on_cpu(batch)
        self.rows[MODEL].update_text(texts, here, one_word)
        if "text" not in batch:  # a corpus without words: the model's row says so
            for row in self.rows.values():
                row.reasons = dict(self.rows[MODEL].reasons)
            return
        if len(self.rows) > 1 and "text" not in batch.get("mismatched", {}):
            raise ValueError(
                "the batch holds no other clip's words; add --evaluator.controls false --evaluator.calibration false"
            )
        for name, row in self.rows.items():
            if name == "wrong-video":
                row.update_text(texts, cast(ClipBatch, {**here, "text": batch["mismatched"]["text"]}), one_word)
            elif name == "still-video":
                row.update_text(reader.read(_still(batch, frames)), here, one_word)
            elif name == "ground-truth":
                row.update_text(batch["text"], here)
            elif name == "shuffled-text":
                row.update_text(batch["mismatched"]["text"], here)

    def scored(self) -> dict[str, ScoredRow]:
        """Row -> what this process found."""
        judges = self.bank.judges
        return {
            name: ScoredRow(self.bank.entries, row.local_scores(), {}, row.reasons, judges)
            for name, row in self.rows.items()
        }


def _on_cpu(batch: ClipBatch) -> ClipBatch:
    """What scoring of texts looks at."""
    kept: dict[str, Any] = {"index": batch["index"].cpu(), "video_len": batch["video_len"].cpu()}
    if "text" in batch:
        kept["text"] = batch["text"]
    return cast(ClipBatch, kept)


def _still(batch: ClipBatch, frames: Sequence[str]) -> ClipBatch:
    """The same clips, every valid frame of which is the first one."""
    given = cast("dict[str, Any]", batch)
    changed = {}
    for key in frames:
        video = given[key]  # (B, T, 3, h, w)
        valid = torch.arange(video.shape[1], device=video.device) < given["video_len"].to(video.device)[:, None]
        changed[key] = video[:, :1] * valid[..., None, None, None].to(video.dtype)
    return cast(ClipBatch, {**given, **changed})
