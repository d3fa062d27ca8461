"""Rows beside a model's own: calibrations, whose scores are known beforehand, and controls, driven by something wrong.

Calibration rows are made from the reference itself. Those in the model's view and size go the model's way through
pasting, so that a model is compared with what it could have returned. A row is the same whichever model of that view is
tested beside it.

Controls are the tested model again. One that is driven by another clip's words or sound and scores as well as before
does not listen. `cross-audio` is Wav2Lip's unpaired evaluation (Prajwal et al. 2020): no true video shows what was
said, so that synchrony alone is scored; the other sound is another clip's of the same speaker (own choice).
`wrong-audio`, the same video scored against the right clip, is our own choice. `silent-audio` looks for leakage: a
model that takes the lips from its reference or pose pictures (Yaman et al. 2024, ECCV, arXiv:2307.09368) scores well as
long as these show the clip itself. KeySync's LipLeak (Bigata et al. 2025, arXiv:2505.00497) drives by silence too and
counts moving frames; that the bank's columns are scored instead is our own choice. `other-speaker` is the correlation
GAN's section 5.5 (Chen et al. 2018): the identity of one speaker, the sound of another, whose openings of the mouth it
should have.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor

from lipbench.evaluation.bank import Bank, ScoreRow, required_keys
from lipbench.media import geometry, video
from lipbench.scoring.views import ReferenceBatch, VideoViews
from lipbench.types import ClipBatch

CRF: Final = 23
"""Of the re-encoded row: FFmpeg's default for H.264."""

ROWS: Final[dict[str, str]] = {
    "ground-truth": "the reference itself: every score must be perfect",
    "reencoded-truth": f"the reference's canonical picture as H.264 (CRF {CRF}, yuv420p): what saving it costs",
    "resized-truth": "the reference at the model's size, pasted back: the ceiling, and the noise of the landmarks",
    "frozen-frame": "the first frame throughout: what standing still scores",
    "mean-mouth": "the mean picture of the training split throughout",
    "shuffled-audio": "the reference beside another clip's sound: what a SyncNet gives where nothing is in sync",
    "shuffled-text": "the reference read against another clip's words: what a reader's errors are at their worst",
}
"""Name of a row -> what it is."""

_SWAPPED: Final = {"shuffled-audio": "sound", "shuffled-text": "text"}
"""Row -> the batch key that comes from another clip; everything else stays the truth's."""


@dataclass(frozen=True)
class Control:
    """A video that the model makes when something else than the clip's own words or sound drives it.

    Args:
        name: Row that scores it against the clip.
        drive: Batch -> the keys that are replaced.
        beside: Row that scores it beside the sound that drove it, in the columns that listen.
        compared: Batch key of other clips, which it is scored against in the columns that hold across speakers.
    """

    name: str
    drive: Callable[[ClipBatch], dict[str, Any]]
    beside: str | None = None
    compared: Literal["other_speaker"] | None = None


def _foreign(batch: ClipBatch) -> dict[str, Any]:
    """Words and sound of another clip.

    Raises:
        ValueError: The batch has none.
    """
    if "mismatched" not in batch:
        raise ValueError("the batch holds no other clip's words for the control rows; add --evaluator.controls false")
    return cast("dict[str, Any]", batch["mismatched"])


def _other_speaker(batch: ClipBatch) -> dict[str, Any]:
    """The sound of another speaker's clip."""
    return {"audio": batch["other_speaker"]["audio"]}


def _silence(batch: ClipBatch) -> dict[str, Any]:
    """Digital silence as long as the clip's sound."""
    return {"audio": torch.zeros_like(batch["audio"])}


_CONTROLS: Final[dict[str, tuple[Control, ...]]] = {
    "tokens": (Control("wrong-text", _foreign),),
    "audio": (
        Control("wrong-audio", _foreign, beside="cross-audio"),
        Control("silent-audio", _silence),
        Control("other-speaker", _other_speaker, compared="other_speaker"),
    ),
}
"""Batch key that drives a model -> its controls. The first key that a model needs says what it is driven by."""

AGAINST: Final = ("frozen-frame", "wrong-text", "wrong-audio")
"""Rows that a working model must beat clip by clip."""


def controls(
    needs: Collection[str], packed: bool = False, other_speakers: bool = True
) -> tuple[tuple[Control, ...], dict[str, str]]:
    """The controls of a model that is handed these batch keys, and those that cannot be made -> why.

    Args:
        needs: Batch keys.
        packed: The store holds the model's view only.
        other_speakers: Every test clip has one of another speaker beside it.
    """
    driven = next((rows for key, rows in _CONTROLS.items() if key in needs), ())
    why = "a packed store holds no whole pictures" if packed else "not every test clip has one of another speaker"
    lacking = {own.name: why for own in driven if own.compared and (packed or not other_speakers)}
    return tuple(own for own in driven if own.name not in lacking), lacking


def left_out(bank: Bank, packed: bool, text: bool = True) -> dict[str, str]:
    """Calibration rows that cannot be made -> why: something is missing, or every column would be empty.

    Args:
        bank: The metrics.
        packed: The store holds the model's view only.
        text: The corpus says what its clips say.
    """
    found = {}
    if packed:
        found["reencoded-truth"] = "a packed store holds no whole pictures"
    else:
        try:
            import av  # noqa: F401 - only whether it is there
        except ImportError as error:
            found["reencoded-truth"] = f"H.264 needs PyAV: {error}"
    for name, key in _SWAPPED.items():
        if not looking_at(bank, key, packed):
            found[name] = f"no column that looks at the {key} can be computed here"
        elif key == "text" and not text:
            found[name] = "the corpus has no text"
    return found


def looking_at(bank: Bank, key: str, packed: bool) -> set[str]:
    """Columns that can be computed and whose score depends on a batch key, such as "sound" or "text"."""
    found = set()
    for entry in bank.entries:
        if entry.name not in bank.reasons:
            keys = required_keys(entry, bank.observers)
            if key in keys and not (packed and "face" in keys):
                found.add(entry.name)
    return found


def rows(
    bank: Bank, device: torch.device | str, packed: bool, driven: Collection[Control], names: Collection[str]
) -> dict[str, ScoreRow]:
    """Empty accumulators for control and calibration rows.

    Args:
        bank: The metrics.
        device: Of the videos.
        packed: The store holds the model's view only.
        driven: The model's controls; a row whose columns would all be empty is left out.
        names: The calibration rows.
    """
    found = {}
    heard = looking_at(bank, "sound", packed)
    for control in driven:
        if control.compared:
            across = {entry.name for entry in bank.entries if entry.metric.across_speakers}
            if across - bank.reasons.keys():
                found[control.name] = restricted_row(bank, device, across, "another speaker's face is another picture")
            continue
        found[control.name] = bank.row(device)
        if control.beside is not None and heard:
            why = f"as in {control.name}: only the sound beside the video differs"
            found[control.beside] = restricted_row(bank, device, heard, why)
    for name in names:
        key = _SWAPPED.get(name)
        if key is None:
            found[name] = bank.row(device)
        else:
            why = f"as in ground-truth: only the {key} is another clip's"
            found[name] = restricted_row(bank, device, looking_at(bank, key, packed), why)
    return found


def restricted_row(bank: Bank, device: torch.device | str, columns: Collection[str], why: str) -> ScoreRow:
    """Empty accumulators for a row that leaves all but some columns empty.

    Args:
        bank: The metrics.
        device: Of the videos.
        columns: Those that are filled.
        why: The reason beside the others.
    """
    whole = bank.row(device)
    metrics = {name: metric for name, metric in (whole.metrics | whole.sets).items() if name in columns}
    reasons = {entry.name: why for entry in bank.entries if entry.name not in columns}
    return ScoreRow(whole.entries, metrics, reasons | whole.reasons, whole.observers)


def with_swapped(bank: Bank, scene: ReferenceBatch, key: str) -> ReferenceBatch:
    """The same clips with the "sound" or "text" of other clips.

    Raises:
        ValueError: The batch has none.
    """
    mismatched = cast("dict[str, Any]", scene.batch.get("mismatched", {}))
    if key not in mismatched:
        raise ValueError(
            f"the batch holds no other clip's {key}; add --evaluator.calibration false --evaluator.controls false"
        )
    swapped = {name: mismatched[name] for name in (key, f"{key}_len") if name in mismatched}
    return bank.scene(cast(ClipBatch, {**scene.batch, **swapped}), scene.view)


def iter_calibration_rows(
    bank: Bank, scene: ReferenceBatch, mean: Tensor, names: Collection[str]
) -> Iterator[tuple[str, VideoViews, ReferenceBatch]]:
    """The calibration rows for one batch, one after the other so that only one is held in memory.

    Args:
        bank: The metrics.
        scene: The batch.
        mean: (3, h, w) mean picture of the training split in the scene's view, float in [0, 1].
        names: The rows that are wanted, out of `ROWS`.

    Yields:
        Name, video, and the scene that it is scored against, in the order of `ROWS`.
    """
    truth = scene.reference.native  # (B, T, 3, h, w)
    yield "ground-truth", scene.reference, scene
    if "reencoded-truth" in names:
        coded = _reencoded(bank, scene)
        yield "reencoded-truth", coded.reference, scene
        del coded  # its pictures
    yield "resized-truth", scene.take(truth, cacheable=True), scene
    yield "frozen-frame", scene.take(truth[:, :1].expand_as(truth), cacheable=True), scene
    yield "mean-mouth", scene.take(mean.to(truth).expand_as(truth), cacheable=True), scene
    for name, key in _SWAPPED.items():
        if name in names:
            other = with_swapped(bank, scene, key)
            # What is heard is the video's own affair, and its offset is measured from the true one's; a text is what
            # the video is compared with.
            yield name, other.reference, scene if key == "sound" else other


def _reencoded(bank: Bank, scene: ReferenceBatch) -> ReferenceBatch:
    """The same clips as somebody sees them who saves their canonical pictures as .mp4 and reads them back."""
    batch = scene.batch
    face = batch["face"].clone()  # (B, T, 3, 352, 320)
    for clip, length, fps in zip(face, batch["video_len"].tolist(), batch["fps"].tolist(), strict=True):
        pictures = clip[:length].permute(0, 2, 3, 1).cpu().numpy()
        clip[:length] = torch.from_numpy(video.reencode(pictures, fps, CRF)).permute(0, 3, 1, 2)
    shown = geometry.crop(face, scene.view).float() / 255
    coded = bank.scene(cast(ClipBatch, {**batch, "face": face, "video": shown}), scene.view)
    coded.known = scene.known  # the sound is the same
    return coded
