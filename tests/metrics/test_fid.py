"""FID and KID: distances of known sets, every clip once, flat memory, weights from a file only."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import two_sets

from lipbench.errors import Unavailable
from lipbench.metrics import fid as module
from lipbench.metrics.fid import FID, KID, frechet_distance, kernel_distance
from lipbench.pretrained.inception import WEIGHTS, Inception, weights_path


def known():
    """Recipe of shared reference key fid_unit_test: 4.105850 (scipy's matrix root on NumPy 2.4.6); population 4."""
    rng = np.random.Generator(np.random.PCG64(7))
    a = rng.standard_normal((4000, 8))
    return torch.from_numpy(a), torch.from_numpy(1.5 * rng.standard_normal((4000, 8)) + 0.5)


def moments(x):
    return x.mean(0), torch.cov(x.T)


def test_unit_value():
    a, b = known()
    assert frechet_distance(*moments(a), *moments(b)).item() == pytest.approx(4.105849830276654, abs=1e-6)
    assert frechet_distance(*moments(a), *moments(a)).item() == pytest.approx(0, abs=1e-9)
    metric = FID(8)
    clips = torch.stack([a, b]).reshape(2, 80, 50, 8)
    for k in range(0, 80, 16):
        metric.update(clips[0, k : k + 16], clips[1, k : k + 16], torch.arange(k, k + 16), torch.full((16,), 50))
    assert metric.compute().item() == pytest.approx(4.105849830276654, abs=1e-6)


def test_distance_of_gaussians_with_diagonal_covariance():
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 4.0, 0.0])
    mean = torch.tensor([1.0, 2.0, 2.0])
    expected = 9 + ((a.sqrt() - b.sqrt()) ** 2).sum().item()
    assert frechet_distance(mean, a.diag(), 0 * mean, b.diag()).item() == pytest.approx(expected, abs=1e-12)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    turned = [turn @ x.double().diag() @ turn.T for x in (a, b)]
    assert frechet_distance(mean, turned[0], 0 * mean, turned[1]).item() == pytest.approx(expected, abs=1e-12)


def test_fewer_frames_than_features():
    """Singular covariances: a copy is at 0, and a copy in another place at the squared distance."""
    x = torch.rand(30, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(*moments(x), *moments(x)).item() == pytest.approx(0, abs=1e-9)
    assert frechet_distance(*moments(x), *moments(x + 0.1)).item() == pytest.approx(2, abs=1e-9)


def test_kernel_distance_by_its_definition():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((7, 3)), rng.standard_normal((5, 3)) + 1

    def kernel(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    within = [np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (a, b)]
    expected = sum(within) - 2 * np.mean([kernel(p, q) for p in a for q in b])
    assert kernel_distance(torch.from_numpy(a), torch.from_numpy(b)).item() == pytest.approx(expected, abs=1e-9)


def test_kid_does_not_depend_on_how_many_frames():
    generator = torch.Generator().manual_seed(0)
    for frames, tolerance in ((100, 0.1), (1000, 0.02)):
        same, other = torch.randn(2, frames, 64, generator=generator)
        assert kernel_distance(same, other).item() == pytest.approx(0, abs=tolerance)
        assert kernel_distance(same, other + 0.5).item() > 0.3


@pytest.mark.parametrize("name", list(two_sets.CASES))
def test_order_and_batches_do_not_matter(name):
    results = []
    for batches in ([[0, 1, 2, 3, 4, 5, 6]], [[k] for k in (3, 1, 0, 6, 2, 5, 4)], [[0, 1], [0, 2, 3], [6, 5, 4, 0]]):
        metric = two_sets.CASES[name]()
        for rows in batches:
            two_sets.update(metric, rows)
        results.append(metric.compute().item())
    assert results == pytest.approx([results[0]] * 3, abs=1e-9)
    pred, target = two_sets.features()
    frames = [torch.cat([x[k, :n] for k, n in enumerate(two_sets.LENGTH)]) for x in (pred, target)]
    whole = {
        "fid": lambda: frechet_distance(*moments(frames[0]), *moments(frames[1])),
        "kid[all]": lambda: kernel_distance(*frames),
        "kid": lambda: kernel_distance(*chosen(frames)),
    }
    assert results[0] == pytest.approx(whole[name]().item(), abs=1e-9)


def chosen(frames):
    """The 20 frames of each side with the smallest keys."""
    found = []
    for salt, side in enumerate(frames):
        keys = np.concatenate([module._keys(k, int(n), salt) for k, n in enumerate(two_sets.LENGTH)])
        found.append(side[np.argsort(keys)[:20].copy()])
    return found


def test_two_processes_give_the_values_of_one(tmp_path):
    command = [sys.executable, two_sets.__file__, str(tmp_path)]
    started = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE) for rank in range(2)]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()[-2000:]
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for name, make in two_sets.CASES.items():
            metric = make()
            two_sets.update(metric, list(range(7)))
            assert found[name] == pytest.approx([metric.compute().item()] * 3, abs=1e-9), name
        assert "clips [0] were dealt to two processes" in found["refused"][0]


def test_memory_is_flat():
    """Sums do not grow with the clips, and what is held back is bounded."""
    fid, kid = FID(4, held=3), KID(4, size=10)
    sizes = []
    for k in range(40):
        part = torch.rand(1, 5, 4)
        for metric in (fid, kid):
            metric.update(part, part, torch.tensor([k]), torch.tensor([5]))
        sizes.append(sum(x.numel() for x in (*fid.held_features, *kid.pred_rows, *kid.target_rows)))
    assert sizes[5:] == [3 * 10 * 4 + 2 * 10 * 4] * 35
    assert fid.products.shape == (2, 4, 4)
    assert fid._defaults["products"].untyped_storage().nbytes() == 8
    fid.reset()
    assert not fid.products.any()
    assert fid.products.shape == (2, 4, 4)


_FULL_SIZE = """
import resource
import torch
from lipbench.metrics.fid import FID, KID

torch.set_num_threads(1)
metrics = FID(), KID()
features = torch.Generator().manual_seed(0)
for clip in range(255):
    pred, target = torch.randn(2, 1, 75, 2048, generator=features)
    for metric in metrics:
        metric.update(pred, target, torch.tensor([clip]), torch.tensor([75]))
    if clip == 60:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
"""The 255 test clips of a GRID speaker at the size of Inception's features: 313 MB in float32, 627 MB as the metrics
keep them. Prints by how many KB the peak of memory grew after the first 61 clips, of which KID keeps all it may."""


@pytest.mark.slow
def test_memory_is_flat_at_full_size():
    done = subprocess.run([sys.executable, "-c", _FULL_SIZE], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 40_000


def test_clips_without_features_and_empty_sets():
    pred, target = two_sets.features()
    broken = pred.clone()
    broken[2, 1] = torch.nan
    for make in two_sets.CASES.values():
        metric, without = make(), make()
        length = two_sets.LENGTH.clone()
        length[5] = 0
        metric.update(broken, target, torch.arange(7), length)
        two_sets.update(without, [0, 1, 3, 4, 6])
        assert metric.compute().item() == pytest.approx(without.compute().item(), abs=1e-9)
        assert metric.coverage == pytest.approx(5 / 7)
        assert make().compute().isnan()
        one = make()
        one.update(pred[:1], target[:1], torch.tensor([0]), torch.tensor([1]))
        assert one.compute().isnan()
        one.reset()
        assert np.isnan(one.coverage)
    with pytest.raises(ValueError, match="made for 5 features a frame, got 6"):
        FID(5).update(pred, target, torch.arange(7), two_sets.LENGTH)


def test_own_lengths_of_generated_videos():
    pred, target = two_sets.features()
    metric = FID(two_sets.DIM)
    made = torch.tensor([3, 9, 4, 4, 9, 2, 6])
    metric.update(pred, target, torch.arange(7), two_sets.LENGTH, made)
    frames = [
        torch.cat([x[k, :n] for k, n in enumerate(lengths)]) for x, lengths in ((pred, made), (target, two_sets.LENGTH))
    ]
    expected = frechet_distance(*moments(frames[0]), *moments(frames[1])).item()
    assert metric.compute().item() == pytest.approx(expected, abs=1e-9)


def test_absent_weights_give_the_path_and_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(Unavailable, match=rf"{tmp_path}/checkpoints/{WEIGHTS}; type: lipbench weights fetch"):
        weights_path()
    with pytest.raises(Unavailable, match=r"nowhere\.pth"):
        Inception(str(tmp_path / "nowhere.pth"))


def test_a_file_that_is_not_what_its_name_says(tmp_path):
    path = tmp_path / WEIGHTS
    path.write_bytes(b"something")
    with pytest.raises(Unavailable, match="its name says 6726825d"):
        Inception(str(path))


def test_a_hostile_file_is_inert(tmp_path):
    class Hostile:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    path = tmp_path / "weights.pth"
    torch.save(Hostile(), path)
    with pytest.raises(Unavailable, match=r"weights\.pth is not torch-fidelity's Inception"):
        Inception(str(path))
    assert not (tmp_path / "ran").exists()


def test_features_are_those_of_torch_fidelity(tmp_path, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as network

    monkeypatch.setattr(network, "load_state_dict_from_url", lambda *a, **k: pytest.fail("tried to download"))
    torch.manual_seed(0)
    monkeypatch.setattr(network.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    path = tmp_path / "random.pth"
    torch.save({}, path)
    reference = network.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))
    monkeypatch.undo()
    torch.save(reference.state_dict(), path)
    observer = Inception(str(path))
    assert observer.judge == f"Inception sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    pictures = torch.rand(1, 3, 3, 40, 80)
    pictures[0, 1, 0, 0, 0] = torch.nan
    found = observer(pictures)
    assert found.shape == (1, 3, 2048)
    assert found[0, 1].isnan().all()
    pixels = (pictures[0, [0, 2]] * 255).round().to(torch.uint8)
    assert torch.allclose(found[0, [0, 2]], reference(pixels)[0], rtol=1e-4, atol=1e-6)
    assert found[0, 0].std() > 0
