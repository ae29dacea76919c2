"""The command group, and what becomes of errors."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import click

from pyjuice_bridge import __version__, processes
from pyjuice_bridge.cli.convert import convert
from pyjuice_bridge.cli.data import data
from pyjuice_bridge.cli.doctor import doctor
from pyjuice_bridge.cli.failures import sentence
from pyjuice_bridge.cli.inspect import clean, compare, show
from pyjuice_bridge.cli.julia import julia
from pyjuice_bridge.cli.models import evaluate, infill, inpaint, sample
from pyjuice_bridge.cli.run import init, run
from pyjuice_bridge.cli.steer import steer
from pyjuice_bridge.cli.streams import (
    OutputClosedError,
    accept_any_text,
    close_output,
    ended_by_signals,
)
from pyjuice_bridge.errors import UserError

INTERRUPTED = 130
CLOSED = 141
"""Exit statuses, as shells give them to programs that SIGINT and SIGPIPE end."""


class Commands(click.Group):
    """A group whose commands end with one line, never with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        accept_any_text()
        try:
            with ended_by_signals():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (BrokenPipeError, OutputClosedError):
            close_output()
            raise click.exceptions.Exit(CLOSED) from None
        except UserError as error:
            _tell(f"error: {error}")
        except KeyboardInterrupt as error:
            _tell("interrupted; the same command continues where this one stopped")
            raise click.exceptions.Exit(getattr(error, "status", INTERRUPTED)) from None
        except Exception as error:
            _tell(f"error: {sentence(error)}")
        raise click.exceptions.Exit(1)


def _tell(line: str) -> None:
    """Print one line for a run, however many processes it has and wherever its terminal went."""
    if processes.speaks():
        with suppress(OSError):
            click.echo(line, err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="pyjuice_bridge")
def main() -> None:
    """Latent variable distillation for probabilistic circuits.

    Start with 'init image', 'init text' or 'init table' for a commented config, or run
    experiments/quickstart.yaml.
    """


for command in (run, init, doctor, show, compare, evaluate, sample, inpaint, infill):
    main.add_command(command)
for command in (steer, convert, data, julia, clean):
    main.add_command(command)
