"""The rendered corpus: talking faces with known truth, in GRID's layout; made on the spot, no download.

"rendered/judges" trains the observers that come with lipbench: none of its training clips is a test clip of another
rendered protocol.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

from lipbench.corpora import grid
from lipbench.data.corpus import Corpus, RawClip
from lipbench.data.protocol import Protocol, hashed, speaker
from lipbench.paths import home

_UNSEEN: Final = frozenset({"s1", "s2"})
_TEST: Final = 5  # one sentence in so many


def _held_sentence(clip_id: str) -> bool:
    return hashed(clip_id) % _TEST == 0


def _held_speaker(clip_id: str) -> bool:
    return speaker(clip_id) in _UNSEEN


class Rendered(Corpus):
    """Rendered speakers of GRID sentences, read exactly like GRID."""

    name: ClassVar[str] = "rendered"
    protocols: ClassVar[tuple[Protocol, ...]] = (
        Protocol("rendered/seen", 1, None, _held_sentence),
        Protocol("rendered/unseen", 1, None, _held_speaker),
        Protocol("rendered/judges", 1, None, lambda clip: _held_sentence(clip) or _held_speaker(clip)),
    )
    default_protocol: ClassVar[str] = "rendered/seen"
    license: ClassVar[str] = "that of lipbench; the voices are eSpeak NG's"
    access: ClassVar[str] = "made on the spot by `lipbench prepare --data rendered`"

    @classmethod
    def locate(cls, root: str | Path | None = None) -> Path:
        """The corpus folder; without one, `$LIPBENCH_HOME/corpora/rendered`, which is written first."""
        if root is not None:
            return Path(root)
        from lipbench.synthetic.corpus import write_corpus

        folder = home() / "corpora" / cls.name
        write_corpus(folder)
        return folder

    @classmethod
    def prepare_options(cls) -> str:
        """None."""
        return ""

    @classmethod
    def scan(cls, root: Path) -> list[RawClip]:
        """Every clip of a rendered corpus."""
        return grid.scan(root, cls.name)

    @classmethod
    def sentences(cls) -> Iterator[str]:
        """Those of GRID."""
        return grid.Grid.sentences()
