"""LipResNet (2017): reads sentences from lips with a spatio-temporal convolution, a ResNet-18 and two GRUs.

As DualLip uses it on TCD-TIMIT (see `lipbench.nets.lipresnet`), with characters. Own choice: the curriculum.
"""

from typing import Any, ClassVar

from lipbench.nets import lipresnet
from lipbench.training.ctc_reading import CTCReader


class LipResNet(CTCReader):
    """LipResNet, of any size.

    Args:
        size: (height, width) of the mouth view; 64x128 in DualLip.
        front: Channels of the spatio-temporal convolution.
        widths: Channels of the four stages of the ResNet.
        hidden: Units of each direction of both GRUs.
        dropout: After each GRU.
        shift: See `CTCReader`.
        clip_norm: Largest norm of the gradient; 0 does not clip.
        options: Those of `CTCReader`; DualLip's learning rate is its default.
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
        shift: int = 3,
        clip_norm: float = 5.0,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(size=size, shift=shift, clip_norm=clip_norm, **options)
        self.net = lipresnet.LipResNet(front, widths, hidden, dropout=dropout)
