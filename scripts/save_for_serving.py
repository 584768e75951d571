r"""Save a bundled model as the folder that inference servers load, with a chat template.

python scripts/save_for_serving.py tiny-trained served/tiny-trained
vllm serve served/tiny-trained --served-model-name tiny-trained --max-model-len 4096
search-env bench world-2hop/r1-searcher/bm25-world1k/v1 --agent http://localhost:8000/v1 \
        --model tiny-trained --api tokens
"""

from __future__ import annotations

import argparse
from pathlib import Path

from search_env.agents.models import load_model, save_model

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
    folder = save_model(load_model(given.model), given.folder)
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")


if __name__ == "__main__":
    main()
