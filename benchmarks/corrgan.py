"""A trained correlation GAN on held-out clips: does its correlation loss know the audio, do its windows leave seams.

"correlation": the loss (eq. 1 of the paper) of every window of 16 frames, for its own audio and for the audio of the
next test clip; of generated frames, which it trained, and of the real ones, which it never saw. "lower" is the share of
windows whose own audio has the lower loss: 50 % is chance. Windows without speech are left out.

"seams": the mean absolute change from frame to frame, in levels of 255, at frames where a window begins or ends (every
8th) over that elsewhere: 1 leaves no seam. The real clips say how much of it is the clips' own.

    python benchmarks/corrgan.py last.ckpt [--data rendered] [--protocol NAME] [--clips 40] [--figure correlation.png]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from held_out import held_out_clips
from PIL import Image
from torch import Tensor

from lipbench.data.loader import ClipDataset, collate, to_float
from lipbench.media import charts
from lipbench.models.corrgan import CorrGAN
from lipbench.nets.corrgan import FRAMES
from lipbench.training import loading

STRIDE = FRAMES // 2
BINS = 30
SIDES = ("generated", "real")


def windows(model: CorrGAN, video: Tensor, batch: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss of each window of a clip with its own audio and with another clip's: (W,) each."""
    first, last = batch["speech"][0].tolist()
    starts = torch.arange(first, max(last - FRAMES, first) + 1, STRIDE)
    place = (starts[:, None] + torch.arange(FRAMES)).clamp(max=video.shape[1] - 1)  # (W, 16)
    motion = 2 * video[0][place] - 1  # (W, 16, 3, size, size)
    if model.correlation == "derivative":
        motion = model.flow_network(motion)
    found = []
    for heard in (batch, other):
        rows = torch.zeros_like(place)
        features = model.generator.audio_out(model.generator.audio(model.spectrogram(heard, rows, place)[:, None]))
        losses = [model.correlation_loss(f[None], m[None]) for f, m in zip(features, motion, strict=True)]
        found.append(torch.stack(losses))
    return found[0], found[1]


def changes(video: Tensor) -> tuple[float, float]:
    """Mean absolute change of a clip (T, 3, h, w) in [0, 1] at window borders and elsewhere, levels of 255."""
    change = 255 * video.diff(dim=0).abs().mean((1, 2, 3))  # (T - 1,): of frames 1 to T - 1
    border = torch.arange(1, len(video)) % STRIDE == 0
    return float(change[border].mean()), float(change[~border].mean())


@torch.no_grad()
def main() -> None:
    """Go through the clips, print two tables and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of a corrgan with correlation loss")
    parser.add_argument("--data", default="rendered", help="corpus (default: %(default)s)")
    parser.add_argument("--protocol", help="whose test clips are taken (default: the corpus's own)")
    parser.add_argument("--clips", type=int, default=40, help="test clips, evenly spaced (default: %(default)s)")
    parser.add_argument("--figure", type=Path, help="PNG file of the distributions of the loss")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    model = loading.load(arguments.checkpoint, CorrGAN)
    if model.audio_motion is None:
        raise SystemExit(f"{arguments.checkpoint} was trained without correlation loss")
    store, ids = held_out_clips(arguments.data, arguments.clips, arguments.protocol)
    dataset = ClipDataset(store, ids, model.clip_spec, model.clip_spec.keys, seed=0, training=False, speakers={})
    batches = [to_float(collate([dataset[k]])) for k in range(len(ids))]
    losses: dict[str, list[Tensor]] = {f"{side}, {audio}": [] for side in SIDES for audio in ("own", "other")}
    seams: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for batch, other in zip(batches, batches[1:] + batches[:1], strict=True):
        videos = {"generated": model.run_generate(batch, "given")["video"], "real": batch["video"]}
        for side, video in videos.items():
            seams[side].append(changes(video[0]))
            for audio, values in zip(("own", "other"), windows(model, video, batch, other), strict=True):
                losses[f"{side}, {audio}"].append(values)
    print(f"{len(batches)} test clips of {arguments.protocol or arguments.data}, {arguments.checkpoint}")
    print(f"{'correlation':12}{'own audio':>12}{'other audio':>14}{'lower':>9}{'windows':>10}")
    for side in SIDES:
        own, other_audio = torch.cat(losses[f"{side}, own"]), torch.cat(losses[f"{side}, other"])
        lower = 100 * (own < other_audio).float().mean()
        print(f"{side:12}{own.mean():12.4f}{other_audio.mean():14.4f}{lower:8.0f} %{len(own):8d}")
    print(f"{'seams':12}{'at borders':>12}{'elsewhere':>14}{'ratio':>9}")
    for side, found in seams.items():
        border, elsewhere = np.mean(found, axis=0)
        print(f"{side:12}{border:12.3f}{elsewhere:14.3f}{border / elsewhere:9.3f}")
    if arguments.figure:
        own, other_audio = torch.cat(losses["generated, own"]), torch.cat(losses["generated, other"])
        edges = np.linspace(0, float(torch.cat([own, other_audio]).max()), BINS + 1)
        middles = ((edges[1:] + edges[:-1]) / 2).tolist()
        lines = [
            charts.Series("own audio", middles, np.histogram(own, edges)[0].tolist(), charts.BLUE),
            charts.Series("another clip's audio", middles, np.histogram(other_audio, edges)[0].tolist(), charts.ORANGE),
        ]
        title = f"correlation loss of {len(own):,} generated windows of held-out clips"
        picture = charts.line_chart(lines, title, "correlation loss", "windows", (360, 720))
        Image.fromarray(picture).save(arguments.figure)


if __name__ == "__main__":
    main()
