"""One self-contained page: what was run on what, what was found, how well it is known, how to run it again.

No network, no script, and every name escaped; the page forbids itself anything else (Content-Security-Policy).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from curvkit_core.runs.report.convergence_charts import estimate_charts, history_charts
from curvkit_core.runs.report.density_charts import density_charts
from curvkit_core.runs.report.headlines import headlines
from curvkit_core.runs.report.heat_map import LONG, LONG_NAME, heat_map
from curvkit_core.runs.report.names import job_names
from curvkit_core.runs.report.reproduce import reproducing_toml
from curvkit_core.runs.report.result_charts import eigenvalue_charts, slice_charts, sweep_charts
from curvkit_core.runs.report.sections import report_sections
from curvkit_core.runs.report.style import STYLE

if TYPE_CHECKING:
    from curvkit_core.runs.outcome import Run, RunResult
    from curvkit_core.runs.table import Section

__all__ = ["page", "report_html", "tables"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_STOPPED = {"keyboard": "Ctrl-C", "products": "a spent budget of products", "seconds": "a spent budget of time"}


def report_html(run: Run) -> str:
    """Return a run's report as a page.

    Parameters
    ----------
    run : Run
        With its results.

    Returns
    -------
    str
        HTML, to be written as ``report.html``. It needs neither matplotlib nor a network.
    """
    name = str(run.plan.get("problem", {}).get("kind", "run"))
    parts = [
        ("numbers", "What was found", _cards(run)),
        ("figures", "Figures", _figures(run)),
        ("tables", "Tables", tables(report_sections(run)[1:])),
        ("checks", "What the checks say", _findings(run)),
        ("again", "How to run it again", _again(run.plan)),
    ]
    return page(f"Curvature of {name}", _what(run), parts)


def page(title: str, lead: str, parts: Sequence[tuple[str, str, str]]) -> str:
    """Return a self-contained page.

    Parameters
    ----------
    title : str
        Plain text.
    lead : str
        HTML below the title.
    parts : sequence of (str, str, str)
        Key, plain title and HTML of each section.

    Returns
    -------
    str
        HTML.
    """
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in parts)
    body = "".join(f'<section id="{key}"><h2>{escape(name)}</h2>{text}</section>' for key, name, text in parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{lead}<nav>{links}</nav>{body}</main></body></html>\n"
    )


def _what(run: Run) -> str:
    lines = [f'<p class="lead">{escape(line)}</p>' for line in report_sections(run)[0].notes]
    jobs = job_names(run.results)
    lines.append(f"<p>{len(jobs)} computation{'s' if len(jobs) != 1 else ''}: {escape(', '.join(jobs))}.</p>")
    if run.stopped:
        why = _STOPPED.get(run.stopped, run.stopped)
        text = f"This run is not finished: it was ended by {why}. What follows is what was found by then."
        lines.append(f'<p class="warn">{escape(text)}</p>')
    return "".join(lines)


def _cards(run: Run) -> str:
    cards = [
        f'<div class="card"><div class="what">{escape(what)}</div><div class="value">{escape(value)}</div>'
        f'<div class="meaning">{escape(meaning)}</div></div>'
        for what, value, meaning in headlines(run)
    ]
    if not cards:
        return "<p>The results of this run have no headline numbers: see the tables.</p>"
    note = "No error here speaks of the data: how the numbers would differ on other examples is not in them."
    return f'<div class="cards">{"".join(cards)}</div><p class="note">{note}</p>'


def _figures(run: Run) -> str:
    shown = []
    for r, name in zip(run.results, job_names(run.results), strict=True):
        charts = [c for c in _charts(r, run.results) if c]
        if charts:
            shown.append(f'<h3>{escape(name)}</h3><div class="figures">{"".join(charts)}</div>')
    return "".join(shown) or "<p>No result of this run has a figure.</p>"


def _charts(r: RunResult, results: Sequence[RunResult]) -> list[str]:
    from curvkit_core.results.landscape import SliceResult
    from curvkit_core.results.sweeps import SweepResult
    from curvkit_core.results.types import DensityResult, EigenResult, NormResult, SpectralSumResult, TraceResult

    result = r.result
    if isinstance(result, EigenResult):
        return [*eigenvalue_charts(result, r.label), *history_charts(result, r.label)]
    if isinstance(result, DensityResult):
        same = (o.result for o in results if o.operator_index == r.operator_index and isinstance(o.result, EigenResult))
        return density_charts(result, eigen=next(same, None), label=r.label)
    if isinstance(result, TraceResult):
        return estimate_charts(result, r.label, "trace")
    if isinstance(result, SpectralSumResult):
        return estimate_charts(result, r.label, f"sum of {result.formula}")
    if isinstance(result, NormResult):
        return estimate_charts(result, r.label, "squared norm")
    if isinstance(result, SliceResult):
        return slice_charts(result, r.label)
    if isinstance(result, SweepResult):
        names = [row.group for row in result.rows]
        title = f"Frobenius norms of the blocks of {r.label}: couplings off the diagonal"
        return [*sweep_charts(result, r.label), heat_map(result.frobenius_norms.tolist(), names, title=title)]
    return []


def tables(sections: Sequence[Section]) -> str:
    """Return tables as HTML, each with its title and its notes."""
    shown = []
    for section in sections:
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in section.columns)
        rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in section.rows)
        table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        notes = "".join(f'<p class="note">{escape(note)}</p>' for note in section.notes)
        shown.append(f"<h3>{escape(section.title)}</h3>{table if section.columns else ''}{notes}")
    return "".join(shown)


def _cell(text: str) -> str:
    return f"<td{LONG if len(text) > LONG_NAME else ''}>{escape(text)}</td>"


def _findings(run: Run) -> str:
    infos = [getattr(r.result, "info", None) for r in run.results]
    found = list(dict.fromkeys(finding for info in infos for finding in (getattr(info, "findings", ()) or ())))
    if not found:
        return "<p>Nothing was found: what the preflight could check, it found right.</p>"
    items = "".join(f"<li>{escape(finding)}</li>" for finding in found)
    return f"<p>What the checks could not tell, or only warned of; it blocked nothing.</p><ul>{items}</ul>"


def _again(plan: Mapping[str, Any]) -> str:
    text = reproducing_toml(plan)
    parts = []
    if text:
        parts.append(
            "<p>The run file, with the seeds that were used. Save it and run <code>curvkit run FILE</code>.</p>"
        )
        parts.append(f"<pre>{escape(text)}</pre>")
    versions = ", ".join(f"{name} {version}" for name, version in dict(plan.get("versions") or {}).items())
    providers = sorted({part.get("provider", "") for part in _components(plan)} - {""})
    parts.append(f"<p>Versions: {escape(versions)}. Components from: {escape(', '.join(providers))}.</p>")
    notes = "".join(f"<li>{escape(str(note))}</li>" for note in plan.get("auto_notes") or ())
    return "".join(parts) + (f"<p>What was left open, and what was taken:</p><ul>{notes}</ul>" if notes else "")


def _components(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    single = [plan[name] for name in ("problem", "backend") if isinstance(plan.get(name), Mapping)]
    many = [part for name in ("operators", "algorithms") for part in plan.get(name) or () if isinstance(part, Mapping)]
    return [*single, *many]
