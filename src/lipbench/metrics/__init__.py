"""Metrics, one a file: `lipbench.metrics.PSNR` is the class in `psnr.py`, found when it is asked for."""

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lipbench.metrics.cpbd import CPBD as CPBD
    from lipbench.metrics.csim import CSIM as CSIM
    from lipbench.metrics.dtw import WarpedLMD as WarpedLMD
    from lipbench.metrics.dtw import WarpedPSNR as WarpedPSNR
    from lipbench.metrics.dtw import WarpedSSIM as WarpedSSIM
    from lipbench.metrics.fid import FID as FID
    from lipbench.metrics.fid import KID as KID
    from lipbench.metrics.fvd import FVD as FVD
    from lipbench.metrics.jitter import Jitter as Jitter
    from lipbench.metrics.lmd import LMD as LMD
    from lipbench.metrics.lpips import LPIPS as LPIPS
    from lipbench.metrics.lse import LSEC as LSEC
    from lipbench.metrics.lse import LSED as LSED
    from lipbench.metrics.lse import AVOffset as AVOffset
    from lipbench.metrics.opening import OpeningCorrelation as OpeningCorrelation
    from lipbench.metrics.psnr import PSNR as PSNR
    from lipbench.metrics.ssim import SSIM as SSIM
    from lipbench.metrics.wer import CER as CER
    from lipbench.metrics.wer import PER as PER
    from lipbench.metrics.wer import WER as WER


@cache
def _places() -> dict[str, str]:
    """Public class or function -> its file, read without importing any."""
    found: dict[str, str] = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                found.setdefault(node.name, path.stem)
    return found


def find(name: str) -> Any:  # noqa: ANN401 - a class or a function
    """A public class or function of a metric's file.

    Raises:
        AttributeError: There is none of that name.
    """
    if name not in _places():
        raise AttributeError(f"lipbench has no metric {name!r}; there are {', '.join(sorted(_places()))}")
    return getattr(importlib.import_module(f"lipbench.metrics.{_places()[name]}"), name)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a class or a file
    """A metric's class, or the file of a short name."""
    if (Path(__file__).parent / f"{name}.py").is_file():
        return importlib.import_module(f"lipbench.metrics.{name}")
    if name.startswith("_"):
        raise AttributeError(f"module 'lipbench.metrics' has no attribute {name!r}")
    return find(name)
