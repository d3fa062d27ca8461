"""SyncNet: one embedding for 0.2 s of pictures, one for 0.2 s of sound, near each other where the two are in sync.

`SyncNetV2` is the published network (Chung and Zisserman 2016; joonson/syncnet_python `SyncNetModel.py`, commit
6efbb1c, where the layers and their names are taken from). `SmallSyncNet` is lipbench's own, for judges that are trained
here. Both see windows of 5 pictures at 25 a second and 20 steps of MFCC, one window a frame.

The only layer that looks along the time of the pictures is the first, without padding. Here it is a two-dimensional
convolution over the 5 pictures of a window side by side as 15 channels, which is the same sum; so a whole clip runs in
one pass, equal to window by window. The sound of v2 is padded at the edges of every window, so its windows cannot share
work and run as one batch; the small network does not pad and runs along the clip.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from lipbench.media import features
from lipbench.types import View

FRAMES: Final = 5
"""Pictures in a window."""
STEPS: Final = 20
"""MFCC steps in a window."""
FPS: Final = 25.0
"""Pictures a second."""
HOP: Final = 4
"""MFCC steps a picture."""
_SAMPLES = 640  # sound samples a picture
_CHUNK = 8  # picture windows a pass outside training, to stay in the cache and to bound memory


def window_count(frames: int, samples: int) -> int:
    """Windows of a clip as published: one a frame, without the last 5.

    4 would do for the pictures; the fifth is lost because the last MFCC steps are missing (`features.mfcc_steps`).

    Args:
        frames: Pictures of the clip, at 25 a second.
        samples: Its sound samples, at 16,000 a second.
    """
    return max(0, min(frames, samples // _SAMPLES) - FRAMES)


def _blocks(convolutions: Sequence[tuple[nn.Conv2d, nn.Module | None]]) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU and, where there is one, pooling; numbered as in the published network."""
    layers: list[nn.Module] = []
    for convolution, pooling in convolutions:
        layers += [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]
        layers += [pooling] if pooling is not None else []
    return nn.Sequential(*layers)


def _head(features_in: int, hidden: int, width: int) -> nn.Sequential:
    """Two linear layers to the embedding."""
    return nn.Sequential(
        nn.Linear(features_in, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, width)
    )


class _TwoTowers(nn.Module, ABC):
    """What both networks share: windows, and how a clip becomes embeddings."""

    video: nn.Sequential
    video_head: nn.Sequential
    audio: nn.Sequential
    audio_head: nn.Sequential

    def __init__(self, arguments: dict[str, Any], view: View) -> None:
        super().__init__()
        self.arguments = arguments
        """With which the class makes it again."""
        self.view = view
        """The pictures it sees."""

    @abstractmethod
    def _sound(self, mfcc: Tensor) -> Tensor:
        """(B, F, 13) -> (B, W, E)."""

    def embed_video(self, pictures: Tensor) -> Tensor:
        """Embed the windows of pictures in a row.

        Args:
            pictures: (B, T, 3, h, w) RGB in [0, 1] in the network's view, at 25 frames a second.

        Returns:
            (B, T - 4, E): window k holds pictures k to k + 4.

        Raises:
            ValueError: The size is not the view's, or there are fewer than 5 pictures.
        """
        clips, frames = pictures.shape[:2]
        if tuple(pictures.shape[2:]) != (3, *self.view.size):
            raise ValueError(
                f"SyncNet sees {self.view}, pictures of shape {(3, *self.view.size)}; found {tuple(pictures.shape[2:])}"
            )
        count = frames - FRAMES + 1
        if count < 1:
            raise ValueError(f"SyncNet needs {FRAMES} pictures in a row, found {frames}")
        whole = torch.cat([pictures[:, k : k + count] for k in range(FRAMES)], dim=2)  # (B, count, 15, h, w)
        chunk = clips * count if self.training else _CHUNK  # BatchNorm must see a training batch whole
        parts = torch.split(whole.flatten(0, 1), chunk)
        return torch.cat([self._look(part) for part in parts]).reshape(clips, count, -1)

    def _look(self, windows: Tensor) -> Tensor:
        """(M, 15, h, w) -> (M, E)."""
        maps = self.video(windows.contiguous(memory_format=torch.channels_last))
        embedded: Tensor = self.video_head(maps.flatten(1))
        return embedded

    def embed_audio(self, mfcc: Tensor) -> Tensor:
        """Embed every window of the sound that starts at a frame.

        Args:
            mfcc: (B, F, 13) from `features.mfcc`, 100 steps a second.

        Returns:
            (B, (F - 20) // 4 + 1, E): window k holds steps 4 k to 4 k + 19.

        Raises:
            ValueError: There are fewer than 20 steps.
        """
        if mfcc.shape[-2] < STEPS:
            raise ValueError(f"SyncNet needs {STEPS} steps of MFCC (0.2 s), found {mfcc.shape[-2]}")
        return self._sound(mfcc)


class SyncNetV2(_TwoTowers):
    """The published network: 13,631,616 parameters, embeddings of 1,024 numbers.

    It takes RGB in [0, 1]; `load_syncnet` folds the published BGR in 0 to 255 into the first layer.
    """

    def __init__(self) -> None:
        super().__init__({}, View("syncnet", 224, 224))
        self.video = _blocks(
            [
                (nn.Conv2d(3 * FRAMES, 96, 7, stride=2), nn.MaxPool2d(3, 2)),
                (nn.Conv2d(96, 256, 5, stride=2, padding=1), nn.MaxPool2d(3, 2, padding=1)),
                (nn.Conv2d(256, 256, 3, padding=1), None),
                (nn.Conv2d(256, 256, 3, padding=1), None),
                (nn.Conv2d(256, 256, 3, padding=1), nn.MaxPool2d(3, 2)),
                (nn.Conv2d(256, 512, 6), None),
            ]
        )
        self.video_head = _head(512, 512, 1024)
        self.audio = _blocks(
            [
                (nn.Conv2d(1, 64, 3, padding=1), nn.Identity()),  # the published pooling here has size 1
                (nn.Conv2d(64, 192, 3, padding=1), nn.MaxPool2d(3, (1, 2))),
                (nn.Conv2d(192, 384, 3, padding=1), None),
                (nn.Conv2d(384, 256, 3, padding=1), None),
                (nn.Conv2d(256, 256, 3, padding=1), nn.MaxPool2d(3, 2)),
                (nn.Conv2d(256, 512, (5, 4)), None),
            ]
        )
        self.audio_head = _head(512, 512, 1024)
        self.to(memory_format=torch.channels_last)

    def _sound(self, mfcc: Tensor) -> Tensor:
        """Every window on its own: (B, F, 13) -> (B, W, 1024)."""
        windows = mfcc.unfold(1, STEPS, HOP)  # (B, W, 13, 20)
        maps = windows.flatten(0, 1)[:, None].contiguous(memory_format=torch.channels_last)  # (B W, 1, 13, 20)
        embedded: Tensor = self.audio_head(self.audio(maps).flatten(1))
        return embedded.reshape(*windows.shape[:2], -1)


class SmallSyncNet(_TwoTowers):
    """A small network of the same kind: 1.2 million parameters by default. Own design.

    Pictures: convolutions of stride 2 (5x5, then 3x3), linear layers. Sound: BatchNorm of the MFCC, then five
    convolutions along time without padding that reach over 20 steps and advance by 4.

    Args:
        view: Name of the view it sees.
        size: (height, width) in pixels.
        video_widths: Channels, one number a halving of the picture.
        audio_widths: Channels of the five convolutions.
        hidden: Channels between the two linear layers of each tower.
        width: Length of the embeddings.

    Raises:
        ValueError: `audio_widths` has another length.
    """

    _AUDIO = ((3, 1), (4, 2), (3, 1), (4, 2), (2, 1))  # (kernel, stride): 20 steps to one, advancing by 4

    def __init__(
        self,
        view: str = "mouth",
        size: tuple[int, int] = (40, 80),
        video_widths: Sequence[int] = (32, 64, 96, 128),
        audio_widths: Sequence[int] = (64, 128, 128, 192, 256),
        hidden: int = 256,
        width: int = 128,
    ) -> None:
        arguments = {
            "view": view,
            "size": list(size),
            "video_widths": list(video_widths),
            "audio_widths": list(audio_widths),
            "hidden": hidden,
            "width": width,
        }
        super().__init__(arguments, View(view, size[0], size[1]))
        if len(audio_widths) != len(self._AUDIO):
            raise ValueError(f"audio_widths needs {len(self._AUDIO)} numbers, found {list(audio_widths)}")
        before = (3 * FRAMES, *video_widths)
        kernels = (5, *[3] * (len(video_widths) - 1))
        self.video = _blocks(
            [
                (nn.Conv2d(a, b, kernel, stride=2, padding=kernel // 2), None)
                for a, b, kernel in zip(before, video_widths, kernels, strict=False)
            ]
        )
        height, breadth = size
        for _ in video_widths:
            height, breadth = (height + 1) // 2, (breadth + 1) // 2
        self.video_head = _head(video_widths[-1] * height * breadth, hidden, width)
        layers: list[nn.Module] = [nn.BatchNorm1d(features.CEPSTRA)]
        widths = (features.CEPSTRA, *audio_widths)
        for a, b, (kernel, stride) in zip(widths, audio_widths, self._AUDIO, strict=False):
            layers += [nn.Conv1d(a, b, kernel, stride), nn.BatchNorm1d(b), nn.ReLU(inplace=True)]
        self.audio = nn.Sequential(*layers)
        self.audio_head = _head(audio_widths[-1], hidden, width)
        self.to(memory_format=torch.channels_last)

    def _sound(self, mfcc: Tensor) -> Tensor:
        """Along the clip: (B, F, 13) -> (B, W, width)."""
        maps = self.audio(mfcc.transpose(1, 2)).transpose(1, 2)  # (B, W, channels)
        embedded: Tensor = self.audio_head(maps.flatten(0, 1))
        return embedded.reshape(*maps.shape[:2], -1)


SyncNet = SyncNetV2 | SmallSyncNet


def frames_at_25(frames: int, fps: float) -> Tensor:
    """Which frames of a clip to show at 25 a second: the nearest in time. (M,) int64 positions.

    SyncNet's window is 5 pictures and 0.2 s of sound at once; its author says to convert other rates first.
    """
    if fps == FPS:
        return torch.arange(frames)
    shown = torch.arange(round(frames * FPS / fps))
    return (shown * (fps / FPS)).round().long().clamp(max=max(frames - 1, 0))


def embed_sound(network: SyncNet, samples: Tensor) -> Tensor:
    """Embeddings (W, E) of every sound window of one clip (S,) in [-1, 1] at 16 kHz; W is 0 below 0.2 s."""
    steps = features.mfcc(samples)  # (F, 13)
    if len(steps) < STEPS:
        return network.embed_audio(steps.new_zeros(1, STEPS, features.CEPSTRA))[0, :0]
    return network.embed_audio(steps[None])[0]


def embed_clip(network: SyncNet, pictures: Tensor, sound: Tensor, samples: int) -> Tensor:
    """What LSE-C, LSE-D and AV offset take of one clip, with the ends cut off as published (`window_count`).

    Args:
        network: In eval mode.
        pictures: (T, 3, h, w) RGB in [0, 1] in the network's view, at 25 frames a second (`frames_at_25`).
        sound: (W, E) from `embed_sound`; of one clip, for however many videos.
        samples: Sound samples of the clip at 16 kHz.

    Returns:
        (N, 2, E): embeddings of the pictures and of the sound for N windows; N is 0 for clips under 6 frames.
    """
    count = window_count(len(pictures), samples)
    if count == 0:
        return sound.new_zeros(0, 2, sound.shape[-1])
    video = network.embed_video(pictures[None, : count + FRAMES - 1])[0]  # (N, E)
    return torch.stack([video, sound[:count]], 1)


# ------------------------------------------------------------------------------------------------------ weights files
