"""The rendered corpus: talking faces with known truth, in GRID's layout; made on the spot, no download."""

from pathlib import Path
from typing import ClassVar

from lipbench.corpora import grid
from lipbench.data.datamodule import ClipDataModule
from lipbench.data.prepare import RawClip
from lipbench.paths import home


class Rendered(ClipDataModule):
    """Rendered speakers of GRID sentences, read exactly like GRID."""

    data: ClassVar[str] = "rendered"
    protocols: ClassVar[tuple[str, ...]] = ("rendered/seen", "rendered/unseen", "rendered/judges")
    default_protocol: ClassVar[str] = "rendered/seen"

    @classmethod
    def corpus(cls, root: str | Path | None = None) -> Path:
        """The corpus folder; without one, `$LIPBENCH_HOME/corpora/rendered`, which is written first."""
        if root is not None:
            return Path(root)
        from lipbench.synthetic.corpus import write_corpus

        folder = home() / "corpora" / cls.data
        write_corpus(folder)
        return folder

    @classmethod
    def scan(cls, root: Path) -> list[RawClip]:
        """Every clip of a rendered corpus."""
        return grid.scan(root, cls.data)
