"""`lipbench dashboard`: its definition shows what models log, tables are read back offline, errors say what to type."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

import lipbench
import wandb_files
from lipbench import cli, discovery, tracking
from lipbench.console import dashboard
from lipbench.leaderboard import boards

PACKAGE = Path(lipbench.__file__).parent
DEFINITION = dashboard.read(dashboard.default())
PANELS = [panel for section in DEFINITION.sections for panel in section.panels]
RESULTS = Path("leaderboards", "results")


@pytest.fixture(scope="module")
def logged(world, tmp_path_factory):
    """Working folder of an adversarial fit that was resumed once, and of a test of it, all logged to W&B offline."""
    folder = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_MODE", "offline")  # Lightning sets it itself, and leaves it so
        patch.setenv("LIPBENCH_HOME", str(world.home))
        patch.chdir(folder)
        words = ["--tracking.wandb", "offline", "--trainer.log_every_n_steps", "1"]
        first = ["--config", str(world.recipe), "--model.adversarial_weight", "1", "--model.discriminator_width", "2"]
        first += ["--data.batch_size", "1"]  # two batches between two validations: throughput is known of the second
        assert cli.main(["fit", *first, *words, "--trainer.max_steps", "2"]) == 0
        last = str(Path("runs/paralip_rendered/version_0/checkpoints/last.ckpt"))
        assert cli.main(["fit", *words, "--ckpt_path", last, "--trainer.max_steps", "3"]) == 0
        scored = [
            "--evaluator.name",
            "first",
            "--evaluator.metrics",
            "[mouth/psnr,mouth/ssim]",
            "--evaluator.workers",
            "0",
        ]
        assert cli.main(["test", *words, "--ckpt_path", last, *scored]) == 0
    return folder


@pytest.fixture
def there(logged, monkeypatch):
    """That folder as the working folder, with W&B offline."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(logged / "waiting"))
    monkeypatch.chdir(logged)
    return logged


@pytest.fixture
def shown(monkeypatch, tmp_path, capsys):
    """Runs `lipbench dashboard ...` in an empty folder without a key: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))

    def run(*words):
        code = cli.main(["dashboard", *map(str, words)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_a_resumed_fit_goes_on_in_its_curve_and_its_test_is_in_its_group(logged):
    first, second, tested = wandb_files.read(logged / "runs")
    assert first.run_id == second.run_id != tested.run_id
    steps = [run.history["trainer/global_step"] for run in (first, second)]
    assert max(steps[0]) <= min(steps[1])  # a validation after the last batch, and the batch after it
    assert [len(run.history["train/l1"]) for run in (first, second)] == [2, 1]
    assert first.group == second.group == tested.group == f"paralip_rendered/version_0 {first.run_id}"
    assert [run.job for run in (first, second, tested)] == ["fit", "fit", "test"]
    assert "test/mouth/psnr" in tested.history
    assert not [key for key in tested.history if key.startswith("train/")]


def test_what_an_adversarial_model_logs_is_shown(logged):
    keys = {key for run in wandb_files.read(logged / "runs") for key in run.history}
    names = {name for panel in PANELS for name in panel.names}
    for panel in PANELS:
        if panel.pattern:
            assert [key for key in keys if re.search(panel.pattern, key)], f"{panel.title}: nothing matches"
    assert names & keys >= {
        *("strips/0", "train/l1", "train/ssim", "train/duration", "train/duration_sentence", "val/l1", "val/psnr"),
        *("throughput/clips_per_second", "throughput/wait_share", "test/mouth/psnr", "test/mouth/ssim"),
    }
    patterns = "|".join(panel.pattern for panel in PANELS if panel.pattern)
    rest = {key for key in keys - names if key.startswith(("train/", "val/")) and not re.search(patterns, key)}
    assert not rest, "logged by every adversarial model, and in no panel"


def test_every_name_in_the_definition_is_one_that_the_code_logs():
    """Names of other models: the part after train/, val/ or images/ is written in the code of a model."""
    files = [*(PACKAGE / "models").glob("*.py"), *(PACKAGE / "training").glob("*.py")]
    texts = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts |= {node.value, node.value.strip("/")}
    for name in {name for panel in PANELS for name in panel.names}:
        part, _, rest = name.partition("/")
        if part in ("train", "val"):
            assert rest in texts or name in texts, name
        elif part == "images":
            assert rest.rpartition("/")[0] in texts, name
        elif part == "test":
            assert rest in (*boards.PRIMARY, *boards.READING), name
        else:
            assert name in texts or re.fullmatch(r"strips/[0-3]", name), name
    assert tracking.Tracking().strips == 4


def test_check_says_what_would_be_put_up(logged, shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing either would raise
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    code, out, _ = shown("--check")
    assert code == 0
    for line in (
        "  media  Validation strips: strips/0, strips/1, strips/2, strips/3",
        "  lines  Gradient norms: all that match ^train/grad_norm_",
        "Throughput (folded)",
        "  table  none yet",
    ):
        assert line in out.splitlines()
    code, out, _ = shown("--check", "--results", logged / RESULTS)
    assert "  table  leaderboard/rendered_seen" in out.splitlines()


def test_tables_are_written_offline_with_the_pictures_beside_records(there, capsys):
    (record,) = RESULTS.glob("rendered/seen/paralip/first.json")
    strip = sorted(there.glob("runs/*/version_0/strips/*/*.png"))[-1]
    shutil.copy(strip, record.with_suffix(".png"))
    assert cli.main(["dashboard", "--leaderboards", "--project", "faces"]) == 0
    out = capsys.readouterr().out
    (run,) = wandb_files.read(there / "wandb")
    assert (run.run_id, run.job) == ("leaderboard", "leaderboard")
    assert f"wandb sync {run.file.parent}" in out
    table = json.loads(run.kept["leaderboard/rendered_seen.table.json"].read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert f"leaderboard/rendered_seen: {len(rows)} rows" in out
    assert run.history["leaderboard/rendered_seen"][0]["nrows"] == len(rows)
    scores = json.loads(record.read_text())["scores"]
    (own,) = (row for row in rows if row["model"] == "paralip" and row["control"] is None)
    assert own["mouth/psnr"] == pytest.approx(scores["mouth/psnr"]["value"])
    assert run.kept[own["media"]["path"]].read_bytes() == strip.read_bytes()
    others = [row for row in rows if row is not own]
    assert others
    assert all(row["media"] is None for row in others)


@pytest.mark.parametrize(
    ("words", "mode", "expected", "code"),
    [
        ([], "offline", "--leaderboards to write the tables alone", 2),
        (["--leaderboards"], "disabled", "Type: unset WANDB_MODE", 2),
        (["--leaderboards"], "online", "Type: wandb login, or set WANDB_MODE=offline and add --leaderboards", 1),
        ([], "online", "pip install 'lipbench[dashboard]'", 1),
        (["--check", "--leaderboards"], "online", "--check sends nothing", 2),
        (["--leaderboards", "--workspace", "https://wandb.ai/a/b?nw=c"], "online", "leave out --workspace", 2),
        (["--workspace", "https://wandb.ai/a/b"], "online", "such as https://wandb.ai/ENTITY/PROJECT?nw=NAME", 2),
        (["--workspace", "https://wandb.ai/a/b?nw=c", "--project", "d"], "online", "--workspace is of 'b'", 2),
        (["--check", "--definition", "none.yaml"], "online", "no definition of a workspace at none.yaml", 1),
        (["--check", "--results", "none"], "online", "no folder none", 1),
        (["--projekt", "d"], "online", "did you mean '--project'?", 2),
    ],
)
def test_what_cannot_work_says_what_to_type(shown, monkeypatch, words, mode, expected, code):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    found, _, err = shown(*words)
    assert found == code
    assert expected.lower() in err.lower()


SOUND = {"name": "a", "sections": [{"name": "b", "panels": [{"kind": "lines", "title": "c", "metrics": ["train/l1"]}]}]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"kind": "curves"},
            "section 1 (b), panel 1: kind is 'curves'; expected one of lines, media, bars, leaderboards",
        ),
        ({"kind": ["lines"]}, "kind is ['lines']; expected one of"),
        ({"kind": None}, "panel 1 has no kind. Add it"),
        ({"title": None}, "has no title. Add it, such as title: ..."),
        ({"metrics": None}, "(c) has no metrics and no pattern; expected one of them"),
        ({"pattern": "^train/"}, "(c) has metrics and pattern; expected one of them"),
        ({"metrics": None, "pattern": "train/("}, "pattern 'train/(' does not work"),
        ({"metrics": None, "pattern": "train/(?!grad)"}, "(RE2) have no (?!"),
        ({"metrics": "train/l1"}, "metrics: found 'train/l1'; expected a list of names, such as [train/l1]"),
        ({"metrics": ["train/l1", 3]}, "found 3; expected names"),
        ({"metrik": "train/l1"}, "did you mean 'metrics'?"),
        ({"kind": "bars", "log": True}, "unknown key 'log'"),
        ({"log": "yes"}, "log is 'yes'; expected true or false"),
        ({"smoothing": 1}, "smoothing is 1; expected a number from 0 to below 1"),
        ({"range": [1, 0]}, "range is [1, 0]; expected the least and the most, such as [0, 1]"),
    ],
)
def test_a_wrong_panel_is_told_by_place(shown, changes, expected):
    content = json.loads(json.dumps(SOUND))
    panel = content["sections"][0]["panels"][0]
    for key, value in changes.items():
        panel.pop(key, None)
        if value is not None:
            panel[key] = value
    Path("own.yaml").write_text(yaml.safe_dump(content))
    code, _, err = shown("--check", "--definition", "own.yaml")
    assert code == 2
    assert "own.yaml" in err
    assert expected.lower() in err.lower()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "found nothing; expected a mapping with name, x, group, others, sections"),
        ("name: a\n", "has no sections. Add it"),
        ("name: a\nsections: []\n", "sections: found []; expected a list of sections"),
        ("name: 3\nsections: [{name: b, panels: [{kind: leaderboards}]}]\n", "name is 3; expected a text"),
        ("name: a\nsections: [{name: b, panels: [{kind: leaderboards}]}]\ngroup: Group\n", "group is 'Group'"),
        ("name: a\nsections: [{name: b}]\n", "section 1 has no panels"),
        (
            "name: a\nsections: [&b {name: b, panels: [{kind: leaderboards}]}, *b]\n",
            "two sections are called 'b'; expected a name for each",
        ),
        ("name: [a\n", "is not valid YAML"),
    ],
)
def test_a_wrong_definition_is_refused(shown, content, expected):
    Path("own.yaml").write_text(content)
    code, _, err = shown("--check", "--definition", "own.yaml")
    assert code == 2
    assert expected in err


def test_a_sound_definition_is_taken(shown):
    Path("own.yaml").write_text(yaml.safe_dump(SOUND))
    code, out, _ = shown("--check", "--definition", "own.yaml")
    assert code == 0
    assert out.splitlines()[1:] == ["b (folded)", "  lines  c: train/l1"]


class Made(SimpleNamespace):
    """Stands for any class of wandb-workspaces: keeps the arguments."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.saved = 0

    def save(self):
        self.saved += 1
        self.url = f"https://wandb.ai/{self.entity}/{self.project}?nw=new"


@pytest.fixture
def package(monkeypatch):
    """A stand-in for wandb-workspaces with one workspace on the server, and a W&B account that is never asked."""
    workspaces, panels, root = ModuleType("workspaces"), ModuleType("v2"), ModuleType("wandb_workspaces")
    old = Made(name="old", entity="me", project="faces", sections=[], settings=None, url="")
    old.runset_settings = Made(groupby=[], filters="State = 'finished'")
    workspace = type("Workspace", (Made,), {"from_url": staticmethod(lambda url: old)})
    for name in ("Section", "WorkspaceSettings", "RunsetSettings"):
        setattr(workspaces, name, type(name, (Made,), {}))
    workspaces.Workspace, workspaces.Metric = workspace, lambda name: name
    for name in ("LinePlot", "MediaBrowser", "BarPlot", "WeavePanelSummaryTable"):
        setattr(panels, name, type(name, (Made,), {}))
    reports = ModuleType("reports")
    root.workspaces, root.reports, reports.v2 = workspaces, reports, panels
    for name, module in (("", root), (".workspaces", workspaces), (".reports", reports), (".reports.v2", panels)):
        monkeypatch.setitem(sys.modules, f"wandb_workspaces{name}", module)
    import wandb

    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(default_entity="me"))
    return old


def test_a_new_workspace_holds_all_panels(package):
    made = dashboard.workspace(DEFINITION, "me", "faces", ["grid_s1", "grid_s1-reading"])
    built = [panel for section in made.sections for panel in section.panels]
    assert len(built) == len(PANELS) + 1  # two boards in place of one panel
    assert [panel.table_name for panel in built[-2:]] == ["leaderboard/grid_s1", "leaderboard/grid_s1-reading"]
    assert built[0].media_keys == ["strips/0", "strips/1", "strips/2", "strips/3"]
    lines = [panel for panel in built if type(panel).__name__ == "LinePlot"]
    assert {panel.x for panel in lines} == {"trainer/global_step"}
    assert all(bool(panel.y) != bool(panel.metric_regex) for panel in lines)
    assert made.runset_settings.groupby == ["Group"]
    assert not made.saved


def test_a_workspace_is_put_up_and_replaced(package, shown, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    code, out, _ = shown("--project", "faces")
    assert code == 0
    assert "no records in leaderboards/results, so there is no leaderboard" in out
    assert "lipbench dashboard --workspace 'https://wandb.ai/me/faces?nw=new'" in out
    assert not package.saved
    code, out, _ = shown("--workspace", "https://wandb.ai/me/faces?nw=old")
    assert code == 0
    assert package.saved == 1
    assert (package.name, len(package.sections)) == (DEFINITION.name, len(DEFINITION.sections))
    assert package.runset_settings.groupby == ["Group"]
    assert package.runset_settings.filters == "State = 'finished'"  # what the definition does not speak of stays


def test_the_package_itself_takes_the_definition(monkeypatch):
    workspaces = pytest.importorskip("wandb_workspaces.workspaces")
    made = dashboard.workspace(DEFINITION, "me", "faces", ["grid_s1"])
    assert isinstance(made, workspaces.Workspace)
    spec = made._spec["spec"]["section"]
    assert [own["name"] for own in spec["panelBankConfig"]["sections"]] == [own.name for own in DEFINITION.sections]
    assert spec["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]
    assert spec["settings"]["xAxis"] == "trainer/global_step"
    sent = json.dumps(spec)
    for panel in PANELS:
        assert all(json.dumps(name) in sent for name in panel.names)
        assert json.dumps(panel.pattern) in sent


def test_the_definition_is_no_recipe():
    assert dashboard.default() not in discovery.recipes()
