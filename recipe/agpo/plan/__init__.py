# SPDX-License-Identifier: Apache-2.0
"""Plan of a run before it is started: no GPU, no Ray, no weights."""
