"""FID and KID: distances between the sets of generated and true frames, by Inception features."""

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lipbench.pretrained.inception import Inception
from lipbench.scoring import checks
from lipbench.scoring.base import Column
from lipbench.scoring.sets import SetMetric, whole_state

UNDEFINED: Final = "fewer than 2 frames in a set, or no clip whose frames all have features"


def frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> Tensor:
    """Squared Frechet distance of two Gaussians: |ma - mb|^2 + tr(A + B - 2 (A B)^(1/2)) (Heusel et al. 2017).

    The trace of the root is the sum of the singular values of A^(1/2) B^(1/2): unlike a root of A B it loses no digits
    where a covariance is singular, as it is with fewer frames than features.

    Args:
        mean_a: (D,).
        covariance_a: (D, D).
        mean_b: (D,).
        covariance_b: (D, D).

    Returns:
        () float64, at least 0.

    Raises:
        ValueError: Shapes do not fit together, or a value is not finite.
    """
    for what, given, shape in (
        ("mean_a", mean_a, ("D",)),
        ("covariance_a", covariance_a, ("D", "D")),
        ("mean_b", mean_b, ("D",)),
        ("covariance_b", covariance_b, ("D", "D")),
    ):
        checks.tensor(what, given, shape)
        if not given.isfinite().all():
            raise ValueError(f"{what} holds values that are not finite; expected finite ones only")
    checks.same(mean_a, mean_b)
    if not len(mean_a) == len(covariance_a) == len(covariance_b):
        sizes = f"{len(mean_a)} values, {len(covariance_a)} and {len(covariance_b)} rows"
        raise ValueError(f"means have {sizes} in the covariances; expected as many")
    a, b = (_root(covariance.double()) for covariance in (covariance_a, covariance_b))
    both = torch.linalg.svdvals(a.T @ b).sum()
    apart = (mean_a.double() - mean_b.double()).square().sum()
    distance: Tensor = apart + covariance_a.double().trace() + covariance_b.double().trace() - 2 * both
    return distance.clamp(min=0)


def _root(covariance: Tensor) -> Tensor:
    """(D, R) whose product with its transpose is the covariance (D, D) of rank R."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values.max().clamp(min=0) * len(values) * torch.finfo(values.dtype).eps  # the rest is rounding
    root: Tensor = vectors[:, kept] * values[kept].sqrt()
    return root


def kernel_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared maximum mean discrepancy by the kernel (x y / D + 1)^3, unbiased (Binkowski et al. 2018).

    Args:
        a: (N, D) features, N at least 2.
        b: (M, D) features, M at least 2.

    Returns:
        () float64; around 0, also below, for sets of the same distribution.

    Raises:
        ValueError: They are no such features, or a set has fewer than 2.
    """
    for what, given in (("a", a), ("b", b)):
        checks.tensor(what, given, ("N", "D"))
    if a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features of {tuple(a.shape)} and {tuple(b.shape)}; expected (N, D) and (M, D), N and M >= 2")
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        own = kernel(x, x)
        return (own.sum() - own.trace()) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * kernel(a, b).mean()


class FID(SetMetric):
    """Frechet distance between the Gaussians of generated and true features; 0 for a copy.

    It keeps sums in float64, 2 D (D + 1) numbers (67 MB for D = 2048), however many clips there are. Samplers of
    several processes repeat clips at the end of a process's share to make shares equal. A clip cannot be taken out of a
    sum, so the features of the latest clips are held back (2.5 MB a clip of 75 frames) and join the sums when later
    ones come; at the end each is counted once over all processes.

    The value falls with the number of frames: between two sets of one distribution (256 features) it is 130 with 256
    frames, 16 with 2048 and 4 with 8192, and frames of one video count as far fewer. Compare equal numbers of videos
    only.

    Args:
        dim: Features a frame.
        held: Clips held back on every process; at least the batch size of the test.
    """

    name = "fid"
    observes = "inception"
    undefined = UNDEFINED
    columns = (Column("fid", "distribution", 10, default=False),)

    count: Tensor
    total: Tensor
    products: Tensor
    held_clip: list[Tensor]
    held_frames: list[Tensor]
    held_features: list[Tensor]

    def __init__(self, dim: int = Inception.dim, held: int = 16) -> None:
        super().__init__(dim)
        self.held = held
        self.add_state("count", torch.zeros(2, dtype=torch.float64), "sum")  # of generated and of true frames
        self.add_state("total", torch.zeros(2, dim, dtype=torch.float64), "sum")
        self.add_state("products", torch.zeros(2, dim, dim, dtype=torch.float64), "sum")
        # torchmetrics keeps a copy of every default for `reset`; this one would take as much as the sums.
        self._defaults["products"] = torch.zeros((), dtype=torch.float64).expand(2, dim, dim)
        for state in ("held_clip", "held_frames", "held_features"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def add(self, pred: Tensor, target: Tensor, clip: int) -> None:
        """Hold a clip back, and count the one held longest if there are too many."""
        self.held_clip.append(self.clips[-1])
        self.held_frames.append(pred.new_tensor([len(pred), len(target)]))
        self.held_features.append(torch.cat([pred, target]).flatten())
        if len(self.held_clip) > self.held:
            frames, features = self.held_frames.pop(0), self.held_features.pop(0)
            self.held_clip.pop(0)
            count, total, products = self._sums(features, frames.long().tolist())
            self.count, self.total, self.products = self.count + count, self.total + total, products.add_(self.products)

    def _sums(self, features: Tensor, frames: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Count (2,), sum (2, D) and sum of products (2, D, D) of a clip's flattened features."""
        parts = torch.split(features.reshape(-1, self.dim), frames)
        products = torch.stack([part.T @ part for part in parts])
        return features.new_tensor(frames), torch.stack([part.sum(0) for part in parts]), products

    def compute(self) -> Tensor:
        """Distance () float64 over all clips; NaN for fewer than 2 frames.

        Raises:
            ValueError: A clip was counted by two processes before either could know.
        """
        held, seen = whole_state(self.held_clip).astype(int).tolist(), whole_state(self.clips).astype(int).tolist()
        counted = sorted(seen)
        for clip in held:
            counted.remove(clip)
        twice = {clip for clip, after in pairwise(counted) if clip == after}
        if twice:
            raise ValueError(
                f"clips {sorted(twice)[:5]} were dealt to two processes in the middle of the test, and FID has counted "
                f"both; use a sampler that does not repeat clips, or FID(held=...) above {self.held}"
            )
        count, total, products = self.count, self.total, self.products
        done, start = set(counted), 0
        features = dim_zero_cat(self.held_features) if held else self.total.new_zeros(0)
        for clip, frames in zip(held, whole_state(self.held_frames).astype(int).reshape(-1, 2).tolist(), strict=True):
            size = sum(frames) * self.dim
            if clip not in done:
                more = self._sums(features[start : start + size], frames)
                count, total, products = count + more[0], total + more[1], products + more[2]
                done.add(clip)
            start += size
        if float(count.min()) < 2:
            return count.new_tensor(torch.nan)
        mean = total / count[:, None]  # (2, D)
        outer = count[:, None, None] * mean[:, :, None] * mean[:, None, :]
        covariance = (products - outer) / (count[:, None, None] - 1)
        return frechet_distance(mean[0], covariance[0], mean[1], covariance[1])


class KID(SetMetric):
    """Kernel distance between generated and true features; about 0 for sets of one distribution, also below.

    Unlike FID its expectation does not depend on how many frames there are. At most `size` frames of each side are
    kept (33 MB a side for 2000 of 2048 features): those with the smallest hash of clip and frame, so that the choice is
    the same whatever the order, the batches and the processes. Published code averages random subsets of 1000 frames;
    this is one estimate over all frames kept, with the same expectation.

    Args:
        dim: Features a frame.
        size: Frames kept a side.
    """

    name = "kid"
    observes = "inception"
    undefined = UNDEFINED
    columns = (Column("kid", "distribution", 20, default=False),)

    def __init__(self, dim: int = Inception.dim, size: int = 2000) -> None:
        super().__init__(dim)
        self.size = size
        for side in ("pred", "target"):
            for state in ("keys", "rows"):
                self.add_state(f"{side}_{state}", default=[], dist_reduce_fx="cat")

    def add(self, pred: Tensor, target: Tensor, clip: int) -> None:
        """Keep the frames of a clip that belong to the smallest."""
        # Another choice of frames on each side: a frame and its copy in both sets would bias the estimate.
        for salt, (side, features) in enumerate((("pred", pred), ("target", target))):
            keys = torch.from_numpy(_keys(clip, len(features), salt)).to(self.device)
            kept: list[Tensor] = getattr(self, f"{side}_keys")
            if kept and len(kept[0]) == self.size:
                features, keys = features[keys < kept[0][-1]], keys[keys < kept[0][-1]]
            if len(keys):
                kept.append(keys)
                getattr(self, f"{side}_rows").append(features.flatten())
                keys, features = self._smallest(side)
                setattr(self, f"{side}_keys", [keys])
                setattr(self, f"{side}_rows", [features.flatten()])

    def _smallest(self, side: str) -> tuple[Tensor, Tensor]:
        """Keys (N,) of the frames that count, ascending, each once, and their features (N, D)."""
        keys = dim_zero_cat(getattr(self, f"{side}_keys"))
        rows = dim_zero_cat(getattr(self, f"{side}_rows")).reshape(-1, self.dim)
        keys, order = keys.sort(stable=True)
        new = torch.ones_like(keys, dtype=torch.bool)
        new[1:] = keys[1:] != keys[:-1]  # a repeated clip has the same keys
        return keys[new][: self.size], rows[order[new][: self.size]]

    def compute(self) -> Tensor:
        """Distance () float64 over the frames kept; NaN for fewer than 2 frames."""
        if not len(whole_state(self.clips)):
            return torch.tensor(torch.nan, dtype=torch.float64, device=self.device)
        pred, target = self._smallest("pred")[1], self._smallest("target")[1]
        if min(len(pred), len(target)) < 2:
            return pred.new_tensor(torch.nan)
        return kernel_distance(pred, target)


def _keys(clip: int, frames: int, salt: int) -> npt.NDArray[np.float64]:
    """Hashes (frames,) in [0, 1) of the frames of a clip, equal on every machine (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = (np.arange(frames, dtype=np.uint64) << np.uint64(1)) + np.uint64(salt) + (np.uint64(clip) << np.uint64(32))
        x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray((x ^ (x >> np.uint64(31))) >> np.uint64(11), np.float64) / 2**53
