"""Experiments of several stages: in order, once, and whatever kills them, with the weights of an uninterrupted run."""

import functools
import inspect
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
import yaml

import foreign
from lipbench import cli, discovery
from lipbench.console import next_steps, stages
from lipbench.data import process_pool
from lipbench.errors import UsageError

TRAINER = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
TRAINER |= {"num_sanity_val_steps": 0, "limit_val_batches": 1, "log_every_n_steps": 1}
DATA = {"corpus": "rendered", "batch_size": 1, "num_workers": 0}
EXPERT = {
    "class_path": "lipbench.models.wav2lip_expert.Wav2LipExpert",
    "init_args": {
        **{"size": 24, "widths": [8, 8, 8, 8], "residuals": [0, 0, 0], "audio_widths": [8, 8, 8, 8]},
        **{"audio_residuals": [0, 0, 0, 0], "hidden": 16, "ema_decay": 0.9},
    },
}
WAV2LIP = {
    "class_path": "lipbench.models.wav2lip.Wav2Lip",
    "init_args": {
        **{"size": 24, "widths": [8, 8, 8, 8], "residuals": [0, 0, 0], "decoder_widths": [8, 8, 8, 8]},
        **{"decoder_residuals": 0, "audio_widths": [8, 8, 8, 8], "audio_residuals": [0, 0, 0, 0], "hidden": 16},
        **{"sync_from": 0, "adversarial_weight": 0, "ema_decay": 0.9},
    },
}


def write(folder, steps=3, **changes):
    """An experiment of two stages: an expert, and what learns from it."""
    folder.mkdir(exist_ok=True)
    recipe = {"model": EXPERT, "data": DATA, "trainer": TRAINER | {"max_steps": steps}}
    (folder / "expert.yaml").write_text(f"# 2 minutes on one core\n{yaml.safe_dump(recipe)}")
    recipe |= {
        "model": WAV2LIP,
        "evaluator": {"metrics": ["mouth/psnr"], "calibration": False, "controls": False, "workers": 0},
    }
    (folder / "lips.yaml").write_text(yaml.safe_dump(recipe | changes))
    experiment = {
        "stages": {
            "expert": {"config": "expert.yaml"},
            "lips": {"config": "lips.yaml", "take": {"model.expert": "expert"}},
        }
    }
    (folder / "stages.yaml").write_text(yaml.safe_dump(experiment))
    return experiment


def last(stage, root="runs/two"):
    """The last checkpoint of a stage's one run."""
    (path,) = Path(root).glob(f"{stage}-*/*/version_*/checkpoints/last.ckpt")
    return path


def times(*folders):
    """When each file below some folders was written."""
    return {path: path.stat().st_mtime_ns for folder in folders for path in Path(folder).rglob("*") if path.is_file()}


def test_stages_are_done_in_order_and_once(here, capsys, caplog):
    write(Path("two"))
    assert cli.main(["run", "two", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "fit expert: to do: CPU, 2 minutes on one core\n" in shown
    assert "fit lips: to do: CPU, time not measured, takes expert/observer.safetensors as model.expert\n" in shown
    assert "test lips: to do" in shown
    assert "test expert" not in shown
    assert sorted(path.name for path in Path().iterdir()) == ["two"]  # nothing was begun

    assert cli.main(["run", "two"]) == 0
    assert "mouth/psnr" in capsys.readouterr().out
    advice = "let a model learn from it: lipbench fit --model wav2lip --data rendered --model.expert runs/two/expert-"
    assert advice in caplog.text
    trained = torch.load(last("lips"), weights_only=True)
    assert trained["lipbench"]["batches"] == 3
    assert trained["lipbench"]["frozen"].keys() == {"expert"}
    (scored,) = Path("leaderboards/results").rglob("*.json")
    assert json.loads(scored.read_text())["training"]["protocol"] == "rendered/seen"
    assert Path("leaderboards/rendered_seen.csv").is_file()

    before = times("runs", "leaderboards")
    assert cli.main(["run", "two"]) == 0
    shown = capsys.readouterr().out
    assert times("runs", "leaderboards") == before
    for line in ("fit expert: finished", "fit lips: finished", "test lips: finished", "lips is trained"):
        assert line in shown

    write(Path("two"), evaluator={"metrics": ["mouth/ssim"], "calibration": False, "controls": False, "workers": 0})
    assert cli.main(["run", "two"]) == 0  # other scores need no other weights
    after = times("runs")
    assert {path for path in after if path.suffix == ".ckpt"} == {path for path in before if path.suffix == ".ckpt"}
    assert all(after[path] == before[path] for path in after if path.suffix == ".ckpt")
    assert "mouth/ssim" in capsys.readouterr().out

    assert cli.main(["run", "two", "--from", "lips"]) == 0
    shown = capsys.readouterr().out
    assert "expert is trained" in shown
    assert "lips trained" in shown
    assert list(Path("runs/two/earlier").glob("lips-*-1/*/version_0/checkpoints/last.ckpt"))


def test_what_depends_on_a_change_is_done_anew(here, capsys):
    """The last stage alone, if it alone has changed; all that comes after, if the first one has."""
    write(Path("two"))
    words = ["run", "two", "--folder", "runs/two"]
    assert cli.main(words) == 0
    first = times("runs/two")
    write(Path("two"), trainer=TRAINER | {"max_steps": 2})
    assert cli.main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "fit expert: finished" in shown
    assert "fit lips: to do" in shown.rpartition("two, in")[2]
    assert cli.main(words) == 0
    assert {path.name.partition("-")[0] for path in Path("runs/two").glob("*-*")} == {"expert", "lips"}
    assert len(list(Path("runs/two").glob("lips-*"))) == 2
    assert len(list(Path("runs/two").glob("expert-*"))) == 1

    write(Path("two"), steps=4, trainer=TRAINER | {"max_steps": 2})
    assert cli.main([*words, "--dry-run"]) == 0
    assert "fit lips: to do" in capsys.readouterr().out.rpartition("two, in")[2]
    assert cli.main(words) == 0
    assert len(list(Path("runs/two").glob("lips-*"))) == 3
    assert len(list(Path("runs/two").glob("expert-*"))) == 2
    kept = times("runs/two")
    assert all(kept[path] == written for path, written in first.items() if path.name != ".lock")

    write(Path("two"))
    capsys.readouterr()
    assert cli.main(words) == 0  # back to the first: that is still there
    assert "lips is trained" in capsys.readouterr().out


def run_elsewhere(folder, words):
    """Body of a process: a command in a folder."""
    os.chdir(folder)
    cli.main(words)


def test_killed_twice_it_ends_as_if_it_had_not_been(here, tmp_path):
    """By SIGKILL, in the middle of either stage."""
    write(Path("two"), steps=60)
    words = ["run", "two", "--folder", "killed"]
    for stage in ("expert", "lips"):
        process = process_pool.start("lipbench.console.trainer").Process(target=run_elsewhere, args=(tmp_path, words))
        process.start()
        while not (found := list(Path("killed").glob(f"{stage}-*/*/version_0/checkpoints/last.ckpt"))):
            assert process.exitcode is None
            time.sleep(0.005)
        process.kill()
        process.join()
        assert 0 < torch.load(found[0], weights_only=True)["lipbench"]["batches"] < 60
        assert not list(Path("killed").glob(f"{stage}-*/done.json"))
    assert cli.main(["run", "two", "--folder", "killed"]) == 0
    assert cli.main(["run", "two", "--folder", "whole", "--results", "whole/results"]) == 0
    for stage in ("expert", "lips"):
        killed, whole = (torch.load(last(stage, root), weights_only=True) for root in ("killed", "whole"))
        for part in ("state_dict", "current_model_state"):
            assert killed[part].keys() == whole[part].keys()
            assert all(torch.equal(killed[part][key], whole[part][key]) for key in killed[part])
    before = times("killed", "leaderboards")
    assert cli.main(["run", "two", "--folder", "killed"]) == 0
    assert times("killed", "leaderboards") == before


def test_killed_before_its_weights_file_was_written(here, capsys):
    """All is trained, but what the next stage takes is not there: it is made from the checkpoint."""
    write(Path("two"))
    assert cli.main(["run", "two"]) == 0
    checkpoint = last("expert")
    observer = checkpoint.parents[1] / "observer.safetensors"
    before, trained = observer.read_bytes(), checkpoint.stat().st_mtime_ns
    observer.unlink()
    (checkpoint.parents[3] / "done.json").unlink()
    capsys.readouterr()
    assert cli.main(["run", "two"]) == 0
    assert observer.read_bytes() == before
    assert checkpoint.stat().st_mtime_ns == trained
    assert "lips is trained" in capsys.readouterr().out


def test_one_recipe_is_an_experiment_of_one_stage(here, capsys):
    words = ["run", str(here.recipe), "--dry-run"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "tiny, in runs/tiny" in shown
    assert "fit tiny: to do: CPU" in shown


def test_a_model_that_only_observes_is_scored_without_a_record(here, capsys):
    write(Path("two"))
    assert cli.main(["run", "two/expert.yaml"]) == 0
    assert "expert scored" in capsys.readouterr().out
    assert not Path("leaderboards").exists()
    before = times("runs")
    assert cli.main(["run", "two/expert.yaml"]) == 0
    assert "scored" not in capsys.readouterr().out
    assert times("runs") == before


def test_two_do_not_work_in_one_folder(here, capsys):
    import fcntl

    write(Path("two"))
    Path("runs/two").mkdir(parents=True)
    with Path("runs/two/.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert cli.main(["run", "two"]) == 2
    assert "another `lipbench run` works in runs/two" in capsys.readouterr().err


def test_a_mistake_in_the_last_stage_shows_at_once(here, capsys):
    model = {"class_path": WAV2LIP["class_path"], "init_args": WAV2LIP["init_args"] | {"hiden": 3}}
    write(Path("two"), model=model)
    assert cli.main(["run", "two"]) == 2
    assert "unknown argument of Wav2Lip 'hiden'. Did you mean 'hidden'?" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"stagse": {}}, "line 8: unknown key 'stagse'. Did you mean 'stages'?"),
        ({"stages": []}, "line 1: stages must be a mapping of names to configurations"),
        ({"stages": {"a": {"config": "nowhere"}}}, "line 3: unknown --config 'nowhere'"),
        (
            {"stages": {"a": {"konfig": "expert.yaml"}}},
            "line 3: unknown key of a stage 'konfig'. Did you mean 'config'",
        ),
        ({"stages": {"a": {"trainer": {"max_steps": 1}}}}, "line 2: the stage a states no model and data"),
        ({"stages": {"a/b": {"config": "expert.yaml"}}}, "line 2: the stage 'a/b' names a folder"),
        (
            {"stages": {"a": {"config": "lips.yaml", "take": {"model.expert": "b"}}, "b": {"config": "expert.yaml"}}},
            "line 4: unknown earlier stage 'b'",
        ),
        ({"stages": {"a": {"config": "lips.yaml", "take": {"expert": "b"}}}}, "'expert' is no option; expected one"),
        ({"stages": {"a": {"config": "lips.yaml", "take": "b"}}}, "take must be a mapping"),
        ({"prepare": {"clips": 3}}, "line 1: prepare must be a mapping with data:"),
        (
            {"prepare": {"data": "rendered", "clisp": 3}},
            "line 2: unknown option of prepare 'clisp'. Did you mean 'clips'",
        ),
    ],
)
def test_an_experiment_that_is_not_well_formed_is_told_with_its_line(tmp_path, change, expected):
    experiment = write(tmp_path / "two")
    (tmp_path / "two" / "stages.yaml").write_text(yaml.safe_dump(experiment | change))
    with pytest.raises(UsageError) as error:
        stages.find(str(tmp_path / "two"))
    assert expected in str(error.value)


def test_names_of_experiments(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = stages.find("wav2lip_rendered_small")
    assert [stage.name for stage in own.stages] == ["expert", "wav2lip"]
    assert own.stages[1].take == {"model.expert": ("expert", "observer.safetensors")}
    assert own.prepare == {"data": "rendered", "speakers": 16, "clips": 60}
    assert not own.tested(own.stages[0])
    assert own.tested(own.stages[1])
    assert [stage.name for stage in stages.find("lipgan_rendered_small").stages] == ["lipgan_rendered_small"]
    with pytest.raises(UsageError, match="Did you mean 'wav2lip_rendered_small'"):
        stages.find("wav2lip_rendered_smal")
    assert cli.main(["fit", "--config", str(Path(stages.__file__).parents[3] / "experiments/stages/x.yaml")]) == 2
    capsys.readouterr()
    write(tmp_path / "two")
    assert cli.main(["fit", "--config", "two/stages.yaml"]) == 2
    assert "line 1: an experiment of several stages is no recipe. Type: lipbench run two/stages.yaml" in (
        capsys.readouterr().err
    )


def test_prepare_is_a_stage_too(here, capsys, tmp_path, monkeypatch):
    """Its options are those of `lipbench prepare`; the store that it writes is the one that the stages read."""
    from lipbench.commands import prepare

    experiment = write(Path("two"))
    experiment["prepare"] = {"data": "rendered", "speakers": 1, "clips": 7, "store": "own-store", "landmarks": "exact"}
    Path("two/stages.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False))
    calls = []

    @functools.wraps(prepare.run)
    def run(**options):
        calls.append(options)
        shutil.copytree(here.home / "stores" / "rendered", "own-store")

    monkeypatch.setattr(prepare, "run", run)
    assert cli.main(["run", "two", "--dry-run"]) == 0
    assert "prepare (data rendered, speakers 1, clips 7, landmarks exact): to do" in capsys.readouterr().out
    assert not calls
    assert cli.main(["run", "two"]) == 0
    assert cli.main(["run", "two"]) == 0
    assert calls == [experiment["prepare"] | {"store": Path("own-store")}]
    config = yaml.safe_load((last("lips").parents[1] / "config.yaml").read_text())
    assert config["data"]["store"] == "own-store"
    (Path("own-store") / "manifest.json").write_text((Path("own-store") / "manifest.json").read_text() + "\n")
    capsys.readouterr()
    assert cli.main(["run", "two", "--dry-run"]) == 0  # another store: all of it
    shown = capsys.readouterr().out
    assert "exact): to do" in shown
    assert "fit expert: to do" in shown


def test_the_advice_after_a_training_names_an_option_that_takes_its_file(tmp_path, monkeypatch):
    assert next_steps.advice("syncnet", "grid", Path("a b")) == "judge with it: --evaluator.files.syncnet 'a b'"
    assert next_steps.advice("my.Own", "grid", Path("x")) == "its weights: x"
    for name in discovery.built_in("model"):
        own = discovery.load("model", name)
        assert own.takes.keys() <= inspect.signature(own).parameters.keys()
        for argument, source in own.takes.items():
            assert (name, argument) in next_steps.takers(source)
            assert hasattr(discovery.load("model", source), "save_observer")
    module = "class Pupil:\n    takes = {'teacher': 'wav2lip_expert'}\n"
    foreign.install(tmp_path, monkeypatch, {"made_up.py": module}, {"lipbench.models": {"pupil": "made_up:Pupil"}})
    assert next_steps.takers("wav2lip_expert") == [("pupil", "teacher"), ("wav2lip", "expert")]
