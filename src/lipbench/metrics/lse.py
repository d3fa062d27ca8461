"""LSE-C, LSE-D and AV offset: how well lips and sound agree, as a SyncNet judges it (Prajwal et al. 2020)."""

from typing import ClassVar, Final, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from lipbench.scoring import checks
from lipbench.scoring.base import Column, ObservationMetric, Spans

VSHIFT: Final = 15
"""Frames by which the sound is shifted in each direction, as in the published evaluation scripts."""
_EPS = 1e-6  # added to every difference of embeddings, as torch.nn.functional.pairwise_distance does

Padding = Literal["zero", "mask"]


class Sync(NamedTuple):
    """Scores of B clips, (B,) each; NaN for clips without a window."""

    lse_d: Tensor
    lse_c: Tensor
    offset: Tensor


def _refuse(video: Tensor, audio: Tensor, windows: Tensor, vshift: int, padding: str) -> None:
    checks.same(video, audio)
    for what, given in (("video", video), ("audio", audio)):
        checks.tensor(what, given, ("B", "N", "E"))
    clips, count = video.shape[:2]
    if tuple(windows.shape) != (clips,) or windows.dtype.is_floating_point:
        raise ValueError(
            f"windows is {windows.dtype} of shape {tuple(windows.shape)}; expected whole numbers ({clips},)"
        )
    if clips and not 0 <= int(windows.min()) <= int(windows.max()) <= count:
        raise ValueError(f"windows lie in {windows.min()}..{windows.max()}; expected 0..{count}")
    if vshift < 0 or padding not in get_args(Padding):
        raise ValueError(
            f"vshift is {vshift}, padding {padding!r}; expected 0 or more, and {' or '.join(get_args(Padding))}"
        )


def distances(video: Tensor, audio: Tensor, windows: Tensor, vshift: int = VSHIFT, padding: Padding = "zero") -> Tensor:
    """Mean distance between picture windows and sound windows, for every shift of the sound.

    Where a shift leads outside the clip, the published code compares with a zero vector ("zero"). That lowers or raises
    the mean by how long the embeddings are, the more the shorter the clip and the larger the shift; "mask" leaves those
    pairs out.

    Args:
        video: (B, N, E) embeddings of the picture windows.
        audio: (B, N, E) embeddings of the sound windows that start at the same frames.
        windows: (B,) valid windows of each clip; rows after them are not read.
        vshift: Largest shift in frames.
        padding: What a picture window is compared with where the sound has no window.

    Returns:
        (B, 2 * vshift + 1) mean over windows; column j compares window k with sound window k + j - vshift. NaN where
        there is no pair.

    Raises:
        ValueError: Shapes do not fit together, a clip has more windows than there are, `vshift` is negative, or the
            padding is unknown.
    """
    _refuse(video, audio, windows, vshift, padding)
    count = video.shape[1]
    inside = torch.arange(count, device=video.device) < windows.to(video.device)[:, None]  # (B, N)
    video = video.masked_fill(~inside[..., None], 0)
    audio = F.pad(audio.masked_fill(~inside[..., None], 0), (0, 0, vshift, vshift))  # (B, N + 2 vshift, E)
    there = F.pad(inside, (vshift, vshift))
    columns = []
    for shift in range(2 * vshift + 1):
        here = slice(shift, shift + count)
        distance = torch.linalg.vector_norm(video - audio[:, here] + _EPS, dim=-1)  # (B, N)
        pair = inside & there[:, here] if padding == "mask" else inside
        columns.append(distance.masked_fill(~pair, 0).sum(1) / pair.sum(1))  # 0 / 0 is NaN
    return torch.stack(columns, 1)


def lse(video: Tensor, audio: Tensor, windows: Tensor, vshift: int = VSHIFT, padding: Padding = "zero") -> Sync:
    """LSE-D, LSE-C and offset of clips (`calc_pdist` and `evaluate` of joonson/syncnet_python's SyncNetInstance.py).

    LSE-D is the smallest mean distance over all shifts, LSE-C the median over the shifts minus the smallest, the offset
    vshift minus the place of the smallest: positive where the sound comes before the picture that belongs to it.

    Args:
        video: (B, N, E) embeddings of the picture windows.
        audio: (B, N, E) embeddings of the sound windows.
        windows: (B,) valid windows of each clip.
        vshift: Largest shift in frames. The median over 21 shifts (vshift 10) is another number than over 31.
        padding: See `distances`.

    Returns:
        Distances in the unit of the embeddings, offset in frames.

    Raises:
        ValueError: See `distances`.
    """
    mean = distances(video, audio, windows, vshift, padding)  # (B, 2 vshift + 1)
    # A shift without a pair (masked, in a clip shorter than the shift) is NaN and takes part in nothing. A shift whose
    # pairs happen to leave out a broken window is no NaN, so the embeddings themselves are looked at.
    smallest, place = mean.nan_to_num(torch.inf).min(1)
    lse_c = mean.nanmedian(1).values - smallest
    valid = torch.arange(video.shape[1], device=video.device) < windows.to(video.device)[:, None]  # (B, N)
    whole = ((video + audio).isfinite().all(2) | ~valid).all(1) & valid.any(1)
    scores = (smallest, lse_c, (vshift - place).to(mean.dtype))
    return Sync(*(score.masked_fill(~whole, torch.nan) for score in scores))


class _LSE(ObservationMetric):
    """Scores the embeddings of the generated video and its sound; every clip counts the same, as published.

    Args:
        padding: "zero" as published, or "mask".
    """

    unit = ""
    perfect: ClassVar[float | None] = None
    observes = "syncnet"
    across_speakers = True
    aligned = False
    undefined = "it is shorter than 6 frames, or a frame holds NaN"

    def __init__(self, padding: Padding = "zero") -> None:
        super().__init__()
        self.padding: Padding = padding

    def _sync(self, observed: Tensor, length: Tensor) -> Sync:
        """Scores of (B, N, 2, E): embeddings of the pictures and of the sound, NaN after a clip's last window."""
        video, audio = observed.unbind(2)
        windows = audio.isfinite().all(2).sum(1)  # a NaN in a picture must make the clip undefined, not shorter
        return lse(video, audio, windows.masked_fill(length.to(windows.device) == 0, 0), padding=self.padding)

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, N, 2, E) embeddings of windows by the field of `Sync` that bears the metric's name."""
        value: Tensor = getattr(self._sync(pred, spans.length), self.name)
        return value, torch.ones_like(value)


class LSEC(_LSE):
    """LSE-C, confidence: median minus smallest mean distance over the shifts; high is in sync.

    The number of one judge is not comparable with another's. With SyncNet v2, real speech in LRS2 has about 8.25.
    Models trained on a sync loss exceed real speech, so read it beside the ground truth's row.
    """

    name = "lse_c"
    higher_is_better = True
    columns: ClassVar[tuple[Column, ...]] = (
        Column("lse_c", "sync", 10),
        Column("lse_c[mask]", "legacy", 20, default=False, options={"padding": "mask"}),
    )


class LSED(_LSE):
    """LSE-D, distance: smallest mean distance over the shifts; low is in sync. With SyncNet v2, LRS2 has about 6.3."""

    name = "lse_d"
    higher_is_better = False
    columns: ClassVar[tuple[Column, ...]] = (
        Column("lse_d", "sync", 20),
        Column("lse_d[mask]", "legacy", 30, default=False, options={"padding": "mask"}),
    )


class WholeLSEC(LSEC):
    """LSE-C as Wav2Lip's script for LRS and TalkLip count it: the judge sees the whole frame, squeezed to a square.

    `calculate_scores_LRS.py` brings whole frames to 224x224 without looking for a face: right where these show little
    else, as those of LRS2 and LRW do. Only `lipbench evaluate` has whole frames, of videos beside videos.
    """

    observes = "whole_syncnet"
    columns = (Column("lse_c[whole]", "legacy", 22, default=False),)


class WholeLSED(LSED):
    """LSE-D of whole frames; see `WholeLSEC`."""

    observes = "whole_syncnet"
    columns = (Column("lse_d[whole]", "legacy", 32, default=False),)


class AVOffset(_LSE):
    """AV offset: by how many frames the sound must be shifted to fit best.

    The default is the distance from the offset of the reference itself: corpora such as GRID carry a constant offset of
    about a frame, and signed offsets of either direction would cancel in the mean, down to 0 for random sound.

    Args:
        signed: The offset as published, positive where the sound comes before its picture, and not compared with the
            reference's.
        padding: "zero" as published, or "mask".
    """

    name = "av_offset"
    unit = "frames"
    higher_is_better = None
    perfect = 0.0
    columns = (
        Column("av_offset", "sync", 30),
        Column("av_offset[signed]", "legacy", 40, default=False, options={"signed": True}),
    )

    def __init__(self, signed: bool = False, padding: Padding = "zero") -> None:
        super().__init__(padding)
        self.signed = signed

    def score(self, pred: Tensor, target: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Score (B, N, 2, E) embeddings of windows of both videos."""
        value = self._sync(pred, spans.length).offset
        if not self.signed:
            value = (value - self._sync(target, spans.length).offset).abs()
        return value, torch.ones_like(value)
