"""evaluate as it is typed; what it does to videos is tested with the evaluation layer."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest

from lipbench import cli
from lipbench.data import protocol
from lipbench.data import store as stores

QUICK = ["--metrics", "[mouth/psnr,", "native/psnr]", "--workers", "0"]


@pytest.fixture
def corpus(here):
    return here.home / "corpora" / "rendered"


def test_a_protocols_videos_stand_beside_a_trained_model(here, corpus, capsys):
    """Generated are the corpus' own files, training clips among them: only test clips count, and all are perfect."""
    words = ["--config", str(here.recipe), "--ckpt_path", "last", "--trainer.default_root_dir", str(here.runs)]
    metrics = "[mouth/psnr,native/psnr]"
    assert cli.main(["test", *words, "--evaluator.metrics", metrics, "--evaluator.controls", "false"]) == 0
    capsys.readouterr()
    words = ["--generated", str(corpus / "video"), "--protocol", "rendered/seen", "--timing", "given"]
    assert cli.main(["evaluate", *words, "--name", "copies", *QUICK]) == 0
    told = capsys.readouterr().out
    assert "rendered/seen: copies" in told
    assert "ground-truth" in told
    (path,) = Path("leaderboards/results/rendered/seen/copies").glob("*.json")
    content = json.loads(path.read_text())
    store = stores.Store(here.home / "stores" / "rendered")
    test = protocol.load("rendered/seen").split(store.clip_ids).test
    assert content["clips"]["n"] == len(test) > 0
    assert content["scores"]["native/psnr"]["value"] == 100
    assert content["scores"]["mouth/psnr"]["value"] == 100
    table = pd.read_csv(path.with_suffix(".csv"))
    assert table["clip_id"].tolist() == list(test)
    assert cli.main(["compare"]) == 0
    (board,) = Path("leaderboards").glob("*.csv")  # one table
    ranked = pd.read_csv(board).query("kind == 'model'")
    assert dict(zip(ranked["model"], ranked["rank"], strict=True)) == {"copies": 1, "paralip": 2}


def test_what_predict_writes_scores_as_test_does(here, capsys):
    words = ["--config", str(here.recipe), "--ckpt_path", "last", "--trainer.default_root_dir", str(here.runs)]
    more = ["--evaluator.controls", "false", "--evaluator.calibration", "false"]
    assert cli.main(["test", *words, *more, "--evaluator.metrics", "[mouth/psnr,native/psnr]"]) == 0
    words[-1] = "runs"
    assert cli.main(["predict", *words[:2], "--ckpt_path", str(here.checkpoint), *words[-2:]]) == 0
    (folder,) = {path.parent.parent for path in Path("runs").rglob("videos/rendered/s1/*.mp4")}
    words = ["--generated", str(folder), "--protocol", "rendered/seen", "--view", "mouth", "--name", "played"]
    assert cli.main(["evaluate", *words, "--no-calibration", *QUICK]) == 0
    (model,) = Path("leaderboards/results/rendered/seen/paralip").glob("*.json")
    (played,) = Path("leaderboards/results/rendered/seen/played").glob("*.json")
    model, played = (json.loads(path.read_text()) for path in (model, played))
    assert played["view"] == model["view"] == "mouth 16x32"
    for name in ("mouth/psnr", "native/psnr"):
        assert played["scores"][name]["value"] == pytest.approx(model["scores"][name]["value"], abs=0.3)  # H.264


def test_names_of_files_are_but_text(here, corpus, capsys):
    """Neither the terminal nor a spreadsheet acts on what a clip is called."""
    clip = next((corpus / "video" / "s1").glob("*.mpg"))
    for name in ("=cmd()", "@x", "[bold]y", "z\x1b[31m"):
        for folder in ("true", "made"):
            Path(folder).mkdir(exist_ok=True)
            shutil.copy(clip, Path(folder, f"{name}.mpg"))
    Path("made", "@x.mpg").write_bytes(b"")
    Path("made", "z\x1b[31m.mpg").write_bytes(b"")
    assert cli.main(["evaluate", "--generated", "made", "--reference", "true", "--no-calibration", *QUICK]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "z\\x1b[31m: " in told
    shutil.rmtree("made")
    Path("made").mkdir()
    Path("made", "z\x1b[31m.mpg").write_bytes(b"")
    assert cli.main(["evaluate", "--generated", "made", "--reference", "true", "--partial", *QUICK]) == 1
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    assert "none of the 1 clips could be scored; z\\x1b[31m: " in told.err
    (path,) = Path("leaderboards/results/evaluate/true/made").glob("*.csv")
    assert sorted(pd.read_csv(path)["clip_id"]) == ["'=cmd()", "'@x", "[bold]y", "z\\x1b[31m"]


def test_synchrony_of_own_videos_by_the_name_of_a_syncnet(here, corpus, capsys):
    clip = next((corpus / "video" / "s1").glob("*.mpg"))
    for folder in ("true", "made"):
        Path(folder).mkdir()
        shutil.copy(clip, folder)
    words = ["--generated", "made", "--reference", "true", "--no-calibration", "--metrics", "sync", "--workers", "0"]
    assert cli.main(["evaluate", *words]) == 1
    told = capsys.readouterr()
    assert "nothing that was asked for can be computed. lse_c, lse_d, av_offset: LSE needs a SyncNet" in told.err
    assert not Path("leaderboards").exists()
    option = re.search(r"--files\.syncnet 'syncnet-small\[rendered\]'", told.err)[0]  # it says what to type
    assert cli.main(["evaluate", *words, *shlex.split(option)]) == 0
    (path,) = Path("leaderboards/results/evaluate/true/made").glob("*.json")
    assert json.loads(path.read_text())["scores"]["lse_d"]["n"] == 1
    assert cli.main(["evaluate", *words, "--files.syncnet", "syncnet-small"]) == 1
    assert "Did you mean 'syncnet-small[" in capsys.readouterr().err


def test_a_table_of_empty_columns_is_no_success(here, corpus, capsys):
    """Written and shown all the same: that no text is known is a result too."""
    clip = next((corpus / "video" / "s1").glob("*.mpg"))
    for folder in ("true", "made"):
        Path(folder).mkdir()
        shutil.copy(clip, folder)
    words = ["--generated", "made", "--reference", "true", "--no-calibration", "--metrics", "[wer,cer]"]
    weights = ["--files.transcript", "lipresnet-small[rendered]", "--workers", "0"]
    assert cli.main(["evaluate", *words, *weights]) == 1
    told = capsys.readouterr()
    assert "every column that was asked for is empty. wer, cer: 1 of 1 clips have no text (--text" in told.err
    assert "record: leaderboards/results/evaluate/true/made/" in told.out
    assert len(list(Path("leaderboards/results/evaluate/true/made").glob("*.json"))) == 1


def test_missing_and_broken_clips_are_told(here, corpus, capsys):
    clips = sorted((corpus / "video" / "s1").glob("*.mpg"))[:3]
    for folder, kept in (("true", clips), ("made", clips[:1])):
        Path(folder).mkdir()
        for clip in kept:
            shutil.copy(clip, folder)
    Path("made", clips[1].name).write_bytes(b"")
    words = ["--generated", "made", "--reference", "true", "--no-calibration"]
    assert cli.main(["evaluate", *words, *QUICK]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "evaluate/true: made, 3 clips, face 256x256" in told
    assert "2 of 3 videos are not there or cannot be used" in told
    assert f"{clips[1].stem}: {clips[1].name} is empty (0 bytes)" in told
    assert f"{clips[2].stem}: no generated video of this name" in told
    assert cli.main(["evaluate", *words, *QUICK, "--partial", "--name", "some"]) == 0
    assert "evaluate/true: some, 2 clips" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--generated", "made"], 2, "where are the references?"),
        (["--reference", "true"], 2, "--generated"),
        (["--generated", "none", "--reference", "true"], 1, "no folder none"),
        (["--generated", "made", "--reference", "true"], 1, "no videos in made"),
        (["--generated", "made", "--protocol", "grid/s1"], 1, "lipbench prepare --data grid --root DIR"),
        (["--generated", "made", "--protocol", "rendered/sene"], 1, "no protocol 'rendered/sene'"),
        (["--generated", "made", "--protocol", "rendered/seen"], 1, "no videos in made"),
        (["--generated", "made", "--reference", "true", "--view", "moth"], 2, "Did you mean 'mouth'?"),
        (["--generated", "made", "--reference", "true", "--workers", "-1"], 2, "expected 0 or more"),
        (["--generated", "made", "--refrence", "true"], 2, "Did you mean '--reference'?"),
    ],
)
def test_wrong_input(here, capsys, words, code, expected):
    for folder in ("made", "true"):
        Path(folder).mkdir()
    assert cli.main(["evaluate", *words]) == code
    told = capsys.readouterr().err
    assert expected in told
    assert "Traceback" not in told


def test_help_lists_what_there_is(capsys):
    assert cli.main(["evaluate", "--help"]) == 0
    told = capsys.readouterr().out
    assert "--files.syncnet" in told
    assert "rm -r OUT/PROTOCOL/NAME" in " ".join(told.split())
    assert "score videos that any other system made" in told


def test_every_weights_file_has_an_option():
    from lipbench.commands import evaluate
    from lipbench.scoring.observers import MAKE

    need_none = {"landmarks", "guide_landmarks", "lower_face"}
    assert set(evaluate.WEIGHTS) == {"lpips", *MAKE} - need_none - {"whole_syncnet"}  # which takes syncnet's
