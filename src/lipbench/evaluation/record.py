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
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

import lipbench
from lipbench.errors import visible
from lipbench.evaluation import schema as record_schema
from lipbench.evaluation import writing
from lipbench.files import write_together

if TYPE_CHECKING:  # tables are made of records by a command that does without PyTorch
    import pandas as pd

SCHEMA: Final = 1
Kind = Literal["model", "control", "calibration"]
CALIBRATIONS: Final = (
    "ground-truth",
    "reencoded-truth",
    "resized-truth",
    "frozen-frame",
    "mean-mouth",
    "shuffled-audio",
    "shuffled-text",
)
"""Names of calibration rows in the order of tables; what they are stands in `lipbench.evaluation.calibration`."""
_MOST: Final = 16 * 2**20  # bytes of a record; ours have ten thousand
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
        timing: Who decided the durations; None for calibration rows and for models that make no video.
        model: class_path, arguments, parameters (by part), checkpoint_sha256 or weights_sha256, paper.
        training: batches, epoch, seed, protocol (whose training split; None where the checkpoint does not say).
        data: What the store says of itself: settings, counts, packed view.
        scores: Column -> score.
        paired: Comparisons with rows of the same test.
        environment: commit, dirty, versions, device, processes, precision.
        command: As typed; folders of this machine are left out.
        created: UTC.
        beside: Names of the control and calibration rows that the same test scored; they have records of their own.
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
    beside: list[str] = field(default_factory=list)
    schema: int = SCHEMA

    @property
    def trained_elsewhere(self) -> str | None:
        """The protocol that the model was trained on, if it is another than the one it is scored under."""
        trained = self.training.get("protocol")  # absent in records from before it was noted
        return trained if isinstance(trained, str) and trained != self.protocol["name"] else None

    @property
    def preparation(self) -> dict[str, Any]:
        """What the store says of how its pictures came about; how many clips it holds does not matter."""
        settings = {key: value for key, value in self.data.get("settings", {}).items() if key != "limit"}
        return {"settings": settings, "packed": self.data.get("packed")}

    @property
    def comparable(self) -> str:
        """Eight digits that are equal for rows that may stand in one table: protocol, clips and preparation.

        Who judged does not matter here: that is compared column by column.
        """
        return _digest([self.protocol, self.clips["sha256"], self.preparation])

    @property
    def calibration_run(self) -> str:
        """Run name of a calibration row: its view, and eight digits of what it depends on.

        That is the table that it belongs to, the columns that were asked for and who judged them, so that a row with
        other columns or of other observers lies beside it and does not replace it.
        """
        judges = {name: score.judge for name, score in self.scores.items()}
        return f"{self.view.replace(' ', '-')}-{_digest([self.comparable, judges])}"

    @property
    def stem(self) -> Path:
        """Where the record lies below the results folder, without suffix."""
        run = self.run if self.control is None else f"{self.run}.{self.control}"
        return Path(self.protocol["name"], self.name, run)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def clips_sha256(clip_ids: Sequence[str]) -> str:
    """Hash of which clips were scored, whatever their order."""
    return hashlib.sha256("\n".join(sorted(clip_ids)).encode()).hexdigest()


def write(rows: "Sequence[tuple[Record, pd.DataFrame]]", out: Path) -> list[Path]:
    """Write the records of one test and their per-clip scores, all of them or none; see `write_together`.

    The records of models come last: whoever finds one finds the calibration and control rows of the same test.

    Args:
        rows: Record, and its scores of single clips: columns clip_id, speaker and one a metric; a row a clip.
        out: The results folder.

    Returns:
        Paths of the JSON files, in the order of the rows; the CSV file beside each has the same name.

    Raises:
        ValueError: The name of a protocol, a model or a run would lead out of the results folder.
        OSError: A file cannot be written.
    """
    paths, files = [], []
    for record, per_clip in rows:
        writing.check_protocol(record.protocol["name"])
        for part in (record.name, record.run, *([record.control] if record.control else [])):
            writing.check_name("the name of a row", part)
        path = out / record.stem
        text = json.dumps(_rounded(dataclasses.asdict(record)), indent=1, ensure_ascii=False)
        values = per_clip.astype(object).where(per_clip.notna(), None)  # neither NaN nor pandas' NA
        table = writing.csv_text(list(map(str, per_clip.columns)), values.itertuples(index=False, name=None))
        paths.append(path.with_name(path.name + ".json"))
        files.append((record.kind, {path.with_name(path.name + ".csv"): table, paths[-1]: text + "\n"}))
    ordered = sorted(files, key=lambda pair: ("calibration", "control", "model").index(pair[0]))
    write_together({path: content for _, own in ordered for path, content in own.items()})
    return paths


def read(path: Path) -> Record:
    """Read a record back.

    Raises:
        ValueError: The file cannot be read, is no record, or a newer lipbench wrote it; the message names the file and
            the field.
    """
    try:
        content = _parsed(path)
        schema = content.get("schema") if isinstance(content, dict) else None
        if type(schema) is int and schema != SCHEMA:
            told = f"it has schema {str(schema)[:20]}; lipbench {lipbench.__version__} reads schema {SCHEMA}"
            raise ValueError(told)
        record_schema.check(content)
    except OSError as error:
        raise ValueError(f"{visible(str(path))} cannot be read: {error.strerror}") from error
    except ValueError as error:
        told = visible(f"{path} is not a results record: {error}")
        raise ValueError(told) from error
    scores = {name: Score(**_tuples(value)) for name, value in content.pop("scores").items()}
    paired = [Paired(**_tuples(value)) for value in content.pop("paired")]
    return Record(scores=scores, paired=paired, **content)


def _parsed(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Content of a JSON file.

    Raises:
        ValueError: It is not JSON, or no regular file.
    """
    if not path.is_file():  # a folder of that name, a pipe that would never end, a link to itself
        raise ValueError("it is no regular file")
    if path.stat().st_size > _MOST:
        raise ValueError(f"it is larger than {_MOST // 2**20} MiB")
    try:
        return json.loads(path.read_bytes())  # finds UTF-8, UTF-16 and UTF-32, with or without a byte order mark
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _tuples(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"ci95": tuple(value["ci95"]) if value["ci95"] else None}


def _rounded(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Floats to seven digits: enough for every score, and the same on machines that differ in the last bits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if np.isfinite(value) else str(value)  # JSON knows neither NaN nor infinity
    return value


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
    import torch

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
