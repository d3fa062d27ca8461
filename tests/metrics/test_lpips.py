"""LPIPS: weights from a file only, and a reason where there is none."""

import hashlib

import lpips as package
import pytest
import torch
import torchvision

from lipbench.errors import Unavailable
from lipbench.metrics import lpips as module
from lipbench.metrics.lpips import LPIPS, backbone_path, load, lpips


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A state dict of torchvision's AlexNet with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path


def test_distance_is_that_of_the_package(backbone, monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: pytest.fail("tried to download"))
    metric = LPIPS(str(backbone))
    assert hashlib.sha256(backbone.read_bytes()).hexdigest()[:16] in metric.judge
    a, b = torch.rand(1, 3, 3, 40, 80), torch.rand(1, 3, 3, 40, 80)
    metric.update(a, b, torch.tensor([0]), torch.tensor([2]))
    network = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    features = {k: v for k, v in torch.load(backbone, weights_only=True).items() if k.startswith("features")}
    slices = [module_ for k in range(1, 6) for module_ in getattr(network.net, f"slice{k}").named_children()]
    for name, layer in slices:
        if f"features.{name}.weight" in features:
            layer.load_state_dict({k: features[f"features.{name}.{k}"] for k in ("weight", "bias")})
    with torch.no_grad():
        expected = network(a[0, :2], b[0, :2], normalize=True).mean().item()
    assert expected > 0.01
    assert metric.compute().item() == pytest.approx(expected, rel=1e-5)
    assert lpips(a, a, metric.network).abs().max().item() == 0


def test_absent_weights_give_a_reason_that_names_file_and_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(Unavailable, match=rf"{module.BACKBONE} in .*checkpoints"):
        backbone_path()


def test_other_files_are_refused(tmp_path, backbone):
    named = tmp_path / "alexnet-owt-7be5be79.pth"
    named.write_bytes(backbone.read_bytes())
    with pytest.raises(Unavailable, match="its name says 7be5be79"):
        load(named)
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(3, 3)}, other)
    with pytest.raises(Unavailable, match="is not torchvision's AlexNet"):
        load(other)
