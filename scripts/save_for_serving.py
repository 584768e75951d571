r"""Save a bundled model as the folder that inference servers load, with its tokenizer.

python scripts/save_for_serving.py tiny-trained served/tiny-trained
vllm serve served/tiny-trained --served-model-name tiny-trained --max-model-len 4096
search-env bench world-2hop/r1-searcher/bm25-world1k/v1 --agent http://localhost:8000/v1 \
        --model tiny-trained --api tokens
"""

from __future__ import annotations

import argparse
import importlib.resources
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from agents.models import load_model
from search_env.tokenizer import END_OF_TEXT

CHAT = (
    "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{% endif %}"
)
"""What has been said in a row: the bundled models are base models and know no roles."""


def main() -> None:
    """Read the command line and save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="bundled name")
    parser.add_argument("folder", type=Path, help="where to")
    given = parser.parse_args()
    load_model(given.model).save_pretrained(given.folder)
    asset = importlib.resources.files("search_env") / "assets" / "world_1k.json"
    with importlib.resources.as_file(asset) as path:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token=END_OF_TEXT)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(given.folder)


if __name__ == "__main__":
    main()
