"""Streams: the parts of the training clips, what each stream may show, and resuming over several of them.

`python test_streams.py STORE FOLDER` trains on streams as one of two processes.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from test_datamodule import MOUTH, Killed, Tiny, rendered
from torch import Tensor

from lipbench.data.datamodule import ClipDataModule
from lipbench.data.parts import divide
from lipbench.data.store import Store
from lipbench.types import ClipSpec, View


def test_streams_are_converted_on_the_device(rendered_store: Path) -> None:
    """Batches inside batches: streams by name, lists of streams, `mismatched` inside; `face` stays as it is."""
    spec = ClipSpec({"video": MOUTH}, window=3, keys=frozenset({"identity"}))
    module = rendered(rendered_store, spec)
    plain = next(iter(module.train_dataloader()))
    expected = plain["video"].float() / 255
    inner = {**plain, "face": plain["video"].clone()}
    streams: Any = {"paired": {**plain, "mismatched": inner}, "lips": [dict(plain), None], "count": 3}
    found = module.on_after_batch_transfer(streams, 0)
    for batch in (found["paired"], found["paired"]["mismatched"], found["lips"][0]):
        assert torch.equal(batch["video"], expected)
        assert batch["identity"].dtype == torch.float32
        assert batch["index"].dtype == torch.int64
        assert batch["text"] == plain["text"]
    assert found["paired"]["mismatched"]["face"].dtype == torch.uint8
    assert (found["lips"][1], found["count"]) == (None, 3)


# ---------------------------------------------------------------------------------------------------------- streams

WINDOWED = ClipSpec({"video": MOUTH}, window=4, keys=frozenset({"tokens", "durations"}))
STREAMS = {
    "paired": WINDOWED,
    "text": ClipSpec({}, keys=frozenset({"tokens"}), part="text"),
    "lips": ClipSpec({"video": MOUTH}, window=4, keys=frozenset({"identity"}), part="lips"),
    "sentences": ClipSpec({}, keys=frozenset({"tokens"}), part="grammar"),
}


def test_parts_are_nested_disjoint_and_whole() -> None:
    ids = [f"rendered/s3/{k}" for k in range(200)]
    small, large = (divide(ids, share, 0, disjoint=False) for share in (0.1, 0.5))
    assert len(small["paired"]) == 20
    assert set(small["paired"]) < set(large["paired"])
    assert small["text"] == small["lips"] == tuple(sorted(set(ids) - set(small["paired"])))
    halves = divide(ids, 0.1, 0, disjoint=True)
    assert halves["paired"] == small["paired"]
    assert (len(halves["text"]), len(halves["lips"])) == (90, 90)
    assert sorted((*halves["paired"], *halves["text"], *halves["lips"])) == sorted(ids)
    assert divide(ids, 0.1, 1, disjoint=False)["paired"] != small["paired"]
    assert divide(ids, 1.0, 0, disjoint=False) == {"paired": tuple(sorted(ids)), "text": (), "lips": ()}
    assert len(divide(ids, 0.001, 0, disjoint=True)["paired"]) == 1


def test_less_unpaired_data_is_part_of_more() -> None:
    ids = [f"rendered/s3/{k}" for k in range(200)]
    whole, some = (divide(ids, 0.1, 0, disjoint=False, unpaired=share) for share in (None, 0.3))
    assert some["paired"] == whole["paired"]
    assert len(some["lips"]) == 60
    assert set(some["lips"]) < set(whole["lips"])
    assert divide(ids, 0.1, 0, disjoint=False, unpaired=0.0)["text"] == ()
    for share in (0.95, -0.1):
        with pytest.raises(ValueError, match=r"unpaired is .*; expected 0 to 0.9"):
            divide(ids, 0.1, 0, disjoint=False, unpaired=share)


def streamed(store: Path, **arguments: Any) -> ClipDataModule:
    arguments = {"batch_size": 2, "num_workers": 0, "paired": 0.2, "protocol": "rendered/seen"} | arguments
    module = ClipDataModule("rendered", str(store), **arguments)
    module.streams = STREAMS
    module.setup("fit")
    return module


def test_streams_hold_what_their_part_may_show(rendered_store: Path) -> None:
    module = streamed(rendered_store, disjoint=True)
    found = list(module.train_dataloader())
    batch = found[0][0]
    assert set(batch) == set(STREAMS)
    always = {"index", "clip_id", "speaker", "speaker_id"}
    assert set(batch["text"]) == always | {"text", "tokens", "token_len"}
    shown = {"video", "video_len", "frame", "n_frames", "fps", "speech", "identity"}
    assert set(batch["lips"]) == always | shown
    assert set(batch["sentences"]) == {"index", "text", "tokens", "token_len"}
    store = Store(rendered_store)
    said = {store[clip].text for clip in module.split.test if clip in store}
    drawn = {text for step in found for text in step[0]["sentences"]["text"]}
    assert drawn
    assert not drawn & said
    members = {
        name: {clip for step in found for clip in step[0][name]["clip_id"]} for name in ("paired", "text", "lips")
    }
    for name, clips in members.items():
        assert clips <= set(module._parts[name])
    assert not members["text"] & members["lips"]
    assert len(members["lips"]) == len(module._parts["lips"]) // 2 * 2
    assert len(found) == len(module._parts["lips"]) // 2


def test_streams_have_their_share_of_a_batch(rendered_store: Path) -> None:
    """Text may come with its durations; a stream may have more clips a batch than another."""
    module = streamed(rendered_store)
    module.streams = {
        "paired": WINDOWED,
        "text": ClipSpec({}, keys=frozenset({"tokens", "durations"}), part="text", batch_share=1.5),
        "sentences": ClipSpec({}, keys=frozenset({"tokens"}), part="grammar", batch_share=0.5),
    }
    found = [step[0] for step in module.train_dataloader()]
    assert {tuple(len(batch[name]["index"]) for name in module.streams) for batch in found} == {(2, 3, 1)}
    text = found[0]["text"]
    store = Store(rendered_store)
    lasts = [store[clip].n_frames for clip in text["clip_id"]]
    assert text["durations"].sum(1).tolist() == lasts
    with pytest.raises(ValueError, match="batch_share is 0"):
        ClipSpec({}, part="grammar", batch_share=0)


def test_identity_frames_are_seen_in_further_views(rendered_store: Path) -> None:
    views = {"identity_face": View("face", 32, 32)}
    spec = ClipSpec({"video": MOUTH}, window=3, keys=frozenset({"identity"}), identity_views=views)
    module = rendered(rendered_store, spec)
    batch = next(iter(module.train_dataloader()))
    assert batch["identity_face"].shape == (len(batch["index"]), 1, 3, 32, 32)
    again = ClipSpec({"video": views["identity_face"]}, window=3, keys=frozenset({"identity"}))
    same = next(iter(rendered(rendered_store, again).train_dataloader()))
    assert torch.equal(batch["identity_face"], same["identity"])
    with pytest.raises(ValueError, match="identity_views needs 'identity'"):
        ClipSpec({"video": MOUTH}, identity_views=views)


def test_sentences_of_the_grammar_and_of_the_test(rendered_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Test sentences are counted and taken out unless they shall stay; fewer sentences are the same on every run."""
    caplog.set_level("INFO")
    module = streamed(rendered_store)
    total = len(list(module.corpus.sentences()))
    assert f"{total:,} sentences of the grammar, of which test clips say" in _said(module, caplog)
    assert len(module._sentences()) < total
    kept = streamed(rendered_store, test_sentences=True)
    assert len(kept._sentences()) == total
    assert "they stay" in caplog.text
    few, same = (streamed(rendered_store, sentences=50, test_sentences=True)._sentences() for _ in range(2))
    assert few == same
    assert len(few) == 50


def _said(module: ClipDataModule, caplog: pytest.LogCaptureFixture) -> str:
    module.train_dataloader()
    return caplog.text


def test_a_shorter_stream_goes_round_in_another_order_each_time(rendered_store: Path) -> None:
    module = streamed(rendered_store)
    batches_of = [step[0]["paired"] for step in module.train_dataloader()]
    order = [clip for batch in batches_of for clip in batch["clip_id"]]
    total = len(module._parts["paired"]) // 2 * 2
    assert len(order) >= 2 * total
    first, second = order[:total], order[total : 2 * total]
    assert len(set(first)) == len(set(second)) == total
    turns = [order[k : k + total] for k in range(0, len(order) - total + 1, total)]
    assert len({tuple(turn) for turn in turns}) > 1
    windows = [
        batch["frame"][row].tolist()
        for batch in batches_of
        for row, clip in enumerate(batch["clip_id"])
        if clip == order[0]
    ]
    assert len({tuple(window) for window in windows}) > 1


def test_what_streams_cannot_be(rendered_store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stream 'text': none of the 0 text clips.*--data.paired 0.1"):
        streamed(rendered_store, paired=1.0)
    with pytest.raises(ValueError, match="paired is 0; expected a share above 0"):
        streamed(rendered_store, paired=0)
    with pytest.raises(ValueError, match="'lips' with frames cannot hold durations, tokens"):
        ClipSpec({"video": MOUTH}, part="lips", keys=frozenset({"tokens", "durations"}))
    with pytest.raises(ValueError, match="'text' with frames cannot hold video"):
        ClipSpec({"video": MOUTH}, part="text")
    with pytest.raises(ValueError, match="'text' without frames cannot hold audio"):
        ClipSpec({}, part="text", audio_rate=16000)
    with pytest.raises(ValueError, match="expected one of paired, text, lips, grammar"):
        ClipSpec({"video": MOUTH}, part="lip")  # type: ignore[arg-type]


def test_one_stream_trains_on_the_paired_share(rendered_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    module = rendered(rendered_store, ClipSpec({"video": MOUTH}, window=4), paired=0.5)
    clips = {clip for batch in module.train_dataloader() for clip in batch["clip_id"]}
    assert clips <= set(module._parts["paired"])
    assert "training clips 4 paired, 3 text, 3 lips" in caplog.text or "paired" in caplog.text
    info = module.store_info["training_parts"]
    assert (info["paired"], info["split_seed"], info["disjoint"]) == (0.5, 0, False)
    other = rendered(rendered_store, ClipSpec({"video": MOUTH}, window=4), paired=0.5, split_seed=1).store_info
    assert len(info["sha256"]) == 64
    assert other["training_parts"]["sha256"] != info["sha256"]
    assert "training_parts" not in rendered(rendered_store, ClipSpec({"video": MOUTH})).store_info


class Streamed(Tiny):
    """Trains on four streams, of which two have no video; validates on whole paired clips."""

    clip = None  # type: ignore[assignment]
    streams = STREAMS

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if len(self.seen) == self.die_at:
            raise Killed
        names = [tuple(part["clip_id"] if "clip_id" in part else part["text"]) for part in batch.values()]
        self.seen.append((self.current_epoch, batch_idx, *names, *batch["lips"]["frame"].flatten().tolist()))
        means = torch.stack([batch["paired"]["video"].mean(), batch["lips"]["video"].mean()])
        tokens = batch["text"]["tokens"].float().mean() + batch["sentences"]["tokens"].float().mean()
        loss: Tensor = (self.weight - means.mean() - tokens / 100).square().sum()
        return loss


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("die_at", "workers"), [(5, 0), (8, 2), (6, 0)])
def test_a_resumed_fit_over_streams_sees_the_same_batches(
    rendered_store: Path, tmp_path: Path, die_at: int, workers: int
) -> None:
    """Streams of different lengths, stopped after the shorter ones have begun anew, and at the end of an epoch."""

    def run(folder: str, die_at: int | None, resume: bool) -> Streamed:
        model = Streamed(die_at)
        saving = pl.callbacks.ModelCheckpoint(tmp_path / folder, save_last=True, save_top_k=1, every_n_train_steps=1)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = pl.Trainer(max_epochs=3, accelerator="cpu", num_sanity_val_steps=0, callbacks=[saving], **quiet)
        module = ClipDataModule(
            "rendered", str(rendered_store), "rendered/seen", 2, workers, seed=7, paired=0.2, disjoint=True
        )
        try:
            trainer.fit(model, module, ckpt_path=str(tmp_path / folder / "last.ckpt") if resume else None)
        except Killed:
            assert die_at is not None
        return model

    straight, first, second = run("a", None, False), run("b", die_at, False), run("b", None, True)
    assert len(straight.seen) == 3 * 3
    assert first.seen + second.seen == straight.seen
    assert torch.equal(second.weight, straight.weight)


def two_processes(store: Path, folder: Path) -> None:
    """Two epochs at once, and one after the other, on two processes; saves what this one saw and ended with."""

    def run(name: str, epochs: int, resume: bool) -> Streamed:
        model = Streamed()
        saving = pl.callbacks.ModelCheckpoint(folder / name, save_last=True)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            callbacks=[saving],
            **quiet,  # type: ignore[arg-type]
        )
        module = ClipDataModule("rendered", str(store), "rendered/seen", 1, 0, seed=7, paired=0.4, disjoint=True)
        trainer.fit(model, module, ckpt_path=str(folder / name / "last.ckpt") if resume else None)
        return model

    straight, first, second = run("a", 2, False), run("b", 1, False), run("b", 2, True)
    assert first.seen + second.seen == straight.seen
    assert torch.equal(second.weight, straight.weight)
    torch.save({"seen": straight.seen, "weight": straight.weight.detach()}, folder / f"{straight.global_rank}.pt")


def test_two_processes_share_every_stream(rendered_store: Path, tmp_path: Path) -> None:
    """Equally many batches of other clips for each, the same weights in the end, and exactly resumed."""
    subprocess.run([sys.executable, __file__, str(rendered_store), str(tmp_path)], check=True, timeout=300)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(first["weight"], second["weight"])
    assert len(first["seen"]) == len(second["seen"]) > 2
    for one, other in zip(first["seen"], second["seen"], strict=True):
        assert one[:2] == other[:2]  # epoch and batch
        for stream in range(2, 2 + len(STREAMS)):
            assert not set(one[stream]) & set(other[stream])


if __name__ == "__main__":
    torch.set_num_threads(1)
    two_processes(Path(sys.argv[1]), Path(sys.argv[2]))
