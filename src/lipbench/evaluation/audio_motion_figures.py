"""Figure 4 of "Lip Movements Generation at a Glance" as images: example clips, and the shifts that clips prefer."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from lipbench.errors import visible
from lipbench.evaluation.audio_motion import ClipCorrelation, overlap
from lipbench.media import charts

_EXAMPLES: Final = (1 / 8, 3 / 8, 5 / 8, 7 / 8)
_ROW: Final = 220  # px: height of a clip's charts
_WIDE, _NARROW = 720, 400  # px: width of the curves, and of r against the shift
SHIFT_AXIS: Final = "shift in frames (above 0: the lips move after the sound)"


def examples(found: Sequence[ClipCorrelation]) -> list[ClipCorrelation]:
    """Up to four clips from weak to strong correlation: at 1/8, 3/8, 5/8 and 7/8 of all by their largest r.

    The paper shows four without saying how they were chosen; this is an own choice.

    Args:
        found: Clips with an r.
    """
    ranked = sorted(found, key=lambda clip: clip.r[clip.best])
    places = {int(share * len(ranked)): None for share in _EXAMPLES}
    return [ranked[place] for place in places]


def curves(found: Sequence[ClipCorrelation], shifts: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Draw a row a clip: both curves at the best shift, and r against the shift, which is the paper's figure 4(a).

    Args:
        found: Clips with an r.
        shifts: In frames, see `audio_motion.overlap`.

    Returns:
        (height, width, 3) RGB. Both curves are standardized: less their mean, over their standard deviation.
    """
    rows = []
    for clip in found:
        best = shifts[clip.best]
        audio, motion = overlap(torch.from_numpy(clip.audio), torch.from_numpy(clip.motion), best)
        frames = (np.arange(len(audio)) + max(-best, 0)).tolist()
        both = [
            charts.Series("audio change", frames, _standardized(audio), charts.BLUE),
            charts.Series(f"lip motion, shift {best}", frames, _standardized(motion), charts.ORANGE),
        ]
        title = f"{visible(clip.clip_id)}: best shift {best}, r = {clip.r[clip.best]:.2f}"
        left = charts.line_chart(both, title, "frame of the audio", "standard deviations", (_ROW, _WIDE))
        line = charts.Series("r", shifts, clip.r.tolist())
        right = charts.line_chart([line], "", SHIFT_AXIS, "Pearson's r", (_ROW, _NARROW))
        rows.append(np.concatenate([left, right], 1))
    return np.concatenate(rows)


def offsets(found: Sequence[ClipCorrelation], shifts: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Draw for how many clips each shift gives the largest r, which is the paper's figure 4(b).

    Args:
        found: Clips with an r.
        shifts: In frames, see `audio_motion.overlap`.

    Returns:
        (height, width, 3) RGB.
    """
    counts = np.bincount([clip.best for clip in found], minlength=len(shifts)).tolist()
    title = f"{len(found):,} clips by the shift at which r is largest"
    return charts.bar_chart(counts, [str(s) for s in shifts], title, SHIFT_AXIS, "clips", (360, _WIDE))


def _standardized(curve: torch.Tensor) -> list[float]:
    return ((curve - curve.mean()) / curve.std()).tolist()
