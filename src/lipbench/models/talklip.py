"""TalkLip (CVPR 2023): a face that speaks, taught by a lip-reading expert to be readable.

Sources: Wang, Qian, Zhang, Tan and Li, "Seeing What You Said: Talking Face Generation Guided by a Lip Reading Expert",
and its published code (Sxjdwang/TalkLip `train.py`, `models/`; `facts/systems.md` 3), which holds the global variants.

From the paper: the four variants, local (`audio: local`, a window of 0.2 s of the mel spectrogram) and global (`audio:
global`, a transformer over the whole utterance), each without and with contrastive loss; L1, lower-half discriminator,
lip-reading loss on hybrid videos, in which runs of frames are replaced by generated ones; the last three blocks of the
audio transformer learn. From the code: (1 - l - g) x L1 + l x reading + g x adversarial + c x contrastive with l = 1e-5
(of a sum over all tokens of a batch), g = 0.07, c = 1e-3; share p = .08 of starts and runs of M = 5 frames; label
smoothing .1; temperature .07; Adam 1e-4 with betas (.5, .999); the staged schedule: L1 and discriminator with the audio
transformer frozen, then its last blocks learn, then reading and contrastive loss begin, then training ends; each switch
waits for 6 validations whose L1 is not below the best. Misprints of the paper: equations 2 and 3 have the labels of
real and generated frames exchanged, and "L_gan is the sum of L_gen and L_disc" inside the generator's loss cannot be
meant; the generator's are non-saturating cross-entropy here as in the code. More in `lipbench.nets.talklip`.

Own choices: the hybrid is put together in the face view, where real and generated frames have the same pixels, and then
changed to the expert's view at once, so that sharpness tells nothing; in validation whole clips are generated from
their first frame (the code generates runs); the local variants have no audio transformer to be released and so one
switch less; a switch may also be a number of batches; sounds of more than 20 s are encoded in windows.
"""

from itertools import pairwise
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lipbench import losses
from lipbench.media import features, geometry, text
from lipbench.nets.avhubert import AudioHubert, AVHubert
from lipbench.nets.discriminators import FrameDiscriminator
from lipbench.nets.fastspeech import length_mask
from lipbench.nets.talklip import Generator, draw_negatives, draw_other_runs, draw_runs
from lipbench.nets.wav2lip import COLUMNS, AudioEncoder
from lipbench.pretrained import weights
from lipbench.training.adversarial import CrossEntropy, lower_halves
from lipbench.training.generative import frames_heard
from lipbench.training.pieces import spelled
from lipbench.training.speech_to_face import SpeechToFace, frames_in_pieces
from lipbench.types import ClipBatch, ClipSpec, Generated, Timing

Switch = Literal["audio", "reader", "end"]
_PATIENCE: Final = 6  # validations in a row that are not better, before the next switch (published code)
_TOLD: Final[dict[Switch, str]] = {
    "audio": "the last blocks of the audio encoder learn from now on",
    "reader": "reading and contrastive loss count from now on",
    "end": "training ends",
}
_AT_ONCE: Final = 500  # frames of audio encoded together: the longest that AV-HuBERT was trained on
_NO_READER: Final = (
    "TalkLip learns from a lip reader, and --model.reader names none. Train one, which writes observer.safetensors, "
    "and give that file: lipbench fit --model avhubert --data NAME. Or train without: --model.audio local "
    "--model.lip_weight 0 --model.contrastive_weight 0"
)
_LOST_READER: Final = (
    "reader at {path}; --model.reader takes the observer.safetensors that lipbench fit --model avhubert writes, or "
    "what lipbench weights convert avhubert makes of published weights"
)


class TalkLip(SpeechToFace):
    """Face encoder and decoder with skips, an audio encoder, a frozen lip reader, a discriminator of lower halves.

    Args:
        size: Pixels a side of the face view, 3 x 2^n; 96 as published.
        widths: See `lipbench.nets.wav2lip.Generator`; so are the next six.
        residuals: See there.
        decoder_widths: See there.
        decoder_residuals: See there.
        audio_widths: See there; of the local audio encoder.
        audio_residuals: See there.
        hidden: See there.
        audio: Which audio encoder: "global" or "local".
        audio_encoder: Of the global one, arguments of `lipbench.nets.avhubert.AudioHubert` that differ from AV-HuBERT
            base: those that the reader's file was made with.
        audio_blocks: Blocks of the global one that learn, from the last one back; 3 in the paper.
        context_width: Channels of the reader's context features; 768 of AV-HuBERT base.
        reader: Weights file of an `avhubert` that reads lips: the expert, which stays as it is and is no part of the
            checkpoint, which keeps its hash. The global audio encoder starts from its weights. Not needed to train the
            local variant without reading and contrastive loss.
        lip_weight: l above; 0 trains without lip-reading loss.
        contrastive_weight: c above; 0 in the paper's (l) and (g).
        adversarial_weight: g above; 0 trains without a discriminator.
        discriminator_width: First width of the discriminator, 32 as published.
        share: p above.
        run: M above.
        recompute: Compute the reader's front end once more in the backward pass in place of keeping what it computed on
            all frames: less memory for more time, with the same gradients.
        audio_from: Batch from which on the blocks of the global audio encoder learn; None waits for validations.
        reader_from: Batch from which on reading and contrastive loss count; None waits for validations, and then these
            also end the training.
        betas: Of both optimizers (Adam).
        options: Those of `AdversarialModel`.
    """

    paper: ClassVar[str] = (
        "Wang et al., Seeing What You Said: Talking Face Generation Guided by a Lip Reading Expert, CVPR 2023"
    )
    takes: ClassVar[dict[str, str]] = {"reader": "avhubert"}
    discriminator: FrameDiscriminator | None
    generator: Generator

    def __init__(
        self,
        size: int = 96,
        widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512),
        residuals: tuple[int, ...] = (2, 3, 2, 2, 1),
        decoder_widths: tuple[int, ...] = (512, 512, 384, 256, 128, 64),
        decoder_residuals: int = 2,
        audio_widths: tuple[int, ...] = (32, 64, 128, 256),
        audio_residuals: tuple[int, ...] = (2, 2, 2, 1),
        hidden: int = 512,
        audio: Literal["local", "global"] = "global",
        audio_encoder: dict[str, int] | None = None,
        audio_blocks: int = 3,
        context_width: int = 768,
        reader: str | None = None,
        lip_weight: float = 1e-5,
        contrastive_weight: float = 1e-3,
        adversarial_weight: float = 0.07,
        discriminator_width: int = 32,
        share: float = 0.08,
        run: int = 5,
        recompute: bool = False,
        audio_from: int | None = None,
        reader_from: int | None = None,
        betas: tuple[float, float] = (0.5, 0.999),
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(betas=betas, **options)
        self.size, self.audio, self.reader, self.share, self.run = size, audio, reader, share, run
        self.hidden, self.context_width, self.recompute = hidden, context_width, recompute
        self.loss_weights = {
            "l1": 1 - lip_weight - adversarial_weight,
            "lip": lip_weight,
            "contrastive": contrastive_weight,
            "adversarial": adversarial_weight,
        }
        self.switches: dict[Switch, int | None] = {}
        """What begins in the course of training, in order -> the batch; None waits for validations."""
        self.audio_encoder: AudioHubert | AudioEncoder
        if audio == "global":
            self.audio_encoder = AudioHubert(**(audio_encoder or {}))
            self.audio_encoder.requires_grad_(False)
            if audio_blocks:
                self.audio_encoder.blocks[-audio_blocks:].requires_grad_(True)
                self.switches["audio"] = audio_from
            self.context, self.encodes_audio = None, True
        else:
            self.audio_encoder = AudioEncoder(audio_widths, audio_residuals, hidden)
        if lip_weight or contrastive_weight:
            self.switches["reader"] = reader_from
        if None in self.switches.values():
            self.switches["end"] = None
        self.generator = Generator(
            self.audio_encoder.width if isinstance(self.audio_encoder, AudioHubert) else None,
            context_width,
            size,
            widths,
            residuals,
            decoder_widths,
            decoder_residuals,
            hidden,
        )
        self.discriminator = None
        if adversarial_weight:
            self.discriminator = FrameDiscriminator((size - size // 2, size), discriminator_width)
            self.adversaries["discriminator"] = CrossEntropy(self.discriminator, lower_halves)
        self.switched: list[Switch] = []
        """What validations have begun."""
        self._best, self._waited = float("inf"), 0
        self.to(memory_format=torch.channels_last)

    @property
    def clip_spec(self) -> ClipSpec:
        """Whole clips of faces and audio; words for the lip-reading loss."""
        keys = {"identity", "audio"} | ({"tokens"} if self.loss_weights["lip"] else set())
        return ClipSpec({"video": self.view}, identity="first", audio_rate=features.RATE, keys=frozenset(keys))

    def setup(self, stage: str) -> None:
        """Load the reader, if it is to be learned from.

        Raises:
            ValueError: There is none, the file holds another network, or its sizes are not this model's.
            FileNotFoundError: The file is not there.
        """
        super().setup(stage)
        if stage != "fit" or not (self.audio == "global" or "reader" in self.switches):
            return
        if self.reader is None:
            raise ValueError(_NO_READER)
        path, _ = weights.located(self.reader, _LOST_READER)
        reader, card = weights.load(path, AVHubert)
        if self.loss_weights["lip"] and card.vocabulary != text.SYMBOLS:
            raise ValueError(
                f"--model.reader {path} reads {len(card.vocabulary)} symbols that are not lipbench's "
                f"{len(text.SYMBOLS)} characters, in which the words of a corpus are spelled; give a reader that was "
                "trained here, or train without lip-reading loss: --model.lip_weight 0"
            )
        if reader.width != self.context_width:
            raise ValueError(
                f"--model.reader {path} has context features of {reader.width} channels; expected "
                f"--model.context_width {reader.width}, found {self.context_width}"
            )
        self.register_frozen("reader", reader, card.sha256)
        if isinstance(self.audio_encoder, AudioHubert) and not self.trainer.ckpt_path:
            self._start_audio(self.audio_encoder, reader, str(path))

    def _start_audio(self, encoder: AudioHubert, reader: AVHubert, path: str) -> None:
        """Have the global audio encoder start from the reader's weights."""
        if encoder.sizes != reader.sizes:
            raise ValueError(
                f"--model.reader {path} has a transformer of other sizes than --model.audio_encoder says: expected "
                f"{reader.sizes}, found {encoder.sizes}"
            )
        stored = reader.state_dict()
        encoder.load_state_dict({key: stored[key] for key in encoder.state_dict()})

    # Training

    def begun(self, switch: Switch) -> bool:
        """Whether what a switch begins has begun; not, where the model has no such switch."""
        if switch not in self.switches:
            return False
        batch = self.switches[switch]
        return switch in self.switched if batch is None else self.batches >= batch

    def generator_losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L1 on the frames drawn and, once they count, reading and contrastive loss; the sample is those frames."""
        clip, place, other = self.draw(batch["video_len"])
        real = batch["video"][clip, place]  # (M, 3, size, size)
        with torch.set_grad_enabled(self.audio == "local" or self.begun("audio")):
            audio = self.audio_windows(self._encoded(batch, batch["n_frames"]), clip, place)  # (M, E)
        made = self.generator(batch["video"][clip, other], geometry.without_lower_half(real), audio)
        terms = {"l1": losses.l1(made, real)}
        if self.begun("reader"):
            terms |= self.reader_losses(batch, clip, place, made, audio)
        return terms, {"real": real, "made": made}

    def draw(self, video_len: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames to be generated in training.

        Args:
            video_len: (B,) frames of whole clips.

        Returns:
            (M,) rows of the batch, (M,) their frames, (M,) the frames that are their identity.
        """
        rows, places, others = [], [], []
        for row, frames in enumerate(video_len.tolist()):
            drawn = draw_runs(frames, self.share, self.run)
            rows.append(torch.full_like(drawn, row))
            places.append(drawn)
            others.append(draw_other_runs(drawn, frames, self.run))
        clip, place, other = (torch.cat(parts).to(video_len.device) for parts in (rows, places, others))
        return clip, place, other

    def reader_losses(
        self, batch: ClipBatch, clip: Tensor, place: Tensor, made: Tensor, audio: Tensor
    ) -> dict[str, Tensor]:
        """What the reader says of clips in which some frames are generated.

        Args:
            batch: `video`, `video_len`, and `tokens` for the lip-reading loss.
            clip: (M,) rows of the batch.
            place: (M,) frames that are generated.
            made: (M, 3, size, size) those.
            audio: (M, E) their audio embeddings.

        Returns:
            "lip": cross-entropy of all tokens of the batch, summed, with label smoothing .1. "contrastive": InfoNCE of
            audio embeddings and the reader's context features. Either only if it has a weight.
        """
        reader = self.frozen["reader"]
        assert isinstance(reader, AVHubert)
        hybrid = batch["video"].index_put((clip, place), made.to(batch["video"].dtype))  # (B, T, 3, size, size)
        context = self.read_context(hybrid, batch["video_len"])  # (B, T, C)
        terms: dict[str, Tensor] = {}
        if self.loss_weights["lip"]:
            terms["lip"] = self.lip_loss(context, batch)
        if self.loss_weights["contrastive"] and len(clip) > 1:
            seen = F.normalize(context[clip, place].float(), dim=1)  # (M, C)
            negatives = draw_negatives(len(clip)).to(clip.device)
            terms["contrastive"] = losses.contrastive(self.generator.contrasted(audio), seen, negatives)
        return terms

    def read_context(self, video: Tensor, length: Tensor) -> Tensor:
        """The reader's context features of clips of faces.

        Args:
            video: (B, T, 3, size, size) in [0, 1]. Real and generated frames change to the reader's view together:
                both have the pixels of the face view by then, so that their sharpness does not tell them apart.
            length: (B,) frames.

        Returns:
            (B, T, C).
        """
        reader = self.frozen["reader"]
        assert isinstance(reader, AVHubert)
        mouths = geometry.change_view(video, self.view, reader.view)  # (B, T, 3, h, w)
        if self.recompute and torch.is_grad_enabled():
            # The reader is frozen, in eval mode, and draws nothing: its second pass is the first one again.
            seen = checkpoint(reader.see, mouths, length, use_reentrant=False)  # (B, T, C)
        else:
            seen = reader.see(mouths, length)
        return reader.encode(seen, None, length)

    def lip_loss(self, context: Tensor, batch: ClipBatch) -> Tensor:
        """The paper's eq. 4 of a batch, summed over clips and tokens: (B, T, C) context features -> scalar."""
        reader = self.frozen["reader"]
        assert isinstance(reader, AVHubert)
        tokens = reader.targets(spelled(batch))  # (B, L)
        scores = reader.text_scores(context, batch["video_len"], tokens)  # (B, L, V)
        return losses.label_smoothed_cross_entropy(scores, tokens, reader.padding)

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """As every model, and while fitting with lip-reading loss `val/lip`: that loss of generated clips, a token."""
        generated = super().validation_step(batch, batch_idx)
        if "reader" in self.frozen and self.loss_weights["lip"]:
            loss = self.lip_loss(self.read_context(generated["video"], batch["video_len"]), batch)
            count = sum(len(ids) + 1 for ids in spelled(batch))
            self.log("val/lip", loss / count, batch_size=count, sync_dist=True)
        return generated

    # The switches

    @property
    def follows_validations(self) -> bool:
        """Where a switch waits for them."""
        return "end" in self.switches

    def look_for_plateaus(self, value: float) -> None:
        """Take in the L1 of a validation; the sixth in a row that is not below the best fires the next switch."""
        super().look_for_plateaus(value)
        waiting = [switch for switch, at in self.switches.items() if at is None and switch not in self.switched]
        if not waiting:
            return
        self._waited = 0 if value < self._best else self._waited + 1
        self._best = min(value, self._best)
        if self._waited >= _PATIENCE:
            self._waited = 0
            self.switched.append(waiting[0])
            self.print(f"batch {self.batches:,}: {_TOLD[waiting[0]]}, after {_PATIENCE} validations without progress")
        self.trainer.should_stop = self.trainer.should_stop or "end" in self.switched

    def on_train_start(self) -> None:
        """As every model; a run that has come to its end does not go on."""
        super().on_train_start()
        self.trainer.should_stop = self.trainer.should_stop or "end" in self.switched

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the switches and the count of validations."""
        super().on_save_checkpoint(checkpoint)
        state = {"switched": list(self.switched), "best": self._best, "waited": self._waited}
        checkpoint["lipbench"]["switches"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read it back."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["lipbench"]["switches"]
        self.switched = [switch for switch in self.switches if switch in state["switched"]]
        self._best, self._waited = float(state["best"]), int(state["waited"])

    # Audio

    def audio_embeddings(self, batch: ClipBatch) -> Tensor:
        """One audio embedding a frame.

        The global encoder hears up to 500 frames (20 s) at once, the longest that AV-HuBERT was trained on. Longer
        sounds are encoded in windows that begin every 250 frames; a frame takes the window in whose middle it is.

        Args:
            batch: `audio`, `audio_len`, `fps`, `n_frames`.

        Returns:
            (B, T, E), T the most frames; 0 after a clip's last frame.
        """
        frames, most = batch["n_frames"], int(batch["n_frames"].max())
        if isinstance(self.audio_encoder, AudioEncoder):
            embeddings = batch["audio"].new_zeros(len(frames), most, self.hidden)
            for clip, place in frames_in_pieces(frames):
                embeddings[clip, place] = self.audio_windows(batch, clip, place).float()
            return embeddings
        filterbanks = features.log_filterbanks(batch["audio"], batch["audio_len"], frames, batch["fps"])  # (B, T, 104)
        parts = []
        for start, first, stop in encoded_pieces(most):
            length = (frames - start).clamp(min=1, max=_AT_ONCE)  # of a clip that is over, one frame is heard
            heard = self.audio_encoder.hear(filterbanks[:, start : start + _AT_ONCE])  # (B, t, E)
            parts.append(self.audio_encoder.encode(None, heard, length)[:, first - start : stop - start])
        return torch.cat(parts, dim=1) * length_mask(frames, most)[..., None]

    def audio_windows(self, batch: ClipBatch, clip: Tensor, frame: Tensor) -> Tensor:
        """Audio embeddings of frames.

        Args:
            batch: `audio`, `audio_len`, `fps`; with global audio `audio_embeddings`.
            clip: (M,) rows of the batch.
            frame: (M,) frames of these clips.

        Returns:
            (M, E).
        """
        if isinstance(self.audio_encoder, AudioHubert):
            return batch["audio_embeddings"][clip, frame]
        mels = features.mel_windows(batch["audio"], batch["audio_len"], clip, frame, batch["fps"], COLUMNS)
        return self.audio_encoder(mels[:, None]).flatten(1)  # type: ignore[no-any-return]  # (M, 1, 80, 16) -> (M, E)

    def _encoded(self, batch: ClipBatch, frames: Tensor) -> ClipBatch:
        """The batch with the embeddings of its whole audio, where the encoder is global and they are not there yet."""
        if self.audio == "local" or "audio_embeddings" in batch:
            return batch
        embeddings = self.audio_embeddings({**batch, "n_frames": frames})
        return {**batch, "audio_embeddings": embeddings}

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Make the frames of the clip, or with timing "free" those of the sound."""
        return super().generate(self._encoded(batch, frames_heard(batch, timing, features.RATE)), timing)


def encoded_pieces(frames: int) -> list[tuple[int, int, int]]:
    """Windows of up to 500 frames in which a long sound is encoded.

    Args:
        frames: Of the sound.

    Returns:
        For each window the first frame that it hears, and the first and the end of those that are taken from it.
        Example: 800 frames are heard from 0, 250 and 300; 0 to 375 are taken from the first, 375 to 525 from the
        second, 525 to 800 from the third.
    """
    last = max(frames - _AT_ONCE, 0)
    starts = [*range(0, last, _AT_ONCE // 2), last]
    cuts = [0, *((a + b + _AT_ONCE) // 2 for a, b in pairwise(starts)), frames]
    return [(start, *ends) for start, ends in zip(starts, pairwise(cuts), strict=True)]
