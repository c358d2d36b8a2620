# SPDX-License-Identifier: Apache-2.0
"""``python -m recipe.agpo.cli``: the command ``agpo`` from a checkout that is not installed."""

from __future__ import annotations

import sys

from recipe.agpo.cli import main

sys.exit(main())
