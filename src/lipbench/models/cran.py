"""Conditional recurrent adversarial network (IJCAI 2019): an identity image and audio make a face, frame after frame.

Sources: Song, Zhu, Li, Wang and Qi, "Talking Face Generation by Conditional Recurrent Adversarial Network", of which
only the abstract was at hand, and its published code (susanqq/Talking_Face_Generation at commit 6ea80c4: `train.py`,
`loss.py`, `dataloader.py`, the run scripts; `facts/systems.md` 7.2). DualLip's Table 3 has it as "speech to face"
(Chen et al., "DualLip: A System for Joint Lip Reading and Generation", section 5.2.1).

From the code: the networks (`lipbench.nets.cran`); MFCC of 12 coefficients and 35 columns around a frame; L1 on pixels
in [-1, 1], binary cross-entropy of a frame discriminator (weight .002) and of a discriminator of 20 frames in a row
(.01), and what a lip reader of 11 frames makes of the mouth (.001), with these parts added to a model that L1 has
trained (`adversarial_from`); Adam 2e-4 for the generator and 1e-3 for each discriminator, betas (.5, .999); clips of up
to 100 frames; 4 clips a batch on TCD-TIMIT, up to 48 on LRW. The lip reader learns the word of real clips by
cross-entropy, and to give the score 1 / words to every word of generated ones (squared error of scores, not of
probabilities); the generator learns to have its words read.

The image that a step looks at: `train.py` uses `model_G.py`, which looks at the identity image in every step
(`recurrent_image` "identity"). `model_G_seq.py`, which no script uses, looks at its previous frame in half of the
training steps and in all those of generation (`recurrent_image` "previous"). Neither sees real frames other than the
identity image.

From DualLip: "similar to the text to lip model w/ duration, except the input", so the guide image in every step and L1
alone; 80 mel bands, 350 ms, a hop of 12.5 ms, windows of 50 ms (`front_end` "mel"). How many columns these are (28),
their scale (Wav2Lip's) and the layers over them are own choices.

Own choices: windows of audio centered on their frames (the code's preparation is not published); the face view of the
canonical frame; the mouth is a square of 5/16 of the face, placed in the template as the code places it by landmarks on
TCD-TIMIT; the lip reader starts from random weights, where the code's was trained beforehand, and its word is the
clip's, so `lip_weight` is 0 by default; frames after the end of a clip take no part in anything, and where a clip is
too short for a discriminator its last frame is repeated.
"""

from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lipbench import losses
from lipbench.media import features, geometry
from lipbench.nets.cran import (
    AUDIO_SHAPES,
    MOUTH_SIDE,
    FrontEnd,
    Generator,
    Memory,
    PatchDiscriminator,
    VideoDiscriminator,
    WordDiscriminator,
)
from lipbench.nets.fastspeech import length_mask
from lipbench.training.adversarial import AdversarialModel, Adversary, CrossEntropy, Sample, frames, keys
from lipbench.training.generative import frames_heard
from lipbench.training.speech_to_face import frames_in_pieces
from lipbench.training.vocabulary import stored_words, words_of_clips
from lipbench.types import ClipBatch, ClipSpec, Generated, Timing, View

_FRAMES_AT_ONCE: Final = 64  # made together outside of training, to bound the memory of long clips
_CORNERS: Final = (48, 54)  # landmarks: corners of the mouth
_ABOVE: Final = 0.6  # share of the mouth's square that lies above them


class CRAN(AdversarialModel):
    """Image encoder, audio encoder, a GRU over time, a decoder with skips; up to three discriminators.

    Args:
        size: Pixels a side of the face view, a multiple of 16 and at least 32; 128 as published.
        front_end: What is heard of the 350 ms around a frame: "mfcc" (12 x 35, as published) or "mel" (80 x 28, as
            DualLip).
        widths: See `lipbench.nets.cran.Generator`; so are the next four.
        decoder_widths: See there.
        audio_widths: See there.
        embedding: See there.
        hidden: See there.
        recurrent_image: What a step looks at: the "identity" image, as the training script and DualLip have it, or the
            "previous" frame.
        identity_share: With "previous", the probability that a training step looks at the identity image all the same,
            .5 as published. Generation looks at it in the first step alone.
        window: Most frames in a row drawn from each clip in training, 100 as published; None takes whole clips.
        identity: Identity image in training: a "random" frame of the clip, as in DualLip, or its "first", as the code's
            list of LRW's clips has it; it drives scoring.
        frame_weight: Of the frame discriminator's loss, .002 as published; 0 trains without it, as DualLip does.
        video_weight: Of the video discriminator's loss, .01 as published; 0 trains without it.
        lip_weight: Of the lip reader's loss, .001 as published, for clips that say one word; 0 trains without it.
        video_frames: Frames in a row that the video discriminator sees, at least 9: 20 as published, 11 on LRW.
        lip_frames: Frames in a row that the lip reader sees, 11 as published.
        frame_widths: See `lipbench.nets.cran.PatchDiscriminator`.
        video_widths: See `lipbench.nets.cran.VideoDiscriminator`.
        lip_widths: See `lipbench.nets.cran.WordDiscriminator`; so are the next two.
        lip_hidden: See there.
        outputs: See there; as many as the training clips have words.
        words: Where the word of a clip stands: its "text", or the name of its folder ("folders"), as in LRW, where the
            corpus `folder` takes that name for the speaker's.
        lr: Peak learning rate of the generator (Adam).
        discriminator_lr: That of the discriminators (Adam).
        betas: Of all.
        options: Those of `AdversarialModel`.

    Raises:
        ValueError: Sizes that do not fit, or `adversarial_from` without discriminators.
    """

    paper: ClassVar[str] = (
        "Song et al., Talking Face Generation by Conditional Recurrent Adversarial Network, IJCAI 2019"
    )
    timings = frozenset({"given", "free"})
    context = None  # recurrent over time
    frame_by_frame = True
    optional_init_prefixes: ClassVar[tuple[str, ...]] = (
        "frame_discriminator.",
        "video_discriminator.",
        "lip_discriminator.",
    )

    def __init__(
        self,
        size: int = 128,
        front_end: FrontEnd = "mfcc",
        widths: tuple[int, ...] = (16, 32, 64, 128),
        decoder_widths: tuple[int, ...] = (256, 196, 128, 80, 48, 16),
        audio_widths: tuple[int, ...] = (16, 32, 64, 128, 256),
        embedding: int = 512,
        hidden: int = 1024,
        recurrent_image: Literal["identity", "previous"] = "identity",
        identity_share: float = 0.5,
        window: int | None = 100,
        identity: Literal["random", "first"] = "random",
        frame_weight: float = 0.002,
        video_weight: float = 0.01,
        lip_weight: float = 0.0,
        video_frames: int = 20,
        lip_frames: int = 11,
        frame_widths: tuple[int, ...] = (16, 32, 64, 128),
        video_widths: tuple[int, ...] = (64, 128, 256),
        lip_widths: tuple[int, int, int] = (16, 32, 64),
        lip_hidden: int = 512,
        outputs: int = 500,
        words: Literal["text", "folders"] = "text",
        lr: float = 2e-4,
        discriminator_lr: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(lr=lr, discriminator_lr=discriminator_lr, betas=betas, **options)
        if video_frames < VideoDiscriminator.FRAMES:
            raise ValueError(
                f"video_frames is {video_frames}; the video discriminator needs {VideoDiscriminator.FRAMES} or more"
            )
        if not 0 <= identity_share <= 1:
            raise ValueError(f"identity_share is {identity_share}; expected a probability, 0 to 1")
        self.size, self.front_end, self.embedding = size, front_end, embedding
        self.recurrent_image, self.identity_share = recurrent_image, identity_share
        self.window, self.identity = window, identity
        self.video_frames, self.lip_frames = video_frames, lip_frames
        self.outputs, self.words = outputs, words
        self._vocabulary: tuple[str, ...] = ()
        self.loss_weights = {"frame": frame_weight, "video": video_weight, "lip": lip_weight}
        self.generator = Generator(size, front_end, widths, decoder_widths, audio_widths, embedding, hidden)
        self.generator.to(memory_format=torch.channels_last)
        self.frame_discriminator = PatchDiscriminator(frame_widths) if frame_weight else None
        self.video_discriminator = VideoDiscriminator(video_widths) if video_weight else None
        side = round(MOUTH_SIDE * size)
        self.lip_discriminator = WordDiscriminator(outputs, side, lip_widths, lip_hidden) if lip_weight else None
        if self.frame_discriminator is not None:
            self.adversaries["frame"] = CrossEntropy(self.frame_discriminator, frames, "frame", "frame", "frame")
        if self.video_discriminator is not None:
            self.adversaries["video"] = CrossEntropy(
                self.video_discriminator, keys("{}_clip"), "video", "video", "video"
            )
        if self.lip_discriminator is not None:
            self.adversaries["lip"] = WordAdversary(self.lip_discriminator)
        if self.adversarial_from and not self.adversaries:
            raise ValueError("adversarial_from needs a discriminator: give frame_weight, video_weight or lip_weight")

    @property
    def view(self) -> View:
        """The whole 256 face."""
        return View("face", self.size, self.size)

    @property
    def clip_spec(self) -> ClipSpec:
        """Frames in a row, an identity image, the audio."""
        return ClipSpec(
            frames={"video": self.view},
            window=self.window,
            identity=self.identity,
            audio_rate=features.RATE,
            keys=frozenset({"identity", "audio"}),
        )

    @property
    def needs(self) -> frozenset[str]:
        """Audio and identity image."""
        return frozenset({"audio", "audio_len", "fps", "identity", "n_frames"})

    # What is heard

    def audio_windows(self, batch: ClipBatch, clip: Tensor, frame: Tensor) -> Tensor:
        """(M,) rows of the batch and (M,) frames -> (M, 12, 35) MFCC or (M, 80, 28) log-mel spectrograms."""
        windows = features.cepstrum_windows if self.front_end == "mfcc" else features.mel_windows
        columns = AUDIO_SHAPES[self.front_end][1]
        return windows(batch["audio"], batch["audio_len"], clip, frame, batch["fps"], columns)

    def audio_embeddings(self, batch: ClipBatch) -> Tensor:
        """What the audio encoder gives for the 350 ms around each frame: (B, T, embedding)."""
        return self._heard(batch, batch["n_frames"])

    def _heard(self, batch: ClipBatch, count: Tensor) -> Tensor:
        """(B,) frames of each clip -> (B, T, embedding), 0 after them."""
        heard = batch["audio"].new_zeros(len(count), int(count.max()), self.embedding, dtype=torch.float32)
        for clip, place in frames_in_pieces(count):
            heard[clip, place] = self.generator.audio(self.audio_windows(batch, clip, place)).float()
        return heard

    # Training

    def generator_losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L1; the sample is all frames one by one, and where they are judged, runs of frames and of mouths."""
        count = batch["video_len"]
        there = length_mask(count, int(count.max()))  # (B, T)
        clip, place = there.nonzero(as_tuple=True)  # (M,) each
        real = 2 * batch["video"][:, : there.shape[1]] - 1  # (B, T, 3, size, size)
        encoded = self.generator.audio(self.audio_windows(batch, clip, batch["frame"][clip, place])).float()
        heard = encoded.new_zeros(*there.shape, self.embedding).index_put((clip, place), encoded)
        share = 1.0 if self.recurrent_image == "identity" else self.identity_share
        made, _ = self.generator(2 * batch["identity"][:, 0] - 1, heard, identity_share=share)
        sample = {"real": real[clip, place], "made": made[clip, place]}  # (M, 3, size, size)
        both = (("real", real), ("made", made))
        if self.video_discriminator is not None:
            run = _draw_run(count, self.video_frames)
            sample |= {f"{side}_clip": video[run] for side, video in both}  # (B, video_frames, 3, size, size)
        if self.lip_discriminator is not None:
            run = _draw_run(count, self.lip_frames)
            sample |= {f"{side}_mouth": self.mouths(video[run]) for side, video in both}
            sample["word"] = self._labels(batch)
        return {"l1": losses.l1(sample["made"], sample["real"])}, sample

    def mouths(self, video: Tensor) -> Tensor:
        """The square around the mouth: (..., size, size) -> (..., side, side), cut and not resampled."""
        side = round(MOUTH_SIDE * self.size)
        x, y = (geometry.TEMPLATE[list(_CORNERS)].mean(0) * self.size / geometry.FACE).tolist()
        top, left = int(y - _ABOVE * side), int(x - side / 2)
        return video[..., top : top + side, left : left + side]

    # Words

    def on_fit_start(self) -> None:
        """Take the words of the lip reader from the training clips.

        Raises:
            ValueError: The datamodule gives no words, or another number of them than the lip reader has outputs, or
                others than the run that is resumed.
        """
        super().on_fit_start()
        if self.lip_discriminator is None:
            return
        found = words_of_clips(
            self.trainer.datamodule,  # type: ignore[attr-defined]
            folders=self.words == "folders",
            outputs=self.outputs,
            taker="the lip reader",
            without="--model.lip_weight 0",
        )
        if self._vocabulary and self._vocabulary != found:
            raise ValueError(
                "the training clips say other words than when this training began; start a new run for the new clips"
            )
        self._vocabulary = found

    def _labels(self, batch: ClipBatch) -> Tensor:
        """(B,) int64, the place of each clip's word among all."""
        said = batch.get("text") if self.words == "text" else [name.lower() for name in batch["speaker"]]
        if said is None:
            raise ValueError("the lip reader needs clips with a text; train without: --model.lip_weight 0")
        unknown = next((text for text in said if text not in self._vocabulary), None)
        if unknown is not None:
            raise ValueError(
                f"a clip says {unknown!r}, and the lip reader takes clips that say one word each; train without: "
                "--model.lip_weight 0"
            )
        places = {word: place for place, word in enumerate(self._vocabulary)}
        return torch.tensor([places[text] for text in said], device=batch["video_len"].device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the words, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["lipbench"]["vocabulary"] = list(self._vocabulary)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read them back.

        Raises:
            ValueError: There is no such list; see `BenchModule` for more.
        """
        super().on_load_checkpoint(checkpoint)
        known = checkpoint["lipbench"].get("vocabulary") != []  # none before a fit, and without a lip reader
        self._vocabulary = stored_words(checkpoint["lipbench"], self.outputs if known else 0)

    # Generation

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Make the frames of the clip, or with timing "free" those of the audio, piece by piece."""
        count = frames_heard(batch, timing, features.RATE)
        heard = self._heard(batch, count)  # (B, N, embedding)
        identity = 2 * batch["identity"][:, 0] - 1
        video = identity.new_zeros(*heard.shape[:2], *identity.shape[1:])  # (B, N, 3, size, size)
        memory: Memory | None = None
        start = 0
        for several in torch.split(heard, max(1, _FRAMES_AT_ONCE // len(heard)), dim=1):
            share = 1.0 if self.recurrent_image == "identity" else 0.0
            made, memory = self.generator(identity, several, memory, share)
            video[:, start : start + made.shape[1]] = (made + 1) / 2
            start += made.shape[1]
        there = length_mask(count, video.shape[1])
        return {"video": video.clamp(0, 1) * there[:, :, None, None, None], "video_len": count}


def _draw_run(count: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Frames in a row from anywhere in each clip; where a clip is shorter, its last frame is repeated.

    Args:
        count: (B,) frames of each clip.
        length: Of the run.

    Returns:
        (B, 1) rows and (B, length) frames.
    """
    steps = torch.arange(length, device=count.device)
    drawn = torch.rand(len(count)).to(count.device)  # drawn on the CPU, whatever the device
    start = (drawn * (count - length + 1).clamp(min=1)).long()  # (B,)
    rows = torch.arange(len(count), device=count.device)[:, None]
    return rows, torch.minimum(start[:, None] + steps, count[:, None] - 1)


class WordAdversary(Adversary):
    """A reader of words that learns to read real mouths and to read nothing in generated ones.

    Args:
        net: Mouths -> scores of the words.
    """

    def __init__(self, net: WordDiscriminator) -> None:
        super().__init__(net, keys("{}_mouth"), "lip", "lip", "lip")

    def generator_losses(self, sample: Sample) -> dict[str, Tensor]:
        """Generated mouths should be read as their words."""
        return {self.term: F.cross_entropy(self.score(sample, "made"), sample["word"])}

    def losses(self, sample: Sample) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Real mouths to their words, the scores of generated ones to 1 / words; mean probabilities of the words."""
        real, made = self.score(sample, "real"), self.score(sample, "made")
        terms = {
            "real": F.cross_entropy(real, sample["word"]),
            "fake": (made - 1 / made.shape[1]).square().mean(),
        }
        right = [side.detach().softmax(1).gather(1, sample["word"][:, None]) for side in (real, made)]
        return self._named(terms), self._balance(*right)
