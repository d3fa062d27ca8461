"""What is timed, counted and told of a model's latency: on models that take a known time by a clock of their own."""

import csv
import io

import numpy as np
import pytest
import torch
from torch import nn

from lipbench.evaluation import latency, latency_results
from lipbench.evaluation.latency import Cost, Latency, NoLatency, Pace, Variant
from lipbench.evaluation.latency_results import Row, Setup
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipSpec, View

CPU = torch.device("cpu")
SETUP = Setup("cpu", "a machine, 2 processors", 1)
PACE, PLAIN, HALF = Pace(3, 2), Variant(), Variant("bf16")
START, FRAME, ENCODE = 20, 2, 7  # ms: of every clip, of every frame, of the embeddings of a frame
TEXT = frozenset({"tokens", "token_len", "durations", "identity", "n_frames"})
AUDIO = frozenset({"audio", "audio_len", "fps", "identity", "pose", "pose_len", "n_frames"})


class Timed(GenerativeModel):
    """Takes a known time; `driven` says by text or audio, `decided` how many frames it makes of a text by itself."""

    paper = "none"

    def __init__(self, driven=AUDIO, timings=("free", "given"), decided=0, **traits) -> None:
        super().__init__()
        self.driven, self.timings, self.decided, self.clock, self.calls = driven, frozenset(timings), decided, 0.0, []
        for name, value in traits.items():
            setattr(self, name, value)
        self.layer, self.discriminator = nn.Conv2d(3, 3, 1), nn.Linear(1000, 1000)

    @property
    def clip_spec(self):
        return ClipSpec({"video": View("mouth", 8, 16)}, audio_rate=16_000, keys=frozenset({"identity"}))

    @property
    def needs(self):
        return self.driven

    def build_optimizers(self):
        return {}

    def compute_step(self, batch):
        raise NotImplementedError

    def audio_embeddings(self, batch):
        self.clock += ENCODE * 1e-3 * int(batch["n_frames"])
        return torch.ones(1, int(batch["n_frames"]), 4)

    def generate(self, batch, timing):
        if timing == "free":
            frames = round(float(batch["audio_len"]) * 25 / 16_000) if "audio" in batch else self.decided
        else:
            frames = int(batch["n_frames"])
        if self.encodes_audio and "audio_embeddings" not in batch:
            self.audio_embeddings({"n_frames": torch.tensor(frames)})
        self.clock += 1e-3 * (START + FRAME * frames)
        self.calls.append((frames, timing))
        image = batch["identity"][:, 0]
        video = torch.cat([self.layer(image)[:, None] for _ in range(frames)] or [image[:, None][:, :0]], dim=1)
        return {"video": video, "video_len": torch.tensor([frames])}


@pytest.fixture
def timed(monkeypatch):
    """Makes a model whose clock is the one that is read."""

    def make(**options):
        model = Timed(**options).eval()
        monkeypatch.setattr(latency.time, "perf_counter", lambda: model.clock)
        return model

    return make


def measured(model, frames, pace=PACE, variant=PLAIN):
    return latency.measure(model, frames, latency.usual_timing(model), CPU, variant, pace)[0]


def test_median_slope_and_intercept_are_those_of_the_model(timed):
    model = timed()
    found = {frames: measured(model, frames) for frames in (25, 75, 150)}
    for frames, own in found.items():
        assert own.median_ms == pytest.approx(START + FRAME * frames)
        assert own.first_frame_ms == own.median_ms
        assert own.first_by == "the whole clip"
        assert (len(own.times), own.warmup, own.frames) == (3, 2, frames)
    assert found[75].ms_per_frame == pytest.approx(170 / 75)
    assert found[75].real_time_factor == pytest.approx(0.170 / 3)
    slope, intercept = latency_results.fit(list(found), [own.median_ms for own in found.values()])
    assert (slope, intercept) == (pytest.approx(FRAME), pytest.approx(START))
    assert latency_results.fit([25], [70]) == (None, None)


def test_warmup_does_not_count_and_p95_is_above_the_median(timed):
    model, taken = timed(), [5.0, *(0.01 * k for k in range(1, 21))]

    def make():
        model.clock += taken.pop(0)

    warmup, times = latency.timed(make, CPU, Pace(20, 1))
    assert (warmup, len(times)) == (1, 20)
    assert max(times) == pytest.approx(0.2)
    found = Latency(10, times, warmup, times, "the whole clip", 1)
    assert (found.median_ms, found.p95_ms) == (pytest.approx(105), pytest.approx(190.5))


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, (1, 3)), (0.55, (4, 4)), (None, (10, 50))])
def test_seconds_end_a_row_early_but_not_before_three_clips(timed, seconds, expected):
    model = timed()
    found = measured(model, 65, Pace(50, 10, seconds))  # .15 s a clip
    assert (found.warmup, len(found.times)) == expected


@pytest.mark.parametrize(
    ("traits", "ms", "told"),
    [
        ({}, START + 50 * FRAME, "the whole clip"),
        ({"context": 9}, START + 10 * FRAME, "a piece of 10 frames"),
        ({"context": 60}, START + 50 * FRAME, "the whole clip"),
        ({"encodes_audio": True}, 50 * ENCODE + START + FRAME, "embeddings of the audio, then 1 frame"),
        ({"frame_by_frame": True}, START + FRAME, "frame by frame"),
        ({"frame_by_frame": True, "driven": TEXT, "timings": ("free", "length")}, START + FRAME, "frame by frame"),
        ({"context": 9, "driven": TEXT}, START + 50 * FRAME, "the whole clip"),
    ],
)
def test_time_to_the_first_frame(timed, traits, ms, told):
    found = measured(timed(**traits), 50)
    assert (found.first_frame_ms, found.first_by) == (pytest.approx(ms), told)


@pytest.mark.parametrize(
    ("driven", "timings", "expected"),
    [
        (TEXT, ("free", "given", "length"), "length"),
        (TEXT, ("free", "given"), "given"),
        (TEXT, ("free",), "free"),
        (AUDIO, ("free", "given"), "free"),
        (AUDIO, ("given",), "given"),
    ],
)
def test_the_usual_timing_is_the_models_own_at_a_known_length(timed, driven, timings, expected):
    model = timed(driven=driven, timings=timings, decided=30)
    assert latency.usual_timing(model) == expected
    assert measured(model, 50).frames == (30 if (driven, timings) == (TEXT, ("free",)) else 50)
    assert {timing for _, timing in model.calls} == {expected}


def test_the_clip_has_the_tokens_of_a_sentence_of_grid():
    batch = latency.made_up_clip(Timed(driven=TEXT), 75, CPU)
    assert batch["token_len"].tolist() == [23]
    assert batch["durations"].sum() == 75
    assert batch["audio"].shape == (1, 48_000)
    longer = latency.made_up_clip(Timed(driven=TEXT), 300, CPU)
    assert longer["tokens"].shape == (1, 92)
    assert longer["durations"].min() >= 3
    assert latency.made_up_clip(Timed(), 1, CPU)["durations"].tolist() == [[1]]


def test_cost_counts_what_generation_uses():
    model = Timed().eval()
    batch = latency.made_up_clip(model, 10, CPU)
    with torch.inference_mode():
        cost = latency.count(model, batch, "given")
    assert cost.parameters == 12  # and none of the discriminator
    assert cost.weight_bytes == 48
    assert cost.macs == 10 * 3 * 3 * 8 * 16
    frame = 4 * 3 * 8 * 16
    assert 20 * frame <= cost.tensor_bytes < 25 * frame  # frames one by one, then together


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_count(kind):
    class Recurrent(Timed):
        def generate(self, batch, timing):
            self.layer(torch.zeros(5, 1, 8))
            return {"video": torch.zeros(1, 1, 3, 8, 16), "video_len": torch.tensor([1])}

    model = Recurrent()
    model.layer = kind(8, 6, num_layers=2, bidirectional=True)
    with torch.inference_mode():
        cost = latency.count(model.eval(), latency.made_up_clip(model, 1, CPU), "given")
    weights = [p.numel() for p in model.layer.parameters() if p.dim() == 2]
    assert cost.macs == 5 * sum(weights)
    assert cost.parameters == sum(p.numel() for p in model.layer.parameters())
    assert latency._cudnn_flops((5, 1, 8), [p.shape for p in model.layer.parameters()], None) == 10 * sum(weights)


def test_what_cannot_be_timed_says_why(timed, monkeypatch):
    with pytest.raises(NoLatency, match="has no timing 'length'; it has free, given"):
        latency.measure(timed(), 5, "length", CPU, Variant(), Pace(1, 0))
    with pytest.raises(NoLatency, match="gives this text no frame"):
        measured(timed(driven=TEXT, timings=("free",)), 5)
    with pytest.raises(NoLatency, match="TF32 is a format of NVIDIA's GPUs"):
        measured(timed(), 5, variant=Variant("tf32"))
    short = timed()
    monkeypatch.setattr(short, "generate", lambda batch, timing: torch.zeros(5).unfold(0, 7, 1))
    with pytest.raises(NoLatency, match=r"^RuntimeError: maximum size for tensor at dimension 0 is 5 but size is 7$"):
        measured(short, 5)
    with pytest.raises(NoLatency, match=r"needs \['landmarks'\] for timing 'free'; the batch lacks them"):
        measured(timed(driven=AUDIO | {"landmarks"}), 5)


def test_half_precision_is_autocast(timed):
    model, seen = timed(), []
    model.layer.register_forward_hook(lambda layer, given, found: seen.append(found.dtype))
    measured(model, 2, variant=Variant("bf16"))
    measured(model, 2)
    assert set(seen) == {torch.bfloat16, torch.float32}
    assert seen[0] == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


def test_compiled_rows_run_compiled_code_and_leave_the_model_as_it_was(timed, monkeypatch):
    model, compiled = timed(), []

    def compile_(function):
        def faster(batch, timing):
            compiled.append(timing)
            model.clock += 1
            return function(batch, timing)

        return faster

    monkeypatch.setattr(torch, "compile", compile_)
    found = measured(model, 10, variant=Variant("32", True))
    assert len(compiled) == 5
    assert found.median_ms == pytest.approx(1000 + START + 10 * FRAME)
    assert found.peak_bytes is None
    assert "generate" not in vars(model)

    def without(function):
        raise RuntimeError("no C++ compiler\nat all")

    monkeypatch.setattr(torch, "compile", without)
    with pytest.raises(NoLatency, match=r"^RuntimeError: no C\+\+ compiler$"):
        measured(model, 10, variant=Variant("32", True))


# ------------------------------------------------------------------------------------------------------------ results


def row(name, frames, ms, timing="length", variant=PLAIN, **others):
    about = {"model": name, "source": "published size", **others}
    if ms is None:
        return Row(name, timing=timing, frames=frames, variant=variant, reason="too short, it says", **about)
    own = Latency(frames, [ms / 1e3] * 3, 2, [0.001], "frame by frame", 5_000_000)
    return Row(name, timing=timing, frames=frames, variant=variant, latency=own, cost=Cost(7, 3e9, 28, 1), **about)


ROWS = [
    *(row("paralip", frames, 10 + 0.1 * frames) for frames in (25, 50, 100)),
    *(row("duallip", frames, None if frames == 25 else 5 + 2 * frames) for frames in (25, 50, 100)),
    row("paralip", 50, 5, variant=HALF),
    row("duallip", 50, 50, variant=HALF),
    row("duallip", 50, 30, timing="given"),
]


def test_lines_have_slope_intercept_and_the_ratio_of_what_both_have():
    found = latency_results.lines(ROWS, "paralip")
    table = {line.rows[0].key: line for line in found}
    assert len(table) == 5
    line = table["duallip", "length", Variant()]
    assert (line.slope, line.intercept) == (pytest.approx(2), pytest.approx(5))
    assert line.ratio == pytest.approx((105 + 205) / (15 + 20))
    assert line.slope_ratio == pytest.approx(20)
    assert table["duallip", "length", HALF].ratio == pytest.approx(10)  # against the same variant
    assert table["duallip", "length", HALF].slope is None
    assert latency_results.lines(ROWS, "nobody")[0].ratio is None
    labels = [latency_results.label(line.rows[0], found) for line in found]
    assert labels == [
        "paralip, 32",
        "duallip, length, 32",
        "paralip, bf16",
        "duallip, length, bf16",
        "duallip, given, 32",
    ]


def test_tables_name_the_machine_and_say_why_a_cell_is_empty():
    rows = list(csv.DictReader(io.StringIO(latency_results.rows_csv(ROWS, "paralip", SETUP))))
    assert {(own["device"], own["machine"], own["threads"]) for own in rows} == {
        ("cpu", "a machine, 2 processors", "1")
    }
    assert rows[3]["reason"] == "too short, it says"
    assert {key for key, value in rows[3].items() if not value} >= {"median_ms", "ratio", "gmacs", "peak_memory_mb"}
    whole = rows[4]
    assert (whole["median_ms"], whole["ratio"], whole["frames_per_second"]) == ("105", "7", "476.19")
    assert (whole["parameters"], whole["gmacs"], whole["peak_memory_mb"]) == ("7", "3", "5")
    assert (whole["first_frame_ms"], whole["first_frame"], whole["clips"]) == ("1", "frame by frame", "3")
    assert rows[7]["precision"] == "bf16"
    found = latency_results.lines(ROWS, "paralip")
    lines = list(csv.DictReader(io.StringIO(latency_results.lines_csv(found, "paralip", SETUP))))
    assert [own["ratio"] for own in lines] == ["1", "8.85714", "1", "10", "2"]
    assert "13.09 and 19.12 times ParaLip" in lines[1]["published"]
    assert not lines[4]["published"]  # the one with durations is not the paper's
    assert not row("mine", 5, 1, model="duallip", source="runs/last.ckpt").published


def test_the_chart_has_a_curve_a_line():
    found = latency_results.lines(ROWS[:6], "paralip")
    pixels = latency_results.chart(found, SETUP)
    assert pixels.shape == (560, 900, 3)
    colored = (np.ptp(pixels.astype(int), axis=2) > 100)[60:]  # below the legend
    assert colored.any(axis=0).sum() > 700
    steps = np.diff(colored[:, 600].astype(int))
    assert (steps == 1).sum() == 2
