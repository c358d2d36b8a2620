# SPDX-License-Identifier: Apache-2.0
"""What runs in verl's trainer and its actor workers."""
