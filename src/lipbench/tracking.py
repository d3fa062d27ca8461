"""Tracking: losses, validation strips and the scores of a run, as files first and in TensorBoard or W&B beside them.

CSV and PNG files under the run's folder are the source of truth; TensorBoard is on by default because it needs no
account; Weights & Biases is used only when a run asks for it (`--tracking.wandb offline` needs no key) and is not
imported otherwise.
"""

import csv
import json
import os
import secrets
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from torch import Tensor

from lipbench.evaluation.evaluator import Evaluator
from lipbench.files import written_whole
from lipbench.media import captions
from lipbench.training.base import BenchModule
from lipbench.training.checkpoints import DATA
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipBatch, Generated

Mode = Literal["off", "offline", "online"]
WANDB_ID: Final = "wandb_id.txt"
"""File in the folder of a training run: the id of its run in W&B, which is the same whenever it is resumed."""
_VOCABULARY: Final = 1000  # words at most: a corpus with more is an open vocabulary


def claim(folder: Path, stage: str) -> str:
    """Name of a new run folder below `folder`, such as "version_3" for a fit or "test_0" for a test.

    The folder is made at once, so that two runs started together do not share one.

    Args:
        folder: Where the runs of one model and corpus lie.
        stage: "fit", "validate", "test" or "predict".
    """
    prefix = "version" if stage == "fit" else stage
    number = 0
    while True:
        name = f"{prefix}_{number}"
        try:
            (folder / name).mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return name


def loggers(
    root: Path,
    name: str,
    version: str,
    wandb: Mode = "off",
    batches: int | None = None,
    trained: Path | None = None,
) -> list[Logger]:
    """CSV and TensorBoard loggers, and W&B's if asked, all writing to `root/name/version`.

    In W&B a training run that is resumed goes on under its id, and so in one curve over "trainer/global_step". A
    training run and the runs that test its checkpoints are one group; their job types are "fit", "test" and so on.

    Args:
        root: Folder of all runs.
        name: "<model>_<data>".
        version: From `claim`.
        wandb: "offline" writes W&B's files below the run's folder without a key, to be sent later by `wandb sync`;
            "online" sends them now.
        batches: For a run that goes on in its folder: batches that are done. What was logged of later ones, which will
            be trained again, is dropped from the CSV file and from TensorBoard. W&B cannot drop: after a kill those
            batches are there twice, with the same values, since a resumed run repeats them exactly.
        trained: For another run than a fit: folder of the training run whose checkpoint it takes, if any.

    Raises:
        ValueError: "online" was asked for and this machine knows no W&B key.
    """
    table = CSVLogger(root, name=name, version=version)
    if batches is None:
        _ = table.experiment  # made while the folder is still empty: later it would warn of files to be deleted
    else:
        table._experiment = _Rows(root / name / version, batches)
    board = TensorBoardLogger(root, name=name, version=version, default_hp_metric=False, purge_step=batches)
    found: list[Logger] = [table, board]
    if wandb != "off":
        folder, job = root / name / version, version.rpartition("_")[0]
        if job == "version":
            number = _wandb_id(folder, goes_on=batches is not None)
            logger = wandb_logger(folder, f"{name}/{version}", wandb, "fit", _group(folder), number)
        else:
            logger = wandb_logger(folder, f"{name}/{version}", wandb, job, None if trained is None else _group(trained))
        found.append(logger)
    return found


def _wandb_id(folder: Path, *, goes_on: bool) -> str:
    """The id of a training run in W&B: a new one, kept in its folder, or that of the run that goes on."""
    path = folder / WANDB_ID
    if not (goes_on and path.is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as aside:
            aside.write_text(f"{secrets.token_hex(8)}\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _group(folder: Path) -> str:
    """How W&B calls a training run together with its tests; the id tells it from those of other machines."""
    folder = folder.resolve()
    path = folder / WANDB_ID
    number = f" {path.read_text(encoding='utf-8').strip()}" if path.is_file() else ""
    return f"{folder.parent.name}/{folder.name}{number}"


def wandb_logger(
    folder: Path,
    name: str,
    mode: Literal["offline", "online"],
    job: str,
    group: str | None = None,
    number: str | None = None,
) -> WandbLogger:
    """A run of W&B in the project "lipbench".

    Args:
        folder: Where its files go; made if need be.
        name: Of the run.
        mode: See `loggers`.
        job: Its job type, such as "fit".
        group: Name that it shares with other runs.
        number: Its id; a run of that id goes on. None makes a new one.

    Raises:
        ValueError: "online" was asked for and this machine knows no W&B key.
    """
    if mode == "online":
        check_wandb_key('take "offline" for "online"')
    folder = folder.absolute()  # W&B's own process may have started in another folder
    folder.mkdir(parents=True, exist_ok=True)  # W&B falls back to a temporary folder if it is missing
    return WandbLogger(
        name=name,
        save_dir=folder,
        project="lipbench",
        offline=mode == "offline",
        id=number,
        group=group,
        job_type=job,
    )


def check_wandb_key(otherwise: str) -> None:
    """Refuse to talk to W&B's server without a key.

    Args:
        otherwise: What can be done without one.

    Raises:
        ValueError: This machine knows none.
    """
    import wandb

    if not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        raise ValueError(f"W&B knows no key on this machine. Type: wandb login, or {otherwise}")


def finish_wandb(*, failed: bool) -> None:
    """End the run of W&B that this process has begun, if any: the next command's run must not be written into it.

    Args:
        failed: What the server is told.
    """
    service = sys.modules.get("wandb")
    if service is not None and service.run is not None:
        service.finish(exit_code=int(failed))


class _Rows(ExperimentWriter):
    """A metrics.csv that goes on: the rows up to a batch stay, where Lightning's own would delete the file.

    Args:
        folder: Of the run.
        batches: Rows of this batch, counted from 0, and later ones are dropped.
    """

    def __init__(self, folder: Path, batches: int) -> None:
        super().__init__(str(folder))
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="", encoding="utf-8") as stream:
            table = csv.DictReader(stream)
            self.metrics_keys = list(table.fieldnames or [])
            # A killed run may have left half a row.
            whole = [row for row in table if None not in row and None not in row.values()]
        kept = [row for row in whole if row.get("step", "").isdigit() and int(row["step"]) < batches]
        with written_whole(path) as aside, aside.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.metrics_keys)
            writer.writeheader()
            writer.writerows(kept)

    def _check_log_dir_exists(self) -> None:
        """The folder is there, and its files stay."""


def spread(first: int, last: int, count: int) -> list[int]:
    """Up to `count` frames spread evenly over [first, last), both ends included."""
    places = np.linspace(first, max(first, last - 1), count)
    return [int(place) for place in np.unique(places.round())]


class _Writer(Callback):
    """A callback that writes into the run's folder."""

    _folder: Path

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ask for the folder while all processes are here: each time, it is exchanged between them."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)


class Tracking(_Writer):
    """Writes strips of the first validation clips, reference over generated, each time validation runs.

    The frames are spread over the speech span: over the whole clip a third of them would show silence. What a model
    logs with `log_image` in training or validation lies beside the strips, in the folder `images`. TensorBoard shows
    them as "strips/<clip id>" and "images/<name>"; W&B, whose panels need names that are the same in every corpus, as
    "strips/0", "strips/1" and so on, and as "images/<name>/0" and so on where a name has parts, with the clip or the
    last parts as the caption.

    Args:
        wandb: "off", "offline" (files only, no key) or "online".
        strips: Validation clips to show; 0 for none.
        frames: Columns of a strip.
    """

    def __init__(self, wandb: Mode = "off", strips: int = 4, frames: int = 10) -> None:
        super().__init__()
        self.wandb = wandb
        self.strips = strips
        self.frames = frames
        self._shown = 0
        self._trained_on: dict[str, Any] | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember what the model is trained on."""
        data = getattr(trainer, "datamodule", None)
        if data is not None and hasattr(data, "protocol") and hasattr(data, "store"):
            texts = dict(zip(data.store.clip_ids, data.store.column("text"), strict=True))
            words = sorted({word for clip in data.split.train if clip in texts for word in texts[clip].split()})
            self._trained_on = {
                "name": data.corpus.name,
                "protocol": data.protocol.name,
                "words": words if len(words) <= _VOCABULARY else None,
            }

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write it into the checkpoint, so that the file alone can be tested, and words it never met be named."""
        if self._trained_on is not None:
            checkpoint[DATA] = self._trained_on

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start with the first clip again."""
        self._shown = 0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Generate the first clips of the first process once more, alone, and draw their strips."""
        count = min(self.strips - self._shown, len(batch["clip_id"]))
        if (
            trainer.sanity_checking
            or not trainer.is_global_zero
            or count < 1
            or not isinstance(pl_module, GenerativeModel)
            or "video" not in pl_module.capabilities
        ):
            return
        rows = cast(
            "ClipBatch", {key: value[:count] for key, value in batch.items() if isinstance(value, Tensor | list)}
        )
        with trainer.precision_plugin.forward_context():
            made = pl_module.run_generate(rows, pl_module.timing)
        for row in range(count):
            length = int(rows["video_len"][row])
            first, last = rows["speech"][row].tolist() if "speech" in rows else (0, length)
            video = made["video"][row, : int(made["video_len"][row])]
            picture = captions.strip(
                [
                    captions.Row("reference", rows["video"][row, :length], captions.batch_words(rows, row)),
                    captions.Row("generated", video, captions.batch_words(rows, row, made)),
                ],
                spread(first, min(last, length), self.frames),
                rows["text"][row] if "text" in rows else "",
                float(rows["fps"][row]) if "fps" in rows else None,
            )
            self._write(trainer, "strips", picture, rows["clip_id"][row], f"strips/{self._shown + row}")
        self._shown += count

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Write what the training step has logged with `log_image`."""
        self._write_images(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what the validation steps have logged."""
        self._write_images(trainer, pl_module)

    def _write_images(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, BenchModule)
        images, pl_module.images = pl_module.images, {}
        if trainer.is_global_zero and not trainer.sanity_checking:
            seen: Counter[str] = Counter()
            for name, image in images.items():
                kind, _, rest = name.partition("/")
                self._write(trainer, "images", image.numpy(), name, f"images/{kind}{f'/{seen[kind]}' if rest else ''}")
                seen[kind] += bool(rest)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand the record that the evaluator has written to the loggers that keep texts."""
        for evaluator in trainer.callbacks:  # type: ignore[attr-defined]  # a plain list
            if isinstance(evaluator, Evaluator) and evaluator.path is not None:
                record = evaluator.path.read_text(encoding="utf-8")
                for target in trainer.loggers:
                    if isinstance(target, TensorBoardLogger):
                        target.experiment.add_text("record", f"```json\n{record}\n```")
                    elif isinstance(target, WandbLogger):
                        target.experiment.summary["record"] = json.loads(record)

    def _write(self, trainer: pl.Trainer, folder: str, picture: npt.NDArray[np.uint8], name: str, place: str) -> None:
        """Save a picture as a PNG file, in one folder with those of other batches, and hand it to the loggers."""
        from PIL import Image

        path = self._folder / folder / name.replace("/", "_")
        path = path / f"{trainer.global_step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
        show(trainer.loggers, f"{folder}/{name}", path, trainer.global_step, place)


def show(targets: Sequence[Logger], key: str, path: Path, step: int, place: str | None = None) -> None:
    """Hand a PNG file to every logger that shows pictures (TensorBoard, W&B).

    Args:
        targets: The trainer's loggers.
        key: Under which name.
        path: The PNG file; W&B copies the file itself.
        step: Optimizer step, the x-axis.
        place: Under which name W&B shows it instead, with the other one as its caption.
    """
    from PIL import Image

    for target in targets:
        if isinstance(target, TensorBoardLogger):
            target.experiment.add_image(key, np.asarray(Image.open(path)), step, dataformats="HWC")
        elif isinstance(target, WandbLogger):
            if place is None:
                target.log_image(key, [str(path)], step=step)
            else:
                target.log_image(place, [str(path)], step=step, caption=[key.partition("/")[2]])


class Videos(_Writer):
    """Writes what `predict` generates as mp4 files, one a clip, and another one of it beside the reference."""

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Generated,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Two files a clip, at its frame rate and without audio.

        <run folder>/videos/<clip id>.mp4 holds the frames as the model made them, in its own view and size;
        <run folder>/side_by_side/<clip id>.mp4 is for the eye: reference and generated, enlarged, with captions.
        """
        from lipbench.media import video

        if "audio" in outputs:
            self._write_audio(outputs, batch)
        for row, clip_id in enumerate(batch["clip_id"] if "video" in outputs else []):
            fps = float(batch["fps"][row])
            made = outputs["video"][row, : int(outputs["video_len"][row])].clamp(0, 1)  # (N, 3, h, w)
            frames = made.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()  # (N, h, w, 3)
            beside = captions.side_by_side(
                batch["video"][row, : int(batch["video_len"][row])],
                made,
                captions.batch_words(batch, row),
                captions.batch_words(batch, row, outputs),
                batch["text"][row] if "text" in batch else "",
            )
            for folder, written in (("videos", frames), ("side_by_side", beside)):
                path = self._folder / folder / f"{clip_id}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                video.write_video(path, written, fps)

    def _write_audio(self, outputs: Generated, batch: ClipBatch) -> None:
        """<run folder>/audio/<clip id>.wav, 16 bits, of models that make audio."""
        import wave

        for row, clip_id in enumerate(batch["clip_id"]):
            count = int(outputs["audio_len"][row]) if "audio_len" in outputs else outputs["audio"].shape[1]
            samples = outputs["audio"][row, :count].float().clamp(-1, 1).mul(32767).round().to(torch.int16)
            path = self._folder / "audio" / f"{clip_id}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            with wave.open(str(path), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(outputs["sample_rate"])
                file.writeframes(samples.cpu().numpy().astype("<i2").tobytes())
