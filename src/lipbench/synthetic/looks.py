"""Who the speakers are: the numbers that make one face and one voice differ from another.

The proportions are our own choice around lipbench's landmark template. What changes in coarse steps (skin, hair, beard,
voice) is dealt out so that the first eight speakers already differ in it; the rest is drawn at random from the seed.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from lipbench.media import geometry
from lipbench.synthetic.voice import Voice

Color = tuple[float, float, float]

_SKINS: Final[tuple[Color, ...]] = (  # sRGB in [0, 1]
    (0.91, 0.74, 0.65),
    (0.60, 0.42, 0.32),
    (0.86, 0.66, 0.53),
    (0.94, 0.78, 0.70),
    (0.78, 0.58, 0.43),
    (0.46, 0.31, 0.24),
    (0.88, 0.70, 0.60),
    (0.70, 0.50, 0.37),
)
_HAIRS: Final[tuple[Color, ...]] = (
    (0.22, 0.15, 0.10),
    (0.07, 0.05, 0.045),
    (0.12, 0.08, 0.06),
    (0.62, 0.45, 0.26),
    (0.10, 0.07, 0.055),
    (0.06, 0.045, 0.04),
    (0.46, 0.22, 0.11),
    (0.36, 0.33, 0.31),
)
_IRISES: Final[tuple[Color, ...]] = (
    (0.30, 0.45, 0.60),
    (0.22, 0.13, 0.07),
    (0.30, 0.19, 0.10),
    (0.36, 0.47, 0.40),
    (0.26, 0.15, 0.08),
    (0.17, 0.10, 0.06),
    (0.33, 0.42, 0.28),
    (0.40, 0.30, 0.17),
)
_MALE: Final = ("short", "buzz", "side", "bald")
_FEMALE: Final = ("long", "bun", "bob", "long")
_BEARDS: Final = ("none", "full", "stubble", "moustache")
_BACKDROPS: Final[tuple[Color, ...]] = (
    (0.18, 0.55, 0.75),
    (0.24, 0.50, 0.52),
    (0.52, 0.55, 0.58),
    (0.20, 0.42, 0.66),
    (0.55, 0.50, 0.42),
    (0.30, 0.36, 0.46),
    (0.36, 0.52, 0.40),
    (0.46, 0.40, 0.52),
)
_SHIRTS: Final[tuple[Color, ...]] = (
    (0.16, 0.22, 0.34),
    (0.55, 0.14, 0.16),
    (0.80, 0.80, 0.78),
    (0.12, 0.12, 0.13),
    (0.20, 0.40, 0.28),
    (0.62, 0.52, 0.30),
    (0.40, 0.24, 0.42),
    (0.34, 0.46, 0.60),
)
# (male, female) voices of eSpeak NG: accents of English with its variants. None with "breath" in its file (f2, f3, f5):
# eSpeak NG's breath starts from memory that was never set, so it sounds different in every process.
_VOICES: Final = (
    ("en+m1", "en+f1"),
    ("en-us+m7", "en-us+f4"),
    ("en-gb-scotland+m3", "en-gb-x-rp+Annie"),
    ("en-gb-x-gbclan+m8", "en-029+linda"),
    ("en-gb-x-rp+m4", "en-us-nyc+steph"),
    ("en-us-nyc+m2", "en-gb-scotland+belinda"),
)


class Look(NamedTuple):
    """A speaker. Lengths are pixels of the 256 face, factors are relative to the template, colors sRGB in [0, 1]."""

    female: bool
    skin: Color
    hair: Color
    iris: Color
    lips: Color
    backdrop: Color
    shirt: Color
    style: str  # of hair
    beard: str
    width: float  # of the face
    length: float  # of the face below the eyes
    square: float  # how square the jaw is
    eye_shift: float  # each eye outward
    eye_size: float
    eye_tilt: float  # outer corners up
    nose_length: float  # added
    nose_width: float
    mouth_width: float
    mouth_shift: float  # down
    upper_lip: float
    lower_lip: float
    brow_shift: float  # up
    brow_arch: float
    brow_weight: float
    age: float  # 0 smooth, 1 lined
    key: float  # horizontal direction of the main light, -1 (left of the picture) to 1
    warmth: float  # of the main light
    energy: float  # of articulation
    scale: float  # frame pixels per pixel of the 256 face
    voice: Voice

    @property
    def mouth_half(self) -> float:
        """Half the width of the closed mouth, px."""
        return 31.0 * self.mouth_width

    @property
    def mouth_y(self) -> float:
        """Where the closed lips meet, y in pixels of the 256 face."""
        return 85.0 + (177.0 - 85.0) * self.length + self.mouth_shift


def make(speaker: int, seed: int) -> Look:
    """The look of speaker number `speaker` (from 0) in the corpus with this seed."""
    rng = np.random.default_rng([seed, speaker, 1])
    turn = int(np.random.default_rng([seed, 2]).integers(0, 8)) if seed else 0
    coarse, rounds = (speaker + turn) % 8, speaker // 8
    female = speaker % 2 == 1

    def around(middle: float, spread: float) -> float:
        return float(middle + spread * np.clip(rng.normal(), -1.8, 1.8) / 1.8)

    def tinted(color: Color, spread: float) -> Color:
        shade = around(1.0, spread)
        return tuple(float(np.clip(c * shade * around(1.0, 0.4 * spread), 0.02, 0.97)) for c in color)  # type: ignore[return-value]

    skin = tinted(_SKINS[(coarse + 3 * rounds) % 8], 0.05)
    rosy = 0.22 if female else 0.14
    lips = (skin[0] * (0.86 - 0.3 * rosy), skin[1] * (0.72 - rosy), skin[2] * (0.80 - 0.8 * rosy))
    male_voice, female_voice = _VOICES[(speaker // 2) % len(_VOICES)]
    return Look(
        female=female,
        skin=skin,
        hair=tinted(_HAIRS[(coarse + 5 * rounds) % 8], 0.15),
        iris=tinted(_IRISES[(coarse + 3 * rounds) % 8], 0.1),
        lips=lips,
        backdrop=tinted(_BACKDROPS[(coarse + rounds) % 8], 0.1),
        shirt=tinted(_SHIRTS[(coarse + 3 * rounds) % 8], 0.1),
        style=(_FEMALE if female else _MALE)[(speaker // 2 + rounds) % 4],
        beard="none" if female else _BEARDS[(speaker // 2 + rounds) % 4],
        width=around(0.965 if female else 1.01, 0.04),
        length=around(0.975 if female else 1.015, 0.03),
        square=around(-0.02 if female else 0.035, 0.03),
        eye_shift=around(0.0, 2.5),
        eye_size=around(1.1 if female else 1.0, 0.08),
        eye_tilt=around(1.0 if female else 0.0, 1.2),
        nose_length=around(-1.0, 4.0),
        nose_width=around(0.94 if female else 1.06, 0.1),
        mouth_width=around(0.96 if female else 1.0, 0.07),
        mouth_shift=around(0.0, 2.0),
        upper_lip=around(1.08 if female else 0.98, 0.16),
        lower_lip=around(1.08 if female else 1.0, 0.18),
        brow_shift=around(2.0 if female else -1.0, 2.5),
        brow_arch=around(2.0 if female else 0.0, 1.5),
        brow_weight=around(0.72 if female else 1.15, 0.15),
        age=float(rng.uniform(0.0, 0.7)),
        key=float(rng.choice([-1, 1]) * rng.uniform(0.25, 0.6)),
        warmth=around(0.0, 0.06),
        energy=around(1.0, 0.15),
        scale=around(0.635, 0.035),
        voice=Voice(
            female_voice if female else male_voice,
            speed=int(rng.integers(126, 158)),
            pitch=int(rng.integers(42, 66) if female else rng.integers(25, 55)),
            pitch_range=int(rng.integers(35, 65)),
        ),
    )


def landmarks(look: Look) -> npt.NDArray[np.float64]:
    """The speaker's 68 points at rest, eyes open: (68, 2) pixels of the 256 face.

    Points 48 to 67 are those of the template, whose mouth is slightly open; `lipbench.synthetic.face` puts the
    mouth's own contours in their place.
    """
    points = geometry.TEMPLATE.copy()
    x, y = points[:, 0] - 128.0, points[:, 1]

    jaw = slice(0, 17)
    low = np.clip((y[jaw] - 88.0) / 150.0, 0.0, 1.0)
    x[jaw] *= look.width * (1.0 + look.square * np.sin(np.pi * np.clip(low * 1.15, 0, 1)) * 1.3)
    y[y > 85.0] = 85.0 + (y[y > 85.0] - 85.0) * look.length

    side = np.sign(x)
    brows, eyes, nose = slice(17, 27), slice(36, 48), slice(27, 36)
    x[brows] += 0.8 * side[brows] * look.eye_shift
    y[brows] -= look.brow_shift + look.brow_arch * np.array([-0.5, 0.4, 1.0, 0.6, -0.3, -0.3, 0.6, 1.0, 0.4, -0.5])
    for eye in (slice(36, 42), slice(42, 48)):
        center_x, center_y = x[eye].mean(), geometry.TEMPLATE[36:48, 1].mean()
        x[eye] = center_x + (x[eye] - center_x) * (0.5 + 0.5 * look.eye_size) + look.eye_shift * np.sign(center_x)
        y[eye] = center_y + (geometry.TEMPLATE[eye, 1] - center_y) * look.eye_size
    y[eyes] -= look.eye_tilt * (np.abs(x[eyes]) - np.abs(x[eyes]).mean()) / 16.0
    y[nose] += look.nose_length * np.clip((y[nose] - 80.0) / 60.0, 0, 1)
    x[nose] *= look.nose_width
    points[:, 0] = x + 128.0
    return points
