"""TransformerT2L (AAAI 2022): text to lips frame after frame, the autoregressive baseline of ParaLip's paper.

From the paper (Liu et al., section 5.1): a transformer with "the same model settings with ParaLip" whose decoder is
autoregressive, takes the last generated frame and finds the text by attention; no durations are given to it. Neither
the paper nor the published code says more; `lipbench.nets.transformert2l` tells what it is made of. Its losses, rates
and discriminator are ParaLip's, without those of durations.

Own choices: teacher forcing, all frames of a clip in parallel, each from the real frame before it and the first from
the identity frame; the stop loss of Tacotron 2, since something must end a clip, with the weight 1; without
`frame_dropout`, as plain teacher forcing has it, training never sees the errors that generation adds up (section 5.1);
all that ParaLip's file names as its own.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lipbench import losses
from lipbench.nets.discriminators import FrameDiscriminator
from lipbench.nets.duallip import choose_frames, frames_before, stop_loss
from lipbench.nets.monotonic import attention_durations
from lipbench.nets.transformert2l import Generator
from lipbench.training.adversarial import AdversarialModel, Adversary
from lipbench.types import ClipBatch, ClipSpec, Generated, Timing, View


class TransformerT2L(AdversarialModel):
    """Text encoder, identity encoder with skips, encoder of the last frame, causal decoder, picture decoder.

    Args:
        size: (height, width) of the mouth view.
        tokens: Size of the vocabulary.
        hidden: Channels of the sequence part and of the vectors of frames.
        layers: Transformer blocks in the text encoder, and as many in the decoder.
        heads: Attention heads.
        ffn: Channels of the feed-forward part.
        kernel: Its convolution kernel.
        dropout: Of the sequence part.
        encoder_widths: Channels of both picture encoders, one number a halving of the picture.
        decoder_widths: Channels of the picture decoder: first map, one a doubling, last map.
        frames: Frames drawn from each clip in training, at random; None draws all. The decoder sees all of them.
        identity: Identity frame in training: a "random" frame of the clip, or its "first", which drives scoring too
            (own choice for small models).
        frame_dropout: Probability with which the frame before is withheld in training and the identity frame stands in
            its place (as in `duallip`), so that the text must be looked at.
        longest: Frames after which generation without a known length ends, whatever the stop prediction says.
        ssim_weight: Of 1 - SSIM (window 11); 0 leaves it out.
        adversarial_weight: Of the LSGAN loss; 0 trains without a discriminator.
        stop_weight: Of the stop prediction's cross-entropy.
        discriminator_width: First width of the discriminator, 32 as published.
        lr: Peak learning rate of the generator (Adam): ParaLip's.
        clip_norm: Largest norm of the gradient of one optimizer: 1 in ParaLip's published code; 0 does not clip.
        options: Those of `AdversarialModel`.
    """

    timings = frozenset({"length", "free"})
    frame_by_frame = True
    paper: ClassVar[str] = "Liu et al., Parallel and High-Fidelity Text-to-Lip Generation, AAAI 2022 (its baseline)"

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
        frames: int | None = None,
        identity: Literal["random", "first"] = "random",
        frame_dropout: float = 0.0,
        longest: int = 400,
        ssim_weight: float = 1.0,
        adversarial_weight: float = 0.0,
        stop_weight: float = 1.0,
        discriminator_width: int = 32,
        lr: float = 1e-3,
        clip_norm: float = 1.0,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(lr=lr, clip_norm=clip_norm, **options)
        if self.adversarial_from and not adversarial_weight:
            raise ValueError("adversarial_from needs an adversarial_weight above 0: without it nothing begins there")
        if longest < 1:
            raise ValueError(f"longest is {longest}; expected a number of frames, 1 or more")
        self.size, self.frames, self.identity = (size[0], size[1]), frames, identity
        self.frame_dropout, self.longest = frame_dropout, longest
        self.loss_weights = {"stop": stop_weight, "ssim": ssim_weight, "adversarial": adversarial_weight}
        self.generator = Generator(
            self.size, tokens, layers, hidden, heads, ffn, kernel, dropout, encoder_widths, decoder_widths
        )
        self.discriminator = FrameDiscriminator(self.size, discriminator_width) if adversarial_weight else None
        if self.discriminator is not None:
            self.adversaries["discriminator"] = Adversary(self.discriminator)
        self.to(memory_format=torch.channels_last)

    @property
    def clip_spec(self) -> ClipSpec:
        """Whole clips of mouths, one identity frame, tokens."""
        return ClipSpec(
            frames={"video": View("mouth", *self.size)},
            identity=self.identity,
            keys=frozenset({"identity", "tokens"}),
        )

    @property
    def needs(self) -> frozenset[str]:
        """Text, the identity frame, and the length where it is known."""
        return frozenset({"tokens", "token_len", "identity", "n_frames"})

    def generator_losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L1, SSIM and stop losses under teacher forcing; the sample is the frames drawn, (M, 3, H, W) each."""
        identity, total = batch["identity"][:, 0], batch["video_len"]
        clips = self.generator.encode(batch["tokens"], batch["token_len"], identity)
        before = frames_before(self.generator.see, identity, batch["video"], total, self.frame_dropout)  # (B, T, H)
        decoded = self.generator(clips, before)
        drawn = choose_frames(total, batch["video"].shape[1], self.frames)  # (B, T)
        clip, place = drawn.nonzero(as_tuple=True)  # (M,) each
        real, counts = batch["video"][clip, place], drawn.sum(dim=1)  # (M, 3, H, W), (B,)
        owner = None if bool((counts == counts[0]).all()) else clip
        made = self.generator.picture_decoder(decoded.motion[clip, place], clips.identity, clips.skips, owner)
        terms = {"l1": losses.l1(made, real), "stop": stop_loss(decoded.stop, total)}
        if self.loss_weights["ssim"]:
            terms["ssim"] = 1 - losses.ssim(made, real).mean()
        return terms, {"real": real, "made": made}

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Frame after frame from text and one identity frame: as many as the clip has, or until the model stops.

        `attention` is that of the head that is most focused in a clip, and `durations` are those of its largest weights
        (own choice, as FastSpeech takes durations from a transformer).
        """
        identity, token_len = batch["identity"][:, 0], batch["token_len"]
        clips = self.generator.encode(batch["tokens"], token_len, identity)
        most = batch["n_frames"] if timing == "length" else torch.full_like(token_len, self.longest)
        video, frames, attention = self.generator.generate(clips, identity, most, stops=timing == "free")
        durations = attention_durations(attention, frames, token_len, monotonic=False)
        return {"video": video, "video_len": frames, "attention": attention, "durations": durations}
