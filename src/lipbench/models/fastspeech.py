"""FastSpeech (NeurIPS 2019): text to speech in parallel with given durations, for many speakers; DualLip's speech.

Sources: Ren et al., "FastSpeech", NeurIPS 2019; its public implementations xcmyz/FastSpeech (`hparams.py`, commit
1e1a61b: 256 channels, 4 blocks of 2 heads on each side, filter 1024, kernels 9 and 1, dropout 0.1, Adam with betas .9
and .98, gradients cut at 1) and ming024/FastSpeech2 (commit d4e79eb: L1 of log-mels, mean squared error of log(frames +
1), an embedding of the speaker added to the encoder's output, where the duration predictor sees it). The paper itself
has 384 channels and 6 blocks (30.1 M parameters).

DualLip (Chen et al., MM 2020, sections 3.4.2 and 3.4.3) gives the same durations to lips and speech; it names the model
and no sizes, trains it on LibriTTS, and makes waveforms by a WaveNet. Own choices: it is trained on the corpus's own
audio and durations; a video frame's duration becomes steps of the spectrogram by its rounded boundaries, so that lips
and speech never drift apart; in WaveNet's place stand Griffin-Lim and, from a file, HiFi-GAN; the blocks are those of
ParaLip (`lipbench.nets.fastspeech`: norm first); no layers after the decoder but a linear one, as in the paper (both
implementations add a network behind it); somebody who is not among the speakers gets the mean of their embeddings.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lipbench import losses
from lipbench.media import audio
from lipbench.media.speech_features import MelDefinition, log_mels, step_boundaries
from lipbench.nets.fastspeech import (
    DurationPredictor,
    MotionDecoder,
    TextEncoder,
    expand,
    fit_durations,
    length_mask,
    predicted_frames,
)
from lipbench.nets.vocoder import HifiGAN, griffin_lim
from lipbench.pretrained import weights
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipBatch, ClipSpec, Generated, Timing

_LOST = "vocoder at {path}; leave --model.vocoder out, or make it: lipbench weights convert hifigan FILE {path}"


class FastSpeech(GenerativeModel):
    """Text encoder, speaker embedding, duration predictor, length regulator, decoder, linear layer to log-mels.

    Validation and test log the mean absolute error of log-mels with given durations as `mel_l1`, and that of predicted
    durations as `duration_l1` (frames a token).

    Args:
        tokens: Size of the vocabulary.
        speakers: Embeddings, one for each speaker of the training split; 0 is a model without, of a single voice.
        hidden: Channels of the sequences.
        layers: Transformer blocks of the text encoder.
        decoder_layers: Those of the decoder.
        heads: Attention heads.
        ffn: Channels of the feed-forward part.
        kernel: Its convolution kernel.
        dropout: Of the blocks; the duration predictor keeps its 0.5.
        rate: Samples a second of what is learned and generated.
        fft: Length of the FFT and of its window in samples.
        hop: Samples between two steps of the spectrogram; 160 divides a frame of 25 fps into 4.
        mels: Filters, from 0 to 8,000 Hz.
        duration_weight: Of the duration loss.
        vocoder: File of a HiFi-GAN (`lipbench weights convert hifigan`) whose spectrograms are defined by the same
            numbers; None is Griffin-Lim. Training does not use it.
        lr: Peak learning rate (Adam); the implementations have 256^-1/2 times 4000^-1/2, about 0.001, and the schedule
            "inverse_sqrt" with warmup 4000.
        betas: Of Adam.
        clip_norm: See `OptimizedModule`.
        options: Those of `BenchModule`.
    """

    timings = frozenset({"given", "speech", "length", "free"})
    paper: ClassVar[str] = "Ren et al., FastSpeech: Fast, Robust and Controllable Text to Speech, NeurIPS 2019"
    monitor: ClassVar[tuple[str, Literal["min", "max"]]] = ("val/mel_l1", "min")

    def __init__(
        self,
        tokens: int = 30,
        speakers: int = 0,
        hidden: int = 256,
        layers: int = 4,
        decoder_layers: int = 4,
        heads: int = 2,
        ffn: int = 1024,
        kernel: int = 9,
        dropout: float = 0.1,
        rate: int = 16_000,
        fft: int = 1024,
        hop: int = 160,
        mels: int = 80,
        duration_weight: float = 1.0,
        vocoder: str | None = None,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        clip_norm: float = 1.0,
        **options: Any,  # noqa: ANN401 - arguments of the bases
    ) -> None:
        super().__init__(clip_norm=clip_norm, **options)
        if speakers < 0:
            raise ValueError(f"speakers is {speakers}; expected how many the training split has, or 0 for one voice")
        self.definition = MelDefinition(rate, fft, fft, hop, mels)
        self.speakers, self.vocoder, self.lr, self.betas = speakers, vocoder, lr, betas
        self.speaker_names: list[str] = []
        """Of the training split, in the order of `speaker_id`: known after a fit, and from its checkpoint."""
        self.loss_weights = {"duration": duration_weight}
        self.text_encoder = TextEncoder(tokens, layers, hidden, heads, ffn, kernel, dropout)
        self.speaker_embedding = nn.Embedding(speakers, hidden) if speakers else None
        self.duration_predictor = DurationPredictor(hidden)
        self.decoder = MotionDecoder(decoder_layers, hidden, heads, ffn, kernel, dropout)
        self.to_mels = nn.Linear(hidden, mels)

    @property
    def capabilities(self) -> frozenset[str]:
        """Audio without video."""
        return super().capabilities - {"video"} | {"audio"}

    @property
    def clip_spec(self) -> ClipSpec:
        """Whole clips of audio, tokens with durations; no frame is decoded."""
        return ClipSpec(frames={}, audio_rate=self.definition.rate, keys=frozenset({"audio", "tokens", "durations"}))

    @property
    def needs(self) -> frozenset[str]:
        """Text with its timing, the frame rate that durations are counted in, and who speaks."""
        speaker = {"speaker_id"} if self.speakers else set()
        return frozenset({"tokens", "token_len", "durations", "speech", "n_frames", "fps"} | speaker)

    def setup(self, stage: str) -> None:
        """Open the vocoder where one is named, so that a wrong file is told before anything else.

        Raises:
            FileNotFoundError: The file is not there.
            ValueError: It holds another network, or a vocoder of other spectrograms.
        """
        super().setup(stage)
        if self.vocoder is not None and stage != "fit":  # it trains nothing: a checkpoint is not bound to it
            self._opened_vocoder(self.vocoder)

    def build_optimizers(self) -> dict[str, Optimizer]:
        """Adam over everything."""
        return {"speech": Adam(self.parameters(), lr=self.lr, betas=self.betas, eps=1e-9, fused=True)}

    # Speakers

    def on_fit_start(self) -> None:
        """Take the names of the speakers from the datamodule, if it has any.

        Raises:
            ValueError: There are more of them than embeddings, or others than in the run that is resumed.
        """
        super().on_fit_start()
        found = list(getattr(self.trainer.datamodule, "speakers", []))  # type: ignore[attr-defined]
        if not self.speakers or not found:
            return
        if len(found) > self.speakers:
            raise ValueError(
                f"the training split has {len(found)} speakers, and the model {self.speakers} embeddings; give "
                f"--model.speakers {len(found)}, or 0 for a single voice"
            )
        if self.speaker_names and self.speaker_names != found:
            raise ValueError("the training split has other speakers than when this training began; start a new run")
        self.speaker_names = found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the names of the speakers, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["lipbench"]["speakers"] = self.speaker_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read them back.

        Raises:
            ValueError: They are no names; see `BenchModule` for more.
        """
        super().on_load_checkpoint(checkpoint)
        names = checkpoint["lipbench"].get("speakers")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("this checkpoint is damaged: its entry 'speakers' is no list of names")
        self.speaker_names = names

    # Training

    def compute_step(self, batch: ClipBatch) -> None:
        """L1 of log-mels on the steps of each clip, and the error of its tokens' log durations."""
        text, valid = self._encode(batch)
        log_frames = self.duration_predictor(text, valid)  # (B, L)
        mel, duration = self._mel_error(text, batch), losses.duration_token(log_frames, batch["durations"], valid)
        self.step_optimizer("speech", {"mel": mel, "duration": duration})

    def _mel_error(self, text: Tensor, batch: ClipBatch) -> Tensor:
        """Scalar: mean absolute error of log-mels with the given durations."""
        generated, steps = self._mels(text, batch["durations"], batch["fps"])  # (B, N, mels), (B,)
        target = log_mels(batch["audio"], batch["audio_len"], generated.shape[1], self.definition)
        return losses.l1(generated, target, steps)

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """Log `val/mel_l1` and `val/duration_l1`; no waveform is made, which would take most of the time."""
        self._score("val", batch)
        return {}

    def test_step(self, batch: ClipBatch, batch_idx: int) -> Generated:
        """Generate as `timing` says, and log the same errors as `test/...`."""
        self._score("test", batch)
        return super().test_step(batch, batch_idx)

    def _score(self, part: str, batch: ClipBatch) -> None:
        text, valid = self._encode(batch)
        frames = predicted_frames(self.duration_predictor(text, valid))  # (B, L)
        off = (frames - batch["durations"]).abs()[valid].mean()
        for name, value in (("mel_l1", self._mel_error(text, batch)), ("duration_l1", off)):
            self.log(f"{part}/{name}", value, prog_bar=True, batch_size=len(valid), sync_dist=True)

    # Generation

    def predict_durations(self, batch: ClipBatch) -> Tensor:
        """How many video frames each token lasts.

        Args:
            batch: `tokens`, `token_len`, with several speakers `speaker_id`; with `n_frames` too, the durations of
                each clip are scaled to sum to it, and with `speech` those of its silences are known.

        Returns:
            (B, L) int64, 0 where there is no token.
        """
        return self._durations(*self._encode(batch), batch.get("n_frames"), batch.get("speech"))

    def generate(self, batch: ClipBatch, timing: Timing) -> Generated:
        """Spectrograms in parallel, then a waveform a clip: exactly round(frames * rate / fps) samples."""
        text, valid = self._encode(batch)
        if timing == "given":
            durations = batch["durations"]
        else:
            total = None if timing == "free" else batch["n_frames"]
            durations = self._durations(text, valid, total, batch["speech"] if timing == "speech" else None)
        mels, steps = self._mels(text, durations, batch["fps"])
        frames = durations.sum(dim=1).tolist()
        rate = self.definition.rate
        samples = [audio.frame_to_sample(n, rate, fps) for n, fps in zip(frames, batch["fps"].tolist(), strict=True)]
        waves = torch.zeros(len(samples), max(samples), device=mels.device)
        for row, count in enumerate(samples):  # one by one: a vocoder would see another clip's padding
            waves[row, :count] = self._waveform(mels[row, : int(steps[row])].float(), count)
        lengths = torch.tensor(samples, device=mels.device)
        return {"audio": waves, "audio_len": lengths, "sample_rate": rate, "durations": durations}

    def _encode(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """(B, L, hidden) text as the speaker says it, and (B, L) bool, where."""
        valid = length_mask(batch["token_len"], batch["tokens"].shape[1])
        text = self.text_encoder(batch["tokens"], valid)
        if self.speaker_embedding is None:
            return text, valid
        ids, table = batch["speaker_id"], self.speaker_embedding.weight
        if int(ids.max()) >= self.speakers:
            raise ValueError(
                f"speaker_id {int(ids.max())} in a model of {self.speakers} speakers; expected --model.speakers to be "
                f"as many as the training split has, {int(ids.max()) + 1} or more"
            )
        own = torch.where((ids < 0)[:, None], table.mean(dim=0), table[ids.clamp(min=0)])  # (B, hidden)
        return (text + own[:, None]) * valid[:, :, None], valid

    def _durations(self, text: Tensor, valid: Tensor, total: Tensor | None, speech: Tensor | None) -> Tensor:
        """(B, L) int64 predicted frames of each token, see `fit_durations`."""
        frames = predicted_frames(self.duration_predictor(text, valid))  # (B, L)
        return fit_durations(frames, valid, total, speech)

    def _mels(self, text: Tensor, durations: Tensor, fps: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, hidden) text, (B, L) frames, (B,) fps -> (B, N, mels) log-mels, (B,) valid steps."""
        ends = step_boundaries(durations.cumsum(dim=1), fps, self.definition)  # (B, L)
        steps, there = expand(text, ends.diff(dim=1, prepend=torch.zeros_like(ends[:, :1])))  # (B, N, hidden), (B, N)
        return self.to_mels(self.decoder(steps, there)), ends[:, -1]

    def _waveform(self, mels: Tensor, samples: int) -> Tensor:
        """(N, mels) -> (samples,) in [-1, 1]."""
        if self.vocoder is None:
            return griffin_lim(mels, samples, self.definition).to(mels.device)
        network = self._opened_vocoder(self.vocoder).to(mels.device)
        with torch.autocast(mels.device.type, enabled=False):
            return network.waveform(mels, samples)

    def _opened_vocoder(self, file: str) -> HifiGAN:
        """The vocoder, read once.

        Raises:
            FileNotFoundError: The file is not there.
            ValueError: It holds another network, or a vocoder of other spectrograms.
        """
        if "vocoder" not in self.frozen:
            path, _ = weights.located(file, _LOST)
            network, card = weights.load(path, HifiGAN)
            if network.definition != self.definition:
                raise ValueError(
                    f"--model.vocoder {path} is a vocoder of spectrograms of {network.definition}; this model makes "
                    f"those of {self.definition}: give another vocoder, or train with --model.rate "
                    f"{network.definition.rate} --model.fft {network.definition.fft} --model.hop "
                    f"{network.definition.hop} --model.mels {network.definition.mels}"
                )
            self.register_frozen("vocoder", network, card.sha256)
        vocoder = self.frozen["vocoder"]
        assert isinstance(vocoder, HifiGAN)
        return vocoder
