"""What the doctor finds on this machine, and on one that lacks things."""

import shutil

import pytest

from lipbench import cli
from lipbench.commands import doctor
from lipbench.data import store
from lipbench.evaluation import selfcheck
from lipbench.pretrained import bundled


def test_a_working_machine(here, capsys):
    assert cli.main(["doctor", "--data", "rendered"]) == 0
    shown = capsys.readouterr().out
    for name in ("python", "torch", "video", "opencv", "faces (dlib)", "voices (eSpeak NG)"):
        assert f"ok       {name}" in shown
    assert "7 clips in" in shown
    assert str(here.home) in shown


def test_an_unprepared_corpus_says_what_to_type(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path))
    monkeypatch.delenv("LIPBENCH_GRID", raising=False)
    found, remedy = doctor._corpus("grid", closer=False)
    assert "LIPBENCH_GRID not set" in found
    assert remedy == "lipbench prepare --data grid --root DIR"
    monkeypatch.setenv("LIPBENCH_GRID", str(tmp_path / "nowhere"))
    assert "names no folder" in doctor._corpus("grid", closer=False)[1]


def test_weights_that_are_absent_say_what_they_judge_and_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path))
    found, remedy = doctor._weights("i3d")
    assert "fvd" in found
    assert remedy == "lipbench weights fetch i3d"
    found, remedy = doctor._weights("arcface")
    assert "csim" in found
    assert "insightface" in remedy
    place = tmp_path / "weights" / "rgb_imagenet.pt"
    place.parent.mkdir()
    place.touch()
    found, remedy = doctor._weights("i3d")
    assert str(place) in found
    assert remedy == ""


def test_a_laptop_without_data_weights_or_gpu_lacks_nothing_that_is_needed(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("LIPBENCH_GRID", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr()
    needed, _, optional = told.out.partition("Optional")
    assert "MISSING" not in told.out
    assert needed.startswith("Needed:\n")
    assert "absent" not in needed
    for name in ("GPU", "metric lpips", "weights inception", "corpus grid"):
        assert f"absent   {name}" in optional
    assert "All 6 things that are needed are here" in optional.splitlines()[-1]
    assert told.err == ""


def test_a_missing_library_of_the_system(capsys, monkeypatch):
    def broken():
        raise ImportError("libGL.so.1: cannot open shared object file", name="cv2")

    monkeypatch.setattr(doctor, "_opencv", broken)
    assert cli.main(["doctor"]) == 2
    told = capsys.readouterr()
    assert "MISSING  opencv" in told.out
    assert told.out.count("MISSING") == 1
    assert "All " not in told.out
    assert "apt-get install libgl1" in told.out
    assert "this machine lacks what every command needs: opencv" in told.err


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ModuleNotFoundError("No module named 'av'", name="av"), "pip install --force-reinstall av"),
        (RuntimeError("put the weights there"), "put the weights there"),
    ],
)
def test_every_error_becomes_a_remedy(capsys, error, remedy):
    def broken():
        raise error

    assert doctor._report({"thing": broken}, "MISSING") == ["thing"]
    assert f"-> {remedy}" in capsys.readouterr().out


def result(state):
    return selfcheck.Check("noise lowers PSNR", state, "mouth/psnr 100 > 40")


def test_the_metrics_are_checked_instead(capsys, monkeypatch, tmp_path):
    weights = tmp_path / "judge.safetensors"
    weights.touch()
    given = []
    monkeypatch.setattr(selfcheck, "clips", lambda: "clips")
    monkeypatch.setattr(selfcheck, "run", lambda batch, files: given.append((batch, files)) or [result("ok")])
    assert cli.main(["doctor", "--metrics", "--files.syncnet", str(weights)]) == 0
    ((batch, files),) = given
    assert batch == "clips"
    assert files["syncnet"] == str(weights)
    assert files["transcript"] == bundled.judges("rendered/seen")["transcript"]
    assert capsys.readouterr().out == "ok       noise lowers PSNR: mouth/psnr 100 > 40\n"
    assert cli.main(["doctor", "--metrics", "--files.syncnet", "syncnet-small[grid-s1]"]) == 0
    assert given[1][1]["syncnet"] == str(bundled.FOLDER / "syncnet-small[grid-s1].safetensors")


def test_a_failed_check_of_the_metrics_ends_with_2(capsys, monkeypatch):
    monkeypatch.setattr(selfcheck, "clips", lambda: "clips")
    monkeypatch.setattr(selfcheck, "run", lambda batch, files: [result("ok"), result("skipped"), result("FAILED")])
    assert cli.main(["doctor", "--metrics"]) == 2
    told = capsys.readouterr()
    assert "FAILED   noise lowers PSNR" in told.out
    assert "1 of 3 checks of the metrics failed: noise lowers PSNR" in told.err


def test_weights_must_be_there_and_be_of_use(capsys, tmp_path):
    assert cli.main(["doctor", "--metrics", "--files.transcript", str(tmp_path / "absent")]) == 1
    assert "--files.transcript: no such file" in capsys.readouterr().err
    assert cli.main(["doctor", "--files.transcript", str(tmp_path)]) == 2
    assert "goes with --metrics" in capsys.readouterr().err


def test_stores_are_compared_with_their_hashes(here, capsys, monkeypatch, tmp_path):
    """Flipped bits in the store and in a packed copy: the clips are named, with what to type; then all is well."""
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path / "home"))
    shutil.copytree(here.home, tmp_path / "home")
    prepare = ["prepare", "--data", "rendered", "--speakers", "1", "--clips", "7", "--landmarks", "exact"]
    assert cli.main([*prepare, "--pack", "mouth", "20", "40"]) == 0
    stores = tmp_path / "home" / "stores"
    assert cli.main(["doctor", "--data", "rendered"]) == 0
    assert capsys.readouterr().out.count("7 clips of") == 2
    damaged = {}
    for name in ("rendered", "rendered-mouth-20x40"):
        (shard,) = (stores / name / "shards").iterdir()
        clip_id = store.Store(stores / name).clip_ids[3]
        sound = store.Store(stores / name)[clip_id].columns()["sound"].tobytes()
        content = damaged[shard] = shard.read_bytes()
        place = content.index(sound) + 1000
        shard.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert cli.main(["doctor", "--data", "rendered"]) == 2
    told = capsys.readouterr()
    assert told.out.count(f"{clip_id}: its content has another hash") == 2
    assert "-> lipbench prepare --data rendered --landmarks exact --verify" in told.out
    assert "--pack mouth 20 40 --verify" in told.out
    assert "2 damaged files: rendered/shards/" in told.err
    assert cli.main([*prepare, "--pack", "mouth", "20", "40", "--verify"]) == 0
    assert f"made anew: {clip_id}" in capsys.readouterr().out
    assert {shard: shard.read_bytes() for shard in damaged} == damaged
    assert cli.main(["doctor", "--data", "rendered"]) == 0
    (stores / "rendered" / "manifest.json").write_text("[]")
    assert cli.main(["doctor", "--data", "rendered"]) == 2
    assert "manifest.json is damaged" in capsys.readouterr().out
