"""Checkpoints side by side (`lipbench strip`, `lipbench embed`): their models, their labels, and one corpus for all."""

import argparse
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lipbench import discovery
from lipbench.errors import UsageError

if TYPE_CHECKING:
    from lipbench.console.config_origin import Origin
    from lipbench.data.datamodule import ClipDataModule
    from lipbench.training.generative import GenerativeModel


class System(NamedTuple):
    """A trained model among others."""

    label: str
    """What it is called: the model, and after a line break its run; or what the user says."""
    path: Path
    model: "GenerativeModel"
    """On the CPU, in eval mode."""
    origin: "Origin"

    @property
    def line(self) -> str:
        """The label on one line."""
        return self.label.replace("\n", " ")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options that name checkpoints and a corpus."""
    names = ", ".join(discovery.files("data"))
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CKPT", help="checkpoints that `fit` wrote")
    parser.add_argument(
        "--labels", nargs="+", metavar="NAME", help="what to call them, one each (default: the model and its run)"
    )
    parser.add_argument(
        "--data", metavar="NAME", help=f"corpus: {names}, or a class path (default: what they were trained on)"
    )
    parser.add_argument("--store", type=Path, help="its prepared store (default: $LIPBENCH_HOME/stores/<data>)")
    parser.add_argument("--protocol", help="whose test clips, e.g. grid/s1 (default: what they were trained on)")
    parser.add_argument(
        "--model", nargs="+", metavar="CLASS", help="class paths of models that are neither built in nor installed"
    )


def load(checkpoints: Sequence[Path], labels: Sequence[str] | None, models: Sequence[str] | None) -> list[System]:
    """The systems, in the order in which they were named.

    Args:
        checkpoints: Files that `lipbench fit` wrote.
        labels: What they are called; None makes labels of models and runs.
        models: Class paths of models that are neither built in nor installed.

    Raises:
        UsageError: "last" or "best" in place of a file, a file that is named twice, or too few or too many labels.
        FileNotFoundError: A checkpoint is not there.
        ValueError: A file is no checkpoint, or its model generates no video.
    """
    from lipbench.console import config_origin, run_folders
    from lipbench.training import checkpoints as files
    from lipbench.training import loading
    from lipbench.training.base import BenchModule
    from lipbench.training.generative import GenerativeModel

    if labels is not None and len(labels) != len(checkpoints):
        raise UsageError(f"--labels names {len(labels)} systems, and there are {len(checkpoints)} checkpoints")
    loaded: dict[Path, tuple[GenerativeModel, Origin]] = {}
    for path in checkpoints:
        run_folders.refuse_alias(path)
        held = files.read(path)["lipbench"]["class"] if models else ""
        named = held if held in (models or ()) else None
        model = loading.load(path, BenchModule, named)  # type: ignore[type-abstract]
        if not isinstance(model, GenerativeModel) or "video" not in model.capabilities:
            raise ValueError(
                f"{path} holds {type(model).__name__}, which generates no video; expected the checkpoint of a model "
                f"that does: {', '.join(generating())}"
            )
        if path.resolve() in loaded:
            raise UsageError(f"{path} is named twice")
        loaded[path.resolve()] = model, config_origin.read(path, named)
    if labels is None:
        labels = _labels([(_called(type(model)), path) for path, (model, _) in loaded.items()])
    return [System(label, path, *own) for label, path, own in zip(labels, checkpoints, loaded.values(), strict=True)]


def generating(method: str | None = None) -> list[str]:
    """Short names of the models that generate video.

    Args:
        method: Only those that override this optional method of `GenerativeModel`.
    """
    from lipbench.training.generative import GenerativeModel

    classes = {name: discovery.load("model", name) for name in discovery.files("model")}
    return [
        name
        for name, own in classes.items()
        if issubclass(own, GenerativeModel)
        and (method is None or getattr(own, method) is not getattr(GenerativeModel, method))
    ]


def _called(model: type) -> str:
    """Short name of a model; of a class path its last part."""
    return discovery.short_name("model", model).rpartition(".")[2]


def _labels(systems: Sequence[tuple[str, Path]]) -> list[str]:
    """Models, each with the end of its path; where there are several of a model, with what tells their paths apart."""
    paths = [[part for part in (*path.parent.parts[1:], path.stem) if part != "checkpoints"] for _, path in systems]
    found = []
    for (name, _), path in zip(systems, paths, strict=True):
        others = [other[::-1] for (own, _), other in zip(systems, paths, strict=True) if own == name]
        if len(others) == 1:
            parts = path[-2:]
        else:
            differ = [len(set(places)) > 1 for places in zip_longest(*others)]
            parts = [part for part, shown in zip(path[::-1], differ, strict=False) if shown][::-1]
        found.append(f"{name}\n{'/'.join(parts)}")
    return found


def datamodule(
    systems: Sequence[System], data: str | None, store: Path | None, protocol: str | None
) -> "ClipDataModule":
    """The corpus that the systems are compared on, divided by the protocol.

    Args:
        systems: One or more.
        data: Short name or class path of the corpus; None takes what all of them were trained on.
        store: Folder of its store.
        protocol: None takes what all of them were trained on, or the corpus' own where `data` is another corpus.

    Raises:
        UsageError: They were trained on different corpora or protocols, or that is unknown, and none is named; or the
            store is empty.
        FileNotFoundError: There is no prepared store.
        ValueError: The store is of another corpus, or lacks what a model needs.
    """
    from lipbench.data.corpus import prepare_advice
    from lipbench.data.datamodule import ClipDataModule

    trained = sorted({system.origin.data for system in systems} - {""})
    if data is None:
        if len(trained) != 1:
            found = f"were trained on {' and '.join(trained)}" if trained else "do not say what they were trained on"
            raise UsageError(f"the checkpoints {found}; name the corpus: --data {(trained or ['grid'])[0]}")
        data = trained[0]
    if protocol is None:
        known = sorted({system.origin.protocol for system in systems if system.origin.data == data} - {""})
        if len(known) > 1:
            raise UsageError(f"the checkpoints were trained on {' and '.join(known)}; name one: --protocol {known[0]}")
        protocol = known[0] if known else None
    corpus = ClipDataModule(data, None if store is None else str(store), protocol, num_workers=0)
    if not corpus.store.clip_ids:
        advice = prepare_advice(corpus.corpus, corpus.store_path)
        raise UsageError(f"the store {corpus.store_path} holds no clip. {advice}")
    corpus.clip_spec = systems[0].model.clip_spec
    corpus.setup("validate")
    return corpus


def training_clips(system: System, data: "ClipDataModule") -> frozenset[str]:
    """The clips of a store that a system was trained or chosen on, as far as its checkpoint tells."""
    from lipbench.data import protocol as protocols

    if system.origin.data != data.corpus.name or not system.origin.protocol:
        return frozenset()
    split = data.split
    if system.origin.protocol != data.protocol.name:
        split = protocols.load(system.origin.protocol).split(data.store.clip_ids)
    return frozenset((*split.train, *split.validation))
