"""Checkpoint files: written so that none is ever lost, read so that nothing in them is run or believed unchecked.

A checkpoint is what Lightning writes, and an entry "lipbench" beside it. Whoever reads one gets tensors and plain
values whose kinds are checked, or one sentence that says what was found.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor, nn

from lipbench import __version__
from lipbench.files import written_whole
from lipbench.pretrained.weights import check_archive, check_finite, kind_of

SCHEMA: Final = 1
"""Version of what lipbench adds to a checkpoint, under the key "lipbench"."""
DATA: Final = "lipbench_data"
"""Under which a checkpoint says what the model was trained on: name, protocol, and words if they are few."""

_META: Final[dict[str, type | tuple[type, ...]]] = {
    "schema": int,
    "version": str,
    "model": str,
    "class": str,
    "batches": int,
    "seed": (int, type(None)),
}


class CheckpointFiles(TorchCheckpointIO):
    """How Lightning reads and writes checkpoints here: whole or not at all, and without trust.

    Lightning's own writes to the folder for temporary files and moves, which across file systems is a copy: killed in
    it, it leaves an empty file, and on a full disk a cut one, under the final name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401 - Lightning's signature
        """Write beside the target, flush, rename; the previous file stays until then.

        Raises:
            RuntimeError: The file cannot be written.
        """
        with written_whole(Path(path)) as aside, aside.open("wb") as stream:
            try:
                torch.save(checkpoint, stream)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # torch hides what went wrong
                    raise error.__context__ from None
                raise

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,  # noqa: ANN401 - Lightning's signature; always to the CPU here
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read tensors and plain values, whatever `weights_only` says; see `read`."""
        return read(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove one file. Lightning's own removes whole folders, and the name may come from a checkpoint."""
        path = Path(path)
        if path.is_file() and path.suffix == ".ckpt":
            path.unlink()


def trained_on(checkpoint: Mapping[str, Any]) -> str | None:
    """The protocol whose training split a checkpoint was trained on; None if it does not say."""
    data = checkpoint.get(DATA)
    protocol = data.get("protocol") if isinstance(data, dict) else None
    return protocol if isinstance(protocol, str) else None


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint. Only tensors and plain values are read, nothing is executed or imported.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no whole checkpoint of lipbench, a newer one, or its weights are not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; `lipbench fit` writes them below runs/")
    if path.suffix == ".safetensors":
        raise ValueError(f"{path} holds weights of one network, such as a judge; expected a .ckpt file of a model")
    try:
        if kind_of(path) == "other":
            raise ValueError(f"{path} is no file of PyTorch")
        check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except ValueError as error:
        raise ValueError(f"{error}. Expected a .ckpt file that `lipbench fit` wrote") from None
    except Exception as error:  # torch's reader raises a dozen kinds
        raise ValueError(
            # Not torch's own words, which advise to read the file with its code run.
            f"{path} is no checkpoint that can be read, and nothing in it was run ({type(error).__name__}); expected a "
            ".ckpt file that `lipbench fit` wrote"
        ) from None
    _check(content, path)
    return dict(content)


def _check(content: Any, path: Path) -> None:  # noqa: ANN401 - what a file holds
    """Refuse what is no checkpoint of lipbench, part by part."""
    meta = content.get("lipbench") if isinstance(content, dict) else None
    if meta is None:
        found = f"it has no entry 'lipbench', but {_shown(content)}"
        raise ValueError(
            f"{path} was not written by lipbench: {found}. Expected a .ckpt file that `lipbench fit` wrote"
        )
    lacking = {"state_dict", "pytorch-lightning_version"} - set(content)
    if lacking:
        raise ValueError(f"{path} is not whole as `lipbench fit` writes it: it has no entry {sorted(lacking)[0]!r}")
    check_meta(meta, str(path))
    arguments, weights = content.get("hyper_parameters", {}), content["state_dict"]
    other = content["pytorch-lightning_version"]
    whole = isinstance(other, str) and isinstance(content.get("global_step", 0), int)
    if not whole or not isinstance(arguments, dict) or not _plain(arguments):
        raise ValueError(f"{path} is damaged: its arguments or its version are of another kind than `fit` writes")
    for name, tensors in (
        ("state_dict", weights),
        ("current_model_state", content.get("current_model_state", weights)),
    ):
        named = isinstance(tensors, dict) and tensors and all(isinstance(key, str) for key in tensors)
        if not named or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise ValueError(f"{path} is damaged: its entry {name!r} holds {_shown(tensors)}; expected named tensors")
        for key, value in tensors.items():
            if value.layout != torch.strided:  # others have no storage to look at, and are refused below
                continue
            if value.numel() * value.element_size() > max(value.untyped_storage().nbytes(), 8):
                raise ValueError(f"{path} is damaged: {key} claims {value.numel()} values, more than are in the file")
        check_finite(tensors, path)


def arguments(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The arguments that the model of a checkpoint is made with.

    Raises:
        ValueError: It has none.
    """
    if "hyper_parameters" not in content:
        raise ValueError(f"{path} is not whole as `lipbench fit` writes it: it has no entry 'hyper_parameters'")
    return {key: value for key, value in content["hyper_parameters"].items() if not str(key).startswith("_")}


def check_meta(meta: Any, what: str) -> None:  # noqa: ANN401 - what a file holds
    """Check the entry "lipbench".

    Args:
        meta: It.
        what: Whose, for the message.

    Raises:
        ValueError: It is of another kind, or of a newer version.
    """
    if not isinstance(meta, dict):
        raise ValueError(f"{what} is damaged: its entry 'lipbench' holds {_shown(meta)}")
    schema = meta.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise ValueError(
            f"{what} was written by lipbench {meta.get('version')} (schema {schema}); this is {__version__} "
            f"(schema {SCHEMA}): upgrade lipbench"
        )
    for key, kind in _META.items():
        if key not in meta or not isinstance(meta[key], kind) or isinstance(meta[key], bool):
            raise ValueError(f"{what} is damaged: {key!r} of its entry 'lipbench' is {_shown(meta.get(key))}")
    counts = [meta.get(key, 0) for key in ("drawn", "accumulated")]  # absent where gradients were never accumulated
    if not all(isinstance(count, int) and 0 <= count < 1 << 40 for count in counts):
        raise ValueError(f"{what} is damaged: its entry 'lipbench' counts {counts[0]!r} and {counts[1]!r} batches")
    plateaus, own = meta.get("plateaus", {}), {"best": float, "waited": int, "factor": float}
    states = list(plateaus.values()) if isinstance(plateaus, dict) else [plateaus]
    if not all(isinstance(s, dict) and {key: type(value) for key, value in s.items()} == own for s in states):
        raise ValueError(f"{what} is damaged: its entry 'plateaus' holds {_shown(plateaus)}")
    for key in ("frozen", "started"):
        hashes = meta.get(key, {})  # absent before there were such models
        if meta["batches"] < 0 or not isinstance(hashes, dict):
            count = meta["batches"]
            raise ValueError(f"{what} is damaged: its entry 'lipbench' holds {count} batches, {_shown(hashes)}")
        if not all(isinstance(name, str) and isinstance(value, str) for name, value in hashes.items()):
            raise ValueError(f"{what} is damaged: the hashes of its {key} networks are of another kind")


def check_fits(path: Path, content: Mapping[str, Any], kind: type[nn.Module], arguments: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose weights are not those of the model that its arguments make.

    The model is made without memory for it, since damaged arguments may ask for any size.

    Args:
        path: For the message.
        content: From `read`.
        kind: The model's class.
        arguments: With which the class will be made.

    Raises:
        ValueError: It cannot be made, or names or shapes differ.
    """
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            own = kind(**arguments).state_dict()
    except Exception as error:  # the arguments are anything
        if "meta" in str(error):  # a model that looks at values while it is made: only making it for real tells more
            return
        raise ValueError(
            f"{path}: {kind.__name__} cannot be made with the arguments in it ({type(error).__name__}: {error})"
        ) from None
    compare(own, content["state_dict"], str(path))
    if "current_model_state" in content:
        compare(own, content["current_model_state"], str(path))


def compare(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """Check that two sets of weights have the same names and shapes.

    Raises:
        ValueError: They have not; the message says which.
    """
    absent, odd = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    other = [key for key in own if key in given and _kind(given[key]) != _kind(own[key])]
    if absent or odd or other:
        said = [f"{len(absent)} tensors are missing, such as {absent[0]}"] if absent else []
        said += [f"{len(odd)} belong to no layer, such as {odd[0]}"] if odd else []
        said += [
            f"{k} has shape {tuple(given[k].shape)} ({given[k].dtype}), expected {tuple(own[k].shape)} ({own[k].dtype})"
            for k in other[:2]
        ]
        raise ValueError(
            f"{what} does not fit the model of its own arguments: {'; '.join(said)}. It is damaged, or of a version of "
            "lipbench with another network"
        )


def _kind(value: Tensor) -> tuple[torch.Size, bool, bool]:
    return value.shape, value.is_floating_point(), value.is_complex()


def check_resumable(content: Mapping[str, Any], batches: int) -> None:
    """Check what training goes on from, beside the weights.

    Args:
        content: As Lightning hands it to `on_load_checkpoint`.
        batches: That are done.

    Raises:
        ValueError: A part is absent or of another kind.
    """
    lacking = [key for key in ("loops", "callbacks", "optimizer_states", "lr_schedulers") if key not in content]
    if lacking:
        raise ValueError(
            f"it holds weights only (no {lacking[0]!r}), and training cannot go on from them alone. Start a new run "
            "from these weights with --model.init_from in place of --ckpt_path"
        )
    for state in _of(content["optimizer_states"], list, "optimizer_states"):
        moments = _of(_of(state, dict, "optimizer_states").get("state"), dict, "optimizer_states")
        for values in moments.values():
            tensors = {k: v for k, v in _of(values, dict, "optimizer_states").items() if isinstance(v, Tensor)}
            check_finite(tensors, Path("optimizer_states"))
        for group in _of(state.get("param_groups"), list, "optimizer_states"):
            _of(_of(group, dict, "param_groups").get("params"), list, "params")
    for state in _of(content["lr_schedulers"], list, "lr_schedulers"):
        for key, value in _of(state, dict, "lr_schedulers").items():
            wanted = {"last_epoch": int, "_step_count": int, "base_lrs": list, "_last_lr": list}.get(key)
            if wanted is not None:
                _of(value, wanted, f"lr_schedulers.{key}")
            wrong = key == "last_epoch" and not 0 <= value <= batches  # less, if its optimizer began later
            wrong |= key in ("base_lrs", "_last_lr") and not all(isinstance(v, float | int) and v >= 0 for v in value)
            if wrong or key == "optimizer" or not _plain(value):
                raise ValueError(f"its entry 'lr_schedulers' holds {key!r}: {_shown(value)}")
    for name, state in _of(content["callbacks"], dict, "callbacks").items():
        if str(name).startswith("ModelCheckpoint"):
            for key in ("best_model_path", "best_model_score"):
                if key not in _of(state, dict, str(name)):
                    raise ValueError(f"its entry {name!r} has no {key!r}")
            for key, value in state.items():
                score = key in ("best_model_score", "current_score", "kth_value")
                if score and not (value is None or (isinstance(value, Tensor) and value.numel() == 1)):
                    raise ValueError(f"its entry {name!r} holds {key}: {_shown(value)}")
                if key.endswith("_path"):
                    _of(value, str, key)
            for path, value in _of(state.get("best_k_models", {}), dict, "best_k_models").items():
                _of(path, str, "best_k_models")
                _of(value, Tensor, "best_k_models")


def moved(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a ModelCheckpoint said of its files, with all of them in one folder.

    Args:
        state: Checked by `check_resumable`.
        folder: Where they lie.
    """

    def place(name: str) -> str:
        return str(folder / Path(name).name) if name else ""

    new = {key: place(value) if key.endswith("_path") else value for key, value in state.items()}
    best = {place(name): score for name, score in state.get("best_k_models", {}).items()}
    return new | {"dirpath": str(folder), "best_k_models": best}


def _of(value: Any, kind: type, name: str) -> Any:  # noqa: ANN401 - what a file holds
    if not isinstance(value, kind):
        raise ValueError(f"its entry {name!r} holds {_shown(value)}; expected {kind.__name__}")
    return value


def _plain(value: object, depth: int = 0) -> bool:
    """Whether a value is made of numbers, texts, None, lists and dictionaries, not deeper than arguments are."""
    if depth > 8:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and _plain(item, depth + 1) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_plain(item, depth + 1) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)


def _shown(value: object) -> str:
    """A value in a few words."""
    if isinstance(value, dict):
        return (
            f"a dictionary of {', '.join(map(repr, list(value)[:3]))}{', ...' if len(value) > 3 else ''}"
            if value
            else "an empty dictionary"
        )
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return f"a {type(value).__name__}" if len(str(value)) > 40 else repr(value)
