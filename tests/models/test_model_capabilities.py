"""Models that generate video or audio, read, or do several of it; streams; pictures that a model shows."""

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from fake_data import FakeData, make_batch
from PIL import Image
from pytorch_lightning.utilities import CombinedLoader
from torch import nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from lipbench.models.lipnet import LipNet
from lipbench.models.paralip import ParaLip
from lipbench.models.syncnet import SyncNet
from lipbench.tracking import Tracking, Videos
from lipbench.training.base import BenchModule
from lipbench.training.generative import GenerativeModel
from lipbench.training.reading import ReadingModel
from lipbench.training.throughput import clips
from lipbench.types import ClipBatch, ClipSpec, Generated, Timing, View

MOUTH = View("mouth", 4, 8)


class Both(GenerativeModel, ReadingModel):
    """Makes grey frames and reads one word; which timings it has is configuration."""

    paper = "none"

    def __init__(self, predicts: bool = False) -> None:
        super().__init__()
        self.predicts = predicts
        self.grey = nn.Parameter(torch.zeros(1))

    @property
    def timings(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"free"} if self.predicts else {"length", "free"})

    @property
    def clip_spec(self) -> ClipSpec:
        return ClipSpec(frames={"video": MOUTH}, keys=frozenset({"tokens", "durations"}))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"tokens"})

    def build_optimizers(self) -> dict[str, Optimizer]:
        return {"grey": SGD([self.grey], lr=0.1)}

    def compute_step(self, batch: Any) -> None:
        self.step_optimizer("grey", {"l1": (batch["video"] - self.grey).abs().mean()})

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        count = len(batch["tokens"])
        video = self.grey.expand(count, 6, 3, *MOUTH.size).clamp(0, 1)
        return {"video": video, "video_len": torch.full((count,), 6)}

    def read(self, batch: ClipBatch) -> list[str]:
        return ["bin"] * len(batch["video"])

    def spoken(self, batch: ClipBatch) -> list[str]:
        return ["bin blue"] * len(batch["video"])


class Speaks(Both):
    """Makes audio alone: a hum at 22,050 samples a second."""

    @property
    def capabilities(self) -> frozenset[str]:
        return (super().capabilities - {"video"}) | {"audio"}

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        count = len(batch["tokens"])
        return {"audio": torch.zeros(count, 22050) + 0.1, "sample_rate": 22050}


def test_capabilities_come_from_the_bases() -> None:
    assert Both().capabilities == {"video", "text"}
    assert Speaks().capabilities == {"audio", "text"}
    assert ParaLip(size=(12, 24), hidden=8, layers=1, ffn=8).capabilities == {"video"}
    assert LipNet((16, 24), (4, 6, 8), 8).capabilities == {"text"}
    assert SyncNet("small").capabilities == frozenset()


def test_timings_are_those_of_the_instance() -> None:
    assert Both().timing == "length"
    free = Both(predicts=True)
    assert free.timing == "free"
    with pytest.raises(ValueError, match="has no timing 'length'"):
        free.run_generate(make_batch(free.clip_spec, 0), "length")
    model = Both()
    model.timing = "free"
    assert model.timing == "free"


def test_audio_embeddings_are_optional() -> None:
    with pytest.raises(NotImplementedError, match="Both offers no audio embeddings"):
        Both().audio_embeddings({})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("needs", frozenset({"tokens", "video"}), r"Odd\.needs has 'video', .*; expected other keys: 'identity' for"),
        ("needs", frozenset({"words"}), r"Odd needs \['words'\] .* and has \[.*'tokens'.*\]: add them to `clip_spec`"),
        (
            "timings",
            frozenset({"giv"}),
            r"Odd\.timings is \['giv'\]; expected some of \['given', 'speech', 'length', 'free'\]",
        ),
        ("generate", lambda *_: None, r"Odd\.generate returned NoneType; expected a dict with 'video' and 'video_len'"),
        ("generate", lambda *_: {"video": torch.zeros(1)}, r"returned \['video'\]; expected a dict with 'video' and"),
        (
            "generate",
            lambda *_: {"video": torch.zeros(2, 6, 8, 4, 3), "video_len": torch.tensor([6, 6])},
            r"a video of shape \(2, 6, 8, 4, 3\); expected \(B, N, 3, 4, 8\), as the view 'video'",
        ),
    ],
)
def test_a_model_against_the_contract_is_told(
    name: str, value: object, expected: str, trainer_for: Callable[..., pl.Trainer]
) -> None:
    odd = type("Odd", (Both,), {name: value})
    with pytest.raises(ValueError, match=expected):
        trainer_for(max_steps=1).validate(odd(), FakeData(1))


@pytest.mark.parametrize("kind", [Both, Speaks])
def test_a_model_does_all_that_it_can(kind: type[Both], trainer_for: Callable[..., pl.Trainer]) -> None:
    model, trainer = kind(), trainer_for(max_steps=2)
    trainer.fit(model, FakeData(2))
    logged = trainer.callback_metrics
    assert logged["val/wer"] == 0.5
    assert logged["val/cer"] == pytest.approx(5 / 8)
    assert ("val/psnr" in logged) == ("video" in model.capabilities)
    generated = trainer.predict(model, FakeData(1))
    assert generated is not None
    expected = {"video", "video_len", "text"} if kind is Both else {"audio", "sample_rate", "text"}
    assert set(generated[0]) == expected
    trainer.test(model, FakeData(1))
    assert trainer.callback_metrics["test/wer"] == 0.5


class TwoStreams(BenchModule):
    """Trains on a dict of batches: mouths, and text without video."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.zeros(1))

    @property
    def streams(self) -> dict[str, ClipSpec]:
        return {"pairs": ClipSpec(frames={"video": MOUTH}), "others": ClipSpec(frames={"video": View("mouth", 8, 8)})}

    def build_optimizers(self) -> dict[str, Optimizer]:
        return {"one": SGD([self.one], lr=1.0)}

    def compute_step(self, batch: dict[str, ClipBatch]) -> None:
        sizes = [stream["video"].shape[-2:] for stream in batch.values()]
        assert sizes == [(4, 8), (8, 8)]
        self.step_optimizer("one", {name: self.one.sum() for name in batch})


class Joined(FakeData):
    """Two streams of batches, as Lightning's CombinedLoader joins them."""

    def train_dataloader(self) -> Any:
        module = self.trainer.lightning_module  # type: ignore[union-attr]
        made = {name: [make_batch(spec, k) for k in range(3)] for name, spec in module.streams.items()}
        return CombinedLoader({name: DataLoader(stream, batch_size=None) for name, stream in made.items()}, "min_size")


def test_a_training_batch_may_be_a_dict_of_batches(trainer_for: Callable[..., pl.Trainer]) -> None:
    model = TwoStreams()
    assert model.clip_spec is not None
    assert model.clip_spec == model.streams["pairs"]
    trainer = trainer_for(max_epochs=1, limit_val_batches=0)
    trainer.fit(model, Joined())
    assert (model.batches, model.one.item()) == (3, -6)
    assert trainer.callback_metrics["throughput/clips_per_second"] > 0
    assert clips({"pairs": make_batch(model.clip_spec, 0), "others": make_batch(model.clip_spec, 1)}) == 8

    class Neither(TwoStreams):
        @property
        def streams(self) -> dict[str, ClipSpec]:
            return {}

    with pytest.raises(NotImplementedError, match="Neither must define `clip_spec` or `streams`"):
        _ = Neither().clip_spec


def test_pictures_and_audio_are_written(tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    class Shows(Both):
        def validation_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
            self.log_image("attention/first", torch.full((3, 4, 6), 7, dtype=torch.uint8))
            return super().validation_step(batch, batch_idx)

    model = Shows()
    tracking = Tracking(strips=0)
    trainer_for(max_steps=1, default_root_dir=tmp_path, callbacks=[tracking], num_sanity_val_steps=1).fit(
        model, FakeData(1)
    )
    (path,) = (tmp_path / "images" / "attention_first").glob("*.png")  # none of the sanity check
    assert np.asarray(Image.open(path)).tolist() == np.full((4, 6, 3), 7).tolist()
    assert model.images == {}

    trainer_for(default_root_dir=tmp_path, callbacks=[Videos()]).predict(Speaks(), FakeData(1))
    files = sorted((tmp_path / "audio").rglob("*.wav"))
    assert len(files) == 4
    with wave.open(str(files[0]), "rb") as file:
        assert (file.getframerate(), file.getnframes(), file.getnchannels()) == (22050, 22050, 1)
        assert np.frombuffer(file.readframes(5), "<i2").tolist() == [3277] * 5
