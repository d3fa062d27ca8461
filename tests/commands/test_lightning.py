"""fit, validate, test and predict as they are typed, on a rendered corpus."""

import csv
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pytorch_lightning.callbacks import Timer

from lipbench import cli
from lipbench.console import checkpointing, trainer
from lipbench.media import video
from lipbench.models.paralip import ParaLip
from lipbench.nets.wav2lip import Expert
from lipbench.pretrained import weights
from lipbench.training.optimization import TrainingFailed


def test_fit_leaves_a_run_folder(world):
    run = world.checkpoint.parents[1]
    assert {"config.yaml", "metrics.csv", "hparams.yaml", "checkpoints"} <= {path.name for path in run.iterdir()}
    assert {path.name for path in world.checkpoint.parent.iterdir()} == {"best.ckpt", "last.ckpt"}
    stored = torch.load(world.checkpoint, weights_only=True)
    assert stored["global_step"] == 3
    assert stored["lipbench"]["model"] == "paralip"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["hidden"] == 16
    assert config["seed_everything"] == 0


def test_fit_draws_strips_of_validation_clips(world):
    strips = list((world.checkpoint.parents[1] / "strips").rglob("*.png"))
    shown = np.asarray(Image.open(strips[0]))
    assert shown.shape[0] >= 2 * 4 * 16 + 2 * 24  # enlarged, with captions
    words = shown[:24, :, 2].astype(int) - shown[:24, :, 0] > 80
    assert words.any()  # in blue: what is said, over the frames


def test_bare_fit_works_after_prepare(here, capsys):
    """No other flag is needed; the Trainer's own dry run keeps it short."""
    words = ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu", "--model.window", "2"]
    assert cli.main(["fit", "--model", "paralip", "--data", "rendered", *words, "--data.num_workers", "0"]) == 0
    assert not (here.runs / "paralip_rendered" / "version_1").exists()


def test_resuming_into_another_root_goes_on_in_a_new_folder(here, capsys, caplog):
    words = ["--config", str(here.recipe), "--trainer.default_root_dir", "runs", "--trainer.max_steps", "5"]
    assert cli.main(["fit", *words, "--ckpt_path", str(here.checkpoint)]) == 0
    last = torch.load("runs/paralip_rendered/version_0/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 5
    assert last["lipbench"]["batches"] == 5
    assert "goes on in a new run folder" in caplog.text


def last_of(root):
    """The last checkpoint of the one run below a folder."""
    return torch.load(f"{root}/paralip_rendered/version_0/checkpoints/last.ckpt", weights_only=True)


def logged(root):
    """What was logged, but for the times it took."""
    with Path(root, "paralip_rendered/version_0/metrics.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if not k.startswith("throughput")} for row in csv.DictReader(stream)]


def assert_same_runs(one, two, extra=()):
    """Weights, averaged and running, moments, rates and what was logged, but for an `extra` validation."""
    once, twice = last_of(one), last_of(two)
    for part in ("state_dict", "current_model_state"):
        assert once[part].keys() == twice[part].keys()
        assert all(torch.equal(once[part][key], twice[part][key]) for key in once[part])
    for part in ("optimizer_states", "lr_schedulers", "epoch", "global_step"):
        assert str(once[part]) == str(twice[part])
    rows = [row for row in logged(two) if not (extra and row["val/l1"] and row["step"] == extra["step"])]
    assert logged(one) == rows
    assert [path.name for path in Path(two, "paralip_rendered").glob("[!.]*")] == ["version_0"]


EXACT = ["--model.ema_decay", "0.9", "--data.batch_size", "1", "--trainer.log_every_n_steps", "1"]
"""Three batches an epoch: with one, every stop is at the end of an epoch, where Lightning's own count is right."""


@pytest.mark.parametrize("by", ["steps", "epochs", "time", "signal", "signal in validation", "error", "diverged"])
def test_a_resumed_run_is_as_if_it_had_not_stopped(here, capsys, caplog, monkeypatch, by):
    """Within an epoch, in its own folder, with averaged weights: the last checkpoint holds the running ones too."""
    words = ["fit", "--config", str(here.recipe), *EXACT, "--trainer.default_root_dir"]
    assert cli.main([*words, "one", "--trainer.max_steps", "7"]) == 0
    stop, limits, train = 4, ["--trainer.max_steps", "7"], ParaLip.compute_step

    def compute_step(self, batch):
        if self.batches == stop:
            if by == "error":
                raise KeyError("made up")
            raise TrainingFailed("made up", spoiled=False)
        train(self, batch)
        if self.batches == stop - 1 and by == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        if self.batches == stop - 1 and by == "time":
            self.trainer.callbacks[[type(c) for c in self.trainer.callbacks].index(Timer)]._duration = 0.0

    def validation_step(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGINT)
        return validate(self, batch, batch_idx)

    if by in ("steps", "epochs"):
        stop, limits = {
            "steps": (4, ["--trainer.max_steps", "4"]),
            "epochs": (6, ["--trainer.max_steps", "7", "--trainer.max_epochs", "2"]),
        }[by]
    elif by == "time":
        limits += ["--trainer.max_time", "00:00:10:00"]
    with monkeypatch.context() as patch:
        if by == "signal in validation":
            stop, validate = 3, ParaLip.validation_step
            patch.setattr(ParaLip, "validation_step", validation_step)
            limits += ["--trainer.num_sanity_val_steps", "0"]
        elif by not in ("steps", "epochs"):
            patch.setattr(ParaLip, "compute_step", compute_step)
        if by == "error":
            with pytest.raises(KeyError):
                cli.main([*words, "two", *limits])
        else:
            codes = {"signal": 143, "signal in validation": 130, "diverged": 1}
            assert cli.main([*words, "two", *limits]) == codes.get(by, 0)
    path = "two/paralip_rendered/version_0/checkpoints/last.ckpt"
    assert last_of("two")["lipbench"]["batches"] == stop
    if "signal" in by or by == "error":
        assert f"saved after batch {stop}. Go on with: lipbench fit --ckpt_path {path}" in caplog.text
    assert cli.main(["fit", "--ckpt_path", path, "--trainer.max_steps", "7", "--trainer.max_epochs", "9"]) == 0
    extra = {"step": "3"} if by == "time" else {}  # told to stop, Lightning validates once more
    assert_same_runs("one", "two", extra)


def test_what_is_used_up_or_nothing_is_refused(here, capsys):
    path = str(here.checkpoint)
    for words, said in (
        (
            ["--ckpt_path", path, "--trainer.max_steps", "3"],
            "has been trained for 3 batches, so --trainer.max_steps 3 is",
        ),
        (
            ["--ckpt_path", path, "--trainer.max_steps", "-1", "--trainer.max_epochs", "2"],
            "for 3 epochs, so --trainer.max_",
        ),
        (["--trainer.max_steps", "0"], "--trainer.max_steps 0 trains nothing"),
        (["--trainer.max_epochs", "0"], "--trainer.max_epochs 0 trains nothing"),
        (["--trainer.max_time", "00:00:00:00"], "--trainer.max_time 00:00:00:00 trains nothing"),
    ):
        assert cli.main(["fit", "--config", str(here.recipe), *words]) == 2
        assert said in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_run_is_never_written_by_two(here, capsys, caplog):
    """Resumed while it is still written, or from its best when it has come further, a run gets another folder."""
    words = ["fit", "--config", str(here.recipe), "--trainer.default_root_dir", "runs", "--trainer.max_steps"]
    assert cli.main([*words, "1"]) == 0
    run = Path("runs/paralip_rendered/version_0")
    assert cli.main([*words, "2", "--ckpt_path", str(run / "checkpoints/best.ckpt")]) == 0
    assert "version_0 has come further than best.ckpt" in caplog.text
    before = (run / "checkpoints/last.ckpt").read_bytes()
    with run.with_name(".version_0.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert cli.main([*words, "2", "--ckpt_path", str(run / "checkpoints/last.ckpt")]) == 0
    assert "another run is writing into version_0" in caplog.text
    assert (run / "checkpoints/last.ckpt").read_bytes() == before
    assert {path.name for path in run.parent.glob("v*")} == {"version_0", "version_1", "version_2"}


def test_how_long_it_takes_is_said(here, capsys, caplog, monkeypatch):
    clock = iter(range(0, 10**7, 100))  # 100 s between two looks
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(checkpointing.Last, "on_train_batch_end", lambda *_: None)
    words = [
        "fit",
        "--config",
        str(here.recipe),
        "--trainer.default_root_dir",
        "runs",
        "--trainer.limit_val_batches",
        "0",
    ]
    assert cli.main([*words, "--trainer.max_steps", "100"]) == 0
    assert caplog.text.count("left: ") == 1
    assert "about 2.7 hours left: 97 batches of 1e+02 s" in caplog.text
    assert "for a CPU there is" not in caplog.text  # the model is small already
    caplog.clear()
    monkeypatch.setattr(trainer, "_LARGE", 0)
    assert cli.main([*words, "--trainer.max_steps", "100"]) == 0
    assert re.search(r"for a CPU there is --config [\w/]+_small$", caplog.text, re.MULTILINE)


def test_test_writes_a_record_and_compare_a_table(here, capsys, tmp_path):
    words = ["--config", str(here.recipe), "--ckpt_path", "last", "--trainer.default_root_dir", str(here.runs)]
    before = set((here.runs / "paralip_rendered").glob("test_*"))  # other tests score the same run
    assert cli.main(["test", *words, "--evaluator.name", "first", "--evaluator.metrics", "[quality]"]) == 0
    (record,) = tmp_path.glob("leaderboards/results/rendered/seen/paralip/first.json")
    content = json.loads(record.read_text())
    assert content["scores"]["mouth/psnr"]["value"] > 0
    assert cli.main(["compare"]) == 0
    assert "ground-truth" in (tmp_path / "leaderboards" / "rendered_seen.csv").read_text()
    assert cli.main(["compare", "--check"]) == 0
    (tmp_path / "leaderboards" / "rendered_seen.csv").write_text("rank\n")
    assert cli.main(["compare", "--check"]) == 2
    assert "lipbench compare" in capsys.readouterr().err
    (folder,) = set((here.runs / "paralip_rendered").glob("test_*")) - before
    (written,) = folder.glob("events*")
    assert b"mouth/psnr" in written.read_bytes()  # the record is in TensorBoard too


def test_a_checkpoint_alone_brings_its_configuration(here, capsys):
    words = ["--trainer.default_root_dir", "runs"]
    assert cli.main(["validate", "--ckpt_path", str(here.checkpoint), *words]) == 0
    config = yaml.safe_load(Path("runs/paralip_rendered/validate_0/config.yaml").read_text())
    assert config["model"]["init_args"]["hidden"] == 16
    shutil.copy(here.checkpoint, "moved.ckpt")  # away from its run: the file itself says model and corpus
    capsys.readouterr()
    quick = ["--data.num_workers", "0", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    assert cli.main(["validate", "--ckpt_path", "moved.ckpt", *words, *quick]) == 0
    assert "from the checkpoint: --model paralip --data rendered" in capsys.readouterr().err
    config = yaml.safe_load(Path("runs/paralip_rendered/validate_1/config.yaml").read_text())
    assert config["model"]["init_args"]["hidden"] == 16
    assert config["data"]["protocol"] == "rendered/seen"


def test_a_checkpoint_brings_the_arguments_of_its_run_beside_names(here, capsys):
    words = ["--model", "paralip", "--data", "rendered", "--trainer.default_root_dir", str(here.runs)]
    for command in ("validate", "fit"):
        printed = [command, *words, "--ckpt_path", "last", "--print_config", "--trainer.max_steps", "5"]
        assert cli.main(printed) == 0
        told = capsys.readouterr()
        config = yaml.safe_load(told.out)
        assert config["data"]["batch_size"] == 2
        assert config["model"]["init_args"]["hidden"] == 16
        assert config["trainer"]["max_steps"] == 5
        assert "config.yaml, those of the checkpoint's run" in told.err
    assert cli.main(["validate", "--data", "grid", "--ckpt_path", str(here.checkpoint), "--print_config"]) == 0
    told = capsys.readouterr()
    assert yaml.safe_load(told.out)["data"]["corpus"] == "grid"
    assert "from the checkpoint: --model lipbench.models.paralip.ParaLip" in told.err


def test_names_and_a_checkpoint_are_enough(here, capsys):
    """The sizes of the checkpoint are no contradiction: none were asked for."""
    words = ["--model", "paralip", "--data", "rendered", "--data.num_workers", "0", "--trainer.accelerator", "cpu"]
    words += ["--trainer.default_root_dir", str(here.runs)]
    before = set((here.runs / "paralip_rendered").glob("validate_*"))
    assert cli.main(["validate", *words, "--ckpt_path", "best"]) == 0
    (run,) = set((here.runs / "paralip_rendered").glob("validate_*")) - before
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["ckpt_path"] == str(here.checkpoint.with_name("best.ckpt"))
    assert config["model"]["init_args"]["hidden"] == 16


def test_predict_writes_videos(here, capsys):
    words = ["--config", str(here.recipe), "--ckpt_path", str(here.checkpoint), "--trainer.default_root_dir", "runs"]
    assert cli.main(["predict", *words]) == 0
    files = sorted(Path("runs").rglob("videos/rendered/s1/*.mp4"))
    assert len(files) == len(set(files)) >= 1
    shown = video.read_video(files[0])
    assert shown.fps == 25
    assert shown.frames[0].shape == (16, 32, 3)  # what the model made, without captions
    (beside,) = Path("runs").rglob(f"side_by_side/rendered/s1/{files[0].name}")
    captioned = video.read_video(beside)
    assert len(captioned.frames) >= len(shown.frames)
    assert captioned.frames[0].shape == (4 * 16 + 2 * 24, 2 * 4 * 32 + 2, 3)


def test_a_checkpoint_cannot_change_the_arguments_that_were_asked_for(here, capsys):
    words = ["--config", str(here.recipe), "--model.lr", "0.5", "--ckpt_path", str(here.checkpoint)]
    assert cli.main(["fit", *words]) == 2
    said = capsys.readouterr().err
    assert "lr: 0.001 in the checkpoint, 0.5 asked for" in said
    assert "--model.init_from" in said
    assert cli.main(["validate", *words]) == 2
    assert "a checkpoint knows its own" in capsys.readouterr().err


class Other(ParaLip):
    """Another model with the same arguments."""


def test_a_checkpoint_of_another_model_is_refused(here, capsys, tmp_path):
    stored = torch.load(here.checkpoint, weights_only=True)
    stored["hyper_parameters"]["_class_path"] = f"{__name__}.Other"
    torch.save(stored, tmp_path / "other.ckpt")
    words = ["--config", str(here.recipe), "--ckpt_path", str(tmp_path / "other.ckpt")]
    assert cli.main(["validate", *words]) == 2
    assert "holds the model" in capsys.readouterr().err


def test_the_order_of_words_does_not_matter(here, capsys):
    shutil.copy(here.recipe, "tiny.yaml")
    assert cli.main(["fit", "--model.hidden", "8", "--print_config", "--config", "tiny.yaml"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["hidden"] == 8
    assert printed["model"]["init_args"]["size"] == [16, 32]
    words = ["--model.hidden", "8", "--data", "rendered", "--model", "paralip", "--print_config"]
    assert cli.main(["fit", *words]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["hidden"] == 8


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_trained_model_is_asked_for(here, capsys, command):
    assert cli.main([command, "--model", "paralip", "--data", "rendered"]) == 2
    assert "--ckpt_path last" in capsys.readouterr().err
    assert cli.main([command, "--model", "paralip", "--data", "rendered", "--ckpt_path", "last"]) == 1
    assert "lipbench fit --model paralip --data rendered" in capsys.readouterr().err


def test_wandb_offline_by_a_flag(here, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = ["--config", str(here.recipe), "--trainer.default_root_dir", "runs", "--trainer.max_steps", "1"]
    assert cli.main(["fit", *words, "--tracking.wandb", "offline"]) == 0
    import wandb

    wandb.finish()
    assert list(Path("runs/paralip_rendered/version_0").rglob("offline-run-*/*.wandb"))


def test_training_and_scoring_open_no_media_library(here, tmp_path):
    """From a store, neither needs what decodes media, finds faces or talks to a service."""
    script = f"""
import sys
import time
import torchmetrics  # looks for librosa by itself; what it finds loads nothing until it is used
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("av", "dlib", "_dlib_pybind11", "wandb", "face_alignment", "espeakng_loader"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
from lipbench.cli import main
words = ["--config", {str(here.recipe)!r}]
assert main(["fit", *words]) == 0
assert main(["test", *words, "--ckpt_path", "last", "--evaluator.metrics", "[quality]"]) == 0
assert not [name for name in sys.modules if name.startswith("librosa.core")]
print("scored")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("scored\n")


@pytest.mark.slow
def test_two_processes_predict_every_clip_once(here, tmp_path):
    """Three clips over two processes: nobody waits for a fourth, and every file is there."""
    words = ["--config", str(here.recipe), "--ckpt_path", str(here.checkpoint), "--trainer.default_root_dir", "runs"]
    words += ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    command = [sys.executable, "-m", "lipbench", "predict", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("videos/rendered/s1/*.mp4"))) == 3


@pytest.mark.slow
def test_two_processes_fit_with_fewer_validation_clips_than_processes(here, tmp_path):
    """Nobody waits for a clip that the other process does not have."""
    words = ["--config", str(here.recipe), "--trainer.default_root_dir", "runs"]
    words += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.limit_val_batches", "1"]
    command = [sys.executable, "-m", "lipbench", "fit", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    last = torch.load(*tmp_path.rglob("last.ckpt"), weights_only=True)
    assert last["global_step"] == 3


@pytest.mark.slow
def test_a_killed_fit_resumed_ends_in_the_weights_of_an_uninterrupted_one(here, tmp_path, monkeypatch):
    """Killed by the system, with no chance to write anything more."""
    words = ["--config", str(here.recipe), "--trainer.max_steps", "120", *EXACT]
    command = [sys.executable, "-m", "lipbench", "fit", *words, "--trainer.default_root_dir"]
    with subprocess.Popen([*command, "two"], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        first = tmp_path / "two" / "paralip_rendered" / "version_0" / "checkpoints" / "last.ckpt"
        while not first.is_file():
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.01)
        process.kill()
    killed = torch.load(first, weights_only=True)
    assert 0 < killed["global_step"] < 120
    for rest in (["one"], ["two", "--ckpt_path", "last"]):
        done = subprocess.run([*command, *rest], capture_output=True, text=True, cwd=tmp_path, timeout=240)
        assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    assert_same_runs("one", "two")


def test_an_expert_that_was_moved_is_asked_for(here, capsys, tmp_path):
    """It is no part of the checkpoint: the run that goes on needs the same file, wherever it lies."""
    for seed, name in enumerate(("expert", "other")):
        torch.manual_seed(seed)
        net = Expert(24, (8, 8, 8, 8), (0, 0, 0), (8, 8, 8, 8), (0, 0, 0, 0), 16)
        weights.save(f"{name}.safetensors", net, arguments=net.arguments, view=net.view, trained_on="nothing")
    recipe = yaml.safe_load(here.recipe.read_text())
    sizes = {"size": 12, "widths": [12, 8, 8], "residuals": [0, 0], "decoder_widths": [8, 8, 8], "hidden": 8}
    sizes |= {"decoder_residuals": 0, "audio_widths": [4, 4, 6, 8], "audio_residuals": [0, 0, 0, 0], "sync_from": 0}
    recipe["model"] = {"class_path": "lipbench.models.wav2lip.Wav2Lip", "init_args": sizes}
    Path("w.yaml").write_text(yaml.safe_dump(recipe))
    words = ["fit", "--config", "w.yaml", "--trainer.limit_val_batches", "0", "--trainer.max_steps"]
    assert cli.main([*words, "1", "--model.expert", "expert.safetensors"]) == 0
    Path("expert.safetensors").rename("moved.safetensors")
    assert cli.main([*words, "2", "--ckpt_path", "last"]) == 1
    said = capsys.readouterr().err
    assert "was trained with --model.expert expert.safetensors, and no such file is there" in said
    assert "--model.expert FILE (SHA-256 " in said
    (last,) = Path("runs").rglob("last.ckpt")
    before = last.read_bytes()
    assert cli.main([*words, "2", "--ckpt_path", "last", "--model.expert", "other.safetensors"]) == 1
    assert "the run that is resumed was trained with" in capsys.readouterr().err
    assert last.read_bytes() == before  # what could not be restored does not replace it
    assert cli.main([*words, "2", "--ckpt_path", "last", "--model.expert", "moved.safetensors"]) == 0
    assert torch.load(last, weights_only=True)["global_step"] == 2
    assert cli.main(["validate", "--ckpt_path", str(last)]) == 0
