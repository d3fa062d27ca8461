"""fit, validate, test and predict: LightningCLI with short names, in any order, and guards against silent surprises."""

import logging
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any, Final

from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from lipbench import tracking
from lipbench.commands import _checkpoints, _messages, _names, _words, weights
from lipbench.commands._names import UsageError
from lipbench.data._datamodule import ClipDataModule
from lipbench.evaluation.evaluator import Evaluator
from lipbench.models._base import BenchModule, GenerativeModel

_STEPS: Final = 200_000
"""Where a fit ends that names no end: about ParaLip's 210,000 on GRID (its released configuration)."""
_LARGE: Final = 10_000_000  # parameters above which a CPU is too slow


def run(command: str, words: list[str]) -> None:
    """Run one of the Trainer's commands.

    Args:
        command: "fit", "validate", "test" or "predict".
        words: What follows it on the command line, from `_words.prepared`.

    Raises:
        UsageError: The words cannot be understood, or ask for something that Lightning refuses.
    """
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_no_advertisement)
    if command != "fit":  # the checkpoint callbacks are for fit only
        warnings.filterwarnings("ignore", r"Be aware that when using `ckpt_path`, callbacks used to create")
    # An epoch may well be shorter: what is logged is counted over all epochs.
    warnings.filterwarnings("ignore", r"The number of training batches .* is smaller than the logging interval")
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")  # inside Lightning 2.6 with torch 2.15
    try:
        Cli(
            BenchModule,
            ClipDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # models own their optimisers: GANs need two
            seed_everything_default=0,  # True would draw one at random
            save_config_kwargs={"overwrite": True},  # run folders are always new; without a logger there is only one
            trainer_defaults={"default_root_dir": "runs", "max_steps": _STEPS, "log_every_n_steps": 10},
            parser_kwargs={"prog": "lipbench", "exit_on_error": False}
            | {name: {"exit_on_error": False} for name in LightningCLI.subcommands()},
            args=[command, *words],
        )
    except ArgumentError as error:
        raise UsageError(_messages.readable(str(error), words)) from error
    except MisconfigurationException as error:
        raise UsageError(str(error)) from error


def _no_advertisement(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning is about this run."""
    return "Tip: For seamless" not in record.getMessage()


class _Bar(RichProgressBar):
    """Lightning's bar for runs that are counted in batches: no "of -2 epochs", no number of the run."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What a model logs for the bar."""
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        """The epoch, from 0, as checkpoints count it."""
        return f"epoch {current_epoch}"


class Cli(LightningCLI):
    """LightningCLI with lipbench's callbacks and loggers, and a guard against checkpoints that replace the model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The evaluator and the tracking are always there; their options are flags."""
        parser.add_lightning_class_args(Evaluator, "evaluator")
        parser.add_lightning_class_args(tracking.Tracking, "tracking")

    @property
    def _options(self) -> Namespace:
        """Everything that was given to the command or is its default."""
        options: Namespace = self.config[str(self.subcommand)]
        return options

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and keep apart what was asked for in words or files from what is merely a default."""
        assert isinstance(args, list)
        self.config = parser.parse_args(args)
        self._asked = parser.parse_args(args, defaults=False)
        command = self.config.subcommand
        options = self.config[command]
        _words.check_finite(options.items())
        if command != "fit" and options.ckpt_path is None:
            raise UsageError(
                f"{command} needs a trained model: --ckpt_path FILE, or --ckpt_path last (or best) for the newest run "
                f"in {_runs(options)}"
            )
        if options.ckpt_path is not None:
            options.ckpt_path = str(_checkpoint(options, str(options.ckpt_path)))
            options.weights_only = True  # of what lies in the file, read tensors and plain values only

    def before_instantiate_classes(self) -> None:
        """Refuse a checkpoint whose stored arguments, which Lightning has merged in, contradict the command.

        Raises:
            UsageError: It holds another model, or other arguments than were asked for.
        """
        options = self._options
        got, want = options.model, self._asked[str(self.subcommand)].model
        if got.class_path != want.class_path:
            raise UsageError(
                f"{options.ckpt_path} holds the model {_short(got)!r}, but the command asks for {_short(want)!r}. Give "
                f"--model {_short(got)}, or another --ckpt_path"
            )
        wanted = vars(want.init_args) if "init_args" in want else {}
        other = {key: got.init_args[key] for key in wanted if _plain(got.init_args[key]) != _plain(wanted[key])}
        if other:
            lines = "\n".join(
                f"  {key}: {value!r} in the checkpoint, {wanted[key]!r} asked for" for key, value in other.items()
            )
            advice = (
                "Resuming keeps the arguments a run was started with: leave them out, or start a new run from these "
                f"weights with --model.init_from {options.ckpt_path} in place of --ckpt_path"
                if self.subcommand == "fit"
                else "Leave them out: a checkpoint knows its own"
            )
            raise UsageError(f"{options.ckpt_path} was trained with other arguments:\n{lines}\n{advice}")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - the Trainer's own arguments
        """Add loggers and checkpoints where the command names none.

        Raises:
            FileNotFoundError: The corpus is not prepared; known before a run folder is made.
        """
        _ = self.datamodule.store
        options = self._options.trainer
        if options.logger is None and not options.fast_dev_run:
            kwargs["logger"] = self._loggers()
        callbacks: list[Callback] = [] if options.enable_progress_bar is False else [_Bar()]
        if self.subcommand == "fit" and options.enable_checkpointing is not False:
            callbacks += [_checkpoints.best(*self.model.monitor), _checkpoints.Last()]
        self.trainer_defaults["callbacks"] = callbacks
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Say where things go, and what a large model means on a CPU."""
        rank_zero_info(f"run folder: {self.trainer.log_dir}")
        size = sum(parameter.numel() for parameter in self.model.parameters())
        if size > _LARGE and isinstance(self.trainer.accelerator, CPUAccelerator):
            model = _short(self.config.fit.model)
            own = [path for path in _names.recipes() if _names.model_of(path) == model]
            small = [str(path) for path in own if path.match("*_small.yaml")]
            hint = f"; for a CPU there is --config {small[0]}" if small else ""
            rank_zero_info(f"{model} with {size:,} parameters, the paper's size, on a CPU: slow{hint}")

    def after_fit(self) -> None:
        """Say what to type next."""
        last = Path(self.trainer.log_dir or self.trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        if last.is_file():
            rank_zero_info(f"score it: lipbench test --ckpt_path {last}")
        if hasattr(self.model, "save_observer"):
            self._save_observer(Path(self.trainer.log_dir or self.trainer.default_root_dir))

    @rank_zero_only
    def _save_observer(self, folder: Path) -> None:
        """Write the weights file by which metrics use this model as a judge."""
        data, batches = self.datamodule, self.model.batches
        trained_on = f"{data.protocol.name}, {batches} batches of {data.batch_size} clips, seed {self.model._seed}"
        path = folder / "observer.safetensors"
        self.model.save_observer(path, trained_on)
        observer = weights.OBSERVER.get(_short(self.config.fit.model))
        if observer is None:
            rank_zero_info(f"let a model learn from it: --model.expert {path}")
        else:
            rank_zero_info(f"judge with it: --evaluator.files.{observer} {path}")

    def test(self, **kwargs: Any) -> None:  # noqa: ANN401 - the Trainer's own arguments
        """Score; the evaluator prints the table of models that make video, Lightning what others log."""
        self.trainer.test(**kwargs | {"verbose": not isinstance(self.model, GenerativeModel)})

    def predict(self, **kwargs: Any) -> None:  # noqa: ANN401 - the Trainer's own arguments
        """Write each clip as a video into the run's folder instead of holding all of them in memory."""
        self.trainer.callbacks.append(tracking.Videos())  # type: ignore[attr-defined]  # a plain list
        self.trainer.predict(**kwargs | {"return_predictions": False})
        rank_zero_info(
            f"videos: {self.trainer.log_dir}/videos; beside the reference: {self.trainer.log_dir}/side_by_side"
        )

    def _loggers(self) -> list[Logger]:
        """Loggers that write into a new folder runs/<model>_<data>/<version>."""
        options = self._options
        folder = _runs(options)
        version = tracking.claim(folder, str(self.subcommand)) if _first_process() else "other"  # never used
        return tracking.loggers(folder.parent, folder.name, version, options.tracking.wandb)


def _first_process() -> bool:
    """Whether this process writes; known before the Trainer is there."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _checkpoint(options: Namespace, asked: str) -> Path:
    """The file of `--ckpt_path`: a path, or "last" or "best" of the newest run of this model and corpus.

    Raises:
        FileNotFoundError: There is none.
    """
    if asked not in ("last", "best"):
        if not Path(asked).is_file():
            raise FileNotFoundError(f"no checkpoint at {asked}; --ckpt_path last takes that of the newest run")
        return Path(asked)
    runs = _runs(options)
    found = sorted(runs.glob(f"version_*/checkpoints/{asked}.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError(
            f"no {asked}.ckpt below {runs}. Train first: lipbench fit --model {_short(options.model)} --data "
            f"{_short(options.data)}, or give the file: --ckpt_path FILE"
        )
    rank_zero_info(f"checkpoint: {found[-1]}")
    return found[-1]


def _runs(options: Namespace) -> Path:
    """Folder of all runs of a model on a corpus."""
    return Path(options.trainer.default_root_dir) / f"{_short(options.model)}_{_short(options.data)}"


def _short(choice: Namespace) -> str:
    """Short name of a model or corpus: the file, or the folder, that its class lives in; else the class path."""
    path = str(choice.class_path)
    return path.split(".")[2] if path.startswith("lipbench.") else path


def _plain(value: object) -> object:
    """A value as YAML and checkpoints keep it: tuples are lists there."""
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
