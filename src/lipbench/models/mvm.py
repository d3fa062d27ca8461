"""MVM (AAAI 2022): classifies words by lips, with a memory of what was heard; TalkLip's accuracy on LRW is by it.

Sources: Kim, Yeo and Ro, "Distinguishing Homophenes using Multi-head Visual-audio Memory for Lip Reading", and its
published code (ms-dot-k/Multi-head-Visual-Audio-Memory at commit a902f49: `train.py`, `src/data/vid_aud_lrw.py`).

From the code: the network (`lipbench.nets.mvm`), the mel spectrogram (`lipbench.media.features.word_mels`), the sum of
the cross-entropies along both ways, of the reconstruction and of the contrast, each with weight 1; AdamW with a weight
decay of 1e-5; mixup; mirroring, a shifted crop, erasing of a square and of three frames, masking of the spectrogram.
From its author (issue 2 there): a learning rate of 1e-4, halved where 10 validations in a row bring nothing, about 400
passes over LRW; the code's own default is 1e-3.

Own choices:

- The crop lies on the canonical face, which stands still, where LRW's faces move and turn; it is shifted over repeated
  border pixels, the published one over the picture.
- Clips of sentences (GRID) are cut into windows of as many frames as a clip of LRW, each with a word in its middle.
- Words are those of the training clips in alphabetical order, as the code takes the names of LRW's folders.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from lipbench.media import features, text
from lipbench.nets import mvm
from lipbench.pretrained import weights
from lipbench.training.pieces import word_segments
from lipbench.training.reading import ReadingModel
from lipbench.training.vocabulary import stored_words, words_of_clips
from lipbench.types import ClipBatch, ClipSpec

_ERASED: Final = 3  # frames in a row
_SQUARE, _OUTSIDE = 0.5, 10 / 112  # side of the erased square, and how far it may reach outside, in sides of the view
_BANDS, _COLUMNS = 10, 20  # of the spectrogram: fewer than so many in a row are masked


class Window(NamedTuple):
    """A word in a clip and the frames around it."""

    clip: int
    """Row of the batch."""
    first: int
    """Frame with which the window begins; may lie before the clip."""
    word: str
    """What is said in its middle."""


class MVM(ReadingModel):
    """Reads a word a clip.

    Args:
        size: See `lipbench.nets.mvm.MVM`.
        front: See there.
        widths: See there.
        embedding: See there.
        audio_widths: See there.
        channels: See there.
        kernels: See there.
        layers: See there.
        slots: See there.
        heads: See there.
        radius: See there.
        outputs: See there; as many as the training clips have words.
        dropout: See there.
        frames: See there; of the windows of training, too.
        flip: See there. Validation looks at no mirror images, as published.
        words: Where they stand: "text", a clip says one, in its middle; "sentences", a clip says several, whose times
            are known; "folders", a clip says the one that its folder is named after, as in LRW, where the corpus
            `folder` takes that name for the speaker's.
        mixup: Parameter of the symmetric beta distribution of the shares in which two windows are mixed; 0 mixes none.
        erase: Erase a square and three frames of each window, and mask bands and columns of its spectrogram.
        shift: Pixels by which a window is moved at most, up, down and sideways; as published 5 of LRW's 136, 4 of 112.
        lr: Peak learning rate (AdamW).
        weight_decay: Of AdamW.
        options: Those of `BenchModule`.
    """

    paper: ClassVar[str] = (
        "Kim, Yeo and Ro, Distinguishing Homophenes using Multi-head Visual-audio Memory for Lip Reading, AAAI 2022"
    )
    monitor: ClassVar[tuple[str, Literal["min", "max"]]] = ("val/word_accuracy", "max")

    def __init__(
        self,
        size: int = 112,
        front: int = 64,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        embedding: int = 512,
        audio_widths: tuple[int, int] = (128, 256),
        channels: int = 768,
        kernels: tuple[int, ...] = (3, 5, 7),
        layers: int = 4,
        slots: int = 112,
        heads: int = 8,
        radius: float = 16.0,
        outputs: int = 500,
        dropout: float = 0.2,
        frames: int = mvm.FRAMES,
        flip: bool = True,
        words: Literal["text", "sentences", "folders"] = "text",
        mixup: float = 0.4,
        erase: bool = True,
        shift: int = 4,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(**options)
        self.net = mvm.MVM(
            size=size,
            front=front,
            widths=widths,
            embedding=embedding,
            audio_widths=audio_widths,
            channels=channels,
            kernels=kernels,
            layers=layers,
            slots=slots,
            heads=heads,
            radius=radius,
            outputs=outputs,
            dropout=dropout,
            frames=frames,
            flip=flip,
        )
        self.words, self.mixup, self.erase, self.shift = words, mixup, erase, shift
        self.lr, self.weight_decay = lr, weight_decay
        self._vocabulary: tuple[str, ...] = ()

    @property
    def capabilities(self) -> frozenset[str]:
        """Text, of clips that have one and say one word.

        Of sentences it is told where the words lie, which is no reading: then it logs its accuracy itself.
        """
        return super().capabilities - (set() if self.words == "text" else {"text"})

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Word of every output.

        Raises:
            RuntimeError: None is known yet.
        """
        if not self._vocabulary:
            raise RuntimeError("MVM knows no words: they come with a fit, or from the checkpoint of one")
        return self._vocabulary

    @property
    def clip_spec(self) -> ClipSpec:
        """Whole clips of mouths with their audio, those of sentences with the times of words."""
        times = {"tokens", "durations"} if self.words == "sentences" else set()
        return ClipSpec(frames={"video": self.net.view}, audio_rate=features.RATE, keys=frozenset({"audio", *times}))

    def on_fit_start(self) -> None:
        """Take the words from the training clips, unless a checkpoint has brought some.

        Raises:
            ValueError: The datamodule gives no words, or another number of them than the network has outputs.
        """
        super().on_fit_start()
        if self._vocabulary:
            return
        self._vocabulary = words_of_clips(
            self.trainer.datamodule,  # type: ignore[attr-defined]
            folders=self.words == "folders",
            outputs=self.net.out.out_features,
            taker="MVM",
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the words, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["lipbench"]["vocabulary"] = list(self._vocabulary)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read them back.

        Raises:
            ValueError: There are none, or others than the network has outputs; see `BenchModule` for more.
        """
        super().on_load_checkpoint(checkpoint)
        self._vocabulary = stored_words(checkpoint["lipbench"], self.net.out.out_features)

    def build_optimizers(self) -> dict[str, Optimizer]:
        """AdamW over everything but the audio front end, which learns nothing (`lipbench.nets.mvm`)."""
        learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return {"reader": AdamW(learning, lr=self.lr, weight_decay=self.weight_decay, fused=True)}

    # Training

    def compute_step(self, batch: ClipBatch) -> None:
        """The losses of all words of the clips.

        Raises:
            ValueError: A resumed fit meets a word that its vocabulary lacks; see `windows` for more.
        """
        windows = self.windows(batch)
        gray, target = self.cut(batch, windows)  # (M, frames, size, size), (M,)
        unknown = sorted({window.word for window in windows} - set(self.vocabulary))
        if unknown:
            raise ValueError(
                f"a training clip says {unknown[0]!r}, which none said when this training began, and it goes on with "
                "the words that it has. Start a new run for the new clips"
            )
        clip, first = _places(windows, gray.device)
        mel = features.word_mels(batch["audio"], batch["audio_len"], clip, first, self.net.frames)
        gray = self.augment(gray)
        if self.erase:
            _erase(gray, mel)
        other = torch.randperm(len(target)).to(gray.device)
        share = torch.ones_like(target, dtype=gray.dtype)  # of the window itself
        if self.mixup:
            share = torch.distributions.Beta(self.mixup, self.mixup).sample((len(target),)).to(gray)
            gray = torch.lerp(gray[other], gray, share[:, None, None, None])
            mel = torch.lerp(mel[other], mel, share[:, None, None])
        learned = self.net.learn(gray, mel)
        self.step_optimizer(
            "reader",
            {
                "video": _cross_entropy(learned.video, target, other, share),
                "audio": _cross_entropy(learned.audio, target, other, share),
                "reconstruction": learned.reconstruction,
                "contrast": learned.contrast,
            },
        )

    def windows(self, batch: ClipBatch) -> list[Window]:
        """Every word of the clips.

        Args:
            batch: `video_len`, `fps`; `text`, or `speaker`, or `tokens`, `token_len` and `durations`.

        Raises:
            ValueError: A clip has another frame rate than LRW, or does not say the one word that is expected.
        """
        rates = sorted(set(batch["fps"].tolist()))
        if rates != [features.WORD_FPS]:
            raise ValueError(f"MVM takes clips of {features.WORD_FPS} frames a second, found {rates}")
        found = []
        for clip, words in enumerate(_in_sentences(batch) if self.words == "sentences" else self._alone(batch)):
            found += [Window(clip, (start + stop - self.net.frames) // 2, word) for start, stop, word in words]
        return found

    def _alone(self, batch: ClipBatch) -> Iterator[list[tuple[int, int, str]]]:
        """The only word of each clip, as `_in_sentences` gives it; it lasts as long as the clip."""
        said = batch["text"] if self.words == "text" else [name.lower() for name in batch["speaker"]]
        for words, length in zip(said, batch["video_len"].tolist(), strict=True):
            if len(words.split()) != 1:
                raise ValueError(
                    f"a clip says {words!r}, and MVM takes clips of one word; give --model.words sentences to train on "
                    "the words of sentences"
                )
            yield [(0, length, words)]

    def cut(self, batch: ClipBatch, windows: list[Window]) -> tuple[Tensor, Tensor]:
        """The frames of M windows (M, frames, size, size), normalized and gray, and their words (M,), -1 if unknown."""
        place = {word: k for k, word in enumerate(self.vocabulary)}
        video = batch["video"]
        target = torch.tensor([place.get(window.word, -1) for window in windows], device=video.device)
        return self.net.windows(video, batch["video_len"], *_places(windows, video.device)), target

    def augment(self, gray: Tensor) -> Tensor:
        """Mirror half of the windows (M, T, h, w), and move each by up to `shift` pixels: all its frames alike."""
        count, border = len(gray), self.shift
        mirrored = (torch.rand(count) < 0.5).to(gray.device)
        gray = torch.where(mirrored[:, None, None, None], gray.flip(-1), gray)
        if not border:
            return gray
        wide = F.pad(gray, (border, border, border, border), mode="replicate")
        height, width = gray.shape[-2:]
        corners = torch.randint(2 * border + 1, (count, 2)).tolist()
        moved = (row[:, y : y + height, x : x + width] for row, (y, x) in zip(wide, corners, strict=True))
        return torch.stack(list(moved))

    # Reading

    def read(self, batch: ClipBatch) -> list[str]:
        """The word in the middle of each clip; of sentences every word, each read at the time at which it is said.

        Args:
            batch: `video` and `video_len`; of sentences also what `windows` looks at.
        """
        if self.words != "sentences":
            windows = [Window(clip, 0, "") for clip in range(len(batch["video"]))]
            return self._joined(windows, self.net(batch["video"], batch["video_len"]), len(windows))
        windows = self.windows(batch)
        gray, _ = self.cut(batch, windows)
        return self._joined(windows, self.net.scores(gray), len(batch["video"]))

    def score(self, part: str, batch: ClipBatch) -> list[str]:
        """Read, and log the share of words read right as `<part>/word_accuracy`, and the cross-entropy of known ones.

        A word that no training clip says counts as wrong.
        """
        windows = self.windows(batch)
        gray, target = self.cut(batch, windows)
        scores = self.net.classify(self.net.see(gray)) if part == "val" else self.net.scores(gray)
        right = (scores.argmax(1) == target).float().mean()
        self.log(f"{part}/word_accuracy", right, batch_size=len(target), prog_bar=True, sync_dist=True)
        known = max(int((target >= 0).sum()), 1)
        loss = F.cross_entropy(scores, target, ignore_index=-1, reduction="sum") / known
        self.log(f"{part}/cross_entropy", loss, batch_size=known, sync_dist=True)
        return self._joined(windows, scores, len(batch["video"]))

    def _joined(self, windows: list[Window], scores: Tensor, clips: int) -> list[str]:
        """The words read in each clip; none where the frames were not finite."""
        read: list[list[str]] = [[] for _ in range(clips)]
        rows = zip(windows, scores.argmax(1).tolist(), scores.isfinite().all(1).tolist(), strict=True)
        for window, best, finite in rows:
            read[window.clip] += [self.vocabulary[best]] if finite else []
        return [" ".join(words) for words in read]

    # As an observer

    def save_observer(self, path: str | Path, trained_on: str) -> weights.Card:
        """Write the network to a weights file that metrics read (`lipbench.pretrained.weights`).

        Args:
            path: Ends in ".safetensors".
            trained_on: In words: corpus, protocol, how long, which seed.
        """
        return weights.save(
            path,
            self.net,
            arguments=self.net.arguments,
            view=self.net.view,
            trained_on=trained_on,
            vocabulary=self.vocabulary,
        )


def _in_sentences(batch: ClipBatch) -> Iterator[list[tuple[int, int, str]]]:
    """First frame, the one after the last, and word: of every word of each clip."""
    rows = zip(batch["tokens"].tolist(), batch["durations"].tolist(), batch["token_len"].tolist(), strict=True)
    for ids, lasts, count in rows:
        yield [(word.start, word.stop, text.decode(word.ids)) for word in word_segments(ids[:count], lasts[:count])]


def _places(windows: list[Window], device: torch.device) -> tuple[Tensor, Tensor]:
    """Clips and first frames of windows, (M,) int64 each."""
    both = torch.tensor([(window.clip, window.first) for window in windows], device=device)
    return both[:, 0], both[:, 1]


def _erase(gray: Tensor, mel: Tensor) -> None:
    """Put 0, which is the mean, in place of parts of each window and of its spectrogram.

    Args:
        gray: (M, T, h, w), of which a square half as wide and three frames are erased; the square may reach outside.
        mel: (M, 80, C), of which up to 9 bands and up to 19 columns in a row are masked.
    """
    side = gray.shape[-1]
    wide, out = round(_SQUARE * side), round(_OUTSIDE * side)
    for one, heard in zip(gray, mel, strict=True):
        y, x = torch.randint(-out, side - wide + out + 1, (2,)).tolist()
        one[:, max(y, 0) : max(y + wide, 0), max(x, 0) : max(x + wide, 0)] = 0
        start = int(torch.randint(max(len(one) - _ERASED, 0) + 1, ()))
        one[start : start + _ERASED] = 0
        for axis, most in ((0, _BANDS), (1, _COLUMNS)):
            width, place = torch.rand(2).tolist()
            length = int(width * most)
            heard.narrow(axis, int(place * max(heard.shape[axis] - length, 0)), length).zero_()


def _cross_entropy(scores: Tensor, target: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Mean over M mixed windows of the cross-entropies with both words, each with its share."""
    both = (F.cross_entropy(scores, words, reduction="none") for words in (target, target[other]))
    own, mixed = both
    return (share * own + (1 - share) * mixed).mean()
