import pytest

from lipbench.media import text


def test_thirty_symbols_with_padding_first():
    assert len(text.SYMBOLS) == len(set(text.SYMBOLS)) == 30
    assert text.SYMBOLS[:5] == ("<pad>", "<eos>", "<unk>", "|", "a")
    assert text.SYMBOLS[-1] == "z"


def test_a_sentence_to_ids_and_back():
    symbols = text.symbols(["bin", "Blue", "at"])
    assert " ".join(symbols) == "| b i n | b l u e | a t |"
    ids = text.encode(symbols)
    assert ids == [3, 5, 12, 17, 3, 5, 15, 24, 8, 3, 4, 23, 3]
    assert text.decode(ids) == "bin blue at"


def test_decode_leaves_padding_out_and_stops_at_the_end():
    assert text.decode([0, 4, 3, 3, 5, 0, 1, 6]) == "a b"
    assert text.decode([]) == ""


def test_normalize():
    assert text.normalize("  Bin\tBLUE\n at ") == "bin blue at"
    assert (
        text.normalize("Don't \u2014 it\u2019s a well-known caf\u00e9, na\u00efve!")
        == "dont its a well known cafe naive"
    )


def test_words_with_apostrophes_and_hyphens_are_spelled_by_the_rule():
    assert " ".join(text.symbols(["don't", "well-known"])) == "| d o n t | w e l l | k n o w n |"
    with pytest.raises(ValueError, match="'4'"):
        text.symbols(["4x4"])
    with pytest.raises(ValueError, match="at least one word"):
        text.symbols(["'"])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("bin 2", "'2'; expected letters and spaces only; write numbers as words"),
        ("straße & co", "'&', 'ß'"),
        ("日本", "'日', '本'"),
        (" ", "empty"),
    ],
)
def test_normalize_names_what_does_not_fit(given, named):
    with pytest.raises(ValueError, match=named):
        text.normalize(given)


def test_unknown_symbols_and_ids_are_errors():
    with pytest.raises(ValueError, match="'sil'"):
        text.encode(["|", "sil"])
    with pytest.raises(ValueError, match="30 is no id"):
        text.decode([4, 30])
    with pytest.raises(ValueError, match="empty"):
        text.symbols([])
