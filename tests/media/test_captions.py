"""Strips and videos for the eye: what is drawn where, and which word stands over which frame."""

import numpy as np
import pytest
import torch

from lipbench.media import captions, text


def video(levels, height=10, width=20):
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, height, width)


def strip(reference, generated, frames, words=None, made_words=None, sentence=""):
    rows = [captions.Row("reference", reference, words), captions.Row("generated", generated, made_words)]
    return captions.strip(rows, frames, sentence)


def blue(picture):
    """Where captions in the color of words are."""
    return picture[..., 2].astype(int) - picture[..., 0] > 80


def test_a_strip_shows_reference_over_generated_enlarged():
    picture = strip(video([0.0, 0.1, 0.2, 0.3]), video([1.0, 0.9, 0.8, 0.7]), [1, 3])
    scale = captions.factor(20)
    assert scale == 4
    height, width = 40, 80
    rows = np.flatnonzero((picture[:, -1] != 255).any(1))  # the last column of frames
    assert (np.diff(rows) == 1).sum() == 2 * height - 2
    top = rows[0]
    assert top >= 12  # a line of captions
    right, left = picture[:, -width:], picture[:, -2 * width - captions.GAP : -width - captions.GAP]
    for column, first, second in ((left, 0.1, 0.9), (right, 0.3, 0.7)):
        assert (column[top : top + height] == round(first * 255)).all()
        assert (column[top + height : top + height + captions.GAP] == 255).all()
        assert (column[top + height + captions.GAP : top + 2 * height + captions.GAP] == round(second * 255)).all()
    names = picture[top : top + 2 * height, : -2 * width - captions.GAP]
    assert (names[:height] < 100).any()
    assert (names[-height:] < 100).any()
    assert (picture[top + 2 * height + captions.GAP :, -width:] < 200).any()  # the number of the frame


def test_enlarging_repeats_pixels():
    frame = torch.zeros(1, 3, 4, 6)
    frame[0, 0, 1, 5] = 1  # one red pixel at row 1, column 5
    red = (strip(frame, frame, [0]) == (255, 0, 0)).all(-1)
    assert red.sum() == 2 * 4 * 4
    columns = np.nonzero(red)[1]
    assert columns.max() - columns.min() == 3
    assert columns.max() == red.shape[1] - 1


def test_a_shorter_video_keeps_its_last_frame():
    picture = strip(video([0.0] * 4), video([0.2, 0.4]), [0, 3])
    assert (picture[:, -1] == 102).all(-1).sum() == 40


def test_words_stand_over_the_frames_in_which_they_are_spoken():
    ids = torch.tensor([*text.encode(text.symbols(["bin", "at"])), 0, 0])  # | b i n | a t |, padded
    durations = torch.tensor([2, 1, 2, 1, 0, 1, 1, 3, 0, 0])
    words = captions.spoken(ids, durations)
    assert words == ["", "", "bin", "bin", "bin", "bin", "at", "at", "", "", ""]
    plain = strip(video([0.5] * 11), video([0.5] * 11), [0, 3, 4, 7, 10], [""] * 11)
    said = strip(video([0.5] * 11), video([0.5] * 11), [0, 3, 4, 7, 10], words)
    assert plain.shape == said.shape
    columns = np.flatnonzero((plain != said).any((0, 2)))
    first = said.shape[1] - 4 * 80 - 3 * captions.GAP  # of the second column
    assert columns.min() == first
    assert columns.max() == first + 3 * 80 + 2 * captions.GAP - 1
    longer = strip(video([0.5] * 11), video([0.5] * 11), [0, 3, 4, 7, 10], words, ["", "", *words])
    assert longer.shape[0] > said.shape[0]  # a line of its own for the generated row
    same = strip(video([0.5] * 11), video([0.5] * 11), [0, 3, 4, 7, 10], words, words)
    assert np.array_equal(same, said)


def test_a_sentence_without_times_stands_above():
    picture = strip(video([0.5]), video([0.5]), [0], sentence="bin blue at f two now")
    assert blue(picture[:24]).any()
    assert not blue(picture[24:]).any()


def test_videos_stand_side_by_side_with_their_words():
    frames = list(captions.side_by_side(video([0.1, 0.2]), video([0.3, 0.4, 0.6]), ["", "at"], ["at", "", ""]))
    assert len(frames) == 3
    assert {frame.shape for frame in frames} == {(2 * 24 + 40, 2 * 80 + captions.GAP, 3)}
    for frame, left, right in zip(frames, (26, 51, 51), (76, 102, 153), strict=True):
        assert (frame[24:64, :80] == left).all()
        assert (frame[24:64, -80:] == right).all()
        assert (frame[:24] < 100).any()  # reference, generated
    words = [(blue(frame[64:, :80]).any(), blue(frame[64:, -80:]).any()) for frame in frames]
    assert words == [(False, True), (True, False), (False, False)]


def test_rows_of_several_systems_have_labels_of_two_lines_and_words_of_their_own():
    said, other = ["", "at", "at"], ["", "", "at"]
    rows = [
        captions.Row("reference", video([0.1, 0.2, 0.3]), said),
        captions.Row("one\nversion_0/best, of a run whose name is long", video([0.4, 0.5, 0.6]), said),
        captions.Row("another", video([0.7, 0.8]), other),
        captions.Row("a last", video([0.9])),
    ]
    picture = captions.strip(rows, [0, 1, 2], fps=25)
    side = picture.shape[1] - 3 * 80 - 2 * captions.GAP
    assert 92 < side <= 240  # as wide as the longest label, and not wider
    tops = [24, 24 + 42, 24 + 2 * 42, 24 + 2 * 42 + 40 + 24]  # the third row has a line of words below it
    assert picture.shape[0] == tops[-1] + 40 + 24
    for top, levels in zip(tops, ((26, 51, 76), (102, 128, 153), (178, 204, 204), (230, 230, 230)), strict=True):
        for column, level in enumerate(levels):
            left = side + 82 * column
            assert (picture[top : top + 40, left : left + 80] == level).all()
        assert (picture[top : top + 40, :side] < 100).any()
    label = picture[tops[1] : tops[1] + 40, :side]
    assert (label[:20] < 60).any()  # the model in black
    assert 100 < label[24:].min() < 140  # its run in gray
    lines = [blue(picture[top:bottom, side:]).any(0) for top, bottom in ((0, 24), (tops[2] + 40, tops[3]))]
    assert [line[:82].any() for line in lines] == [False, False]
    assert [line[82:164].any() for line in lines] == [True, False]  # "at" is one column later
    assert [line[164:].any() for line in lines] == [True, True]


def test_captions_of_wide_frames_are_larger():
    heights = []
    for width in (160, 240):
        picture = captions.strip([captions.Row("reference", video([0.5], 4, width), ["bin"])], [0])
        heights.append(picture.shape[0] - 4 * captions.factor(width))
    assert heights == [2 * 24, 2 * 36]


def test_words_of_frames_come_from_spans():
    assert captions.words_at([("bin", 1, 3), ("at", 4, 5)], 6) == ["", "bin", "bin", "", "at", ""]


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(ValueError, match=r"one size: got \(3, 2, 2\) and \(3, 2, 3\)"):
        strip(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 3), [0])
    with pytest.raises(ValueError, match=r"one size: got \(3, 2, 2\) and \(3, 2, 3\)"):
        next(captions.side_by_side(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 3)))
    with pytest.raises(ValueError, match="one row and one frame; got 2 and 0"):
        strip(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), [])
    with pytest.raises(ValueError, match="one row and one frame; got 0 and 1"):
        captions.strip([], [0])
