"""LipNet (2016): reads sentences from lips with three spatio-temporal convolutions and two bidirectional GRUs.

Sizes from the published PyTorch code (see `lipbench.nets.lipnet`), optimizer from DualLip, which uses LipNet on GRID.
Own choices: the curriculum, and BatchNorm where `norm` asks for it.
"""

from typing import Any, ClassVar

from lipbench.nets import lipnet
from lipbench.training.ctc_reading import CTCReader


class LipNet(CTCReader):
    """LipNet, of any size.

    Args:
        size: (height, width) of the mouth view; 64x128 as published and in DualLip.
        widths: Channels of the three convolutions.
        hidden: Units of each direction of both GRUs.
        dropout: After every layer but the last.
        norm: BatchNorm after each pooling; the published network has none.
        clip_norm: Largest norm of the gradient; 0 does not clip.
        options: Those of `CTCReader`; DualLip's learning rate is its default.
    """

    paper: ClassVar[str] = "Assael et al., LipNet: End-to-End Sentence-level Lipreading, arXiv 2016"

    def __init__(
        self,
        size: tuple[int, int] = (64, 128),
        widths: tuple[int, int, int] = (32, 64, 96),
        hidden: int = 256,
        dropout: float = 0.5,
        norm: bool = False,
        clip_norm: float = 5.0,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(size=size, clip_norm=clip_norm, **options)
        self.net = lipnet.LipNet(size, widths, hidden, dropout=dropout, norm=norm)
