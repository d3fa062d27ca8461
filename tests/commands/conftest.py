"""One rendered corpus and store, one small trained model, for all commands; made by the commands themselves."""

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from lipbench import cli

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
