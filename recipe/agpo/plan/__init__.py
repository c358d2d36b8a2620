# SPDX-License-Identifier: Apache-2.0
"""What a run will be, before anybody pays for it: no GPU, no Ray, no weights."""
