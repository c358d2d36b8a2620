# SPDX-License-Identifier: Apache-2.0
"""Property tests: no time limit per example (a busy machine is not a bug), a fixed seed."""

from hypothesis import settings

settings.register_profile("core", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("core")
