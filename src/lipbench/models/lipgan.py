"""LipGAN (ACM MM 2019): a masked face, another face of the same person and the sound make the face that speaks.

Sources: the published code (Rudrabha/LipGAN: master at 0a4aab9, branch `fully_pythonic` at d8ef8ef) and a course report
that trains and examines it (Kumar, Murphy and Vazirabad, CS766, 2021). The paper itself was not at hand.

From the code: the networks (`lipbench.nets.lipgan`; "residual" is its default generator), both front ends
(`lipbench.media.features`), 1.0 x L1 over the whole face + 0.01 x the squared distance that the discriminator finds for
a made face and its sound; contrastive loss with margin 1, one kind of negatives a batch by the flip of a coin (made
faces with their sound, or real faces with other sound); Adam 1e-4 for both; the identity frame at least 6 frames away;
a video that is shorter than the sound starts again. From the report: the two improvements it proposes, without
numbers, off by default: reconstruction weighted on the lips, and a second discriminator so that picture quality and
synchronization are judged apart.

Own choices: windows of sound centerd on their frames (the published indexing leads by frames); the face view of the
canonical picture instead of a detector's box; several frames of a clip in a batch, whose other frames serve as identity
frames; other sound taken from another time of the same clip (`unsynced`), where the code takes that of the batch's
tenth next frame; one step of the discriminator on the sum of both losses, after the generator's, on what it made in
training mode. In scoring the identity is the clip's first frame: the code takes every frame of the target itself, whose
lips then show through.
"""

from typing import Any, ClassVar, Final, Literal, cast

import torch
from torch import Tensor, nn

from lipbench import losses
from lipbench.media import features, geometry
from lipbench.nets.discriminators import FrameDiscriminator
from lipbench.nets.fastspeech import length_mask
from lipbench.nets.lipgan import FRONT_ENDS, FrontEnd, Generator, SyncDiscriminator
from lipbench.training.adversarial import Adversary, Sample, lower_halves
from lipbench.training.speech_to_face import SpeechToFace
from lipbench.types import ClipBatch, ClipSpec, View

_APART: Final = 6  # frames, 0.24 s: the published distance of identity frames; of shifted sound it is an own choice
_ROLLED: Final = 10  # places in the batch, as published


class LipGAN(SpeechToFace):
    """Face encoder, audio encoder and decoder with skips; a discriminator of synchronization, and one of pictures.

    Args:
        size: Pixels a side of the face view, 3 x 2^n; 96 as published.
        front_end: "mel", 80x27 (branch `fully_pythonic`), or "mfcc", 12x35 (master).
        widths: See `lipbench.nets.lipgan.Generator`.
        blocks: See there.
        audio_widths: See there.
        audio_blocks: See there.
        decoder_blocks: See there.
        hidden: See there.
        window: Frames drawn at random from each clip in training; None draws all.
        identity: Identity frame in training: a "random" frame at least 6 away, as published, taken from the frames
            drawn (from the whole clip at any distance, if none of them is so far), or the clip's "first", which drives
            scoring too (own choice for small models).
        lip_weight: How much more than elsewhere an error around the mouth counts (the view `mouth_square`, 11 % of the
            face); 1 is the plain L1.
        adversarial_weight: Of the generated faces' squared distance from their sound; 0 trains without this
            discriminator.
        unsynced: Where real faces get their wrong sound: "shifted", from another time of the clip at least 6 frames
            away, or "rolled", from the batch's tenth next frame, as published.
        judge_width: First width of the discriminator, 64 as published.
        quality_weight: Of the LSGAN loss of a second discriminator, Wav2Lip's, on the lower half of the face. With it
            the first one learns from real faces alone, so that it judges nothing but synchronization. 0 leaves it out.
        quality_width: First width of the second discriminator.
        options: Those of `AdversarialModel`. As published, `init_from` may be a checkpoint of training without
            discriminators.
    """

    paper: ClassVar[str] = "Prajwal K R et al., Towards Automatic Face-to-Face Translation, ACM MM 2019"
    networks: ClassVar[int] = 2  # 1 padded otherwise than published; its mel encoder had one residual block too many
    discriminator: nn.ModuleDict | None

    def __init__(
        self,
        size: int = 96,
        front_end: FrontEnd = "mel",
        widths: tuple[int, ...] = (32, 64, 128, 256, 512, 512),
        blocks: tuple[int, ...] = (2, 3, 2, 2, 0),
        audio_widths: tuple[int, ...] | None = None,
        audio_blocks: tuple[int, ...] | None = None,
        decoder_blocks: int = 2,
        hidden: int = 512,
        window: int | None = 4,
        identity: Literal["random", "first"] = "random",
        lip_weight: float = 1.0,
        adversarial_weight: float = 0.01,
        unsynced: Literal["shifted", "rolled"] = "shifted",
        judge_width: int = 64,
        quality_weight: float = 0.0,
        quality_width: int = 32,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(**options)
        self.size, self.front_end, self.window, self.identity = size, front_end, window, identity
        self.lip_weight, self.unsynced, self.adversarial_weight = lip_weight, unsynced, adversarial_weight
        self.loss_weights = {"sync": adversarial_weight, "quality": quality_weight}
        self.generator = Generator(size, front_end, widths, blocks, audio_widths, audio_blocks, decoder_blocks, hidden)
        if adversarial_weight:
            judge = SyncDiscriminator(size, front_end, judge_width)
            self.adversaries["sync"] = SyncAdversary(judge, learns_from_made=not quality_weight)
        if quality_weight:
            pictures = FrameDiscriminator((size - size // 2, size), quality_width)
            self.adversaries["quality"] = Adversary(pictures, lower_halves, term="quality")
        nets = {name: adversary.net for name, adversary in self.adversaries.items()}
        self.discriminator = nn.ModuleDict(nets) if nets else None
        self.register_buffer("lip_weights", lip_weight_map(size, lip_weight), persistent=False)
        self.to(memory_format=torch.channels_last)

    @property
    def clip_spec(self) -> ClipSpec:
        """Faces, one identity frame, the sound."""
        return ClipSpec(
            frames={"video": self.view},
            window=self.window,
            sampling="consecutive" if self.window is None else "random",
            identity=self.identity,
            audio_rate=features.RATE,
            keys=frozenset({"identity", "audio"}),
        )

    def generator_losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L1 on the frames drawn; the sample is those frames, real and made, with their sound and, if wanted, other."""
        drawn = length_mask(batch["video_len"], batch["video"].shape[1])  # (B, T)
        clip, place = drawn.nonzero(as_tuple=True)  # (M,) each
        real, frame = batch["video"][clip, place], batch["frame"][clip, place]  # (M, 3, size, size), (M,)
        if self.identity == "random":
            identity = distant(batch["video"], batch["frame"], drawn, batch["identity"][:, 0])[clip, place]
        else:
            identity = batch["identity"][clip, 0]
        sound = self.audio_windows(batch, clip, frame)  # (M, bands, columns)
        made = self.generator(identity, geometry.without_lower_half(real), sound)
        sample = {"real": real, "made": made, "sound": sound}
        if self.adversarial_weight and self.unsynced == "shifted":
            sample["other"] = self.audio_windows(batch, clip, elsewhere(frame, batch["n_frames"][clip]))
        elif self.adversarial_weight:
            sample["other"] = sound.roll(min(_ROLLED, len(sound) // 2), 0)
        if self.lip_weight == 1:
            return {"l1": losses.l1(made, real)}, sample
        return {"l1": ((made - real).abs() * cast("Tensor", self.lip_weights)).mean()}, sample

    def audio_windows(self, batch: ClipBatch, clip: Tensor, frame: Tensor) -> Tensor:
        """Mel spectrogram (M, 80, 27) or MFCC (M, 12, 35)."""
        windows = features.mel_windows if self.front_end == "mel" else features.cepstrum_windows
        columns = FRONT_ENDS[self.front_end].shape[1]
        return windows(batch["audio"], batch["audio_len"], clip, frame, batch["fps"], columns)


class SyncAdversary(Adversary):
    """The discriminator of synchronization: faces near their sound, others 1 away.

    Args:
        net: Faces and sound -> distances (M,).
        learns_from_made: Whether, by the flip of a coin, made faces with their sound take the place of real faces with
            other sound.
    """

    def __init__(self, net: nn.Module, learns_from_made: bool) -> None:
        super().__init__(net, term="sync")
        self.learns_from_made = learns_from_made

    def generator_losses(self, sample: Sample) -> dict[str, Tensor]:
        """Made faces should lie near their sound."""
        return {self.term: contrastive(self.net(sample["made"], sample["sound"]), together=True)}

    def losses(self, sample: Sample) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Contrastive, and the mean distances as the balance."""
        if self.learns_from_made and torch.rand(()) < 0.5:  # on the processor, seeded with the batch
            face, sound = sample["made"], sample["sound"]
        else:
            face, sound = sample["real"], sample["other"]
        faces, sounds = torch.cat([sample["real"], face]), torch.cat([sample["sound"], sound])
        synced, unsynced = self.net(faces, sounds).chunk(2)  # (M,) each
        terms = {"synced": contrastive(synced, together=True), "unsynced": contrastive(unsynced, together=False)}
        balance = {"distance_synced": synced.detach().mean(), "distance_unsynced": unsynced.detach().mean()}
        return {f"discriminator_{key}": value for key, value in terms.items()}, balance


def contrastive(distance: Tensor, together: bool) -> Tensor:
    """The published contrastive loss with margin 1.

    Args:
        distance: (M,) 0 to 2.
        together: Whether the pairs belong together.

    Returns:
        Scalar: mean of d^2, or of max(0, 1 - d)^2.
    """
    return (distance if together else (1 - distance).clamp(min=0)).square().mean()


def distant(video: Tensor, frame: Tensor, drawn: Tensor, fallback: Tensor) -> Tensor:
    """For every frame drawn, one that was drawn from the same clip at least 6 frames away, each equally likely.

    Args:
        video: (B, T, 3, H, W).
        frame: (B, T) int64, their positions in the clip.
        drawn: (B, T) bool, not padding.
        fallback: (B, 3, H, W), for frames that have none.

    Returns:
        (B, T, 3, H, W).
    """
    far = ((frame[:, :, None] - frame[:, None]).abs() >= _APART) & drawn[:, None]  # (B, T, T)
    has = far.any(dim=2)  # (B, T)
    weights = torch.where(has[..., None], far, True).flatten(0, 1).float()  # (B T, T)
    chosen = torch.multinomial(weights, 1).view(frame.shape)  # (B, T)
    clips = torch.arange(len(video), device=video.device)[:, None]
    return torch.where(has[..., None, None, None], video[clips, chosen], fallback[:, None])


def elsewhere(frame: Tensor, n_frames: Tensor) -> Tensor:
    """Another frame of the same clip, at least 6 away (half of a clip shorter than 12), each equally likely.

    Args:
        frame: (M,) int64.
        n_frames: (M,) int64, frames of the clip; 2 at least.

    Returns:
        (M,) int64.
    """
    apart = (n_frames // 2).clamp(max=_APART)
    # Round the clip's end by apart to n - apart frames: then it is that far in the clip, too, either way.
    choices = n_frames - 2 * apart + 1
    step = apart + (torch.rand(len(frame), device=frame.device) * choices).long().clamp(max=choices - 1)
    return (frame + step) % n_frames


def lip_weight_map(size: int, weight: float) -> Tensor:
    """Weights of the pixels of a face view, 1 on average.

    Args:
        size: Pixels a side.
        weight: How much more the view `mouth_square` counts than the rest.

    Returns:
        (1, size, size) float32.
    """
    inside = torch.zeros(1, geometry.HEIGHT, geometry.WIDTH)
    top, left, bottom, right = geometry.box("mouth_square")
    inside[:, top:bottom, left:right] = 1
    weights = 1 + (weight - 1) * geometry.crop(inside, View("face", size, size))
    return weights / weights.mean()
