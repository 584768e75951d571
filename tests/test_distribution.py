"""What is installed: one top-level package, whoever else owns ``agents`` and ``benchmarks``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import gymnasium
import pytest

ROOT = Path(__file__).parents[1]
SUBPACKAGES = ("agents", "benchmarks")
SCRIPTS = ("benchmarks/speed/", "benchmarks/studies/")  # for checkouts


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stranger(folder: Path) -> Path:
    """Make the wheel of a package that owns both names, as ``openai-agents`` owns ``agents``."""
    path = folder / "stranger-1.0-py3-none-any.whl"
    info = "stranger-1.0.dist-info"
    files = {f"{name}/__init__.py": f"OWNER = 'stranger, {name}'\n" for name in SUBPACKAGES}
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with our sdist and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("dist")
    checkout = folder / "checkout"
    skip = shutil.ignore_patterns(".*", "runs", "*.egg-info", "__pycache__", "dist", "build")
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=skip)
    build = "import sys, hatchling.build as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"
    sdist = run(sys.executable, "-c", build, "build_sdist", folder, cwd=checkout).split()[-1]
    with tarfile.open(folder / sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    run(sys.executable, "-c", build, "build_wheel", folder, cwd=unpacked)
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    return next(built.glob("search_env-*.whl"))


def test_the_wheel_holds_one_package_with_all_its_modules(wheel):
    names = {PurePosixPath(name) for name in zipfile.ZipFile(wheel).namelist()}
    assert {name.parts[0] for name in names if not name.parts[0].endswith(".dist-info")} == {
        "search_env"
    }
    for package in ("search_env", *SUBPACKAGES):
        prefix = "" if package == "search_env" else "search_env/"
        for path in (ROOT / package).rglob("*.py"):  # follows no links
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(SCRIPTS):
                assert PurePosixPath(prefix + name) in names, name
    base = "agents/assets/tiny-base/test_episodes.json.gz"
    for data in ("tokens/world_1k.json", "viewer/page.js", "viewer/page.css", "py.typed", base):
        assert PurePosixPath("search_env") / data in names


def test_sdist_and_wheel_hold_real_files(built, wheel):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        links = [entry.name for entry in archive if entry.issym() or entry.islnk()]
    assert not links
    assert not [
        i.filename for i in zipfile.ZipFile(wheel).infolist() if i.external_attr >> 28 == 10
    ]


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_another_package_may_own_agents_and_benchmarks(first, wheel, tmp_path):
    theirs = stranger(tmp_path)
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    (packages,) = venv.glob("lib/python*/site-packages")
    # What we depend on comes from where the tests run, whose own .pth files are not read.
    (packages / "ours.pth").write_text(str(Path(gymnasium.__file__).parents[1]), "utf-8")
    pip = [sys.executable, "-m", "pip", "--python", python]
    for one in (wheel, theirs) if first == "ours" else (theirs, wheel):
        run(*pip, "install", "--quiet", "--no-deps", "--ignore-installed", one)
    ask = (
        "import agents, benchmarks; from search_env.agents.baselines import scripted;"
        "import search_env.benchmarks; print(agents.OWNER, benchmarks.OWNER, scripted.__name__)"
    )
    said = "stranger, agents stranger, benchmarks search_env.agents.baselines.scripted"
    assert run(python, "-E", "-c", ask, cwd=tmp_path).strip() == said
    gone, left = ("search-env", "import agents, benchmarks; print(agents.OWNER)")
    if first == "theirs":
        gone, left = ("stranger", "import search_env.agents.baselines.scripted as s; print(s)")
    run(*pip, "uninstall", "--quiet", "--yes", gone)
    assert run(python, "-E", "-c", left, cwd=tmp_path)


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_our_folders_do_not_pass_for_top_level_packages(name):
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"search_env.{name}" in done.stderr
