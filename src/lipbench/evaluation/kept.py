"""Scores of calibration rows that stay on disk: they are the same whatever model is tested over the same clips.

What a score depends on is hashed into the name of its file: the clip, the columns, who judges them, the source code of
lipbench and of the files of other packages' metrics, and the versions of what it calls. A file of another state is not
looked at, so nothing is ever out of date.
"""

import hashlib
import inspect
import json
import math
import platform
from collections.abc import Collection, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from torch import Tensor

import lipbench
from lipbench.evaluation.bank import Bank
from lipbench.files import write_text
from lipbench.types import View

_PACKAGES: Final = (
    "numpy",
    "torch",
    "opencv-python",
    "dlib-bin",
    "av",
    "lpips",
    "scipy",
    "torchvision",
    "espeakng-loader",
)

RowScores = tuple[dict[str, tuple[float, float]], dict[str, str]]
"""Of one clip in one row: column -> (value, weight), NaN where the value is undefined; column -> why it is empty."""


class KeptScores:
    """Reads and writes the calibration rows' scores of single clips.

    Args:
        folder: Where they are.
        bank: The metrics, none of which has one number for all clips: what those are given is too large to keep.
        view: In which the rows are made.
        names: The rows.
        mean: (3, h, w) picture of the row `mean-mouth`.
        device: On which clips are scored.
    """

    def __init__(self, folder: Path, bank: Bank, view: View, names: Collection[str], mean: Tensor, device: str) -> None:
        self._folder = folder
        self._names = tuple(names)
        state = {
            "columns": [entry.name for entry in bank.entries],
            "empty": bank.reasons,
            "judges": bank.judges,
            "view": str(view),
            "rows": self._names,
            "device": device.partition(":")[0],
            "code": _code(),
            "other packages": sorted(map(_source_of, {entry.metric for entry in bank.entries})),
            "versions": {name: _version(name) for name in _PACKAGES} | {"machine": platform.machine()},
        }
        self._state = hashlib.sha256(json.dumps(state, sort_keys=True).encode())
        _add(self._state, mean)

    def path(self, batch: Mapping[str, Any]) -> Path:
        """The file of a clip.

        Args:
            batch: A batch of this clip; its name and its position in the split do not count.
        """
        digest = self._state.copy()
        _add(digest, {key: value for key, value in batch.items() if key not in ("index", "clip_id", "speaker")})
        name = digest.hexdigest()[:32]
        return self._folder / name[:2] / f"{name}.json"

    def read(self, path: Path) -> dict[str, RowScores] | None:
        """Row -> scores; None if there are none, or none that are whole."""
        try:
            content = json.loads(path.read_bytes())
            return {
                row: (
                    {column: (_number(value), _number(weight)) for column, (value, weight) in content[row][0].items()},
                    {column: str(reason) for column, reason in content[row][1].items()},
                )
                for row in self._names
            }
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return None

    def write(self, path: Path, rows: Mapping[str, RowScores]) -> None:
        """Keep the scores of a clip.

        Raises:
            RuntimeError: The file cannot be written.
        """
        write_text(path, json.dumps(rows))


def _number(value: object) -> float:
    """A number out of JSON.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isinf(value):
        raise TypeError(f"expected a number, found {value!r}")
    return float(value)


def _add(digest: "hashlib._Hash", value: Any) -> None:  # noqa: ANN401 - a tree of anything
    """Hash a tree of tensors and texts with its shapes and names."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
        digest.update(np.ascontiguousarray(value.numpy()).data)
    elif isinstance(value, Mapping):
        for key in sorted(value):
            digest.update(f"{{{key}".encode())
            _add(digest, cast("Mapping[str, Any]", value)[key])
    else:
        digest.update(repr(value).encode())


@cache
def _code() -> str:
    """Hash of lipbench's source."""
    digest = hashlib.sha256()
    root = Path(lipbench.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()} ".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _source_of(metric: type) -> str:
    """Hash of the file that defines another package's metric; empty for lipbench's own, which `_code` has."""
    if metric.__module__.startswith("lipbench."):
        return ""
    return hashlib.sha256(Path(inspect.getfile(metric)).read_bytes()).hexdigest()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
