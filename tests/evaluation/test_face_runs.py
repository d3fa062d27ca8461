"""Models that make faces from speech, through a real Trainer: five clips over two processes."""

import os
import socket
import subprocess
import sys

import face_run
import pytest
import torch

from lipbench.evaluation import record


@pytest.fixture
def one_thread():
    """As the two processes: a convolution over two threads rounds otherwise, and CPBD's thresholds magnify it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", face_run.MODELS)
def test_two_processes_give_the_scores_of_one_on_an_odd_number_of_clips(name, tmp_path, one_thread):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    command = [sys.executable, face_run.__file__, str(tmp_path / "two"), name]
    started = [
        subprocess.Popen(command, env={**os.environ, **shared, "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]
    compared = 0
    for entry in face_run.run(tmp_path / "one", name):
        other = record.read(tmp_path / "two" / f"{entry.stem}.json")
        assert other.environment["processes"] == 2
        assert other.clips == entry.clips
        assert other.clips["n"] == 5
        for column, score in entry.scores.items():
            again = other.scores[column].value
            assert again == (None if score.value is None else pytest.approx(score.value, rel=1e-5, abs=1e-5)), column
            assert other.scores[column].n == score.n
            compared += score.value is not None
    assert compared > 30
