# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from tests.realstack import stack


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in Path(item.fspath).parents:
            item.add_marker(pytest.mark.realstack)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    return stack.make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def launch(tmp_path, inputs):
    """Start runs that cannot outlive the test."""
    runs = []

    def start(overrides, folder="run", **options):
        run = stack.start(tmp_path / folder, inputs, overrides, **options)
        runs.append(run)
        return run

    yield start
    for run in runs:
        run.stop()
