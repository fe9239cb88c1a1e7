"""A benchmark that no file was given for."""

from refusing import one_line

from vispco.cli import main


def test_search_asks_for_the_file(tmp_path, capsys):
    assert main(["search", "data=textvqa", f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    assert one_line(capsys) == "vispco: data: data.path is not given; name a table with data.path=..."
    assert not list(tmp_path.rglob("*.*"))
