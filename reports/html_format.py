"""The report as one self-contained page: plots, sortable tables, no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from autotune.reports.definitions import CAUSAL, definitions, functions
from autotune.reports.efficiency_table import efficiency_table
from autotune.reports.figures import moment
from autotune.reports.html_facts import commands, facts, headlines
from autotune.reports.html_tables import Table, all_rows, beside, choices, chosen, memory_matrix, time_matrix
from autotune.reports.looks import Look, looks
from autotune.reports.method import terms
from autotune.reports.plot_style import Plot
from autotune.reports.plots import memory_plot, share_plot, time_plot
from autotune.reports.plots_efficiency import dense_share_plot
from autotune.reports.plots_pareto import pareto_plot
from autotune.reports.plots_published import published_plot
from autotune.reports.plots_search import search_plot
from autotune.reports.sections import Section, nothing, sections, title_of
from autotune.reports.source import Source

TEMPLATES = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What the page shows of a section."""

    name: str  # stable and unique within the page
    section: Section
    headlines: Sequence[tuple[str, str, str]]
    facts: dict[str, str]
    commands: Sequence[tuple[str, str]]
    plots: Sequence[Plot]
    tables: Sequence[Table]


def html(source: Source) -> str:
    """The whole report; the same source gives the same page."""
    found = sections(source)
    shared = looks(found, (each.implementation for each in source.published))
    parts = [_part(f"section-{number}", section, source, shared) for number, section in enumerate(found, start=1)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.j2").render(
        title=title_of(source),
        generated=moment(source.generated),
        nothing=nothing(source),
        parts=parts,
        definitions=definitions(source.suite, found) if source.suite else [],
        functions=functions(found),
        causal=CAUSAL,
        terms=terms(found),
        figures=_figures(parts),
        plotly=get_plotlyjs() if found else "",
    )


def _part(name: str, section: Section, source: Source, shared: dict[str, Look]) -> Part:
    plots = [
        time_plot(section, shared),
        memory_plot(section, shared),
        pareto_plot(section, shared),
        dense_share_plot(section, source, shared),
        share_plot(section, shared),
        search_plot(section, source, shared),
        published_plot(section, source.published, shared),
    ]
    tables = [
        efficiency_table(section, source.records),
        chosen(section),
        choices(section),
        time_matrix(section),
        memory_matrix(section),
        all_rows(section),
        beside(section, source.published),
    ]
    return Part(
        name=name,
        section=section,
        headlines=headlines(section),
        facts=facts(section),
        commands=commands(section.entries),
        plots=[plot for plot in plots if plot],
        tables=[table for table in tables if table],
    )


def _figures(parts: Sequence[Part]) -> dict[str, list[Any]]:
    """The figures of every plot, as plotly.js takes them, by the plot's place in the page."""
    return {
        f"{part.name}-{plot.name}": [figure.to_plotly_json() for figure in plot.figures.values()]
        for part in parts
        for plot in part.plots
    }
