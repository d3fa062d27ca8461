"""The package of docs/extend.md, as it stands there, goes through every command like one of our own."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image

import foreign
from lipbench import cli, discovery
from lipbench.evaluation import bank
from lipbench.media import video

PAGE = (Path(__file__).parents[2] / "docs" / "extend.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
FILES = dict(re.match(r"# (\S+)\n(.*)", text, re.DOTALL).groups() for language, text in BLOCKS if language)
CALLS = [line for language, text in BLOCKS if not language for line in text.splitlines()]
SHORT, LONG = "letterfaces", "letterfaces.model.LetterFaces"
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The page's files and entry points, installed."""
    points = tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]
    foreign.install(tmp_path / "package", monkeypatch, FILES, points, "letterfaces")
    # Columns are gathered once a process, and this one has begun without the package.
    (entry,) = bank.entries(discovery.load("metric", "brightness"))
    monkeypatch.setitem(bank.METRICS, entry.name, entry)


@pytest.fixture
def face(here, tmp_path):
    """The picture that the page calls me.png."""
    clip = min((here.home / "corpora" / "rendered" / "video").rglob("*.mpg"))
    Image.fromarray(video.read_video(clip).frames[0]).save(tmp_path / "me.png")


@pytest.fixture
def clips(here, tmp_path, monkeypatch):
    """The folder of the homemade corpus, and a home of its own with the rendered store."""
    own = tmp_path / "home"
    (own / "stores").mkdir(parents=True)
    (own / "stores" / "rendered").symlink_to(here.home / "stores" / "rendered")
    monkeypatch.setenv("LIPBENCH_HOME", str(own))
    raw = here.home / "corpora" / "rendered"
    for place in [*raw.rglob("*.mpg"), *raw.rglob("*.align")]:
        (tmp_path / "clips" / "s1").mkdir(parents=True, exist_ok=True)
        shutil.copy(place, tmp_path / "clips" / "s1")


def typed(line):
    """Run a command of the page; a small store is prepared already, so nothing is rendered."""
    words = shlex.split(line)[1:]
    extra = [*QUIET, "--data.num_workers", "0"] if words[0] in ("fit", "test") else []
    extra += ["--data.limit_test", "1"] if words[0] == "test" else []
    return cli.main([*words, *extra])


def test_the_model_is_short():
    own = FILES["letterfaces/model.py"]
    body = re.sub(r'""".*?"""', "", own[own.index("class ") :], flags=re.DOTALL)
    assert len([line for line in body.splitlines() if line.strip()]) <= 30


@pytest.mark.usefixtures("package", "face", "clips")
def test_the_commands_of_the_page(here, capsys, tmp_path):
    lines = [line for line in CALLS if line.startswith("lipbench ") and "letterfaces." not in line]
    lines.remove("lipbench prepare --data rendered --speakers 4 --clips 20")
    assert {line.split()[1] for line in lines} == {"list", "prepare", "fit", "test", "compare", "generate"}
    shown = {}
    for line in lines:
        assert typed(line) == 0, line
        shown[line.split()[1]] = capsys.readouterr().out
    assert re.search(rf"^  {SHORT} +LetterFaces: an example", shown["list"], re.MULTILINE)
    assert shown["list"].count("(letterfaces 1.0)") == 3
    assert "protocols: homemade/seen" in shown["list"]
    assert list(Path("leaderboards/results/homemade/seen").rglob("*.json"))
    (own,) = Path("runs/letterfaces_homemade").glob("version_*")
    assert torch.load(own / "checkpoints" / "last.ckpt", weights_only=True)["lipbench_data"]["name"] == "homemade"
    (run,) = Path("runs/letterfaces_rendered").glob("version_*")
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["lipbench"]["batches"] == 30
    assert last["lipbench"]["class"] == LONG
    assert "letterfaces" in shown["compare"]
    table = Path("leaderboards/rendered_seen.csv").read_text()
    assert "letterfaces" in table
    assert "mouth/brightness" in table.splitlines()[0]
    assert len(video.read_video(tmp_path / "talk.mp4").frames) > 30


@pytest.mark.usefixtures("face", "clips")
def test_by_class_path_without_installation(here, capsys, tmp_path, monkeypatch):
    """From the folder that holds the package; what a file names is imported only where it is typed, too."""
    foreign.install(tmp_path / "elsewhere", monkeypatch, {})
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(content)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the current folder stays on it otherwise
    assert "from the folder that holds `pyproject.toml`" in PAGE
    fit, prepare, elsewhere, test = (line for line in CALLS if LONG in line or "letterfaces.corpus" in line)
    assert typed(prepare) == 0
    assert typed(elsewhere) == 0
    last = Path(f"runs/{LONG}_letterfaces.corpus.Homemade/version_0/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["lipbench"]["batches"] == 5
    assert typed(fit) == 0
    checkpoint = Path(f"runs/{LONG}_rendered/version_0/checkpoints/last.ckpt")
    once = torch.load(checkpoint, weights_only=True)
    assert once["lipbench"]["batches"] == 20
    assert typed(test) == 0
    assert cli.main(["compare"]) == 0
    shown = capsys.readouterr().out
    assert "letterfaces" in shown.lower()
    assert "mouth/brightness" in Path("leaderboards/rendered_seen.csv").read_text()

    forget(monkeypatch)
    words = ["--ckpt_path", str(checkpoint)]
    speak = ["generate", *words, "--image", "me.png", "--text", "bin blue"]
    for command in (["test", *words], ["fit", *words], ["validate", *words], speak):
        assert cli.main(command) in (1, 2)
        assert LONG in capsys.readouterr().err
        assert "letterfaces" not in sys.modules
    (checkpoint.parents[1] / "config.yaml").rename("config.yaml")
    for command in (["test", *words], speak):
        assert cli.main(command) == 1
        assert f"if you trust it, give --model {LONG}" in capsys.readouterr().err
        assert "letterfaces" not in sys.modules
    Path("config.yaml").rename(checkpoint.parents[1] / "config.yaml")

    assert cli.main([*speak, "--model", LONG]) == 0
    assert typed(f"lipbench test {' '.join(words)} --model {LONG} --evaluator.calibration false") == 0
    go_on = [*words, "--model", LONG, "--trainer.max_steps", "25", *QUIET]
    assert cli.main(["fit", *go_on]) == 0
    assert torch.load(checkpoint, weights_only=True)["lipbench"]["batches"] == 25
    assert cli.main(["fit", "--model", "paralip", "--data", "rendered", *words]) == 2
    assert LONG in capsys.readouterr().err


def forget(monkeypatch):
    """As if nothing of the package had been imported yet."""
    for module in [module for module in sys.modules if module.partition(".")[0] == SHORT]:
        monkeypatch.delitem(sys.modules, module)


@pytest.mark.usefixtures("package")
def test_columns_of_installed_metrics_are_in_the_bank():
    script = "from lipbench.evaluation import bank; print([entry.name for entry in bank.select(None)])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert "'mouth/brightness'" in done.stdout, done.stderr


@pytest.mark.usefixtures("package")
def test_a_resumed_fit_is_as_if_it_had_not_stopped(here):
    words = f"--model {SHORT} --data rendered --data.batch_size 1 --trainer.accelerator cpu --trainer.max_steps"
    assert typed(f"lipbench fit {words} 5 --trainer.default_root_dir whole") == 0
    assert typed(f"lipbench fit {words} 2 --trainer.default_root_dir parts") == 0
    path = "parts/letterfaces_rendered/version_0/checkpoints/last.ckpt"
    assert typed(f"lipbench fit --ckpt_path {path} --trainer.max_steps 5") == 0
    whole, parts = (torch.load(path.replace("parts", root), weights_only=True) for root in ("whole", "parts"))
    assert torch.equal(whole["state_dict"]["pictures.weight"], parts["state_dict"]["pictures.weight"])
