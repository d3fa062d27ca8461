"""Scores a weights file of a lip reader over the test clips of a protocol, beside readers that `test` scored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from lipbench.data import protocol as protocols
from lipbench.data.loader import mismatched_clips
from lipbench.data.store import Store
from lipbench.evaluation import clip_scores, output_folder, readings, record, writing
from lipbench.evaluation.bank import Bank
from lipbench.evaluation.readings import ReadingRows
from lipbench.evaluation.scoreboard import MODEL, Scoreboard, Subject
from lipbench.paths import default_store, home
from lipbench.pretrained import bundled
from lipbench.scoring.readers import LipReader
from lipbench.types import ClipBatch


class _Whole:
    """Reads batches of whole clips.

    Args:
        reader: The network.
        device: Where it runs.
    """

    def __init__(self, reader: LipReader, device: torch.device) -> None:
        self._reader, self._device = reader, device

    def read(self, batch: ClipBatch) -> list[str | None]:
        """What is said in each clip."""
        return self._reader.read(batch["video"].to(self._device), batch["video_len"].to(self._device))


def evaluate_reader(
    weights: str | Path,
    protocol: str,
    *,
    store: str | Path | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    metrics: Sequence[str] | None = None,
    controls: bool = True,
    calibration: bool = True,
) -> pd.DataFrame:
    """Score a reader's weights file over the test clips of a protocol.

    Args:
        weights: A `.safetensors` file of any network that reads, or a name that `lipbench weights` lists.
        protocol: Such as "grid/s1"; its corpus must be prepared.
        store: The prepared store; default: that of the protocol's corpus.
        name: Of the run; default: the file's.
        out: Results folder, for records that `compare` ranks; None writes nothing.
        metrics: Columns or groups that score text; default: see docs/metrics.md.
        controls: Score the same reader where it cannot see what is said.
        calibration: Score the text itself, and another clip's words.

    Returns:
        A row a clip: clip_id, speaker, `read` (what the reader wrote), `text`, and a column a metric. `attrs` as those
        of `lipbench.evaluation.external.evaluate`.

    Raises:
        FileNotFoundError: There is no such file, or no prepared store.
        ValueError: The protocol has no test clip in the store, or no column can be computed.
        Unavailable: The file does not read, or a metric asked for by its own name cannot be computed here.
    """
    path = Path(bundled.resolved({"reader": str(weights)}, home())["reader"]).expanduser()
    reader = LipReader.load(path)
    chosen = protocols.load(protocol)
    folder = Path(store).expanduser() if store else default_store(chosen.data)
    opened = Store(folder)
    split = chosen.split(opened.clip_ids)
    clip_ids = [clip_id for clip_id in split.test if clip_id in opened]
    if not clip_ids:
        raise ValueError(f"none of the {len(split.test):,} test clips of {protocol} is in the store {folder}")
    bank = Bank(metrics, scores="text")
    clip_scores.refuse_empty([bank], "--files")
    run = name or writing.file_name(path.stem, "reader")
    writing.check_name("the name", run)
    if out is not None:
        output_folder.probe(Path(out))

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = ReadingRows(bank, controls, calibration)
    whole = _Whole(reader, device)
    others = mismatched_clips(opened, clip_ids) if controls or calibration else []
    texts: list[str | None] = []
    clips = {}
    for index, clip_id in enumerate(clip_ids):
        clip = opened[clip_id]
        clips[index] = clip_id, clip.speaker
        batch: dict[str, Any] = {
            "index": torch.tensor([index]),
            "video": clip.view(np.arange(clip.n_frames), reader.view)[None].float() / 255,  # (1, T, 3, h, w)
            "video_len": torch.tensor([clip.n_frames]),
            "text": [clip.text],
        }
        if others:
            batch["mismatched"] = {"text": [opened[others[index]].text]}
        texts += whole.read(cast(ClipBatch, batch))
        rows.update(cast(ClipBatch, batch), texts[-1:], whole, ["video"], reader.one_word)
    board = Scoreboard(clips, rows.scored(), readings.ROWS)
    created = record.now()
    card = reader.card
    subject = Subject(
        name=card.architecture.partition(".")[0],
        run=run,
        timing=None,
        model={
            "class_path": f"lipbench.nets.{card.architecture}",
            "arguments": record.portable(card.arguments),
            "parameters": {"total": sum(parameter.numel() for parameter in reader.net.parameters())},
            "weights": path.name,
            "weights_sha256": card.sha256,
        },
        training={"trained_on": card.trained_on},
    )
    records = board.records(
        subject,
        protocol={"name": chosen.name, "version": chosen.version, "split_sha256": split.sha256},
        view=str(reader.view),
        data=opened.info,
        created=created,
        against=readings.AGAINST,
    )
    paths = record.write(list(zip(records, board.tables(), strict=True)), Path(out)) if out is not None else []
    table = board.table(MODEL)
    table.insert(2, "read", pd.Series(texts, index=list(clips)))
    table.insert(3, "text", pd.Series([opened[clip_id].text for clip_id in clip_ids], index=list(clips)))
    table.attrs = {
        "scores": {column: found.value for column, found in records[0].scores.items()},
        "reasons": {column: found.reason for column, found in records[0].scores.items() if found.reason},
        "records": [str(path) for path in paths],
    }
    return table.reset_index(drop=True)
