"""The correlation GAN's networks ("Lip Movements Generation at a Glance", ECCV 2018).

Layer for layer after the published code (lelechen63/3d_gan at commit 8d16802: `model_corr.py`,
`model_corr_perceptual_difference.py`, `corr_encoder.py`). A clip is 16 frames of 64x64 pixels, RGB in [-1, 1], and its
audio a log-mel spectrogram of 128 bands with 4 columns a frame. Where the code deviates from the paper, or the paper
leaves something open:

- Initialization: He's for every layer with biases 0, as the paper says. The code draws only the layers of its helper
  functions that way and leaves the identity encoder, the trunk and the upsampling layers to PyTorch's default.
- The discriminator returns logits; the published one ends with their sigmoid.
- The trunk's kernels are (1, 3, 3), so its frames are folded into the batch: the same values, in 0.9 times the time
  (forward and backward on one core of a Xeon with AMX, PyTorch 2.15, float32).
- The frame-difference stream (configuration i of the paper's Table 2) was never published. Own choice: the absolute
  difference of adjacent frames, three channels, through the flow stream's convolutions with every stride in space 2.
- With `shared_audio` the discriminator has no audio convolutions and takes the generator's audio features (the paper
  says of the audio stream "also used in our generator"; the code has two separate encoders, which is the default).
- The flow encoder: the paper's receptive field of 13 steps needs 6 convolutions, the default here. The code pairs 6
  with full-size Farneback flow and 4 (9 steps) with FlowNet's flow of 16x16 pixels; on that, the last two of 6 see
  maps of one pixel.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

import torch
from torch import Tensor, nn

from lipbench.nets.convolutions import (
    ResidualBlock,
    conv2d,
    conv3d,
    fold_time,
    in_float32,
    initialize_he,
    linear,
    unfold_time,
    upconv3d,
)

FRAMES: Final = 16
"""Frames that the discriminator judges at once; the generator takes any number."""
COLUMNS_PER_FRAME: Final = 4
"""Columns of the log-mel spectrogram for each frame."""

MotionStream = Literal["flow", "difference", "none"]


class AudioEncoder(nn.Sequential):
    """Four convolutions on a log-mel spectrogram: (B, 1, 4 T, bands) -> (B, channels, T, bands / 4).

    Args:
        widths: Channels after each.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256)) -> None:
        if len(widths) != 4:
            raise ValueError(f"the audio encoder has 4 convolutions, found {len(widths)} widths: {tuple(widths)}")
        strides = (1, 2, 1, 2)
        pairs = pairwise((1, *widths))
        super().__init__(*(conv2d(a, b, 3, stride) for (a, b), stride in zip(pairs, strides, strict=True)))


class Generator(nn.Module):
    """An identity image and a log-mel spectrogram -> a clip.

    16,695,267 parameters at the default sizes.

    Args:
        width: Channels of the first convolution on images; the trunk has four times as many. 64 as published.
        blocks: Residual blocks of the trunk, 9 as published.
        audio_widths: Channels of the audio encoder's first four convolutions; a fifth has the trunk's.
    """

    def __init__(self, width: int = 64, blocks: int = 9, audio_widths: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        trunk = 4 * width
        self.audio = AudioEncoder(audio_widths)
        self.audio_out = conv2d(audio_widths[-1], trunk, 3, (1, 2))
        self.identity = nn.Sequential(
            nn.Conv2d(3, width, 7, padding=3, padding_mode="reflect", bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            conv2d(width, 2 * width, 3, 2),
            conv2d(2 * width, trunk, 3, 2),
        )
        self.fusion = conv3d(2 * trunk, trunk)
        self.trunk = nn.Sequential(*(ResidualBlock(trunk) for _ in range(blocks)))
        self.upsampling = nn.Sequential(
            upconv3d(trunk, 2 * width, 3, (1, 2, 2), 1, (0, 1, 1)),
            upconv3d(2 * width, width, 3, (1, 2, 2), 1, (0, 1, 1)),
            nn.Conv3d(width, 3, 7, padding=3),
        )
        initialize_he(self)

    def forward(self, identity: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Generate clips.

        Args:
            identity: (B, 3, H, W) in [-1, 1], H = W a multiple of 4; 64 as published.
            audio: (B, 4 T, 2 H) log-mel spectrogram; T any number of frames, 16 as published.

        Returns:
            Clips (B, T, 3, H, W) float32 in (-1, 1); audio features (B, 4 width, T, H / 4) for the correlation loss.

        Raises:
            ValueError: The shapes do not belong together.
        """
        height, image_width = identity.shape[-2:]
        columns, bands = audio.shape[1:]
        if height != image_width or height % 4 or columns % COLUMNS_PER_FRAME or bands != 2 * height:
            raise ValueError(
                f"an identity image of {height}x{image_width} pixels and {columns} columns of {bands} bands: the "
                f"fusion needs square images of 4 n pixels a side, 8 n bands and {COLUMNS_PER_FRAME} columns a frame"
            )
        frames = columns // COLUMNS_PER_FRAME
        heard: Tensor = self.audio_out(self.audio(audio[:, None]))  # (B, 4 w, T, F)
        seen = self.identity(identity.contiguous(memory_format=torch.channels_last))  # (B, 4 w, F, F)
        x = torch.cat(
            [
                seen[:, :, None].expand(-1, -1, frames, -1, -1),
                heard[..., None].expand(-1, -1, -1, -1, seen.shape[-1]),
            ],
            dim=1,
        )  # (B, 8 w, T, F, F): the image at every step; every band's feature along a row of the image
        x = self.trunk(fold_time(self.fusion(x)))  # (B T, 4 w, F, F)
        x = self.upsampling(unfold_time(x, frames))  # (B, 3, T, H, W)
        return torch.tanh(x.float()).transpose(1, 2), heard.float()


def _motion_stream(motion: MotionStream, width: int) -> nn.Sequential:
    """Convolutions on 15 flow fields or frame differences that leave one step of 1/16 of the frames' size."""
    channels, strides = (2, (2, 1, 2, 1)) if motion == "flow" else (3, (2, 2, 2, 2))
    layers: list[nn.Module] = [
        nn.Conv3d(channels, width, 3, (2, strides[0], strides[0]), 1),
        nn.ReLU(inplace=True),
    ]
    for (before, after), stride in zip(pairwise((width, 2 * width, 4 * width, 4 * width)), strides[1:], strict=True):
        layers.append(conv3d(before, after, 3, (2, stride, stride), 1))
    return nn.Sequential(*layers)


class Discriminator(nn.Module):
    """Whether a clip is real and belongs to its audio: an audio, a video and a motion stream.

    54,278,881 parameters with the flow stream, 55,593,249 without a third stream ("two-stream"), where the video stream
    ends in twice the channels and the audio's linear layer has a bias in place of BatchNorm, as published.

    Args:
        motion: What the third stream sees: the clip's flow, the absolute difference of its frames, or no third stream.
        size: Height and width of the frames, a multiple of 16; 64 as published.
        bands: Of the log-mel spectrogram, a multiple of 4; 128 as published.
        width: Channels of the first convolution on frames, 64 as published.
        audio_widths: Channels of the audio convolutions; with `shared_audio` those of the generator.
        shared_audio: No audio convolutions of its own: takes what the generator's `audio` gives.
    """

    def __init__(
        self,
        motion: MotionStream = "flow",
        size: int = 64,
        bands: int = 128,
        width: int = 64,
        audio_widths: Sequence[int] = (32, 64, 128, 256),
        shared_audio: bool = False,
    ) -> None:
        super().__init__()
        if size < 16 or size % 16 or bands < 4 or bands % 4:
            raise ValueError(
                f"the discriminator needs frames of 16 n pixels a side and 4 n bands, found {size} and {bands}"
            )
        self.motion, self.size, self.bands, self.shared_audio = motion, size, bands, shared_audio
        self.audio_channels = audio_widths[-1]
        self.audio: nn.Module = nn.Identity() if shared_audio else AudioEncoder(audio_widths)
        features = audio_widths[-1] * FRAMES * bands // 4
        self.audio_out = (
            nn.Sequential(nn.Linear(features, 4 * width), nn.ReLU(inplace=True))
            if motion == "none"
            else linear(features, 4 * width)
        )
        self.video = nn.Sequential(
            nn.Conv3d(3, width, 4, 2, 1),
            nn.ReLU(inplace=True),
            conv3d(width, 2 * width, 4, 2),
            conv3d(2 * width, 4 * width, 4, 2),
            conv3d(4 * width, (8 if motion == "none" else 4) * width, 4, (1, 2, 2)),
        )
        self.motion_stream = None if motion == "none" else _motion_stream(motion, width)
        self.joint = nn.Sequential(conv3d(12 * width, 8 * width), nn.Conv3d(8 * width, 1, (1, size // 16, size // 16)))
        initialize_he(self)

    def forward(self, video: Tensor, audio: Tensor, flow: Tensor | None = None) -> Tensor:
        """Judge clips with their audio.

        Args:
            video: (B, 16, 3, size, size) in [-1, 1].
            audio: (B, 64, bands) log-mel spectrogram; with `shared_audio` the features (B, channels, 16, bands / 4).
            flow: (B, 15, 2, size / 4, size / 4) of adjacent frames where the third stream sees flow, otherwise None.

        Returns:
            (B,) float32 logits: positive where the clip is taken for real and matching.

        Raises:
            ValueError: A shape is another, or flow is missing or not wanted.
        """
        self._check(video, audio, flow)
        embedding = self.audio_out((audio if self.shared_audio else self.audio(audio[:, None])).flatten(1))  # (B, 4 w)
        streams = [self.video(video.transpose(1, 2))]  # (B, 4 w or 8 w, 1, size / 16, size / 16)
        if self.motion_stream is not None:
            motion = (video[:, 1:] - video[:, :-1]).abs() if flow is None else flow
            streams.append(self.motion_stream(motion.transpose(1, 2)))
        streams.append(embedding[..., None, None, None].expand(-1, -1, *streams[0].shape[2:]))
        return self.joint(torch.cat(streams, dim=1)).float().flatten()  # type: ignore[no-any-return]

    def _check(self, video: Tensor, audio: Tensor, flow: Tensor | None) -> None:
        wanted = {
            "video": (FRAMES, 3, self.size, self.size),
            "audio": (self.audio_channels, FRAMES, self.bands // 4)
            if self.shared_audio
            else (FRAMES * COLUMNS_PER_FRAME, self.bands),
            "flow": (FRAMES - 1, 2, self.size // 4, self.size // 4) if self.motion == "flow" else None,
        }
        found = {"video": video, "audio": audio, "flow": flow}
        for name, shape in wanted.items():
            tensor = found[name]
            size = None if tensor is None else tuple(tensor.shape[1:])
            if size != shape:
                raise ValueError(
                    f"a discriminator with the motion stream {self.motion!r} needs {name} of shape (B, *{shape}), "
                    f"found (B, *{size})"
                )


def _correlation_layers(channels: int, widths: Sequence[int], volumetric: bool) -> nn.Sequential:
    """Convolutions with biases (as published), BatchNorm and ReLU that keep the steps and halve everything else."""
    layers: list[nn.Module] = []
    for before, after in pairwise((channels, *widths)):
        if volumetric:
            layers += [nn.Conv3d(before, after, 3, (1, 2, 2), 1), nn.BatchNorm3d(after)]
        else:
            layers += [nn.Conv2d(before, after, 3, (1, 2), 1), nn.BatchNorm2d(after)]
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class AudioCorrelationEncoder(nn.Module):
    """The paper's phi_s: how the audio features of a clip change, step by step.

    392,400 parameters; 4 convolutions of 3 steps give a receptive field of 9 steps, as the paper says.

    Args:
        channels: Of the audio features: four times the generator's width.
        widths: Channels after each convolution.
        derivative: Encode the difference of adjacent steps (earlier minus later, as published). False is the paper's
            non-derivative variant (configuration f): the features themselves.
    """

    def __init__(self, channels: int = 256, widths: Sequence[int] = (128, 64, 32, 16), derivative: bool = True) -> None:
        super().__init__()
        self.derivative = derivative
        self.layers = _correlation_layers(channels, widths, volumetric=False)
        self.largest = 2 ** len(widths)
        initialize_he(self)

    def forward(self, features: Tensor) -> Tensor:
        """Encode the generator's audio features.

        Args:
            features: (B, channels, T, F), F at most 2^(number of convolutions).

        Returns:
            (B, T - 1, C) with derivatives, otherwise (B, T, C); float32.

        Raises:
            ValueError: F is larger.
        """
        if features.shape[3] > self.largest:
            raise ValueError(
                f"{len(self.layers) // 3} convolutions halve {self.largest} values to one, found {features.shape[3]}"
            )
        x = features.float()
        with in_float32(x):
            x = self.layers(x[:, :, :-1] - x[:, :, 1:] if self.derivative else x)  # (B, C, T - 1 or T, 1)
        return x.squeeze(3).transpose(1, 2)  # type: ignore[no-any-return]


class MotionCorrelationEncoder(nn.Module):
    """The paper's phi_v: how the picture moves, step by step.

    25,500 parameters; 6 convolutions of 3 steps give the paper's receptive field of 13 steps. The published "flownet"
    variant is `widths=(4, 8, 16, 16)`: 11,580 parameters, field 9. The paper's non-derivative variant (configuration f)
    is `channels=3` on the frames themselves, 25,608 parameters.

    Args:
        channels: 2 for flow, 3 for frames.
        widths: Channels after each convolution.
    """

    def __init__(self, channels: int = 2, widths: Sequence[int] = (4, 8, 16, 16, 16, 16)) -> None:
        super().__init__()
        self.layers = _correlation_layers(channels, widths, volumetric=True)
        self.largest = 2 ** len(widths)
        initialize_he(self)

    def forward(self, motion: Tensor) -> Tensor:
        """Encode flow fields or frames.

        Args:
            motion: (B, T, channels, H, W), H and W at most 2^(number of convolutions).

        Returns:
            (B, T, C) float32.

        Raises:
            ValueError: H or W is larger.
        """
        if max(motion.shape[-2:]) > self.largest:
            raise ValueError(
                f"{len(self.layers) // 3} convolutions halve {self.largest} pixels to one, found "
                f"{motion.shape[-2]}x{motion.shape[-1]}"
            )
        with in_float32(motion):
            x = self.layers(motion.float().transpose(1, 2))  # (B, C, T, 1, 1)
        return x.flatten(2).transpose(1, 2)  # type: ignore[no-any-return]
