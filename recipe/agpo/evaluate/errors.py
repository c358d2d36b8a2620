# SPDX-License-Identifier: Apache-2.0
"""The one error that an evaluation raises for what its user can mend."""


class EvaluationError(ValueError):
    """The evaluation cannot start or go on; the message says why and what to do."""
