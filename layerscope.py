"""The `layerscope` command: a group that loads a command only when it is called."""

from __future__ import annotations

import errno
import logging
import signal
import sys
from importlib import import_module
from types import FrameType

import click

from tracking import __version__
from tracking.errors import LayerscopeError, did_you_mean
from tracking.signals import ending_signals, leave_terminal

__all__ = ["main"]

FULL = {errno.ENOSPC, errno.EDQUOT}
COMMANDS = {
    "train": ("pipelines.cli:train", "Train a network and record what happens inside it."),
    "resume": ("pipelines.cli:resume", "Go on with a training run that was stopped."),
    "lr-find": ("pipelines.cli:lr_find", "Find a good peak learning rate."),
    "study": ("search.cli:study", "Search schedules, batch sizes and other options."),
    "compare": ("search.cli:compare", "Compare values of an option, with several seeds each."),
    "report": ("tracking.cli:report", "Make a run's report.html again."),
    "diagnose": ("tracking.cli:diagnose", "Say what is wrong with a training, and what to do."),
    "replay": ("tracking.cli:replay", "Send records that are still waiting to MLflow."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and one line of help; imports one when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # `mlflow run -P lr_max=0.1` arrives as --lr_max 0.1.
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)
@click.version_option(__version__, prog_name="layerscope")
def cli() -> None:
    """Layerscope shows what happens inside a convolutional network while it trains."""


def main() -> None:
    """Run the command; the exit code says how it ended (see the README)."""
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("layerscope").setLevel(logging.INFO)
    for number in ending_signals():
        if number != signal.SIGINT:
            signal.signal(number, _terminate)
    try:
        cli(prog_name="layerscope", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.exceptions.NoSuchCommand as error:
        click.echo(f"error: {_no_such_command(error)}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        sys.exit(2)
    except LayerscopeError as error:
        click.echo("\n".join([f"error: {error}", *_notes(error)]), err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo("\n".join(["interrupted", *_notes(error)]), err=True)
        sys.exit(130)
    except OSError as error:
        if error.errno not in FULL:
            raise
        click.echo(f"error: {error.filename or 'output'}: {error.strerror}", err=True)
        sys.exit(1)


def _no_such_command(error: click.exceptions.NoSuchCommand) -> str:
    context, name = error.ctx, error.command_name
    assert context is not None
    assert isinstance(context.command, click.Group)
    known = context.command.list_commands(context)
    return f"no command {name!r}; there are {', '.join(known)}.{did_you_mean(name, known)}"


def _notes(error: BaseException) -> list[str]:
    """What failed beside it, while the run was being ended."""
    # click turns an interrupt into an Abort that has it as its cause.
    cause = error.__cause__ if isinstance(error, click.Abort) else error
    return [f"note: {note}" for note in getattr(cause, "__notes__", [])]


def _terminate(number: int, _frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP end the run as Ctrl-C does: hooks, files and the MLflow run are closed."""
    for again in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(again, signal.SIG_IGN)  # a second one must not cut that short
    leave_terminal(number)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
