"""Commands run in this process, and how a refusal looks."""

from click.testing import CliRunner

from autotune.cli import main


def run(*words, **options):
    return CliRunner().invoke(main, [str(word) for word in words], **options)


def refused(result, *parts):
    """The result is exit code 2 and one line on stderr that holds all parts."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert str(part) in result.stderr
    return result.stderr
