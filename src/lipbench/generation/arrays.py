"""A trained model that takes arrays and gives frames: what `lipbench.load` returns."""

from pathlib import Path
from typing import Final, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipbench.media import audio as sounds
from lipbench.media import geometry, text
from lipbench.training import loading
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipBatch, Timing, View

FPS: Final = 25.0
"""Frames a second of what is made: what every corpus so far is prepared at."""
Image = npt.NDArray[np.generic]
FACE_AND_TIMING: Final = frozenset(
    {"identity", "identity_landmarks", "pose", "pose_len", "durations", "speech", "n_frames"}
)
"""What a model may need beside its text or audio: what a reference frame gives, and what timings may withhold."""


class ArrayModel:
    """A model that is driven by a text or by audio and given a reference frame.

    Args:
        model: Ready to generate: in eval mode, on the device where it shall run.

    Raises:
        ValueError: It needs more than a reference frame and a text or audio, or can be driven by neither alone.
    """

    def __init__(self, model: "GenerativeModel") -> None:
        self.model = model
        self.view: View = model.clip_spec.frames["video"]
        """What it shows, and its size in pixels."""
        rest = model.needs - FACE_AND_TIMING
        if {"given", "free"} & model.timings and rest and rest <= {"tokens", "token_len"}:
            self.driver: Literal["text", "audio"] = "text"
        elif "free" in model.timings and rest and rest <= {"audio", "audio_len", "fps"}:
            self.driver = "audio"
        else:
            raise ValueError(
                f"{type(model).__name__} cannot speak from text or audio alone: it needs {sorted(model.needs)} and has "
                f"the timings {sorted(model.timings)}"
            )

    @overload
    def generate(
        self,
        reference: Image,
        *,
        text: str | None = None,
        durations: Image | Tensor | None = None,
        audio: Image | Tensor | None = None,
        sample_rate: int | None = None,
        frames: Image | Tensor | None = None,
        landmarks: Image | Tensor | None = None,
    ) -> npt.NDArray[np.uint8]: ...

    @overload
    def generate(
        self,
        reference: Tensor,
        *,
        text: str | None = None,
        durations: Image | Tensor | None = None,
        audio: Image | Tensor | None = None,
        sample_rate: int | None = None,
        frames: Image | Tensor | None = None,
        landmarks: Image | Tensor | None = None,
    ) -> Tensor: ...

    @torch.inference_mode()
    def generate(
        self,
        reference: Image | Tensor,
        *,
        text: str | None = None,
        durations: Image | Tensor | None = None,
        audio: Image | Tensor | None = None,
        sample_rate: int | None = None,
        frames: Image | Tensor | None = None,
        landmarks: Image | Tensor | None = None,
    ) -> npt.NDArray[np.uint8] | Tensor:
        """Make a video at 25 frames a second.

        Pictures are uint8 (h, w, 3) arrays or float (3, h, w) tensors in [0, 1], RGB, of the model's view and size, or
        whole canonical pictures of 352x320 px (`StoredClip.pictures`), out of which the view is cut.

        Args:
            reference: Who speaks: one picture, or as many as the model takes identity images.
            text: What is said, for a model that is driven by text: letters and spaces.
            durations: (L,) whole frames that each of its tokens lasts, for a model with the timing "given": those of
                the speech that shall sound with it (`lipbench.generation.speech.espeak`). Default: the model decides.
            audio: (S,) mono in [-1, 1], for a model that is driven by audio; resampled if need be.
            sample_rate: Samples a second of `audio`.
            frames: (N, ...) pictures whose lower halves the model replaces, for models that take poses; the last one
                stands still if there are too few. Default: the reference throughout.
            landmarks: (68, 2) float, the reference's points in pixels of the canonical picture
                (`StoredClip.landmarks`), for models that need them.

        Returns:
            (N, h, w, 3) uint8 for an array as reference, (N, 3, h, w) float in [0, 1] for a tensor.

        Raises:
            ValueError: Something is missing, of no use to this model, or has another shape, dtype or range.
        """
        identity = self._pictures("reference", reference)  # (1 or R, 3, h, w)
        references = self.model.clip_spec.references
        if len(identity) not in (1, references):
            raise ValueError(f"reference holds {len(identity)} pictures; expected 1, or {references} for this model")
        timing: Timing = "free"
        batch: ClipBatch = {"identity": identity.expand(1, references, -1, -1, -1)}  # (1, R, 3, h, w)
        if "identity_landmarks" in self.model.needs:
            batch["identity_landmarks"] = self._points(landmarks).expand(1, references, -1, -1)  # (1, R, 68, 2)
        elif landmarks is not None:
            raise ValueError(f"{type(self.model).__name__} makes no use of landmarks")
        if self.driver == "text":
            self._only("text", text, audio=audio, sample_rate=sample_rate, frames=frames)
            ids = text_ids(str(text))
            batch |= {"tokens": ids[None], "token_len": torch.tensor([len(ids)])}
            timing = "free" if durations is None else "given"
            if timing not in self.model.timings:
                told = (
                    "decides the durations itself: leave durations out" if timing == "given" else "needs durations=..."
                )
                raise ValueError(f"{type(self.model).__name__} {told}; its timings are {sorted(self.model.timings)}")
            if durations is not None:
                spans = self._spans(durations, len(ids))
                batch |= {"durations": spans[None], "n_frames": spans.sum()[None]}
        else:
            self._only("audio", audio, text=text, durations=durations)
            samples, count = self._samples(audio, sample_rate)
            shown = identity[:1] if frames is None else self._pictures("frames", frames)
            shown = shown[torch.arange(count).clamp(max=len(shown) - 1)]  # (N, 3, h, w)
            batch |= {
                "audio": samples[None],
                "audio_len": torch.tensor([len(samples)]),
                "fps": torch.tensor([FPS]),
                "pose": geometry.without_lower_half(shown)[None],
                "pose_len": torch.tensor([count]),
            }
        device = next(self.model.parameters()).device
        moved = {key: value.to(device) for key, value in batch.items() if isinstance(value, Tensor)}
        made = self.model.run_generate(moved, timing)  # type: ignore[arg-type]  # a TypedDict put together key by key
        video = made["video"][0, : int(made["video_len"][0])].float().cpu()  # (N, 3, h, w)
        if isinstance(reference, Tensor):
            return video
        return (video * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def _only(self, driver: str, given: object, **others: object) -> None:
        """What drives the model must be there, and nothing that it does not look at."""
        name = type(self.model).__name__
        if given is None:
            raise ValueError(f"{name} is driven by {driver}: give {driver}=...")
        useless = [key for key, value in others.items() if value is not None]
        if useless:
            raise ValueError(f"{name} is driven by {driver}: it makes no use of {', '.join(useless)}")

    def _pictures(self, what: str, given: Image | Tensor) -> Tensor:
        """One picture or several as (N, 3, h, w) float in [0, 1] in the model's view."""
        wanted = "uint8 (h, w, 3) arrays or float (3, h, w) tensors in [0, 1]"
        if isinstance(given, Tensor):
            pictures = given if given.dim() == 4 else given[None]
            good = pictures.dim() == 4 and pictures.shape[1] == 3 and pictures.is_floating_point()
            good = good and pictures.numel() > 0 and float(pictures.min()) >= 0 and float(pictures.max()) <= 1
            found: object = f"{given.dtype} {tuple(given.shape)}"
        else:
            array = np.asarray(given)
            found, good = f"{array.dtype} {array.shape}", array.ndim in (3, 4) and array.dtype == np.uint8
            good = good and array.shape[-1] == 3 and array.size > 0
            pictures = torch.empty(0)
            if good:
                pictures = torch.from_numpy(np.array(array)).movedim(-1, -3).float() / 255
                pictures = pictures if pictures.dim() == 4 else pictures[None]
        if not good:
            raise ValueError(f"{what} is {found}; expected {wanted}")
        size = tuple(pictures.shape[-2:])
        if size == (geometry.HEIGHT, geometry.WIDTH):
            return geometry.crop((pictures * 255).round().to(torch.uint8), self.view).float() / 255
        if size != self.view.size:
            raise ValueError(
                f"{what} has {size[0]}x{size[1]} px; expected the view {self.view}, or canonical pictures of "
                f"{geometry.HEIGHT}x{geometry.WIDTH} px"
            )
        return pictures.float()

    def _points(self, given: Image | Tensor | None) -> Tensor:
        """(68, 2) float32 landmarks of the reference."""
        if given is None:
            raise ValueError(f"{type(self.model).__name__} needs the reference's landmarks: give landmarks=...")
        points = torch.as_tensor(given)
        if points.shape != (68, 2) or not points.is_floating_point() or not bool(points.isfinite().all()):
            raise ValueError(
                f"landmarks are {points.dtype} {tuple(points.shape)}; expected finite float (68, 2) in pixels of the "
                "canonical picture"
            )
        return points.float()

    def _spans(self, given: Image | Tensor, tokens: int) -> Tensor:
        """(L,) int64 frames of each token."""
        spans = torch.as_tensor(given)
        whole = spans.shape == (tokens,) and not spans.is_floating_point() and not spans.is_complex()
        if not whole or int(spans.min()) < 0 or int(spans.sum()) == 0:
            raise ValueError(
                f"durations are {spans.dtype} {tuple(spans.shape)}; expected whole numbers of frames, 0 or more, for "
                f"each of the text's {tokens} tokens, letters and the silences around words"
            )
        return spans.long()

    def _samples(self, audio: Image | Tensor | None, rate: int | None) -> tuple[Tensor, int]:
        """Audio at the model's rate, and how many frames it lasts."""
        wanted = self.model.clip_spec.audio_rate
        assert wanted is not None
        samples = np.asarray(audio.cpu() if isinstance(audio, Tensor) else audio)
        if samples.ndim != 1 or samples.dtype.kind != "f" or not len(samples) or np.abs(samples).max() > 1:
            raise ValueError(f"audio is {samples.dtype} {samples.shape}; expected float (S,) mono in [-1, 1]")
        if rate is None or rate < 1:
            raise ValueError(f"sample_rate is {rate}; expected samples a second, such as 16000")
        heard = sounds.resample(samples.astype(np.float32), rate, wanted)
        count = round(len(heard) * FPS / wanted)
        if count == 0:
            raise ValueError(f"audio holds {len(samples)} samples, less than one frame of video")
        return torch.from_numpy(heard), count


def text_ids(words: str) -> Tensor:
    """Ids (L,) int64 of what is said.

    Raises:
        ValueError: A character is neither a letter nor a space, or there is no letter.
    """
    return torch.tensor(text.encode(text.symbols(words.split())))


def load(checkpoint: str | Path, device: str | torch.device = "cpu") -> ArrayModel:
    """A trained model that generates from arrays.

    Args:
        checkpoint: A .ckpt file that `lipbench fit` wrote. Only tensors and plain values are read from it.
        device: Where it shall run.

    Returns:
        Its `generate` takes a reference frame and a text or audio.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint of lipbench, damaged, or not of a model that generates from a text or audio.
    """
    return ArrayModel(loading.load(Path(checkpoint).expanduser(), GenerativeModel).to(device))  # type: ignore[type-abstract]
