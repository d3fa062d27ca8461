"""`prepare --durations`: a lip reader that knows the text says when it is said."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from lipbench import cli
from lipbench.corpora.rendered import Rendered
from lipbench.data.store import Store, StoredClip
from lipbench.media import alignment, text
from lipbench.media.alignment import Span
from lipbench.pretrained import bundled
from lipbench.scoring.aligner import ReaderAligner

READER = "lipnet-small[rendered]"
FILE = str(bundled.FOLDER / f"{READER}.safetensors")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """Two rendered clips with the durations of their files, and as a reader sees them; and one of them as own video."""
    home = tmp_path_factory.mktemp("seen")
    rendered = ["prepare", "--data", "rendered", "--speakers", "1", "--clips", "2", "--landmarks", "exact"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIPBENCH_HOME", str(home))
        assert cli.main([*rendered, "--workers", "1"]) == 0
        for how in ("mas", "mas-words"):
            more = ["--durations", how, "--reader", READER, "--store", str(home / how), "--workers", "1"]
            assert cli.main([*rendered, *more]) == 0
        video = Rendered.scan(home / "corpora" / "rendered")[0].video
        (home / "own").mkdir()
        for name in ("said", "silent"):
            shutil.copy(video, home / "own" / f"{name}{video.suffix}")
        stored = Store(home / "stores" / "rendered")
        (home / "own" / "said.txt").write_text(f"{stored[stored.clip_ids[0]].text.capitalize()}.\n")
        words = ["prepare", "--data", "folder", "--root", str(home / "own"), "--store", str(home / "folder")]
        assert cli.main([*words, "--durations", "mas", "--reader", FILE, "--workers", "1"]) == 0
    return {
        "files": stored,
        **{name: Store(home / name) for name in ("mas", "mas-words", "folder")},
    }


def edges(clip: StoredClip) -> np.ndarray:
    """First and last frames of words."""
    return np.array([word[2:] for word in alignment.spans([s == "|" for s in clip.symbols], clip.durations)])


def test_words_are_where_the_lips_say_them(prepared: dict[str, Store]) -> None:
    errors = []
    for name in prepared["files"].clip_ids:
        true, seen = prepared["files"][name], prepared["mas"][name]
        assert seen.text == true.text
        assert seen.durations.sum() == true.n_frames
        errors.append(np.abs(edges(seen) - edges(true)))
        timed = [word for word in seen.words if word.word not in alignment.SILENCES]
        frames = [(round(word.start * 25), round(word.end * 25)) for word in timed]
        assert [list(pair) for pair in frames] == edges(seen).tolist()
        assert list(seen.speech) == [frames[0][0], frames[-1][1]]
    assert np.concatenate(errors).mean() < 2
    settings = prepared["mas"].manifest["settings"]
    assert settings["durations"] == "mas"
    assert settings["reader"].startswith("lipnet.LipNet sha256 ")


def test_inside_known_words_only_letters_move(prepared: dict[str, Store]) -> None:
    moved = 0
    for name in prepared["files"].clip_ids:
        true, seen = prepared["files"][name], prepared["mas-words"][name]
        assert edges(seen).tolist() == edges(true).tolist()
        assert seen.words == true.words
        moved += int((seen.durations != true.durations).sum())
    assert moved > 10


def test_own_videos_have_their_text_beside_them(prepared: dict[str, Store]) -> None:
    store, true = prepared["folder"], prepared["files"]
    (name,) = store.clip_ids
    assert store[name].text == true[true.clip_ids[0]].text
    assert store.has_text
    assert np.abs(edges(store[name]) - edges(true[true.clip_ids[0]])).mean() < 2.5
    (reason,) = (line["reason"] for line in store.manifest["rejected"].values())
    assert reason == "no text: expected silent.txt beside the video"


def test_spans_of_words() -> None:
    symbols = ["|", "a", "t", "|", "f", "|"]
    silent = [symbol == "|" for symbol in symbols]
    assert alignment.spans(silent, np.array([2, 1, 3, 0, 4, 5])) == [Span(1, 3, 2, 6), Span(4, 5, 6, 10)]
    assert alignment.spans([False, True, True, False, False], [1, 2, 0, 3, 4]) == [Span(0, 1, 0, 1), Span(3, 5, 3, 10)]
    words = alignment.timed(["at", "f"], symbols, np.array([2, 1, 3, 0, 4, 5]), 10.0)
    assert words == [(0.0, 0.2, "sil"), (0.2, 0.6, "at"), (0.6, 1.0, "f"), (1.0, 1.5, "sil")]
    words = alignment.timed(["at", "f"], symbols, np.array([0, 1, 3, 2, 4, 0]), 10.0)
    assert words == [(0.0, 0.4, "at"), (0.4, 0.6, "sp"), (0.6, 1.0, "f")]


def test_aligners_go_to_other_processes_without_their_network() -> None:
    aligner = ReaderAligner(FILE)
    sent = pickle.dumps(aligner)
    assert len(sent) < 1000
    pictures = np.random.default_rng(0).integers(0, 255, (30, 352, 320, 3), np.uint8)
    symbols = text.symbols(["bin", "blue"])
    found = aligner.durations(pictures, symbols)
    assert found.sum() == 30
    assert found.tolist() == pickle.loads(sent).durations(pictures, symbols).tolist()
    with pytest.raises(ValueError, match="10 symbols in 9 frames"):
        aligner.durations(pictures[:9], symbols)


@pytest.mark.parametrize(
    ("code", "words", "told"),
    [
        (2, ["--durations", "mas"], "--durations mas or mas-words and --reader FILE go together"),
        (2, ["--reader", FILE], "--durations mas or mas-words and --reader FILE go together"),
        (1, ["--durations", "mas", "--reader", "nowhere.safetensors"], "nowhere.safetensors"),
        (
            1,
            ["--durations", "mas", "--reader", str(bundled.FOLDER / "syncnet-small[rendered].safetensors")],
            "which does not read",
        ),
    ],
)
def test_wrong_input(
    code: int, words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["prepare", "--data", "folder", "--root", str(tmp_path), *words]) == code
    message = capsys.readouterr().err
    assert told in message
    assert "Traceback" not in message
