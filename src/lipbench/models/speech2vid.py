"""Speech2Vid (BMVC 2017), all 16 frames at once: identity images and audio make a mouth, with the pixels' error alone.

Sources: the correlation GAN's paper, which has this baseline (Chen et al., "Lip Movements Generation at a Glance",
section 5.4, Table 3), and its published code (lelechen63/3d_gan `trainer_model_vgg.py` at a3f5dcc, `model_vgg.py`
at 8d16802); Chung, Jamaludin and Zisserman, "You said that?" and its demo (joonson/yousaidthat). The network that makes
one frame at a time, as Chung et al. do, is `--model speech2vid_frame`.

From the correlation GAN's paper: an identity encoder that is not pretrained, two convolutions changed for 64x64 pixels,
no deblurring. From its code: the network (`lipbench.nets.speech2vid.ClipGenerator`), a log-mel spectrogram of 16
frames, L1 on pixels in [-1, 1] as the one loss, Adam 2e-4 with betas (.5, .999), 24 clips a batch, one identity image.
From the demo of Chung et al.: several identity images, stacked along the channels (`references`; 5 there).

In scoring the identity images are copies of the clip's first frame, where training draws each from the whole clip.
"""

from typing import Any, ClassVar

from torch import Tensor

from lipbench import losses
from lipbench.nets.speech2vid import CLIP_SIZE, ClipGenerator
from lipbench.training.speech_to_clip import BANDS_PER_PIXEL, SpeechToClip
from lipbench.types import ClipBatch


class Speech2Vid(SpeechToClip):
    """Encoders that give a vector each, a decoder with skips from the identity images; L1, no discriminator.

    Args:
        references: Identity images for each clip: 1 in the code, 5 in the demo of Chung et al.
        width: Unit of all channels, 32 as published.
        lr: Peak learning rate (Adam).
        betas: Of Adam.
        options: Those of `AdversarialModel`; those about discriminators have no effect.
    """

    paper: ClassVar[str] = "Chung et al., You said that?, BMVC 2017"
    size = CLIP_SIZE

    def __init__(
        self,
        references: int = 1,
        width: int = 32,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(lr=lr, betas=betas, **options)
        self.references = references
        self.generator = ClipGenerator(references, width, BANDS_PER_PIXEL * CLIP_SIZE)

    def make(self, identity: Tensor, audio: Tensor) -> Tensor:
        """Generate windows.

        Args:
            identity: (M, references, 3, 64, 64) in [0, 1].
            audio: (M, 64, 128) log-mel spectrogram.

        Returns:
            (M, 16, 3, 64, 64) float32 in [0, 1].
        """
        return (self.generator(2 * identity - 1, audio) + 1) / 2  # type: ignore[no-any-return]

    def generator_losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L1 on pixels in [-1, 1]; no sample, since no discriminator judges it."""
        video, audio = self.training_windows(batch)
        made = self.generator(2 * batch["identity"] - 1, audio)  # (B, 16, 3, 64, 64)
        return {"l1": losses.l1(made, 2 * video - 1)}, {}
