"""doctor: what this machine has, and what to type for what it lacks."""

import argparse
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from lipbench import discovery, paths
from lipbench.commands import evaluate
from lipbench.errors import UsageError, visible
from lipbench.paths import default_store

if TYPE_CHECKING:
    from lipbench.data.store import Store

GROUP = "Start here"
Finding = tuple[str, str]
"""What was found, and what to type if something is missing ("" if nothing is)."""

_BY_NAME = ("inception", "syncnet", "arcface", "i3d")
"""Published weights of metrics, that no other check looks for."""
_REINSTALL = "pip install --force-reinstall {}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `lipbench doctor`."""
    parser.add_argument(
        "--data",
        choices=tuple(discovery.files("data")),
        help="compare every clip in the stores of this corpus with its hash",
    )
    parser.add_argument(
        "--metrics", action="store_true", help="check instead that the metrics order rendered clips as they must"
    )
    for name in evaluate.WEIGHTS:
        options = f"--files.{name}", f"--evaluator.files.{name}"  # as `evaluate` and `test` spell it
        what = f"with --metrics: weights of {name}, a file or a name of `lipbench list`"
        parser.add_argument(*options, dest=name, metavar="FILE|NAME", help=what)


def run(data: str | None = None, metrics: bool = False, **weights: str | None) -> None:
    """Print one line a check, and what to type: first what every command needs, then what only some of them use.

    The exit code and the last line go by what is needed.

    Args:
        data: Corpus of which every clip in its stores, packed ones too, is compared with its hash.
        metrics: Check the metrics instead (`lipbench.evaluation.selfcheck`): ok, FAILED or skipped.
        **weights: Files that metrics need.

    Raises:
        UsageError: Something is missing that every command needs, a store is damaged, or a check of the metrics failed.
        FileNotFoundError: A file of weights is not there.
    """
    files = {name: file for name, file in weights.items() if file is not None}
    if metrics:
        _check_metrics(files)
        return
    if files:
        raise UsageError(f"--files.{next(iter(files))} goes with --metrics")
    needed: dict[str, Callable[[], Finding]] = {
        "python": _python,
        "torch": _torch,
        "video": _video,
        "opencv": _opencv,
        "faces (dlib)": _dlib,
        "store": _arrow,
    }
    optional: dict[str, Callable[[], Finding]] = {
        "GPU": _gpu,
        "voices (eSpeak NG)": _espeak,
        "Weights & Biases": _wandb,
        "metric lpips": _lpips,
        "landmarks face-alignment": _face_alignment,
        **{f"weights {name}": lambda name=name: _weights(name) for name in _BY_NAME},  # type: ignore[misc]  # a lambda with a default has no inferred type
        "lipbench home": _home,
        **{f"corpus {name}": lambda name=name: _corpus(name, closer=name == data) for name in discovery.files("data")},  # type: ignore[misc]  # a lambda with a default has no inferred type
    }
    print("Needed:")
    lacking = _report(needed, "MISSING")
    print("\nOptional, each for what it names:")
    without = _report(optional, "absent")
    print()
    damaged = _damaged_shards(data) if data else []
    if lacking:
        raise UsageError(f"this machine lacks what every command needs: {', '.join(lacking)}")
    if damaged:
        raise UsageError(f"{len(damaged)} damaged file{'s' if len(damaged) > 1 else ''}: {', '.join(damaged)}")
    print(
        f"All {len(needed)} things that are needed are here: `lipbench demo` runs. "
        f"Of {len(optional)} optional ones {len(without)} are absent; nothing else waits for them."
    )


def _check_metrics(files: dict[str, str]) -> None:
    """Print what became of each check of the metrics.

    Args:
        files: Weights that metrics need; what comes with lipbench judges the rest.

    Raises:
        UsageError: One failed.
        FileNotFoundError: A file is not there.
    """
    from lipbench.evaluation import selfcheck
    from lipbench.pretrained import bundled

    named = bundled.resolved(files, paths.home())
    for name, file in named.items():
        if not Path(file).expanduser().is_file():
            raise FileNotFoundError(f"--files.{name}: no such file: {file}")
    judges = bundled.judges("rendered/seen") | named
    found = selfcheck.run(selfcheck.clips(), judges)
    for check in found:
        print(f"{check.state:8} {check.name}: {check.detail}")
    failed = [check.name for check in found if check.state == "FAILED"]
    if failed:
        raise UsageError(f"{len(failed)} of {len(found)} checks of the metrics failed: {'; '.join(failed)}")


def _report(checks: dict[str, Callable[[], Finding]], missing: str) -> list[str]:
    """Run and print checks; the names of those that found something missing.

    Args:
        checks: Name -> check.
        missing: What is printed in place of "ok".
    """
    lacking = []
    for name, check in checks.items():
        try:
            found, remedy = check()
        except ImportError as error:  # a broken installation is a finding too
            found, remedy = str(error).partition("\n")[0], _remedy(error)
        except (OSError, RuntimeError, ValueError) as error:  # raised in lipbench: its message says what to do
            found, remedy = "cannot be used", str(error)
        print(f"{missing if remedy else 'ok':8} {name:26} {found}")
        if remedy:
            lacking.append(name)
            print(f"{'':8} {'':26} -> {remedy}")
    return lacking


def _remedy(error: ImportError) -> str:
    """What to type for a package that cannot be imported."""
    if any(library in str(error) for library in ("libGL", "libgthread", "libglib", "libxcb")):
        return "opencv needs system libraries: apt-get install libgl1 libglib2.0-0 libxcb1"
    return _REINSTALL.format(error.name or "lipbench")


def _python() -> Finding:
    supported = (3, 11) <= sys.version_info[:2] < (3, 14)
    return platform.python_version(), "" if supported else "lipbench needs Python 3.11, 3.12 or 3.13"


def _torch() -> Finding:
    import torch
    import torchvision  # a CPU-only torch beside an ordinary torchvision fails here

    return f"{torch.__version__}, torchvision {torchvision.__version__}; {torch.get_num_threads()} CPU threads", ""


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}", ""
    return (
        "no CUDA, for training at the papers' sizes",
        "train small recipes here: --config NAME_small (`lipbench list`)",
    )


def _wandb() -> Finding:
    import importlib.util

    if importlib.util.find_spec("wandb") is None:
        return "not installed, for --tracking.wandb", "pip install wandb"
    return f"wandb {version('wandb')}, used where a run asks for it", ""


def _video() -> Finding:
    import av

    wanted = {"mpeg1video": "r", "h264": "r", "mp2": "r", "aac": "r", "libx264": "w"}
    lacking = [name for name, mode in wanted.items() if not _codec(name, mode)]
    found = f"PyAV {av.__version__}, FFmpeg libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"
    if lacking:
        return f"{found} without {', '.join(lacking)}", _REINSTALL.format(
            "av"
        ) + " (the wheel, not a build of your own)"
    return f"{found}: reads MPEG-1, H.264, MP2, AAC; writes H.264", ""


def _codec(name: str, mode: str) -> bool:
    """Whether FFmpeg knows a codec for reading ("r") or writing ("w")."""
    import av
    from av.codec.codec import UnknownCodecError

    try:
        av.Codec(name, "w" if mode == "w" else "r")
    except UnknownCodecError:
        return False
    return True


def _opencv() -> Finding:
    import cv2

    return str(cv2.__version__), ""


def _dlib() -> Finding:
    import dlib

    from lipbench.media import landmarks

    landmarks.load("dlib")  # raises with a remedy of its own if the predictor's file is missing
    return f"{dlib.__version__} with the 68-point predictor", ""


def _arrow() -> Finding:
    import pyarrow
    import simplejpeg

    return f"pyarrow {pyarrow.__version__}, simplejpeg {simplejpeg.__version__}", ""


def _espeak() -> Finding:
    import espeakng_loader

    library = Path(espeakng_loader.get_library_path())
    if not library.is_file():
        return f"no library at {library}", _REINSTALL.format("espeakng-loader")
    return f"espeakng-loader {version('espeakng-loader')}", ""


def _lpips() -> Finding:
    from lipbench.metrics import lpips

    path = lpips.backbone_path()
    lpips.load(path)
    return f"lpips {version('lpips')} with {path.name}", ""


def _weights(name: str) -> Finding:
    """Whether published weights are where they belong; which columns they judge."""
    from lipbench.console import weights_files
    from lipbench.pretrained.published import KNOWN

    known = KNOWN[name]
    what = f"{known.what}, for {weights_files.columns(known.observer)}"
    path = known.find(paths.home())
    if path is not None:
        return f"{what}: {path}{f'; {known.use}' if known.use else ''}", ""
    if known.address():
        return what, f"lipbench weights fetch {name}"
    return what, f"by hand from {known.origin}, to {known.place(paths.home())}"


def _face_alignment() -> Finding:
    from lipbench.media import landmarks

    landmarks.load("face-alignment")
    return f"face-alignment {version('face-alignment')} with its weights", ""


def _home() -> Finding:

    home = paths.home()
    said = "LIPBENCH_HOME" if os.environ.get("LIPBENCH_HOME") else "default; LIPBENCH_HOME moves it"
    return f"{home} ({said}){'' if home.is_dir() else ', not there yet'}", ""


def _corpus(name: str, closer: bool) -> Finding:
    """The raw corpus and the prepared store of one short name.

    Args:
        name: Short name.
        closer: List the reasons for which clips were left out.
    """
    from lipbench.data import manifest as manifest_files
    from lipbench.data.manifest import MANIFEST

    variable = f"LIPBENCH_{name.upper()}"
    root = os.environ.get(variable)
    raw = f"{variable}={root}" if root else f"{variable} not set"
    if root and not Path(root).is_dir():
        return raw, f"{variable} names no folder: export {variable}=DIR"
    path = default_store(name)
    if not (path / MANIFEST).is_file():
        how = "" if name == "rendered" or root else " --root DIR"
        return f"{raw}; no store at {path}", f"lipbench prepare --data {name}{how}"
    manifest = manifest_files.read(path)
    rejected = manifest["rejected"]
    found = f"{len(manifest['clips'])} clips in {path}, {len(rejected)} left out"
    if closer:
        found += "".join(
            f"\n{'':36}{visible(clip_id)}: {visible(entry['reason'])}" for clip_id, entry in sorted(rejected.items())
        )
    return found, ""


def _damaged_shards(name: str) -> list[str]:
    """Compare every clip in the stores of a corpus with its hash, print what is damaged and what to type.

    Args:
        name: The corpus; its store, and packed copies beside it.

    Returns:
        Files that are damaged.
    """
    from rich.progress import track

    from lipbench.data import store as stores
    from lipbench.data.manifest import MANIFEST

    whole = default_store(name)
    files: list[str] = []
    for path in (whole, *sorted(whole.parent.glob(f"{name}-*"))):
        if not (path / MANIFEST).is_file():
            continue
        try:
            store = stores.Store(path)
        except ValueError as error:
            files.append(str(path / MANIFEST))
            print(f"DAMAGED  {error}")
            continue
        found: dict[str, dict[str, str]] = {}
        shards = sorted(set(store.column("shard")))
        for shard in track(shards, f"comparing {path.name} with its hashes", transient=True):
            if lines := store.damaged(shard):
                found[shard] = lines
        print(f"{'DAMAGED' if found else 'ok':8} {len(store)} clips of {path} compared with their hashes")
        for shard, lines in found.items():
            files.append(f"{path.name}/shards/{shard}.arrow")
            print("".join(f"{'':9}{clip_id}: {how}\n" for clip_id, how in lines.items()), end="")
        if found:
            print(f"{'':9}-> {_again(name, store)}")
    return files


def _again(name: str, store: "Store") -> str:
    """What to type so that the damaged shards of a store are made anew."""
    root = "" if name == "rendered" or os.environ.get(f"LIPBENCH_{name.upper()}") else " --root DIR"
    settings = store.manifest["settings"]
    options = "".join(
        f" --{option} {settings[option]}"
        for option in ("landmarks", "limit")
        if settings.get(option) not in (None, "dlib")
    )
    packed = f" --pack {store.packed.name} {store.packed.height} {store.packed.width}" if store.packed else ""
    packed += " --pixels" if settings.get("coding") == "pixels" else ""
    return f"lipbench prepare --data {name}{root}{options}{packed} --verify"
