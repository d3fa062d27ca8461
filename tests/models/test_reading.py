from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lipbench import losses
from lipbench.media import text
from lipbench.models.lipnet import LipNet
from lipbench.models.lipresnet import LipResNet
from lipbench.pretrained import weights
from lipbench.training.ctc_reading import CTCReader
from lipbench.training.pieces import Piece, Word, spell, word_segments
from lipbench.types import ClipBatch

READERS: dict[str, tuple[type[CTCReader], dict[str, Any]]] = {
    "lipnet": (LipNet, {"size": (16, 24), "widths": (4, 6, 8), "hidden": 12, "norm": True, "curriculum": 3}),
    "lipresnet": (LipResNet, {"size": (16, 24), "front": 4, "widths": (4, 6, 8, 8), "hidden": 12, "curriculum": 3}),
}


@pytest.fixture(params=sorted(READERS))
def small(request: pytest.FixtureRequest) -> Callable[..., CTCReader]:
    kind, arguments = READERS[request.param]

    def make(**options: Any) -> CTCReader:
        torch.manual_seed(0)
        return kind(**(arguments | options))

    return make


def two_clips() -> ClipBatch:
    """Two sentences of made-up lips: every letter has its own picture, silence is black."""
    torch.manual_seed(5)
    pictures = torch.rand(len(text.SYMBOLS), 3, 16, 24)
    pictures[text.SYMBOLS.index(text.SILENCE)] = 0
    rows = []
    for words in (["bin", "blue", "at"], ["set", "red", "now", "to"]):
        tokens = torch.tensor(text.encode(text.symbols(words)))
        rows.append((tokens, torch.tensor([2 if k % 2 else 3 for k in range(len(tokens))])))
    frames = [int(durations.sum()) for _, durations in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    video = pad([pictures[tokens].repeat_interleave(durations, 0) for tokens, durations in rows], batch_first=True)
    batch: dict[str, Any] = {
        "index": torch.arange(2),
        "video": video,
        "video_len": torch.tensor(frames),
        "tokens": pad([tokens for tokens, _ in rows], batch_first=True),
        "token_len": torch.tensor([len(tokens) for tokens, _ in rows]),
        "durations": pad([durations for _, durations in rows], batch_first=True),
    }
    return batch  # type: ignore[return-value]


def ids(letters: str) -> list[int]:
    return text.encode(list(letters))


def test_published_sizes() -> None:
    """The published count at 28 outputs is 6,638,844; lipbench's alphabet has two more."""
    assert sum(p.numel() for p in LipNet().parameters()) == 6_638_844 + 2 * 513
    assert sum(p.numel() for p in LipResNet().parameters()) == 13_563_614
    for model in (LipNet(), LipResNet()):
        assert (str(model.view), model.paper[-1].isdigit()) == ("mouth 64x128", True)


def test_words_and_spelling() -> None:
    words = word_segments(ids("|at|a||b"), [4, 1, 2, 0, 3, 1, 1, 2])
    assert words == [Word(4, 7, ids("at")), Word(7, 10, ids("a")), Word(12, 14, ids("b"))]
    assert spell(words) == ids("at|a|b")
    assert word_segments(ids("||"), [3, 3]) == []
    assert spell([]) == []


def test_pieces_grow_from_words_to_sentences() -> None:
    model = LipNet(size=(16, 24), curriculum=100, skip=0.0)
    batch = two_clips()
    sizes: dict[int, set[int]] = {}
    for done in (0, 49, 99, 500):
        model.batches = done
        torch.manual_seed(done)
        pieces = model.pieces(batch)
        said = {clip: [text.decode(p.ids) for p in pieces if p.clip == clip] for clip in (0, 1)}
        assert " ".join(said[0]) == "bin blue at"
        assert " ".join(said[1]) == "set red now to"
        sizes[done] = {len(words.split()) for words in said[1]}
        for piece in pieces:
            assert torch.equal(piece.frames, torch.arange(piece.frames[0], piece.frames[-1] + 1))
    assert sizes[0] == {1}
    assert max(sizes[49]) == 2
    assert sizes[99] == sizes[500] == {4}


def test_a_piece_holds_its_words_and_three_frames_around_them() -> None:
    model = LipNet(size=(16, 24), curriculum=10**6, skip=0.0)
    batch = two_clips()
    first = model.pieces(batch)[:3]
    spans = [(int(p.frames[0]), int(p.frames[-1]) + 1) for p in first]
    # | 3  b 2 i 3 n 2  | 3  b 2 l 3 u 2 e 3  | 2  a 3 t 2  | 3
    assert spans == [(0, 13), (10, 26), (22, 33)]
    assert [text.decode(p.ids) for p in first] == ["bin", "blue", "at"]


def test_sentences_begin_and_end_anywhere_in_silence() -> None:
    model = LipNet(size=(16, 24), curriculum=0, skip=0.0)
    batch = two_clips()
    batch["durations"][0, 0] += 9
    batch["video"] = torch.nn.functional.pad(batch["video"], (0, 0, 0, 0, 0, 0, 0, 9))
    batch["video_len"][0] += 9
    torch.manual_seed(0)
    starts = {int(model.pieces(batch)[0].frames[0]) for _ in range(200)}
    assert starts == set(range(10))  # speech begins at frame 12


def test_frames_are_dropped_and_repeated() -> None:
    model = LipNet(size=(16, 24), skip=0.2)
    torch.manual_seed(0)
    counts = torch.bincount(torch.cat([model._frames(0, 1000, []) for _ in range(5)]), minlength=1000) / 5
    lengths = torch.tensor([len(model._frames(0, 1000, [])) for _ in range(50)], dtype=torch.float)
    assert counts.mean() == pytest.approx(1.0, abs=0.03)
    assert lengths.std() > 5
    assert bool((model._frames(0, 500, []).diff() >= 0).all())
    # "tt" needs three frames: with exactly three there is nothing to drop
    for _ in range(50):
        assert len(model._frames(5, 8, ids("tt"))) >= 3


def test_cut_mirrors_and_moves() -> None:
    model = LipNet(size=(16, 24), shift=2)
    video = torch.rand(1, 4, 3, 16, 24)
    piece = Piece(0, torch.tensor([1, 1, 3]), ids("a"))
    torch.manual_seed(0)
    short = Piece(0, torch.tensor([2]), ids("b"))
    out, lengths = model.cut(video, [piece] * 60 + [short])
    assert lengths.tolist() == [3] * 60 + [1]
    assert out.shape == (61, 3, 3, 16, 24)
    assert out[60, 1:].abs().sum() == 0
    assert torch.equal(out[0, 0], out[0, 1])  # one movement for all frames
    seen = set()
    wide = torch.nn.functional.pad(video[0, [1, 1, 3]], (2, 2, 2, 2), mode="replicate")
    mirrored = torch.nn.functional.pad(video[0, [1, 1, 3]].flip(-1), (2, 2, 2, 2), mode="replicate")
    for row in out[:60]:
        places = [
            (flip, top, left)
            for flip, source in enumerate((wide, mirrored))
            for top in range(5)
            for left in range(5)
            if torch.equal(source[..., top : top + 16, left : left + 24], row)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert {flip for flip, _, _ in seen} == {0, 1}
    assert {top for _, top, _ in seen} == {left for _, _, left in seen} == set(range(5))


def test_loss_is_that_of_torch_and_finite_where_there_is_no_path() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(2, 5, 30).log_softmax(2)
    loss = losses.ctc(log_probs, torch.tensor([5, 4]), [ids("ab"), ids("c")])
    reference = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), torch.tensor([*ids("ab"), *ids("c")]), (5, 4), (2, 1), reduction="none"
    )
    assert loss.item() == pytest.approx((reference[0] / 2 + reference[1]).item() / 2)
    assert losses.ctc(log_probs, torch.tensor([2, 4]), [ids("abc"), ids("c")]).item() == pytest.approx(
        reference[1].item() / 2
    )


def test_padding_does_not_change_what_is_read(small: Callable[..., CTCReader]) -> None:
    model, batch = small().eval(), two_clips()
    with torch.no_grad():
        together = model.net(batch["video"], batch["video_len"])
        for row, frames in enumerate(batch["video_len"].tolist()):
            alone = model.net(batch["video"][row : row + 1, :frames], torch.tensor([frames]))
            torch.testing.assert_close(together[row, :frames], alone[0], rtol=0, atol=1e-5)


def test_nothing_is_read_in_broken_pictures(small: Callable[..., CTCReader]) -> None:
    model, batch = small().eval(), two_clips()
    with torch.no_grad():
        whole = model.read(batch)
        batch["video"][0, 3] = torch.nan
        assert model.read(batch) == ["", whole[1]]


class TwoClips(pl.LightningDataModule):
    """The two clips as every batch."""

    def train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        return torch.utils.data.DataLoader([two_clips()], batch_size=None)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def test_overfits_two_clips(small: Callable[..., CTCReader], trainer_for: Callable[..., pl.Trainer]) -> None:
    model = small(curriculum=30, dropout=0.0, skip=0.0, lr=5e-3, hidden=48, schedule="cosine")
    trainer = trainer_for(max_steps=400, check_val_every_n_epoch=400)
    trainer.fit(model, TwoClips())
    assert trainer.callback_metrics["val/cer"] == 0
    assert trainer.callback_metrics["val/wer"] == 0
    assert trainer.callback_metrics["val/ctc"] < 0.1
    assert trainer.predict(model, TwoClips()) == [{"text": ["bin blue at", "set red now to"]}]
    (logged,) = trainer.test(model, TwoClips(), verbose=False)
    assert logged["test/cer"] == logged["test/wer"] == 0


def test_error_rates_are_over_all_that_was_said(
    trainer_for: Callable[..., pl.Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LipNet(size=(16, 24), widths=(4, 6, 8), hidden=4)
    read = iter([["bin blue at", "set red now too"]])
    monkeypatch.setattr(model, "_words", lambda *_: next(read))
    (logged,) = trainer_for().validate(model, TwoClips(), verbose=False)
    assert logged["val/cer"] == pytest.approx(1 / (len("bin blue at") + len("set red now to")))
    assert logged["val/wer"] == pytest.approx(1 / 7)


def test_gradients_reach_every_parameter(small: Callable[..., CTCReader]) -> None:
    model, batch = small(dropout=0.0), two_clips()
    pieces = model.pieces(batch)
    video, lengths = model.cut(batch["video"], pieces)
    losses.ctc(model.net(video, lengths), lengths, [p.ids for p in pieces]).backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]


def test_resumed_equals_uninterrupted(
    small: Callable[..., CTCReader], tmp_path: Path, trainer_for: Callable[..., pl.Trainer], fake_data: Any
) -> None:
    def fit(folder: str, ckpt_path: Path | None = None) -> dict[str, Any]:
        keep = ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = trainer_for(max_steps=5, callbacks=[keep], enable_checkpointing=True, limit_val_batches=0)
        trainer.fit(small(shift=1, ema_decay=0.9), fake_data(4), ckpt_path=ckpt_path, weights_only=True)
        return dict(torch.load(tmp_path / folder / "step=5.ckpt", weights_only=True))

    whole = fit("whole")
    resumed = fit("resumed", tmp_path / "whole" / "step=3.ckpt")
    for part in ("state_dict", "current_model_state"):
        assert not [k for k, v in whole[part].items() if not torch.equal(v, resumed[part][k])]
    assert whole["lipbench"] == resumed["lipbench"]


def test_trains_in_half_precision(small: Callable[..., CTCReader], trainer_for: Callable[..., pl.Trainer]) -> None:
    model = small()
    before = {key: value.clone() for key, value in model.named_parameters()}
    trainer = trainer_for(max_steps=2, precision="bf16-mixed")
    trainer.fit(model, TwoClips())
    assert torch.isfinite(trainer.callback_metrics["val/ctc"])
    assert all(value.dtype == torch.float32 for value in model.parameters())
    assert sum(not torch.equal(before[key], value) for key, value in model.named_parameters()) > len(before) / 2


def test_becomes_an_observer(small: Callable[..., CTCReader], tmp_path: Path) -> None:
    model, batch = small().eval(), two_clips()
    model.save_observer(tmp_path / "reader.safetensors", "two made-up clips")
    net, card = weights.load(tmp_path / "reader.safetensors", type(model.net))
    assert (card.view, card.vocabulary, card.trained_on) == (model.view, text.SYMBOLS, "two made-up clips")
    with torch.no_grad():
        expected = model.net(batch["video"], batch["video_len"])
        torch.testing.assert_close(net(batch["video"], batch["video_len"]), expected, rtol=0, atol=1e-2)


def test_refuses_to_skip_half_of_the_frames() -> None:
    with pytest.raises(ValueError, match=r"skip is 0.5"):
        LipNet(skip=0.5)
