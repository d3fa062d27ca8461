"""Training MVM: windows around words, what is done to them, the vocabulary's way, and a tiny one that learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lipbench.media import features, text
from lipbench.models import mvm
from lipbench.models.mvm import MVM, Window
from lipbench.nets import mvm as nets
from lipbench.pretrained import weights
from lipbench.scoring.readers import LipReader
from lipbench.training import loading
from lipbench.types import ClipBatch, View

SAID = (["bin", "blue", "at"], ["set", "red", "now", "at"])
WORDS = ["at", "bin", "blue", "now", "red", "set"]
TINY: dict[str, Any] = {
    **{"size": 32, "front": 4, "widths": (4, 6, 8, 8), "embedding": 16, "audio_widths": (2, 4), "channels": 12},
    **{"slots": 6, "heads": 2, "layers": 2, "frames": 7, "outputs": len(WORDS), "words": "sentences", "shift": 1},
}


def tiny(**options: Any) -> MVM:
    torch.manual_seed(0)
    return MVM(**(TINY | options))


def sentences(said: tuple[list[str], ...] = SAID) -> ClipBatch:
    """Sentences of made-up lips and sound: each word has its own picture and pitch, silence is black."""
    rows, frames = [], []
    draw = torch.Generator().manual_seed(5)
    pictures = {word: torch.rand(3, 4, 4, generator=draw) for word in WORDS}
    for words in said:
        tokens = torch.tensor(text.encode(text.symbols(words)))
        rows.append((tokens, torch.tensor([2 if k % 2 else 3 for k in range(len(tokens))])))
        frames.append(int(rows[-1][1].sum()))
    video, audio = torch.zeros(len(said), max(frames), 3, 32, 32), torch.zeros(len(said), max(frames) * 640)
    for clip, (tokens, durations) in enumerate(rows):
        for start, stop, ids in mvm.word_segments(tokens.tolist(), durations.tolist()):
            word = text.decode(ids)
            video[clip, start:stop] = F.interpolate(pictures[word][None], 32, mode="bilinear")
            time = torch.arange((stop - start) * 640) / 16_000
            audio[clip, start * 640 : stop * 640] = 0.3 * torch.sin(6.283 * (WORDS.index(word) + 2) * 400 * time)
    pad = torch.nn.utils.rnn.pad_sequence
    batch: dict[str, Any] = {
        "index": torch.arange(len(said)),
        "video": video,
        "video_len": torch.tensor(frames),
        "fps": torch.full((len(said),), 25.0),
        "audio": audio,
        "audio_len": torch.tensor(frames) * 640,
        "text": [" ".join(words) for words in said],
        "tokens": pad([tokens for tokens, _ in rows], batch_first=True),
        "token_len": torch.tensor([len(tokens) for tokens, _ in rows]),
        "durations": pad([durations for _, durations in rows], batch_first=True),
    }
    return batch  # type: ignore[return-value]


class Sentences(pl.LightningDataModule):
    """One batch, for training and for the rest."""

    def __init__(self, words: list[str] = WORDS, batch: ClipBatch | None = None) -> None:
        super().__init__()
        self.words, self.batch = words, batch or sentences()

    def training_words(self) -> list[str]:
        return self.words

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def test_published_sizes_and_settings() -> None:
    with torch.device("meta"):
        model = MVM()
    assert sum(p.numel() for p in model.parameters()) == 60_368_372
    assert (model.lr, model.weight_decay, model.mixup, model.monitor) == (1e-4, 1e-5, 0.4, ("val/word_accuracy", "max"))
    assert model.clip_spec.frames == {"video": View("mvm_mouth", 112, 112)}
    assert (model.clip_spec.audio_rate, model.clip_spec.keys) == (features.RATE, {"audio"})
    assert MVM(**TINY).clip_spec.keys == {"audio", "tokens", "durations"}
    kinds = {words: MVM(**(TINY | {"words": words})).capabilities for words in ("text", "sentences", "folders")}
    assert kinds == {"text": {"text"}, "sentences": set(), "folders": set()}


def test_windows_lie_around_words() -> None:
    """| 3  b 2 i 3 n 2  | 3  b 2 l 3 u 2 e 3  | 2  a 3 t 2  | 3: words from 3 to 10, 13 to 23 and 25 to 30."""
    assert tiny().windows(sentences())[:3] == [Window(0, 3, "bin"), Window(0, 14, "blue"), Window(0, 24, "at")]
    assert tiny(frames=29).windows(sentences())[0] == Window(0, -8, "bin")
    single = sentences((["bin"], ["blue"]))
    lengths = single["video_len"].tolist()
    assert tiny(words="text").windows(single) == [
        Window(0, (lengths[0] - 7) // 2, "bin"),
        Window(1, (lengths[1] - 7) // 2, "blue"),
    ]


def test_words_may_be_names_of_folders(trainer_for: Callable[..., pl.Trainer]) -> None:
    batch = sentences((["bin"], ["blue"]))
    del batch["text"], batch["tokens"], batch["durations"]
    batch["speaker"] = ["BIN", "BLUE"]
    model = tiny(words="folders", outputs=2)
    assert [window.word for window in model.windows(batch)] == ["bin", "blue"]
    data = Sentences(batch=batch)
    data.speakers = ["BIN", "BLUE"]  # type: ignore[attr-defined]
    trainer_for(max_steps=1).fit(model, data)
    assert model.vocabulary == ("bin", "blue")


def test_other_clips_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a clip says 'bin blue at'.*--model\.words sentences"):
        tiny(words="text").windows(sentences())
    other = sentences()
    other["fps"][1] = 29.97
    with pytest.raises(ValueError, match="25 frames a second, found"):
        tiny().windows(other)


def test_windows_are_mirrored_and_moved_with_all_their_frames() -> None:
    model = tiny(shift=2)
    gray = torch.rand(1, 3, 8, 8)
    seen = set()
    for moved in model.augment(gray.expand(200, -1, -1, -1)):
        places = [
            (flip, y, x)
            for flip, source in enumerate((gray[0], gray[0].flip(-1)))
            for y in range(5)
            for x in range(5)
            if torch.equal(F.pad(source, (2, 2, 2, 2), mode="replicate")[:, y : y + 8, x : x + 8], moved)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert {flip for flip, _, _ in seen} == {0, 1}
    assert {y for _, y, _ in seen} == {x for _, _, x in seen} == set(range(5))


def test_a_square_three_frames_and_some_of_the_audio_are_erased() -> None:
    torch.manual_seed(0)
    gray, mel = torch.ones(300, 29, 112, 112), torch.ones(300, 80, 116)
    mvm._erase(gray, mel)
    erased = gray == 0
    frames = erased.all(3).all(2)  # (300, 29)
    assert frames.sum(1).eq(3).all()
    assert (frames.int().diff(dim=1).abs().sum(1) <= 2).all()  # in a row
    rest = torch.stack([row[~gone][0] for row, gone in zip(erased, frames, strict=True)])  # (300, 112, 112)
    height, width = rest.any(2).sum(1), rest.any(1).sum(1)
    assert torch.equal(rest.sum((1, 2)), height * width)
    for side in (height, width):
        assert (side.min(), side.max()) == (46, 56)  # up to 10 pixels lie outside
    bands, columns = (mel == 0).all(2).sum(1), (mel == 0).all(1).sum(1)
    assert (bands.min(), bands.max(), columns.min(), columns.max()) == (0, 9, 0, 19)
    assert torch.equal((mel == 0).sum((1, 2)), bands * 116 + columns * 80 - bands * columns)


def test_mixed_windows_have_mixed_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(erase=False, shift=0)
    model._vocabulary = tuple(WORDS)
    given: dict[str, Any] = {}
    scores = torch.randn(7, 6)

    def learn(gray: torch.Tensor, mel: torch.Tensor) -> nets.Learned:
        given.update(gray=gray, mel=mel)
        return nets.Learned(scores, scores, torch.tensor(1.0), torch.tensor(2.0))

    monkeypatch.setattr(model.net, "learn", learn)
    monkeypatch.setattr(model, "augment", lambda gray: gray)
    monkeypatch.setattr(model, "step_optimizer", lambda name, terms: given.update(terms))
    monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n).roll(1))
    batch = sentences()
    plain, target = model.cut(batch, model.windows(batch))
    model.compute_step(batch)
    other = torch.arange(7).roll(1)
    apart = (plain - plain[other]).flatten(1)
    share = ((given["gray"] - plain[other]).flatten(1) * apart).sum(1) / apart.square().sum(1)
    assert share.min() > 0
    assert share.max() < 1
    assert share.std() > 0.1
    torch.testing.assert_close(given["gray"].flatten(1), plain[other].flatten(1) + share[:, None] * apart)
    log = scores.log_softmax(1)
    by_hand = -sum(share[k] * log[k, target[k]] + (1 - share[k]) * log[k, target[other[k]]] for k in range(7))
    assert given["video"].item() == pytest.approx(float(by_hand) / 7, rel=1e-5)
    assert (given["reconstruction"], given["contrast"]) == (1, 2)


def test_learns_words_and_becomes_a_reader(trainer_for: Callable[..., pl.Trainer], tmp_path: Path) -> None:
    model = tiny(lr=1e-2, mixup=0.0, erase=False, schedule="cosine")
    for part in model.net.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    trainer = trainer_for(max_steps=80, check_val_every_n_epoch=80)
    trainer.fit(model, Sentences())
    assert trainer.callback_metrics["val/word_accuracy"] == 1
    assert trainer.callback_metrics["val/cross_entropy"] < 0.5
    assert trainer.callback_metrics["train/reconstruction"] < 7
    assert trainer.predict(model, Sentences()) == [{"text": ["bin blue at", "set red now at"]}]
    (logged,) = trainer.test(model, Sentences(), verbose=False)
    assert logged["test/word_accuracy"] == 1

    path = tmp_path / "observer.safetensors"
    card = model.save_observer(path, "two made-up clips")
    assert (card.architecture, card.vocabulary, card.view) == ("mvm.MVM", tuple(WORDS), model.net.view)
    batch = sentences()
    windows = torch.stack([batch["video"][w.clip, w.first : w.first + 7] for w in model.windows(batch) if w.first > 0])
    read = LipReader(*weights.load(path, nets.MVM)).read(windows, torch.full((len(windows),), 7))
    assert read[:3] == ["bin", "blue", "at"]

    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = loading.load(tmp_path / "model.ckpt", MVM)
    assert loaded.vocabulary == tuple(WORDS)
    assert loaded.read(sentences()) == ["bin blue at", "set red now at"]
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    content["lipbench"]["vocabulary"] = WORDS[1:]
    with pytest.raises(ValueError, match="'vocabulary' is no list of 6 words"):
        tiny().on_load_checkpoint(content)


def test_clips_of_one_word_are_read_without_knowing_the_text() -> None:
    model = tiny(words="text").eval()
    model._vocabulary = tuple(WORDS)
    batch = sentences((["bin"], ["blue"]))
    scores = model.net(batch["video"], batch["video_len"])
    only: Any = {key: batch[key] for key in ("video", "video_len")}  # type: ignore[literal-required]
    with torch.no_grad():
        assert model.read(only) == [WORDS[k] for k in scores.argmax(1).tolist()]
        only["video"][0] = torch.nan
        assert model.read(only)[0] == ""


def test_words_that_training_lacked_count_as_wrong(trainer_for: Callable[..., pl.Trainer]) -> None:
    model = tiny(outputs=1)
    model._vocabulary = ("bin",)
    (logged,) = trainer_for().validate(model, Sentences(), verbose=False)
    assert logged["val/word_accuracy"] == pytest.approx(1 / 7)
    assert logged["val/cross_entropy"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="a training clip says 'at', which none said"):
        model.compute_step(sentences())


def test_vocabulary_must_be_known_and_fit(trainer_for: Callable[..., pl.Trainer]) -> None:
    with pytest.raises(RuntimeError, match="MVM knows no words"):
        tiny().read(sentences())
    with pytest.raises(ValueError, match=r"say 6 words, and MVM has 500 outputs; give --model\.outputs 6"):
        trainer_for(max_steps=1).fit(tiny(outputs=500), Sentences())

    class Wordless(pl.LightningDataModule):
        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader([sentences()], batch_size=None)  # type: ignore[arg-type]

        val_dataloader = train_dataloader

    with pytest.raises(ValueError, match="expected a datamodule with `training_words`"):
        trainer_for(max_steps=1).fit(tiny(), Wordless())


def test_resumed_equals_uninterrupted(tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    def fit(folder: str, data: Sentences, ckpt_path: Path | None = None) -> dict[str, Any]:
        keep = ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = trainer_for(max_steps=4, callbacks=[keep], enable_checkpointing=True, limit_val_batches=0)
        trainer.fit(tiny(ema_decay=0.9), data, ckpt_path=ckpt_path, weights_only=True)
        return dict(torch.load(tmp_path / folder / "step=4.ckpt", weights_only=True))

    whole = fit("whole", Sentences())
    resumed = fit("resumed", Sentences(words=[]), tmp_path / "whole" / "step=2.ckpt")  # the words are in the checkpoint
    for part in ("state_dict", "current_model_state"):
        assert not [k for k, v in whole[part].items() if not torch.equal(v, resumed[part][k])]
    assert whole["lipbench"] == resumed["lipbench"]
    assert whole["lipbench"]["vocabulary"] == WORDS
