"""The benchmark report in Markdown."""

from collections.abc import Sequence
from datetime import datetime

from autotune.db.records import Choice, Record
from autotune.reports.figures import moment
from autotune.reports.markdown_analysis import analysis
from autotune.reports.markdown_cells import failures, winners
from autotune.reports.markdown_configuration import configuration
from autotune.reports.markdown_results import details, summary
from autotune.reports.markdown_text import plain
from autotune.reports.sections import EMPTY, Section, sections

TITLE = "Attention benchmark"
METHOD = """\
## How to read this

- **Comparable rows.** Figures compare only within one section: one device with one set of versions, one setting.
- **Time.** Median of the repeats, taken after warm-up; min - max are the shortest and the longest repeat, spread is \
their distance relative to the median. The raw repeats are in the database.
- **Memory.** Peak memory above the inputs, output included; allocator statistics on CUDA; resident high-water mark of \
the worker on the CPU.
- **Correctness.** Every candidate is compared with a float64 oracle before it is timed; at full length, on sampled \
query rows where the sequence is long. rel error is the worst row of |out - oracle| / |oracle|, both L2 over head_dim. \
Only `ok` rows passed; no other row is ranked, nor is one without a valid time and error.
- **TFLOP/s.** Operations of the function itself, divided by the median time, whatever computes it.
- **Density.** Share of the full query x key square that the function computes, with multiplicity.
- **Repeated measurements.** Where a configuration was measured more than once, the latest stands; one that was \
skipped never replaces one that ran."""


def markdown(records: Sequence[Record], choices: Sequence[Choice], *, generated: datetime, title: str = TITLE) -> str:
    """The whole report: one section for each environment and setting, then how to read it.

    Args:
        records: every measurement to report on.
        choices: what the searches settled on; the latest for each cell counts.
        generated: when the report is made.
        title: its heading.
    """
    if not records:
        return EMPTY + "\n"
    parts = [f"# {plain(title)}", f"Generated: {moment(generated)}"]
    parts += [_section(section) for section in sections(records, choices)]
    return "\n\n".join([*parts, METHOD]) + "\n"


def _section(section: Section) -> str:
    parts = {
        "Configuration": configuration,
        "Summary": summary,
        "Winners": winners,
        "Detailed results": details,
        "Failures": failures,
        "Analysis": analysis,
    }
    heading = f"## {plain(section.environment.device_name)}: {plain(section.setting.text)}"
    return "\n\n".join([heading, *(f"### {name}\n\n{part(section)}" for name, part in parts.items())])
