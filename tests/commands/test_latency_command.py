"""`lipbench latency`: its files, what it prints, and what is typed wrong."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from untrained import checkpoint

from lipbench import cli
from lipbench.commands import latency as command
from lipbench.console import timed_systems
from lipbench.evaluation import latency
from lipbench.models.lipnet import LipNet
from lipbench.models.paralip import ParaLip

SIZES = {"hidden": 16, "layers": 1, "ffn": 16, "encoder_widths": (4, 8), "decoder_widths": (8, 8, 4, 4)}
RECIPE = """\
model:
  class_path: DualLip
  init_args:
    alignment: attention
    size: [16, 32]
    embedding: 8
    hidden: 16
    rnn: 24
    encoder_widths: [6, 8]
    decoder_widths: [8, 8, 6, 6]
    reader_options: {widths: [4, 4, 8], hidden: 8}
data: {corpus: rendered}
"""
QUICK = ["--clips", "2", "--warmup", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two checkpoints and a recipe."""
    found = tmp_path_factory.mktemp("systems")
    torch.manual_seed(0)
    checkpoint(ParaLip((16, 32), **SIZES), found / "lips.ckpt")
    checkpoint(LipNet((16, 24), widths=(4, 6, 8), hidden=8), found / "reader.ckpt")
    (found / "frames.yaml").write_text(RECIPE)
    return found


@pytest.fixture(scope="module")
def study(folder):
    """A run over both; its printed text."""
    words = [str(folder / "lips.ckpt"), str(folder / "frames.yaml"), "--lengths", "30", "6", "30"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        told = []
        patch.setattr("builtins.print", lambda *text, **_: told.append(" ".join(map(str, text))))
        assert cli.main(["latency", *words, *QUICK, "--threads", "1", "--timing", "length", "given"]) == 0
    return folder / "latency", "\n".join(told)


def test_rows_name_the_machine_and_hold_all_numbers(study):
    rows = pd.read_csv(study[0] / "latency.csv", dtype={"precision": str})
    assert rows["name"].tolist() == ["paralip"] * 4 + ["frames"] * 4
    assert rows["timing"].tolist() == ["length", "length", "given", "given"] * 2
    assert rows["frames"].tolist() == [6, 30] * 4
    assert set(rows["machine"]) == {latency.machine(torch.device("cpu"))}
    assert (set(rows["threads"]), set(rows["precision"]), set(rows["torch"])) == ({1}, {"32"}, {torch.__version__})
    measured, refused = rows[:6], rows[6:]
    numbers = measured.loc[:, "clips":"ratio"].drop(columns="first_frame")
    assert (numbers > 0).all(axis=None)
    assert measured["reason"].isna().all()
    assert measured["ms_per_frame"].to_numpy() == pytest.approx(
        (measured["median_ms"] / measured["frames"]).to_numpy(), rel=1e-4
    )
    assert measured["first_frame"].tolist() == ["the whole clip"] * 4 + ["frame by frame"] * 2
    assert set(refused["reason"]) == {"DualLip has no timing 'given'; it has free, length"}
    assert refused["median_ms"].isna().all()


def test_lines_and_chart(study):
    lines = pd.read_csv(study[0] / "latency_lines.csv")
    rows = pd.read_csv(study[0] / "latency.csv")
    assert lines[["name", "timing"]].to_numpy().tolist() == [
        ["paralip", "length"],
        ["paralip", "given"],
        ["frames", "length"],
    ]
    assert set(lines["reference"]) == {"paralip"}
    own = rows[rows["name"] == "frames"]["median_ms"].dropna()
    assert lines["slope_ms_per_frame"][2] == pytest.approx((own.max() - own.min()) / 24, rel=1e-3)
    assert lines["ratio"][2] == pytest.approx(own.sum() / rows["median_ms"][:2].sum(), rel=1e-3)
    with Image.open(study[0] / "latency.png") as shown:
        assert (shown.height, shown.width) == (560, 900)


def test_what_is_printed_names_the_machine_first_and_every_row(study):
    machine, *told = study[1].splitlines()
    assert machine.startswith(f"{latency.machine(torch.device('cpu'))}; 1 threads")
    assert told[0].startswith("paralip, length, 32, 6 frames: ")
    assert told[-2] == "frames, given, 32, 30 frames: not measured: DualLip has no timing 'given'; it has free, length"
    assert told[-1] == "latency: latency.csv, latency_lines.csv, latency.png"


def test_tables_are_printed(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    words = [str(folder / "frames.yaml"), str(folder / "lips.ckpt"), "--lengths", "5", "--precision", "32", "bf16"]
    assert cli.main(["latency", *words, *QUICK, "--against", "frames", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    for text in ("times frames", "paralip, bf16", "10^9 MACs", "intercept, ms", "real time"):
        assert text in told
    assert "published of" not in told  # of other sizes


def test_without_arguments_every_generator_of_the_papers_is_timed():
    found = timed_systems.published()
    names = [system.name for system in found]
    assert len(set(names)) == len(names)
    assert {"paralip", "wav2lip", "corrgan", "lip2face", "duallip", "talklip"} <= set(names)
    assert not {"fastspeech", "lipnet", "syncnet"} & set(names)
    assert [name for name in names if name.startswith("duallip/table1")] == ["duallip/table1/attention_dual10"]
    assert [name for name in names if name.startswith("talklip/")] == ["talklip/table1/l"]
    assert not [name for name in names if name.startswith(("paralip/", "corrgan/"))]  # differ in their training alone
    assert command._PRECISIONS == latency.PRECISIONS


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["paralyp"], "unknown system 'paralyp': expected a model, a recipe or the file of a checkpoint", 2),
        (["paralyp"], "Did you mean 'paralip'", 2),
        (["duallip/table1/attention"], "Did you mean 'papers/duallip/table1/attention", 2),
        (["gone.ckpt"], "no checkpoint at gone.ckpt; expected a .ckpt file", 1),
        (["last"], "expected the file of a checkpoint, found 'last'", 2),
        (["gone.yaml"], "unknown --config 'gone.yaml'", 2),
        (["READER"], "reader.ckpt is LipNet, which generates no video; expected a model such as paralip", 1),
        (["fastspeech"], "fastspeech is FastSpeech, which generates no video", 1),
        (["LIPS", "LIPS"], "lips.ckpt is named twice", 2),
        (["LIPS", "--against", "paralib"], "unknown --against 'paralib'. Did you mean 'paralip'?", 2),
        (["LIPS", "--lengths", "25", "0"], "--lengths 0: expected 1 or more", 2),
        (["LIPS", "--clips", "0"], "--clips 0: expected 1 or more", 2),
        (["LIPS", "--seconds", "nan"], "--seconds nan: expected 0 or more", 2),
        (["LIPS", "--precision", "64"], "invalid choice: '64'", 2),
        (["LIPS", "--device", "cpu", "--precision", "tf32"], "nothing could be measured; paralip, for one: TF32 is", 1),
        (["LIPS", "--device", "cuda"], "--device cuda: PyTorch", 2),
        (["WRONG"], "ParaLip: ", 1),
    ],
)  # fmt: skip
def test_wrong_words_say_what_to_type(folder, tmp_path, monkeypatch, capsys, words, message, code):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("model: {class_path: ParaLip, init_args: {sise: 3}}")
    found = {"LIPS": folder / "lips.ckpt", "READER": folder / "reader.ckpt", "WRONG": wrong}
    assert cli.main(["latency", *(str(found.get(word, word)) for word in words)]) == code
    assert message in capsys.readouterr().err
    assert not list(Path().rglob("*.png"))
