"""Metrics as functions of tensors or texts: `lipbench.functional.psnr(pred, target)`, found when they are asked for."""

from typing import TYPE_CHECKING, Any

from lipbench import metrics

if TYPE_CHECKING:
    from lipbench.metrics.cpbd import cpbd as cpbd
    from lipbench.metrics.cpbd import grey as grey
    from lipbench.metrics.csim import csim as csim
    from lipbench.metrics.fid import frechet_distance as frechet_distance
    from lipbench.metrics.fid import kernel_distance as kernel_distance
    from lipbench.metrics.jitter import jitter as jitter
    from lipbench.metrics.lmd import lmd as lmd
    from lipbench.metrics.lpips import lpips as lpips
    from lipbench.metrics.lse import lse as lse
    from lipbench.metrics.opening import opening as opening
    from lipbench.metrics.psnr import psnr as psnr
    from lipbench.metrics.ssim import ssim as ssim
    from lipbench.metrics.wer import edits as edits


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a function
    """A public function of a metric's file."""
    if name.startswith("_"):
        raise AttributeError(f"module 'lipbench.functional' has no attribute {name!r}")
    return metrics.find(name)
