"""LipResNet (2017): reads sentences from lips with a spatio-temporal convolution, a ResNet-18 and two GRUs.

As DualLip uses it on TCD-TIMIT (see `lipbench.nets.lipresnet`), with characters. Own choice: the curriculum.
"""

from typing import ClassVar

from lipbench.nets import lipresnet
from lipbench.training.base import Schedule
from lipbench.training.reading import ReadingModel


class LipResNet(ReadingModel):
    """LipResNet, of any size.

    Args:
        size: (height, width) of the mouth view; 64x128 in DualLip.
        front: Channels of the spatio-temporal convolution.
        widths: Channels of the four stages of the ResNet.
        hidden: Units of each direction of both GRUs.
        dropout: After each GRU.
        curriculum: See `ReadingModel`.
        skip: See `ReadingModel`.
        shift: See `ReadingModel`.
        lr: See `ReadingModel`; 2e-4 in DualLip.
        weight_decay: See `ReadingModel`.
        schedule: See `BenchModule`.
        warmup: See `BenchModule`.
        clip_norm: See `BenchModule`.
        ema_decay: See `BenchModule`.
        init_from: See `BenchModule`.
    """

    paper: ClassVar[str] = (
        "Stafylakis and Tzimiropoulos, Combining Residual Networks with LSTMs for Lipreading, Interspeech 2017"
    )

    def __init__(
        self,
        size: tuple[int, int] = (64, 128),
        front: int = 64,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        hidden: int = 256,
        dropout: float = 0.5,
        curriculum: int = 5000,
        skip: float = 0.05,
        shift: int = 3,
        lr: float = 2e-4,
        weight_decay: float = 0.01,
        schedule: Schedule = "constant",
        warmup: int = 0,
        clip_norm: float = 5.0,
        ema_decay: float = 0.0,
        init_from: str | None = None,
    ) -> None:
        super().__init__(
            size=size,
            curriculum=curriculum,
            skip=skip,
            shift=shift,
            lr=lr,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup=warmup,
            clip_norm=clip_norm,
            ema_decay=ema_decay,
            init_from=init_from,
        )
        self.save_hyperparameters()
        self.net = lipresnet.LipResNet(front, widths, hidden, dropout=dropout)
