"""Heat maps of stages whose responses are known, and of the models that there are."""

import numpy as np
import pytest
import torch
from torch import nn

from lipbench.generation import activation_maps
from lipbench.models.lipgan import LipGAN
from lipbench.models.paralip import ParaLip
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipSpec, View


class Echo(GenerativeModel):
    """Shows its pose; one stage responds to its bright spot, the other everywhere alike; others are no maps."""

    timings = frozenset({"length"})
    paper = "none"

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Conv2d(4, 5, 1)])
        self.once = nn.Sequential(nn.Conv2d(3, 6, 1))
        self.sound = nn.Sequential(nn.Conv2d(3, 6, 1), nn.AdaptiveAvgPool2d(1))
        self.spectrogram = nn.Sequential(nn.Conv2d(3, 6, 1), nn.AdaptiveAvgPool2d((20, 3)))
        self.vector = nn.Sequential(nn.Flatten())
        self.to_rgb = nn.Sequential(nn.Conv2d(5, 3, 1))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        nn.init.constant_(self.stages[0][0].weight, -1)  # less than 0: the absolute value counts
        nn.init.ones_(self.stages[1].bias)
        nn.init.ones_(self.once[0].weight)

    clip_spec = ClipSpec(frames={"video": View("face", 16, 16)})
    needs = frozenset({"identity", "pose"})

    def build_optimizers(self):
        raise NotImplementedError

    def compute_step(self, batch):
        raise NotImplementedError

    def generate(self, batch, timing):
        self.once(batch["identity"][:, 0])
        for part in (self.sound, self.spectrogram, self.vector):
            part(batch["pose"][0])
        for some in batch["pose"][0].split(4):  # as models do to bound the memory
            x = some
            for stage in self.stages:
                x = stage(x)
            self.to_rgb(x)
        return {"video": batch["pose"], "video_len": torch.tensor([batch["pose"].shape[1]])}


@pytest.fixture
def spots():
    """Nine frames with a bright spot that moves to the right, and an identity with one below on the left."""
    pose = torch.zeros(1, 9, 3, 16, 16)
    for frame in range(9):
        pose[0, frame, :, 4, frame] = 1
    identity = torch.zeros(1, 1, 3, 16, 16)
    identity[..., 15, 0] = 1
    return {"pose": pose, "identity": identity}


def cell(picture, row, column):
    """The (160, 160, 3) picture of a row and column."""
    top, left = 2 * activation_maps._LINE + activation_maps._GAP + row * 164, activation_maps._SIDE + column * 164
    return picture[top : top + 160, left : left + 160].astype(int)


def hottest(picture):
    """Row and column, in sixteenths, of what is most red and least blue."""
    y, x = np.unravel_index(np.argmax(picture[..., 0] - picture[..., 2]), picture.shape[:2])
    return int(y) // 10, int(x) // 10


def test_maps_are_red_where_a_stage_responds(spots):
    picture = activation_maps.heat(Echo().eval(), spots, "length", [0, 7])
    assert picture.dtype == np.uint8
    assert picture.shape == (2 * 14 + 4 + 2 * 164, 72 + 4 * 164, 3)  # what was made, two stages, and the identity's
    for row, frame in enumerate((0, 7)):
        assert hottest(cell(picture, row, 1)) == (4, frame)
        assert np.ptp(cell(picture, row, 2)[140:].reshape(-1, 3), axis=0).max() == 0  # no response stands out
        assert hottest(cell(picture, row, 3)) == (15, 0)  # once a clip, beside every frame
        assert cell(picture, row, 0)[45, 10 * frame + 5].min() > 150
    assert (picture[:28, 72:] < 128).any()  # names
    assert (picture[32:, :72] < 128).any()  # numbers


def test_only_feature_maps_are_shown(spots, monkeypatch):
    seen = {}
    monkeypatch.setattr(activation_maps, "_table", lambda video, maps, titles, frames: seen.update(titles))
    model = Echo().eval()
    activation_maps.heat(model, spots, "length", [8])
    assert seen == {"stages.0": "4, 16x16", "stages.1": "5, 16x16", "once": "6, 16x16"}
    assert not any(module._forward_hooks for module in model.modules())


def test_a_hot_border_does_not_hide_what_is_inside():
    maps = torch.arange(40.0).expand(1, 40, 40).clone()  # stronger to the right
    maps[:, 0] = 1e4
    over = activation_maps._over(torch.zeros(1, 3, 40, 40), maps)[0]
    assert over[20, 1].argmax() == 2  # blue
    assert over[20, 38].argmax() == 0  # red
    alike = activation_maps._over(torch.zeros(1, 3, 40, 40), 3 + 1e-6 * torch.rand(1, 40, 40))[0]
    assert np.ptp(alike.reshape(-1, 3), axis=0).max() < 0.1


def test_lipgan_and_paralip_have_stages(monkeypatch):
    seen = {}
    monkeypatch.setattr(activation_maps, "_table", lambda video, maps, titles, frames: seen.update(titles))
    torch.manual_seed(0)
    lipgan = LipGAN(12, widths=(4, 6, 8), blocks=(0, 0), audio_widths=(4,) * 4, audio_blocks=(0,) * 4, hidden=8)
    sounded = {
        "identity": torch.rand(1, 1, 3, 12, 12),
        "video": torch.rand(1, 5, 3, 12, 12),
        "video_len": torch.tensor([5]),
        "audio": torch.rand(1, 5 * 640) - 0.5,
        "audio_len": torch.tensor([5 * 640]),
        "fps": torch.tensor([25.0]),
        "n_frames": torch.tensor([5]),
    }
    activation_maps.heat(lipgan.eval(), sounded, "given", range(5))
    assert seen == {
        **{f"generator.face.{k}": size for k, size in enumerate(("4, 12x12", "6, 6x6", "8, 3x3"))},
        **{f"generator.decoder.{k}": size for k, size in enumerate(("8, 3x3", "6, 6x6", "4, 12x12"))},
    }
    seen.clear()
    paralip = ParaLip((16, 32), hidden=16, layers=1, ffn=16, encoder_widths=(4, 8), decoder_widths=(8, 7, 6, 5))
    written = {
        "identity": torch.rand(1, 1, 3, 16, 32),
        "tokens": torch.tensor([[5, 6, 7]]),
        "token_len": torch.tensor([3]),
        "durations": torch.tensor([[2, 3, 2]]),
        "n_frames": torch.tensor([7]),
    }
    activation_maps.heat(paralip.eval(), written, "given", [6])
    assert seen == {
        **{f"identity_encoder.stages.{k}": size for k, size in enumerate(("4, 8x16", "8, 4x8"))},
        **{f"picture_decoder.stages.{k}": size for k, size in enumerate(("7, 8x16", "6, 16x32"))},
        "picture_decoder.smooth": "5, 16x32",
    }


def test_what_cannot_be_shown_is_said(spots):
    model = Echo().eval()
    for frames, asked in (([9], "9"), ([-1, 2], "-1, 2"), ([], "none")):
        with pytest.raises(ValueError, match=rf"9 frames \(0 to 8\); frames asked for: {asked}"):
            activation_maps.heat(model, spots, "length", frames)
    with pytest.raises(ValueError, match="one clip, found 2"):
        activation_maps.heat(model, {key: torch.cat([value, value]) for key, value in spots.items()}, "length", [0])
    del model.stages[:]
    model.once = nn.Identity()
    model.generate = lambda batch, timing: {"video": batch["pose"], "video_len": torch.tensor([9])}
    with pytest.raises(ValueError, match="Echo has no stage"):
        activation_maps.heat(model, spots, "length", [0])
