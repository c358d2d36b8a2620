# SPDX-License-Identifier: Apache-2.0
"""Code that runs in verl's trainer and its actor workers."""
