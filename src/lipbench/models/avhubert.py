"""AV-HuBERT (2022): reads sentences from lips, from audio or from both, with a transformer and a sequence decoder.

The network is the published one (see `lipbench.nets.avhubert`). It is published as fine-tuned from self-supervised
pre-training, which lipbench does not do: here it is trained from scratch, or from published weights.

Loss: label-smoothed cross-entropy of the sequence decoder as in the published fine-tuning, together with CTC on the
transformer, without which attention hardly finds its place (Kim et al. 2017, joint CTC and attention). As in the
published pre-training, one modality is sometimes left out of a batch, so that lips alone can be read, and audio alone.
Own choices: the weight of CTC, means over symbols in place of sums, the curriculum, characters in place of
SentencePiece units.
"""

from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from lipbench import losses
from lipbench.media import features, text
from lipbench.nets import avhubert
from lipbench.training.pieces import PieceReader, cut_steps, spelled
from lipbench.types import ClipBatch, ClipSpec

_LOST: Final = "AV-HuBERT at {path}; give a weights file that `lipbench weights convert avhubert` or a training wrote"


class AVHubertReader(PieceReader):
    """A reader of characters with AV-HuBERT's network, base or smaller.

    Args:
        size: Pixels a side of the mouth view, of which the middle 11/12 are seen.
        front: Channels of the spatio-temporal convolution.
        widths: Channels of the four stages of the ResNet.
        width: Channels of transformer and decoder.
        layers: Blocks of the transformer.
        heads: Its attention heads.
        ffn: Channels between the linear layers of its blocks.
        position_kernel: Frames that the convolution sees from which positions are learned.
        position_groups: Its groups.
        decoder_layers: Blocks of the decoder.
        decoder_heads: Its attention heads.
        decoder_ffn: Channels between the linear layers of its blocks.
        dropout: In transformer and decoder.
        beam: Hypotheses when reading; 50 as published.
        ctc_weight: Of CTC; the decoder's cross-entropy has the rest of 1. 0 trains without CTC, as published.
        smoothing: Of labels.
        modality_dropout: Probability that a batch is trained with one modality alone; 0.5 as published.
        audio_dropout: Probability that this one is the lips and not the audio; 0.5 as published.
        encoder: Weights file of an `AVHubert` of the same sizes, whose front ends and transformer training starts from;
            the decoder is new, since published ones write other units.
        freeze_batches: Batches during which front ends and transformer are not trained; 22,500 of 45,000 in the
            published fine-tuning of base on 433 hours.
        shift: See `PieceReader`; with 4 at 96 pixels the network sees any 88 of them, as published.
        clip_norm: Largest norm of the gradient; 0 does not clip.
        options: Those of `PieceReader`.

    Raises:
        ValueError: A weight or probability is outside 0..1.
    """

    paper: ClassVar[str] = (
        "Shi et al., Learning Audio-Visual Speech Representation by Masked Multimodal Cluster Prediction, ICLR 2022"
    )
    net: avhubert.AVHubert

    def __init__(
        self,
        size: int = 96,
        front: int = 64,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        ffn: int = 3072,
        position_kernel: int = 128,
        position_groups: int = 16,
        decoder_layers: int = 6,
        decoder_heads: int = 4,
        decoder_ffn: int = 3072,
        dropout: float = 0.1,
        beam: int = 50,
        ctc_weight: float = 0.3,
        smoothing: float = 0.1,
        modality_dropout: float = 0.5,
        audio_dropout: float = 0.5,
        encoder: str | None = None,
        freeze_batches: int = 0,
        shift: int = 4,
        clip_norm: float = 5.0,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(shift=shift, clip_norm=clip_norm, **options)
        for name, share in (
            ("ctc_weight", ctc_weight),
            ("modality_dropout", modality_dropout),
            ("audio_dropout", audio_dropout),
        ):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; expected 0 to 1")
        self.smoothing, self.encoder, self.freeze_batches = smoothing, encoder, freeze_batches
        self.modality_dropout, self.audio_dropout = modality_dropout, audio_dropout
        self.loss_weights = {"ctc": ctc_weight, "text": 1 - ctc_weight}
        self.net = avhubert.AVHubert(
            len(text.SYMBOLS),
            size,
            front,
            widths,
            width,
            layers,
            heads,
            ffn,
            position_kernel,
            position_groups,
            decoder_layers,
            decoder_heads,
            decoder_ffn,
            dropout,
            ctc=ctc_weight > 0,
            padding=text.SYMBOLS.index("<pad>"),
            end=text.SYMBOLS.index("<eos>"),
            beam=beam,
        )
        self.view = self.net.view

    @property
    def clip_spec(self) -> ClipSpec:
        """Whole clips of mouths with audio, tokens with durations."""
        keys = frozenset({"tokens", "durations", "audio"})
        return ClipSpec(frames={"video": self.view}, audio_rate=features.RATE, keys=keys)

    def setup(self, stage: str) -> None:
        """Have the encoder start from its file, if one is named."""
        super().setup(stage)
        if stage == "fit" and self.encoder is not None:
            self.start_part("encoder", self.net, self.encoder, _LOST, without=("decoder.", "ctc_head."))

    # Training

    def compute_step(self, batch: ClipBatch) -> None:
        """Read pieces of the clips: words at first, sentences in the end."""
        pieces = self.pieces(batch)
        video, lengths = self.cut(batch["video"], pieces)
        alone = float(torch.rand(())) < self.modality_dropout
        lips = float(torch.rand(())) < self.audio_dropout
        with torch.set_grad_enabled(self.batches >= self.freeze_batches):
            seen = None if alone and not lips else self.net.see(video, lengths)
            heard = None if alone and lips else self.net.hear(cut_steps(self._filterbanks(batch), pieces))
            context = self.net.encode(seen, heard, lengths)
        self.step_optimizer("reader", self.terms(context, lengths, [piece.ids for piece in pieces]))

    @staticmethod
    def _filterbanks(batch: ClipBatch) -> Tensor:
        """(B, T, 104) of whole clips."""
        return features.log_filterbanks(batch["audio"], batch["audio_len"], batch["n_frames"], batch["fps"])

    def terms(self, context: Tensor, lengths: Tensor, texts: list[list[int]]) -> dict[str, Tensor]:
        """What training minimizes.

        Args:
            context: (B, T, width) from `AVHubert.encode`.
            lengths: (B,) frames.
            texts: Ids of each clip.

        Returns:
            "text", in nats a symbol with the end, and "ctc" where it has a weight, in nats a symbol: scalars.
        """
        tokens = self.net.targets(texts)  # (B, L)
        scores = self.net.text_scores(context, lengths, tokens)
        total = losses.label_smoothed_cross_entropy(scores, tokens, self.net.padding, self.smoothing)
        found = {"text": total / sum(len(ids) + 1 for ids in texts)}
        if self.loss_weights["ctc"]:
            found["ctc"] = losses.ctc(self.net.frame_scores(context), lengths, texts)
        return found

    # Reading

    def read(self, batch: ClipBatch) -> list[str]:
        """Words seen on the lips: the best of a beam, of every whole clip.

        Args:
            batch: `video` and `video_len`.

        Returns:
            Lower-case words and single spaces for each clip; empty where nothing was read.
        """
        return _words(self.net.transcribe(batch["video"], batch["video_len"]))

    def hear(self, batch: ClipBatch) -> list[str]:
        """Words heard in the audio: `audio`, `audio_len`, `n_frames` and `fps` of whole clips -> as `read`."""
        return _words(self.net.transcribe_audio(self._filterbanks(batch), batch["n_frames"]))

    def score(self, part: str, batch: ClipBatch) -> list[str]:
        """As every reader, and log `<part>/cer_audio` and the losses on lips, as `<part>/text` and `<part>/ctc`."""
        from torchmetrics.functional.text import char_error_rate

        lengths, spoken = batch["video_len"], self.spoken(batch)
        context = self.net.encode(self.net.see(batch["video"], lengths), None, lengths)
        read = _words(self.net.decode(context, lengths))
        for name, loss in self.terms(context, lengths, spelled(batch)).items():
            self.log(f"{part}/{name}", loss.to(self.device), batch_size=len(read), sync_dist=True)
        self.log_error_rates(part, read, spoken)
        audio = char_error_rate(self.hear(batch), spoken).to(self.device)
        self.log(f"{part}/cer_audio", audio, batch_size=sum(map(len, spoken)), prog_bar=True, sync_dist=True)
        return read


def _words(found: list[list[int] | None]) -> list[str]:
    """What ids spell; nothing where a clip was not finite."""
    return [text.decode(ids or ()) for ids in found]
