"""Names of what is built in, of what other packages install, and of classes; listing them imports nothing."""

import sys

import pytest

import foreign
from lipbench import cli, discovery
from lipbench.errors import UsageError

MODULE = '''\
"""Blinker: made up."""
from lipbench.models.paralip import ParaLip
from lipbench.training.generative import GenerativeModel
class Blinker(ParaLip):
    """Nothing of its own."""
class _Shared(ParaLip): ...
class _Silent(GenerativeModel): ...
VALUE = 3
class Plain: ...
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with a model, twice: where it is defined, and where it is imported."""
    files = {"made_up/__init__.py": "from made_up.models import Blinker\n", "made_up/models.py": MODULE}
    points = {"blinker": "made_up.models:Blinker", "paralip": "made_up.models:Blinker", "gone": "made_up.gone:X"}
    foreign.install(tmp_path, monkeypatch, files, {"lipbench.models": points})


@pytest.mark.usefixtures("installed")
def test_files_are_found_without_importing_them(tmp_path):
    found = discovery.files("model")
    assert found["blinker"] == tmp_path / "made_up" / "models.py"
    assert discovery.summary(found["blinker"]) == "Blinker: made up."
    assert "blinker" not in discovery.built_in("model")
    assert "made_up" not in sys.modules
    assert discovery.package_of("model", "blinker") == "made_up 1.0"
    assert discovery.package_of("model", "paralip") == ""


@pytest.mark.usefixtures("installed")
def test_a_name_that_is_taken_or_leads_nowhere_is_told():
    assert discovery.files("model")["paralip"] == discovery.PACKAGE / "models" / "paralip.py"
    assert "gone" not in discovery.files("model")
    gone, taken = discovery.conflicts("model")
    assert "made_up.gone:X of the package made_up, called 'gone', has no module made_up.gone" in gone
    assert "like one of lipbench: use --model made_up.models.Blinker" in taken


@pytest.mark.usefixtures("installed")
def test_classes_are_loaded_by_either_name():
    own = discovery.load("model", "blinker")
    assert own.__name__ == "Blinker"
    assert discovery.load("model", "made_up.models.Blinker") is own
    assert discovery.load("model", "made_up.Blinker") is own
    assert discovery.load("model", "lipbench.models.paralip.ParaLip") is discovery.load("model", "paralip")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blinkre", "unknown --model 'blinkre'. Did you mean 'blinker'?"),
        ("made_up.models.Blinkre", "Did you mean 'made_up.models.Blinker'?"),
        ("made_up.models.Plain", "is a class based on object; expected a class based on lipbench.training.base.Bench"),
        ("made_up.models._Silent", "defines no build_optimizers and no compute_step and no generate and no needs; "),
        ("made_up.models.VALUE", "is a int; expected a class"),
        ("made_upp.models.Blinker", "no module 'made_upp' is installed or lies in "),
        ("made_up.nowhere.Blinker", "no module 'made_up.nowhere' is installed or lies in "),
    ],
)
@pytest.mark.usefixtures("installed")
def test_what_is_no_model_is_told(name, expected):
    with pytest.raises(UsageError) as error:
        discovery.load("model", name)
    assert expected in str(error.value)


def test_a_class_in_the_current_folder_needs_no_installation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "lying_here.py").write_text(MODULE)
    assert discovery.load("model", "lying_here.Blinker").__module__ == "lying_here"


def test_what_a_module_itself_lacks_is_another_error(tmp_path, monkeypatch):
    foreign.install(tmp_path, monkeypatch, {"made_up/__init__.py": "", "made_up/models.py": "import not_there\n"})
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        discovery.load("model", "made_up.models.Blinker")


@pytest.mark.usefixtures("installed")
def test_short_names_of_classes():
    paralip = discovery.load("model", "paralip")
    assert discovery.short_name("model", paralip) == "paralip"
    assert discovery.short_name("model", "lipbench.models.paralip.ParaLip") == "paralip"
    assert discovery.short_name("model", "lipbench.models.nowhere.X") == "lipbench.models.nowhere.X"
    assert "made_up" not in sys.modules
    assert discovery.short_name("model", "elsewhere.models.X") == "elsewhere.models.X"
    assert discovery.short_name("model", "made_up.models.Blinker") == "blinker"
    assert "made_up" not in sys.modules
    assert discovery.short_name("model", discovery.load("model", "blinker")) == "blinker"
    assert discovery.short_name("model", "made_up.models.Other") == "made_up.models.Other"


def test_an_entry_point_may_name_a_class_where_it_is_imported(tmp_path, monkeypatch):
    files = {"made_up/__init__.py": "from made_up.models import Blinker\n", "made_up/models.py": MODULE}
    foreign.install(tmp_path, monkeypatch, files, {"lipbench.models": {"blinker": "made_up:Blinker"}})
    assert discovery.known("model", "made_up.models.Blinker")
    assert discovery.short_name("model", discovery.load("model", "blinker")) == "blinker"
    assert not discovery.known("model", "made_up.models.Other")


def test_an_entry_point_may_name_a_module(tmp_path, monkeypatch):
    files = {"made_up/__init__.py": "", "made_up/models.py": MODULE}
    foreign.install(tmp_path, monkeypatch, files, {"lipbench.models": {"blinker": "made_up.models"}})
    assert discovery.load("model", "blinker").__name__ == "Blinker"


@pytest.mark.parametrize("kind", ["model", "data"])
def test_every_built_in_file_defines_one_class(kind):
    for name in discovery.built_in(kind):
        own = discovery.load(kind, name)
        assert discovery.short_name(kind, own) == name
        assert discovery.known(kind, f"{own.__module__}.{own.__qualname__}")


def test_a_metric_is_the_class_that_is_called_like_its_file():
    assert discovery.load("metric", "wer").__name__ == "WER"
    assert discovery.load("metric", "lipbench.metrics.wer.CER").__name__ == "CER"
    with pytest.raises(TypeError, match="found \\['MotionInSilence', "):
        discovery.load("metric", "motion")


@pytest.mark.usefixtures("installed")
def test_list_shows_them_with_their_package(capsys):
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    models = shown.partition("\n\n")[0].splitlines()[1:]
    (blinker,) = (line for line in models if "Blinker: made up." in line)
    assert blinker.endswith(" Blinker: made up. (made_up 1.0)")
    assert all(line[blinker.index("Blinker:") - 1] == " " for line in models if not line.startswith("  !"))
    assert "made_up.gone" in shown
    assert "made_up" not in sys.modules
