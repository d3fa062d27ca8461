"""Several systems over the same frames of one clip, as papers show them: a row a system below the real clip.

Models generate as in `test`, and what they make is pasted into the reference's canonical frames as in scoring; then one
view is cut out of all rows, so that models of different views and sizes stand on the same pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lipbench.data.datamodule import ClipDataModule
from lipbench.data.store import StoredClip
from lipbench.media import alignment, captions, geometry, text
from lipbench.scoring.views import ClipView, ReferenceBatch
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipBatch, View

_SEED = 0  # of models that draw noise while they generate


def words(clip: StoredClip) -> list[str] | None:
    """The word that is spoken in each frame of a clip, empty in silence; None where word times are unknown."""
    if not clip.words:
        return None
    return captions.words_at(alignment.word_frames(clip.words, clip.n_frames, clip.fps), clip.n_frames)


def view_of(name: str) -> View:
    """A view at the scale of the canonical picture.

    Raises:
        ValueError: There is no such view; the message lists those there are.
    """
    top, left, bottom, right = geometry.box(name)
    return View(name, bottom - top, right - left)


def common_view(models: Sequence[GenerativeModel]) -> View:
    """The face where all models make the whole of it, else the mouth."""
    faces = all(model.clip_spec.frames["video"].name == "face" for model in models)
    return view_of("face" if faces else "mouth")


def rows(
    data: ClipDataModule,
    clip_id: str,
    systems: Sequence[tuple[str, GenerativeModel]],
    view: View,
    frozen_frame: bool = False,
    heard: str | None = None,
) -> list[captions.Row]:
    """The rows of a strip: the reference, and what each system makes of the clip.

    With another clip's sound (`heard`), the clip that is heard is the first row and the reference, whose identity the
    systems are given, the last one: their mouths should be those of the first row in the face of the last.

    A system generates with the timing that is closest to the truth of those that it supports. A line of its label says
    which, unless that is "given".

    Args:
        data: After `setup`.
        clip_id: A clip of its store.
        systems: Label and model, in eval mode.
        view: What is shown, such as `common_view` gives. Where a model makes less than it, the reference stands around.
        frozen_frame: Add the reference's first frame throughout: what a model must do better than.
        heard: A clip whose sound drives the systems in place of the clip's own; cut to its length, or with silence
            after it.

    Raises:
        KeyError: A clip is not in the store.
        ValueError: The store is packed, or lacks what a model needs; a model makes no frame; or a model that another
            clip's sound is to drive hears none.
    """
    clip = data.store[clip_id]
    reference = _seen(clip, view)
    found = [captions.Row("reference", reference, words(clip))]
    if heard is not None:
        other = data.store[heard]
        found = [captions.Row("heard", _seen(other, view), words(other))]
    if frozen_frame:
        found.append(captions.Row("frozen frame", reference[:1]))
    for label, model in systems:
        batch = data.one_clip(clip_id, model.clip_spec, frozenset({"face"}))
        if heard is not None:
            batch = _driven(batch, data.store[heard], label, model)
        torch.manual_seed(_SEED)
        with torch.inference_mode():
            made = model.run_generate(batch, model.timing)
            if int(made["video_len"][0]) == 0:
                raise ValueError(f"{' '.join(label.split())} makes no frame of {clip_id}: it has hardly been trained")
            scene = ReferenceBatch(batch, model.clip_spec.frames["video"], {})
            video = ClipView(scene.take(made["video"], made["video_len"]), 0).pictures(view)  # (N, 3, h, w)
        timed = None
        if model.timing != "given":
            label = f"{label}\ntiming: {model.timing}"
            if data.corpus.tokenizer is text.CHARACTERS:
                timed = captions.batch_words(batch, 0, made)
        found.append(captions.Row(label, video, timed))
    return found if heard is None else [*found, captions.Row("identity", reference)]


def _seen(clip: StoredClip, view: View) -> Tensor:
    """(T, 3, h, w) in [0, 1], a view of a real clip."""
    whole = torch.from_numpy(clip.pictures(range(clip.n_frames))).permute(0, 3, 1, 2)  # (T, 3, 352, 320)
    return geometry.crop(whole, view).float() / 255


def _driven(batch: ClipBatch, heard: StoredClip, label: str, model: GenerativeModel) -> ClipBatch:
    """A clip's batch with another clip's sound, as long as its own.

    Raises:
        ValueError: The model hears nothing.
    """
    rate = model.clip_spec.audio_rate
    if rate is None or "audio" not in model.needs:
        raise ValueError(f"{' '.join(label.split())} is not driven by sound: it needs {', '.join(sorted(model.needs))}")
    sound, own = torch.zeros_like(batch["audio"]), torch.from_numpy(heard.audio(rate))
    count = min(len(own), sound.shape[1])
    sound[0, :count] = own[:count]
    return {**batch, "audio": sound}
