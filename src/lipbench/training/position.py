"""Where training stands: how many batches of which epoch are done, in the words of Lightning's loops.

Lightning counts an epoch as done when its loop ends, also one that `max_steps`, `max_time` or an interrupt cut short:
resumed from there, it begins the next epoch, and the rest of the old one is never seen. Besides, it stores a place in
six different ways, one for each hook that may write a checkpoint. Here a place is an epoch, the batches done in it and
those done in all; Lightning's counters are made from it anew on resuming, so that every checkpoint goes on in one way.
"""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from lipbench.training import checkpoints


class Place(NamedTuple):
    """After which batch training stands."""

    epoch: int
    """Epochs done, which is the number of the one that goes on."""
    batch: int
    """Batches of it that are done; 0 at its beginning."""
    loaders: list[dict[str, int]]
    """What the training loaders said of their place."""


def read(stored: Any) -> Place:  # noqa: ANN401 - what a file holds
    """The place in the stored state of Lightning's fit loop, whichever hook wrote it.

    Args:
        stored: `checkpoint["loops"]`.

    Raises:
        ValueError: The state is of another kind than Lightning writes.
    """
    try:
        loop = stored["fit_loop"]
        epoch = loop["epoch_progress"]["current"]["started"] - 1
        progress = loop["epoch_loop.batch_progress"]
        batch = progress["current"]["processed"]
        last = progress["is_last_batch"] and progress["current"]["ready"] == batch  # else it is the one in progress
        loaders = [dict(state) for state in loop["state_dict"].get("combined_loader", [])]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"its entry 'loops' is of another kind than Lightning writes ({type(error).__name__}: {error})"
        ) from None
    counts = [epoch + 1, batch, *(value for state in loaders for value in state.values())]
    if not all(isinstance(count, int) and 0 <= count < 1 << 40 for count in counts) or not isinstance(last, bool):
        raise ValueError("its entry 'loops' holds counts that are none")
    if epoch < 0:  # before the first batch
        return Place(0, 0, [])
    if last or batch == 0:
        return Place(epoch + last, 0, [])
    # A batch that an error broke off was handed out, but is not done.
    return Place(epoch, batch, [s | {"batches": batch} if {"epoch", "batches"} <= s.keys() else s for s in loaders])


def written(trainer: pl.Trainer, place: Place, batches: int, drawn: int) -> dict[str, Any]:
    """The state of Lightning's loops at a place.

    Args:
        trainer: Whose fit loop, before it runs, says which counters there are.
        place: Where.
        batches: Done in all epochs; those whose gradients were accumulated count as one.
        drawn: Batches of the loader in all epochs.
    """
    loop: dict[str, Any] = trainer.fit_loop.state_dict()
    epoch, batch, loaders = place
    # Within an epoch, as at the end of a batch before its last counter: the one form that Lightning resumes exactly.
    begun, behind = (epoch + 1, 1) if batch else (epoch, 0)
    loop["epoch_progress"] = _both({"ready": begun, "started": begun, "processed": epoch, "completed": epoch})
    loop["epoch_loop.batch_progress"] = {
        "total": {"ready": drawn, "started": drawn, "processed": drawn, "completed": drawn - behind},
        "current": {"ready": batch, "started": batch, "processed": batch, "completed": batch - behind},
        "is_last_batch": False,
    }
    steps = _both({"ready": batches, "completed": batches})  # its total is `global_step`
    loop["epoch_loop.manual_optimization.optim_step_progress"] = steps
    loop["epoch_loop.state_dict"] = {"_batches_that_stepped": batches}
    loop["state_dict"] = {"combined_loader": loaders} if batch else {}
    return {"fit_loop": loop}


def before_accumulation(place: Place, accumulated: int) -> Place:
    """The place at which the batches begin whose gradients were accumulated when a checkpoint was written.

    Args:
        place: Where it was written.
        accumulated: Batches since the last step; they lie in the same epoch.
    """
    batch = place.batch - accumulated
    if accumulated == 0:
        return place
    loaders = [s | {"batches": s["batches"] - accumulated} if "batches" in s else s for s in place.loaders]
    return Place(place.epoch, batch, loaders if batch else [])


def seed(run: int, batches: int, rank: int, accumulated: int = 0) -> None:
    """Seed torch, numpy and python for a batch, so that it draws the same whatever came before.

    Args:
        run: Seed of the run.
        batches: Training batches done.
        rank: Number of the process.
        accumulated: Batches since the last step.
    """
    state = np.random.SeedSequence([run, batches, rank, *([accumulated] if accumulated else [])]).generate_state(3)
    torch.manual_seed(int(state[0]))
    np.random.seed(int(state[1]))  # noqa: NPY002 - the global generator, which other packages draw from
    random.seed(int(state[2]))


def restore(trainer: pl.Trainer, checkpoint: dict[str, Any], batches: int, drawn: int, accumulated: int) -> None:
    """Leave in a checkpoint what the trainer shall restore, in the form in which it goes on exactly.

    Args:
        trainer: That reads it.
        checkpoint: As Lightning hands it to `on_load_checkpoint`; it is changed.
        batches: Done, as the checkpoint says.
        drawn: Batches of the loader that they took.
        accumulated: Further batches of the loader, which will be drawn again.

    Raises:
        ValueError: A part is absent or of another kind.
    """
    if trainer.state.fn != TrainerFn.FITTING:
        checkpoint.pop("loops", None)
        checkpoint.pop("callbacks", None)
        return
    checkpoints.check_resumable(checkpoint, batches)
    place = before_accumulation(read(checkpoint["loops"]), accumulated)
    checkpoint["loops"] = written(trainer, place, batches, drawn)
    checkpoint["callbacks"] = _callback_states(trainer, checkpoint["callbacks"])


def place_loaders(trainer: pl.Trainer) -> None:
    """Have the training loaders go on from their places, where Lightning has not done so.

    It forgets to if they were made before the checkpoint was restored, to count batches for a learning rate.
    """
    trainer.fit_loop._load_combined_loader_states()


def _callback_states(trainer: pl.Trainer, stored: dict[str, Any]) -> dict[str, Any]:
    """The states of callbacks that a resumed run takes over.

    A limit of time is one of this run: Lightning's would count all resumed ones. What was best so far counts where
    its checkpoints lie; names from the file are only followed there, since what is no longer best is removed.
    """
    states = {key: state for key, state in stored.items() if not key.startswith(("Timer", "ModelCheckpoint"))}
    resumed = Path(trainer.ckpt_path or "").resolve().parent
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback.state_key not in stored:
            continue
        folder = Path(callback.dirpath or "")
        if folder.resolve() == resumed:
            states[callback.state_key] = checkpoints.moved(stored[callback.state_key], folder)
    return states


def _both(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    return {"total": dict(counts), "current": dict(counts)}


def validation_is_due(trainer: pl.Trainer) -> bool:
    """Whether the validation that belongs after the last batch is still to come or has not ended.

    One that only takes place because training stops is not due: an uninterrupted run has none there.
    """
    loop = trainer.fit_loop.epoch_loop
    progress: Any = loop.batch_progress.current
    fetcher = trainer.fit_loop._data_fetcher
    if fetcher is None or progress.processed == 0 or progress.ready != progress.processed:
        return False
    stops, trainer.should_stop = trainer.should_stop, False
    try:
        due = loop._should_check_val_fx(fetcher)
    finally:
        trainer.should_stop = stops
    if trainer.validating:  # at its end, when callbacks write checkpoints, its batches are done
        return due and loop.val_loop.batch_progress.current.completed < sum(loop.val_loop.max_batches)
    return due


def validate(trainer: pl.Trainer) -> None:
    """Make up for the validation that was due where the resumed run stopped."""
    loop = trainer.fit_loop.epoch_loop
    progress = trainer.fit_loop.epoch_progress.current
    batches: Any = loop.batch_progress.current
    ended = batches.processed == 0  # the validation belongs to the epoch before
    progress.completed -= ended
    loop._batches_that_stepped -= 1  # what is logged stands at the last batch, not at the next
    trainer.validating = True
    loop.val_loop.run()
    trainer.training = True
    progress.completed += ended
