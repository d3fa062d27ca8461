"""Strips and videos for the eye: what is drawn where, and which word stands over which frame."""

import numpy as np
import pytest
import torch

from lipbench.media import captions, text


def video(levels, height=10, width=20):
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, height, width)


def blue(picture):
    """Where captions in the color of words are."""
    return picture[..., 2].astype(int) - picture[..., 0] > 80


def test_a_strip_shows_reference_over_generated_enlarged():
    picture = captions.strip(video([0.0, 0.1, 0.2, 0.3]), video([1.0, 0.9, 0.8, 0.7]), [1, 3])
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
    red = (captions.strip(frame, frame, [0]) == (255, 0, 0)).all(-1)
    assert red.sum() == 2 * 4 * 4
    columns = np.nonzero(red)[1]
    assert columns.max() - columns.min() == 3
    assert columns.max() == red.shape[1] - 1


def test_a_shorter_video_keeps_its_last_frame():
    picture = captions.strip(video([0.0] * 4), video([0.2, 0.4]), [0, 3])
    assert (picture[:, -1] == 102).all(-1).sum() == 40


def test_words_stand_over_the_frames_in_which_they_are_spoken():
    ids = torch.tensor([*text.encode(text.symbols(["bin", "at"])), 0, 0])  # | b i n | a t |, padded
    durations = torch.tensor([2, 1, 2, 1, 0, 1, 1, 3, 0, 0])
    words = captions.spoken(ids, durations)
    assert words == ["", "", "bin", "bin", "bin", "bin", "at", "at", "", "", ""]
    plain = captions.strip(video([0.5] * 11), video([0.5] * 11), [0, 3, 4, 7, 10], [""] * 11)
    said = captions.strip(video([0.5] * 11), video([0.5] * 11), [0, 3, 4, 7, 10], words)
    assert plain.shape == said.shape
    columns = np.flatnonzero((plain != said).any((0, 2)))
    first = said.shape[1] - 4 * 80 - 3 * captions.GAP  # of the second column
    assert columns.min() == first
    assert columns.max() == first + 3 * 80 + 2 * captions.GAP - 1
    longer = captions.strip(video([0.5] * 11), video([0.5] * 11), [0, 3, 4, 7, 10], words, ["", "", *words])
    assert longer.shape[0] > said.shape[0]  # a line of its own for the generated row
    same = captions.strip(video([0.5] * 11), video([0.5] * 11), [0, 3, 4, 7, 10], words, words)
    assert np.array_equal(same, said)


def test_a_sentence_without_times_stands_above():
    picture = captions.strip(video([0.5]), video([0.5]), [0], sentence="bin blue at f two now")
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


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(ValueError, match=r"one size: got \(3, 2, 2\) and \(3, 2, 3\)"):
        captions.strip(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 3), [0])
    with pytest.raises(ValueError, match=r"one size: got \(3, 2, 2\) and \(3, 2, 3\)"):
        next(captions.side_by_side(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 3)))
    with pytest.raises(ValueError, match="at least one frame"):
        captions.strip(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), [])
