"""ATVGnet (CVPR 2019): an identity frame moves as landmarks say that were predicted from audio.

Sources: Chen, Maddox, Duan and Xu, "Hierarchical Cross-Modal Talking Face Generation with Dynamic Pixel-Wise Loss", and
its published code (lelechen63/ATVGnet at commit 02d8f8f: `vgnet.py`, `dataset.py`, `demo.py`; `facts/systems.md` 4.8).

From the paper: two stages that are trained apart, of which this is the second, on true landmarks; attention that mixes
color with the identity frame; the pixel loss weighted by attention; a discriminator that also regresses landmarks. From
the code: the networks (`lipbench.nets.atvgnet`), 10 x mean(|difference| x (attention + 0.5)) without gradient of that
attention, cross-entropy, the mean squared error of the discriminator's landmarks with the errors of the mouth's y times
100 before they are squared (so 10,000 times the loss), for real and for generated clips; 16 frames in a row, a random
identity frame; Adam 2e-4 with betas (0.5, 0.999) for both sides; 10 clips a batch.

Own choices:

- The recurrence runs over time, as the paper says; the published one runs over the samples of a batch.
- The generator's step comes before the discriminator's, on the same generated clips; the code generates twice,
  discriminator first.
- Whole clips are generated with the state of the recurrence carried on, where training sees 16 frames.
- The face view of the canonical picture replaces the detector's box. Landmarks keep the speaker's own shape and are as
  the first stage predicts them; the code takes the shape out, and exaggerates the prediction at test
  (`lipbench.models.atvgnet_landmarks`).
- A clip of less than 16 frames goes on with its last frame in training.
"""

from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor, nn

from lipbench import losses
from lipbench.media import features
from lipbench.models.atvgnet_landmarks import audio_windows
from lipbench.nets.atvgnet import (
    COMPONENTS,
    AudioToLandmarks,
    LandmarkDiscriminator,
    LandmarksToVideo,
    LstmState,
    normalize,
)
from lipbench.nets.fastspeech import length_mask
from lipbench.training.adversarial import AdversarialModel, Adversary, Sample, Side
from lipbench.training.generative import frames_heard
from lipbench.types import ClipBatch, ClipSpec, Generated, Timing, View

_MOUTH_Y: Final = 100.0  # factor of the errors of the mouth's y coordinates
_FRAMES_AT_ONCE: Final = 64  # made together outside of training, to bound the memory of long clips
_NO_LANDMARKS: Final = (
    "ATVGnet generates with landmarks that its first stage predicts, and --model.landmarks names no file. Train it, "
    "which writes observer.safetensors, and give that file: lipbench fit --model atvgnet_landmarks --data NAME"
)
_LOST_LANDMARKS: Final = (
    "landmark stage at {path}; --model.landmarks takes the observer.safetensors that lipbench fit --model "
    "atvgnet_landmarks writes"
)


class ATVGnet(AdversarialModel):
    """Landmark and identity encoders, a convolutional GRU over time, a decoder of color and attention.

    Args:
        size: Pixels a side of the face view, a multiple of 16; 128 as published.
        width: Channels of the generator's first convolution, an even number; 64 as published.
        blocks: Its residual blocks, 9 as published.
        dropout: Inside of them, 0.5 as published.
        landmarks: Weights file of an `atvgnet_landmarks`, needed to train. It stays as it is and is part of the
            checkpoint, so that the file is not needed afterwards.
        audio_width: `width` of that stage.
        audio_hidden: Its `hidden`.
        audio_layers: Its `layers`.
        components: Its `components`.
        window: Frames in a row drawn from each clip in training, 16 as published.
        identity: Identity frame in training: a "random" frame of the clip, as published, or its "first", which drives
            scoring too (own choice for small models).
        pixel_weight: Of the pixel loss, 10 as published.
        adversarial_weight: Of the cross-entropy and of the landmark error that the discriminator finds, 1 as published;
            0 trains without discriminator.
        discriminator_width: Channels of its first convolution, 64 as published.
        discriminator_hidden: Of its LSTM, 256 as published.
        lr: Peak learning rate of the generator (Adam).
        discriminator_lr: That of the discriminator (Adam).
        betas: Of both.
        options: Those of `AdversarialModel`.
    """

    paper: ClassVar[str] = (
        "Chen et al., Hierarchical Cross-Modal Talking Face Generation with Dynamic Pixel-Wise Loss, CVPR 2019"
    )
    timings = frozenset({"given", "free"})
    context = None  # recurrent over time
    frame_by_frame = True
    takes: ClassVar[dict[str, str]] = {"landmarks": "atvgnet_landmarks"}

    def __init__(
        self,
        size: int = 128,
        width: int = 64,
        blocks: int = 9,
        dropout: float = 0.5,
        landmarks: str | None = None,
        audio_width: int = 64,
        audio_hidden: int = 256,
        audio_layers: int = 3,
        components: int = COMPONENTS,
        window: int = 16,
        identity: Literal["random", "first"] = "random",
        pixel_weight: float = 10.0,
        adversarial_weight: float = 1.0,
        discriminator_width: int = 64,
        discriminator_hidden: int = 256,
        lr: float = 2e-4,
        discriminator_lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(lr=lr, discriminator_lr=discriminator_lr, betas=betas, **options)
        self.size, self.landmarks, self.window, self.identity = size, landmarks, window, identity
        self.loss_weights = {
            "pixel": pixel_weight,
            "adversarial": adversarial_weight,
            "adversarial_landmarks": adversarial_weight,
        }
        self.generator = LandmarksToVideo(size, width, blocks, dropout)
        self.landmark_stage = AudioToLandmarks(components, audio_width, audio_hidden, audio_layers)
        self.landmark_stage.requires_grad_(False)
        self.discriminator: LandmarkDiscriminator | None = None
        if adversarial_weight:
            self.discriminator = LandmarkDiscriminator(size, discriminator_width, discriminator_hidden)
            self.adversaries["discriminator"] = LandmarkAdversary(self.discriminator)
        self.to(memory_format=torch.channels_last)

    @property
    def view(self) -> View:
        """The whole 256 face."""
        return View("face", self.size, self.size)

    @property
    def clip_spec(self) -> ClipSpec:
        """Frames in a row and an identity frame, with their landmarks, and the audio."""
        return ClipSpec(
            frames={"video": self.view},
            window=self.window,
            identity=self.identity,
            audio_rate=features.RATE,
            keys=frozenset({"identity", "identity_landmarks", "landmarks", "audio"}),
        )

    @property
    def needs(self) -> frozenset[str]:
        """Audio, and the identity frame with its landmarks."""
        return frozenset({"audio", "audio_len", "fps", "identity", "identity_landmarks", "n_frames"})

    def setup(self, stage: str) -> None:
        """Have the landmark stage start from its file; a resumed run, or one with `init_from`, has it already.

        Raises:
            ValueError: No file is named, or it holds another network.
            FileNotFoundError: The file is not there.
        """
        super().setup(stage)
        if stage != "fit":
            return
        if self.landmarks is not None:
            self.start_part("landmarks", self.landmark_stage, self.landmarks, _LOST_LANDMARKS)
        elif not (self.trainer.ckpt_path or self.init_from):
            raise ValueError(_NO_LANDMARKS)

    def generator_parameters(self) -> list[nn.Parameter]:
        """Those of the generator; the landmark stage stays as it is."""
        return list(self.generator.parameters())

    def generator_losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The pixel loss; the sample is the clips with their landmarks and those of the identity."""
        steps = torch.arange(batch["video"].shape[1], device=batch["video"].device)
        place = torch.minimum(steps, batch["video_len"][:, None] - 1)  # (B, T): a short clip's last frame is repeated
        rows = torch.arange(len(place), device=place.device)[:, None]
        real = 2 * batch["video"][rows, place] - 1  # (B, T, 3, size, size)
        points = normalize(batch["landmarks"][rows, place])  # (B, T, 68, 2)
        identity, still = self._identity(batch)
        made = self.generator(identity, points, still)
        weighted = (made.video - real).abs() * (made.attention.detach() + 0.5)
        sample = {"real": real, "made": made.video, "landmarks": points, "identity_landmarks": still}
        return {"pixel": weighted.mean()}, sample

    @staticmethod
    def _identity(batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Identity frames (B, 3, size, size) in [-1, 1] and their normalized landmarks (B, 68, 2)."""
        return 2 * batch["identity"][:, 0] - 1, normalize(batch["identity_landmarks"][:, 0])

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Make the frames of the clip, or with timing "free" those of the audio, piece by piece."""
        frames = frames_heard(batch, timing, features.RATE)
        there = length_mask(frames, int(frames.max()))  # (B, N)
        place = torch.arange(there.shape[1], device=there.device).expand_as(there)
        heard = audio_windows(batch, place)  # (B, N, 28, 12)
        identity, still = self._identity(batch)
        known = self.landmark_stage.coefficients(still)
        video = identity.new_zeros(*there.shape, *identity.shape[1:])  # (B, N, 3, size, size)
        memory: LstmState | None = None
        state: Tensor | None = None
        for several in torch.split(place[0], max(1, _FRAMES_AT_ONCE // len(there))):  # (n,)
            predicted, memory = self.landmark_stage(known, heard[:, several], memory)
            made = self.generator(identity, self.landmark_stage.moved(still, predicted), still, state)
            video[:, several], state = (made.video + 1) / 2, made.state
        return {"video": video.clamp(0, 1) * there[:, :, None, None, None], "video_len": frames}


class LandmarkAdversary(Adversary):
    """A discriminator of clips that also says which landmarks it sees.

    Args:
        net: Video and landmarks of the identity -> logits and landmarks.
    """

    def __init__(self, net: LandmarkDiscriminator) -> None:
        super().__init__(net)

    def judge(self, sample: Sample, side: Side) -> tuple[Tensor, Tensor]:
        """(B,) logits of real or generated clips, and the error of the landmarks that are seen in them."""
        logits, seen = self.net(sample[side], sample["identity_landmarks"])
        return logits, landmark_error(seen, sample["landmarks"])

    def generator_losses(self, sample: Sample) -> dict[str, Tensor]:
        """Generated clips should pass for real and show their landmarks."""
        logits, error = self.judge(sample, "made")
        return {self.term: losses.bce(logits, 1.0), f"{self.term}_landmarks": error}

    def losses(self, sample: Sample) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Real clips to 1, generated ones to 0, and the landmarks of both; mean probabilities as the balance."""
        (real, real_error), (made, made_error) = self.judge(sample, "real"), self.judge(sample, "made")
        terms = {
            "real": losses.bce(real, 1.0),
            "fake": losses.bce(made, 0.0),
            "landmarks_real": real_error,
            "landmarks_fake": made_error,
        }
        return self._named(terms), self._balance(real.detach().sigmoid(), made.detach().sigmoid())


def landmark_error(seen: Tensor, true: Tensor) -> Tensor:
    """Mean squared error of normalized landmarks; errors of the mouth's y coordinates count 100 times before squaring.

    Args:
        seen: (B, T, 68, 2).
        true: (B, T, 68, 2).

    Returns:
        Scalar.
    """
    factor = torch.ones_like(true[0, 0])  # (68, 2)
    factor[48:, 1] = _MOUTH_Y
    return ((seen - true) * factor).square().mean()
