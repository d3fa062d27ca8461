"""Named protocols: which clips of a corpus train a model and which score it.

Each corpus brings its protocols (`lipbench.data.corpus.Corpus`); the part of a name before the first slash is the
corpus. Here are the mechanics. Validation clips are a twentieth of the training clips, chosen by a hash of the clip id
(own choice: published lists have none).
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from lipbench import discovery

_VALIDATION: Final = 20  # one training clip in so many


@dataclass(frozen=True)
class Split:
    """Clip ids of a protocol, each part sorted; no clip is in two parts."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of the sorted ids; training and validation count as one part, as published."""
        lines = [f"train {clip}" for clip in sorted((*self.train, *self.validation))]
        lines += [f"test {clip}" for clip in self.test]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Protocol:
    """A way of dividing a corpus.

    Args:
        name: Corpus and protocol, such as "grid/seen".
        version: Raised whenever the same name would give another split.
        reported: Dataset name in `leaderboards/reported` of papers whose numbers may stand beside this protocol; None
            if none.
        is_test: Whether a clip is in the test part.
        published: The clips that belong to the protocol; None if every clip of the store does.
    """

    name: str
    version: int
    reported: str | None
    is_test: Callable[[str], bool]
    published: Callable[[], Iterable[str]] | None = None

    @property
    def data(self) -> str:
        """Name of the corpus."""
        return self.name.partition("/")[0]

    def __reduce__(self) -> tuple[Callable[[str], "Protocol"], tuple[str]]:
        """Processes exchange the name, with the class path of a foreign corpus: functions do not pickle."""
        known = self.data in discovery.files("data")
        corpus = self.data if known else _PATHS.get(self.data, self.data)
        return load, (f"{corpus}/{self.name.partition('/')[2]}",)

    def split(self, clip_ids: Iterable[str]) -> Split:
        """Divide clips; of a published protocol always all of its clips, whatever is given.

        Args:
            clip_ids: Clips of a store.
        """
        chosen = sorted(self.published() if self.published else set(clip_ids))
        test = [clip for clip in chosen if self.is_test(clip)]
        rest = [clip for clip in chosen if not self.is_test(clip)]
        validation = [clip for clip in rest if hashed(f"validation/{clip}") % _VALIDATION == 0]
        held = set(validation)
        return Split(tuple(clip for clip in rest if clip not in held), tuple(validation), tuple(test))


_PROTOCOLS: Final[dict[str, Protocol]] = {}
_PATHS: Final[dict[str, str]] = {}  # name of a corpus that is loaded -> its class path


def register(class_path: str, corpus: str, protocols: Iterable[Protocol]) -> None:
    """Make the protocols of a corpus known by their names; called when its class is defined.

    Args:
        class_path: Of the corpus.
        corpus: Its name.
        protocols: All of them.

    Raises:
        TypeError: Another corpus has that name.
    """
    if _PATHS.get(corpus, class_path) != class_path:
        raise TypeError(f"two corpora are called {corpus!r}: {_PATHS[corpus]} and {class_path}; give one another name")
    _PATHS[corpus] = class_path
    _PROTOCOLS.update({protocol.name: protocol for protocol in protocols})


def load(name: str) -> Protocol:
    """The protocol of that name.

    Args:
        name: Such as "grid/seen"; the part before the first slash is the name of a corpus, or the class path of one.

    Raises:
        ValueError: There is none; the message lists those there are.
    """
    corpus, _, rest = name.partition("/")
    for own, path in _PATHS.items():
        if path == corpus:
            corpus = own
    if corpus not in _PATHS and (corpus in discovery.files("data") or "." in corpus):
        corpus = discovery.load("data", corpus).name
    name = f"{corpus}/{rest}"
    if name not in _PROTOCOLS:
        for known in discovery.files("data"):
            discovery.load("data", known)
        raise ValueError(f"no protocol {name!r}; known are {', '.join(_PROTOCOLS)}")
    return _PROTOCOLS[name]


def hashed(text: str) -> int:
    """A number from 0 to 2**32 - 1 that depends on the text alone: deterministic splits are made with it."""
    return int(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8], 16)


def speaker(clip_id: str) -> str:
    """Second part of a clip id."""
    return clip_id.split("/")[1]
