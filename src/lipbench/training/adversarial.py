"""GAN training, once: a generator with its own losses, a discriminator, and nothing of one in the other's gradients."""

import math
from abc import abstractmethod
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lipbench.training.base import GenerativeModel, TrainingFailed

# When training counts as diverged: own choices, since publications name no numbers (TalkLip's README warns that
# the discriminator's losses sometimes diverge towards 100; one should stop and go on from a good checkpoint then).
_SPAN: Final = 100  # batches that a mean looks back; none is judged before it has seen so many
_RISE: Final = 3.0  # times the lowest mean of the supervised losses
_BOUND: Final = 10.0  # of the discriminator's loss: one that is always undecided has 0.5 to 1.4


@dataclass
class Course:
    """Which way a loss goes: its exponential mean, and how low that has been.

    Attributes:
        weights: Of the losses, with which the values were summed.
        batches: Values seen.
        mean: Plain mean of the first values, exponential over about 100 batches after them.
        lowest: Of the means over 100 batches and more; infinite before.
    """

    weights: dict[str, float] = field(default_factory=dict)
    batches: int = 0
    mean: float = 0.0
    lowest: float = math.inf

    def add(self, value: float) -> None:
        """Take the value of the next batch in."""
        self.batches += 1
        self.mean += (value - self.mean) / min(self.batches, _SPAN)
        if self.batches >= _SPAN:
            self.lowest = min(self.lowest, self.mean)


class AdversarialModel(GenerativeModel):
    """Generator and discriminator take one step each a batch, with their own optimiser, zero_grad and clipping.

    The generator's step comes first, with the discriminator's weights out of the graph; the discriminator then judges
    the same made samples, cut from the generator's graph. Without a discriminator this is plain supervised training
    at no extra cost.

    Training that has diverged stops: when the mean of the supervised losses' weighted sum over about 100 batches is
    three times what it has been at its lowest, or that of the discriminator's loss is above 10. One batch counts as
    twice the bound at most. `loss_weights` that change, as when a loss is switched on, start both means anew.

    Subclasses set `discriminator` (None without adversarial loss), name their optimisers "generator" and
    "discriminator", and weigh the adversarial terms in `loss_weights` by the names they give them.

    Args:
        adversarial_from: Training batches without adversarial loss and without steps of the discriminator, before both
            begin.
        options: Those of `BenchModule`.
    """

    may_be_fresh: ClassVar[tuple[str, ...]] = ("discriminator.",)
    discriminator: nn.Module | None

    def __init__(self, *, adversarial_from: int = 0, **options: Any) -> None:  # noqa: ANN401 - BenchModule's arguments
        super().__init__(**options)
        if adversarial_from < 0:
            raise ValueError(f"adversarial_from is {adversarial_from}; expected a number of batches, 0 or more")
        self.adversarial_from = adversarial_from
        self._courses: dict[str, Course] = {}  # by optimiser

    def follows_schedule(self, name: str) -> bool:
        """The generator's does; the discriminator's stays what it is, as every publication here has it."""
        return name != "discriminator"

    @abstractmethod
    def generator_losses(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:  # noqa: ANN401 - see train_batch
        """The supervised losses, 0 or more, and the sample (real, made, conditions) that the discriminator judges."""

    @abstractmethod
    def adversarial_losses(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars: how badly the made part of the sample fools the discriminator, a term for each thing it judges."""

    @abstractmethod
    def discriminator_losses(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of the discriminator on a sample cut from the generator's graph; the place to log the balance."""

    def train_batch(self, batch: Any) -> None:  # noqa: ANN401 - see BenchModule
        """The generator's step, then the discriminator's if there is one.

        Raises:
            TrainingFailed: Training has diverged.
        """
        supervised, sample = self.generator_losses(batch)
        judging: dict[str, Tensor] = {}
        adversarial = self.discriminator is not None and self.batches >= self.adversarial_from
        if self.discriminator is not None and adversarial:
            self.discriminator.requires_grad_(False)
            judging = self.adversarial_losses(sample)
            self.discriminator.requires_grad_(True)
        found = self.optimise("generator", supervised | judging)
        self._follow("generator", sum(self.loss_weights.get(key, 1.0) * found[key] for key in supervised), supervised)
        if not adversarial:
            return
        judged = self.discriminator_losses({key: value.detach() for key, value in sample.items()})
        terms = {f"discriminator_{key}": value for key, value in judged.items()}
        self._follow("discriminator", self.optimise("discriminator", terms)["total"], terms)

    def _follow(self, optimiser: str, value: float, terms: dict[str, Tensor]) -> None:
        """Stop if the loss of an optimiser has run off; `value` is the same on all processes, so all of them stop."""
        course = self._courses.setdefault(optimiser, Course())
        if course.weights != self.loss_weights:
            course = self._courses[optimiser] = Course(dict(self.loss_weights))
        bound = _RISE * course.lowest if optimiser == "generator" else _BOUND
        course.add(min(value, 2 * bound))  # a spike that passes, as at the beginning, is no divergence
        if course.batches < _SPAN or course.mean <= bound:
            return
        raise TrainingFailed(
            f"training has diverged at batch {self.batches}: the mean of {' + '.join(terms)} over {_SPAN} batches rose "
            f"from {course.lowest:.4g} to {course.mean:.4g}, and more than {bound:.4g} is no noise. {self._way_back()}",
            spoiled=True,
        )

    def _way_back(self) -> str:
        """Which checkpoint to go on from, and how."""
        slower = "--model.lr" if self.discriminator is None else "--model.discriminator_lr"
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
        checkpoint["lipbench"]["courses"] = {name: asdict(course) for name, course in self._courses.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read it back."""
        super().on_load_checkpoint(checkpoint)
        courses = checkpoint["lipbench"].get("courses", {})  # absent before they were followed
        own = asdict(Course())
        for name, course in courses.items() if isinstance(courses, dict) else [("", courses)]:
            if not isinstance(course, dict) or {k: type(v) for k, v in course.items()} != {
                k: type(v) for k, v in own.items()
            }:
                raise ValueError(f"this checkpoint is damaged: its entry 'courses' holds {name!r}: {course!r:.60}")
        self._courses = {name: Course(**course) for name, course in courses.items()}
