"""DualLip's lip generators (Chen et al. 2020, sections 3.3.1 and 3.3.2): with durations, and without.

No public implementation exists, and the paper names no sizes. Of its own words are: what is concatenated, what is
recurrent, where the skips come from, the location-sensitive attention, and that the last frame is the next input. The
paper follows Song et al. 2018 for the rest: the image encoder and decoder here are those of `lipbench.nets.pictures`
(ParaLip's, which follow the same code; with BatchNorm), the RNN is a GRU of 1,024 units, image and text features have
512 channels. Own choices: the text encoder of Tacotron 2, from where the attention comes, too; two GRU cells in place
of its LSTM cells; what Tacotron 2 calls pre-net, between the last frame's features and the recurrence.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.nets.fastspeech import expand, length_mask
from lipbench.nets.location_attention import LocationAttention, Weights
from lipbench.nets.pictures import IdentityEncoder, PictureDecoder
from lipbench.nets.text_encoder import ConvTextEncoder


class LipSizes(NamedTuple):
    """Sizes of a lip generator."""

    size: tuple[int, int]
    """(height, width) of the frames."""
    tokens: int
    """Of the vocabulary; id 0 is padding."""
    embedding: int
    """Channels of a token."""
    hidden: int
    """Channels H of text and image features."""
    rnn: int
    """Units R of the recurrence."""
    encoder_widths: Sequence[int]
    """Channels of the image encoder, one number a halving of the picture."""
    decoder_widths: Sequence[int]
    """Channels of the image decoder: first map, one a doubling, last map."""
    dropout: float
    """Of the text encoder."""


class _LipGenerator(nn.Module):
    """What both generators have. `decoder(states, None, skips, clip)` draws frames of (M, R) states."""

    def __init__(self, sizes: LipSizes) -> None:
        super().__init__()
        self.text_encoder = ConvTextEncoder(sizes.tokens, sizes.embedding, sizes.hidden, dropout=sizes.dropout)
        self.image_encoder = IdentityEncoder(sizes.size, sizes.encoder_widths, sizes.hidden)
        self.decoder = PictureDecoder(
            sizes.size, sizes.encoder_widths, sizes.decoder_widths, sizes.rnn, with_identity=False
        )


class DurationLipGenerator(_LipGenerator):
    """Lip generation with duration: tokens are repeated for their frames (Figure 3a)."""

    def __init__(self, sizes: LipSizes) -> None:
        super().__init__(sizes)
        self.rnn = nn.GRU(2 * sizes.hidden, sizes.rnn, batch_first=True)

    def forward(self, tokens: Tensor, durations: Tensor, guide: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What is drawn in every frame.

        Args:
            tokens: (B, L) int64.
            durations: (B, L) int64 frames, 0 for padding.
            guide: (B, 3, height, width) in [0, 1].

        Returns:
            (B, N, R) states of the recurrence, N the longest clip; (B, N) bool, which are valid; the guide's skips.
        """
        unrolled, valid = expand(tokens[..., None], durations)  # (B, N, 1)
        text = self.text_encoder(unrolled[..., 0], valid.sum(dim=1))  # (B, N, H)
        image, skips = self.image_encoder(guide)
        hybrid = torch.cat([image[:, None].expand(-1, text.shape[1], -1), text], dim=2)  # (B, N, 2 H)
        return self.rnn(hybrid)[0], valid, skips


FRAMES_BETWEEN_CHECKS: Final = {"cpu": 1}
"""Frames made before it is asked again whether all clips have stopped, by device; elsewhere 8, since to ask is to wait
until an accelerator has done all it was given."""


class Text(NamedTuple):
    """An encoded text and its guide image: what no step changes."""

    memory: Tensor
    """(B, L, H)."""
    keys: Tensor
    """(B, L, A) of the attention."""
    valid: Tensor
    """(B, L) bool."""
    image: Tensor
    """(B, H) of the guide image."""
    skips: list[Tensor]


class State(NamedTuple):
    """Of the recurrence after a frame."""

    attention: Tensor
    """(B, R) of the GRU that asks."""
    decoder: Tensor
    """(B, R) of the GRU that answers: what is drawn."""
    context: Tensor
    """(B, H) of the text."""
    weights: Weights


class Unrolled(NamedTuple):
    """What a whole clip gives under teacher forcing."""

    states: Tensor
    """(B, N, R)."""
    stop: Tensor
    """(B, N) logits that a frame is the last."""
    attention: Tensor
    """(B, N, L) weights."""


class AttentionLipGenerator(_LipGenerator):
    """Lip generation without duration: attention over the text, frame by frame (Figure 3b).

    Args:
        sizes: Of what both generators have.
        prenet: Channels P of the two layers through which the last frame's features pass, each with a dropout of 0.5.
        attention: Channels of the attention.
        filters: Of the attention's convolution.
        kernel: Of the attention's convolution, odd.
    """

    def __init__(
        self, sizes: LipSizes, prenet: int = 256, attention: int = 128, filters: int = 32, kernel: int = 31
    ) -> None:
        super().__init__(sizes)
        hidden, rnn = sizes.hidden, sizes.rnn
        self.prenet = nn.Sequential(
            nn.Linear(hidden, prenet), nn.ReLU(), nn.Dropout(0.5), nn.Linear(prenet, prenet), nn.ReLU(), nn.Dropout(0.5)
        )
        self.attention_rnn = nn.GRUCell(prenet + hidden, rnn)
        self.attention = LocationAttention(rnn, hidden, attention, filters, kernel)
        self.decoder_rnn = nn.GRUCell(rnn + 2 * hidden, rnn)
        self.stop = nn.Linear(rnn + hidden, 1)

    def encode(self, tokens: Tensor, token_len: Tensor, guide: Tensor) -> Text:
        """(B, L) int64, (B,) int64, (B, 3, height, width) in [0, 1] -> what all steps share."""
        memory = self.text_encoder(tokens, token_len)
        image, skips = self.image_encoder(guide)
        return Text(memory, self.attention.memory(memory), length_mask(token_len, tokens.shape[1]), image, skips)

    def start(self, text: Text) -> State:
        """Zeros, before the first frame."""
        zeros = text.memory.new_zeros(len(text.memory), self.decoder_rnn.hidden_size)
        return State(zeros, zeros, torch.zeros_like(text.image), self.attention.start(text.memory))

    def step(self, text: Text, last: Tensor, state: State) -> tuple[State, Tensor]:
        """Go on by a frame.

        Args:
            text: What all steps share.
            last: (B, P) of the frame before, out of the pre-net.
            state: After the frame before.

        Returns:
            The state, and (B,) logits that this frame is the last.
        """
        query = self.attention_rnn(torch.cat([last, state.context], dim=1), state.attention)  # (B, R)
        context, weights = self.attention(query, text.memory, text.keys, text.valid, state.weights)
        drawn = self.decoder_rnn(torch.cat([query, context, text.image], dim=1), state.decoder)  # (B, R)
        stop = self.stop(torch.cat([drawn, context], dim=1))[:, 0]
        return State(query, drawn, context, weights), stop

    def seen(self, frames: Tensor) -> Tensor:
        """What the recurrence takes of frames: (M, 3, height, width) in [0, 1] -> (M, P)."""
        return self.prenet(self.image_encoder(frames)[0])  # type: ignore[no-any-return]

    def forward(self, text: Text, last: Tensor) -> Unrolled:
        """All frames of clips whose frames are known.

        Args:
            text: What all steps share.
            last: (B, N, P) of the frame before each frame, out of the pre-net.
        """
        state, steps = self.start(text), []
        for before in last.unbind(1):
            state, stop = self.step(text, before, state)
            steps.append((state.decoder, stop, state.weights.last))
        states, stops, attention = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))
        return Unrolled(states, stops, attention)

    def generate(self, text: Text, guide: Tensor, most: Tensor, *, stops: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Frame after frame, each from the one before; the first from the guide image.

        Args:
            text: What all steps share.
            guide: (B, 3, height, width) in [0, 1].
            most: (B,) int64 frames to make at most.
            stops: Whether a clip ends before with a frame whose stop probability is above a half.

        Returns:
            (B, N, 3, height, width) in [0, 1], zero after each clip; (B,) int64 frames; (B, N, L) weights, zero there.
        """
        state, last, shared = self.start(text), self.seen(guide), list(self.decoder.of_clips(None, text.skips))
        ended, frames = most < 1, torch.zeros_like(most)
        video, attention = [], []
        every = FRAMES_BETWEEN_CHECKS.get(most.device.type, 8)
        for place in range(int(most.max())):
            if stops and place % every == 0 and bool(ended.all()):
                break
            state, stop = self.step(text, last, state)
            drawn = self.decoder.draw(state.decoder, shared, None).float().clamp(0, 1)  # (B, 3, height, width)
            going = ~ended
            video.append(drawn * going[:, None, None, None])
            attention.append(state.weights.last * going[:, None])
            frames = frames + going
            ended = ended | (frames >= most) | ((stop > 0) if stops else torch.zeros_like(ended))
            last = self.seen(drawn)
        count = int(frames.max())
        return torch.stack(video[:count], dim=1), frames, torch.stack(attention[:count], dim=1)


def choose_frames(frames: Tensor, most: int, count: int | None) -> Tensor:
    """Which frames of whole clips are drawn in training: all that are valid, or some of each clip, at random.

    Args:
        frames: (B,) int64 valid frames.
        most: Frames T of the padded clips.
        count: How many of each clip, or as many as it has; None takes all.

    Returns:
        (B, T) bool.
    """
    valid = length_mask(frames, most)
    if count is None:
        return valid
    order = torch.rand(valid.shape, device=valid.device).masked_fill(~valid, 2.0).argsort(dim=1)
    chosen = torch.zeros_like(valid).scatter_(1, order[:, :count], True)
    return chosen & valid


def frames_before(
    see: Callable[[Tensor], Tensor], guide: Tensor, video: Tensor, frames: Tensor, dropout: float
) -> Tensor:
    """Teacher forcing: what a generator takes of the frame before each frame; of the guide image before the first.

    Args:
        see: What it takes of frames, (M, 3, height, width) -> (M, P). It is called once, with valid frames only.
        guide: (B, 3, height, width) in [0, 1].
        video: (B, T, 3, height, width) in [0, 1].
        frames: (B,) int64 valid frames.
        dropout: Probability with which a frame is withheld and the guide image stands in its place.

    Returns:
        (B, T, P); after a clip's last frame, of the guide image.
    """
    known = length_mask(frames - 1, video.shape[1] - 1)  # (B, T - 1), frames that another follows
    known &= torch.rand(known.shape, device=known.device) >= dropout
    seen = see(torch.cat([guide, video[:, :-1][known]]))  # (B + K, P)
    clips = len(guide)
    before = seen[:clips, None].repeat(1, video.shape[1], 1)  # (B, T, P)
    clip, place = known.nonzero(as_tuple=True)
    return before.index_put((clip, place + 1), seen[clips:])


def stop_loss(stop: Tensor, frames: Tensor) -> Tensor:
    """Binary cross-entropy of stop logits: 1 in a clip's last frame, 0 before (Tacotron 2).

    Args:
        stop: (B, N) logits.
        frames: (B,) int64 valid frames.
    """
    valid = length_mask(frames, stop.shape[1])
    target = F.one_hot(frames - 1, stop.shape[1]).to(stop.dtype)  # (B, N)
    return F.binary_cross_entropy_with_logits(stop[valid], target[valid])


def guided_attention_loss(attention: Tensor, frames: Tensor, tokens: Tensor, spread: float = 0.3) -> Tensor:
    """Weight that lies far from the diagonal (Tachibana et al. 2018, equation 7; an own addition to DualLip).

    Args:
        attention: (B, N, L) weights.
        frames: (B,) int64 valid frames.
        tokens: (B,) int64 valid tokens.
        spread: Share of the clip by which an alignment may leave the diagonal; the source has 0.2, for speech without
            the silence that begins and ends clips here.

    Returns:
        Scalar in [0, 1): the mean over valid frames of the weight, times 1 - exp(-d^2 / (2 spread^2)), where d is the
        distance from the diagonal as a share of the clip.
    """
    places = torch.arange(attention.shape[1], device=attention.device)[None, :, None] / frames[:, None, None]
    ids = torch.arange(attention.shape[2], device=attention.device)[None, None] / tokens[:, None, None]
    far = 1 - torch.exp(-((places - ids) ** 2) / (2 * spread**2))  # (B, N, L)
    valid = length_mask(frames, attention.shape[1])  # (B, N)
    return (attention * far).sum(dim=2)[valid].mean()
