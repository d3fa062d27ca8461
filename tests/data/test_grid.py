"""Finding GRID's clips in every layout."""

import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from lipbench.corpora import grid
from lipbench.corpora.grid import Grid
from lipbench.corpora.rendered import Rendered

TIMES = ((0, "sil"), (23750, "bin"), (29500, "blue"), (34000, "at"), (35500, "f"), (41000, "two"), (47250, "now"))
ENDS = (23750, 29500, 34000, 35500, 41000, 47250, 53000)
ALIGN = "".join(f"{start} {end} {word}\n" for (start, word), end in zip(TIMES, ENDS, strict=True)) + "53000 74500 sil\n"
LAYOUTS = {
    "Sheffield": ("s1/video/mpg_6000/bbaf2n.mpg", "s1/align/bbaf2n.align"),
    "Zenodo": ("s1/bbaf2n.mpg", "alignments/s1/bbaf2n.align"),
    "Zenodo unpacked twice": ("video/s1/s1/bbaf2n.mpg", "alignments/alignments/s1/bbaf2n.align"),
    "tutorial": ("data/s1/bbaf2n.mpg", "data/alignments/s1/bbaf2n.align"),
    "shared": ("video/s1/bbaf2n.mp4", "alignments/s1/bbaf2n.align"),
    "upper case": ("s1/BBAF2N.MPG", "s1/BBAF2N.align"),
    "speakers in upper case": ("S1/bbaf2n.mpg", "S1/bbaf2n.align"),
    "speakers in either case": ("video/S1/bbaf2n.mpg", "alignments/s1/bbaf2n.align"),
}


def put(root: Path, name: str, content: str = "") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str) -> None:
    video, align = LAYOUTS[layout]
    put(tmp_path, video), put(tmp_path, align, ALIGN)
    put(tmp_path, "README.txt"), put(tmp_path, "s1/._bbaf2n.mpg")
    (clip,) = Grid.scan(tmp_path)
    assert (clip.clip_id, clip.speaker, clip.sentence) == ("grid/s1/bbaf2n", "s1", "bin blue at f two now")
    assert (clip.video, clip.align, clip.problem) == (tmp_path / video, tmp_path / align, None)


def test_twice_the_same_clip(tmp_path: Path) -> None:
    for name in ("s1/video/mpg_vcd/bbaf2n.mpg", "s1/video/mpg_6000/bbaf2n.mp4", "s1/video/mpg_6000/bbaf2n.mpg"):
        put(tmp_path, name)
    put(tmp_path, "s1/align/bbaf2n.align", ALIGN)
    (clip,) = Grid.scan(tmp_path)
    assert clip.video == tmp_path / "s1/video/mpg_6000/bbaf2n.mpg"


def test_a_speaker_in_both_cases_is_one(tmp_path: Path) -> None:
    for name in ("video/S1/bbaf2n.mpg", "other/s1/bbaf2n.mpg", "video/s1/bbaf3s.mpg"):
        put(tmp_path, name)
    put(tmp_path, "alignments/s1/bbaf2n.align", ALIGN)
    assert [(clip.clip_id, clip.speaker) for clip in Grid.scan(tmp_path)] == [
        ("grid/s1/bbaf2n", "s1"),
        ("grid/s1/bbaf3s", "s1"),
    ]


def test_composed_and_decomposed_names_are_one(tmp_path: Path) -> None:
    """As in files that went through a Mac; the name spells no sentence, but it is one clip, with its alignment."""
    composed, decomposed = (unicodedata.normalize(form, "M\u00fcller") for form in ("NFC", "NFD"))
    put(tmp_path, f"a/s1/{decomposed}.mpg"), put(tmp_path, f"b/s1/{composed}.mpg")
    put(tmp_path, f"s1/{decomposed}.align", ALIGN)
    (clip,) = Grid.scan(tmp_path)
    assert clip.clip_id == f"grid/s1/{composed.lower()}"
    assert clip.align == tmp_path / f"s1/{decomposed}.align"


def test_a_file_wins_over_a_pipe_of_the_same_name(tmp_path: Path) -> None:
    put(tmp_path, "b/s1/bbaf2n.mp4"), put(tmp_path, "b/s1/bbaf2n.align", ALIGN)
    (tmp_path / "a/s1").mkdir(parents=True), (tmp_path / "c/s1").mkdir(parents=True)
    os.mkfifo(tmp_path / "a/s1/bbaf2n.mpg"), os.mkfifo(tmp_path / "c/s1/bbaf2n.align")
    (clip,) = Grid.scan(tmp_path)
    assert (clip.video, clip.align) == (tmp_path / "b/s1/bbaf2n.mp4", tmp_path / "b/s1/bbaf2n.align")


def test_alignments_under_the_wrong_speaker_are_found_by_name(tmp_path: Path) -> None:
    put(tmp_path, "s2/bbaf2n.mpg"), put(tmp_path, "alignments/s7/bbaf2n.align", ALIGN)
    (clip,) = Grid.scan(tmp_path)
    assert (clip.speaker, clip.align) == ("s2", tmp_path / "alignments/s7/bbaf2n.align")


def test_problems_seen_at_once(tmp_path: Path) -> None:
    put(tmp_path, "s1/bbaf2n.mpg"), put(tmp_path, "s1/notes.mpg"), put(tmp_path, "s1/bbaf3s.mpg")
    put(tmp_path, "s1/align/bbaf2n.align", ALIGN)
    fine, lonely, strange = Grid.scan(tmp_path)
    assert fine.problem is None
    assert lonely.problem == "no alignment file bbaf3s.align anywhere in the corpus folder"
    assert "notes.mpg spells no GRID sentence" in str(strange.problem)


def test_links_are_followed_and_circles_are_not_a_trap(tmp_path: Path) -> None:
    real = tmp_path / "disk" / "s1"
    put(real, "bbaf2n.mpg"), put(real, "bbaf2n.align", ALIGN)
    root = tmp_path / "corpus"
    root.mkdir()
    (root / "s1").symlink_to(real)
    (real / "again").symlink_to(real)
    assert [clip.clip_id for clip in Grid.scan(root)] == ["grid/s1/bbaf2n"]


def test_wrong_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        Grid.scan(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"inside speaker folders named s1.*found an empty folder"):
        Grid.scan(tmp_path)
    put(tmp_path, "films/holiday.mpg")
    with pytest.raises(FileNotFoundError, match="found films"):
        Grid.scan(tmp_path)
    put(tmp_path, "s1/bbaf2n.mpg")
    with pytest.raises(FileNotFoundError, match=r"found 1 video files but no alignments"):
        Grid.scan(tmp_path)
    monkeypatch.delenv("LIPBENCH_GRID", raising=False)
    with pytest.raises(FileNotFoundError, match="--root DIR, or set LIPBENCH_GRID"):
        Grid.locate()
    monkeypatch.setenv("LIPBENCH_GRID", str(tmp_path))
    assert Grid.locate() == tmp_path
    assert Grid.locate("there") == Path("there")


def test_downloaded_corpus_is_found(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.delenv("LIPBENCH_GRID", raising=False)
    (home / "corpora/grid").mkdir(parents=True)
    assert Grid.locate() == home / "corpora/grid"


def test_sentences() -> None:
    assert grid.sentence("swbw9s") is None, "GRID has no letter w"
    assert grid.sentence("pgixzp") == "place green in x zero please"
    assert grid.sentence("srbo1a") == "set red by o one again"
    assert grid.sentence("lwwv4s") == "lay white with v four soon"
    assert grid.sentence("bbaf2") is None


def test_alignment_that_says_something_else(tmp_path: Path) -> None:
    put(tmp_path, "s1/bbaf3s.mpg"), put(tmp_path, "s1/bbaf3s.align", ALIGN)
    (clip,) = Grid.scan(tmp_path)
    with pytest.raises(ValueError, match="says 'bin blue at f two now', the file name 'bin blue at f three soon'"):
        Grid.durations.words(clip)


def test_rendered_corpus_knows_its_truth(tmp_path: Path) -> None:
    put(tmp_path, "video/s1/bbaf2n.mpg"), put(tmp_path, "alignments/s1/bbaf2n.align", ALIGN)
    put(tmp_path, "exact/s1/bbaf2n.npz")
    (clip,) = Rendered.scan(tmp_path)
    assert (clip.clip_id, clip.exact) == ("rendered/s1/bbaf2n", tmp_path / "exact/s1/bbaf2n.npz")


def test_real_clips(grid_root: Path, tmp_path: Path) -> None:
    clips = Grid.scan(grid_root)
    assert len(clips) == 969
    assert all(clip.problem is None for clip in clips)
    assert len({clip.speaker for clip in clips}) == 13
    for clip in clips[::20]:
        assert " ".join(w.word for w in Grid.durations.words(clip) if w.word not in ("sil", "sp")) == clip.sentence
    crlf = tmp_path / "s1"
    crlf.mkdir()
    assert clips[0].align is not None
    shutil.copy(clips[0].video, crlf)
    (crlf / clips[0].align.name).write_bytes(clips[0].align.read_bytes().replace(b"\n", b"\r\n"))
    (copy,) = Grid.scan(tmp_path)
    assert Grid.durations.words(copy) == Grid.durations.words(clips[0])
