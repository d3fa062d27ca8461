"""Learning rates over training: the shapes that publications use, as factors of a peak."""

import math
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["constant", "inverse_sqrt", "cosine", "step", "plateau"]


@dataclass(frozen=True)
class LearningRate:
    """How the learning rate of one optimizer changes; parameter groups keep their proportions.

    Args:
        schedule: After the warmup: "constant"; "inverse_sqrt", sqrt(warmup / batch); "cosine", to 0 at the end of
            training; "step", times `factor` after every `every` batches; "plateau", times `factor` each time that
            `patience` validations in a row have not improved what the model monitors.
        warmup: Batches over which the rate rises linearly from 0.
        every: Batches between two steps.
        factor: Of a step or a plateau, between 0 and 1.
        patience: Validations without improvement before a plateau.

    Raises:
        ValueError: A number does not go with the schedule.
    """

    schedule: Schedule = "constant"
    warmup: int = 0
    every: int = 0
    factor: float = 0.5
    patience: int = 5

    def __post_init__(self) -> None:
        """Refuse what has no meaning where the model is made."""
        if self.warmup < 0:
            raise ValueError(f"warmup is {self.warmup}; expected a number of batches, 0 or more")
        if self.schedule == "inverse_sqrt" and self.warmup < 1:
            raise ValueError("schedule inverse_sqrt needs warmup >= 1: it falls with 1/sqrt(batch / warmup)")
        if self.schedule == "step" and self.every < 1:
            raise ValueError(f"schedule step needs decay_every >= 1 (batches between two steps), found {self.every}")
        if self.schedule == "plateau" and self.patience < 1:
            raise ValueError(f"schedule plateau needs patience >= 1 (validations), found {self.patience}")
        if not 0 < self.factor < 1:
            raise ValueError(f"decay_factor is {self.factor}; expected a number between 0 and 1")

    def at(self, batch: int, total: float) -> float:
        """Factor of the peak, 0 to 1.

        Args:
            batch: Batches done.
            total: Batches of the whole training; used by "cosine" alone.
        """
        if batch < self.warmup:
            return (batch + 1) / self.warmup
        match self.schedule:
            case "constant" | "plateau":
                return 1.0
            case "inverse_sqrt":
                return math.sqrt(self.warmup / (batch + 1))
            case "cosine":
                done = (batch - self.warmup) / max(total - self.warmup, 1)
                return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
            case "step":
                return float(self.factor ** ((batch - self.warmup) // self.every))


@dataclass
class Plateau:
    """What an optimizer with the schedule "plateau" has seen so far.

    Attributes:
        best: Best value of a validation; NaN before the first.
        waited: Validations since.
        factor: Product of all decays.
    """

    best: float = math.nan
    waited: int = 0
    factor: float = 1.0

    def add(self, value: float, direction: Literal["min", "max"], rate: LearningRate) -> None:
        """Take in the value of another validation; one that is not finite improves nothing."""
        better = value < self.best if direction == "min" else value > self.best
        if better or (math.isnan(self.best) and math.isfinite(value)):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= rate.patience:
            self.factor, self.waited = self.factor * rate.factor, 0
