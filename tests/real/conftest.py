"""What the tests share: folders, and the one llama.cpp server of a test run."""

import pytest

import programs


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """The address of llama.cpp's server with real weights."""
    with programs.llama(tmp_path_factory.mktemp("llama")) as address:
        yield address
