"""Models that make faces from speech, through a real Trainer: five clips over two processes."""

import os
import socket
import subprocess
import sys

import face_run
import pytest

from lipbench.evaluation import record


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one_on_an_odd_number_of_clips(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    command = [sys.executable, face_run.__file__, str(tmp_path / "two")]
    started = [
        subprocess.Popen(command, env={**os.environ, **shared, "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]
    for name, records in face_run.run_all(tmp_path / "one").items():
        assert any(name in str(entry.stem) for entry in records)
        for entry in records:
            other = record.read(tmp_path / "two" / f"{entry.stem}.json")
            assert other.environment["processes"] == 2
            assert other.clips == entry.clips
            for column, score in entry.scores.items():
                again = other.scores[column].value
                near = None if score.value is None else pytest.approx(score.value, rel=1e-5, abs=1e-5)
                assert again == near, (entry.stem, column)
                assert other.scores[column].n == score.n
        scored = records[-1].scores
        assert sum(score.value is not None for score in scored.values()) > 3
