"""Named protocols: which clips train a model and which score it.

GRID's lists are the published ones of LipNet-PyTorch ("overlap": 255 test sentences of each of 33 speakers; "unseen":
speakers s1, s2, s20 and s22 are the test), which cover the same 32,823 clips. The package keeps the clips once, with
the overlap test clips marked. Validation clips are a twentieth of the training clips, chosen by a hash of the clip id
(own choice: the lists have none).

"rendered/judges" trains the observers that come with lipbench: none of its training clips is a test clip of another
rendered protocol.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Final

_VALIDATION: Final = 20  # one training clip in so many
_UNSEEN_GRID: Final = frozenset({"s1", "s2", "s20", "s22"})
_UNSEEN_RENDERED: Final = frozenset({"s1", "s2"})
_RENDERED_TEST: Final = 5  # one rendered sentence in so many


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
        name: Such as "grid/seen". version: Raised whenever the same name would give another split. data: The corpus.
        reported: Dataset name in `leaderboards/reported` of papers whose numbers may stand beside this protocol; None
        if none. is_test: Whether a clip is in the test part. published: The clips that belong to the protocol; None
        if every clip of the store does.
    """

    name: str
    version: int
    data: str
    reported: str | None
    is_test: Callable[[str], bool]
    published: Callable[[], Iterable[str]] | None = None

    def __reduce__(self) -> tuple[Callable[[str], "Protocol"], tuple[str]]:
        """Processes exchange the name: functions do not pickle."""
        return load, (self.name,)

    def split(self, clip_ids: Iterable[str]) -> Split:
        """Divide clips; of a published protocol always all of its clips, whatever is given.

        Args:
            clip_ids: Clips of a store.
        """
        chosen = sorted(self.published() if self.published else set(clip_ids))
        test = [clip for clip in chosen if self.is_test(clip)]
        rest = [clip for clip in chosen if not self.is_test(clip)]
        validation = [clip for clip in rest if _number(f"validation/{clip}") % _VALIDATION == 0]
        held = set(validation)
        return Split(tuple(clip for clip in rest if clip not in held), tuple(validation), tuple(test))


def load(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ValueError: There is none; the message lists those there are.
    """
    if name not in _PROTOCOLS:
        raise ValueError(f"no protocol {name!r}; known are {', '.join(_PROTOCOLS)}")
    return _PROTOCOLS[name]


def _number(clip_id: str) -> int:
    return int(hashlib.sha256(clip_id.encode()).hexdigest()[:8], 16)


@lru_cache(maxsize=1)
def _grid() -> dict[str, bool]:
    """Published GRID clip id -> whether it is an overlap test clip."""
    clips: dict[str, bool] = {}
    text = resources.files("lipbench.data").joinpath("splits/grid.txt").read_text("utf-8")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            speaker, *names = line.split()
            clips |= {f"grid/{speaker}/{name.rstrip('*')}": name.endswith("*") for name in names}
    return clips


def _grid_s1() -> list[str]:
    return [clip for clip in _grid() if _speaker(clip) == "s1"]


def _speaker(clip_id: str) -> str:
    return clip_id.split("/")[1]


def _held_sentence(clip_id: str) -> bool:
    return _number(clip_id) % _RENDERED_TEST == 0


def _held_speaker(clip_id: str) -> bool:
    return _speaker(clip_id) in _UNSEEN_RENDERED


_PROTOCOLS: Final = {
    protocol.name: protocol
    for protocol in (
        Protocol("grid/seen", 1, "grid", "grid", lambda clip: _grid()[clip], lambda: _grid()),
        Protocol("grid/unseen", 1, "grid", None, lambda clip: _speaker(clip) in _UNSEEN_GRID, lambda: _grid()),
        Protocol("grid/s1", 1, "grid", None, lambda clip: _grid()[clip], _grid_s1),
        Protocol("rendered/seen", 1, "rendered", None, _held_sentence),
        Protocol("rendered/unseen", 1, "rendered", None, _held_speaker),
        Protocol("rendered/judges", 1, "rendered", None, lambda clip: _held_sentence(clip) or _held_speaker(clip)),
    )
}
