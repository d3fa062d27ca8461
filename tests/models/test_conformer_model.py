from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from test_reading import TwoClips, ids, two_clips

from lipbench import losses
from lipbench.media import text
from lipbench.models.conformer import ConformerReader, mask_frames
from lipbench.pretrained import weights
from lipbench.types import View

SMALL: dict[str, Any] = {
    **{"view": "mouth", "size": (16, 24), "front": 4, "widths": (4, 6, 8, 8), "width": 12, "layers": 1, "heads": 2},
    **{"ffn": 16, "kernel": 5, "decoder_layers": 1, "margin": 1, "shift": 1, "beam": 3, "curriculum": 3},
}


def small(**options: Any) -> ConformerReader:
    torch.manual_seed(0)
    return ConformerReader(**(SMALL | options))


def test_published_sizes() -> None:
    """Auto-AVSR's 250 M less its subwords: 5,049 symbols, and 30 here, in three places."""
    with torch.device("meta"):
        model = ConformerReader()
    assert sum(p.numel() for p in model.parameters()) == 250_383_410 - (5049 - 30) * (3 * 768 + 2)
    assert model.clip_spec.frames == {"video": View("avhubert_mouth", 96, 96)}


def test_losses_are_those_of_the_published_code() -> None:
    """ESPnet's label smoothing written out: 0.9 for the truth, 0.1 over the 29 others; here without its entropy."""
    model = small(dropout=0.0).eval()
    memory, lengths = torch.randn(2, 9, 12), torch.tensor([9, 7])
    texts = [ids("bin"), ids("a")]
    found = model.terms(memory, lengths, texts)
    scores = model.net.decode(memory, lengths, texts).log_softmax(2)
    total = torch.zeros(())
    for row, spelled in zip(scores, texts, strict=True):
        wanted = torch.full((len(spelled) + 1, 30), 0.1 / 29)
        wanted[range(len(spelled) + 1), [*spelled, text.SYMBOLS.index("<eos>")]] = 0.9
        total -= (wanted * row[: len(spelled) + 1]).sum()
    torch.testing.assert_close(found["text"], total / 6)
    torch.testing.assert_close(found["ctc"], losses.ctc(model.net.symbols(memory), lengths, texts))
    assert model.loss_weights == {"ctc": 0.1, "text": 0.9}


def test_masks_are_runs_of_up_to_nine_frames() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([51, 25] * 300)
    black = (mask_frames(torch.ones(600, 51, 1, 1, 1), lengths) == 0).flatten(1)  # (600, 51)
    long, short = black[::2].sum(1), black[1::2, :25].sum(1)
    assert int(short.max()) == 9
    assert 18 < int(long.max()) <= 27  # three of them
    assert short.float().mean().item() == pytest.approx(0.9 * 4.5, abs=0.5)  # one in ten is left out, see below
    runs = (black[1::2, 1:25] & ~black[1::2, :24]).sum(1) + black[1::2, 0]
    assert int(runs.max()) == 1
    assert float((short == 0).float().mean()) == pytest.approx(0.1 + 0.9 * 0.1, abs=0.06)
    video = torch.ones(1, 3, 1, 1, 1)
    for _ in range(50):
        mask_frames(video, torch.tensor([1]))  # no place for any
    assert bool((video == 1).all())


def test_padding_does_not_change_what_is_read() -> None:
    model, batch = small().eval(), two_clips()
    with torch.no_grad():
        together = model.net(batch["video"], batch["video_len"])
        for row, frames in enumerate(batch["video_len"].tolist()):
            alone = model.net(batch["video"][row : row + 1, :frames], torch.tensor([frames]))
            torch.testing.assert_close(together[row, :frames], alone[0], rtol=0, atol=1e-5)


def test_nothing_is_read_in_broken_pictures() -> None:
    model, batch = small().eval(), two_clips()
    whole = model.read(batch)
    assert all(whole)
    batch["video"][0, 3] = torch.nan
    assert model.read(batch) == ["", whole[1]]


def test_overfits_two_clips(trainer_for: Callable[..., pl.Trainer]) -> None:
    model = small(width=32, ffn=64, curriculum=30, dropout=0.0, lr=3e-3, schedule="cosine", ctc_weight=0.3)
    trainer = trainer_for(max_steps=250, check_val_every_n_epoch=250)
    trainer.fit(model, TwoClips())
    assert trainer.callback_metrics["val/cer"] == 0
    assert trainer.callback_metrics["val/wer"] == 0
    assert trainer.callback_metrics["val/ctc"] < 2  # both learn, CTC less in so few steps
    assert trainer.callback_metrics["val/text"] < 0.75  # 0.66 is the entropy of smoothed targets
    assert trainer.predict(model, TwoClips()) == [{"text": ["bin blue at", "set red now to"]}]
    (logged,) = trainer.test(model, TwoClips(), verbose=False)
    assert logged["test/cer"] == logged["test/wer"] == 0


def test_gradients_reach_every_parameter() -> None:
    model, batch = small(dropout=0.0), two_clips()
    pieces = model.pieces(batch)
    video, lengths = model.cut(batch["video"], pieces)
    sum(model.terms(model.net.encode(video, lengths), lengths, [p.ids for p in pieces]).values()).backward()
    # A key's bias adds the same to all scores of a query.
    silent = [key for key, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-7]
    assert all(key.endswith(".key.bias") for key in silent)


def test_resumed_equals_uninterrupted(tmp_path: Path, trainer_for: Callable[..., pl.Trainer], fake_data: Any) -> None:
    def fit(folder: str, ckpt_path: Path | None = None) -> dict[str, Any]:
        keep = ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = trainer_for(max_steps=4, callbacks=[keep], enable_checkpointing=True, limit_val_batches=0)
        trainer.fit(small(ema_decay=0.9), fake_data(4), ckpt_path=ckpt_path, weights_only=True)
        return dict(torch.load(tmp_path / folder / "step=4.ckpt", weights_only=True))

    whole = fit("whole")
    resumed = fit("resumed", tmp_path / "whole" / "step=2.ckpt")
    for part in ("state_dict", "current_model_state"):
        assert not [k for k, v in whole[part].items() if not torch.equal(v, resumed[part][k])]
    assert whole["lipbench"] == resumed["lipbench"]


def test_trains_in_half_precision(trainer_for: Callable[..., pl.Trainer]) -> None:
    model = small()
    before = {key: value.clone() for key, value in model.named_parameters()}
    trainer = trainer_for(max_steps=2, precision="bf16-mixed")
    trainer.fit(model, TwoClips())
    assert torch.isfinite(trainer.callback_metrics["val/text"])
    assert all(value.dtype == torch.float32 for value in model.parameters())
    assert sum(not torch.equal(before[key], value) for key, value in model.named_parameters()) > len(before) / 2


def test_becomes_an_observer_that_writes_by_its_decoder(tmp_path: Path) -> None:
    model, batch = small().eval(), two_clips()
    model.save_observer(tmp_path / "reader.safetensors", "two made-up clips")
    net, card = weights.load(tmp_path / "reader.safetensors", type(model.net))
    assert (card.view, card.vocabulary, card.trained_on) == (model.view, text.SYMBOLS, "two made-up clips")
    assert net.arguments == model.net.arguments
    with torch.no_grad():
        expected = model.net(batch["video"], batch["video_len"])
        torch.testing.assert_close(net(batch["video"], batch["video_len"]), expected, rtol=0, atol=1e-2)
