"""TalkLip's generator ("Seeing What You Said", CVPR 2023): Wav2Lip's face encoder and decoder, driven by an embedding.

Layer for layer after the published code (Sxjdwang/TalkLip `models/talklip.py`) and the paper's Tables 3 to 5. Misprints
of the paper: Table 5 has a 1x1 kernel with padding 1 at 96x96, where 3x3 is meant; of the discriminator, Table 6 has
padding 1 in row 2, where 2 is meant, and 5x5 kernels in both layers at 6x6 (20,405,249 parameters), where the code has
3x3 (14,113,793): that of Wav2Lip, `lipbench.nets.discriminators.FrameDiscriminator`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.nets.wav2lip import FaceDecoder, FaceEncoder, ToRGB


class Generator(nn.Module):
    """A masked face, another face of the same person and an audio embedding -> the face that says it.

    34,469,683 parameters as published, of which the linear layer of the contrastive loss has 590,592.

    Args:
        audio_width: Channels of the audio embedding, 768 of AV-HuBERT base. None: the embedding is that of a local
            encoder (`lipbench.nets.wav2lip.AudioEncoder`), of `hidden` channels, which goes to the decoder as it is.
        context_width: Channels of the lip reader's context features that the audio embedding is contrasted with.
        size: See `lipbench.nets.wav2lip.Generator`; so are the next five.
        widths: See there.
        residuals: See there.
        decoder_widths: See there.
        decoder_residuals: See there.
        hidden: See there.
    """

    def __init__(
        self,
        audio_width: int | None = 768,
        context_width: int = 768,
        size: int = 96,
        widths: Sequence[int] = (16, 32, 64, 128, 256, 512),
        residuals: Sequence[int] = (2, 3, 2, 2, 1),
        decoder_widths: Sequence[int] = (512, 512, 384, 256, 128, 64),
        decoder_residuals: int = 2,
        hidden: int = 512,
    ) -> None:
        super().__init__()
        self.face = FaceEncoder(size, widths, residuals, hidden)
        self.audio: nn.Module = nn.Identity() if audio_width is None else nn.Linear(audio_width, hidden)
        self.decoder = FaceDecoder(size, decoder_widths, decoder_residuals, widths, hidden)
        self.to_rgb = ToRGB(decoder_widths[-1], widths[0])
        self.contrast = nn.Linear(audio_width or hidden, context_width)

    def forward(self, identity: Tensor, pose: Tensor, audio: Tensor) -> Tensor:
        """Generate faces; in training, BatchNorm sees exactly the frames given.

        Args:
            identity: (M, 3, size, size) in [0, 1], the reference: any frame of the person.
            pose: (M, 3, size, size), the frame to be made, its lower half 0.
            audio: (M, audio_width) embedding of the audio at that frame.

        Returns:
            (M, 3, size, size) float32 in (0, 1).
        """
        maps = self.face(identity, pose)
        made: Tensor = self.to_rgb(self.decoder(self.audio(audio)[..., None, None], maps))
        return made

    def contrasted(self, audio: Tensor) -> Tensor:
        """(M, audio_width) audio embeddings -> (M, context_width) of length 1, for the contrastive loss.

        Normalized before and after the linear layer, as the paper says; the context features of the lip reader are only
        normalized in the code, where the paper passes both through the layer.
        """
        return F.normalize(self.contrast(F.normalize(audio.float(), dim=1)).float(), dim=1)


def draw_runs(frames: int, share: float, run: int) -> Tensor:
    """Frames of a clip that TalkLip generates in training: starts drawn at random, each with the frames after it.

    As the published code draws: a share of all frames, at least one, starts between the second frame and the last that
    has a whole run after it; a start less than `run` frames after the one before is left out, so that runs do not
    overlap. Own choice: a clip that is too short for one such start is one run as a whole.

    Args:
        frames: Of the clip.
        share: p of the paper (section 3.5): starts of all frames.
        run: M of the paper: frames in a row.

    Returns:
        (n,) int64 in order.
    """
    places = frames - run  # starts 1 .. frames - run
    if places < 1:
        return torch.arange(frames)
    drawn = (torch.randperm(places)[: max(1, int(frames * share))] + 1).sort().values.tolist()
    starts: list[int] = []
    for start in drawn:
        if not starts or start - starts[-1] >= run:
            starts.append(start)
    return (torch.tensor(starts)[:, None] + torch.arange(run)).flatten()


def draw_other_runs(places: Tensor, frames: int, run: int) -> Tensor:
    """Identity frames for the frames of `draw_runs`: for each run another one anywhere in the clip.

    As the published code draws: it starts elsewhere, and may overlap with it. A clip of a single run is its own.

    Args:
        places: (n,) as `draw_runs` gives them.
        frames: Of the clip.
        run: See there.

    Returns:
        (n,) int64.
    """
    count = frames - run + 1  # starts 0 .. frames - run
    if count < 2 or len(places) % run:
        return places
    starts = places[::run]
    other = torch.randint(count - 1, starts.shape)
    other += other >= starts  # every start but its own
    return (other[:, None] + torch.arange(run)).flatten()


def draw_negatives(count: int, most: int = 100) -> Tensor:
    """Other rows that each of `count` embeddings is contrasted with: half of all, at most 100, never itself.

    The number is the published code's; they are drawn without replacement.

    Returns:
        (count, n) int64.
    """
    number = min(most, count // 2, count - 1)
    order = torch.rand(count, count).fill_diagonal_(2.0).argsort(dim=1)  # itself comes last
    return order[:, :number]
