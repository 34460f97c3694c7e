"""A file replaces another as a whole, or not at all."""

import contextlib
import os

import pytest

from fastadam._files import replacing


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with replacing(path, sync=True) as file:
        file.write(b"after")
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_file_that_fails_leaves_the_one_before(error, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with contextlib.suppress(error), replacing(path) as file:
        file.write(b"after")
        raise error
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_that_somebody_has_put_there_is_not_followed(monkeypatch, tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"precious")
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    (tmp_path / ".file.guessed").symlink_to(victim)
    with pytest.raises(FileExistsError), replacing(path) as file:
        file.write(b"after")
    assert victim.read_bytes() == b"precious"


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize(("options", "expected"), [({}, 0o640), ({"mode": 0o644}, 0o640), ({"mode": 0o600}, 0o600)])
def test_a_file_has_the_permissions_that_the_umask_leaves(options, expected, tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file", **options) as file:
            file.write(b"after")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == expected
