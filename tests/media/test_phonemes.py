"""Words to phones by eSpeak NG."""

import re
import string
import sys

import espeakng_loader
import numpy as np
import pytest

from lipbench.media import phonemes
from lipbench.synthetic.voice import Voice, speak


def test_words_of_grid():
    """British pronunciations, as dictionaries print them (eSpeak NG writes the vowel of "at" with a)."""
    expected = {
        "bin": "b ɪ n",
        "lay": "l eɪ",
        "place": "p l eɪ s",
        "set": "s ɛ t",
        "blue": "b l uː",
        "white": "w aɪ t",
        "at": "a t",
        "by": "b aɪ",
        "with": "w ɪ ð",
        "three": "θ ɹ iː",
        "four": "f ɔː",
        "six": "s ɪ k s",
        "now": "n aʊ",
        "please": "p l iː z",
    }
    for word, phones in expected.items():
        assert phonemes.phones(word) == phones.split(), word
    assert phonemes.phones(" ".join(expected)) == " ".join(expected.values()).split()


def test_single_letters_are_their_names_wherever_they_stand():
    assert phonemes.phones("a b f h w z") == [
        "eɪ",
        "b",
        "iː",
        "ɛ",
        "f",
        "eɪ",
        "tʃ",
        "d",
        "ʌ",
        "b",
        "əl",
        "j",
        "uː",
        "z",
        "ɛ",
        "d",
    ]
    assert phonemes.phones("at a six") == ["a", "t", "eɪ", "s", "ɪ", "k", "s"]
    names = {tuple(phonemes.phones(letter)) for letter in string.ascii_lowercase}
    assert len(names) == 26


def test_what_stands_around_a_word_does_not_matter_nor_does_case():
    assert phonemes.phones("Bin  BLUE\n") == phonemes.phones("bin blue")
    assert phonemes.phones("US") == phonemes.phones("us") == ["ʌ", "s"]
    assert phonemes.phones("hello, world.") == ["h", "ə", "l", "əʊ", "w", "ɜː", "l", "d"]
    assert phonemes.phones("don't") == ["d", "əʊ", "n", "t"]
    assert phonemes.phones("") == phonemes.phones(" ' ") == []
    assert not {"ˈ", "ˌ", " "} & set("".join(phonemes.phones("again seven w")))


def test_a_word_is_spoken_once(monkeypatch):
    asked = []
    spoken = phonemes._spoken
    monkeypatch.setattr(phonemes, "_spoken", lambda words: asked.append(list(words)) or spoken(words))
    monkeypatch.setattr(phonemes, "_known", {})
    for text in ("bin blue bin", "blue bin", "bin red"):
        phonemes.phones(text)
    assert asked == [["bin", "blue"], ["red"]]


def test_the_library_is_left_as_it_was_found(monkeypatch):
    """eSpeak NG keeps state: sound that is made before and after must be the same."""
    voice = Voice("en-us+f2", 160, 50, 50)
    before = speak(["bin", "blue"], voice).samples
    monkeypatch.setattr(phonemes, "_known", {})
    assert phonemes.phones("bin a") == ["b", "ɪ", "n", "eɪ"]
    assert np.array_equal(speak(["bin", "blue"], voice).samples, before)


def test_version():
    assert re.fullmatch(r"\d+\.\d+[\w.-]*", phonemes.version())


def test_errors_say_what_is_missing(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="eSpeak NG has no voice 'nobody'"), phonemes.espeak("nobody"):
        pass
    with monkeypatch.context() as patched:
        patched.setattr(espeakng_loader, "get_data_path", lambda: str(tmp_path / "nowhere"))
        with pytest.raises(RuntimeError, match=r"did not start with its data in .*nowhere"):
            phonemes.version()
    with monkeypatch.context() as patched:
        patched.setattr(espeakng_loader, "get_library_path", lambda: str(tmp_path / "nothing.so"))
        with pytest.raises(OSError, match=r"nothing\.so"):
            phonemes.version()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "espeakng_loader", None)
        with pytest.raises(ImportError, match="espeakng_loader"):
            phonemes.version()
    assert phonemes.phones("bin") == ["b", "ɪ", "n"]  # none of this does harm
