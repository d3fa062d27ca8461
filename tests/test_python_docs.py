"""The Python door: the page's blocks run from top to bottom, names are lazy, arrays are checked."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lipbench
from lipbench.generation.arrays import ArrayModel
from lipbench.generation.speech import espeak
from lipbench.types import ClipSpec, View

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"
CODE = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_the_page_runs_from_top_to_bottom(tmp_path):
    """In a process of its own, as somebody runs it who copies it."""
    assert len(CODE) >= 7
    command = [sys.executable, "-c", "\n".join(CODE)]  # as in a notebook, there is no file that workers would import
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "WER 0.167" in ran.stdout
    assert "audio face 96x96" in ran.stdout
    assert "(75, 96, 96, 3) uint8" in ran.stdout
    assert "evaluate_true ['mouth/psnr', 'mouth/ssim']" in ran.stdout


def test_importing_it_is_cheap_and_names_are_found_when_asked_for():
    heavy = ("torch", "pytorch_lightning", "pandas", "numpy")
    code = f"import sys, lipbench, lipbench.metrics; print({{*{heavy}}} & {{*sys.modules}}); lipbench.metrics.PSNR"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
    assert set(lipbench.__all__) <= set(dir(lipbench))
    for name in lipbench.__all__:
        assert getattr(lipbench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'evalute'; it has"):
        lipbench.evalute  # noqa: B018
    assert (Path(lipbench.__file__).parent / "py.typed").is_file()


def test_metrics_are_found_by_name():
    from lipbench.metrics import psnr

    assert lipbench.metrics.PSNR is psnr.PSNR
    assert lipbench.metrics.ssim.SSIM is lipbench.metrics.SSIM
    assert lipbench.functional.psnr is psnr.psnr
    with pytest.raises(AttributeError, match="no metric 'PSNRR'; there are"):
        lipbench.metrics.PSNRR  # noqa: B018
    with pytest.raises(AttributeError, match="no metric 'psn'"):
        lipbench.functional.psn  # noqa: B018


def test_tables_of_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        lipbench.compare(tmp_path / "absent")
    assert lipbench.compare(tmp_path) == {}


class Model(torch.nn.Module):
    """Shows the poses, or as many bright frames as there are tokens."""

    timings = frozenset({"free"})

    def __init__(self, needs):
        super().__init__()
        self.needs = frozenset(needs)
        self.weight = torch.nn.Parameter(torch.ones(1))
        rate = 16_000 if "audio" in needs else None
        self.clip_spec = ClipSpec({"video": View("mouth", 4, 8)}, audio_rate=rate)

    def run_generate(self, batch, timing):
        assert timing == "free"
        if "tokens" in self.needs:
            count = int(batch["token_len"])
            return {"video": batch["identity"].expand(1, count, 3, 4, 8), "video_len": batch["token_len"]}
        return {"video": batch["pose"], "video_len": batch["pose_len"]}


SPEAKING = {"audio", "audio_len", "fps", "identity", "pose", "pose_len"}
PICTURE = np.full((4, 8, 3), 200, np.uint8)
SECOND = np.zeros(8000, np.float32)  # at 8 kHz


def test_arrays_in_arrays_out():
    model = ArrayModel(Model(SPEAKING))
    made = model.generate(PICTURE, audio=SECOND, sample_rate=8000)
    assert (made.shape, made.dtype) == ((25, 4, 8, 3), np.uint8)
    assert (made[:, :2] == 200).all()
    assert (made[:, 2:] == 0).all()  # poses have no lower half
    tensor = torch.from_numpy(PICTURE).movedim(-1, 0) / 255
    found = model.generate(tensor, audio=torch.from_numpy(SECOND), sample_rate=8000)
    assert found.shape == (25, 3, 4, 8)
    assert torch.equal((found * 255).round().to(torch.uint8).permute(0, 2, 3, 1), torch.from_numpy(made))
    other = np.stack([PICTURE, PICTURE // 2])
    seen = model.generate(PICTURE, audio=SECOND, sample_rate=8000, frames=other)
    assert seen[:3, 0, 0, 0].tolist() == [200, 100, 100]
    canonical = np.full((352, 320, 3), 90, np.uint8)
    assert model.generate(canonical, audio=SECOND, sample_rate=8000)[0, 0, 0].tolist() == [90, 90, 90]
    reading = ArrayModel(Model({"tokens", "token_len", "identity"}))
    assert len(reading.generate(PICTURE, text="at a")) == len("|at|a|")


def test_durations_of_a_voice_drive_a_model_of_text():
    class Timed(Model):
        timings = frozenset({"given"})

        def run_generate(self, batch, timing):
            assert timing == "given"
            assert batch["durations"].sum() == batch["n_frames"][0]
            self.given = batch["durations"]
            return {
                "video": batch["identity"].expand(1, int(batch["n_frames"]), 3, 4, 8),
                "video_len": batch["n_frames"],
            }

    needs = {"tokens", "token_len", "durations", "n_frames", "identity"}
    timed = Timed(needs)
    told = ArrayModel(timed)
    spoken = espeak("bin blue")
    made = told.generate(PICTURE, text="bin blue", durations=spoken.durations)
    assert len(made) == round(len(spoken.samples) / spoken.rate * 25) > 20
    assert torch.equal(timed.given, spoken.durations[None])
    assert len(told.generate(PICTURE, text="a", durations=np.array([1, 0, 2]))) == 3
    with pytest.raises(ValueError, match=r"Timed needs durations=...; its timings are \['given'\]"):
        told.generate(PICTURE, text="a")
    with pytest.raises(ValueError, match="Model decides the durations itself: leave durations out"):
        ArrayModel(Model(needs)).generate(PICTURE, text="a", durations=[1, 1, 1])
    for wrong in (np.array([1, 2]), np.array([1, -1, 2]), np.array([0, 0, 0]), np.ones(3)):
        with pytest.raises(
            ValueError, match="expected whole numbers of frames, 0 or more, for each of the text's 3 tok"
        ):
            told.generate(PICTURE, text="a", durations=wrong)
    with pytest.raises(ValueError, match="makes no use of durations"):
        ArrayModel(Model(SPEAKING)).generate(PICTURE, audio=SECOND, sample_rate=8000, durations=wrong)


def test_landmarks_of_the_reference():
    class Moves(Model):
        def run_generate(self, batch, timing):
            self.given = batch["identity_landmarks"]
            return super().run_generate(batch, timing)

    moves, points = Moves(SPEAKING | {"identity_landmarks"}), np.random.default_rng(0).random((68, 2))
    sound = {"audio": SECOND, "sample_rate": 8000}
    ArrayModel(moves).generate(PICTURE, landmarks=points, **sound)
    assert torch.equal(moves.given, torch.from_numpy(points).float()[None, None])
    with pytest.raises(ValueError, match="needs the reference's landmarks: give landmarks="):
        ArrayModel(moves).generate(PICTURE, **sound)
    with pytest.raises(ValueError, match=r"landmarks are torch.float64 \(67, 2\); expected finite float \(68, 2\)"):
        ArrayModel(moves).generate(PICTURE, landmarks=points[1:], **sound)
    with pytest.raises(ValueError, match="Model makes no use of landmarks"):
        ArrayModel(Model(SPEAKING)).generate(PICTURE, landmarks=points, **sound)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "is driven by audio: give audio="),
        ({"audio": SECOND, "sample_rate": 8000, "text": "a"}, "makes no use of text"),
        ({"audio": SECOND}, "sample_rate is None"),
        ({"audio": SECOND[:10], "sample_rate": 8000}, "less than one frame"),
        ({"audio": (SECOND * 0).astype(np.int16), "sample_rate": 8000}, r"audio is int16 \(8000,\); expected float"),
        ({"audio": SECOND[None], "sample_rate": 8000}, "expected float"),
        (
            {"audio": SECOND, "sample_rate": 8000, "frames": PICTURE[:2]},
            "frames has 2x8 px; expected the view",
        ),
        ({"reference": PICTURE / 255, "audio": SECOND, "sample_rate": 8000}, "reference is float64"),
        ({"reference": torch.ones(3, 4, 8) * 2, "audio": SECOND, "sample_rate": 8000}, "reference is torch.float32"),
    ],
)
def test_what_is_wrong_with_arrays_is_said(given, told):
    with pytest.raises(ValueError, match=told):
        ArrayModel(Model(SPEAKING)).generate(**{"reference": PICTURE, **given})


def test_models_that_need_more_are_refused():
    with pytest.raises(ValueError, match="cannot speak from text or audio alone"):
        ArrayModel(Model({"tokens", "audio", "identity"}))
    with pytest.raises(FileNotFoundError):
        lipbench.load("absent.ckpt")
