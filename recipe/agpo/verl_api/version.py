# SPDX-License-Identifier: Apache-2.0
"""The verl that AGPO is written for and tested with."""

VERL_VERSION = "0.9.1"
