"""I3D: the published network and its file."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_weights import made_up
from torch.nn import functional as F

from lipbench.nets import i3d
from lipbench.pretrained.networks import load_i3d

MIXED = {  # channels in, and out of b0, b1a, b1b, b2a, b2b, b3b
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def published():
    """Names and shapes of rgb_imagenet.pt as `InceptionI3d` reads it, without BatchNorm's counters."""
    units = {"Conv3d_1a_7x7": (3, 64, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (64, 192, 3)}
    for name, (c, b0, b1a, b1b, b2a, b2b, b3b) in MIXED.items():
        branches = {"b0": (c, b0, 1), "b1a": (c, b1a, 1), "b1b": (b1a, b1b, 3), "b2a": (c, b2a, 1)}
        branches |= {"b2b": (b2a, b2b, 3), "b3b": (c, b3b, 1)}
        units |= {f"Mixed_{name}.{branch}": unit for branch, unit in branches.items()}
    shapes = {"logits.conv3d.weight": (400, 1024, 1, 1, 1), "logits.conv3d.bias": (400,)}
    for name, (before, after, kernel) in units.items():
        shapes[f"{name}.conv3d.weight"] = (after, before, kernel, kernel, kernel)
        shapes |= {f"{name}.bn.{part}": (after,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes


@pytest.fixture(scope="module")
def weights():
    return made_up(published())


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("i3d") / "rgb_imagenet.pt"
    torch.save(weights, path, _use_new_zipfile_serialization=False)  # the format of 2017
    return path


def test_names_shapes_and_parameters_are_the_published_ones():
    with torch.device("meta"):
        network = i3d.I3D()
    own = {key: tuple(value.shape) for key, value in network.state_dict().items() if value.dim()}
    assert own == published()
    assert sum(p.numel() for p in network.parameters()) == 12_697_264


def wave():
    """(1, 16, 3, 224, 224) smooth moving pictures in [0, 1], the same on every machine."""
    t, c, y, x = np.meshgrid(*map(np.arange, (16, 3, 224, 224)), indexing="ij")
    return torch.from_numpy(0.5 + 0.5 * np.sin(0.07 * x * (c + 1) + 0.05 * y + 0.4 * t)).float()[None]


@torch.no_grad()
def test_scores_equal_those_of_the_published_code(file):
    """Expected: piergiaj's InceptionI3d (commit b49fadf) with these weights and pictures, torch 2.15, on the CPU."""
    network, sha256 = load_i3d(file)
    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    found = network(wave())
    assert found.shape == (1, 400)
    expected = [-0.0577421, -0.1692005, 0.1307548, 1.0330484, 1.0664563]
    assert found[0, ::80].tolist() == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match=r"shape \(16, 3, 224, 224\); found \(15, 3, 224, 224\)"):
        network(wave()[:, :15])


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after"),
    [(16, 7, 2, 2, 3), (15, 7, 2, 3, 3), (56, 3, 1, 1, 1), (112, 3, 2, 0, 1), (14, 2, 2, 0, 0), (16, 1, 1, 0, 0)],
)
def test_padding_is_that_of_tensorflow(size, kernel, stride, before, after):
    """The last axis: ceil(size / stride) places, and where they need an odd number more, the end gets the odd one."""
    x = torch.ones(1, 1, 1, 1, size)
    assert torch.equal(i3d._same(x, (1, 1, kernel), (1, 1, stride)), F.pad(x, (before, after)))


class Hostile:
    """Would write a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_wrong_files_are_refused(weights, tmp_path):
    def refused(content, match):
        torch.save(content, tmp_path / "bad.pt")
        with pytest.raises(ValueError, match=match):
            load_i3d(tmp_path / "bad.pt")

    with pytest.raises(FileNotFoundError, match=r"no I3D weights at .*give models/rgb_imagenet.pt of piergiaj"):
        load_i3d(tmp_path / "absent.pt")
    flow = weights | {"Conv3d_1a_7x7.conv3d.weight": torch.zeros(64, 2, 7, 7, 7)}
    refused(flow, r"Conv3d_1a_7x7.conv3d.weight has shape \(64, 2, 7, 7, 7\), expected \(64, 3, 7, 7, 7\)")
    charades = weights | {"logits.conv3d.weight": torch.zeros(157, 1024, 1, 1, 1)}
    refused(charades, r"logits.conv3d.weight has shape \(157, 1024, 1, 1, 1\)")
    refused({"fc.weight": torch.zeros(3)}, r"does not fit I3D: \d+ tensors are missing, .*1 belong to no layer")
    refused({"a": Hostile(tmp_path / "ran")}, "is no plain dictionary of tensors")
    assert not (tmp_path / "ran").exists()
