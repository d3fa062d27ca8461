"""ParaLip (AAAI 2022): text to lips in parallel, by durations and a feed-forward transformer.

Sources: the paper, and its published inference code for what the paper leaves open (feed-forward kernel 9, the identity
vector added to the expanded text, no linear layer after the motion decoder, detached duration predictor, targets in
[0, 1] under a tanh). 35,137,201 parameters at 30 tokens and 80x160; the paper's 35.224 M counts 86,352 that its code
never uses.

Own choices: the image decoder and its BatchNorm see valid frames only, never padding; `generate` clamps to [0, 1] (the
published code clips at 0 when saving); the sequence term of the duration loss; all loss weights, which are lost.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lipbench import losses
from lipbench.nets.discriminators import FrameDiscriminator
from lipbench.nets.fastspeech import (
    DurationPredictor,
    MotionDecoder,
    TextEncoder,
    expand,
    fit_durations,
    length_mask,
    predicted_frames,
)
from lipbench.nets.pictures import IdentityEncoder, PictureDecoder
from lipbench.training.adversarial import AdversarialModel, Adversary
from lipbench.types import ClipBatch, ClipSpec, Generated, Timing, View

_FRAMES_AT_ONCE = 256  # pictures drawn together outside training, to bound the memory of large test batches


class ParaLip(AdversarialModel):
    """Text encoder, duration predictor, length regulator, motion decoder, identity encoder with skips, picture decoder.

    Args:
        size: (height, width) of the mouth view.
        tokens: Size of the vocabulary.
        hidden: Channels of the sequence part and of the identity vector.
        layers: Transformer blocks in the text encoder, and as many in the motion decoder.
        heads: Attention heads.
        ffn: Channels of the feed-forward part.
        kernel: Its convolution kernel.
        dropout: Of the sequence part; the duration predictor keeps the published 0.5.
        encoder_widths: Channels of the identity encoder, one number a halving of the picture.
        decoder_widths: Channels of the picture decoder: first map, one a doubling, last map.
        window: Frames drawn at random from each clip in training; None draws all, as in the paper.
        identity: Guide frame in training: a "random" frame of the clip, as in the paper, or its "first", which drives
            scoring too (own choice for small models).
        ssim_weight: Of 1 - SSIM (window 11); 0 leaves it out.
        adversarial_weight: Of the LSGAN loss; 0 trains without a discriminator.
        duration_weight: Of the error of each token's duration.
        sentence_weight: Of the error of each sentence's duration.
        discriminator_width: First width of the discriminator, 32 as published.
        lr: Peak learning rate of the generator (Adam): the paper's. The published code has 7e-4, the schedule
            "inverse_sqrt" with warmup 2000, and betas of (0.9, 0.98).
        clip_norm: Largest norm of the gradient of one optimizer: 1 in the published code; 0 does not clip.
        options: Those of `AdversarialModel`. With `adversarial_from`, the paper's two stages are one fit; with
            `init_from`, the second starts from a checkpoint of the first. The discriminator's rate is constant.
    """

    timings = frozenset({"given", "speech", "length", "free"})
    paper: ClassVar[str] = "Liu et al., Parallel and High-Fidelity Text-to-Lip Generation, AAAI 2022"

    def __init__(
        self,
        size: tuple[int, int] = (80, 160),
        tokens: int = 30,
        hidden: int = 256,
        layers: int = 4,
        heads: int = 2,
        ffn: int = 1024,
        kernel: int = 9,
        dropout: float = 0.2,
        encoder_widths: tuple[int, ...] = (16, 32, 64, 128),
        decoder_widths: tuple[int, ...] = (256, 196, 128, 80, 48, 16),
        window: int | None = None,
        identity: Literal["random", "first"] = "random",
        ssim_weight: float = 1.0,
        adversarial_weight: float = 0.0,
        duration_weight: float = 1.0,
        sentence_weight: float = 1.0,
        discriminator_width: int = 32,
        lr: float = 1e-3,
        clip_norm: float = 1.0,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(lr=lr, clip_norm=clip_norm, **options)
        if self.adversarial_from and not adversarial_weight:
            raise ValueError("adversarial_from needs an adversarial_weight above 0: without it nothing begins there")
        self.size, self.window, self.identity = (size[0], size[1]), window, identity
        self.loss_weights = {
            "duration": duration_weight,
            "duration_sentence": sentence_weight,
            "ssim": ssim_weight,
            "adversarial": adversarial_weight,
        }
        self.text_encoder = TextEncoder(tokens, layers, hidden, heads, ffn, kernel, dropout)
        self.duration_predictor = DurationPredictor(hidden)
        self.motion_decoder = MotionDecoder(layers, hidden, heads, ffn, kernel, dropout)
        self.identity_encoder = IdentityEncoder(self.size, encoder_widths, hidden)
        self.picture_decoder = PictureDecoder(self.size, encoder_widths, decoder_widths, hidden)
        self.discriminator = FrameDiscriminator(self.size, discriminator_width) if adversarial_weight else None
        if self.discriminator is not None:
            self.adversaries["discriminator"] = Adversary(self.discriminator)
        self.to(memory_format=torch.channels_last)

    @property
    def clip_spec(self) -> ClipSpec:
        """Mouths, one identity frame, tokens with durations."""
        return ClipSpec(
            frames={"video": View("mouth", *self.size)},
            window=self.window,
            sampling="consecutive" if self.window is None else "random",
            identity=self.identity,
            keys=frozenset({"identity", "tokens", "durations"}),
        )

    @property
    def needs(self) -> frozenset[str]:
        """Text with its timing, and the identity frame."""
        return frozenset({"tokens", "token_len", "identity", "durations", "speech", "n_frames"})

    def generator_losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L1, duration and SSIM losses on the frames drawn; the sample is those frames, (M, 3, H, W) each."""
        valid = length_mask(batch["token_len"], batch["tokens"].shape[1])  # (B, L)
        text = self.text_encoder(batch["tokens"], valid)  # (B, L, H)
        log_frames = self.duration_predictor(text.detach(), valid)  # (B, L)
        identity, skips = self.identity_encoder(batch["identity"][:, 0])
        motion, _ = self._motion(text, batch["durations"], identity)  # (B, N, H)
        drawn = length_mask(batch["video_len"], batch["video"].shape[1])  # (B, T)
        clip, place = drawn.nonzero(as_tuple=True)  # (M,) each
        real = batch["video"][clip, place]  # (M, 3, H, W)
        owner = None if bool(drawn.all()) else clip
        made = self.picture_decoder(motion[clip, batch["frame"][clip, place]], identity, skips, owner)
        terms = {
            "l1": losses.l1(made, real),
            "duration": losses.duration_token(log_frames, batch["durations"], valid),
            "duration_sentence": losses.duration_sentence(log_frames, batch["durations"], valid),
        }
        if self.loss_weights["ssim"]:
            terms["ssim"] = 1 - losses.ssim(made, real).mean()
        return terms, {"real": real, "made": made}

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """All frames in parallel from text, durations (given or predicted) and one identity frame."""
        valid = length_mask(batch["token_len"], batch["tokens"].shape[1])  # (B, L)
        text = self.text_encoder(batch["tokens"], valid)
        if timing == "given":
            durations = batch["durations"]
        else:
            frames = predicted_frames(self.duration_predictor(text, valid))  # (B, L)
            total = None if timing == "free" else batch["n_frames"]
            durations = fit_durations(frames, valid, total, batch["speech"] if timing == "speech" else None)
        identity, skips = self.identity_encoder(batch["identity"][:, 0])
        motion, there = self._motion(text, durations, identity)  # (B, N, H), (B, N)
        clip, place = there.nonzero(as_tuple=True)  # (M,) each
        video = motion.new_zeros(*there.shape, 3, *self.size, dtype=torch.float32)
        for rows, places in zip(torch.split(clip, _FRAMES_AT_ONCE), torch.split(place, _FRAMES_AT_ONCE), strict=True):
            owner = rows if len(identity) > 1 else None
            made = self.picture_decoder(motion[rows, places], identity, skips, owner)
            video[rows, places] = made.float().clamp(0, 1)
        return {"video": video, "video_len": there.sum(dim=1), "durations": durations}

    def _motion(self, text: Tensor, durations: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, H) text, (B, L) frames, (B, H) identity -> (B, N, H) a vector a frame, (B, N) bool, where."""
        frames, valid = expand(text, durations)
        return self.motion_decoder(frames + identity[:, None], valid), valid
