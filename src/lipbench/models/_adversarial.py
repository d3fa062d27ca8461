"""GAN training, once: a generator with its own losses, a discriminator, and nothing of one in the other's gradients."""

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from lipbench.models._base import GenerativeModel


class AdversarialModel(GenerativeModel):
    """Generator and discriminator take one step each a batch, with their own optimiser, zero_grad and clipping.

    The generator's step comes first, with the discriminator's weights out of the graph; the discriminator then judges
    the same made samples, cut from the generator's graph. Without a discriminator this is plain supervised training
    at no extra cost.

    Subclasses set `discriminator` (None without adversarial loss), name their optimisers "generator" and
    "discriminator", and may weigh the term "adversarial" in `loss_weights`.
    """

    may_be_fresh: ClassVar[tuple[str, ...]] = ("discriminator.",)
    discriminator: nn.Module | None

    @abstractmethod
    def generator_losses(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:  # noqa: ANN401 - see train_batch
        """The supervised losses, and the sample (real, made, conditions) that the discriminator judges."""

    @abstractmethod
    def adversarial_loss(self, sample: dict[str, Tensor]) -> Tensor:
        """Scalar: how badly the made part of the sample fools the discriminator."""

    @abstractmethod
    def discriminator_losses(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of the discriminator on a sample cut from the generator's graph; the place to log the balance."""

    def train_batch(self, batch: Any) -> None:  # noqa: ANN401 - see BenchModule
        """The generator's step, then the discriminator's if there is one."""
        terms, sample = self.generator_losses(batch)
        if self.discriminator is None:
            self.optimise("generator", terms)
            return
        self.discriminator.requires_grad_(False)
        terms["adversarial"] = self.adversarial_loss(sample)
        self.discriminator.requires_grad_(True)
        self.optimise("generator", terms)
        judged = self.discriminator_losses({key: value.detach() for key, value in sample.items()})
        self.optimise("discriminator", {f"discriminator_{key}": value for key, value in judged.items()})
