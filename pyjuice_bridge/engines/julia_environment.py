"""Where Julia and its packages are: found without a download, installed only on demand.

juliapkg keeps a Julia environment beside this Python's and decides whether it is complete.  It is
asked in a process of its own, so that looking leaves no trace in the caller.
``PYTHON_JULIACALL_EXE`` and ``PYTHON_JULIACALL_PROJECT``, given together, take the place of
juliapkg's.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

from pyjuice_bridge.errors import UserError

SETUP = "python -m pyjuice_bridge julia setup"
NEEDED = ("JuiceBridge", "PythonCall")
EXTRAS = {
    "CUDA": ("052768ef-5323-5732-b1bb-66c8b64840ba", "5"),
    "ProbabilisticCircuits": ("2396afbe-23d7-11ea-1e05-f1aa98e17a44", "0.5"),
}
"""Packages that are installed only if asked for: their UUIDs and versions."""
PACKAGES = (*NEEDED, "HDF5", *EXTRAS)

_NO_DOWNLOADS = {
    "PYTHON_JULIAPKG_OFFLINE": "yes",
    "JULIA_PKG_OFFLINE": "true",
    # Artifacts that Julia packages load on first use obey neither; nothing listens there.
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9"),
}
_TELL = f"from {__name__} import tell; tell()"
_INSTALL = f"import sys; from {__name__} import install; install(sys.argv[1:])"
_LOAD = """
println("JuiceBridge is ready.")
if isdefined(Main, :CUDA)
    println("CUDA ", CUDA.functional() ? "works." : "cannot be used here.")
end
"""


@dataclass(frozen=True)
class JuliaState:
    """What of Julia is there.

    Attributes:
        usable: whether circuits can be run now, without installing anything.
        reason: why not, in words that follow "Julia"; empty if usable.
        executable: the program that would be used.
        project: the environment that holds the packages.
        version: of Julia.
        packages: versions by name, of those in ``PACKAGES`` that are installed.
        gpu: the name of the first CUDA device that the driver sees.
    """

    usable: bool = False
    reason: str = ""
    executable: str | None = None
    project: str | None = None
    version: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    gpu: str | None = None


def julia_state() -> JuliaState:
    """Look for Julia and its packages, once per process and settings; downloads nothing."""
    settings = {k: v for k, v in os.environ.items() if "JULIA" in k or k in ("PATH", "HOME")}
    return _state(tuple(sorted(settings.items())))


@lru_cache(maxsize=8)
def _state(_settings: tuple[tuple[str, str], ...]) -> JuliaState:
    if sys.platform == "win32":
        return JuliaState(reason="runs on Linux and macOS only (on Windows: in WSL)")
    if importlib.util.find_spec("juliacall") is None:
        return JuliaState(reason="has no juliacall ('pip install juliacall' gets it)")
    try:
        done = subprocess.run(
            command("-c", _TELL), env=offline(), capture_output=True, text=True, timeout=120
        )
        return JuliaState(**json.loads(done.stdout.splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, TypeError):
        return JuliaState(reason="cannot be looked for (its packages may be damaged)")


def setup(extras: Sequence[str] = ()) -> None:
    """Install Julia, where there is none, and the packages; then load them all once.

    Args:
        extras: names from ``EXTRAS`` to install as well.

    Raises:
        UserError: something could not be installed; what was printed says why.
    """
    if importlib.util.find_spec("juliacall") is None:
        raise UserError("juliacall is not installed; get it with: pip install juliacall")
    done = subprocess.run(command("-c", _INSTALL, *extras), check=False)
    _state.cache_clear()
    if done.returncode:
        raise UserError("Julia could not be set up; the lines above say why.")


def command(*program: str) -> list[str]:
    """Return the command for ``program`` with this process's options for juliacall and juliapkg.

    ``program`` is ``-m`` with a module, or ``-c`` with code.  The current folder stays out of its
    import path, where juliapkg would look for requirements.
    """
    options = [
        f"-X{name}" if value is True else f"-X{name}={value}"
        for name, value in sys._xoptions.items()
        if name.startswith(("juliacall-", "juliapkg-"))
    ]
    return [sys.executable, "-P", *options, *program]


def offline() -> dict[str, str]:
    """Return the environment variables of a process that must not download."""
    return {**os.environ, **_NO_DOWNLOADS}


def threads() -> str:
    """How many threads Julia is given: a number, or ``auto`` for all."""
    default = os.environ.get("JULIA_NUM_THREADS") or "auto"
    return os.environ.get("PYTHON_JULIACALL_THREADS") or default


def find() -> JuliaState:
    """Look for Julia in this process."""
    try:
        places = _places()
    except Exception as error:  # juliapkg raises plain exceptions, with readable messages
        return JuliaState(reason=f"cannot be used ({_line(error)})")
    if places is None:
        return JuliaState(reason=f"is not set up ('{SETUP}' does it)", gpu=_gpu())
    executable, project = places
    version = _version(executable)
    packages = _packages(Path(project))
    missing = [name for name in NEEDED if name not in packages]
    gone = _gone(Path(project))
    reason = ""
    if version is None:
        reason = f"does not start ({executable} does not answer '--version' as Julia does)"
    elif missing:
        reason = f"lacks {' and '.join(missing)} in {project}"
    elif gone is not None:
        reason = f"cannot load JuiceBridge: its folder {gone} is gone"
    return JuliaState(not reason, reason, executable, project, version, packages, _gpu())


def _places() -> tuple[str, str] | None:
    """Find the program and project juliacall would use; None where they are yet to be made."""
    given = {name: _option(name) for name in ("exe", "project")}
    if any(given.values()):
        if not all(given.values()):
            raise UserError(
                "PYTHON_JULIACALL_EXE and PYTHON_JULIACALL_PROJECT must be set together"
            )
        executable, folder = shutil.which(given["exe"] or ""), Path(given["project"] or "")
        if executable is None or not folder.exists():
            raise UserError("PYTHON_JULIACALL_EXE or PYTHON_JULIACALL_PROJECT does not exist")
        return executable, str(folder.absolute())
    import juliapkg
    from juliapkg.state import STATE

    # juliapkg makes its folder even to look whether anything is in it.
    if not Path(STATE["project"]).is_dir() or not juliapkg.resolve(dry_run=True):
        return None
    return str(juliapkg.executable()), str(juliapkg.project())


def _option(name: str) -> str | None:
    value = sys._xoptions.get(f"juliacall-{name}")
    return str(value) if value else os.environ.get(f"PYTHON_JULIACALL_{name.upper()}")


def _version(executable: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        shown = subprocess.run(
            [executable, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
        words = shown.stdout.split()
        return words[2] if len(words) == 3 and words[:2] == ["julia", "version"] else None
    return None


def _packages(project: Path) -> dict[str, str]:
    """Versions of our packages in the manifest of a Julia project."""
    entries = _manifest(project)[1]
    return {name: entries[name].get("version", "") for name in PACKAGES if name in entries}


def _gone(project: Path) -> Path | None:
    """Return the folder that the project has JuiceBridge in, if it is not there."""
    folder, entries = _manifest(project)
    path = entries.get("JuiceBridge", {}).get("path")
    return None if path is None or (folder / path).is_dir() else folder / path


def _manifest(project: Path) -> tuple[Path, dict[str, dict[str, str]]]:
    """Find the folder of a project's manifest, and its entries for our packages."""
    folder = project.parent if project.is_file() else project
    names = ("JuliaManifest.toml", "Manifest.toml", "Manifest-v*.toml")
    path = next((found for name in names for found in folder.glob(name)), None)
    if path is None:
        return folder, {}
    try:
        manifest = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return folder, {}
    entries = manifest.get("deps", manifest)
    return folder, {name: entries[name][0] for name in PACKAGES if name in entries}


def _gpu() -> str | None:
    """Name the first device the CUDA driver sees; take no memory of it."""
    with contextlib.suppress(OSError, AttributeError):
        driver = ctypes.CDLL("libcuda.so.1")
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), 0) == 0:
            driver.cuDeviceGetName(name, len(name), device)
            return name.value.decode()
    return None


def tell() -> None:
    """Print what there is as JSON, in a line after whatever juliapkg prints."""
    sys.stdout.write(f"\n{json.dumps(asdict(find()))}\n")


def install(extras: Sequence[str]) -> None:
    """Install what is missing; ends the process, having said why, if that fails."""
    try:
        _install(extras)
    except subprocess.CalledProcessError:  # Julia itself has said it
        sys.exit(1)
    except Exception as error:
        sys.exit(f"error: {_line(error)}")


def _install(extras: Sequence[str]) -> None:
    if _option("exe") or _option("project"):
        executable, project = _places() or ("", "")
        found = _packages(Path(project))
        missing = [name for name in (*NEEDED, *extras) if name not in found]
        if missing:
            raise UserError(
                f"PYTHON_JULIACALL_PROJECT is yours to manage and lacks {' and '.join(missing)}; "
                f'add it with Pkg (JuiceBridge: Pkg.develop(path="{source()}")), or unset the '
                "variable"
            )
    else:
        import juliapkg

        for name in extras:
            juliapkg.add(name, *EXTRAS[name])
        juliapkg.resolve()
        executable, project = juliapkg.executable(), juliapkg.project()
    # Loading compiles what is left to compile, and gets what packages fetch on first use.
    script = f"import {', '.join(_packages(Path(project)))}\n{_LOAD}"
    program = [executable, f"--project={project}", "--startup-file=no", "-e", script]
    subprocess.run(program, check=True, env={**os.environ, "JULIA_PYTHONCALL_EXE": sys.executable})


def source() -> Path:
    """Return the folder of the Julia package that comes with this Python package."""
    package = Path(__file__).parents[1]
    place = json.loads((package / "juliapkg.json").read_text(encoding="utf-8"))
    return package.joinpath(place["packages"]["JuiceBridge"]["path"]).resolve()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
