"""What is special about Song et al.'s network: what it hears and looks at, its three discriminators, words."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from fake_data import FakeData, make_batch
from test_models import SMALL
from torch import Tensor
from torch.nn import functional as F

from lipbench.media import geometry
from lipbench.models import cran
from lipbench.models.cran import CRAN, WordAdversary
from lipbench.nets.convolutions import initialize_he
from lipbench.types import ClipBatch, View

WORDS = ("about", "after", "again")
LIPS: dict[str, Any] = {"lip_weight": 0.001, "lip_frames": 4, "lip_widths": (2, 2, 2), "lip_hidden": 4, "outputs": 3}


def small(**options: Any) -> CRAN:
    torch.manual_seed(0)
    model = CRAN(**(SMALL["cran"] | options))
    initialize_he(model.generator)  # at these widths the published weights fade
    return model


def test_published_sizes_and_settings() -> None:
    with torch.device("meta"):
        model = CRAN(lip_weight=0.001)
    assert sum(p.numel() for p in model.generator_parameters()) == 34_922_375
    assert (model.lr, model.discriminator_lr, model.betas) == (2e-4, 1e-3, (0.5, 0.999))
    assert model.loss_weights == {"frame": 0.002, "video": 0.01, "lip": 0.001}
    assert list(model.adversaries) == ["frame", "video", "lip"]
    assert (model.video_frames, model.lip_frames, model.outputs) == (20, 11, 500)
    assert model.clip_spec.frames == {"video": View("face", 128, 128)}
    assert (model.clip_spec.window, model.clip_spec.sampling) == (100, "consecutive")
    assert model.mouths(torch.zeros(1, 3, 128, 128, device="meta")).shape == (1, 3, 40, 40)
    optimizers = model.build_optimizers()
    assert [(name, optimizer.param_groups[0]["lr"]) for name, optimizer in optimizers.items()] == [
        *[("generator", 2e-4), ("frame", 1e-3), ("video", 1e-3), ("lip", 1e-3)]
    ]


# What it hears and looks at


@pytest.mark.parametrize(("front_end", "shape"), [("mfcc", (12, 35)), ("mel", (80, 28))])
def test_windows_of_audio_are_centered_on_their_frames(front_end: str, shape: tuple[int, int]) -> None:
    model = small(front_end=front_end)
    silence = torch.zeros(1, 16_000)
    batch: Any = {"audio": silence, "audio_len": torch.tensor([16_000]), "fps": torch.tensor([25.0])}
    clip, frame = torch.zeros(3, dtype=torch.long), torch.tensor([8, 12, 16])
    still = model.audio_windows(batch, clip, frame)
    assert still.shape == (3, *shape)
    click = silence.clone()
    click[0, 12 * 640 + 320] = 0.9  # in the middle of frame 12
    heard = (model.audio_windows({**batch, "audio": click}, clip, frame) != still).any(dim=1)  # (3, columns)
    columns = torch.arange(shape[1], dtype=torch.float32)
    centers = [columns[row].mean().item() for row in heard]
    step = {"mfcc": 4, "mel": 3.2}[front_end]  # columns a frame
    middle = (shape[1] - 1) / 2
    assert centers == pytest.approx([middle + 4 * step, middle, middle - 4 * step], abs=1)
    assert heard.any(dim=1).all()  # 350 ms reach 4 frames to each side
    assert not (model.audio_windows({**batch, "audio": click}, clip, frame + 6) != still)[1:].any()


def test_embeddings_are_those_of_each_frame() -> None:
    model = small().eval()
    batch = make_batch(model.clip_spec, 3)
    with torch.no_grad():
        found = model.audio_embeddings(batch)
        assert found.shape == (4, 9, 12)
        own = model.generator.audio(model.audio_windows(batch, torch.tensor([2]), torch.tensor([5])))
    torch.testing.assert_close(found[2, 5], own[0], rtol=0, atol=1e-5)
    assert not found[2, 7:].any()
    assert found[2, :7].any(dim=1).all()


@pytest.mark.parametrize("image", ["identity", "previous"])
def test_generation_is_the_loop_written_out(image: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(recurrent_image=image, identity_share=0.9).eval()
    net, batch = model.generator, make_batch(model.clip_spec, 3)
    monkeypatch.setattr(cran, "_FRAMES_AT_ONCE", 8)  # pieces of two frames
    torch.manual_seed(5)
    with torch.no_grad():
        video = model.run_generate(batch, "given")["video"]
        for row, frames in enumerate(batch["n_frames"].tolist()):
            identity = 2 * batch["identity"][row, :1] - 1  # (1, 3, 48, 48)
            looked, state = identity, torch.zeros(1, 1, net.gru.hidden_size)
            for frame in range(frames):
                heard = net.audio(model.audio_windows(batch, torch.tensor([row]), torch.tensor([frame])))
                seen, maps = net.image(looked)
                hidden, state = net.gru(torch.cat([seen, heard], dim=1)[:, None], state)
                made = net.decoder(hidden[:, 0], maps)
                torch.testing.assert_close(video[row, frame], (made[0] + 1) / 2, rtol=0, atol=1e-5)
                if image == "previous":
                    looked = made


@pytest.mark.parametrize(("image", "share"), [("identity", 1.0), ("previous", 0.5)])
def test_training_looks_at_what_it_says(image: Any, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(recurrent_image=image)
    shares: list[float] = []
    forward = model.generator.forward
    monkeypatch.setattr(
        model.generator, "forward", lambda *a, **k: (shares.append(k["identity_share"]), forward(*a, **k))[1]
    )
    model.generator_losses(make_batch(model.clip_spec, 3, training=True))
    assert shares == [share]


def test_training_and_generation_make_the_same() -> None:
    model = small().eval()
    batch = make_batch(model.clip_spec, 3)
    there = torch.arange(9) < batch["video_len"][:, None]
    with torch.no_grad():
        terms, sample = model.generator_losses(batch)
        made = model.run_generate(batch, "given")["video"]
    torch.testing.assert_close((sample["made"] + 1) / 2, made[there], rtol=0, atol=1e-5)
    torch.testing.assert_close((sample["real"] + 1) / 2, batch["video"][there], rtol=0, atol=1e-6)
    expected = 2 * (made[there] - batch["video"][there]).abs().mean()
    torch.testing.assert_close(terms["l1"], expected)
    assert set(terms) == {"l1"}


def test_padding_takes_no_part_in_training() -> None:
    model = small(recurrent_image="previous", identity_share=0.0)
    batch = make_batch(model.clip_spec, 3, training=True)
    batch = {**batch, "n_frames": batch["video_len"]}
    padded = {**batch, "video": batch["video"].clone(), "frame": batch["frame"].clone()}
    after = torch.arange(batch["video"].shape[1]) >= batch["video_len"][:, None]
    assert after.any()
    padded["video"][after] = 7.0
    padded["frame"][after] = 3
    found = []
    for one in (batch, padded):
        torch.manual_seed(2)
        found.append(model.generator_losses(one))  # type: ignore[arg-type]
    torch.testing.assert_close(*found, rtol=0, atol=0)


# Discriminators


def test_runs_lie_inside_their_clips() -> None:
    torch.manual_seed(0)
    count = torch.tensor([30, 20, 9, 1])
    drawn = [cran._draw_run(count, 20)[1] for _ in range(200)]
    starts = torch.stack([frames[:, 0] for frames in drawn])  # (200, 4)
    assert set(starts[:, 0].tolist()) == set(range(11))
    assert (starts[:, 1:] == 0).all()
    frames = drawn[0]
    assert (frames[0].diff() == 1).all()
    assert frames[2].tolist() == [*range(9), *[8] * 11]
    assert (frames[3] == 0).all()


def test_real_and_generated_runs_are_of_the_same_frames() -> None:
    model = small(**LIPS, video_frames=9, window=None)
    model._vocabulary = WORDS
    batch = make_batch(model.clip_spec, 3, (14, 13, 12), training=True)
    batch["text"] = ["again", "about", "again"]
    model.generator.forward = lambda *_, **__: (2 * batch["video"] - 1, None)  # type: ignore[assignment, method-assign]
    _, sample = model.generator_losses(batch)
    for what, frames, side in (("clip", 9, 48), ("mouth", 4, 15)):
        assert sample[f"real_{what}"].shape == (3, frames, 3, side, side)
        assert torch.equal(sample[f"real_{what}"], sample[f"made_{what}"])
    assert sample["word"].tolist() == [2, 0, 2]


def test_the_mouth_is_where_the_code_places_it() -> None:
    with torch.device("meta"):
        model = CRAN()
    rows, columns = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    cut = model.mouths(torch.stack([rows, columns]))
    corners = geometry.TEMPLATE[[48, 54]].mean(0) / 2  # x, y of 128
    # trainList_TCD.py: 20 pixels to each side of the corners' middle, 24 above and 16 below
    assert (cut[0].min(), cut[0].max()) == (int(corners[1]) - 24, int(corners[1]) + 15)
    assert (cut[1].min(), cut[1].max()) == (int(corners[0]) - 20, int(corners[0]) + 19)


def test_losses_are_those_of_the_published_code() -> None:
    model = small(**LIPS).eval()  # in training the statistics of BatchNorm would change between two calls
    model._vocabulary = WORDS
    batch = make_batch(model.clip_spec, 3, training=True)
    batch["text"] = ["again", "about", "again", "after"]
    with torch.no_grad():
        _, sample = model.generator_losses(batch)
        found, fooling = {}, {}
        for adversary in model.adversaries.values():
            found |= adversary.losses(sample)[0]
            fooling |= adversary.generator_losses(sample)

        def bce(logits: Tensor, target: float) -> Tensor:
            return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

        frame, video, lip = model.frame_discriminator, model.video_discriminator, model.lip_discriminator
        assert frame is not None
        assert video is not None
        assert lip is not None
        word = torch.tensor([2, 0, 2, 1])
        torch.testing.assert_close(
            found,
            {
                "discriminator_frame_real": bce(frame(sample["real"]), 1),
                "discriminator_frame_fake": bce(frame(sample["made"]), 0),
                "discriminator_video_real": bce(video(sample["real_clip"]), 1),
                "discriminator_video_fake": bce(video(sample["made_clip"]), 0),
                "discriminator_lip_real": F.cross_entropy(lip(sample["real_mouth"]), word),
                "discriminator_lip_fake": ((lip(sample["made_mouth"]) - 1 / 3) ** 2).mean(),
            },
        )
        torch.testing.assert_close(
            fooling,
            {
                "frame": bce(frame(sample["made"]), 1),
                "video": bce(video(sample["made_clip"]), 1),
                "lip": F.cross_entropy(lip(sample["made_mouth"]), word),
            },
        )


def test_balance_of_the_lip_reader() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, mouths: Tensor) -> Tensor:
            return mouths[:, 0, 0, 0, :2]

    real, made = torch.zeros(1, 1, 1, 1, 2), torch.zeros(1, 1, 1, 1, 2)
    real[..., 1] = 1.5
    sample = {"real_mouth": real, "made_mouth": made, "word": torch.tensor([1])}
    _, balance = WordAdversary(Fixed()).losses(sample)  # type: ignore[arg-type]
    assert balance["lip_score_real"].item() == pytest.approx(1 / (1 + math.exp(-1.5)))
    assert balance["lip_score_made"].item() == pytest.approx(0.5)


class Spoken(FakeData):
    """Clips that say one word each."""

    said: tuple[str, ...] = ("again", "about", "after", "after")
    known: tuple[str, ...] = WORDS

    def loader(self, count: int, training: bool) -> Any:
        return _Worded(super().loader(count, training), self.said)

    def training_words(self) -> list[str]:
        return list(self.known)


class _Worded:
    def __init__(self, loader: Any, said: tuple[str, ...]) -> None:
        self.loader, self.said = loader, said

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Any:
        for batch in self.loader:
            yield {**batch, "text": list(self.said), "speaker": [word.upper() for word in self.said]}

    def state_dict(self) -> Any:
        return self.loader.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.loader.load_state_dict(state)


@pytest.mark.parametrize("words", ["text", "folders"])
def test_each_discriminator_takes_its_own_step(
    words: Any, trainer_for: Callable[..., pl.Trainer], tmp_path: Any
) -> None:
    model, data = small(**LIPS, words=words, adversarial_from=1), Spoken(3)
    data.speakers = ["About", "after", "AGAIN", "about"]  # type: ignore[attr-defined]
    before: dict[str, list[Tensor]] = {}
    moved: list[set[str]] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            before.update({name: [p.detach().clone() for p in a.net.parameters()] for name, a in judges.items()})

        def on_train_batch_end(self, *_: Any) -> None:
            moved.append(
                {
                    name
                    for name, a in judges.items()
                    if any(not torch.equal(p, old) for p, old in zip(a.net.parameters(), before[name], strict=True))
                }
            )

    judges = model.adversaries
    trainer = trainer_for(max_steps=3, callbacks=[Watch()])
    trainer.fit(model, data)
    assert moved == [set(), {"frame", "video", "lip"}, {"frame", "video", "lip"}]
    assert {"train/frame", "train/video", "train/lip", "train/lip_score_real"} <= trainer.callback_metrics.keys()
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = CRAN.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert loaded._vocabulary == WORDS
    others = Spoken(3)
    others.known, others.speakers = ("about", "after", "against"), ["about", "after", "against"]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="say other words than when this training began"):
        trainer_for(max_steps=4).fit(
            small(**LIPS, words=words), others, ckpt_path=tmp_path / "model.ckpt", weights_only=True
        )


def test_clips_without_a_word_are_refused(trainer_for: Callable[..., pl.Trainer]) -> None:
    data = Spoken(1)
    data.said = ("again", "about after", "after", "after")
    with pytest.raises(ValueError, match=r"says 'about after', and the lip reader .* one word each.*lip_weight 0"):
        trainer_for(max_steps=1).fit(small(**LIPS), data)
    with pytest.raises(ValueError, match=r"say 3 words, and the lip reader has 4 outputs; give --model\.outputs 3"):
        trainer_for(max_steps=1).fit(small(**{**LIPS, "outputs": 4}), Spoken(1))

    class Silent(FakeData):
        def training_words(self) -> list[str]:
            return list(WORDS)

    with pytest.raises(ValueError, match=r"needs clips with a text.*lip_weight 0"):
        trainer_for(max_steps=1).fit(small(**LIPS), Silent(1))
    with pytest.raises(ValueError, match=r"expected a datamodule with `speakers`.*found Silent.*lip_weight 0"):
        trainer_for(max_steps=1).fit(small(**LIPS, words="folders"), Silent(1))


def test_trains_without_discriminators_and_starts_them_from_there(
    trainer_for: Callable[..., pl.Trainer], tmp_path: Any
) -> None:
    plain = small(frame_weight=0, video_weight=0)
    assert not plain.adversaries
    trainer = trainer_for(max_steps=1)
    trainer.fit(plain, FakeData(1))
    trainer.save_checkpoint(tmp_path / "l1.ckpt")
    second = small(init_from=str(tmp_path / "l1.ckpt"), lr=0.0)
    trainer_for(max_steps=1).fit(second, FakeData(1))
    assert torch.equal(second.generator.gru.weight_ih_l0, plain.generator.gru.weight_ih_l0)
    with pytest.raises(ValueError, match="adversarial_from needs a discriminator"):
        small(frame_weight=0, video_weight=0, adversarial_from=3)


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="video_frames is 8; the video discriminator needs 9 or more"):
        small(video_frames=8)
    with pytest.raises(ValueError, match=r"identity_share is 1\.5; expected a probability"):
        small(identity_share=1.5)


def test_a_long_audio_is_made_in_pieces_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(recurrent_image="previous").eval()
    batch: ClipBatch = make_batch(model.clip_spec, 3)
    made = []
    for pieces in (4, 64):
        monkeypatch.setattr(cran, "_FRAMES_AT_ONCE", pieces)
        with torch.no_grad():
            made.append(model.run_generate(batch, "free")["video"])
    torch.testing.assert_close(*made, rtol=0, atol=1e-5)
