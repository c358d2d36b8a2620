# SPDX-License-Identifier: Apache-2.0
"""The quickstart: a small task, a small model and a summary, for a full run on two CPU cores."""
