"""Files that are watched are looked at now and then, however often they are needed."""

from pathlib import Path

from gateway.secrets import WatchedFile


def test_secret_file_is_read_at_most_once_a_second(tmp_path: Path) -> None:
    """A change shows after a second and not before, once."""
    now = 100.0
    file = tmp_path / "file"
    file.write_text("one")
    watched = WatchedFile(file, lambda: now)
    file.write_text("another")
    now = 100.9
    assert not watched.changed()
    now = 101.0
    assert watched.changed()
    now = 102.0
    assert not watched.changed()
