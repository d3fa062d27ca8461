"""The evaluator: a callback that scores what `test` makes beside calibration and control rows, and writes records."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn

from lipbench.errors import on_one_line, visible
from lipbench.evaluation import calibration, clip_scores, formatting, output_folder, record, workers, writing
from lipbench.evaluation.bank import Bank, Row
from lipbench.evaluation.clip_scores import Plan, Scorer, Videos
from lipbench.evaluation.record import Paired, Record
from lipbench.evaluation.workers import Pool
from lipbench.files import sha256
from lipbench.paths import home
from lipbench.pretrained import bundled
from lipbench.scoring.base import PerClip, merge
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipBatch, Generated, Timing


@dataclasses.dataclass(frozen=True)
class _Part:
    """What one process has: clips by index as (clip_id, speaker), then scores and reasons by row and column."""

    clips: dict[int, tuple[str, str]]
    scores: dict[str, dict[str, PerClip]]
    reasons: dict[str, dict[str, str]]


class Evaluator(Callback):
    """Scores every test clip once, under any number of processes, and writes one record a row of the table.

    Models that make no video, such as lip readers, are left to what they log themselves.

    The same pass scores the calibration rows and, for models driven by words or sound, control rows: the same model
    driven by another clip's words or sound, or by silence. A model that does not listen scores the same there. What
    the rows are stands in `lipbench.evaluation.calibration`.

    Args:
        out: Results folder; records go to `<out>/<protocol>/<model>/<run>.json`.
        name: Name of the run; default: date and time.
        timing: Who decides how long each token lasts: "given" (the truth), "length" (the truth's total length) or
            "free" (the model); default: the first of these that the model supports.
        metrics: Columns or groups (quality, landmarks, motion, sync, reading, identity, dtw, distribution,
            legacy); default: those marked in docs/metrics.md.
        controls: Score the control rows.
        calibration: Score the calibration rows.
        observations: Folder that keeps the landmarks of reference videos and the scores of calibration rows; default:
            `cache/observations` in lipbench's home.
        files: Weights that metrics need -> path: lpips (AlexNet), transcript and second_transcript (lip readers),
            syncnet, inception, identity (ArcFace), i3d. In place of a path a name of `lipbench weights` will do.
            Readers and SyncNets that come with lipbench judge their own protocols unless others are named here.
        workers: Processes beside this one that score, with a thread each, on the model's device; default: one a
            processor where the model runs on the CPU, as far as memory reaches, else 0. 0: this process scores itself.
    """

    def __init__(
        self,
        out: str = "leaderboards/results",
        name: str | None = None,
        timing: Timing | None = None,
        metrics: list[str] | None = None,
        controls: bool = True,
        calibration: bool = True,
        observations: str | None = None,
        files: dict[str, str] | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        if workers is not None and workers < 0:
            raise ValueError(f"evaluator.workers is {workers}; expected 0 or more")
        self.out = Path(out)
        self.name = name
        self.timing = timing
        self.metrics = metrics
        self.controls = controls
        self.calibration = calibration
        self.observations = observations
        self.files = files
        self.workers = workers
        self.records: list[Record] = []
        """After a test, on the first process: the model's record first, then its controls and the calibrations."""
        self.path: Path | None = None
        """Where the model's record was written."""
        self.left_out: dict[str, str] = {}
        """Calibration rows that could not be made -> why."""
        self._trained: dict[str, Any] = {}
        self._clips: dict[int, tuple[str, str]] = {}
        self._pool: Pool | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set the timing and build the bank before anything is generated, so that mistakes show at once.

        Raises:
            ValueError: The model does not support the timing; a metric's name is unknown; the name of the run or of
                the protocol cannot name a file; no column that was asked for can be computed.
            FileNotFoundError: A file of weights is not there, nor weights of that name.
            OSError: The results folder cannot be written.
        """
        if trainer.state.fn != TrainerFn.TESTING or not isinstance(pl_module, GenerativeModel):
            return
        if self.name is not None:
            writing.check_name("evaluator.name", self.name)
        writing.check_protocol(trainer.datamodule.protocol.name)  # type: ignore[attr-defined]
        if self.timing is not None:
            if self.timing not in pl_module.timings:
                known = ", ".join(sorted(pl_module.timings))
                raise ValueError(f"{type(pl_module).__name__} has no timing {self.timing!r}; it has {known}")
            pl_module.timing = self.timing
        judges = bundled.judges(trainer.datamodule.protocol.name)  # type: ignore[attr-defined]
        self._files = {**judges, **bundled.resolved(self.files or {}, home())}
        self._bank = Bank(self.metrics, self._files, self._cache())
        clip_scores.refuse_empty(self._bank, "--evaluator.files")
        if trainer.is_global_zero:
            output_folder.probe(self.out)

    def _cache(self) -> Path:
        if self.observations:
            return Path(self.observations)
        return home() / "cache" / "observations"

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember how long the checkpoint was trained."""
        self._trained = {"epoch": checkpoint.get("epoch")}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Empty accumulators, the same rows on every process, and what fills them."""
        self._rows: dict[str, Row] = {}
        if not isinstance(pl_module, GenerativeModel):
            return
        model = pl_module
        data = trainer.datamodule  # type: ignore[attr-defined]
        packed = data.store_info["packed"] is not None
        self._view = model.clip.frames["video"]
        self._driven = calibration.controls(model.needs) if self.controls else ()
        checks: list[str] = []
        mean = None
        if self.calibration:
            self.left_out = calibration.left_out(self._bank, packed)
            checks = [name for name in calibration.ROWS if name not in self.left_out]
            mean = data.mean_view(self._view).cpu().numpy()
        device = str(model.device)
        plan = Plan(
            self.metrics, self._files, self._cache(), device, self._view, packed, self._driven, tuple(checks), mean
        )
        self._rows = plan.rows(self._bank)
        self._clips = {}
        self._read = clip_scores.read(self._bank)
        count = self.workers
        if count is None:
            here = getattr(trainer.strategy, "num_processes", 1)
            count = workers.suitable(model.device, here, sum(trainer.num_test_batches))
        done = partial(clip_scores.given, self._rows)
        self._pool = Pool(partial(Scorer, plan), count, done, "--evaluator.workers")

    def on_test_batch_end(  # type: ignore[override]  # Lightning's signature has a wider type for outputs
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Generated,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Make the videos of the controls, and have every clip of the batch scored in every row."""
        if not self._rows or self._pool is None:
            return
        model = cast(GenerativeModel, pl_module)
        made: Videos = {clip_scores.MODEL: (outputs["video"], outputs.get("video_len"))}
        with torch.inference_mode():
            for control in self._driven:
                with trainer.precision_plugin.test_step_context():
                    other = model.drive(cast(ClipBatch, {**batch, **control.drive(batch)}), model.timing)
                made[control.name] = other["video"], other.get("video_len")
        for k, (clip_id, speaker) in enumerate(zip(batch["clip_id"], batch["speaker"], strict=True)):
            own = {
                row: (video[k : k + 1], None if length is None else length[k : k + 1])
                for row, (video, length) in made.items()
            }
            self._pool.submit(clip_id, (clip_scores.clip(batch, k, self._read), own))
            self._clips[int(batch["index"][k])] = clip_id, speaker

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End the workers, also where somebody interrupts."""
        self._end()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """End the workers."""
        self._end()

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather the scores of all processes; the first one writes the records and prints them.

        Raises:
            ValueError: Every column is empty in the model's row, which is written and printed all the same.
        """
        if not self._rows or self._pool is None:
            return
        self._pool.finish()
        self._end()
        own = _Part(
            self._clips,
            {name: row.local() for name, row in self._rows.items()},
            {name: row.reasons for name, row in self._rows.items()},
        )
        sets = {name: row.whole() for name, row in self._rows.items()}  # every process takes part
        parts = [own]
        if trainer.world_size > 1:  # one exchange for all rows and columns; every process takes part
            parts = [own] * trainer.world_size
            torch.distributed.all_gather_object(parts, own)
        if not trainer.is_global_zero:
            return
        clips = dict(sorted((index, clip) for part in parts for index, clip in part.clips.items()))
        scores = {
            row: {name: merge([part.scores[row][name] for part in parts]) for name in columns}
            for row, columns in own.scores.items()
        }
        reasons = {row: {k: v for part in parts for k, v in part.reasons[row].items()} for row in self._rows}
        self.records = self._records(trainer, cast(GenerativeModel, pl_module), clips, scores, sets, reasons)
        rows = [(entry, _per_clip(clips, scores[row])) for entry, row in zip(self.records, scores, strict=True)]
        self.path = record.write(rows, self.out)[0]
        values = {
            f"test/{name}": score.value for name, score in self.records[0].scores.items() if score.value is not None
        }
        pl_module.log_dict(values, rank_zero_only=True)
        self._print()
        clip_scores.refuse_all_empty(self.records[0])

    def _records(
        self,
        trainer: pl.Trainer,
        model: GenerativeModel,
        clips: dict[int, tuple[str, str]],
        scores: dict[str, dict[str, PerClip]],
        sets: dict[str, dict[str, tuple[float, int]]],
        reasons: dict[str, dict[str, str]],
    ) -> list[Record]:
        """One record a row; the model's first."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        speakers = {index: speaker for index, (_, speaker) in clips.items()}
        created = record.now()
        run = self.name or created.replace(":", "").removesuffix("Z")
        short = type(model).__module__.split(".")
        name = short[2] if short[:2] == ["lipbench", "models"] else type(model).__name__.lower()
        shared: dict[str, Any] = {
            "protocol": {
                "name": data.protocol.name,
                "version": data.protocol.version,
                "split_sha256": data.split.sha256,
            },
            "clips": {
                "n": len(clips),
                "speakers": len(set(speakers.values())),
                "sha256": record.clips_sha256([clip_id for clip_id, _ in clips.values()]),
            },
            "view": str(self._view),
            "data": record.portable(data.store_info),
            "environment": record.environment()
            | {"processes": trainer.world_size, "precision": str(trainer.precision)},
            "command": record.command(),
            "created": created,
        }
        about: dict[str, Any] = {
            "name": name,
            "timing": model.timing,
            "model": {
                "class_path": f"{type(model).__module__}.{type(model).__qualname__}",
                "arguments": record.portable(dict(model.hparams)),
                "parameters": {"total": _size(model), **{part: _size(child) for part, child in model.named_children()}},
                "checkpoint_sha256": sha256(Path(trainer.ckpt_path)) if trainer.ckpt_path else None,
                "paper": model.paper,
            },
            "training": {
                "batches": model.batches,
                "seed": model._seed,
                "frozen_sha256": model.frozen_sha256,
                **self._trained,
            },
        }
        found = []
        for row, columns in scores.items():
            summary = {}
            for entry in self._bank.entries:
                about_it = self._bank.judges.get(entry.name), record.portable(reasons[row].get(entry.name))
                if entry.name in sets[row]:
                    summary[entry.name] = record.set_score(entry.name, *sets[row][entry.name], len(clips), *about_it)
                else:
                    known = columns[entry.name] if entry.name in columns and len(columns[entry.name].index) else None
                    summary[entry.name] = record.score(entry.name, known, speakers, *about_it)
            if row == clip_scores.MODEL:
                paired = _paired(scores, speakers)
                found.append(
                    Record(
                        kind="model",
                        run=run,
                        control=None,
                        scores=summary,
                        paired=paired,
                        beside=[name for name in scores if name != clip_scores.MODEL],
                        **about,
                        **shared,
                    )
                )
            elif row not in calibration.ROWS:
                found.append(Record(kind="control", run=run, control=row, scores=summary, **about, **shared))
            else:
                about_row: dict[str, Any] = {
                    "name": row,
                    "timing": None,
                    "model": {"about": calibration.ROWS[row]},
                    "training": {},
                }
                draft = Record(kind="calibration", run="", control=None, scores=summary, **about_row, **shared)
                # A row is the same whichever model was tested beside it: its file is named by what it depends on.
                found.append(dataclasses.replace(draft, run=draft.calibration_run))
        return found

    def _print(self) -> None:
        """The rows as a small table, or as several where columns do not fit, and where the record is."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        columns = [
            name for name in self.records[0].scores if any(r.scores[name].value is not None for r in self.records)
        ]
        first = self.records[0]
        title = f"{first.protocol['name']}, {first.clips['n']} clips, {first.view}, timing {first.timing}"

        def table(those: Sequence[str], head: bool) -> Table:
            heading = Text(visible(title), style="table.title") if head else None
            made = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
            made.add_column("row", overflow="fold")  # never cut: two names might then look the same
            for name in those:
                made.add_column(formatting.header(name, first.scores[name]), justify="right", no_wrap=True)
            for k, entry in enumerate(self.records):
                cells = [Text(formatting.cell(entry.scores[name])) for name in those]
                for text, name in zip(cells, those, strict=True) if k == 0 else ():
                    text.append(f"\n{formatting.margin(first.scores[name])}", style="dim")
                label = f"{entry.name} {entry.control}" if entry.control else entry.name
                made.add_row(Text(visible(label)), *cells, style="bold" if k == 0 else "", end_section=k == 0)
            return made

        console = formatting.console()
        formatting.print_split(console, columns, table)
        for name, score in first.scores.items():
            if score.reason:
                console.print(on_one_line(f"{name}: {score.reason}"), style="dim", markup=False)
        for name, reason in self.left_out.items():
            console.print(on_one_line(f"{name}: left out, {reason}"), style="dim", markup=False)
        console.print(f"record: {visible(str(self.path))}", markup=False)


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _paired(scores: Mapping[str, Mapping[str, PerClip]], speakers: Mapping[int, str]) -> list[Paired]:
    """The model against every row of the same test that a working model must beat."""
    found = [
        record.pair(name, own, scores[against][name], against, speakers)
        for against in calibration.AGAINST
        if against in scores
        for name, own in scores[clip_scores.MODEL].items()
    ]
    return [entry for entry in found if entry is not None]


def _per_clip(clips: Mapping[int, tuple[str, str]], columns: Mapping[str, PerClip]) -> pd.DataFrame:
    """A row a clip: clip_id, speaker and one column a metric, NaN where there is no score."""
    table = pd.DataFrame.from_dict(dict(clips), orient="index", columns=["clip_id", "speaker"])
    for name, scores in columns.items():
        table[name] = pd.Series(scores.value, index=scores.index)
    return table.sort_values("clip_id")
