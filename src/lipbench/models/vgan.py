"""VGAN (NIPS 2016) extended to audio and an identity image: a discriminator alone teaches clips of 16 frames.

Sources: the correlation GAN's paper, which has this baseline (Chen et al., "Lip Movements Generation at a Glance",
section 5.4, Table 3), and its published code (lelechen63/3d_gan `trainer_model_vgan.py` at a3f5dcc, `model_vgan.py`
at 8d16802; `facts/systems.md` 7.4); Vondrick, Pirsiavash and Torralba, "Generating Videos with Scene Dynamics".

From the correlation GAN's paper: the model "receives the same target image information and audio information" as the
correlation GAN. From the code: the networks (`lipbench.nets.vgan`), 100 values of standard normal noise, binary
cross-entropy without any other loss, the discriminator's three kinds of clips weighted 1 (real), .5 (generated) and .5
(real, with another clip's audio), Adam 2e-4 with betas (.5, .999) for both, 24 clips a batch. The code takes the
identity image and ignores it (`identity=False`), and its command line has noise of 0 values by default, which does not
fit its network.

What the published discriminator cannot do: its one layer after video and audio are joined is linear, so its logit is a
number for the video plus a number for the audio, and mismatched pairs look to it like matching ones. The generator
hears the audio but is not taught to follow it. The layers are kept as they are.

Own choices: how the identity image is looked at (`lipbench.nets.vgan`); the generator's step comes before the
discriminator's, on the same generated clips (the code generates twice, discriminator first); mismatched pairs are made
within the batch, so that they are never of one clip; in generation the noise is one draw for all clips and windows and
belongs to the model, so that a clip does not depend on the others of its batch and its windows show the same mouth.
"""

from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from lipbench.models.corrgan import MatchingAdversary
from lipbench.nets.vgan import NOISE, Discriminator, Generator
from lipbench.training.speech_to_clip import BANDS_PER_PIXEL, SpeechToClip
from lipbench.types import ClipBatch

_NOISE_SEED: Final = 0  # of the noise in generation


class VGAN(SpeechToClip):
    """A still background and a moving foreground joined by a mask; a discriminator of clips with their audio.

    Args:
        identity: Look at the identity image, as the paper says; False ignores it, as the code does.
        size: Pixels a side, a multiple of 16; 64 as published.
        width: See `lipbench.nets.vgan.Generator`; so is the next.
        audio_widths: See there.
        discriminator_width: See `lipbench.nets.vgan.Discriminator`; so is the next.
        discriminator_audio_widths: See there.
        lr: Peak learning rate of the generator (Adam).
        discriminator_lr: That of the discriminator (Adam).
        betas: Of both.
        options: Those of `AdversarialModel`.

    Raises:
        ValueError: `adversarial_from` is not 0.
    """

    paper: ClassVar[str] = "Vondrick et al., Generating Videos with Scene Dynamics, NIPS 2016"
    noise: Tensor

    def __init__(
        self,
        identity: bool = True,
        size: int = 64,
        width: int = 64,
        audio_widths: tuple[int, ...] = (32, 64, 128, 128),
        discriminator_width: int = 64,
        discriminator_audio_widths: tuple[int, ...] = (32, 64, 128, 256),
        lr: float = 2e-4,
        discriminator_lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(lr=lr, discriminator_lr=discriminator_lr, betas=betas, **options)
        if self.adversarial_from:
            raise ValueError(
                f"VGAN learns from its discriminator alone: --model.adversarial_from is {self.adversarial_from}, "
                "expected 0"
            )
        self.size, bands = size, BANDS_PER_PIXEL * size
        self.generator = Generator(identity, size, bands, width, audio_widths)
        self.discriminator = Discriminator(size, bands, discriminator_width, discriminator_audio_widths)
        self.adversaries["discriminator"] = MatchingAdversary(self.discriminator)
        draw = torch.Generator().manual_seed(_NOISE_SEED)
        self.register_buffer("noise", torch.randn(NOISE, generator=draw, device="cpu"))

    def make(self, identity: Tensor, audio: Tensor) -> Tensor:
        """Generate windows with the model's noise.

        Args:
            identity: (M, 1, 3, size, size) in [0, 1].
            audio: (M, 64, 2 size) log-mel spectrogram.

        Returns:
            (M, 16, 3, size, size) float32 in [0, 1].
        """
        noise = self.noise.expand(len(audio), -1)  # (M, 100)
        return (self.generator(2 * identity[:, 0] - 1, audio, noise) + 1) / 2  # type: ignore[no-any-return]

    def generator_losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No supervised loss; the sample is the clips, real and generated with new noise, with their audio."""
        video, audio = self.training_windows(batch)
        noise = torch.randn(len(video), NOISE, device=video.device)
        made = self.generator(2 * batch["identity"][:, 0] - 1, audio, noise)  # (B, 16, 3, size, size) in (-1, 1)
        return {}, {"real": 2 * video - 1, "made": made, "audio": audio}
