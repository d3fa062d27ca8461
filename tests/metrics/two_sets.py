"""Features of clips for set metrics; `python two_sets.py FOLDER RANK` scores them as one of two processes."""

import json
import sys
from pathlib import Path

import torch

from lipbench.metrics.fid import FID, KID

LENGTH = torch.tensor([9, 7, 4, 8, 5, 9, 6])
DIM = 6


def features():
    """(7, 9, 6) of generated and of true frames."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(7, 9, DIM, generator=generator, dtype=torch.float64)
    return 1.2 * torch.randn(7, 9, DIM, generator=generator, dtype=torch.float64) + 0.3, true


CASES = {"fid": lambda: FID(DIM, held=2), "kid": lambda: KID(DIM, size=20), "kid[all]": lambda: KID(DIM)}


def update(metric, rows):
    """Score clips in one batch."""
    pred, target = features()
    metric.update(pred[rows], target[rows], torch.tensor(rows), LENGTH[rows])


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results: dict[str, list[float]] = {}
    for name, make in CASES.items():
        for shares in (([0, 2, 4, 6], [1, 3, 5, 0]), ([4, 3, 2, 1, 0, 5, 6], []), ([0, 1, 2], [3, 4, 5, 6])):
            metric = make()
            for k in shares[rank]:
                update(metric, [k])
            results.setdefault(name, []).append(metric.compute().item())
            assert metric.compute_set()[1] == 7  # clips over both processes, each once
            assert len(metric.clips) == len(shares[rank])  # gathering left the own states alone
    metric = CASES["fid"]()  # clip 0 stands in the sums of both processes
    for k in ([0, 1, 2, 3], [0, 4, 5, 6])[rank]:
        update(metric, [k])
    try:
        metric.compute()
    except ValueError as error:
        results["refused"] = [str(error)]
    (folder / f"{rank}.json").write_text(json.dumps(results))
    torch.distributed.barrier()  # neither leaves while the other still reads
    torch.distributed.destroy_process_group()
