"""The evaluator: a callback that scores what `test` makes beside calibration and control rows, and writes records."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn

from lipbench import discovery
from lipbench.errors import on_one_line, visible
from lipbench.evaluation import calibration, clip_scores, formatting, output_folder, readings, record, workers, writing
from lipbench.evaluation.bank import METRICS, Bank, ScoreRow
from lipbench.evaluation.calibration import Control
from lipbench.evaluation.clip_scores import Plan, Scorer, Videos
from lipbench.evaluation.readings import ReadingRows
from lipbench.evaluation.record import Record
from lipbench.evaluation.scoreboard import MODEL, Scoreboard, ScoredRow, Subject
from lipbench.evaluation.workers import Pool
from lipbench.files import sha256
from lipbench.paths import home
from lipbench.pretrained import bundled
from lipbench.scoring.base import PerClip, merge
from lipbench.training.base import BenchModule
from lipbench.training.generative import GenerativeModel
from lipbench.training.reading import ReadingModel
from lipbench.types import ClipBatch, Generated, Timing


@dataclasses.dataclass(frozen=True)
class _Part:
    """What one process has: clips by index as (clip_id, speaker), then scores and reasons by row and column."""

    clips: dict[int, tuple[str, str]]
    scores: dict[str, dict[str, PerClip]]
    reasons: dict[str, dict[str, str]]


class Evaluator(Callback):
    """Scores every test clip once, under any number of processes, and writes one record a row of the table.

    A model is scored by what it can do (`capabilities`): the videos that it generates by all columns but those under
    "text/", the words that it reads itself by those. Models that do neither, such as SyncNets, are left to what they
    log themselves.

    The same pass scores the calibration rows and, for models driven by words or sound, control rows: the same model
    driven by another clip's words or sound, or by silence. A model that ignores its input scores the same there. What
    the rows are stands in `lipbench.evaluation.calibration` and, for readers, in `lipbench.evaluation.readings`.

    Args:
        out: Results folder; records go to `<out>/<protocol>/<model>/<run>.json`.
        name: Name of the run; default: date and time.
        timing: Who decides how long each token lasts: "given" (the truth), "length" (the truth's total length) or
            "free" (the model); default: the first of these that the model supports.
        metrics: Columns, groups (quality, landmarks, motion, sync, reading, identity, dtw, distribution, legacy, or
            "default") or metrics of other packages (`my_package.my_module.MyMetric`); default: those marked in
            docs/metrics.md.
        controls: Score the control rows.
        calibration: Score the calibration rows.
        observations: Folder that keeps the landmarks of reference videos and the scores of calibration rows; default:
            `cache/observations` in lipbench's home.
        files: Weights that metrics need -> path: lpips (AlexNet), transcript and second_transcript (lip readers),
            teacher_forced (one with a decoder; default: transcript), syncnet, inception, identity (ArcFace), i3d. In
            place of a path a name of `lipbench weights` will do.
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
        """Calibration and control rows that could not be made -> why."""
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
        self._outputs = (
            pl_module.capabilities & {"video", "text"} if isinstance(pl_module, BenchModule) else frozenset()
        )
        if trainer.state.fn != TrainerFn.TESTING or not self._outputs:
            return
        if self.name is not None:
            writing.check_name("evaluator.name", self.name)
        protocol = trainer.datamodule.protocol.name  # type: ignore[attr-defined]
        writing.check_protocol(protocol)
        if isinstance(pl_module, GenerativeModel) and self.timing is not None:
            if self.timing not in pl_module.timings:
                known = ", ".join(sorted(pl_module.timings))
                raise ValueError(f"{type(pl_module).__name__} has no timing {self.timing!r}; it has {known}")
            pl_module.timing = self.timing
        self._files = {**bundled.judges(protocol), **bundled.resolved(self.files or {}, home())}
        check_outputs(self.metrics, self._outputs, type(pl_module).__name__)
        self._bank = Bank(self.metrics if "video" in self._outputs else [], self._files, self._cache())
        self._text_bank = Bank(self.metrics if "text" in self._outputs else [], scores="text")
        clip_scores.refuse_empty([self._bank, self._text_bank], "--evaluator.files")
        if trainer.is_global_zero:
            output_folder.probe(self.out)

    def _cache(self) -> Path:
        if self.observations:
            return Path(self.observations)
        return home() / "cache" / "observations"

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Empty accumulators, the same rows on every process, and what fills them."""
        self._rows: dict[str, ScoreRow] = {}
        self._readings: ReadingRows | None = None
        self._clips = {}
        if "text" in self._outputs:
            self._readings = ReadingRows(self._text_bank, self.controls, self.calibration)
        if "video" in self._outputs:
            self._start_videos(trainer, cast(GenerativeModel, pl_module))

    def _start_videos(self, trainer: pl.Trainer, model: GenerativeModel) -> None:
        """Rows of generated videos, and the processes that score them."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        packed = data.store_info["packed"] is not None
        self._view = model.clip_spec.frames["video"]
        self._driven: tuple[Control, ...] = ()
        self.left_out = {}
        if self.controls:
            self._driven, self.left_out = calibration.controls(model.needs, packed, data.other_speakers)
        checks: list[str] = []
        mean = None
        if self.calibration:
            text = data.store_info["settings"].get("durations") != "none"
            self.left_out |= calibration.left_out(self._bank, packed, text)
            checks = [name for name in calibration.ROWS if name not in self.left_out]
            mean = data.mean_view(self._view).cpu().numpy()
        device = str(model.device)
        plan = Plan(
            self.metrics, self._files, self._cache(), device, self._view, packed, self._driven, tuple(checks), mean
        )
        self._rows = plan.rows(self._bank)
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
        outputs: Generated | None,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Make what the controls show, and have every clip of the batch scored in every row."""
        clips = zip(batch["index"].tolist(), batch["clip_id"], batch["speaker"], strict=True) if self._outputs else ()
        self._clips |= {index: (clip_id, speaker) for index, clip_id, speaker in clips}
        if self._readings is not None:
            model = cast(ReadingModel, pl_module)
            with torch.inference_mode(), trainer.precision_plugin.test_step_context():
                written = (outputs or {}).get("text")
                texts = model.read(batch) if written is None else written
                self._readings.update(batch, texts, model, list(model.clip_spec.frames))
        if self._pool is not None and outputs is not None:
            self._score_videos(trainer, cast(GenerativeModel, pl_module), outputs, batch)

    def _score_videos(self, trainer: pl.Trainer, model: GenerativeModel, outputs: Generated, batch: ClipBatch) -> None:
        """Make the videos of the controls, and hand every clip to whoever scores it."""
        assert self._pool is not None
        made: Videos = {MODEL: (outputs["video"], outputs.get("video_len"))}
        with torch.inference_mode():
            for control in self._driven:
                with trainer.precision_plugin.test_step_context():
                    other = model.run_generate(cast(ClipBatch, {**batch, **control.drive(batch)}), model.timing)
                made[control.name] = other["video"], other.get("video_len")
        for k, clip_id in enumerate(batch["clip_id"]):
            own = {
                row: (video[k : k + 1], None if length is None else length[k : k + 1])
                for row, (video, length) in made.items()
            }
            self._pool.submit(clip_id, (clip_scores.clip(batch, k, self._read), own))

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
        if not self._outputs:
            return
        if self._pool is not None:
            self._pool.finish()
            self._end()
        rows = self._scored()
        own = _Part(
            self._clips, {n: dict(row.clips) for n, row in rows.items()}, {n: dict(r.reasons) for n, r in rows.items()}
        )
        parts = [own]
        if trainer.world_size > 1:  # one exchange for all rows and columns; every process takes part
            parts = [own] * trainer.world_size
            torch.distributed.all_gather_object(parts, own)
        if not trainer.is_global_zero:
            return
        clips = dict(sorted((index, clip) for part in parts for index, clip in part.clips.items()))
        whole = {
            name: dataclasses.replace(
                row,
                clips={column: merge([part.scores[name][column] for part in parts]) for column in row.clips},
                reasons={column: why for part in parts for column, why in part.reasons[name].items()},
            )
            for name, row in rows.items()
        }
        about = readings.ROWS | (calibration.ROWS if "video" in self._outputs else {})
        board = Scoreboard(clips, whole, about)
        self.records = self._records(trainer, cast(BenchModule, pl_module), board)
        self.path = record.write(list(zip(self.records, board.tables(), strict=True)), self.out)[0]
        values = {
            f"test/{name}": score.value for name, score in self.records[0].scores.items() if score.value is not None
        }
        pl_module.log_dict(values, rank_zero_only=True)
        self._print()
        clip_scores.refuse_all_empty(self.records[0])

    def _scored(self) -> dict[str, ScoredRow]:
        """Row -> what this process found: the model's first, then controls, then calibration rows.

        A collective call: every process makes it.
        """
        judges = self._bank.judges
        found = {
            name: ScoredRow(row.entries, row.local_scores(), row.compute_set(), row.reasons, judges)
            for name, row in self._rows.items()
        }
        if self._readings is None:
            return found
        for name, row in self._readings.scored().items():
            found[name] = _joined(found[name], row) if name in found else row
        known = [*calibration.ROWS, *readings.ROWS]
        return dict(sorted(found.items(), key=lambda pair: (pair[0] != MODEL, pair[0] in known)))

    def _records(self, trainer: pl.Trainer, model: BenchModule, board: Scoreboard) -> list[Record]:
        """One record a row; the model's first."""
        data, views = trainer.datamodule, model.clip_spec.frames  # type: ignore[attr-defined]
        created = record.now()
        short = discovery.short_name("model", type(model))
        subject = Subject(
            name=type(model).__name__.lower() if "." in short else short,
            run=self.name or created.replace(":", "").removesuffix("Z"),
            timing=model.timing if isinstance(model, GenerativeModel) else None,
            model={
                "class_path": f"{type(model).__module__}.{type(model).__qualname__}",
                "arguments": record.portable(dict(model.hparams)),
                "parameters": {"total": _size(model), **{part: _size(child) for part, child in model.named_children()}},
                "checkpoint_sha256": sha256(Path(trainer.ckpt_path)) if trainer.ckpt_path else None,
                "paper": cast(GenerativeModel | ReadingModel, model).paper,
            },
            training={
                "batches": model.batches,
                "seed": model._seed,
                "frozen_sha256": model.frozen_sha256,
                **model.trained,
            },
        )
        return board.records(
            subject,
            protocol={
                "name": data.protocol.name,
                "version": data.protocol.version,
                "split_sha256": data.split.sha256,
            },
            view=str(views.get("video") or next(iter(views.values()), "none")),
            data=data.store_info,
            created=created,
            against=(*calibration.AGAINST, *readings.AGAINST),
            environment={"processes": trainer.world_size, "precision": str(trainer.precision)},
        )

    def _print(self) -> None:
        """The rows as a small table, or as several where columns do not fit, and where the record is."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        columns = [
            name
            for name in self.records[0].scores
            if any(name in r.scores and r.scores[name].value is not None for r in self.records)
        ]
        first = self.records[0]
        title = f"{first.protocol['name']}, {first.clips['n']} clips, {first.view}"
        title += f", timing {first.timing}" if first.timing else ""

        def table(those: Sequence[str], head: bool) -> Table:
            heading = Text(visible(title), style="table.title") if head else None
            made = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
            made.add_column("row", overflow="fold")  # never cut: two names might then look the same
            for name in those:
                made.add_column(formatting.header(name, first.scores[name]), justify="right", no_wrap=True)
            for k, entry in enumerate(self.records):
                cells = [Text(formatting.cell(entry.scores.get(name))) for name in those]
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


def _joined(videos: ScoredRow, texts: ScoredRow) -> ScoredRow:
    """A row in which both the videos and the texts of a model are scored."""
    return ScoredRow(
        [*videos.entries, *texts.entries],
        {**videos.clips, **texts.clips},
        videos.sets,
        {**videos.reasons, **texts.reasons},
        {**videos.judges, **texts.judges},
    )


def check_outputs(names: Sequence[str] | None, outputs: frozenset[str], who: str) -> None:
    """Refuse columns that score what a model does not return.

    Raises:
        ValueError: A column was named that is of no use; the message says which would be.
    """
    for name in names or ():
        entry = METRICS.get(name)
        if entry is not None and entry.column.scores not in outputs:
            have = ", ".join(other.name for other in METRICS.values() if other.column.scores in outputs)
            what = {"video": "generated video", "text": "what a model reads itself"}[entry.column.scores]
            raise ValueError(f"{name} scores {what}, which {who} does not return. It has {have}")
