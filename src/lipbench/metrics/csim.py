"""CSIM: whether the generated face is still the same person, by ArcFace embeddings."""

import torch
from torch import Tensor

from lipbench.scoring import checks
from lipbench.scoring.base import Column, ObservationMetric, Spans, over_frames


def csim(pred: Tensor, target: Tensor) -> Tensor:
    """Cosine of the angle between embeddings.

    Args:
        pred: (..., E) embeddings of generated faces, of any length.
        target: (..., E) of the reference's.

    Returns:
        (...) in [-1, 1], 1 for a copy; NaN where an embedding holds NaN or is zero.

    Raises:
        ValueError: The shapes differ, or they are not floating point.
    """
    checks.same(pred, target)
    checks.tensor("pred", pred, ("...", "E"))
    checks.tensor("target", target, ("...", "E"))
    a, b = (x / torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (pred.double(), target.double()))
    cosine: Tensor = (a * b).sum(-1)
    return cosine.clamp(-1, 1)  # rounding leads outside


class CSIM(ObservationMetric):
    """Cosine similarity of ArcFace embeddings of generated and reference frames, mean over frames; 1 for a copy.

    Which ArcFace is rarely said in papers, and scores of different ones do not compare: the record names the weights.
    A model that makes only a mouth stands in the reference's face, which keeps its score high; read it beside the
    frozen first frame's.
    """

    name = "csim"
    unit = ""
    higher_is_better = True
    perfect = 1.0
    undefined = "a frame holds NaN"
    observes = "identity"
    columns = (Column("csim", "identity", 10, default=False),)

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, T, E) embeddings."""
        return over_frames(csim(pred, target), spans.length)
