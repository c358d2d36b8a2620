# SPDX-License-Identifier: Apache-2.0
"""A shell that starts the tests in the background lets them ignore SIGINT, and what they start would inherit that."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
