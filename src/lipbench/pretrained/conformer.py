"""Published Conformer lip readers: TalkLip's second observer and those of Auto-AVSR's model zoo.

Names and shapes of their tensors were read from the published source (see `lipbench.nets.conformer`), and beside the
authors' modules with the same random weights the outputs are equal; unverified: no published file has passed through
here yet.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from lipbench.nets.conformer import Conformer, Layout
from lipbench.pretrained import weights
from lipbench.types import View

_CHARACTERS: Final = " ETOAINSHRLDUYWGCMFBP'VKJXQZ0192856734"
TALKLIP_SYMBOLS: Final = ("<blank>", *_CHARACTERS, "<eos>")
"""Symbols of TalkLip's reader in their order (deep_avsr's characters; `evaluation/teacher_force_wer.py`)."""

_SHARED: Final = (
    (r"^encoder\.encoders\.", "encoder.blocks."),
    (r"^decoder\.decoders\.", "decoder.blocks."),
    (r"^encoder\.after_norm\.", "encoder.norm."),
    (r"^decoder\.after_norm\.", "decoder.norm."),
    (r"^decoder\.embed\.0\.", "decoder.embedding."),
    (r"^decoder\.output_layer\.", "decoder.output."),
    (r"^ctc\.ctc_lo\.", "ctc.1."),
    (r"(encoder\.blocks\.\d+)\.self_attn\.", r"\1.attention."),
    (r"(decoder\.blocks\.\d+)\.self_attn\.", r"\1.self_attention."),
    (r"\.src_attn\.", ".memory_attention."),
    (r"\.linear_q\.", ".query."),
    (r"\.linear_k\.", ".key."),
    (r"\.linear_v\.", ".value."),
    (r"\.linear_out\.", ".out."),
    (r"\.linear_pos\.", ".position."),
    (r"\.pos_bias_u$", ".content_bias"),
    (r"\.pos_bias_v$", ".position_bias"),
    (r"\.norm_mha\.", ".attention_norm."),
    (r"\.norm_ff_macaron\.", ".first.0."),
    (r"\.feed_forward_macaron\.w_1\.", ".first.1."),
    (r"\.feed_forward_macaron\.w_2\.", ".first.4."),
    (r"\.norm_ff\.", ".second.0."),
    (r"(encoder\..*)\.feed_forward\.w_1\.", r"\1.second.1."),
    (r"(encoder\..*)\.feed_forward\.w_2\.", r"\1.second.4."),
    (r"(decoder\..*)\.feed_forward\.w_1\.", r"\1.ffn.0."),
    (r"(decoder\..*)\.feed_forward\.w_2\.", r"\1.ffn.3."),
    (r"\.norm_conv\.", ".convolution.layer_norm."),
    (r"\.conv_module\.pointwise_con?v1\.", ".convolution.gated."),
    (r"\.conv_module\.pointwise_con?v2\.", ".convolution.out."),
    (r"\.conv_module\.depthwise_conv\.", ".convolution.depthwise."),
    (r"\.conv_module\.norm\.", ".convolution.norm."),
    (r"\.norm_final\.", ".norm."),
    (r"(decoder\.blocks\.\d+)\.norm1\.", r"\1.self_norm."),
    (r"(decoder\.blocks\.\d+)\.norm2\.", r"\1.memory_norm."),
    (r"(decoder\.blocks\.\d+)\.norm3\.", r"\1.ffn_norm."),
)
"""Pattern in a published name -> what stands there in ours, one after the other."""
_FRONT_ENDS: Final[dict[Layout, tuple[tuple[str, str], ...]]] = {
    "talklip": (
        (r"^visual_frontend\.frontend3D\.0\.", "front_end.conv."),
        (r"^visual_frontend\.frontend3D\.1\.", "front_end.norm."),
        *((rf"^visual_frontend\.resnet\.layer{k}\.", f"front_end.trunk.{k - 1}.") for k in range(1, 5)),
        *((rf"\.{name}\.", f".convs.{k}.") for k, name in enumerate(("conv1a", "conv2a", "conv1b", "conv2b"))),
        *((rf"\.{name}\.", f".norms.{k}.") for k, name in enumerate(("bn1a", "outbna", "bn1b", "outbnb"))),
        (r"\.downsample\.", ".shortcut."),
        (r"^encoder\.embed\.", "encoder.project."),
    ),
    "auto_avsr": (
        (r"^frontend\.frontend3D\.0\.", "front_end.conv."),
        (r"^frontend\.frontend3D\.1\.", "front_end.norm."),
        *(
            (rf"^frontend\.trunk\.layer{stage}\.{block}\.", f"front_end.trunk.{2 * stage - 2 + block}.")
            for stage in range(1, 5)
            for block in (0, 1)
        ),
        (r"(front_end\.trunk\.\d+)\.bn(\d)\.", r"\1.norm\2."),
        (r"\.downsample\.", ".shortcut."),
        (r"^proj_encoder\.", "encoder.project.0."),
    ),
}


VIEWS: Final[dict[Layout, View]] = {
    "talklip": View("lrs2_mouth", 112, 112),
    "auto_avsr": View("avhubert_mouth", 96, 96),
}
"""What the published readers look at."""


def load_conformer(path: str | Path, layout: Layout) -> Conformer:
    """Read `vsr_*.pth` of Auto-AVSR's model zoo, or TalkLip's "lip reading observer 2", of any size.

    Args:
        path: The file. Only tensors are read from it; nothing in it is executed.
        layout: Whose it is.

    Returns:
        The network in eval mode without gradients; it searches as published by Auto-AVSR.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It holds something else, such as the other's reader.
    """
    path, _ = weights.located(path, "Conformer weights at {path}; give a file of Auto-AVSR's model zoo or TalkLip's")
    network = from_published(weights.read_published(path), path)
    found = network.arguments["layout"]
    if found != layout:
        raise ValueError(f"{path.name} holds a Conformer of the layout {found!r}, where {layout!r} is wanted")
    return network.eval().requires_grad_(False)


def from_published(tensors: Mapping[str, Tensor], path: Path) -> Conformer:
    """The network of a published state dict, in training mode.

    Args:
        tensors: Under the published names.
        path: Where they were read, for the message.

    Raises:
        ValueError: Names or shapes are not the published ones.
    """
    layout: Layout = "talklip" if any(key.startswith("visual_frontend.") for key in tensors) else "auto_avsr"
    own = {}
    for key, value in tensors.items():
        if key.startswith("visual_frontend.resnet.layer1.downsample."):  # published, and never used
            continue
        name = key
        for pattern, ours in (*_FRONT_ENDS[layout], *_SHARED):
            name = re.sub(pattern, ours, name)
        own[name] = value[:, :, 0] if ".pointwise_" in key and value.dim() == 3 else value
    network = Conformer(layout, **_sizes(own, layout, path))
    weights.fill_published(network, own, path)
    return network


def _sizes(tensors: Mapping[str, Tensor], layout: Layout, path: Path) -> dict[str, Any]:
    """Arguments of `Conformer`, from tensors under its names.

    Raises:
        ValueError: One of those that tell the sizes is missing.
    """
    places = range(4) if layout == "talklip" else range(1, 8, 2)
    last = "convs.3" if layout == "talklip" else "conv2"
    try:
        outputs, width = tensors["ctc.1.weight"].shape
        return {
            "front": len(tensors["front_end.conv.weight"]),
            "widths": [len(tensors[f"front_end.trunk.{k}.{last}.weight"]) for k in places],
            "width": width,
            "layers": _count(tensors, "encoder"),
            "heads": len(tensors["encoder.blocks.0.attention.content_bias"]),
            "ffn": len(tensors["encoder.blocks.0.second.1.weight"]),
            "kernel": tensors["encoder.blocks.0.convolution.depthwise.weight"].shape[2],
            "decoder_layers": _count(tensors, "decoder"),
            "outputs": outputs,
            "end": outputs - 1,
            "margin": 0 if layout == "talklip" else 4,
        }
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"{path.name} is no published Conformer: it holds {next(iter(tensors))}, and what tells its sizes is "
            f"missing or of another shape ({error})"
        ) from None


def _count(tensors: Mapping[str, Tensor], part: str) -> int:
    """Blocks of the encoder or the decoder."""
    return len({key.split(".")[2] for key in tensors if key.startswith(f"{part}.blocks.")})
