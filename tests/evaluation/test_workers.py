"""Scoring in worker processes: the same results, and every way to fail ends in a sentence and in no process left."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import fake_run
import numpy as np
import pandas as pd
import pytest
import squares
import torch

from lipbench.errors import Unavailable
from lipbench.evaluation import bank, record, workers
from lipbench.evaluation.external import evaluate
from lipbench.evaluation.workers import Pool
from lipbench.media import video
from lipbench.scoring import observers
from lipbench.synthetic.corpus import render, sentence_ids


def children():
    """Processes below this one that are alive, the fork server and what watches it aside."""
    return [child for child in multiprocessing.active_children() if child.is_alive()]


@pytest.mark.parametrize("count", [0, 2])
def test_results_come_in_order_from_every_worker(count):
    found = []
    with Pool(squares.squares, count, found.append, "--workers") as pool:
        for k in range(20):
            pool.submit(str(k), k)
        pool.finish()
    assert [value for value, _ in found] == [k * k for k in range(20)]
    assert len({process for _, process in found}) == max(count, 1)
    assert (os.getpid() in {process for _, process in found}) == (count == 0)
    assert not children()


def test_tasks_wait_until_a_worker_is_free():
    taken = []
    with Pool(squares.squares, 1, taken.append, "--workers") as pool:
        for k in range(0, 30, 3):  # .05 s each
            pool.submit(str(k), k)
            assert k // 3 + 1 - len(taken) <= 4  # one at work, one waiting, one on its way each side
        pool.finish()


@pytest.mark.parametrize(
    ("make", "task", "error", "expected"),
    [
        (squares.squares, ValueError("generated frames lie in [0, 2]"), ValueError, "generated frames lie in [0, 2]"),
        (squares.squares, FileNotFoundError("no file at x"), FileNotFoundError, "no file at x"),
        (squares.squares, KeyError("face"), RuntimeError, "KeyError: 'face'"),
        (squares.no_weights, 1, Unavailable, "no SyncNet weights at x"),
        (squares.squares, "die", RuntimeError, "the process that scored s1/b was killed by SIGKILL (out of memory?). "),
        (
            squares.squares,
            "exit",
            RuntimeError,
            "the process that scored s1/b ended with exit code 3 before it answered (",
        ),
    ],
)
def test_what_goes_wrong_in_a_worker_is_raised_here(make, task, error, expected):
    began = time.monotonic()

    def run():
        with Pool(make, 2, [].append, "--workers") as pool:
            if make is squares.squares:
                pool.submit("s1/a", 2)
            pool.submit("s1/b", task)
            pool.finish()

    with pytest.raises(error) as caught:
        run()
    assert type(caught.value) is error
    assert time.monotonic() - began < 60
    assert not children()
    said = str(caught.value)
    if task in ("die", "exit"):
        assert said.startswith(expected)
        assert said.endswith("--workers 1, or 0 for none beside this one")
    else:
        assert said == expected
        assert "In the process that scored s1/b" in caught.value.__notes__[0]


def test_a_dead_worker_is_noticed_while_all_wait_for_it():
    pool = Pool(squares.squares, 1, [].append, "--workers")

    def run():
        for k in range(50):
            pool.submit(str(k), "die" if k == 3 else k)

    with pytest.raises(RuntimeError, match="killed by SIGKILL"):
        run()
    assert not children()


def test_nothing_goes_through_shared_memory(monkeypatch):
    """As with the 64 MB of /dev/shm in Docker: PyTorch's own way would end in a bus error, and then hang."""
    for kind in list(ForkingPickler._extra_reducers):
        if "torch" in str(kind):
            monkeypatch.setitem(ForkingPickler._extra_reducers, kind, squares.no_shared_memory)
    with pytest.raises(OSError, match="no space left in /dev/shm"):
        ForkingPickler.dumps(torch.ones(3))  # or else this test proves nothing
    found = []
    batch = {"face": torch.ones(3, 1000, 1000, dtype=torch.uint8), "text": ["bin blue"]}
    with Pool(squares.without_shared_memory, 1, found.append, "--workers") as pool:
        pool.submit("a", {"batch": batch})
        pool.finish()
    assert found == [(3e6, ["bin blue"])]


def test_an_interrupt_ends_workers_without_a_word_of_theirs(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from lipbench.evaluation.workers import Pool; import squares\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for what runs behind them\n"
        "    with Pool(squares.squares, 2, lambda found: print(found[1]), '--workers') as pool:\n"
        "        for k in range(1, 10_000_000):\n"
        "            pool.submit(str(k), 3 * k)\n"
    )
    command = [sys.executable, "-u", str(script)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    ) as process:
        try:
            seen = set()
            while len(seen) < 2:  # until both workers work
                line = process.stdout.readline()
                assert line, process.stderr.read()
                seen.add(line)
            os.killpg(process.pid, signal.SIGINT)  # to all of them, as a terminal does
            _, errors = process.communicate(timeout=60)
            assert errors.count("KeyboardInterrupt") == 1, errors
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and _there(process.pid):
                time.sleep(0.1)
            assert not _there(process.pid)
        finally:
            if _there(process.pid):
                os.killpg(process.pid, signal.SIGKILL)


def _there(group):
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("processors", "gigabytes", "device", "processes", "tasks", "expected"),
    [
        (8, 64, "cpu", 1, 100, 8),
        (8, 64, "cpu", 2, 100, 4),
        (2, 64, "cpu", 2, 100, 0),  # one would only take this one's place
        (8, 64, "cpu", 1, 3, 3),
        (8, 64, "cpu", 1, float("inf"), 8),
        (16, 5, "cpu", 1, 100, 3),
        (16, 0, "cpu", 1, 100, 0),
        (8, 64, "cuda", 1, 100, 0),
    ],
)
def test_how_many_by_default(monkeypatch, processors, gigabytes, device, processes, tasks, expected):
    monkeypatch.setattr(workers.process_pool, "processors", lambda: processors)
    monkeypatch.setattr(workers, "_memory", lambda: gigabytes << 30)
    assert workers.suitable(torch.device(device), processes, tasks) == expected


def test_memory_is_that_of_this_machine():
    assert 1 << 20 < workers._memory() < 1 << 50


# ------------------------------------------------------------------------------------------------------ test, evaluate


def test_a_test_scores_the_same(tmp_path, monkeypatch):
    """Five clips in batches of two, so that the last one is smaller; columns of clips and of whole sets."""
    monkeypatch.setattr(observers, "Inception", fake_run.Mean)
    for name, entry in fake_run.SETS.items():
        monkeypatch.setitem(bank.METRICS, name, entry)
    monkeypatch.setattr("lipbench.evaluation.evaluator.Scorer", fake_run.scorer)
    alone, together = (
        fake_run.run(tmp_path / name, tmp_path / "cache", metrics=list(fake_run.COLUMNS), workers=count).records
        for name, count in (("alone", 0), ("together", 2))
    )
    assert [r.name for r in alone] == [r.name for r in together]
    for one, other in zip(alone, together, strict=True):
        assert one.scores == other.scores
        assert one.paired == other.paired
    filled = {name for name, score in together[0].scores.items() if score.value is not None}
    assert {"native/psnr", "lmd", "mouth/cpbd", "motion_outside", "fid"} <= filled
    assert "SyncNet" in together[0].scores["lse_c"].reason
    for path in (tmp_path / "alone").rglob("*.csv"):
        other = tmp_path / "together" / path.relative_to(tmp_path / "alone")
        pd.testing.assert_frame_equal(pd.read_csv(path), pd.read_csv(other))


def test_a_model_that_returns_no_pictures_fails_as_before(tmp_path):
    class Bright(fake_run.Blinker):
        def generate(self, batch, timing):
            made = super().generate(batch, timing)
            return {**made, "video": made["video"] + 1}

    with pytest.raises(ValueError, match=r"^generated frames lie in \[1\.\d+, \d\.\d+\]; a model returns"):
        fake_run.run(tmp_path, tmp_path, model=Bright(), metrics=["native/psnr"], workers=2)
    assert not children()
    assert not list(tmp_path.rglob("*.json"))


@pytest.fixture(scope="module")
def shot():
    """Frames and sound of a rendered clip, from the middle of its sentence on."""
    clip = render(0, sentence_ids(0, 1, 3)[0], 3)
    return list(clip.frames[30:42]), clip.samples[30 * 1764 : 42 * 1764]


def test_an_evaluation_scores_the_same(shot, tmp_path, monkeypatch):
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path / "home"))
    frames, sound = shot
    names = ["a", "b", "c", "d", "e"]
    for k, name in enumerate(names):
        video.write_video(tmp_path / "true" / f"{name}.avi", frames, 25, sound, 44100)
        shown = [np.roll(frame, k, 1) for frame in frames[: 12 - k]]
        heard = (None, None) if k == 2 else (sound, 44100)
        video.write_video(tmp_path / "made" / f"{name}.avi", shown, 25, *heard)
    (tmp_path / "made" / "d.avi").write_text("no video")
    asked = {
        "metrics": ["quality", "landmarks", "sync", "motion", "dtw", "reading"],
        "files": {"syncnet": "syncnet-small[rendered]", "transcript": "lipresnet-small[rendered]"},
        "text": dict.fromkeys(names[:4], "bin blue"),
    }
    tables = [
        evaluate(tmp_path / "made", tmp_path / "true", workers=count, out=tmp_path / str(count), **asked)
        for count in (0, 2)
    ]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0].attrs["reasons"] == tables[1].attrs["reasons"]
    assert tables[1]["lse_c"].notna().sum() == 4
    pairs = zip(*(table.attrs["records"] for table in tables), strict=True)
    for one, other in ([record.read(Path(path)) for path in pair] for pair in pairs):
        assert (one.scores, one.paired, one.clips) == (other.scores, other.paired, other.clips)
    assert not children()


def test_an_evaluation_whose_worker_dies_names_the_clip(shot, tmp_path, monkeypatch):
    """Decoders crash; the system kills what takes too much memory."""
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path / "home"))
    for folder in ("true", "made"):
        video.write_video(tmp_path / folder / "s1" / "a.avi", shot[0], 25)
    monkeypatch.setattr("lipbench.evaluation.external.Scorer", squares.dying)
    with pytest.raises(RuntimeError, match="the process that scored s1/a was killed by SIGKILL"):
        evaluate(tmp_path / "made", tmp_path / "true", metrics=["native/psnr"], workers=2)
