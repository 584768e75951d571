"""The application that the Space runs; $SEARCH_ENV_ID chooses the environment."""

import os

from search_env.agents.bridges.openenv import create_app
from search_env.agents.bridges.session import EnvironmentPool

app = create_app(EnvironmentPool(os.environ.get("SEARCH_ENV_ID", "SearchQA-v0")), sessions=64)


def main() -> None:
    """Run the server: ``uv run server --port 8000``."""
    import argparse

    import uvicorn

    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    uvicorn.run(app, host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    main()
