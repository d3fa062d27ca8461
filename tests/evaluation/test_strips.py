"""The rows of a strip: what each shows of which view, and what their labels say of their timing."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lipbench.data import pack
from lipbench.data.datamodule import ClipDataModule
from lipbench.evaluation import strips
from lipbench.media import geometry
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipSpec, View

sys.path.append(str(Path(__file__).parents[1] / "data"))
from made_up_store import GRID_IDS, color, make_store

IDS = sorted(GRID_IDS)
FRAMES = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ClipDataModule:
    """Six clips of GRID's published split, each frame of one color."""
    return opened(make_store(tmp_path_factory.mktemp("store") / "grid", IDS, [FRAMES] * 6, "grid"))


def opened(store: Path) -> ClipDataModule:
    found = ClipDataModule("grid", str(store), "grid/seen", num_workers=0)
    found.clip_spec = Flat(View("mouth", 8, 16), "given").clip_spec
    found.setup("validate")
    return found


class Flat(GenerativeModel):
    """Frame k is k/100 in every pixel; with timing "free" a token lasts a frame."""

    paper = "none"
    needs = frozenset({"tokens", "durations", "n_frames", "identity"})

    def __init__(self, view, timing, frames=FRAMES):
        super().__init__()
        self.view, self.timings, self.frames = view, frozenset({timing}), frames
        self.level = nn.Parameter(torch.zeros(1))

    @property
    def clip_spec(self):
        return ClipSpec(frames={"video": self.view}, keys=frozenset({"identity", "tokens", "durations"}))

    def build_optimizers(self):
        raise NotImplementedError

    def compute_step(self, batch):
        raise NotImplementedError

    def generate(self, batch, timing):
        self.seen = set(batch), batch["identity"].mean((0, 1, 3, 4))
        level = torch.arange(self.frames) / 100
        video = level[None, :, None, None, None].expand(1, -1, 3, *self.view.size)
        made = {"video": video, "video_len": torch.tensor([self.frames])}
        if timing == "free":
            made["durations"] = torch.full_like(batch["tokens"], 1)
        return made


def levels(video: torch.Tensor) -> torch.Tensor:
    """(T, 3, h, w) -> (T, h, w) of the red channel, in levels of 255."""
    return (video[:, 0] * 255).round()


def test_rows_of_all_views_show_the_same_pixels(data: ClipDataModule) -> None:
    mouth, face = Flat(View("mouth", 8, 16), "given"), Flat(View("face", 12, 12), "given")
    view = strips.view_of("face")
    rows = strips.rows(data, IDS[4], [("a", mouth), ("b", face)], view, frozen_frame=True)
    assert [row.label for row in rows] == ["reference", "frozen frame", "a", "b"]
    assert {tuple(row.video.shape[1:]) for row in rows} == {(3, 256, 256)}
    reference, _, lips, whole = (levels(row.video) for row in rows)
    expected = torch.tensor([color(4, frame) for frame in range(FRAMES)])  # (T, 3)
    assert (rows[0].video.mean((2, 3)) * 255 - expected).abs().max() < 2
    assert torch.equal(rows[1].video, rows[0].video[:1])
    made = (torch.arange(FRAMES) * 2.55).round()[:, None, None]
    assert torch.equal(whole, made.expand_as(whole))
    top, left, bottom, right = geometry.BOXES["mouth"]
    inside = lips[:, top:bottom, left:right]
    assert torch.equal(inside, made.expand_as(inside))
    outside = torch.ones(256, 256, dtype=torch.bool)
    outside[top:bottom, left:right] = False
    assert torch.equal(lips[:, outside], reference[:, outside])
    assert (mouth.seen[1] * 255 - torch.tensor(color(4, 0))).abs().max() < 2  # the first frame
    assert "video" not in mouth.seen[0]


def test_the_mouth_is_what_models_of_mouths_and_of_faces_have_in_common(data: ClipDataModule) -> None:
    mouth, face = Flat(View("mouth", 8, 16), "given"), Flat(View("face", 12, 12), "given")
    assert strips.common_view([face, face]) == View("face", 256, 256)
    assert strips.common_view([face, mouth]) == View("mouth", 80, 160)
    rows = strips.rows(data, IDS[0], [("a", mouth), ("b", face)], strips.common_view([face, mouth]))
    assert torch.equal(rows[1].video, rows[2].video)


def test_words_and_timing_of_each_row(data: ClipDataModule) -> None:
    view = View("mouth", 8, 16)
    models = [("a", Flat(view, "given")), ("b\nrun", Flat(view, "length")), ("c", Flat(view, "free", FRAMES + 9))]
    reference, given, length, free = strips.rows(data, IDS[0], models, strips.view_of("mouth"))
    assert reference.words is not None
    assert list(dict.fromkeys(reference.words)) == ["", "bin", "blue", "at", "f", "two", "now"]
    assert reference.words == strips.words(data.store[IDS[0]])
    assert (given.label, given.words) == ("a", None)
    assert length.label == "b\nrun\ntiming: length"
    assert "durations" not in models[1][1].seen[0]
    assert free.label == "c\ntiming: free"
    assert free.words is not None
    assert free.words[:6] == ["", "bin", "bin", "bin", "", "blue"]  # a frame a letter
    assert len(free.video) == FRAMES + 9


class Loud(Flat):
    """As bright as its sound is loud, throughout."""

    needs = frozenset({"audio", "n_frames", "identity"})

    @property
    def clip_spec(self):
        return ClipSpec(frames={"video": self.view}, audio_rate=16_000, keys=frozenset({"identity", "audio"}))

    def generate(self, batch, timing):
        self.heard = batch["audio"][0]
        return super().generate(batch | {"tokens": None}, timing)


def test_another_clips_sound_drives_the_face_of_the_last_row(data: ClipDataModule) -> None:
    model = Loud(View("mouth", 8, 16), "given")
    view = strips.view_of("mouth")
    rows = strips.rows(data, IDS[0], [("a", model)], view, heard=IDS[4])
    assert [row.label for row in rows] == ["heard", "a", "identity"]
    for row, clip in ((rows[0], 4), (rows[2], 0)):
        expected = torch.tensor([color(clip, frame) for frame in range(FRAMES)])
        assert (row.video.mean((2, 3)) * 255 - expected).abs().max() < 2
    assert (model.seen[1] * 255 - torch.tensor(color(0, 0))).abs().max() < 2
    sound = torch.from_numpy(data.store[IDS[4]].audio(16_000))
    own = data.one_clip(IDS[0], model.clip_spec)["audio"][0]
    assert torch.equal(model.heard[: len(sound)], sound[: len(own)])
    assert not torch.equal(model.heard, own)
    assert rows[0].words == strips.words(data.store[IDS[4]])
    with pytest.raises(ValueError, match="b is not driven by sound: it needs durations, identity, n_frames, tokens"):
        strips.rows(data, IDS[0], [("b", Flat(View("mouth", 8, 16), "given"))], view, heard=IDS[4])


def test_what_cannot_be_shown_is_said(data: ClipDataModule, tmp_path: Path) -> None:
    view = strips.view_of("mouth")
    with pytest.raises(ValueError, match=f"a run makes no frame of {IDS[0]}: it has hardly been trained"):
        strips.rows(data, IDS[0], [("a\nrun", Flat(View("mouth", 8, 16), "given", 0))], view)
    with pytest.raises(ValueError, match="unknown view 'nose'; known views are"):
        strips.view_of("nose")
    packed = opened(pack.pack(data.store.path, View("mouth", 40, 80), tmp_path / "packed"))
    with pytest.raises(ValueError, match="a packed store holds only the view mouth 40x80"):
        strips.rows(packed, IDS[0], [], view)
