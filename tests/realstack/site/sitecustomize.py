# SPDX-License-Identifier: Apache-2.0
"""Python reads this at the start of every process of a test run (the folder is on their PYTHONPATH).

A start of the real stack is ten processes that import thousands of modules each. Python's cyclic garbage collector
walks over all that they define again and again and finds nothing; at this threshold it takes a third less time.
"""

import gc

gc.set_threshold(10_000, 20, 20)
