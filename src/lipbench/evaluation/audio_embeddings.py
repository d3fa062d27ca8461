"""Audio embeddings of words: how well what a model makes of the sound tells two words apart.

Figures 3, 5 and 7 of TalkLip (Wang et al., "Seeing What You Said: Talking Face Generation Guided by a Lip Reading
Expert", CVPR 2023, section 4.6): the embeddings of the frames of a word's interval are summed up, and the sums of two
words that begin or sound alike are shown by t-SNE, one color a word. A sum grows with the length of its word. The paper
gives pictures only; the silhouette is our own addition, taken in the space of the embeddings, since distances in a
t-SNE plot mean little.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import numpy.typing as npt
import torch

from lipbench.data.protocol import hashed
from lipbench.data.store import Store, StoredClip
from lipbench.media import alignment, charts
from lipbench.media.text import Tokenizer
from lipbench.training.generative import GenerativeModel

if TYPE_CHECKING:
    from lipbench.types import ClipBatch

Features = npt.NDArray[np.float64]
"""(n, C) an embedding for each of n words."""

USUAL_PERPLEXITY: Final = 30.0
"""Of t-SNE where there are enough words, as in scikit-learn."""
LEAST_PERPLEXITY: Final = 5.0
"""Van der Maaten and Hinton (2008) name 5 to 50 as the usual range."""
_NEIGHBORS: Final = 3  # times the perplexity: as many neighbors of each point t-SNE looks at
_COLORS: Final = (charts.ORANGE, charts.BLUE)  # the paper's are red and blue, which are harder to tell apart in gray
_PANEL: Final = (360, 420)  # px: (height, width)


@dataclass(frozen=True)
class Occurrence:
    """A word where a clip says it.

    Args:
        clip_id: Which clip.
        word: In the form in which the corpus compares text.
        first: Its first frame.
        last: The frame after its last.
    """

    clip_id: str
    word: str
    first: int
    last: int


@dataclass(frozen=True)
class Panel:
    """Two words as one model embeds them.

    Args:
        label: Of the model.
        occurrences: n of them.
        places: (n, 2) by t-SNE.
        silhouettes: (n,) in the space of the embeddings, in [-1, 1].
        perplexity: Of t-SNE.
    """

    label: str
    occurrences: Sequence[Occurrence]
    places: Features
    silhouettes: Features
    perplexity: float

    @property
    def silhouette(self) -> float:
        """The mean over all words."""
        return float(self.silhouettes.mean())


def occurrences(
    store: Store, clip_ids: Collection[str], words: Collection[str], tokenizer: Tokenizer, most: int | None = None
) -> dict[str, list[Occurrence]]:
    """Where clips say some words.

    Args:
        store: Of a corpus with word times.
        clip_ids: Which of its clips.
        words: In the form of `tokenizer.normalize`.
        tokenizer: That of the corpus.
        most: At most so many of each word: a random sample, the same in every run.

    Returns:
        Word -> occurrences, sorted by clip and time; without those in which no frame has its center.
    """
    texts = dict(zip(store.clip_ids, store.column("text"), strict=True))
    found: dict[str, list[Occurrence]] = {word: [] for word in words}

    def wanted(word: str) -> bool:
        return word in found and (most is None or len(found[word]) < most)

    for clip_id in sorted(clip_ids, key=lambda clip_id: hashed(f"embed/{clip_id}")):
        if not any(wanted(word) for word in texts[clip_id].split()):
            continue
        clip = store[clip_id]
        for spelled, first, last in alignment.word_frames(clip.words, clip.n_frames, clip.fps):
            word = tokenizer.normalize(spelled)
            if first < last and wanted(word):
                found[word].append(Occurrence(clip_id, word, first, last))
    return {word: sorted(own, key=lambda one: (one.clip_id, one.first)) for word, own in found.items()}


def embed(
    model: GenerativeModel,
    store: Store,
    words: Sequence[Occurrence],
    advance: Callable[[int], None] = lambda done: None,
) -> Features:
    """Sums of a model's audio embeddings over the frames of each word.

    Args:
        model: One with `audio_embeddings`, in eval mode.
        store: Where the clips are.
        words: In any order; those of a clip that follow each other share its embeddings.
        advance: Called with 1 after each clip.

    Raises:
        ValueError: The model returns something else than its contract says, or the same for all words.
    """
    sums = []
    for clip_id, own in groupby(words, lambda one: one.clip_id):
        frames = _embeddings(model, store[clip_id])  # (T, C)
        sums += [frames[one.first : one.last].sum(0).numpy() for one in own]
        advance(1)
    found = np.stack(sums)
    if not np.isfinite(found).all() or float(np.ptp(found, axis=0).max()) == 0:
        what = "the same embedding for all words" if np.isfinite(found).all() else "embeddings that are not finite"
        raise ValueError(f"{type(model).__name__} gives {what}: it has hardly been trained, or its training diverged")
    return cast(Features, found)


def _embeddings(model: GenerativeModel, clip: StoredClip) -> torch.Tensor:
    """(T, C) float64."""
    rate = model.clip_spec.audio_rate
    if rate is None:
        raise ValueError(f"{type(model).__name__} has `audio_embeddings`, but its `clip_spec` names no audio_rate")
    audio = torch.from_numpy(clip.audio(rate))
    batch: ClipBatch = {
        "audio": audio[None],
        "audio_len": torch.tensor([len(audio)]),
        "fps": torch.tensor([clip.fps]),
        "n_frames": torch.tensor([clip.n_frames]),
    }
    with torch.inference_mode():
        found = model.audio_embeddings(batch)
    if found.dim() != 3 or found.shape[:2] != (1, clip.n_frames):
        raise ValueError(
            f"{type(model).__name__}.audio_embeddings returned {tuple(found.shape)}; expected (B, T, C), here "
            f"(1, {clip.n_frames}, C)"
        )
    return found[0].double()


def perplexity_for(count: int, asked: float | None = None) -> float:
    """The perplexity of t-SNE for a number of points.

    Args:
        count: Points.
        asked: By the user; None takes 30, or as much as the points allow, down to 5.

    Raises:
        ValueError: There are too few points for it.
    """
    highest = (count - 1) // _NEIGHBORS
    least = LEAST_PERPLEXITY if asked is None else asked
    if highest < least:
        raise ValueError(
            f"t-SNE looks at {_NEIGHBORS} x perplexity neighbors of each word: perplexity {least:g} needs "
            f"{math.ceil(_NEIGHBORS * least) + 1} words or more, found {count}"
        )
    return min(USUAL_PERPLEXITY, float(highest)) if asked is None else asked


def silhouettes(features: Features, words: Sequence[str]) -> Features:
    """How much nearer each of two words' embeddings is to those of its own word than to the other's (Rousseeuw 1987).

    (b - a) / max(a, b), where a is the mean Euclidean distance to the other embeddings of the same word, b that to
    those of the other word; 0 for a word with a single embedding. Their mean is the silhouette: 1 if the words lie far
    apart, about 0 if they are mixed.

    Args:
        features: (n, C).
        words: n words, two different ones.

    Returns:
        (n,) in [-1, 1].
    """
    from sklearn.metrics import silhouette_samples

    return np.asarray(silhouette_samples(features, list(words)), np.float64)


def tsne(features: Features, perplexity: float) -> Features:
    """Places of embeddings in a plane (van der Maaten and Hinton 2008), by scikit-learn.

    It starts from the first two principal components (own choice), so that nothing depends on a seed.

    Args:
        features: (n, C), n more than three times the perplexity.
        perplexity: See there.

    Returns:
        (n, 2).
    """
    from sklearn.manifold import TSNE

    found = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(features)
    return np.asarray(found, np.float64)


def panel(label: str, features: Features, words: Sequence[Occurrence], perplexity: float) -> Panel:
    """Show and measure how a model embeds two words.

    Args:
        label: Of the model.
        features: (n, C).
        words: What these embed.
        perplexity: Of t-SNE, see `perplexity_for`.
    """
    scores = silhouettes(features, [one.word for one in words])
    return Panel(label, words, tsne(features, perplexity), scores, perplexity)


def figure(pairs: Sequence[Sequence[Panel]]) -> npt.NDArray[np.uint8]:
    """Draw a row a pair of words, with a panel a model.

    Args:
        pairs: For each pair its panels, in the same order of models.

    Returns:
        (height, width, 3) RGB.
    """
    return np.concatenate([np.concatenate([_drawn(own) for own in row], 1) for row in pairs])


def _drawn(own: Panel) -> npt.NDArray[np.uint8]:
    said = np.array([one.word for one in own.occurrences])
    groups = []
    for word, color in zip(dict.fromkeys(said.tolist()), _COLORS, strict=True):
        x, y = own.places[said == word].T
        groups.append(charts.Series(f"{word} ({len(x)})", x.tolist(), y.tolist(), color))
    note = f"silhouette {own.silhouette:.3f}; t-SNE, perplexity {own.perplexity:g}"
    return charts.scatter_chart(groups, own.label, note, _PANEL)
