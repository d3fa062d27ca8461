"""The correlation GAN's autoencoder of clips, whose encoder gives the perceptual loss.

Layer for layer after the published code (lelechen63/3d_gan at commit 8d16802): `embedding_3d.py` with 23,584,643
parameters and its per-frame twin `embedding.py` with 7,841,411, which the trainer that combines all losses loads. The
paper says "an autoencoder to reconstruct video clips", so the 3-d one is the default. Initialization is He's for every
layer, as the paper says; the code leaves it to PyTorch's default.

The per-frame twin runs its frames as one batch, the published one frame after frame: equal in evaluation; in training,
BatchNorm here sees the frames of all steps.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.nets.convolutions import ResidualBlock, conv2d, conv3d, fold_time, initialize_he, unfold_time, upconv3d


class ClipAutoencoder(nn.Module):
    """Reconstructs clips.

    Args:
        width: Channels of the first convolution; the features have four times as many. 64 as published.
        blocks: Residual blocks, 6 as published.
        per_frame: 2-d convolutions on single frames (edges reflected) in place of 3-d ones (edges replicated).
    """

    def __init__(self, width: int = 64, blocks: int = 6, per_frame: bool = False) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {"width": width, "blocks": blocks, "per_frame": per_frame}
        self.per_frame = per_frame
        convolution: Callable[..., nn.Module] = nn.Conv2d if per_frame else nn.Conv3d
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d if per_frame else nn.BatchNorm3d
        mode = "reflect" if per_frame else "replicate"

        def halve(before: int, after: int) -> nn.Module:
            return conv2d(before, after, 3, 2) if per_frame else conv3d(before, after, 3, (1, 2, 2))

        def double(before: int, after: int) -> nn.Module:
            if not per_frame:
                return upconv3d(before, after, 3, (1, 2, 2), 1, (0, 1, 1))
            up = nn.ConvTranspose2d(before, after, 3, 2, 1, 1, bias=False)
            return nn.Sequential(up, nn.BatchNorm2d(after), nn.ReLU(inplace=True))

        self.encoder = nn.Sequential(
            convolution(3, width, 7, padding=3, padding_mode=mode, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            halve(width, 2 * width),
            halve(2 * width, 4 * width),
            *(ResidualBlock(4 * width, not per_frame, mode) for _ in range(blocks)),
        )
        self.decoder = nn.Sequential(
            double(4 * width, 2 * width),
            double(2 * width, width),
            convolution(width, 3, 7, padding=3, padding_mode=mode),
        )
        initialize_he(self)

    def encode(self, video: Tensor) -> Tensor:
        """Features for the perceptual loss.

        Args:
            video: (B, T, 3, H, W) in [-1, 1], H and W multiples of 4.

        Returns:
            (B, 4 width, T, H / 4, W / 4).
        """
        x = video.transpose(1, 2)  # (B, 3, T, H, W)
        if self.per_frame:
            return unfold_time(self.encoder(fold_time(x)), video.shape[1])
        return self.encoder(x)  # type: ignore[no-any-return]

    def forward(self, video: Tensor) -> Tensor:
        """Reconstruct.

        Args:
            video: (B, T, 3, H, W) in [-1, 1], H and W multiples of 4.

        Returns:
            The same shape, float32 in (-1, 1).
        """
        x = self.encode(video)
        x = unfold_time(self.decoder(fold_time(x)), video.shape[1]) if self.per_frame else self.decoder(x)
        return torch.tanh(x.float()).transpose(1, 2)
