"""What runs of W&B have written offline, read back from their files."""

import json
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


def read(folder):
    """All files below a folder, in the order of their runs' starts."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for file in sorted(folder.rglob("*.wandb"), key=lambda path: path.stat().st_mtime):
        history, about = defaultdict(list), None
        for data in _records(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                about = record.run
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
        found.append(Logged(file, about.run_id, about.display_name, about.run_group, about.job_type, dict(history)))
    return found


def _records(file):
    """Records of a .wandb file: LevelDB's log format (blocks of 32 KiB, 7-byte headers) after a 7-byte file header."""
    data = file.read_bytes()
    assert data[:4] == b":W&B"
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
