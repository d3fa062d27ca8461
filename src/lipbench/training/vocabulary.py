"""The words of models that classify clips by the word they say: taken from the training clips, kept in checkpoints."""

from collections.abc import Mapping
from typing import Any


def words_of_clips(data: Any, *, folders: bool, outputs: int, taker: str, without: str = "") -> tuple[str, ...]:  # noqa: ANN401 - any datamodule, or None
    """The words of the training clips, in alphabetical order.

    Args:
        data: The trainer's datamodule.
        folders: Whether a clip says the name of its folder, as in LRW; otherwise its text.
        outputs: How many words the network tells apart.
        taker: What takes the words, for messages.
        without: How to train without it, for messages; empty if that cannot be.

    Raises:
        ValueError: The datamodule gives no words, or another number of them.
    """
    wanted = "speakers" if folders else "training_words"
    if not hasattr(data, wanted):
        raise ValueError(
            f"{taker} takes its words from the training clips: expected a datamodule with `{wanted}`, such as "
            f"ClipDataModule, found {type(data).__name__}{f'. Or train without: {without}' if without else ''}"
        )
    found = tuple(sorted({name.lower() for name in data.speakers}) if folders else data.training_words())
    if len(found) != outputs:
        raise ValueError(
            f"the training clips say {len(found)} words, and {taker} has {outputs} outputs; give "
            f"--model.outputs {len(found)}{f' if every clip says one word, else {without}' if without else ''}"
        )
    return found


def stored_words(meta: Mapping[str, Any], outputs: int) -> tuple[str, ...]:
    """The words of a checkpoint's entry "vocabulary"; none if `outputs` is 0.

    Raises:
        ValueError: It is no list of as many words.
    """
    words = meta.get("vocabulary")
    if not isinstance(words, list) or len(words) != outputs or not all(isinstance(word, str) for word in words):
        raise ValueError(f"this checkpoint is damaged: its entry 'vocabulary' is no list of {outputs} words")
    return tuple(words)
