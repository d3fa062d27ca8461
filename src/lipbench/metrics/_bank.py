"""The bank: which metrics there are, what each needs, and one pass over a batch that looks at every video only once."""

import difflib
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipbench.media import geometry, landmarks
from lipbench.metrics._base import ClipMetric, PerClip, Unavailable, finite
from lipbench.metrics._observers import MAKE, Observer
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
from lipbench.types import ClipBatch, View

MOUTH: Final = View("mouth", 80, 160)
"""What the way "mouth" scores: full size, whatever the model makes."""
_SLACK: Final = 1e-3  # how far outside [0, 1] rounding may lead a model


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


class Take:
    """One video of a batch, seen in every way that metrics ask for, each made at most once and kept as long as this.

    A clip of 75 frames holds up to 140 MB here: let go of a take before the next one is scored.

    Args:
        scene: The clips it belongs to.
        native: (B, T, 3, h, w) float in [0, 1], in the scene's view.
        length: (B,) valid frames.
        recurs: Every test over these clips sees it again, so that observations are worth keeping on disk.
    """

    def __init__(self, scene: "Scene", native: Tensor, length: Tensor, recurs: bool = False) -> None:
        self.scene = scene
        self.native = native
        self.length = length
        self.recurs = recurs
        self._observed: dict[str, Any] = {}
        self._pasted: dict[int, Tensor] = {}

    @property
    def shown(self) -> View | None:
        """The view that was made and stands in the reference's pictures; None for the reference itself."""
        return self.scene.view

    def pictures(self, way: str) -> Tensor:
        """Float pictures in [0, 1]: "native" (B, T, 3, h, w) or "mouth" (B, T, 3, 80, 160)."""
        return self.native if way == "native" else self.mouth

    def observe(self, name: str) -> Any:  # noqa: ANN401 - points, embeddings or texts
        """What an observer found: (B, T, ...) float, NaN where nothing was found and on padding; or B texts."""
        if name not in self._observed:
            rows = [self.scene.observers[name].observe(_Row(self, k)) for k in range(len(self.native))]
            self._observed[name] = self._stacked(rows) if isinstance(rows[0], Tensor) else rows
        return self._observed[name]

    def _stacked(self, rows: Sequence[Any]) -> Tensor:
        found: Tensor = rows[0].new_full((len(rows), self.native.shape[1], *rows[0].shape[1:]), torch.nan)
        for row, clip in zip(found, rows, strict=True):
            row[: len(clip)] = clip
        return found

    @cached_property
    def broken(self) -> Tensor:
        """(B, T) bool, frames with a value that is not finite."""
        return ~finite(self.native)

    @cached_property
    def _scaled(self) -> Tensor:
        """(B, T, 3, h', w') native pictures at the scale of the canonical picture."""
        return geometry.resize(self.native, self.scene.box.size)

    @cached_property
    def mouth(self) -> Tensor:
        """(B, T, 3, 80, 160): the mouth of the canonical picture after pasting."""
        try:
            return geometry.change_view(self._scaled, self.scene.box, MOUTH)
        except ValueError:  # the view is smaller than the mouth: around it stands the reference
            around = torch.stack([self._around(row) for row in range(len(self.native))])
            return geometry.overlay(geometry.crop(around, MOUTH).float() / 255, MOUTH, self._scaled, self.scene.box)

    def canonical(self, row: int) -> Tensor:
        """(T, 3, 352, 320) uint8: the reference's canonical pictures of a clip with this video pasted in.

        Colors of a pixel lie side by side in memory, as what looks at them wants.
        """
        if row not in self._pasted:
            pixels = self._scaled[row].nan_to_num(0).mul_(255).round_().clamp_(0, 255).to(torch.uint8)
            around = self._around(row).contiguous(memory_format=torch.channels_last)
            self._pasted[row] = geometry.paste(around, pixels, self.scene.box)
        return self._pasted[row]

    def _around(self, row: int) -> Tensor:
        """(T, 3, 352, 320) uint8 canonical pictures of the reference; the last one stays if this video is longer."""
        return _held(self.scene.face[row], self.native.shape[1])


class _Reference(Take):
    """The true video: its pictures come from the canonical picture as they are."""

    @property
    def shown(self) -> View | None:
        """None: nothing was made."""
        return None

    @cached_property
    def mouth(self) -> Tensor:
        """(B, T, 3, 80, 160)."""
        return geometry.crop(self.scene.face, MOUTH).float() / 255

    def canonical(self, row: int) -> Tensor:
        """(T, 3, 352, 320) uint8."""
        return self.scene.face[row]


@dataclass(frozen=True)
class _Row:
    """One clip of a take as an observer sees it."""

    take: Take
    row: int

    @property
    def recurs(self) -> bool:
        return self.take.recurs

    @property
    def shown(self) -> View | None:
        return self.take.shown

    @property
    def length(self) -> int:
        return int(self.take.length[self.row])

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        scene = self.take.scene
        points = scene.batch["landmarks"][self.row, : int(scene.reference.length[self.row])]
        boxes = np.array(landmarks.box_of(_held(points, self.length).cpu().numpy()), np.float32)  # (T, 4)
        boxes[self.broken.cpu().numpy()] = np.nan
        return boxes

    @property
    def broken(self) -> Tensor:
        return self.take.broken[self.row, : self.length]

    @property
    def canonical(self) -> npt.NDArray[np.uint8]:
        pictures = self.take.canonical(self.row)[: self.length]
        return np.asarray(pictures.permute(0, 2, 3, 1).contiguous().cpu().numpy())

    def pictures(self, view: View) -> Tensor:
        return geometry.crop(self.take.canonical(self.row)[: self.length], view).float() / 255

    @property
    def sound(self) -> Tensor:
        batch = self.take.scene.batch
        return batch["sound"][self.row, : int(batch["sound_len"][self.row])]

    @property
    def fps(self) -> float:
        return float(self.take.scene.batch["fps"][self.row])

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        known = self.take.scene.known
        if (name, self.row) not in known:
            known[name, self.row] = make()
        return known[name, self.row]


def _held(frames: Tensor, count: int) -> Tensor:
    """The first `count` of frames (T, ...); after the last of them it is repeated."""
    if count <= len(frames):
        return frames[:count]
    return torch.cat([frames, frames[-1:].expand(count - len(frames), *frames.shape[1:])])


class Scene:
    """The clips of one batch, against which videos are scored.

    Args:
        batch: With `video` in the model's view and, unless the store is packed, `face` and `landmarks`.
        view: The model's view.
        observers: From `Bank`.
    """

    def __init__(self, batch: ClipBatch, view: View, observers: Mapping[str, Observer]) -> None:
        self.batch = batch
        self.view = view
        self.observers = observers
        top, left, bottom, right = geometry.box(view.name)
        self.box = View(view.name, bottom - top, right - left)
        """The view at the scale of the canonical picture."""
        self.known: dict[tuple[str, int], Tensor] = {}
        """What observers made once for all videos of a clip: (name, row of the batch) -> tensor."""
        # Weak, for else the two hold each other, and 100 MB a clip wait for the collector of cycles.
        own = cast(Scene, weakref.proxy(self))
        self.reference: Take = _Reference(own, batch["video"].float(), batch["video_len"], recurs=True)

    @property
    def face(self) -> Tensor:
        """(B, T, 3, 352, 320) uint8 canonical pictures of the reference."""
        return self.batch["face"]

    def take(self, video: Tensor, length: Tensor | None = None, recurs: bool = False) -> Take:
        """A video made for these clips.

        Args:
            video: (B, N, 3, h, w) float in [0, 1] in the scene's view; padded to the reference's T frames if shorter.
            length: (B,) valid frames; None means the reference's.
            recurs: See `Take`.

        Raises:
            ValueError: Size or range is not what the view says.
        """
        if tuple(video.shape[-3:]) != (3, *self.view.size):
            got, wanted = tuple(video.shape[-3:]), (3, *self.view.size)
            raise ValueError(f"generated frames have shape {got}; the view {self.view} needs {wanted}")
        video = video.detach().float()
        low, high = video.aminmax() if video.numel() else (video.new_zeros(()), video.new_ones(()))
        if low < -_SLACK or high > 1 + _SLACK:  # False for NaN, which metrics leave undefined
            raise ValueError(f"generated frames lie in [{low:.3f}, {high:.3f}]; a model returns frames in [0, 1]")
        frames = self.reference.native.shape[1]
        if video.shape[1] < frames:
            video = torch.cat([video, video.new_zeros(len(video), frames - video.shape[1], *video.shape[2:])], 1)
        if not (low >= 0 and high <= 1):
            video = video.clamp(0, 1)
        video = video.to(self.reference.native.device)
        own = self.reference.length if length is None else length.to(self.reference.length.device)
        return Take(self, video, own, recurs)


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
