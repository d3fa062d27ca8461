"""MVM, a classifier of words: what is seen on the lips calls up what was heard with it from a memory.

Layer for layer after the published code of Kim, Yeo and Ro, "Distinguishing Homophenes using Multi-head Visual-audio
Memory for Lip Reading", AAAI 2022 (ms-dot-k/Multi-head-Visual-Audio-Memory `src/models`, commit a902f49): gray mouths
of 112x112, 29 frames; a 3-d convolution and a ResNet-18 of pre-normalized ("IR") blocks with PReLU; four multi-scale
temporal convolutions (Martinez et al. 2020, MS-TCN) with a memory before each. TalkLip's accuracy on LRW (ACC) is that
of this network.

A memory has keys for several heads and one set of values. In training the values are written from the audio: they are
addressed by it, and learn to give it back. Keys learn to find by video alone what the audio would have found. Words are
classified along both ways, and with the same weights; in use there is the video's way alone.

No gradient reaches the audio front end in the published code, which cuts them at each memory (`detach`): unless it was
trained elsewhere, the memory keeps random features of the mel spectrogram. It is the same here, and said by
`requires_grad`. What the paper says of it is not known here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.nets.lipresnet import FrontEnd
from lipbench.types import View

FRAMES: Final = 29
"""Frames of a clip of LRW: 1.16 s at 25 frames a second, the word in the middle."""
MELS: Final = 80
"""Bands of the mel spectrogram that the audio front end takes, four columns a frame (`media.features.word_mels`)."""

_LUMA: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow turns RGB to gray
_MEAN: Final = 0.4136
_DEVIATION: Final = 0.17
_BLOCKS: Final = 2  # a stage: ResNet-18
_FRONT_DROPOUT, _MEMORY_DROPOUT = 0.4, 0.5

_PARTS: Final = {  # entry of the published checkpoint -> beginning of its names -> ours
    "v_front_state_dict": {
        "frontend.0.": "front_end.conv.",
        "frontend.1.": "front_end.norm.",
        "frontend.2.": "front_end.rectifier.",
        **{
            f"resnet.layer{stage + 1}.{block}.": f"trunk.{_BLOCKS * stage + block}."
            for stage in range(4)
            for block in range(_BLOCKS)
        },
        "resnet.out_layer.": "embed.",
    },
    "a_front_state_dict": {
        **{f"frontend.{k}.": f"audio.{k}." for k in range(6)},
        "Res_block.0.": "audio.6.",
        "Res_block.1.": "audio.7.",
        "Linear.": "embed_audio.",
    },
    "mem_state_dict": {"": "memories.0."},
    "tcn_state_dict": {
        **{f"tcn.mb_ms_tcn.layer{k + 1}.": f"blocks.{k}." for k in range(4)},
        **{f"tcn.mb_ms_tcn.mem{k}.": f"memories.{k}." for k in range(1, 4)},
        "tcn.tcn_output.": "out.",
    },
}
PUBLISHED: Final = tuple(_PARTS)
"""Entries of the published checkpoint, each a state dict."""
_LAYERS: Final = {  # parts of published names -> ours
    "res_layer": "residual",
    "shortcut_layer": "shortcut",
    "q_embd": "query",
    "v_embd": "address",
    "v_up": "widen",
    "linear": "join",
    "norm1": "norm",
    "norm2": "norm_video",
    "norm3": "norm_audio",
    **{f"cbcr{k}_{branch}": f"stages.{k}.{branch}" for k in (0, 1) for branch in range(3)},
    "batchnorm": "norm",
    "non_lin": "rectifier",
    "downsample": "shortcut",
    "relu_final": "rectifier",
}


class Learned(NamedTuple):
    """What one pass over M clips gives in training."""

    video: Tensor
    """(M, V) scores of the words, memories addressed by video."""
    audio: Tensor
    """(M, V) scores of the words, memories addressed by audio."""
    reconstruction: Tensor
    """() how far the values that audio finds are from it: |1 - cosine|, a sum over frames and a mean over clips."""
    contrast: Tensor
    """() how far the values are from being orthogonal: half of the sum of |cosines - identity|."""


class IRBlock(nn.Module):
    """BatchNorm, 3x3 convolution, BatchNorm, PReLU, 3x3 convolution, BatchNorm; the shortcut is added last.

    Args:
        before: Channels in.
        after: Channels out.
        stride: Of the second convolution.
        project: The shortcut is a 1x1 convolution with BatchNorm; else `stride` is 1 and the channels stay.
    """

    def __init__(self, before: int, after: int, stride: int, project: bool) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.Conv2d(before, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.PReLU(after),
            nn.Conv2d(after, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if project:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, h, w) -> (N, after, h / stride, w / stride), rounded up."""
        return self.shortcut(x) + self.residual(x)  # type: ignore[no-any-return]


class Branch(nn.Module):
    """A dilated convolution over time with BatchNorm and PReLU, of the same length.

    As published, BatchNorm comes before the ends are cut off: its statistics in training are also of those.

    Args:
        before: Channels in.
        after: Channels out.
        kernel: Odd.
        dilation: Frames between two weights.
    """

    def __init__(self, before: int, after: int, kernel: int, dilation: int) -> None:
        super().__init__()
        reach = (kernel - 1) * dilation
        self.conv = nn.Conv1d(before, after, kernel, padding=reach, dilation=dilation)
        self.norm = nn.BatchNorm1d(after)
        self.rectifier = nn.PReLU(after)
        self.ends = reach // 2

    def forward(self, x: Tensor) -> Tensor:
        """(M, before, T) -> (M, after, T)."""
        whole = self.norm(self.conv(x))  # (M, after, T + 2 ends)
        return self.rectifier(whole[..., self.ends : whole.shape[-1] - self.ends])  # type: ignore[no-any-return]


class TemporalBlock(nn.Module):
    """Branches of several kernels side by side, twice, around a shortcut: one layer of MS-TCN.

    Args:
        before: Channels in.
        after: Channels out, evenly divided among the branches.
        kernels: Of the branches.
        dilation: Of all of them.
        dropout: After each of the two.
    """

    def __init__(self, before: int, after: int, kernels: Sequence[int], dilation: int, dropout: float) -> None:
        super().__init__()
        width = after // len(kernels)
        self.stages = nn.ModuleList(
            nn.ModuleList(Branch(into, width, kernel, dilation) for kernel in kernels) for into in (before, after)
        )
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Conv1d(before, after, 1)
        self.rectifier = nn.PReLU(after)

    def forward(self, x: Tensor) -> Tensor:
        """(M, before, T) -> (M, after, T)."""
        inner = x
        for stage in self.stages:
            inner = self.dropout(torch.cat([branch(inner) for branch in cast("nn.ModuleList", stage)], dim=1))
        return self.rectifier(inner + self.shortcut(x))  # type: ignore[no-any-return]


class Memory(nn.Module):
    """Keys of several heads, by which video finds values, and the values, which are written from audio.

    Args:
        width: Of the features of the video, to which what is found is added.
        embedding: Of the audio and of values, a multiple of `heads`.
        slots: Values, and keys of each head.
        heads: Ways in which one feature of the video looks for values.
        radius: Of addresses: cosines times this are the logits of a softmax.
        widen: Bring values to `width`, which else is `embedding`.
    """

    def __init__(self, width: int, embedding: int, slots: int, heads: int, radius: float, widen: bool) -> None:
        super().__init__()
        self.heads, self.slots, self.radius = heads, slots, radius
        self.key = nn.Parameter(0.5 * torch.randn(heads * slots, embedding // heads))
        self.value = nn.Parameter(0.5 * torch.randn(slots, embedding))
        self.query = nn.Linear(width, embedding)
        self.address = nn.Linear(embedding, embedding)
        self.join = nn.Linear(heads * embedding, width)
        self.widen: nn.Module = nn.Linear(embedding, width) if widen else nn.Identity()
        self.norm, self.norm_video, self.norm_audio = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(_MEMORY_DROPOUT)

    def forward(self, x: Tensor, found: Tensor | None = None) -> Tensor:
        """Add to features of the video what the memory holds.

        Args:
            x: (M, T, width).
            found: (M, T, embedding) values that audio has found, by `find`; None lets the video look for them, which
                leaves the values themselves without gradient.

        Returns:
            (M, T, width).
        """
        if found is None:
            query = F.normalize(self.query(x).unflatten(-1, (self.heads, -1)), dim=-1)  # (M, T, heads, E / heads)
            key = F.normalize(self.key.view(self.heads, self.slots, -1), dim=-1)
            cosine = torch.einsum("mthe,hse->mths", query, key)
            values = (self.radius * cosine).softmax(-1) @ self.value.detach()  # (M, T, heads, E)
            held = self.norm_video(self.join(values.flatten(2)))  # (M, T, width)
        else:
            held = self.norm_audio(self.widen(found))
        return self.dropout(self.norm(x + held))  # type: ignore[no-any-return]

    def find(self, heard: Tensor) -> Tensor:
        """Values that features of the audio address, (M, T, embedding) -> the same shape."""
        cosine = F.normalize(self.address(heard), dim=-1) @ F.normalize(self.value, dim=-1).T  # (M, T, slots)
        return (self.radius * cosine).softmax(-1) @ self.value

    def contrast(self) -> Tensor:
        """() half of the sum of |cosines of values - identity|."""
        value = F.normalize(self.value, dim=-1)
        return 0.5 * (torch.eye(self.slots, device=value.device) - value @ value.T).abs().sum()


class MVM(nn.Module):
    """A word a clip.

    60,368,372 parameters as published: 15,388,800 see, 4,102,528 hear, 2,740,736 are the memory of the front end and
    38,136,308 the temporal convolutions with theirs.

    Args:
        size: Pixels a side of the mouth.
        front: Channels of the 3-d convolution.
        widths: Channels of the four stages of the ResNet.
        embedding: Of features of video and audio, a multiple of `heads`.
        audio_widths: Channels of the two convolutions of the audio front end.
        channels: Of the temporal convolutions, a multiple of the number of kernels.
        kernels: Of the branches of each temporal convolution, odd.
        layers: Temporal convolutions, 2 or more, and memories; dilation doubles from each to the next.
        slots: See `Memory`; so are the next two.
        heads: See there.
        radius: See there.
        outputs: Words V.
        dropout: Of the temporal convolutions.
        frames: Of a clip; longer ones are read in their middle.
        flip: Average the scores of a clip and of its mirror image, as the published accuracy is measured.

    Attributes:
        arguments: The above, as plain values.
        view: What it looks at.

    Raises:
        ValueError: A size is not a multiple of what it is divided by, a kernel is even, or there is a single layer.
    """

    def __init__(
        self,
        size: int = 112,
        front: int = 64,
        widths: Sequence[int] = (64, 128, 256, 512),
        embedding: int = 512,
        audio_widths: Sequence[int] = (128, 256),
        channels: int = 768,
        kernels: Sequence[int] = (3, 5, 7),
        layers: int = 4,
        slots: int = 112,
        heads: int = 8,
        radius: float = 16.0,
        outputs: int = 500,
        dropout: float = 0.2,
        frames: int = FRAMES,
        flip: bool = True,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "size": size,
            "front": front,
            "widths": list(widths),
            "embedding": embedding,
            "audio_widths": list(audio_widths),
            "channels": channels,
            "kernels": list(kernels),
            "layers": layers,
            "slots": slots,
            "heads": heads,
            "radius": radius,
            "outputs": outputs,
            "dropout": dropout,
            "frames": frames,
            "flip": flip,
        }
        if embedding % heads or channels % len(kernels) or not all(kernel % 2 for kernel in kernels) or layers < 2:
            raise ValueError(
                f"MVM needs an embedding ({embedding}) that {heads} heads divide, channels ({channels}) that its "
                f"{len(kernels)} kernels divide, odd kernels (found {tuple(kernels)}) and 2 layers or more ({layers})"
            )
        self.view = View("mvm_mouth", size, size)
        self.frames, self.flip = frames, flip

        self.front_end = FrontEnd(front, prelu=True)
        self.front_end.conv.reset_parameters()  # as published: only what follows has Xavier's weights
        before = (front, *widths)
        self.trunk = nn.Sequential(
            *(
                IRBlock(before[stage + (k > 0)], width, 2 if k == 0 and stage > 0 else 1, project=k == 0)
                for stage, width in enumerate(widths)
                for k in range(_BLOCKS)
            )
        )
        side = -(-size // 32)
        self.embed = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.Dropout(_FRONT_DROPOUT),
            nn.Flatten(),
            nn.Linear(widths[-1] * side**2, embedding),
            nn.LayerNorm(embedding),
        )
        for part in (*self.trunk.modules(), *self.embed.modules()):
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        self.trunk.to(memory_format=torch.channels_last)

        first, second = audio_widths
        self.audio = nn.Sequential(
            *(nn.Conv2d(1, first, 3, 2, 1), nn.BatchNorm2d(first), nn.PReLU(first)),
            *(nn.Conv2d(first, second, 3, 2, 1), nn.BatchNorm2d(second), nn.PReLU(second)),
            *(IRBlock(second, second, 1, project=False), nn.BatchNorm2d(second), nn.Dropout(_FRONT_DROPOUT)),
        )
        self.embed_audio = nn.Sequential(nn.Linear(second * MELS // 4, embedding), nn.LayerNorm(embedding))
        self.audio.requires_grad_(False)
        self.embed_audio.requires_grad_(False)

        self.memories = nn.ModuleList(
            Memory(channels if k else embedding, embedding, slots, heads, radius, widen=k > 0) for k in range(layers)
        )
        self.blocks = nn.ModuleList(
            TemporalBlock(channels if k else embedding, channels, kernels, 2**k, dropout) for k in range(layers)
        )
        self.out = nn.Linear(channels, outputs)

    def windows(self, video: Tensor, lengths: Tensor, clip: Tensor, first: Tensor) -> Tensor:
        """Gray clips of `frames` frames out of longer or shorter ones.

        Own choice: before the first frame and after the last one stand these. The published loader puts zeros after the
        last one, which no clip of LRW needs.

        Args:
            video: (B, T, 3, size, size) RGB in [0, 1].
            lengths: (B,) int64, valid frames, at least 1.
            clip: (M,) int64, which of the B.
            first: (M,) int64, its frame with which the window begins; may lie outside.

        Returns:
            (M, frames, size, size), normalized.
        """
        red, green, blue = video.unbind(2)
        gray = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue  # (B, T, size, size), in full precision
        frame = first[:, None] + torch.arange(self.frames, device=first.device)  # (M, frames)
        frame = torch.minimum(frame.clamp(min=0), lengths[clip][:, None] - 1)
        return (gray[clip[:, None], frame] - _MEAN) / _DEVIATION

    def see(self, gray: Tensor) -> Tensor:
        """(M, T, size, size) normalized -> (M, T, embedding)."""
        every = torch.ones(gray.shape[:2], dtype=torch.bool, device=gray.device)
        x = self.front_end(gray.flatten(0, 1)[:, None], every)  # (M T, front, size / 4, size / 4), rounded up
        return self.embed(self.trunk(x)).unflatten(0, gray.shape[:2])  # type: ignore[no-any-return]

    def hear(self, mel: Tensor) -> Tensor:
        """(M, 80, 4 T) -> (M, T, embedding), without gradient; in training, BatchNorm follows the audio."""
        with torch.no_grad():
            x = self.audio(mel[:, None])  # (M, C, 20, T)
            return self.embed_audio(x.flatten(1, 2).transpose(1, 2))  # type: ignore[no-any-return]

    def classify(self, seen: Tensor, found: Sequence[Tensor] | None = None) -> Tensor:
        """Scores of words.

        Args:
            seen: (M, T, embedding) from `see`.
            found: What audio has found in each memory; None lets the video look for it.

        Returns:
            (M, V) float32.
        """
        x = seen
        for k, (memory, block) in enumerate(zip(self.memories, self.blocks, strict=True)):
            x = memory(x, None if found is None else found[k])
            x = block(x.transpose(1, 2)).transpose(1, 2)  # (M, T, channels)
        return self.out(x.mean(1)).float()  # type: ignore[no-any-return]

    def scores(self, gray: Tensor) -> Tensor:
        """(M, T, size, size) from `windows` -> (M, V) float32, by video alone; averaged with the mirror's if `flip`."""
        plain = self.classify(self.see(gray))
        return (plain + self.classify(self.see(gray.flip(-1)))) / 2 if self.flip else plain

    def forward(self, frames: Tensor, length: Tensor) -> Tensor:
        """Scores of the word in the middle of each clip.

        Args:
            frames: (B, T, 3, size, size) RGB in [0, 1].
            length: (B,) int64, valid frames, at least 1.

        Returns:
            (B, V) float32; NaN where a frame that was looked at is not finite.
        """
        clip = torch.arange(len(frames), device=frames.device)
        length = length.to(frames.device)
        return self.scores(self.windows(frames, length, clip, (length - self.frames) // 2))

    def learn(self, gray: Tensor, mel: Tensor) -> Learned:
        """Classify M clips along both ways, and compare the memories with the audio.

        The published sums: the memory of the front end counts once, and the mean of the others twice, since they are
        passed through twice; all of it is divided by three.

        Args:
            gray: (M, T, size, size) from `windows`.
            mel: (M, 80, 4 T).
        """
        seen, heard = self.see(gray), self.hear(mel)  # (M, T, embedding) each
        found = [memory.find(heard) for memory in self.memories]  # type: ignore[operator]
        shares = [1 / 3, *[2 / 3 / (len(found) - 1)] * (len(found) - 1)]
        lost = [(1 - F.cosine_similarity(one, heard, dim=-1)).abs().sum(1).mean() for one in found]
        apart = [memory.contrast() for memory in self.memories]  # type: ignore[operator]
        return Learned(
            self.classify(seen),
            self.classify(seen, found),
            torch.stack([share * value for share, value in zip(shares, lost, strict=True)]).sum(),
            torch.stack([share * value for share, value in zip(shares, apart, strict=True)]).sum(),
        )


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the published checkpoint under the names of `MVM`; names that are not the published ones stay.

    Args:
        tensors: Its state dicts in one, with the entry before each name: "mem_state_dict.key".
    """
    found = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        for prefix, own in _PARTS.get(part, {}).items():
            if rest.startswith(prefix):
                name = own + ".".join(_LAYERS.get(word, word) for word in rest.removeprefix(prefix).split("."))
                break
        found[name] = value
    return found
