from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lipbench.media import text
from lipbench.models.avhubert import AVHubertReader
from lipbench.nets.avhubert import AVHubert
from lipbench.pretrained import weights
from lipbench.scoring.readers import LipReader
from lipbench.training.pieces import Piece, cut_steps, spelled
from lipbench.types import ClipBatch

SENTENCES = ("bin blue at", "set red now to", "lay red at", "bin now to")
SMALL: dict[str, Any] = {
    **{"size": 24, "front": 8, "widths": (8, 8, 16, 16), "width": 32, "layers": 1, "heads": 4, "ffn": 64},
    **{"position_kernel": 8, "position_groups": 4, "decoder_layers": 1, "decoder_heads": 4, "decoder_ffn": 64},
    **{"beam": 2, "shift": 0, "skip": 0.0, "dropout": 0.0},
}


def small(**options: Any) -> AVHubertReader:
    torch.manual_seed(0)
    return AVHubertReader(**(SMALL | options))


def four_clips() -> ClipBatch:
    """Four sentences of made-up lips and sounds: every letter has its own picture and its own chord."""
    torch.manual_seed(5)
    count = len(text.SYMBOLS)
    pictures = torch.rand(count, 3, 3, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)  # coarse squares
    t = torch.arange(640) / 16000
    chords = torch.stack(
        [torch.sin(torch.outer(150 + 3500 * torch.rand(3), 6.283 * t)).sum(0) / 6 for _ in range(count)]
    )
    silence = text.SYMBOLS.index(text.SILENCE)
    pictures[silence], chords[silence] = 0, 0
    pad = torch.nn.utils.rnn.pad_sequence
    rows = [torch.tensor(text.encode(text.symbols(sentence.split()))) for sentence in SENTENCES]
    lasting = [torch.tensor([2 if k % 2 else 3 for k in range(len(tokens))]) for tokens in rows]
    drawn = [tokens.repeat_interleave(durations) for tokens, durations in zip(rows, lasting, strict=True)]
    frames = torch.tensor([len(tokens) for tokens in drawn])
    batch: dict[str, Any] = {
        "index": torch.arange(4),
        "video": pad([pictures[tokens] for tokens in drawn], batch_first=True),
        "video_len": frames,
        "n_frames": frames,
        "fps": torch.full((4,), 25.0),
        "audio": pad([chords[tokens].flatten() for tokens in drawn], batch_first=True),
        "audio_len": frames * 640,
        "tokens": pad(rows, batch_first=True),
        "token_len": torch.tensor([len(tokens) for tokens in rows]),
        "durations": pad(lasting, batch_first=True),
    }
    return batch  # type: ignore[return-value]


class FourClips(pl.LightningDataModule):
    """The four clips as every batch."""

    def train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        return torch.utils.data.DataLoader([four_clips()], batch_size=None)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def test_learns_four_clips(trainer_for: Callable[..., pl.Trainer], tmp_path: Path) -> None:
    """By eye and by ear; and its weights file reads as it does."""
    model = small(curriculum=40, lr=3e-3, schedule="cosine", warmup=40)
    trainer = trainer_for(max_steps=350, check_val_every_n_epoch=350)
    trainer.fit(model, FourClips())
    logged = trainer.callback_metrics
    assert max(logged["val/cer"], logged["val/cer_audio"]) < 0.15  # of two seeds, one letter in twenty was the most
    assert logged["val/wer"] < 0.4
    assert logged["val/text"] < 1.1  # 0.63 is the least with smoothed labels
    assert logged["val/ctc"] < 0.5
    ((read,),) = (made.values() for made in trainer.predict(model, FourClips()) or ())
    assert sum(a == b for a, b in zip(read, SENTENCES, strict=True)) >= 2
    model.save_observer(tmp_path / "observer.safetensors", "four made-up clips")
    reader = LipReader.load(tmp_path / "observer.safetensors")
    assert (reader.view, reader.card.vocabulary) == (model.view, text.SYMBOLS)
    batch = four_clips()
    batch["video"][1, 4, 0, 12, 12] = torch.nan
    assert reader.read(batch["video"], batch["video_len"]) == [read[0], None, *read[2:]]
    assert model.eval().read(batch) == [read[0], "", *read[2:]]


def test_paper_size() -> None:
    """Base with 30 characters instead of 1,000 units, and a CTC head."""
    with torch.device("meta"):
        model = AVHubertReader()
    assert sum(p.numel() for p in model.parameters()) == 160_100_480 - 970 * 768 + 30 * 769
    assert str(model.view) == "avhubert_mouth 96x96"


def test_audio_is_cut_with_its_frames() -> None:
    model, batch = small(curriculum=10**6), four_clips()
    torch.manual_seed(0)
    pieces = model.pieces(batch)
    heard = cut_steps(model._filterbanks(batch), pieces)
    _, lengths = model.cut(batch["video"], pieces)
    assert heard.shape == (len(pieces), int(lengths.max()), 104)
    whole = model._filterbanks(batch)
    for row, piece in enumerate(pieces):
        assert torch.equal(heard[row, : lengths[row]], whole[piece.clip, piece.frames[0] : piece.frames[-1] + 1])
        assert not heard[row, lengths[row] :].any()
    repeated = Piece(2, torch.tensor([4, 4, 7]), [])
    assert torch.equal(cut_steps(whole, [repeated])[0], whole[2, [4, 4, 7]])


@pytest.mark.parametrize(
    ("modality_dropout", "audio_dropout", "expected"),
    [(0.0, 0.5, {"both"}), (1.0, 1.0, {"lips"}), (1.0, 0.0, {"audio"}), (0.5, 0.5, {"both", "lips", "audio"})],
)
def test_modalities_are_left_out(
    modality_dropout: float,
    audio_dropout: float,
    expected: set[str],
    trainer_for: Callable[..., pl.Trainer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small(modality_dropout=modality_dropout, audio_dropout=audio_dropout)
    encode, given = model.net.encode, []

    def watched(seen: Any, heard: Any, length: Any) -> Any:
        given.append("both" if seen is not None and heard is not None else "lips" if heard is None else "audio")
        return encode(seen, heard, length)

    monkeypatch.setattr(model.net, "encode", watched)
    trainer_for(max_steps=12 if len(expected) > 1 else 2, limit_val_batches=0).fit(model, FourClips())
    assert set(given) == expected


def test_gradients_reach_every_parameter() -> None:
    model, batch = small(), four_clips()
    heard = model.net.hear(model._filterbanks(batch))
    context = model.net.encode(model.net.see(batch["video"], batch["video_len"]), heard, batch["video_len"])
    sum(model.terms(context, batch["video_len"], spelled(batch)).values()).backward()  # type: ignore[union-attr]
    assert not [key for key, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert "ctc" not in small(ctc_weight=0).terms(context.detach(), batch["video_len"], spelled(batch))


def test_losses_are_means_over_symbols() -> None:
    model, batch = small().eval(), four_clips()
    lengths, texts = batch["video_len"], spelled(batch)
    context = model.net.encode(model.net.see(batch["video"], lengths), None, lengths).detach()
    whole = model.terms(context, lengths, texts)
    each = [model.terms(context[k : k + 1], lengths[k : k + 1], [ids]) for k, ids in enumerate(texts)]
    symbols = torch.tensor([len(ids) + 1.0 for ids in texts])
    parts = torch.stack([part["text"] for part in each])
    torch.testing.assert_close(whole["text"], (parts * symbols).sum() / symbols.sum())
    torch.testing.assert_close(whole["ctc"], torch.stack([part["ctc"] for part in each]).mean())


def test_starts_from_an_encoder(trainer_for: Callable[..., pl.Trainer], tmp_path: Path) -> None:
    """Of other units of text, which stay where they are; while frozen, only the decoder and CTC learn."""
    arguments = small().net.arguments | {"vocabulary": 50, "ctc": False, "padding": 1, "end": 2}
    torch.manual_seed(9)
    published = AVHubert(**arguments)
    path = tmp_path / "published.safetensors"
    weights.save(path, published, arguments=arguments, view=published.view, trained_on="", vocabulary=["x"] * 50)
    model = small(encoder=str(path), freeze_batches=2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer_for(max_steps=2, limit_val_batches=0).fit(model, FourClips())
    stored = weights.load(path, AVHubert)[0].state_dict()
    learned = {key for key, value in model.named_parameters() if not torch.equal(before[key], value)}
    for key, value in model.net.named_parameters():
        part = key.partition(".")[0]
        assert part in ("decoder", "ctc_head") or torch.equal(value, stored[key]), key
        assert part not in ("decoder", "ctc_head") or f"net.{key}" in learned or "key.bias" in key, key
    assert model.started_sha256["encoder"] == weights.read_card(path).sha256
    thawed = small(encoder=str(path), freeze_batches=1)
    trainer_for(max_steps=2, limit_val_batches=0).fit(thawed, FourClips())
    assert not torch.equal(thawed.net.fusion.weight, stored["fusion.weight"])
    with pytest.raises(ValueError, match=r"of other sizes than this model's: blocks\.1"):
        trainer_for(max_steps=1).fit(small(encoder=str(path), layers=2), FourClips())
    with pytest.raises(FileNotFoundError, match=r"no AV-HuBERT at .*none\.safetensors; give a weights file"):
        trainer_for(max_steps=1).fit(small(encoder=str(tmp_path / "none.safetensors")), FourClips())


def test_resumed_equals_uninterrupted(tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    from pytorch_lightning.callbacks import ModelCheckpoint

    def fit(folder: str, ckpt_path: Path | None = None) -> dict[str, Any]:
        keep = ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = trainer_for(max_steps=5, callbacks=[keep], enable_checkpointing=True, limit_val_batches=0)
        model = small(shift=1, skip=0.05, dropout=0.1, curriculum=3)
        trainer.fit(model, FourClips(), ckpt_path=ckpt_path, weights_only=True)
        return dict(torch.load(tmp_path / folder / "step=5.ckpt", weights_only=True))

    whole, resumed = fit("whole"), fit("resumed", tmp_path / "whole" / "step=3.ckpt")
    assert not [k for k, v in whole["state_dict"].items() if not torch.equal(v, resumed["state_dict"][k])]


def test_refuses_what_is_no_probability() -> None:
    for name in ("ctc_weight", "modality_dropout", "audio_dropout"):
        with pytest.raises(ValueError, match=f"{name} is 1.5; expected 0 to 1"):
            small(**{name: 1.5})
