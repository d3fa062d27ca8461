"""From a prepared store to the batches that a model asks for."""

import os
import shutil
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from lipbench.data.loader import SCORING, ClipDataset, ShuffledSampler, TrainLoader, UnpaddedSampler, collate, to_float
from lipbench.data.prepare import RawClip
from lipbench.data.process_pool import processors
from lipbench.data.protocol import load as load_protocol
from lipbench.data.store import Store
from lipbench.media import geometry
from lipbench.paths import default_store, home
from lipbench.types import ClipBatch, ClipSpec, View

_CLIP: Final = 50 << 20  # bytes of a clip of 75 frames for scoring: its canonical pictures, and views in float
_SCORING_BATCH: Final = 4  # clips: a whole clip in canonical size is 25 MB, and four times that in float
_PARTS: Final = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",), "predict": ("test",)}


class ClipDataModule(LightningDataModule):
    """A corpus, cut into batches by the wishes of the model (`ClipSpec`).

    A subclass names the corpus and knows how to find its raw files. Without a trainer, set `clip` before `setup`.

    Args:
        store: Folder of the prepared store; by default `$LIPBENCH_HOME/stores/<data>`.
        protocol: Which clips train and test; by default the corpus' own.
        batch_size: Clips a training batch and process; scoring takes at most 4.
        num_workers: Loader processes; by default one a processor less one, at most 4.
        seed: Of shuffling, windows and identity frames.
        limit_test: Score only so many test clips, evenly spaced over the sorted list.

    Attributes:
        protocol: The `Protocol`.
        split: Its `Split`, whole, after `setup`.
        test_ids: The test clips in the store, in the order of `index`, after `setup`.
        speakers: Those of the training split, in the order of `speaker_id`, after `setup`.
    """

    data: ClassVar[str]
    protocols: ClassVar[tuple[str, ...]]
    default_protocol: ClassVar[str]

    def __init__(
        self,
        store: str | None = None,
        protocol: str | None = None,
        batch_size: int = 16,
        num_workers: int | None = None,
        seed: int = 0,
        limit_test: int | None = None,
    ) -> None:
        super().__init__()
        name = protocol or self.default_protocol
        if name not in self.protocols:
            raise ValueError(f"the corpus {self.data} has no protocol {name!r}; it has {', '.join(self.protocols)}")
        for argument, value in (("batch_size", batch_size), ("limit_test", limit_test)):
            if value is not None and value < 1:
                raise ValueError(f"{argument} is {value}; expected 1 or more")
        self.allow_zero_length_dataloader_with_multiple_devices = True  # unpadded: a process may get no clip to score
        self.protocol = load_protocol(name)
        self.store_path = Path(store).expanduser() if store else default_store(self.data)
        self.batch_size = batch_size
        self.num_workers = min(4, processors() - 1) if num_workers is None else num_workers
        self.seed = seed
        self.limit_test = limit_test
        self.clip: ClipSpec | None = None
        self.test_ids: list[str] = []
        self.speakers: list[str] = []
        self._store: Store | None = None
        self._present: dict[str, list[str]] = {}
        self._means: dict[View, Tensor] = {}

    # ----------------------------------------------------------------------------------------------- raw corpus

    @classmethod
    def scan(cls, root: Path) -> list[RawClip]:
        """Every clip of the raw corpus below a folder, sorted by id; each corpus has its own."""
        raise TypeError(f"{cls.__name__} does not say how the raw files of {cls.data} are found")

    @classmethod
    def corpus(cls, root: str | Path | None = None) -> Path:
        """The raw corpus' folder: the one given, else that of the variable `LIPBENCH_<DATA>`, else the downloaded one.

        Raises:
            FileNotFoundError: None of these is there.
        """
        variable = f"LIPBENCH_{cls.data.upper()}"
        fetched = home() / "corpora" / cls.data
        chosen = root or os.environ.get(variable) or (fetched if fetched.is_dir() else None)
        if not chosen:
            raise FileNotFoundError(
                f"where is the {cls.data} corpus? Give its folder with --root DIR, or set {variable}"
            )
        return Path(chosen).expanduser()

    # ---------------------------------------------------------------------------------------------------- setup

    @property
    def store(self) -> Store:
        """The opened store.

        Raises:
            FileNotFoundError: There is none; the message says what to type.
            ValueError: It holds another corpus.
        """
        if self._store is None:
            try:
                store = Store(self.store_path)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{error}. {self._advice()}") from None
            found = store.manifest["settings"]["data"]
            if found != self.data:
                raise ValueError(f"the store {self.store_path} holds {found!r}, not {self.data!r}. {self._advice()}")
            self._store = store
        return self._store

    def _advice(self) -> str:
        where = "" if self.store_path == default_store(self.data) else f" --store {self.store_path}"
        root = "" if self.data == "rendered" else " --root DIR"
        return f"Make it with: lipbench prepare --data {self.data}{root}{where}"

    def setup(self, stage: str) -> None:
        """Open the store, divide it by the protocol, and say once how much of the protocol it holds.

        Raises:
            FileNotFoundError: No store.
            ValueError: It holds no clip of a part that the stage needs, or the model's wishes cannot be met.
        """
        store = self.store
        if not self._present:
            self._divide(store)
        for part in _PARTS[stage]:
            if not self._present[part] and part != "validation":
                total = len(getattr(self.split, part))
                raise ValueError(
                    f"{self.protocol.name}: none of its {total:,} {part} clips is in the store {self.store_path} "
                    f"({len(store)} clips). {self._advice()}"
                )
        self._check(self._spec(), store)

    def _divide(self, store: Store) -> None:
        split = self.split = self.protocol.split(store.clip_ids)
        for part in ("train", "validation", "test"):
            self._present[part] = [clip for clip in getattr(split, part) if clip in store]
        train, validation, test = (self._present[part] for part in ("train", "validation", "test"))
        rank_zero_info(
            f"{self.protocol.name}: {len(train) + len(validation):,} of {len(split.train) + len(split.validation):,} "
            f"training ({len(validation):,} of them for validation) and {len(test):,} of {len(split.test):,} "
            "test clips are in this store"
        )
        if self.limit_test is not None and self.limit_test < len(test):
            places = np.linspace(0, len(test) - 1, self.limit_test).round().astype(int)
            self._present["test"] = [test[k] for k in places]
        self.test_ids = list(self._present["test"])
        self.speakers = sorted({clip.split("/")[1] for clip in (*split.train, *split.validation)})

    def _spec(self) -> ClipSpec:
        trainer = self.trainer
        clip = getattr(trainer.lightning_module, "clip", None) if trainer is not None else self.clip
        if not isinstance(clip, ClipSpec):
            raise ValueError(f"which batches does the model want? Expected a ClipSpec in its `clip`, found {clip!r}")
        return clip

    def _check(self, spec: ClipSpec, store: Store) -> None:
        if "video" not in spec.frames:
            raise ValueError(
                f'ClipSpec.frames has {sorted(spec.frames)}; it needs the main view under the name "video"'
            )
        if "audio" in spec.keys and spec.audio_rate is None:
            raise ValueError("ClipSpec.keys has 'audio', which needs an audio_rate")
        if store.packed is not None:
            probe = torch.zeros(1, 3, *store.packed.size, dtype=torch.uint8)
            for view in spec.frames.values():
                geometry.change_view(probe, store.packed, view)  # says which view lies outside the packed one

    # -------------------------------------------------------------------------------------------------- loaders

    def _dataset(self, part: str, *, scoring: bool = False) -> ClipDataset:
        spec = self._spec()
        keys = spec.keys | SCORING if scoring else spec.keys
        if "durations" in keys:
            keys |= {"tokens"}
        if self.store.packed is not None:
            keys -= {"face"}
        speakers = {name: k for k, name in enumerate(self.speakers)}
        training = part == "train"
        return ClipDataset(
            self.store, self._present[part], spec, keys, seed=self.seed, training=training, speakers=speakers
        )

    def _ranks(self) -> tuple[int, int]:
        """Processes, and which one this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)

    def _options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "collate_fn": collate,
        }

    def train_dataloader(self) -> TrainLoader:
        """Shuffled, windows as the model wants; every process gets equally many whole batches."""
        dataset = self._dataset("train")
        replicas, rank = self._ranks()
        sampler = ShuffledSampler(dataset, replicas, rank, self.seed)
        if len(sampler) == 0:
            raise ValueError(f"{len(dataset)} training clips cannot be dealt out to {replicas} processes")
        size = min(self.batch_size, len(sampler))  # a handful of clips still makes a batch
        return TrainLoader(dataset, batch_size=size, sampler=sampler, drop_last=True, **self._options())

    def _scoring_loader(self, part: str, *, scoring: bool) -> DataLoader[dict[str, Any]]:
        dataset = self._dataset(part, scoring=scoring)
        sampler = UnpaddedSampler(dataset, *self._ranks(), shuffle=False)
        size, options = min(self.batch_size, _SCORING_BATCH), self._options()
        room = _shared_memory()
        if scoring and self.num_workers and room < 2 * self.num_workers * size * _CLIP:  # each reads two batches ahead
            rank_zero_info(
                f"/dev/shm has room for {room >> 20} MB, too little for whole clips from {self.num_workers} processes: "
                "this one reads them. In Docker, --shm-size=4g gives more"
            )
            options |= {"num_workers": 0, "persistent_workers": False}
        return DataLoader(dataset, batch_size=size, sampler=sampler, **options)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Whole validation clips, each once."""
        return self._scoring_loader("validation", scoring=False)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Whole test clips, each once over all processes, with what scoring needs (`SCORING`)."""
        return self._scoring_loader("test", scoring=True)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Whole test clips with what the model asks for."""
        return self._scoring_loader("test", scoring=False)

    def on_after_batch_transfer(self, batch: ClipBatch, dataloader_idx: int) -> ClipBatch:
        """Pictures to float on the device."""
        return to_float(batch)

    # ---------------------------------------------------------------------------------------- for the evaluator

    @property
    def store_info(self) -> dict[str, Any]:
        """What a record says about the store: settings, counts, and the packed view if it is a packed one."""
        manifest = self.store.manifest
        return {
            "settings": manifest["settings"],
            "counts": manifest["counts"],
            "packed": str(self.store.packed) if self.store.packed else None,
        }

    def mean_view(self, view: View) -> Tensor:
        """Mean picture of the training split, from up to 100 of its clips and 5 frames of each, evenly spaced.

        Args:
            view: What to look at.

        Returns:
            (3, view.height, view.width) float in [0, 1].

        Raises:
            ValueError: No training clip is in the store.
        """
        if view not in self._means:
            clips = self._present["train"]
            if not clips:
                raise ValueError(f"{self.protocol.name}: the mean picture needs training clips, and the store has none")
            total = torch.zeros(3, *view.size, dtype=torch.float64)
            places = np.unique(np.linspace(0, len(clips) - 1, 100).round().astype(int))
            for place in places:
                clip = self.store[clips[place]]
                frames = np.linspace(0, clip.n_frames - 1, 5).round().astype(int)
                total += clip.view(frames, view).double().mean(0)
            self._means[view] = (total / (255 * len(places))).float()
        return self._means[view]


def _shared_memory() -> int:
    """Bytes that loader processes have to hand over batches: where these do not fit, PyTorch ends in a bus error."""
    folder = Path("/dev/shm")
    return shutil.disk_usage(folder).free if folder.is_dir() else 1 << 62
