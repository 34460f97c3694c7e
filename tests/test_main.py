"""The commands: `python -m fastadam info` and `python -m fastadam warmup`."""

import pytest

from fastadam import __main__ as commands


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["fastadam", *arguments])
    commands.main()


def test_info_prints_a_line_for_each_fact(monkeypatch, capsys):
    monkeypatch.setattr(commands, "info", lambda: {"numba": "1", "GPU": "none"})
    run(monkeypatch, "info")
    assert capsys.readouterr().out == "           numba  1\n             GPU  none\n"


def test_warmup_says_how_long_it_took_and_where_the_kernels_are(monkeypatch, capsys):
    monkeypatch.setattr(commands, "warmup", lambda: 2.5)
    monkeypatch.setattr(commands, "not_kept", lambda: "")
    run(monkeypatch, "warmup")
    assert capsys.readouterr().out == f"All kernels are compiled and cached: 2.5 s; in {commands.user_place().folder}\n"


def test_warmup_whose_kernels_are_not_kept_fails_and_says_why(monkeypatch):
    monkeypatch.setattr(commands, "warmup", lambda: 2.5)
    monkeypatch.setattr(commands, "not_kept", lambda: "the disk is full")
    with pytest.raises(SystemExit, match="not all are cached: the disk is full"):
        run(monkeypatch, "warmup")


@pytest.mark.parametrize("arguments", [(), ("train",), ("info", "--into-package")])
def test_other_commands_are_refused(monkeypatch, capsys, arguments):
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, *arguments)
    assert error.value.code == 2
    assert "error: " in capsys.readouterr().err
