"""Records of models that need not be trained: scores some steps below the best, with noise from clip to clip."""

import numpy as np
import pandas as pd

from lipbench.evaluation import record
from lipbench.evaluation.record import Record, Score
from lipbench.leaderboard import table

#          unit, higher is better, perfect, best value, step that makes it worse
COLUMNS = {
    "mouth/psnr": ("dB", True, 100.0, 32.0, -1.0),
    "mouth/ssim": ("", True, 1.0, 0.95, -0.02),
    "mouth/lpips": ("", False, 0.0, None, None),
    "lmd": ("px", False, 0.0, 0.9, 0.2),
    "opening_corr[speech]": ("", True, 1.0, 0.85, -0.1),
    "opening_ratio": ("", None, 1.0, 1.1, 0.2),
}


def put(
    folder,
    name,
    run,
    worse=0.0,
    *,
    timing="given",
    kind="model",
    control=None,
    clips=30,
    empty=(),
    seed=0,
    judges=None,
    **changes,
):
    """Write a record whose scores are `worse` steps below the best."""
    ids = [f"grid/s1/{k:03d}" for k in range(clips)]
    per_clip = pd.DataFrame({"clip_id": ids, "speaker": "s1"})
    scores = {}
    for column, (unit, higher, perfect, best, step) in COLUMNS.items():
        if best is None or column in empty:
            reason = "no weights here" if best is None else "no face in a packed store"
            scores[column] = Score(None, None, 0, 0.0, unit, higher, perfect, reason=reason)
            continue
        noise = np.random.default_rng(seed).normal(0, abs(step) / 10, clips)
        per_clip[column] = best + worse * step + noise - noise.mean()
        value = best + worse * step
        judge = (judges or {}).get(column)
        scores[column] = Score(value, (value - 0.1, value + 0.1), clips, 1.0, unit, higher, perfect, judge)
    plain = {
        "protocol": {"name": "grid/s1", "version": 1, "split_sha256": "00"},
        "clips": {"n": clips, "speakers": 1, "sha256": record.clips_sha256(ids)},
        "view": "mouth 40x80",
        "data": {"settings": {"landmarks": "dlib"}, "packed": None},
        "training": {},
    }
    about = {"model": {}, "scores": scores, "created": f"{seed}"}
    entry = Record(kind=kind, name=name, run=run, control=control, timing=timing, **about, **{**plain, **changes})
    return record.write([(entry, per_clip)], folder / "results")[0]


def compare(folder, **options):
    return table.compare(folder / "results", folder, **options)
