"""The bank: which metrics there are, what each needs, and one pass over a batch that looks at every video only once."""

import difflib
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast, get_args

import torch
from torch import Tensor

from lipbench import discovery
from lipbench.errors import Unavailable, UsageError
from lipbench.evaluation.schema import TEXT
from lipbench.media import geometry
from lipbench.scoring.base import (
    ClipMetric,
    Column,
    FramesMetric,
    ObservationMetric,
    Output,
    PerClip,
    Region,
    TranscriptMetric,
)
from lipbench.scoring.observers import MAKE, Observer, Reader
from lipbench.scoring.sets import SetMetric
from lipbench.scoring.views import ReferenceBatch, VideoViews
from lipbench.types import ClipBatch, View

Metric = ClipMetric | SetMetric
_GROUPS: Final = (
    "quality",
    "landmarks",
    "motion",
    "sync",
    "reading",
    "identity",
    "distribution",
    "dtw",
    "legacy",
)
"""Order of the groups in tables; others come last, by name."""
_LACKING: Final = {
    "face": "a packed store keeps the model's view only",
    "whole": "whole frames are those of videos beside videos: lipbench evaluate MADE REFERENCE without --view",
}
"""Batch key -> why it may be absent."""
DEFAULT: Final = "default"
"""Name of all columns that are computed unless columns are named."""


@dataclass(frozen=True)
class MetricSpec:
    """A column of the bank: what a metric declares, and its class."""

    column: Column
    metric: type[Metric]

    @property
    def name(self) -> str:
        """Column name, such as "mouth/psnr" or "opening_corr[speech]"."""
        return self.column.name

    @property
    def group(self) -> str:
        """Selected together with its group's name."""
        return self.column.group

    def make(self, files: Mapping[str, str]) -> Metric:
        """An empty metric.

        Args:
            files: Name -> weights file that the user gave for it.
        """
        options = dict(self.column.options)
        if self.metric.file is not None and self.metric.file in files:
            options["weights"] = files[self.metric.file]
        return self.metric(**options)


def entries(metric: type[Metric]) -> list[MetricSpec]:
    """The columns that a metric's class declares itself.

    Raises:
        UsageError: It declares none, or a column that does not suit its kind.
    """
    found = [MetricSpec(column, metric) for column in vars(metric).get("columns", ())]
    if not found:
        raise UsageError(
            f"{metric.__module__}.{metric.__qualname__} declares no column; expected, for example, "
            'columns = (Column("my_metric", "my_group"),)'
        )
    for entry in found:
        if entry.column.region not in (get_args(Region) if issubclass(metric, FramesMetric) else (None,)):
            wanted = "region='mouth' or 'native'" if issubclass(metric, FramesMetric) else "no region"
            had = f"region {entry.column.region}"
            raise UsageError(f"column {entry.name!r} of {metric.__qualname__} has {had}; it needs {wanted}")
        text = entry.column.scores == "text"
        if text and not issubclass(metric, TranscriptMetric):
            raise UsageError(f"column {entry.name!r} scores text, and {metric.__qualname__} is no TranscriptMetric")
        if text != entry.name.startswith(TEXT):
            raise UsageError(f"column {entry.name!r} scores {entry.column.scores}; names with {TEXT!r} are for text")
    return found


def _classes() -> Iterator[type[Metric]]:
    """Classes with columns: those of `lipbench.metrics`, and what other packages bring as entry points."""
    for name, path in discovery.files("metric").items():
        if not path.is_relative_to(discovery.PACKAGE):
            yield discovery.load("metric", name)
            continue
        module = importlib.import_module(f"lipbench.{discovery.FOLDERS['metric']}.{name}")
        for found in vars(module).values():
            if inspect.isclass(found) and found.__module__ == module.__name__ and "columns" in vars(found):
                yield cast("type[Metric]", found)


def _ordered(found: Sequence[MetricSpec]) -> dict[str, MetricSpec]:
    """Entries by name in the order of tables.

    Raises:
        UsageError: Two metrics declare one column.
    """

    def place(entry: MetricSpec) -> tuple[int, str, float, str]:
        known = entry.group in _GROUPS
        order = _GROUPS.index(entry.group) if known else len(_GROUPS)
        return order, entry.group, entry.column.place, entry.name

    named: dict[str, MetricSpec] = {}
    for entry in sorted(found, key=place):
        other = named.setdefault(entry.name, entry)
        if other.metric is not entry.metric:
            pair = " and ".join(f"{one.metric.__module__}.{one.metric.__qualname__}" for one in (other, entry))
            raise UsageError(f"{pair} both declare the column {entry.name!r}; rename one")
    return named


METRICS: Final[dict[str, MetricSpec]] = _ordered([entry for metric in _classes() for entry in entries(metric)])
"""Column name -> entry: of every file in `lipbench.metrics`, and of what other packages bring as entry points."""


def select(names: Sequence[str] | None, scores: Output = "video") -> list[MetricSpec]:
    """Entries by name, group or class path, in the catalogue's order; None gives the default ones.

    Args:
        names: Columns, groups, "default", or metrics of other packages as `package.module.Class`, which are imported.
        scores: Only columns that score this output.

    Raises:
        ValueError: A name is unknown; the message suggests the nearest.
        UsageError: A class path leads to no metric.
    """
    chosen = [DEFAULT] if names is None else list(names)
    outside = [entry for name in chosen if _is_class_path(name) for entry in entries(discovery.load("metric", name))]
    there = _ordered([*METRICS.values(), *outside])
    groups = {entry.group for entry in there.values()}
    known = [*sorted(groups), DEFAULT, *there]
    for name in chosen:
        if name not in known and not _is_class_path(name):
            same = [column for column in there if name == there[column].metric.name]
            near = same or difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise ValueError(
                f"unknown metric {name!r}; {hint}There are {', '.join(there)}; groups {', '.join(sorted(groups))}"
            )
    named = {entry.name for entry in outside}
    return [
        entry
        for entry in there.values()
        if entry.column.scores == scores
        and (
            entry.name in chosen
            or entry.group in chosen
            or entry.name in named
            or (DEFAULT in chosen and entry.column.default)
        )
    ]


def _is_class_path(name: str) -> bool:
    """Whether a name is that of a class in another package: "my_package.my_module.MyMetric"."""
    return "." in name and all(part.isidentifier() for part in name.split("."))


class Bank:
    """Metrics chosen by name, and the observers that they share.

    Args:
        names: Names, groups or class paths, see `select`; None for the default ones.
        files: Weights that the user names: metric or observer -> path.
        cache: Folder that keeps observations of videos that recur; None keeps nothing.
        scores: What the columns score: generated "video", or the "text" that a model reads.

    Raises:
        FileNotFoundError: A file that a column needs was named and is not there: better told before the scoring than by
            empty columns after it.
        ValueError: A name is unknown, or a file that a column needs was named and cannot be used.
        Unavailable: A metric asked for by its own name cannot be computed here. One that came with a group or by
            default is left empty instead, and `reasons` says why.
    """

    def __init__(
        self,
        names: Sequence[str] | None = None,
        files: Mapping[str, str] | None = None,
        cache: Path | None = None,
        scores: Output = "video",
    ) -> None:
        self.entries = select(names, scores)
        self.observers: dict[str, Observer] = {}
        self.reasons: dict[str, str] = {}
        self.judges: dict[str, str] = {}
        """Metric name -> who judges it, where somebody does."""
        self._files = dict(files or {})
        for entry in self.entries:
            try:
                metric = entry.make(self._files)
                for name in observed(entry):
                    if name not in self.observers:
                        self.observers[name] = MAKE[name](self._files, cache)
            except Unavailable as error:
                if names and entry.name in names:
                    raise
                keys = *observed(entry), entry.metric.file
                named = [self._files[key] for key in keys if key is not None and key in self._files]
                if named:
                    there = Path(named[0]).expanduser().is_file()
                    raise (ValueError if there else FileNotFoundError)(str(error)) from error
                self.reasons[entry.name] = str(error)
                continue
            judges = list(dict.fromkeys(self.observers[name].judge for name in observed(entry)))
            judges += [metric.judge] if isinstance(metric, ClipMetric) and metric.judge else []
            if judges:
                self.judges[entry.name] = " + ".join(judges)

    def scene(self, batch: ClipBatch, view: View) -> ReferenceBatch:
        """The clips of one batch."""
        return ReferenceBatch(batch, view, self.observers)

    def row(self, device: torch.device | str = "cpu") -> "ScoreRow":
        """Empty accumulators for one row of a table."""
        made = {e.name: e.make(self._files).to(device) for e in self.entries if e.name not in self.reasons}
        return ScoreRow(self.entries, made, dict(self.reasons), self.observers)


def observed(entry: MetricSpec) -> tuple[str, ...]:
    """The observations that a column takes of videos; none if it takes frames, or a model's own text."""
    if entry.column.scores != "video" or entry.metric.observes is None:
        return ()
    other = entry.metric.observes_target if issubclass(entry.metric, ObservationMetric) else None
    return (entry.metric.observes,) if other is None else (entry.metric.observes, other)


def required_keys(entry: MetricSpec, observers: Mapping[str, Observer]) -> set[str]:
    """Batch keys without which a column stays empty.

    Args:
        entry: The column.
        observers: From `Bank`.
    """
    keys = {"face"} if entry.column.region == "mouth" else set()
    for name in observed(entry):
        keys |= observers[name].needs
    return keys | ({"text"} if issubclass(entry.metric, TranscriptMetric) else set())


def unsuited_view(entry: MetricSpec, view: View) -> str | None:
    """Why a column stays empty whatever a model of this view makes; None if it does not.

    Args:
        entry: The column.
        view: In which the model makes its frames.
    """
    metric = entry.metric
    if issubclass(metric, FramesMetric) and entry.column.region == "native" and min(view.size) < metric.least:
        least = f"{metric.least}x{metric.least} px"
        return f"{metric.name} needs pictures of {least}; the view {view} is smaller"
    if issubclass(metric, ObservationMetric) and metric.partial_view and geometry.holds_face(view):
        return f"the view {view} holds the whole face, so that it is not pasted into another one"
    return None


class ScoreRow:
    """The scores of one row of a table: a model, a control or a calibration.

    Args:
        entries: The columns.
        metrics: Column name -> metric, for the columns that can be computed.
        reasons: Column name -> why it cannot.
        observers: From `Bank`.
    """

    def __init__(
        self,
        entries: Sequence[MetricSpec],
        metrics: Mapping[str, Metric],
        reasons: dict[str, str],
        observers: Mapping[str, Observer],
    ) -> None:
        self.entries = entries
        self.metrics = {name: metric for name, metric in metrics.items() if isinstance(metric, ClipMetric)}
        self.sets = {name: metric for name, metric in metrics.items() if isinstance(metric, SetMetric)}
        self.reasons = reasons
        self.observers = observers

    def update(self, pred: VideoViews, scene: ReferenceBatch) -> None:
        """Score a video of a batch in every column whose input is there."""
        batch, target = scene.batch, scene.reference
        same = pred.length == target.length
        for entry in self.entries:
            if not self._has_input(entry, batch, scene.view):
                continue
            metric, whole = self.metrics.get(entry.name), self.sets.get(entry.name)
            if whole is not None:
                p, t = pred.observe(whole.observes), target.observe(whole.observes)
                whole.update(p, t, batch["index"], target.length, pred.length)
            if metric is None:
                continue
            length = target.length
            if metric.aligned and not bool(same.all()):
                length = length.masked_fill(~same, 0)
                self.reasons[entry.name] = (
                    "generated and reference video differ in length, so frames cannot be compared"
                )
            if isinstance(metric, TranscriptMetric):
                read, reader = pred.observe(metric.observes), self.observers[metric.observes]
                if isinstance(reader, Reader) and reader.one_word:
                    length = self._of_one_word(entry, batch, length)
                metric.update(read, batch["text"], batch["index"], length)
            elif isinstance(metric, ObservationMetric | FramesMetric):
                if isinstance(metric, ObservationMetric):
                    p, t = pred.observe(metric.observes), target.observe(metric.observes_target or metric.observes)
                else:
                    region = cast(Region, entry.column.region)
                    p, t = pred.pictures(region), target.pictures(region)
                if metric.aligned:
                    p = p[:, : target.native.shape[1]]  # clips that are longer than their reference are undefined
                metric.update(p, t, batch["index"], length, pred.length, batch.get("speech"))

    def update_text(self, texts: Sequence[str | None], batch: ClipBatch, one_word: bool = False) -> None:
        """Score what a model read in the videos of a batch, in every column that scores text.

        Args:
            texts: What it wrote for each clip; None where it could not read.
            batch: index, video_len and, unless nobody knows it, the text.
            one_word: It writes a word a clip, whatever is said: clips of several words stay undefined.
        """
        for entry in self.entries:
            metric = self.metrics.get(entry.name)
            if isinstance(metric, TranscriptMetric) and self._has_input(entry, batch, None):
                length = batch["video_len"]
                length = self._of_one_word(entry, batch, length) if one_word else length
                metric.update(texts, batch["text"], batch["index"], length)

    def _of_one_word(self, entry: MetricSpec, batch: ClipBatch, length: Tensor) -> Tensor:
        """Lengths (B,), 0 where a clip says several words; then the reason is kept."""
        several = torch.tensor([len(text.split()) > 1 for text in batch["text"]], device=length.device)
        if bool(several.any()):
            self.reasons[entry.name] = "the reader classifies clips of one word, and clips here say several"
        return length.masked_fill(several, 0)

    def _has_input(self, entry: MetricSpec, batch: ClipBatch, view: View | None) -> bool:
        """Whether a column can be scored from a batch; if not, the reason is kept."""
        metric = self.metrics.get(entry.name)
        if metric is None and entry.name not in self.sets:
            return False
        missing = sorted(required_keys(entry, self.observers) - batch.keys())
        if missing:
            self.reasons[entry.name] = f"the batch has no {' and no '.join(missing)}" + next(
                (f" ({_LACKING[key]})" for key in missing if key in _LACKING), ""
            )
        elif view is not None and (unsuited := unsuited_view(entry, view)) is not None:
            self.reasons[entry.name] = unsuited
            return False
        return not missing

    def local_scores(self) -> dict[str, PerClip]:
        """Scores by column of the clips that this process holds."""
        return {name: metric.local_scores() for name, metric in self.metrics.items()}

    def compute_set(self) -> dict[str, tuple[float, int]]:
        """Columns with one number for all clips: the number, and how many clips it is over.

        A collective call: every process must make it, for the same rows in the same order.
        """
        return {name: metric.compute_set() for name, metric in self.sets.items()}
