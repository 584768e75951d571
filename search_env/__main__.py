"""``python -m search_env`` is ``search-env``."""

from __future__ import annotations

from search_env.cli.main import main

if __name__ == "__main__":
    main()
