"""Toy models that show and sound which token they say: a package of its own, which the tests install and load.

Every sample is the number of its token over 60. The middle of the lips is darker than the rest, by 26 less that number,
over 90: on bright skin, brighter pixels would be clipped.
"""

import torch

from lipbench.nets.fastspeech import expand
from lipbench.training.generative import GenerativeModel
from lipbench.types import ClipSpec, View

TEXT = frozenset({"tokens", "token_len", "durations", "n_frames"})
RATE = 16_000


class Toy(GenerativeModel):
    """What all of them lack."""

    paper = "none"

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.weight = torch.nn.Parameter(torch.ones(1))  # a checkpoint without any counts as damaged

    def build_optimizers(self):
        return {}

    def compute_step(self, batch):
        raise NotImplementedError


class Lips(Toy):
    """Takes durations, or gives each token 3 frames, as `timings` says."""

    def __init__(self, timings: tuple[str, ...] = ("free", "given"), told: bool = True, **options) -> None:
        super().__init__(**options)
        self.timings, self.told = frozenset(timings), told

    @property
    def clip_spec(self) -> ClipSpec:
        return ClipSpec(frames={"video": View("mouth", 16, 32)}, keys=frozenset({"identity", "tokens", "durations"}))

    @property
    def needs(self) -> frozenset[str]:
        return TEXT | {"identity"}

    def generate(self, batch, timing):
        tokens = batch["tokens"]
        durations = batch["durations"] if timing == "given" else 3 * (tokens > 0).long()
        said, there = expand(0.5 - (26 - tokens[..., None].float()) / 90, durations)  # (1, N, 1)
        assert batch["identity"].shape == (1, 1, 3, 16, 32)
        video = batch["identity"].new_full((1, len(there[0]), 3, 16, 32), 0.5)
        video[..., 6:10, 12:20] = said[..., None, None]
        made = {"video": video, "video_len": there.sum(1)}
        return made | ({"durations": durations} if self.told else {})


class Face(Toy):
    """Puts the middle of the lips into the middle of the mouth of a face, 64x64; may ask for poses."""

    def __init__(self, posed: bool = False, **options) -> None:
        super().__init__(**options)
        self.posed, self.lips, self.sha256 = posed, None, ""

    def use_lips(self, model, sha256: str) -> None:
        self.lips, self.sha256 = model, sha256

    @property
    def timings(self) -> frozenset[str]:
        return self.lips.timings

    @property
    def clip_spec(self) -> ClipSpec:
        views = {} if self.lips is None else {"identity_lips": self.lips.clip_spec.frames["video"]}
        keys = frozenset({"identity", "tokens", "durations"})
        return ClipSpec(frames={"video": View("face", 64, 64)}, keys=keys, identity_views=views)

    @property
    def needs(self) -> frozenset[str]:
        return TEXT | {"identity", "identity_lips"} | ({"pose", "pose_len"} if self.posed else set())

    def generate(self, batch, timing):
        lips = self.lips.run_generate({**batch, "identity": batch["identity_lips"]}, timing)
        count = int(lips["video_len"][0])
        if self.posed:
            assert batch["pose"].shape == (1, count, 3, 64, 64)
            assert (batch["pose"][:, :, :, 32:] == 0).all()
            assert (batch["pose"][:, :, :, :32] > 0).any()
        video = batch["identity"].repeat(1, count, 1, 1, 1)  # (1, N, 3, 64, 64)
        video[..., 40:50, 22:42] = 0.5
        video[..., 43:47, 28:36] = lips["video"][..., 6:10, 12:20]
        return {**lips, "video": video}


class Speech(Toy):
    """Gives a letter 1 to 3 frames and silence 5, times `quick`. The second speaker is half as loud."""

    timings = frozenset({"given", "free"})

    def __init__(
        self, speakers: tuple[str, ...] = ("anna", "otto"), quick: int = 1, late: float = 0.0, **options
    ) -> None:
        super().__init__(**options)
        self.speaker_names, self.quick, self.late = list(speakers), quick, late

    @property
    def capabilities(self) -> frozenset[str]:
        return super().capabilities - {"video"} | {"audio"}

    @property
    def clip_spec(self) -> ClipSpec:
        return ClipSpec(frames={}, audio_rate=RATE, keys=frozenset({"audio", "tokens", "durations"}))

    @property
    def needs(self) -> frozenset[str]:
        return TEXT | {"fps"} | ({"speaker_id"} if len(self.speaker_names) != 1 else set())

    def predict_durations(self, batch):
        tokens = batch["tokens"]
        return ((tokens == 3) * 5 + (tokens > 3) * (1 + tokens % 3)) * self.quick

    def generate(self, batch, timing):
        ends = (batch["durations"].cumsum(1) * RATE / batch["fps"][:, None]).round().long()  # (1, L)
        spans = ends.diff(dim=1, prepend=ends[:, :1] * 0)
        louder = 1 / (1 + batch["speaker_id"][0]) if "speaker_id" in batch else 1
        said, there = expand(louder * batch["tokens"][..., None] / 60, spans)  # (1, S, 1)
        count = there.sum(1) + round(self.late * RATE)
        audio = said.new_zeros(1, int(count[0]))
        audio[:, : said.shape[1]] = said[..., 0]
        return {"audio": audio, "audio_len": count, "sample_rate": RATE}
