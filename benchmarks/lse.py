"""LSE-C and LSE-D a clip: lipbench beside the published way, and beside windows held in memory.

The published way (joonson/syncnet_python `SyncNetInstance.evaluate`, commit 6efbb1c): frames are written as JPEG files
and read again, the network is three-dimensional, windows of 5 frames are cut out and stacked 20 at a time, gradients
are not switched off, and the shifted distances come from a Python loop over windows. That ffmpeg decodes the video
anew for it is left out. "windows in memory" is the same without files and without gradients: our LSE-C, LSE-D and mean
distances of all 31 shifts must equal its own to 1e-5 (relative above 1). The weights are random, which changes no time
and makes every score meaningless: none is printed. One process, one thread, the same sound features for all. Times are
processor time, so that other work on the machine does not count.

    python benchmarks/lse.py [--frames 75] [--rounds 3]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipbench.media import features
from lipbench.metrics.lse import distances, lse
from lipbench.nets import syncnet
from lipbench.pretrained.networks import load_syncnet

VSHIFT = 15


def layers(three: bool, table: list[tuple[int, int, object, object, object, nn.Module | None]]) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU and pooling for each (in, out, kernel, stride, padding, pooling)."""
    convolution, norm = (nn.Conv3d, nn.BatchNorm3d) if three else (nn.Conv2d, nn.BatchNorm2d)
    found: list[nn.Module] = []
    for before, after, kernel, stride, padding, pooling in table:
        found += [convolution(before, after, kernel, stride, padding), norm(after), nn.ReLU(inplace=True)]
        found += [pooling] if pooling else []
    return nn.Sequential(*found)


class Published(nn.Module):
    """SyncNet v2 in the published form and with the published names: BGR pictures of 0 to 255, one window at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = layers(
            False,
            [
                (1, 64, 3, 1, 1, nn.MaxPool2d(1, 1)),
                (64, 192, 3, 1, 1, nn.MaxPool2d(3, (1, 2))),
                (192, 384, 3, 1, 1, None),
                (384, 256, 3, 1, 1, None),
                (256, 256, 3, 1, 1, nn.MaxPool2d(3, 2)),
                (256, 512, (5, 4), 1, 0, None),
            ],
        )
        self.netcnnlip = layers(
            True,
            [
                (3, 96, (5, 7, 7), (1, 2, 2), 0, nn.MaxPool3d((1, 3, 3), (1, 2, 2))),
                (96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))),
                (256, 256, (1, 3, 3), 1, (0, 1, 1), None),
                (256, 256, (1, 3, 3), 1, (0, 1, 1), None),
                (256, 256, (1, 3, 3), 1, (0, 1, 1), nn.MaxPool3d((1, 3, 3), (1, 2, 2))),
                (256, 512, (1, 6, 6), 1, 0, None),
            ],
        )
        for name in ("netfcaud", "netfclip"):
            head = nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))
            setattr(self, name, head)

    def forward_aud(self, windows: Tensor) -> Tensor:
        """(M, 1, 13, 20) -> (M, 1024)."""
        return self.netfcaud(self.netcnnaud(windows).flatten(1))

    def forward_lip(self, windows: Tensor) -> Tensor:
        """(M, 3, 5, 224, 224) -> (M, 1024)."""
        return self.netfclip(self.netcnnlip(windows).flatten(1))


def random_published(seed: int = 0) -> Published:
    """Random weights with BatchNorm statistics of their own, so that activations neither vanish nor explode."""
    torch.manual_seed(seed)
    network = Published()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
    with torch.no_grad():
        network.netcnnlip[0].weight /= 100  # pictures of 0 to 255
        network.netcnnaud[0].weight /= 10  # cepstra of about 20
    return network.eval()


def shifted_distances(video: Tensor, audio: Tensor) -> Tensor:
    """(N, 31) distances of every picture window to the sound around it, in a loop over windows."""
    padded = F.pad(audio, (0, 0, VSHIFT, VSHIFT))
    size = 2 * VSHIFT + 1
    rows = [F.pairwise_distance(video[[k]].repeat(size, 1), padded[k : k + size]) for k in range(len(video))]
    return torch.stack(rows)


def window_embeddings(network: Published, pictures: Tensor, mfcc: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(1, 3, T, 224, 224), (1, 1, 13, F) -> embeddings of `count` windows, cut out and stacked 20 at a time."""
    video, audio = [], []
    for start in range(0, count, 20):
        places = range(start, min(count, start + 20))
        video.append(network.forward_lip(torch.cat([pictures[:, :, k : k + 5] for k in places])).detach())
        audio.append(network.forward_aud(torch.cat([mfcc[..., 4 * k : 4 * k + 20] for k in places])).detach())
    return torch.cat(video), torch.cat(audio)


def scores(video: Tensor, audio: Tensor) -> Tensor:
    """(33,) from embeddings (N, 1024): LSE-C, LSE-D, and the mean distance at each of the 31 shifts."""
    mean = shifted_distances(video, audio).mean(0)
    return torch.stack([mean.median() - mean.min(), mean.min(), *mean])


def as_published(network: Published, frames: np.ndarray, mfcc: Tensor, samples: int) -> Tensor:
    """Through JPEG files, with gradients. `frames` (T, 224, 224, 3) uint8 RGB."""
    with tempfile.TemporaryDirectory() as folder:
        for k, frame in enumerate(frames):
            cv2.imwrite(f"{folder}/{k:06d}.jpg", frame[..., ::-1])
        read = [cv2.imread(str(path)) for path in sorted(Path(folder).glob("*.jpg"))]
    stacked = np.stack(read, axis=3)[None].transpose(0, 3, 4, 1, 2)
    pictures = torch.from_numpy(stacked.astype(float)).float()
    return scores(*window_embeddings(network, pictures, mfcc, syncnet.window_count(len(frames), samples)))


@torch.no_grad()
def in_memory(network: Published, frames: np.ndarray, mfcc: Tensor, samples: int) -> Tensor:
    """The same windows without files and without gradients."""
    pictures = torch.from_numpy(frames[..., ::-1].copy()).permute(3, 0, 1, 2)[None].float()
    return scores(*window_embeddings(network, pictures, mfcc, syncnet.window_count(len(frames), samples)))


@torch.no_grad()
def ours(network: syncnet.SyncNet, frames: np.ndarray, mfcc: Tensor, samples: int) -> Tensor:
    """A clip in one pass."""
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    sound = network.embed_audio(mfcc[0].transpose(1, 2))[0]
    found = syncnet.embed_clip(network, pictures, sound, samples)[None]  # (1, N, 2, 1024)
    given = found[:, :, 0], found[:, :, 1], torch.tensor([found.shape[1]])
    result = lse(*given)
    return torch.cat([result.lse_c, result.lse_d, distances(*given)[0]])


def main() -> None:
    """Measure the three ways in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=75, help="length of the clip (default: 75, as in GRID)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way; the median counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (arguments.frames, 14, 14, 3), dtype=np.uint8)
    frames = np.stack([cv2.resize(picture, (224, 224)) for picture in coarse])  # smooth, as pictures are
    samples = arguments.frames * 640
    sound = torch.from_numpy(draw.normal(0, 0.1, samples)).float()
    mfcc = features.mfcc(sound).T[None, None].contiguous()  # (1, 1, 13, F)
    published = random_published()
    with tempfile.TemporaryDirectory() as folder:
        torch.save(published.state_dict(), f"{folder}/random.model")
        network, _ = load_syncnet(f"{folder}/random.model")

    ways: dict[str, Callable[[], Tensor]] = {
        "published way (JPEG files)": lambda: as_published(published, frames, mfcc, samples),
        "windows in memory": lambda: in_memory(published, frames, mfcc, samples),
        "lipbench": lambda: ours(network, frames, mfcc, samples),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Tensor] = {}
    for _ in range(arguments.rounds + 1):  # the first round warms up
        for name, way in ways.items():
            started = time.process_time()
            found[name] = way()
            times[name].append(time.process_time() - started)
    expected = found["windows in memory"]
    apart = float(((found["lipbench"] - expected).abs() / expected.abs().clamp(min=1)).max())
    if not apart < 1e-5:
        raise SystemExit(f"LSE-C, LSE-D or a mean distance differs from that of windows in memory by {apart:.2g}")
    taken = {name: float(np.median(rounds[1:])) for name, rounds in times.items()}
    print(f"a clip of {arguments.frames} frames at 224x224, one thread; LSE of windows in memory met to {apart:.1g}")
    print(f"{'':28}{'s a clip':>10}{'to lipbench':>14}")
    for name, seconds in taken.items():
        print(f"{name:28}{seconds:10.3f}{seconds / taken['lipbench']:14.2f}")


if __name__ == "__main__":
    main()
