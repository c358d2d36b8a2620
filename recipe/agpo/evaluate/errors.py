# SPDX-License-Identifier: Apache-2.0
"""The error of an evaluation for everything that the user can fix."""


class EvaluationError(ValueError):
    """The evaluation cannot start or continue; the message says why and what to do."""
