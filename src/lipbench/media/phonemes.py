"""Words to phones, by the dictionary and the rules of eSpeak NG; and how its library is loaded."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

VOICE: Final = "en"
"""eSpeak NG's British English, in which GRID is spoken: "z" is "zed"."""

# Constants of espeak-ng's speak_lib.h
_SYNCHRONOUS, _DONT_EXIT = 2, 0x8000
_UTF8 = 1
_IPA, _SEPARATED = 0x02, ord(" ") << 8  # how phones are written, and what stands between them
_STRESS: Final = str.maketrans("", "", "ˈˌ")

_known: dict[str, tuple[str, ...]] = {}


@contextmanager
def espeak(voice: str, options: int = 0) -> Iterator[ctypes.CDLL]:
    """The library eSpeak NG, freshly loaded; it is unloaded at the end.

    It keeps state between calls that no call resets, so that what it gives would depend on what it was asked before.

    Args:
        voice: Name of one of its voices, such as "en-us", or with a variant, "en-us+f2".
        options: Flags of `espeak_Initialize` beside the one that keeps it from ending the process.

    Raises:
        ModuleNotFoundError: The package espeakng-loader, which carries it, is not installed.
        RuntimeError: It does not start.
        ValueError: It has no such voice or variant.
    """
    import _ctypes

    import espeakng_loader

    data = espeakng_loader.get_data_path()
    _, plus, variant = voice.partition("+")
    variants = Path(data) / "voices" / "!v"
    if plus and not (variants / variant).is_file():  # eSpeak NG itself would leave it out in silence
        known = ", ".join(sorted(path.name for path in variants.iterdir()))
        raise ValueError(f"eSpeak NG has no variant {variant!r} for the voice {voice!r}; it has {known}")
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        if library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), options | _DONT_EXIT) <= 0:
            raise RuntimeError(f"eSpeak NG did not start with its data in {data}")
        try:
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(f"eSpeak NG has no voice {voice!r}")
            yield library
        finally:
            library.espeak_Terminate()
    finally:
        unload = getattr(_ctypes, "dlclose", None) or getattr(_ctypes, "FreeLibrary")  # noqa: B009 (of Windows only)
        unload(library._handle)


def version() -> str:
    """Version of eSpeak NG, such as "1.52.0": another one may speak a word with other phones.

    Raises:
        ModuleNotFoundError: See `espeak`.
        OSError: Its library cannot be loaded.
        RuntimeError: See `espeak`.
    """
    with espeak(VOICE) as library:
        library.espeak_Info.restype = ctypes.c_char_p
        name: bytes = library.espeak_Info(None)
        return name.decode()


def phones(text: str) -> list[str]:
    """Phones of a text in IPA, without stress and without silences.

    Every word is spoken by itself, whatever stands around it, and only once a process: single letters are spoken as
    their names ("a" is "eɪ", as in GRID), and words of no language letter by letter or as they are spelt. Diphthongs
    and affricates are one phone. Upper and lower case are the same.

    Args:
        text: Words with white space between them.

    Returns:
        One string a phone, such as b, ɪ, n for "bin"; none for what has no sound.

    Raises:
        ModuleNotFoundError: See `espeak`.
        OSError: Its library cannot be loaded.
        RuntimeError: See `espeak`.
    """
    words = text.lower().split()
    new = [word for word in dict.fromkeys(words) if word not in _known]
    if new:
        _known.update(zip(new, _spoken(new), strict=True))
    return [phone for word in words for phone in _known[word]]


def _spoken(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Phones of each word."""
    with espeak(VOICE) as library:
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        found = []
        for word in words:
            text = ctypes.create_string_buffer(word.encode())
            rest = ctypes.c_void_p(ctypes.addressof(text))
            parts = []
            while rest.value:  # a clause a call
                parts.append(library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA | _SEPARATED).decode())
            found.append(tuple(" ".join(parts).translate(_STRESS).split()))
        return found
