"""The results record: one JSON file a run with all that is needed to trust its scores; per-clip scores beside it."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import torch

import lipbench
from lipbench.evaluation import statistics
from lipbench.metrics._bank import CATALOGUE
from lipbench.metrics._base import PerClip, mean

SCHEMA: Final = 1
Kind = Literal["model", "control", "calibration"]
_PACKAGES: Final = ("torch", "pytorch-lightning", "torchmetrics", "numpy", "pandas", "dlib-bin", "lpips")


@dataclass(frozen=True)
class Score:
    """One column of one row.

    Args:
        value: Mean over clips, weighted as the metric says; None if empty.
        ci95: 95 % interval by bootstrap over clips, over speakers where there are several.
        n: Clips with a score.
        coverage: Share of the clips that have one.
        unit: Such as "dB".
        higher_is_better: None where the nearer to `perfect` the better.
        perfect: Score of a copy of the reference.
        judge: Version or weights of whoever judges beyond a formula.
        reason: Why it is empty or not complete.
    """

    value: float | None
    ci95: tuple[float, float] | None
    n: int
    coverage: float
    unit: str
    higher_is_better: bool | None
    perfect: float | None
    judge: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Paired:
    """A row compared with another on the same clips.

    Args:
        metric: Column.
        against: The other row: "frozen-frame", "wrong-text".
        difference: Mean over clips of this row's score minus the other's.
        ci95: Its 95 % interval.
        better: Share of the clips on which this row is the better.
        p: Two-sided permutation test of no difference.
        n: Clips that have both scores.
    """

    metric: str
    against: str
    difference: float
    ci95: tuple[float, float] | None
    better: float
    p: float | None
    n: int


@dataclass(frozen=True)
class Record:
    """All that is known of one row of a table.

    Args:
        kind: "model" (ranked), "control" (a model driven by something wrong) or "calibration".
        name: Short name of the model, or of the calibration row.
        run: Name of the run.
        control: What the model was driven by, such as "wrong-text".
        protocol: name, version, split_sha256.
        clips: n, speakers, sha256 (of the sorted ids of the scored clips).
        view: The model's view and size.
        timing: Who decided the durations.
        model: class_path, arguments, parameters (by part), checkpoint_sha256, paper.
        training: batches, epoch, seed.
        data: What the store says of itself: settings, counts, packed view.
        scores: Column -> score.
        paired: Comparisons with rows of the same test.
        environment: commit, dirty, versions, device, processes, precision.
        command: As typed; folders of this machine are left out.
        created: UTC.
        schema: Version of this layout.
    """

    kind: Kind
    name: str
    run: str
    control: str | None
    protocol: dict[str, Any]
    clips: dict[str, Any]
    view: str
    timing: str | None
    model: dict[str, Any]
    training: dict[str, Any]
    data: dict[str, Any]
    scores: dict[str, Score]
    paired: list[Paired] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    created: str = ""
    schema: int = SCHEMA

    @property
    def preparation(self) -> dict[str, Any]:
        """What the store says of how its pictures came about; how many clips it holds does not matter."""
        settings = {key: value for key, value in self.data.get("settings", {}).items() if key != "limit"}
        return {"settings": settings, "packed": self.data.get("packed")}

    @property
    def comparable(self) -> str:
        """Eight digits that are equal for rows that may stand in one table: protocol, clips, preparation and judges."""
        judges = {name: score.judge for name, score in self.scores.items() if score.judge}
        content = [self.protocol, self.clips["sha256"], self.preparation, sorted(set(judges.values()))]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def stem(self) -> Path:
        """Where the record lies below the results folder, without suffix."""
        run = self.run if self.control is None else f"{self.run}.{self.control}"
        return Path(self.protocol["name"], self.name, run)


def score(
    entry: str, clips: PerClip | None, speakers: Mapping[int, str], judge: str | None, reason: str | None
) -> Score:
    """Summarise a column.

    Args:
        entry: Column name, a key of the bank's catalogue.
        clips: Scores of single clips; None if the column could not be computed.
        speakers: Position in the split -> speaker, of every clip that was tested.
        judge: See `Score`.
        reason: Why values are missing, where it is known.
    """
    metric = CATALOGUE[entry].metric
    value, defined, ci95 = float("nan"), 0, None
    if clips is not None:
        value, defined = mean(clips.value, clips.weight), int(np.isfinite(clips.value).sum())
        ci95 = statistics.interval(clips.value, clips.weight, [speakers[int(k)] for k in clips.index])
        if defined < len(speakers) and reason is None:
            reason = f"{len(speakers) - defined} of {len(speakers)} clips have no score: {metric.undefined}"
    return Score(
        value=value if np.isfinite(value) else None,
        ci95=ci95,
        n=defined,
        coverage=defined / len(speakers) if speakers else 0.0,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        perfect=metric.perfect,
        judge=judge,
        reason=reason if defined < len(speakers) else None,
    )


def set_score(entry: str, value: float, n: int, clips: int, judge: str | None, reason: str | None) -> Score:
    """Summarise a column with one number for all clips; it has no interval.

    Args:
        entry: Column name, a key of the bank's catalogue.
        value: The number; NaN if undefined.
        n: Clips that it is over.
        clips: Clips that were tested.
        judge: See `Score`.
        reason: Why clips are missing, where it is known.
    """
    metric = CATALOGUE[entry].metric
    if n < clips and reason is None:
        reason = f"{clips - n} of {clips} clips are left out: {metric.undefined}"
    return Score(
        value=value if np.isfinite(value) else None,
        ci95=None,
        n=n,
        coverage=n / clips if clips else 0.0,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        perfect=metric.perfect,
        judge=judge,
        reason=reason if n < clips else None,
    )


def pair(entry: str, own: PerClip, other: PerClip, against: str, speakers: Mapping[int, str]) -> Paired | None:
    """Compare two rows on the clips that both have; None if there is none."""
    metric = CATALOGUE[entry].metric
    shared, i, j = np.intersect1d(own.index, other.index, return_indices=True)
    a, b = own.value[i], other.value[j]
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return None
    a, b = a[both], b[both]
    ahead = statistics.gain(a, metric.higher_is_better, metric.perfect) > statistics.gain(
        b, metric.higher_is_better, metric.perfect
    )
    return Paired(
        metric=entry,
        against=against,
        difference=float((a - b).mean()),
        ci95=statistics.interval(a - b, None, [speakers[int(k)] for k in shared[both]]),
        better=float(ahead.mean()),
        p=statistics.p_value(a - b),
        n=int(both.sum()),
    )


def clips_sha256(clip_ids: Sequence[str]) -> str:
    """Hash of which clips were scored, whatever their order."""
    return hashlib.sha256("\n".join(sorted(clip_ids)).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write(record: Record, per_clip: pd.DataFrame, out: Path) -> Path:
    """Write a record and its per-clip scores, each aside first and then renamed.

    Args:
        record: The record.
        per_clip: Columns clip_id, speaker and one a metric; a row a clip.
        out: The results folder.

    Returns:
        Path of the JSON file; the CSV file beside it has the same name.
    """
    path = out / record.stem
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_rounded(dataclasses.asdict(record)), indent=1, ensure_ascii=False)
    table = per_clip.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    for suffix, content in ((".csv", table), (".json", text + "\n")):
        aside = path.with_name(f".{path.name}{suffix}.{os.getpid()}")
        aside.write_text(content, encoding="utf-8")
        aside.replace(path.with_name(path.name + suffix))
    return path.with_name(path.name + ".json")


def read(path: Path) -> Record:
    """Read a record back.

    Raises:
        ValueError: The file is no record, or a newer lipbench wrote it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a results record: {error}") from error
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema}; lipbench {lipbench.__version__} reads schema {SCHEMA}")
    try:
        scores = {name: Score(**_tuples(value)) for name, value in content.pop("scores").items()}
        paired = [Paired(**_tuples(value)) for value in content.pop("paired")]
        return Record(scores=scores, paired=paired, **content)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a results record of schema {SCHEMA}: {error}") from error


def _tuples(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"ci95": tuple(value["ci95"]) if value["ci95"] else None}


def _rounded(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Floats to seven digits: enough for every score, and the same on machines that differ in the last bits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def environment() -> dict[str, Any]:
    """Commit, versions and device of this process."""
    versions = {"lipbench": lipbench.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {**_commit(), "versions": versions, "device": device_name()}


def device_name() -> str:
    """The accelerator, or the processor and its cores."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    return f"{found[1] if found else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _commit() -> dict[str, Any]:
    """Commit of lipbench's source, and whether the source differs from it; None outside a git checkout."""
    source = Path(lipbench.__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ("git", "-C", str(source), *words), capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


_PATH: Final = re.compile(r"(?<![\w.:/~])(?:\.\.)?(?:/[^\s/,;:'\"\[\]{}()=]+)+/?")


def portable(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """A copy in which paths that lead out of the current folder are reduced to their last part.

    Records are committed and read by others: they shall not show how a machine is laid out.
    """
    if isinstance(value, Mapping):
        return {str(key): portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [portable(item) for item in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, str | Path):
        return _PATH.sub(lambda match: _shown(match[0]), str(value))
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _shown(text: str) -> str:
    path, here = Path(text), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def command() -> str:
    """The command line of this process, portable."""
    program = Path(sys.argv[0]).name
    program = "python -m lipbench" if program == "__main__.py" else program
    return " ".join([program, *(shlex.quote(portable(word)) for word in sys.argv[1:])])


def now() -> str:
    """UTC to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
