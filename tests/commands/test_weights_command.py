"""weights as it is typed: files that are there, absent, torn, hostile or another than they say."""

import dataclasses
import hashlib
import pickle
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hostile import Hostile
from untrained import reader

from lipbench.console import weights_files
from lipbench.pretrained.published import KNOWN

REPOSITORY = Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------------------------------------------------------- list


def about(shown: str, name: str) -> list[str]:
    """The lines about a name, which stands alone on its line."""
    lines = shown.splitlines()
    rest = lines[lines.index(f"  {name}") + 1 :]
    end = next(k for k, line in enumerate([*rest, ""]) if not line.startswith("      "))
    return [line.strip() for line in rest[:end]]


def test_list_says_what_is_absent_and_where_it_is_looked_for(told, places):
    code, out, _ = told()
    assert code == 0
    assert told("list") == (0, out, "")
    for name, known in KNOWN.items():
        used_by, state, *use, licenses = about(out, name)
        assert used_by.startswith(known.what)
        assert (", unverified: " in state) == (name != "dlib")
        assert licenses == f"licenses: code {known.code}; weights {known.weights}; data {known.data}"
        assert len(use) == bool(known.use)
    assert about(out, "alexnet")[:2] == [
        "AlexNet, the backbone of LPIPS; mouth/lpips",
        f"absent, unverified: {places}/torch/hub/checkpoints/alexnet-owt-7be5be79.pth",
    ]
    assert about(out, "syncnet")[:3] == [
        "SyncNet v2; lse_c, lse_d, av_offset",
        f"absent, unverified: {places}/home/weights/syncnet_v2.model",
        "use: --evaluator.files.syncnet syncnet",
    ]
    assert "wer, cer" in about(out, "lipnet")[0]
    assert "lmd, opening_corr" in about(out, "dlib")[0]
    assert re.match(r"present, \d\d\.\d MB, verified: ", about(out, "dlib")[1])
    assert f"No file in lipbench's format in {places}/shipped or {places}/home/weights" in out


def test_list_shows_files_in_the_own_format_by_their_cards(told, places):
    shipped = reader(places / "shipped" / "lipnet-small[rendered].safetensors")
    mine = reader(places / "home" / "weights" / "mine.safetensors", "my own corpus, CC BY 4.0")
    (places / "home" / "weights" / "torn[b]\x1b[2J.safetensors").write_bytes(b"12345678901")
    (places / "home" / "weights" / "syncnet_v2.model").write_bytes(bytes(1_500_000))
    code, out, _ = told("list")
    assert code == 0
    assert about(out, shipped.stem) == [
        "lipnet.LipNet, mouth 16x24; wer, cer, word_accuracy, per",
        f"present, 0.0 MB: {shipped}",
        "use: --evaluator.files.transcript 'lipnet-small[rendered]'",
        "trained on rendered/unseen, seed 0; code and weights: Apache-2.0",
    ]
    assert about(out, "mine")[1:] == [
        f"present, 0.0 MB: {mine}",
        "use: --evaluator.files.transcript mine",
        "trained on my own corpus, CC BY 4.0",
    ]
    (torn,) = about(out, "torn[b]\\x1b[2J")
    assert torn.startswith("broken, 0.0 MB: ")
    assert "is no safetensors file, or it is torn" in torn
    assert about(out, "syncnet")[1].startswith("present, 1.5 MB, unverified: ")


@pytest.mark.parametrize("columns", ["80", "30"])
def test_names_are_whole_in_every_terminal(told, monkeypatch, places, columns):
    """They are what options take; a name in two pieces cannot be copied."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(weights_files, "SHIPPED", REPOSITORY / "src" / "lipbench" / "weights")
    lines = told()[1].splitlines()
    names = [line.strip() for line in lines if re.match("  [^ ]", line)]
    assert {*KNOWN, "lipresnet-small[grid-s1]", "syncnet-small[rendered]"} <= set(names)
    assert max(map(len, names)) < 76


# -------------------------------------------------------------------------------------------------------------- verify


def test_verify_takes_all_that_is_there(told, places, syncnet_file):
    reader(places / "shipped" / "small.safetensors")
    digest = hashlib.sha256((places / "shipped" / "small.safetensors").read_bytes()).hexdigest()
    code, out, err = told("verify")
    assert (code, err) == (0, "")
    assert out.count("\n") == 2
    assert re.search(r"^ok    dlib: sha256 [0-9a-f]{64} \(nothing to compare it with\); dlib loads it; ", out, re.M)
    assert f"ok    small: sha256 {digest} (nothing to compare it with); loads as lipnet.LipNet" in out
    (places / "shipped" / "SHA256SUMS").write_text(f"{digest}  small.safetensors\n")
    assert f"(as recorded in {places}/shipped/SHA256SUMS)" in told("verify", "small")[1]
    (places / "shipped" / "SHA256SUMS").write_text(f"{'0' * 64} *small.safetensors\n")
    code, out, err = told("verify")
    assert code == 1
    assert re.search(rf"WRONG small: .* has sha256 {digest}, .*SHA256SUMS is 0{{64}}: damaged, or another file", out)
    assert "ok    dlib" in out
    assert err == "lipbench: 1 of 2 weights files are not as they should be: small\n"


def test_verify_names_and_paths(told, places, syncnet_file, lipnet_file):
    code, out, _ = told("verify", syncnet_file, lipnet_file, reader(places / "x.safetensors"))
    assert code == 0
    assert "loads as SyncNetV2" in out
    assert "loads as LipNet;" in out
    assert "loads as lipnet.LipNet" in out
    code, out, err = told("verify", "syncnet", "dlib")
    assert code == 1
    assert f"WRONG syncnet: absent, looked for at {places}/home/weights/syncnet_v2.model" in out
    assert "1 of 2 weights files are not as they should be: syncnet" in err


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("sincnet", r"unknown name or file 'sincnet'. Did you mean 'syncnet'\?"),
        ("no/such.safetensors", "unknown name or file 'no/such.safetensors'"),
        ("strange.pth", "strange.pth has the name of no published weights file"),
    ],
)
def test_verify_of_nothing_known(told, word, expected):
    Path("strange.pth").touch()
    code, _, err = told("verify", word)
    assert code == 2
    assert re.search(expected, err)


def test_another_file_of_the_same_name_is_noticed(told, places):
    folder = places / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "alexnet-owt-7be5be79.pth").write_text("<html>sorry</html>")
    (folder / "s3fd-619a316812.pth").write_text("<html>sorry</html>")
    torch.save({"a": torch.zeros(2)}, folder / "2DFAN4-11f355bf06.pth.tar")
    code, out, err = told("verify")
    assert code == 1
    assert re.search(r"WRONG alexnet: .* known from its name, by torch hub's convention is 7be5be79: damaged", out)
    assert re.search(r"WRONG s3fd: .* is a web page: a server sent it in place of the file", out)
    assert "1 tensors and nothing else" in out
    assert "2 of 4 weights files" in err


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("syncnet", "weights/syncnet_v2.model"),
        ("lipnet", "weights/LipNet_x.pt"),
        ("s3fd", "../torch/hub/checkpoints/s3fd-619a316812.pth"),
    ],
)
@pytest.mark.parametrize("protocol", ["pickle", "zip", "legacy"])
def test_verifying_a_hostile_file_runs_nothing_in_it(told, places, name, file, protocol):
    path = places / "home" / file
    path.parent.mkdir(parents=True)
    content = {"conv1.weight": Hostile(places / "ran")}
    if protocol == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=protocol == "zip")
    code, out, _ = told("verify", name)
    assert code == 1
    assert "is no plain dictionary of tensors" in out
    assert not (places / "ran").exists()
    # It is as bad as it says: a reader without limits runs it.
    pickle.loads(path.read_bytes()) if protocol == "pickle" else torch.load(path, weights_only=False)
    assert (places / "ran").exists()


# --------------------------------------------------------------------------------------------------------------- fetch


class Server(ThreadingHTTPServer):
    """Serves one content under any name; breaks off once after `cut` bytes."""

    content = b"0123456789" * 1000
    cut: int | None = None
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        body = self.server.content[int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0 :]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])
        self.server.cut = None

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def known(monkeypatch, server):
    """Puts the local server's address, and a hash, into the catalogue."""

    def change(name, **changes):
        address = f"http://127.0.0.1:{server.server_port}/{KNOWN[name].file}"
        monkeypatch.setitem(KNOWN, name, dataclasses.replace(KNOWN[name], **({"url": address} | changes)))
        return hashlib.sha256(server.content).hexdigest()

    return change


def test_fetch_resumes_compares_and_records(told, places, server, known):
    digest = hashlib.sha256(server.content).hexdigest()
    known("s3fd", sha256=digest[:10], sha256_source="its name")
    server.cut = 4000
    code, out, err = told("fetch", "s3fd")
    assert (code, err) == (0, "")
    assert server.asked == [None, "bytes=4000-"]
    path = places / "torch" / "hub" / "checkpoints" / "s3fd-619a316812.pth"
    assert path.read_bytes() == server.content
    assert list(path.parent.iterdir()) == [path]
    assert "licenses: code BSD 3-Clause; weights not stated; data not stated" in out
    assert f"sha256 {digest}" in out
    assert (places / "home/weights/SHA256SUMS").read_text() == f"{digest}  {path.name}\n"
    path.unlink()
    server.content = b"another"  # what is recorded once must come again, also where only some digits were known
    known("s3fd", sha256="", sha256_source="")
    code, _, err = told("fetch", "s3fd")
    assert code == 1
    assert re.search(rf"recorded in .*SHA256SUMS is {digest}: damaged, or another file", err)
    assert list(path.parent.iterdir()) == []


def test_fetch_of_another_file_leaves_nothing(told, places, server, known):
    known("alexnet")
    code, _, err = told("fetch", "alexnet")
    assert code == 1
    assert "by torch hub's convention is 7be5be79: damaged, or another file" in err
    folder = places / "torch/hub/checkpoints"
    assert list(folder.iterdir()) == []
    assert not (places / "home").exists()
    (folder / "alexnet-owt-7be5be79.pth").write_bytes(b"old")
    code, _, err = told("fetch", "alexnet")
    assert code == 1
    assert "alexnet is there already, but" in err
    assert err.endswith("Delete it to fetch it again\n")
    assert len(server.asked) == 1


def test_fetch_from_another_place(told, places, server, syncnet_file, lipnet_file):
    address = f"http://127.0.0.1:{server.server_port}/mirror"
    server.content = syncnet_file.read_bytes()
    code, out, err = told("fetch", "syncnet", "--url", f"{address}/any-name.bin?download=1")
    assert (code, err) == (0, "")
    assert (places / "home/weights/syncnet_v2.model").is_file()
    asked = len(server.asked)
    code, out, _ = told("fetch", "syncnet", "--url", address)
    assert code == 0
    assert "syncnet is there already: sha256" in out
    assert "loads as SyncNetV2" in out
    assert len(server.asked) == asked
    server.content = lipnet_file.read_bytes()
    code, _, err = told("fetch", "lipnet", "--url", f"{address}/other.pt")
    assert code == 2
    assert "other.pt is not called LipNet_*.pt" in err
    assert told("fetch", "lipnet", "--url", f"{address}/LipNet_unseen.pt?raw=1")[0] == 0
    assert len((places / "home/weights/SHA256SUMS").read_text().splitlines()) == 2
    assert told("verify", "lipnet", "syncnet")[0] == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "syncnet",
            r"get syncnet_v2.model from joonson/syncnet_python: .* into .*/home/weights \(or give --url\); then",
        ),
        ("lipnet", r"get LipNet_\*.pt from VIPL.*LipNet-PyTorch.*convert lipnet"),
    ],
)
def test_fetch_without_an_address_says_where_to_get_it(told, places, name, expected):
    code, out, err = told("fetch", name)
    assert (code, out) == (1, "")
    assert re.search(expected, err)
    assert err.count("\n") == 1
    assert not (places / "home").exists()


def test_fetch_of_what_is_there_or_unknown(told, places):
    assert told("fetch", "dlib")[1].startswith("dlib is there already: sha256")
    reader(places / "shipped" / "small.safetensors")
    assert told("fetch", "small") == (0, f"small is there already: {places}/shipped/small.safetensors\n", "")
    code, _, err = told("fetch", "alexnt")
    assert code == 2
    assert "Did you mean 'alexnet'?" in err


# --------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lst"], r"unknown action 'lst'. Did you mean 'list'\?"),
        (["list", "syncnet"], "type: lipbench weights list$"),
        (["fetch"], "type: lipbench weights fetch NAME"),
        (["verify", "--url", "x"], "--url belongs to fetch, not to verify"),
        (["fetch", "syncnet", "--ulr", "x"], r"unknown option '--ulr'. Did you mean '--url'\?"),
    ],
)
def test_wrong_words(told, words, expected):
    code, out, err = told(*words)
    assert (code, out) == (2, "")
    assert re.search(expected, err)


def test_every_published_file_can_be_read():
    assert set(weights_files.STRUCTURE) == set(KNOWN)
