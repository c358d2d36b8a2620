# SPDX-License-Identifier: Apache-2.0
"""``agpo report``: one HTML page from the logs of one or several training runs; see ``docs/report.md``."""
