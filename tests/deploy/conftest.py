import os
import pathlib

import pytest


@pytest.fixture
def traceql_checker() -> pathlib.Path:
    """Where the packages that it imports are installed."""
    return pathlib.Path(os.environ["TRACEQL"]) / "check.mjs"
