"""The command line. Only click is imported here, so that help is instant; each command loads what it needs."""

import logging
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from autotune.cli_flags import (
    DATABASE,
    EFFORT_NAMES,
    FORMAT_NAMES,
    KV_HOME,
    SAMPLER_NAMES,
    SPARSITY,
    STRATEGY_NAMES,
    SUITE_NAMES,
    pattern_option,
    shape_options,
    suite_options,
)

DISPATCH = "dispatch"  # a suite of `bench` alone: it measures our own overhead, and stores nothing


class _Commands(click.Group):
    """Turns every error meant for the user into one line and exit code 2."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(context, args)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            raise _one_line(error) from error

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except click.UsageError as error:
            raise _one_line(error) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            # Torch is loaded by now if the error can be ours; without this detour help would have to load it.
            from autotune.strategies.errors import AutotuneError

            if not isinstance(error, AutotuneError):
                raise
            click.echo(f"autotune: {error}", err=True)
            sys.exit(2)


def _one_line(error: click.UsageError) -> click.UsageError:
    """The same error without its context, for which click would print two lines of usage."""
    return click.UsageError(error.format_message())


@click.group(cls=_Commands, context_settings={"auto_envvar_prefix": "AUTOTUNE", "max_content_width": 110})
@click.version_option(package_name="autotune-attention", prog_name="autotune")
def main() -> None:
    """Measure every implementation of attention on your device once, then always run the fastest that fits."""
    # Ctrl-C inside a query makes SQLAlchemy's pool print a traceback, though the query is rolled back as it should be.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)


@main.command()
@click.option("--device", help="cpu, cuda, cuda:INDEX or all; by default the best one present.")
@click.option("--lengths", help="Sequence lengths, as in 4096,8192 or 4k:1m; by default what suits the device.")
@pattern_option(())
@click.option(
    "--strategy", "strategies", multiple=True, type=click.Choice(STRATEGY_NAMES), help="Repeatable; default all."
)
@shape_options
@KV_HOME
@SPARSITY
@click.option("--effort", type=click.Choice(EFFORT_NAMES), default="standard", show_default=True)
@click.option("--trials", type=click.IntRange(min=1), help="Configurations to measure for each cell.")
@click.option("--budget", help="Stop after this time, as in 10m.")
@click.option("--memory-limit", help="Peak memory above the inputs that a configuration may take, as in 8GiB.")
@click.option("--force", is_flag=True, help="Run what would be left out, and again what failed.")
@click.option("--reverify", is_flag=True, help="Race again the fastest few of every cell that other software decided.")
@DATABASE
def tune(db: str | None, **options: Any) -> None:
    """Search the fastest configuration for each length and pattern, and store every measurement."""
    from autotune.cli_tune import run_tune

    run_tune(db=db, command=_command_line(), **options)


@main.command()
@click.option("--suite", type=click.Choice([*SUITE_NAMES, DISPATCH]), default=SUITE_NAMES[0], show_default=True)
@suite_options
@click.option("--lengths", help="As in 100000 or 4k:1m; by default those of the suite, for extreme 4k:256k.")
@shape_options
@click.option("--time-limit", default="10m", show_default=True, help="A call predicted to take longer is left out.")
@click.option("--force", is_flag=True, help="Run what would be left out, and again what failed.")
@DATABASE
def bench(db: str | None, **options: Any) -> None:
    """Measure named implementations side by side at every length; nothing is searched.

    The suite `dispatch` prints what `autotune.attention` adds to a call.
    """
    if options["suite"] == DISPATCH:
        from autotune.bench_dispatch import run_dispatch

        run_dispatch()
        return
    from autotune.cli_bench import run_bench

    run_bench(db=db, command=_command_line(), **options)


@main.command()
@click.option("--suite", type=click.Choice(SUITE_NAMES[:1]), default=SUITE_NAMES[0], show_default=True)
@suite_options
@click.option("--shortest", default="4k", show_default=True, help="Length to begin with.")
@click.option("--longest", default="16m", show_default=True, help="Length to end with.")
@shape_options
@click.option("--time-limit", default="10s", show_default=True, help="The longest call allowed.")
@DATABASE
def limits(db: str | None, **options: Any) -> None:
    """Find the longest sequence that each implementation reaches, by doubling and bisection."""
    from autotune.cli_bench import run_limits

    run_limits(db=db, command=_command_line(), **options)


@main.command()
@click.option(
    "--format", "format_name", type=click.Choice(FORMAT_NAMES), help="By default a table on a terminal, else markdown."
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write; standard output by default."
)
@click.option("--suite", type=click.Choice(SUITE_NAMES), help="Only its implementations, under their published names.")
@click.option(
    "--compare",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV file of published figures to show beside ours.",
)
@DATABASE
def report(db: str | None, **options: Any) -> None:
    """Turn the database into a report."""
    from autotune.cli_report import run_report

    run_report(db=db, **options)


@main.command()
@DATABASE
def show(db: str | None) -> None:
    """List what is tuned: each cell with its best configuration, margin and age."""
    from autotune.cli_report import run_show

    run_show(db)


@main.command()
@click.option("--device", help="cpu, cuda or cuda:INDEX; by default the best one present.")
@click.option("--length", required=True, help="Sequence length.")
@click.option("--query-len", help="Number of queries where it is not the length, such as 1 for decoding.")
@pattern_option(("dense",))
@shape_options
@KV_HOME
@SPARSITY
@click.option("--memory-limit", help="Bytes a call may take above its inputs, as in 8GiB.")
@DATABASE
def explain(db: str | None, **options: Any) -> None:
    """Say what would run for a problem, and why; several patterns are alternatives."""
    from autotune.cli_report import run_explain

    run_explain(db=db, **options)


@main.command()
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write; standard output by default."
)
@click.option("--device", metavar="cpu|cuda|NAME", help="Only what was measured on these devices.")
@DATABASE
def export(db: str | None, **options: Any) -> None:
    """Write everything that is stored as JSON, for `import` elsewhere; one fact a line."""
    from autotune.cli_share import run_export

    run_export(db=db, **options)


@main.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@DATABASE
def import_(db: str | None, file: Path) -> None:
    """Add the results in FILE, which `export` wrote; what is known already is left as it is."""
    from autotune.cli_share import run_import

    run_import(db=db, file=file)


@main.command()
@click.argument("other", metavar="OTHER")
@DATABASE
def merge(db: str | None, other: str) -> None:
    """Add the results in the database OTHER, a path or URL; what is known already is left as it is."""
    from autotune.cli_share import run_merge

    run_merge(db=db, other=other)


@main.command()
@click.argument("record", type=click.Path(path_type=Path))
@click.option("--seeds", type=click.IntRange(min=1), default=20, show_default=True, help="Searches of each cell.")
@click.option("--sampler", "samplers", multiple=True, type=click.Choice(SAMPLER_NAMES), help="Repeatable; default all.")
@click.option("--effort", type=click.Choice(EFFORT_NAMES), default="standard", show_default=True)
@click.option("--trials", type=click.IntRange(min=1), help="Configurations to measure for each cell.")
@click.option("--warm", is_flag=True, help="Let longer sequences begin with what is known of shorter ones.")
def replay(**options: Any) -> None:
    """Run the search on the measurements in RECORD, which `export` wrote, and say how good its choices are."""
    from autotune.cli_replay import run_replay

    run_replay(**options)


@main.command()
@DATABASE
def doctor(db: str | None) -> None:
    """Check device, compiler, dtypes and database, and say what to do about what is wrong."""
    from autotune.doctor import run_doctor

    run_doctor(db)


def _command_line() -> str:
    """What was typed, as a shell would take it; reports and exports show it, so a URL's password is left out."""
    return re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", shlex.join(["autotune", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
