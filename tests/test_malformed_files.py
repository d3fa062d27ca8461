"""Checkpoints and weights files that are damaged or made to do harm, through every command that reads them.

Nothing in them is run or imported, nothing ends in a traceback, and nothing is lost.
"""

import io
import json
import os
import pickle
import random
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lipbench import cli
from lipbench.pretrained import weights
from lipbench.pretrained.published import KNOWN
from lipbench.training import checkpoints

sys.path.append(str(Path(__file__).parent / "data"))
from made_up_store import make_store

pytestmark = pytest.mark.filterwarnings("ignore")  # a warning about a bad file is no error

PARALIP = {
    "class_path": "lipbench.models.paralip.ParaLip",
    "init_args": {
        "size": [12, 24],
        "hidden": 8,
        "layers": 1,
        "ffn": 8,
        "encoder_widths": [4, 4],
        "decoder_widths": [4, 4, 4, 4],
        "window": 2,
        "ema_decay": 0.9,
    },
}
WAV2LIP = {
    "class_path": "lipbench.models.wav2lip.Wav2Lip",
    "init_args": {
        "size": 12,
        "widths": [12, 8, 8],
        "residuals": [0, 0],
        "decoder_widths": [8, 8, 8],
        "decoder_residuals": 0,
        "audio_widths": [4, 4, 6, 8],
        "audio_residuals": [0, 0, 0, 0],
        "hidden": 8,
    },
}


class World:
    """A store, recipes, a small checkpoint, and the marker that nothing may leave behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marker = folder / "harm-was-done"
        ids = [f"rendered/s{s}/clip{k}" for s in (1, 2, 3) for k in range(8)]
        self.store = make_store(folder / "store", ids, [20] * len(ids), "rendered")
        self.checkpoint = folder / "good.ckpt"

    def recipe(self, model: dict[str, Any]) -> str:
        path = self.folder / f"{model['class_path'].rpartition('.')[2]}.yaml"
        trainer = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
        data = {"store": str(self.store), "batch_size": 2, "num_workers": 0, "limit_test": 1}
        content = {
            "model": model,
            "data": {"class_path": "lipbench.corpora.rendered.Rendered", "init_args": data},
            "trainer": trainer | {"max_steps": 3, "num_sanity_val_steps": 0, "limit_val_batches": 1},
            "tracking": {"strips": 0},
        }
        path.write_text(yaml.safe_dump(content))
        return str(path)

    def commands(self) -> dict[str, Callable[[Path], list[str]]]:
        """Every command that reads a checkpoint."""
        recipe = self.recipe(PARALIP)
        face = str(self.folder / "face.png")

        def trainer(name: str, *more: str) -> Callable[[Path], list[str]]:
            return lambda path: [name, "--config", recipe, "--ckpt_path", str(path), *more]

        return {
            "resume": trainer("fit", "--trainer.max_steps", "4"),
            "init_from": lambda path: ["fit", "--config", recipe, "--model.init_from", str(path)],
            "validate": trainer("validate"),
            "test": trainer("test", "--evaluator.metrics", "[mouth/psnr]", "--evaluator.calibration", "false"),
            "predict": trainer("predict"),
            "generate": lambda path: ["generate", "--ckpt_path", str(path), "--image", face, "--text", "bin blue"],
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("malformed"))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(made.folder / "face.png")
    before = Path.cwd()
    os.chdir(made.folder)
    assert cli.main(["fit", "--config", made.recipe(PARALIP), "--trainer.default_root_dir", "first"]) == 0
    os.chdir(before)
    (last,) = made.folder.glob("first/*/version_0/checkpoints/last.ckpt")
    made.checkpoint.write_bytes(last.read_bytes())
    return made


@pytest.fixture(autouse=True)
def _elsewhere(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIPBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def refused(words: list[str], file: Path, world: World, capsys: pytest.CaptureFixture[str], what: str) -> int:
    """Run a command on a bad file: a sentence and no harm. Returns the exit code."""
    before = file.read_bytes()
    capsys.readouterr()
    code = cli.main(words)  # whatever it raises would be a traceback
    said = capsys.readouterr().err
    assert code in (0, 1, 2), (what, code)
    assert not world.marker.exists(), what
    assert file.read_bytes() == before, what
    if code:
        last = said[said.rindex("lipbench: ") :]
        assert "Traceback" not in said, what
        assert "weights_only" not in said, what
        assert "(raised in" not in last, (what, last)
        assert len(last) > 30, (what, last)
    return code


# ------------------------------------------------------------------------------------------------------------- damaged


def whole_files(good: Path) -> dict[str, Callable[[Path], object]]:
    """Files that are something else altogether, and what writes them."""
    content = torch.load(good, weights_only=True)

    def zipped(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")

    def without(*keys: str) -> Callable[[Path], None]:
        return lambda path: torch.save({k: v for k, v in content.items() if k not in keys}, path)

    def spoiled(path: Path) -> None:
        torch.save(content | {"state_dict": {k: v * torch.nan for k, v in content["state_dict"].items()}}, path)

    def other_size(path: Path) -> None:
        torch.save(content | {"hyper_parameters": content["hyper_parameters"] | {"hidden": 16}}, path)

    def huge(path: Path) -> None:
        torch.save(content | {"hyper_parameters": content["hyper_parameters"] | {"hidden": 1 << 30}}, path)

    def claims(path: Path) -> None:
        wide = {k: torch.zeros(1).expand(1 << 40) for k in content["state_dict"]}
        torch.save(content | {"state_dict": wide}, path)

    return {
        "empty": lambda path: path.write_bytes(b""),
        "a web page": lambda path: path.write_text("<!DOCTYPE html><html>404</html>"),
        "text": lambda path: path.write_text("not a checkpoint\n" * 20),
        "a list": lambda path: torch.save([1, 2, 3], path),
        "{}": lambda path: torch.save({}, path),
        "a tensor": lambda path: torch.save(torch.zeros(3), path),
        "another zip": zipped,
        "an older format": lambda path: torch.save(content, path, _use_new_zipfile_serialization=False),
        "half": lambda path: path.write_bytes(good.read_bytes()[: good.stat().st_size // 2]),
        "no weights": without("state_dict"),
        "no arguments": without("hyper_parameters"),
        "not of lipbench": without("lipbench"),
        "NaN": spoiled,
        "another size": other_size,
        "a size beyond any memory": huge,
        "tensors beyond any memory": claims,
    }


def test_files_that_are_something_else(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read once by what all commands read with, and each by one command in turn; the NaN by all of them."""
    commands = world.commands()
    for number, (what, write) in enumerate(whole_files(world.checkpoint).items()):
        path = tmp_path / "bad.ckpt"
        write(path)
        names = list(commands) if what in ("NaN", "empty") else [list(commands)[number % len(commands)]]
        if "size" in what and "init_from" in names:
            names = ["test"]  # its arguments are not looked at in a warm start
        for name in names:
            assert refused(commands[name](path), path, world, capsys, f"{what}: {name}") in (1, 2)
    assert not list(tmp_path.rglob("*.mp4"))


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in nested dictionaries and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, item in items for p in ((*path, key), *nodes(item, (*path, key)))]


def mutated(content: dict[str, Any], draw: random.Random) -> str:
    """Change one thing in a checkpoint, in place; what, in words."""
    tops = draw.choice([key for key in content if key != "pytorch-lightning_version"])
    inside = [path for path in nodes(content) if path[0] == tops]
    path = draw.choice(inside)
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    key, old = path[-1], holder[path[-1]]
    wrong: list[Any] = [None, "x", -1, 10**13, float("nan"), [], {}, torch.zeros(3), True, b"x", [[[]]], {"a": {}}]
    if isinstance(old, torch.Tensor) and old.is_floating_point():
        wrong += [old * torch.nan, old.flatten()[:-1], old[None], old.to_sparse(), old.to(torch.complex64)]
    if draw.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
        return f"{path} deleted"
    holder[key] = draw.choice(wrong)
    return f"{path} = {str(holder[key])[:40]}"


def damaged(good: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Change bytes of a file."""
    at = draw.randrange(len(good))
    kind = draw.choice(["cut", "flip", "zeros", "inserted", "swapped"])
    changed = {
        "cut": good[:at],
        "flip": good[:at] + bytes([good[at] ^ (1 << draw.randrange(8))]) + good[at + 1 :],
        "zeros": good[:at] + bytes(min(512, len(good) - at)) + good[at + 512 :],
        "inserted": good[:at] + b"lipbench" + good[at:],
        "swapped": good[at:] + good[:at],
    }[kind]
    return changed, f"{kind} at {at}"


def test_a_hundred_mutated_checkpoints(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is read as all commands read it; those that pass that, and every eighth, go through a command."""
    commands = world.commands()
    good = world.checkpoint.read_bytes()
    counts = {"read": 0, "refused": 0}
    for seed in range(112):
        draw = random.Random(seed)
        path = tmp_path / f"{seed}.ckpt"
        if seed % 3 == 0:
            changed, what = damaged(good, draw)
            path.write_bytes(changed)
        else:
            content = torch.load(world.checkpoint, weights_only=True)
            what = mutated(content, draw)
            torch.save(content, path)
        name = list(commands)[seed % len(commands)]
        try:
            checkpoints.read(path)
            sound = True
        except ValueError:
            sound = False
        counts["read" if sound else "refused"] += 1
        if sound or seed % 8 == 0:
            code = refused(
                commands["resume" if sound and seed % 2 else name](path), path, world, capsys, f"{seed}: {what}"
            )
            assert code or sound, (seed, what)
        path.unlink()
    assert counts["refused"] > 40  # the mutations do reach something
    assert world.checkpoint.read_bytes() == good


# ----------------------------------------------------------------------------------------------------------- malicious


class Harm:
    """What a pickle would run: it leaves the marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def malicious_checkpoints(world: World, folder: Path) -> dict[str, Path]:
    """Files that would run code, import a module or remove files, if anything in them were believed."""
    (folder / "made_up_module.py").write_text(
        f"from pathlib import Path\nPath({str(world.marker)!r}).touch()\n"
        "from lipbench.models.paralip import ParaLip\nclass Evil(ParaLip): pass\n"
    )
    content = torch.load(world.checkpoint, weights_only=True)
    arguments, meta = content["hyper_parameters"], content["lipbench"]
    evil = "made_up_module.Evil"
    made: dict[str, Any] = {
        "pickled": Harm(world.marker),
        "pickled inside": content | {"callbacks": {"x": Harm(world.marker)}},
        "class path": content | {"hyper_parameters": arguments | {"_class_path": evil}},
        "class": content | {"lipbench": meta | {"class": evil}},
        "both": content | {"hyper_parameters": arguments | {"_class_path": evil}, "lipbench": meta | {"class": evil}},
        "instantiator": content | {"hyper_parameters": arguments | {"_instantiator": "made_up_module.Evil"}},
        "argument": content | {"hyper_parameters": arguments | {"init_from": {"class_path": evil}}},
    }
    paths = {}
    for what, value in made.items():
        paths[what] = folder / f"{what.replace(' ', '-')}.ckpt"
        torch.save(value, paths[what])
    paths["older pickle"] = folder / "older.ckpt"
    paths["older pickle"].write_bytes(pickle.dumps(Harm(world.marker)))
    paths["bomb"] = folder / "bomb.ckpt"
    with zipfile.ZipFile(paths["bomb"], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(1 << 24))
        archive.writestr("../../escaped/data.pkl", b"")
    return paths


def test_nothing_in_a_checkpoint_is_run_or_imported(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    commands = world.commands()
    for what, path in malicious_checkpoints(world, tmp_path).items():
        for name, words in commands.items():
            code = refused(words(path), path, world, capsys, f"{what}: {name}")
            # A warm start reads weights only; what "instantiator" names is never asked.
            assert code or name == "init_from" or what == "instantiator", (what, name)
    assert "made_up_module" not in sys.modules


def test_a_configuration_beside_a_checkpoint_imports_nothing(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`test --ckpt_path FILE` alone takes the config.yaml beside it, which came with the file."""
    monkeypatch.syspath_prepend(tmp_path)
    malicious_checkpoints(world, tmp_path)
    path = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(world.checkpoint.read_bytes())
    recipe = yaml.safe_load(Path(world.recipe(PARALIP)).read_text())
    for change in (
        {"model": recipe["model"] | {"class_path": "made_up_module.Evil"}},
        {"data": "made_up_module.Evil"},
        {"trainer": recipe["trainer"] | {"callbacks": [{"class_path": "made_up_module.Evil"}]}},
        {"trainer": recipe["trainer"] | {"logger": "made_up_module.Evil"}},
    ):
        (tmp_path / "version_0" / "config.yaml").write_text(yaml.safe_dump(recipe | change))
        assert refused(["test", "--ckpt_path", str(path)], path, world, capsys, str(change)) == 2
    assert "made_up_module" not in sys.modules


def test_files_that_a_checkpoint_names_are_not_removed(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was best so far is removed when something better comes; whose name stands in the checkpoint."""
    run = tmp_path / "runs" / "paralip_rendered" / "version_0" / "checkpoints"
    run.mkdir(parents=True)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.ckpt").write_text("years")
    content = torch.load(world.checkpoint, weights_only=True)
    (key,) = (key for key in content["callbacks"] if key.startswith("ModelCheckpoint"))
    names = [f"{run}/../../../../precious/thesis.ckpt", f"{run}/../../../../precious"]
    for name in names:
        score = torch.tensor(1e9)
        content["callbacks"][key] |= {
            "dirpath": str(run),
            **dict.fromkeys(("best_model_path", "kth_best_model_path"), name),
            **dict.fromkeys(("best_model_score", "kth_value"), score),
            "best_k_models": {name: score},
        }
        torch.save(content, run / "last.ckpt")
        words = ["fit", "--config", world.recipe(PARALIP), "--ckpt_path", str(run / "last.ckpt")]
        assert cli.main([*words, "--trainer.max_steps", "6"]) == 0
        assert (precious / "thesis.ckpt").read_text() == "years"
    io_ = checkpoints.CheckpointFiles()
    io_.remove_checkpoint(precious)
    assert precious.is_dir()
    assert capsys.readouterr()


def malicious_weights(world: World, folder: Path) -> dict[str, Path]:
    """Weights files of the same kinds, as pickles and as safetensors."""
    from safetensors.torch import save

    card: dict[str, Any] = {
        "format": 1,
        "architecture": "wav2lip.Expert",
        "arguments": {"size": 24, "widths": [8] * 4, "residuals": [0] * 3, "audio_widths": [8] * 4},
        "view": {"name": "face", "height": 24, "width": 24},
        "trained_on": "",
        "vocabulary": [],
        "version": "1",
    }

    def tensors(**change: Any) -> bytes:
        return bytes(save({"a": torch.zeros(2)}, {"lipbench": json.dumps(card | change)}))

    whole = tensors()
    (size,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + size])
    header["a"]["data_offsets"] = [0, 1 << 40]
    lie = json.dumps(header).encode()
    buffer = io.BytesIO()
    torch.save({"a": Harm(world.marker)}, buffer)
    contents = {
        "pickled.pt": buffer.getvalue(),
        "older.pt": pickle.dumps({"a": Harm(world.marker)}),
        "pickled.safetensors": buffer.getvalue(),
        "empty.safetensors": b"",
        "page.safetensors": b"<html></html>",
        "cut.safetensors": whole[:-3],
        "offsets.safetensors": struct.pack("<Q", len(lie)) + lie + bytes(8),
        "header.safetensors": struct.pack("<Q", 1 << 60) + whole[8:],
        "module.safetensors": tensors(architecture="made_up_module.Evil"),
        "path.safetensors": tensors(architecture="../made_up_module.Evil"),
        "huge.safetensors": tensors(arguments=card["arguments"] | {"widths": [1 << 30] * 4}),
        "other.safetensors": tensors(arguments=[1, 2]),
        "deep.safetensors": bytes(save({"a": torch.zeros(2)}, {"lipbench": "[" * 5000})),
        "strange.safetensors": whole,
        "nan.pt": b"",
        "list.pt": b"",
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = folder / name
        paths[name].write_bytes(content)
    torch.save({"a": torch.full((3,), torch.nan)}, paths["nan.pt"])
    torch.save([1], paths["list.pt"])
    return paths


def test_nothing_in_a_weights_file_is_run_or_imported(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    paths = malicious_weights(world, tmp_path)
    (tmp_path / "made_up_module.py").write_text(f"from pathlib import Path\nPath({str(world.marker)!r}).touch()\n")
    recipe = world.recipe(WAV2LIP)
    vocabulary = tmp_path / "dict.wrd.txt"
    vocabulary.write_text("a 1\n")
    for number, (what, path) in enumerate(paths.items()):
        out = tmp_path / "out.safetensors"
        words = [["weights", "verify", str(path)]] if path.suffix == ".safetensors" else []
        if path.suffix == ".pt":
            words += [["weights", "convert", name, str(path), str(out)] for name in ("lipnet", "syncnet")]
            words += [["weights", "convert", "avhubert", str(path), str(out), "--vocabulary", str(vocabulary)]]
            known = path.with_name(list(KNOWN.values())[number % len(KNOWN)].file.replace("*", "x"))
            known.write_bytes(path.read_bytes())
            words += [["weights", "verify", str(known)]]
        if number % 3 == 0:
            words += [["fit", "--config", recipe, "--model.expert", str(path)]]
        for command in words:
            code = refused(command, path, world, capsys, f"{what}: {command[:2]}")
            assert code in (1, 2), (what, command)
        assert not out.exists()
    assert "made_up_module" not in sys.modules


@pytest.mark.parametrize("what", ["pickled.pt", "module.safetensors", "nan.pt"])
def test_bad_observers_leave_empty_cells(
    what: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A metric without its observer is an empty cell with a reason; the other metrics are scored."""
    monkeypatch.syspath_prepend(tmp_path)
    path = malicious_weights(world, tmp_path)[what]
    picture = Image.fromarray(np.full((64, 64, 3), 90, np.uint8))
    for side in ("made", "true"):
        (tmp_path / side / "a").mkdir(parents=True)
        for k in range(3):
            picture.save(tmp_path / side / "a" / f"{k}.png")
    files = [
        w
        for name in ("lpips", "transcript", "syncnet", "identity", "i3d", "inception")
        for w in (f"--files.{name}", str(path))
    ]
    words = ["evaluate", "--generated", "made", "--reference", "true", "--fps", "25", "--workers", "0"]
    refused([*words, "--no-calibration", *files], path, world, capsys, what)
    recipe = world.recipe(PARALIP)
    files = [w for name in ("transcript", "syncnet") for w in (f"--evaluator.files.{name}", str(path))]
    words = ["test", "--config", recipe, "--ckpt_path", str(world.checkpoint), "--evaluator.calibration", "false"]
    refused([*words, "--evaluator.metrics", "[mouth/psnr,wer,lse_c]", *files], path, world, capsys, what)


# -------------------------------------------------------------------------------------------------- the reader itself


def test_the_readers_take_tensors_only(monkeypatch: pytest.MonkeyPatch, world: World, tmp_path: Path) -> None:
    """Every call of torch.load says so; with `weights_only=False` a pickle would run."""
    harm = tmp_path / "harm.pt"
    torch.save({"a": Harm(world.marker)}, harm)
    asked = []
    load = torch.load

    def watched(*arguments: Any, **options: Any) -> Any:
        asked.append(options.get("weights_only"))
        return load(*arguments, **(options | {"weights_only": True}))

    monkeypatch.setattr(torch, "load", watched)
    for read in (checkpoints.read, weights.read_published, checkpoints.CheckpointFiles().load_checkpoint):
        with pytest.raises(ValueError, match="nothing in it was run"):
            read(harm)
    with pytest.raises(ValueError, match="nothing in it was run"):
        checkpoints.CheckpointFiles().load_checkpoint(harm, weights_only=False)
    assert asked == [True] * 4
