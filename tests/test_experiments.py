"""Every recipe in experiments/ fits the code: it is parsed as the command line would, and its model is built."""

from pathlib import Path

import pytest
import torch
import yaml
from pytorch_lightning.cli import LightningArgumentParser

from lipbench import discovery, tracking
from lipbench.console import recipe_files, stages
from lipbench.data.datamodule import ClipDataModule
from lipbench.evaluation.evaluator import Evaluator
from lipbench.training.base import BenchModule

FOLDER = Path(__file__).resolve().parents[1] / "experiments"
STAGES = sorted((FOLDER / "stages").glob("*.yaml"))  # experiments of several stages
RECIPES = sorted(set(FOLDER.rglob("*.yaml")) - {*STAGES, FOLDER / "wandb.yaml"})  # that one is no recipe


@pytest.fixture(scope="module")
def parser():
    """The options of `lipbench fit`, less those of Trainer.fit itself."""
    from pytorch_lightning import Trainer

    for name in discovery.files("model"):
        discovery.load("model", name)  # so that bare class names are known
    found = LightningArgumentParser(exit_on_error=False)
    found.add_argument("--seed_everything", type=int, default=0)
    found.add_lightning_class_args(Trainer, "trainer")
    found.add_lightning_class_args(BenchModule, "model", subclass_mode=True)
    found.add_lightning_class_args(ClipDataModule, "data")
    found.add_lightning_class_args(Evaluator, "evaluator")
    found.add_lightning_class_args(tracking.Tracking, "tracking")
    return found


def test_there_are_recipes():
    assert RECIPES
    assert {path.stem for path in RECIPES if path.parent.name == "demo"} >= {"paralip"}


def test_folders_hold_yaml_only():
    assert not [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix not in (".yaml", ".md")]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_recipe(parser, path):
    config = parser.parse_object(yaml.safe_load(path.read_text(encoding="utf-8")))
    with torch.device("meta"):  # sizes are checked, and nobody waits for random weights
        built = parser.instantiate_classes(config)
    assert isinstance(built.model, BenchModule)
    assert isinstance(built.data, ClipDataModule)
    assert "video" in built.model.clip_spec.frames or built.model.capabilities == {"audio"}
    limits = config.trainer
    assert limits.max_steps not in (None, -1) or limits.max_epochs or limits.max_time, "training must end"


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent == FOLDER], ids=lambda path: path.stem)
def test_recipe_is_named_after_its_model_and_corpus(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    model = discovery.model_of(path)
    corpus = path.stem.removeprefix(f"{model}_").partition("_")[0]
    chosen = content["model"]["class_path"] if isinstance(content["model"], dict) else content["model"]
    assert str(chosen).rpartition(".")[2] == discovery.load("model", model).__name__
    assert content["data"]["corpus"] == corpus


def test_a_model_and_a_corpus_have_a_recipe_of_their_own_in_the_package_too(monkeypatch, tmp_path):
    assert recipe_files.default("paralip", "grid").name == "paralip_grid.yaml"
    assert recipe_files.default("paralip", "rendered") is None
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "paralip_grid.yaml").touch()
    monkeypatch.setattr(discovery, "PACKAGE", tmp_path)  # as a wheel lays it out
    assert recipe_files.default("paralip", "grid") == tmp_path / "experiments" / "paralip_grid.yaml"


def test_every_recipe_is_called_by_a_name_of_its_own():
    names = [recipe_files.name(path) for path in RECIPES]
    assert len(set(names)) == len(names)
    for path, name in zip(RECIPES, names, strict=True):
        assert recipe_files.find(name).resolve() == path
        assert recipe_files.read(path)


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_an_experiment_of_stages_can_be_run(path):
    found = stages.find(path.stem)
    assert found == stages.find(str(path))
    run = "not run yet" not in path.read_text(encoding="utf-8")  # of paper size
    assert recipe_files.told(path)[1] != "time not measured" or not run
    for stage in found.stages:
        assert stage.told[1] != "time not measured" or not run
        model = discovery.load("model", stage.stated()["model"]["class_path"])
        for option, (source, file) in stage.take.items():
            earlier = next(own for own in found.stages if own.name == source)
            argument = option.removeprefix("model.")
            wanted = discovery.short_name("model", earlier.stated()["model"]["class_path"])
            assert model.takes.get(argument) == wanted or file.endswith(".ckpt")  # any model's, such as any lips


def test_a_recipe_belongs_to_the_longest_name_that_fits():
    assert discovery.model_of(Path("wav2lip_expert_rendered_small.yaml")) == "wav2lip_expert"
    assert discovery.model_of(Path("wav2lip_rendered_small.yaml")) == "wav2lip"
    assert discovery.model_of(Path("demo/paralip.yaml")) == "paralip"
    assert discovery.model_of(Path("wandb.yaml")) == ""


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "demo"], ids=lambda path: path.stem)
def test_demo_recipe_says_what_it_takes_and_when_it_ends(path):
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith("# ")
    assert "minute" in first
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["trainer"]["max_steps"] > 0
    assert path.stem in discovery.files("model")
