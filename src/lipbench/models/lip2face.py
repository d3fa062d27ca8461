"""Lip to face, the second half of DualLip (ACM MM 2020): generated lips on a guide face become the whole talking face.

Source: Chen et al., "DualLip: A System for Joint Lip Reading and Generation", sections 3.4.1, 3.4.3, 4.1.3 and 4.3.2.
No code was published.

From the paper: a trained lip generator makes the lips; they are superimposed on a guide face, which is concatenated
with the target face without its lower half; image encoder a frame, expanded text, RNN, decoder with skips
(`lipbench.nets.lip2face`); L1, Adam 1e-3 with a decay of 0.1; faces of 128x128, lips of 64x128; a random frame of the
clip as guide in training and its first in scoring; the paired clips only (`--data.paired 0.1`). In generation all
frames have the same masked face: `masked` "fixed". The durations that drive the lips drive the face, too (3.4.3).

Own choices: the fixed masked face is that of the guide. Lips are put on the guide without a soft border, as scoring
puts them on the reference. The lip generator makes whole clips, of which a `window` may be taken; the GRU then starts
anew at its first frame. The layers of the network, which the paper does not name.
"""

import warnings
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from lipbench import losses
from lipbench.media import geometry
from lipbench.nets.fastspeech import expand, length_mask
from lipbench.nets.lip2face import LipToFaceNet
from lipbench.training.generative import GenerativeModel
from lipbench.training.loading import load_frozen
from lipbench.types import ClipBatch, ClipSpec, Generated, Timing, View

_LIPS_NEED: Final = frozenset({"tokens", "token_len", "durations", "speech", "identity", "n_frames"})
_LIPS_VIEW: Final = View("mouth", 64, 128)  # of the paper, while no lip generator is known
_FRAMES_AT_ONCE: Final = 128  # made together outside training, to bound the memory of large test batches
_NO_LIPS: Final = (
    "LipToFace makes a face around generated lips, and --model.lips names no lip generator. Train one, and give its "
    "checkpoint: lipbench fit --model paralip --data NAME, then --model.lips "
    "runs/paralip_NAME/version_0/checkpoints/last.ckpt"
)
_LOST_LIPS: Final = (
    "lip generator at {path}; --model.lips takes a checkpoint of a model that makes lips from text, such as "
    "lipbench fit --model paralip writes"
)


class LipToFace(GenerativeModel):
    """A frozen lip generator, and a network that makes faces of its lips, a guide face and a masked face.

    Args:
        size: Pixels a side of the face view; 128 in the paper.
        tokens: Size of the vocabulary.
        lips: Checkpoint of a model that makes lips (its main view is "mouth") from text and an identity frame. It stays
            as it is and is no part of this model's checkpoint, which keeps its hash.
        masked: Outside training, the masked face of every frame: "fixed", the guide face without its lower half, as in
            the paper; or "own", that of the frame itself (its pose), as in training.
        embedding: See `lipbench.nets.lip2face.LipToFaceNet`; so are the next five.
        hidden: See there; 512 in Song et al.'s code.
        rnn: See there; 1024 in Song et al.'s code.
        dropout: See there.
        encoder_widths: See there.
        decoder_widths: See there.
        window: Frames in a row drawn from each clip in training; None takes all.
        identity: Guide face in training: a "random" frame of the clip, as in the paper, or its "first", which drives
            scoring too (own choice for small models, and for lip generators that were trained so).
        lr: Peak learning rate (Adam): the paper's.
        decay_factor: Of the schedules "step" and "plateau": the paper's, which does not say when the rate falls.
        options: Those of `BenchModule`.
    """

    paper: ClassVar[str] = "Chen et al., DualLip: A System for Joint Lip Reading and Generation, ACM MM 2020"

    def __init__(
        self,
        size: int = 128,
        tokens: int = 30,
        lips: str | None = None,
        masked: Literal["fixed", "own"] = "fixed",
        embedding: int = 256,
        hidden: int = 512,
        rnn: int = 1024,
        dropout: float = 0.5,
        encoder_widths: tuple[int, ...] = (16, 32, 64, 128),
        decoder_widths: tuple[int, ...] = (256, 196, 128, 80, 48, 16),
        window: int | None = None,
        identity: Literal["random", "first"] = "random",
        lr: float = 1e-3,
        decay_factor: float = 0.1,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(decay_factor=decay_factor, **options)
        self.lips, self.masked, self.window, self.identity, self.lr = lips, masked, window, identity, lr
        self.view = View("face", size, size)
        self.net = LipToFaceNet(size, tokens, embedding, hidden, rnn, dropout, encoder_widths, decoder_widths)
        self.to(memory_format=torch.channels_last)

    # The lip generator

    def lip_generator(self) -> GenerativeModel:
        """The frozen model that makes the lips; its checkpoint is read when it is first asked for.

        Raises:
            ValueError: `lips` names none, or a checkpoint of a model that makes no lips from text.
            FileNotFoundError: There is no such checkpoint.
        """
        if "lips" not in self.frozen:
            if self.lips is None:
                raise ValueError(_NO_LIPS)
            self.use_lips(*load_frozen(self.lips, GenerativeModel, _LOST_LIPS))  # type: ignore[type-abstract]
        lips = self.frozen["lips"]
        assert isinstance(lips, GenerativeModel)
        return lips

    def use_lips(self, lips: GenerativeModel, sha256: str) -> None:
        """Have a loaded model make the lips, in place of the checkpoint that `lips` names.

        Args:
            lips: Frozen from here on.
            sha256: Hash of its checkpoint. Outside a fit it may be another one than in training; a warning says so.

        Raises:
            ValueError: It does not make lips from text and an identity frame.
        """
        view, needs = lips.clip_spec.frames.get("video"), lips.needs
        if view is None or view.name != "mouth" or not needs <= _LIPS_NEED:
            raise ValueError(
                f"{type(lips).__name__} makes {view} of {', '.join(sorted(needs))}; --model.lips takes a model that "
                f"makes the view 'mouth' of nothing but {', '.join(sorted(_LIPS_NEED))}, such as paralip"
            )
        _tell_other_lips(self.frozen_sha256.get("lips", sha256), sha256)
        self.register_frozen("lips", lips, sha256)

    def _known_lips(self) -> GenerativeModel | None:
        """The lip generator, if it is at hand."""
        there = self.lips is not None and Path(self.lips).expanduser().is_file()
        return self.lip_generator() if there or "lips" in self.frozen else None

    def setup(self, stage: str) -> None:
        """Load the lip generator.

        Raises:
            ValueError: There is none, or it cannot make lips for training.
            FileNotFoundError: The checkpoint is not there.
        """
        super().setup(stage)
        lips = self.lip_generator()
        if stage == "fit" and not lips.timings & {"given", "length"}:
            raise ValueError(
                f"{type(lips).__name__} has the timings {sorted(lips.timings)}; to train on its lips, they must be as "
                "long as the clips: give --model.lips a model with the timing 'given' or 'length'"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read it back. A fit goes on with the same lips only; elsewhere, other ones may be given, with a warning."""
        fitting = self._trainer is not None and self.trainer.state.fn == "fit"
        own = None if fitting else self.frozen_sha256.pop("lips", None)
        super().on_load_checkpoint(checkpoint)
        if own is not None:
            _tell_other_lips(self.frozen_sha256.get("lips", own), own)
            self.frozen_sha256["lips"] = own

    # The contract

    @property
    def timings(self) -> frozenset[str]:  # type: ignore[override]
        """Those of the lip generator; all of them while none is at hand."""
        lips = self._known_lips()
        return frozenset({"given", "speech", "length", "free"}) if lips is None else lips.timings

    @property
    def clip_spec(self) -> ClipSpec:
        """Faces, a guide face and the lip generator's view of it, tokens with durations."""
        lips = self._known_lips()
        return ClipSpec(
            frames={"video": self.view},
            window=self.window,
            identity=self.identity,
            identity_views={"identity_lips": _LIPS_VIEW if lips is None else lips.clip_spec.frames["video"]},
            keys=frozenset({"identity", "tokens", "durations"}),
        )

    @property
    def needs(self) -> frozenset[str]:
        """Text with its timing, the guide face in both views, and the pose where every frame has its own."""
        pose = {"pose", "pose_len"} if self.masked == "own" else set()
        return _LIPS_NEED | {"identity_lips"} | pose

    def build_optimizers(self) -> dict[str, Optimizer]:
        """Adam over everything but the lip generator."""
        return {"generator": Adam(self.parameters(), lr=self.lr, fused=True)}

    # Training

    def compute_step(self, batch: ClipBatch) -> None:
        """L1 on the frames drawn, each with its own masked face."""
        lips, durations = self.make_lips(batch, "given" if "given" in self.timings else "length")
        drawn = length_mask(batch["video_len"], batch["video"].shape[1])  # (B, T)
        clip, place = drawn.nonzero(as_tuple=True)  # (M,) each
        real = batch["video"][clip, place]  # (M, 3, size, size)
        faces = self.synthesized_faces(
            batch["identity"][clip, 0],
            lips["video"][clip, batch["frame"][clip, place]],
            geometry.without_lower_half(real),
        )
        text, _ = self._encoded_text(batch["tokens"], durations)  # (B, N, H)
        rows = torch.arange(len(text), device=text.device)[:, None]  # (B, 1)
        made, _ = self.net(faces, text[rows, batch["frame"]], drawn)  # (M, 3, size, size)
        self.step_optimizer("generator", {"l1": losses.l1(made, real)})

    def make_lips(self, batch: ClipBatch, timing: Timing) -> tuple[Generated, Tensor]:
        """The lips of whole clips, without gradient.

        Args:
            batch: With `identity_lips` and what the lip generator needs for the timing.
            timing: See `GenerativeModel.generate`.

        Returns:
            What the lip generator gives, and (B, L) int64 the durations by which it is timed.

        Raises:
            ValueError: Its durations are not as long as its video, or it gives none and takes none.
        """
        identity: Tensor = batch["identity_lips"]  # type: ignore[typeddict-item]  # (B, 1, 3, h, w), of `identity_views`
        lips = self.lip_generator().to(identity.device)
        with torch.no_grad():
            made = lips.run_generate({**batch, "identity": identity}, timing)
        durations = made.get("durations", batch["durations"] if timing == "given" else None)
        if durations is None:
            raise ValueError(
                f"{type(lips).__name__} gives no durations for the timing {timing!r}, without which the text of its "
                "frames is not known; expected 'durations' beside the video that it generates"
            )
        if not torch.equal(durations.sum(dim=1), made["video_len"]):
            raise ValueError(
                f"{type(lips).__name__} gives clips of {made['video_len'].tolist()} frames; expected as many as its "
                f"durations say, {durations.sum(dim=1).tolist()}"
            )
        return made, durations

    def synthesized_faces(self, guide: Tensor, lips: Tensor, masked: Tensor) -> Tensor:
        """What the image encoder sees of frames.

        Args:
            guide: (M, 3, size, size) in [0, 1], the guide face of each frame.
            lips: (M, 3, h, w) in [0, 1], the generated lips.
            masked: (M, 3, size, size) in [0, 1], faces without their lower half.

        Returns:
            (M, 6, size, size): the lips on the guide face, then the masked face.
        """
        lips_view = self.lip_generator().clip_spec.frames["video"]
        return torch.cat([geometry.superimpose(guide, self.view, lips.float(), lips_view), masked], dim=1)

    def _encoded_text(self, tokens: Tensor, durations: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) tokens, (B, L) frames -> (B, N, H) features of the expanded text, (B, N) bool, where valid."""
        expanded, valid = expand(tokens[..., None], durations)  # (B, N, 1)
        return self.net.text_encoder(expanded[..., 0], valid.sum(dim=1)), valid

    # Generation

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Lips first, then all faces in turn, some frames of all clips at once."""
        lips, durations = self.make_lips(batch, timing)
        text, valid = self._encoded_text(batch["tokens"], durations)  # (B, N, H), (B, N)
        guide = batch["identity"][:, 0]  # (B, 3, size, size)
        fixed = geometry.without_lower_half(guide)
        video = guide.new_zeros(*valid.shape, *guide.shape[1:], dtype=torch.float32)
        step, state = max(1, _FRAMES_AT_ONCE // len(valid)), None
        for start in range(0, valid.shape[1], step):
            part = valid[:, start : start + step]  # (B, t)
            clip, place = part.nonzero(as_tuple=True)  # (M,) each
            frame = place + start
            masked = fixed[clip]
            if self.masked == "own":  # poses that run out start again
                masked = batch["pose"][clip, frame % batch["pose_len"][clip]]
            faces = self.synthesized_faces(guide[clip], lips["video"][clip, frame], masked)  # (M, 6, size, size)
            made, state = self.net(faces, text[:, start : start + step], part, state)
            video[clip, frame] = made.float().clamp(0, 1)
        return {**lips, "video": video, "durations": durations}


def _tell_other_lips(trained: str, own: str) -> None:
    """Warn if the lips are not those of the training."""
    if own != trained:
        warnings.warn(
            f"--model.lips has SHA-256 {own[:12]}..., and the model was trained with the lips of {trained[:12]}...: "
            "its faces are made of other lips than it has learned from",
            stacklevel=3,
        )
