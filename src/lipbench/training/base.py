"""What every model shares: its contract, checkpoints, exact resuming, frozen parts and starts from earlier stages."""

import warnings
from abc import ABC
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from lipbench import __version__
from lipbench.pretrained import weights
from lipbench.training import checkpoints, position
from lipbench.training.checkpoints import SCHEMA
from lipbench.training.moving_average import MovingAverage
from lipbench.training.optimization import OptimizedModule, PlateauCallback
from lipbench.training.throughput import Throughput
from lipbench.types import ClipSpec, Generated

Loader = Callable[[Path], tuple[nn.Module, str]]
"""Path of a weights file -> the network in it, and the file's SHA-256."""


class BenchModule(OptimizedModule, ABC):
    """Base of all models. A subclass names its batches, its optimizers and its losses; this class does the rest.

    Randomness: before each batch all generators are seeded from (seed of the run, number of the batch, process). A
    resumed run thus draws the same numbers as an uninterrupted one, whatever validation or loaders drew in between.

    The arguments of all bases are taken by subclasses through `**options`: they stand in `--help`, in YAML and in
    checkpoints like a subclass's own. What a constructor is called with is kept in checkpoints without further ado.

    Args:
        ema_decay: Decay of the moving average of the weights that validation, test and generation use; 0 is off.
        init_from: Checkpoint whose weights are the start of a fresh fit (a warm start from an earlier stage).
        options: Those of `OptimizedModule`.
    """

    networks: ClassVar[int] = 1
    """Version of the networks, kept in checkpoints: raised when the same weights come to mean something else."""
    optional_init_prefixes: ClassVar[tuple[str, ...]] = ()
    """Names of submodules that `init_from` need not hold."""
    takes: ClassVar[dict[str, str]] = {}
    """Argument -> short name of the model whose training writes the file that it takes; told after that training."""

    def __init__(self, *, ema_decay: float = 0.0, init_from: str | None = None, **options: Any) -> None:  # noqa: ANN401 - OptimizedModule's arguments
        super().__init__(**options)
        self.ema_decay, self.init_from = ema_decay, init_from
        self.frozen: dict[str, nn.Module] = {}
        """Networks of earlier stages that train this one: outside of its parameters and its checkpoint."""
        self.frozen_sha256: dict[str, str] = {}
        """Name of a frozen network -> hash of its file; read back from checkpoints."""
        self.started_sha256: dict[str, str] = {}
        """Option that named the file from which a part started -> hash of that file; read back from checkpoints."""
        self.trained: dict[str, Any] = {}
        """Of the checkpoint that was loaded: its epoch, and the protocol whose clips it was trained on (or None)."""
        self.images: dict[str, Tensor] = {}
        """Name of a picture that `log_image` was given -> (H, W, 3) uint8, until tracking has written it."""
        self._starts: dict[str, tuple[nn.Module, Path, str, Loader | None, tuple[str, ...]]] = {}
        self._validated = -1  # batches of the loader that were drawn when a validation last ended
        self._validate_first = False  # the resumed run stopped where a validation was due

    # What a subclass says

    @property
    def clip_spec(self) -> ClipSpec:
        """What the datamodule shall put into a batch; with several streams, their first, which is validated and tested.

        Raises:
            NotImplementedError: The model defines neither `clip_spec` nor `streams`.
        """
        first = next(iter(self.streams.values()), None)
        if first is None:
            raise NotImplementedError(f"{type(self).__name__} must define `clip_spec` or `streams`")
        return first

    @property
    def streams(self) -> dict[str, ClipSpec]:
        """Name of a stream -> what its batches hold. With any, training batches are a dict of a batch a stream."""
        return {}

    @property
    def capabilities(self) -> frozenset[str]:
        """What the model can be asked for, of the batch that `clip_spec` describes.

        "video": `generate` returns `video`. "audio": it returns `audio` and `sample_rate`. "text": `read` gives the
        words of the batch's video. A subclass adds its own to `super().capabilities`.
        """
        return frozenset()

    def predict_step(self, batch: Any, batch_idx: int) -> Generated:  # noqa: ANN401 - see compute_step
        """Nothing, for models that neither generate nor read; those that do add what they return."""
        return {}

    # Counting

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401 - see compute_step
        """What this batch logs stands at its number. Lightning's own count differs by one after a resume."""
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.batches

    def on_validation_end(self) -> None:
        """No validation is due any more."""
        self._validated = self.drawn

    def log_image(self, name: str, image: Tensor) -> None:
        """Log a picture of any kind, such as an alignment or a plot; it is written where the strips are.

        To be called in a training or validation step. A later picture of the same name in the same step replaces it.

        Args:
            name: Such as "attention/bbaf2n".
            image: (3, H, W) RGB or (H, W) gray, float in [0, 1] or uint8.

        Raises:
            ValueError: It has another shape or another type.
        """
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise ValueError(f"the image {name!r} is {image.dtype}; expected float in [0, 1] or uint8")
        if image.dim() not in (2, 3) or (image.dim() == 3 and image.shape[0] != 3):
            raise ValueError(f"the image {name!r} has shape {tuple(image.shape)}; expected (3, H, W) or (H, W)")
        pixels = image.detach().expand(3, *image.shape[-2:])  # (3, H, W)
        if pixels.dtype != torch.uint8:
            pixels = (pixels.float().nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
        self.images[name] = pixels.permute(1, 2, 0).cpu()  # (H, W, 3)

    # Starting, saving and resuming

    def configure_callbacks(self) -> list[pl.Callback]:
        """While fitting: throughput, plateaus, and the moving average of the weights if wanted."""
        # Lightning refuses accumulation under manual optimization, and looks between this hook and `setup`.
        self._accumulate, self.trainer.accumulate_grad_batches = self.trainer.accumulate_grad_batches, 1
        if self.trainer.state.fn != TrainerFn.FITTING:
            return []
        callbacks: list[pl.Callback] = [Throughput()]
        if self.follows_validations or "plateau" in (self.schedule, *self.schedules.values()):
            callbacks.append(PlateauCallback())
        return [*callbacks, MovingAverage(self.ema_decay)] if self.ema_decay else callbacks

    def setup(self, stage: str) -> None:
        """Check the trainer, and have it write and read checkpoints in lipbench's way.

        Raises:
            ValueError: The strategy shards the model, or checkpoints are asked for by time.
        """
        self.trainer.accumulate_grad_batches = self._accumulate
        if not isinstance(self.trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ValueError(
                "lipbench runs on one device or with --trainer.strategy ddp, "
                f"found {type(self.trainer.strategy).__name__}"
            )
        strategy = self.trainer.strategy
        if type(strategy.checkpoint_io) is TorchCheckpointIO:  # not one that the user has asked for
            strategy.checkpoint_io = checkpoints.CheckpointFiles()
        if stage != "fit":
            return
        for callback in self.trainer.checkpoint_callbacks:
            if getattr(callback, "_train_time_interval", None) is not None:
                raise ValueError(
                    "ModelCheckpoint's train_time_interval does nothing under manual optimization (Lightning 2.6); "
                    "set every_n_train_steps instead"
                )
        # Lightning warns that checkpoints hold the weights after the step, which is what they should hold.
        warnings.filterwarnings("ignore", "Using ModelCheckpoint with manual optimization")

    def register_frozen(self, name: str, network: nn.Module, sha256: str) -> None:
        """Take a network of an earlier stage along.

        Args:
            name: Under which it lies in `frozen`; the option that names its file.
            network: As `lipbench.pretrained.weights.load` gives it, or a model of `lipbench.training.loading`.
            sha256: Hash of its file, which is kept in checkpoints.
        """
        self.frozen[name], self.frozen_sha256[name] = network.requires_grad_(False).eval(), sha256

    def start_part(
        self,
        name: str,
        part: nn.Module,
        path: str | Path,
        what: str,
        load: Loader | None = None,
        without: tuple[str, ...] = (),
    ) -> None:
        """Have a part of the model start from the weights file of an earlier stage, and go on training from there.

        Called in `setup` when fitting. A resumed run has the weights in its own checkpoint: then the file is not
        needed, but if it is there it must be the same. The fit ends with an error if the file is not there or holds
        another network.

        Args:
            name: The option that names the file; its hash is kept in checkpoints.
            part: A network of the class and arguments that the file's card names.
            path: File of `lipbench.pretrained.weights`, or what `load` reads; may begin with "~".
            what: What is looked for, for the message where it is not there: "reader at {path}; give ...".
            load: Reads a published file, such as `lipbench.pretrained.networks.load_wav2vec2`.
            without: Beginnings of the names of tensors that are not taken over, and may have any size in the file.
        """
        self._starts[name] = part, Path(path).expanduser(), what, load, without

    def _start(
        self, name: str, part: nn.Module, path: Path, what: str, load: Loader | None, without: tuple[str, ...]
    ) -> None:
        """Take over the weights of a file in a fresh fit; in a resumed one, compare its hash."""
        resumed = bool(self.trainer.ckpt_path)
        if resumed and not path.is_file():
            return
        weights.located(path, what)
        if load is None:
            network, card = weights.load(path, type(part))
            digest, made = card.sha256, f". It was made with {card.arguments}"
        else:
            (network, digest), made = load(path), ""
        own, stored = (
            {key: value for key, value in net.state_dict().items() if not key.startswith(without)}
            for net in (part, network)
        )
        odd = [key for key in own.keys() | stored.keys() if key not in own or key not in stored]
        odd += [key for key in own if key in stored and stored[key].shape != own[key].shape]
        if odd:
            raise ValueError(
                f"--model.{name} {path} holds a {type(network).__module__.rpartition('.')[2]}."
                f"{type(network).__qualname__} of other sizes than this model's: {min(odd)} differs{made}"
            )
        kept = self.started_sha256.setdefault(name, digest)
        if kept != digest:
            raise ValueError(
                f"--model.{name} has SHA-256 {digest[:12]}..., and the run that is resumed was trained with "
                f"{kept[:12]}...; give that file, or start a new run"
            )
        if not resumed:
            part.load_state_dict(stored, strict=not without)

    def on_fit_start(self) -> None:
        """Take over the weights of earlier stages in a fresh fit; frozen networks go where the model went.

        Raises:
            FileNotFoundError: There is no such checkpoint.
            ValueError: It is damaged, or its weights do not fit.
        """
        if self.init_from and not self.trainer.ckpt_path:  # a resumed run has them in its own checkpoint
            self._take_weights(Path(self.init_from))
        for name, start in self._starts.items():
            self._start(name, *start)
        for network in self.frozen.values():
            network.to(self.device)

    def on_train_start(self) -> None:
        """Check what was restored for the optimizers, and make up for a validation that was due.

        Raises:
            ValueError: A checkpoint holds the state of other optimizers.
        """
        self.check_optimizers()
        position.place_loaders(self.trainer)
        if self._validate_first:
            self._validate_first = False
            position.validate(self.trainer)

    def _take_weights(self, path: Path) -> None:
        """Load what a checkpoint holds; all but `optional_init_prefixes` must be there with the right shape."""
        if not path.is_file():
            raise FileNotFoundError(
                f"--model.init_from: no checkpoint at {path}; give the .ckpt file of the earlier stage"
            )
        content = checkpoints.read(path)
        self._check_networks(content["lipbench"], f"--model.init_from {path}")
        stored = content["state_dict"]
        own = self.state_dict()
        fits = {key: stored[key] for key in own if key in stored and stored[key].shape == own[key].shape}
        lacking = [key for key in own if key not in fits and not key.startswith(self.optional_init_prefixes or ("\0",))]
        if lacking:
            raise ValueError(
                f"--model.init_from {path} does not fit this model: {len(lacking)} of {len(own)} tensors are absent or "
                f"of another size, such as {lacking[:3]}; give the same sizes as in the earlier stage"
            )
        self.load_state_dict(fits, strict=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write what identifies and resumes the run; plain values only, so that `weights_only` loading works."""
        checkpoint["lipbench"] = {
            "schema": SCHEMA,
            "version": __version__,
            "model": type(self).__module__.rpartition(".")[2],
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            "networks": self.networks,
            **self.optimization_state(),
            "frozen": self.frozen_sha256,
            **({"started": self.started_sha256} if self.started_sha256 else {}),
            "validate": self._trainer is not None
            and self.trainer.state.fn == TrainerFn.FITTING
            and self._validated != self.drawn
            and not self.accumulated
            and position.validation_is_due(self.trainer),
        }
        running = checkpoint.get("current_model_state", checkpoint.get("state_dict"))  # the former beside an average
        if running is not None:
            self.statistics_before(running)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read it back.

        Raises:
            ValueError: Not a lipbench checkpoint, a newer one, another model's, one of older networks, or one that was
                trained with other frozen networks than those this run has taken along.
        """
        meta = checkpoint.get("lipbench")
        if meta is None:
            raise ValueError("this checkpoint was not written by lipbench: it has no entry 'lipbench'")
        checkpoints.check_meta(meta, "this checkpoint")
        if meta["class"] != f"{type(self).__module__}.{type(self).__qualname__}":
            raise ValueError(f"this checkpoint holds a {meta['model']!r}, not a {type(self).__qualname__}")
        self._check_networks(meta, "this checkpoint")
        self.restore_optimization(meta)
        self.started_sha256 = dict(meta.get("started", {}))
        self.trained = {"epoch": checkpoint.get("epoch"), "protocol": checkpoints.trained_on(checkpoint)}
        for name, sha256 in meta.get("frozen", {}).items():  # absent before there were such models
            own = self.frozen_sha256.setdefault(name, sha256)
            if own != sha256:
                raise ValueError(
                    f"--model.{name} has SHA-256 {own[:12]}..., and the run that is resumed was trained with "
                    f"{sha256[:12]}...; give that file, or start a new run"
                )
        if self._trainer is not None:
            accumulated = meta.get("accumulated", 0)
            position.restore(self.trainer, checkpoint, self.batches, self.drawn, accumulated)
            self._validate_first = self.trainer.state.fn == TrainerFn.FITTING and meta.get("validate") is True

    def _check_networks(self, meta: Mapping[str, Any], named: str) -> None:
        """Refuse weights of the same shapes that would compute something else here."""
        found = meta.get("networks", 1)  # absent before any network had changed
        if found != self.networks:
            age = "a newer" if isinstance(found, int) and found > self.networks else "an older"
            raise ValueError(
                f"{named} was trained with {age} network: version {found} of {type(self).__name__}'s, and this is "
                f"{self.networks}. The same weights would give other results here; train anew"
            )
