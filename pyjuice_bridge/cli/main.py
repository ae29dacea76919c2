"""The command group, and what becomes of errors."""

from __future__ import annotations

import errno
import tempfile
import traceback
from pathlib import Path
from typing import Any

import click

from pyjuice_bridge import processes
from pyjuice_bridge.cli.data import data
from pyjuice_bridge.cli.doctor import doctor
from pyjuice_bridge.cli.inspect import clean, compare, show
from pyjuice_bridge.cli.julia import julia
from pyjuice_bridge.cli.models import evaluate, infill, inpaint, sample
from pyjuice_bridge.cli.run import init, run
from pyjuice_bridge.errors import UserError

INTERRUPTED = 130


class Commands(click.Group):
    """A group whose commands end with one line, never with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except UserError as error:
            _tell(f"error: {error}")
        except KeyboardInterrupt:
            _tell("interrupted; the same command continues where this one stopped")
            raise click.exceptions.Exit(INTERRUPTED) from None
        except Exception as error:
            _tell(f"error: {_unexpected(error)}")
        raise click.exceptions.Exit(1)


def _tell(line: str) -> None:
    """One line from a run, however many processes it has."""
    if processes.speaks():
        click.echo(line, err=True)


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        place = f" at {error.filename}" if error.filename else ""
        return f"the disk is full{place}; free some space, and the same command continues"
    if isinstance(error, MemoryError):
        why = f" ({error})" if str(error) else ""
        return f"there is not enough memory{why}; make the circuit smaller"
    if isinstance(error, BrokenPipeError):
        return "the output was closed"
    log = getattr(error, "log", None)
    if log is None:
        log = Path(tempfile.gettempdir()) / "pyjuice_bridge-error.log"
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    summary = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return f"something unexpected happened ({summary}); the details are in {log}"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pyjuice_bridge")
def main() -> None:
    """Latent variable distillation for probabilistic circuits.

    Start with 'init image' or 'init text' for a commented config, or run
    experiments/quickstart.yaml.
    """


for command in (run, init, doctor, show, compare, evaluate, sample, inpaint, infill):
    main.add_command(command)
for command in (data, julia, clean):
    main.add_command(command)
