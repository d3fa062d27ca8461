"""Optical flow of held-out clips: a trained FlowNetS beside Farneback's estimator and beside no motion.

All look at the square around the mouth at the size that the network was trained with. "to Farneback" is the mean
end-point error against Farneback's flow, averaged to the resolution of the network's, a quarter. Where the store was
prepared with exact landmarks (`lipbench prepare --data rendered --landmarks exact`), "at the lips" is the mean distance
between the flow at the 20 mouth points, interpolated linearly, and the points' exact motion, which is that of the lips'
pixels (`lipbench.synthetic.face`); "where they move" counts the points that move by more than a pixel. Farneback at a
quarter says what of the errors comes from the resolution alone. Times are processor time of one thread, gray frames
included.

    python benchmarks/flow.py observer.safetensors [--data rendered] [--store STORE] [--clips 40]
"""

import argparse
import time
from pathlib import Path

import cv2
import torch
from held_out import held_out_clips
from torch import Tensor
from torch.nn import functional as F

from lipbench.data.loader import ClipDataset, collate, to_float
from lipbench.media import geometry
from lipbench.media.optical_flow import farneback
from lipbench.models.flownet import end_point_error, valid_pairs
from lipbench.nets.flownet import FlowNetS
from lipbench.pretrained import weights
from lipbench.types import ClipSpec, View

SIDES = ("no motion", "Farneback", "Farneback at a quarter", "FlowNetS")
MOVES = 1.0  # px a frame
MOUTH = slice(48, 68)


def lips(landmarks: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Places of the mouth points and their motion.

    Args:
        landmarks: (T, 68, 2) px of the canonical picture.
        view: Square.

    Returns:
        (T - 1, 20, 2) places in [-1, 1], from edge to edge of the view; (T - 1, 20, 2) motion in pixels of the view.
    """
    top, left, bottom, _ = geometry.box(view.name)
    points = landmarks[:, MOUTH]
    places = 2 * (points - torch.tensor([left, top]) + 0.5) / (bottom - top) - 1
    return places[:-1], points.diff(dim=0) * view.height / (bottom - top)


def errors(flow: Tensor, places: Tensor, motion: Tensor) -> Tensor:
    """(N, 20) px: distance of the flow (N, 2, h, w) at places (N, 20, 2) from the motion (N, 20, 2) there."""
    found = F.grid_sample(flow, places[:, :, None], padding_mode="border", align_corners=False)  # (N, 2, 20, 1)
    return torch.linalg.vector_norm(found[..., 0].transpose(1, 2) - motion, dim=2)


@torch.no_grad()
def flows(network: FlowNetS, pairs: Tensor) -> dict[str, tuple[Tensor, float]]:
    """Side -> its flow (N, 2, h, w) in px of the frames, and seconds of processor time."""
    started = time.process_time()
    classical = farneback(pairs[:, :3], pairs[:, 3:])
    between = time.process_time()
    learned = network.pyramid(2 * pairs - 1)[0]
    ended = time.process_time()
    quarter = F.adaptive_avg_pool2d(classical, (learned.shape[-2], learned.shape[-1]))
    found = (torch.zeros_like(learned), classical, quarter, learned)
    seconds = (0.0, between - started, between - started, ended - between)
    return dict(zip(SIDES, zip(found, seconds, strict=True), strict=True))


def main() -> None:
    """Go through the clips and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="weights file of a flownet (observer.safetensors of its run)")
    parser.add_argument(
        "--data", default="rendered", help="corpus, whose prepared store is taken (default: %(default)s)"
    )
    parser.add_argument("--store", type=Path, help="another prepared store")
    parser.add_argument("--protocol", help="whose test clips are taken (default: the corpus's own)")
    parser.add_argument("--clips", type=int, default=40, help="test clips, evenly spaced (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    network, card = weights.load(arguments.file, FlowNetS)
    store, ids = held_out_clips(arguments.data, arguments.clips, arguments.protocol, arguments.store)
    spec = ClipSpec(frames={"video": card.view})
    dataset = ClipDataset(store, ids, spec, frozenset({"landmarks"}), seed=0, training=False, speakers={})
    exact = store.manifest["settings"]["landmarks"] == "exact"

    seconds = dict.fromkeys(SIDES, 0.0)
    apart: dict[str, list[Tensor]] = {side: [] for side in SIDES}
    at_lips: dict[str, list[Tensor]] = {side: [] for side in SIDES}
    moves = []
    for k in range(len(ids)):
        batch = to_float(collate([dataset[k]]))
        found = flows(network, valid_pairs(batch))
        places, motion = lips(batch["landmarks"][0], card.view)
        moves.append(motion.norm(dim=2) > MOVES)
        for side, (flow, taken) in found.items():
            seconds[side] += taken
            apart[side].append(end_point_error(found[SIDES[2]][0], flow))
            at_lips[side].append(errors(flow, places, motion))

    moving = torch.cat(moves)  # (pairs, 20)
    named = arguments.protocol or arguments.data
    print(f"{len(ids)} test clips of {named}, {len(moving)} pairs of {card.view}; {card.trained_on}")
    print(f"{'px':26}{'to Farneback':>14}{'at the lips':>14}{'where they move':>18}{'ms a pair':>12}")
    for side in SIDES:
        lip = torch.cat(at_lips[side])
        truth = f"{lip.mean():14.3f}{lip[moving].mean():18.3f}" if exact else f"{'unknown':>14}{'unknown':>18}"
        print(f"{side:26}{torch.cat(apart[side]).mean():14.3f}{truth}{1000 * seconds[side] / len(moving):12.2f}")
    if exact:
        print(f"{100 * moving.float().mean():.0f} % of the points move by more than {MOVES:g} px")


if __name__ == "__main__":
    main()
