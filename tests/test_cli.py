"""What the command says, above all when it is typed wrong. Nothing here needs a corpus."""

import os
import re
import subprocess
import sys
import time

import pytest
import yaml

import lipbench
from lipbench import cli, discovery
from lipbench.console import argv, recipe_files
from lipbench.pretrained import bundled


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
    for name in [*cli.TRAINER, *discovery.files("command")]:
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


@pytest.mark.parametrize("command", sorted(discovery.files("command")))
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


def test_list_names_observers_and_recipes_with_device_and_time(capsys):
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, path in ((path.stem, path) for path in bundled.FOLDER.glob("*.safetensors")):
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert re.search(r"(transcript|syncnet): knows (rendered faces|GRID's speaker s1) only", line), path
    for recipe in discovery.recipes():
        name = recipe_files.name(recipe)
        (place,) = (k for k, line in enumerate(lines) if line.split()[:1] == [name])
        device, _, time = lines[place].removeprefix(f"  {name}").strip().partition(", ")
        assert device == ("CPU" if "accelerator: cpu" in recipe.read_text() else "GPU")
        assert time
        assert len(lines[place + 1].strip()) > 20
        assert recipe_files.find(name) == recipe
    (line,) = (line for line in lines if line.split()[:1] == ["lipgan_grid_s1_small"])
    assert line.endswith("CPU, 24 minutes on one core")


@pytest.mark.parametrize(("given", "expected"), [(None, "passive"), ("active", "active")])
def test_waiting_threads_sleep_unless_told_otherwise(given, expected):
    """Read once, when PyTorch is loaded: the policy must stand before."""
    script = (
        "import os, sys; from lipbench import cli\n"
        "assert 'torch' not in sys.modules\n"
        "cli.main(['--version'])\n"
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    out = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == f"{expected} False"


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
        (["test", "--ckpt_path", "last"], "last is that of the newest run of a model and a corpus"),
        (["fit", "--modle", "paralip"], r"unknown option '--modle'. Did you mean '--model'\?"),
        (["fit", "--trainer", "3"], "takes its options one by one, such as --trainer.max_steps"),
        (["fit", "--config"], "--config needs a file or the name of a recipe"),
        (["fit", "--config", "."], "is a folder"),
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
        (["--data.batchsize", "3"], r"unknown option '--data.batchsize'. Did you mean '--data.batch_size'\?"),
        (["--data.batch_size", "-4"], r"(?m)^lipbench: batch_size is -4; expected 1 or more\n$"),
        (["--trainer.max_stops", "3"], r"unknown option '--trainer.max_stops'. Did you mean '--trainer.max_steps'\?"),
        (["--trainer.max_steps", "many"], "^lipbench: trainer.max_steps must be of type int, found 'many'\n$"),
        (["--tracking.wandb", "maybe"], "tracking.wandb must be one of off, offline, online, found 'maybe'"),
        (["--model.schedule", "cosin"], r"schedule must be one of .*, found 'cosin'. Did you mean 'cosine'\?"),
        (["--model.size", "40"], "size must be a list of 2, found"),
        (["--model.lr"], "--model.lr needs a value"),
        (["--model.lr", ".nan"], "model.lr is nan; expected a finite number"),
        (["--trainer.gradient_clip_val", "1e999"], "trainer.gradient_clip_val is inf; expected a finite number"),
        (["stray"], "'stray' belongs to no option"),
        (["--data.protocol", "grid/s9"], "has no protocol 'grid/s9'; it has grid/seen"),
    ],
)
def test_wrong_arguments_of_a_fit(capsys, words, expected):
    code, text = said(capsys, "fit", "--config", "none", "--model", "paralip", "--data", "grid", *words)
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
    assert "is for grid, not for --data rendered" in text
    recipe.write_text("just words")
    code, text = said(capsys, "fit", "--config", str(recipe))
    assert code == 2
    assert "is no recipe" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: ParaLip\n data: Grid\n", "recipe.yaml, line 2 is not valid YAML: .*\n  data: Grid"),
        ("model: ParaLip\ndata:\n\tclass_path: Grid\n", "line 3 .* not with tabs"),
        ("- ParaLip\n", "is no recipe: it holds a list"),
        ("", "is no recipe: it holds nothing"),
        (b"\xff\xfe\x00", r"is no text in UTF-8 \(byte 0 is 0xff\)"),
        ("model: ParaLip\n\x00", "is not valid YAML: unacceptable character #x0000"),
        ("model: ParaLip\nmodel: LipGAN\ndata: Grid\n", "line 2: model is given twice, first in line 1"),
        ("a: &a [*a]\n", "unknown key 'a'"),
        ("trainer: &a {b: *a}\n", "contains itself"),
        ("[" * 3000, "nested too deeply"),
        ("model: !!python/object:os.system {}\n", "line 1 is not valid YAML: could not determine a constructor"),
        ("modle: ParaLip\ndata: Grid\n", r"line 1: unknown key 'modle'. Did you mean 'model'\?"),
        ("model: paralip\ndata: Grid\n", "line 1: paralip is the short name"),
        ("model: null\ndata: Grid\n", "line 1: model must be a class, such as model: ParaLip, found 'null'"),
        ("model: ParaLip\ndata: Grid\ntrainer: 3\n", "line 3: trainer must be a mapping"),
        ("model: {class_path: ParaLip, init_arg: {}}\ndata: Grid\n", r"Did you mean 'init_args'\?"),
        ("model:\n  class_path: ParaLip\n  init_args:\n    lr: .nan\n", "line 4: model.lr is .nan; expected a finite"),
        ("model: ParaLip\n", "fit needs --data NAME"),
        ("model: ParaLip\ndata: {batch_size: 3}\n", "fit needs --data NAME"),
        ("model: ParaLip\ndata: 3\n", r"line 2: data must name a corpus, such as data: {corpus: grid}, found '3'"),
        ("model: ParaLip\ndata:\n  corpus: [grid]\n", "line 3: data.corpus must name a corpus, .* found a list"),
        ("model: ParaLip\ndata: {corpus: gird}\n", r"unknown --data 'gird'. Did you mean 'grid'\?"),
        ("model: ParaLip\ndata:\n  class_path: Grid\n  batch_size: 3\n", "line 4: unknown key of data 'batch_size'"),
        ("model: ParaLip\ndata: {init_args: {seed: 1}}\n", "line 2: data has init_args but no class_path"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_told_with_its_line(capsys, tmp_path, text, expected):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(text if isinstance(text, bytes) else text.encode())
    code, told = said(capsys, "fit", "--config", str(recipe))
    assert code == 2
    assert re.search(expected, told), told
    assert len(told.splitlines()) < 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainer:\n  max_stops: 3\n", r"line 5: unknown key of trainer 'max_stops'. Did you mean 'max_steps'\?"),
        ("trainer:\n  max_steps: many\n", "line 5: trainer.max_steps must be of type int, found 'many'"),
        ("evaluator:\n  metrics: lmd\n", "line 5: evaluator.metrics must be a list"),
        ("  batchsize: 3\n", r"line 4: unknown key of data 'batchsize'. Did you mean 'batch_size'\?"),
        ("  batch_size: many\n", "line 4: data.batch_size must be of type int, found 'many'"),
    ],
)
def test_a_wrong_key_of_a_recipe_is_told_with_its_line(capsys, tmp_path, text, expected):
    recipe = tmp_path / "recipe.yaml"
    start = b"\xef\xbb\xbfmodel: ParaLip\ndata:\n  corpus: grid\n"  # a byte order mark is no fault
    recipe.write_bytes(start + text.encode())
    code, told = said(capsys, "fit", "--config", str(recipe))
    assert code == 2
    assert re.search(re.escape(str(recipe)) + ", " + expected, told), told


@pytest.mark.parametrize(
    "data",
    [
        "data: Grid\n",
        "data: lipbench.corpora.grid.Grid\n",
        "data: {class_path: lipbench.data.grid.Grid}\n",
        "data:\n  class_path: lipbench.corpora.grid.Grid\n  init_args: {batch_size: 3, protocol: grid/s1}\n",
        "data: grid\n",
    ],
)
def test_recipes_that_name_a_corpus_in_an_older_form_are_taken_with_a_hint(capsys, tmp_path, data):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: ParaLip\n{data}")
    assert cli.main(["fit", "--config", str(recipe), "--data", "grid", "--data.seed", "4", "--print_config"]) == 0
    told = capsys.readouterr()
    stated = yaml.safe_load(told.out)["data"]
    assert (stated["corpus"], stated["seed"]) == ("grid", 4)
    if "init_args" in data:
        assert (stated["batch_size"], stated["protocol"]) == (3, "grid/s1")
    assert told.err.count("hint: ") == 1
    assert f"hint: {recipe} names its corpus in the older form; now it is data: {{corpus: grid}}" in told.err


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (["--data", "grid", "--data.batch_size", "3"], 0),
        (["--data.corpus", "grid", "--data.batch_size=3"], 0),
        (["--data=lipbench.corpora.grid.Grid", "--data.batch_size", "3"], 1),
        (["--data", "lipbench.data.grid.Grid", "--data.init_args.batch_size", "3"], 2),
        (["--data.class_path", "Grid", "--data.init_args.batch_size=3"], 3),
    ],
)
def test_older_options_that_name_a_corpus_are_taken_with_a_hint(capsys, words, hints):
    assert cli.main(["fit", "--config", "none", "--model", "paralip", *words, "--print_config"]) == 0
    told = capsys.readouterr()
    stated = yaml.safe_load(told.out)["data"]
    assert (stated["corpus"], stated["batch_size"]) == ("grid", 3)
    assert told.err.count("hint: ") == hints


def test_arguments_of_a_corpus_are_shown(capsys):
    for words in (["--data.help", "grid"], ["--data.help=grid"]):
        assert cli.main(["fit", *words]) == 0
        shown = capsys.readouterr().out
        assert "--data.batch_size" in shown
        assert "at most 4" in shown


def test_recipes_are_called_by_name(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for asked in ("paralip_grid_s1_small", "paralip/table4/base", "experiments/demo/paralip.yaml"):
        words = argv.prepared("fit", ["--config", asked])
        assert words[1].endswith(asked.removeprefix("experiments/").removesuffix(".yaml") + ".yaml")
    code, text = said(capsys, "fit", "--config", "paralip_grid_small")
    assert code == 2
    assert "Did you mean 'paralip_grid_s1_small'?" in text
    lines = text.splitlines()
    assert lines[1] == "  paralip_grid_s1_small"
    assert "  papers/paralip/table4/base" in lines
    assert len(lines) == 1 + len(discovery.recipes())


def test_a_fit_takes_its_recipe_and_says_so(capsys):
    names = ["--model", "paralip", "--data", "grid"]
    first, second, *rest = argv.prepared("fit", [*names, "--model.lr", "1"])
    assert first == "--config"
    assert second.endswith("experiments/paralip_grid.yaml")
    assert rest[-2:] == ["--model.lr", "1"]
    assert "recipe: experiments/paralip_grid.yaml;" in capsys.readouterr().err
    assert "--config" not in argv.prepared("fit", [*names, "--config", "none"])
    assert capsys.readouterr().err == ""
    assert "--config" not in argv.prepared("fit", ["--model", "paralip", "--data", "rendered"])
    assert "none is called paralip_rendered" in capsys.readouterr().err
    assert "--config" not in argv.prepared("test", [*names, "--ckpt_path", "last"])


def test_what_options_begin_with_is_what_the_parser_takes(capsys):
    for command in ("predict", "test", "fit"):
        assert cli.main([command, "--help-all"]) == 0
    shown = {name.partition(".")[0] for name in re.findall(r"--([a-z_]+)", capsys.readouterr().out)}
    assert shown - {"help"} == set(recipe_files.OPTIONS)


@pytest.mark.parametrize("typed", [["40,80"], ["[40,80]"], ["(40, 80)"], ["40", "80"], ["40 80"]])
def test_lists_are_taken_with_and_without_brackets(typed):
    names = ["--model", "paralip", "--data", "grid", "--config", "none"]
    last = argv.prepared("fit", [*names, "--model.size", *typed])[2:]
    assert yaml.safe_load("".join(last).removeprefix("--model.size").lstrip("=")) == [40, 80]


@pytest.mark.parametrize(
    "typed",
    [
        ["opening_corr[speech],lmd[dtw]"],
        ["[opening_corr[speech], lmd[dtw]]"],
        ["opening_corr[speech]", "lmd[dtw]"],
        ["[opening_corr[speech],", "lmd[dtw]]"],
    ],
)
def test_names_in_lists_may_have_brackets_of_their_own(typed):
    names = ["--model", "paralip", "--data", "grid", "--config", "none"]
    last = argv.prepared("test", [*names, "--evaluator.metrics", *typed])[2:]
    assert yaml.safe_load("".join(last).partition("=")[2]) == ["opening_corr[speech]", "lmd[dtw]"]


def test_only_lists_are_taken_apart():
    words = ["--config", "none", "--data", "grid", "--model", "paralip", "--evaluator.metrics", "lmd,wer"]
    rest = ["--data.store", "a,b", "--evaluator.name", "x,y", "--evaluator.metrics", "null", "--trainer.devices", "0,1"]
    assert argv.prepared("fit", [*words, *rest])[2:] == ["--evaluator.metrics=[lmd,wer]", *rest]
    for typed in ("lmd,psnr[uint8-wrap]", "[lmd, psnr[uint8-wrap]]", "(lmd psnr[uint8-wrap])"):
        assert discovery.listed(typed) == ["lmd", "psnr[uint8-wrap]"]
        (last,) = argv.prepared("fit", [*words[:-1], typed])[2:]
        assert yaml.safe_load(last.partition("=")[2]) == ["lmd", "psnr[uint8-wrap]"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "it is empty"),
        (b"<html>not found</html>", "is no checkpoint that can be read"),
        ([1, 2], "was not written by lipbench"),
        ({"lipbench": 3}, "was not written by lipbench"),
        ({"lipbench": {"class": "intruder.Model"}}, "holds intruder.Model, no model of lipbench"),
    ],
)
def test_a_checkpoint_alone_that_cannot_be_read(capsys, tmp_path, content, expected):
    import torch

    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    code, text = said(capsys, "test", "--ckpt_path", str(path))
    assert code == 1
    assert expected in text
    assert str(path) in text
    assert "needs --model" not in text
    code, text = said(capsys, "test", "--ckpt_path", str(tmp_path / "absent.ckpt"))
    assert code == 1
    assert "no checkpoint at" in text


@pytest.mark.parametrize(
    "text",
    [
        "model: intruder.Model\ndata: lipbench.corpora.grid.Grid\n",
        "model: lipbench.models.paralip.ParaLip\ndata: intruder.Data\n",
        "model: other/model.yaml\ndata: lipbench.corpora.grid.Grid\n",
        "trainer: {logger: {class_path: intruder.Logger}}\n",
        "trainer: {callbacks: {class_path: pytorch_lightning.callbacks.LambdaCallback, init_args: {setup: intruder.f}}}",  # noqa: E501 - as it stands in a file
    ],
)
def test_what_lies_beside_a_checkpoint_imports_nothing_foreign(capsys, monkeypatch, tmp_path, text):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "intruder.py").write_text("import pathlib; pathlib.Path(__file__).with_name('run').touch()\n")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text(text)
    path = tmp_path / "checkpoints" / "x.ckpt"
    path.touch()
    code, told = said(capsys, "test", "--ckpt_path", str(path))
    assert code == 2
    assert "would be imported" in told
    assert not (tmp_path / "run").exists()


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
    words = [
        "--model.lr",
        "1",
        "--data=grid",
        "--trainer.max_steps=5",
        "-c",
        str(recipe),
        "--model",
        "paralip",
        "--verbose",
    ]
    assert argv.prepared("fit", words) == [
        *("--config", str(recipe)),
        "--data.corpus=grid",
        "--model=lipbench.models.paralip.ParaLip",
        *("--model.lr", "1", "--trainer.max_steps=5", "--verbose"),
    ]


def test_negative_values_are_values(tmp_path):
    words = ["--model", "paralip", "--data", "grid", "--trainer.max_epochs", "-1"]
    assert argv.prepared("fit", words)[-2:] == ["--trainer.max_epochs", "-1"]


def test_a_file_must_define_one_model(monkeypatch, tmp_path):
    assert discovery.load("model", "paralip").__name__ == "ParaLip"
    module = sys.modules["lipbench.models.paralip"]
    monkeypatch.setattr(
        module, "Second", type("Second", (module.ParaLip,), {"__module__": module.__name__}), raising=False
    )
    with pytest.raises(TypeError, match="exactly one"):
        discovery.load("model", "paralip")


def test_constants_are_read_without_importing(tmp_path):
    file = tmp_path / "x.py"
    file.write_text('"""X: y."""\nimport nowhere\nA = ("b",)\nclass C:\n    d: tuple = (1, 2)\nE = f()\n')
    assert discovery.summary(file) == "X: y."
    assert discovery.constant(file, "A") == ("b",)
    assert discovery.constant(file, "d") == (1, 2)
    assert discovery.constant(file, "E") is None
    assert discovery.constant(file, "Z") is None
