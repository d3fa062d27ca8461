"""Where words begin and end, by a trained model, beside the truth, on held-out clips.

"attention" is the alignment of a DualLip without durations that makes each clip at its true length: by the largest
weight of every frame, as in the paper, and by the best monotonic path. "reader" is the monotonic path through the CTC
outputs of a lip reader (lipnet, lipresnet, the reader of a DualLip, or a weights file of one) that looks at the real
clip and is told its text (ParaLip, section 6); a word keeps the space after it. "even" spreads the tokens evenly over
the clip: what no model is needed for.

"within k" is the share of words' first and last frames that lie within k frames of the truth, which is that of the
store's durations (exact on rendered clips). Of an attention also: "focus", the mean over frames of the largest weight,
and "forward", the share of frames whose largest weight does not lie before that of the frame before. Both are 1 for a
sharp alignment that never turns back.

    python benchmarks/word_boundaries.py last.ckpt [--data rendered] [--protocol NAME] [--clips 64]
"""

import argparse
from pathlib import Path

import torch
from held_out import held_out_clips
from torch import Tensor, nn

from lipbench.data.loader import ClipDataset, collate, to_float
from lipbench.media import text
from lipbench.nets.monotonic import attention_durations, reader_durations
from lipbench.pretrained import weights
from lipbench.training import loading
from lipbench.training.ctc_reading import CTCReader
from lipbench.training.generative import GenerativeModel
from lipbench.training.pieces import word_segments
from lipbench.types import ClipBatch, ClipSpec

SILENCE = text.SYMBOLS.index(text.SILENCE)
NEAR = (0, 1, 2, 3)  # frames


def edges(batch: ClipBatch, durations: Tensor) -> Tensor:
    """(2 W,) first frames of the words of a clip, and the frames after their last."""
    words = word_segments(batch["tokens"][0].tolist(), durations[0].tolist())
    return torch.tensor([place for word in words for place in (word.start, word.stop)])


def even(batch: ClipBatch) -> Tensor:
    """(1, L) durations that spread tokens over a clip."""
    count, total = batch["tokens"].shape[1], int(batch["n_frames"])
    return torch.linspace(0, total, count + 1).round().long().diff()[None]


@torch.no_grad()
def main() -> None:
    """Go through the clips and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of a duallip, lipnet or lipresnet; or a reader's weights file")
    parser.add_argument("--data", default="rendered", help="corpus (default: %(default)s)")
    parser.add_argument("--store", type=Path, help="another prepared store")
    parser.add_argument("--protocol", help="whose test clips are taken (default: the corpus's own)")
    parser.add_argument("--clips", type=int, default=64, help="test clips, evenly spaced (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    model: CTCReader | None = None
    if arguments.checkpoint.suffix == ".safetensors":
        net, card = weights.load(arguments.checkpoint, nn.Module)
        if card.vocabulary != text.SYMBOLS or card.view is None:
            raise SystemExit(f"{arguments.checkpoint} holds a {card.architecture}, which reads no characters")
        spec = ClipSpec({"video": card.view}, keys=frozenset({"tokens", "durations"}))
    else:
        model = loading.load(arguments.checkpoint, CTCReader)  # type: ignore[type-abstract]
        net, spec = model.net, model.clip_spec
    store, ids = held_out_clips(arguments.data, arguments.clips, arguments.protocol, arguments.store)
    dataset = ClipDataset(store, ids, spec, spec.keys, seed=0, training=False, speakers={})
    off: dict[str, list[Tensor]] = {}
    focus, forward = [], []
    for k in range(len(ids)):
        batch = to_float(collate([dataset[k]]))
        truth, frames, tokens = edges(batch, batch["durations"]), batch["n_frames"], batch["token_len"]
        found = {"even": even(batch)}
        found["reader"] = reader_durations(net(batch["video"], frames), frames, batch["tokens"], tokens, SILENCE)
        if isinstance(model, GenerativeModel) and "length" in model.timings:
            seen = model.run_generate(batch, "length")["attention"]  # (1, N, L)
            found["attention"] = attention_durations(seen, frames, tokens, monotonic=False)
            found["attention, monotonic"] = attention_durations(seen, frames, tokens, monotonic=True)
            focus.append(seen[0].max(dim=1).values)
            forward.append(seen[0].argmax(dim=1).diff() >= 0)
        for name, durations in found.items():
            off.setdefault(name, []).append((edges(batch, durations) - truth).abs())
    print(f"{len(ids)} test clips, {sum(map(len, off['even']))} boundaries; {arguments.checkpoint}")
    print(f"{'':22}{'mean, frames':>14}" + "".join(f"{f'within {k}':>11}" for k in NEAR))
    for name, values in off.items():
        all_of = torch.cat(values)
        shares = "".join(f"{100 * (all_of <= k).float().mean():9.1f} %" for k in NEAR)
        print(f"{name:22}{all_of.float().mean():14.2f}{shares}")
    if focus:
        print(f"focus {torch.cat(focus).mean():.3f}, forward {torch.cat(forward).float().mean():.3f}")


if __name__ == "__main__":
    main()
