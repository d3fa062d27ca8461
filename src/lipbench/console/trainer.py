"""fit, validate, test and predict: LightningCLI with short names, in any order, and guards against silent surprises."""

import logging
import re
import shlex
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from lipbench import discovery, tracking
from lipbench.console import argv, checkpointing, corpus_option, messages, next_steps, recipe_files, run_folders
from lipbench.data.datamodule import ClipDataModule
from lipbench.errors import UsageError
from lipbench.evaluation.evaluator import Evaluator
from lipbench.training import checkpoints, position
from lipbench.training.base import BenchModule
from lipbench.training.optimization import TrainingFailed

_STEPS: Final = 200_000
"""Where a fit ends that names no end: about ParaLip's 210,000 on GRID (its released configuration)."""
_LARGE: Final = 10_000_000  # parameters above which a CPU is too slow


def run(command: str, words: list[str]) -> None:
    """Run one of the Trainer's commands.

    Args:
        command: "fit", "validate", "test" or "predict".
        words: What follows it on the command line, from `argv.prepared`.

    Raises:
        UsageError: The words cannot be understood, or ask for something that Lightning refuses.
    """
    if any(word.partition("=")[0] == "--data.help" for word in words):
        _print_data_arguments(command)
        return
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
            subclass_mode_data=False,
            auto_configure_optimizers=False,  # models own their optimizers: GANs need two
            seed_everything_default=0,  # True would draw one at random
            save_config_callback=_Config,
            save_config_kwargs={"overwrite": True},  # a resumed run goes on in its folder
            trainer_defaults={"default_root_dir": "runs", "max_steps": _STEPS, "log_every_n_steps": 10},
            parser_kwargs={"prog": "lipbench", "exit_on_error": False}
            | {name: {"exit_on_error": False} for name in LightningCLI.subcommands()},
            args=[command, *corpus_option.with_current_recipes(words)],
        )
    except ArgumentError as error:
        raise UsageError(messages.readable(str(error), words)) from error
    except MisconfigurationException as error:
        raise UsageError(str(error)) from error
    finally:
        run_folders.release()
        tracking.finish_wandb(failed=sys.exc_info()[0] is not None)


def _print_data_arguments(command: str) -> None:
    """Print what `--data.ARG` may be, the same for every corpus."""
    parser = LightningArgumentParser(prog=f"lipbench {command}", add_help=False)
    parser.add_lightning_class_args(ClipDataModule, "data")
    parser.print_help()


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


class _Config(SaveConfigCallback):
    """The run's config.yaml; without the checkpoint that a fit was resumed from, which would be resumed from again."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **options: Any) -> None:  # noqa: ANN401 - Lightning's own
        super().__init__(parser, config.clone(), **options)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it."""
        if stage == "fit":
            self.config.ckpt_path = None
        super().setup(trainer, pl_module, stage)


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
        argv.check_finite(options.items())
        if command != "fit" and options.ckpt_path is None:
            raise UsageError(
                f"{command} needs a trained model: --ckpt_path FILE, or --ckpt_path last (or best) for the newest run "
                f"in {_runs_of(options)}"
            )
        if options.ckpt_path is not None:
            options.ckpt_path = str(_file_of(options, str(options.ckpt_path)))
            options.weights_only = True  # of what lies in the file, read tensors and plain values only

    def _parse_ckpt_path(self) -> None:
        """Take over the arguments of the checkpoint. Nothing that it names is imported: the command names the class.

        Raises:
            UsageError: It holds another model than the command asks for.
            FileNotFoundError: There is no such file.
            ValueError: It is no whole checkpoint of lipbench.
        """
        self._content: dict[str, Any] = {}
        options = self.config.get(str(self.config.get("subcommand")))
        if options is None or options.ckpt_path is None:
            return
        self._content = checkpoints.read(Path(options.ckpt_path))
        stored = checkpoints.arguments(self._content, Path(options.ckpt_path))
        held = str(self._content["hyper_parameters"].get("_class_path", self._content["lipbench"]["class"]))
        want = str(options.model.class_path)
        if held != want:
            short = discovery.short_name("model", held)
            own = " (of no installed package of models; it was not imported)" if short == held else ""
            raise UsageError(
                f"{options.ckpt_path} holds the model {short!r}{own}, but the command asks for "
                f"{_short(options)!r}. Give --model {short}, or another --ckpt_path"
            )
        merged = {self.config.subcommand: {"model": {"class_path": want, "dict_kwargs": stored}}}
        try:
            self.config = self.parser.parse_object(merged, self.config)
        except ArgumentError as error:
            raise ValueError(
                f"{options.ckpt_path} is damaged, or of another version: its arguments do not fit "
                f"{_short(options)} ({messages.readable(str(error), []).strip().splitlines()[-1].strip()})"
            ) from None

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot work before anything is made.

        Raises:
            UsageError: The checkpoint has other arguments than were asked for, or nothing is left to train.
            FileNotFoundError: A file that the run was trained with is gone.
            ValueError: The checkpoint's weights do not fit its arguments.
        """
        options = self._options
        if self._content:
            self._check_checkpoint()
        if self.subcommand == "fit":
            self._check_limits()
        if self._content:
            kind = discovery.load("model", options.model.class_path)  # parsing has imported it
            arguments = vars(options.model.init_args) | dict(options.model.get("dict_kwargs") or {})
            checkpoints.check_fits(Path(options.ckpt_path), self._content, kind, arguments)

    def _check_limits(self) -> None:
        """A fit that would train nothing is refused, not left as an empty folder."""
        options, trainer = self._options, self._options.trainer
        nothing = [key for key in ("max_steps", "max_epochs", "limit_train_batches") if trainer[key] == 0]
        nothing += (
            ["max_time"] if isinstance(trainer.max_time, str) and not re.search("[1-9]", trainer.max_time) else []
        )
        if nothing:
            raise UsageError(f"--trainer.{nothing[0]} {trainer[nothing[0]]} trains nothing; give more, or leave it out")
        if not self._content or trainer.fast_dev_run:
            return
        done = self._content["lipbench"]["batches"]
        if 0 < trainer.max_steps <= done:
            raise UsageError(
                f"{options.ckpt_path} has been trained for {done:,} batches, so --trainer.max_steps "
                f"{trainer.max_steps} is used up: it counts those of all resumed runs. To go on, give more: "
                f"--trainer.max_steps {2 * done}"
            )
        if trainer.max_epochs is not None and "loops" in self._content:
            try:
                epochs = position.read(self._content["loops"]).epoch
            except ValueError as error:
                raise ValueError(f"{options.ckpt_path} is damaged: {error}") from None
            if 0 < trainer.max_epochs <= epochs:
                raise UsageError(
                    f"{options.ckpt_path} has been trained for {epochs} epochs, so --trainer.max_epochs "
                    f"{trainer.max_epochs} is used up. To go on, give more: --trainer.max_epochs {2 * epochs}"
                )

    def _check_checkpoint(self) -> None:
        """The arguments in the checkpoint must be those that were asked for; files may lie elsewhere."""
        options = self._options
        got, want = options.model, self._asked[str(self.subcommand)].model
        wanted = dict(vars(want.init_args)) if "init_args" in want else {}
        stages = self._content["lipbench"]
        frozen = stages.get("frozen", {})
        for name, sha256 in (frozen | stages.get("started", {})).items():
            if name not in got.init_args:
                continue
            if wanted.get(name) is not None:
                got.init_args[name] = wanted.pop(name)  # its hash is compared when it is loaded
            file = got.init_args[name]
            if self.subcommand == "fit" and name in frozen and not (file and Path(file).expanduser().is_file()):
                raise FileNotFoundError(
                    f"{options.ckpt_path} was trained with --model.{name} {file}, and no such file is there. Training "
                    f"needs it to go on: give it where it lies now, --model.{name} FILE (SHA-256 {sha256[:12]}...)"
                )
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
            callbacks += [checkpointing.best(*self.model.monitor), checkpointing.Last()]
        self.trainer_defaults["callbacks"] = callbacks
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except Exception:
            self._leave_no_empty_folder()
            raise
        if self.subcommand == "fit" and isinstance(trainer.accelerator, CPUAccelerator) and options.max_time is None:
            trainer.callbacks.insert(0, checkpointing.Pace(self._small_recipe()))  # type: ignore[attr-defined]  # a plain list
        return trainer

    def _leave_no_empty_folder(self) -> None:
        """Take back the run folder of a trainer that could not be made."""
        if self._folder is not None and not self._going_on and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _small_recipe(self) -> str:
        """What to type instead of training a large model on a CPU, or nothing: a recipe of the same corpus if any."""
        model = _short(self._options)
        own = [path for path in discovery.recipes() if discovery.model_of(path) == model]
        small = [recipe_files.name(path) for path in own if path.match("*_small.yaml")]
        if self._parameters() <= _LARGE or not small:
            return ""
        corpus = f"{model}_{self.datamodule.corpus.name}_"
        return f"; for a CPU there is --config {max(small, key=lambda name: name.startswith(corpus))}"

    def _parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def before_fit(self) -> None:
        """Say where things go, and what a large model means on a CPU."""
        rank_zero_info(f"run folder: {self.trainer.log_dir}")
        size = self._parameters()
        if size > _LARGE and isinstance(self.trainer.accelerator, CPUAccelerator):
            rank_zero_info(
                f"{_short(self.config.fit)} with {size:,} parameters, the paper's size, on a CPU: days "
                f"rather than hours; how many, is said after the first batches{self._small_recipe()}"
            )

    def fit(self, **kwargs: Any) -> None:  # noqa: ANN401 - the Trainer's own arguments
        """Train; whatever ends it, say where the weights are and how to go on.

        Raises:
            SystemExit: A signal stopped it at the end of a batch: 130 for Ctrl-C, 143 for SIGTERM.
            KeyboardInterrupt: It was interrupted at once.
        """
        last = next((c for c in self.trainer.checkpoint_callbacks if isinstance(c, checkpointing.Last)), None)
        try:
            with self._reading_checkpoint():
                self.trainer.fit(**kwargs)
        except checkpointing.Stopped as stop:
            self._say_how_to_go_on(last)
            raise SystemExit(128 + stop.number) from None
        except SystemExit as left:  # how Lightning ends after Ctrl-C
            self._say_how_to_go_on(last)
            raise KeyboardInterrupt from left
        except TrainingFailed as error:  # it says itself how to go on; the same run would meet the same end
            if last is not None and last.last_model_path and not error.spoiled:
                rank_zero_info(f"saved after batch {last.batches}: {last.last_model_path}")
            raise
        except Exception:
            self._say_how_to_go_on(last)
            raise

    def _say_how_to_go_on(self, last: checkpointing.Last | None) -> None:
        """The line that resumes, if this run has written a checkpoint."""
        if last is None or not last.last_model_path:
            rank_zero_info("no checkpoint was written")
            return
        path = shlex.quote(last.last_model_path)
        brought = (Path(last.last_model_path).parents[1] / "config.yaml").is_file()
        words = "" if brought else "... "  # the command's own
        rank_zero_info(f"saved after batch {last.batches}. Go on with: lipbench fit {words}--ckpt_path {path}")

    @contextmanager
    def _reading_checkpoint(self) -> Iterator[None]:
        """Turn what goes wrong while Lightning restores a checkpoint into a sentence about that file."""
        try:
            yield
        except Exception as error:
            # Lightning lets go of the content when all is restored.
            if self._content and self.trainer._checkpoint_connector._loaded_checkpoint:
                text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                text = " ".join(text.split())  # torch writes a line for each tensor
                raise ValueError(f"{self._options.ckpt_path} cannot be used: {text}") from error
            raise

    def validate(self, **kwargs: Any) -> None:  # noqa: ANN401 - the Trainer's own arguments
        """Losses of the validation clips."""
        with self._reading_checkpoint():
            self.trainer.validate(**kwargs)

    def after_fit(self) -> None:
        """Say what to type next."""
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        last = folder / "checkpoints" / "last.ckpt"
        if last.is_file():
            rank_zero_info(f"score it: lipbench test --ckpt_path {last}")
        if hasattr(self.model, "save_observer"):
            self._save_observer(folder / "observer.safetensors")

    @rank_zero_only
    def _save_observer(self, path: Path) -> None:
        """Write the weights file by which metrics or other models use this one."""
        data = self.datamodule
        about = next_steps.trained_on(data.protocol.name, self.model.batches, data.batch_size, self.model._seed)
        self.model.save_observer(path, about)
        options = self.config.fit
        rank_zero_info(next_steps.advice(_short(options), options.data.corpus, path))

    def test(self, **kwargs: Any) -> None:  # noqa: ANN401 - the Trainer's own arguments
        """Score; the evaluator prints the table of models that make video, Lightning what others log."""
        with self._reading_checkpoint():
            self.trainer.test(**kwargs | {"verbose": not self.model.capabilities & {"video", "text"}})

    def predict(self, **kwargs: Any) -> None:  # noqa: ANN401 - the Trainer's own arguments
        """Write each clip as a video or a sound file into the run's folder instead of holding all in memory."""
        self.trainer.callbacks.append(tracking.Videos())  # type: ignore[attr-defined]  # a plain list
        with self._reading_checkpoint():
            self.trainer.predict(**kwargs | {"return_predictions": False})
        folder = self.trainer.log_dir
        if self.model.capabilities != {"audio"}:
            rank_zero_info(f"videos: {folder}/videos; beside the reference: {folder}/side_by_side")
        if "audio" in self.model.capabilities:
            rank_zero_info(f"audio: {folder}/audio")

    _folder: Path | None = None
    _going_on = False

    def _loggers(self) -> list[Logger]:
        """Loggers that write into a new folder runs/<model>_<data>/<version>, or into that of the run that goes on."""
        options = self._options
        folder, wandb = _runs_of(options), options.tracking.wandb
        if not _first_process():
            return tracking.loggers(folder.parent, folder.name, "other")  # never used
        why = ""
        if self.subcommand == "fit" and options.ckpt_path is not None:
            checkpoint = Path(options.ckpt_path)
            root = self._asked.fit.trainer.get("default_root_dir") if "trainer" in self._asked.fit else None
            beside = checkpoint.absolute().parent.parent.parent
            beside = beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside
            if beside.name == folder.name and (root is None or str(root) == run_folders.root_of(checkpoint)):
                folder = beside  # nobody asked for another root
            self._folder, why = run_folders.going_on(checkpoint, folder)
            self._going_on = self._folder is not None
        if self._folder is None:
            self._folder = run_folders.new(folder, str(self.subcommand))
        if self._going_on:
            warnings.filterwarnings("ignore", r"Checkpoint directory .* exists and is not empty")
        if why:
            rank_zero_info(f"goes on in a new run folder: {why}")
        batches = self._content["lipbench"]["batches"] if self._going_on else None
        trained = None
        if self.subcommand != "fit" and Path(options.ckpt_path).resolve().parent.name == "checkpoints":
            trained = Path(options.ckpt_path).resolve().parents[1]
        return tracking.loggers(folder.parent, folder.name, self._folder.name, wandb, batches, trained)


def _first_process() -> bool:
    """Whether this process writes; known before the Trainer is there."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _file_of(options: Namespace, asked: str) -> Path:
    """The file of `--ckpt_path`: a path, or "last" or "best" of the newest run of this model and corpus.

    Raises:
        FileNotFoundError: There is none.
    """
    if asked not in ("last", "best"):
        if not Path(asked).is_file():
            raise FileNotFoundError(f"no checkpoint at {asked}; --ckpt_path last takes that of the newest run")
        return Path(asked)
    runs = _runs_of(options)
    found = sorted(runs.glob(f"version_*/checkpoints/{asked}.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError(
            f"no {asked}.ckpt below {runs}. Train first: lipbench fit --model {_short(options)} --data "
            f"{options.data.corpus}, or give the file: --ckpt_path FILE"
        )
    rank_zero_info(f"checkpoint: {found[-1]}")
    return found[-1]


def _runs_of(options: Namespace) -> Path:
    """Folder of all runs of a model on a corpus."""
    return Path(options.trainer.default_root_dir) / f"{_short(options)}_{options.data.corpus}"


def _short(options: Namespace) -> str:
    """Short name of the model, or its class path."""
    return discovery.short_name("model", str(options.model.class_path))


def _plain(value: object) -> object:
    """A value as YAML and checkpoints keep it: tuples are lists there."""
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
