"""The demo walks the whole road, and does nothing twice."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from lipbench import cli, discovery
from lipbench.commands import demo, prepare
from lipbench.media import video
from lipbench.models.paralip import ParaLip


@pytest.fixture
def quick(here, tmp_path, monkeypatch):
    """The demo with a tiny recipe on the corpus that is there already."""
    recipe = tmp_path / "experiments" / "demo" / "paralip.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("# about 0.1 minutes on one core\n" + here.recipe.read_text())
    monkeypatch.setattr(discovery, "recipes", lambda: [recipe])

    def prepared(data, root, store, **numbers):
        assert data == "rendered"
        if not store.exists():
            shutil.copytree(here.home / "stores" / "rendered", store)

    monkeypatch.setattr(prepare, "run", prepared)
    return recipe


def test_the_whole_road_and_again(quick, capsys, tmp_path):
    assert cli.main(["demo", "--folder", "demo"]) == 0
    shown = capsys.readouterr().out
    assert "fit paralip: to do: CPU, about 0.1 minutes on one core" in shown
    assert "ground-truth" in shown
    folder = tmp_path / "demo"
    for line in ("paralip.png", "paralip.mp4", "leaderboards", "results"):
        assert str(folder / line) in shown
    made = video.read_video(folder / "paralip.mp4")
    assert made.frames[0].shape == (352 + 2 * 24, 2 * 320 + 2, 3)  # captions above and below
    assert len(made.frames) in (74, 75)
    assert (folder / "leaderboards" / "rendered_seen.csv").is_file()
    checkpoints = {path: path.stat().st_mtime_ns for path in folder.rglob("*.ckpt")}
    records = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*.json")}
    assert records

    assert cli.main(["demo", "--folder", "demo"]) == 0
    assert "paralip is trained" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.ckpt")} == checkpoints
    assert {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*.json")} == records


def test_an_interrupted_training_goes_on(quick, here, capsys, monkeypatch):
    """A last checkpoint before the recipe's end is resumed, in its run folder."""
    quick.write_text(quick.read_text().replace("max_steps: 3", "max_steps: 5"))
    train = ParaLip.compute_step

    def compute_step(self, batch):
        train(self, batch)
        if self.batches == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(ParaLip, "compute_step", compute_step)
        assert cli.main(["demo", "--folder", "demo"]) == 143
    capsys.readouterr()
    monkeypatch.setattr(demo, "_pictures", lambda *_: None)
    assert cli.main(["demo", "--folder", "demo"]) == 0
    assert "fit paralip: goes on after batch 3 of 5" in capsys.readouterr().out
    (checkpoint,) = Path("demo/runs").glob("paralip-*/paralip_rendered/version_0/checkpoints/last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 5


def test_a_recipe_without_an_end_is_refused(quick, capsys):
    quick.write_text(quick.read_text().replace("max_steps: 3", "max_steps: -1"))
    assert cli.main(["demo", "--folder", "demo"]) == 2
    assert "paralip needs trainer.max_steps or trainer.max_epochs" in capsys.readouterr().err
