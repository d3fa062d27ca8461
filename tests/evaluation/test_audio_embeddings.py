"""Words by their audio embeddings: which frames are summed up, what the silhouette is, and what t-SNE shows."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lipbench.data.store import Store
from lipbench.evaluation import audio_embeddings
from lipbench.evaluation.audio_embeddings import Occurrence
from lipbench.media import charts, text
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipSpec, View

sys.path.append(str(Path(__file__).parents[1] / "data"))
from made_up_store import make_store

IDS = [f"rendered/s1/clip{k}" for k in range(6)]  # sentences in turn: "bin ...", "place ...", "set ..."


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Six clips of 60 frames: six words of 0.333 s each from 0.2 s on."""
    return Store(make_store(tmp_path_factory.mktemp("store"), IDS, [60] * 6, "rendered"))


class Counts(GenerativeModel):
    """Embeds a frame by its number and the loudness of its clip."""

    clip_spec = ClipSpec(frames={"video": View("mouth", 4, 8)}, audio_rate=8000)

    def __init__(self, wrong=lambda found: found):
        super().__init__()
        self.wrong = wrong

    def build_optimizers(self):
        raise NotImplementedError

    def compute_step(self, batch):
        raise NotImplementedError

    needs = frozenset()

    def generate(self, batch, timing):
        raise NotImplementedError

    def audio_embeddings(self, batch):
        assert set(batch) == {"audio", "audio_len", "fps", "n_frames"}
        assert batch["audio"].shape == (1, int(batch["audio_len"]))
        frames = torch.arange(int(batch["n_frames"]), dtype=torch.float32)
        return self.wrong(torch.stack([frames, batch["audio"].mean().expand_as(frames)], -1)[None])


def test_words_are_found_by_their_times(store: Store) -> None:
    found = audio_embeddings.occurrences(store, IDS, ["bin", "blue", "zero"], text.CHARACTERS)
    assert [one.clip_id for one in found["bin"]] == [IDS[0], IDS[3]]  # of the first sentence
    assert {(one.first, one.last) for one in found["bin"]} == {(5, 13)}  # centers from 0.2 to 0.533 s
    assert {(one.first, one.last) for one in found["blue"]} == {(13, 22)}  # to 0.867 s
    assert [one.clip_id for one in found["zero"]] == [IDS[2], IDS[5]]
    assert audio_embeddings.occurrences(store, IDS[:2], ["zero"], text.CHARACTERS) == {"zero": []}


def test_a_sample_is_the_same_in_every_run_and_grows(store: Store) -> None:
    words = ["bin", "place"]
    samples = [audio_embeddings.occurrences(store, ids, words, text.CHARACTERS, 1) for ids in (IDS, IDS[::-1])]
    assert samples[0] == samples[1]
    whole = audio_embeddings.occurrences(store, IDS, words, text.CHARACTERS, 2)
    for word in words:
        assert len(samples[0][word]) == 1
        assert set(samples[0][word]) < set(whole[word])


def test_embeddings_of_a_word_are_summed_over_its_frames(store: Store) -> None:
    words = [Occurrence(IDS[1], "place", 5, 13), Occurrence(IDS[1], "red", 13, 21), Occurrence(IDS[4], "red", 13, 21)]
    done: list[int] = []
    found = audio_embeddings.embed(Counts(), store, words, done.append)
    loudness = [100 * (k + 1) / 32768 for k in (1, 1, 4)]
    expected = [[sum(range(5, 13)), 8 * loudness[0]], [sum(range(13, 21)), 8 * loudness[1]]]
    np.testing.assert_allclose(found, [*expected, [sum(range(13, 21)), 8 * loudness[2]]], rtol=1e-4)
    assert done == [1, 1]  # a clip at a time


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda found: found[:, :-1], r"returned \(1, 59, 2\); expected \(B, T, C\), here \(1, 60, C\)"),
        (lambda found: found[0], r"returned \(60, 2\)"),
        (torch.zeros_like, "Counts gives the same embedding for all words"),
        (lambda found: found / 0, "gives embeddings that are not finite"),
    ],
)
def test_what_is_no_embedding_is_refused(store: Store, wrong, message: str) -> None:
    words = [Occurrence(IDS[0], "bin", 5, 13), Occurrence(IDS[1], "place", 5, 13)]
    with pytest.raises(ValueError, match=message):
        audio_embeddings.embed(Counts(wrong), store, words)


def test_the_silhouette_is_rousseeuws() -> None:
    features = np.array([[0.0, 0], [0, 2], [6, 0], [6, 2], [2, 1]])
    words = ["b", "b", "p", "p", "p"]
    distance = np.linalg.norm(features[:, None] - features, axis=-1)
    by_hand = []
    for k, word in enumerate(words):
        own = [distance[k, j] for j in range(5) if words[j] == word and j != k]
        other = [distance[k, j] for j in range(5) if words[j] != word]
        a, b = np.mean(own), np.mean(other)
        by_hand.append((b - a) / max(a, b))
    np.testing.assert_allclose(audio_embeddings.silhouettes(features, words), by_hand, atol=1e-12)
    assert by_hand[4] < 0 < by_hand[0]  # the last one lies nearer to the other word


def test_the_perplexity_is_what_the_words_allow() -> None:
    assert [audio_embeddings.perplexity_for(count) for count in (1000, 91, 90, 46, 16)] == [30, 30, 29, 15, 5]
    assert audio_embeddings.perplexity_for(31, 10) == 10
    with pytest.raises(ValueError, match="perplexity 5 needs 16 words or more, found 15"):
        audio_embeddings.perplexity_for(15)
    with pytest.raises(ValueError, match=r"perplexity 10\.5 needs 33 words or more, found 31"):
        audio_embeddings.perplexity_for(31, 10.5)


@pytest.fixture(scope="module")
def panels() -> list[audio_embeddings.Panel]:
    """Two words far apart, and two that are mixed, in eight dimensions."""
    noise = np.random.default_rng(0).normal(size=(40, 8))
    words = [Occurrence(f"clip{k:02}", "b" if k < 20 else "p", 0, 1) for k in range(40)]
    apart = noise + 40 * (np.arange(40) < 20)[:, None]
    return [audio_embeddings.panel(label, own, words, 5) for label, own in (("apart", apart), ("mixed", noise))]


def test_tsne_shows_what_the_silhouette_says(panels: list[audio_embeddings.Panel]) -> None:
    apart, mixed = panels
    assert apart.silhouette > 0.9
    assert abs(mixed.silhouette) < 0.1
    assert apart.silhouette == pytest.approx(apart.silhouettes.mean())
    words = [one.word for one in apart.occurrences]
    shown = [audio_embeddings.silhouettes(own.places, words).mean() for own in panels]
    assert shown[0] > 0.5 > 0.2 > shown[1]


def test_the_same_embeddings_give_the_same_plot(panels: list[audio_embeddings.Panel]) -> None:
    noise = np.random.default_rng(0).normal(size=(40, 8))
    again = audio_embeddings.tsne(noise, 5)
    assert np.array_equal(again, panels[1].places)
    assert not np.array_equal(audio_embeddings.tsne(noise, 10), again)


def test_the_figure_has_a_row_a_pair_and_both_colors_in_each_panel(
    panels: list[audio_embeddings.Panel], tmp_path: Path
) -> None:
    picture = audio_embeddings.figure([panels, panels[::-1]])
    height, width = audio_embeddings._PANEL
    assert picture.shape == (2 * height, 2 * width, 3)
    assert np.array_equal(picture[:height, :width], picture[height:, width:])
    for color in (charts.BLUE, charts.ORANGE):
        dots = (np.abs(picture.astype(int) - color).max(-1) < 20)[44:height, :width]  # below the legend
        assert 20 * 40 < dots.sum() < 20 * 70  # of a radius of 4.5 px less the white line around
