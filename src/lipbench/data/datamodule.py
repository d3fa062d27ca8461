"""From a prepared store to the batches that a model asks for."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lipbench import discovery
from lipbench.data.corpus import Corpus, prepare_advice
from lipbench.data.loader import (
    SCORING,
    ClipDataset,
    SentenceDataset,
    ShuffledSampler,
    TrainLoader,
    UnpaddedSampler,
    collate,
    other_speakers,
    to_float,
)
from lipbench.data.parts import divide
from lipbench.data.process_pool import processors
from lipbench.data.protocol import load as load_protocol
from lipbench.data.store import Store
from lipbench.media import geometry
from lipbench.paths import default_store
from lipbench.types import ClipBatch, ClipSpec, View

_CLIP: Final = 50 << 20  # bytes of a clip of 75 frames for scoring: its canonical pictures, and views in float
_SCORING_BATCH: Final = 4  # clips: a whole clip in canonical size is 25 MB, and four times that in float
_PARTS: Final = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",), "predict": ("test",)}


class ClipDataModule(LightningDataModule):
    """A prepared corpus, cut into batches by the wishes of the model.

    A model states one `ClipSpec` in `clip_spec`, or several by name in `streams`: each training batch is then a dict of
    batches, one a stream, and an epoch is as long as the longest stream of clips. Without a trainer, set `clip_spec` or
    `streams` of this object before `setup`.

    Args:
        corpus: Short name, entry point or class path of a `lipbench.data.corpus.Corpus`.
        store: Folder of the prepared store; by default `$LIPBENCH_HOME/stores/<corpus>`.
        protocol: Which clips train and test; by default the corpus's own.
        batch_size: Clips a training batch and process; scoring takes at most 4.
        num_workers: Loader processes; by default one a processor less one, at most 4.
        seed: Of shuffling, windows and identity frames.
        limit_test: Score only so many test clips, evenly spaced over the sorted list.
        paired: Share of the training clips, 0 to 1, that may be used with all they have. The rest only supplies
            streams of text or of lips; models without such streams train on less.
        split_seed: Decides which clips these are.
        disjoint: No clip supplies both text and lips: the rest is divided into halves.
        unpaired: Share of the training clips that is used without pairs; by default all that are not paired.
        sentences: Of streams of grammar: how many sentences, drawn by `split_seed`; by default all of the grammar.
        test_sentences: Of the same: whether sentences of test clips stay among them, as in DualLip's Table 2.

    Attributes:
        corpus: The `Corpus` class.
        protocol: The `Protocol`.
        split: Its `Split`, whole, after `setup`.
        test_ids: The test clips in the store, in the order of `index`, after `setup`.
        speakers: Those of the training split, in the order of `speaker_id`, after `setup`.
    """

    def __init__(
        self,
        corpus: str,
        store: str | None = None,
        protocol: str | None = None,
        batch_size: int = 16,
        num_workers: int | None = None,
        seed: int = 0,
        limit_test: int | None = None,
        paired: float = 1.0,
        split_seed: int = 0,
        disjoint: bool = False,
        unpaired: float | None = None,
        sentences: int | None = None,
        test_sentences: bool = False,
    ) -> None:
        super().__init__()
        self.corpus: type[Corpus] = discovery.load("data", corpus)
        name, known = protocol or self.corpus.default_protocol, [own.name for own in self.corpus.protocols]
        if name not in known:
            raise ValueError(f"the corpus {self.corpus.name} has no protocol {name!r}; it has {', '.join(known)}")
        for argument, value in (("batch_size", batch_size), ("limit_test", limit_test), ("sentences", sentences)):
            if value is not None and value < 1:
                raise ValueError(f"{argument} is {value}; expected 1 or more")
        if not 0 < paired <= 1:
            raise ValueError(f"paired is {paired}; expected a share above 0, up to 1")
        self.allow_zero_length_dataloader_with_multiple_devices = True  # unpadded: a process may get no clip to score
        self.protocol = load_protocol(name)
        self.store_path = Path(store).expanduser() if store else default_store(self.corpus.name)
        self.batch_size = batch_size
        self.num_workers = min(4, processors() - 1) if num_workers is None else num_workers
        self.seed = seed
        self.limit_test = limit_test
        self.paired, self.split_seed, self.disjoint, self.unpaired = paired, split_seed, disjoint, unpaired
        self.sentences, self.test_sentences = sentences, test_sentences
        self.clip_spec: ClipSpec | None = None
        self.streams: dict[str, ClipSpec] = {}
        self.test_ids: list[str] = []
        self.speakers: list[str] = []
        self._store: Store | None = None
        self._present: dict[str, list[str]] = {}
        self._means: dict[View, Tensor] = {}

    # ---------------------------------------------------------------------------------------------------- setup

    @property
    def store(self) -> Store:
        """The opened store.

        Raises:
            FileNotFoundError: There is none; the message says what to type.
            ValueError: It holds another corpus.
        """
        if self._store is None:
            advice = prepare_advice(self.corpus, self.store_path)
            try:
                store = Store(self.store_path)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{error}. {advice}") from None
            found = store.manifest["settings"]["data"]
            if found != self.corpus.name:
                raise ValueError(f"the store {self.store_path} holds {found!r}, not {self.corpus.name!r}. {advice}")
            self._store = store
        return self._store

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
                    f"({len(store)} clips). {prepare_advice(self.corpus, self.store_path)}"
                )
        if stage == "fit":
            for name, spec in self._streams().items():
                named = f"the stream {name!r}: " if name else ""
                self._check(spec, store, named)
                if spec.part != "grammar" and not self._present[spec.part]:
                    share = " Give a share of paired clips: --data.paired 0.1" if self.paired == 1 else ""
                    raise ValueError(
                        f"{named}none of the {len(self._parts[spec.part]):,} {spec.part} clips is in the store "
                        f"{self.store_path}.{share}"
                    )
        else:
            self._check(self._spec(), store)

    def _divide(self, store: Store) -> None:
        split = self.split = self.protocol.split(store.clip_ids)
        held = set(store.clip_ids)
        for part in ("train", "validation", "test"):
            self._present[part] = [clip for clip in getattr(split, part) if clip in held]
        train, validation, test = (self._present[part] for part in ("train", "validation", "test"))
        rank_zero_info(
            f"{self.protocol.name}: {len(train) + len(validation):,} of {len(split.train) + len(split.validation):,} "
            f"training ({len(validation):,} of them for validation) and {len(test):,} of {len(split.test):,} "
            "test clips are in this store"
        )
        self._parts = divide(split.train, self.paired, self.split_seed, disjoint=self.disjoint, unpaired=self.unpaired)
        for name, clips in self._parts.items():
            self._present[name] = [clip for clip in clips if clip in held]
        if self.paired < 1:
            counts = (f"{len(self._present[name]):,} {name}" for name in self._parts)
            rank_zero_info(f"{self.protocol.name}: training clips {', '.join(counts)}")
        if self.limit_test is not None and self.limit_test < len(test):
            places = np.linspace(0, len(test) - 1, self.limit_test).round().astype(int)
            self._present["test"] = [test[k] for k in places]
        self.test_ids = list(self._present["test"])
        self.speakers = sorted({clip.split("/")[1] for clip in (*split.train, *split.validation)})

    def _streams(self) -> dict[str, ClipSpec]:
        """What training batches hold: streams by name, or under "" the only one."""
        owner = self.trainer.lightning_module if self.trainer is not None else self
        streams = getattr(owner, "streams", None)
        return dict(cast("Mapping[str, ClipSpec]", streams)) if streams else {"": self._spec()}

    def _spec(self) -> ClipSpec:
        """What whole clips in validation, test and predict hold: `clip_spec`, or the model's stream of paired clips."""
        owner = self.trainer.lightning_module if self.trainer is not None else self
        streams: Mapping[str, ClipSpec] = getattr(owner, "streams", None) or {}
        whole = (spec for spec in streams.values() if spec.part == "paired" and "video" in spec.frames)
        clip = getattr(owner, "clip_spec", None) or next(whole, None)
        if not isinstance(clip, ClipSpec):
            raise ValueError(
                "which batches does the model want? Expected a ClipSpec in its `clip_spec`, or `streams` of which one "
                f"has the part 'paired' and frames, found {clip!r}"
            )
        return clip

    def _check(self, spec: ClipSpec, store: Store, named: str = "") -> None:
        if spec.frames and "video" not in spec.frames:
            raise ValueError(
                f'{named}ClipSpec.frames has {sorted(spec.frames)}; it needs the main view under the name "video"'
            )
        if not named and not spec.frames and spec.audio_rate is None:
            raise ValueError(
                'ClipSpec.frames is empty; it needs the main view under the name "video", or an audio_rate: a model of '
                "audio without video"
            )
        if "audio" in spec.keys and spec.audio_rate is None:
            raise ValueError(f"{named}ClipSpec.keys has 'audio', which needs an audio_rate")
        worded = sorted(spec.keys & {"tokens", "durations"}) or (["text"] if spec.part == "text" else [])
        if worded and not store.has_text:
            raise ValueError(
                f"{named}the model needs {' and '.join(worded)}, and the store {store.path} has none: the corpus "
                f"{self.corpus.name} comes without text. Models driven by audio alone can use it"
            )
        if (
            spec.audio_rate is not None
            and (lowest := min(store.column("sample_rate"), default=spec.audio_rate)) < spec.audio_rate
        ):
            rank_zero_info(
                f"{named}the model wants {spec.audio_rate:,} audio samples a second, and {self.corpus.name} has clips "
                f"of {lowest:,}: these are resampled, and hold nothing above {lowest // 2:,} Hz"
            )
        if store.packed is not None:
            probe = torch.zeros(1, 3, *store.packed.size, dtype=torch.uint8)
            for view in (*spec.frames.values(), *spec.identity_views.values()):
                geometry.change_view(probe, store.packed, view)  # says which view lies outside the packed one

    # -------------------------------------------------------------------------------------------------- loaders

    def _dataset(self, part: str, spec: ClipSpec, seed: int, *, scoring: bool = False) -> Dataset[dict[str, Any]]:
        if part == "grammar":
            return SentenceDataset(self._sentences(), self.corpus.tokenizer)
        scored = SCORING if scoring and spec.frames else frozenset[str]()  # without frames no video is scored
        keys = spec.keys | scored
        return self._clips(self._present[part], spec, keys, seed, training=part not in ("validation", "test"))

    def _sentences(self) -> list[str]:
        """Sentences of the grammar, and a line that says how many of them test clips say."""
        texts = dict(zip(self.store.clip_ids, self.store.column("text"), strict=True))
        held = {texts[clip] for clip in self.split.test if clip in texts}
        drawn = list(self.corpus.sentences())
        if self.sentences is not None and self.sentences < len(drawn):
            places = np.random.default_rng(self.split_seed).permutation(len(drawn))[: self.sentences]
            drawn = [drawn[k] for k in np.sort(places)]
        overlap = sum(sentence in held for sentence in drawn)
        kept = "they stay" if self.test_sentences else "they are taken out"
        rank_zero_info(f"{len(drawn):,} sentences of the grammar, of which test clips say {overlap:,}: {kept}")
        return drawn if self.test_sentences else [sentence for sentence in drawn if sentence not in held]

    def _clips(
        self, clip_ids: Sequence[str], spec: ClipSpec, keys: frozenset[str], seed: int, *, training: bool
    ) -> ClipDataset:
        if "durations" in keys:
            keys |= {"tokens"}
        if self.store.packed is not None:
            keys -= {"face", "other_speaker"}
        return ClipDataset(
            self.store,
            clip_ids,
            spec,
            keys,
            seed=seed,
            training=training,
            speakers={name: k for k, name in enumerate(self.speakers)},
            tokenizer=self.corpus.tokenizer,
        )

    def one_clip(self, clip_id: str, spec: ClipSpec, keys: frozenset[str] = frozenset()) -> ClipBatch:
        """A clip of the store, of whatever part, as batches of `test` hold it: whole, with its first frame as identity.

        Called after `setup`.

        Args:
            clip_id: Which.
            spec: What a model wants.
            keys: Further batch keys, such as "face".

        Returns:
            A batch of one, its pictures in float.

        Raises:
            KeyError: The clip is not in the store.
            ValueError: The store cannot supply what the model wants.
        """
        self._check(spec, self.store)
        return to_float(collate([self._clips([clip_id], spec, spec.keys | keys, self.seed, training=False)[0]]))

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

    def train_dataloader(self) -> TrainLoader | CombinedLoader:
        """Shuffled, windows as the model wants; every process gets equally many whole batches.

        Streams are joined batch by batch. All of them have as many batches as the longest of those of clips, so that
        one number, which is in the checkpoint, says where each of them stands.
        """
        replicas, rank = self._ranks()
        sets, streams = {}, self._streams()
        for name, spec in streams.items():
            seed = self.seed + int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) if name else self.seed
            sets[name] = self._dataset(spec.part, spec, seed), seed
            total = len(sets[name][0])  # type: ignore[arg-type]
            if total < replicas:
                stream = f" of the stream {name!r}" if name else ""
                raise ValueError(f"{total} training clips{stream} cannot be dealt out to {replicas} processes")
        wanted = {name: max(1, round(self.batch_size * spec.batch_share)) for name, spec in streams.items()}
        sizes = {name: min(wanted[name], len(data) // replicas) for name, (data, _) in sets.items()}  # type: ignore[arg-type]
        if "" in sets:  # a handful of clips still makes a batch
            data, seed = sets[""]
            sampler = ShuffledSampler(data, replicas, rank, seed)
            return TrainLoader(data, batch_size=sizes[""], sampler=sampler, drop_last=True, **self._options())
        lengths = {name: len(data) // replicas // sizes[name] for name, (data, _) in sets.items()}  # type: ignore[arg-type]
        of_clips = [lengths[name] for name, (data, _) in sets.items() if isinstance(data, ClipDataset)]
        batches = max(of_clips or lengths.values())  # a grammar may have as many sentences as it likes
        loaders = {}
        for name, (data, seed) in sets.items():
            sampler = ShuffledSampler(data, replicas, rank, seed, sizes[name], batches)
            loaders[name] = TrainLoader(
                data, batch_size=sizes[name], sampler=sampler, drop_last=True, **self._options()
            )
        return CombinedLoader(loaders, "min_size")

    def _scoring_loader(self, part: str, *, scoring: bool) -> DataLoader[dict[str, Any]]:
        dataset = self._dataset(part, self._spec(), self.seed, scoring=scoring)
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

    # ------------------------------------------------------------------------- for models that begin from statistics

    def training_landmarks(self, most: int = 1000) -> Iterator[Tensor]:
        """Landmarks of the paired training clips in this store, evenly spaced over the list.

        Args:
            most: Clips that are looked at.

        Yields:
            (T, 68, 2) float32 pixels of the canonical picture.
        """
        clips = self._present["paired"]
        for place in np.unique(np.linspace(0, len(clips) - 1, most).round().astype(int)):
            yield torch.from_numpy(self.store[clips[place]].landmarks.copy())

    def training_words(self) -> list[str]:
        """The words of the paired training clips in this store, each once, in alphabetical order.

        Raises:
            ValueError: The corpus comes without text.
        """
        if not self.store.has_text:
            raise ValueError(f"the store {self.store.path} has no words: the corpus {self.corpus.name} has no text")
        texts = dict(zip(self.store.clip_ids, self.store.column("text"), strict=True))
        return sorted({word for clip in self._present["paired"] for word in texts[clip].split()})

    # ---------------------------------------------------------------------------------------- for the evaluator

    @property
    def store_info(self) -> dict[str, Any]:
        """What a record says about the store and the training clips.

        Settings, counts, the packed view if it is a packed store, and, unless all training clips are paired, how they
        are divided, with a hash of the clips of each part.
        """
        info = self.store.info
        if self.paired < 1:
            lines = [f"{name} {clip}" for name, clips in self._parts.items() for clip in clips]
            info["training_parts"] = {
                "paired": self.paired,
                "split_seed": self.split_seed,
                "disjoint": self.disjoint,
                **({} if self.unpaired is None else {"unpaired": self.unpaired}),
                "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
            }
        return info

    @property
    def other_speakers(self) -> bool:
        """Whether every test clip has one of another speaker at its frame rate, so that batches hold it."""
        return bool(other_speakers(self.store, self.test_ids))

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
