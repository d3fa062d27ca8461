"""The bank: which metrics there are, what each needs, and one pass over a batch that looks at every video only once."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from lipbench.errors import Unavailable
from lipbench.metrics.cpbd import CPBD
from lipbench.metrics.csim import CSIM
from lipbench.metrics.dtw import WarpedLMD, WarpedPSNR, WarpedSSIM
from lipbench.metrics.fid import FID, KID, SetMetric
from lipbench.metrics.fvd import FVD
from lipbench.metrics.jitter import Jitter
from lipbench.metrics.lmd import LMD, LandmarkCoverage, NormalisedLMD
from lipbench.metrics.lpips import LPIPS
from lipbench.metrics.lse import LSEC, LSED, AVOffset
from lipbench.metrics.motion import MotionInSilence, MotionOutsideLips, OneSidedMotion
from lipbench.metrics.opening import OpeningCorrelation, OpeningRatio
from lipbench.metrics.psnr import PSNR, GreyWrapPSNR
from lipbench.metrics.ssim import SSIM, GreySSIM
from lipbench.metrics.wer import CER, PER, WER, SecondCER, SecondWER, WordAccuracy
from lipbench.scoring.base import ClipMetric, PerClip
from lipbench.scoring.observers import MAKE, Observer
from lipbench.scoring.views import Scene, Take
from lipbench.types import ClipBatch, View


@dataclass(frozen=True)
class Entry:
    """A column of the bank.

    Args:
        name: Column name, such as "mouth/psnr" or "opening_corr[speech]".
        metric: The metric's class.
        make: Makes it, given the files that the user named for it.
        group: Selected together with its group's name.
        way: "mouth" or "native" pictures; None for metrics of an observation.
        default: Computed unless metrics are named.
    """

    name: str
    metric: type[ClipMetric] | type[SetMetric]
    make: Callable[[Mapping[str, str]], ClipMetric | SetMetric]
    group: str
    way: str | None = None
    default: bool = True


CATALOGUE: Final[dict[str, Entry]] = {
    entry.name: entry
    for entry in (
        Entry("mouth/psnr", PSNR, lambda files: PSNR(), "quality", "mouth"),
        Entry("mouth/ssim", SSIM, lambda files: SSIM(), "quality", "mouth"),
        Entry("mouth/lpips", LPIPS, lambda files: LPIPS(files.get("lpips")), "quality", "mouth"),
        Entry("native/psnr", PSNR, lambda files: PSNR(), "quality", "native"),
        Entry("native/ssim", SSIM, lambda files: SSIM(), "quality", "native"),
        Entry("mouth/cpbd", CPBD, lambda files: CPBD(), "quality", "mouth"),
        Entry("native/cpbd", CPBD, lambda files: CPBD(), "quality", "native"),
        Entry("lmd", LMD, lambda files: LMD(), "landmarks"),
        Entry("opening_corr", OpeningCorrelation, lambda files: OpeningCorrelation(), "landmarks"),
        Entry("opening_corr[speech]", OpeningCorrelation, lambda files: OpeningCorrelation("speech"), "landmarks"),
        Entry("opening_ratio", OpeningRatio, lambda files: OpeningRatio(), "landmarks"),
        Entry("jitter", Jitter, lambda files: Jitter(), "landmarks", default=False),
        Entry("lmd_iod", NormalisedLMD, lambda files: NormalisedLMD(), "landmarks", default=False),
        Entry("lmd_coverage", LandmarkCoverage, lambda files: LandmarkCoverage(), "landmarks", default=False),
        Entry("motion_silence", MotionInSilence, lambda files: MotionInSilence(), "motion", default=False),
        Entry("motion_outside", MotionOutsideLips, lambda files: MotionOutsideLips(), "motion", default=False),
        Entry("motion_one_sided", OneSidedMotion, lambda files: OneSidedMotion(), "motion", default=False),
        Entry("lse_c", LSEC, lambda files: LSEC(), "sync"),
        Entry("lse_d", LSED, lambda files: LSED(), "sync"),
        Entry("av_offset", AVOffset, lambda files: AVOffset(), "sync"),
        Entry("wer", WER, lambda files: WER(), "reading"),
        Entry("cer", CER, lambda files: CER(), "reading"),
        Entry("word_accuracy", WordAccuracy, lambda files: WordAccuracy(), "reading", default=False),
        Entry("wer[sub]", WER, lambda files: WER("substitutions"), "reading", default=False),
        Entry("wer[del]", WER, lambda files: WER("deletions"), "reading", default=False),
        Entry("wer[ins]", WER, lambda files: WER("insertions"), "reading", default=False),
        Entry("wer[utterance]", WER, lambda files: WER(pooling="utterance"), "reading", default=False),
        Entry("cer[utterance]", CER, lambda files: CER(pooling="utterance"), "reading", default=False),
        Entry("wer[second]", SecondWER, lambda files: SecondWER(), "reading", default=False),
        Entry("cer[second]", SecondCER, lambda files: SecondCER(), "reading", default=False),
        Entry("per", PER, lambda files: PER(words=True), "reading", default=False),
        Entry("csim", CSIM, lambda files: CSIM(), "identity", default=False),
        Entry("fid", FID, lambda files: FID(), "distribution", default=False),
        Entry("kid", KID, lambda files: KID(), "distribution", default=False),
        Entry("fvd", FVD, lambda files: FVD(), "distribution", default=False),
        Entry("mouth/psnr[dtw]", WarpedPSNR, lambda files: WarpedPSNR(), "dtw", "mouth", default=False),
        Entry("mouth/ssim[dtw]", WarpedSSIM, lambda files: WarpedSSIM(), "dtw", "mouth", default=False),
        Entry("lmd[dtw]", WarpedLMD, lambda files: WarpedLMD(), "dtw", default=False),
        Entry("mouth/cpbd[atvgnet]", CPBD, lambda files: CPBD("atvgnet"), "legacy", "mouth", default=False),
        Entry("lse_c[mask]", LSEC, lambda files: LSEC("mask"), "legacy", default=False),
        Entry("lse_d[mask]", LSED, lambda files: LSED("mask"), "legacy", default=False),
        Entry("av_offset[signed]", AVOffset, lambda files: AVOffset(signed=True), "legacy", default=False),
        Entry("mouth/psnr[uint8-wrap]", PSNR, lambda files: PSNR(wrap=True), "legacy", "mouth", default=False),
        Entry("native/psnr[uint8-wrap]", PSNR, lambda files: PSNR(wrap=True), "legacy", "native", default=False),
        Entry("native/psnr[grey-wrap]", GreyWrapPSNR, lambda files: GreyWrapPSNR(), "legacy", "native", default=False),
        Entry("native/ssim[grey]", GreySSIM, lambda files: GreySSIM(), "legacy", "native", default=False),
        Entry("lmd[raw]", LMD, lambda files: LMD("raw"), "legacy", default=False),
        Entry("lmd[sum]", LMD, lambda files: LMD("sum"), "legacy", default=False),
        Entry("lmd[crop64]", LMD, lambda files: LMD("crop64"), "legacy", default=False),
    )
}


def select(names: Sequence[str] | None) -> list[Entry]:
    """Entries by name or group, in the catalogue's order; None gives the default ones.

    Raises:
        ValueError: A name is unknown; the message suggests the nearest.
    """
    if names is None:
        return [entry for entry in CATALOGUE.values() if entry.default]
    groups = {entry.group for entry in CATALOGUE.values()}
    known = [*sorted(groups), *CATALOGUE]
    for name in names:
        if name not in known:
            same = [column for column in CATALOGUE if name == CATALOGUE[column].metric.name]
            near = same or difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise ValueError(
                f"unknown metric {name!r}; {hint}There are {', '.join(CATALOGUE)}; groups {', '.join(sorted(groups))}"
            )
    return [entry for entry in CATALOGUE.values() if entry.name in names or entry.group in names]


class Bank:
    """Metrics chosen by name, and the observers that they share.

    Args:
        names: Names or groups; None for the default ones.
        files: Weights that the user names: metric or observer -> path.
        cache: Folder that keeps observations of videos that recur; None keeps nothing.

    Raises:
        FileNotFoundError: A file that a column needs was named and is not there: better told before the scoring than by
            empty columns after it.
        ValueError: A name is unknown, or a file that a column needs was named and cannot be used.
        Unavailable: A metric asked for by its own name cannot be computed here. One that came with a group or by
            default is left empty instead, and `reasons` says why.
    """

    def __init__(
        self, names: Sequence[str] | None = None, files: Mapping[str, str] | None = None, cache: Path | None = None
    ) -> None:
        self.entries = select(names)
        self.observers: dict[str, Observer] = {}
        self.reasons: dict[str, str] = {}
        self.judges: dict[str, str] = {}
        """Metric name -> who judges it, where somebody does."""
        self._files = dict(files or {})
        for entry in self.entries:
            try:
                metric = entry.make(self._files)
                if metric.observes and metric.observes not in self.observers:
                    self.observers[metric.observes] = MAKE[metric.observes](self._files, cache)
            except Unavailable as error:
                if names and entry.name in names:
                    raise
                named = [self._files[key] for key in (entry.metric.observes, entry.metric.name) if key in self._files]
                if named:
                    there = Path(named[0]).expanduser().is_file()
                    raise (ValueError if there else FileNotFoundError)(str(error)) from error
                self.reasons[entry.name] = str(error)
                continue
            judges = [self.observers[metric.observes].judge] if metric.observes else []
            judges += [metric.judge] if isinstance(metric, ClipMetric) and metric.judge else []
            if judges:
                self.judges[entry.name] = " + ".join(judges)

    def scene(self, batch: ClipBatch, view: View) -> Scene:
        """The clips of one batch."""
        return Scene(batch, view, self.observers)

    def row(self, device: torch.device | str = "cpu") -> "Row":
        """Empty accumulators for one row of a table."""
        made = {e.name: e.make(self._files).to(device) for e in self.entries if e.name not in self.reasons}
        return Row(self.entries, made, dict(self.reasons), self.observers)


def wants(entry: Entry, observers: Mapping[str, Observer]) -> set[str]:
    """Batch keys without which a column stays empty.

    Args:
        entry: The column.
        observers: From `Bank`.
    """
    metric = entry.metric
    keys = {"face"} if entry.way == "mouth" else set()
    if metric.observes:
        keys |= observers[metric.observes].needs
    if issubclass(metric, ClipMetric):
        keys |= metric.needs
        if metric.against:
            keys.add(metric.against)
    return keys


class Row:
    """The scores of one row of a table: a model, a control or a calibration.

    Args:
        entries: The columns.
        metrics: Column name -> metric, for the columns that can be computed.
        reasons: Column name -> why it cannot.
        observers: From `Bank`.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        metrics: Mapping[str, ClipMetric | SetMetric],
        reasons: dict[str, str],
        observers: Mapping[str, Observer],
    ) -> None:
        self.entries = entries
        self.metrics = {name: metric for name, metric in metrics.items() if isinstance(metric, ClipMetric)}
        self.sets = {name: metric for name, metric in metrics.items() if isinstance(metric, SetMetric)}
        self.reasons = reasons
        self.observers = observers

    def update(self, pred: Take, scene: Scene) -> None:
        """Score a video of a batch in every column whose input is there."""
        batch: dict[str, Any] = {**scene.batch, "pred_len": pred.length}
        target = scene.reference
        frames = target.native.shape[1]
        same = pred.length == target.length
        for entry in self.entries:
            metric, whole = self.metrics.get(entry.name), self.sets.get(entry.name)
            if metric is None and whole is None:
                continue
            missing = sorted(wants(entry, self.observers) - batch.keys())
            if missing:
                self.reasons[entry.name] = f"the batch has no {' and no '.join(missing)}" + (
                    " (a packed store keeps the model's view only)" if "face" in missing else ""
                )
                continue
            if whole is not None:
                p, t = pred.observe(whole.observes), target.observe(whole.observes)
                whole.update(p, t, batch["index"], target.length, pred.length)
            if metric is None:
                continue
            side = min(target.native.shape[-2:])
            if entry.way == "native" and side < metric.least:
                least = f"{metric.least}x{metric.least} px"
                self.reasons[entry.name] = f"{metric.name} needs pictures of {least}; the view {scene.view} is smaller"
                continue
            length = target.length
            if metric.aligned and not bool(same.all()):
                length = length.masked_fill(~same, 0)
                self.reasons[entry.name] = (
                    "generated and reference video differ in length, so frames cannot be compared"
                )
            if metric.against:
                p, t = pred.observe(str(metric.observes)), batch[metric.against]
            elif metric.observes:
                p, t = pred.observe(metric.observes), target.observe(metric.observes)
            else:
                p, t = pred.pictures(str(entry.way)), target.pictures(str(entry.way))
            if metric.aligned:
                p = p[:, :frames]  # clips that are longer than their reference are undefined
            metric.update(p, t, index=batch["index"], length=length, **{k: batch[k] for k in metric.needs})

    def local(self) -> dict[str, PerClip]:
        """Scores by column of the clips that this process holds."""
        return {name: metric.local() for name, metric in self.metrics.items()}

    def whole(self) -> dict[str, tuple[float, int]]:
        """Columns with one number for all clips: the number, and how many clips it is over.

        A collective call: every process must make it, for the same rows in the same order.
        """
        return {name: metric.whole() for name, metric in self.sets.items()}
