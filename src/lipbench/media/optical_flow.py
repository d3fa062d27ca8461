"""Optical flow by a classical estimator, which teaches flow networks without annotated motion."""

from typing import Final

import numpy as np
import torch
from torch import Tensor

_PYRAMID_SCALE: Final = 0.5
_LEVELS: Final = 3
_WINDOW: Final = 15  # pixels
_ITERATIONS: Final = 3
_NEIGHBORHOOD: Final = 5  # pixels of each polynomial
_SIGMA: Final = 1.2  # pixels, of the Gaussian that weighs them


def farneback(before: Tensor, after: Tensor) -> Tensor:
    """Farneback's flow from frames to the next (OpenCV), with the settings of the correlation GAN's published code.

    Frames become gray with 8 bits first, as there (lelechen63/3d_gan `dataset.py`). The estimator runs on the CPU:
    about a millisecond for a pair of 64x64 pixels.

    Args:
        before: (N, 3, H, W) RGB in [0, 1].
        after: The frames that follow, the same shape.

    Returns:
        (N, 2, H, W) float32 on the frames' device: pixels to the right, then pixels down, by which a point of `before`
        has moved in `after`.
    """
    import cv2

    frames = (torch.stack([before, after], 1) * 255).round().clamp(0, 255)  # (N, 2, 3, H, W)
    pixels = frames.to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()  # (N, 2, H, W, 3)
    flow = np.empty((len(pixels), *pixels.shape[2:4], 2), np.float32)
    for k, pair in enumerate(pixels):
        first, second = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in pair)
        flow[k] = cv2.calcOpticalFlowFarneback(
            first, second, flow[k], _PYRAMID_SCALE, _LEVELS, _WINDOW, _ITERATIONS, _NEIGHBORHOOD, _SIGMA, 0
        )
    return torch.from_numpy(flow).permute(0, 3, 1, 2).contiguous().to(before.device)  # (N, 2, H, W)
