"""ATVGnet's first stage (CVPR 2019): from audio and one frame's landmarks to the landmarks of all frames.

Sources: Chen, Maddox, Duan and Xu, "Hierarchical Cross-Modal Talking Face Generation with Dynamic Pixel-Wise Loss", and
its published code (lelechen63/ATVGnet at commit 02d8f8f: `atnet.py`, `dataset.py`, `lrw_data.py`, `demo.py`).

From the paper: audio features and an LSTM that predict the principal components of normalized landmarks; mean squared
error. From the code: the network (`lipbench.nets.atvgnet.AudioToLandmarks`), MFCC windows of seven frames
(`lipbench.media.features.mfcc_windows`), 6 components, 16 frames, Adam 2e-4 with betas (0.5, 0.999), 16 clips a batch.

Own choices:

- The similarity transform of the canonical picture replaces the Procrustes analysis of every frame.
- The published preparation also takes the speaker's own shape out, by 100 components of another data set: every face
  becomes a mean face that moves as the speaker does. Here the components describe motion within clips
  (`AudioToLandmarks.fit_basis`), and the predicted ones move the identity's own landmarks; what the components do not
  describe stays as it is there.
- The basis is fitted to the corpus's training clips at the beginning of a fresh fit; the published one is a file.
- The identity is a random frame of the clip in training, its first frame in scoring; the code takes the frame before
  the first that is predicted, and in its demo always the same mean face with a closed mouth.
- The code multiplies components 1 to 5 by 2.2 to 3 at test, which the paper does not say. Here they are as predicted.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from lipbench.media import features
from lipbench.nets.atvgnet import COMPONENTS, AudioToLandmarks, in_pixels, normalize
from lipbench.nets.fastspeech import length_mask
from lipbench.pretrained import weights
from lipbench.training.base import BenchModule
from lipbench.types import ClipBatch, ClipSpec, View

_VIEW: Final = View("face", 32, 32)  # batches need a main view; this model sees landmarks only
_MOUTH: Final = slice(48, 68)


class ATVGnetLandmarks(BenchModule):
    """MFCC around each frame -> LSTM -> principal components of its landmarks.

    Args:
        width: Channels of the first convolution, 64 as published.
        hidden: Of the LSTM and of the audio embedding, 256 as published.
        layers: Of the LSTM, 3 as published.
        components: Principal components, 6 as published.
        window: Frames in a row drawn from each clip in training, 16 as published.
        lr: Peak learning rate (Adam).
        betas: Of Adam.
        options: Those of `BenchModule`.
    """

    paper: ClassVar[str] = (
        "Chen et al., Hierarchical Cross-Modal Talking Face Generation with Dynamic Pixel-Wise Loss, CVPR 2019"
    )
    monitor: ClassVar[tuple[str, Literal["min", "max"]]] = ("val/mouth_error", "min")

    def __init__(
        self,
        width: int = 64,
        hidden: int = 256,
        layers: int = 3,
        components: int = COMPONENTS,
        window: int = 16,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(**options)
        self.window, self.lr, self.betas = window, lr, betas
        self.net = AudioToLandmarks(components, width, hidden, layers)

    @property
    def clip_spec(self) -> ClipSpec:
        """Landmarks of frames in a row and of one other frame, and the audio."""
        return ClipSpec(
            frames={"video": _VIEW},
            window=self.window,
            audio_rate=features.RATE,
            keys=frozenset({"audio", "landmarks", "identity_landmarks"}),
        )

    def on_fit_start(self) -> None:
        """Fit the basis to the training clips; a resumed run, or one with `init_from`, has it in its checkpoint.

        Raises:
            ValueError: The datamodule gives no landmarks of training clips.
        """
        super().on_fit_start()
        if self.trainer.ckpt_path or self.init_from:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "training_landmarks"):
            raise ValueError(
                "ATVGnet's landmark stage fits principal components to the training clips: expected a datamodule with "
                f"`training_landmarks`, such as ClipDataModule, found {type(data).__name__}"
            )
        clips: Iterator[Tensor] = data.training_landmarks()
        self.net.fit_basis(normalize(clip) for clip in clips)

    def build_optimizers(self) -> dict[str, Optimizer]:
        """Adam over everything."""
        return {"landmarks": Adam(self.parameters(), lr=self.lr, betas=self.betas, fused=True)}

    def compute_step(self, batch: ClipBatch) -> None:
        """Mean squared error of the components."""
        predicted = self.predict(batch)  # (B, T, components)
        target = self.net.coefficients(normalize(batch["landmarks"]))
        valid = length_mask(batch["video_len"], predicted.shape[1])
        self.step_optimizer("landmarks", {"mse": (predicted - target)[valid].square().mean()})

    def predict(self, batch: ClipBatch) -> Tensor:
        """Principal components of the frames of a batch.

        Args:
            batch: `frame`, `identity_landmarks`, `audio`, `audio_len`, `fps`.

        Returns:
            (B, T, components) float32.
        """
        known = self.net.coefficients(normalize(batch["identity_landmarks"][:, 0]))
        predicted, _ = self.net(known, audio_windows(batch, batch["frame"]))
        return predicted  # type: ignore[no-any-return]

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Log errors of whole clips as `val/...`: mean distances from the true points, in pixels of the 256 face.

        `landmark_error` is that of all 68 points, `mouth_error` that of the 20 points of the mouth.
        `landmark_error_still` and `mouth_error_still` are those of the identity's landmarks throughout: a model has to
        be better than that.
        """
        self._score("val", batch)

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Log the same as `test/...`."""
        self._score("test", batch)

    def _score(self, part: str, batch: ClipBatch) -> None:
        still = batch["identity_landmarks"][:, 0]  # (B, 68, 2)
        made = in_pixels(self.net.moved(normalize(still), self.predict(batch)))  # (B, T, 68, 2)
        valid = length_mask(batch["video_len"], made.shape[1])
        for name, points in (("", made), ("_still", still[:, None])):
            error = torch.linalg.vector_norm(points - batch["landmarks"], dim=3)[valid]  # (M, 68)
            means = {f"{part}/landmark_error{name}": error.mean(), f"{part}/mouth_error{name}": error[:, _MOUTH].mean()}
            self.log_dict(means, batch_size=len(error), prog_bar=not name, sync_dist=True)

    def save_observer(self, path: str | Path, trained_on: str) -> weights.Card:
        """Write the network, its basis included, to the weights file that `--model.landmarks` of ATVGnet takes.

        Args:
            path: Ends in ".safetensors".
            trained_on: In words: corpus, protocol, how long, which seed.
        """
        return weights.save(path, self.net, arguments=self.net.arguments, view=_VIEW, trained_on=trained_on)


def audio_windows(batch: ClipBatch, frame: Tensor) -> Tensor:
    """MFCC around frames of each clip of a batch.

    Args:
        batch: `audio` at 16,000 samples a second, `audio_len`, `fps`.
        frame: (B, T) int64.

    Returns:
        (B, T, 28, 12) float32.
    """
    clip = torch.arange(len(frame), device=frame.device)[:, None].expand_as(frame)
    windows = features.mfcc_windows(batch["audio"], batch["audio_len"], clip.flatten(), frame.flatten(), batch["fps"])
    return windows.reshape(*frame.shape, *windows.shape[1:])
