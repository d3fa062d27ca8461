"""ATVGnet (Chen et al., CVPR 2019): audio to landmarks, then landmarks to frames with attention.

Layer for layer after the published code (lelechen63/ATVGnet `code/models.py`, commit 02d8f8f). Where this deviates:

- The recurrence of `LandmarksToVideo` runs over time, as the paper says. The published `Conv2dGRU` is built without
  `batch_first` and fed (batch, time, ...), so it runs over the samples of a batch, and at a batch of one over nothing.
- All steps pass a layer as one batch where the published code loops over them: equal in evaluation; in training,
  BatchNorm here sees the frames of all steps.
- The discriminator returns logits (published: their sigmoid), and its `decoder`, 594,568 of the published 21,491,473
  parameters, is left out: nothing reads it.
- `AudioToLandmarks` holds the basis of its principal components. Both generators take and return the state of their
  recurrence, so that long clips can be generated in pieces.

Generators start from a normal distribution with a deviation of 0.02, as their trainers do; the discriminator is left to
PyTorch's default, as published.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lipbench.media import geometry
from lipbench.nets.convolutions import ResidualBlock, conv2d

POINTS = 68
"""Landmarks of a face."""
COMPONENTS = 6
"""Principal components that landmarks are described by."""
LstmState = tuple[Tensor, Tensor]
"""Hidden state and cell, (layers, B, hidden) each."""

_TEMPLATE = torch.from_numpy(geometry.TEMPLATE) + torch.tensor(geometry.box("face")[1::-1])  # (68, 2) canonical pixels
_CENTER = _TEMPLATE.mean(0)
_UNIT = float(torch.linalg.vector_norm(_TEMPLATE - _CENTER)) / 5  # 115.4 canonical pixels


def normalize(points: Tensor) -> Tensor:
    """Landmarks at the scale of the published ones: five times the result of a Procrustes analysis.

    Procrustes analysis centers the points of every frame, scales them to norm 1 and rotates them. The canonical picture
    has been aligned by a similarity transform of eyes and nose, so a single shift and factor remain for all frames:
    those that give the template mean 0 and norm 5. Unlike Procrustes analysis, this shows a moving jaw in the points of
    the jaw alone.

    Args:
        points: (..., 68, 2) x, y in pixels of the canonical picture.

    Returns:
        (..., 68, 2) float32, between -1 and 1 in a face like the template.
    """
    return (points.float() - _CENTER.to(points.device, torch.float32)) / _UNIT


def in_pixels(normalized: Tensor) -> Tensor:
    """Undo `normalize`: (..., 68, 2) -> (..., 68, 2) x, y in pixels of the canonical picture."""
    return normalized * _UNIT + _CENTER.to(normalized)


def _initialize_normal(network: nn.Module) -> None:
    """Weights N(0, 0.02), scales of BatchNorm N(1, 0.02), biases 0; recurrent layers keep PyTorch's default."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0 if isinstance(layer, nn.BatchNorm2d) else 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _dense(*features: int) -> nn.Sequential:
    """Linear layers, each with ReLU."""
    layers: list[nn.Module] = []
    for before, after in pairwise(features):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class AudioToLandmarks(nn.Module):
    """The published AT_net: MFCC around each frame -> principal components of its landmarks; 30,071,750 parameters.

    The buffers `mean` (68, 2) and `basis` (components, 68, 2) say what the components are; `fit_basis` sets them.

    Args:
        components: Principal components.
        width: Channels of the first convolution, 64 as published.
        hidden: Of the LSTM and of the audio embedding, 256 as published.
        layers: Of the LSTM.
    """

    def __init__(self, components: int = COMPONENTS, width: int = 64, hidden: int = 256, layers: int = 3) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "components": components,
            "width": width,
            "hidden": hidden,
            "layers": layers,
        }
        self.mean: Tensor
        self.basis: Tensor
        self.register_buffer("mean", torch.zeros(POINTS, 2))
        self.register_buffer("basis", torch.zeros(components, POINTS, 2))
        self.identity = _dense(components, hidden, 2 * hidden)
        self.audio = nn.Sequential(
            conv2d(1, width),
            conv2d(width, 2 * width),
            nn.MaxPool2d(3, (1, 2)),  # 26x5
            conv2d(2 * width, 4 * width),
            conv2d(4 * width, 4 * width),
            conv2d(4 * width, 8 * width),
            nn.MaxPool2d(3, 2),  # 12x2
            nn.Flatten(),
        )
        self.audio_out = _dense(8 * width * 24, 8 * hidden, hidden)
        self.lstm = nn.LSTM(3 * hidden, hidden, layers, batch_first=True)
        self.out = nn.Linear(hidden, components)
        _initialize_normal(self)

    @torch.no_grad()
    def fit_basis(self, clips: Iterable[Tensor]) -> None:
        """Find the mean shape, and the directions in which landmarks move most within a clip.

        The published components are those of landmarks from which each speaker's own shape was taken out. Here the mean
        of each clip is subtracted before the covariance is summed over frames; the mean shape is that of the clips'
        means.

        Args:
            clips: (T, 68, 2) normalized landmarks of each clip.

        Raises:
            ValueError: There are none.
        """
        count, total = 0, torch.zeros(2 * POINTS, dtype=torch.float64)
        covariance = torch.zeros(2 * POINTS, 2 * POINTS, dtype=torch.float64)
        for clip in clips:
            flat = clip.double().flatten(1).cpu()  # (T, 136)
            covariance += (flat - flat.mean(0)).T @ (flat - flat.mean(0))
            count, total = count + 1, total + flat.mean(0)
        if not count:
            raise ValueError("principal components of landmarks need clips, found none")
        _, vectors = torch.linalg.eigh(covariance)  # (136, 136), eigenvalues ascending
        basis = vectors.flip(1).T[: len(self.basis)]  # (components, 136)
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))  # (components, 1)
        self.mean.copy_((total / count).view(POINTS, 2))
        self.basis.copy_((basis * largest.sign()).view(-1, POINTS, 2))  # eigenvectors have no sign of their own

    def coefficients(self, landmarks: Tensor) -> Tensor:
        """Principal components of normalized landmarks: (..., 68, 2) -> (..., components)."""
        with torch.autocast(landmarks.device.type, enabled=False):  # in half precision, a step is half a pixel
            return (landmarks - self.mean).flatten(-2) @ self.basis.flatten(1).T

    def moved(self, landmarks: Tensor, coefficients: Tensor) -> Tensor:
        """Landmarks that are moved until they have other components; what these do not describe stays.

        Args:
            landmarks: (B, 68, 2) normalized, of the identity image.
            coefficients: (B, T, components) that the frames shall have.

        Returns:
            (B, T, 68, 2) normalized.
        """
        change = coefficients - self.coefficients(landmarks)[:, None]  # (B, T, components)
        with torch.autocast(landmarks.device.type, enabled=False):
            shift = change @ self.basis.flatten(1)  # (B, T, 136)
            return landmarks[:, None] + shift.reshape(*shift.shape[:2], POINTS, 2)

    def forward(self, identity: Tensor, audio: Tensor, state: LstmState | None = None) -> tuple[Tensor, LstmState]:
        """Predict landmarks.

        Args:
            identity: (B, components) of the identity image's landmarks.
            audio: (B, T, 28, 12) MFCC around each frame: 28 steps of 10 ms, 12 coefficients.
            state: Of the LSTM after the frames before; None at the beginning of a clip.

        Returns:
            (B, T, components) float32, and the state after the last frame.

        Raises:
            ValueError: Windows of another shape.
        """
        if audio.shape[2:] != (28, 12):
            raise ValueError(f"AT_net hears MFCC windows of 28 steps x 12, found {tuple(audio.shape[2:])}")
        frames = audio.shape[1]
        heard = self.audio_out(self.audio(audio.flatten(0, 1)[:, None]))  # (B T, hidden)
        heard = heard.reshape(-1, frames, heard.shape[1])
        known = self.identity(identity)[:, None].expand(-1, frames, -1)
        states, state = self.lstm(torch.cat([known, heard], dim=2), state)
        return self.out(states).float(), state


class ConvGRU(nn.Module):
    """A GRU whose products are 3x3 convolutions.

    Args:
        in_channels: Of the input.
        hidden: Channels of the state.
        dilation: Of both convolutions.
    """

    def __init__(self, in_channels: int, hidden: int, dilation: int = 1) -> None:
        super().__init__()
        self.input = nn.Conv2d(in_channels, 3 * hidden, 3, padding=dilation, dilation=dilation)
        self.state = nn.Conv2d(hidden, 3 * hidden, 3, padding=dilation, dilation=dilation)
        self.hidden = hidden

    def reset_parameters(self) -> None:
        """All weights and biases uniform in +-1 / sqrt(hidden), as published and as in PyTorch's GRU."""
        bound = 1 / math.sqrt(self.hidden)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        """States over time.

        Args:
            x: (B, T, in, h, w).
            state: (B, hidden, h, w) before the first step; None is 0.

        Returns:
            (B, T, hidden, h, w).
        """
        batch, frames = x.shape[:2]
        inputs = self.input(x.flatten(0, 1)).reshape(batch, frames, 3 * self.hidden, *x.shape[3:])
        if state is None:
            state = inputs.new_zeros(batch, self.hidden, *x.shape[3:])
        states = []
        for step in range(frames):
            reset_x, update_x, new_x = inputs[:, step].chunk(3, dim=1)
            reset_h, update_h, new_h = self.state(state).chunk(3, dim=1)
            update = torch.sigmoid(update_x + update_h)
            new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
            state = new + update * (state - new)
            states.append(state)
        return torch.stack(states, dim=1)


class GeneratedVideo(NamedTuple):
    """What `LandmarksToVideo` gives, float32."""

    video: Tensor
    """(B, T, 3, size, size) in (-1, 1): attention * color + (1 - attention) * identity image."""
    attention: Tensor
    """(B, T, 1, size, size) in (0, 1): where the frame differs from the identity image; weighs the pixel loss."""
    color: Tensor
    """(B, T, 3, size, size) in (-1, 1)."""
    motion: Tensor
    """(B, T, 1, size / 4, size / 4) in (0, 1): attention from the landmarks' motion, between feature maps."""
    state: Tensor
    """(B, 8 width, size / 16, size / 16) of the recurrence after the last frame."""


class LandmarksToVideo(nn.Module):
    """The published VG_net: an identity image and landmarks -> frames; 58,355,781 parameters.

    Args:
        size: Height and width of the frames, a multiple of 16; 128 as published.
        width: Channels of the first convolution, an even number; 64 as published.
        blocks: Residual blocks, 9 as published.
        dropout: Inside of them, 0.5 as published.

    Raises:
        ValueError: Another size or width.
    """

    def __init__(self, size: int = 128, width: int = 64, blocks: int = 9, dropout: float = 0.5) -> None:
        super().__init__()
        if size < 16 or size % 16 or width < 2 or width % 2:
            raise ValueError(f"VG_net needs frames of 16 n pixels a side and an even width, found {size} and {width}")
        w = width
        self.size, self.side = size, size // 16
        self.identity = nn.Sequential(
            nn.ReflectionPad2d(3), conv2d(3, w, 7, 1, 0), conv2d(w, w, 3, 2), conv2d(w, 2 * w, 3, 2)
        )
        self.identity_deep = nn.Sequential(conv2d(2 * w, 4 * w, 3, 2), conv2d(4 * w, 8 * w, 3, 2))
        self.landmarks = _dense(2 * POINTS, self.side**2)
        self.landmark_map = conv2d(1, 4 * w)
        self.motion_attention = nn.Sequential(
            _doubling(8 * w, 4 * w, bias=True), _doubling(4 * w, 2 * w, bias=True), nn.Conv2d(2 * w, 1, 3, padding=1)
        )
        self.landmark_features = conv2d(4 * w, 8 * w)
        self.decoder = nn.Sequential(
            *(ResidualBlock(8 * w, dropout=dropout) for _ in range(blocks)),
            _doubling(8 * w, 4 * w),
            _doubling(4 * w, 2 * w),
        )
        self.decoder_fine = nn.Sequential(_doubling(2 * w, w), _doubling(w, w // 2))
        self.color = nn.Conv2d(w // 2, 3, 7, padding=3)
        self.attention = nn.Conv2d(w // 2, 1, 7, padding=3)
        self.bottleneck = conv2d(16 * w, 2 * w)
        self.gru = ConvGRU(2 * w, 8 * w, dilation=2)
        _initialize_normal(self)
        self.gru.reset_parameters()

    def forward(
        self, identity: Tensor, landmarks: Tensor, identity_landmarks: Tensor, state: Tensor | None = None
    ) -> GeneratedVideo:
        """Generate clips.

        Args:
            identity: (B, 3, size, size) in [-1, 1].
            landmarks: (B, T, 68, 2) of the frames to be made, normalized.
            identity_landmarks: (B, 68, 2) of the identity image, normalized.
            state: Of the recurrence after the frames before; None at the beginning of a clip.

        Returns:
            Frames, attention, colors, attention from motion, state.

        Raises:
            ValueError: An identity image of another size.
        """
        if identity.shape[1:] != (3, self.size, self.size):
            raise ValueError(
                f"this VG_net needs images of {self.size} pixels a side, found {tuple(identity.shape[1:])}"
            )
        batch, frames = landmarks.shape[:2]
        shallow = self.identity(identity.contiguous(memory_format=torch.channels_last))  # (B, 2 w, size / 4, size / 4)
        deep = self.identity_deep(shallow)  # (B, 8 w, side, side)
        still, moved = self._landmark_map(identity_landmarks), self._landmark_map(landmarks.flatten(0, 1))
        motion = torch.sigmoid(self.motion_attention(torch.cat([moved, _each(still, frames)], dim=1)))
        change = self.landmark_features(moved) - _each(self.landmark_features(still), frames)
        x = self.bottleneck(torch.cat([_each(deep, frames), change], dim=1))  # (B T, 2 w, side, side)
        states = self.gru(x.reshape(batch, frames, *x.shape[1:]), state)  # (B, T, 8 w, side, side)
        x = self.decoder(states.flatten(0, 1))  # (B T, 2 w, size / 4, size / 4)
        x = self.decoder_fine(_each(shallow, frames) * (1 - motion) + x * motion)  # (B T, w / 2, size, size)
        color, attention = torch.tanh(self.color(x).float()), torch.sigmoid(self.attention(x).float())
        video = attention * color + (1 - attention) * _each(identity, frames)
        video, attention, color, motion = (
            part.reshape(batch, frames, *part.shape[1:]) for part in (video, attention, color, motion.float())
        )
        return GeneratedVideo(video, attention, color, motion, states[:, -1])

    def _landmark_map(self, landmarks: Tensor) -> Tensor:
        """(M, 68, 2) -> (M, 4 w, side, side)."""
        plane = self.landmarks(landmarks.flatten(1)).reshape(-1, 1, self.side, self.side)
        return self.landmark_map(plane)  # type: ignore[no-any-return]


def _each(x: Tensor, frames: int) -> Tensor:
    """Repeat a clip's map for each of its frames: (B, ...) -> (B T, ...)."""
    return x.repeat_interleave(frames, dim=0)


def _doubling(in_channels: int, out_channels: int, bias: bool = False) -> nn.Sequential:
    """Transposed convolution of stride 2, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, 3, 2, 1, 1, bias=bias),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class LandmarkDiscriminator(nn.Module):
    """The published GL_Discriminator: whether a clip is real, and which landmarks it shows; 20,896,905 parameters.

    Args:
        size: Height and width of the frames, a multiple of 16; 128 as published.
        width: Channels of the first convolution, 64 as published.
        hidden: Of the LSTM, 256 as published.
    """

    def __init__(self, size: int = 128, width: int = 64, hidden: int = 256) -> None:
        super().__init__()
        if size < 16 or size % 16:
            raise ValueError(f"ATVGnet's discriminator needs frames of 16 n pixels a side, found {size}")
        self.frame = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1),
            nn.ReLU(inplace=True),
            conv2d(width, 2 * width, 3, 2),
            conv2d(2 * width, 4 * width, 3, 2),
            conv2d(4 * width, 8 * width, 3, 2),
            nn.Flatten(),
        )
        self.landmarks = _dense(2 * POINTS, hidden, 2 * hidden)
        self.frame_out = _dense(8 * width * (size // 16) ** 2, 2 * hidden)
        self.lstm = nn.LSTM(4 * hidden, hidden, 3, batch_first=True)
        self.motion = nn.Linear(hidden, 2 * POINTS)
        self.decision = nn.Linear(hidden, 1)

    def forward(self, video: Tensor, identity_landmarks: Tensor) -> tuple[Tensor, Tensor]:
        """Judge clips.

        Args:
            video: (B, T, 3, size, size) in [-1, 1].
            identity_landmarks: (B, 68, 2) of the identity image, normalized.

        Returns:
            (B,) logits, positive where a clip is taken for real: the mean over its frames, before the sigmoid as
            published; (B, T, 68, 2) normalized landmarks of the frames. Both float32.
        """
        frames = video.shape[1]
        seen = self.frame_out(self.frame(video.flatten(0, 1)))  # (B T, 2 hidden)
        seen = seen.reshape(-1, frames, seen.shape[1])
        known = self.landmarks(identity_landmarks.flatten(1))[:, None].expand(-1, frames, -1)
        states, _ = self.lstm(torch.cat([known, seen], dim=2))
        moved = torch.tanh(self.motion(states).float()).reshape(-1, frames, POINTS, 2)
        return self.decision(states).float().mean(dim=(1, 2)), moved + identity_landmarks[:, None]
