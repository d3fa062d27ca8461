"""Does every metric that can be computed on this machine order cases whose order is known? `doctor --metrics` asks.

Two rendered clips are made worse step by step, and each step must read worse. The videos go through the bank as those
of a model do, so that a broken observer, crop or average shows as well as a broken formula. Which cases there are, and
how far apart, is our own choice.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lipbench.evaluation import calibration
from lipbench.evaluation.bank import METRICS, Bank, ScoreRow
from lipbench.media import alignment, audio, geometry
from lipbench.metrics.lse import lse
from lipbench.metrics.wer import CER, WER
from lipbench.scoring.base import TranscriptMetric, mean
from lipbench.scoring.views import MOUTH, ReferenceBatch, VideoViews
from lipbench.synthetic.corpus import FPS, SAMPLE_RATE, render, sentence_ids, word_segments
from lipbench.types import ClipBatch

State = Literal["ok", "FAILED", "skipped"]

_RATE: Final = 16_000  # samples a second of `sound`
_SAMPLES: Final = _RATE // FPS  # a frame
_SHIFTS: Final = (3, -2)  # frames by which the sound comes too early
_CLOSE: Final = 1e-4  # how far rounding may lead a copy from a perfect score


@dataclass(frozen=True)
class Check:
    """What became of one check.

    Args:
        name: What must hold.
        state: "ok", "FAILED" or "skipped".
        detail: The values, or why it was skipped.
    """

    name: str
    state: State
    detail: str


@dataclass(frozen=True)
class _Ladder:
    """Videos from good to bad, and the columns that must follow.

    Args:
        name: What must hold.
        columns: Of the bank's catalogue; each counts for itself.
        rising: The columns rise from video to video; otherwise they fall.
        steps: Name of each video -> what is done to the true one, (B, T, 3, h, w) to the same.
        still: A video without motion may leave a column undefined: that is as low as a correlation gets.
    """

    name: str
    columns: tuple[str, ...]
    rising: bool
    steps: Mapping[str, Callable[[Tensor], Tensor]]
    still: bool = False


def _blurred(sigma: float) -> Callable[[Tensor], Tensor]:
    """A Gaussian blur of so many pixels."""
    radius = round(4 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()

    def blur(pictures: Tensor) -> Tensor:
        flat = pictures.flatten(0, -3)[:, None]  # (B T 3, 1, h, w)
        flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), "replicate"), kernel[None, None, None])
        flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), "replicate"), kernel[None, None, :, None])
        return flat.reshape(pictures.shape)

    return blur


def _noisy(levels: float) -> Callable[[Tensor], Tensor]:
    """Noise of so many grey levels, always the same."""

    def add(pictures: Tensor) -> Tensor:
        noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
        return (pictures + noise * (levels / 255)).clamp(0, 1)

    return add


def _same(pictures: Tensor) -> Tensor:
    return pictures.clone()


def _frozen(pictures: Tensor) -> Tensor:
    return pictures[:, :1].expand_as(pictures)


def _shaken(pictures: Tensor) -> Tensor:
    """Every other frame is the one three frames later: the mouth trembles."""
    frames = torch.arange(pictures.shape[1])
    return pictures[:, torch.where(frames % 2 == 1, frames + 3, frames).clamp(max=len(frames) - 1)]


def _displaced(pictures: Tensor) -> Tensor:
    """The second half of the frames before the first: what was silence at the ends is speech."""
    return pictures.roll(pictures.shape[1] // 2, 1)


def _twitching(pictures: Tensor) -> Tensor:
    """In every other frame the cheek on the left is darker; `pictures` show the mouth."""
    made = pictures.clone()
    made[:, 1::2, :, :, : pictures.shape[-1] // 8] *= 0.95
    return made


def _lopsided(pictures: Tensor) -> Tensor:
    """The left half stays as it was in the first frame."""
    made = pictures.clone()
    half = pictures.shape[-1] // 2
    made[..., :half] = pictures[:, :1, :, :, :half]
    return made


# Rendered skin is soft: from about 1 px on no edge is sharp, and CPBD can fall no further.
_SOFT: Final = {"sharp": _same, **{f"sigma {sigma:g} px": _blurred(sigma) for sigma in (0.5, 0.8)}}
_BLUR: Final = {"sharp": _same, **{f"sigma {sigma:g} px": _blurred(sigma) for sigma in (1, 2, 4)}}
_NOISE: Final = {"clean": _same, **{f"noise of {levels} levels": _noisy(levels) for levels in (2, 8, 32)}}
_STILL: Final = {"slightly blurred": _blurred(0.7), "frozen": _frozen}
_LADDERS: Final = (
    _Ladder("blur lowers CPBD", ("mouth/cpbd", "mouth/cpbd[atvgnet]"), False, _SOFT),
    _Ladder("blur raises LPIPS", ("mouth/lpips",), True, _BLUR),
    _Ladder("blur raises FID, KID", ("fid", "kid"), True, _BLUR),
    _Ladder("noise lowers PSNR", ("mouth/psnr", "native/psnr", "mouth/psnr[dtw]"), False, _NOISE),
    _Ladder("noise lowers SSIM", ("mouth/ssim", "native/ssim", "mouth/ssim[dtw]"), False, _NOISE),
    _Ladder(
        "a frozen frame raises LMD more than a slight blur",
        ("lmd", "lmd_iod", "lmd[raw]", "lmd[sum]", "lmd[guide]", "lmd[dtw]"),
        True,
        _STILL,
    ),
    _Ladder(
        "a frozen frame lowers the opening's correlation",
        ("opening_corr", "opening_corr[speech]"),
        False,
        _STILL,
        still=True,
    ),
    _Ladder("a frozen frame lowers the opening's amplitude", ("opening_ratio",), False, _STILL),
    _Ladder("a trembling mouth raises jitter", ("jitter",), True, {"true": _same, "trembling": _shaken}),
    _Ladder(
        "speech where nothing is said raises motion in silence",
        ("motion_silence",),
        True,
        {"true": _same, "displaced": _displaced},
    ),
    _Ladder(
        "a cheek that twitches raises motion outside the lips",
        ("motion_outside",),
        True,
        {"true": _same, "twitching": _twitching},
    ),
    _Ladder(
        "a mouth whose left half rests raises one-sided motion",
        ("motion_one_sided",),
        True,
        {"true": _same, "lopsided": _lopsided},
    ),
)

_READINGS: Final = (
    ("a reader's WER and CER", ("wer", "cer")),
    ("a second reader's WER and CER", ("wer[second]", "cer[second]")),
    ("a reader's WER in teacher forcing", ("wer[teacher-forced]",)),
)
"""What another text must raise, and its columns."""


def clips(seed: int = 0) -> ClipBatch:
    """Two clips of one rendered speaker as a batch to be scored, with the exact landmarks.

    Raises:
        ImportError, RuntimeError: The voice or OpenCV is missing.
    """
    texts, items = [], list[dict[str, Tensor]]()
    for name in sentence_ids(0, 2, seed):
        made = render(0, name, seed)
        points = made.truth.landmarks.astype(np.float64)
        transforms = geometry.similarity(points)
        words = [alignment.Word(*word) for word in made.truth.words]
        texts.append(" ".join(word_segments(name)))
        items.append(
            {
                "face": torch.from_numpy(geometry.warp(list(made.frames), transforms)).permute(0, 3, 1, 2),
                "landmarks": torch.from_numpy(geometry.transform_points(points, transforms)).float(),
                "sound": torch.from_numpy(audio.resample(made.samples, SAMPLE_RATE, _RATE)),
                "speech": torch.tensor(alignment.speech_frames(words, len(made.frames), FPS)),
            }
        )
    batch = {"text": texts, **{key: torch.stack([item[key] for item in items]) for key in items[0]}}
    return cut(cast(ClipBatch, batch), 0, len(items[0]["face"]))


def cut(batch: ClipBatch, first: int, last: int) -> ClipBatch:
    """The frames `first` to `last` - 1 of clips, with what follows from that, and each other's sound and text beside.

    Args:
        batch: face, landmarks, sound, speech and text of clips of one length at 25 frames a second.
        first: First frame.
        last: The one after the last.
    """
    count, total = len(batch["face"]), last - first
    face, sound = batch["face"][:, first:last], batch["sound"][:, first * _SAMPLES : last * _SAMPLES]
    heard = torch.full((count,), sound.shape[1])
    return {
        "index": torch.arange(count),
        "face": face,
        "landmarks": batch["landmarks"][:, first:last],
        "video": geometry.crop(face, MOUTH).float() / 255,
        "video_len": torch.full((count,), total),
        "n_frames": torch.full((count,), total),
        "fps": torch.full((count,), float(FPS)),
        "speech": (batch["speech"] - first).clamp(0, total),
        "text": batch["text"],
        "sound": sound,
        "sound_len": heard,
        "mismatched": {"text": batch["text"][::-1], "sound": sound.flip(0), "sound_len": heard},
    }


def run(batch: ClipBatch, files: Mapping[str, str] | None = None, cache: Path | None = None) -> list[Check]:
    """Make every check that the weights at hand allow.

    Args:
        batch: From `clips`.
        files: Weights as `lipbench.evaluation.evaluator.Evaluator` takes them.
        cache: See `Bank`.

    Raises:
        ValueError: A ladder names a column that the catalogue does not have.
    """
    bank = Bank(sorted({entry.group for entry in METRICS.values()}), files, cache)
    scene = bank.scene(batch, MOUTH)
    found = [_identity(bank, scene)]
    scored: dict[Callable[[Tensor], Tensor], ScoreRow] = {}
    for ladder in _LADDERS:
        unknown = set(ladder.columns) - METRICS.keys()
        if unknown:
            raise ValueError(f"the catalogue has no column {', '.join(sorted(unknown))}")
        here = [name for name in ladder.columns if name not in bank.reasons]
        if not here:
            found.append(_skipped(bank, ladder.name, ladder.columns))
            continue
        for step in ladder.steps.values():
            if step not in scored:  # in every column that a ladder with this step asks for
                wanted = {name for other in _LADDERS if step in other.steps.values() for name in other.columns}
                scored[step] = _scored(bank, scene.take(step(scene.reference.native)), scene, wanted)
        found.append(_ordered(ladder, here, [scored[step] for step in ladder.steps.values()]))
    return [*found, _made_up_offset(), _shifted(bank, scene), _foreign_sound(bank, scene), *_words(bank, scene)]


def _scored(bank: Bank, take: VideoViews, scene: ReferenceBatch, columns: Iterable[str]) -> ScoreRow:
    row = calibration.restricted_row(bank, "cpu", set(columns), "not asked for")
    with torch.inference_mode():
        row.update(take, scene)
    return row


def _values(row: ScoreRow) -> dict[str, float]:
    """Column -> mean over clips, or the one number of a set."""
    return {name: mean(clip.value, clip.weight) for name, clip in row.local_scores().items()} | {
        name: value for name, (value, _) in row.compute_set().items()
    }


def _skipped(bank: Bank, name: str, columns: Iterable[str]) -> Check:
    reasons = dict.fromkeys(bank.reasons[column] for column in columns if column in bank.reasons)
    return Check(name, "skipped", "; ".join(reasons))


def _check(name: str, wrong: Sequence[str], detail: str) -> Check:
    return Check(name, "FAILED", "; ".join(wrong)) if wrong else Check(name, "ok", detail)


def _identity(bank: Bank, scene: ReferenceBatch) -> Check:
    """A copy must score perfectly in every column that compares with the reference; texts are left to `_words`.

    KID is an estimate, which lies about 0 for a copy.
    """
    perfect = {
        entry.name: entry.metric.perfect
        for entry in bank.entries
        if entry.name not in bank.reasons
        and entry.metric.perfect is not None
        and not issubclass(entry.metric, TranscriptMetric)
        and entry.name not in ("kid", "av_offset[signed]")
    }
    found = _values(_scored(bank, scene.take(scene.reference.native.clone()), scene, perfect))
    wrong = []
    for name, wanted in perfect.items():
        value = found.get(name, float("nan"))
        if not abs(value - float(wanted)) <= _CLOSE * max(1.0, abs(float(wanted))):
            wrong.append(f"{name} of a copy is {value:.6g}, not {wanted:g}")
    return _check("a copy is perfect", wrong, ", ".join(perfect))


def _ordered(ladder: _Ladder, columns: Sequence[str], rows: Sequence[ScoreRow]) -> Check:
    tables = [_values(row) for row in rows]
    wrong, right = [], []
    for name in columns:
        values = [table.get(name, float("nan")) for table in tables]
        ranks = [-np.inf if ladder.still and np.isnan(value) else value for value in values]
        if not ladder.rising:
            ranks = [-value for value in ranks]
        shown = (" < " if ladder.rising else " > ").join(f"{value:.4g}" for value in values)
        shown = shown.replace("nan", "undefined")
        if all(a < b for a, b in pairwise(ranks)):
            right.append(f"{name} {shown}")
        else:
            wrong.append(f"{name} is not {shown}")
    return _check(ladder.name, wrong and [*wrong, f"({', '.join(ladder.steps)})"], "; ".join(right))


def _made_up_offset() -> Check:
    """The rule of LSE alone, on embeddings that fit best at a known shift."""
    draw = torch.Generator().manual_seed(0)
    video = torch.randn(1, 60, 128, generator=draw)
    wrong = []
    for shift in _SHIFTS:
        heard = video.roll(-shift, 1) + 0.3 * torch.randn(video.shape, generator=draw)
        offset = float(lse(video, heard, torch.tensor([60])).offset)
        if offset != shift:
            wrong.append(f"sound {shift:+d} frames early reads as {offset:+g}")
    return _check("a shift of made-up embeddings is the AV offset", wrong, _offsets())


def _offsets() -> str:
    return ", ".join(f"sound {shift:+d} frames early reads as {shift:+d}" for shift in _SHIFTS)


def _shifted(bank: Bank, scene: ReferenceBatch) -> Check:
    """A shift of the sound by k frames must move the offset by k: positive where the sound comes too early."""
    name, column = "a shift of the sound is the AV offset", "av_offset[signed]"
    if column in bank.reasons:
        return _skipped(bank, name, [column])
    own = _scored(bank, scene.reference, scene, [column]).local_scores()[column].value
    wrong = []
    for shift in _SHIFTS:
        moved = _moved(scene.batch["sound"], shift * _SAMPLES)
        other = bank.scene(cast(ClipBatch, {**scene.batch, "sound": moved}), MOUTH)
        read = _scored(bank, other.reference, scene, [column]).local_scores()[column].value - own
        if not (read == shift).all():
            wrong.append(f"sound {shift:+d} frames early reads as {', '.join(f'{value:+g}' for value in read)}")
    return _check(name, wrong, _offsets())


def _moved(sound: Tensor, samples: int) -> Tensor:
    """(B, S) sound that comes so many samples early, late if negative; silence where there is none."""
    moved = torch.zeros_like(sound)
    if samples >= 0:
        moved[:, : sound.shape[1] - samples] = sound[:, samples:]
    else:
        moved[:, -samples:] = sound[:, :samples]
    return moved


def _foreign_sound(bank: Bank, scene: ReferenceBatch) -> Check:
    """Another clip's sound must fit worse."""
    name, columns = "another clip's sound lowers LSE-C and raises LSE-D", ("lse_c", "lse_d")
    if any(column in bank.reasons for column in columns):
        return _skipped(bank, name, columns)
    other = calibration.with_swapped(bank, scene, "sound")
    own, foreign = (_values(_scored(bank, video, scene, columns)) for video in (scene.reference, other.reference))
    shown = [f"lse_c {own['lse_c']:.4g} > {foreign['lse_c']:.4g}", f"lse_d {own['lse_d']:.4g} < {foreign['lse_d']:.4g}"]
    right = [own["lse_c"] > foreign["lse_c"], own["lse_d"] < foreign["lse_d"]]
    return _check(name, [f"not {text}" for text, good in zip(shown, right, strict=True) if not good], "; ".join(shown))


def _words(bank: Bank, scene: ReferenceBatch) -> list[Check]:
    """A wrong word is an error and a wrong sentence are more; first on texts alone, then as a reader sees the clips."""
    said, other = scene.batch["text"][0], scene.batch["text"][1]
    first, _, rest = said.partition(" ")
    steps = {"the text": said, "one wrong word": f"{first[::-1]} {rest}", "another sentence": other}
    wrong, right = [], []
    for metric in (WER, CER):
        values = []
        for read in steps.values():
            value, _ = metric().score([read], [said], torch.tensor([1]))
            values.append(float(value))
        shown = " < ".join(f"{value:.4g}" for value in values)
        if values[0] == 0 < values[1] < values[2]:
            right.append(f"{metric.name} {shown}")
        else:
            wrong.append(f"{metric.name} is not 0 and {shown} ({', '.join(steps)})")
    found = [_check("a wrong sentence raises WER and CER", wrong, "; ".join(right))]
    return [*found, *(_foreign_text(bank, scene, *reading) for reading in _READINGS)]


def _foreign_text(bank: Bank, scene: ReferenceBatch, reading: str, columns: tuple[str, ...]) -> Check:
    """Another clip's text must be read worse."""
    name = f"another clip's sentence raises {reading}"
    if any(column in bank.reasons for column in columns):
        return _skipped(bank, name, columns)
    swapped = calibration.with_swapped(bank, scene, "text")
    own, foreign = (_values(_scored(bank, said.reference, said, columns)) for said in (scene, swapped))
    shown = {column: f"{column} {own[column]:.4g} < {foreign[column]:.4g}" for column in columns}
    wrong = [f"not {text}" for column, text in shown.items() if not own[column] < foreign[column]]
    return _check(name, wrong, "; ".join(shown.values()))
