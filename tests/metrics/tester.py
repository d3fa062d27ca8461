"""Checks that every metric of clips must pass, whatever it measures; `python tester.py FOLDER CASES` is one of two.

A test names a metric, five clips or so, and the scores that they must have; see `Case`.
"""

import importlib
import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipbench.scoring.base import ClipMetric, PerClip


@dataclass(frozen=True)
class Case:
    """A metric and what it is given.

    Args:
        make: Makes the metric.
        pred: A row a clip: a tensor, or texts.
        target: The same of the references.
        length: (B,) valid frames.
        known: Further arguments of `update`, a row a clip.
        expected: Scores of the clips, NaN where undefined; None if they are checked elsewhere.
        tolerance: How far scores may lie from them.
    """

    make: Callable[[], ClipMetric]
    pred: Any
    target: Any
    length: torch.Tensor
    known: dict[str, torch.Tensor] = field(default_factory=dict)
    expected: Sequence[float] | None = None
    tolerance: float = 1e-6

    def update(self, metric: ClipMetric, rows: Sequence[int]) -> None:
        """Score some clips in one batch."""
        pred, target = (
            side[list(rows)] if isinstance(side, torch.Tensor) else [side[k] for k in rows]
            for side in (self.pred, self.target)
        )
        known = {key: value[list(rows)] for key, value in self.known.items()}
        metric.update(pred, target, torch.tensor(rows), self.length[list(rows)], **known)

    def scored(self, *batches: Sequence[int]) -> ClipMetric:
        """A metric that has seen these batches."""
        metric = self.make()
        for rows in batches:
            self.update(metric, rows)
        return metric

    @property
    def clips(self) -> list[int]:
        """Positions of all clips."""
        return list(range(len(self.length)))


def check(case: Case) -> None:
    """Scores are those expected; the same in batches of any size and order, with repeats, and after pickling."""
    whole = case.scored(case.clips)
    own = whole.per_clip()
    assert own.index.tolist() == case.clips
    if case.expected is not None:
        np.testing.assert_allclose(own.value, case.expected, rtol=case.tolerance, atol=case.tolerance)
    single = case.scored(*[[k] for k in reversed(case.clips)])
    uneven = case.scored(case.clips[3:], case.clips[:3], case.clips[:1])
    half = case.scored(case.clips[:2])
    pickled = pickle.loads(pickle.dumps(half))
    case.update(pickled, case.clips[2:])
    for other in (single, uneven, pickled):
        equal(other.per_clip(), own)
        np.testing.assert_allclose(other.compute().item(), whole.compute().item(), rtol=1e-9, atol=1e-9)
    again = pickle.loads(pickle.dumps(whole))
    again.reset()
    assert len(again.per_clip().index) == 0
    assert again.compute().isnan()


def equal(found: PerClip, expected: PerClip) -> None:
    """Two sets of scores of single clips are the same."""
    assert found.index.tolist() == expected.index.tolist()
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-6, atol=1e-6)


def check_two_processes(module: str, folder: Path) -> None:
    """The cases of a test module score the same in two processes: dealt out with a repeat, and all to one of them.

    Args:
        module: Name of the module whose `CASES` (name -> `Case`) are scored.
        folder: For what the processes find.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, __file__, str(folder), module]
    environments = [{**os.environ, **shared, "RANK": str(rank)} for rank in range(2)]
    started = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for environment in environments]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0].keys() == importlib.import_module(module).CASES.keys()
    for name, case in importlib.import_module(module).CASES.items():
        whole = case.scored(case.clips)
        for results in found:
            for value, per_clip in results[name]:
                np.testing.assert_allclose(value, whole.compute().item(), rtol=1e-9, atol=1e-9, err_msg=name)
                np.testing.assert_allclose(per_clip, whole.per_clip().value, rtol=1e-6, atol=1e-6, err_msg=name)


def _one_of_two(folder: Path, module: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    results: dict[str, list[Any]] = {}
    for name, case in importlib.import_module(module).CASES.items():
        clips = case.clips
        for shares in ((clips[::2], [*clips[1::2], clips[0]]), (clips[::-1], [])):
            metric = case.scored(*[[k] for k in shares[rank]])
            found = metric.compute().item(), metric.per_clip().value.tolist()
            assert len(metric.index) == len(shares[rank])  # gathering left the own states alone
            results.setdefault(name, []).append(found)
    (folder / f"{rank}.json").write_text(json.dumps(results))
    torch.distributed.barrier()  # neither leaves while the other still reads
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _one_of_two(Path(sys.argv[1]), sys.argv[2])
