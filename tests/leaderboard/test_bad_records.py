"""Records that are not what they should be: named and left out, every text harmless, the good ones ranked."""

import copy
import csv
import json
import os
import random
import re

import pytest
from made_up_records import compare, put

from lipbench import cli
from lipbench.evaluation import record, writing
from lipbench.leaderboard import table

WRONG = (None, True, "text", "", 7, -3, 1.5, float("nan"), float("inf"), 1e300, 10**30, [], {}, ["x"], {"x": 1})
TEXTS = (
    "[/bold]",
    "[bold]x[/]",
    "[link=file:///x]y",
    ":smile:",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "a\u202eb\u2028c",
    "\ud800",
    "nul\0",
    "=cmd()",
    "+1",
    "-1+",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    " =1",
    "'=1",
    "＝1",
    "x" * 5000,
    "\\",
    "a\nb",
)
LIVE = re.compile(r"[\s']*[=+\-@＝＋－＠]|[\t\r\n]")


def places(value, path=()):
    """Path of every value in a record, the values that hold others included."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in inside:
        yield from places(held, (*path, key))


def replaced(content, path, value):
    """A copy in which the value at a path is another, or is gone where it is `...`."""
    content = copy.deepcopy(content)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return content


def mutated(content):
    """Records as text, each with one thing wrong or odd: by field and type, then by seeded chance."""
    for path in places(content):
        yield ".".join(map(str, path)) + " gone", json.dumps(replaced(content, path, ...))
    rng = random.Random(0)
    for path in places(content):
        for value in rng.sample(WRONG, 1):
            yield f"{path} {value!r}", json.dumps(replaced(content, path, value))
    for path in places(content):
        if isinstance(path[-1], str) and isinstance(_at(content, path), str | None):
            for text in rng.sample(TEXTS, 1):
                yield f"{path} {text[:20]!r}", json.dumps(replaced(content, path, text))
    for name in ("view", "control", "name", "run", "timing"):
        for text in TEXTS:
            changes = {"kind": "control"} if name == "control" else {}
            yield f"{name} {text[:20]!r}", json.dumps({**content, **changes, name: text})
    for text in TEXTS:
        scores = content["scores"] | {text: content["scores"]["lmd"]}
        yield f"column {text[:20]!r}", json.dumps({**content, "scores": scores})
        yield f"protocol {text[:20]!r}", json.dumps(replaced(content, ("protocol", "name"), text))


def _at(content, path):
    for key in path:
        content = content[key]
    return content


def harmless(folder, shown):
    """Nothing reached the terminal or a CSV file that acts there."""
    assert "Traceback" not in shown
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800]", shown)
    cells = [word for line in shown.splitlines() if line.startswith(" ") for word in line.split()]
    assert not {"inf", "nan", "-inf", "±inf", "±nan"} & set(cells)
    for path in folder.glob("*.csv"):
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        assert len({len(row) for row in rows}) == 1
        for cell in (cell for row in rows for cell in row):
            number = re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", cell)
            assert number or cell.startswith("'") or not LIVE.match(cell), cell
            assert cell not in ("inf", "nan", "-inf")


@pytest.fixture
def good(tmp_path):
    """Two models whose records are as they should be, and the content of a third."""
    put(tmp_path, "paralip", "good")
    put(tmp_path, "paralip", "poor", 1.0)
    path = put(tmp_path, "talklip", "odd", 0.5, judges={"lmd": None})
    content = json.loads(path.read_text())
    content["paired"] = [
        {"metric": "lmd", "against": "x", "difference": 0.1, "ci95": [0, 1], "better": 0.5, "p": 0.5, "n": 30}
    ]
    return tmp_path, path, content


def run(folder):
    words = ["compare", "--results", str(folder / "results"), "--out", str(folder)]
    return cli.main(words)


def test_mutated_records_through_compare(good, capsys, monkeypatch):
    """Each either stands in a table or is named with its file; the others are ranked all the same."""
    monkeypatch.setenv("COLUMNS", "120")
    folder, path, content = good
    cases = list(mutated(content))
    assert len(cases) > 300
    left_out = 0
    for case, text in cases:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        for old in folder.glob("*.csv"):
            old.unlink()
        assert run(folder) == 0, case
        shown = capsys.readouterr().out
        harmless(folder, shown)
        tables = [list(csv.DictReader(file.read_text(encoding="utf-8").splitlines())) for file in folder.glob("*.csv")]
        rows = [row for rows in tables for row in rows]
        ranked = {row["run"]: int(row["rank"]) for row in rows if row["model"] == "paralip"}
        assert ranked["good"] < ranked["poor"], case
        there = "grid/s1/talklip/odd.json" in [row["record"] for row in rows]
        named = "talklip/odd.jsonisnotaresultsrecord:" in "".join(shown.split())
        assert there != named, case
        left_out += named
    assert left_out > 150


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (("timing",), "sometimes", "timing is 'sometimes'; expected given or speech or length or free or null"),
        (("timing",), None, "timing is null; expected given or speech or length or free for a model"),
        (("schema",), True, "schema is true; expected 1"),
        (("schema",), 2, "it has schema 2; lipbench"),
        (("scores", "lmd", "value"), "1", "scores.lmd.value is '1'; expected a number from -1e+09 to 1e+09 or null"),
        (("scores", "lmd", "value"), float("inf"), "scores.lmd.value is inf; expected a number"),
        (("scores", "lmd", "ci95"), [2, 1], "scores.lmd.ci95 is 2; expected up to its upper end, 1"),
        (("scores", "lmd", "ci95"), [1], "scores.lmd.ci95 is a list of 1; expected a list of two numbers or null"),
        (("scores", "lmd", "n"), 31, "scores.lmd.n is 31; expected up to 30, the clips that were scored"),
        (("scores",), [], "scores is a list of 0; expected a mapping of columns to scores"),
        (("clips", "speakers"), ..., "clips.speakers is missing"),
        (("kind",), "judge", "kind is 'judge'; expected model or control or calibration"),
        (("control",), "wrong-text", "control is 'wrong-text'; expected null for a model"),
        (("protocol", "name"), "../../x", "protocol.name: the protocol name '..' cannot name a file"),
        (("data", "settings"), 3, "data.settings is 3; expected a mapping of names to values"),
        (("color",), 3, "color is not known; expected kind, name"),
        (("paired", 0, "p"), -1, "paired.0.p is -1; expected a number from 0 to 1 or null"),
    ],
)
def test_the_message_names_the_field(good, field, value, words):
    _, path, content = good
    path.write_text(json.dumps(replaced(content, field, value)))
    with pytest.raises(ValueError, match=re.escape(f"odd.json is not a results record: {words}")):
        record.read(path)


def test_files_that_are_no_records(good, capsys):
    """Nothing waits for a pipe, follows a loop or takes what is not JSON; encodings that JSON allows are read."""
    folder, path, content = good
    whole = json.dumps(content)
    there = path.parent
    path.unlink()
    bad = {
        "empty": b"",
        "cut": whole[: len(whole) // 2].encode(),
        "list": b"[]",
        "null": b"null",
        "number": b"1e999",
        "long": b"9" * 5000,
        "latin": whole.replace("odd", "\xe9").encode("latin-1"),
        "bytes": bytes(range(256)),
        "deep": b"[" * 100_000,
        "deeper": b'{"schema": 1, "a": ' + b"[" * 60 + b"]" * 60 + b"}",
        "page": b"<!DOCTYPE html><html></html>",
        "name\x1b[31m\n": b"{",
    }
    for name, raw in bad.items():
        (there / f"{name}.json").write_bytes(raw)
    (there / "folder.json").mkdir()
    (there / "loop.json").symlink_to("loop.json")
    (there / "gone.json").symlink_to("nowhere")
    (there / "round").symlink_to("..", target_is_directory=True)
    os.mkfifo(there / "pipe.json")
    with (there / "huge.json").open("wb") as stream:
        stream.truncate(2**30)
    fine = {"bom": whole.encode("utf-8-sig"), "wide": whole.encode("utf-16")}
    for name, raw in fine.items():
        (there / f"{name}.json").write_bytes(raw)
    assert run(folder) == 0
    shown = capsys.readouterr().out
    harmless(folder, shown)
    (board,), unread = table.boards(folder / "results")
    assert len(unread) == len(bad) + 5
    assert all("is not a results record" in message for message in unread)
    assert {line.path.stem for line in board.lines} == {"good", "poor", *fine}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"clip_id,lmd\ngrid/s1/000,abc\n", "could not convert string to float: 'abc'"),
        (b"clip_id,lmd\ngrid/s1/000,inf\n", "lmd in line 2 is inf; expected a finite number"),
        (b"clip_id,lmd\ngrid/s1/000\n", "line 2 has 1 cells under 2 columns"),
        (b"lmd\n1\n", "'clip_id' is not in list"),
        (b"", "not enough values to unpack"),
        (b"\xff\xfe\0", "codec can't decode"),
        (None, "it is no regular file"),
    ],
)
def test_bad_scores_of_single_clips(good, content, words, capsys):
    folder, path, _ = good
    scores = path.with_suffix(".csv")
    scores.unlink()
    scores.mkdir() if content is None else scores.write_bytes(content)
    assert run(folder) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "odd.csv is no table of scores by clip_id: " in shown
    assert words in shown
    (board,), _ = table.boards(folder / "results")
    assert [line.rank for line in board.lines] == [1, 2, 3]


def test_cells_that_begin_a_formula(tmp_path):
    """Texts get an apostrophe, numbers stay numbers, and our own reading takes it off again."""
    texts = [text for text in TEXTS if len(text) < 100]
    rows = [[text, -1.5, None, float("nan"), 3] for text in texts]
    text = writing.csv_text(["=a", "b", "c", "d", "e"], rows)
    read = list(csv.reader(text.encode("utf-8").decode().splitlines()))
    assert read[0][0] == "'=a"
    assert all(row[1:] == ["-1.5", "", "", "3"] for row in read[1:])
    assert not any(LIVE.match(row[0]) and not row[0].startswith("'") for row in read)
    for wanted in ("=cmd()", "+1", "-1+", "@SUM(A1)", " =1", "'=1"):
        (found,) = (row[0] for row in read if row[0] == f"'{wanted}")
        assert writing.plain(found) == wanted
    assert writing.plain("it's") == "it's"


def test_a_full_disk_leaves_what_was_there(good, monkeypatch, capsys):
    folder, path, _ = good
    compare(folder)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    put(folder, "lipgan", "new", 0.2)
    for file in path.parents[1].glob("lipgan/*"):
        before[file] = file.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run(folder) == 1
    assert "grid_s1.csv: no space left on the device" in capsys.readouterr().err
    with pytest.raises(OSError, match=r"small\.csv: no space left"):
        put(folder, "lipgan", "small")
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
