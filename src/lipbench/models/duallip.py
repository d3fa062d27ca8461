"""DualLip (ACM MM 2020): lip generation and lip reading that teach each other with unpaired text and lip videos.

From the paper: Algorithm 1, the two generators (sections 3.3.1 and 3.3.2), the readers, the optimizers, alpha, and that
unpaired data begin with the first decay of a learning rate. No public implementation exists; own choices are those of
`lipbench.nets.duallip` and of `lipbench.training.ctc_reading`, and:

- Pseudo pairs come from the newest partner in evaluation mode, and no gradient reaches the partner (Figure 2b and 2c).
  Both partners label before either takes a step.
- Clips in which the reader reads nothing, or more symbols than there are frames, are left out of the generator's batch
  (`train/unread` is their share).
- With durations, text-only data carry theirs, as the paper's do by its silence about them; what the reader reads is
  given durations by the monotonic search over its CTC outputs (ParaLip, section 6).
- Text-only data take their guide images from the batch of lips, or without such a stream from the paired one.
- Under teacher forcing, the frame before almost is the next one, and the text would never be looked at: in training it
  is replaced by the guide image with the probability `frame_dropout`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from lipbench import losses
from lipbench.media import text
from lipbench.nets import lipnet, lipresnet
from lipbench.nets.ctc import greedy
from lipbench.nets.duallip import (
    AttentionLipGenerator,
    DurationLipGenerator,
    LipSizes,
    choose_frames,
    frames_before,
    guided_attention_loss,
    stop_loss,
)
from lipbench.nets.fastspeech import length_mask
from lipbench.nets.monotonic import attention_durations, reader_durations
from lipbench.training.ctc_reading import CTCReader
from lipbench.training.generative import GenerativeModel
from lipbench.training.schedules import LearningRate
from lipbench.types import ClipBatch, ClipSpec, Generated, Timing, View

_FRAMES_AT_ONCE = 256  # frames drawn together outside of training, to bound the memory of large batches
_SILENCE = text.SYMBOLS.index(text.SILENCE)
_NEVER_SAID = [text.SYMBOLS.index(symbol) for symbol in ("<eos>", "<unk>")]
_READERS = {"lipnet": lipnet.LipNet, "lipresnet": lipresnet.LipResNet}


class DualLip(GenerativeModel, CTCReader):
    """A lip generator and a lip reader, trained together.

    Args:
        alignment: How frames find their token: by "durations", which must be given, or by "attention", which needs none
            and decides how long a clip is.
        size: (height, width) of the mouth view; the paper's lips are 64x128.
        tokens: Size of the vocabulary.
        embedding: Channels of a token.
        hidden: Channels of text and image features.
        rnn: Units of the generator's recurrence.
        encoder_widths: Channels of the image encoder, one number a halving of the picture.
        decoder_widths: Channels of the image decoder: first map, one a doubling, last map.
        dropout: Of the text encoder.
        frames: Frames drawn from each clip in training, at random; None draws all, as in the paper.
        identity: Guide image in training: a "random" frame, as in the paper, or the clip's "first".
        reader: The paper's "lipnet" for characters (GRID), or its "lipresnet".
        reader_options: Arguments of that network of `lipbench.nets`, such as `hidden` and `norm`.
        alpha: Weight of the losses on pseudo pairs: 1 on GRID, 0.1 on TCD-TIMIT; 0 trains on paired data alone.
        unsupervised_from: Batch from which pseudo pairs are used; None: the first decay of a learning rate.
        text: Text without lips: the "text" of unpaired clips, sentences of the corpus's "grammar", or "none".
        lips: Whether unpaired clips supply lips without text.
        text_share: Texts a batch, as a multiple of the batch size.
        lips_share: Clips of lips a batch, likewise.
        frame_dropout: Probability with which the frame before is withheld in training; with attention only.
        guided_attention: Weight of the distance of the attention from the diagonal (own addition); 0 leaves it out.
        monotonic: Whether durations of an attention come from its best monotonic path, or from its largest weights, as
            in the paper.
        longest: Frames after which generation without durations ends, whatever the stop prediction says.
        generator_lr: Peak learning rate of the generator (Adam).
        generator_decay_factor: Of its schedule "step" or "plateau"; `decay_factor` is the reader's.
        options: Those of `CTCReader`: `lr` and `weight_decay` are the reader's (AdamW).
    """

    paper: ClassVar[str] = "Chen et al., DualLip: A System for Joint Lip Reading and Generation, ACM MM 2020"

    def __init__(
        self,
        alignment: Literal["durations", "attention"] = "durations",
        size: tuple[int, int] = (64, 128),
        tokens: int = 30,
        embedding: int = 256,
        hidden: int = 512,
        rnn: int = 1024,
        encoder_widths: tuple[int, ...] = (16, 32, 64, 128),
        decoder_widths: tuple[int, ...] = (256, 196, 128, 80, 48, 16),
        dropout: float = 0.5,
        frames: int | None = None,
        identity: Literal["random", "first"] = "random",
        reader: Literal["lipnet", "lipresnet"] = "lipnet",
        reader_options: dict[str, Any] | None = None,
        alpha: float = 1.0,
        unsupervised_from: int | None = None,
        text: Literal["text", "grammar", "none"] = "text",
        lips: bool = True,
        text_share: float = 1.0,
        lips_share: float = 1.0,
        frame_dropout: float = 0.5,
        guided_attention: float = 0.0,
        monotonic: bool = False,
        longest: int = 400,
        generator_lr: float = 1e-3,
        generator_decay_factor: float = 0.1,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(size=size, **options)
        if alpha < 0:
            raise ValueError(f"alpha is {alpha}; expected 0 or more")
        if text == "grammar" and alignment == "durations" and alpha:
            raise ValueError(
                "sentences of a grammar have no durations: give --model.alignment attention, or --model.text text"
            )
        self.alignment, self.size, self.frames, self.identity = alignment, (size[0], size[1]), frames, identity
        self.alpha, self.unsupervised_from = alpha, unsupervised_from
        self.text, self.lips, self.text_share, self.lips_share = text, lips, text_share, lips_share
        self.frame_dropout, self.monotonic, self.longest = frame_dropout, monotonic, longest
        self.generator_lr, self.generator_decay_factor = generator_lr, generator_decay_factor
        self.loss_weights = {"l1_unpaired": alpha, "ctc_unpaired": alpha}
        sizes = LipSizes(self.size, tokens, embedding, hidden, rnn, encoder_widths, decoder_widths, dropout)
        self.generator: DurationLipGenerator | AttentionLipGenerator
        if alignment == "durations":
            self.generator = DurationLipGenerator(sizes)
        else:
            self.first_edge = tokens  # id of the silence before a sentence, `#`; the one after it, `$`, follows
            self.generator = AttentionLipGenerator(sizes._replace(tokens=tokens + 2))
            self.frame_by_frame = True
            self.loss_weights["guided_attention"] = guided_attention
        if reader not in _READERS:
            raise ValueError(f"reader is {reader!r}; expected {' or '.join(_READERS)}")
        own = {"size": self.size} if reader == "lipnet" else {}
        self.net = _READERS[reader](**{**own, **(reader_options or {})})
        self.generator.to(memory_format=torch.channels_last)

    @property
    def timings(self) -> frozenset[Timing]:  # type: ignore[override]
        """Given durations, or none at all."""
        return frozenset({"given"} if self.alignment == "durations" else {"length", "free"})

    @property
    def clip_spec(self) -> ClipSpec:
        """Whole clips of mouths, one guide image, tokens with durations: those that the reader's pieces are cut by."""
        return ClipSpec(
            frames={"video": View("mouth", *self.size)},
            identity=self.identity,
            keys=frozenset({"identity", "tokens", "durations"}),
        )

    @property
    def streams(self) -> dict[str, ClipSpec]:
        """Paired clips, texts and lips; none where pseudo pairs have no weight."""
        if not self.alpha:
            return {}
        paired = self.clip_spec
        streams = {"paired": paired}
        if self.text == "grammar":
            streams["text"] = ClipSpec({}, keys=frozenset({"tokens"}), part="grammar", batch_share=self.text_share)
        elif self.text == "text":
            keys = frozenset({"tokens", "durations"} if self.alignment == "durations" else {"tokens"})
            streams["text"] = ClipSpec({}, keys=keys, part="text", batch_share=self.text_share)
        if self.lips:
            streams["lips"] = ClipSpec(
                paired.frames,
                identity=self.identity,
                keys=frozenset({"identity"}),
                part="lips",
                batch_share=self.lips_share,
            )
        return streams

    @property
    def needs(self) -> frozenset[str]:
        """Text, with its durations if they align it, and the guide image."""
        timed = {"durations"} if self.alignment == "durations" else {"n_frames"}
        return frozenset({"tokens", "token_len", "identity"} | timed)

    # Training

    def build_optimizers(self) -> dict[str, Optimizer]:
        """Adam for the generator, AdamW for the reader.

        Raises:
            ValueError: Pseudo pairs shall begin with the first decay of a learning rate, and none ever decays so.
        """
        rates = {name: self.learning_rate(name).schedule for name in ("generator", "reader")}
        if self.alpha and self.unsupervised_from is None and not {"step", "plateau"} & set(rates.values()):
            raise ValueError(
                "unpaired data begin with the first decay of a learning rate, and with the schedule "
                f"{rates['reader']} there is none: give --model.unsupervised_from BATCH, or --model.schedule step or "
                "plateau"
            )
        return {
            "generator": Adam(self.generator.parameters(), lr=self.generator_lr, fused=True),
            "reader": AdamW(self.net.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True),
        }

    def learning_rate(self, name: str) -> LearningRate:
        """The generator's decays by a factor of its own."""
        rate = super().learning_rate(name)
        if name == "reader":
            return rate
        return LearningRate(rate.schedule, rate.warmup, rate.every, self.generator_decay_factor, rate.patience)

    @property
    def unsupervised(self) -> bool:
        """Whether pseudo pairs are used: the second stage of Algorithm 1."""
        if not self.alpha:
            return False
        if self.unsupervised_from is not None:
            return self.batches >= self.unsupervised_from
        return self.decayed("generator") or self.decayed("reader")

    def compute_step(self, batch: Any) -> None:  # noqa: ANN401 - a ClipBatch, or one a stream
        """Algorithm 1: losses of the paired clips, and of pseudo pairs in the second stage; then both take a step."""
        streams: dict[str, ClipBatch] = batch if self.alpha else {"paired": batch}
        paired = streams["paired"]
        pseudo_lips = pseudo_text = None
        if self.unsupervised:
            if "text" in streams:
                pseudo_lips = self.label_text(streams["text"], streams.get("lips", paired)["identity"])
            if "lips" in streams:
                pseudo_text = self.label_lips(streams["lips"])
                missed = 1 - len(pseudo_text["token_len"]) / len(streams["lips"]["video_len"])
                self.log("train/unread", missed, batch_size=len(streams["lips"]["video_len"]))
        of_generator, of_reader = self.generation_losses(paired), {"ctc": self.reading_loss(paired)}
        if pseudo_text is not None:
            own = self.generation_losses(pseudo_text)
            of_generator["l1_unpaired"] = torch.stack([own[key] * self._weight(key) for key in own]).sum()
        if pseudo_lips is not None:
            of_reader["ctc_unpaired"] = self.reading_loss(pseudo_lips)
        self.step_optimizer("generator", of_generator)
        self.step_optimizer("reader", of_reader)

    def _weight(self, name: str) -> float:
        return self.loss_weights.get(name, 1.0)

    def reading_loss(self, batch: ClipBatch) -> Tensor:
        """CTC loss of the reader on pieces of clips (equation 1)."""
        pieces = self.pieces(batch)
        video, lengths = self.cut(batch["video"], pieces)
        return losses.ctc(self.net(video, lengths), lengths, [piece.ids for piece in pieces])

    def generation_losses(self, batch: ClipBatch) -> dict[str, Tensor]:
        """L1 of the generator's frames (equation 2); with attention also of its stop prediction and its alignment.

        Args:
            batch: `video`, `video_len`, `identity`, `tokens`, `token_len`, and `durations` where they align. It may
                hold no clip: then the losses are 0.
        """
        guide, total = batch["identity"][:, 0], batch["video_len"]
        if not len(total):
            return {"l1": torch.zeros((), device=total.device)}
        drawn = choose_frames(total, batch["video"].shape[1], self.frames)  # (B, T)
        terms: dict[str, Tensor] = {}
        if isinstance(self.generator, DurationLipGenerator):
            states, _, skips = self.generator(batch["tokens"], batch["durations"], guide)
        else:
            encoded = self.generator.encode(self._with_edges(batch), batch["token_len"], guide)
            skips = encoded.skips
            before = frames_before(self.generator.seen, guide, batch["video"], total, self.frame_dropout)  # (B, T, P)
            unrolled = self.generator(encoded, before)
            states = unrolled.states
            terms["stop"] = stop_loss(unrolled.stop, total)
            if self._weight("guided_attention"):
                terms["guided_attention"] = guided_attention_loss(unrolled.attention, total, batch["token_len"])
        clip, place = drawn.nonzero(as_tuple=True)  # (M,) each
        made = self.generator.decoder(states[clip, place], None, skips, clip)  # (M, 3, height, width)
        return {"l1": losses.l1(made, batch["video"][clip, place]), **terms}

    def _with_edges(self, batch: ClipBatch) -> Tensor:
        """(B, L) ids in which the silences before and after a sentence are tokens of their own, `#` and `$`."""
        tokens, row = batch["tokens"].clone(), torch.arange(len(batch["tokens"]), device=batch["tokens"].device)
        for place, own in ((torch.zeros_like(row), self.first_edge), (batch["token_len"] - 1, self.first_edge + 1)):
            silent = tokens[row, place] == _SILENCE
            tokens[row[silent], place[silent]] = own
        return tokens

    # Pseudo pairs

    @torch.no_grad()
    def label_text(self, batch: ClipBatch, guides: Tensor) -> ClipBatch:
        """Lips for text: pairs that the reader learns from.

        Args:
            batch: `tokens`, `token_len`, and `durations` where they align.
            guides: (G, R, 3, height, width) guide images, which the texts take in turn.

        Returns:
            The same with `video`, `video_len` and `durations`.
        """
        turn = torch.arange(len(batch["tokens"]), device=guides.device) % len(guides)
        asked = cast("ClipBatch", {**batch, "identity": guides[turn]})
        with _evaluating(self.generator):
            made = self.generate(asked, "given" if self.alignment == "durations" else "free")
        return cast("ClipBatch", {**asked, **{key: made[key] for key in ("video", "video_len", "durations")}})

    @torch.no_grad()
    def label_lips(self, batch: ClipBatch) -> ClipBatch:
        """Text for lips: pairs that the generator learns from.

        Args:
            batch: `video`, `video_len` and `identity`.

        Returns:
            The clips in which something was read, with `tokens`, `token_len`, and `durations` where they align. Only
            letters and silences are read: a reader that knows little may prefer "<unk>", which is no text.
        """
        lengths = batch["video_len"]
        with _evaluating(self.net):
            log_probs = self.net(batch["video"], lengths)  # (B, T, V)
        log_probs[..., _NEVER_SAID] = -torch.inf
        rows, spelled = [], []
        for row, (ids, frames) in enumerate(zip(greedy(log_probs, lengths), lengths.tolist(), strict=True)):
            words = text.decode(ids or ()).split()
            symbols = text.encode(text.symbols(words)) if words else []
            if 0 < len(symbols) <= frames:
                rows.append(row)
                spelled.append(torch.tensor(symbols))
        device = lengths.device
        kept = torch.tensor(rows, dtype=torch.long, device=device)
        found = cast("ClipBatch", {key: batch[key][kept] for key in ("video", "video_len", "identity")})
        found["token_len"] = torch.tensor([len(ids) for ids in spelled], dtype=torch.long, device=device)
        if not rows:
            return found
        found["tokens"] = nn.utils.rnn.pad_sequence(spelled, batch_first=True).to(device)
        if self.alignment == "durations":
            found["durations"] = reader_durations(
                log_probs[kept], found["video_len"], found["tokens"], found["token_len"], _SILENCE
            )
        return found

    # Generation

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Lips from text and a guide image, by durations at once or by attention frame after frame."""
        guide = batch["identity"][:, 0]
        if isinstance(self.generator, DurationLipGenerator):
            states, valid, skips = self.generator(batch["tokens"], batch["durations"], guide)
            clip, place = valid.nonzero(as_tuple=True)  # (M,) each
            video = states.new_zeros(*valid.shape, 3, *self.size, dtype=torch.float32)
            for rows, places in zip(
                torch.split(clip, _FRAMES_AT_ONCE), torch.split(place, _FRAMES_AT_ONCE), strict=True
            ):
                made = self.generator.decoder(states[rows, places], None, skips, rows)  # (m, 3, height, width)
                video[rows, places] = made.float().clamp(0, 1)
            return {"video": video, "video_len": valid.sum(dim=1), "durations": batch["durations"]}
        encoded = self.generator.encode(self._with_edges(batch), batch["token_len"], guide)
        most = batch["n_frames"] if timing == "length" else torch.full_like(batch["token_len"], self.longest)
        video, frames, attention = self.generator.generate(encoded, guide, most, stops=timing == "free")
        found: Generated = {"video": video, "video_len": frames, "attention": attention}
        # A clip of fewer frames than tokens has no monotonic path.
        monotonic = self.monotonic and bool((frames >= batch["token_len"]).all())
        found["durations"] = attention_durations(attention, frames, batch["token_len"], monotonic=monotonic)
        return found

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """As both bases; of attention, log the alignment of the first clips and how sharp alignments are."""
        found = super().validation_step(batch, batch_idx)
        if "attention" in found:
            attention, frames = found["attention"], found["video_len"]
            valid = length_mask(frames, attention.shape[1])
            focus = attention.max(dim=2).values[valid].mean()
            self.log("val/focus", focus, batch_size=len(frames), sync_dist=True)
            if batch_idx == 0:
                for name, weights, count, tokens in zip(
                    batch["clip_id"], attention, frames.tolist(), batch["token_len"].tolist(), strict=True
                ):
                    self.log_image(f"attention/{name.rpartition('/')[2]}", weights[:count, :tokens].T.flip(0).float())
        return found


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """A network in evaluation mode, which it leaves at the end."""
    before = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(before)
