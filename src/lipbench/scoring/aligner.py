"""When known words are said, by a lip reader that looks at them: durations where no sound and no file tells."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipbench.errors import UsageError
from lipbench.media import alignment, geometry, text
from lipbench.nets.monotonic import monotonic_durations, reader_durations
from lipbench.scoring.readers import LipReader

_SILENCE = text.SYMBOLS.index(text.SILENCE)


class ReaderAligner:
    """Aligns a text with the pictures of a face by monotonic search on a lip reader's CTC outputs (ParaLip, section 6).

    Pickles without its network, which each process reads when it aligns its first clip.

    Args:
        path: Weights file of a reader of characters with a class a frame, such as a lipnet's `observer.safetensors`.

    Attributes:
        judge: Which reader it is: its architecture and its hash.

    Raises:
        Unavailable: The file is absent or holds no reader.
        UsageError: The reader does not read lipbench's characters frame by frame.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._reader: LipReader | None = LipReader.load(path)
        card = self._reader.card
        if card.vocabulary != text.SYMBOLS or callable(getattr(self._reader.net, "transcribe", None)):
            raise UsageError(
                f"{path} holds a {card.architecture}; durations need a reader with one of lipbench's characters a "
                "frame (CTC), such as one trained with lipbench fit --model lipnet or lipresnet"
            )
        self.judge = f"{card.architecture} sha256 {card.sha256[:16]}"

    def __getstate__(self) -> dict[str, object]:
        """Without the network."""
        return {**self.__dict__, "_reader": None}

    @torch.inference_mode()
    def log_probs(self, pictures: npt.NDArray[np.uint8]) -> Tensor:
        """What the reader says of canonical pictures (T, 352, 320, 3): (1, T, V) log-probabilities."""
        if self._reader is None:
            self._reader = LipReader.load(self.path)
        frames = geometry.crop(torch.from_numpy(pictures).permute(0, 3, 1, 2), self._reader.view).float() / 255
        outputs: Tensor = self._reader.net(frames[None], torch.tensor([len(frames)]))  # (1, T, V)
        return outputs.log_softmax(2)  # of log-probabilities, these themselves

    def durations(self, pictures: npt.NDArray[np.uint8], symbols: Sequence[str]) -> npt.NDArray[np.int64]:
        """Frames of each symbol of a text, silences at both ends included.

        Args:
            pictures: (T, 352, 320, 3) RGB canonical pictures.
            symbols: L of them, see `lipbench.media.text.Tokenizer.symbols`.

        Returns:
            (L,) summing to T.

        Raises:
            ValueError: The clip has fewer frames than symbols.
        """
        if len(symbols) > len(pictures):
            raise ValueError(f"{len(symbols)} symbols in {len(pictures)} frames: each needs a frame to be aligned")
        tokens = torch.tensor([text.encode(symbols)])
        frames, count = torch.tensor([len(pictures)]), torch.tensor([len(symbols)])
        return reader_durations(self.log_probs(pictures), frames, tokens, count, _SILENCE)[0].numpy()

    def within(
        self, pictures: npt.NDArray[np.uint8], symbols: Sequence[str], durations: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Frames of each symbol where the time of every word is known: the search divides each word by itself.

        A word with fewer frames than letters stays as it is.

        Args:
            pictures: See `durations`.
            symbols: See `durations`.
            durations: (L,) frames of each symbol, right for words and silences.
        """
        found = durations.copy()
        ids, log_probs = torch.tensor(text.encode(symbols)), self.log_probs(pictures)[0]  # (T, V)
        for word in alignment.spans([symbol == text.SILENCE for symbol in symbols], durations):
            tokens, frames = word.last_symbol - word.first_symbol, word.last_frame - word.first_frame
            if 1 < tokens <= frames:
                spelled = ids[word.first_symbol : word.last_symbol]
                scores = log_probs[word.first_frame : word.last_frame][:, spelled]  # (frames, tokens)
                own = monotonic_durations(scores[None], torch.tensor([frames]), torch.tensor([tokens]))[0]
                found[word.first_symbol : word.last_symbol] = own.numpy()
        return found
