"""Clips of a store as training examples, and loaders that can stop and go on at any batch.

What is random (order, windows, identity frames) depends on the seed, the epoch and the clip's position in the split
alone; so the batches are the same for any number of loader processes, and a resumed run sees those that the
interrupted one would have seen.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lipbench.data.store import Store, StoredClip
from lipbench.media import geometry, text
from lipbench.types import ClipBatch, ClipSpec

SCORING: Final = frozenset({"face", "landmarks", "mismatched", "other_speaker", "sound"})
"""Batch keys that `test` supplies whether a model of frames asks for them or not."""

_JUDGED_RATE: Final = 16_000  # samples a second of `sound`, which every SyncNet hears

Key = int | tuple[int, ...]
"""Position in the split, in training together with the epoch: (epoch, position), and from the second pass of a shorter
stream within one epoch on (epoch, position, pass)."""


class ClipDataset(Dataset[dict[str, Any]]):
    """The clips of one part of a split.

    Args:
        store: Where they are.
        clip_ids: Which; their position is the batch's `index`.
        spec: What the model wants.
        keys: Further batch keys, out of `ClipSpec.KEYS`; "other_speaker" is left out if there is none.
        seed: Of windows and identity frames.
        training: Windows and random identity frames; otherwise whole clips and the first frame.
        speakers: Name -> `speaker_id`; -1 for others.
        tokenizer: That of the corpus.

    Raises:
        ValueError: `mismatched` is among the keys and a clip has no partner with another sentence.
    """

    def __init__(
        self,
        store: Store,
        clip_ids: Sequence[str],
        spec: ClipSpec,
        keys: frozenset[str],
        *,
        seed: int,
        training: bool,
        speakers: Mapping[str, int],
        tokenizer: text.Tokenizer = text.CHARACTERS,
    ) -> None:
        self.store = store
        self.clip_ids = list(clip_ids)
        self.spec = spec
        self.keys = keys
        self.seed = seed
        self.training = training
        self.speakers = dict(speakers)
        self.tokenizer = tokenizer
        self.partners = mismatched_clips(store, self.clip_ids) if "mismatched" in keys else []
        self.others = other_speakers(store, self.clip_ids) if "other_speaker" in keys else []

    def __len__(self) -> int:
        """Clips."""
        return len(self.clip_ids)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """One example; pictures are uint8 (T, 3, H, W)."""
        index, rng = _drawn(self.seed, key)
        clip = self.store[self.clip_ids[index]]
        spec, keys = self.spec, self.keys
        item: dict[str, Any] = {
            "index": index,
            "clip_id": clip.clip_id,
            "speaker": clip.speaker,
            "speaker_id": self.speakers.get(clip.speaker, -1),
        }
        if clip.text and spec.part != "lips":
            item["text"] = clip.text
        if spec.frames:
            frames = self._frames(clip.n_frames, rng)
            item |= {"video_len": len(frames), "frame": torch.from_numpy(frames)}
            item |= self._seen(clip, frames, rng)
        if spec.frames or spec.audio_rate is not None:
            item |= {"n_frames": clip.n_frames, "fps": clip.fps, "speech": torch.tensor(clip.speech)}
        if spec.audio_rate is not None:
            item["audio"] = torch.from_numpy(clip.audio(spec.audio_rate))
            item["audio_len"] = len(item["audio"])
        if "sound" in keys:
            item["sound"] = torch.from_numpy(clip.audio(_JUDGED_RATE))
            item["sound_len"] = len(item["sound"])
        if "tokens" in keys:
            item |= _tokens(clip.symbols, self.tokenizer)
        if "durations" in keys:
            item["durations"] = torch.from_numpy(clip.durations.copy())
        if "mismatched" in keys:
            item["mismatched"] = self._mismatched(clip, self.store[self.partners[index]], item)
        if self.others:
            item["other_speaker"] = self._other_speaker(clip, self.store[self.others[index]], item)
        return item

    def _seen(self, clip: StoredClip, frames: npt.NDArray[np.int64], rng: np.random.Generator) -> dict[str, Any]:
        """Views, identity frames and landmarks."""
        spec, keys = self.spec, self.keys
        if "face" in keys:
            pictures = torch.from_numpy(clip.pictures(frames)).permute(0, 3, 1, 2)  # (T, 3, 352, 320)
            item: dict[str, Any] = {"face": pictures}
            item |= {name: geometry.crop(pictures, view) for name, view in spec.frames.items()}
        else:
            item = dict(clip.views(frames, spec.frames))
        if keys & {"identity", "identity_landmarks"}:
            known = self._identity(frames, clip.n_frames, rng)  # (R,)
            if "identity" in keys:
                item["identity"] = clip.view(known, spec.frames["video"])
                item |= {name: clip.view(known, view) for name, view in spec.identity_views.items()}
            if "identity_landmarks" in keys:
                item["identity_landmarks"] = torch.from_numpy(clip.landmarks[known])
        if "landmarks" in keys:
            item["landmarks"] = torch.from_numpy(clip.landmarks[frames])
        return item

    def _frames(self, total: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        window = self.spec.window
        if not self.training or window is None or window >= total:
            return np.arange(total)
        if self.spec.sampling == "random":
            return np.sort(rng.choice(total, window, replace=False))
        return rng.integers(total - window + 1) + np.arange(window)

    def _identity(self, frames: npt.NDArray[np.int64], total: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        count, wanted = self.spec.references, self.spec.identity
        if not self.training or wanted == "first":
            return np.zeros(count, np.int64)
        if wanted == "random":
            return rng.integers(total, size=count)
        # Among the starts other than that of the frames drawn, which would show what is to be made.
        start = rng.integers(max(total - count, 1))
        start += start >= frames[0]
        return np.arange(start, start + count).clip(max=total - 1)

    def _mismatched(self, clip: StoredClip, other: StoredClip, item: dict[str, Any]) -> dict[str, Any]:
        """Words, where they are known, and sound of another clip, as long as this one."""
        mismatched: dict[str, Any] = {"clip_id": other.clip_id}
        if other.text:
            ends = np.rint(np.cumsum(other.durations) * (clip.n_frames / other.n_frames)).astype(np.int64)
            mismatched |= {
                "text": other.text,
                **_tokens(other.symbols, self.tokenizer),
                "durations": torch.from_numpy(np.diff(ends, prepend=0)),
            }
        return mismatched | self._fitted(other, item)

    def _other_speaker(self, clip: StoredClip, other: StoredClip, item: dict[str, Any]) -> dict[str, Any]:
        """What another speaker's clip shows, up to this one's length, and its sound, as long as this one's."""
        frames = np.arange(min(clip.n_frames, other.n_frames))
        pictures = torch.from_numpy(other.pictures(frames)).permute(0, 3, 1, 2)  # (T, 3, 352, 320)
        return {
            "index": item["index"],
            "clip_id": other.clip_id,
            "video": geometry.crop(pictures, self.spec.frames["video"]),
            "video_len": len(frames),
            "fps": other.fps,
            "speech": torch.tensor(other.speech).clamp(max=len(frames)),
            "face": pictures,
            "landmarks": torch.from_numpy(other.landmarks[frames]),
            **self._fitted(other, item),
        }

    def _fitted(self, other: StoredClip, item: dict[str, Any]) -> dict[str, Any]:
        """The sound of another clip, cut or filled with silence to this one's length."""
        found: dict[str, Any] = {}
        judged_rate = _JUDGED_RATE if "sound" in self.keys else None
        for name, rate in (("audio", self.spec.audio_rate), ("sound", judged_rate)):
            if rate is not None:
                sound = torch.zeros(item[f"{name}_len"])
                heard = torch.from_numpy(other.audio(rate))[: len(sound)]
                sound[: len(heard)] = heard
                found |= {name: sound, f"{name}_len": len(sound)}
        return found


class SentenceDataset(Dataset[dict[str, Any]]):
    """Sentences that no clip need say, for streams of text alone.

    Args:
        sentences: Which; their position is the batch's `index`.
        tokenizer: That of the corpus.
    """

    def __init__(self, sentences: Sequence[str], tokenizer: text.Tokenizer) -> None:
        self.sentences = list(sentences)
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        """Sentences."""
        return len(self.sentences)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Index, text and tokens."""
        index = key[1] if isinstance(key, tuple) else key
        sentence = self.sentences[index]
        return {"index": index, "text": sentence, **_tokens(self.tokenizer.symbols(sentence.split()), self.tokenizer)}


def _drawn(seed: int, key: Key) -> tuple[int, np.random.Generator]:
    """Position in the split, and the generator of what is random about an example."""
    key = key if isinstance(key, tuple) else (0, key)
    return key[1], np.random.default_rng((seed, *key))


def _tokens(symbols: Sequence[str], tokenizer: text.Tokenizer) -> dict[str, Any]:
    return {"tokens": torch.tensor(tokenizer.encode(symbols)), "token_len": len(symbols)}


def mismatched_clips(store: Store, clip_ids: Sequence[str]) -> list[str]:
    """For each clip the next one of the same speaker in the list that says something else.

    After the last comes the first. Where the list has none, one of the same speaker elsewhere in the store is taken,
    then one of another speaker. Of clips without text every other one counts as saying something else.

    Raises:
        ValueError: All clips of the store say the same, or there is only one.
    """
    texts, speakers = (dict(zip(store.clip_ids, store.column(name), strict=True)) for name in ("text", "speaker"))

    def next_other(clip_id: str, ring: Sequence[str], start: int) -> str | None:
        turned = (ring[(start + k) % len(ring)] for k in range(len(ring)))
        own = texts[clip_id]
        return next((other for other in turned if other != clip_id and (texts[other] != own or not own)), None)

    def by_speaker(ids: Sequence[str]) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for clip_id in ids:
            groups.setdefault(speakers[clip_id], []).append(clip_id)
        return groups

    listed, stored = by_speaker(clip_ids), by_speaker(store.clip_ids)
    place = {clip_id: k for group in listed.values() for k, clip_id in enumerate(group)}
    partners = []
    for k, clip_id in enumerate(clip_ids):
        speaker = speakers[clip_id]
        partner = (
            next_other(clip_id, listed[speaker], place[clip_id] + 1)
            or next_other(clip_id, stored[speaker], 0)
            or next_other(clip_id, store.clip_ids, k)
        )
        if partner is None:
            raise ValueError(
                f"the control rows need clips with different sentences; all of {store.path} say {texts[clip_id]!r}"
                if texts[clip_id]
                else f"the control rows need another clip, and {store.path} holds only {clip_id}"
            )
        partners.append(partner)
    return partners


def other_speakers(store: Store, clip_ids: Sequence[str]) -> list[str]:
    """For each clip the next one in the list, the first after the last, of another speaker at the same frame rate.

    One with as many frames or more comes before shorter ones. The list is empty if a clip has none.
    """
    names = ("speaker", "fps", "n_frames")
    known = dict(zip(store.clip_ids, zip(*map(store.column, names), strict=True), strict=True))
    found = []
    for k, clip_id in enumerate(clip_ids):
        speaker, fps, frames = known[clip_id]
        chosen = shorter = ""
        for place in itertools.chain(range(k + 1, len(clip_ids)), range(k)):  # ends at the first that fits
            other = clip_ids[place]
            if known[other][0] != speaker and known[other][1] == fps:
                if known[other][2] >= frames:
                    chosen = other
                    break
                shorter = shorter or other
        if not (chosen or shorter):
            return []
        found.append(chosen or shorter)
    return found


def collate(items: Sequence[dict[str, Any]]) -> ClipBatch:
    """Examples to a batch: tensors are zero-padded along their first dimension, numbers stacked, texts listed."""
    batch: dict[str, Any] = {}
    for key, first in items[0].items():
        values = [item[key] for item in items]
        if isinstance(first, Tensor):
            longest = max(len(value) for value in values)
            padded = first.new_zeros((len(values), longest, *first.shape[1:]))
            for row, value in zip(padded, values, strict=True):
                row[: len(value)] = value
            batch[key] = padded
        elif isinstance(first, dict):
            batch[key] = collate(values)
        elif isinstance(first, str):
            batch[key] = values
        else:
            batch[key] = torch.tensor(values, dtype=torch.float32 if isinstance(first, float) else torch.int64)
    return batch  # type: ignore[return-value]


def to_float(batch: ClipBatch) -> ClipBatch:
    """Pictures but `face` from uint8 to float in [0, 1], in place. Done on the device: bytes travel, not floats.

    Args:
        batch: One batch, or several streams by name; batches inside it (`mismatched`) are converted too.
    """
    return _in_float(batch)  # type: ignore[no-any-return]


def _in_float(values: Any) -> Any:  # noqa: ANN401 - batches hold tensors, texts and batches
    if isinstance(values, dict):
        for key, value in values.items():
            if key != "face":
                values[key] = _in_float(value)
    elif isinstance(values, list | tuple):
        return type(values)(_in_float(value) for value in values)
    elif isinstance(values, Tensor) and values.dtype == torch.uint8:
        return values.float().div_(255)
    return values


class ShuffledSampler(DistributedSampler[Key]):
    """Every clip once an epoch in random order, dealt out to the processes; what does not divide evenly is left out.

    A stream that is shorter than another of the same model goes through its clips again within the epoch, each time in
    another order.

    Args:
        dataset: The clips.
        replicas: Processes.
        rank: This one.
        seed: With the epoch, it gives the order.
        batch_size: Clips a batch and process; with `batches` only.
        batches: Batches an epoch and process; None takes every clip once.
    """

    def __init__(
        self,
        dataset: Dataset[dict[str, Any]],
        replicas: int,
        rank: int,
        seed: int,
        batch_size: int = 1,
        batches: int | None = None,
    ) -> None:
        super().__init__(dataset, replicas, rank, shuffle=True, seed=seed, drop_last=True)
        self.start = 0  # clips of this process to pass over, once: set on resuming
        self._once = len(self.dataset) // replicas  # type: ignore[arg-type]
        self._kept = self._once if batches is None else self._once // batch_size * batch_size  # of one pass
        self._total = self._once if batches is None else batches * batch_size

    def __iter__(self) -> Iterator[Key]:
        """(epoch, position), in later passes (epoch, position, pass)."""
        keys: list[Key] = []
        for turn in range(-(-self._total // max(self._kept, 1))):
            again = (turn,) if turn else ()
            order = np.random.default_rng((self.seed, self.epoch, *again)).permutation(len(self.dataset))  # type: ignore[arg-type]
            mine = order[: self._once * self.num_replicas][self.rank :: self.num_replicas][: self._kept].tolist()
            keys += [(self.epoch, index, *again) for index in mine]
        return iter(keys[: self._total][self.start :])

    def __len__(self) -> int:
        """Clips an epoch and process."""
        return self._total


class UnpaddedSampler(DistributedSampler[Key]):
    """Every clip exactly once over all processes, in order; torch's own sampler repeats some to make parts equal.

    With fewer clips than processes the others repeat one: a process without a batch would skip the loop's hooks, and
    the rest would wait for it. Scores are unique by `index`, so the repetition does not count.
    """

    def __iter__(self) -> Iterator[Key]:
        """Positions in the split."""
        return iter(self._positions())

    def __len__(self) -> int:
        """Clips of this process."""
        return len(self._positions())

    def _positions(self) -> range:
        total = len(self.dataset)  # type: ignore[arg-type]
        first = self.rank if self.rank < total else self.rank % max(total, 1)
        return range(first, total, self.num_replicas)


class TrainLoader(DataLoader[dict[str, Any]]):
    """A loader whose place within the epoch is part of the checkpoint.

    Lightning stores `state_dict` with its fit loop, restores it before it asks for the first batch, and tells the
    sampler the epoch after it has asked for the iterator: so the epoch is only looked at when the first batch is
    wanted.
    """

    _at: tuple[int, int] = (0, 0)  # epoch, batches handed out in it
    _resume: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches of the sampler's epoch, after a resume from where the interrupted run stopped."""
        sampler = self.sampler
        epoch = getattr(sampler, "epoch", 0)
        done = 0
        if self._resume is not None and self._resume[0] == epoch:
            done = self._resume[1]
        self._resume = None
        if isinstance(sampler, ShuffledSampler):
            sampler.start = done * (self.batch_size or 1)
        self._at = (epoch, done)
        for batch in super().__iter__():
            self._at = (epoch, self._at[1] + 1)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch, and batches of it that were handed out (not those that wait in the loader's processes)."""
        return {"epoch": self._at[0], "batches": self._at[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after that batch."""
        self._resume = (state["epoch"], state["batches"])
