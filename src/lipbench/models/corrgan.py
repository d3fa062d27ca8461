"""Correlation GAN (ECCV 2018): an identity image and audio make 16 frames of a mouth whose motion follows the audio.

Sources: Chen, Li, Maddox, Duan and Xu, "Lip Movements Generation at a Glance", and its published code
(lelechen63/3d_gan at commit 8d16802, trainers at HEAD; `facts/systems.md` 4). No script of that code has all of the
paper's losses: the one with correlation, perceptual and pixel loss has the discriminator without flow.

From the paper: correlation loss of weight 1 on the generated video, pixel loss .5, perceptual loss 1 on the features of
an autoencoder of clips, adversarial loss 1; the discriminator's three streams, weights 1, .5 and .5 for real, generated
and mismatched clips; the configurations of its Table 2 (`experiments/papers/corrgan/table2`). From the code: the
networks (`lipbench.nets.corrgan`), L1 as the pixel loss (the paper names no norm), Adam 2e-4 with betas (.5, .999) for
generator and discriminator, Adam 1e-4 with weight decay 5e-4 for the correlation networks and 4e-4 for FlowNet, which
all learn in the generator's step, and never in the discriminator's.

Own choices: the generator's step comes before the discriminator's, on the same generated clips (the code generates
twice, discriminator first); flow is learned beforehand from a classical estimator on the same corpus (`--model
flownet`), where the code starts from weights for other videos; mismatched pairs are made within the batch, so that they
are never of one clip; whole clips are generated in windows (`lipbench.training.speech_to_clip`).
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lipbench import losses
from lipbench.nets import corrgan
from lipbench.nets.clip_autoencoder import ClipAutoencoder
from lipbench.nets.corrgan import AudioCorrelationEncoder, Discriminator, Generator, MotionCorrelationEncoder
from lipbench.nets.flownet import FlowNetS
from lipbench.pretrained import weights
from lipbench.training.adversarial import Adversary, Sample, Side
from lipbench.training.speech_to_clip import BANDS_PER_PIXEL, SpeechToClip
from lipbench.types import ClipBatch, Generated

_MOTION_LR: Final = 1e-4  # of the correlation networks and FlowNet, as published
_CORRELATION_DECAY: Final = 5e-4
_FLOW_DECAY: Final = 4e-4
_NO_FILE: Final = (
    "the correlation GAN needs {what}, and --model.{option} names no file. Train it, which writes "
    "observer.safetensors, and give that file: lipbench fit --model {model} --data NAME. Or train without: {without}"
)
_LOST_FILE: Final = (
    "{option} at {{path}}; --model.{option} takes the observer.safetensors of lipbench fit --model {model}"
)


class CorrGAN(SpeechToClip):
    """Audio and identity encoders, a residual trunk of 3-d convolutions; losses of pixels, features and correlation.

    The paper's Table 2: (a) no `adversarial_weight`, (b) no `pixel_weight`, (c) no `perceptual_weight`, (d) no
    `correlation_weight`, (e) the defaults, (f) `correlation: features`, (g) `motion: none`, (h) both d and g, (i)
    `motion: difference`.

    Args:
        size: Pixels a side, a multiple of 16; 64 as published.
        width: See `lipbench.nets.corrgan.Generator`; so are the next two.
        blocks: See there.
        audio_widths: See there; the discriminator's audio stream has the same.
        pixel_weight: Of L1; 0.2 in the code.
        perceptual_weight: Of the mean squared distance of the autoencoder's features; 0 trains without autoencoder.
        autoencoder: Weights file of a `clip_autoencoder`, needed to train with `perceptual_weight`. It stays as it is
            and is no part of the checkpoint, which keeps its hash.
        correlation: What is correlated: the "derivative" of audio features with optical flow, or the "features"
            themselves with the frames (the paper's non-derivative configuration).
        correlation_weight: Of the correlation loss; 0 trains without its networks.
        correlation_of: Whose motion: the "generated" video's (paper), or the mean of the losses of the "real" and the
            generated one (code).
        correlation_widths: Channels after each convolution of the motion's correlation network: 6 have the paper's
            receptive field of 13 steps. The published ones for flow of this size are (4, 8, 16, 16).
        flow: Weights file of a `flownet`, needed to train where flow is used. Training goes on from there.
        flow_width: Channels of its first convolution, 64 as published.
        motion: What the discriminator's third stream sees: "flow", the "difference" of frames, or "none".
        adversarial_weight: Of the adversarial loss; 0 trains without discriminator.
        discriminator_width: Channels of its first convolution on frames.
        mismatched: What is exchanged in mismatched pairs: the "audio" (code) or the "video" (paper).
        shared_audio: The discriminator hears what the generator's audio encoder gives in place of its own.
        weight_decay: Of generator and discriminator; 4e-4 in the paper, none in the code.
        lr: Peak learning rate of the generator (Adam).
        discriminator_lr: That of the discriminator (Adam).
        betas: Of both.
        options: Those of `AdversarialModel`.
    """

    paper: ClassVar[str] = "Chen et al., Lip Movements Generation at a Glance, ECCV 2018"
    optional_init_prefixes: ClassVar[tuple[str, ...]] = (
        "discriminator.",
        "flow_network.",
        "audio_motion.",
        "video_motion.",
    )
    takes: ClassVar[dict[str, str]] = {"autoencoder": "clip_autoencoder", "flow": "flownet"}

    def __init__(
        self,
        size: int = 64,
        width: int = 64,
        blocks: int = 9,
        audio_widths: tuple[int, ...] = (32, 64, 128, 256),
        pixel_weight: float = 0.5,
        perceptual_weight: float = 1.0,
        autoencoder: str | None = None,
        correlation: Literal["derivative", "features"] = "derivative",
        correlation_weight: float = 1.0,
        correlation_of: Literal["generated", "both"] = "generated",
        correlation_widths: tuple[int, ...] = (4, 8, 16, 16, 16, 16),
        flow: str | None = None,
        flow_width: int = 64,
        motion: Literal["flow", "difference", "none"] = "flow",
        adversarial_weight: float = 1.0,
        discriminator_width: int = 64,
        mismatched: Literal["audio", "video"] = "audio",
        shared_audio: bool = False,
        weight_decay: float = 0.0,
        lr: float = 2e-4,
        discriminator_lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(lr=lr, discriminator_lr=discriminator_lr, betas=betas, **options)
        self.size, self.autoencoder, self.flow, self.weight_decay = size, autoencoder, flow, weight_decay
        self.correlation, self.correlation_of = correlation, correlation_of
        self.loss_weights = {
            "l1": pixel_weight,
            "perceptual": perceptual_weight,
            "correlation": correlation_weight,
            "adversarial": adversarial_weight,
        }
        self.generator = Generator(width, blocks, audio_widths)
        derivative = correlation == "derivative"
        self.audio_motion: AudioCorrelationEncoder | None = None
        self.video_motion: MotionCorrelationEncoder | None = None
        if correlation_weight:
            self.audio_motion = AudioCorrelationEncoder(4 * width, derivative=derivative)
            self.video_motion = MotionCorrelationEncoder(2 if derivative else 3, correlation_widths)
        self._judges_flow = bool(adversarial_weight) and motion == "flow"
        flows = self._judges_flow or (correlation_weight and derivative)
        self.flow_network = FlowNetS(flow_width) if flows else None
        self.discriminator: Discriminator | None = None
        if adversarial_weight:
            self.discriminator = Discriminator(
                motion, size, BANDS_PER_PIXEL * size, discriminator_width, audio_widths, shared_audio
            )
            self.adversaries["discriminator"] = MatchingAdversary(self.discriminator, mismatched)

    def setup(self, stage: str) -> None:
        """Load the autoencoder and have the flow network start from its file, where they are used.

        Raises:
            ValueError: No file is named, or it holds another network.
            FileNotFoundError: The file is not there.
        """
        super().setup(stage)
        if stage != "fit":
            return
        if self.loss_weights["perceptual"]:
            if self.autoencoder is None:
                raise ValueError(_needed("autoencoder", "clip_autoencoder", "an autoencoder", "perceptual_weight 0"))
            path, _ = weights.located(
                self.autoencoder, _LOST_FILE.format(option="autoencoder", model="clip_autoencoder")
            )
            network, card = weights.load(path, ClipAutoencoder)
            self.register_frozen("autoencoder", network, card.sha256)
        if self.flow_network is not None:
            if self.flow is not None:
                lost = _LOST_FILE.format(option="flow", model="flownet")
                self.start_part("flow", self.flow_network, self.flow, lost)
            elif not self.trainer.ckpt_path:  # a resumed run has it in its checkpoint
                raise ValueError(_needed("flow", "flownet", "optical flow", "correlation_weight 0 --model.motion none"))

    def build_optimizers(self) -> dict[str, Optimizer]:
        """Adam for generator, correlation networks and FlowNet together, and for the discriminator."""
        motion: dict[str, Any] = {"lr": _MOTION_LR, "betas": (0.9, 0.999)}
        groups: list[dict[str, Any]] = [{"params": list(self.generator.parameters())}]
        for part, decay in (
            (self.audio_motion, _CORRELATION_DECAY),
            (self.video_motion, _CORRELATION_DECAY),
            (self.flow_network, _FLOW_DECAY),
        ):
            if part is not None:
                groups.append({"params": list(part.parameters()), "weight_decay": decay, **motion})
        common: dict[str, Any] = {"betas": self.betas, "weight_decay": self.weight_decay, "fused": True}
        optimizers: dict[str, Optimizer] = {"generator": Adam(groups, lr=self.lr, **common)}
        if self.discriminator is not None:
            optimizers["discriminator"] = Adam(self.discriminator.parameters(), lr=self.discriminator_lr, **common)
        return optimizers

    def make(self, identity: Tensor, audio: Tensor) -> Tensor:
        """Generate windows: (M, 1, 3, size, size) and (M, 64, 2 size) -> (M, 16, 3, size, size) in [0, 1]."""
        return (self.generator(2 * identity[:, 0] - 1, audio)[0] + 1) / 2  # type: ignore[no-any-return]

    def generator_losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Pixel, perceptual and correlation loss; the sample is the clips with audio and flow."""
        video, audio = self.training_windows(batch)
        real = 2 * video - 1  # (B, 16, 3, size, size)
        made, heard = self.generator(2 * batch["identity"][:, 0] - 1, audio)
        terms: dict[str, Tensor] = {}
        if self.loss_weights["l1"]:
            terms["l1"] = losses.l1(made, real)
        if self.loss_weights["perceptual"]:
            terms["perceptual"] = self._perceptual_loss(made, real)
        sample = {"real": real, "made": made}
        if self.flow_network is not None:
            sample["made_flow"] = self.flow_network(made)
            if self._judges_flow or self.correlation_of == "both":
                with torch.set_grad_enabled(self.correlation_of == "both"):
                    sample["real_flow"] = self.flow_network(real)
        if self.loss_weights["correlation"]:
            name = "{}_flow" if self.correlation == "derivative" else "{}"
            sides: Sequence[Side] = ("made",) if self.correlation_of == "generated" else ("real", "made")
            each = [self.correlation_loss(heard, sample[name.format(side)]) for side in sides]
            terms["correlation"] = torch.stack(each).mean()
        if self.discriminator is not None:
            shared = self.discriminator.shared_audio
            sample["audio"] = self.generator.audio(audio[:, None]) if shared else audio
        return terms, sample

    def _perceptual_loss(self, made: Tensor, real: Tensor) -> Tensor:
        autoencoder = self.frozen["autoencoder"]
        assert isinstance(autoencoder, ClipAutoencoder)
        with torch.no_grad():
            target = autoencoder.encode(real)  # (B, C, 16, size / 4, size / 4)
        return (autoencoder.encode(made).float() - target.float()).square().mean()

    def correlation_loss(self, heard: Tensor, motion: Tensor) -> Tensor:
        """The paper's eq. 1 for audio features and the motion of clips.

        Args:
            heard: (B, 4 width, 16, size / 4) audio features of the generator.
            motion: (B, 15, 2, size / 4, size / 4) flow; with `correlation` "features" frames (B, 16, 3, size, size) in
                [-1, 1].

        Returns:
            Scalar in [0, 2].
        """
        assert self.audio_motion is not None
        assert self.video_motion is not None
        return losses.derivative_correlation(self.audio_motion(heard), self.video_motion(motion))

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """As every model, and the correlation loss of what was generated with its audio and with another clip's.

        Logged as `val/correlation` and `val/correlation_mismatched`, of the first 16 frames that speak.
        """
        generated = super().validation_step(batch, batch_idx)
        if self.loss_weights["correlation"] and len(batch["n_frames"]) > 1:
            matched, mismatched = self.held_out_correlation(batch, generated["video"])
            for name, value in (("correlation", matched), ("correlation_mismatched", mismatched)):
                self.log(f"val/{name}", value, batch_size=len(batch["n_frames"]), sync_dist=True)
        return generated

    def held_out_correlation(self, batch: ClipBatch, video: Tensor) -> tuple[Tensor, Tensor]:
        """The correlation loss of the first 16 frames of speech, with their own audio and with the next clip's.

        Args:
            batch: Two clips or more: `audio`, `audio_len`, `fps`, `speech`, `n_frames`.
            video: (B, T, 3, size, size) in [0, 1].

        Returns:
            Two scalars.
        """
        steps = torch.arange(corrgan.FRAMES, device=video.device)
        start = torch.minimum(batch["speech"][:, 0], (batch["n_frames"] - corrgan.FRAMES).clamp(min=0))
        place = torch.minimum(start[:, None] + steps, batch["n_frames"][:, None] - 1)  # (B, 16)
        rows = torch.arange(len(place), device=place.device)[:, None]
        heard = self.generator.audio_out(
            self.generator.audio(self.spectrogram(batch, rows.expand_as(place), place)[:, None])
        )
        motion = 2 * video[rows, place] - 1
        if self.correlation == "derivative":
            assert self.flow_network is not None
            motion = self.flow_network(motion)
        return self.correlation_loss(heard, motion), self.correlation_loss(heard.roll(1, 0), motion)


def _needed(option: str, model: str, what: str, without: str) -> str:
    return _NO_FILE.format(what=what, option=option, model=model, without=f"--model.{without}")


class MatchingAdversary(Adversary):
    """A discriminator of clips with their audio, which also learns from real clips with another's (eq. 4).

    Args:
        net: Video, audio and, where its third stream sees it, flow -> logits.
        mismatched: Whether the "audio" or the "video" is another clip's.
    """

    def __init__(self, net: nn.Module, mismatched: Literal["audio", "video"] = "audio") -> None:
        super().__init__(net)
        self.mismatched = mismatched

    def score(self, sample: Sample, side: Side) -> Tensor:
        """(B,) logits of real or generated clips with their audio."""
        return self._logits(sample[side], sample["audio"], sample.get(f"{side}_flow"))

    def _logits(self, video: Tensor, audio: Tensor, flow: Tensor | None) -> Tensor:
        sees_flow = getattr(self.net, "motion", "none") == "flow"
        logits: Tensor = self.net(video, audio, flow) if sees_flow else self.net(video, audio)
        return logits

    def generator_losses(self, sample: Sample) -> dict[str, Tensor]:
        """Generated clips should pass for real and matching."""
        return {self.term: losses.matching_generator(self.score(sample, "made"))}

    def losses(self, sample: Sample) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Real, generated and mismatched clips, weighted 1, .5 and .5; mean probabilities as the balance."""
        real, made = self.score(sample, "real"), self.score(sample, "made")
        video, audio, flow = sample["real"], sample["audio"], sample.get("real_flow")
        if self.mismatched == "audio":
            audio = audio.roll(1, 0)
        else:
            video, flow = video.roll(1, 0), None if flow is None else flow.roll(1, 0)
        terms = losses.matching_discriminator(real, made, self._logits(video, audio, flow))
        return self._named(terms), self._balance(real.detach().sigmoid(), made.detach().sigmoid())
