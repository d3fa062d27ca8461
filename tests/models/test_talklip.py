"""TalkLip: the runs that are drawn, hybrids, what learns from the reader, the switches, and long sounds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from fake_data import FakeData, make_batch, make_reader
from test_models import SMALL as SIZES
from torch import Tensor
from torch.nn import functional as F

from lipbench import losses
from lipbench.generation import talking
from lipbench.media import features, geometry, text
from lipbench.models import talklip
from lipbench.models.talklip import TalkLip, encoded_pieces
from lipbench.nets.avhubert import AVHubert
from lipbench.nets.talklip import draw_negatives, draw_other_runs, draw_runs
from lipbench.types import ClipBatch

SMALL = SIZES["talklip"] | {"audio_widths": (4, 4, 6, 8), "audio_residuals": (0, 0, 0, 0), "lr": 1e-4}
LENGTHS = (17, 24, 12, 30)


@pytest.fixture
def reader(tmp_path: Path) -> str:
    return make_reader(tmp_path)


@pytest.fixture
def fitted(reader: str, trainer_for: Callable[..., pl.Trainer]) -> Callable[..., TalkLip]:
    """A model that has its reader: as it is after the beginning of a fit."""

    def make(**options: Any) -> TalkLip:
        torch.manual_seed(0)
        model = TalkLip(**(SMALL | {"reader": reader} | options))
        trainer_for(max_steps=1, limit_val_batches=0).fit(model, FakeData(1, LENGTHS))
        return model

    return make


def batch_of(model: TalkLip, seed: int = 3) -> ClipBatch:
    batch = make_batch(model.clip_spec, seed, LENGTHS, training=True)
    batch["tokens"][:, 3] = text.SYMBOLS.index(text.SILENCE)
    return batch


def test_published_sizes() -> None:
    with torch.device("meta"):
        model = TalkLip()
        local = TalkLip(audio="local")
    assert model.discriminator is not None
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts["generator"] == 34_469_683
    assert counts["discriminator"] == 14_113_793
    assert sum(p.numel() for p in local.audio_encoder.parameters()) == 2_812_672
    learn = {name for name, p in model.audio_encoder.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in learn} == {"9", "10", "11"}
    assert all(name.startswith("blocks.") for name in learn)
    assert (model.lr, model.discriminator_lr, model.betas) == (1e-4, 1e-4, (0.5, 0.999))
    assert model.loss_weights == pytest.approx({"l1": 0.92999, "lip": 1e-5, "contrastive": 1e-3, "adversarial": 0.07})
    assert (model.context, local.context) == (None, 10)


def test_runs_are_drawn_as_published() -> None:
    torch.manual_seed(0)
    starts = set()
    for frames in (30, 75, 200):
        for _ in range(200):
            places = draw_runs(frames, 0.08, 5)
            rows = places.view(-1, 5)
            assert (rows.diff() == 1).all()
            assert 1 <= len(rows) <= max(1, int(0.08 * frames))
            assert rows.min() >= 1
            assert rows.max() <= frames - 1
            assert (rows[:, 0].diff() >= 5).all()
            others = draw_other_runs(places, frames, 5).view(-1, 5)
            assert (others.diff() == 1).all()
            assert others.min() >= 0
            assert others.max() <= frames - 1
            assert (others[:, 0] != rows[:, 0]).all()
            if frames == 30:
                starts |= set(rows[:, 0].tolist())
    assert starts == set(range(1, 26))  # random.sample(range(1, 30 - 4)) of the published code
    for frames in (1, 4, 5):
        assert draw_runs(frames, 0.08, 5).tolist() == list(range(frames))
        assert draw_other_runs(torch.arange(frames), frames, 5).tolist() == list(range(frames))
    assert draw_runs(6, 0.08, 5).tolist() == [1, 2, 3, 4, 5]
    assert draw_other_runs(torch.arange(1, 6), 6, 5).tolist() == [0, 1, 2, 3, 4]


def test_negatives_are_others() -> None:
    torch.manual_seed(0)
    for count, number in ((2, 1), (3, 1), (10, 5), (300, 100)):
        drawn = draw_negatives(count)
        assert drawn.shape == (count, number)
        assert (drawn != torch.arange(count)[:, None]).all()
        assert all(len(set(row)) == number for row in drawn.tolist())
    many = torch.cat([draw_negatives(4) for _ in range(400)])[::4]  # those of the first
    counts = many.flatten().bincount(minlength=4).tolist()
    assert counts[0] == 0
    assert min(counts[1:]) > 200


def test_contrastive_loss_is_info_nce_written_out() -> None:
    torch.manual_seed(0)
    audio, video = (F.normalize(torch.randn(6, 5), dim=1) for _ in range(2))
    negatives = draw_negatives(6)
    total = 0.0
    for k in range(6):
        own = torch.exp(audio[k] @ video[k] / 0.07)
        others = sum(torch.exp(audio[k] @ audio[j] / 0.07) for j in negatives[k])
        total += -float(torch.log(own / (own + others)))
    assert losses.contrastive(audio, video, negatives).item() == pytest.approx(total / 6, rel=1e-5)


def seen_by_reader(model: TalkLip, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the reader is shown, from now on."""
    shown: list[Tensor] = []
    reader = model.frozen["reader"]
    assert isinstance(reader, AVHubert)
    see = reader.see

    def watched(frames: Tensor, length: Tensor) -> Tensor:
        shown.append(frames)
        return see(frames, length)

    monkeypatch.setattr(reader, "see", watched)
    return shown


def test_a_hybrid_has_generated_frames_at_their_places(
    fitted: Callable[..., TalkLip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator of one color shows which frames of the clip are its own, and the others are the real ones."""
    model = fitted()
    batch, shown = batch_of(model), seen_by_reader(model, monkeypatch)
    drawn: list[tuple[Tensor, Tensor]] = []
    draw = model.draw

    def watched(video_len: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        clip, place, other = draw(video_len)
        drawn.append((clip, place))
        return clip, place, other

    monkeypatch.setattr(model, "draw", watched)
    monkeypatch.setattr(model.generator, "forward", lambda identity, pose, audio: torch.full_like(identity, 0.25))
    model.generator_losses(batch)
    (hybrid,), ((clip, place),) = shown, drawn
    reader = model.frozen["reader"]
    replaced = torch.zeros(batch["video"].shape[:2], dtype=torch.bool)
    replaced[clip, place] = True
    real = geometry.change_view(batch["video"], model.view, reader.view)  # type: ignore[arg-type]
    assert torch.allclose(hybrid[replaced], torch.tensor(0.25), atol=1e-6)
    assert torch.equal(hybrid[~replaced], real[~replaced])
    assert not torch.allclose(real[replaced], torch.tensor(0.25), atol=0.01)


def test_a_generator_that_copies_leaves_the_readers_features_as_they_are(fitted: Callable[..., TalkLip]) -> None:
    model = fitted()
    batch = batch_of(model)
    clip, place, _ = model.draw(batch["video_len"])
    copied = batch["video"].index_put((clip, place), batch["video"][clip, place])
    with torch.no_grad():
        before = model.read_context(batch["video"], batch["video_len"])
        assert torch.equal(model.read_context(copied, batch["video_len"]), before)
        changed = batch["video"].index_put((clip, place), torch.zeros(()))
        assert not torch.equal(model.read_context(changed, batch["video_len"]), before)


@pytest.mark.parametrize("audio", ["global", "local"])
def test_gradients_reach_the_generator_and_not_the_reader(audio: str, fitted: Callable[..., TalkLip]) -> None:
    model = fitted(audio=audio)
    model.zero_grad()
    batch = batch_of(model)
    terms, _ = model.generator_losses(batch)
    (terms["lip"] + terms["contrastive"]).backward()
    reader = model.frozen["reader"]
    assert all(p.grad is None for p in reader.parameters())
    assert not reader.training
    reached = {name for name, p in model.generator.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {name for name, _ in model.generator.named_parameters()}
    encoder = {name for name, p in model.audio_encoder.named_parameters() if p.grad is not None}
    assert encoder == {name for name, p in model.audio_encoder.named_parameters() if p.requires_grad}


def test_recomputing_gives_the_same_gradients(fitted: Callable[..., TalkLip]) -> None:
    model = fitted()
    batch = batch_of(model)

    def gradients(recompute: bool) -> list[Tensor | None]:
        model.recompute = recompute
        model.zero_grad()
        torch.manual_seed(0)
        model.generator_losses(batch)[0]["lip"].backward()
        return [None if p.grad is None else p.grad.clone() for p in model.parameters()]

    kept, again = gradients(False), gradients(True)
    assert any(grad is not None for grad in kept)
    for a, b in zip(kept, again, strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or torch.allclose(a, b, rtol=1e-4, atol=1e-9)


def test_the_lip_loss_is_that_of_the_text_summed_over_tokens(fitted: Callable[..., TalkLip]) -> None:
    model = fitted()
    batch = batch_of(model)
    reader = model.frozen["reader"]
    assert isinstance(reader, AVHubert)
    with torch.no_grad():
        context = model.read_context(batch["video"], batch["video_len"])
        found = model.lip_loss(context, batch)
        expected = 0.0
        for row, said in enumerate(batch["tokens"]):
            words = text.decode(said[: batch["token_len"][row]])
            assert " " in words
            ids = text.encode([text.SILENCE if c == " " else c for c in words])
            tokens = reader.targets([ids])
            length = batch["video_len"][row : row + 1]
            scores = reader.text_scores(context[row : row + 1, : int(length)], length, tokens)[0].log_softmax(-1)
            assert tokens[0].tolist() == [*ids, reader.end]
            for step, token in enumerate(tokens[0].tolist()):
                smooth = 0.1 / (scores.shape[1] - 1)
                expected -= float((0.9 - smooth) * scores[step, token] + smooth * scores[step].sum())
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_the_audio_encoder_starts_from_the_reader_and_its_last_blocks_learn(
    reader: str, trainer_for: Callable[..., pl.Trainer]
) -> None:
    torch.manual_seed(0)
    model = TalkLip(**(SMALL | {"reader": reader, "lr": 1e-2}))
    trainer_for(max_steps=2, limit_val_batches=0).fit(model, FakeData(2, LENGTHS))
    stored = model.frozen["reader"].state_dict()
    changed = {name for name, value in model.audio_encoder.state_dict().items() if not torch.equal(value, stored[name])}
    assert {name.split(".")[1] for name in changed} == {"1", "2", "3"}
    assert all(name.startswith("blocks.") for name in changed)


def validated(model: TalkLip, values: list[float]) -> list[list[str]]:
    """What has been switched after each of some validations."""
    found = []
    for value in values:
        model.look_for_plateaus(value)
        found.append(list(model.switched))
    return found


def test_a_switch_fires_at_the_sixth_validation_without_progress(fitted: Callable[..., TalkLip]) -> None:
    model = fitted(audio_from=None, reader_from=None)
    assert list(model.switches) == ["audio", "reader", "end"]
    assert not model.begun("audio")
    seen = validated(model, [0.5, 0.4, *[0.4] * 5])
    assert seen[-1] == []
    assert validated(model, [0.41]) == [["audio"]]
    assert model.begun("audio")
    assert not model.begun("reader")
    assert validated(model, [0.39, *[0.5] * 5])[-1] == ["audio"]
    assert not model.trainer.should_stop
    assert validated(model, [0.5])[-1] == ["audio", "reader"]
    validated(model, [0.5] * 6)
    assert model.trainer.should_stop


def test_what_counts_and_learns_follows_the_switches(fitted: Callable[..., TalkLip]) -> None:
    model = fitted(audio_from=5, reader_from=9)
    batch = batch_of(model)
    for batches, audio, reader in ((4, False, False), (5, True, False), (9, True, True)):
        model.batches = batches
        model.zero_grad()
        terms, _ = model.generator_losses(batch)
        terms["l1"].backward(retain_graph=True)
        learned = any(p.grad is not None for p in model.audio_encoder.parameters())
        assert (learned, "lip" in terms, "contrastive" in terms) == (audio, reader, reader)
    assert list(fitted(audio="local", reader_from=None).switches) == ["reader", "end"]
    plain = TalkLip(**(SMALL | {"audio": "local", "lip_weight": 0, "contrastive_weight": 0}))
    assert plain.switches == {}


def test_switches_are_resumed(reader: str, tmp_path: Path, trainer_for: Callable[..., pl.Trainer]) -> None:
    options = SMALL | {"reader": reader, "audio_from": None, "reader_from": None}

    def fit(steps: int, path: Path | None = None) -> TalkLip:
        torch.manual_seed(0)
        model = TalkLip(**options)
        trainer = trainer_for(max_steps=steps, check_val_every_n_epoch=1)
        trainer.fit(model, FakeData(1, LENGTHS), ckpt_path=path, weights_only=True)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return model

    first = fit(3)
    assert first._waited + (first._best < float("inf")) > 0
    state = (first.switched, first._best, first._waited)
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)["lipbench"]["switches"]
    assert (stored["switched"], stored["best"], stored["waited"]) == state
    stopped = TalkLip(**options)
    stopped.on_load_checkpoint({**torch.load(tmp_path / "last.ckpt", weights_only=True)})
    assert (stopped.switched, stopped._best, stopped._waited) == state


def test_what_is_missing_or_does_not_fit_is_told(
    reader: str, tmp_path: Path, trainer_for: Callable[..., pl.Trainer]
) -> None:
    def told(**options: Any) -> str:
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            trainer_for(max_steps=1).fit(TalkLip(**(SMALL | {"reader": reader} | options)), FakeData(1, LENGTHS))
        return str(error.value)

    assert "lipbench fit --model avhubert --data NAME" in told(reader=None)
    assert "no reader at" in told(reader=str(tmp_path / "lost.safetensors"))
    assert "expected --model.context_width 16, found 12" in told(context_width=12)
    assert "expected {'width': 16" in told(audio_encoder=SMALL["audio_encoder"] | {"layers": 3})
    words = make_reader(tmp_path, vocabulary=("<s>", "<pad>", "</s>", "▁bin"))
    assert "4 symbols that are not lipbench's 30 characters" in told(reader=words)


def test_pieces_of_a_long_sound() -> None:
    assert encoded_pieces(75) == [(0, 0, 75)]
    assert encoded_pieces(500) == [(0, 0, 500)]
    assert encoded_pieces(800) == [(0, 0, 375), (250, 375, 525), (300, 525, 800)]
    for frames in (501, 777, 1500):
        pieces = encoded_pieces(frames)
        assert [k for _, first, stop in pieces for k in range(first, stop)] == list(range(frames))
        assert all(start <= first and stop <= start + 500 for start, first, stop in pieces)
        inner = [(start, first, stop) for start, first, stop in pieces[1:-1]]
        assert all(first - start >= 100 and start + 500 - stop >= 100 for start, first, stop in inner)


def test_a_long_sound_in_pieces_gives_the_same_frames(
    fitted: Callable[..., TalkLip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole sound is encoded once, and frames are made of it piece by piece: as `lipbench generate` does it."""
    model = fitted().eval()
    monkeypatch.setattr(talklip, "_AT_ONCE", 20)
    frames = 55
    torch.manual_seed(1)
    sound, identity, shown = torch.rand(frames * 640) - 0.5, torch.rand(3, 12, 12), torch.rand(frames, 3, 12, 12)
    batch: Any = {
        "audio": sound[None],
        "audio_len": torch.tensor([len(sound)]),
        "fps": torch.tensor([25.0]),
        "identity": identity[None, None],
        "pose": geometry.without_lower_half(shown)[None],
        "pose_len": torch.tensor([frames]),
    }
    with torch.no_grad():
        whole = model.run_generate(batch, "free")["video"][0]
    heard: list[int] = []
    encode = model.audio_encoder.encode

    def watched(seen: None, audio: Tensor, length: Tensor) -> Tensor:
        heard.append(audio.shape[1])
        return encode(seen, audio, length)  # type: ignore[operator, no-any-return]

    monkeypatch.setattr(model.audio_encoder, "encode", watched)
    who: Any = {"identity": identity[None, None]}
    speech = talking.from_sound(model, who, sound.numpy(), 16_000, frames, lambda *_: None)
    assert speech.context == 0
    pieces = [(None, shown[k : k + talking.STEP]) for k in range(0, frames, talking.STEP)]
    made = torch.cat([piece for _, piece in talking.in_pieces(speech, pieces, lambda: pytest.fail("looked at all"))])
    assert len(heard) == len(encoded_pieces(frames))  # once, whatever the number of pieces
    torch.testing.assert_close(made, whole, rtol=0, atol=1e-5)
    assert not torch.allclose(whole[5], whole[25])


def test_local_embeddings_are_those_of_the_windows(fitted: Callable[..., TalkLip]) -> None:
    model = fitted(audio="local").eval()
    batch = batch_of(model)
    with torch.no_grad():
        embeddings = model.audio_embeddings(batch)  # (4, 30, 8)
        clip, place = torch.tensor([1, 3]), torch.tensor([5, 29])
        mels = features.mel_windows(batch["audio"], batch["audio_len"], clip, place, batch["fps"], 16)
        torch.testing.assert_close(embeddings[clip, place], model.audio_encoder(mels[:, None]).flatten(1))
