"""The demo walks the whole road, and does nothing twice."""

import shutil
from pathlib import Path

import pytest

from lipbench import cli, discovery
from lipbench.commands import prepare
from lipbench.media import video


@pytest.fixture
def quick(here, tmp_path, monkeypatch):
    """The demo with a tiny recipe on the corpus that is there already."""
    recipe = tmp_path / "experiments" / "demo" / "paralip.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("# about no minute\n" + here.recipe.read_text())
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
    assert "about no minute" in shown
    assert "ground-truth" in shown
    demo = tmp_path / "demo"
    for line in ("paralip.png", "paralip.mp4", "leaderboards", "results"):
        assert str(demo / line) in shown
    made = video.read_video(demo / "paralip.mp4")
    assert made.frames[0].shape == (352 + 2 * 24, 2 * 320 + 2, 3)  # captions above and below
    assert len(made.frames) in (74, 75)
    assert (demo / "leaderboards" / "rendered_seen.csv").is_file()
    checkpoints = {path: path.stat().st_mtime_ns for path in demo.rglob("*.ckpt")}
    records = {path: path.stat().st_mtime_ns for path in (demo / "results").rglob("*.json")}
    assert records

    assert cli.main(["demo", "--folder", "demo"]) == 0
    assert "paralip is trained" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*.ckpt")} == checkpoints
    assert {path: path.stat().st_mtime_ns for path in (demo / "results").rglob("*.json")} == records


def test_an_interrupted_training_goes_on(quick, here, capsys):
    """A last checkpoint before the recipe's end is resumed, in its run folder."""
    import hashlib

    text = quick.read_text().replace("max_steps: 3", "max_steps: 5")
    quick.write_text(text)
    run = Path("demo/runs") / hashlib.sha256(text.encode()).hexdigest()[:8] / "paralip_rendered" / "version_0"
    shutil.copytree(here.checkpoint.parents[1], run)
    from lipbench.commands import demo

    checkpoint = demo._trained("paralip", quick, Path("demo").absolute(), here.home / "stores" / "rendered")
    assert checkpoint.parts[-3] == "version_0"
    import torch

    assert torch.load(checkpoint, weights_only=True)["global_step"] == 5


def test_a_recipe_without_an_end_is_refused(quick, capsys):
    quick.write_text(quick.read_text().replace("max_steps: 3", "max_epochs: 3"))
    assert cli.main(["demo", "--folder", "demo"]) == 2
    assert "trainer.max_steps" in capsys.readouterr().err
