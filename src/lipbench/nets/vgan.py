"""VGAN (Vondrick et al. 2016) extended to audio and an identity image: a baseline of the correlation GAN's paper.

Layer for layer after the published code of that comparison (lelechen63/3d_gan `model_vgan.py`, commit 8d16802): a
static background and a moving foreground, joined by a mask. It deviates from Vondrick's (cvondrick/videogan `main.lua`)
by an extra layer in each head, a second kernel of (2, 4, 4), and ReLU in the discriminator. Weights are He's, as in
that code.

The paper says that the extension "receives the same target image information"; the code takes the identity image and
ignores it. `identity=True` is the paper's way by an own choice of layers, the reverse of the static network (as in
Vondrick's `main_conditional.lua`), whose vector is joined to noise and audio. `identity=False` is the code's.

The discriminator returns logits; the published one ends with their sigmoid.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from lipbench.nets.convolutions import conv2d, conv3d, initialize_he, linear, upconv2d, upconv3d
from lipbench.nets.corrgan import COLUMNS_PER_FRAME, FRAMES, AudioEncoder

NOISE: Final = 100
"""Values of noise for each clip, as published."""


def _check_sizes(size: int, bands: int) -> None:
    if size < 16 or size % 16 or bands < 4 or bands % 4:
        raise ValueError(f"VGAN needs frames of 16 n pixels a side and 4 n bands, found {size} and {bands}")


class Generator(nn.Module):
    """Audio, noise and an identity image -> a clip of 16 frames.

    35,938,343 parameters with `identity=False`, as published; 47,084,967 with the identity encoder.

    Args:
        identity: Look at the identity image.
        size: Height and width of the frames, a multiple of 16; 64 as published.
        bands: Of the log-mel spectrogram, a multiple of 4; 128 as published.
        width: Channels before the last convolutions, 64 as published.
        audio_widths: Channels of the audio convolutions.
        noise: Values of noise.
    """

    def __init__(
        self,
        identity: bool = True,
        size: int = 64,
        bands: int = 128,
        width: int = 64,
        audio_widths: Sequence[int] = (32, 64, 128, 128),
        noise: int = NOISE,
    ) -> None:
        super().__init__()
        _check_sizes(size, bands)
        self.noise, hidden, seed = noise, 4 * width, size // 16
        self.audio = nn.Sequential(
            AudioEncoder(audio_widths), nn.Flatten(), linear(audio_widths[-1] * FRAMES * bands // 4, hidden)
        )
        joined = noise + hidden * (2 if identity else 1)
        self.background = nn.Sequential(
            upconv2d(joined, 8 * width, seed, 1, 0),
            upconv2d(8 * width, 4 * width),
            upconv2d(4 * width, 2 * width),
            upconv2d(2 * width, width),
            upconv2d(width, width),
            nn.Conv2d(width, 3, 3, padding=1),
        )
        self.trunk = nn.Sequential(
            upconv3d(joined, 8 * width, (2, seed, seed), 1, 0),
            upconv3d(8 * width, 4 * width, (2, 4, 4)),
            upconv3d(4 * width, 2 * width),
            upconv3d(2 * width, width),
        )
        self.mask = nn.Sequential(upconv3d(width, width), nn.Conv3d(width, 1, 3, padding=1))
        self.foreground = nn.Sequential(upconv3d(width, width), nn.Conv3d(width, 3, 3, padding=1))
        self.identity = (
            nn.Sequential(
                conv2d(3, width, 4, 2),
                conv2d(width, 2 * width, 4, 2),
                conv2d(2 * width, 4 * width, 4, 2),
                conv2d(4 * width, 8 * width, 4, 2),
                conv2d(8 * width, hidden, seed, 1, 0),
            )
            if identity
            else None
        )
        initialize_he(self)

    def forward(self, identity: Tensor, audio: Tensor, noise: Tensor) -> Tensor:
        """Generate clips.

        Args:
            identity: (B, 3, size, size) in [-1, 1]; not looked at with `identity=False`.
            audio: (B, 64, bands) log-mel spectrogram.
            noise: (B, noise) from a standard normal distribution.

        Returns:
            (B, 16, 3, size, size) float32 in (-1, 1).
        """
        parts = [noise, self.audio(audio[:, None])]
        if self.identity is not None:
            parts.append(self.identity(identity).flatten(1))
        x = torch.cat(parts, dim=1)[..., None, None]  # (B, joined, 1, 1)
        background = torch.tanh(self.background(x).float())[:, :, None]  # (B, 3, 1, size, size)
        x = self.trunk(x[..., None])  # (B, width, 8, size / 2, size / 2)
        foreground, mask = torch.tanh(self.foreground(x).float()), torch.sigmoid(self.mask(x).float())
        return (foreground * mask + background * (1 - mask)).transpose(1, 2)


class Discriminator(nn.Module):
    """Whether a clip is real and belongs to its audio; 40,797,537 parameters.

    Args:
        size: Height and width of the frames, a multiple of 16; 64 as published.
        bands: Of the log-mel spectrogram, a multiple of 4; 128 as published.
        width: Channels of the first convolution on frames, 64 as published.
        audio_widths: Channels of the audio convolutions.
    """

    def __init__(
        self, size: int = 64, bands: int = 128, width: int = 64, audio_widths: Sequence[int] = (32, 64, 128, 256)
    ) -> None:
        super().__init__()
        _check_sizes(size, bands)
        self.shapes = ((FRAMES, 3, size, size), (FRAMES * COLUMNS_PER_FRAME, bands))
        self.audio = nn.Sequential(
            AudioEncoder(audio_widths),
            nn.Flatten(),
            nn.Linear(audio_widths[-1] * FRAMES * bands // 4, 4 * width),
            nn.ReLU(inplace=True),
        )
        self.video = nn.Sequential(
            conv3d(3, width, 4, 2),
            conv3d(width, 2 * width, 4, 2),
            conv3d(2 * width, 4 * width, 4, 2),
            conv3d(4 * width, 8 * width, (2, 4, 4), 2),
        )
        self.joint = nn.Conv3d(12 * width, 1, (2, size // 16, size // 16))
        initialize_he(self)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """Judge clips with their audio.

        Args:
            video: (B, 16, 3, size, size) in [-1, 1].
            audio: (B, 64, bands) log-mel spectrogram.

        Returns:
            (B,) float32 logits: positive where the clip is taken for real and matching.

        Raises:
            ValueError: A shape is another.
        """
        found = (tuple(video.shape[1:]), tuple(audio.shape[1:]))
        if found != self.shapes:
            raise ValueError(
                f"VGAN's discriminator needs video and audio of shapes (B, *{self.shapes[0]}) and "
                f"(B, *{self.shapes[1]}), found (B, *{found[0]}) and (B, *{found[1]})"
            )
        seen = self.video(video.transpose(1, 2))  # (B, 8 w, 2, size / 16, size / 16)
        heard = self.audio(audio[:, None])[..., None, None, None].expand(-1, -1, *seen.shape[2:])
        return self.joint(torch.cat([seen, heard], dim=1)).float().flatten()  # type: ignore[no-any-return]
