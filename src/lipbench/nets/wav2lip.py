"""Wav2Lip's networks: the generator of faces, and the expert that knows which sound belongs to five mouths in a row.

Layer for layer after the published code (Rudrabha/Wav2Lip `models/wav2lip.py`, `models/syncnet.py`, `models/conv.py`;
the tables are `facts/systems.md` 3.1 and 7.5 of the project's sources, and TalkLip keeps the generator's face encoder
and decoder). "conv" below is convolution, BatchNorm, the input added in residual ones, ReLU. Pictures are RGB, the
published ones BGR.

Widths and numbers of residual convolutions are arguments, and the size may be 3 x 2^n pixels a side.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.nets.pictures import halvings
from lipbench.types import View

FRAMES: Final = 5
"""Faces in a row that the expert sees at once: 0.2 s at 25 frames a second."""
COLUMNS: Final = 16
"""Columns of a window of the mel spectrogram (`lipbench.media.features.mel_windows`): the same 0.2 s."""

_STRIDES = ((1, 1), (3, 1), (3, 3), (3, 2))  # of the audio encoder's stages: 80x16, 27x16, 9x6, 3x3
_AUDIO_WIDTHS: Final = (32, 64, 128, 256)
_FACE_WIDTHS: Final = (16, 32, 64, 128, 256, 512)
_DECODER_WIDTHS: Final = (512, 512, 384, 256, 128, 64)


class _Residual(nn.Module):
    """Convolution, BatchNorm, the input added, ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Any (M, width, h, w) -> the same shape."""
        return F.relu(x + self.layers(x), inplace=True)


def _conv(
    before: int,
    after: int,
    kernel: int = 3,
    stride: int | tuple[int, int] = 1,
    padding: int = 1,
) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, padding), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


def _stage(first: nn.Module, width: int, residuals: int) -> nn.Sequential:
    """A layer that changes the size, and residual convolutions after it."""
    return nn.Sequential(first, *(_Residual(width) for _ in range(residuals)))


class AudioEncoder(nn.Sequential):
    """A window of the mel spectrogram -> its embedding. (M, 1, 80, 16) -> (M, hidden, 1, 1).

    2,812,672 parameters in the generator as published.

    Args:
        widths: Channels of the four stages.
        residuals: Residual convolutions of each stage.
        hidden: Channels of the embedding.

    Raises:
        ValueError: A list has another length than the stages.
    """

    def __init__(
        self, widths: Sequence[int] = _AUDIO_WIDTHS, residuals: Sequence[int] = (2, 2, 2, 1), hidden: int = 512
    ) -> None:
        if len(widths) != len(_STRIDES) or len(residuals) != len(_STRIDES):
            raise ValueError(
                f"Wav2Lip's audio encoder has {len(_STRIDES)} stages; found {len(widths)} audio_widths and "
                f"{len(residuals)} audio_residuals"
            )
        stages = zip(pairwise((1, *widths)), _STRIDES, residuals, strict=True)
        layers = [_stage(_conv(before, after, 3, stride), after, count) for (before, after), stride, count in stages]
        super().__init__(*layers, _conv(widths[-1], hidden, 3, 1, 0), _conv(hidden, hidden, 1, 1, 0))


def _sized(size: int, **lists: tuple[Sequence[int], int]) -> None:
    """Refuse lists whose length does not fit the size."""
    for name, (found, wanted) in lists.items():
        if len(found) != wanted:
            raise ValueError(f"Wav2Lip at {size} pixels needs {wanted} {name}, found {len(found)}: {tuple(found)}")


class FaceEncoder(nn.ModuleList):
    """A masked face and another face of the same person -> a map at every size, down to their embedding.

    8,171,056 parameters as published; TalkLip has the same.

    Args:
        size: Pixels a side, 96 as published.
        widths: Channels before and after each halving.
        residuals: Residual convolutions after each halving.
        hidden: Channels of the embedding.

    Raises:
        ValueError: The size is not 3 x 2^n, or a list has another length than the stages.
    """

    def __init__(
        self,
        size: int = 96,
        widths: Sequence[int] = _FACE_WIDTHS,
        residuals: Sequence[int] = (2, 3, 2, 2, 1),
        hidden: int = 512,
    ) -> None:
        times = halvings(size)
        _sized(size, widths=(widths, times + 1), residuals=(residuals, times))
        super().__init__([_conv(6, widths[0], 7, 1, 3)])
        for (before, after), count in zip(pairwise(widths), residuals, strict=True):
            self.append(_stage(_conv(before, after, 3, 2), after, count))
        self.append(nn.Sequential(_conv(widths[-1], hidden, 3, 1, 0), _conv(hidden, hidden, 1, 1, 0)))

    def forward(self, identity: Tensor, pose: Tensor) -> list[Tensor]:
        """Encode faces; in training, BatchNorm sees exactly the frames given.

        Args:
            identity: (M, 3, size, size) in [0, 1], the reference: any frame of the person.
            pose: (M, 3, size, size), the frame to be made, its lower half 0.

        Returns:
            The map of every stage, from (M, widths[0], size, size) to (M, widths[-1], 3, 3), and last the embedding
            (M, hidden, 1, 1).
        """
        x = torch.cat([pose, identity], dim=1).contiguous(memory_format=torch.channels_last)  # (M, 6, size, size)
        maps = []
        for stage in self:
            x = stage(x)
            maps.append(x)
        return maps


class FaceDecoder(nn.ModuleList):
    """An embedding of what is said and the maps of a `FaceEncoder` -> a map of the face, for `ToRGB`.

    25,291,072 parameters as published; TalkLip has the same.

    Args:
        size: Pixels a side, 96 as published.
        widths: Channels at 3x3 and after each doubling.
        residuals: Residual convolutions of every doubling; at 3x3 there is one if this is not 0.
        face_widths: The encoder's `widths`.
        hidden: Channels of either embedding.

    Raises:
        ValueError: The size is not 3 x 2^n, or a list has another length than the stages.
    """

    def __init__(
        self,
        size: int = 96,
        widths: Sequence[int] = _DECODER_WIDTHS,
        residuals: int = 2,
        face_widths: Sequence[int] = _FACE_WIDTHS,
        hidden: int = 512,
    ) -> None:
        times = halvings(size)
        _sized(size, widths=(face_widths, times + 1), decoder_widths=(widths, times + 1))
        super().__init__([_conv(hidden, hidden, 1, 1, 0)])  # 1x1
        before = 2 * hidden
        for place, (after, skip) in enumerate(zip(widths, reversed(face_widths), strict=True)):
            if place == 0:
                first: nn.Module = nn.ConvTranspose2d(before, after, 3)  # 1x1 to 3x3
            else:
                first = nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)
            grown = nn.Sequential(first, nn.BatchNorm2d(after), nn.ReLU(inplace=True))
            self.append(_stage(grown, after, min(residuals, 1) if place == 0 else residuals))
            before = after + skip

    def forward(self, embedding: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Decode faces.

        Args:
            embedding: (M, hidden, 1, 1) of what is said; in Wav2Lip `AudioEncoder`'s.
            maps: The encoder's, of the same frames.

        Returns:
            (M, widths[-1] + face_widths[0], size, size).
        """
        x = embedding
        for stage, skip in zip(self, reversed(maps), strict=True):
            x = torch.cat([stage(x), skip], dim=1)
        return x


class ToRGB(nn.Sequential):
    """The last map of a face -> its pixels. 23,235 parameters as published; TalkLip has the same.

    Args:
        decoder_width: Last of the decoder's `widths`.
        face_width: First of the encoder's `widths`.
    """

    def __init__(self, decoder_width: int = _DECODER_WIDTHS[-1], face_width: int = _FACE_WIDTHS[0]) -> None:
        last = max(decoder_width // 2, 1)
        super().__init__(_conv(decoder_width + face_width, last), nn.Conv2d(last, 3, 1))

    def forward(self, features: Tensor) -> Tensor:
        """(M, decoder_width + face_width, size, size) -> (M, 3, size, size) float32 in (0, 1)."""
        return torch.sigmoid(super().forward(features).float())  # type: ignore[no-untyped-call]


class Generator(nn.Module):
    """A masked face, another face of the same person and the sound around a frame -> the face that says it.

    36,298,035 parameters as published.

    Args:
        size: Pixels a side, 96 as published.
        widths: Channels of the face encoder before and after each halving.
        residuals: Residual convolutions after each halving.
        decoder_widths: Channels of the decoder at 3x3 and after each doubling.
        decoder_residuals: Residual convolutions of every doubling; at 3x3 there is one if this is not 0.
        audio_widths: Channels of the audio encoder's four stages.
        audio_residuals: Residual convolutions of each stage.
        hidden: Channels of either embedding.

    Raises:
        ValueError: The size is not 3 x 2^n, or a list has another length than the stages.
    """

    def __init__(
        self,
        size: int = 96,
        widths: Sequence[int] = _FACE_WIDTHS,
        residuals: Sequence[int] = (2, 3, 2, 2, 1),
        decoder_widths: Sequence[int] = _DECODER_WIDTHS,
        decoder_residuals: int = 2,
        audio_widths: Sequence[int] = _AUDIO_WIDTHS,
        audio_residuals: Sequence[int] = (2, 2, 2, 1),
        hidden: int = 512,
    ) -> None:
        super().__init__()
        self.face = FaceEncoder(size, widths, residuals, hidden)
        self.sound = AudioEncoder(audio_widths, audio_residuals, hidden)
        self.decoder = FaceDecoder(size, decoder_widths, decoder_residuals, widths, hidden)
        self.to_rgb = ToRGB(decoder_widths[-1], widths[0])

    def forward(self, identity: Tensor, pose: Tensor, sound: Tensor) -> Tensor:
        """Make faces; in training, BatchNorm sees exactly the frames given.

        Args:
            identity: (M, 3, size, size) in [0, 1], the reference: any frame of the person.
            pose: (M, 3, size, size), the frame to be made, its lower half 0.
            sound: (M, 80, 16) window around it.

        Returns:
            (M, 3, size, size) float32 in (0, 1).
        """
        maps = self.face(identity, pose)
        embedding = self.sound(sound[:, None])  # (M, hidden, 1, 1)
        made: Tensor = self.to_rgb(self.decoder(embedding, maps))
        return made


class Expert(nn.Module):
    """Whether the mouths of five faces in a row and the sound of that fifth of a second belong together.

    Its embeddings pass a ReLU before they are brought to length 1, so their cosine lies in [0, 1] and counts as a
    probability. 16,435,072 parameters as published.

    Args:
        size: Pixels a side of the face, whose lower half it sees; 96 as published.
        widths: Channels of the face encoder's first convolution and after each halving.
        residuals: Residual convolutions after each halving.
        audio_widths: Channels of the audio encoder's four stages.
        audio_residuals: Residual convolutions of each stage.
        hidden: Channels of either embedding.

    Raises:
        ValueError: The size is not 3 x 2^n with n of at least 3, or a list has another length than the stages.
    """

    def __init__(
        self,
        size: int = 96,
        widths: Sequence[int] = (32, 64, 128, 256, 512, 512),
        residuals: Sequence[int] = (2, 3, 2, 2, 0),
        audio_widths: Sequence[int] = _AUDIO_WIDTHS,
        audio_residuals: Sequence[int] = (2, 2, 2, 2),
        hidden: int = 512,
    ) -> None:
        super().__init__()
        times = halvings(size)
        if times < 3:  # the first halving eats two rows and a column, which leaves less than 3x3 of 12 pixels
            raise ValueError(f"Wav2Lip's expert needs faces of 24 pixels or more a side, found {size}")
        _sized(size, widths=(widths, times + 1), residuals=(residuals, times))
        self.arguments: dict[str, Any] = {
            "size": size,
            "widths": list(widths),
            "residuals": list(residuals),
            "audio_widths": list(audio_widths),
            "audio_residuals": list(audio_residuals),
            "hidden": hidden,
        }
        self.view = View("face", size, size)
        stages: list[nn.Module] = [_conv(3 * FRAMES, widths[0], 7, 1, 3)]
        for place, ((before, after), count) in enumerate(zip(pairwise(widths), residuals, strict=True)):
            # A lower half is twice as wide as high: the first halving is along its width only.
            first = _conv(before, after, 5, (1, 2), 1) if place == 0 else _conv(before, after, 3, 2)
            stages.append(_stage(first, after, count))
        self.face = nn.Sequential(*stages, _conv(widths[-1], hidden, 3, 1, 0), _conv(hidden, hidden, 1, 1, 0))
        self.sound = AudioEncoder(audio_widths, audio_residuals, hidden)

    def embed_faces(self, lower: Tensor) -> Tensor:
        """(M, 5, 3, size / 2, size) lower halves in [0, 1] -> (M, hidden) of length 1, no entry below 0."""
        stacked = lower.flatten(1, 2).contiguous(memory_format=torch.channels_last)  # (M, 15, size / 2, size)
        return F.normalize(self.face(stacked).flatten(1).float())

    def embed_sound(self, sound: Tensor) -> Tensor:
        """(M, 80, 16) windows -> (M, hidden) of length 1, no entry below 0."""
        return F.normalize(self.sound(sound[:, None]).flatten(1).float())
