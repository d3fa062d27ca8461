"""CSIM: angles between embeddings, and the way from canonical pictures to them."""

import numpy as np
import pytest
import torch
from test_observers import VIEW, batch, rows

from lipbench.errors import Unavailable
from lipbench.evaluation import bank as banks
from lipbench.metrics.csim import CSIM, csim
from lipbench.nets import arcface
from lipbench.scoring import observers


def test_cosine_by_hand():
    a = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [torch.nan, 1.0]])
    b = torch.tensor([[3.0, 4.0], [4.0, 3.0], [-4.0, 3.0], [-6.0, -8.0], [1.0, 0.0], [1.0, 0.0]])
    assert csim(a, b)[:4].tolist() == pytest.approx([1, 24 / 25, 0, -1])
    assert csim(a, b)[4:].isnan().all()
    with pytest.raises(ValueError, match="must be equal"):
        csim(a, b[:5])


def test_only_the_direction_counts():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 512, generator=generator)
    assert csim(1e-3 * a, 1e4 * b).tolist() == pytest.approx(csim(a, b).tolist(), abs=1e-6)
    assert csim(a, a) == pytest.approx(1, abs=1e-12)
    assert csim(a, b).tolist() == pytest.approx(torch.cosine_similarity(a, b, -1).tolist(), abs=1e-6)
    assert csim(a, a).max() <= 1


def embeddings():
    return torch.randn(2, 4, 9, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


LENGTH = torch.tensor([9, 4, 0, 7])


def test_frames_and_clips():
    pred, target = embeddings()
    pred[0, 4:] = target[0, 4:]
    pred[1, 4] = torch.nan  # padding
    pred[3, 6] = torch.nan
    metric = CSIM()
    metric.update(pred, target, torch.arange(4), LENGTH)
    expected = [[float(a @ b / (a.norm() * b.norm())) for a, b in zip(pred[k], target[k], strict=True)] for k in (0, 1)]
    means = [np.mean(expected[0]), np.mean(expected[1][:4])]
    assert metric.per_clip().value[:2] == pytest.approx(means)
    assert np.isnan(metric.per_clip().value[2:]).all()
    assert metric.compute().item() == pytest.approx((9 * means[0] + 4 * means[1]) / 13)
    single = CSIM()
    for k in (3, 1, 0, 2, 1):
        single.update(pred[k : k + 1], target[k : k + 1], torch.tensor([k]), LENGTH[k : k + 1])
    assert single.compute().item() == pytest.approx(metric.compute().item(), abs=1e-12)


class Colors(torch.nn.Module):
    """The mean colors of a face."""

    def forward(self, faces):
        assert tuple(faces.shape[1:]) == (3, 112, 112)
        return faces.mean((2, 3))


def test_faces_are_compared_frame_by_frame(monkeypatch):
    monkeypatch.setattr(observers, "load_arcface", lambda path: (Colors(), "0123456789abcdef" * 4))
    given = batch()
    bank = banks.Bank(["csim"], {"identity": "file"})
    assert bank.judges == {"csim": "ArcFace sha256 0123456789abcdef"}
    green = given["video"].clone()
    green[:, :, 1] = 1
    broken = given["video"].clone()
    broken[1, 3] = torch.nan
    longer = given["video"].repeat_interleave(2, 1)
    same, tinted, nan, twice = rows(
        bank, given, (given["video"], None), (green, None), (broken, None), (longer, 2 * given["video_len"])
    )
    assert same[0]["csim"] == pytest.approx(1, abs=1e-4)  # the mouth went through 40x80 and back
    scene = bank.scene(given, VIEW)
    faces = [arcface.face(torch.stack([scene.take(green).canonical(0), scene.face[0]])[:, k]) for k in range(10)]
    expected = [float(torch.cosine_similarity(*pair.mean((2, 3)), dim=0)) for pair in faces]
    assert tinted[0]["csim"][0] == pytest.approx(np.mean(expected), abs=1e-5)
    assert tinted[0]["csim"][0] < 0.999
    assert np.isnan(nan[0]["csim"]).tolist() == [False, True]
    assert np.isnan(twice[0]["csim"]).all()
    assert "differ in length" in twice[1]["csim"]
    ((scores, reasons),) = rows(bank, {k: v for k, v in given.items() if k != "face"}, (given["video"], None))
    assert not len(scores["csim"])
    assert "no face" in reasons["csim"]


def test_a_copy_scores_one_with_the_real_network(tmp_path):
    torch.manual_seed(0)
    torch.save(arcface.IResNet(arcface.DEPTHS[18]).state_dict(), tmp_path / "backbone.pth")
    bank = banks.Bank(["identity"], {"identity": str(tmp_path / "backbone.pth")})
    given = batch(2, 1)
    scene = bank.scene(given, VIEW)
    for video, below, above in ((None, 1 - 1e-9, 1), (1 - given["video"], -1, 1 - 1e-5)):
        row = bank.row()
        row.update(scene.reference if video is None else scene.take(video), scene)
        assert below <= row.local_scores()["csim"].value[0] <= above


def test_without_weights_it_says_what_to_type(tmp_path):
    bank = banks.Bank(["identity", "native/psnr"])
    assert "--evaluator.files.identity FILE" in bank.reasons["csim"]
    assert "native/psnr" not in bank.reasons
    with pytest.raises(Unavailable, match=r"ArcFace network; name a backbone.pth .*--evaluator.files.identity FILE"):
        banks.Bank(["csim"])
    with pytest.raises(Unavailable, match="no ArcFace weights at"):
        banks.Bank(["csim"], {"identity": str(tmp_path / "absent.pth")})
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(Unavailable, match="is not ArcFace's IResNet"):
        banks.Bank(["csim"], {"identity": str(tmp_path / "other.pth")})
    assert "csim" not in {entry.name for entry in banks.select(None)}
