"""What a run leaves behind, read back from the files."""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import wandb_files
from lipbench import tracking
from lipbench.media import captions
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipSpec, View

FRAMES, HEIGHT, WIDTH = 6, 8, 12


class Grey(GenerativeModel):
    """Every frame is one learned grey."""

    timings = frozenset({"length"})
    paper = "none"
    needs = frozenset({"n_frames"})
    clip_spec = ClipSpec(frames={"video": View("mouth", HEIGHT, WIDTH)})

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.25))

    def build_optimizers(self):
        return {"all": torch.optim.SGD(self.parameters(), lr=0.0)}

    def compute_step(self, batch):
        self.step_optimizer("all", {"l1": (self.level - batch["video"]).abs().mean()})
        self.log_image("curve", torch.full((5, 7), self.batches / 4))

    def validation_step(self, batch, batch_idx):
        self.log_image(f"alignment/clip{batch_idx}", torch.eye(4).expand(3, 4, 4))
        return super().validation_step(batch, batch_idx)

    def generate(self, batch, timing):
        lengths = batch["n_frames"]
        video = self.level.expand(len(lengths), int(lengths.max()), 3, HEIGHT, WIDTH)
        return {"video": video, "video_len": lengths}


class Clips(Dataset):
    """Three clips; the value of a pixel tells the frame."""

    def __len__(self):
        return 3

    def __getitem__(self, k):
        video = torch.arange(FRAMES).view(-1, 1, 1, 1).expand(-1, 3, HEIGHT, WIDTH) / 10
        return {
            "index": torch.tensor(k),
            "clip_id": f"toy/s1/clip{k}",
            "video": video,
            "video_len": torch.tensor(FRAMES),
            "n_frames": torch.tensor(FRAMES),
            "speech": torch.tensor([2, 5]),
        }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a short fit with all loggers, W&B offline."""
    folder = tmp_path_factory.mktemp("runs")
    version = tracking.claim(folder / "grey_toy", "fit")
    patch = pytest.MonkeyPatch()
    patch.setenv("WANDB_SILENT", "true")
    patch.delenv("WANDB_API_KEY", raising=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=tracking.loggers(folder, "grey_toy", version, wandb="offline"),
        callbacks=[tracking.Tracking(strips=2, frames=3)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(Grey(), DataLoader(Clips(), 2), DataLoader(Clips(), 2))
    tracking.finish_wandb(failed=False)
    patch.undo()
    return folder / "grey_toy" / version


def test_frames_are_spread_over_the_span():
    assert tracking.spread(10, 21, 3) == [10, 15, 20]
    assert tracking.spread(4, 6, 10) == [4, 5]
    assert tracking.spread(3, 3, 5) == [3]


def test_run_folders_are_never_shared(tmp_path):
    assert [tracking.claim(tmp_path, "fit") for _ in range(2)] == ["version_0", "version_1"]
    assert tracking.claim(tmp_path, "test") == "test_0"


def test_losses_are_in_the_csv_file(run):
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    losses = [float(row["train/l1"]) for row in rows if row["train/l1"]]
    assert len(losses) == 4
    assert losses[0] == pytest.approx(np.abs(np.arange(FRAMES) / 10 - 0.25).mean())
    assert any(row["val/l1"] for row in rows)


def test_strips_are_files_of_the_speech_span(run):
    files = sorted((run / "strips").rglob("*.png"))
    assert [file.relative_to(run / "strips").as_posix() for file in files] == [
        f"toy_s1_clip{k}/000000{step}.png" for k in range(2) for step in (2, 4)
    ]
    picture = np.asarray(Image.open(files[0]))
    scale = captions.factor(WIDTH)
    assert picture.shape[0] > 2 * scale * HEIGHT + 2 * 20  # words above and times below
    right = [picture.shape[1] - 1 - k * (scale * WIDTH + captions.GAP) for k in (2, 1, 0)]
    middle = picture.shape[0] // 2
    assert [int(picture[middle - scale, x, 0]) for x in right] == [51, 76, 102]  # frames 2, 3, 4 of 0.1 each
    assert {int(picture[middle + scale, x, 0]) for x in right} == {64}


def test_what_a_model_logs_as_images_are_files_too(run):
    files = sorted((run / "images").rglob("*.png"))
    assert [file.relative_to(run / "images").as_posix() for file in files] == [
        *(f"alignment_clip{k}/000000{step}.png" for k in range(2) for step in (2, 4)),
        *(f"curve/000000{step}.png" for step in (1, 2, 3, 4)),
    ]
    assert np.array_equal(np.asarray(Image.open(files[0])), np.repeat(255 * np.eye(4)[..., None], 3, axis=2))
    assert [int(np.asarray(Image.open(file))[0, 0, 0]) for file in files[-4:]] == [0, 64, 128, 191]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (torch.zeros(4, 5, 3), "shape (4, 5, 3); expected (3, H, W) or (H, W)"),
        (torch.zeros(4, 5).long(), "torch.int64"),
    ],
)
def test_what_is_no_image_is_refused(image, expected):
    with pytest.raises(ValueError, match="the image 'plot'") as error:
        Grey().log_image("plot", image)
    assert expected in str(error.value)


def test_tensorboard_has_losses_and_pictures(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    assert [event.step for event in events.Scalars("train/l1")] == [0, 1, 2, 3]
    assert [event.step for event in events.Images("strips/toy/s1/clip0")] == [2, 4]
    assert [event.step for event in events.Images("images/alignment/clip1")] == [2, 4]
    assert [event.step for event in events.Images("images/curve")] == [1, 2, 3, 4]


def test_offline_wandb_run_holds_losses_and_strips(run):
    (logged,) = wandb_files.read(run)
    assert list(run.rglob("offline-run-*"))
    assert logged.history["train/l1"] == pytest.approx([np.abs(np.arange(FRAMES) / 10 - 0.25).mean()] * 4)
    assert len(logged.history["val/l1"]) == 2
    first, _ = logged.history["strips/0"]  # of two validations
    assert first["captions"] == ["toy/s1/clip0"]
    (kept,) = logged.file.parent.rglob(Path(first["filenames"][0]).name)
    shown = np.asarray(Image.open(run / "strips" / "toy_s1_clip0" / "0000002.png"))
    assert np.array_equal(np.asarray(Image.open(kept)), shown)


def test_pictures_have_the_same_names_in_wandb_whatever_the_clips_are_called(run):
    (logged,) = wandb_files.read(run)
    steps = {key: len(values) for key, values in logged.history.items() if key.startswith(("strips", "images"))}
    assert steps == {f"{kind}/{k}": 2 for kind in ("strips", "images/alignment") for k in range(2)} | {
        "images/curve": 4
    }
    assert [picture["captions"] for picture in logged.history["images/alignment/1"]] == [["alignment/clip1"]] * 2


def test_a_resumed_run_goes_on_in_wandb_and_its_tests_join_its_group(run, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    copy = tmp_path / "grey_toy" / "version_0"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("wandb"))
    (first,) = wandb_files.read(run)
    for version, more in (
        ("version_0", {"batches": 4}),
        ("test_0", {"trained": copy}),
        ("version_1", {}),
        ("test_1", {}),  # of a checkpoint that lies in no run folder
    ):
        *_, logger = tracking.loggers(tmp_path, "grey_toy", version, "offline", **more)
        logger.log_metrics({"train/l1": 0.5}, step=4)
        tracking.finish_wandb(failed=False)
    (resumed,) = wandb_files.read(copy)
    (tested,), (other,), (alone,) = (
        wandb_files.read(copy.with_name(name)) for name in ("test_0", "version_1", "test_1")
    )
    assert first.run_id == resumed.run_id == (copy / tracking.WANDB_ID).read_text().strip()
    assert (first.history["trainer/global_step"][-1], resumed.history["trainer/global_step"]) == (3, [4])
    assert first.group == resumed.group == tested.group == f"grey_toy/version_0 {first.run_id}"
    assert (first.job, resumed.job, tested.job) == ("fit", "fit", "test")
    assert len({first.run_id, tested.run_id, other.run_id, alone.run_id}) == 4
    assert (other.group, alone.group) == (f"grey_toy/version_1 {other.run_id}", "")


def test_wandb_online_without_a_key_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match="wandb login"):
        tracking.loggers(tmp_path, "grey_toy", "version_0", wandb="online")


def test_wandb_is_not_imported_unless_asked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    assert len(tracking.loggers(tmp_path, "grey_toy", "version_0")) == 2
    with pytest.raises(ModuleNotFoundError):
        _ = tracking.loggers(tmp_path, "grey_toy", "version_0", wandb="offline")[2].experiment
