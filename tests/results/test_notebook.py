"""Results in a notebook and as NumPy arrays; `test_pandas` has the frames."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from curvkit_core.results import types
from curvkit_core.results.notebook import ShowsItself
from curvkit_core.results.types import EigenResult, SweepResult, SweepRow


def eigen(**changes: Any) -> EigenResult:
    values: dict[str, Any] = {
        "eigenvalues": torch.tensor([2.0, 1.0], dtype=torch.float64),
        "eigenvectors": torch.eye(2, 5, dtype=torch.bfloat16),
        "residuals": torch.tensor([1e-9, 0.5], dtype=torch.float64),
        "converged": torch.tensor([True, False]),
        "num_matvecs": 7,
    }
    return EigenResult(**{**values, **changes})


def row(group: str, trace: float) -> SweepRow:
    return SweepRow(group=group, n=3, trace=trace, trace_stderr=0.1, share=0.5, frobenius_norm=1.0,
                    frobenius_stderr=0.1, eigenvalues=(1.5,), residuals=(0.0,), converged=True)  # fmt: skip


SWEEP = SweepResult(
    by="layer", rows=(row("a", 1.0), row("<b>", 2.0)), trace=3.0, trace_stderr=0.2, frobenius_norms=torch.eye(2),
    coupling=0.0, coupling_stderr=0.0, probes=4, num_matvecs=8, seed=0, converged=True,
)  # fmt: skip


def test_every_result_shows_itself() -> None:
    """Each class of the catalogue whose name ends in Result."""
    for name in types.__all__:
        if name.endswith("Result"):
            assert issubclass(getattr(types, name), ShowsItself), name


def test_table_holds_the_fields_escaped() -> None:
    """Well-formed, each field's name and numbers in it, names of parameters as text; the record left out."""
    text = SWEEP._repr_html_()
    open_tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: Any) -> None:
            open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Reader().feed(text)
    assert open_tags == []
    assert "&lt;b&gt;" in text
    for field in attrs.fields(SweepResult):
        assert (f">{field.name}<" in text) == (field.name not in ("info", "error_covers"))
    assert "random probes" in text
    assert "2, 1" in eigen()._repr_html_()
    assert ">empty<" in eigen(residuals=torch.empty(0))._repr_html_()


def test_fields_become_numpy_arrays() -> None:
    """float64 stays, bfloat16 becomes float32; rows become dictionaries; numbers stay numbers."""
    found = eigen().to_numpy()
    assert isinstance(found["eigenvalues"], np.ndarray)
    assert found["eigenvalues"].dtype == np.float64
    assert found["eigenvalues"].tolist() == [2.0, 1.0]
    assert found["eigenvectors"].dtype == np.float32
    assert found["num_matvecs"] == 7
    assert SWEEP.to_numpy()["rows"][1]["group"] == "<b>"


def test_missing_pandas_is_said_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        ImportError, match="pandas is not installed, so there is no data frame. mend: pip install pandas"
    ):
        eigen().to_pandas()
