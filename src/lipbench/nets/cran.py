"""Conditional recurrent adversarial network (Song et al., IJCAI 2019): generator and its three discriminators.

Layer for layer after the published code (susanqq/Talking_Face_Generation at commit 6ea80c4): the encoders and the
decoder that its run scripts name "reduce" and the GRU of `model_G.py`, the discriminators of `model_D.py` and
`model_LipNet.py`, the initialization of each.

Two recurrences are published, with the same weights. `model_G.py`, which `train.py` and `test.py` import, looks at the
input image at every step. `model_G_seq.py`, which no script imports, looks at the input image in a share of the steps
and at its own previous frame, without gradient, in the others. `Generator.forward` has both. In either the maps of the
image that a step looks at are the skips of its frame.

Own choice: BatchNorm of the audio encoder sees all frames of a batch at once, as in `model_G.py`; `model_G_seq.py`
shows it one step after the other, which gives the same in evaluation.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.media import features

FrontEnd = Literal["mfcc", "mel"]
AUDIO_SHAPES: Final[dict[FrontEnd, tuple[int, int]]] = {
    "mfcc": (features.LIPGAN_CEPSTRA, 35),
    "mel": (features.MELS, 28),
}
"""Front end -> (coefficients, columns) of the 350 ms that are heard for a frame: published, and DualLip's."""
_HALVINGS: Final = 4  # of the image encoder
_KERNEL: Final = 5
_AUDIO_STRIDES: Final = (1, 2, 1, 1, 2)
MOUTH_SIDE: Final = 5 / 16
"""Side of the square that the lip-reading discriminator looks at, in sides of the face: 40 of 128 pixels."""


class Memory(NamedTuple):
    """What the generator keeps of the frames before."""

    state: Tensor
    """(1, B, hidden) of the GRU."""
    image: Tensor
    """(B, 3, size, size) the last frame."""


def _initialize(network: nn.Module) -> None:
    """As published: convolutions and BatchNorm's scales normal with deviation .02, linear layers Glorot, biases .01."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.constant_(layer.bias, 0.01)


class AudioEncoder(nn.Module):
    """Five 3x3 convolutions with BatchNorm and ReLU, of which the second and the last halve; two linear layers.

    Args:
        shape: (coefficients, columns) of the audio around a frame.
        widths: Channels after each convolution.
        embedding: Size of the vector, and of the hidden layer before it.
    """

    def __init__(self, shape: tuple[int, int], widths: Sequence[int], embedding: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        height, width = shape
        for (before, after), stride in zip(pairwise((1, *widths)), _AUDIO_STRIDES, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
            height, width = -(-height // stride), -(-width // stride)
        self.convolutions = nn.Sequential(*layers)
        self.hidden = nn.Sequential(
            nn.Linear(widths[-1] * height * width, embedding), nn.BatchNorm1d(embedding), nn.ReLU(inplace=True)
        )
        self.out = nn.Linear(embedding, embedding)

    def forward(self, audio: Tensor) -> Tensor:
        """(M, coefficients, columns) -> (M, embedding); in training, BatchNorm sees exactly the frames given."""
        return self.out(self.hidden(self.convolutions(audio[:, None]).flatten(1)))  # type: ignore[no-any-return]


class ImageEncoder(nn.Module):
    """Four 5x5 convolutions of stride 2 with ReLU, then a linear layer; no normalization.

    Args:
        size: Pixels a side of the image, a multiple of 16.
        widths: Channels after each convolution.
        embedding: Size of the vector.
    """

    def __init__(self, size: int, widths: Sequence[int], embedding: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, _KERNEL, 2, _KERNEL // 2), nn.ReLU(inplace=True))
            for before, after in pairwise((3, *widths))
        )
        self.out = nn.Linear(widths[-1] * (size // 2**_HALVINGS) ** 2, embedding)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, size, size) in [-1, 1] -> (B, embedding), and the map after every convolution, from large to small."""
        x = image.contiguous(memory_format=torch.channels_last)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return self.out(x.flatten(1)), maps


class ImageDecoder(nn.Module):
    """A linear layer to a small map, four transposed convolutions with skips, two convolutions, tanh.

    Args:
        size: Pixels a side of the frames, a multiple of 16.
        encoder_widths: Channels of the image encoder's maps, from large to small.
        widths: Channels of the first map, after every transposed convolution and of the last hidden map.
        hidden: Size of the vector.
    """

    def __init__(self, size: int, encoder_widths: Sequence[int], widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        side = size // 2**_HALVINGS
        self.first_map = (widths[0], side, side)
        self.first = nn.Linear(hidden, widths[0] * side**2)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(before + skip, after, _KERNEL, 2, _KERNEL // 2, 1),
                nn.ReLU(inplace=True),
            )
            for (before, after), skip in zip(pairwise(widths[:-1]), reversed(encoder_widths), strict=True)
        )
        self.last = nn.Sequential(
            nn.Conv2d(widths[-2], widths[-1], _KERNEL, padding=_KERNEL // 2), nn.ReLU(inplace=True)
        )
        self.to_rgb = nn.Conv2d(widths[-1], 3, _KERNEL, padding=_KERNEL // 2)

    def forward(self, hidden: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """(M, hidden) and the image encoder's maps (M, ...) -> (M, 3, size, size) float32 in (-1, 1)."""
        x = F.relu(self.first(hidden)).view(-1, *self.first_map).contiguous(memory_format=torch.channels_last)
        for stage, skip in zip(self.stages, reversed(maps), strict=True):
            x = stage(torch.cat([x, skip], dim=1))
        return torch.tanh(self.to_rgb(self.last(x)).float())


class Generator(nn.Module):
    """An identity image and the audio around each frame -> the frames, one after the other.

    34,922,375 parameters at 128x128 and 19,181,447 at 64x64 with MFCC, as published.

    Args:
        size: Pixels a side, a multiple of 16 and at least 32; 128 as published.
        front_end: What the audio comes as (`AUDIO_SHAPES`). DualLip gives no layers for its own; the published ones
            over its 80x28 values are an own choice.
        widths: Channels of the image encoder, four.
        decoder_widths: See `ImageDecoder`, six.
        audio_widths: Channels of the audio encoder, five.
        embedding: Size of the image's and of the audio's vector.
        hidden: Of the GRU.

    Raises:
        ValueError: A size that does not fit, or another number of widths.
    """

    def __init__(
        self,
        size: int = 128,
        front_end: FrontEnd = "mfcc",
        widths: Sequence[int] = (16, 32, 64, 128),
        decoder_widths: Sequence[int] = (256, 196, 128, 80, 48, 16),
        audio_widths: Sequence[int] = (16, 32, 64, 128, 256),
        embedding: int = 512,
        hidden: int = 1024,
    ) -> None:
        super().__init__()
        if size < 32 or size % 2**_HALVINGS:
            raise ValueError(f"this generator needs frames of 32, 48, 64, ... pixels a side, found {size}")
        found = (len(widths), len(decoder_widths), len(audio_widths))
        if found != (_HALVINGS, _HALVINGS + 2, len(_AUDIO_STRIDES)):
            raise ValueError(f"this generator needs 4 widths, 6 decoder_widths and 5 audio_widths, found {found}")
        self.audio = AudioEncoder(AUDIO_SHAPES[front_end], audio_widths, embedding)
        self.image = ImageEncoder(size, widths, embedding)
        self.decoder = ImageDecoder(size, widths, decoder_widths, hidden)
        for part in (self.audio, self.image, self.decoder):
            _initialize(part)
        self.gru = nn.GRU(2 * embedding, hidden, batch_first=True)

    def forward(
        self, identity: Tensor, heard: Tensor, memory: Memory | None = None, identity_share: float = 1.0
    ) -> tuple[Tensor, Memory]:
        """Generate frames in a row.

        Args:
            identity: (B, 3, size, size) in [-1, 1].
            heard: (B, T, embedding) what `audio` gives for each frame.
            memory: What came before these frames; None at the beginning of a clip, which starts from the identity.
            identity_share: Probability with which a step looks at the identity image, and not at the previous frame,
                drawn for each step and for all clips alike. 1 draws nothing and decodes all frames at once.

        Returns:
            (B, T, 3, size, size) float32 in (-1, 1), and what goes on from there.
        """
        if identity_share >= 1:
            seen, maps = self.image(identity)
            together = torch.cat([seen[:, None].expand(-1, heard.shape[1], -1), heard], dim=2)
            states, state = self.gru(together, None if memory is None else memory.state)  # (B, T, hidden)
            frames = self.decoder(
                states.flatten(0, 1), [x.repeat_interleave(heard.shape[1], 0) for x in maps]
            )  # (B T, 3, size, size)
            video = frames.unflatten(0, heard.shape[:2])
            return video, Memory(state, video[:, -1])
        made = []
        for step in torch.split(heard, 1, dim=1):  # (B, 1, embedding)
            if memory is None or (identity_share > 0 and float(torch.rand(())) < identity_share):
                image = identity
            else:
                image = memory.image.detach()
            seen, maps = self.image(image)
            state, last = self.gru(torch.cat([seen[:, None], step], dim=2), None if memory is None else memory.state)
            memory = Memory(last, self.decoder(state[:, 0], maps))
            made.append(memory.image)
        assert memory is not None
        return torch.stack(made, dim=1), memory


class PatchDiscriminator(nn.Module):
    """Whether frames are real, patch by patch: four 3x3 convolutions of stride 2, then a 1x1; 97,569 parameters.

    Args:
        widths: Channels after each convolution.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((3, *widths)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.InstanceNorm2d(after), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """(M, 3, size, size) in [-1, 1] -> (M, 1, size / 16, size / 16) float32 logits."""
        return self.layers(frames.contiguous(memory_format=torch.channels_last)).float()  # type: ignore[no-any-return]


class VideoDiscriminator(nn.Module):
    """Whether frames in a row are real: four 3x3x3 convolutions, 2 frames shorter each; 1,119,361 parameters.

    Args:
        widths: Channels after the first three convolutions.
    """

    FRAMES: Final = 9
    """The fewest that fit."""

    def __init__(self, widths: Sequence[int] = (64, 128, 256)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((3, *widths)):
            layers += [
                nn.Conv3d(before, after, 3, (1, 2, 2), (0, 1, 1)),
                nn.BatchNorm3d(after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv3d(widths[-1], 1, 3, (1, 2, 2), (0, 1, 1)))

    def forward(self, video: Tensor) -> Tensor:
        """(B, T, 3, size, size) in [-1, 1] -> (B, 1, T - 8, size / 16, size / 16) float32 logits."""
        return self.layers(video.transpose(1, 2)).float()  # type: ignore[no-any-return]


class WordDiscriminator(nn.Module):
    """Which word lips say: three convolutions, a linear layer for each frame, an LSTM of two layers.

    5,304,308 parameters with 500 words.

    Args:
        outputs: Words, 500 as published.
        side: Pixels a side of the mouth, at least 8; 40 as published.
        widths: Channels after each convolution.
        hidden: Of the linear layer and the LSTM, 512 as published.
    """

    def __init__(
        self, outputs: int = 500, side: int = 40, widths: tuple[int, int, int] = (16, 32, 64), hidden: int = 512
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for (before, after), kernel in zip(pairwise((3, *widths)), (5, 3, 3), strict=True):
            layers += [
                nn.Conv2d(before, after, kernel, padding=kernel // 2),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
        self.frame = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(widths[-1] * (side // 8) ** 2, hidden), nn.BatchNorm1d(hidden)
        )
        self.lstm = nn.LSTM(hidden, hidden, 2, batch_first=True)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, mouths: Tensor) -> Tensor:
        """(B, T, 3, side, side) in [-1, 1] -> (B, outputs) float32 scores of the words."""
        vectors = self.frame(mouths.flatten(0, 1)).unflatten(0, mouths.shape[:2])  # (B, T, hidden)
        return self.out(self.lstm(vectors)[0][:, -1]).float()  # type: ignore[no-any-return]
