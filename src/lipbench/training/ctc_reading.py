"""What lip readers with CTC share: CTC training from single words to sentences, reading, and its error rates."""

from typing import Any

from torch import Tensor

from lipbench import losses
from lipbench.media import text
from lipbench.nets import ctc
from lipbench.training.pieces import PieceReader, spelled
from lipbench.types import ClipBatch, ClipSpec, View


class CTCReader(PieceReader):
    """Base of lip readers that write symbols by CTC: a subclass makes `net` and hands the rest on.

    Args:
        size: (height, width) of the mouth view.
        options: Those of `PieceReader`.

    Attributes:
        net: (B, T, 3, height, width) in [0, 1] and (B,) lengths -> (B, T, symbols) log-probabilities, 0 the blank; its
            `arguments` make it again.
    """

    def __init__(self, *, size: tuple[int, int], **options: Any) -> None:  # noqa: ANN401 - PieceReader's arguments
        super().__init__(**options)
        self.view = View("mouth", size[0], size[1])

    @property
    def clip_spec(self) -> ClipSpec:
        """Whole clips of mouths, tokens with durations."""
        return ClipSpec(frames={"video": self.view}, keys=frozenset({"tokens", "durations"}))

    # Training

    def compute_step(self, batch: ClipBatch) -> None:
        """CTC loss on pieces of the clips: words at first, sentences in the end."""
        pieces = self.pieces(batch)
        video, lengths = self.cut(batch["video"], pieces)
        self.step_optimizer("reader", {"ctc": losses.ctc(self.net(video, lengths), lengths, [p.ids for p in pieces])})

    # Reading

    def read(self, batch: ClipBatch) -> list[str]:
        """Words seen on the lips: the best path of every whole clip.

        Args:
            batch: `video` and `video_len`.

        Returns:
            Lower-case words and single spaces for each clip; empty where nothing was read.
        """
        return self._words(self.net(batch["video"], batch["video_len"]), batch["video_len"])

    @staticmethod
    def _words(log_probs: Tensor, lengths: Tensor) -> list[str]:
        """(B, T, symbols), (B,) -> what the best paths spell; nothing where the pictures were not finite."""
        return [text.decode(ids or ()) for ids in ctc.greedy(log_probs, lengths)]

    def score(self, part: str, batch: ClipBatch) -> list[str]:
        """As every reader, and log the loss as `<part>/ctc`."""
        lengths = batch["video_len"]
        log_probs = self.net(batch["video"], lengths)
        read, loss = self._words(log_probs, lengths), losses.ctc(log_probs, lengths, spelled(batch))
        self.log(f"{part}/ctc", loss.to(self.device), batch_size=len(read), sync_dist=True)
        self.log_error_rates(part, read, self.spoken(batch))
        return read
