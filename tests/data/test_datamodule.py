"""Batches: exactly what the model asks for, the same whatever the number of processes, resumable at any step."""

import dataclasses
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from made_up_store import GRID_IDS, SENTENCES, color, make_store
from torch import Tensor

from lipbench.data.datamodule import ClipDataModule
from lipbench.data.loader import ClipDataset, ShuffledSampler, UnpaddedSampler, collate, mismatched_clips
from lipbench.data.store import Store, StoredClip
from lipbench.types import ClipSpec, View

MOUTH = View("mouth", 8, 16)
ALL = frozenset({"identity", "audio", "tokens", "durations"})


def rendered(store: Path, spec: ClipSpec, stage: str = "fit", **arguments: Any) -> ClipDataModule:
    arguments = {"protocol": "rendered/unseen", "batch_size": 3, "num_workers": 0} | arguments
    module = ClipDataModule("rendered", store=str(store), **arguments)
    module.clip_spec = spec
    module.setup(stage)
    return module


def batches(module: ClipDataModule, loader: Any) -> list[Any]:
    return [module.on_after_batch_transfer(batch, 0) for batch in loader]


def test_training_batch_holds_what_was_asked_for(rendered_store: Path) -> None:
    spec = ClipSpec({"video": MOUTH, "wide": View("face", 16, 16)}, window=5, references=2, audio_rate=4000, keys=ALL)
    module = rendered(rendered_store, spec)
    batch = batches(module, module.train_dataloader())[0]
    always = {"index", "clip_id", "speaker", "speaker_id", "video_len", "frame", "n_frames", "fps", "text", "speech"}
    asked = {"video", "wide", "identity", "audio", "audio_len", "tokens", "token_len", "durations"}
    assert set(batch) == always | asked
    assert batch["video"].shape == (3, 5, 3, 8, 16)
    assert batch["wide"].shape == (3, 5, 3, 16, 16)
    assert batch["identity"].shape == (3, 2, 3, 8, 16)
    assert batch["video"].dtype == batch["identity"].dtype == torch.float32
    assert batch["index"].dtype == batch["n_frames"].dtype == torch.int64
    for row, clip_id in enumerate(batch["clip_id"]):
        number = int(clip_id[-1]) + 8 * (int(clip_id.split("/")[1][1]) - 1)
        assert batch["speaker_id"][row] == 0  # s3, the only training speaker of rendered/unseen
        assert batch["text"][row] == SENTENCES[number % 3]
        frames = batch["frame"][row]
        assert (frames.diff() == 1).all()
        for k, frame in enumerate(frames.tolist()):
            seen = batch["video"][row, k].mean((1, 2)) * 255
            assert (seen - torch.tensor(color(number, frame))).abs().max() < 2
        total = int(batch["n_frames"][row])
        assert batch["durations"][row].sum() == total
        assert batch["audio_len"][row] == total * 160
        assert (batch["tokens"][row] > 0).sum() == batch["token_len"][row]
        assert (batch["audio"][row, total * 160 :] == 0).all()


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_audio_without_video_decodes_no_frame(
    rendered_store: Path, monkeypatch: pytest.MonkeyPatch, stage: Literal["fit", "test"]
) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("a frame was decoded")

    monkeypatch.setattr(StoredClip, "pictures", decode)
    monkeypatch.setattr(StoredClip, "views", decode)
    spec = ClipSpec({}, audio_rate=4000, keys=frozenset({"audio", "tokens", "durations"}))
    module = rendered(rendered_store, spec, stage)
    loader = module.train_dataloader() if stage == "fit" else module.test_dataloader()
    batch = batches(module, loader)[0]
    always = {"index", "clip_id", "speaker", "speaker_id", "n_frames", "fps", "text", "speech"}
    assert set(batch) == always | {"audio", "audio_len", "tokens", "token_len", "durations"}
    assert torch.equal(batch["durations"].sum(dim=1), batch["n_frames"])
    assert torch.equal(batch["audio_len"], batch["n_frames"] * 160)
    with pytest.raises(ValueError, match=r"ClipSpec.frames is empty; it needs the main view .*, or an audio_rate"):
        rendered(rendered_store, ClipSpec({}, keys=frozenset({"tokens"})))


def test_random_windows_and_short_clips(rendered_store: Path) -> None:
    module = rendered(rendered_store, ClipSpec({"video": MOUTH}, window=6, sampling="random"))
    for batch in module.train_dataloader():
        assert (batch["frame"].diff() > 0).all()
        assert (batch["frame"][:, -1] < batch["n_frames"]).all()
    module = rendered(rendered_store, ClipSpec({"video": MOUTH}, window=24, sampling="random"), batch_size=7)
    batch = next(iter(module.train_dataloader()))
    lengths = torch.minimum(batch["n_frames"], torch.tensor(24))
    assert torch.equal(batch["video_len"], lengths)
    for row, length in enumerate(lengths):
        assert (batch["video"][row, length:] == 0).all()
        assert (batch["video"][row, :length].float().mean((1, 2, 3)) > 0).all()


def test_scoring_batch(rendered_store: Path) -> None:
    spec = ClipSpec({"video": MOUTH}, window=5, audio_rate=4000, keys=frozenset({"identity"}))
    module = rendered(rendered_store, spec, "test")
    found = batches(module, module.test_dataloader())
    assert [clip for batch in found for clip in batch["clip_id"]] == module.test_ids
    assert torch.cat([batch["index"] for batch in found]).tolist() == list(range(16))
    store = Store(rendered_store)
    for batch in found:
        longest = int(batch["n_frames"].max())
        assert torch.equal(batch["video_len"], batch["n_frames"])
        assert batch["face"].shape == (len(batch["index"]), longest, 3, 352, 320)
        assert batch["face"].dtype == torch.uint8
        assert torch.equal(batch["identity"][:, 0], batch["video"][:, 0])
        for row, clip_id in enumerate(batch["clip_id"]):
            assert batch["sound"][row, : int(batch["sound_len"][row])].numpy() == pytest.approx(
                store[clip_id].audio(16000)
            )
        foreign = batch["mismatched"]
        for row, clip_id in enumerate(batch["clip_id"]):
            total = int(batch["n_frames"][row])
            assert torch.equal(batch["landmarks"][row, :total, 0, 0], torch.arange(total).float())
            assert (batch["face"][row, total:] == 0).all()
            other = foreign["clip_id"][row]
            assert other.split("/")[1] == clip_id.split("/")[1]
            assert foreign["text"][row] != batch["text"][row]
            assert foreign["text"][row] == store[other].text
            assert foreign["durations"][row].sum() == total
            assert (foreign["durations"][row] >= 0).all()
            assert foreign["audio_len"][row] == batch["audio_len"][row]
            assert foreign["sound_len"][row] == batch["sound_len"][row]
            heard = store[other].audio(16000)[: int(batch["sound_len"][row])]
            assert foreign["sound"][row, : len(heard)].numpy() == pytest.approx(heard)
            assert not foreign["sound"][row, len(heard) :].any()
    assert set(batches(module, module.predict_dataloader())[0]) & {"face", "landmarks", "mismatched"} == set()


@pytest.mark.parametrize("which", ["random", "first"])
def test_identity_frames_in_training(rendered_store: Path, which: Literal["random", "first"]) -> None:
    spec = ClipSpec({"video": MOUTH}, window=2, identity=which, references=2, keys=frozenset({"identity"}))
    module = rendered(rendered_store, spec, "fit")
    store = Store(rendered_store)
    first = [
        bool((identity == store[clip_id].view([0], MOUTH)[0].float() / 255).all())
        for batch in batches(module, module.train_dataloader())
        for identities, clip_id in zip(batch["identity"], batch["clip_id"], strict=True)
        for identity in identities
    ]
    assert all(first) if which == "first" else sum(first) < len(first) / 2


def test_identity_landmarks_are_those_of_the_identity_frames(rendered_store: Path) -> None:
    """Landmarks of the made-up clips are the frame's number, which their pictures show too."""
    store, wanted = Store(rendered_store), {"identity", "identity_landmarks"}

    def item(index: int, training: bool, keys: set[str]) -> dict[str, Tensor]:
        spec = ClipSpec({"video": MOUTH}, window=2, references=3, keys=frozenset(keys))
        return ClipDataset(store, store.clip_ids, spec, spec.keys, seed=0, training=training, speakers={})[0, index]

    drawn = set()
    for index in range(8):
        both = item(index, True, wanted)
        points = both["identity_landmarks"]
        assert points.shape == (3, 68, 2)
        assert points.dtype == torch.float32
        frames = points[:, 0, 0].long().tolist()
        shown = store[store.clip_ids[index]].view(frames, MOUTH)
        assert torch.equal(both["identity"], shown)
        assert torch.equal(item(index, True, {"identity_landmarks"})["identity_landmarks"], points)
        assert torch.equal(item(index, True, {"identity"})["identity"], shown)
        drawn |= set(frames)
        assert (item(index, False, wanted)["identity_landmarks"] == 0).all()  # the first frame
    assert len(drawn) > 8
    with pytest.raises(ValueError, match="without frames cannot hold identity_landmarks"):
        ClipSpec({}, keys=frozenset({"identity_landmarks"}))


def test_landmarks_of_the_training_clips(rendered_store: Path) -> None:
    module = rendered(rendered_store, ClipSpec({"video": MOUTH}), "fit")
    store, clips = Store(rendered_store), list(module.training_landmarks())
    assert len(clips) == len(module._present["paired"])
    for clip_id, points in zip(module._present["paired"], clips, strict=True):
        assert torch.equal(points, torch.tensor(store[clip_id].landmarks))
    few = list(module.training_landmarks(most=3))
    assert [len(few[0]), len(few[-1])] == [len(clips[0]), len(clips[-1])]
    assert len(few) == 3


def test_words_of_the_training_clips(rendered_store: Path) -> None:
    module = rendered(rendered_store, ClipSpec({"video": MOUTH}), "fit", protocol="rendered/seen")
    said = dict(zip(module.store.clip_ids, module.store.column("text"), strict=True))
    module._present["paired"] = [clip_id for clip_id in module._present["paired"] if said[clip_id] != SENTENCES[1]]
    assert module.training_words() == sorted({*SENTENCES[0].split(), *SENTENCES[2].split()})
    module.store.has_text = False
    with pytest.raises(ValueError, match="has no words: the corpus rendered has no text"):
        module.training_words()


def test_identity_run_is_elsewhere_in_the_clip(rendered_store: Path) -> None:
    """Five frames in a row, each start equally likely but that of the frames drawn; the first frame in scoring."""
    spec = ClipSpec({"video": MOUTH}, window=5, identity="run", references=5, keys=frozenset({"identity"}))
    store = Store(rendered_store)
    clip_id = store.clip_ids[0]  # 20 frames

    def item(epoch: int, training: bool = True, **changed: Any) -> dict[str, Any]:
        wanted = dataclasses.replace(spec, **changed)
        clips = ClipDataset(store, [clip_id], wanted, spec.keys, seed=0, training=training, speakers={})
        return clips[epoch, 0]

    every = store[clip_id].view(list(range(20)), MOUTH)
    starts, distances = set(), set()
    for epoch in range(300):
        found = item(epoch)
        place = [int((every == frame).flatten(1).all(1).nonzero()[0]) for frame in found["identity"]]
        assert place == list(range(place[0], place[0] + 5))
        starts.add(place[0])
        distances.add(place[0] - int(found["frame"][0]))
    assert starts == set(range(16))
    assert 0 not in distances
    assert {-1, 1} < distances
    short = item(0, references=30)["identity"]  # more than the clip has: its last frame is repeated
    assert len(short) == 30
    assert torch.equal(short[-1], every[19])
    scored = item(0, training=False)["identity"]
    assert all(torch.equal(frame, every[0]) for frame in scored)


def test_foreign_clips_reach_further_where_they_must(rendered_store: Path) -> None:
    store = Store(rendered_store)
    same = [clip for clip in store.clip_ids if store[clip].text == SENTENCES[0]]
    alone = mismatched_clips(store, ["rendered/s1/clip0"])
    assert store[alone[0]].speaker == "s1"
    for clip, other in zip(same, mismatched_clips(store, same), strict=True):
        assert store[other].speaker == store[clip].speaker
        assert store[other].text != SENTENCES[0]


def test_whole_clips_are_read_here_where_shared_memory_is_small(
    rendered_store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with the 64 MB of /dev/shm in Docker, in which loader processes end in a bus error."""
    caplog.set_level("INFO")
    module = rendered(rendered_store, ClipSpec({"video": MOUTH}), "test", num_workers=2)
    monkeypatch.setattr("lipbench.data.datamodule._shared_memory", lambda: 64 << 20)
    assert module.test_dataloader().num_workers == 0
    assert "/dev/shm has room for 64 MB, too little for whole clips from 2 processes" in caplog.text
    assert module.predict_dataloader().num_workers == 2
    monkeypatch.setattr("lipbench.data.datamodule._shared_memory", lambda: 4 << 30)
    assert module.test_dataloader().num_workers == 2


def test_audio_of_a_lower_rate_is_resampled_and_said(rendered_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    rendered(rendered_store, ClipSpec({"video": MOUTH}, audio_rate=8_000))
    assert "resampled" not in caplog.text
    rendered(rendered_store, ClipSpec({"video": MOUTH}, audio_rate=44_100))
    assert "44,100 audio samples a second, and rendered has clips of 8,000" in caplog.text
    assert "nothing above 4,000 Hz" in caplog.text


def test_limit_test_is_spread_out(rendered_store: Path) -> None:
    whole = rendered(rendered_store, ClipSpec({"video": MOUTH}), "test").test_ids
    few = rendered(rendered_store, ClipSpec({"video": MOUTH}), "test", limit_test=4)
    assert few.test_ids == [whole[0], whole[5], whole[10], whole[15]]
    assert len(batches(few, few.test_dataloader())[0]["clip_id"]) == 3


def signature(batch: dict[str, Any]) -> tuple[Any, ...]:
    identity: Tensor = batch["identity"]
    return (*batch["clip_id"], *batch["frame"].flatten().tolist(), int(identity.long().sum()))


def test_randomness_depends_on_seed_and_epoch_alone(rendered_store: Path) -> None:
    spec = ClipSpec({"video": MOUTH}, window=5, keys=frozenset({"identity"}))

    def epochs(workers: int, seed: int) -> list[list[Any]]:
        loader = rendered(rendered_store, spec, num_workers=workers, seed=seed).train_dataloader()
        found = []
        for epoch in range(3):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            found.append([signature(batch) for batch in loader])
        return found

    alone = epochs(0, 0)
    assert alone == epochs(2, 0)
    assert alone[0] != alone[1] != alone[2]
    assert alone != epochs(0, 1)


def test_samplers_share_the_clips_out(rendered_store: Path) -> None:
    store = Store(rendered_store)
    spec = ClipSpec({"video": MOUTH})
    clips = ClipDataset(store, store.clip_ids[:11], spec, frozenset(), seed=0, training=True, speakers={})
    scored = [list(UnpaddedSampler(clips, 3, rank, shuffle=False)) for rank in range(3)]
    assert sorted(chain(*scored)) == list(range(11))
    assert [len(UnpaddedSampler(clips, 3, rank)) for rank in range(3)] == [4, 4, 3] == [len(s) for s in scored]
    few = ClipDataset(store, store.clip_ids[:2], spec, frozenset(), seed=0, training=False, speakers={})
    assert [list(UnpaddedSampler(few, 5, rank, shuffle=False)) for rank in range(5)] == [[0], [1], [0], [1], [0]]
    trained = [list(ShuffledSampler(clips, 3, rank, 0)) for rank in range(3)]
    assert [len(part) for part in trained] == [3, 3, 3]
    assert len(set(chain(*trained))) == 9


def test_a_handful_of_clips_makes_a_batch(rendered_store: Path) -> None:
    module = rendered(rendered_store, ClipSpec({"video": MOUTH}, window=3), batch_size=500)
    assert [len(batch["index"]) for batch in module.train_dataloader()] == [7]


def test_mean_view(rendered_store: Path) -> None:
    module = rendered(rendered_store, ClipSpec({"video": MOUTH}))
    mean = module.mean_view(View("mouth", 4, 8)) * 255
    assert mean.shape == (3, 4, 8)
    numbers = [16 + int(clip[-1]) for clip in module._present["train"]]
    frames = [np.linspace(0, 20 + n % 8 - 1, 5).round().mean() for n in numbers]
    expected = torch.tensor([8 * np.mean(numbers) + 4, 3 * np.mean(frames) + 4, 128])
    assert (mean.mean((1, 2)) - expected).abs().max() < 2


def test_published_protocol_counts_what_is_there(grid_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    module = ClipDataModule("grid", store=str(grid_store), protocol="grid/s1", num_workers=0)
    module.clip_spec = ClipSpec({"video": MOUTH})
    module.setup("fit")
    module.setup("test")
    assert caplog.text.count("grid/s1: 4 of 734 training (") == 1
    assert "2 of 255 test clips are in this store" in caplog.text
    assert set(module.test_ids) == {"grid/s1/bbaf2n", "grid/s1/bbaf3s"} < set(GRID_IDS)
    assert module.split.sha256 == module.protocol.split([]).sha256
    assert module.store_info["packed"] is None
    batch = next(iter(module.test_dataloader()))
    assert batch["video"].shape[1] == 75
    assert sorted(batch["video_len"].tolist()) == [74, 75]
    assert batch["mismatched"]["durations"].sum(1).tolist() == batch["n_frames"].tolist()


def test_errors_say_what_to_type(rendered_store: Path, grid_store: Path, home: Path, tmp_path: Path) -> None:
    spec = ClipSpec({"video": MOUTH})
    with pytest.raises(FileNotFoundError, match=r"lipbench prepare --data grid --root DIR$"):
        ClipDataModule("grid").setup("fit")
    with pytest.raises(FileNotFoundError, match=r"lipbench prepare --data rendered --store .*elsewhere$"):
        ClipDataModule("rendered", store=str(tmp_path / "elsewhere")).setup("fit")
    with pytest.raises(ValueError, match="holds 'grid', not 'rendered'"):
        ClipDataModule("rendered", store=str(grid_store)).setup("fit")
    module = ClipDataModule("grid", store=str(grid_store), protocol="grid/s1")
    with pytest.raises(ValueError, match="Expected a ClipSpec"):
        module.setup("fit")
    module.clip_spec = spec
    unseen = ClipDataModule("grid", store=str(grid_store), protocol="grid/unseen")
    with pytest.raises(ValueError, match=r"none of its 27,\d\d\d train clips is in the store .* \(6 clips\)"):
        unseen.setup("fit")
    with pytest.raises(ValueError, match="has no protocol 'grid/seen'; it has rendered/seen, rendered/unseen, "):
        ClipDataModule("rendered", protocol="grid/seen")
    with pytest.raises(ValueError, match="limit_test is 0"):
        ClipDataModule("rendered", limit_test=0)
    module.clip_spec = ClipSpec({"mouth": MOUTH})
    with pytest.raises(ValueError, match='"video"'):
        module.setup("fit")
    module.clip_spec = ClipSpec({"video": MOUTH}, keys=frozenset({"audio"}))
    with pytest.raises(ValueError, match="audio_rate"):
        module.setup("fit")


def test_packed_store_supplies_no_face(rendered_store: Path, tmp_path: Path) -> None:
    from lipbench.data.pack import pack

    folder = pack(rendered_store, View("mouth", 20, 40), tmp_path / "packed", progress=False)
    module = rendered(folder, ClipSpec({"video": MOUTH}), "test")
    batch = batches(module, module.test_dataloader())[0]
    assert "face" not in batch
    assert batch["landmarks"].shape[2:] == (68, 2)
    assert batch["video"].shape[2:] == (3, 8, 16)
    assert module.store_info["packed"] == "mouth 20x40"
    with pytest.raises(ValueError, match="does not lie inside"):
        rendered(folder, ClipSpec({"video": View("face", 16, 16)}), "test")


def test_collate_pads_and_nests() -> None:
    items = [
        {"n": 1, "f": 1.5, "s": "a", "t": torch.ones(2, 3), "d": {"x": torch.arange(3)}},
        {"n": 2, "f": 2.5, "s": "b", "t": torch.ones(4, 3), "d": {"x": torch.arange(1)}},
    ]
    batch: dict[str, Any] = collate(items)  # type: ignore[assignment]
    assert batch["n"].tolist() == [1, 2]
    assert batch["f"].dtype == torch.float32
    assert batch["s"] == ["a", "b"]
    assert batch["t"].sum((1, 2)).tolist() == [6, 12]
    assert batch["d"]["x"].tolist() == [[0, 1, 2], [0, 0, 0]]


class Killed(Exception):
    pass


class Tiny(pl.LightningModule):
    """Remembers its batches; one weight whose value depends on all of them in order."""

    clip_spec = ClipSpec({"video": MOUTH}, window=4, keys=frozenset({"identity"}))

    def __init__(self, die_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[Any] = []
        self.die_at = die_at

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if len(self.seen) == self.die_at:
            raise Killed
        picture = round(float(batch["identity"].sum()), 2)
        self.seen.append(
            (self.current_epoch, batch_idx, *batch["clip_id"], *batch["frame"].flatten().tolist(), picture)
        )
        loss: Tensor = (self.weight - batch["video"].mean()).square().sum()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert batch["video"].shape[1] > 4

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], 0.1)


def fit(store: Path, folder: Path, workers: int, die_at: int | None, resume: bool, every: int | None) -> Tiny:
    model = Tiny(die_at)
    when: dict[str, Any] = {"every_n_train_steps": every} if every else {"every_n_epochs": 1}
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[pl.callbacks.ModelCheckpoint(folder, save_last=True, save_top_k=1, **when)],
    )
    module = ClipDataModule("rendered", str(store), "rendered/unseen", batch_size=3, num_workers=workers, seed=7)
    try:
        trainer.fit(model, module, ckpt_path=str(folder / "last.ckpt") if resume else None)
    except Killed:
        assert die_at is not None
    return model


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("die_at", "every"), [(5, 1), (4, 1), (5, None)], ids=["mid-epoch", "epoch end", "saved at epoch ends"]
)
def test_resumed_fit_sees_the_same_batches(
    rendered_store: Path, tmp_path: Path, workers: int, die_at: int, every: int | None
) -> None:
    straight = fit(rendered_store, tmp_path / "a", workers, None, False, every)
    first = fit(rendered_store, tmp_path / "b", workers, die_at, False, every)
    second = fit(rendered_store, tmp_path / "b", workers, None, True, every)
    kept = len(straight.seen) - len(second.seen)
    assert len(straight.seen) == 10
    assert kept == (die_at if every else 4)
    assert first.seen[:kept] + second.seen == straight.seen
    assert torch.equal(second.weight, straight.weight)


def test_reading_needs_no_media_packages(rendered_store: Path) -> None:
    code = f"""
import sys
import pytorch_lightning  # brings librosa by itself, through torchmetrics
before = set(sys.modules)
from lipbench.data.datamodule import ClipDataModule
from lipbench.types import ClipSpec, View
keys = frozenset({{"identity", "audio", "tokens", "durations"}})
module = ClipDataModule("rendered", {str(rendered_store)!r}, "rendered/unseen", batch_size=2, num_workers=0)
module.clip_spec = ClipSpec({{"video": View("mouth", 8, 16)}}, window=3, audio_rate=16000, keys=keys)
for stage, loader in (("fit", "train_dataloader"), ("fit", "val_dataloader"), ("test", "test_dataloader")):
    module.setup(stage)
    assert len(list(getattr(module, loader)())) > 0
print(sorted({{"av", "dlib", "librosa", "wandb", "face_alignment"}} & (set(sys.modules) - before)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_batches_of_unequal_stores(tmp_path: Path) -> None:
    store = make_store(tmp_path / "one", ["rendered/s3/a", "rendered/s3/b"], [30, 26], "rendered")
    module = rendered(store, ClipSpec({"video": MOUTH}), protocol="rendered/unseen")
    with pytest.raises(ValueError, match="none of its 0 test clips"):
        module.setup("test")


def test_the_other_speaker_has_the_same_rate_and_enough_frames(rendered_store: Path) -> None:
    from lipbench.data.loader import other_speakers

    class Known:
        """Clips of two rates; the longest of a speaker."""

        clip_ids: ClassVar[list[str]] = ["a/1", "a/2", "b/3", "b/4", "c/5"]

        def column(self, name: str) -> list[Any]:
            columns = {"speaker": [*"aabbc"], "fps": [25.0] * 4 + [30.0], "n_frames": [50, 75, 60, 80, 75]}
            return columns[name]

    known: Any = Known()
    assert other_speakers(known, ["a/1", "a/2", "b/3", "b/4"]) == ["b/3", "b/4", "a/2", "a/1"]
    assert other_speakers(known, ["a/1", "b/3", "c/5"]) == []  # c has no other at 30 frames a second
    assert other_speakers(known, ["a/1", "a/2"]) == []
    module = rendered(rendered_store, ClipSpec({"video": MOUTH}, audio_rate=16_000, keys=frozenset({"audio"})), "test")
    assert module.other_speakers
    batch = next(iter(module.test_dataloader()))
    other = batch["other_speaker"]
    assert all(
        one.split("/")[1] != two.split("/")[1] for one, two in zip(batch["clip_id"], other["clip_id"], strict=True)
    )
    assert other["audio_len"].tolist() == batch["audio_len"].tolist()
    assert other["face"].shape[:2] == other["landmarks"].shape[:2] == other["video"].shape[:2]
    assert bool((other["video_len"] <= batch["n_frames"]).all())


def test_one_clip_is_that_of_the_test_batches(rendered_store: Path) -> None:
    module = rendered(rendered_store, ClipSpec({"video": MOUTH}, window=3, audio_rate=4000, keys=ALL), "test")
    batch = batches(module, module.test_dataloader())[0]
    row, clip_id = 1, batch["clip_id"][1]
    alone = module.one_clip(clip_id, module.clip_spec, frozenset({"face", "landmarks"}))  # type: ignore[arg-type]
    length = {"video": "video_len", "frame": "video_len", "face": "video_len", "landmarks": "video_len"}
    length |= {"audio": "audio_len", "tokens": "token_len", "durations": "token_len"}
    for key in ("video", "frame", "face", "landmarks", "audio", "tokens", "durations", "identity", "n_frames", "fps"):
        whole = batch[key][row]
        expected = whole[: int(batch[length[key]][row])] if key in length else whole
        assert torch.equal(alone[key][0], expected), key  # type: ignore[literal-required]
    assert alone["clip_id"] == [clip_id]
    other = module.split.train[0]  # of another part, too
    assert module.one_clip(other, ClipSpec({"video": MOUTH}, window=3))["video"].shape[:2] == (
        1,
        module.store[other].n_frames,
    )
    with pytest.raises(KeyError, match="is not in the store"):
        module.one_clip("rendered/s1/none", ClipSpec({"video": MOUTH}))
