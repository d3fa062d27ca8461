"""Speech2Vid (BMVC 2017), frame by frame: five identity images and 0.35 s of audio make the face of a frame.

Sources: Chung, Jamaludin and Zisserman, "You said that?"; its demo with weights and no layers (joonson/yousaidthat
`run_demo.m`; `facts/systems.md` 7.3); a public reimplementation (Sindhu-Hegde/you_said_that `train.py`,
`scripts/data_generator.py`, commit 28e6a2b). The paper itself was not at hand.

From the demo: five identity images, stacked along the channels; faces of 112x112 pixels; MFCC of 12 coefficients and 35
columns a frame (25 ms windows every 10 ms, 40 filters from 300 to 3,700 Hz, without the first coefficient): the front
end of LipGAN's master branch, `lipbench.media.features.cepstrum_windows`. From the reimplementation: the layers
(`lipbench.nets.speech2vid.FrameGenerator`), mean absolute error as the one loss, Adam 1e-3, 64 frames a batch. It also
shows the network the frame to be made with its lower half masked, which Chung et al. do not have and which is left out.

Own choices: windows of audio centered on their frames (the reimplementation's are centered on the frame's beginning);
the face view of the canonical frame; several frames of a clip in a batch, which share their identity images, drawn from
the whole clip (the reimplementation draws them for each frame, 6 frames away or more). No second network sharpens the
frames. In scoring the identity images are copies of the clip's first frame.
"""

from typing import Any, ClassVar

from torch import Tensor

from lipbench import losses
from lipbench.media import features
from lipbench.nets.fastspeech import length_mask
from lipbench.nets.speech2vid import FRAME_SIZE, MFCC_SHAPE, FrameGenerator
from lipbench.training.speech_to_face import SpeechToFace
from lipbench.types import ClipBatch, ClipSpec


class Speech2VidFrame(SpeechToFace):
    """Encoders that give a vector each, a decoder with skips from the identity images; sees no pose.

    Args:
        references: Identity images for each clip, 5 as published.
        width: Unit of all channels, 32 as in the reimplementation.
        window: Frames drawn at random from each clip in training; None draws all.
        lr: Peak learning rate (Adam).
        options: Those of `AdversarialModel`; those about discriminators have no effect.
    """

    paper: ClassVar[str] = "Chung et al., You said that?, BMVC 2017"
    size = FRAME_SIZE

    def __init__(
        self,
        references: int = 5,
        width: int = 32,
        window: int | None = 4,
        lr: float = 1e-3,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(lr=lr, **options)
        self.references, self.window = references, window
        self.generator = FrameGenerator(references, width)

    @property
    def clip_spec(self) -> ClipSpec:
        """Faces, identity images from the whole clip, the audio."""
        return ClipSpec(
            frames={"video": self.view},
            window=self.window,
            sampling="consecutive" if self.window is None else "random",
            references=self.references,
            audio_rate=features.RATE,
            keys=frozenset({"identity", "audio"}),
        )

    @property
    def needs(self) -> frozenset[str]:
        """Audio and identity images."""
        return super().needs - {"pose", "pose_len"}

    def make(self, batch: ClipBatch, clip: Tensor, frame: Tensor) -> Tensor:
        """(M,) rows of the batch and (M,) frames -> (M, 3, 112, 112) faces in [0, 1]."""
        return self.generator(batch["identity"][clip], self.audio_windows(batch, clip, frame))  # type: ignore[no-any-return]

    def generator_losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L1 on the frames drawn; no sample, since no discriminator judges it."""
        drawn = length_mask(batch["video_len"], batch["video"].shape[1])  # (B, T)
        clip, place = drawn.nonzero(as_tuple=True)  # (M,) each
        made = self.make(batch, clip, batch["frame"][clip, place])
        return {"l1": losses.l1(made, batch["video"][clip, place])}, {}

    def audio_windows(self, batch: ClipBatch, clip: Tensor, frame: Tensor) -> Tensor:
        """MFCC (M, 12, 35)."""
        columns = MFCC_SHAPE[1]
        return features.cepstrum_windows(batch["audio"], batch["audio_len"], clip, frame, batch["fps"], columns)
