"""One rendered corpus and store, one small trained model, for all commands; made by the commands themselves.

And for `lipbench weights`: published files with random weights.
"""

import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from lipbench import cli
from lipbench.console import weights_files
from lipbench.nets import lipnet

REPOSITORY = Path(__file__).resolve().parents[2]

RECIPE = """\
model:
  class_path: lipbench.models.paralip.ParaLip
  init_args:
    size: [16, 32]
    hidden: 16
    layers: 1
    ffn: 16
    encoder_widths: [4, 8]
    decoder_widths: [8, 8, 4, 4]
    window: 4
data:
  class_path: lipbench.corpora.rendered.Rendered
  init_args:
    batch_size: 2
    num_workers: 0
trainer:
  accelerator: cpu
  max_steps: 3
  enable_progress_bar: false
  enable_model_summary: false
"""


class World(NamedTuple):
    """Where things are."""

    home: Path
    """LIPBENCH_HOME, with the rendered corpus and its store."""
    runs: Path
    recipe: Path

    @property
    def checkpoint(self) -> Path:
        """Last checkpoint of the run."""
        return self.runs / "paralip_rendered" / "version_0" / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A prepared corpus and a model trained for three batches."""
    folder = tmp_path_factory.mktemp("world")
    found = World(folder / "home", folder / "runs", folder / "tiny.yaml")
    found.recipe.write_text(RECIPE)
    before = os.environ.get("LIPBENCH_HOME")
    os.environ["LIPBENCH_HOME"] = str(found.home)
    words = ["--data", "rendered", "--speakers", "1", "--clips", "7", "--landmarks", "exact", "--workers", "2"]
    assert cli.main(["prepare", *words]) == 0
    assert cli.main(["fit", "--config", str(found.recipe), "--trainer.default_root_dir", str(found.runs)]) == 0
    yield found
    os.environ.pop("LIPBENCH_HOME")
    if before is not None:
        os.environ["LIPBENCH_HOME"] = before


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    """The same world, seen from an empty working folder."""
    monkeypatch.setenv("LIPBENCH_HOME", str(world.home))
    monkeypatch.chdir(tmp_path)
    return world


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Empty places of this test's own for all weights; the working folder is empty too."""
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(weights_files, "SHIPPED", tmp_path / "shipped")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.fixture
def told(places, capsys):
    """Runs `lipbench weights ...`: exit code, stdout, stderr."""

    def run(*words):
        code = cli.main(["weights", *map(str, words)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture(scope="session")
def syncnet_file(tmp_path_factory):
    """Random weights with the names and shapes of syncnet_v2.model."""
    spec = importlib.util.spec_from_file_location("lse_benchmark", REPOSITORY / "benchmarks" / "lse.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    path = tmp_path_factory.mktemp("published") / "syncnet_v2.model"
    torch.save(benchmark.random_published().state_dict(), path)
    return path


@pytest.fixture(scope="session")
def lipnet_file(tmp_path_factory):
    """Random weights with the names and shapes of LipNet-PyTorch."""
    torch.manual_seed(0)
    names = {"convs.0": "conv1", "convs.1": "conv2", "convs.2": "conv3", "back_end.out": "FC", "back_end.": ""}
    stored = {}
    for key, value in lipnet.LipNet(outputs=28).state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        stored[key] = value
    path = tmp_path_factory.mktemp("published") / "LipNet_unseen_wer_0.13.pt"
    torch.save(stored, path)
    return path
