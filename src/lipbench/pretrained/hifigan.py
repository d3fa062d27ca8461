"""Published HiFi-GAN generators: the file that its training writes, and the `config.json` beside it.

Names and shapes of their tensors were read from the published source (see `lipbench.nets.vocoder`), and beside the
authors' module with the same random weights the outputs are equal; unverified: no published file has passed through
here yet.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from lipbench.nets.vocoder import HifiGAN
from lipbench.pretrained import weights

_NAMES: Final = (
    (r"^conv_pre\.", "first."),
    (r"^conv_post\.", "last."),
    (r"^ups\.", "upsamplings."),
    (r"^resblocks\.", "residuals."),
    (r"\.convs1?\.", ".dilated."),
    (r"\.convs2\.", ".plain."),
)
"""Pattern in a published name -> what stands there in ours, one after the other."""
_ARGUMENTS: Final = {
    "upsample_rates": "upsample_rates",
    "upsample_kernel_sizes": "upsample_kernels",
    "upsample_initial_channel": "width",
    "resblock_kernel_sizes": "kernels",
    "resblock_dilation_sizes": "dilations",
    "resblock": "blocks",
    "sampling_rate": "rate",
    "n_fft": "fft",
    "win_size": "window",
    "num_mels": "mels",
    "fmin": "low",
    "fmax": "high",
}
"""Entry of `config.json` -> argument of `HifiGAN`."""


def load_hifigan(path: str | Path) -> HifiGAN:
    """Read a generator such as `g_02500000`, with `config.json` in the same folder, where the published code has it.

    Args:
        path: The generator. Only tensors are read from it; nothing in it is executed.

    Returns:
        The network in eval mode without gradients, its weight normalization folded into the weights.

    Raises:
        FileNotFoundError: No such file, or no `config.json` beside it.
        ValueError: One of them holds something else, or they do not belong together.
    """
    path, _ = weights.located(path, "HiFi-GAN generator at {path}; give one of jik876/hifi-gan's, such as g_02500000")
    config = path.with_name("config.json")
    if not config.is_file():
        raise FileNotFoundError(
            f"no {config}: the weights of {path.name} do not say their rate and hop. Put the config.json that was "
            "published with them into the same folder"
        )
    network = _outline(config)
    tensors = {}
    for key, value in _folded(weights.read_published(path, "generator"), path).items():
        name = key
        for pattern, ours in _NAMES:
            name = re.sub(pattern, ours, name)
        tensors[name] = value
    weights.fill_published(network, tensors, path)
    return network.eval().requires_grad_(False)


def _outline(config: Path) -> HifiGAN:
    """The untrained network that a `config.json` describes.

    Raises:
        ValueError: It lacks an entry, or they do not fit together.
    """
    try:
        stated = json.loads(config.read_text("utf-8"))
        arguments: dict[str, Any] = {ours: stated[published] for published, ours in _ARGUMENTS.items()}
        network = HifiGAN(**arguments)
        hop = int(stated["hop_size"])
    except (ValueError, LookupError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{config} describes no HiFi-GAN generator: {type(error).__name__}: {error}; expected the entries "
            f"{', '.join(_ARGUMENTS)} and hop_size"
        ) from None
    if hop != network.definition.hop:
        raise ValueError(f"{config} has a hop_size of {hop}, and upsample_rates that make {network.definition.hop}")
    return network


def _folded(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Weights in place of the directions and lengths of weight normalization: g v / |v|, of each first index.

    Raises:
        ValueError: A length stands alone.
    """
    folded = {}
    for key, value in tensors.items():
        if key.endswith(".weight_v"):
            lengths = value.flatten(1).norm(dim=1).reshape(-1, *[1] * (value.dim() - 1))
            if f"{key[:-1]}g" not in tensors:
                raise ValueError(f"{path.name} holds {key} and no {key[:-1]}g: its weight normalization is not whole")
            folded[key[:-2]] = value * (tensors[f"{key[:-1]}g"] / lengths)
        elif not key.endswith(".weight_g"):
            folded[key] = value
    return folded
