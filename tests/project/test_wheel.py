"""The wheel holds the package and nothing else, and works where the sources are not."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[2]
FIT = """
import fastadam
print(fastadam.__file__)
print(fastadam.MLPRegressor(max_iter=1).fit([[0.0], [1.0]], [0, 1]).n_iter_)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(build, check=True)
    (path,) = folder.glob("fastadam-*.whl")
    return path


def test_the_wheel_holds_every_module_the_type_marker_and_the_licence_and_nothing_else(wheel):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "fastadam").rglob("*.py")} | {"fastadam/py.typed"}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == modules
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_needs_five_packages_and_no_more(wheel):
    (metadata,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    required = [line.split()[1] for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    names = {name.partition(">")[0] for name in required}
    assert names == {"numpy", "scipy", "numba", "scikit-learn", "threadpoolctl"}


def test_the_installed_wheel_fits_a_model(wheel, tmp_path):
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site", wheel]
    subprocess.run(install, check=True)
    fit = [sys.executable, "-W", "ignore", "-c", FIT]
    environment = {"PYTHONPATH": str(tmp_path / "site"), "HOME": str(Path.home()), "PATH": ""}
    done = subprocess.run(fit, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(tmp_path / "site" / "fastadam" / "__init__.py"), "1"]
