"""The tests in several processes count like the tests in one."""

import pytest

import parallel


@pytest.fixture
def tests(tmp_path):
    """Three tests in two folders and beside them."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for place, body in (("one/test_a.py", "pass"), ("two/test_b.py", "assert 0"), ("test_c.py", "pass")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(f"def test_{place[-4]}():\n    {body}\n")
    return tmp_path


def test_all_parts_are_run_and_counted(tests, capsys):
    assert parallel.main([], tests) == 1
    shown = capsys.readouterr().out
    assert "FAILED" in shown
    assert shown.splitlines()[-1].startswith("=== 1 failed, 2 passed in ")
    assert parallel.main(["-k", "test_a or test_c"], tests) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("=== 2 passed, 1 deselected in ")


def test_longest_folders_come_first_and_files_are_one_part(tests):
    (tests / "commands").mkdir()
    (tests / "commands" / "test_d.py").touch()
    first, second, third, beside = parallel.parts(tests)
    assert [first, second, third] == [[str(tests / name)] for name in ("commands", "one", "two")]
    assert beside == [str(tests / "test_c.py")]
