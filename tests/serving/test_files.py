"""How many connections a process takes where it may open only so many files."""

import resource
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "most", "files"),
    [
        (300, 300, 10_000, 44, 300),
        (300, 1000, 500, 500, 756),
        (300, 600, 500, 344, 600),
        (800, 1000, 500, 500, 800),
        (100, 100, 500, 16, 100),
    ],
    ids=["no more files", "more files", "some more files", "enough files", "far too few files"],
)
def test_connections_are_as_many_as_the_process_may_open_files(
    soft: int, hard: int, wanted: int, most: int, files: int
) -> None:
    """It asks for more files where it may have more, and else takes fewer connections; some files are for others."""
    show = "import resource; from gateway.serving.server import _most_connections; "
    show += f"print(_most_connections({wanted}), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    printed = subprocess.run(
        [sys.executable, "-c", show],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    ).stdout
    assert printed.split() == [str(most), str(files)]
