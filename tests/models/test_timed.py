"""`lipbench latency` can drive every model that generates video, and its first frame is that of the whole clip."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_models import NAMES, small
from torch import nn

from lipbench.evaluation import latency
from lipbench.evaluation.latency import Pace, Variant
from lipbench.training.generative import GenerativeModel

CPU = torch.device("cpu")
FRAMES = 14  # more than a frame and its context of 10
FIRST = {
    "atvgnet": "frame by frame",
    "cran": "frame by frame",
    "duallip attention": "frame by frame",
    "lipgan": "a piece of 11 frames",
    "speech2vid_frame": "a piece of 11 frames",
    "talklip": "embeddings of the audio, then 1 frame",
    "talklip local": "a piece of 11 frames",
    "transformert2l": "frame by frame",
    "wav2lip": "a piece of 11 frames",
}
"""Model -> what is made for the first frame; of all others the whole clip."""
OPTIONS: dict[str, dict[str, Any]] = {
    "atvgnet": {"size": 48},  # at 16, all it sees of landmarks is one number
    "duallip attention": {"alignment": "attention"},
    "talklip local": {"audio": "local", "audio_widths": (4, 4, 6, 8), "audio_residuals": (0, 0, 0, 0)},
}


def lively(model: GenerativeModel) -> GenerativeModel:
    """The model with weights under which small networks do not fade, so that frames differ."""
    torch.manual_seed(1)
    for part in model.modules():
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(part.weight)
        elif isinstance(part, nn.RNNBase):
            for own in part.parameters():
                own.data.mul_(4)
    for key, buffer in model.named_buffers():
        if key.endswith(".basis"):
            buffer.normal_(0, 5)
    return model.eval()


@pytest.mark.parametrize("name", sorted({*NAMES, *OPTIONS} - {"fastspeech"}))
def test_every_model_is_timed_and_its_first_frame_stands_alone(name: str, tmp_path: Path) -> None:
    model = lively(small(name.partition(" ")[0], tmp_path, **OPTIONS.get(name, {})))
    timing = latency.usual_timing(model)
    found, cost = latency.measure(model, FRAMES, timing, CPU, Variant(), Pace(1, 0))
    assert (found.frames, found.first_by) == (FRAMES, FIRST.get(name, "the whole clip"))
    weights = sum(p.numel() for net in (model, *model.frozen.values()) for p in net.parameters())
    assert 0 < cost.parameters <= weights
    assert cost.macs > 0
    video_bytes = FRAMES * 3 * 4 * model.clip_spec.frames["video"].height * model.clip_spec.frames["video"].width
    assert found.peak_bytes is not None
    assert found.peak_bytes > video_bytes
    with torch.inference_mode():
        batch = latency.made_up_clip(model, FRAMES, CPU)
        first, _ = latency.first_frame(model, batch, timing)
        frames = 255 * model.run_generate(batch, timing)["video"][0]
        assert (first is None) == (name not in FIRST)
        if first is not None:
            assert (frames - frames[0]).abs().flatten(1).max(1).values[1:].min() > 1  # every other frame is another
            assert (first()[0] - frames[0]).abs().max() < 0.51
