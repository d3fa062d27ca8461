"""DualLip: who teaches whom, when, and what generation without durations does."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from fake_data import LENGTHS, FakeData, make_batch
from test_models import SMALL

from lipbench.media import text
from lipbench.models.duallip import DualLip
from lipbench.nets import duallip
from lipbench.nets.duallip import (
    AttentionLipGenerator,
    choose_frames,
    frames_before,
    guided_attention_loss,
    stop_loss,
)
from lipbench.types import ClipBatch, ClipSpec, View

SILENCE = text.SYMBOLS.index(text.SILENCE)


def model(**options: Any) -> DualLip:
    torch.manual_seed(0)
    return DualLip(**{**SMALL["duallip"], **options})


def free(**options: Any) -> DualLip:
    """Without durations."""
    return model(alignment="attention", longest=12, guided_attention=1.0, **options)


def batch_of(net: DualLip, seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> ClipBatch:
    """Clips with silence before and after, as a corpus has it."""
    batch = make_batch(net.clip_spec, seed, lengths)
    rows = torch.arange(len(lengths))
    batch["tokens"][rows, 0] = batch["tokens"][rows, batch["token_len"] - 1] = SILENCE
    return batch


class Watched(DualLip):
    """Notes what it learns from."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[tuple[str, bool, frozenset[str]]] = []

    def step_optimizer(self, name: str, terms: Any) -> dict[str, float]:
        self.seen.append((name, self.unsupervised, frozenset(terms)))
        return super().step_optimizer(name, terms)


# ------------------------------------------------------------------------------------------------------ two directions


@pytest.mark.parametrize("alignment", ["durations", "attention"])
def test_no_gradient_reaches_the_side_that_labels(alignment: str) -> None:
    """Figure 2 (b) and (c): pseudo lips train the reader alone, pseudo text the generator alone."""
    net = model(alignment=alignment, longest=12)
    with torch.no_grad():
        net.net.back_end.out.bias[text.SYMBOLS.index("b")] = 5.0  # an untrained reader that writes
    batch = batch_of(net)
    lips = net.label_text(batch, batch["identity"])
    assert not lips["video"].requires_grad
    net.reading_loss(lips).backward()
    assert all(p.grad is None for p in net.generator.parameters())
    assert any(p.grad is not None for p in net.net.parameters())
    net.zero_grad()
    written = net.label_lips(batch)
    assert len(written["token_len"]) == len(LENGTHS)
    torch.stack(list(net.generation_losses(written).values())).sum().backward()
    assert all(p.grad is None for p in net.net.parameters())
    assert any(p.grad is not None for p in net.generator.parameters())


def test_partners_label_in_evaluation_mode_and_go_back() -> None:
    net = model()
    batch = batch_of(net)
    modes: dict[str, bool] = {}
    for name, part in (("generator", net.generator.text_encoder), ("reader", net.net.back_end)):
        part.register_forward_hook(lambda module, *_, name=name: modes.__setitem__(name, module.training))
    net.train()
    net.label_text(batch, batch["identity"])
    net.label_lips(batch)
    assert modes == {"generator": False, "reader": False}
    assert net.generator.training
    assert net.net.training
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.label_text(batch, batch["identity"])
    net.label_lips(batch)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())  # statistics, too


def test_texts_take_guides_in_turn_and_keep_their_durations() -> None:
    net = model().eval()
    batch = batch_of(net)
    lips = net.label_text(batch, batch["identity"][:2])
    asked = cast("ClipBatch", {**batch, "identity": batch["identity"][[0, 1, 0, 1]]})
    assert torch.equal(lips["video"], net.generate(asked, "given")["video"])
    assert torch.equal(lips["durations"], batch["durations"])
    assert lips["video_len"].tolist() == list(LENGTHS)


def writes(net: DualLip, said: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader writes these ids, one after the other from frame 1 on, with certainty."""

    def read(video: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        log_probs = torch.full((*video.shape[:2], len(text.SYMBOLS)), -12.0)
        log_probs[..., 0] = -1e-3
        for row, ids in enumerate(said):
            for frame, symbol in enumerate(ids, 1):
                log_probs[row, frame, [0, symbol]] = torch.tensor([-12.0, -1e-3])
        return log_probs

    monkeypatch.setattr(net.net, "forward", read)


def test_what_is_read_becomes_tokens_with_monotonic_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing read, and more symbols than frames, are left out."""
    net = model()
    batch = batch_of(net, lengths=(9, 7, 6, 8))
    b, i = text.SYMBOLS.index("b"), text.SYMBOLS.index("i")
    writes(net, [[b, i, b], [], [b, i, b, i, b], [i]], monkeypatch)
    written = net.label_lips(batch)
    assert written["token_len"].tolist() == [5, 3]  # of 9 and of 8 frames; 7 symbols do not fit in 6 frames
    assert written["tokens"].tolist() == [[SILENCE, b, i, b, SILENCE], [SILENCE, i, SILENCE, 0, 0]]
    assert torch.equal(written["video"], batch["video"][[0, 3]])
    assert written["durations"].sum(1).tolist() == [9, 8]
    assert written["durations"][0, :2].tolist() == [1, 1]
    assert (written["durations"][1, :2] == torch.tensor([1, 1])).all()
    losses = net.generation_losses(written)
    assert losses["l1"] > 0


def test_symbols_that_nobody_says_are_not_read() -> None:
    """An untrained reader prefers "<unk>", then the letter: it says the letter."""
    net = model()
    out = net.net.back_end.out
    with torch.no_grad():
        out.weight.zero_()
        for bias, symbol in ((9.0, "<unk>"), (8.0, "<eos>"), (7.0, "b")):
            out.bias[text.SYMBOLS.index(symbol)] = bias
    written = net.label_lips(batch_of(net))
    assert set(written["tokens"].unique().tolist()) == {SILENCE, text.SYMBOLS.index("b")}


def test_nothing_read_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model()
    batch = batch_of(net)
    writes(net, [[], [], [], []], monkeypatch)
    written = net.label_lips(batch)
    assert len(written["token_len"]) == 0
    assert net.generation_losses(written)["l1"] == 0


# ------------------------------------------------------------------------------------------------------ two stages


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"unsupervised_from": 2}, 2),
        ({"unsupervised_from": None, "schedule": "step", "decay_every": 3}, 3),
        ({"unsupervised_from": None, "schedule": "step", "decay_every": 2, "warmup": 2}, 4),
        ({"unsupervised_from": 9, "alpha": 0.0}, 99),
        ({"unsupervised_from": None, "schedules": {"reader": "step"}, "decay_every": 2}, 2),
    ],
)
def test_unpaired_data_begin_with_the_first_decay(
    options: dict[str, Any], first: int, trainer_for: Callable[..., pl.Trainer]
) -> None:
    torch.manual_seed(0)
    net = Watched(**{**SMALL["duallip"], **options})
    trainer_for(max_steps=5, limit_val_batches=0).fit(net, FakeData(5))
    expected = []
    for batch in range(5):
        more = {"l1_unpaired"}, {"ctc_unpaired"}
        expected += [
            (name, batch >= first, frozenset({loss} | (extra if batch >= first else set())))
            for name, loss, extra in (("generator", "l1", more[0]), ("reader", "ctc", more[1]))
        ]
    assert net.seen == expected


def test_a_plateau_begins_the_second_stage(trainer_for: Callable[..., pl.Trainer]) -> None:
    torch.manual_seed(0)
    options = {"unsupervised_from": None, "schedule": "plateau", "patience": 1, "lr": 1e-9, "generator_lr": 1e-9}
    net = Watched(**{**SMALL["duallip"], **options})
    trainer_for(max_epochs=3).fit(net, FakeData(1))
    assert [seen[1] for seen in net.seen[::2]] == [False, False, True]


def test_alpha_weighs_pseudo_pairs_and_the_generator_decays_in_its_own_way() -> None:
    net = model(alpha=0.1, schedule="step", decay_every=5, decay_factor=0.5)
    assert {key: net.loss_weights[key] for key in ("l1_unpaired", "ctc_unpaired")} == {
        "l1_unpaired": 0.1,
        "ctc_unpaired": 0.1,
    }
    assert net.learning_rate("reader").at(5, 0) == 0.5
    assert net.learning_rate("generator").at(5, 0) == pytest.approx(0.1)


def test_what_does_not_fit_together() -> None:
    with pytest.raises(ValueError, match=r"with the schedule constant there is none.*--model.unsupervised_from"):
        model(unsupervised_from=None).build_optimizers()
    with pytest.raises(ValueError, match=r"sentences of a grammar have no durations.*--model.alignment attention"):
        model(text="grammar")
    with pytest.raises(ValueError, match="alpha is -1"):
        model(alpha=-1)
    for net, timing in ((model(), "free"), (free(), "given")):
        batch = batch_of(net)
        with pytest.raises(ValueError, match=f"has no timing '{timing}'"):
            net.run_generate(batch, timing)  # type: ignore[arg-type]


def test_streams_ask_for_what_their_part_may_show() -> None:
    timed, untimed = model().streams, free(text="grammar", text_share=2.0, lips_share=0.5).streams
    assert {name: spec.part for name, spec in timed.items()} == {"paired": "paired", "text": "text", "lips": "lips"}
    assert timed["text"].keys == {"tokens", "durations"}
    assert timed["lips"].keys == {"identity"}
    assert untimed["text"].part == "grammar"
    assert (untimed["text"].batch_share, untimed["lips"].batch_share) == (2.0, 0.5)
    assert set(model(lips=False).streams) == {"paired", "text"}
    assert model(alpha=0.0).streams == {}
    assert model(alpha=0.0).clip_spec == timed["paired"]


# ------------------------------------------------------------------------------------------------------ attention


def test_trains_and_generates_without_durations(trainer_for: Callable[..., pl.Trainer]) -> None:
    torch.manual_seed(0)
    net = free(generator_lr=3e-3)
    history: list[float] = []
    original = net.step_optimizer

    def watched(name: str, terms: Any) -> dict[str, float]:
        if name == "generator":
            assert set(terms) == {"l1", "stop", "guided_attention", "l1_unpaired"}
            history.append(terms["l1"].item())
        return original(name, terms)

    net.step_optimizer = watched  # type: ignore[method-assign]
    reached: set[str] = set()

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, *_: Any) -> None:
            reached.update(key for key, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0)

    trainer = trainer_for(max_epochs=25, overfit_batches=1, callbacks=[Watch()])
    trainer.fit(net, FakeData(1))
    assert sum(history[-5:]) < 0.7 * sum(history[:5])
    assert reached == {key for key, _ in net.named_parameters()}
    assert torch.isfinite(trainer.callback_metrics["val/focus"])
    assert any(name.startswith("attention/") for name in net.images)


def test_length_is_kept_and_free_generation_stops() -> None:
    net = free(monotonic=True).eval()
    batch = batch_of(net)
    made = net.run_generate(batch, "length")
    assert made["video_len"].tolist() == list(LENGTHS)
    assert made["attention"].shape == (4, max(LENGTHS), batch["tokens"].shape[1])
    assert torch.allclose(made["attention"].sum(2), (torch.arange(9) < torch.tensor(LENGTHS)[:, None]).float())
    assert torch.equal(made["durations"].sum(1), made["video_len"])
    assert ((made["durations"] > 0) == (batch["tokens"] > 0)).all()  # the monotonic path leaves no token out
    assert isinstance(net.generator, AttentionLipGenerator)
    bias = net.generator.stop.bias
    with torch.no_grad():
        net.generator.stop.weight.zero_()
        bias.fill_(-1.0)
    assert net.run_generate(batch, "free")["video_len"].tolist() == [12] * 4  # `longest`: it never stops by itself
    with torch.no_grad():
        bias.fill_(1.0)
    assert net.run_generate(batch, "free")["video_len"].tolist() == [1] * 4  # fewer frames than tokens: no search


def test_generation_stops_the_same_however_often_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator, where a clip that has ended is drawn on for some frames."""
    net = free().eval()
    batch = batch_of(net)
    assert isinstance(net.generator, AttentionLipGenerator)
    with torch.no_grad():
        net.generator.stop.weight.zero_()
        net.generator.stop.bias.fill_(1.0)
    found = []
    for every in (1, 5):
        monkeypatch.setattr(duallip, "FRAMES_BETWEEN_CHECKS", {"cpu": every})
        found.append(net.run_generate(batch, "free"))
    assert found[0]["video_len"].tolist() == [1] * 4
    for key in ("video", "video_len", "attention"):
        assert torch.equal(found[0][key], found[1][key])  # type: ignore[literal-required]


def test_clips_in_a_batch_are_made_as_alone() -> None:
    for net, timing in ((model().eval(), "given"), (free().eval(), "length")):
        batch = batch_of(net)
        together = net.run_generate(batch, timing)  # type: ignore[arg-type]
        for row, frames in enumerate(LENGTHS):
            count = int(batch["token_len"][row])
            own = {key: value[row : row + 1] for key, value in batch.items() if isinstance(value, torch.Tensor)}
            own |= {key: own[key][:, :count] for key in ("tokens", "durations")}
            alone = net.run_generate(own, timing)  # type: ignore[arg-type]
            assert torch.allclose(alone["video"][0], together["video"][row, :frames], atol=1e-5)
            assert not together["video"][row, frames:].any()


def test_silences_before_and_after_are_tokens_of_their_own() -> None:
    net = free()
    batch = batch_of(net, lengths=(9, 8, 8, 8))
    batch["tokens"][1, 1] = SILENCE  # between words it stays what it is
    own = net._with_edges(batch)
    last = batch["token_len"] - 1
    assert own[:, 0].tolist() == [30] * 4
    assert own[torch.arange(4), last].tolist() == [31] * 4
    assert own[1, 1] == SILENCE
    assert net.generator.text_encoder.embedding.num_embeddings == 32
    assert model().generator.text_encoder.embedding.num_embeddings == 30


def test_training_sees_what_generation_will() -> None:
    """With all frames withheld the recurrence is fed the guide; with none, the frame before."""
    for dropout, expected in ((1.0, False), (0.0, True)):
        net = free(frame_dropout=dropout).eval()
        batch = batch_of(net)
        guide = batch["identity"][:, 0]
        assert isinstance(net.generator, AttentionLipGenerator)
        before = frames_before(net.generator.seen, guide, batch["video"], batch["video_len"], net.frame_dropout)
        of_guide = net.generator.seen(guide)
        frames = net.generator.seen(batch["video"][0, :5])
        assert torch.allclose(before[:, 0], of_guide, atol=1e-6)
        assert torch.allclose(before[0, 1:6], frames if expected else of_guide[:1].expand(5, -1), atol=1e-6)


def test_drawn_frames_are_valid_and_as_many_as_asked() -> None:
    total = torch.tensor([6, 3])
    drawn = choose_frames(total, 6, 4)
    assert drawn.sum(1).tolist() == [4, 3]
    assert not drawn[1, 3:].any()
    assert choose_frames(total, 6, None).sum(1).tolist() == [6, 3]


def test_stop_and_guided_attention_losses() -> None:
    sure = torch.full((1, 4), -20.0)
    sure[0, 2] = 20.0
    assert stop_loss(sure, torch.tensor([3])) < 1e-6  # the fourth frame is none
    assert stop_loss(-sure, torch.tensor([3])) > 10
    diagonal = torch.eye(4)[None]
    frames = tokens = torch.tensor([4])
    assert guided_attention_loss(diagonal, frames, tokens) == 0
    against = guided_attention_loss(diagonal.flip(2), frames, tokens)
    assert 0 < against < 1
    assert guided_attention_loss(diagonal.flip(2), frames, tokens, spread=0.1) > against


def test_the_published_sizes() -> None:
    """At the paper's 64x128; ParaLip's Table 5 counts 41.483 M for DualLip, whose sizes are not published."""
    counts = {}
    for alignment in ("durations", "attention"):
        net = DualLip(alignment=alignment, unsupervised_from=0)  # type: ignore[arg-type]
        counts[alignment] = sum(p.numel() for p in net.parameters())
    assert counts == {"durations": 31_739_309, "attention": 40_798_190}
    reader = DualLip(reader="lipresnet", unsupervised_from=0).net
    assert net.clip_spec == ClipSpec(
        {"video": View("mouth", 64, 128)}, keys=frozenset({"identity", "tokens", "durations"})
    )
    assert reader(torch.rand(1, 5, 3, 64, 128), torch.tensor([5])).shape == (1, 5, 30)
