"""What a training batch of a recipe costs, computed without running it: operations, memory, and time on a given device.

Every network runs forward and backward on PyTorch's meta device, which knows shapes and holds no numbers. Operations
are those of convolutions and matrix products (two a multiply-add), counted by PyTorch; memory is parameters, gradients,
optimizer states and what the generator's graph keeps for its backward pass, each tensor once. Files of earlier stages
are not read: their networks have the published sizes.

    python benchmarks/training_cost.py papers/corrgan/table2/e [RECIPE ...] [--batch 24] [--tflops 400]
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from lipbench import discovery
from lipbench.console import recipe_files
from lipbench.nets.clip_autoencoder import ClipAutoencoder
from lipbench.training.adversarial import AdversarialModel
from lipbench.types import ClipBatch

FRAMES = 75  # of a clip, 3 s at 25 frames a second
STAGES = {"autoencoder": ClipAutoencoder}  # option -> frozen network of the published size


def made_up(model: AdversarialModel, clips: int) -> ClipBatch:
    """A training batch of the shapes that a model asks for."""
    spec = model.clip_spec
    window = spec.window or FRAMES
    size = spec.frames["video"].size
    rate = spec.audio_rate or 16_000
    batch: dict[str, Any] = {
        "video": torch.empty(clips, window, 3, *size),
        "video_len": torch.full((clips,), window),
        "frame": torch.arange(window).expand(clips, -1),
        "n_frames": torch.full((clips,), FRAMES),
        "fps": torch.full((clips,), 25.0),
        "identity": torch.empty(clips, spec.references, 3, *size),
        "audio": torch.empty(clips, FRAMES * rate // 25),
        "audio_len": torch.full((clips,), FRAMES * rate // 25),
    }
    return batch  # type: ignore[return-value]


@contextmanager
def kept(sizes: dict[int, int]) -> Iterator[None]:
    """Note the bytes of every tensor that a graph keeps, by storage."""

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        yield


def cost(model: AdversarialModel, clips: int) -> dict[str, float]:
    """Operations and bytes of a batch: the generator's step, then those of the discriminators."""
    batch = made_up(model, clips)
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
    parser.add_argument("--tflops", type=float, default=30.0, help="10^12 operations a second (default: %(default)s)")
    arguments = parser.parse_args()
    head = f"{'recipe':34}{'parameters':>14}{'clips':>7}{'10^12 operations':>18}{'GB states':>11}{'GB graph':>10}"
    print(f"{head}{'s a batch at ' + format(arguments.tflops, 'g') + ' TFLOPS':>28}")
    for name in arguments.recipes:
        content = yaml.safe_load(recipe_files.find(name).read_text(encoding="utf-8"))
        kind = discovery.load("model", content["model"]["class_path"])
        clips = arguments.batch or content["data"]["batch_size"]
        with torch.device("meta"):
            model = kind(**content["model"].get("init_args", {}))
            for option, network in STAGES.items():
                if hasattr(model, option):
                    net: nn.Module = network()
                    model.frozen[option] = net.requires_grad_(False).eval()
            found = cost(model, clips)
        seconds = found["operations"] / arguments.tflops / 1e12
        print(
            f"{name:34}{found['parameters']:14,.0f}{clips:7}{found['operations'] / 1e12:18.2f}"
            f"{found['states'] / 1e9:11.2f}{found['graph'] / 1e9:10.2f}{seconds:28.2f}"
        )


if __name__ == "__main__":
    main()
