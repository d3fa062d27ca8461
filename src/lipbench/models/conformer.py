"""Conformer (2021): reads sentences from lips with a Conformer encoder, by CTC and an attention decoder at once.

Losses, learning rate, masks over time and search are Auto-AVSR's (mpc001/auto_avsr, commit 182b628), here on
characters; sizes and the second published layout stand in `lipbench.nets.conformer`. Own choices: the curriculum and
the mirrored clips of `PieceReader`, and means over symbols in place of sums.
"""

from typing import Any, ClassVar, Final

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from lipbench import losses
from lipbench.media import text
from lipbench.nets import conformer
from lipbench.nets.conformer import Layout
from lipbench.training.pieces import PieceReader, spelled
from lipbench.types import ClipBatch, ClipSpec, View

_NOTHING: Final = -100  # stands after a text
_MASKED: Final = 10  # below which the number of frames of a mask is drawn
_STRIDE: Final = 25  # frames, whole or begun, that have a mask each


class ConformerReader(PieceReader):
    """Conformer lip reader, of any size; the defaults are Auto-AVSR's.

    Args:
        view: What it looks at, in `lipbench.media.geometry.BOXES`. Auto-AVSR cuts mouths as AV-HuBERT does: 96 pixels
            after the same mean face. TalkLip's reader looks at "lrs2_mouth", 112x112.
        size: (height, width) of the view.
        layout: Whose details it has; so are the following, see `lipbench.nets.conformer.Conformer`.
        front: See there.
        widths: See there.
        width: See there.
        layers: See there.
        heads: See there.
        ffn: See there.
        kernel: See there.
        decoder_layers: See there.
        margin: See there.
        dropout: See there.
        beam: Hypotheses of the search in validation, test and as an observer.
        ctc_weight: Share of CTC in the loss and in the search; the decoder has the rest.
        smoothing: Of labels.
        skip: See `PieceReader`; Auto-AVSR leaves no frames out.
        shift: See `PieceReader`; as large as the margin, these are Auto-AVSR's random crops.
        lr: Peak learning rate. Auto-AVSR has it after 5 of 80 epochs, and a cosine to 0 after it.
        weight_decay: Of AdamW.
        clip_norm: Largest norm of the gradient; 0 does not clip.
        options: Those of `PieceReader`.
    """

    paper: ClassVar[str] = "Ma et al., End-to-end Audio-visual Speech Recognition with Conformers, ICASSP 2021"
    net: conformer.Conformer

    def __init__(
        self,
        view: str = "avhubert_mouth",
        size: tuple[int, int] = (96, 96),
        layout: Layout = "auto_avsr",
        front: int = 64,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        ffn: int = 3072,
        kernel: int = 31,
        decoder_layers: int = 6,
        margin: int = 4,
        dropout: float = 0.1,
        beam: int = 40,
        ctc_weight: float = 0.1,
        smoothing: float = 0.1,
        skip: float = 0.0,
        shift: int = 4,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        clip_norm: float = 10.0,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(skip=skip, shift=shift, lr=lr, weight_decay=weight_decay, clip_norm=clip_norm, **options)
        self.view, self.smoothing = View(view, *size), smoothing
        self.net = conformer.Conformer(
            layout,
            front,
            widths,
            width,
            layers,
            heads,
            ffn,
            kernel,
            decoder_layers,
            margin=margin,
            dropout=dropout,
            beam=beam,
            ctc_weight=ctc_weight,
        )
        self.loss_weights = {"ctc": ctc_weight, "text": 1 - ctc_weight}

    @property
    def clip_spec(self) -> ClipSpec:
        """Whole clips of mouths, tokens with durations."""
        return ClipSpec(frames={"video": self.view}, keys=frozenset({"tokens", "durations"}))

    def build_optimizers(self) -> dict[str, Optimizer]:
        """AdamW over everything."""
        return {
            "reader": AdamW(
                self.parameters(), lr=self.lr, betas=(0.9, 0.98), weight_decay=self.weight_decay, fused=True
            )
        }

    def compute_step(self, batch: ClipBatch) -> None:
        """Read pieces of the clips, some frames of which are black: words at first, sentences in the end."""
        pieces = self.pieces(batch)
        video, lengths = self.cut(batch["video"], pieces)
        memory = self.net.encode(mask_frames(video, lengths), lengths)
        self.step_optimizer("reader", self.terms(memory, lengths, [piece.ids for piece in pieces]))

    def terms(self, memory: Tensor, lengths: Tensor, texts: list[list[int]]) -> dict[str, Tensor]:
        """What training minimizes.

        Args:
            memory: (B, T, width) of the encoder.
            lengths: (B,) frames.
            texts: Ids of each clip.

        Returns:
            "ctc", and "text", the decoder's cross-entropy, in nats a symbol with the end: scalars.
        """
        scores = self.net.decode(memory, lengths, texts)  # (B, L + 1, V)
        true = torch.full(scores.shape[:2], _NOTHING, device=scores.device)
        for row, ids in zip(true, texts, strict=True):
            row[: len(ids) + 1] = torch.tensor([*ids, self.net.end])
        total = losses.label_smoothed_cross_entropy(scores, true, _NOTHING, self.smoothing)
        return {
            "ctc": losses.ctc(self.net.symbols(memory), lengths, texts),
            "text": total / sum(len(ids) + 1 for ids in texts),
        }

    def read(self, batch: ClipBatch) -> list[str]:
        """Words seen on the lips, by the search of `lipbench.nets.joint_search` in every whole clip.

        Args:
            batch: `video` and `video_len`.

        Returns:
            Lower-case words and single spaces for each clip; empty where nothing was read.
        """
        return self._spelled(self.net.encode(batch["video"], batch["video_len"]), batch["video_len"])

    def _spelled(self, memory: Tensor, lengths: Tensor) -> list[str]:
        return [text.decode(ids or ()) for ids in self.net.search(memory, lengths)]

    def score(self, part: str, batch: ClipBatch) -> list[str]:
        """As every reader, and log the losses as `<part>/ctc` and `<part>/text`."""
        lengths = batch["video_len"]
        memory = self.net.encode(batch["video"], lengths)
        read = self._spelled(memory, lengths)
        for name, loss in self.terms(memory, lengths, spelled(batch)).items():
            self.log(f"{part}/{name}", loss.to(self.device), batch_size=len(read), sync_dist=True)
        self.log_error_rates(part, read, self.spoken(batch))
        return read


def mask_frames(video: Tensor, lengths: Tensor) -> Tensor:
    """Make some frames black: a run for every 25 frames, whole or begun (Auto-AVSR's adaptive time mask).

    As published, a run has 0 to 9 frames and begins anywhere but in the last n frames, where n is drawn from 0 to 9,
    too; where n is 0, or as many as there are frames, there is no run.

    Args:
        video: (B, T, 3, H, W).
        lengths: (B,) valid frames.

    Returns:
        A copy.
    """
    masked = video.clone()
    for row, length in zip(masked, lengths.tolist(), strict=True):
        for left, count in torch.randint(0, _MASKED, (-(-length // _STRIDE), 2)).tolist():
            if 0 < left < length:
                start = int(torch.randint(0, length - left, ()))
                row[start : start + count] = 0
    return masked
