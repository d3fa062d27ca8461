"""A datamodule in memory that supplies whatever a model's ClipSpec asks for, without a store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from lipbench.media import geometry, text
from lipbench.models.paralip import ParaLip
from lipbench.nets.atvgnet import AudioToLandmarks, normalize
from lipbench.nets.avhubert import AVHubert
from lipbench.nets.clip_autoencoder import ClipAutoencoder
from lipbench.nets.convolutions import initialize_he
from lipbench.nets.flownet import FlowNetS
from lipbench.nets.vocoder import HifiGAN
from lipbench.nets.wav2lip import Expert
from lipbench.nets.wav2vec2 import Wav2Vec2
from lipbench.pretrained import weights
from lipbench.training.base import BenchModule
from lipbench.types import ClipBatch, ClipSpec, View

LENGTHS = (6, 9, 7, 8)  # frames of the clips: all different, so that padding shows
_FINEST = 32  # pixels a side up to which each pixel is drawn alone; above, nobody could learn such a noise


def make_batch(spec: ClipSpec, seed: int, lengths: tuple[int, ...] = LENGTHS, training: bool = False) -> ClipBatch:
    """Clips whose brightness follows their tokens, so that there is something to learn."""
    draw = torch.Generator().manual_seed(seed)
    clips, most = len(lengths), max(lengths)
    tokens, durations = torch.zeros(clips, most, dtype=torch.long), torch.zeros(clips, most, dtype=torch.long)
    token_len = torch.zeros(clips, dtype=torch.long)
    for row, frames in enumerate(lengths):
        count = frames // 2
        tokens[row, :count] = torch.randint(3, 30, (count,), generator=draw)
        durations[row, :count] = 2
        durations[row, count - 1] += frames - 2 * count
        token_len[row] = count
    window = spec.window if training and spec.window else most
    frame = torch.zeros(clips, window, dtype=torch.long)
    video_len = torch.tensor([min(window, frames) for frames in lengths])
    for row, (frames, count) in enumerate(zip(lengths, video_len.tolist(), strict=True)):
        order = torch.randperm(frames, generator=draw) if training else torch.arange(frames)
        start = order[0] % (frames - count + 1)
        frame[row, :count] = order[:count].sort().values if spec.sampling == "random" else start + torch.arange(count)
    batch: dict[str, Any] = {
        "index": torch.arange(clips),
        "clip_id": [f"fake/s1/{seed}-{row}" for row in range(clips)],
        "speaker_id": torch.arange(clips) % 2,
        "video_len": video_len,
        "frame": frame,
        "n_frames": torch.tensor(lengths),
        "fps": torch.full((clips,), 25.0),
        "speech": torch.tensor([[1, frames - 1] if frames > 3 else [0, frames] for frames in lengths]),
    }
    for key, view in spec.frames.items():
        sides = [side if side <= _FINEST else 4 for side in view.size]
        face = F.interpolate(torch.rand(clips, 3, *sides, generator=draw), view.size, mode="bilinear")[:, None]
        video = 0.7 * face + 0.3 * _said(tokens, durations, frame)  # (B, window, 3, h, w)
        valid = torch.arange(window) < video_len[:, None]
        batch[key] = video * valid[:, :, None, None, None]
        if key == "video" and training and spec.identity == "run":
            start = torch.stack([torch.randint(n - spec.references + 1, (1,), generator=draw) for n in lengths])
            run = start + torch.arange(spec.references)
            batch["identity"] = 0.7 * face + 0.3 * _said(tokens, durations, run)
        elif key == "video":
            batch["identity"] = video[:, :1].expand(-1, spec.references, -1, -1, -1)
    for key, view in spec.identity_views.items():
        seen = geometry.change_view(batch["identity"].flatten(0, 1), spec.frames["video"], view)
        batch[key] = seen.unflatten(0, (clips, spec.references))  # (B, R, 3, h, w)
    if "landmarks" in spec.keys or "identity_landmarks" in spec.keys:
        own = torch.rand(clips, 1, 68, 2, generator=draw)  # pixels by which the speaker differs from the template
        valid = torch.arange(window) < video_len[:, None]
        batch["landmarks"] = _shape(own, _said(tokens, durations, frame)) * valid[:, :, None, None]
        first = _said(tokens, durations, torch.zeros(clips, spec.references, dtype=torch.long))
        batch["identity_landmarks"] = _shape(own, first)
    batch |= {"tokens": tokens, "token_len": token_len, "durations": durations}
    if spec.audio_rate is not None:  # noise whose loudness follows the tokens
        samples = round(spec.audio_rate / 25)
        loudness = torch.zeros(clips, most)
        for row, frames in enumerate(lengths):
            loudness[row, :frames] = tokens[row].repeat_interleave(durations[row]) / 30.0
        noise = torch.rand(clips, most * samples, generator=draw) - 0.5
        batch["audio"] = noise * loudness.repeat_interleave(samples, dim=1)
        batch["audio_len"] = torch.tensor(lengths) * samples
    return batch  # type: ignore[return-value]


def _said(tokens: torch.Tensor, durations: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    """(B, T) frames -> (B, T, 1, 1, 1) brightness of the tokens said in them."""
    rows = zip(tokens, durations, frame, strict=True)
    return torch.stack([t.repeat_interleave(d)[f] for t, d, f in rows])[..., None, None, None] / 30.0


def _shape(own: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """(B, T, 68, 2) canonical pixels: a mouth that is the wider open, the brighter the picture is."""
    top, left, _, _ = geometry.box("face")
    points = torch.from_numpy(geometry.TEMPLATE).float() + torch.tensor([left, top]) + own
    points = points.expand(-1, said.shape[1], -1, -1).clone()
    points[:, :, 55:60, 1] += 20 * said[:, :, :, 0, 0]
    return points


def make_landmark_stage(folder: Path, seed: int = 0) -> str:
    """Path of a small untrained landmark stage for ATVGnet, whose landmarks differ from frame to frame."""
    torch.manual_seed(seed)
    net = AudioToLandmarks(width=2, hidden=4, layers=1)
    initialize_he(net)
    net.fit_basis(normalize(clip) for clip in FakeData().training_landmarks())
    path = folder / f"landmarks{seed}.safetensors"
    weights.save(path, net, arguments=net.arguments, view=View("face", 32, 32), trained_on="nothing")
    return str(path)


def make_expert(folder: Path, seed: int = 0) -> str:
    """Path of a small untrained expert for Wav2Lip."""
    torch.manual_seed(seed)
    net = Expert(24, (8, 8, 8, 8), (0, 0, 0), (8, 8, 8, 8), (0, 0, 0, 0), 16)
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = 1.0
        net.embed_faces(torch.rand(16, 5, 3, 12, 24))  # statistics that leave no map dead
        net.embed_sound(torch.randn(16, 80, 16))
    path = folder / f"expert{seed}.safetensors"
    weights.save(path, net, arguments=net.arguments, view=net.view, trained_on="nothing")
    return str(path)


SPEECH = {"widths": (4,) * 7, "hidden": 16, "layers": 2, "heads": 2, "ffn": 24}  # the position convolution's groups: 16


def make_speech(folder: Path) -> str:
    """Path of a small untrained wav2vec 2.0 for FaceFormer, with the published names."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    tensors = {f"wav2vec2.{key}": value for key, value in Wav2Vec2(**SPEECH).state_dict().items()}  # type: ignore[arg-type]
    save_file({**tensors, "lm_head.weight": torch.zeros(32, 16)}, folder / "model.safetensors")
    return str(folder / "model.safetensors")


def make_vocoder(folder: Path, **arguments: Any) -> str:
    """Path of a small untrained vocoder for FastSpeech."""
    torch.manual_seed(0)
    net = HifiGAN(**{"width": 16, "kernels": (3,), "dilations": ((1, 2),), **arguments})
    path = folder / "vocoder.safetensors"
    weights.save(path, net, arguments=net.arguments, view=None, trained_on="nothing")
    return str(path)


def make_reader(folder: Path, vocabulary: tuple[str, ...] = text.SYMBOLS, seed: int = 0) -> str:
    """Path of a small untrained lip reader for TalkLip."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"size": 24, "front": 4, "widths": (4, 4, 4, 8), "width": 16, "layers": 4, "heads": 2}
    sizes |= {"ffn": 16, "position_kernel": 8, "position_groups": 2, "decoder_layers": 1, "decoder_heads": 2}
    sizes |= {"decoder_ffn": 16, "dropout": 0.0, "padding": 0, "end": 1, "ctc": True, "beam": 1}
    net = AVHubert(len(vocabulary), **sizes)
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            part.momentum = 1.0
    with torch.no_grad():
        net.see(torch.rand(2, 9, 3, 24, 24), torch.tensor([9, 7]))  # statistics that leave no map dead
    path = folder / f"reader{len(vocabulary)}-{seed}.safetensors"
    weights.save(path, net, arguments=net.arguments, view=net.view, trained_on="nothing", vocabulary=vocabulary)
    return str(path)


def make_lips(folder: Path, seed: int = 0) -> str:
    """Path of the checkpoint of a small untrained ParaLip, whose lips differ from frame to frame, for lip to face."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"size": (8, 16), "hidden": 8, "layers": 1, "ffn": 8, "window": 5}
    model = ParaLip(**sizes, encoder_widths=(4,), decoder_widths=(8, 6, 6))
    with torch.no_grad():
        model.picture_decoder.to_rgb.weight *= 8
        model.picture_decoder.to_rgb.bias.fill_(0.4)
    stored = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    stored["pytorch-lightning_version"] = pl.__version__
    model.on_save_checkpoint(stored)
    path = folder / f"lips{seed}.ckpt"
    torch.save(stored, path)
    return str(path)


def make_autoencoder(folder: Path) -> str:
    """Path of a small untrained autoencoder of clips for the correlation GAN."""
    return _untrained(ClipAutoencoder(4, 1), {"width": 4, "blocks": 1}, folder / "autoencoder.safetensors")


def make_flow(folder: Path) -> str:
    """Path of a small untrained FlowNet for the correlation GAN."""
    return _untrained(FlowNetS(2), {"width": 2}, folder / "flow.safetensors")


def _untrained(net: torch.nn.Module, arguments: dict[str, Any], path: Path) -> str:
    weights.save(path, net, arguments=arguments, view=View("mouth_square", 16, 16), trained_on="nothing")
    return str(path)


class Loader:
    """Loader of numbered batches whose position can be saved, as the real one's can; of streams, of a dict of them."""

    def __init__(
        self, spec: ClipSpec | dict[str, ClipSpec], count: int, rank: int, training: bool, lengths: tuple[int, ...]
    ) -> None:
        self.spec, self.count, self.rank, self.training, self.start = spec, count, rank, training, 0
        self.lengths = lengths

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[ClipBatch | dict[str, ClipBatch]]:
        torch.rand(3)  # a real loader draws from the global generator when it starts: resuming must not depend on it
        start, self.start = self.start, 0  # Lightning stops a sized loader without exhausting it
        for position in range(start, self.count):
            self.position = position
            seed = position + 1000 * self.rank
            if isinstance(self.spec, ClipSpec):
                yield make_batch(self.spec, seed, self.lengths, self.training)
            else:
                several = enumerate(self.spec.items())
                yield {name: make_batch(own, seed + 100 * k, self.lengths, True) for k, (name, own) in several}

    def state_dict(self) -> dict[str, int]:
        return {"epoch": 0, "batches": (self.position + 1) % self.count}  # as the real one's, but of any epoch

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["batches"]


class FakeData(pl.LightningDataModule):
    """`batches` training batches an epoch, one batch to validate and to test; clips of so many frames."""

    def __init__(self, batches: int = 4, lengths: tuple[int, ...] = LENGTHS) -> None:
        super().__init__()
        self.batches, self.lengths = batches, lengths

    def loader(self, count: int, training: bool) -> Loader:
        assert self.trainer is not None
        module = self.trainer.lightning_module
        assert isinstance(module, BenchModule)
        wanted = (training and module.streams) or module.clip_spec
        return Loader(wanted, count, self.trainer.global_rank, training, self.lengths)

    def train_dataloader(self) -> Loader:
        return self.loader(self.batches, training=True)

    def val_dataloader(self) -> Loader:
        return self.loader(1, training=False)

    test_dataloader = predict_dataloader = val_dataloader

    def training_words(self) -> list[str]:
        """Those of the first process's batches."""
        spec = ClipSpec(frames={"video": View("face", 4, 4)})
        words: set[str] = set()
        for position in range(self.batches):
            batch = make_batch(spec, position, self.lengths)
            for ids, count in zip(batch["tokens"].tolist(), batch["token_len"].tolist(), strict=True):
                words.update(text.decode(ids[:count]).split())
        return sorted(words)

    def training_landmarks(self) -> Iterator[torch.Tensor]:
        spec = ClipSpec(frames={"video": View("face", 4, 4)}, keys=frozenset({"landmarks"}))
        for clip, length in zip(make_batch(spec, 0, self.lengths)["landmarks"], self.lengths, strict=True):
            yield clip[:length]


def make_trainer(**options: Any) -> pl.Trainer:
    """A quiet trainer on the CPU."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(**(defaults | options))
