"""LipNet (2016): reads sentences from lips with three spatio-temporal convolutions and two bidirectional GRUs.

Sizes from the published PyTorch code (see `lipbench.nets.lipnet`), optimiser from DualLip, which uses LipNet on GRID.
Own choices: the curriculum, and BatchNorm where `norm` asks for it.
"""

from typing import ClassVar

from lipbench.nets import lipnet
from lipbench.training.base import Schedule
from lipbench.training.reading import ReadingModel


class LipNet(ReadingModel):
    """LipNet, of any size.

    Args:
        size: (height, width) of the mouth view; 64x128 as published and in DualLip.
        widths: Channels of the three convolutions.
        hidden: Units of each direction of both GRUs.
        dropout: After every layer but the last.
        norm: BatchNorm after each pooling; the published network has none.
        curriculum: See `ReadingModel`.
        skip: See `ReadingModel`.
        shift: See `ReadingModel`; not in LipNet.
        lr: See `ReadingModel`; 2e-4 in DualLip.
        weight_decay: See `ReadingModel`.
        schedule: See `BenchModule`.
        warmup: See `BenchModule`.
        clip_norm: See `BenchModule`.
        ema_decay: See `BenchModule`.
        init_from: See `BenchModule`.
    """

    paper: ClassVar[str] = "Assael et al., LipNet: End-to-End Sentence-level Lipreading, arXiv 2016"

    def __init__(
        self,
        size: tuple[int, int] = (64, 128),
        widths: tuple[int, int, int] = (32, 64, 96),
        hidden: int = 256,
        dropout: float = 0.5,
        norm: bool = False,
        curriculum: int = 5000,
        skip: float = 0.05,
        shift: int = 0,
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
        self.net = lipnet.LipNet(size, widths, hidden, dropout=dropout, norm=norm)
