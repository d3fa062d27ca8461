"""prepare as it is typed; what it does to clips is tested with the data layer."""

from lipbench import cli
from lipbench.data import store


def test_a_second_run_does_nothing(here, capsys):
    before = (here.home / "stores" / "rendered" / "manifest.json").read_bytes()
    words = ["--data", "rendered", "--speakers", "1", "--clips", "7", "--landmarks", "exact", "--workers", "1"]
    assert cli.main(["prepare", *words]) == 0
    assert (here.home / "stores" / "rendered" / "manifest.json").read_bytes() == before


def test_other_settings_are_not_mixed_into_a_store(here, capsys):
    words = ["--data", "rendered", "--speakers", "1", "--clips", "7", "--landmarks", "dlib", "--workers", "1"]
    assert cli.main(["prepare", *words]) == 1
    assert "exact" in capsys.readouterr().err


def test_no_corpus_there(here, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("LIPBENCH_GRID", raising=False)
    assert cli.main(["prepare", "--data", "grid"]) == 1
    assert "--root" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert cli.main(["prepare", "--data", "grid", "--root", "empty", "--store", "store"]) == 1
    assert "empty" in capsys.readouterr().err


def test_store_is_where_it_was_asked_for(here, capsys, tmp_path):
    root = here.home / "corpora" / "rendered"
    words = ["--data", "rendered", "--root", str(root), "--store", str(tmp_path / "store"), "--limit", "1"]
    more = ["--speakers", "1", "--clips", "7", "--landmarks", "exact", "--workers", "1"]
    assert cli.main(["prepare", *words, *more]) == 0
    assert len(store.Store(tmp_path / "store")) == 1


def test_packing_writes_a_small_copy(here, capsys, tmp_path):
    root = here.home / "corpora" / "rendered"
    words = ["--data", "rendered", "--root", str(root), "--store", str(tmp_path / "store"), "--limit", "1"]
    more = ["--speakers", "1", "--clips", "7", "--landmarks", "exact", "--workers", "1"]
    assert cli.main(["prepare", *words, *more, "--pack", "mouth", "40", "80"]) == 0
    packed = store.Store(capsys.readouterr().out.rpartition("packed: ")[2].strip())
    assert (packed.packed.name, packed.packed.size) == ("mouth", (40, 80))
    assert packed.clip_ids == store.Store(tmp_path / "store").clip_ids


def test_a_wrong_pack_is_refused_before_anything_is_done(here, capsys):
    assert cli.main(["prepare", "--data", "rendered", "--pack", "moth", "40", "80"]) == 2
    assert "Did you mean 'mouth'?" in capsys.readouterr().err
    assert cli.main(["prepare", "--data", "rendered", "--pack", "mouth", "40", "wide"]) == 2
    assert "whole numbers" in capsys.readouterr().err


def test_download_knows_what_can_be_fetched(here, capsys):
    assert cli.main(["download", "--data", "gird"]) == 2
    assert "Did you mean 'grid'?" in capsys.readouterr().err
    assert cli.main(["download", "--data", "rendered"]) == 1
    assert "only grid" in capsys.readouterr().err
    assert cli.main(["download", "--data", "grid", "--speakers", "s21"]) == 1
    assert "s21" in capsys.readouterr().err


def test_nothing_kept_is_an_error(here, capsys, tmp_path):
    root = tmp_path / "corpus" / "S1"
    root.mkdir(parents=True)
    (root / "bbaf2n.mpg").write_bytes(b"no video")
    (root / "bbaf2n.align").write_bytes(b"\xef\xbb\xbf0 23750 [/sil]\r\n")
    words = ["--data", "grid", "--store", "empty"]  # the home is that of other tests, too
    assert cli.main(["prepare", *words, "--root", str(tmp_path / "corpus"), "--workers", "1"]) == 1
    told = capsys.readouterr()
    assert "1 clips read, 0 of them kept" in told.out
    assert "none of 1 clips could be used" in told.err
    assert "grid/s1/bbaf2n" in told.err
    assert cli.main(["strip", str(here.checkpoint), *words]) == 2
    assert "the store empty holds no clip. Make it with: lipbench prepare --data grid" in capsys.readouterr().err
