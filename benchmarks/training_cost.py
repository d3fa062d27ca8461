"""What a training batch of a recipe costs, computed without running it: operations, memory, and time on a given device.

Every network runs forward and backward on PyTorch's meta device, which knows shapes and holds no numbers. Operations
are those of convolutions and matrix products (two a multiply-add), counted by PyTorch; memory is parameters, gradients,
optimizer states and what the generator's graph keeps for its backward pass, each tensor once. Files of earlier stages
are not read: their networks have the published sizes.

Models that train on whole clips (TalkLip, DualLip, TransformerT2L) need numbers: they run on this machine's CPU with
one clip of one, two, and three fifths of the frames, and a quadratic through the three (attention grows so) is taken at
all frames, times the clips but for what is there once a batch (half-precision copies of weights), as two clips of a
fifth tell. A recipe that draws some frames of each clip should draw no more than a fifth of them. TalkLip draws as many
frames as it ever may, and all that does not grow with them counts once. DualLip is in its second stage: as many texts
and as many lips as pairs are labeled and learned from, and texts without durations become clips as long as the rest.

    python benchmarks/training_cost.py papers/corrgan/table2/e [RECIPE ...] [--batch 24] [--tflops 400]
    python benchmarks/training_cost.py talklip_grid --batch 8 --frames 250
    python benchmarks/training_cost.py talklip_grid --batch 8 --frames 250 --precision bf16-mixed
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from lipbench import discovery
from lipbench.console import recipe_files
from lipbench.models.duallip import DualLip
from lipbench.models.talklip import TalkLip
from lipbench.models.transformert2l import TransformerT2L
from lipbench.nets.avhubert import AVHubert
from lipbench.nets.clip_autoencoder import ClipAutoencoder
from lipbench.nets.duallip import AttentionLipGenerator
from lipbench.training.adversarial import AdversarialModel
from lipbench.training.base import BenchModule
from lipbench.types import ClipBatch

STAGES = {"autoencoder": ClipAutoencoder, "reader": AVHubert}  # option -> frozen network of the published size


def made_up(model: BenchModule, clips: int, frames: int) -> ClipBatch:
    """A training batch of the shapes that a model asks for, of clips of so many frames."""
    spec = model.clip_spec
    window = spec.window or frames
    size = spec.frames["video"].size
    words = max(frames // 5, 2)  # letters: five a second, as in GRID
    rate = spec.audio_rate or 16_000
    batch: dict[str, Any] = {
        "video": torch.zeros(clips, window, 3, *size),
        "video_len": torch.full((clips,), window),
        "frame": torch.arange(window).expand(clips, -1),
        "n_frames": torch.full((clips,), frames),
        "fps": torch.full((clips,), 25.0),
        "identity": torch.zeros(clips, spec.references, 3, *size),
        "audio": torch.zeros(clips, frames * rate // 25),
        "audio_len": torch.full((clips,), frames * rate // 25),
        "tokens": torch.full((clips, words), 5),
        "token_len": torch.full((clips,), words),
        "durations": torch.full((clips, words), frames // words),
    }
    batch["durations"][:, -1] += frames - batch["durations"][0].sum()
    return batch  # type: ignore[return-value]


@contextmanager
def kept(sizes: dict[int, int]) -> Iterator[None]:
    """Note the bytes of every tensor that a graph keeps, by storage."""

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        yield


def most_frames(model: TalkLip, frames: int) -> None:
    """Have TalkLip draw as many frames as it may: runs that are spread out, of which none is left out."""
    starts = max(1, int(model.share * frames))
    places = torch.linspace(1, frames - model.run, starts).long()[:, None] + torch.arange(model.run)
    place = places.flatten()

    def draw(video_len: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros_like(place), place, place

    model.draw = draw  # type: ignore[method-assign]
    model.switches = dict.fromkeys(model.switches, 0)


def whole_clips(model: TalkLip | DualLip | TransformerT2L, clips: int, frames: int) -> dict[str, float]:
    """Cost of a batch of whole clips, out of those of three shorter clips."""
    share = 0.0 if isinstance(model, TalkLip) else model.frame_dropout
    if 0 < share < 1:  # frames are withheld by chance: the mean lies between all of them and none
        ends = []
        for model.frame_dropout in (0.0, 1.0):
            ends.append(whole_clips(model, clips, frames))
        return {key: (1 - share) * ends[0][key] + share * ends[1][key] for key in ends[0]}
    lengths = [frames // 5, 2 * frames // 5, 3 * frames // 5]
    found = [shorter_clips(model, 1, length) for length in lengths]
    # TalkLip's runs are those of one clip; all that does not grow with its frames is once a batch.
    two = None if isinstance(model, TalkLip) else shorter_clips(model, 2, lengths[0])
    total = dict(found[-1])
    for name in ("operations", "graph"):
        square, linear, constant = np.polyfit(lengths, [one[name] for one in found], 2)
        once = constant if two is None else 2 * found[0][name] - two[name]
        total[name] = once + clips * (constant - once + linear * frames + square * frames**2)
    return total


def shorter_clips(model: TalkLip | DualLip | TransformerT2L, clips: int, frames: int) -> dict[str, float]:
    """Cost of a batch of whole clips, as it is."""
    if isinstance(model, DualLip):
        return dual_cost(model, clips, frames)
    if isinstance(model, TalkLip):
        most_frames(model, frames)
    return cost(model, clips, frames)


def dual_cost(model: DualLip, clips: int, frames: int) -> dict[str, float]:
    """Operations and bytes of DualLip's second stage with so many clips of each stream."""
    batch = made_up(model, clips, frames)
    model.longest = frames
    if isinstance(model.generator, AttentionLipGenerator):  # untrained, it may stop anywhere
        model.generator.stop.requires_grad_(False).weight.zero_()
        model.generator.stop.bias.fill_(-1.0)
        model.generator.stop.requires_grad_(True)
    graph: dict[int, int] = {}
    with FlopCounterMode(display=False) as counter:
        pseudo: list[ClipBatch] = []
        if model.alpha and model.text != "none":
            pseudo.append(model.label_text(batch, batch["identity"]))
        if model.alpha and model.lips:
            model.label_lips(batch)
        with kept(graph):
            terms = [*model.generation_losses(batch).values(), model.reading_loss(batch)]
            if model.alpha and model.lips:
                terms += model.generation_losses(batch).values()
            terms += [model.reading_loss(own) for own in pseudo]
        torch.stack(terms).sum().backward()
    return summary(model, counter, graph)


def cost(model: AdversarialModel, clips: int, frames: int) -> dict[str, float]:
    """Operations and bytes of a batch: the generator's step, then those of the discriminators."""
    batch = made_up(model, clips, frames)
    graph: dict[int, int] = {}
    with FlopCounterMode(display=False) as counter:
        with kept(graph):
            terms, sample = model.generator_losses(batch)
            for adversary in model.adversaries.values():
                terms |= adversary.generator_losses(sample)
        torch.stack(list(terms.values())).sum().backward()
        cut = {key: value.detach() for key, value in sample.items()}
        for adversary in model.adversaries.values():
            judged, _ = adversary.losses(cut)
            torch.stack(list(judged.values())).sum().backward()
    return summary(model, counter, graph)


def summary(model: BenchModule, counter: FlopCounterMode, graph: dict[int, int]) -> dict[str, float]:
    """Parameters, operations, and bytes of states and of the graph."""
    networks = (model, *model.frozen.values())
    weights = {p.untyped_storage()._cdata for net in networks for p in net.parameters()}
    trained = sum(p.numel() * 4 for p in model.parameters())
    frozen = sum(p.numel() * 4 for net in model.frozen.values() for p in net.parameters())
    return {
        "parameters": trained / 4,
        "operations": float(counter.get_total_flops()),
        "states": 4.0 * trained + frozen,  # weights, gradients, two moments
        "graph": float(sum(size for storage, size in graph.items() if storage not in weights)),
    }


def main() -> None:
    """Print a line a recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", help="as `lipbench fit --config` takes them")
    parser.add_argument("--batch", type=int, help="clips a batch (default: the recipe's)")
    parser.add_argument("--frames", type=int, default=75, help="of a clip, 25 a second (default: %(default)s)")
    parser.add_argument("--precision", choices=("32", "bf16-mixed"), help="default: the recipe's")
    parser.add_argument("--tflops", type=float, default=30.0, help="10^12 operations a second (default: %(default)s)")
    arguments = parser.parse_args()
    head = f"{'recipe':34}{'parameters':>14}{'clips':>7}{'10^12 operations':>18}{'GB states':>11}{'GB graph':>10}"
    print(f"{head}{'s a batch at ' + format(arguments.tflops, 'g') + ' TFLOPS':>28}")
    for name in arguments.recipes:
        content = yaml.safe_load(recipe_files.find(name).read_text(encoding="utf-8"))
        kind = discovery.load("model", content["model"]["class_path"])
        clips = arguments.batch or content["data"]["batch_size"]
        whole = issubclass(kind, TalkLip | DualLip | TransformerT2L)
        device = "cpu" if whole else "meta"
        precision = arguments.precision or content.get("trainer", {}).get("precision", "32")
        half = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed")
        with torch.device(device), half:
            model = kind(**content["model"].get("init_args", {}))
            for option, network in STAGES.items():
                if hasattr(model, option):
                    net: nn.Module = network()
                    model.frozen[option] = net.requires_grad_(False).eval()
            found = (whole_clips if whole else cost)(model, clips, arguments.frames)
        seconds = found["operations"] / arguments.tflops / 1e12
        print(
            f"{name:34}{found['parameters']:14,.0f}{clips:7}{found['operations'] / 1e12:18.2f}"
            f"{found['states'] / 1e9:11.2f}{found['graph'] / 1e9:10.2f}{seconds:28.2f}"
        )


if __name__ == "__main__":
    main()
