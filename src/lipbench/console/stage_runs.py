"""Running an experiment of stages: what is finished is skipped, what was killed goes on, what has changed is redone.

A stage's run lies in `<folder>/<stage>-<key>`; the key is a hash of what its configuration states, of the files that it
takes from earlier stages and of the store's manifest. Another configuration, another expert or another store is another
key, so another folder, and the earlier one stays. `done.json` in it says that its training ended, `tested.json` that it
was scored.
"""

import fcntl
import hashlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import yaml

from lipbench import discovery, files
from lipbench.console import argv, next_steps
from lipbench.console.stages import OBSERVER, Experiment, Stage
from lipbench.errors import UsageError
from lipbench.paths import default_store

_KEY: Final = 12  # digits of a hash
_SCORING: Final = ("evaluator", "tracking")  # beginnings of options, keys of a configuration that change no weights


@dataclass(frozen=True)
class Status:
    """Where a stage stands.

    Args:
        folder: Of its runs; None while something that it takes is not there yet.
        fitted: Whether its training ended.
        batches: Trained so far.
        total: To be trained; 0 where the configuration counts otherwise.
        scored: Whether its last checkpoint was scored; True as well if it is not to be.
    """

    folder: Path | None
    fitted: bool = False
    batches: int = 0
    total: int = 0
    scored: bool = False


class Runner:
    """One experiment in one folder.

    Args:
        experiment: What to run.
        folder: Where its runs go.
        results: Where records go.
        tables: Where `compare` writes its tables.
    """

    def __init__(self, experiment: Experiment, folder: Path, results: Path, tables: Path) -> None:
        self.experiment, self.folder, self.results, self.tables = experiment, folder, results, tables
        self._configurations: dict[str, dict[str, Any]] = {}

    def check(self) -> None:
        """Parse the configuration of every stage, so that a mistake in the last does not show after hours.

        Raises:
            UsageError: A configuration cannot be used; or it names no end of training.
        """
        for stage in self.experiment.stages:
            trainer = self._parsed(stage)["trainer"]
            if trainer["max_steps"] in (None, -1) and trainer["max_epochs"] in (None, -1):
                raise UsageError(
                    f"the stage {stage.name} needs trainer.max_steps or trainer.max_epochs: `lipbench run` goes by it "
                    "to see whether training is done"
                )

    def plan(self) -> list[str]:
        """Lines that say what would be done, in order, and how long it takes as far as that is known."""
        lines = []
        if self.experiment.prepare:
            options = {key: value for key, value in self.experiment.prepare.items() if key not in ("root", "store")}
            about = ", ".join(f"{key} {value}" for key, value in options.items())
            lines.append(f"prepare ({about}): {'finished' if self._prepared() else 'to do'}")
        for stage in self.experiment.stages:
            status = self.status(stage)
            device, duration = stage.told
            takes = "".join(f", takes {source}/{file} as {option}" for option, (source, file) in stage.take.items())
            if status.fitted:
                state = "finished"
            elif status.batches:
                state = f"goes on after batch {status.batches:,} of {status.total:,}; all of it: {device}, {duration}"
            else:
                state = f"to do: {device}, {duration}"
            lines.append(f"fit {stage.name}: {state}{takes}")
            if self.experiment.tested(stage):
                lines.append(f"test {stage.name}: {'finished' if status.scored else 'to do'}")
        if any(map(self.experiment.tested, self.experiment.stages)):
            lines.append(f"compare: the records in {self.results}")
        return lines

    def status(self, stage: Stage) -> Status:
        """Where a stage stands; nothing is written."""
        key = self._key(stage)
        if key is None:
            return Status(None)
        folder = self.folder / f"{stage.name}-{key}"
        last = newest(folder)
        total = int(stage.stated().get("trainer", {}).get("max_steps") or 0)
        if last is None:
            return Status(folder, total=total)
        if (folder / "done.json").is_file():
            return Status(folder, True, total, total, self._scored(stage, folder, last))
        from lipbench.training import checkpoints

        return Status(folder, False, checkpoints.read(last)["lipbench"]["batches"], total)

    def run(self, start: str | None = None) -> dict[str, Path]:
        """Do what is not done.

        Args:
            start: Stage from which on everything is done anew; its earlier runs are kept in `<folder>/earlier`.

        Returns:
            Stage -> its last checkpoint.

        Raises:
            UsageError: There is no such stage; or another process works in this folder.
        """
        names = [stage.name for stage in self.experiment.stages]
        if start is not None and start not in names:
            raise discovery.unknown("stage", start, names)
        found: dict[str, Path] = {}
        with self._alone():
            if self.experiment.prepare and not self._prepared():
                _timed("prepared", self._prepare)
            for place, stage in enumerate(self.experiment.stages):
                found[stage.name] = self._stage(stage, start is not None and place >= names.index(start))
            tested = filter(self.experiment.tested, self.experiment.stages)
            if any(map(self._recorded, tested)):
                from lipbench.leaderboard import table

                table.compare(self.results, self.tables)
        return found

    def _stage(self, stage: Stage, anew: bool) -> Path:
        """Train and score one stage as far as it is not done; returns its last checkpoint."""
        status = self.status(stage)
        folder = status.folder
        assert folder is not None  # earlier stages are done
        if anew:
            self._put_aside(folder)
        elif status.fitted:
            print(f"{stage.name} is trained: {newest(folder)}")
        if anew or not status.fitted:
            _timed(f"{stage.name} trained", lambda: self._fit(stage, folder))
        last = newest(folder)
        assert last is not None
        if not self._scored(stage, folder, last):
            _timed(f"{stage.name} scored", lambda: self._test(stage, folder, last))
        return last

    # Preparing

    def _prepare(self) -> None:
        from lipbench.commands import prepare

        options: dict[str, Any] = {
            key: Path(value) if key in ("root", "store") else value for key, value in self._options().items()
        }
        prepare.run(**options)
        store = self._store(self.experiment.prepare)
        self._write(self.folder / "prepared.json", {"options": self._options(), "store": _manifest(store)})

    def _prepared(self) -> bool:
        """Whether the store is as this experiment has prepared it."""
        done = _read(self.folder / "prepared.json")
        store = self._store(self.experiment.prepare)
        return done == {"options": self._options(), "store": _manifest(store)} and done["store"] is not None

    def _options(self) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Path) else value for key, value in self.experiment.prepare.items()}

    def _store(self, data: Mapping[str, Any]) -> Path:
        """The store of a `prepare:` or `data:` section."""
        if data.get("store"):
            return Path(data["store"]).expanduser()
        return default_store(discovery.load("data", data.get("data") or data["corpus"]).name)

    # Training

    def _words(self, stage: Stage, folder: Path) -> list[str]:
        """Options that fit and test share; what the experiment itself states is written into the folder."""
        words = [word for config in stage.configs for word in ("--config", str(config))]
        if stage.own:
            own = folder / f"{stage.name}.yaml"
            files.write_text(own, yaml.safe_dump(stage.own, sort_keys=False))
            words += ["--config", str(own)]
        if "store" in self.experiment.prepare:
            words += ["--data.store", str(self.experiment.prepare["store"])]
        if not {"devices", "num_nodes"} & stage.stated().get("trainer", {}).keys():
            words += ["--trainer.devices", "1"]  # several would start copies of this command line
        return words

    def _parsed(self, stage: Stage) -> dict[str, Any]:
        """The whole configuration of a stage, with all defaults.

        Raises:
            UsageError: It cannot be used.
        """
        from lipbench.console import trainer

        if stage.name not in self._configurations:
            with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()) as text, suppress(SystemExit):
                words = self._words(stage, Path(folder))
                for option, (source, file) in stage.take.items():
                    words += [f"--{option}", f"{source}/{file}"]
                trainer.run("fit", [*argv.prepared("fit", words), "--print_config"])  # exits after it
            self._configurations[stage.name] = dict(yaml.safe_load(text.getvalue()))
        return self._configurations[stage.name]

    def _key(self, stage: Stage) -> str | None:
        """Hash of all that decides a stage's weights; None while something that it takes is not there yet."""
        taken = self._taken(stage)
        if taken is None:
            return None
        stated = stage.stated()
        inputs = {option: files.sha256(path) for option, path in taken.items() if not option.startswith(_SCORING)}
        own = {"store": self.experiment.prepare["store"]} if "store" in self.experiment.prepare else {}
        store = self._store(own or stated["data"])
        return _hash(
            {
                "config": {key: value for key, value in stated.items() if key not in _SCORING},
                "inputs": inputs,
                "store": _manifest(store),
            }
        )

    def _taken(self, stage: Stage) -> dict[str, Path] | None:
        """Option -> the file of an earlier stage; None while one is not there."""
        found = {}
        for option, (source, file) in stage.take.items():
            earlier = next(own for own in self.experiment.stages if own.name == source)
            status = self.status(earlier)
            last = newest(status.folder) if status.folder is not None and status.fitted else None
            if last is None:
                return None
            path = last.parents[1] / file
            if not path.is_file():
                held = sorted(str(own.relative_to(last.parents[1])) for own in last.parents[1].rglob("*.*"))
                raise UsageError(
                    f"the stage {stage.name} takes {source}/{file}, and {path} is not there; the run has "
                    f"{', '.join(held[:20])}"
                )
            found[option] = path
        return found

    def _options_taken(self, stage: Stage, *, scoring: bool) -> list[str]:
        """Options that take files of earlier stages: those of training, or those of scoring."""
        taken = (self._taken(stage) or {}).items()
        chosen = [(option, path) for option, path in taken if option.startswith(_SCORING) == scoring]
        return [word for option, path in chosen for word in (f"--{option}", str(path))]

    def _fit(self, stage: Stage, folder: Path) -> None:
        """Train a stage to its end, or go on with a training that was interrupted."""
        start = time.monotonic()
        last = newest(folder)
        if last is None or not self._ended(stage, last):
            words = [*self._words(stage, folder), "--trainer.default_root_dir", str(folder)]
            words += self._options_taken(stage, scoring=False)
            words += [] if last is None else ["--ckpt_path", str(last)]
            self._call(stage, "fit", words)
            last = newest(folder)
        assert last is not None
        if not (last.parents[1] / OBSERVER).is_file():  # killed between the last checkpoint and this file, or none
            next_steps.write_observer(last, self._parsed(stage)["model"]["class_path"], last.parents[1] / OBSERVER)
        self._write(
            folder / "done.json", {"checkpoint": str(last.relative_to(folder)), "seconds": time.monotonic() - start}
        )

    def _ended(self, stage: Stage, last: Path) -> bool:
        """Whether a checkpoint is that of the end of training: the process was killed after it was written."""
        from lipbench.training import checkpoints, position

        content, trainer = checkpoints.read(last), self._parsed(stage)["trainer"]
        steps, epochs = trainer["max_steps"] or -1, trainer["max_epochs"] or -1
        epoch = position.read(content["loops"]).epoch
        return 0 < steps <= content["lipbench"]["batches"] or 0 < epochs <= epoch

    def _put_aside(self, folder: Path) -> None:
        """Keep an earlier run under another name."""
        if folder.is_dir():
            earlier = self.folder / "earlier"
            earlier.mkdir(exist_ok=True)
            number = len(list(earlier.glob(f"{folder.name}-*"))) + 1
            folder.rename(earlier / f"{folder.name}-{number}")

    # Scoring

    def _scored(self, stage: Stage, folder: Path, last: Path) -> bool:
        if not self.experiment.tested(stage):
            return True
        done = _read(folder / "tested.json")
        if done is None or done["key"] != self._test_key(stage, last):
            return False
        return done["record"] is None or Path(done["record"]).is_file()

    def _recorded(self, stage: Stage) -> bool:
        """Whether scoring a stage made a record."""
        folder = self.status(stage).folder
        done = None if folder is None else _read(folder / "tested.json")
        return done is not None and done["record"] is not None

    def _test_key(self, stage: Stage, last: Path) -> str:
        stated = stage.stated()
        taken = (self._taken(stage) or {}).items()
        return _hash(
            {
                "checkpoint": files.sha256(last),
                "config": {key: stated.get(key) for key in ("evaluator", "data")},
                "inputs": {option: files.sha256(path) for option, path in taken if option.startswith(_SCORING)},
                "results": str(self.results.absolute()),
            }
        )

    def _test(self, stage: Stage, folder: Path, last: Path) -> None:
        """Score a stage's last checkpoint; its record is called after the stage's folder.

        A model that only observes (a flow, an autoencoder) shows its scores in the terminal and has no record.
        """
        run = str(stage.stated().get("evaluator", {}).get("name") or folder.name)
        words = [*self._words(stage, folder), "--ckpt_path", str(last), "--trainer.default_root_dir", str(folder)]
        words += self._options_taken(stage, scoring=True)
        self._call(stage, "test", [*words, "--evaluator.out", str(self.results), "--evaluator.name", run])
        records = sorted(self.results.glob(f"**/{run}.json"), key=lambda path: path.stat().st_mtime)
        record = str(records[-1].absolute()) if records else None
        self._write(folder / "tested.json", {"key": self._test_key(stage, last), "record": record})

    def _call(self, stage: Stage, command: str, words: list[str]) -> None:
        """Run fit or test: in this process, or, where the stage asks for several devices, in one of its own."""
        if "--trainer.devices" in words:
            from lipbench.console import trainer

            trainer.run(command, argv.prepared(command, words))
            return
        code = subprocess.run([sys.executable, "-m", "lipbench", command, *words]).returncode
        if code:
            raise SystemExit(code)

    # Files

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        files.write_text(path, json.dumps(content, indent=1) + "\n")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuse to work in a folder in which another process works."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(
                    f"another `lipbench run` works in {self.folder}; wait for it, or give --folder"
                ) from None
            yield


def newest(folder: Path) -> Path | None:
    """The last checkpoint of the newest run in a stage's folder; None if there is none."""
    found = folder.glob("*/version_*/checkpoints/last.ckpt")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _manifest(store: Path) -> str | None:
    """Hash of a store's manifest; None if there is no store."""
    from lipbench.data.manifest import MANIFEST

    path = store / MANIFEST
    return files.sha256(path) if path.is_file() else None


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:_KEY]


def _read(path: Path) -> dict[str, Any] | None:
    """One of the files that say what is done; None if it is not there."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _timed(what: str, step: Callable[[], object]) -> None:
    """Run one step and say how long it took."""
    start = time.perf_counter()
    step()
    print(f"{what}: {time.perf_counter() - start:.0f} s\n", flush=True)
