import os

import numpy as np
import pytest

from lipbench.media import alignment, text
from lipbench.media.alignment import Word

GRID = "0 23750 sil\n23750 29500 bin\n29500 34000 blue\n34000 35500 at\n35500 41000 f\n41000 47250 two\n"


@pytest.fixture
def align(tmp_path):
    def write(content: str | bytes):
        path = tmp_path / "bbaf2n.align"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def spelled(words: list[Word]) -> list[str]:
    return text.symbols([w.word for w in alignment.spoken(words)])


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_grid_units_are_a_25000th_of_a_second(align, ends):
    words = alignment.read_align(align(GRID.replace("\n", ends) + ends))
    assert words[:2] == [Word(0.0, 0.95, "sil"), Word(0.95, 1.18, "bin")]
    assert [w.word for w in words] == ["sil", "bin", "blue", "at", "f", "two"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0 100 sil\n100 bin\n", "line 2: found '100 bin'; expected start, end, word"),
        ("0 100 sil\nabc 200 bin\n", "line 2"),
        ("0 100 sil\n200 150 bin\n", "line 2: the times .* run backwards"),
        ("0 100 sil\n50 150 bin\n", "line 2: the times .* run backwards"),
        ("0 100 sil\nnan 150 bin\n", "run backwards"),
        ("0 100 sil\n-50 150 bin\n", "run backwards"),
        ("0 100 sil\n100 inf bin\n", "run backwards"),
        ("0 100 sil\n100 100 bin\n", "line 2: the word of '100 100 bin' takes no time"),
        ("0 100 [/red]bin\n50 60 bin", r"line 2: the times of '50 60 bin'"),
        ("0 100 sil\n", "no spoken word"),
        (b"\xff\xfe\x00", "line 1"),
        ("", "no spoken word"),
    ],
)
def test_bad_files_are_named_with_their_line(align, content, message):
    with pytest.raises(ValueError, match=message):
        alignment.read_align(align(content))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_byte_order_marks_are_read(align, encoding):
    mark = "\ufeff" if encoding[-3:] in ("-le", "-be") else ""
    content = (mark + GRID.replace("\n", "\r\n")).encode(encoding)
    assert alignment.read_align(align(content)) == alignment.read_align(align(GRID))


def test_a_silence_may_take_no_time(align):
    assert alignment.read_align(align("0 0 sil\n0 150 bin\n150 150 sp\n"))[1] == Word(0.0, 0.006, "bin")


def test_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no alignment file: .*x\.align"):
        alignment.read_align(tmp_path / "x.align")


def test_pipes_and_folders_are_no_alignments(tmp_path):
    os.mkfifo(tmp_path / "pipe.align")
    (tmp_path / "folder.align").mkdir()
    for name in ("pipe.align", "folder.align"):
        with pytest.raises(ValueError, match=f"{name} is not a file"):
            alignment.read_align(tmp_path / name)


def test_a_word_is_spread_evenly_over_its_letters():
    words = [Word(0.0, 0.4, "sil"), Word(0.4, 0.88, "bin"), Word(0.88, 1.2, "sil")]
    assert alignment.durations(words, spelled(words), 30, 25).tolist() == [10, 4, 4, 4, 8]


def test_short_words_leave_letters_without_frames():
    # 1.5 frames for "at": centers 1.38 and 1.42 of frames 34 and 35; the second one lies on the word's end
    words = [Word(0.0, 1.36, "sil"), Word(1.36, 1.42, "at"), Word(1.42, 1.64, "f")]
    assert alignment.durations(words, spelled(words), 41, 25).tolist() == [34, 1, 0, 0, 6, 0]


def test_pauses_between_words_go_to_the_boundary():
    named = [Word(0.0, 0.2, "sil"), Word(0.2, 0.4, "a"), Word(0.4, 0.6, "sp"), Word(0.6, 0.8, "b")]
    assert alignment.durations(named, spelled(named), 25, 25).tolist() == [5, 5, 5, 5, 5]
    unnamed = [named[1], named[3]]
    assert alignment.durations(unnamed, spelled(unnamed), 25, 25).tolist() == [5, 5, 5, 5, 5]


@pytest.mark.parametrize(("n_frames", "fps"), [(75, 25), (74, 25), (10, 25), (1, 25), (89, 29.97), (149, 50)])
def test_frames_always_sum_to_the_clip(align, n_frames, fps):
    words = alignment.read_align(align(GRID))
    frames = alignment.durations(words, spelled(words), n_frames, fps)
    assert frames.sum() == n_frames
    assert (frames >= 0).all()
    assert frames.dtype == np.int64


def test_symbols_must_spell_the_words():
    words = [Word(0.0, 1.0, "bin")]
    with pytest.raises(ValueError, match=r"'\| a \|' does not spell 'bin'"):
        alignment.durations(words, ["|", "a", "|"], 25, 25)


def test_speech_frames_agree_with_durations(align):
    words = alignment.read_align(align(GRID + "47250 53000 now\n53000 74500 sil\n"))
    for n_frames in (75, 74):
        first, last = alignment.speech_frames(words, n_frames, 25)
        frames = alignment.durations(words, spelled(words), n_frames, 25)
        assert (first, last) == (24, 53)
        assert (frames[0], n_frames - frames[-1]) == (first, last)
    assert alignment.speech_frames(words, 10, 25) == (0, 10)
    assert alignment.speech_frames([Word(0, 1, "sil")], 25, 25) == (0, 25)


def test_every_real_alignment_gives_whole_clips(grid_root):
    paths = sorted((grid_root / "alignments").glob("s*/*.align"))
    assert len(paths) > 900
    for path in paths[::10]:
        words = alignment.read_align(path)
        assert len(alignment.spoken(words)) == 6
        assert alignment.durations(words, spelled(words), 75, 25).sum() == 75


def test_frames_of_words_are_those_whose_centers_lie_in_them():
    spoken = [Word(0.1, 0.14, "at"), Word(0.141, 0.15, "a"), Word(0.2, 0.3, "bin")]
    words = [Word(0, 0.1, "sil"), *spoken, Word(0.3, 0.4, "sil")]
    assert alignment.word_frames(words, 10, 25.0) == [("at", 2, 3), ("a", 4, 4), ("bin", 5, 7)]
    assert alignment.word_frames([], 10, 25.0) == []
