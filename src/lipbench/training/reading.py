"""Models that read lips: what they share, whatever network and loss they have."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

from lipbench.training.base import BenchModule
from lipbench.types import ClipBatch, Generated


class ReadingModel(BenchModule):
    """A model that reads: a lip reader, or one that generates besides (`class M(GenerativeModel, ReadingModel)`).

    Validation and test log the character and word error rates over all characters and words of the split, against the
    batch's `text`.
    """

    monitor: ClassVar[tuple[str, Literal["min", "max"]]] = ("val/cer", "min")
    paper: ClassVar[str]
    """Authors, title, venue and year."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Text, and what other bases bring."""
        return super().capabilities | {"text"}

    @abstractmethod
    def read(self, batch: ClipBatch) -> list[str]:
        """Words seen on the lips.

        Args:
            batch: `video` and `video_len`, whole clips.

        Returns:
            Lower-case words and single spaces for each clip; empty where nothing was read.
        """

    def spoken(self, batch: ClipBatch) -> list[str]:
        """What is said in the clips of a batch, in the form in which `read` writes it."""
        return batch["text"]

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """Log `val/cer` and `val/wer`."""
        return _joined(self.score("val", batch), super().validation_step(batch, batch_idx))

    def test_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """Read, and log the same as `test/...`."""
        return _joined(self.score("test", batch), super().test_step(batch, batch_idx))

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """Read."""
        return _joined(self.read(batch), super().predict_step(batch, batch_idx))

    def score(self, part: str, batch: ClipBatch) -> list[str]:
        """Read, and log the edits a character and a word; batches weigh by what was said in them.

        Args:
            part: "val" or "test".
            batch: Whole clips.
        """
        read = self.read(batch)
        self.log_error_rates(part, read, self.spoken(batch))
        return read

    def log_error_rates(self, part: str, read: list[str], spoken: list[str]) -> None:
        """Log `<part>/cer` and `<part>/wer` of texts that were read against those that were spoken."""
        from torchmetrics.functional.text import char_error_rate, word_error_rate

        characters, words = sum(map(len, spoken)), sum(len(sentence.split()) for sentence in spoken)
        for name, value, weight in (
            ("cer", char_error_rate(read, spoken), characters),
            ("wer", word_error_rate(read, spoken), words),
        ):
            self.log(f"{part}/{name}", value.to(self.device), batch_size=weight, prog_bar=True, sync_dist=True)


def _joined(read: list[str], other: object) -> Generated:
    """What a model reads, and what it generates if it does that, too."""
    return cast("Generated", {**(cast("Mapping[str, Any]", other) if isinstance(other, dict) else {}), "text": read})
