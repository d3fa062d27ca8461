"""Face models on five made-up clips with sound; `python face_run.py OUT MODEL` tests one as one of two processes."""

import sys
from pathlib import Path

import fake_run
import numpy as np
import torch
from torch.utils.data import DataLoader

from lipbench.media import geometry
from lipbench.models.lipgan import LipGAN
from lipbench.models.wav2lip import Wav2Lip

SIZES = {"size": 12, "widths": (8, 8, 8), "audio_widths": (4, 4, 6, 8), "hidden": 8, "judge_width": 4}


MODELS = {
    "lipgan": lambda: LipGAN(**SIZES, blocks=(0, 0), audio_blocks=(0, 0, 0, 0), decoder_blocks=0),
    "wav2lip": lambda: Wav2Lip(**SIZES, residuals=(0, 0), decoder_widths=(8, 8, 8), audio_residuals=(0, 0, 0, 0)),
}


def made(name):
    """A model, the same in every process."""
    torch.manual_seed(0)
    model = MODELS[name]()
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():  # statistics that leave no map dead
        model.generator(*torch.rand(2, 8, 3, 12, 12), model.audio_windows(*_anything()))
    return model


def _anything():
    """Arguments of `hear` for eight frames of noise."""
    noise = {"audio": torch.randn(1, 6400), "audio_len": torch.tensor([6400]), "fps": torch.tensor([25.0])}
    return noise, torch.zeros(8, dtype=torch.long), torch.arange(8)


class Faces(fake_run.Clips):
    """The same clips, seen as faces, with noise as sound."""

    def __init__(self, view):
        super().__init__()
        self.view = view

    def __getitem__(self, k):
        clip = super().__getitem__(k)
        own, other = torch.from_numpy(np.random.default_rng(k).normal(0, 0.1, (2, fake_run.FRAMES * 640))).float()
        video = geometry.crop(clip["face"], self.view).float() / 255
        heard = {"audio": own, "audio_len": len(own)}
        foreign = {"audio": other, "audio_len": len(other), **clip["mismatched"]}
        return {**clip, "video": video, "identity": video[:1], **heard, "mismatched": foreign}


class Data(fake_run.Data):
    """What the evaluator reads of a datamodule."""

    def __init__(self, view):
        super().__init__()
        self.view = view

    def test_dataloader(self):
        return DataLoader(Faces(self.view), batch_size=2)


def run(out, name):
    """Test a model and give its records. Once a process: Lightning forgets the others when it ends."""
    model = made(name)
    return fake_run.run(out, out / "cache", name, model, Data(model.view)).records


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), sys.argv[2])
    torch.distributed.barrier()  # neither leaves while the other still reads
    torch.distributed.destroy_process_group()
