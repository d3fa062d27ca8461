"""CPBD: frames a second beside the package `cpbd`, at equal values.

Both sides score the same grey pictures of 256x256 px with one thread: the package one after the other, lipbench all at
once. Sides alternate, so that a busy machine slows both.

The package is not needed by lipbench: `pip install --no-deps cpbd imageio scikit-image` brings it. It imports a
function that SciPy has dropped and never calls it; an empty one is put in its place.

    python benchmarks/cpbd.py [--frames 16] [--rounds 3]
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from lipbench.metrics.cpbd import cpbd


def package() -> Callable[[np.ndarray], float]:
    """Find `cpbd.compute`, with the import that it lacks supplied.

    Raises:
        SystemExit: The package or what it imports is missing; the message says what to type.
    """
    try:
        import scipy.ndimage

        if not hasattr(scipy.ndimage, "imread"):
            scipy.ndimage.imread = None
        from cpbd.compute import compute
    except ImportError as error:
        raise SystemExit(f"{error}: pip install --no-deps cpbd imageio scikit-image") from error
    return compute


def pictures(count: int) -> np.ndarray:
    """(count, 256, 256) uint8: scikit-image's astronaut, moved, with a little noise, every second one blurred."""
    from skimage import color, data, filters

    whole = 255 * color.rgb2gray(data.astronaut())
    rng = np.random.default_rng(0)
    found = []
    for k in range(count):
        top, left = rng.integers(0, 64), rng.integers(60, 160)
        cut = filters.gaussian(whole[top : top + 256, left : left + 256], sigma=k % 2, preserve_range=True)
        found.append(np.clip(np.rint(cut + rng.standard_normal(cut.shape)), 0, 255))
    return np.stack(found).astype(np.uint8)


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Compare values, measure both sides in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    compute = package()
    images = pictures(arguments.frames)
    frames = torch.from_numpy(images)

    expected = np.array([compute(image) for image in images])
    apart = np.abs(cpbd(frames).numpy() - expected).max()
    if apart > 1e-9:
        raise SystemExit(f"values differ by up to {apart:.2g}")
    rounds = [
        (seconds(lambda: cpbd(frames)), seconds(lambda: [compute(image) for image in images]))
        for _ in range(arguments.rounds)
    ]
    fast, slow = (1000 * float(np.median(side)) / len(images) for side in zip(*rounds, strict=True))
    print(f"{len(images)} frames of 256x256, one thread, values equal to {apart:.1g}")
    print(f"{'lipbench':12}{fast:8.2f} ms a frame\n{'cpbd':12}{slow:8.2f} ms a frame\n{'ratio':12}{slow / fast:8.1f}")


if __name__ == "__main__":
    main()
