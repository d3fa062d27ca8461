"""ArcFace: the published network, its file, and where a canonical face lies in its picture."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_weights import made_up

from lipbench.media import geometry
from lipbench.nets import arcface
from lipbench.pretrained.networks import load_arcface


def norm(name, width):
    return {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}


def published(blocks):
    """Names and shapes of insightface's IResNet, without BatchNorm's counters."""
    shapes = {"conv1.weight": (64, 3, 3, 3), **norm("bn1", 64), "prelu.weight": (64,)}
    before = 64
    for k, (count, after) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), 1):
        for block in range(count):
            name = f"layer{k}.{block}"
            shapes |= norm(f"{name}.bn1", before) | norm(f"{name}.bn2", after) | norm(f"{name}.bn3", after)
            shapes |= {f"{name}.conv1.weight": (after, before, 3, 3), f"{name}.conv2.weight": (after, after, 3, 3)}
            shapes[f"{name}.prelu.weight"] = (after,)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (after, before, 1, 1)
                shapes |= norm(f"{name}.downsample.1", after)
            before = after
    shapes |= norm("bn2", 512) | {"fc.weight": (512, 25088), "fc.bias": (512,)} | norm("features", 512)
    return shapes


@pytest.fixture(scope="module")
def weights():
    return made_up(published((2, 2, 2, 2)))


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("arcface") / "backbone.pth"
    torch.save(weights, path)
    return path


@pytest.fixture(scope="module")
def network(file):
    return load_arcface(file)[0]


@pytest.mark.parametrize(("name", "parameters"), [(18, 24_025_600), (50, 43_590_848), (100, 65_156_160)])
def test_names_shapes_and_parameters_are_the_published_ones(name, parameters):
    with torch.device("meta"):
        network = arcface.IResNet(arcface.DEPTHS[name])
    own = {key: tuple(value.shape) for key, value in network.state_dict().items() if value.dim()}
    assert own == published(arcface.DEPTHS[name])
    assert sum(p.numel() for p in network.parameters()) == parameters


def wave(frames):
    """(frames, 3, 112, 112) smooth pictures in [0, 1], the same on every machine."""
    t, c, y, x = np.meshgrid(*map(np.arange, (frames, 3, 112, 112)), indexing="ij")
    return torch.from_numpy(0.5 + 0.5 * np.sin(0.07 * x * (c + 1) + 0.05 * y + t)).float()


@torch.no_grad()
def test_embeddings_equal_those_of_the_published_code(network):
    """Expected: insightface's iresnet18 (commit d9cb10e) with these weights and pictures, torch 2.15, on the CPU."""
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    found = network(wave(2))
    assert found.shape == (2, 512)
    expected = [[136.911514, 92.898331, 96.533882, 55.456738], [139.912216, 87.521652, 95.623352, 54.570911]]
    assert found[:, ::128].numpy() == pytest.approx(np.array(expected), rel=1e-4)


def test_counters_may_be_there_and_depth_is_read_from_the_file(weights, tmp_path):
    counters = {key.replace("running_var", "num_batches_tracked"): torch.tensor(7) for key in weights if "_var" in key}
    torch.save(weights | counters, tmp_path / "model.pt")
    network, sha256 = load_arcface(tmp_path / "model.pt")
    assert sha256 == hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()
    assert [len(layer) for layer in (network.layer1, network.layer2, network.layer3, network.layer4)] == [2, 2, 2, 2]


class Hostile:
    """Would write a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_wrong_files_are_refused(weights, tmp_path):
    def refused(content, match):
        torch.save(content, tmp_path / "bad.pth")
        with pytest.raises(ValueError, match=match):
            load_arcface(tmp_path / "bad.pth")

    with pytest.raises(FileNotFoundError, match=r"no ArcFace weights at .*give a backbone.pth"):
        load_arcface(tmp_path / "absent.pth")
    lacking = {key: value for key, value in weights.items() if key != "layer2.0.conv1.weight"}
    refused(lacking, "1 tensors are missing, such as layer2.0.conv1.weight")
    refused(
        weights | {"fc.weight": torch.zeros(512, 512)}, r"fc.weight has shape \(512, 512\), expected \(512, 25088\)"
    )
    shallow = {key: value for key, value in weights.items() if not key.startswith("layer3.1")}
    refused(shallow, r"layers have 2, 2, 1, 2 blocks, expected 2, 2, 2, 2 \(IResNet-18\)")
    refused({"body.0.weight": torch.zeros(3)}, "is not ArcFace's IResNet: it has 'body.0.weight'")
    refused({"state_dict": weights}, "holds dict; expected a plain dictionary of tensors")
    refused({"a": Hostile(tmp_path / "ran")}, "is no plain dictionary of tensors")
    assert not (tmp_path / "ran").exists()


def template():
    """(5, 2) eyes, nose and corners of the mouth of the canonical template, in pixels of the canonical picture."""
    points = np.add(geometry.TEMPLATE, (32, 16))
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), *points[[30, 48, 54]]])


def test_the_face_lies_where_arcface_expects_it():
    """Bright spots at the template's five points are found near the published ones."""
    y, x = np.mgrid[: geometry.HEIGHT, : geometry.WIDTH]
    spots = [255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 32) for px, py in template()]
    pictures = torch.from_numpy(np.stack(spots).round().astype(np.uint8))[:, None].repeat(1, 3, 1, 1)
    found = arcface.face(pictures)[:, 0].double()  # (5, 112, 112)
    assert found.shape == (5, 112, 112)
    grid = torch.arange(112, dtype=torch.float64)
    mass = found.sum((1, 2))
    center = torch.stack([(found.sum(1) * grid).sum(1) / mass, (found.sum(2) * grid).sum(1) / mass], 1)
    away = center.numpy() - np.array(arcface.POINTS)
    assert np.linalg.norm(away, axis=1) == pytest.approx([0.54, 0.20, 2.02, 0.70, 0.80], abs=0.05)
    assert np.abs(away.mean(0)).max() < 0.2  # the rest is the shape of the template


def test_the_box_is_the_least_squares_fit():
    """Scale and shift from the template's five points to the published ones, worked out here."""
    source, target = template(), np.array(arcface.POINTS)
    a, b = source - source.mean(0), target - target.mean(0)
    scale = (a * b).sum() / (a**2).sum()
    left, top = source.mean(0) - (target.mean(0) + 0.5) / scale + 0.5  # pixel 0 begins half a pixel before its center
    expected = np.array([top, left, top + 112 / scale, left + 112 / scale])
    assert np.abs(expected - arcface.BOX).max() < 0.6
    assert arcface.BOX[2] - arcface.BOX[0] == arcface.BOX[3] - arcface.BOX[1]
    turn = np.degrees(np.arctan2((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), (a * b).sum()))
    assert abs(turn) == pytest.approx(0.3, abs=0.05)


@torch.no_grad()
def test_rows_above_the_canonical_picture_repeat_its_border_and_passes_do_not_show(network, monkeypatch):
    pictures = torch.randint(0, 256, (1, 3, 352, 320), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pictures[..., :8, :] = 51
    assert arcface.face(pictures)[..., :8, :] == pytest.approx(0.2)
    assert arcface.embed(network, pictures[:0]).shape == (0, 512)
    monkeypatch.setattr(arcface, "_CHUNK", 1)
    found = arcface.embed(network, torch.cat([pictures] * 2))
    torch.testing.assert_close(found[1:], network(arcface.face(pictures)), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"shape \(3, 112, 112\); found \(3, 96, 96\)"):
        network(torch.rand(1, 3, 96, 96))
