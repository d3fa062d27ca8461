"""What the command says, above all when it is typed wrong. Nothing here needs a corpus."""

import re
import subprocess
import sys
import time

import pytest

import lipbench
from lipbench import cli
from lipbench.commands import _names, _words


def said(capsys, *words):
    """Exit code and what was written to stderr."""
    code = cli.main(words)
    return code, capsys.readouterr().err


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["list"], ["fit", "--help"], ["prepare", "--help"]])
def test_quick_answers_import_nothing_heavy(words):
    script = f"""
import sys
from lipbench.cli import main
assert main({words!r}) == 0
heavy = {{"torch", "numpy", "pytorch_lightning", "jsonargparse", "pandas", "rich"}} & set(sys.modules)
assert not heavy, heavy
"""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 5  # under one second on an idle machine; CI is not idle


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"lipbench {lipbench.__version__}\n"


def test_help_shows_every_command_with_a_line(capsys):
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    for name in [*cli.TRAINER, *_names.files("command")]:
        assert re.search(rf"^  {name} +\w.{{10,}}$", shown, re.MULTILINE), name
    assert "None:" not in shown  # every command file states its group
    assert max(map(len, shown.splitlines())) <= 120


@pytest.mark.parametrize("command", list(cli.TRAINER))
def test_help_of_the_trainer_commands_fits_a_screen(capsys, command):
    assert cli.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 50
    for wanted in ("--config", "--ckpt_path", "paralip", "grid", "rendered", "--help-all"):
        assert wanted in shown


@pytest.mark.parametrize("command", sorted(_names.files("command")))
def test_help_of_the_other_commands(capsys, command):
    assert cli.main([command, "--help"]) == 0
    assert f"usage: lipbench {command}" in capsys.readouterr().out


def test_all_flags_are_still_there(capsys):
    assert cli.main(["fit", "--help-all"]) == 0
    assert "--trainer.gradient_clip_val" in capsys.readouterr().out


def test_help_of_one_model(capsys):
    assert cli.main(["fit", "--model.help", "paralip"]) == 0
    shown = capsys.readouterr().out
    assert "ssim_weight" in shown
    assert "Of 1 - SSIM" in shown


def test_list_shows_names_and_first_lines(capsys):
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in ("paralip", "grid", "rendered", "psnr", "lmd", "grid/s1"):
        assert name in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fti"], r"unknown command 'fti'. Did you mean 'fit'\?"),
        (["--data", "grid", "fit"], "the command comes first"),
        (["fit", "--model", "parlip", "--data", "grid"], r"unknown --model 'parlip'. Did you mean 'paralip'\?"),
        (["fit", "--model=ParaLip", "--data", "grid"], r"unknown --model 'ParaLip'. Did you mean 'paralip'\?"),
        (["fit", "--model", "paralip", "--data", "gird"], r"unknown --data 'gird'. Did you mean 'grid'\?"),
        (["fit", "--data", "grid"], "fit needs --model NAME"),
        (["fit", "--model", "paralip"], "fit needs --data NAME"),
        (["fit", "--model"], "fit needs --model NAME|--model needs a name"),
        (["test"], "test needs --model NAME"),
        (["fit", "--config", "no/such.yaml"], "unknown --config 'no/such.yaml'"),
        (["fit", "--model.help", "parlip"], "Did you mean 'paralip'"),
        (["prepare"], "required: --data"),
        (["prepare", "--data", "gird"], r"unknown --data 'gird'. Did you mean 'grid'\?"),
        (["prepare", "--data", "grid", "--rot", "x"], r"unknown option '--rot'. Did you mean '--root'\?"),
        (["prepare", "--data", "grid", "--workers", "many"], "--workers: invalid int value: 'many'"),
        (["prepare", "--data", "grid", "--speakers", "3"], "are for --data rendered"),
        (["compare", "everything"], "'everything' belongs to no option"),
        (["doctor", "--data", "gird"], "invalid choice: 'gird'"),
        (["generate", "--text", "bin"], "required: --ckpt_path"),
    ],
)
def test_wrong_words_end_with_2_and_a_sentence(capsys, words, expected):
    code, text = said(capsys, *words)
    assert code == 2
    assert re.search(expected, text)
    assert text.startswith("lipbench: ")
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model.hiden", "3"], r"unknown argument of ParaLip 'hiden'. Did you mean 'hidden'\?"),
        (["--model.hidden", "many"], "hidden must be of type int, found 'many'"),
        (["--data.batchsize", "3"], r"unknown argument of Grid 'batchsize'. Did you mean 'batch_size'\?"),
        (["--trainer.max_stops", "3"], "unknown option '--trainer.max_stops"),
        (["--tracking.wandb", "maybe"], "maybe"),
        (["--data.protocol", "grid/s9"], "has no protocol 'grid/s9'; it has grid/seen"),
    ],
)
def test_wrong_arguments_of_a_fit(capsys, words, expected):
    code, text = said(capsys, "fit", "--model", "paralip", "--data", "grid", *words)
    assert code in (1, 2)
    assert re.search(expected, text), text
    assert "Traceback" not in text
    assert len(text) < 1200


def test_an_unprepared_corpus_says_what_to_type(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code, text = said(capsys, "fit", "--model", "paralip", "--data", "grid", "--trainer.accelerator", "cpu")
    assert code == 1
    assert "lipbench prepare --data grid --root DIR" in text
    assert not (tmp_path / "runs").exists()  # no empty run folder is left behind


def test_a_recipe_is_not_swapped_for_another_corpus(capsys, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: ParaLip\ndata: Grid\n")
    code, text = said(capsys, "fit", "--config", str(recipe), "--data", "rendered")
    assert code == 2
    assert "is for Grid, not for --data rendered" in text
    recipe.write_text("just words")
    code, text = said(capsys, "fit", "--config", str(recipe))
    assert code == 2
    assert "is no recipe" in text


def test_a_checkpoint_that_is_not_there(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = ["--model", "paralip", "--data", "grid"]
    code, text = said(capsys, "test", *names, "--ckpt_path", "nowhere.ckpt")
    assert code == 1
    assert "no checkpoint at nowhere.ckpt" in text


def test_traceback_only_if_asked(capsys, monkeypatch):
    code, text = said(capsys, "fit", "--model", "parlip", "--data", "grid", "--traceback")
    assert code == 2
    assert "Traceback" in text
    monkeypatch.setenv("LIPBENCH_TRACEBACK", "1")
    assert "Traceback" in said(capsys, "fti")[1]


def test_errors_from_elsewhere_say_how_to_see_more(capsys, monkeypatch):
    def broken():
        raise ValueError("too bad")

    monkeypatch.setattr("lipbench.commands.list.run", broken)
    code, text = said(capsys, "list")
    assert code == 1
    assert "ValueError: too bad" in text
    assert "--traceback" in text


def test_a_missing_package_stops_only_its_command(capsys, monkeypatch):
    def lacking():
        raise ModuleNotFoundError("No module named 'av'", name="av")

    monkeypatch.setattr("lipbench.commands.list.run", lacking)
    code, text = said(capsys, "list")
    assert code == 1
    assert "needs the package 'av'" in text
    assert cli.main(["--help"]) == 0


def test_a_bug_is_not_dressed_up(monkeypatch):
    def bug():
        raise KeyError("x")

    monkeypatch.setattr("lipbench.commands.list.run", bug)
    with pytest.raises(KeyError):
        cli.main(["list"])


def test_interrupting_is_no_crash(capsys, monkeypatch):
    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr("lipbench.commands.list.run", stopped)
    assert said(capsys, "list") == (130, "lipbench: interrupted\n")


def test_words_are_put_in_an_order_that_jsonargparse_takes(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("trainer: {max_steps: 3}\n")
    words = ["--model.lr", "1", "--data=grid", "--trainer.max_steps=5", "-c", str(recipe), "--model", "paralip", "--x"]
    assert _words.prepared("fit", words) == [
        *("-c", str(recipe)),
        "--data=lipbench.data.grid.Grid",
        "--model=lipbench.models.paralip.ParaLip",
        *("--model.lr", "1", "--trainer.max_steps=5", "--x"),
    ]


def test_negative_values_are_values(tmp_path):
    words = ["--model", "paralip", "--data", "grid", "--trainer.max_epochs", "-1"]
    assert _words.prepared("fit", words)[-2:] == ["--trainer.max_epochs", "-1"]


def test_a_file_must_define_one_model(monkeypatch, tmp_path):
    assert _names.load("model", "paralip").__name__ == "ParaLip"
    module = sys.modules["lipbench.models.paralip"]
    monkeypatch.setattr(
        module, "Second", type("Second", (module.ParaLip,), {"__module__": module.__name__}), raising=False
    )
    with pytest.raises(TypeError, match="exactly one"):
        _names.load("model", "paralip")


def test_constants_are_read_without_importing(tmp_path):
    file = tmp_path / "x.py"
    file.write_text('"""X: y."""\nimport nowhere\nA = ("b",)\nclass C:\n    d: tuple = (1, 2)\nE = f()\n')
    assert _names.summary(file) == "X: y."
    assert _names.constant(file, "A") == ("b",)
    assert _names.constant(file, "d") == (1, 2)
    assert _names.constant(file, "E") is None
    assert _names.constant(file, "Z") is None
