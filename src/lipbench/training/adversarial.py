"""GAN training, once: a generator with its own losses, any number of discriminators, and no gradient in between."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lipbench import losses
from lipbench.media import geometry
from lipbench.training.divergence import GENERATOR, DivergenceMonitors, failed
from lipbench.training.generative import GenerativeModel

Sample = Mapping[str, Tensor]
"""What discriminators judge: "real" and "made" frames (M, 3, h, w), and whatever else theirs look at, by name."""
Side = Literal["real", "made"]
Inputs = Callable[[Sample, Side], tuple[Tensor, ...]]
"""Sample and side -> the arguments of a discriminator."""


def frames(sample: Sample, side: Side) -> tuple[Tensor, ...]:
    """Frames one by one, (M, 3, h, w)."""
    return (sample[side],)


def lower_halves(sample: Sample, side: Side) -> tuple[Tensor, ...]:
    """The lower halves of faces one by one, (M, 3, h - h // 2, w)."""
    return (geometry.lower_half(sample[side]),)


def keys(*names: str) -> Inputs:
    """Entries of the sample, in this order.

    Example: `keys("{}_clip", "audio", "{}_flow")` shows `real_clip`, `audio` and `real_flow` of real clips, and
    `made_clip`, `audio` and `made_flow` of made ones.

    Args:
        names: Keys of the sample; "{}" stands for "real" or "made".
    """
    return lambda sample, side: tuple(sample[name.format(side)] for name in names)


class Adversary:
    """A discriminator with what it is shown, what it learns and how its judgement counts for the generator.

    The loss is least squares (LSGAN) on one score a sample; subclasses have others. A name of a loss that is returned
    is its name in the log and in `loss_weights`.

    Args:
        net: The discriminator: an attribute of the model, so that it is saved.
        inputs: What it is shown of a sample.
        term: Name of the generator's loss.
        name: Beginning of the names of its own losses and scores, where a model has several of the same kind.
        optimizer: That which trains it; several may share one, and take one step on the sum of their losses.
    """

    def __init__(
        self,
        net: nn.Module,
        inputs: Inputs = frames,
        term: str = "adversarial",
        name: str = "",
        optimizer: str = "discriminator",
    ) -> None:
        self.net, self.inputs, self.term, self.name, self.optimizer = net, inputs, term, name, optimizer

    def score(self, sample: Sample, side: Side) -> Tensor:
        """(M,) unbounded scores of one side of the sample."""
        scores: Tensor = self.net(*self.inputs(sample, side))
        return scores

    def generator_losses(self, sample: Sample) -> dict[str, Tensor]:
        """Scalars: how badly the made side fools the discriminator."""
        return {self.term: losses.lsgan_generator(self.score(sample, "made"))}

    def losses(self, sample: Sample) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the discriminator has to learn from a sample cut from the generator's graph.

        Returns:
            Its losses, and mean scores to be logged as the balance.
        """
        real, made = self.score(sample, "real"), self.score(sample, "made")
        terms = losses.lsgan_discriminator(real, made)
        return self._named(terms), self._balance(real.detach(), made.detach())

    def _named(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"discriminator_{self._prefix}{key}": value for key, value in terms.items()}

    def _balance(self, real: Tensor, made: Tensor) -> dict[str, Tensor]:
        return {f"{self._prefix}score_real": real.mean(), f"{self._prefix}score_made": made.mean()}

    @property
    def _prefix(self) -> str:
        return f"{self.name}_" if self.name else ""


class CrossEntropy(Adversary):
    """An adversary whose scores are logits: binary cross-entropy, with probabilities as the balance."""

    def generator_losses(self, sample: Sample) -> dict[str, Tensor]:
        """Made samples should pass for real ones."""
        return {self.term: losses.bce(self.score(sample, "made"), 1.0)}

    def losses(self, sample: Sample) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Real samples to 1, made ones to 0."""
        real, made = self.score(sample, "real"), self.score(sample, "made")
        terms = {"real": losses.bce(real, 1.0), "fake": losses.bce(made, 0.0)}
        return self._named(terms), self._balance(real.detach().sigmoid(), made.detach().sigmoid())


class AdversarialModel(GenerativeModel):
    """A generator and any number of discriminators, each of which takes a step a batch with its own losses.

    The generator's step comes first, with the discriminators' weights out of the graph; the discriminators then judge
    the same made samples, cut from the generator's graph, with their own optimizer, zero_grad and clipping. Without
    discriminators this is plain supervised training at no extra cost.

    Training that has diverged stops: when the mean of the supervised losses' weighted sum over about 100 batches is
    three times what it has been at its lowest, or that of a discriminator's loss is above 10 (`training.divergence`).

    Subclasses fill `adversaries`, name the generator's optimizer "generator" and those of the discriminators as the
    adversaries say (`build_optimizers` has Adam for all), and weigh the adversarial terms in `loss_weights` by name.

    Args:
        adversarial_from: Training batches without adversarial loss and without steps of discriminators, before both
            begin.
        lr: Peak learning rate of the generator (Adam).
        discriminator_lr: That of the discriminators (Adam).
        betas: Of all optimizers (Adam).
        options: Those of `BenchModule`.
    """

    optional_init_prefixes: ClassVar[tuple[str, ...]] = ("discriminator.",)

    def __init__(
        self,
        *,
        adversarial_from: int = 0,
        lr: float = 1e-4,
        discriminator_lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        **options: Any,  # noqa: ANN401 - BenchModule's arguments
    ) -> None:
        super().__init__(**options)
        if adversarial_from < 0:
            raise ValueError(f"adversarial_from is {adversarial_from}; expected a number of batches, 0 or more")
        self.adversarial_from = adversarial_from
        self.lr, self.discriminator_lr, self.betas = lr, discriminator_lr, betas
        self.adversaries: dict[str, Adversary] = {}
        """Name -> discriminator with its task; empty without adversarial loss."""
        self._monitors = DivergenceMonitors()

    def generator_parameters(self) -> list[nn.Parameter]:
        """All parameters that belong to no discriminator."""
        judges = {id(p) for adversary in self.adversaries.values() for p in adversary.net.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in judges]

    def build_optimizers(self) -> dict[str, Optimizer]:
        """Adam for the generator, and one for every optimizer that the adversaries name."""
        groups: dict[str, list[nn.Parameter]] = {"generator": self.generator_parameters()}
        for adversary in self.adversaries.values():
            groups.setdefault(adversary.optimizer, []).extend(adversary.net.parameters())
        rates = {name: self.lr if name == "generator" else self.discriminator_lr for name in groups}
        # Fused: 2 % of a small step, not 8.
        return {name: Adam(group, lr=rates[name], betas=self.betas, fused=True) for name, group in groups.items()}

    def follows_schedule(self, name: str) -> bool:
        """The generator's optimizer does; the discriminators' stay at their rates, as most publications have it."""
        return all(adversary.optimizer != name for adversary in self.adversaries.values())

    @abstractmethod
    def generator_losses(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:  # noqa: ANN401 - see compute_step
        """The supervised losses, 0 or more, and the sample (real, made, conditions) that the discriminators judge."""

    def compute_step(self, batch: Any) -> None:  # noqa: ANN401 - see BenchModule
        """The generator's step, then those of the discriminators if there are any.

        Raises:
            TrainingFailed: Training has diverged.
        """
        supervised, sample = self.generator_losses(batch)
        adversaries = self.adversaries if self.batches >= self.adversarial_from else {}
        fooling: dict[str, Tensor] = {}
        for adversary in adversaries.values():
            with _out_of_the_graph(adversary.net):
                fooling |= adversary.generator_losses(sample)
        values = self.step_optimizer("generator", supervised | fooling)
        self._follow(GENERATOR, values, supervised)
        cut = {key: value.detach() for key, value in sample.items()}
        for optimizer in dict.fromkeys(adversary.optimizer for adversary in adversaries.values()):
            judged: dict[str, dict[str, Tensor]] = {}
            for name, adversary in adversaries.items():
                if adversary.optimizer == optimizer:
                    judged[name], balance = adversary.losses(cut)
                    self.log_dict({f"train/{key}": value for key, value in balance.items()})
            values = self.step_optimizer(
                optimizer, {key: value for terms in judged.values() for key, value in terms.items()}
            )
            for name, terms in judged.items():
                self._follow(name, values, terms)

    def _follow(self, name: str, values: Mapping[str, float], terms: Mapping[str, Tensor]) -> None:
        """Stop if the losses of the generator or of a discriminator have run off."""
        if not values:  # gradients are being accumulated
            return
        total = sum(self.loss_weights.get(key, 1.0) * values[key] for key in terms)
        what = self._monitors.follow(name, total, terms, self.loss_weights)
        if what is not None:
            raise failed(self.batches, what, self._way_back())

    def _way_back(self) -> str:
        """Which checkpoint to go on from, and how."""
        slower = "--model.discriminator_lr" if self.adversaries else "--model.lr"
        kept = [c for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor]
        best = next((c.best_model_path for c in kept if Path(c.best_model_path).is_file()), None)
        if best is None:
            return (
                "No validation has kept a checkpoint, and last.ckpt may be spoiled already: start again with a lower "
                f"{slower}"
            )
        # Not --ckpt_path: that resumes with the old arguments and the old draws, and so with the same end.
        return (
            f"last.ckpt may be spoiled already; the last good checkpoint is {best}. Start from its weights with a "
            f"lower {slower}: --model.init_from {best}"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep which way the losses go."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["lipbench"]["courses"] = self._monitors.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read it back."""
        super().on_load_checkpoint(checkpoint)
        courses = checkpoint["lipbench"].get("courses", {})  # absent before they were followed
        self._monitors.restore(courses, (GENERATOR, *self.adversaries))


@contextmanager
def _out_of_the_graph(net: nn.Module) -> Iterator[None]:
    """A network whose weights get no gradient; those that had none before stay so."""
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    net.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
