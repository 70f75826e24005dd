"""Configuration of the problem hf/pretrained; imports no torch."""

from __future__ import annotations

from attrs import field, frozen, validators

__all__ = ["PretrainedConfig"]

_at_least_one = validators.optional(validators.ge(1))


@frozen(kw_only=True)
class PretrainedConfig:
    """A pretrained causal language model on text of yours, next-token cross-entropy.

    Code that comes with a model runs only under ``curvkit run --trust-remote-code``; no option here allows it.

    Parameters
    ----------
    model : str
        A folder as ``save_pretrained`` writes it, a GGUF file, or a name on the hub. A relative path is seen from where
        the command is run.
    text : str
        A text file; a ``.jsonl`` file; a folder of ``.txt``, ``.md`` and ``.jsonl`` files; or ``datasets:NAME``.
    text_field : str
        Where a JSON line, or a data set's row, has its text.
    text_subset : str, or none
        A data set's configuration.
    text_split : str
        A data set's split.
    sequence_length : int, at least 2
        Tokens a row, or at most so many where documents are rows.
    pack : bool
        Documents are joined, with the end-of-text token between them, and cut into rows of `sequence_length`; else each
        document is a row, cut there and padded.
    pad_token : str, or none
        For a tokenizer without one, where `pack` is false; what it is makes no difference.
    max_tokens : int, or none
        Stop reading text after so many; all of it is read first where `shuffle` is on.
    shuffle : bool
        Take rows from all over the text, not the first ones.
    seed : int, at least 0
        Of that choice.
    batch_size : int, at least 1
        Rows a batch; changes cost, not the operator.
    microbatch_size : int, or none
        Rows that go through the model at once, where that is less.
    dtype : {"float32", "float64", "bfloat16", "float16", "auto"}
        Of the weights; vectors are float32 at least. "auto": as they are stored.
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    device_map : str, or none
        Spread the model over devices, as accelerate does: ``"auto"``. Takes the place of `device`.
    attention : {"sdpa", "eager"}, or none
        The attention's implementation; none: the model's default.
    revision : str
        Of a model on the hub.
    params : list of str, or none
        Globs of the parameters; none: all that require a gradient.
    weighting : {"unit", "batch-mean"}
        How the data are averaged; a unit is a target token.
    cache : str, or none
        Folder in which a GGUF file's weights are kept once they are float32; none: ``curvkit/hf`` in the user's cache.
    """

    model: str
    text: str
    text_field: str = "text"
    text_subset: str | None = None
    text_split: str = "train"
    sequence_length: int = field(default=256, validator=validators.ge(2))
    pack: bool = True
    pad_token: str | None = None
    max_tokens: int | None = field(default=4096, validator=validators.optional(validators.ge(2)))
    shuffle: bool = False
    seed: int = field(default=0, validator=validators.ge(0))
    batch_size: int = field(default=1, validator=validators.ge(1))
    microbatch_size: int | None = field(default=None, validator=_at_least_one)
    dtype: str = field(
        default="float32", validator=validators.in_(("float32", "float64", "bfloat16", "float16", "auto"))
    )
    device: str = "cpu"
    device_map: str | None = None
    attention: str | None = field(default=None, validator=validators.in_((None, "sdpa", "eager")))
    revision: str = "main"
    params: tuple[str, ...] | None = None
    weighting: str = field(default="unit", validator=validators.in_(("unit", "batch-mean")))
    cache: str | None = None
