"""`torchrun` with two processes on the CPU fits through the command line, as on a cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

sys.path.append(str(Path(__file__).parents[1] / "data"))
from made_up_store import make_store


@pytest.mark.slow  # three interpreters that import everything
def test_two_processes_of_torchrun_fit_together(tmp_path: Path) -> None:
    ids = [f"rendered/s{s}/clip{k}" for s in (1, 2, 3) for k in range(8)]
    store = make_store(tmp_path / "store", ids, [20] * len(ids), "rendered")
    sizes = {"size": [12, 24], "hidden": 8, "layers": 1, "ffn": 8, "encoder_widths": [4, 4], "window": 2}
    recipe = {
        "model": {
            "class_path": "lipbench.models.paralip.ParaLip",
            "init_args": {**sizes, "decoder_widths": [4, 4, 4, 4], "adversarial_weight": 0.1, "discriminator_width": 2},
        },
        "data": {
            "class_path": "lipbench.corpora.rendered.Rendered",
            "init_args": {"store": str(store), "batch_size": 2, "num_workers": 0},
        },
        "trainer": {
            **{"accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_steps": 4, "limit_val_batches": 1},
            **{"accumulate_grad_batches": 2, "enable_progress_bar": False, "num_sanity_val_steps": 0},
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    ranks = ["--standalone", "--nproc_per_node", "2"]
    words = ["-m", "lipbench", "fit", "--config", "recipe.yaml", "--trainer.default_root_dir", "runs"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *ranks, *words],
        cwd=tmp_path,
        env=os.environ | {"LIPBENCH_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (last,) = tmp_path.glob("runs/*/version_0/checkpoints/last.ckpt")  # one folder, not one a process
    content = torch.load(last, weights_only=True)
    assert content["lipbench"]["batches"] == 4
    assert content["lipbench"]["drawn"] == 8
    assert all(bool(value.isfinite().all()) for value in content["state_dict"].values())
    rows = (last.parents[1] / "metrics.csv").read_text().splitlines()
    assert len(rows) > 1
