"""What runs of W&B have written offline, read back from their files."""

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple


class Logged(NamedTuple):
    """One file of a run; a resumed run has several."""

    file: Path
    run_id: str
    name: str
    group: str
    job: str
    history: dict
    """Key -> what was logged under it, in order; of pictures the description that W&B keeps."""
    kept: dict
    """Path in an artifact, such as a table or a picture in it -> the file that waits to be sent."""


def read(folder):
    """All files of finished runs below a folder, in the order of their ends."""
    found = []
    for file in sorted(folder.rglob("*.wandb"), key=lambda path: path.stat().st_mtime):
        history, kept, about = defaultdict(list), {}, None
        for record in _finished(file):
            if record.HasField("run"):
                about = record.run
            kept |= {entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents}
            row = {}
            for item in record.history.item:
                value = json.loads(item.value_json)
                key, *parts = item.nested_key or [item.key]
                if parts:  # a picture comes as its parts, each under a path
                    row.setdefault(key, {})["/".join(parts)] = value
                else:
                    row[key] = value
            for key, value in row.items():
                history[key].append(value)
        found.append(
            Logged(file, about.run_id, about.display_name, about.run_group, about.job_type, dict(history), kept)
        )
    return found


def _finished(file, seconds=10):
    """Records of a finished run: W&B's own process may still write the last ones when the run's process goes on."""
    from wandb.proto import wandb_internal_pb2

    end = time.monotonic() + seconds
    while True:
        found = []
        for data in _records(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            found.append(record)
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < end, f"the run of {file} has not finished"
        time.sleep(0.05)


def _records(file):
    """Records of a .wandb file: LevelDB's log format (blocks of 32 KiB, 7-byte headers) after a 7-byte file header."""
    data = file.read_bytes()
    assert data[:4] in (b":W&B", b"")
    place, parts = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        if left < 7 or kind == 0:  # padding at the end of a block
            place += left
            continue
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, last part
            yield parts
            parts = b""
