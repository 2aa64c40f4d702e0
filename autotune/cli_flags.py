"""The options that commands share, and the words they take; only click is imported."""

from collections.abc import Callable
from typing import Any

import click

PATTERN_NAMES = ("dense", "dilated", "local_window", "global_window_random", "strided")
STRATEGY_NAMES = ("sdpa", "dilated", "block_sparse", "ring", "flex")
DTYPE_NAMES = ("float16", "bfloat16", "float32")
EFFORT_NAMES = ("quick", "standard", "thorough", "exhaustive")
FORMAT_NAMES = ("markdown", "html", "json", "csv")
SAMPLER_NAMES = ("model", "random")
SUITE_NAMES = ("extreme", "efficiency")

KV_HOME = click.option(
    "--kv-home",
    type=click.Choice(("device", "host")),
    default="device",
    show_default=True,
    help="Where keys and values lie: with the queries, or in the host's memory (queries on a GPU, dense, forward).",
)
SPARSITY = click.option(
    "--sparsity",
    default="0.9,0.95",
    show_default=True,
    help="Of the block-sparse patterns: the share of all pairs that is left out, or more. It decides on the width of "
    "local windows; on global, window and random blocks, shared out 2 : 3 : 3; on stride and window, half for each.",
)
DATABASE = click.option(
    "--db", envvar="AUTOTUNE_DB", metavar="PATH|URL", help="Database; by default one file in the user data folder."
)


def pattern_option(default: tuple[str, ...]) -> Callable[..., Any]:
    """Patterns by name or file; the default decides what a command does without any."""
    return click.option(
        "--pattern",
        "patterns",
        multiple=True,
        metavar=f"[{'|'.join(PATTERN_NAMES)}|FILE.npy]",
        default=default,
        callback=known_patterns,
        help="Repeatable. FILE.npy: your own mask of blocks of 128 tokens, a square matrix of booleans. "
        f"[default: {', '.join(default or PATTERN_NAMES[:3])}]",
    )


def known_patterns(context: click.Context, option: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    """The words as they are, if each is a pattern's name or a file's.

    Raises:
        click.BadParameter: one is neither.
    """
    for word in words:
        if word not in PATTERN_NAMES and not word.endswith(".npy"):
            raise click.BadParameter(f"{word!r} is not one of {', '.join(PATTERN_NAMES)}, nor a block mask, FILE.npy")
    return words


def shape_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that describe a problem."""
    for option in reversed(
        (
            click.option("--batch", default=1, show_default=True, help="Batch size."),
            click.option("--heads", default=8, show_default=True, help="Query heads."),
            click.option("--kv-heads", type=int, help="Key and value heads; as many as query heads by default."),
            click.option("--head-dim", default=64, show_default=True, help="Size of a head."),
            click.option(
                "--dtype", type=click.Choice(DTYPE_NAMES), help="By default float16 on GPUs, float32 on CPUs."
            ),
            click.option("--causal", is_flag=True, help="Each query sees only keys up to itself."),
            click.option(
                "--direction",
                type=click.Choice(("forward", "training")),
                help="By default forward; of a suite, those it has.",
            ),
            click.option("--segment-lengths", help="Of the dilated pattern, as in 2048,4096; LongNet's by default."),
            click.option("--dilation-rates", help="Of the dilated pattern, one for each segment length."),
        )
    ):
        command = option(command)
    return command


def suite_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the commands that run a suite."""
    for option in reversed(
        (
            click.option("--implementation", "implementations", multiple=True, help="Repeatable; default all."),
            click.option("--device", help="cpu, cuda or cuda:INDEX; by default the best one present."),
            click.option("--memory-limit", help="Peak memory above the inputs, as in 8GiB; by default what there is."),
        )
    ):
        command = option(command)
    return command
