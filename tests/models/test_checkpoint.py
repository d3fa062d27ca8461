"""Checkpoint files: whole or absent, whatever happens while they are written."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lipbench.files import written_whole
from lipbench.pretrained import weights
from lipbench.training.checkpoints import CheckpointFiles

FILES = CheckpointFiles()
SLOW = """
import sys, time, torch
from lipbench.training.checkpoints import CheckpointFiles
class Slow:
    def __init__(self, stream):
        self.stream = stream
    def write(self, data):
        time.sleep(0.05)
        return self.stream.write(data)
    def __getattr__(self, name):
        return getattr(self.stream, name)
save = torch.save
torch.save = lambda content, stream: save(content, Slow(stream))
CheckpointFiles().save_checkpoint({"new": [torch.rand(1000) for _ in range(1000)]}, sys.argv[1])
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "last.ckpt"
    FILES.save_checkpoint({"old": torch.arange(3)}, path)
    return path


def content(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, weights_only=True))


def test_a_checkpoint_takes_the_place_of_the_previous_one(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the target, not in the folder for temporary files; flushed before it is renamed."""
    monkeypatch.setenv("TMPDIR", "/nowhere")
    done: list[str] = []
    flush, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("flush"), flush(number))[1])
    monkeypatch.setattr(Path, "replace", lambda path, new: (done.append("rename"), rename(path, new))[1])
    FILES.save_checkpoint({"new": 1}, old)
    assert content(old) == {"new": 1}
    assert done == ["flush", "rename", "flush"]
    assert list(old.parent.iterdir()) == [old]


def test_killed_while_it_writes_the_previous_one_stays(old: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SLOW, str(old)]) as process:
        while not (begun := [path for path in old.parent.glob(".*.tmp") if path.stat().st_size]):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert content(old)["old"].tolist() == [0, 1, 2]
    FILES.save_checkpoint({"new": 1}, old)
    assert begun[0].exists()  # it could be another process, which still writes
    os.utime(begun[0], (0, 0))
    FILES.save_checkpoint({"new": 2}, old)
    assert content(old) == {"new": 2}
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("what", ["checkpoint", "weights"])
def test_on_a_full_disk_the_previous_one_stays(what: str, old: Path) -> None:
    """A limit on the size of files stands for a disk that is full."""

    def write() -> None:
        if what == "checkpoint":
            FILES.save_checkpoint({"new": torch.rand(100_000)}, old)
        with written_whole(old) as aside:
            aside.write_bytes(bytes(100_000))

    before = old.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            RuntimeError, match=r"last\.ckpt cannot be written \(.*too large.*the previous one is still"
        ):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert old.read_bytes() == before
    assert list(old.parent.iterdir()) == [old]


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    """torch.load itself reads it without a word."""
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.arange(10_000.0)}, path)
    assert weights.read_published(path)["a"].sum() == 49_995_000
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    assert torch.load(path, weights_only=True)["a"].shape == (10_000,)
    with pytest.raises(ValueError, match="checksum"):
        weights.read_published(path)
