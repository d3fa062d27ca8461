"""CPBD: frames a second beside the package `cpbd`, at equal values.

Both sides score the same grey pictures of 256x256 px with one thread: the package one after the other, lipbench one
after the other and all at once. Times are processor time, so that other work on the machine does not count.

lipbench does not need the package: `pip install --no-deps cpbd` brings it, `pip install scikit-image` what it imports.
It also imports a function that SciPy has dropped and that only its command line calls; None is put in its place.

    python benchmarks/cpbd.py [--frames 16] [--rounds 5]
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lipbench.metrics.cpbd import cpbd


def package() -> Callable[[np.ndarray], float]:
    """Find `cpbd.compute`, with the import that it lacks supplied.

    Raises:
        SystemExit: The package or what it imports is missing; the message says what to type.
    """
    own = Path(__file__).resolve().parent
    sys.path = [folder for folder in sys.path if Path(folder).resolve() != own]  # this file has the package's name
    try:
        import scipy.ndimage

        scipy.ndimage.imread = None
        from cpbd.compute import compute
    except ImportError as error:
        raise SystemExit(
            f"{error}\nthis benchmark needs: pip install --no-deps cpbd && pip install scikit-image"
        ) from error
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
    """Processor time of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Compare values, measure all sides in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16, help="pictures (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side, of which the median counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    compute = package()
    images = pictures(arguments.frames)
    frames = torch.from_numpy(images)

    expected = np.array([compute(image) for image in images])  # this warms up
    for found in (cpbd(frames), torch.stack([cpbd(frame) for frame in frames])):
        apart = float(np.abs(found.numpy() - expected).max())
        if apart > 1e-9:
            raise SystemExit(f"values differ by up to {apart:.2g}")
    sides: dict[str, Callable[[], object]] = {
        "cpbd": lambda: [compute(image) for image in images],
        "lipbench, one at a time": lambda: [cpbd(frame) for frame in frames],
        "lipbench, all at once": lambda: cpbd(frames),
    }
    rounds = [[seconds(work) for work in sides.values()] for _ in range(arguments.rounds)]
    taken = 1000 * np.median(rounds, axis=0) / len(images)
    print(f"{len(images)} pictures of 256x256, one thread; values are equal to {apart:.1g}")
    print(f"{'':26}{'ms a picture':>14}{'ratio':>8}")
    for name, each in zip(sides, taken, strict=True):
        print(f"{name:26}{each:14.2f}{taken[0] / each:8.1f}")


if __name__ == "__main__":
    main()
