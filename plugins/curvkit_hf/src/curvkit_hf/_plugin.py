"""What core loads through the entry point `hf`: light, so that listing plugins imports nothing heavy."""

from collections.abc import Iterable

from curvkit_core import LossAdapterSpec, PluginContext, PluginInfo, ProblemSpec, hookimpl
from curvkit_hf.adapter_names import ADAPTERS

#: What the conformance checks try the losses and the problem on.
CHECK_CASES = "curvkit_hf.cases:cases"

_TAGS = {
    "causal-lm": ["language-model", "likelihood", "units", "sampling", "chunked-head"],
    "masked-lm": ["language-model", "likelihood", "units", "sampling", "chunked-head"],
    "seq2seq-lm": ["language-model", "likelihood", "units", "sampling", "chunked-head"],
    "sequence-classification": ["classification", "regression", "likelihood", "convex", "units", "sampling"],
    "token-classification": ["classification", "likelihood", "convex", "units", "sampling"],
    "image-classification": ["classification", "regression", "likelihood", "convex", "units", "sampling"],
}


@hookimpl
def curvkit_plugin_info() -> PluginInfo:
    """Say which plugin API this speaks; components are registered by further hooks in this module."""
    return PluginInfo(api="1.0", summary="Hugging Face transformers models")


@hookimpl
def curvkit_loss_adapters(ctx: PluginContext) -> Iterable[LossAdapterSpec]:
    """One for each kind of model with labels; they run the model that they are given, and import no transformers."""
    for stem, (cls, matches, summary) in ADAPTERS.items():
        yield LossAdapterSpec(
            name=f"hf/{stem}", summary=summary, factory=f"curvkit_hf:{cls}", matches=matches, tags=_TAGS[stem]
        )


@hookimpl
def curvkit_problems(ctx: PluginContext) -> Iterable[ProblemSpec]:
    """A language model and its text."""
    yield ProblemSpec(
        name="hf/pretrained",
        summary="A pretrained causal language model on text: folder, hub id or GGUF",
        factory="curvkit_hf.pretrained:build",
        config="curvkit_hf.config:PretrainedConfig",
        requires=["transformers>=5.0"],
        tags=["language-model", "downloads"],
    )
