"""Clips whose lips move a known number of frames after their sound, and clips that have no correlation."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lipbench.evaluation import audio_motion, audio_motion_figures

RATE = 44_100
EVENTS = (8, 11, 17, 21, 22, 29, 34, 40)  # frames with which something changes
FRAMES = 50


def audio_of(events, frames=FRAMES, fps=25.0):
    """Noise that goes from quiet to loud or back with each event."""
    place = (np.arange(round(frames * RATE / fps)) * fps / RATE).astype(int)  # frame of each sample
    loud = np.searchsorted(np.asarray(events), place, side="right") % 2
    noise = np.random.default_rng(0).normal(size=len(place))
    return torch.from_numpy(noise * np.where(loud, 0.1, 0.001)).float()


def video_of(events, frames=FRAMES):
    """A texture that jumps by 3 pixels with each event."""
    draw = torch.Generator().manual_seed(0)
    texture = F.interpolate(torch.rand(1, 3, 24, 24, generator=draw), size=(96, 96), mode="bicubic").clamp(0, 1)[0]
    moved = [16 + 3 * (sum(event <= frame for event in events) % 2) for frame in range(frames)]
    return torch.stack([texture[:, 16:80, left : left + 64] for left in moved])


@dataclass
class Clip:
    """What is read of a stored clip."""

    sound: torch.Tensor
    video: torch.Tensor
    clip_id: str = "grid/s1/a"
    fps: float = 25.0
    sample_rate: int = RATE

    @property
    def n_frames(self):
        return len(self.video)

    def view(self, frames, view):
        assert view.size == (64, 64)
        return (self.video[frames] * 255).round().to(torch.uint8)

    def audio(self, rate):
        assert rate == RATE
        return self.sound.numpy()


@pytest.mark.parametrize("later", [-3, 0, 2])
@pytest.mark.parametrize("signed", [False, True])
def test_the_best_shift_is_how_much_later_the_lips_move(later, signed):
    shifts = range(-4, 5)
    events = EVENTS[1::2] if signed else EVENTS  # signed, only what gets louder is positive
    clip = Clip(audio_of(EVENTS if not signed else sorted([*events, *(e + 1 for e in events)])), video_of(()))
    clip.video = video_of([event + later for event in events])
    found = audio_motion.correlate(clip, shifts, signed=signed)
    assert found.reason == ""
    assert shifts[found.best] == later
    assert found.r[found.best] > (0.5 if signed else 0.9)
    assert found.r.min() < 0.3


def test_shifts_are_those_of_the_published_make_delay():
    audio, motion = torch.arange(20), torch.arange(100, 120)
    for shift, parts in (
        (3, (audio[:-3], motion[3:])),
        (-3, (audio[3:], motion[:-3])),
        (0, (audio, motion)),
    ):
        assert all(map(torch.equal, audio_motion.overlap(audio, motion, shift), parts))


def test_r_is_that_of_numpy():
    audio, motion = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 30)))
    found = audio_motion.shifted_correlation(audio, motion, (-1, 0, 5))
    expected = [np.corrcoef(audio[1:], motion[:-1]), np.corrcoef(audio, motion), np.corrcoef(audio[:-5], motion[5:])]
    np.testing.assert_allclose(found, [pair[0, 1] for pair in expected], rtol=1e-12)


def test_curves_must_be_of_one_length_and_long_enough():
    curve = torch.arange(20.0)
    with pytest.raises(ValueError, match="curves of 20 and 19 values"):
        audio_motion.shifted_correlation(curve, curve[1:], (0,))
    assert audio_motion.shifted_correlation(curve, curve, (-4, 4)).tolist() == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="leaves 15 pairs of frames; expected 16 or more"):
        audio_motion.shifted_correlation(curve, curve, (0, -5))


@pytest.mark.parametrize("fps", [25.0, 30000 / 1001, 50.0])
def test_audio_change_at_any_frame_rate(fps):
    change = audio_motion.audio_change(audio_of([20], fps=fps), fps, FRAMES)
    assert change.shape == (FRAMES - 1,)
    assert change.argmax() == 19  # from frame 19 to frame 20
    assert change[19] > 2 * change.sort().values[-2]


def test_signed_change_falls_where_the_audio_gets_quiet():
    samples = audio_of([10, 30])
    signed = audio_motion.audio_change(samples, 25.0, FRAMES, signed=True)
    absolute = audio_motion.audio_change(samples, 25.0, FRAMES)
    assert (int(signed.argmax()), int(signed.argmin())) == (9, 29)
    assert signed[9] == pytest.approx(40, abs=3)  # decibels: a factor of 100
    assert signed[29] == pytest.approx(-40, abs=3)
    assert bool((absolute >= signed.abs()).all())
    assert absolute[15:25].mean() > 3 * signed[15:25].abs().mean()  # noise: bands rise and fall


def test_frames_after_the_end_of_the_audio_are_silent():
    change = audio_motion.audio_change(audio_of((), frames=30), 25.0, FRAMES)
    assert change[29] > 20
    assert bool((change[30:] == 0).all())


def test_frames_that_are_too_short_are_refused():
    for frames, fps in ((1, 25.0), (50, 100.0), (50, 0.0)):
        with pytest.raises(ValueError, match="expected 2 or more, at up to 80 a second"):
            audio_motion.audio_change(torch.zeros(1000), fps, frames)


def test_lip_motion_is_in_pixels():
    motion = audio_motion.lip_motion(video_of([10]))
    assert motion.argmax() == 9
    assert motion[9] == pytest.approx(3, abs=0.5)
    assert motion[20] < 0.05


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (Clip(audio_of(EVENTS), video_of(())), "constant at a shift of -1 frames: lip motion"),
        (Clip(torch.zeros(50 * 1764), video_of(EVENTS)), "constant at a shift of -1 frames: audio change"),
        (Clip(torch.zeros(100), video_of(())), "constant at a shift of -1 frames: audio change and lip motion"),
        (Clip(torch.zeros(0), video_of(EVENTS)), "there is no audio"),
        (Clip(audio_of([7]), video_of([49])), "constant at a shift of -1 frames: lip motion"),  # beyond that shift
        (Clip(audio_of([7], 17), video_of([8], 17)), "the largest shift leaves 15 pairs of frames"),
        (Clip(audio_of([7], 1), video_of([8], 1)), "1 frames at 25 a second"),
    ],
)
def test_clips_without_an_r_have_a_reason(clip, reason):
    found = audio_motion.correlate(clip, (-1, 0, 1))
    assert found.reason.startswith(reason)
    assert len(found.r) == 0


def clip_of(name, r, reason=""):
    curve = np.random.default_rng(0).normal(size=30)
    return audio_motion.ClipCorrelation(name, RATE, curve, curve, np.asarray(r), reason)


def test_a_table_has_no_numbers_where_there_is_no_r():
    text = audio_motion.table([clip_of("a", [0.25, 1 / 3]), clip_of("b", [], "too short")], (-1, 0))
    assert text.splitlines() == ["clip_id,best_shift,r[-1],r[0],reason", "a,0,0.25,0.3333,", "b,,,,too short"]


def test_of_equal_r_the_first_counts():
    assert clip_of("a", [0.1, 0.4, 0.4]).best == 1


def test_examples_reach_from_weak_to_strong():
    clips = [clip_of(str(k), [k / 100, 0]) for k in range(16)]
    assert [clip.clip_id for clip in audio_motion_figures.examples(clips[::-1])] == ["2", "6", "10", "14"]
    assert [clip.clip_id for clip in audio_motion_figures.examples(clips[:2])] == ["0", "1"]


def test_curves_meet_after_the_shift():
    """Lips that repeat the audio three frames later: at the best shift one curve covers the other."""
    curve = np.random.default_rng(0).normal(size=33)
    shifts = (0, 3)
    early = audio_motion.ClipCorrelation("a", RATE, curve[3:], curve[:-3], np.array([0.1, 1.0]))
    late = replace(early, audio=curve[:-3], motion=curve[3:])
    meeting = audio_motion_figures.curves([replace(early)], shifts), audio_motion_figures.curves([late], shifts)
    blue = [int(((chart[50:180, 50:700, 2].astype(int) - chart[50:180, 50:700, 0]) > 80).sum()) for chart in meeting]
    assert blue[0] < 0.2 * blue[1]  # the orange line lies over the blue one
