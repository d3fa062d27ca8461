"""FaceFormer (CVPR 2022) on images: a transformer hears the whole audio and makes the frames one after the other.

Sources: Fan et al., "FaceFormer: Speech-Driven 3D Facial Animation with Transformers", and its published code
(EvelynFan/FaceFormer at commit dfaea81), which animates meshes; the adaptation to images that TalkLip compares itself
with (Wang et al., "Seeing What You Said", CVPR 2023, section 4.1, Table 1), of which one sentence is published: a video
encoder with the usual input in place of the style encoder, and a skip connection from that input to the image.

From the code: wav2vec 2.0 base (`lipbench.nets.wav2vec2`), its convolutions frozen and the rest trained; the decoder
(`lipbench.nets.faceformer`); training without teacher forcing; the mean squared error as the one loss; Adam 1e-4. No
discriminator. From TalkLip: pose and identity frame as input of the face encoder, the first frame as identity in
scoring.

Own choices, beside those named in `lipbench.nets.faceformer`: the mean squared error is that of pixels; one identity
frame for all frames of a clip; audio is cut or filled up with silence to the frames' length before it is encoded, so
that features never drift from the frames; training may take `window` frames in a row, whose positions and features are
those that they have in the whole clip, and of which the first one has none before it; the face view of the canonical
frame in place of a detector's box. With `front_end` "mel" the speech encoder is Wav2Lip's audio encoder of 0.2 s around
each half frame, trained from the start: without published weights, and small enough for a CPU.

Clips of any length are generated frame after frame: faces are encoded and decoded 128 at a time, and a frame attends to
the last 600 frames (24 s) at most. Beside the frames themselves, memory grows with the audio alone, whose features are
those of the whole (2.4 MB a second with wav2vec 2.0, measured from 60 to 120 s).
"""

from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.media import features, geometry
from lipbench.nets.faceformer import PER_FRAME, Generator
from lipbench.nets.fastspeech import length_mask
from lipbench.nets.wav2lip import COLUMNS, AudioEncoder
from lipbench.nets.wav2vec2 import Wav2Vec2
from lipbench.pretrained.networks import load_wav2vec2
from lipbench.training.adversarial import AdversarialModel
from lipbench.training.generative import frames_heard
from lipbench.types import ClipBatch, ClipSpec, Generated, Timing, View

_FRAMES_AT_ONCE: Final = 128  # faces made together outside training, to bound the memory of long clips
_NO_SPEECH: Final = (
    "FaceFormer hears through wav2vec 2.0, and --model.speech names no weights of it. Download model.safetensors or "
    "pytorch_model.bin of facebook/wav2vec2-base-960h (lipbench weights fetch wav2vec2), and give that file. Or train "
    "a small speech encoder with the rest: --model.front_end mel"
)
_LOST_SPEECH: Final = (
    "wav2vec 2.0 weights at {path}; --model.speech takes model.safetensors or pytorch_model.bin of "
    "facebook/wav2vec2-base-960h: lipbench weights fetch wav2vec2"
)


class FaceFormer(AdversarialModel):
    """Speech encoder over the whole audio, face encoder, autoregressive transformer decoder, face decoder with skips.

    With timing "given" the audio says when things are said, as true durations do for models that are driven by text.

    Args:
        size: Pixels a side of the face view, 3 x 2^n; 96 in TalkLip.
        widths: See `lipbench.nets.wav2lip.Generator`; so are the next three.
        residuals: See there.
        decoder_widths: See there.
        decoder_residuals: See there.
        hidden: Channels of the embeddings and of the transformer decoder: 64 or 128 as published for meshes, 512 here
            as TalkLip's embeddings.
        heads: See `lipbench.nets.faceformer.FrameDecoder`; so are the next three.
        layers: See there.
        period: See there.
        dropout: See there.
        window: Frames in a row drawn from each clip in training; None takes whole clips, as published. Frames are made
            one after the other, and time and memory grow with them (`FrameDecoder`).
        identity: Identity frame in training: a "random" frame of the clip, or its "first", which drives scoring too
            (own choice for small models).
        front_end: "wav2vec2" as published, or "mel", trained from the start.
        speech: Weights file of wav2vec 2.0, needed to train with "wav2vec2". Its transformer is trained on and it is
            part of the checkpoint, so that the file is not needed afterwards.
        speech_widths: See `lipbench.nets.wav2vec2.Wav2Vec2`; so are the next four, which the file must fit.
        speech_hidden: See there.
        speech_layers: See there.
        speech_heads: See there.
        speech_ffn: See there.
        audio_widths: See `lipbench.nets.wav2lip.AudioEncoder`, the front end "mel"; so is the next.
        audio_residuals: See there.
        options: Those of `AdversarialModel`; those about discriminators have no effect.
    """

    paper: ClassVar[str] = (
        "Fan et al., FaceFormer: Speech-Driven 3D Facial Animation with Transformers, CVPR 2022, on images as in Wang "
        "et al., Seeing What You Said: Talking Face Generation Guided by a Lip Reading Expert, CVPR 2023"
    )
    timings = frozenset({"given", "free"})
    context = None  # the whole audio, and the frames before

    def __init__(
        self,
        size: int = 96,
        widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512),
        residuals: tuple[int, ...] = (2, 3, 2, 2, 1),
        decoder_widths: tuple[int, ...] = (512, 512, 384, 256, 128, 64),
        decoder_residuals: int = 2,
        hidden: int = 512,
        heads: int = 4,
        layers: int = 1,
        period: int = 25,
        dropout: float = 0.1,
        window: int | None = None,
        identity: Literal["random", "first"] = "random",
        front_end: Literal["wav2vec2", "mel"] = "wav2vec2",
        speech: str | None = None,
        speech_widths: tuple[int, ...] = (512,) * 7,
        speech_hidden: int = 768,
        speech_layers: int = 12,
        speech_heads: int = 12,
        speech_ffn: int = 3072,
        audio_widths: tuple[int, ...] = (32, 64, 128, 256),
        audio_residuals: tuple[int, ...] = (2, 2, 2, 1),
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(**options)
        if front_end == "mel" and speech is not None:
            raise ValueError(
                f"--model.speech {speech} names weights of wav2vec 2.0, which --model.front_end mel does not use; "
                "leave one of them out"
            )
        self.size, self.window, self.identity, self.front_end, self.speech = size, window, identity, front_end, speech
        self.speech_encoder: Wav2Vec2 | AudioEncoder
        if front_end == "mel":
            self.speech_encoder, speech_width = AudioEncoder(audio_widths, audio_residuals, hidden), hidden
        else:
            self.speech_encoder, speech_width = (
                Wav2Vec2(speech_widths, speech_hidden, speech_layers, speech_heads, speech_ffn),
                speech_hidden,
            )
        self.generator = Generator(
            size,
            widths,
            residuals,
            decoder_widths,
            decoder_residuals,
            hidden,
            heads,
            layers,
            period,
            dropout,
            speech_width,
        )
        self.to(memory_format=torch.channels_last)

    @property
    def view(self) -> View:
        """The whole 256 face: its lower half holds nose tip, mouth and chin."""
        return View("face", self.size, self.size)

    @property
    def clip_spec(self) -> ClipSpec:
        """Faces in a row, one identity frame, the audio."""
        return ClipSpec(
            frames={"video": self.view},
            window=self.window,
            identity=self.identity,
            audio_rate=features.RATE,
            keys=frozenset({"identity", "audio"}),
        )

    @property
    def needs(self) -> frozenset[str]:
        """The audio, the identity frame, and the pose frames."""
        return frozenset({"audio", "audio_len", "fps", "identity", "pose", "pose_len", "n_frames"})

    def setup(self, stage: str) -> None:
        """Have wav2vec 2.0 start from its file; a resumed run, or one with `init_from`, has it already.

        Raises:
            ValueError: No file is named.
        """
        super().setup(stage)
        if stage != "fit" or self.front_end == "mel":
            return
        if self.speech is not None:
            self.start_part("speech", self.speech_encoder, self.speech, _LOST_SPEECH, load_wav2vec2)
        elif not (self.trainer.ckpt_path or self.init_from):
            raise ValueError(_NO_SPEECH)

    def generator_parameters(self) -> list[nn.Parameter]:
        """All but the convolutions of wav2vec 2.0, which stay as they are."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def generator_losses(self, batch: ClipBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The mean squared error of pixels; no sample, since no discriminator judges it."""
        drawn = length_mask(batch["video_len"], batch["video"].shape[1])  # (B, T)
        clip, place = drawn.nonzero(as_tuple=True)  # (M,) each
        real = batch["video"][clip, place]  # (M, 3, size, size)
        speech = self.aligned_speech(batch, self.whole_speech(batch, batch["n_frames"]), batch["frame"], drawn)
        state = self.generator.sequence.begin(batch["frame"][:, 0])
        made, _ = self.generator(batch["identity"][clip, 0], geometry.without_lower_half(real), drawn, speech, state)
        return {"mse": F.mse_loss(made, real)}, {}

    def whole_speech(self, batch: ClipBatch, frames: Tensor) -> Tensor | None:
        """Features of the whole audio of clips of so many (B,) frames.

        Returns:
            (B, max(frames), 2, speech_hidden), or None with the front end "mel", which hears every frame by itself.
        """
        if not isinstance(self.speech_encoder, Wav2Vec2):
            return None
        length = (frames * features.RATE / batch["fps"].double()).round().long()  # (B,) samples
        audio = F.pad(batch["audio"], (0, max(0, int(length.max()) - batch["audio"].shape[1])))
        encoded: Tensor = self.speech_encoder(audio, length, PER_FRAME * frames)  # (B, 2 N, speech_hidden)
        return encoded.view(len(encoded), -1, PER_FRAME, encoded.shape[2])

    def aligned_speech(self, batch: ClipBatch, whole: Tensor | None, frame: Tensor, there: Tensor) -> Tensor:
        """Features that frames attend to.

        Args:
            batch: `audio`, `audio_len`, `fps`.
            whole: From `whole_speech`.
            frame: (B, N) int64 frames of the clips.
            there: (B, N) bool, false where there is no such frame.

        Returns:
            (B, N, 2, channels).
        """
        if whole is not None:
            return whole[torch.arange(len(whole), device=whole.device)[:, None], frame]
        clip, place = there.nonzero(as_tuple=True)  # (M,) each
        halves = PER_FRAME * frame[clip, place][:, None] + torch.arange(PER_FRAME, device=frame.device)  # (M, 2)
        rows, rate = clip.repeat_interleave(PER_FRAME), PER_FRAME * batch["fps"]
        mels = features.mel_windows(batch["audio"], batch["audio_len"], rows, halves.flatten(), rate, COLUMNS)
        heard: Tensor = self.speech_encoder(mels[:, None]).view(len(clip), PER_FRAME, -1)  # (M, 2, hidden)
        speech = heard.new_zeros(*there.shape, *heard.shape[1:])
        speech[clip, place] = heard
        return speech

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Make the frames of the clip, or with timing "free" those of the audio, piece by piece."""
        frames = frames_heard(batch, timing, features.RATE)
        there = length_mask(frames, int(frames.max()))  # (B, N)
        video = batch["audio"].new_zeros(*there.shape, 3, self.size, self.size, dtype=torch.float32)
        whole = self.whole_speech(batch, frames)
        state = self.generator.sequence.begin(torch.zeros_like(frames))
        size = max(1, _FRAMES_AT_ONCE // len(there))
        for begin in range(0, there.shape[1], size):
            some = there[:, begin : begin + size]  # (B, n)
            frame = (begin + torch.arange(some.shape[1], device=some.device)) * some  # (B, n), 0 where there is none
            speech = self.aligned_speech(batch, whole, frame, some)
            clip, place = some.nonzero(as_tuple=True)  # (M,) each
            pose = batch["pose"][clip, (begin + place) % batch["pose_len"][clip]]  # poses that run out start again
            faces, state = self.generator(batch["identity"][clip, 0], pose, some, speech, state)
            video[clip, begin + place] = faces
        return {"video": video, "video_len": frames}
