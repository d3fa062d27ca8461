import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lipbench import __version__
from lipbench.media import text
from lipbench.nets.lipnet import LipNet
from lipbench.nets.lipresnet import LipResNet
from lipbench.pretrained import weights
from lipbench.types import View

VIEW = View("mouth", 16, 24)


@pytest.fixture
def net() -> LipNet:
    torch.manual_seed(0)
    made = LipNet((16, 24), (4, 6, 8), 8, norm=True)
    made(torch.rand(2, 4, 3, 16, 24), torch.tensor([4, 4]))  # running statistics that are not the initial ones
    return made.eval()


@pytest.fixture
def file(net: LipNet, tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "reader.safetensors"
    weights.save(
        path, net, arguments=net.arguments, view=VIEW, trained_on="rendered/unseen, seed 0", vocabulary=text.SYMBOLS
    )
    return path


def rewrite(path: Path, change: dict[str, object] | None = None, **tensors: torch.Tensor) -> Path:
    """The file with another card or other tensors."""
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        card = json.loads(opened.metadata()["lipbench"]) | (change or {})
    other = path.with_name("other.safetensors")
    save_file(load_file(path) | tensors, other, {"lipbench": json.dumps(card)})
    return other


def test_comes_back_as_it_was(net: LipNet, file: Path):
    found, card = weights.load(file, LipNet)
    assert card == weights.Card(
        architecture="lipnet.LipNet",
        arguments=net.arguments,
        view=VIEW,
        trained_on="rendered/unseen, seed 0",
        vocabulary=text.SYMBOLS,
        version=__version__,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
    )
    assert weights.read_card(file) == card
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())
    for key, value in net.state_dict().items():
        stored = found.state_dict()[key]
        assert stored.dtype == value.dtype
        if "running" in key or "tracked" in key:
            assert torch.equal(stored, value)
        else:
            assert torch.equal(stored, value.half().float())
    video, lengths = torch.rand(1, 5, 3, 16, 24), torch.tensor([5])
    with torch.no_grad():
        torch.testing.assert_close(found(video, lengths), net(video, lengths), rtol=0, atol=5e-3)


def test_is_half_as_large_and_leaves_nothing_beside_it(net: LipNet, file: Path):
    numbers = sum(p.numel() for p in net.parameters())
    assert 2 * numbers < file.stat().st_size < 2 * numbers + 8000
    assert list(file.parent.iterdir()) == [file]


def test_any_network_where_any_is_wanted(file: Path):
    assert isinstance(weights.load(file, nn.Module)[0], LipNet)
    with pytest.raises(ValueError, match=r"holds a lipnet\.LipNet, where a LipResNet is wanted"):
        weights.load(file, LipResNet)


def test_foreign_files_are_refused(file: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no weights file at"):
        weights.load(tmp_path / "none.safetensors", nn.Module)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, foreign, {"format": "pt"})
    with pytest.raises(ValueError, match="not written by lipbench"):
        weights.load(foreign, nn.Module)
    pickled = tmp_path / "pickled.safetensors"
    torch.save({"a": torch.zeros(2)}, pickled)
    with pytest.raises(ValueError, match="no safetensors file"):
        weights.load(pickled, nn.Module)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="torn"):
        weights.load(torn, nn.Module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99, "version": "9.0"}, "written by lipbench 9.0 .*upgrade"),
        ({"view": {"name": "mouth"}}, "not in lipbench's form"),
        ({"arguments": None}, "not in lipbench's form"),
        ({"architecture": "os.system"}, "which this version of lipbench does not have"),
        ({"architecture": "lipnet.BackEnd2"}, "which this version of lipbench does not have"),
        ({"architecture": "lipnet.PackedSequence"}, "which this version of lipbench does not have"),
        ({"architecture": "../cli.main"}, "which this version of lipbench does not have"),
        ({"architecture": "lipgan.Hearing"}, "is no network"),
        ({"arguments": {"depth": 3}}, "cannot be made with"),
        ({"arguments": {"size": [2, 2]}}, "cannot be made with"),
        ({"arguments": {"size": [16, 24], "widths": [4, 6, 8], "hidden": 9, "norm": True}}, "has shape .* expected"),
        ({"arguments": {"size": [16, 24], "widths": [4, 6, 8], "hidden": 8}}, "15 are unknown, such as .'norms.0.bias"),
    ],
)
def test_cards_that_lie_are_refused(change: dict[str, object], message: str, file: Path):
    with pytest.raises(ValueError, match=message):
        weights.load(rewrite(file, change), nn.Module)


def test_damaged_tensors_are_refused(file: Path):
    with pytest.raises(ValueError, match="not finite"):
        weights.load(rewrite(file, **{"back_end.out.bias": torch.full((30,), torch.nan)}), LipNet)
    with pytest.raises(ValueError, match=r"1 are unknown, such as .'extra'"):
        weights.load(rewrite(file, extra=torch.zeros(1)), LipNet)


def test_what_cannot_come_back_is_not_written(net: LipNet, tmp_path: Path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match=r"only networks of lipbench\.nets"):
        weights.save(path, nn.Linear(2, 2), arguments={}, view=VIEW, trained_on="")
    with pytest.raises(ValueError, match="must be numbers, texts and lists"):
        weights.save(path, net, arguments={"size": VIEW}, view=VIEW, trained_on="")
    with torch.no_grad():
        net.back_end.out.bias[0] = 1e6
    with pytest.raises(ValueError, match=r"back_end\.out\.bias of LipNet is not finite in half precision"):
        weights.save(path, net, arguments=net.arguments, view=VIEW, trained_on="")
    assert not list(tmp_path.iterdir())
