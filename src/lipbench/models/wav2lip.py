"""Wav2Lip (ACM MM 2020): a masked face, a reference face and the sound make the face that speaks, taught by an expert.

Sources: Prajwal K R et al., "A Lip Sync Expert Is All You Need for Speech to Lip Generation in the Wild", and its
published code (Rudrabha/Wav2Lip `wav2lip_train.py`, `hq_wav2lip_train.py`; `facts/systems.md` 7.5).

From the code: the generator (`lipbench.nets.wav2lip`), five frames in a row with five others of the same clip as
reference; (1 - s - g) x L1 + s x synchronization + g x adversarial with s = 0.03 and g = 0.07, Adam 1e-4 with betas
(0.5, 0.999), 16 clips a batch. Synchronization is the cross-entropy of the frozen expert's cosine of the five lower
halves and their sound; it is switched on by a validation in which its mean is below 0.75. The visual discriminator
judges lower halves one by one, with binary cross-entropy.

Own choices: windows of sound centerd on their frames (the published inference starts a window at its frame); the face
view of the canonical picture instead of a detector's box; the switch may also be a number of batches, since for some
users the published condition is never met (their issue 253); "first" as identity for small models. In scoring the
reference is the clip's first frame: the code takes every frame of the target itself, whose lips then show through.
"""

from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor

from lipbench import losses
from lipbench.media import features, geometry
from lipbench.models.wav2lip_expert import sync_bce
from lipbench.nets.discriminators import FrameDiscriminator
from lipbench.nets.fastspeech import length_mask
from lipbench.nets.wav2lip import COLUMNS, FRAMES, Expert, Generator
from lipbench.pretrained import weights
from lipbench.training.adversarial import CrossEntropy, lower_halves
from lipbench.training.speech_to_face import SpeechToFace, frames_in_pieces
from lipbench.types import ClipBatch, ClipSpec, Generated

_NO_EXPERT: Final = (
    "Wav2Lip learns synchronization from an expert, and --model.expert names none. Train one, which writes "
    "observer.safetensors, and give that file: lipbench fit --model wav2lip_expert --data NAME. Or train without: "
    "--model.sync_weight 0"
)
_LOST_EXPERT: Final = (
    "expert at {path}; --model.expert takes the observer.safetensors that lipbench fit --model wav2lip_expert writes"
)


class Wav2Lip(SpeechToFace):
    """Face encoder, audio encoder and decoder with skips; a frozen expert of synchronization, a judge of pictures.

    Args:
        size: Pixels a side of the face view, 3 x 2^n; 96 as published.
        widths: See `lipbench.nets.wav2lip.Generator`; so are the next six.
        residuals: See there.
        decoder_widths: See there.
        decoder_residuals: See there.
        audio_widths: See there.
        audio_residuals: See there.
        hidden: See there.
        identity: Reference in training: a "run" of five frames in a row anywhere in the clip, as published, or the
            clip's "first" frame, which drives scoring too (own choice for small models).
        expert: Weights file of a `wav2lip_expert`, needed to train with `sync_weight`. It stays as it is and is no
            part of the checkpoint, which keeps its hash.
        sync_weight: s above; 0.03 in the training with a discriminator, 0.01 in that without. 0 trains without expert.
        sync_from: Batch from which on the synchronization counts; None waits for a validation below `sync_below`.
        sync_below: Mean synchronization loss of a validation that switches it on.
        adversarial_weight: g above; 0 trains without a discriminator.
        judge_width: First width of the discriminator, 32 as published.
        betas: Of both optimizers (Adam).
        options: Those of `AdversarialModel`. As users do, `init_from` may be a checkpoint of training without a
            discriminator.
    """

    paper: ClassVar[str] = (
        "Prajwal K R et al., A Lip Sync Expert Is All You Need for Speech to Lip Generation in the Wild, ACM MM 2020"
    )
    generator: Generator
    discriminator: FrameDiscriminator | None
    takes: ClassVar[dict[str, str]] = {"expert": "wav2lip_expert"}

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
        identity: Literal["run", "first"] = "run",
        expert: str | None = None,
        sync_weight: float = 0.03,
        sync_from: int | None = None,
        sync_below: float = 0.75,
        adversarial_weight: float = 0.07,
        judge_width: int = 32,
        betas: tuple[float, float] = (0.5, 0.999),
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(betas=betas, **options)
        self.size, self.hidden, self.identity, self.expert = size, hidden, identity, expert
        self.sync_weight, self.sync_from, self.sync_below = sync_weight, sync_from, sync_below
        self.adversarial_weight = adversarial_weight
        self.generator = Generator(
            size, widths, residuals, decoder_widths, decoder_residuals, audio_widths, audio_residuals, hidden
        )
        self.discriminator = FrameDiscriminator((size - size // 2, size), judge_width) if adversarial_weight else None
        if self.discriminator is not None:
            self.adversaries["discriminator"] = CrossEntropy(self.discriminator, lower_halves)
        self.sync_on = False
        """Whether a validation has switched the synchronization on."""
        self._judged = torch.zeros(2)  # sum over the windows of a validation of what the expert says, and their number
        self.to(memory_format=torch.channels_last)

    @property
    def clip_spec(self) -> ClipSpec:
        """Five faces in a row, five others or the first one, the sound."""
        return ClipSpec(
            frames={"video": self.view},
            window=FRAMES,
            references=FRAMES if self.identity == "run" else 1,
            identity=self.identity,
            audio_rate=features.RATE,
            keys=frozenset({"identity", "audio"}),
        )

    def setup(self, stage: str) -> None:
        """Load the expert, if it is to be learned from.

        Raises:
            ValueError: There is none, or the file holds another network.
            FileNotFoundError: The file is not there.
        """
        super().setup(stage)
        if stage == "fit" and self.sync_weight:
            if self.expert is None:
                raise ValueError(_NO_EXPERT)
            path, _ = weights.located(self.expert, _LOST_EXPERT)
            expert, card = weights.load(path, Expert)
            self.register_frozen("expert", expert, card.sha256)

    def generator_losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L1 on the frames drawn and, once it counts, their synchronization; the sample is those frames."""
        drawn = length_mask(batch["video_len"], batch["video"].shape[1])  # (B, 5)
        clip, place = drawn.nonzero(as_tuple=True)  # (M,) each
        real = batch["video"][clip, place]  # (M, 3, size, size)
        identity = batch["identity"][clip, place if self.identity == "run" else 0]
        sound = self.audio_windows(batch, clip, batch["frame"][clip, place])  # (M, 80, 16)
        made = self.generator(identity, geometry.without_lower_half(real), sound)
        terms = {"l1": losses.l1(made, real)}
        counts = self.sync_on if self.sync_from is None else self.batches >= self.sync_from
        sync = self.sync_weight if counts else 0.0
        self.loss_weights = {
            "l1": 1 - sync - self.adversarial_weight,
            "sync": sync,
            "adversarial": self.adversarial_weight,
        }
        whole = (batch["video_len"] == FRAMES).nonzero()[:, 0]  # (W,) clips with all five frames
        if sync and len(whole):
            faces = made.new_zeros(*drawn.shape, *made.shape[1:]).index_put((clip, place), made)[whole]
            terms["sync"] = self.sync_loss(batch, faces, whole, batch["frame"][whole, FRAMES // 2])
        return terms, {"real": real, "made": made}

    def sync_loss(self, batch: ClipBatch, faces: Tensor, clip: Tensor, middle: Tensor) -> Tensor:
        """How little the expert holds that faces belong to their sound.

        Args:
            batch: Of which the sound is taken.
            faces: (W, 5, 3, size, size) in a row.
            clip: (W,) rows of the batch.
            middle: (W,) the third frame of each row of faces.

        Returns:
            Scalar: mean cross-entropy, 0 or more.
        """
        expert = self.frozen["expert"]
        assert isinstance(expert, Expert)
        seen = expert.embed_faces(geometry.lower_half(geometry.change_view(faces, self.view, expert.view)))  # (W, E)
        heard = expert.embed_sound(self.audio_windows(batch, clip, middle))
        return sync_bce((seen * heard).sum(1), together=True)

    def audio_windows(self, batch: ClipBatch, clip: Tensor, frame: Tensor) -> Tensor:
        """Mel spectrogram (M, 80, 16)."""
        return features.mel_windows(batch["audio"], batch["audio_len"], clip, frame, batch["fps"], COLUMNS)

    def audio_embeddings(self, batch: ClipBatch) -> Tensor:
        """What the audio encoder gives for the sound around each frame: (B, T, hidden), 0 or more."""
        frames = batch["n_frames"]
        found = batch["audio"].new_zeros(len(frames), int(frames.max()), self.hidden, dtype=torch.float32)
        for clip, place in frames_in_pieces(frames):
            windows = self.audio_windows(batch, clip, place)[:, None]  # (M, 1, 80, 16)
            found[clip, place] = self.generator.sound(windows).flatten(1).float()
        return found

    # The switch of the synchronization

    def on_validation_epoch_start(self) -> None:
        """Count anew."""
        self._judged = torch.zeros(2, device=self.device)

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """As every model, and while fitting `val/sync`: what the expert says of every fifth window."""
        generated = super().validation_step(batch, batch_idx)
        if "expert" in self.frozen:
            made = generated["video"]  # (B, N, 3, size, size)
            starts = torch.arange(0, made.shape[1] - FRAMES + 1, FRAMES, device=made.device)  # (V,)
            clip, window = (starts[None] + FRAMES <= batch["n_frames"][:, None]).nonzero(as_tuple=True)  # (W,) each
            if len(clip):
                rows = starts[window][:, None] + torch.arange(FRAMES, device=made.device)  # (W, 5)
                loss = self.sync_loss(batch, made[clip[:, None], rows], clip, starts[window] + FRAMES // 2)
                self._judged += torch.stack([loss * len(clip), torch.full_like(loss, len(clip))])
        return generated

    def on_validation_epoch_end(self) -> None:
        """Switch the synchronization on, if this validation says so; before a checkpoint is written."""
        if "expert" not in self.frozen:
            return
        # Every process takes part, also one whose clips are all shorter than a window.
        total, windows = self.trainer.strategy.reduce(self._judged, reduce_op="sum")
        if windows:
            self.log("val/sync", total / windows, sync_dist=True)
            if not self.trainer.sanity_checking:
                self.sync_on = self.sync_on or bool(total / windows < self.sync_below)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the switch."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["lipbench"]["sync_on"] = self.sync_on

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read it back."""
        super().on_load_checkpoint(checkpoint)
        self.sync_on = checkpoint["lipbench"].get("sync_on") is True
