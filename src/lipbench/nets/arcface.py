"""ArcFace: an embedding of 512 numbers for a face; two pictures of one person point the same way (Deng et al. 2019).

The network is insightface's IResNet. Layers, key names and the range of its input were read in deepinsight/insightface:
`recognition/arcface_torch/backbones/iresnet.py` (commit d9cb10e) and `recognition/arcface_torch/inference.py` (commit
6c268de); the five points of a face in its picture in `python-package/insightface/utils/face_align.py` (commit 0b2958e).
"""

from typing import Final

import torch
from torch import Tensor, nn

from lipbench.media import geometry

SIDE: Final = 112
"""Side of the picture of a face, in pixels."""
WIDTH: Final = 512
"""Numbers of an embedding."""
DEPTHS: Final = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}
"""Published IResNets: name -> blocks of its four layers."""
POINTS: Final = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
"""Where (x, y) eyes, nose and corners of the mouth lie in the picture of a face."""
BOX: Final = (-16, 33, 236, 285)
"""(top, left, bottom, right) of that picture in pixels of the canonical picture; rows above 0 lie outside it."""

_CHUNK: Final = 16  # faces a pass


def face(pictures: Tensor) -> Tensor:
    """The picture of a face that ArcFace looks at, out of canonical pictures.

    insightface places every face by its five points. Canonical pictures are placed already, so here one box serves all
    of them (own choice): the least-squares similarity from the canonical template's eyes, nose and corners of the
    mouth to `POINTS`, without its turn of 0.3 degrees. The nose of the template comes to lie 2 px above its place, its
    other points within 0.8 px of theirs. A face is thus judged as it stands in the reference, and a generated one is
    not placed anew. The uppermost 7 of the 112 rows lie above the canonical picture and repeat its border.

    Args:
        pictures: (..., 3, 352, 320) uint8 RGB.

    Returns:
        (..., 3, 112, 112) float RGB in [0, 1].
    """
    top, left, bottom, right = BOX
    rows = torch.arange(top, bottom, device=pictures.device).clamp(0, geometry.HEIGHT - 1)
    faces = pictures[..., left:right].index_select(-2, rows)  # (..., 3, 252, 252)
    return geometry.resize(faces, (SIDE, SIDE)).float() / 255


class _Block(nn.Module):
    """Two convolutions beside a shortcut.

    Args:
        before: Channels in.
        after: Channels out.
        stride: Of the second convolution.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.prelu = nn.PReLU(after)
        self.conv2 = nn.Conv2d(after, after, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, h, w) -> (B, after, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        added: Tensor = self.bn3(self.conv2(x)) + shortcut
        return added


class IResNet(nn.Module):
    """The published network; with (3, 4, 14, 3) blocks it has 43,590,848 parameters.

    Args:
        blocks: Of its four layers, see `DEPTHS`.
    """

    def __init__(self, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        widths = (64, 64, 128, 256, 512)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(*[_Block(after if k else before, after, 1 if k else 2) for k in range(count)])
            for before, after, count in zip(widths, widths[1:], blocks, strict=False)
        )
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * (SIDE // 16) ** 2, WIDTH)
        self.features = nn.BatchNorm1d(WIDTH)

    def forward(self, faces: Tensor) -> Tensor:
        """Embed faces.

        Args:
            faces: (B, 3, 112, 112) RGB in [0, 1], see `face`.

        Returns:
            (B, 512), of any length: only the direction counts.

        Raises:
            ValueError: The pictures have another size.
        """
        if tuple(faces.shape[1:]) != (3, SIDE, SIDE):
            raise ValueError(f"ArcFace sees pictures of shape {(3, SIDE, SIDE)}; found {tuple(faces.shape[1:])}")
        x = self.prelu(self.bn1(self.conv1(faces * 2 - 1)))  # (B, 64, 112, 112)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, 512, 7, 7)
        embedded: Tensor = self.features(self.fc(self.bn2(x).flatten(1)))
        return embedded


def embed(network: IResNet, pictures: Tensor) -> Tensor:
    """Embeddings (T, 512) of the faces in T canonical pictures (T, 3, 352, 320) uint8, a few at a time."""
    parts = [network(face(part)) for part in torch.split(pictures, _CHUNK) if len(part)]
    return torch.cat(parts) if parts else pictures.new_zeros(0, WIDTH, dtype=torch.float32)
