"""Parts of dubbing: frames one at a time, pieces, the mask, colors."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from lipbench.generation import dubbing, talking
from lipbench.media import geometry, landmarks, video
from lipbench.models.lipgan import LipGAN
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipSpec, View

FACE = View("face", 96, 96)


def moving(count: int) -> np.ndarray:
    """(T, 48, 64, 3) frames that tell their number: brightness, twice the number."""
    return np.repeat(2 * np.arange(count, dtype=np.uint8), 48 * 64 * 3).reshape(count, 48, 64, 3)


@pytest.mark.parametrize("fps", [25, 12.5, 24, 30000 / 1001, 50])
def test_frames_one_at_a_time_are_those_of_the_whole_video(fps, tmp_path, capsys):
    path = tmp_path / "numbers.avi"
    video.write_video(path, moving(40), fps)
    whole = video.read_video(path, 25).frames
    target = dubbing.film(path)
    single = list(target.frames())
    assert [frame[0, 0, 0] for frame in single] == [frame[0, 0, 0] for frame in whole]
    assert len(list(target.frames())) == len(single)  # from the beginning
    assert abs(target.expected - len(single)) <= 1
    said = f"numbers.avi has {fps:.5g} frames a second; 25 are taken, each the nearest in time\n"
    assert capsys.readouterr().out == ("" if fps == 25 else said)


def test_a_film_without_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.mp4"):
        dubbing.film(tmp_path / "nothing.mp4")


def test_after_the_last_frame():
    frames = list(moving(3))
    assert [frame[0, 0, 0] for _, frame in zip(range(6), dubbing._held(iter(frames)), strict=False)] == [
        0,
        2,
        4,
        4,
        4,
        4,
    ]
    again = dubbing._repeated(lambda: iter(frames))
    assert [frame[0, 0, 0] for _, frame in zip(range(6), again, strict=False)] == [0, 2, 4, 0, 2, 4]


def test_pieces_hold_all_frames_and_bounded_memory():
    frames = list(moving(80)) * 8
    pieces = list(dubbing._pieces(iter(frames)))
    assert [len(piece) for piece in pieces] == [250, 250, 140]
    assert all(a is b for a, b in zip(chain(*pieces), frames, strict=True))
    large = [np.zeros((1080, 1920, 3), np.uint8)] * 45
    assert [len(piece) for piece in dubbing._pieces(large)] == [20, 20, 5]


@pytest.mark.parametrize("front_end", ["mel", "mfcc"])
def test_pieces_of_sound_make_the_frames_of_the_whole(front_end):
    torch.manual_seed(0)
    model = LipGAN(
        24, front_end, (4, 4, 4, 8), (1, 1, 0), (4, 4, 4, 8), (1, 1, 1, 1), 1, 8, adversarial_weight=0
    ).eval()
    random = np.random.default_rng(0)
    samples = (random.normal(0, 0.1, 16000 * 2 + 321) * np.sin(np.arange(32321) / 3000)).astype(np.float32)
    poses = torch.rand(51, 3, 24, 24)
    watched: list = []
    points = torch.rand(68, 2)
    identity = {"identity": torch.rand(1, 1, 3, 24, 24), "identity_landmarks": points[None, None]}
    speech = talking.from_sound(model, identity, samples, 16000, 51, lambda batch, timing: watched.append(batch))
    whole, pieces = at_once(speech, poses), piecewise(speech, poses)
    assert whole.shape == poses.shape
    assert torch.allclose(pieces, whole, atol=1e-5)
    assert [batch["pose"].shape[1] for batch in watched] == [51, 30]  # the whole; a first piece and what follows it
    assert all(torch.equal(batch["identity_landmarks"], points[None, None]) for batch in watched)
    assert not torch.allclose(whole[1:], whole[:-1], atol=1e-5)
    seen = poses.clone()
    seen[:, :, 12:] = 0.5  # what it shall make, it is not shown
    assert torch.equal(at_once(speech, seen), whole)


def at_once(speech: talking.Speech, poses: torch.Tensor) -> torch.Tensor:
    return speech.make(talking.Piece(0, poses, poses[:0], poses[:0]))


def piecewise(speech: talking.Speech, poses: torch.Tensor, size: int = 20) -> torch.Tensor:
    pieces = [(first, poses[first : first + size]) for first in range(0, len(poses), size)]
    made = list(talking.in_pieces(speech, iter(pieces), lambda: (seen for _, seen in pieces)))
    assert [first for first, _ in made] == [first for first, _ in pieces]
    return torch.cat([frames for _, frames in made])


class Toy(GenerativeModel):
    """Frames from the loudness of the audio in each frame and from the poses, mixed over time by a subclass."""

    timings = frozenset({"free"})
    paper = "none"

    @property
    def clip_spec(self) -> ClipSpec:
        return ClipSpec(frames={"video": View("face", 8, 8)}, audio_rate=self.rate, keys=frozenset({"audio"}))

    def __init__(self, rate: int = 16000) -> None:
        super().__init__()
        self.rate = rate

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"audio", "audio_len", "fps", "pose", "pose_len"})

    def build_optimizers(self):
        return {}

    def compute_step(self, batch):
        raise NotImplementedError

    def generate(self, batch, timing):
        count = round(batch["audio"].shape[1] * 25 / self.rate)
        loudness = torch.stack([part.square().mean() for part in batch["audio"][0].tensor_split(count)])  # (N,)
        pose = batch["pose"][0, torch.arange(count) % len(batch["pose"][0])].mean((1, 2, 3))  # (N,)
        mixed = self.mix(torch.stack([100 * loudness, pose], 1))  # (N,)
        return {"video": mixed[None, :, None, None, None].expand(1, -1, 3, 8, 8), "video_len": torch.tensor([count])}


class Convolutional(Toy):
    context = 6

    def __init__(self, rate=16000):
        super().__init__(rate)
        self.net = torch.nn.Sequential(
            torch.nn.Conv1d(2, 4, 7, padding=3), torch.nn.Tanh(), torch.nn.Conv1d(4, 1, 7, padding=3)
        )

    def mix(self, x):
        return self.net(x.T[None])[0, 0]


class Windowed(Toy):
    """Attention of every frame over those up to 15 away."""

    context = 15

    def mix(self, x):
        far = (torch.arange(len(x))[:, None] - torch.arange(len(x))).abs() > self.context
        return (x @ x.T).masked_fill(far, -torch.inf).softmax(1) @ x[:, 0]


class Blocks(Toy):
    """Frames 0 to 6, 7 to 13, ... see each other: counted from the beginning of the clip, so it needs the whole."""

    def mix(self, x):
        return torch.cat([part.sum() * part[:, 0] for part in x.split(7)])


class Recurrent(Toy):
    def __init__(self, rate=16000):
        super().__init__(rate)
        self.net = torch.nn.GRU(2, 1, bidirectional=True)
        with torch.no_grad():
            for weight in self.net.parameters():
                weight.mul_(0.1)
            self.net.bias_ih_l0[1] = 4.0  # it forgets slowly

    def mix(self, x):
        return self.net(x)[0].sum(1)


class Normalized(Toy):
    """A global encoder: its features are relative to those of the whole utterance."""

    def mix(self, x):
        return ((x - x.mean(0)) / x.std(0)).sum(1)


@pytest.mark.parametrize("rate", [16000, 22050])
@pytest.mark.parametrize("kind", [Convolutional, Windowed, Blocks, Recurrent, Normalized])
def test_pieces_make_the_frames_of_the_whole_whatever_the_model(kind, rate):
    torch.manual_seed(0)
    model = kind(rate).eval()
    assert (kind.context is None) == (kind in (Blocks, Recurrent, Normalized))
    random = np.random.default_rng(0)
    count = rate // 25 * 93
    samples = (random.normal(0, 0.1, count) * np.sin(np.arange(count) / 3000)).astype(np.float32)
    speech = talking.from_sound(model, {}, samples, rate, 93, lambda *_: None)
    poses = torch.rand(93, 1, 1, 1).expand(-1, 3, 8, 8)
    whole = at_once(speech, poses)
    for size in (20, 30, 250):
        torch.testing.assert_close(piecewise(speech, poses, size), whole, rtol=1e-4, atol=1e-6)
    if kind is not Blocks:  # a shorter context than the model says is too short
        short = talking.Speech(93, speech.make, 0)
        assert not torch.allclose(piecewise(short, poses), whole, rtol=1e-4, atol=1e-6)


def test_no_more_is_read_ahead_than_the_context_takes():
    poses, read = torch.rand(100, 3, 2, 2), []

    def pieces():
        for first in range(0, 100, 20):
            read.append(first)
            yield first, poses[first : first + 20]

    surroundings = []
    speech = talking.Speech(
        100, lambda piece: surroundings.append((len(piece.before), len(piece.after))) or piece.shown, 6
    )
    made = talking.in_pieces(speech, pieces(), lambda: pytest.fail("it was looked at twice"))
    assert next(made)[0] == 0
    assert read == [0, 20]
    assert torch.equal(torch.cat([poses[:20], *(frames for _, frames in made)]), poses)
    assert surroundings == [(0, 10), (10, 10), (10, 10), (10, 10), (10, 0)]


def test_the_mask_of_the_lower_face():
    mask = dubbing.lower_face()
    top, left, bottom, right = geometry.box("lower_face")
    outside = np.ones(mask.shape, bool)
    outside[top:bottom, left:right] = False
    assert (mask[outside] == 0).all()
    assert mask[top, :].max() == 0
    points = np.rint(np.add(geometry.TEMPLATE, (left, top - 128))).astype(int)  # (68, 2)
    assert mask[points[48:, 1], points[48:, 0]].min() == 1  # the mouth
    assert mask[points[17:27, 1], points[17:27, 0]].max() == 0  # brows
    assert mask[points[36:48, 1], points[36:48, 0]].max() == 0  # eyes
    assert np.abs(np.diff(mask, axis=0)).max() < 0.1  # no edge
    assert np.abs(np.diff(mask, axis=1)).max() < 0.1
    assert np.abs(mask[:, left:right] - mask[:, left:right][:, ::-1]).max() < 0.15


def test_colors_meet_at_the_border():
    coarse = torch.rand(1, 3, 11, 10, generator=torch.Generator().manual_seed(0))
    truth = (geometry.resize(coarse, (352, 320))[0] * 180 + 40).round().to(torch.uint8)  # (3, 352, 320)
    around = truth.permute(1, 2, 0).numpy()
    cast = torch.tensor([0.8, 0.9, 1.1])[:, None, None]
    made = (geometry.crop(truth, FACE).float() / 255 * cast).clamp(0, 1)
    mask = dubbing.lower_face()
    ring = (mask > 0.1) & (mask < 0.9)
    plain = geometry.paste(truth.float() / 255, made, FACE).permute(1, 2, 0).numpy() * 255
    step = np.abs(plain - around)[ring].mean()
    left = np.abs(dubbing.matched(around, made, FACE, mask).astype(float) - around)[ring].mean()
    assert step > 10
    assert left < 0.4 * step


class Blobs:
    """A landmarker of bright squares, which it takes for faces, the largest first."""

    name = "blobs"

    def detect(self, frame):
        bright = frame[..., 0] > 200
        if not bright.any():
            return None
        columns = np.flatnonzero(np.diff(np.pad(bright.any(0), 1).astype(int))).reshape(-1, 2)
        left, right = max(columns.tolist(), key=lambda pair: pair[1] - pair[0])
        rows = np.flatnonzero(bright[:, left])
        return float(left), float(rows[0]), float(right - 1), float(rows[-1])

    def points(self, frame, box):
        """The template, put where the brightest part of the box lies."""
        left, top, right, bottom = (round(side) for side in box)
        margin = (right - left) // 4
        x, y = max(0, left - margin), max(0, top - margin)
        rows, columns = np.nonzero(frame[y : bottom + margin, x : right + margin, 0] > 200)
        if len(rows) == 0:  # on background, predictors fill what they are given
            rows, columns = np.array([0, bottom - top]), np.array([0, right - left])
        own = landmarks.box_of(geometry.TEMPLATE)
        corner, scale = (x + columns.min(), y + rows.min()), np.ptp(columns) / (own[2] - own[0])
        return ((geometry.TEMPLATE - own[:2]) * scale + corner).astype(np.float32)


def squares(count: int, *tracks) -> list[np.ndarray]:
    """Frames with squares of a size, each moving as its function says; None is away."""
    frames = np.zeros((count, 120, 400, 3), np.uint8)
    for size, place in tracks:
        for k in range(count):
            if place(k) is not None:
                frames[k, 30 : 30 + size, place(k) : place(k) + size] = 255
    return list(frames)


def follow(frames, wanted) -> tuple[np.ndarray, np.ndarray]:
    """(T,) middle of the followed square, and whether it was found."""
    target = dubbing.Target(Path("squares"), lambda: iter(frames), len(frames))
    face = dubbing.find(target, Blobs(), wanted, None)
    track = dubbing._follow(target, face, Blobs(), len(frames))
    return landmarks.box_of(track.points)[:, [0, 2]].mean(1), track.found


@pytest.mark.parametrize("wanted", [0, 1])
def test_the_same_face_is_followed_beside_a_larger_one(wanted, monkeypatch, capsys):
    monkeypatch.setattr(dubbing, "_BYTES", 1)  # pieces of 20 frames
    small, large = (40, lambda k: 20 + k), (60, lambda k: 320 - k)  # at the end 140..180 and 200..260
    where, found = follow(squares(120, small, large), wanted)
    size, place = (small, large)[wanted]
    assert found.all()
    assert where == pytest.approx(np.array([place(k) for k in range(120)]) + (size - 1) / 2, abs=4)


def test_of_several_faces_one_that_leaves_is_not_replaced(monkeypatch):
    monkeypatch.setattr(dubbing, "_BYTES", 1)
    away = (40, lambda k: 20 if k < 50 or k >= 90 else None)
    where, found = follow(squares(120, away, (60, lambda k: 300)), 0)
    assert found[:48].all()
    assert not found[52:88].any()
    assert found[92:].all()
    assert where[found] == pytest.approx(39.5, abs=4)


def test_a_lonely_face_may_jump(monkeypatch):
    monkeypatch.setattr(dubbing, "_BYTES", 1)
    where, found = follow(squares(40, (40, lambda k: 20 if k < 20 else 300)), None)
    assert found.all()
    assert where[25:] == pytest.approx(319.5, abs=4)
