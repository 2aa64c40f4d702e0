"""The benchmark report in Markdown."""

from autotune.reports.efficiency_table import TITLE, efficiency_markdown
from autotune.reports.figures import moment
from autotune.reports.markdown_analysis import analysis
from autotune.reports.markdown_cells import failures, flagged, winners
from autotune.reports.markdown_choices import choices
from autotune.reports.markdown_configuration import configuration
from autotune.reports.markdown_method import method
from autotune.reports.markdown_published import beside
from autotune.reports.markdown_results import details, summary
from autotune.reports.markdown_suite import defined, glance
from autotune.reports.markdown_text import plain
from autotune.reports.sections import Section, nothing, sections, title_of
from autotune.reports.source import Source


def markdown(source: Source, *, title: str | None = None) -> str:
    """The whole report: one section for each environment and setting, then how to read it.

    Args:
        source: what to report on.
        title: its heading, if it is to be another.
    """
    found = sections(source)
    if not found:
        return nothing(source) + "\n"
    parts = [f"# {plain(title or title_of(source))}", f"Generated: {moment(source.generated)}"]
    parts += [defined(source.suite, found)] if source.suite else []
    parts += [_section(source, section) for section in found]
    return "\n\n".join([*parts, method(found)]) + "\n"


def _section(source: Source, section: Section) -> str:
    parts = {"Configuration": configuration(section)}
    if source.suite and source.suite.reference:
        parts[TITLE] = efficiency_markdown(section, source.records)
    if source.suite:
        parts["All cells"] = glance(section, source.suite)
    parts |= {
        "Summary": summary(section),
        "Winners": winners(section),
        **({} if source.suite else {"Choices": choices(section)}),  # a suite's rows are given, not chosen
        "Detailed results": details(section),
        "Flagged": flagged(section),
        "Failures": failures(section),
    }
    if source.published:
        parts["Published figures beside ours"] = beside(section, source.published)
    parts["Analysis"] = analysis(section)
    heading = f"## {plain(section.environment.device_name)}: {plain(section.setting.text)}"
    return "\n\n".join([heading, *(f"### {name}\n\n{part}" for name, part in parts.items())])
